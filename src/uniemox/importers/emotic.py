"""EMOTIC as published: `Annotations.mat`, a MATLAB file of images and the people in each."""

import posixpath
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from uniemox.errors import DAMAGED, DataError
from uniemox.files.cells import number
from uniemox.importers import cells
from uniemox.importers.roots import EMOTIC_ANNOTATIONS, source, wrong_root
from uniemox.importers.samples import ClassNames, Sample, Samples, drop_repeats
from uniemox.importers.specs import DatasetSpec
from uniemox.importers.tree import Tree
from uniemox.manifests.splits import SPLITS
from uniemox.manifests.table import Box
from uniemox.people.boxes import to_box
from uniemox.people.regions import clip_box
from uniemox.wording import reason_of

_SCALE: Final = (1.0, 10.0)
_MAX_SIDE: Final = 2**31  # Pixels that no image has; damaged files hold infinite ones


class _Person(NamedTuple):
    split: str
    image: str
    where: str
    entry: Any
    size: Any


def read_emotic(spec: DatasetSpec, tree: Tree) -> Samples:
    """Read one sample for each person, with the set of its classes."""
    found = (tree.find(path, "file") for path in EMOTIC_ANNOTATIONS)
    path = next((path for path in found if path is not None), None)
    if path is None:
        raise wrong_root(spec, tree, EMOTIC_ANNOTATIONS[0])
    people = list(_people(_load(spec, tree.root / path), tree))
    samples = drop_repeats(_samples(people, ClassNames(spec.classes, tree.findings), tree), tree.findings)
    return Samples(samples=samples, people_source="annotated, clipped to the image", vad_range=_SCALE)


def _load(spec: DatasetSpec, path: Path) -> dict[str, Any]:
    """Read the splits: structs as dictionaries or lists of them, cells and several numbers as arrays, one as itself."""
    from scipy.io.matlab import MatReadError, loadmat

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a variable that a file holds twice
            content = loadmat(path, variable_names=SPLITS, simplify_cells=True)
    except (*DAMAGED, zlib.error, MatReadError) as error:  # damaged, or of another version
        raise DataError(f"cannot read {path}: {reason_of(error)}; unpack the set again") from error
    found = {split: content[split] for split in SPLITS if split in content}
    if not found:
        raise DataError(f"{path} holds no train, val or test: is it {spec.title}'s?{source(spec)}")
    return found


def _people(content: dict[str, Any], tree: Tree) -> Iterator[_Person]:
    """Yield the people of all images; entries of unknown form are counted."""
    for split, images in content.items():
        for count, image in enumerate(_entries(images)):
            where = f"image {count} of {split}"
            match image:
                case {"filename": str(name), "folder": str(folder), "person": people}:
                    path = posixpath.join(folder.replace("\\", "/"), name)
                    for entry in _entries(people):
                        yield _Person(split, path, where, entry, image.get("image_size"))
                case _:
                    tree.findings.add("image of unknown form", where)


def _entries(value: Any) -> list[Any]:
    """List the entries of a cell or of structs; one struct or text is itself the only entry."""
    return list(value) if isinstance(value, list | np.ndarray) else [value]


def _samples(people: Sequence[_Person], classes: ClassNames, tree: Tree) -> Iterator[tuple[Sample, str]]:
    """Yield the sample of each person, and where it is; what is invalid is counted."""
    base = tree.find_base([person.image for person in people])
    for person in people:
        path = tree.listed_image(posixpath.join(base, person.image), where=person.where)
        if path is None:
            continue
        if not isinstance(person.entry, dict):
            tree.findings.add("person of unknown form", person.where)
            continue
        # Val and test have the answers of several annotators, and what they combine to.
        categories = person.entry.get("combined_categories", person.entry.get("annotations_categories"))
        if isinstance(categories, dict):
            categories = categories.get("categories")
        names = dict.fromkeys(name.strip() for name in _entries(categories) if isinstance(name, str))
        labels = [classes.listed(name, path) for name in names]
        label_set = tuple(sorted({label for label in labels if label is not None}))
        if not label_set:
            tree.findings.add("person without a class", path)
            continue
        box = _box(person)
        if box is None:
            tree.findings.add("box that is no box", path)
        numbers = person.entry.get("combined_continuous", person.entry.get("annotations_continuous"))
        numbers = numbers if isinstance(numbers, dict) else {}
        vad = cells.vad({name: number(numbers.get(name)) for name in cells.VAD})
        boxes = () if box is None else (box,)
        yield Sample(path, None, person.split, boxes=boxes, label_set=label_set, vad=vad), person.where


def _box(person: _Person) -> Box | None:
    """Read the box of a person, clipped to the image where the file names its size."""
    corners = person.entry.get("body_bbox")
    box = to_box(corners.tolist()) if isinstance(corners, np.ndarray) else None
    match person.size:
        case {"n_col": int() | float() as width, "n_row": int() | float() as height} if (
            box is not None and 0 < width < _MAX_SIDE and 0 < height < _MAX_SIDE
        ):
            return clip_box(box, width=int(width), height=int(height))
        case _:
            return box
