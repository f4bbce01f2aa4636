"""Several manifests as one: a common root, one table of classes, and every row knows which data set it came from.

Whole columns are handled in Arrow and NumPy, so that millions of rows take seconds.
"""

from __future__ import annotations

import itertools
import math
import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from uniemox.data.findings import Problem
from uniemox.data.manifest import SCHEMA, Facts, Manifest, manifest_from_table
from uniemox.data.population import mark_unasked
from uniemox.emotions import Taxonomy, build_bridge, resolve
from uniemox.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from uniemox.config import Unmapped
    from uniemox.emotions import Emotion

_SHOWN: Final = 6
"""Classes that a message names."""


class Merged(NamedTuple):
    """One manifest of several, and what is worth knowing about it."""

    manifest: Manifest
    problems: tuple[Problem, ...]


def merge_manifests(
    manifests: Sequence[Manifest],
    *,
    target: Taxonomy | None = None,
    unmapped: Unmapped = "refuse",
    mixed_emotions: bool = False,
) -> Merged:
    """Join manifests, in their order, train before val before test.

    Paths become relative to the deepest folder that holds all roots. Groups are told apart by data set. A picture that
    an earlier manifest lists is left out of the later ones. Valence, arousal and dominance are brought to the first
    scale that is known; those on no known scale are then left out and counted. Raters' shares follow the labels; where
    classes are lost, the others share out what they had. Where the target gives several labels to a sample, a label
    that stands alone becomes a set of one.

    Args:
        manifests: At least two.
        target: Taxonomy that all labels are led to; None where all have the same classes, in any order.
        unmapped: What becomes of rows whose label has no counterpart there.
        mixed_emotions: Whether labels of evoked and of felt emotions may be mixed.

    Raises:
        DataError: Classes, emotions or scales do not go together, the roots have no folder in common, or rows cannot be
            mapped and `unmapped` refuses them.
    """
    if len(manifests) < 2:
        raise DataError("a merge takes two manifests or more")
    emotion = _join_emotions([manifest.facts for manifest in manifests], mixed=mixed_emotions)
    root = _common_root([_root(manifest) for manifest in manifests])
    sources = _name_sources(manifests)
    classes = _join_classes([manifest.facts for manifest in manifests], target)
    scale = _join_scales(manifests)
    problems: list[Problem] = []
    tables: list[pa.Table] = []
    earlier: list[pa.ChunkedArray] = []
    for manifest, source in zip(manifests, sources, strict=True):
        table = _rebase(mark_unasked(manifest), _root(manifest), root)
        own_paths = table["path"]
        table = _without_known(table, earlier, source, problems)
        relabelling = _relabel(manifest.facts, classes, target)
        table = _map_labels(table, relabelling, source, problems, unmapped=unmapped)
        if target is not None and target.several:
            table = _labels_as_sets(table)
        table = _to_scale(table, manifest.facts.vad_range, scale, source, problems)
        tables.append(_name_rows(table, source))
        earlier.append(own_paths)
    joined = replace(
        _join_facts([manifest.facts for manifest in manifests], sources),
        classes=classes,
        emotion=emotion,
        root=root,
        vad_range=scale,
    )
    return Merged(manifest_from_table(joined, pa.concat_tables(tables)), tuple(problems))


# --- Facts -----------------------------------------------------------------------------------------------------------


def _join_emotions(facts: Sequence[Facts], *, mixed: bool) -> Emotion | None:
    found = {own.emotion for own in facts}
    if len(found - {None}) > 1 and not mixed:
        names = "; ".join(f"{own.name}: {own.emotion or 'not known'}" for own in facts)
        raise DataError(
            f"labels of evoked and of felt emotions are different things ({names}): give --mixed-emotions if you "
            "mean it"
        )
    return found.pop() if len(found) == 1 else None


def _name_sources(manifests: Sequence[Manifest]) -> list[str]:
    """Name the data set of each manifest: its short name, numbered where another folder's set has the same."""
    names: dict[tuple[str, Path], str] = {}
    for manifest in manifests:
        # Without a slash, which parts the set from the name of a group.
        name = manifest.facts.name.replace("/", "-")
        candidates = (f"{name} {number}" if number > 1 else name for number in itertools.count(1))
        key = (manifest.facts.name, _root(manifest))
        if key not in names:
            names[key] = next(own for own in candidates if own not in names.values())
    return [names[manifest.facts.name, _root(manifest)] for manifest in manifests]


def _join_facts(facts: Sequence[Facts], sources: Sequence[str]) -> Facts:
    def join(read: Callable[[Facts], str], *, between: str = "; ") -> str:
        values = dict.fromkeys(
            (read(own), source) for own, source in zip(facts, sources, strict=True) if read(own)
        )
        texts = {text for text, _ in values}
        if len(texts) < 2 and len(values) == len(set(sources)):
            return "".join(texts)
        return between.join(f"{source}: {text}" for text, source in values)

    return replace(
        facts[0],
        name="+".join(dict.fromkeys(sources)),
        title=" + ".join(dict.fromkeys(own.title for own in facts)),
        licence=join(lambda own: own.licence),
        url=join(lambda own: own.url),
        citation=join(lambda own: own.citation),
        layout="merged",
        labelled_by=join(lambda own: own.labelled_by),
        split_recipe=join(lambda own: own.split_recipe),
        people_source=join(lambda own: own.people_source),
    )


# --- Paths -----------------------------------------------------------------------------------------------------------


def _root(manifest: Manifest) -> Path:
    root = manifest.facts.root
    return root.resolve() if ".." in root.parts else root


def _common_root(roots: Sequence[Path]) -> Path:
    try:
        return Path(os.path.commonpath(roots))
    except ValueError as error:  # two drives of Windows
        raise DataError(
            f"the folders {', '.join(map(str, roots))} have none in common: put them on one drive"
        ) from error


def _rebase(table: pa.Table, root: Path, common: Path) -> pa.Table:
    prefix = root.relative_to(common).as_posix()
    if prefix == ".":
        return table
    try:
        prefix.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"the name of the folder {str(root)!a} is not UTF-8, which a manifest cannot hold: rename it"
        ) from error
    return _with(table, "path", pc.binary_join_element_wise(prefix, table["path"], "/"))


def _without_known(
    table: pa.Table, earlier: Sequence[pa.ChunkedArray], source: str, problems: list[Problem]
) -> pa.Table:
    """Leave out the pictures of earlier manifests: none must stand in two splits (DECISIONS 26)."""
    for paths in earlier:
        known = pc.is_in(table["path"], value_set=pa.chunked_array(paths.chunks, pa.string()))
        count = pc.sum(known).as_py() or 0
        if count:
            example = table["path"][pc.index(known, True).as_py()].as_py()
            problems.append(
                Problem(
                    f"row of {source} whose picture an earlier manifest lists; left out",
                    count,
                    example,
                )
            )
            table = table.filter(pc.invert(known))
    return table


def _name_rows(table: pa.Table, source: str) -> pa.Table:
    """Write down where rows came from, and tell their groups from those of other data sets."""
    own = pc.cast(table["source"], pa.string())
    table = _with(table, "source", pc.dictionary_encode(pc.fill_null(own, source)))
    return _with(table, "group", pc.binary_join_element_wise(source, table["group"], "/"))


# --- Labels ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Relabelling:
    """What the labels of one manifest become."""

    table: np.ndarray
    """New label of each old one, or -1."""
    classes: tuple[str, ...]
    """The old classes."""
    num_new: int
    reasons: Mapping[str, str]
    """Why a class has no new label."""

    @property
    def changes(self) -> bool:
        return not np.array_equal(self.table, np.arange(self.num_new))


def _join_classes(facts: Sequence[Facts], target: Taxonomy | None) -> tuple[str, ...]:
    if target is not None:
        return target.classes
    named = [own for own in facts if own.classes]
    if not named:
        return ()
    first = named[0]
    for own in named[1:]:
        found = {resolve(name, first.classes) for name in own.classes}
        if None in found or len(found) != len(own.classes) or len(found) != len(first.classes):
            raise DataError(
                f"{own.name} has the classes {_some(own.classes)}, {first.name} has {_some(first.classes)}: lead both "
                "to one taxonomy with --classes, for example --classes mikels"
            )
    return first.classes


def _relabel(facts: Facts, classes: tuple[str, ...], target: Taxonomy | None) -> _Relabelling:
    if target is None:
        mapped = {name: resolve(name, classes) for name in facts.classes}
        reasons: Mapping[str, str] = {}
    else:
        bridge = build_bridge(facts.classes, target)
        mapped, reasons = {**bridge.mapped}, bridge.dropped
    numbers = {name: number for number, name in enumerate(classes)}
    table = [numbers.get(mapped.get(name) or "", -1) for name in facts.classes]
    return _Relabelling(np.array(table, np.int64), facts.classes, len(classes), reasons)


def _map_labels(
    table: pa.Table,
    relabelling: _Relabelling,
    source: str,
    problems: list[Problem],
    *,
    unmapped: Unmapped,
) -> pa.Table:
    if not relabelling.changes:
        return table
    labels = _numbers(table["label"])
    new_labels = _look_up(relabelling.table, labels)
    rows, old, new, sets = _map_sets(table["label_set"], relabelling.table)
    lost = (labels >= 0) & (new_labels < 0)
    lost_in_sets = (old >= 0) & (new < 0)
    lost_rows = np.concatenate([np.flatnonzero(lost), rows[lost_in_sets]])
    lost_labels = np.concatenate([labels[lost], old[lost_in_sets]])
    _tell_lost(table, lost_rows, lost_labels, relabelling, source, problems, unmapped=unmapped)
    has_some = (new_labels >= 0) | (np.bincount(rows[new >= 0], minlength=len(table)) > 0)
    emptied = np.bincount(lost_rows, minlength=len(table)).astype(bool) & ~has_some
    table = _with(table, "label", pa.array(new_labels, mask=new_labels < 0).cast(pa.int16()))
    table = _with(table, "label_set", sets)
    table = _with(table, "distribution", _map_shares(table, relabelling, source, problems))
    if not emptied.any():
        return table
    fate = "left out" if unmapped == "drop" else "kept"
    example = table["path"][int(np.argmax(emptied))].as_py()
    problems.append(
        Problem(f"row of {source} without a label now; {fate}", int(emptied.sum()), example)
    )
    return table.filter(pa.array(~emptied)) if unmapped == "drop" else table


def _labels_as_sets(table: pa.Table) -> pa.Table:
    """Make a set of one of each label that stands alone, for a taxonomy that gives several to a sample."""
    labels, sets = _single(table["label"]), _single(table["label_set"])
    alone = pc.and_(labels.is_valid(), sets.is_null())
    ends = np.zeros(len(table) + 1, np.int32)
    np.cumsum(alone.to_numpy(zero_copy_only=False), out=ends[1:])
    own = pa.ListArray.from_arrays(pa.array(ends), labels.filter(alone), mask=pc.invert(alone))
    table = _with(table, "label_set", pc.coalesce(sets, own))
    return _with(table, "label", pc.if_else(alone, pa.scalar(None, labels.type), labels))


def _tell_lost(
    table: pa.Table,
    rows: np.ndarray,
    labels: np.ndarray,
    relabelling: _Relabelling,
    source: str,
    problems: list[Problem],
    *,
    unmapped: Unmapped,
) -> None:
    """Count the labels of each class that has no counterpart, or refuse them."""
    counts = sorted(Counter(labels.tolist()).items())
    names = {label: relabelling.classes[label] for label, _ in counts}
    if counts and unmapped == "refuse":
        told = "; ".join(
            f"{names[label]} ({count}) {relabelling.reasons[names[label]]}"
            for label, count in counts[:_SHOWN]
        )
        more = f"; and {len(counts) - _SHOWN} more classes" if len(counts) > _SHOWN else ""
        raise DataError(
            f"labels of {source} cannot be mapped: {told}{more}: give --unmapped drop to leave out rows that have no "
            "other label, or --unmapped keep to keep them without one"
        )
    for label, count in counts:
        example = table["path"][int(rows[np.argmax(labels == label)])].as_py()
        kind = f"label {names[label]} of {source} {relabelling.reasons[names[label]]}"
        problems.append(Problem(kind, count, example))


def _map_sets(
    column: pa.ChunkedArray, table: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, pa.Array]:
    """Map sets of labels.

    Returns:
        For each label in a set the number of the row, the old label and the new one or -1; and the new sets, in which
        nothing stands twice.
    """
    array = _single(column)
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    rows = np.repeat(np.arange(len(array)), lengths)
    old = _numbers(array.flatten())
    new = _look_up(table, old)
    kept = new >= 0
    pairs = np.unique(np.stack([rows[kept], new[kept]], axis=1), axis=0)
    ends = np.zeros(len(array) + 1, np.int32)
    np.cumsum(np.bincount(pairs[:, 0], minlength=len(array)), out=ends[1:])
    sets = pa.ListArray.from_arrays(
        pa.array(ends), pa.array(pairs[:, 1], pa.int16()), mask=array.is_null()
    )
    return rows, old, new, sets


def _map_shares(
    table: pa.Table, relabelling: _Relabelling, source: str, problems: list[Problem]
) -> pa.Array:
    """Add up the raters' shares of what becomes one class, and share out anew what is left if classes are lost."""
    array = _single(table["distribution"])
    known = array.is_valid().to_numpy(zero_copy_only=False)
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    fits = known & (lengths == len(relabelling.classes))
    if (known & ~fits).any():
        example = table["path"][int(np.argmax(known & ~fits))].as_py()
        kind = f"distribution of {source} that is not over its classes; left out"
        problems.append(Problem(kind, int((known & ~fits).sum()), example))
    old = array.filter(pa.array(fits)).flatten().to_numpy(zero_copy_only=False)
    shares = np.zeros((int(fits.sum()), relabelling.num_new), np.float64)
    for label, new in enumerate(relabelling.table):
        if new >= 0:
            shares[:, new] += old.reshape(len(shares), len(relabelling.classes))[:, label]
    totals = shares.sum(axis=1)
    if (relabelling.table < 0).any():
        np.divide(shares, totals[:, None], out=shares, where=totals[:, None] > 0)
    fits[fits] = totals > 0
    ends = np.zeros(len(array) + 1, np.int32)
    np.cumsum(fits * relabelling.num_new, out=ends[1:])
    return pa.ListArray.from_arrays(
        pa.array(ends), pa.array(shares[totals > 0].ravel(), pa.float32()), mask=pa.array(~fits)
    )


# --- Valence, arousal, dominance -------------------------------------------------------------------------------------

_Scale = tuple[float, float] | None


def _join_scales(manifests: Sequence[Manifest]) -> _Scale:
    rated = [m.facts for m in manifests if m.table["vad"].null_count < len(m)]
    scales = {own.vad_range for own in rated}
    for scale in scales - {None}:
        if scale and not -math.inf < scale[0] < scale[1] < math.inf:
            raise DataError(
                f"{scale[0]} to {scale[1]} is no scale of valence: prepare the data again"
            )
    return next((own.vad_range for own in rated if own.vad_range), None)


def _to_scale(
    table: pa.Table, own: _Scale, scale: _Scale, source: str, problems: list[Problem]
) -> pa.Table:
    count = len(table) - table["vad"].null_count
    if own == scale or not count:
        return table
    if own is None or scale is None:
        example = table["path"][pc.index(table["vad"].is_valid(), True).as_py()].as_py()
        kind = f"valence, arousal and dominance of {source} on a scale that is not known; left out"
        problems.append(Problem(kind, count, example))
        return _with(table, "vad", pa.nulls(len(table), SCHEMA.field("vad").type))
    factor = (scale[1] - scale[0]) / (own[1] - own[0])
    array = _single(table["vad"])
    leaves = [
        pc.add(pc.multiply(pc.subtract(leaf.cast(pa.float64()), own[0]), factor), scale[0])
        for leaf in array.flatten()
    ]
    kind = SCHEMA.field("vad").type
    return _with(
        table,
        "vad",
        pa.StructArray.from_arrays(
            [leaf.cast(field.type) for leaf, field in zip(leaves, kind, strict=True)],
            fields=list(kind),
            mask=array.is_null(),
        ),
    )


# --- Columns ---------------------------------------------------------------------------------------------------------


def _with(table: pa.Table, name: str, column: pa.Array | pa.ChunkedArray) -> pa.Table:
    place = SCHEMA.get_field_index(name)
    return table.set_column(place, SCHEMA.field(place), column.cast(SCHEMA.field(place).type))


def _single(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _numbers(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Give labels as int64, -1 for none."""
    labels: np.ndarray = column.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    return labels


def _look_up(table: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Give the new label of each old one; -1 stays."""
    found: np.ndarray = np.append(table, -1)[labels]
    return found


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
