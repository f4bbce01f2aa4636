"""What the reader of a layout returns: samples, and what holds for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from uniemox.emotions import resolve
from uniemox.files.cells import whole
from uniemox.importers.cells import Vad
from uniemox.importers.specs import Layout
from uniemox.manifests.findings import Findings

if TYPE_CHECKING:
    from uniemox.manifests.table import Attributes, Box


class Sample(NamedTuple):
    """A row of the manifest to be."""

    path: str
    label: int | None
    split: str | None = None  # None where the set has none, and a recipe cuts it
    attributes: Attributes | None = None
    boxes: tuple[Box, ...] | None = ()  # None where a file of boxes does not name the image
    label_set: tuple[int, ...] | None = None
    group: str | None = None
    distribution: tuple[float, ...] | None = None
    vad: Vad | None = None
    stratum: str | None = None  # What a recipe keeps in proportion instead of the label


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What was read from a root; empty fields are those of the table of data sets."""

    samples: list[Sample]
    classes: tuple[str, ...] = ()
    layout: Layout | None = None
    base: str = ""  # Folder of the images: a recipe's draw must not change with the level that is given as root
    root: Path | None = None  # Where the images are, if not below the root that was read
    labelled_by: str = ""
    people_source: str = ""
    vad_range: tuple[float, float] | None = None


class ClassNames:
    """The classes of a set, found by the many ways to write their names."""

    def __init__(self, classes: Sequence[str], findings: Findings) -> None:
        self.classes = tuple(classes)
        self._findings = findings
        self._labels: dict[str, int | None] = {name: label for label, name in enumerate(classes)}

    def label(self, name: str) -> int | None:
        """Return the label of a class, None for an unknown one; another word for it is noted, another case is not."""
        if name not in self._labels:
            own = resolve(name, self.classes)
            self._labels[name] = None if own is None else self._labels[own]
        label = self._labels[name]
        if label is not None and self.classes[label].casefold() != name.casefold():
            self._findings.note("class called otherwise", f"{name} is {self.classes[label]}")
        return label

    def listed(self, name: str, where: str, *, or_number: bool = False) -> int | None:
        """Return the label of a class that a list names, or numbers; an unknown one is counted."""
        label = self.label(name)
        number = whole(name) if label is None and or_number else None
        if number is not None and number < len(self.classes):
            return number
        if label is None:
            self._findings.add("unknown class", f"{name} in {where}")
        return label


def drop_repeats(rows: Iterable[tuple[Sample, str]], findings: Findings) -> list[Sample]:
    """Take each person, or image without a box, once; what is listed again, or in a second split, is counted."""
    split_of: dict[str, str | None] = {}
    taken: dict[tuple[str, tuple[Box, ...] | None], Sample] = {}
    for sample, where in rows:
        if split_of.setdefault(sample.path, sample.split) != sample.split:
            findings.add("image listed in two splits", sample.path)
        elif (sample.path, sample.boxes) in taken:
            findings.add(f"{'person' if sample.boxes else 'image'} listed twice", f"{sample.path} in {where}")
        else:
            taken[sample.path, sample.boxes] = sample
    return list(taken.values())
