"""What to say of a folder that does not hold the data set it was given for."""

from __future__ import annotations

import posixpath
from itertools import islice
from typing import TYPE_CHECKING, Final, assert_never

from uniemox.data.findings import printable
from uniemox.data.splits import SPLITS
from uniemox.emotions import resolve
from uniemox.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from uniemox.data.layouts.tree import Tree
    from uniemox.data.specs import DatasetSpec

HECO_LABELS: Final = "Labels/HECO_Labels.csv"
EMOTIC_ANNOTATIONS: Final = ("Annotations/Annotations.mat", "Annotations.mat")
HUB_FILES: Final = (
    "dataset_dict.json",
    "state.json",
    *(f"metadata.{suffix}" for suffix in ("csv", "jsonl", "parquet")),
)

_SHOWN: Final = 6
"""Names that a message about a wrong folder lists."""
_SEARCHED: Final = 200
"""Folders below a wrong one that are looked into for the right one."""


def wrong_root(spec: DatasetSpec, tree: Tree, wanted: str) -> DataError:
    """Say in one line what was looked for, what is there instead, and where to get the set on which terms."""
    wrong = "".join(f"; {problem}" for problem in tree.findings.problems())
    names = list(tree.names("") or ())
    there = ", ".join(map(printable, names[:_SHOWN])) or "nothing"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    below = next((path for path in _folders_below(tree) if _holds(spec, tree, path)), None)
    hint = f"; did you mean {tree.root / below}?" if below is not None else ""
    return DataError(
        f"{tree.root} is not {called(spec)}: looked for {wanted}, found {there}{more}{wrong}"
        f"{source(spec)}{hint}"
    )


def called(spec: DatasetSpec) -> str:
    """Name a set in a sentence: the title of one, or in lower case that of a form which any data may have."""
    return spec.title if spec.classes else spec.title[0].lower() + spec.title[1:]


def source(spec: DatasetSpec) -> str:
    """Say where a set can be had and on which terms, as the end of a message; empty for data that is in no table."""
    if not spec.url:
        return ""
    where = f"get the set from {spec.url}" if "://" in spec.url else f"it {spec.url}"
    return f"; {where} (licence: {spec.licence})" if spec.licence else f"; {where}"


def _folders_below(tree: Tree) -> Iterator[str]:
    """Yield folders one and two levels down, the nearer ones first."""
    first = tree.folders("")
    second = (posixpath.join(name, below) for name in first for below in tree.folders(name))
    yield from islice(first, _SEARCHED)
    yield from islice(second, _SEARCHED)


def _holds(spec: DatasetSpec, tree: Tree, folder: str) -> bool:
    """Guess by names alone whether a folder is a root of a set."""
    match spec.layout:
        case "emoset":
            return _has(tree, folder, "info.json")
        case "heco":
            return _has(tree, folder, HECO_LABELS) or _holds_classes(spec, tree, folder, cut=True)
        case "emotic":
            return _has(tree, folder, *EMOTIC_ANNOTATIONS)
        case "hub":
            return _has(tree, folder, *HUB_FILES)
        case "class_folders" | "emotion6" | "object_folders" | "split_folders":
            return _holds_classes(spec, tree, folder) or _holds_classes(
                spec, tree, folder, cut=True
            )
        case "table":
            return False
        case _:
            assert_never(spec.layout)


def _holds_classes(spec: DatasetSpec, tree: Tree, folder: str, *, cut: bool = False) -> bool:
    """Tell whether folders are named by the classes of a set; with `cut`, those in folders of splits."""
    inside = tree.find(posixpath.join(folder, spec.folder), "folder") if spec.folder else None
    places = [folder] if inside is None else [folder, inside]
    if cut:
        below = [posixpath.join(place, name) for place in places for name in tree.folders(place)]
        places = [path for path in below if posixpath.basename(path).lower() in SPLITS]
    if not spec.classes:
        return cut and bool(places)
    names = {name for place in places for name in tree.folders(place)}
    known = {resolve(name, spec.classes) for name in names}
    # Half of the classes: a set may be incomplete. Those of a set cut by its authors have no strangers among them.
    return len(spec.classes) <= 2 * len(known - {None}) and not (cut and None in known)


def _has(tree: Tree, folder: str, *paths: str) -> bool:
    return any(tree.find(posixpath.join(folder, path), "file") for path in paths)
