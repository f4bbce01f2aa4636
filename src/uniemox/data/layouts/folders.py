"""Folders named by class, and folders named by split that hold them."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from itertools import product
from typing import TYPE_CHECKING, Final, NamedTuple

from uniemox.data.findings import counted
from uniemox.data.layouts.roots import wrong_root
from uniemox.data.layouts.samples import ClassNames, Sample, Samples
from uniemox.data.layouts.tree import is_picture
from uniemox.data.manifest import Attributes
from uniemox.data.splits import SPLITS
from uniemox.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from uniemox.data.layouts.tree import Tree
    from uniemox.data.specs import DatasetSpec

_FRAME: Final = re.compile(r"(?P<clip>.+?)[_-]+(?:frame)?\d+", re.IGNORECASE)
"""Name of a frame: what it shares with others of its clip, then its number."""


def find_base(spec: DatasetSpec, tree: Tree) -> str:
    """Find the folder that holds those of the classes or the splits: the published one, or the root itself."""
    return tree.find(spec.folder, "folder") or "" if spec.folder else ""


def find_splits(tree: Tree, base: str) -> dict[str, str]:
    """Find the folders of the splits in a folder: split to path."""
    found = {split: tree.find(posixpath.join(base, split), "folder") for split in SPLITS}
    return {split: path for split, path in found.items() if path is not None}


def read_class_folders(spec: DatasetSpec, tree: Tree, base: str) -> Samples:
    """Read `<class>/**/<picture>`; where the set is said to have them, `<class>/<object>/**/<picture>`."""
    folders = tree.folders(base)
    if folders and {name.lower() for name in folders} <= set(SPLITS):
        raise DataError(f"{tree.root} holds {', '.join(folders)}: import it as split-folders")
    classes, found = _read_classes(spec, tree, [base])
    samples = [Sample(picture.path, picture.label) for picture in found]
    if spec.layout == "object_folders":
        samples = [
            _with_object(sample, picture, tree)
            for sample, picture in zip(samples, found, strict=True)
        ]
    return Samples(
        layout=spec.layout,
        classes=classes,
        samples=samples,
        base=base,
        labelled_by=spec.labelled_by,
    )


def read_split_folders(spec: DatasetSpec, tree: Tree, base: str) -> Samples:
    """Read `{train,val,test}/<class>/**/<picture>`."""
    present = find_splits(tree, base)
    if not present:
        raise wrong_root(spec, tree, "folders train, val or test")
    split_of = {path: split for split, path in present.items()}
    classes, found = _read_classes(spec, tree, list(split_of))
    # CAER-S comes in two splits, the second of which is cut once more.
    cut_test = spec.recipe is not None and spec.recipe.cuts == "test" and "val" not in present
    samples = [
        Sample(
            picture.path,
            picture.label,
            None if cut_test and split_of[picture.folder] == "test" else split_of[picture.folder],
        )
        for picture in found
    ]
    if spec.has_clips:
        samples = _with_clips(samples, found, tree)
    return Samples(
        layout="split_folders",
        classes=classes,
        samples=samples,
        base=base,
        labelled_by=spec.labelled_by,
    )


class _Picture(NamedTuple):
    folder: str
    """That of the split, or of all."""
    class_folder: str
    path: str
    label: int


def _read_classes(
    spec: DatasetSpec, tree: Tree, folders: Sequence[str]
) -> tuple[tuple[str, ...], list[_Picture]]:
    """Read the class folders in some folders, and tell the classes."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for folder in folders:
        for path, name in _class_folders(spec, tree, folder):
            pictures = list(tree.pictures(path))
            if not pictures:
                tree.findings.add("empty class folder", path)
            found.setdefault((folder, name), []).extend((path, picture) for picture in pictures)
    # A folder without any picture is no class of its own: it may hold anything.
    classes = spec.classes or tuple(sorted({name for (_, name), paths in found.items() if paths}))
    if not any(found.values()):
        names = ", ".join(spec.classes) or "by class"
        raise wrong_root(spec, tree, f"folders named {names}, with pictures in them")
    for folder, name in product(folders, classes):
        if (folder, name) not in found:
            tree.findings.add("missing class folder", posixpath.join(folder, name))
    labels = {name: label for label, name in enumerate(classes)}
    return classes, [
        _Picture(folder, class_folder, path, labels[name])
        for (folder, name), paths in found.items()
        for class_folder, path in paths
    ]


def _class_folders(spec: DatasetSpec, tree: Tree, folder: str) -> Iterator[tuple[str, str]]:
    """Yield the path and the class of each class folder in a folder, and count what else is there."""
    classes = ClassNames(spec.classes, tree.findings)
    for name, kind in (tree.names(folder) or {}).items():
        path = posixpath.join(folder, name)
        if kind == "outside":
            tree.findings.add("link that leaves the root", path)
        elif kind != "folder":
            if is_picture(name):
                tree.findings.add("picture outside of a class folder", path)
        elif not spec.classes:
            yield path, name
        else:
            label = classes.label(name)
            if label is None:
                tree.findings.add("unknown class", path)
            else:
                yield path, spec.classes[label]


def _with_object(sample: Sample, picture: _Picture, tree: Tree) -> Sample:
    """Add the object, the name of the folder below that of the class."""
    name, below, _ = posixpath.relpath(picture.path, picture.class_folder).partition("/")
    if not below:
        tree.findings.add("picture outside of an object folder", picture.path)
        return sample
    words = " ".join(name.replace("_", " ").split())
    return sample._replace(
        attributes=Attributes(objects=(words,)), stratum=f"{sample.label}/{name.casefold()}"
    )


def _with_clips(samples: Sequence[Sample], found: Sequence[_Picture], tree: Tree) -> list[Sample]:
    """Add the clip that each frame is from as its group, where names tell it, and say what that means."""
    clips = [_clip_of(picture) for picture in found]
    known = {clip for clip in clips if clip}
    # What all frames of a class share (anger_0001.png) is no clip.
    per_class = Counter(clip.partition("/")[0] for clip in known)
    told = bool(known) and None not in clips and all(count > 1 for count in per_class.values())
    tree.findings.remark(
        "train and test hold frames of the same clips, so accuracy per frame rewards memory; "
        + (
            f"names tell {counted(len(known), 'clip')}, kept as groups: cut by them with `uniemox data split`"
            if told
            else "names do not tell the clips, so no cut can keep them whole"
        )
    )
    if not told:
        return list(samples)
    return [sample._replace(group=clip) for sample, clip in zip(samples, clips, strict=True)]


def _clip_of(picture: _Picture) -> str | None:
    """Tell the clip of a frame: its folder below that of the class, or its name without the frame's number."""
    inside = posixpath.relpath(picture.path, picture.class_folder)
    folder, name = posixpath.split(inside)
    match = _FRAME.fullmatch(posixpath.splitext(name)[0])
    # Frames of one clip stand in both splits, so the split is no part of its name.
    clip = folder or (match["clip"] if match else "")
    return f"{picture.label}/{clip}" if clip else None
