"""What a cell of a table or of JSON means: a number, a text, names, shares; None where it is no such thing."""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from uniemox.manifests.findings import Findings
from uniemox.manifests.table import Attributes

Take = Callable[[Any], Any]  # Reads a cell
Vad = tuple[float | None, float | None, float | None]  # Valence, arousal, dominance

VAD: Final = ("valence", "arousal", "dominance")
_SEPARATORS: Final = re.compile(r"[|;,]")


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


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing."""
    return value is None or (isinstance(value, str) and not value.strip())


def number(value: Any) -> float | None:
    """Read a finite number, or the text of one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def share(value: Any) -> float | None:
    """Read a number from 0 to 1."""
    found = number(value)
    return found if found is not None and 0 <= found <= 1 else None


def words(value: Any) -> str | None:
    """Read a text that is not blank; line breaks and blanks at its ends would end up in a sentence."""
    return " ".join(value.split()) or None if isinstance(value, str) and is_text(value) else None


def is_text(value: str) -> bool:
    """Whether a text can be written as UTF-8: names of files and JSON may hold halves of characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def word_list(value: Any) -> tuple[str, ...] | None:
    """Read a list of texts."""
    if not isinstance(value, list):
        return None
    texts = list(map(words, value))
    return None if None in texts else tuple(text for text in texts if text)


def label_name(value: Any) -> str | None:
    """Read a text or a number as a name; whole numbers without the fraction that spreadsheets give them."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value is None or isinstance(value, bytes | dict | list) else words(str(value))


def label_names(value: Any) -> tuple[str, ...] | None:
    """Read a list of names: of texts or numbers, as JSON, or as one text with |, ; or commas between them."""
    value = unpack(value)
    if isinstance(value, str):
        value = [part for part in _SEPARATORS.split(value) if part.strip()]
    return word_list(list(map(label_name, value))) if isinstance(value, list) else None


def distribution(value: Any) -> dict[str, float] | tuple[float, ...] | None:
    """Read a distribution, by class or in label order, and scale it to a sum of 1."""
    value = unpack(value)
    by_class = None
    if isinstance(value, dict):  # a struct of Arrow has all names in all rows
        by_class = [str(key) for key, cell in value.items() if cell is not None]
        value = [cell for cell in value.values() if cell is not None]
    if not isinstance(value, list):
        return None
    numbers = [found for found in map(number, value) if found is not None and found >= 0]
    total = sum(numbers)
    if len(numbers) < len(value) or total <= 0:
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


def unpack(value: Any) -> Any:
    """Read the JSON in a text."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


ATTRIBUTES: Final[dict[str, Take]] = {
    **dict.fromkeys(("brightness", "colorfulness"), share),
    **dict.fromkeys(("scene", "facial_expression", "human_action"), words),
}  # What reads each attribute but the objects
