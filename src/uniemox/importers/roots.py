"""The error for a folder that does not hold its data set."""

from __future__ import annotations

import posixpath
from itertools import islice
from typing import TYPE_CHECKING, Final

from uniemox.emotions import resolve
from uniemox.errors import DataError
from uniemox.importers.specs import DatasetSpec, Layout
from uniemox.manifests.splits import split_of_word
from uniemox.wording import name_first, printable

if TYPE_CHECKING:
    from uniemox.importers.tree import Tree

HECO_LABELS: Final = "Labels/HECO_Labels.csv"
EMOTIC_ANNOTATIONS: Final = ("Annotations/Annotations.mat", "Annotations.mat")
FINDINGEMO_ANNOTATIONS: Final = ("annotations_single.ann", "data/annotations_single.ann")
HUB_FILES: Final = ("dataset_dict.json", "state.json", "metadata.csv", "metadata.jsonl", "metadata.parquet")

_MARKS: Final[dict[Layout, tuple[str, ...]]] = {
    "emoset": ("info.json",),
    "heco": (HECO_LABELS,),
    "emotic": EMOTIC_ANNOTATIONS,
    "findingemo": FINDINGEMO_ANNOTATIONS,
    "hub": HUB_FILES,
}  # Files of which one makes a folder a root of a layout
_UNFOLDERED: Final[tuple[Layout, ...]] = ("emoset", "emotic", "findingemo", "hub", "table")
"""Layouts that never are folders of classes, whole or cut into splits."""
_SHOWN: Final = 6  # Names that a message about a folder lists
_SEARCHED: Final = 200  # Folders below a root that are looked into for the right one


def wrong_root(spec: DatasetSpec, tree: Tree, wanted: str) -> DataError:
    """Write in one line what was looked for, what was found instead, and where to get the set on which terms."""
    problems = "".join(f"; {problem}" for problem in tree.findings.problems())
    names = list(map(printable, tree.names("") or ()))
    found = name_first(names, most=_SHOWN) if names else "nothing"
    first = tree.folders("")
    second = (posixpath.join(name, below) for name in first for below in tree.folders(name))
    near = (path for paths in (first, second) for path in islice(paths, _SEARCHED))
    right = next((path for path in near if _holds(spec, tree, path)), None)
    hint = f"; did you mean {tree.root / right}?" if right is not None else ""
    return DataError(
        f"{tree.root} is not {called(spec)}: looked for {wanted}, found {found}{problems}{source(spec)}{hint}"
    )


def called(spec: DatasetSpec) -> str:
    """Name a set in a sentence: the title of one, or in lower case that of a form which any data may have."""
    return spec.title if spec.classes else spec.title[0].lower() + spec.title[1:]


def source(spec: DatasetSpec) -> str:
    """Write where to get a set and on which terms, as the end of a message; empty for data that is in no table."""
    if not spec.url:
        return ""
    where = f"see {spec.url} for the data set" if "://" in spec.url else f"it {spec.url}"
    return f"; {where} (licence: {spec.licence})" if spec.licence else f"; {where}"


def _holds(spec: DatasetSpec, tree: Tree, folder: str) -> bool:
    """Guess by names alone whether a folder is a root of a set."""
    if any(tree.find(posixpath.join(folder, path), "file") for path in _MARKS.get(spec.layout, ())):
        return True
    if spec.layout in _UNFOLDERED:
        return False
    inside = tree.find(posixpath.join(folder, spec.folder), "folder") if spec.folder else None
    whole = [folder] if inside is None else [folder, inside]
    cut = [posixpath.join(place, name) for place in whole for name in tree.folders(place) if split_of_word(name)]
    if not spec.classes:
        return bool(cut)
    for places in [cut] if spec.layout == "heco" else [whole, cut]:
        known = {resolve(name, spec.classes) for place in places for name in tree.folders(place)}
        # Half of the classes: a set may be incomplete. Those of a set cut by its authors have no strangers among them.
        if len(spec.classes) <= 2 * len(known - {None}) and not (places is cut and None in known):
            return True
    return False
