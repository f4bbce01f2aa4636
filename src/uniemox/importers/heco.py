"""HECO as published: `Labels/HECO_Labels.csv`, a row for each person, over the images of `Data`."""

import posixpath
from collections.abc import Iterator
from typing import Final

from uniemox.errors import DataError
from uniemox.files.cells import number, with_point
from uniemox.importers import cells
from uniemox.importers.cells import VAD, take
from uniemox.importers.folders import find_splits, read_folders
from uniemox.importers.roots import HECO_LABELS, wrong_root
from uniemox.importers.samples import ClassNames, Sample, Samples, drop_repeats
from uniemox.importers.specs import DatasetSpec
from uniemox.importers.tables import Table, read_table
from uniemox.importers.tree import Tree
from uniemox.people.boxes import to_box

_CORNERS: Final = ("xmin", "ymin", "xmax", "ymax")
_WANTED: Final = ("image", *_CORNERS, "category")


def read_heco(spec: DatasetSpec, tree: Tree) -> Samples:
    """Read one sample for each person, columns by name; without the list, folders of splits and classes."""
    labels = tree.find(HECO_LABELS, "file")
    base = tree.find(spec.folder, "folder")
    if labels is None and find_splits(tree, ""):
        return read_folders(spec, tree)
    if labels is None or base is None:
        raise wrong_root(spec, tree, f"{HECO_LABELS} and the folder {spec.folder}, or folders train, val or test")
    table = read_table(tree.root / labels, tree.findings)
    missing = set(_WANTED) - {heading.casefold() for heading in table.headings}
    if missing:
        raise DataError(
            f"{tree.root / labels} has no column {', '.join(name for name in _WANTED if name in missing)}, only "
            f"{', '.join(table.headings)}: unpack the set again"
        )
    samples = drop_repeats(_people(table, base, ClassNames(spec.classes, tree.findings), tree), tree.findings)
    return Samples(samples=samples, base=base, people_source="annotated")


def _people(table: Table, base: str, classes: ClassNames, tree: Tree) -> Iterator[tuple[Sample, str]]:
    """Yield the person of each row, and where it is; what is invalid is counted."""
    for record in table.records:
        row = {heading.casefold(): cell for heading, cell in record.cells.items()}
        if table.has_decimal_comma:
            row |= {name: with_point(row[name]) for name in (*_CORNERS, *VAD) if name in row}
        label = classes.listed(row["category"], record.where)
        path = None if label is None else tree.listed_image(posixpath.join(base, row["image"]), where=record.where)
        if path is None:
            continue
        box = to_box([row[name] for name in _CORNERS])
        if box is None:
            tree.findings.add("box that is no box", record.where)
        found = take(row, dict.fromkeys(VAD, number), tree.findings, record.where)
        yield Sample(path, label, boxes=() if box is None else (box,), vad=cells.vad(found)), record.where
