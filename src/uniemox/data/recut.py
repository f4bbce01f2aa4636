"""New splits for a manifest: cut again by a recipe, taken from a list, or with a fraction of the train split alone."""

from __future__ import annotations

import hashlib
import json
import posixpath
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, assert_never

import numpy as np
import pyarrow as pa

from uniemox.data.archives import SUFFIX, slice_of
from uniemox.data.findings import Problem
from uniemox.data.manifest import SCHEMA, Manifest, manifest_from_table
from uniemox.data.splits import (
    SPLITS,
    assign_splits,
    describe_split,
    paths_below,
    split_rows,
    take_fraction,
)
from uniemox.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from uniemox.config import Rounding, Stratum, Together
    from uniemox.data.specs import Ratios

UNLISTED: Final = "picture that the list does not name; left out"
UNKNOWN: Final = "path of the list that the manifest does not have"
"""What does not fit between a list and a manifest."""

_GROUPED_BY: Final = {"group": "groups", "folder": "folders", "picture": ""}


class Recut(NamedTuple):
    """A manifest with other splits, and what did not fit."""

    manifest: Manifest
    problems: tuple[Problem, ...] = ()


def cut_again(
    manifest: Manifest,
    *,
    ratios: Ratios,
    seed: int,
    by: Stratum = "class",
    group_by: Together | None = None,
    rounding: Rounding = "largest_remainder",
) -> Recut:
    """Cut all rows into train, val and test, whatever their splits were.

    Args:
        manifest: The rows.
        ratios: Shares of train, val and test.
        seed: Another seed gives another cut.
        by: What is cut by itself.
        group_by: What stays together; None takes the groups that the manifest names, if there are any. Rows of one
            picture stay together in any case.
        rounding: How shares become numbers of rows.

    Raises:
        ConfigError: The ratios are impossible, or `rounding` does not go with groups.
        DataError: The manifest names no group to keep whole.
    """
    paths = paths_below(manifest.table["path"].to_pylist())
    has_groups = manifest.table["group"].null_count < len(manifest)
    kept = group_by or ("group" if has_groups else "picture")
    if kept == "group" and not has_groups:
        raise DataError(
            f"the manifest of {manifest.facts.name} names no groups: leave out --group-by"
        )
    splits = split_rows(
        paths,
        _strata(manifest, paths, by),
        ratios=ratios,
        seed=seed,
        groups=_groups(manifest, paths, kept),
        rounding=rounding,
    )
    recipe = describe_split(
        ratios=ratios,
        by=by,
        seed=seed,
        grouped_by=_GROUPED_BY[kept],
        rounding=rounding,
    )
    return Recut(_with_splits(manifest, splits, recipe))


def follow_list(manifest: Manifest, listed: Mapping[str, str], *, source: Path) -> Recut:
    """Give each row the split that a list names for its picture; rows that the list does not name are left out.

    Args:
        manifest: The rows.
        listed: What `read_split_list` gives.
        source: Where the list was read.

    Raises:
        DataError: The list names none of the pictures.
    """
    found = assign_splits(manifest.table["path"].to_pylist(), listed)
    problems = [
        Problem(kind, len(names), names[0])
        for kind, names in (
            (UNLISTED, found.unlisted),
            (UNKNOWN, found.unknown),
        )
        if names
    ]
    splits = [split for split in found.splits if split is not None]
    if not splits:
        raise DataError(
            f"{source} names no picture of {manifest.facts.name}: it has {next(iter(listed))}, the manifest "
            f"{manifest.table['path'][0] if len(manifest) else 'nothing'}; paths must be relative to the same folder"
        )
    kept = pa.array([split is not None for split in found.splits])
    rows = Manifest(manifest.table.filter(kept), manifest.facts)
    recipe = describe_list(listed, source)
    return Recut(_with_splits(rows, splits, recipe), tuple(problems))


def describe_list(listed: Mapping[str, str], source: Path) -> str:
    """Say in one line which list splits come from, for `Facts.split_recipe`."""
    # Of the contents, since a list may be a folder, and names of files change.
    digest = hashlib.sha256(json.dumps(sorted(listed.items())).encode()).hexdigest()[:12]
    return f"the list {source.name} (sha256 of its entries {digest})"


def keep_fraction(
    manifest: Manifest, *, fraction: float, seed: int, by: Stratum = "class"
) -> Recut:
    """Leave out all but a fraction of the train split; of one seed, a smaller one is part of every larger one.

    Args:
        manifest: The rows; those of other splits stay as they are.
        fraction: Share to keep, above 0 and up to 1.
        seed: Another seed keeps other rows.
        by: What is counted by itself, and keeps at least one row.

    Raises:
        ConfigError: The fraction is out of its range.
        DataError: There is no train split.
    """
    train = manifest.select(["train"])
    every = paths_below(manifest.table["path"].to_pylist())
    paths = [path for path, is_own in zip(every, _is_train(manifest), strict=True) if is_own]
    taken = take_fraction(paths, _strata(train, paths, by), fraction=fraction, seed=seed)
    kept = np.ones(len(manifest), dtype=bool)
    kept[_is_train(manifest)] = taken
    strata = "" if by == "all" else f" per {by}"
    recipe = f"{100 * fraction:.6g} % of train{strata}, seed {seed}"
    before = manifest.facts.split_recipe
    facts = replace(manifest.facts, split_recipe=f"{before}; {recipe}" if before else recipe)
    return Recut(manifest_from_table(facts, manifest.table.filter(pa.array(kept))))


def _is_train(manifest: Manifest) -> np.ndarray:
    split = manifest.table["split"].combine_chunks()
    number = split.dictionary.to_pylist().index("train")
    is_train: np.ndarray = split.indices.to_numpy(zero_copy_only=False) == number
    return is_train


def _strata(manifest: Manifest, paths: Sequence[str], by: Stratum) -> Sequence[Hashable]:
    match by:
        case "class":
            labels: list[Hashable] = manifest.labels.tolist()
            sets = manifest.table["label_set"]
            if sets.null_count == len(manifest):
                return labels
            return [
                label if own is None else (label, frozenset(own))
                for label, own in zip(labels, sets.to_pylist(), strict=True)
            ]
        case "folder":
            return _folders(paths)
        case "all":
            return [None] * len(paths)
        case _:
            assert_never(by)


def _folders(paths: Sequence[str]) -> list[str]:
    """Name the folder of each picture.

    Raises:
        DataError: The pictures stand in archives, which know no folders.
    """
    if any(f"{SUFFIX}/" in path and slice_of(Path(path)) is not None for path in paths):
        raise DataError(
            "pictures in shards have no folders: cut by folder first, then `uniemox data shard`"
        )
    return [posixpath.dirname(path) for path in paths]


def _groups(
    manifest: Manifest, paths: Sequence[str], group_by: Together
) -> Sequence[str | None] | None:
    match group_by:
        case "group":
            groups: list[str | None] = manifest.table["group"].to_pylist()
            return groups
        case "folder":
            return _folders(paths)
        case "picture":
            return None
        case _:
            assert_never(group_by)


def _with_splits(manifest: Manifest, splits: Sequence[str], recipe: str) -> Manifest:
    numbers = {split: number for number, split in enumerate(SPLITS)}
    column = pa.DictionaryArray.from_arrays(
        pa.array([numbers[split] for split in splits], pa.int32()), pa.array(SPLITS)
    )
    field = SCHEMA.get_field_index("split")
    table = manifest.table.set_column(field, SCHEMA.field(field), column)
    return manifest_from_table(replace(manifest.facts, split_recipe=recipe), table)
