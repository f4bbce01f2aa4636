"""The table of images that every command works on: one Parquet file, one row per sample.

Columns: `path` (POSIX, relative to the root), `split`, `label`, `label_set`, `width`, `height`, `hash`, `group`,
`attributes`, `people` (boxes), `people_reason`, `distribution`, `vad`, `source` (the data set, where several were
merged); only path and split are never null. The facts of the data set are JSON in the schema's metadata, so that
the file explains itself. Version 1 had no `label_set`, `people_reason` and `source`; it is still read. Whole-table work
stays in Arrow; a Python object is made only for the row that is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from uniemox.errors import DataError
from uniemox.files.parquet import open_parquet, read_columns
from uniemox.files.whole import write_whole
from uniemox.manifests.checks import check_values
from uniemox.manifests.columns import SCHEMA as SCHEMA
from uniemox.manifests.columns import Attributes as Attributes
from uniemox.manifests.columns import Box as Box
from uniemox.manifests.columns import attributes_of, boxes_of, build_column, labels_of, lengths_of, single, with_column
from uniemox.manifests.facts import METADATA_KEY, facts_from_metadata, facts_to_metadata
from uniemox.manifests.facts import Facts as Facts
from uniemox.manifests.sharing import SharedTable, map_table
from uniemox.manifests.splits import SPLITS

_MAX_MATRIX: Final = 2**31  # Bytes of all sets of labels; ten million rows of 200 classes
_SINCE_VERSION_2: Final = frozenset(("label_set", "people_reason", "source"))


@dataclass(frozen=True)
class Row:
    """One sample of a manifest."""

    index: int  # Position in the manifest it was asked of
    path: Path  # The image; absolute
    label: int | None
    split: str
    attributes: Attributes
    boxes: tuple[Box, ...]


@dataclass(frozen=True, eq=False)
class Manifest:
    """A table of images and the facts about it. Immutable; a selection is a new manifest."""

    table: pa.Table  # Rows in the columns of `SCHEMA`
    facts: Facts
    chosen: np.ndarray | None = None  # (N,) int64, rows of a selection in the manifest it was selected from

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __reduce__(self) -> tuple[Any, ...]:
        # Workers of a loader get this. IPC writes no more of a sliced buffer than the slice, compressed; the Arrow
        # objects themselves would bring whole buffers, and the caches below as well.
        if self._shared.is_worth_it():
            return _map, (self._shared.descriptor(), self.facts, self.chosen)
        return _unpickle, (_to_ipc(self.table, compression="zstd").to_pybytes(), self.facts, self.chosen)

    @cached_property
    def _shared(self) -> SharedTable:
        return SharedTable(self.table)

    @cached_property
    def _arrays(self) -> dict[str, pa.Array]:
        return {name: single(self.table[name]) for name in ("path", "split", "label", "attributes", "people")}

    def row(self, i: int) -> Row:
        """Build one row.

        Args:
            i: Position, from 0; negative positions count from the end.

        Raises:
            IndexError: The manifest has no such row.
        """
        index = i + len(self) if i < 0 else i
        if not 0 <= index < len(self):
            raise IndexError(f"row {i} of a manifest of {len(self)} rows")
        entries = {name: array[index].as_py() for name, array in self._arrays.items()}
        return Row(
            index=index,
            path=self.facts.root / entries["path"],
            label=entries["label"],  # of the table that processes share, and not of `labels`, which each would make
            split=entries["split"],
            attributes=attributes_of(entries["attributes"]),
            boxes=boxes_of(entries["people"]),
        )

    @cached_property
    def labels(self) -> np.ndarray:
        """Labels (N,), int64, read-only; -1 where there is none."""
        labels = labels_of(self.table["label"])
        labels.flags.writeable = False
        return labels

    @property
    def has_label_sets(self) -> bool:
        """Whether some row has a set of labels."""
        return bool(self.table["label_set"].null_count < len(self))

    @cached_property
    def label_sets(self) -> np.ndarray:
        """Labels of each row as (N, C) bool, of its set, or its only one where it has no set; read-only."""
        sets = self.table["label_set"]
        if len(self) * len(self.facts.classes) > _MAX_MATRIX:
            raise DataError(
                f"{len(self):,} rows with {len(self.facts.classes):,} classes are too many for sets of labels: keep a "
                "`fraction`, or fewer classes"
            )
        found = np.zeros((len(self), len(self.facts.classes)), dtype=bool)
        found[np.repeat(np.arange(len(self)), lengths_of(sets)), pc.list_flatten(sets).to_numpy()] = True
        alone = np.flatnonzero((self.labels >= 0) & sets.is_null().to_numpy())
        found[alone, self.labels[alone]] = True
        found.flags.writeable = False
        return found

    def split_counts(self) -> dict[str, int]:
        """Count the rows of each split: train, val and test first, then others by name."""
        found = _count(self.table["split"])
        return {name: found[name] for name in _order_splits(found)}

    def class_counts(self) -> dict[str, int]:
        """Count the rows of each class, in label order, with 0 for those that do not occur.

        A row that has a set of labels instead of one counts once for each of them.
        """
        labels = self.labels
        of_sets = pc.list_flatten(self.table["label_set"].filter(pa.array(labels < 0))).to_numpy()
        every = np.concatenate([labels[labels >= 0], of_sets])
        counts = np.bincount(every, minlength=len(self.facts.classes))
        return dict(zip(self.facts.classes, counts.tolist(), strict=True))

    @property
    def num_without_people(self) -> int:
        """Rows that have no person box."""
        return int((lengths_of(self.table["people"]) == 0).sum())

    @property
    def without_people(self) -> Manifest:
        """The same rows without boxes, so that the whole image is used in the place of each person."""
        nobody = build_column("people", None, len(self))
        return Manifest(with_column(self.table, "people", nobody), self.facts, self.places)

    def counts(self) -> dict[str, dict[str, int]]:
        """Count split to class to rows; rows without a label, where some exist, have the empty text as class."""
        counts = {}
        for split in self.split_counts():
            rows = self.select([split])
            unlabelled = pc.sum(pc.and_(rows.table["label"].is_null(), rows.table["label_set"].is_null())).as_py()
            counts[split] = rows.class_counts() | ({"": unlabelled} if unlabelled else {})
        return counts

    def source_counts(self) -> dict[str, int]:
        """Count the rows of each data set that was merged into this, in the order of first rows; empty for one set."""
        return _count(self.table["source"].drop_null())

    def select(self, splits: Sequence[str]) -> Manifest:
        """Take the rows of some splits, in the order of the table; `DataError` if a split has none."""
        names = [splits] if isinstance(splits, str) else list(splits)
        counts = self.split_counts()
        missing = [name for name in names if name not in counts]
        if missing or not names:
            what = f"no row in split {', '.join(missing)}" if missing else "no split was named"
            have = ", ".join(f"{name} ({count})" for name, count in counts.items()) or "no row"
            raise DataError(f"the manifest of {self.facts.name}: {what}; it has {have}")
        if set(names) >= set(counts):
            return self
        mask = pc.is_in(self.table["split"], value_set=pa.array(names, pa.string()))
        rows = np.flatnonzero(mask.to_numpy())
        first, last = rows[[0, -1]].tolist()
        # Importers write split after split, so this is the usual case, and a slice copies nothing.
        is_block = last - first == len(rows) - 1
        table = self.table.slice(first, len(rows)) if is_block else self.table.filter(mask)
        return Manifest(table, self.facts, self.places[rows])

    def where(self, mask: np.ndarray) -> Manifest:
        """Take the rows (N,) for which a mask is true."""
        return self if mask.all() else Manifest(self.table.filter(pa.array(mask)), self.facts, self.places[mask])

    def spread(self, count: int) -> list[Row]:
        """Build `count` rows, evenly chosen from the first to the last; all if there are fewer."""
        return [self.row(place) for place in evenly(len(self), count)]

    @property
    def places(self) -> np.ndarray:
        """Where each row is in the manifest that was read, (N,) int64, however many selections lie between."""
        return np.arange(len(self)) if self.chosen is None else self.chosen


def _to_ipc(table: pa.Table, *, compression: str | None = None) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _unpickle(data: bytes, facts: Facts, chosen: np.ndarray | None) -> Manifest:
    return Manifest(pa.ipc.open_stream(data).read_all().combine_chunks(), facts, chosen)


def _map(descriptor: Any, facts: Facts, chosen: np.ndarray | None) -> Manifest:
    return Manifest(map_table(descriptor), facts, chosen)


def _count(names: pa.ChunkedArray) -> dict[str, int]:
    counts = pc.value_counts(names.cast(pa.string())).to_pylist()
    return {entry["values"]: entry["counts"] for entry in counts}


def _order_splits(names: Collection[str]) -> list[str]:
    return [*(name for name in SPLITS if name in names), *sorted(set(names) - set(SPLITS))]


def evenly(total: int, count: int) -> list[int]:
    """Choose `count` places of `total`, evenly from the first to the last; all if there are fewer."""
    places: list[int] = np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()
    return places


def manifest_from_columns(
    facts: Facts,
    *,
    paths: Sequence[str],
    splits: Sequence[str],
    labels: Sequence[int | None] | np.ndarray | None = None,
    label_sets: Sequence[Sequence[int] | None] | None = None,
    attributes: Sequence[Attributes | None] | None = None,
    people: Sequence[Sequence[Box] | None] | None = None,
    people_reasons: Sequence[str | None] | None = None,
    widths: Sequence[int | None] | None = None,
    heights: Sequence[int | None] | None = None,
    hashes: Sequence[str | None] | None = None,
    groups: Sequence[str | None] | None = None,
    distributions: Sequence[Sequence[float] | None] | None = None,
    vad: Sequence[tuple[float | None, float | None, float | None] | None] | None = None,
) -> Manifest:
    """Make a manifest of columns; all have one entry per sample, and those that are omitted are null.

    Args:
        facts: What is known about the data set.
        paths: POSIX paths relative to `facts.root`.
        splits: Name of each sample's split.
        labels: Label of each sample; None or, in an array, -1 for none.
        label_sets: Labels of each sample of a set that gives several to one.
        attributes: What is known about each image.
        people: Boxes of the people in each image; None where nobody looked for them.
        people_reasons: Why nobody could be looked for in an image.
        widths: Width of each upright image in pixels.
        heights: Height of each upright image in pixels.
        hashes: Digest of each file.
        groups: Name of what samples share that a split must keep together.
        distributions: Share of raters per class.
        vad: Valence, arousal and dominance.

    Raises:
        DataError: Columns differ in length, or a row is none of a manifest, as `check_values` says.
    """
    given: dict[str, Any] = {"path": paths, "split": splits, "label": labels, "label_set": label_sets}
    given |= {"attributes": attributes, "people": people, "people_reason": people_reasons, "width": widths}
    given |= {"height": heights, "hash": hashes, "group": groups, "distribution": distributions, "vad": vad}
    arrays = [build_column(name, given.get(name), len(paths)) for name in SCHEMA.names]
    for name, array in zip(SCHEMA.names, arrays, strict=True):
        if len(array) != len(paths):
            raise DataError(f"column {name} has {len(array)} entries for {len(paths)} paths")
    table = pa.Table.from_arrays(arrays, schema=SCHEMA)
    check_values(table, facts, where="the table")
    return Manifest(table, facts)


def manifest_from_table(facts: Facts, table: pa.Table) -> Manifest:
    """Make a manifest of a table in the columns of `SCHEMA`, rows of train before val and test, else in their order.

    Raises:
        DataError: A row is none of a manifest, as `check_values` says.
    """
    table = _in_one_chunk(table)
    check_values(table, facts, where="the table")
    splits = table["split"].cast(pa.string())
    order = pa.array(_order_splits(splits.unique().to_pylist()), pa.string())
    places = single(pc.index_in(splits, value_set=order))
    table = with_column(table, "split", pa.DictionaryArray.from_arrays(places, order))
    ranks = places.to_numpy()
    if (ranks[1:] < ranks[:-1]).any():
        table = table.take(pa.array(np.argsort(ranks, kind="stable")))
    return Manifest(_in_one_chunk(table), facts)


def _in_one_chunk(table: pa.Table) -> pa.Table:
    """Join the chunks of each column, so that a look-up is a plain index, in the order of `SCHEMA`."""
    table = table.unify_dictionaries()
    arrays: list[pa.Array] = []
    for name in SCHEMA.names:
        if name not in table.column_names:
            arrays.append(build_column(name, None, len(arrays[0])))
            continue
        arrays.append(single(table[name]))
        # Let go of each column once it is copied: two whole tables would be a GB for three million images.
        table = table.drop_columns(name)
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write a manifest to a Parquet file, whole or not at all.

    A root at or below the folder of the file is stored relative to it, so that both can be moved together. The folder
    is made if absent; an older file is replaced at the last moment.

    Raises:
        DataError: The file cannot be written, for example on a full disk; an older file is then untouched.
    """
    table = manifest.table.replace_schema_metadata(facts_to_metadata(manifest.facts, path))
    with write_whole(path, DataError) as beside, beside.open("wb") as file:
        pq.write_table(table, file, compression="zstd")


def is_manifest(path: Path) -> bool:
    """Check whether a file was made by `write_manifest`, by its metadata alone."""
    try:
        with open_parquet(path) as parquet:
            return METADATA_KEY in (parquet.schema_arrow.metadata or {})
    except DataError:
        return False


def read_manifest(path: Path, root: Path | None = None, *, check_root: bool = True) -> Manifest:
    """Read a manifest.

    Args:
        path: A file made by `write_manifest`.
        root: Folder of the images, where it is not the one that the manifest names.
        check_root: Whether that folder must exist.

    Raises:
        DataError: The file is missing, damaged, no manifest, of a newer version, or contradicts itself; or the folder
            of the images is missing.
    """
    if not path.is_file():
        what = f"{path} is a folder" if path.is_dir() else f"no manifest at {path}"
        raise DataError(f"{what}: give a manifest, as `uniemox data prepare` makes it")
    with open_parquet(path, what="a manifest", then=". Is it of `data prepare`?") as parquet:
        # Facts first: a newer version is reported by its number, not by the column that surprises us.
        facts = facts_from_metadata(parquet.schema_arrow.metadata, path)
        names = [n for n in SCHEMA.names if facts.version > 1 or n not in _SINCE_VERSION_2]
        _check_columns(parquet.schema_arrow, names, path)
        table = _in_one_chunk(read_columns(parquet, names, path))
    if root is not None:
        facts = replace(facts, root=root)
    if check_root and not facts.root.is_dir():
        raise DataError(
            f"the manifest {path} names the folder {facts.root}, which does not exist: put a link there to where the "
            "images are, or prepare them again"
        )
    check_values(table, facts, where=f"the manifest {path}")
    return Manifest(table, facts)


def _check_columns(schema: pa.Schema, names: Sequence[str], path: Path) -> None:
    for name in names:
        index, wanted = schema.get_field_index(name), SCHEMA.field(name).type
        if index < 0:
            raise DataError(f"the manifest {path} has no column {name}: prepare it again")
        if (found := schema.field(index).type) != wanted:
            raise DataError(f"the manifest {path} holds {found} in column {name}, not {wanted}: prepare it again")


def digest(manifest: Manifest, columns: Sequence[str]) -> str:
    """First 16 digits of a SHA-256 of the classes and of what some columns hold, however it is stored."""
    hasher = hashlib.sha256(json.dumps(manifest.facts.classes).encode())
    for name in columns:
        column = single(manifest.table[name])
        if name == "split":
            column = column.cast(pa.string())
        # A selection is a slice: taking its rows again makes equal contents equal bytes.
        hasher.update(_to_ipc(pa.table({name: column.take(pa.array(np.arange(len(column))))})))
    return hasher.hexdigest()[:16]
