"""What a cell means for a data set: shares, ratings, attributes; None where it is no such thing."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from uniemox.files.cells import is_missing, number, unpack, words
from uniemox.manifests.columns import VAD as VAD
from uniemox.manifests.findings import Findings
from uniemox.manifests.table import Attributes

Take = Callable[[Any], Any]  # Reads a cell
Vad = tuple[float | None, float | None, float | None]  # Valence, arousal, dominance


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


def distribution(value: Any) -> dict[str, float] | tuple[float, ...] | None:
    """Read a distribution, by class or in label order, and scale it to a sum of 1."""
    value = unpack(value)
    by_class = None
    if isinstance(value, dict):  # a struct of Arrow has all names in all rows
        by_class = [str(key) for key, cell in value.items() if not is_missing(cell)]
        value = [cell for cell in value.values() if not is_missing(cell)]
    if not isinstance(value, list):
        return None
    numbers = [found for found in map(number, value) if found is not None and found >= 0]
    total = sum(numbers)
    if len(numbers) < len(value) or not 0 < total < math.inf:
        return None
    scaled = tuple(found / total for found in numbers)
    return scaled if by_class is None else dict(zip(by_class, scaled, strict=True))


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
