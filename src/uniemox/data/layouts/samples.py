"""What a reader of a layout gives: samples, and what holds for all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from uniemox.data.layouts.tree import is_text
from uniemox.emotions import resolve

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from uniemox.data.findings import Findings
    from uniemox.data.manifest import Attributes, Box
    from uniemox.data.specs import Layout

Vad = tuple[float | None, float | None, float | None]
"""Valence, arousal, dominance."""


class Sample(NamedTuple):
    """One row to be."""

    path: str
    label: int | None
    split: str | None = None
    """None where the set does not tell, and a recipe will."""
    attributes: Attributes | None = None
    boxes: tuple[Box, ...] | None = ()
    """None where a file of boxes does not name the picture."""
    label_set: tuple[int, ...] | None = None
    group: str | None = None
    distribution: tuple[float, ...] | None = None
    vad: Vad | None = None
    stratum: str | None = None
    """What a recipe keeps in proportion instead of the label."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What was read from a root."""

    layout: Layout
    classes: tuple[str, ...]
    samples: list[Sample]
    base: str = ""
    """Folder of the pictures: a recipe's draw must not change with the level that is given as root."""
    root: Path | None = None
    """Where the pictures are, if not below the root that was read."""
    labelled_by: str = ""
    people_source: str = ""
    vad_range: tuple[float, float] | None = None


class ClassNames:
    """The classes of a set, found by the many ways in which their names are written."""

    def __init__(self, classes: Sequence[str], findings: Findings) -> None:
        self._classes = tuple(classes)
        self._findings = findings
        self._labels: dict[str, int | None] = {name: label for label, name in enumerate(classes)}

    def label(self, name: str) -> int | None:
        """Give the label of a class; None for none of them. Another word for it is noted, other cases are not."""
        if name not in self._labels:
            own = resolve(name, self._classes)
            self._labels[name] = None if own is None else self._labels[own]
        label = self._labels[name]
        if label is not None and self._classes[label].casefold() != name.casefold():
            self._findings.note("class called otherwise", f"{name} is {self._classes[label]}")
        return label


def number(value: Any) -> float | None:
    """Take a finite number, or the text of one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def share(value: Any) -> float | None:
    """Take a number from 0 to 1."""
    found = number(value)
    return found if found is not None and 0 <= found <= 1 else None


def words(value: Any) -> str | None:
    """Take a text with anything in it; blanks at its ends and line breaks would end up in a sentence."""
    return " ".join(value.split()) or None if isinstance(value, str) and is_text(value) else None


def name_list(value: Any) -> tuple[str, ...] | None:
    """Take a list of texts."""
    if not isinstance(value, list):
        return None
    names = [words(name) for name in value]
    return None if None in names else tuple(name for name in names if name)
