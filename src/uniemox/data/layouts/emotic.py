"""EMOTIC as published: `Annotations.mat`, a MATLAB file of pictures and the people in each."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from uniemox.data.boxes import to_box
from uniemox.data.layouts.matlab import read_matlab
from uniemox.data.layouts.roots import EMOTIC_ANNOTATIONS, source, wrong_root
from uniemox.data.layouts.samples import ClassNames, Sample, Samples, number
from uniemox.data.people import clip_box
from uniemox.data.splits import SPLITS
from uniemox.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from uniemox.data.layouts.samples import Vad
    from uniemox.data.layouts.tree import Tree
    from uniemox.data.manifest import Box
    from uniemox.data.specs import DatasetSpec

_PROBED: Final = 200
"""Pictures that are looked for to find the folder that they are in."""
_SCALE: Final = (1.0, 10.0)
_MAX_SIDE: Final = 2**31
"""Pixels that no picture has; damaged files hold infinite ones."""
_VAD: Final = ("valence", "arousal", "dominance")


class _Person(NamedTuple):
    split: str
    picture: str
    where: str
    entry: Any
    size: tuple[int, int] | None
    """Width and height of the picture, where the file tells them."""


def read_emotic(spec: DatasetSpec, tree: Tree) -> Samples:
    """Read one sample for each person, with the set of its classes."""
    found = (tree.find(path, "file") for path in EMOTIC_ANNOTATIONS)
    path = next((path for path in found if path is not None), None)
    if path is None:
        raise wrong_root(spec, tree, EMOTIC_ANNOTATIONS[0])
    people = list(_people(_load(spec, tree.root / path), tree))
    base = _find_base(tree, people)
    classes = ClassNames(spec.classes, tree.findings)
    samples: list[Sample] = []
    seen: dict[str, str] = {}
    again: set[tuple[str, Box | None]] = set()
    for person in people:
        sample = _read_person(person, base, classes, tree)
        if sample is None:
            continue
        key = (sample.path, sample.boxes[0] if sample.boxes else None)
        if seen.setdefault(sample.path, person.split) != person.split:
            tree.findings.add("picture listed in two splits", sample.path)
        elif key in again:
            tree.findings.add("person listed twice", f"{sample.path} in {person.where}")
        else:
            again.add(key)
            samples.append(sample)
    if not samples:
        raise wrong_root(spec, tree, "the pictures that its annotations name")
    samples.sort(key=lambda sample: SPLITS.index(sample.split or ""))
    return Samples(
        layout="emotic",
        classes=spec.classes,
        samples=samples,
        labelled_by=spec.labelled_by,
        people_source="annotated, clipped to the picture",
        vad_range=_SCALE,
    )


def _load(spec: DatasetSpec, path: Path) -> dict[str, Any]:
    try:
        content = read_matlab(path, SPLITS)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}; unpack the set again") from error
    if not content:
        raise DataError(f"{path} holds no train, val or test: is it {spec.title}'s?{source(spec)}")
    return {split: content[split] for split in SPLITS if split in content}


def _people(content: dict[str, Any], tree: Tree) -> Iterator[_Person]:
    """Yield the people of all pictures; entries of unknown form are counted."""
    for split, pictures in content.items():
        for count, picture in enumerate(_entries(pictures)):
            where = f"picture {count} of {split}"
            match picture:
                case {"filename": str(name), "folder": str(folder), "person": people}:
                    size = _size(picture.get("image_size"))
                    for entry in _entries(people):
                        path = posixpath.join(folder.replace("\\", "/"), name)
                        yield _Person(split, path, where, entry, size)
                case _:
                    tree.findings.add("picture of unknown form", where)


def _entries(value: Any) -> list[Any]:
    """List the entries of a cell or of structs, one struct or text being that itself."""
    return value if isinstance(value, list) else [value]


def _size(value: Any) -> tuple[int, int] | None:
    match value:
        case {"n_col": [width], "n_row": [height]} if (
            0 < width < _MAX_SIDE and 0 < height < _MAX_SIDE
        ):
            return int(width), int(height)
        case _:
            return None


def _find_base(tree: Tree, people: list[_Person]) -> str:
    """Find the folder between the root and the pictures: the archive's own, or none."""
    probes = [person.picture for person in people[:: max(1, len(people) // _PROBED)]]
    candidates = ["", *tree.folders("")]
    candidates += [
        posixpath.join(name, below) for name in candidates[1:] for below in tree.folders(name)
    ]
    return max(
        candidates,
        key=lambda base: sum(
            tree.kind(posixpath.normpath(posixpath.join(base, probe))) == "file" for probe in probes
        ),
    )


def _read_person(person: _Person, base: str, classes: ClassNames, tree: Tree) -> Sample | None:
    """Check a person; what is wrong is counted, and None returned where nothing is left."""
    path = tree.listed_picture(posixpath.join(base, person.picture), where=person.where)
    if path is None:
        return None
    if not isinstance(person.entry, dict):
        tree.findings.add("person of unknown form", person.where)
        return None
    names = _categories(person.entry)
    labels = {name: classes.label(name) for name in names}
    for name in (name for name, label in labels.items() if label is None):
        tree.findings.add("unknown class", f"{name} of {path}")
    label_set = sorted({label for label in labels.values() if label is not None})
    if not label_set:
        tree.findings.add("person without a class", path)
        return None
    box = _box(person)
    if box is None:
        tree.findings.add("box that is no box", path)
    return Sample(
        path,
        None,
        person.split,
        boxes=() if box is None else (box,),
        label_set=tuple(label_set),
        vad=_vad(person.entry),
    )


def _categories(entry: dict[str, Any]) -> list[str]:
    """Name the categories: val and test have those of several people, and what they combine to."""
    value = entry.get("combined_categories", entry.get("annotations_categories"))
    if isinstance(value, dict):
        value = value.get("categories")
    return [name.strip() for name in _entries(value) if isinstance(name, str)]


def _vad(entry: dict[str, Any]) -> Vad | None:
    value = entry.get("combined_continuous", entry.get("annotations_continuous"))
    if not isinstance(value, dict):
        return None
    valence, arousal, dominance = (_one_number(value.get(name)) for name in _VAD)
    found = (valence, arousal, dominance)
    return None if found == (None, None, None) else found


def _one_number(value: Any) -> float | None:
    match value:
        case (one,):
            return number(one)
        case _:
            return None


def _box(person: _Person) -> Box | None:
    corners = person.entry.get("body_bbox")
    box = to_box(corners) if isinstance(corners, tuple) else None
    if box is None or person.size is None:
        return box
    width, height = person.size
    return clip_box(box, width=width, height=height)
