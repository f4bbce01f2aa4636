"""HECO as published: `Labels/HECO_Labels.csv`, a row for each person, over the pictures of `Data`."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Any, Final

from uniemox.data.boxes import to_box
from uniemox.data.layouts.folders import find_splits, read_split_folders
from uniemox.data.layouts.roots import HECO_LABELS, wrong_root
from uniemox.data.layouts.samples import ClassNames, Sample, Samples, number
from uniemox.data.layouts.tables import read_table
from uniemox.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from uniemox.data.layouts.samples import Vad
    from uniemox.data.layouts.tables import Record
    from uniemox.data.layouts.tree import Tree
    from uniemox.data.manifest import Box
    from uniemox.data.specs import DatasetSpec

_CORNERS: Final = ("xmin", "ymin", "xmax", "ymax")
_VAD: Final = ("valence", "arousal", "dominance")
_WANTED: Final = ("image", *_CORNERS, "category")


def read_heco(spec: DatasetSpec, tree: Tree) -> Samples:
    """Read one sample for each person, columns by name; without the list, folders of splits and classes."""
    labels = tree.find(HECO_LABELS, "file")
    pictures = tree.find(spec.folder, "folder")
    if labels is None and find_splits(tree, ""):
        return read_split_folders(spec, tree, "")
    if labels is None or pictures is None:
        raise wrong_root(
            spec, tree, f"{HECO_LABELS} and the folder {spec.folder}, or folders train, val or test"
        )
    table = read_table(tree.root / labels, tree.findings)
    columns = {heading.casefold(): heading for heading in table.headings}
    missing = [name for name in _WANTED if name not in columns]
    if missing:
        raise DataError(
            f"{tree.root / labels} has no column {', '.join(missing)}, only {', '.join(table.headings)}: "
            "unpack the set again"
        )
    classes = ClassNames(spec.classes, tree.findings)
    samples: list[Sample] = []
    seen: set[tuple[str, Box | None]] = set()
    for record in table.records:
        cells = {name: record.cells[heading] for name, heading in columns.items()}
        sample = _read_person(record, cells, pictures, classes, tree)
        if sample is None:
            continue
        person = (sample.path, sample.boxes[0] if sample.boxes else None)
        if person in seen:
            tree.findings.add("person listed twice", f"{sample.path} in {record.where}")
            continue
        seen.add(person)
        samples.append(sample)
    if not samples:
        raise wrong_root(spec, tree, "the pictures that its labels name")
    return Samples(
        layout="heco",
        classes=spec.classes,
        samples=samples,
        base=pictures,
        labelled_by=spec.labelled_by,
        people_source="annotated",
    )


def _read_person(
    record: Record, cells: Mapping[str, Any], pictures: str, classes: ClassNames, tree: Tree
) -> Sample | None:
    """Check a row; what is wrong with it is counted, and None returned where nothing is left."""
    category = cells["category"].strip()
    label = classes.label(category)
    if label is None:
        tree.findings.add("unknown class", f"{category} in {record.where}")
        return None
    path = tree.listed_picture(posixpath.join(pictures, cells["image"].strip()), where=record.where)
    if path is None:
        return None
    box = to_box([cells[name] for name in _CORNERS])
    if box is None:
        tree.findings.add("box that is no box", record.where)
    return Sample(
        path, label, boxes=() if box is None else (box,), vad=_read_vad(record, cells, tree)
    )


def _read_vad(record: Record, cells: Mapping[str, Any], tree: Tree) -> Vad | None:
    texts = [str(cells.get(name, "")).strip() for name in _VAD]
    valence, arousal, dominance = map(number, texts)
    vad = (valence, arousal, dominance)
    for name, text, found in zip(_VAD, texts, vad, strict=True):
        if text and found is None:
            tree.findings.add(f"{name} of unknown form", record.where)
    return None if vad == (None, None, None) else vad
