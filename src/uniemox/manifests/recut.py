"""New splits for a manifest: cut again by a recipe, taken from a list, or with a fraction of the train split alone."""

import hashlib
import json
import posixpath
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, assert_never

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from uniemox.config.data import Ratios, Rounding, Stratum, Together
from uniemox.errors import DataError
from uniemox.files.archives import SUFFIX, slice_of
from uniemox.manifests.columns import build_column, to_numpy, with_column
from uniemox.manifests.findings import Problem
from uniemox.manifests.splits import (
    Assigned,
    assign_splits,
    describe_split,
    fold_rows,
    paths_below,
    split_rows,
    take_fraction,
)
from uniemox.manifests.table import Manifest, manifest_from_table
from uniemox.wording import printable

_UNLISTED: Final = "image that the list does not name; skipped"
_UNKNOWN: Final = "path of the list that the manifest does not have"


def cut_again(
    manifest: Manifest,
    *,
    ratios: Ratios,
    seed: int,
    by: Stratum = "class",
    group_by: Together | None = None,
    rounding: Rounding = "largest_remainder",
) -> Manifest:
    """Cut all rows into train, val and test, whatever their splits were.

    `by` is what is cut by itself, `group_by` what stays together: None takes the groups that the manifest names, if
    any. Rows of one image stay together in any case. The rest is as in `split_rows`.

    Raises:
        ConfigError: The ratios are impossible, or `rounding` does not go with groups.
        DataError: The manifest names no group to keep whole.
    """
    paths = paths_below(manifest.table["path"].to_pylist())
    groups, kept = _groups(manifest, paths, group_by)
    strata = _strata(manifest, paths, by)
    splits = split_rows(paths, strata, ratios=ratios, seed=seed, groups=groups, rounding=rounding)
    recipe = describe_split(ratios=ratios, by=by, seed=seed, grouped_by=kept, rounding=rounding)
    return _with_splits(manifest, splits, recipe)


def cut_folds(manifest: Manifest, *, num_folds: int, seed: int) -> list[Manifest]:
    """Divide all rows into folds, and make a manifest of each: test is that fold, val the next, train the others.

    Rows of a group, or else of an image, stay together, and every fold has its share of every class.

    Raises:
        DataError: There are fewer groups, or images, than folds.
    """
    paths = paths_below(manifest.table["path"].to_pylist())
    groups, kept = _groups(manifest, paths, None)
    folds = fold_rows(paths, _strata(manifest, paths, "class"), num_folds=num_folds, seed=seed, groups=groups)
    together = f", {kept} kept together" if kept else ""
    return [
        _with_splits(
            manifest,
            ["test" if own == fold else "val" if own == (fold + 1) % num_folds else "train" for own in folds],
            f"fold {fold + 1} of {num_folds}, seed {seed}{together}",
        )
        for fold in range(num_folds)
    ]


def _groups(
    manifest: Manifest, paths: Sequence[str], group_by: Together | None
) -> tuple[Sequence[str | None] | None, str]:
    """Find the group of each row, and what the groups are called; None and nothing for images by themselves."""
    has_groups = manifest.table["group"].null_count < len(manifest)
    match group_by or ("group" if has_groups else "image"):
        case "group" if has_groups:
            return manifest.table["group"].to_pylist(), "groups"
        case "group":
            raise DataError(f"the manifest of {manifest.facts.name} names no groups: omit `group_by`")
        case "folder":
            return _folders(paths), "folders"
        case "image":
            return None, ""
        case _ as never:
            assert_never(never)


def follow_list(manifest: Manifest, listed: Mapping[str, str], *, source: Path) -> tuple[Manifest, tuple[Problem, ...]]:
    """Put each row into the split that a list names for its image, drop the others, and report what does not fit.

    The list is what `read_split_list` returns of the `source`.

    Raises:
        DataError: The list names none of the images.
    """
    found = assign_splits(manifest.table["path"].to_pylist(), listed)
    splits = [split for split in found.splits if split is not None]
    if not splits:
        raise DataError(
            f"{source} names no image of {manifest.facts.name}: it has {next(iter(listed))}, the manifest "
            f"{manifest.table['path'][0] if len(manifest) else 'nothing'}; paths must be relative to the same folder"
        )
    kept = pa.array([split is not None for split in found.splits])
    rows = Manifest(manifest.table.filter(kept), manifest.facts)
    return _with_splits(rows, splits, describe_list(listed, source)), misfits(found)


def misfits(found: Assigned) -> tuple[Problem, ...]:
    """Count the images that a list does not name, and those that it names in vain."""
    kinds = ((_UNLISTED, found.unlisted), (_UNKNOWN, found.unknown))
    return tuple(Problem(kind, len(names), printable(names[0])) for kind, names in kinds if names)


def describe_list(listed: Mapping[str, str], source: Path) -> str:
    """Describe in one line which list splits come from, for `Facts.split_recipe`."""
    # Of the contents, since a list may be a folder, and names of files change.
    digest = hashlib.sha256(json.dumps(sorted(listed.items())).encode()).hexdigest()[:12]
    return f"the list {source.name} (sha256 of its entries {digest})"


def keep_fraction(manifest: Manifest, *, fraction: float, seed: int, by: Stratum = "class") -> Manifest:
    """Drop all but a fraction of the train split, as `take_fraction` does; other splits stay as they are.

    `by` is what is counted by itself, and keeps at least one row.

    Raises:
        ConfigError: The fraction is out of its range.
        DataError: No row is in the train split.
    """
    train = manifest.select(["train"])
    is_train = to_numpy(pc.equal(manifest.table["split"].cast(pa.string()), "train"))
    every = paths_below(manifest.table["path"].to_pylist())
    paths = [every[row] for row in np.flatnonzero(is_train)]
    kept = ~is_train
    kept[is_train] = take_fraction(paths, _strata(train, paths, by), fraction=fraction, seed=seed)
    strata = "" if by == "all" else f" per {by}"
    recipe = f"{100 * fraction:.6g} % of train{strata}, seed {seed}"
    before = manifest.facts.split_recipe
    facts = replace(manifest.facts, split_recipe=f"{before}; {recipe}" if before else recipe)
    return manifest_from_table(facts, manifest.table.filter(pa.array(kept)))


def _strata(manifest: Manifest, paths: Sequence[str], by: Stratum) -> Sequence[Hashable]:
    match by:
        case "class":
            labels: list[Hashable] = manifest.labels.tolist()
            if not manifest.has_label_sets:
                return labels
            sets = manifest.table["label_set"].to_pylist()
            return [label if own is None else (label, frozenset(own)) for label, own in zip(labels, sets, strict=True)]
        case "folder":
            return _folders(paths)
        case "all":
            return [None] * len(paths)
        case _:
            assert_never(by)


def _folders(paths: Sequence[str]) -> list[str]:
    if any(f"{SUFFIX}/" in path and slice_of(Path(path)) is not None for path in paths):
        raise DataError("images in shards have no folders: cut by folder first, then `uniemox data shard`")
    return [posixpath.dirname(path) for path in paths]


def _with_splits(manifest: Manifest, splits: Sequence[str], recipe: str) -> Manifest:
    table = with_column(manifest.table, "split", build_column("split", splits, len(splits)))
    return manifest_from_table(replace(manifest.facts, split_recipe=recipe), table)
