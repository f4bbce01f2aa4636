"""Folders named by class, and folders named by split that hold them."""

import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Final

from uniemox.errors import DataError
from uniemox.files.images import is_image_name
from uniemox.files.paths import alike
from uniemox.files.walk import find_images_below
from uniemox.importers.roots import wrong_root
from uniemox.importers.samples import ClassNames, Sample, Samples
from uniemox.importers.specs import DatasetSpec
from uniemox.importers.tree import Tree
from uniemox.manifests.splits import split_of_word
from uniemox.manifests.table import Attributes
from uniemox.wording import counted

_FRAME: Final = re.compile(r"(?P<clip>.+?)[_-]+(?:frame)?\d+", re.IGNORECASE)
"""Name of a frame: what it shares with others of its clip, then its number."""
_Placed = tuple[Sample, str]  # A sample, and its path from the folder of its class


def find_splits(tree: Tree, base: str) -> dict[str, str]:
    """Find the folders of the splits in a folder: path to split."""
    found = {posixpath.join(base, name): split_of_word(name) for name in tree.folders(base)}
    return {path: split for path, split in found.items() if split is not None}


def read_folders(spec: DatasetSpec, tree: Tree) -> Samples:
    """Read `<class>/**/<image>` or `{train,val,test}/<class>/**/<image>`, in the published folder or the root itself.

    The authors of UniEmoX cut sets that have no splits of their own, so all but unnamed folders may be cut.
    """
    base = tree.find(spec.folder, "folder") or "" if spec.folder else ""
    cut = next((place for place in (base, "") if find_splits(tree, place)), None)
    layout = spec.layout
    split_of: dict[str, str | None] = {}
    if spec.layout == "split_folders" or (cut is not None and spec.name != "folders"):
        base, layout = base if cut is None else cut, "split_folders"
        split_of.update(find_splits(tree, base))
        if not split_of:
            raise wrong_root(spec, tree, "folders train, val or test")
        for name in tree.folders(base):
            path = posixpath.join(base, name)
            # Quietly: what else lies in such a folder, as annotations do, is no problem.
            if path not in split_of and find_images_below(tree.root / path, refuse=lambda _: None).paths:
                tree.findings.add("folder that is no split", path)
    else:
        folders = tree.folders(base)
        splits = set(find_splits(tree, base).values())
        if len(splits) > 1 or (splits and len(folders) == 1):
            raise DataError(f"{tree.root} holds {', '.join(folders)}: import it as split-folders")
        split_of[base] = None
    classes, found = _read_classes(spec, tree, split_of)
    if spec.recipe is not None and spec.recipe.cuts == "test" and "val" not in split_of.values():
        # CAER-S comes in two splits, the second of which is cut once more.
        found = [(sample._replace(split=None) if sample.split == "test" else sample, name) for sample, name in found]
    if layout == "object_folders":
        samples = [_with_object(sample, inside, tree) for sample, inside in found]
    elif spec.has_clips:
        samples = _with_clips(found, tree)
    else:
        samples = [sample for sample, _ in found]
    return Samples(samples=samples, classes=classes, layout=layout, base=base)


def _read_classes(
    spec: DatasetSpec, tree: Tree, split_of: Mapping[str, str | None]
) -> tuple[tuple[str, ...], list[_Placed]]:
    """Read the class folders in some folders, and find the classes."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    first: dict[str, str] = {}  # Of names that users see as one
    for folder in split_of:
        for path, own in _class_folders(spec, tree, folder):
            name = first.setdefault(alike(own), unicodedata.normalize("NFC", own.strip()))
            if posixpath.basename(path) != name and not spec.classes:
                tree.findings.note("class folder joined with another way to write it", f"{path} is {name}")
            images = list(tree.images(path))
            if not images:
                tree.findings.add("empty class folder", path)
            found.setdefault((folder, name), []).extend((image, image.removeprefix(f"{path}/")) for image in images)
    if not any(found.values()):
        names = ", ".join(spec.classes) or "by class"
        raise wrong_root(spec, tree, f"folders named {names}, with images in them")
    # A folder without any image is no class of its own: it may hold anything.
    classes = spec.classes or tuple(sorted({name for (_, name), images in found.items() if images}))
    for folder, name in product(split_of, classes):
        if (folder, name) not in found:
            tree.findings.add("missing class folder", posixpath.join(folder, name))
    labels = {name: label for label, name in enumerate(classes)}
    return classes, [
        (Sample(path, labels[name], split_of[folder]), inside)
        for (folder, name), images in found.items()
        for path, inside in images
    ]


def _class_folders(spec: DatasetSpec, tree: Tree, folder: str) -> Iterator[tuple[str, str]]:
    """Yield the path and the class of each class folder in a folder, and count the rest."""
    classes = ClassNames(spec.classes, tree.findings)
    for name, kind in (tree.names(folder) or {}).items():
        path = posixpath.join(folder, name)
        if kind == "outside":
            tree.findings.add("link that leaves the root", path)
        elif kind != "folder":
            if is_image_name(name):
                tree.findings.add("image outside of a class folder", path)
        elif not spec.classes:
            yield path, name
        elif (label := classes.label(name)) is None:
            tree.findings.add("unknown class", path)
        else:
            yield path, spec.classes[label]


def _with_object(sample: Sample, inside: str, tree: Tree) -> Sample:
    """Add the object, the name of the folder below that of the class."""
    name, below, _ = inside.partition("/")
    if not below:
        tree.findings.add("image outside of an object folder", sample.path)
        return sample
    words = " ".join(name.replace("_", " ").split())
    return sample._replace(attributes=Attributes(objects=(words,)), stratum=f"{sample.label}/{name.casefold()}")


def _with_clips(found: Sequence[_Placed], tree: Tree) -> list[Sample]:
    """Add the clip of each frame as its group, where names identify it, and note what that means."""
    clips = [_clip_of(sample, inside) for sample, inside in found]
    # What all frames of a class share (anger_0001.png) is no clip.
    per_class = Counter(clip.partition("/")[0] for clip in set(clips))
    are_known = "" not in clips and all(count > 1 for count in per_class.values())
    tree.findings.remark(
        "train and test hold frames of the same clips, so accuracy per frame rewards memory; "
        + (
            f"names identify {counted(len(set(clips)), 'clip')}, kept as groups: cut by them with `uniemox data split`"
            if are_known
            else "names do not identify the clips, so no cut can keep them whole"
        )
    )
    return [sample._replace(group=clip if are_known else None) for (sample, _), clip in zip(found, clips, strict=True)]


def _clip_of(sample: Sample, inside: str) -> str:
    """Name the clip of a frame: its folder below that of the class, or its name without the frame's number."""
    folder, name = posixpath.split(inside)
    match = _FRAME.fullmatch(posixpath.splitext(name)[0])
    # Frames of one clip are in both splits, so the split is no part of its name.
    clip = folder or (match["clip"] if match else "")
    return f"{sample.label}/{clip}" if clip else ""
