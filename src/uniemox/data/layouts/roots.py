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
    where = f"; get the set from {spec.url}" if spec.url else ""
    return f"{where} (licence: {spec.licence})" if where and spec.licence else where


def _folders_below(tree: Tree) -> Iterator[str]:
    """Yield folders one and two levels down, the nearer ones first."""
    first = tree.folders("")
    second = (posixpath.join(name, below) for name in first for below in tree.folders(name))
    yield from islice(first, _SEARCHED)
    yield from islice(second, _SEARCHED)


def _holds(spec: DatasetSpec, tree: Tree, folder: str) -> bool:
    """Guess by names alone whether a folder is a root of a set."""
    inside = tree.find(posixpath.join(folder, spec.folder), "folder") if spec.folder else None
    names = [*tree.folders(folder), *(tree.folders(inside) if inside else ())]
    is_cut = any(name.lower() in SPLITS for name in names)
    match spec.layout:
        case "emoset":
            return _has(tree, folder, "info.json")
        case "heco":
            return _has(tree, folder, HECO_LABELS) or is_cut
        case "emotic":
            return _has(tree, folder, *EMOTIC_ANNOTATIONS)
        case "hub":
            return _has(tree, folder, *HUB_FILES)
        case "class_folders" | "emotion6" | "object_folders" | "split_folders":
            # Half of the classes: a set may be incomplete, and no other folder looks like that.
            known = {resolve(name, spec.classes) for name in names} - {None}
            return is_cut or 0 < len(spec.classes) <= 2 * len(known)
        case "table":
            return False
        case _:
            assert_never(spec.layout)


def _has(tree: Tree, folder: str, *paths: str) -> bool:
    return any(tree.find(posixpath.join(folder, path), "file") for path in paths)
