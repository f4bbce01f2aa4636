"""What a cell means for a data set: shares, ratings, boxes, attributes; None where it is no such thing."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from uniemox.files.cells import is_missing, number, unpack, words
from uniemox.manifests.columns import VAD as VAD
from uniemox.manifests.findings import Findings
from uniemox.manifests.table import Attributes, Box
from uniemox.people.boxes import SCORE_HEADINGS, find_box_columns, to_box

Take = Callable[[Any], Any]  # Reads a cell
Vad = tuple[float | None, float | None, float | None]  # Valence, arousal, dominance
Shares = dict[str, float] | tuple[float, ...]  # By class, or in label order

_ROUNDING: Final = 0.05  # By which shares may miss 1: eight with two digits add up to it within .04


def take(cells: Mapping[str, Any], kinds: Mapping[str, Take], findings: Findings, where: str) -> dict[str, Any]:
    """Read the cell of each name in `kinds` by its function; None where it is missing, or holds something else.

    The latter is counted in `findings`, with the row, `where`.
    """
    found = {}
    for name, read in kinds.items():
        value = cells.get(name)
        found[name] = None if is_missing(value) else read(value)
        if found[name] is None and not is_missing(value):
            findings.add(f"{name} of unknown form", where)
    return found


def share(value: Any) -> float | None:
    """Read a number from 0 to 1."""
    found = number(value)
    return found if found is not None and 0 <= found <= 1 else None


def word_list(value: Any) -> tuple[str, ...] | None:
    """Read a list of texts."""
    if not isinstance(value, list):
        return None
    texts = list(map(words, value))
    return None if None in texts else tuple(text for text in texts if text)


def weights(value: Any) -> Shares | None:
    """Read votes or shares, by class or in label order, as they are; None where one is no number."""
    value = unpack(value)
    if isinstance(value, dict):  # a struct of Arrow has all names in all rows
        by_class = {str(key): number(cell) for key, cell in value.items() if not is_missing(cell)}
        named = {key: found for key, found in by_class.items() if found is not None}
        return named if len(named) == len(by_class) else None
    if not isinstance(value, list):
        return None
    numbers = tuple(found for found in map(number, value) if found is not None)
    return numbers if len(numbers) == len(value) else None


def distribution(value: Any) -> Shares | None:
    """Read a distribution, by class or in label order, and scale it to a sum of 1."""
    found = weights(value)
    numbers = _numbers_of(found)
    total = sum(numbers)
    if found is None or min(numbers, default=0) < 0 or not 0 < total < math.inf:
        return None
    if isinstance(found, dict):
        return {name: number / total for name, number in found.items()}
    return tuple(number / total for number in found)


def flaw_of(value: Any) -> str | None:
    """Name what is wrong with a distribution; None where nothing is.

    Votes may have any sum. Numbers up to 1 that are not all whole are shares, which must add up to 1.
    """
    found = weights(value)
    numbers = _numbers_of(found)
    total = sum(numbers)
    if found is None:
        return "distribution of unknown form"
    if min(numbers, default=0) < 0:
        return "distribution with a share below 0"
    if not 0 < total < math.inf:
        return "distribution without a vote" if total == 0 else "distribution of unknown form"
    are_shares = max(numbers) <= 1 and not all(number.is_integer() for number in numbers)
    return "shares that do not add up to 1, scaled to it" if are_shares and abs(total - 1) > _ROUNDING else None


def _numbers_of(found: Shares | None) -> tuple[float, ...]:
    return tuple(found.values()) if isinstance(found, dict) else found or ()


def boxes(value: Any) -> tuple[Box | None, ...] | None:
    """Read boxes whose numbers have names, such as x1, y1, x2 and y2: one, or a list of them.

    None where it is no such thing, as four numbers without names may be corners, sides or a centre; None as a box is
    one without an area.
    """
    value = unpack(value)
    found = []
    for entry in value if isinstance(value, list) else [value]:
        named = find_box_columns(map(str, entry)) if isinstance(entry, dict) else None
        if named is None:
            return None
        corners = [entry[name] for name in named[0]]
        score = next((entry[name] for name in SCORE_HEADINGS if name in entry), None)
        found.append(to_box(corners, score, form=named[1]))
    return tuple(found)


def attributes(found: Mapping[str, Any], *, objects: str = "objects") -> Attributes:
    """Put attributes together; `objects` names the list of them."""
    return Attributes(**{name: found[name] for name in ATTRIBUTES}, objects=found[objects] or ())


def vad(found: Mapping[str, float | None]) -> Vad | None:
    """Put valence, arousal and dominance together; None where all are missing."""
    valence, arousal, dominance = (found[part] for part in VAD)
    together = (valence, arousal, dominance)
    return None if together == (None, None, None) else together


ATTRIBUTES: Final[dict[str, Take]] = {
    **dict.fromkeys(("brightness", "colorfulness"), share),
    **dict.fromkeys(("scene", "facial_expression", "human_action"), words),
}  # What reads each attribute but the objects
