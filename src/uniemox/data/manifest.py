"""The table of pictures that every command works on: one Parquet file, one row per sample.

Columns: `path` (POSIX, relative to the root), `split`, `label`, `label_set`, `width`, `height`, `hash`, `group`,
`attributes`, `people` (boxes), `people_reason`, `distribution`, `vad`, `source` (the data set, where several were
merged); only path and split are never null. The facts of the data set stand as JSON in the schema's metadata, so that
the file explains itself. Version 1 had no `label_set`, `people_reason` and `source`; it is still read. Whole-table work
stays in Arrow; a Python object is made only for the row that is asked for.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, cast, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from uniemox.emotions import Emotion as Emotion
from uniemox.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

VERSION: Final = 2
"""Version of the format that this module writes, and the newest that it reads."""

_METADATA_KEY: Final = b"uniemox"
_SPLIT_ORDER: Final = ("train", "val", "test")
_FACTS_SINCE_VERSION_2: Final = frozenset(
    ("labelled_by", "split_recipe", "people_source", "vad_range")
)
_TEXT_FACTS: Final = frozenset(
    ("name", "title", "licence", "url", "citation", "layout", "root")
) | _FACTS_SINCE_VERSION_2.difference(("vad_range",))
_TEXT_ATTRIBUTES: Final = ("scene", "facial_expression", "human_action")
_LIGHT_ATTRIBUTES: Final = ("brightness", "colorfulness")
_BOX_FIELDS: Final = ("x0", "y0", "x1", "y1", "score")
_VAD_FIELDS: Final = ("valence", "arousal", "dominance")

SCHEMA: Final = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("split", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("label", pa.int16()),
        pa.field("label_set", pa.list_(pa.int16())),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("hash", pa.string()),
        pa.field("group", pa.string()),
        pa.field(
            "attributes",
            pa.struct(
                [
                    *(pa.field(name, pa.float64()) for name in _LIGHT_ATTRIBUTES),
                    *(pa.field(name, pa.string()) for name in _TEXT_ATTRIBUTES),
                    pa.field("objects", pa.list_(pa.string())),
                ]
            ),
        ),
        pa.field(
            "people",
            pa.list_(pa.struct([pa.field(name, pa.float64()) for name in _BOX_FIELDS])),
        ),
        pa.field("people_reason", pa.string()),
        pa.field("distribution", pa.list_(pa.float32())),
        pa.field("vad", pa.struct([pa.field(name, pa.float32()) for name in _VAD_FIELDS])),
        pa.field("source", pa.dictionary(pa.int32(), pa.string())),
    ]
)
"""Names and types of the columns, in order."""

_SINCE_VERSION_2: Final = frozenset(("label_set", "people_reason", "source"))


@dataclass(frozen=True)
class Box:
    """Where a person is, in pixels of the upright picture; x1 and y1 lie outside."""

    x0: float
    y0: float
    x1: float
    y1: float
    score: float | None = None


@dataclass(frozen=True)
class Attributes:
    """What a data set tells about a picture besides its emotion (EmoSet's six attributes)."""

    brightness: float | None = None
    """0 (dark) to 1."""
    colorfulness: float | None = None
    """0 (grey) to 1."""
    scene: str | None = None
    facial_expression: str | None = None
    human_action: str | None = None
    objects: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One sample of a manifest."""

    index: int
    """Position in the manifest it was asked of."""
    path: Path
    """The picture; absolute."""
    label: int | None
    split: str
    attributes: Attributes
    boxes: tuple[Box, ...]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known about a data set as a whole; the manifest's metadata."""

    name: str
    """Short name, as in the table of data sets."""
    title: str
    classes: tuple[str, ...]
    """Names of the labels; the i-th is label i."""
    emotion: Emotion | None
    """Whose emotion is labelled; None where it is not known."""
    root: Path
    """Folder that paths are relative to; made absolute."""
    licence: str = ""
    url: str = ""
    citation: str = ""
    layout: str = ""
    """Layout on disk that the rows were read from."""
    labelled_by: str = ""
    """What a label is, where a set has several answers: the searched keyword, the majority of raters, …"""
    split_recipe: str = ""
    """How the splits were made: given, or the recipe with its seed."""
    people_source: str = ""
    """Who found the boxes of people: an annotation, or a detector with its version and settings."""
    vad_range: tuple[float, float] | None = None
    """Ends of the scale of valence, arousal and dominance."""
    version: int = VERSION
    """Version of the manifest's format."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", self.root.absolute())
        if len(set(self.classes)) != len(self.classes):
            raise DataError(f"the classes {', '.join(self.classes)} are not distinct")
        if len(self.classes) > np.iinfo(np.int16).max:
            raise DataError(f"{len(self.classes)} classes are more than a manifest can number")


@dataclass(frozen=True, eq=False)
class Manifest:
    """A table of pictures and the facts about it. Immutable; a selection is a new manifest."""

    table: pa.Table
    """Rows in the columns of `SCHEMA`."""
    facts: Facts

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __reduce__(self) -> tuple[Any, ...]:
        # Workers of a loader get this. IPC writes no more of a sliced buffer than the slice, compressed; the Arrow
        # objects themselves would bring whole buffers, and the caches below as well.
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_stream(sink, self.table.schema, options=options) as writer:
            writer.write_table(self.table)
        return _unpickle, (sink.getvalue().to_pybytes(), self.facts)

    @cached_property
    def _columns(self) -> _Columns:
        return _Columns(self.table)

    def row(self, i: int) -> Row:
        """Build one row.

        Args:
            i: Position, from 0; negative positions count from the end.

        Raises:
            IndexError: There is no such row.
        """
        index = i + len(self) if i < 0 else i
        if not 0 <= index < len(self):
            raise IndexError(f"row {i} of a manifest of {len(self)} rows")
        columns = self._columns
        label = int(columns.labels[index])
        return Row(
            index=index,
            path=self.facts.root / columns.path[index].as_py(),
            label=None if label < 0 else label,
            split=columns.split_names[columns.splits[index]],
            attributes=columns.attributes(index),
            boxes=columns.boxes(index),
        )

    @property
    def labels(self) -> np.ndarray:
        """Labels (N,), int64, read-only; -1 where there is none."""
        return self._columns.labels

    @cached_property
    def label_sets(self) -> np.ndarray:
        """Labels of each row as (N, C) bool, of its set, or its only one where it has no set; read-only."""
        sets = self.table["label_set"].combine_chunks()
        lengths = pc.fill_null(pc.list_value_length(sets), 0).to_numpy()
        found = np.zeros((len(self), len(self.facts.classes)), dtype=bool)
        rows = np.arange(len(self))
        found[np.repeat(rows, lengths), pc.list_flatten(sets).to_numpy()] = True
        own = (self.labels >= 0) & sets.is_null().to_numpy(zero_copy_only=False)
        found[rows[own], self.labels[own]] = True
        found.flags.writeable = False
        return found

    def split_counts(self) -> dict[str, int]:
        """Count the rows of each split: train, val and test first, then others by name."""
        counts = pc.value_counts(pc.cast(self.table["split"], pa.string()))
        found = {entry["values"]: entry["counts"] for entry in counts.to_pylist()}
        return {name: found[name] for name in _order_splits(found)}

    def class_counts(self) -> dict[str, int]:
        """Count the rows of each class, in label order, with 0 for those that do not occur.

        A row that has a set of labels instead of one counts once for each of them.
        """
        labels = self.labels
        sets = self.table["label_set"].filter(pa.array(labels < 0))
        of_sets = pc.list_flatten(sets).drop_null().to_numpy()
        every = np.concatenate([labels[labels >= 0], of_sets.astype(np.int64)])
        counts = np.bincount(every, minlength=len(self.facts.classes))
        return dict(zip(self.facts.classes, counts.tolist(), strict=True))

    @property
    def num_without_people(self) -> int:
        """Rows that have no person box."""
        lengths = pc.fill_null(pc.list_value_length(self.table["people"]), 0)
        return int(pc.sum(pc.equal(lengths, 0)).as_py() or 0)

    def counts(self) -> dict[str, dict[str, int]]:
        """Count split to class to rows; rows without a label, where there are some, have the empty text as class."""
        counts = {}
        for split in self.split_counts():
            rows = self.select([split])
            has_none = pc.and_(rows.table["label"].is_null(), rows.table["label_set"].is_null())
            unlabelled = pc.sum(has_none).as_py()
            counts[split] = rows.class_counts() | ({"": unlabelled} if unlabelled else {})
        return counts

    def source_counts(self) -> dict[str, int]:
        """Count the rows of each data set that was merged into this, in the order of first rows; empty for one set."""
        sources = pc.cast(self.table["source"].drop_null(), pa.string())
        return {entry["values"]: entry["counts"] for entry in pc.value_counts(sources).to_pylist()}

    def select(self, splits: Sequence[str]) -> Manifest:
        """Take the rows of some splits, in the order of the table.

        Raises:
            DataError: A split has no row, or no split is named.
        """
        names = [splits] if isinstance(splits, str) else list(splits)
        counts = self.split_counts()
        missing = [name for name in names if name not in counts]
        if missing or not names:
            have = ", ".join(f"{name} ({count})" for name, count in counts.items()) or "no row"
            what = f"no row in split {', '.join(missing)}" if missing else "no split was named"
            raise DataError(f"the manifest of {self.facts.name}: {what}; it has {have}")
        if set(names) >= set(counts):
            return self
        mask = self._is_in(names)
        first, count = pc.index(mask, True).as_py(), pc.sum(mask).as_py()
        block = mask.slice(first, count)
        # Importers write split after split, so this is the usual case, and a slice copies nothing.
        if pc.all(block).as_py():
            return Manifest(self.table.slice(first, count), self.facts)
        return Manifest(self.table.filter(mask), self.facts)

    def places(self, split: str) -> np.ndarray:
        """Give the positions of a split's rows (N,), int64: those that `select` takes."""
        return np.flatnonzero(self._is_in([split]).to_numpy())

    def _is_in(self, splits: Sequence[str]) -> pa.ChunkedArray:
        return pc.is_in(self.table["split"], value_set=pa.array(splits, pa.string()))


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
    """Make a manifest of columns; all have one entry per sample, and those left out are null.

    Args:
        facts: What is known about the data set.
        paths: POSIX paths relative to `facts.root`.
        splits: Name of each sample's split.
        labels: Label of each sample; None or, in an array, -1 for none.
        label_sets: Labels of each sample of a set that gives several to one.
        attributes: What is known about each picture.
        people: Boxes of the people in each picture; None where nobody looked for them.
        people_reasons: Why nobody could be looked for in a picture.
        widths: Width of each upright picture in pixels.
        heights: Height of each upright picture in pixels.
        hashes: Digest of each file.
        groups: Name of what samples share that must not be torn apart by a split.
        distributions: Share of raters per class.
        vad: Valence, arousal and dominance.

    Raises:
        DataError: Columns differ in length, a label is not in the table of classes, or a path leaves the root.
    """
    count = len(paths)
    arrays = {
        "path": pa.array(paths, pa.string()),
        "split": pa.array(splits, pa.string()).dictionary_encode(),
        "label": _label_array(labels, count),
        "label_set": _array(label_sets, SCHEMA.field("label_set").type, count),
        "width": _array(widths, pa.int32(), count),
        "height": _array(heights, pa.int32(), count),
        "hash": _array(hashes, pa.string(), count),
        "group": _array(groups, pa.string(), count),
        "attributes": _attributes_array(attributes, count),
        "people": _people_array(people, count),
        "people_reason": _array(people_reasons, pa.string(), count),
        "distribution": _array(distributions, SCHEMA.field("distribution").type, count),
        "vad": _vad_array(vad, count),
        "source": pa.nulls(count, SCHEMA.field("source").type),
    }
    for name, array in arrays.items():
        if len(array) != count:
            raise DataError(f"column {name} has {len(array)} entries for {count} paths")
    table = pa.Table.from_arrays([arrays[name] for name in SCHEMA.names], schema=SCHEMA)
    _check_values(table, facts, where="the table")
    return Manifest(table, facts)


def manifest_from_table(facts: Facts, table: pa.Table) -> Manifest:
    """Make a manifest of a table, the rows of train before those of val and test, otherwise in their order.

    Args:
        facts: What is known about the data set.
        table: Rows in the columns of `SCHEMA`, in any number of chunks.

    Raises:
        DataError: A label is not in the table of classes, or a path leaves the root.
    """
    table = _in_one_chunk(table)
    _check_values(table, facts, where="the table")
    split = _single(table["split"])
    rank = {name: place for place, name in enumerate(_order_splits(split.dictionary.to_pylist()))}
    places = np.array([rank[name] for name in split.dictionary.to_pylist()], np.int64)
    places = places[split.indices.to_numpy(zero_copy_only=False)]
    if (places[1:] < places[:-1]).any():
        table = table.take(pa.array(np.argsort(places, kind="stable")))
    return Manifest(_in_one_chunk(table), facts)


def _order_splits(names: Collection[str]) -> list[str]:
    """Put train, val and test first, then others by name."""
    return [
        *(name for name in _SPLIT_ORDER if name in names),
        *sorted(set(names) - set(_SPLIT_ORDER)),
    ]


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write a manifest to a Parquet file, whole or not at all.

    A root at or below the folder of the file is stored relative to it, so that both can be moved together.

    Args:
        manifest: What to write.
        path: The file; its folder must exist. An older file is replaced at the last moment.

    Raises:
        DataError: The file cannot be written, for example on a full disk; an older file is then untouched.
    """
    folder = path.absolute().parent
    metadata = {_METADATA_KEY: json.dumps(_facts_to_dict(manifest.facts, folder)).encode()}
    table = manifest.table.replace_schema_metadata(metadata)
    # In the same folder, since a rename is atomic only within one file system.
    temporary = folder / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        with temporary.open("xb") as file:
            pq.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DataError(
            f"cannot write the manifest {path}: {_reason(error)}; make room or choose another place"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def read_manifest(path: Path, root: Path | None = None, *, check_root: bool = True) -> Manifest:
    """Read a manifest.

    Args:
        path: A file made by `write_manifest`.
        root: Folder of the pictures, where it is not the one that the manifest names.
        check_root: Whether that folder must exist.

    Raises:
        DataError: The file is missing, damaged, no manifest, of a newer version, or contradicts itself; or the folder
            of the pictures is missing.
    """
    if not path.is_file():
        raise DataError(f"no manifest at {path}: make one with `uniemox data prepare`")
    try:
        # Facts first: a newer version is told by its number, not by the column that surprises us.
        with pq.ParquetFile(path) as parquet:
            facts = _facts_from_metadata(parquet.schema_arrow.metadata, path)
            names = [n for n in SCHEMA.names if facts.version > 1 or n not in _SINCE_VERSION_2]
            _check_columns(parquet.schema_arrow, names, path)
            table = parquet.read(columns=names)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read the manifest {path}: {_reason(error)}") from error
    if root is not None:
        facts = replace(facts, root=root)
    if check_root and not facts.root.is_dir():
        raise DataError(
            f"the manifest {path} names the folder {facts.root}, which is not there: put a link there to where the "
            "pictures are, or prepare them again"
        )
    table = _in_one_chunk(table)
    _check_values(table, facts, where=f"the manifest {path}")
    return Manifest(table, facts)


def _in_one_chunk(table: pa.Table) -> pa.Table:
    """Join the chunks of each column, so that a look-up is a plain index, in the order of `SCHEMA`."""
    table = table.unify_dictionaries()
    arrays: list[pa.Array] = []
    for name in SCHEMA.names:
        if name not in table.column_names:
            arrays.append(pa.nulls(len(arrays[0]), SCHEMA.field(name).type))
            continue
        arrays.append(_single(table[name]))
        # Let go of each column once it is copied: two whole tables would be a GB for three million pictures.
        table = table.drop_columns(name)
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


class _Columns:
    """The leaves of a table in the form that is fastest to index: NumPy for numbers, Arrow for words."""

    def __init__(self, table: pa.Table) -> None:
        self.path = _single(table["path"])
        split = _single(table["split"])
        self.split_names: list[str] = split.dictionary.to_pylist()
        self.splits = split.indices.to_numpy(zero_copy_only=False)
        labels = _single(table["label"])
        self.labels: np.ndarray = (
            labels.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
        )
        self.labels.flags.writeable = False
        # flatten() pushes a null struct down into its fields; field() would show what lies under the null.
        attributes = dict(
            zip(
                (*_LIGHT_ATTRIBUTES, *_TEXT_ATTRIBUTES, "objects"),
                _single(table["attributes"]).flatten(),
                strict=True,
            )
        )
        self._light = [_floats(attributes[name]) for name in _LIGHT_ATTRIBUTES]
        self._text = [attributes[name] for name in _TEXT_ATTRIBUTES]
        self._has_text = [_validity(array) for array in self._text]
        self._objects, self._object_ends = _ragged(attributes["objects"])
        boxes, self._box_ends = _ragged(_single(table["people"]))
        self._boxes = np.stack([_floats(leaf) for leaf in boxes.flatten()], axis=1)

    def attributes(self, index: int) -> Attributes:
        brightness, colorfulness = (_number(values[index]) for values in self._light)
        scene, facial_expression, human_action = (
            values[index].as_py() if has[index] else None
            for values, has in zip(self._text, self._has_text, strict=True)
        )
        start, end = self._object_ends[index], self._object_ends[index + 1]
        objects = tuple(self._objects[start:end].to_pylist()) if end > start else ()
        return Attributes(
            brightness=brightness,
            colorfulness=colorfulness,
            scene=scene,
            facial_expression=facial_expression,
            human_action=human_action,
            objects=objects,
        )

    def boxes(self, index: int) -> tuple[Box, ...]:
        numbers = self._boxes[self._box_ends[index] : self._box_ends[index + 1]].tolist()
        return tuple(
            Box(x0, y0, x1, y1, None if math.isnan(score) else score)
            for x0, y0, x1, y1, score in numbers
        )


def _single(column: pa.ChunkedArray) -> pa.Array:
    """Give a column as one array; free where it is one chunk already."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _floats(array: pa.Array) -> np.ndarray:
    """Give numbers as float64 with NaN for null."""
    return cast("np.ndarray", array.cast(pa.float64()).to_numpy(zero_copy_only=False))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _validity(array: pa.Array) -> np.ndarray:
    return cast("np.ndarray", array.is_valid().to_numpy(zero_copy_only=False))


def _ragged(array: pa.ListArray) -> tuple[pa.Array, np.ndarray]:
    """Split a list column into the values of all rows and where each row's values begin, (N + 1,)."""
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    ends = np.zeros(len(array) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    return array.flatten(), ends  # flatten() skips null rows and what lies outside of a slice


def _array(values: Sequence[Any] | None, dtype: pa.DataType, count: int) -> pa.Array:
    return pa.nulls(count, dtype) if values is None else pa.array(values, dtype)


def _label_array(labels: Sequence[int | None] | np.ndarray | None, count: int) -> pa.Array:
    dtype = SCHEMA.field("label").type
    if isinstance(labels, np.ndarray):
        return pa.array(labels, mask=labels < 0).cast(dtype)
    return _array(labels, dtype, count)


def _attributes_array(attributes: Sequence[Attributes | None] | None, count: int) -> pa.Array:
    dtype = SCHEMA.field("attributes").type
    if attributes is None:
        return pa.nulls(count, dtype)
    known = [Attributes() if entry is None else entry for entry in attributes]
    leaves = [
        pa.array([getattr(entry, field.name) or None for entry in known], field.type)
        if field.type != pa.float64()
        else pa.array([getattr(entry, field.name) for entry in known], field.type)
        for field in dtype
    ]
    empty = pa.array([entry == Attributes() for entry in known], pa.bool_())
    return pa.StructArray.from_arrays(leaves, fields=list(dtype), mask=empty)


def _people_array(people: Sequence[Sequence[Box] | None] | None, count: int) -> pa.Array:
    dtype = SCHEMA.field("people").type
    if people is None:
        return pa.nulls(count, dtype)
    boxes = [box for row in people for box in row or ()]
    leaves = [pa.array([getattr(box, name) for box in boxes], pa.float64()) for name in _BOX_FIELDS]
    ends = np.zeros(len(people) + 1, np.int32)
    np.cumsum([len(row or ()) for row in people], out=ends[1:])
    values = pa.StructArray.from_arrays(leaves, fields=list(dtype.value_type))
    unknown = pa.array([row is None for row in people], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(ends), values, type=dtype, mask=unknown)


def _vad_array(
    vad: Sequence[tuple[float | None, float | None, float | None] | None] | None, count: int
) -> pa.Array:
    dtype = SCHEMA.field("vad").type
    if vad is None:
        return pa.nulls(count, dtype)
    entries = [None if row is None else dict(zip(_VAD_FIELDS, row, strict=True)) for row in vad]
    return pa.array(entries, dtype)


def _check_columns(schema: pa.Schema, names: Sequence[str], path: Path) -> None:
    for field in (SCHEMA.field(name) for name in names):
        index = schema.get_field_index(field.name)
        if index < 0:
            raise DataError(f"the manifest {path} has no column {field.name}: prepare it again")
        if schema.field(index).type != field.type:
            raise DataError(
                f"the manifest {path} holds {schema.field(index).type} in column {field.name}, not {field.type}: "
                "prepare it again"
            )


def _check_values(table: pa.Table, facts: Facts, *, where: str) -> None:
    for name in ("path", "split"):
        if table[name].null_count:
            raise DataError(f"{where} has a row without {name}: prepare it again")
    for labels in (table["label"], pc.list_flatten(table["label_set"])):
        _check_labels(labels, facts, where=where)
    # Two plain searches pass nearly every table; the exact test runs on the few rows that they leave.
    paths = table["path"]
    suspects = paths.filter(pc.or_(pc.match_substring(paths, ".."), pc.starts_with(paths, "/")))
    for suspect in suspects.to_pylist():
        pure = PurePosixPath(suspect)
        if pure.is_absolute() or ".." in pure.parts:
            raise DataError(
                f"{where} has the path {suspect}, which leaves the root: prepare it again"
            )


def _check_labels(labels: pa.ChunkedArray, facts: Facts, *, where: str) -> None:
    limits = pc.min_max(labels).as_py()
    if limits["max"] is not None and not 0 <= limits["min"] <= limits["max"] < len(facts.classes):
        wrong = limits["min"] if limits["min"] < 0 else limits["max"]
        raise DataError(
            f"{where} has the label {wrong}, but {facts.name} has {len(facts.classes)} classes, labelled from 0: "
            "prepare it again"
        )


def digest(manifest: Manifest) -> str:
    """SHA-256 of what training reads: classes, paths, splits, labels, attributes and boxes; where they lie is free."""
    hasher = hashlib.sha256(json.dumps(manifest.facts.classes).encode())
    for name in ("path", "split", "label", "attributes", "people"):
        column = manifest.table[name]
        if name == "split":
            column = pc.cast(column, pa.string())
        table = pa.table({name: column}).combine_chunks()
        # A selection is a slice: taking its rows again makes equal contents equal bytes.
        table = table.take(pa.array(np.arange(len(table))))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        hasher.update(sink.getvalue().to_pybytes())
    return str(hasher.hexdigest())


def _facts_to_dict(facts: Facts, folder: Path) -> dict[str, Any]:
    entries = {field.name: getattr(facts, field.name) for field in fields(facts)}
    root = facts.root
    relative = root.relative_to(folder) if root.is_relative_to(folder) else root
    return {**entries, "root": relative.as_posix(), "version": VERSION}


def _facts_from_metadata(metadata: dict[bytes, bytes] | None, path: Path) -> Facts:
    text = (metadata or {}).get(_METADATA_KEY)
    if text is None:
        raise DataError(
            f"{path} is a Parquet file but not a manifest: make one with `uniemox data prepare`"
        )
    try:
        entries = json.loads(text)
        version = int(entries["version"])
        facts = None if version > VERSION else _facts_from_dict(entries, path.absolute().parent)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(
            f"the manifest {path} has damaged facts ({_reason(error)}): prepare it again"
        ) from error
    if facts is None:
        raise DataError(
            f"the manifest {path} is of version {version}, this uniemox reads up to {VERSION}: upgrade uniemox, or "
            "prepare the data again"
        )
    return facts


def _facts_from_dict(entries: dict[str, Any], folder: Path) -> Facts:
    if entries["emotion"] not in (None, *get_args(Emotion)):
        raise ValueError(f"emotion {entries['emotion']}")
    known = {
        field.name: entries[field.name]
        for field in fields(Facts)
        if entries["version"] > 1 or field.name not in _FACTS_SINCE_VERSION_2
    }
    for name, value in known.items():
        if name in _TEXT_FACTS and not isinstance(value, str):
            raise TypeError(f"{name} is not a text")
    classes = entries["classes"]
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise TypeError("classes is not a list of names")
    "".join(classes).encode()  # lone surrogates, which no file can hold, are a ValueError
    known["classes"] = tuple(classes)
    known["root"] = folder / entries["root"]
    if known.get("vad_range") is not None:
        low, high = map(float, known["vad_range"])
        known["vad_range"] = (low, high)
    return Facts(**known)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return " ".join(str(error).split()) or type(error).__name__


def _unpickle(data: bytes, facts: Facts) -> Manifest:
    return Manifest(pa.ipc.open_stream(data).read_all().combine_chunks(), facts)
