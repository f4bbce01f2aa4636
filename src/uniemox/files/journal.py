"""The lines of a run's `metrics.jsonl`, read again whatever has happened to them."""

import json
import logging
from pathlib import Path
from typing import Any, Final

from uniemox.wording import counted

log = logging.getLogger(__name__)

_MOST: Final = 2**63  # Of a whole number; charts compute with 64 bits


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a `metrics.jsonl`, each with a kind, a step and numbers or words.

    What a killed run left unfinished at the end is omitted; so are other damaged lines, which are warned of.
    """
    if not path.is_file():
        return []
    found = [_read_line(line) for line in path.read_bytes().splitlines()]
    if damaged := found[:-1].count(None):
        log.warning("%s in %s cannot be read and are skipped", counted(damaged, "line"), path)
    return [line for line in found if line is not None]


def _read_line(line: bytes) -> dict[str, Any] | None:
    try:
        entries = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entries if isinstance(entries, dict) and _is_whole(**{"kind": None, "step": None, **entries}) else None


def _is_whole(*, kind: object, step: object, **values: object) -> bool:
    is_placed = isinstance(kind, str) and type(step) is int and 0 <= step < _MOST
    return is_placed and all(isinstance(value, str | float) or _is_small(value) for value in values.values())


def _is_small(value: object) -> bool:
    return isinstance(value, int) and -_MOST < value < _MOST
