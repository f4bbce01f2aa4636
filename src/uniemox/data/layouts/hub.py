"""Folders of Hugging Face `datasets`, read without that library: what it saves, its Parquet shards, and imagefolders.

Three forms, told by their files:

- `dataset_dict.json` or `state.json`: what `save_to_disk` writes, Arrow streams named by the state of each split;
- Parquet files whose names, or folders, say their split: what the hub converts to and stores;
- `metadata.csv`, `.jsonl` or `.parquet` beside the pictures that its column `file_name` names.

Pictures that lie in the tables are written out, to a folder that the caller names.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
import secrets
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pyarrow as pa

from uniemox.data.images import MAX_BYTES, Unreadable, identify
from uniemox.data.layouts.records import Collector, Columns, bind_columns
from uniemox.data.layouts.roots import HUB_FILES, wrong_root
from uniemox.data.layouts.samples import Sample, Samples
from uniemox.data.layouts.tables import batch_records, read_table
from uniemox.data.splits import split_of_word
from uniemox.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from uniemox.data.layouts.tables import Record
    from uniemox.data.layouts.tree import Tree
    from uniemox.data.specs import DatasetSpec

_WORDS: Final = re.compile(r"[A-Za-z]+")
_LEVELS: Final = 3
"""Folders below the root in which shards are looked for: a configuration, a split."""
_SUFFIXES: Final = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WebP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
}


class _Shard(NamedTuple):
    """One file of rows."""

    split: str | None
    path: str
    is_metadata: bool = False
    """Whether it names pictures beside it instead of holding them."""


class _Features(NamedTuple):
    """What the library notes about columns."""

    images: tuple[str, ...] = ()
    labels: Mapping[str, tuple[str, ...]] = {}
    """Columns of one class each, with the names of all classes."""
    label_sets: Mapping[str, tuple[str, ...]] = {}


def read_hub(
    spec: DatasetSpec,
    tree: Tree,
    *,
    columns: Mapping[str, str],
    classes: Sequence[str],
    pictures: Path | None,
) -> Samples:
    """Read the rows of all shards.

    Args:
        spec: What the folder is said to be.
        tree: The folder.
        columns: Role to heading, where headings do not say it.
        classes: In label order; none where the set tells them.
        pictures: Folder to write pictures to that lie in the tables.
    """
    shards = list(_shards(tree))
    if not shards:
        raise wrong_root(spec, tree, f"{', '.join(HUB_FILES)} or Parquet files")
    store = _Store(tree, pictures)
    collector: Collector | None = None
    features = _Features()
    for shard in shards:
        headings, records, schema = _open(tree, shard)
        if collector is None:
            features = _features(tree, shard, schema)
            bound = _bind(headings, columns, features, where=str(tree.root / shard.path))
            classes = classes or _class_names(bound, features)
            collector = Collector(bound, tree.findings, find_picture=store.find)
        store.folder = posixpath.dirname(shard.path) if shard.is_metadata else ""
        for record in records:
            collector.add(record, split=shard.split)
    assert collector is not None
    names, samples = collector.finish(classes)
    if store.written:
        samples = _only_written(samples, store.written, tree)
    if not samples:
        raise wrong_root(spec, tree, "rows with pictures")
    return Samples(
        layout="hub",
        classes=names,
        samples=samples,
        root=pictures if store.written else None,
        labelled_by=spec.labelled_by,
    )


def _only_written(samples: list[Sample], written: set[str], tree: Tree) -> list[Sample]:
    """Leave out pictures beside the tables: a manifest has one root, which is now that of the pictures written out."""
    for sample in samples:
        if sample.path not in written:
            tree.findings.add("picture outside of the tables, left out", sample.path)
    return [sample for sample in samples if sample.path in written]


# --- Shards ----------------------------------------------------------------------------------------------------------


def _shards(tree: Tree) -> Iterator[_Shard]:
    if tree.kind("dataset_dict.json") == "file":
        names = _load(tree, "dataset_dict.json").get("splits")
        for name in names if isinstance(names, list) else tree.folders(""):
            yield from _saved(tree, str(name))
    elif tree.kind("state.json") == "file":
        yield from _saved(tree, "")
    else:
        files = list(_files(tree, "", _LEVELS))
        metadata = [path for path in files if posixpath.basename(path) in HUB_FILES]
        for path in metadata or [path for path in files if path.endswith(".parquet")]:
            yield _Shard(_split_in(path), path, is_metadata=bool(metadata))


def _saved(tree: Tree, folder: str) -> Iterator[_Shard]:
    """Yield the files that the state of a saved split names."""
    state = _load(tree, posixpath.join(folder, "state.json"))
    files = state.get("_data_files")
    if state.get("_indices_data_files") or not isinstance(files, list):
        raise DataError(
            f"{tree.root / folder} was saved by an old version of datasets: load it and save_to_disk it again"
        )
    name = state.get("_split") or folder
    for entry in files:
        file = str(entry.get("filename")) if isinstance(entry, dict) else ""
        path = posixpath.normpath(posixpath.join(folder, file))
        if tree.kind(path) == "file":
            yield _Shard(split_of_word(str(name)) or str(name) or None, path)
        else:
            tree.findings.add("file of rows that is not there", path)


def _files(tree: Tree, folder: str, levels: int) -> Iterator[str]:
    for name, kind in (tree.names(folder) or {}).items():
        path = posixpath.join(folder, name)
        if kind == "file":
            yield path
        elif kind == "folder" and levels:
            yield from _files(tree, path, levels - 1)


def _split_in(path: str) -> str | None:
    """Tell the split of a shard from its name, or else from its folders, the nearest first."""
    for part in reversed(path.split("/")):
        splits = [split for word in _WORDS.findall(part) if (split := split_of_word(word))]
        if splits:
            return splits[0]
    return None


def _load(tree: Tree, path: str) -> dict[str, Any]:
    try:
        if tree.kind(path) != "file":
            raise DataError(f"{tree.root / path} is not there: copy the whole folder")
        found = json.loads((tree.root / path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"cannot read {tree.root / path}: {error}; copy the folder again"
        ) from error
    return found if isinstance(found, dict) else {}


def _open(tree: Tree, shard: _Shard) -> tuple[Sequence[str], Iterable[Record], pa.Schema | None]:
    path = tree.root / shard.path
    if path.suffix != ".arrow":
        table = read_table(path, tree.findings)
        return table.headings, table.records, table.schema
    try:
        # Not mapped into memory: a file that is cut while it is read would end the process.
        file = pa.OSFile(str(path))
        stream = pa.ipc.open_stream(file)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"cannot read {path}: {error}; copy the folder again") from error
    return stream.schema.names, batch_records(stream, shard.path), stream.schema


# --- Columns ---------------------------------------------------------------------------------------------------------


def _features(tree: Tree, shard: _Shard, schema: pa.Schema | None) -> _Features:
    """Read what the library noted about the columns, in the schema or beside the file."""
    noted: Any = None
    try:
        text = ((schema.metadata if schema is not None else None) or {}).get(b"huggingface")
        noted = json.loads(text)["info"]["features"] if text else None
    except (ValueError, KeyError, TypeError, RecursionError):
        tree.findings.add("notes about columns that cannot be read", shard.path)
    beside = posixpath.join(posixpath.dirname(shard.path), "dataset_info.json")
    if noted is None and tree.kind(beside) == "file":
        noted = _load(tree, beside).get("features")
    if not isinstance(noted, dict):
        return _Features(images=_structs_of_bytes(schema))
    images = tuple(name for name, note in noted.items() if _is_image(note))
    labels = {name: names for name, note in noted.items() if (names := _class_label(note))}
    sets = {name: names for name, note in noted.items() if (names := _class_label(_of_items(note)))}
    return _Features(images or _structs_of_bytes(schema), labels, sets)


def _is_image(note: Any) -> bool:
    return isinstance(note, dict) and note.get("_type") == "Image"


def _class_label(note: Any) -> tuple[str, ...]:
    match note:
        case {"_type": "ClassLabel", "names": list(names)}:
            return tuple(map(str, names))
        case _:
            return ()


def _of_items(note: Any) -> Any:
    """Give the note about the items of a column of lists, in the ways of several versions."""
    match note:
        case {"feature": items} | [items]:
            return items
        case _:
            return None


def _structs_of_bytes(schema: pa.Schema | None) -> tuple[str, ...]:
    """Name the columns that have the form of pictures."""
    return tuple(
        field.name
        for field in schema or ()
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
    )


def _bind(
    headings: Sequence[str], given: Mapping[str, str], features: _Features, *, where: str
) -> Columns:
    """Say which column is what: the caller first, then what the library noted, then headings."""
    noted: dict[str, str] = {}
    for role, names in (
        ("path", features.images),
        ("label", tuple(features.labels)),
        ("labels", tuple(features.label_sets)),
    ):
        # Several columns of a kind: a heading that says which is the one decides.
        if len(names) == 1 and names[0] in headings and names[0] not in given.values():
            noted[role] = names[0]
    return bind_columns(headings, {**noted, **given}, where=where)


def _class_names(columns: Columns, features: _Features) -> tuple[str, ...]:
    label, label_set = columns.of.get("label", ""), columns.of.get("labels", "")
    return tuple(features.labels.get(label) or features.label_sets.get(label_set) or ())


# --- Pictures --------------------------------------------------------------------------------------------------------


class _Store:
    """Finds pictures beside the tables, and writes out those that lie in them."""

    def __init__(self, tree: Tree, folder: Path | None) -> None:
        self._tree = tree
        self._pictures = folder
        self.folder = ""
        """Where the table lies that is read now."""
        self.written: set[str] = set()
        if folder is not None and folder.resolve().is_relative_to(tree.root.resolve()):
            raise ConfigError(
                f"--pictures is {folder}, inside of the data set: name a folder elsewhere, nothing is written there"
            )

    def find(self, cell: Any, where: str) -> str | None:
        """Give the path of the picture of a cell: a path, bytes, or a struct of both."""
        match cell:
            case {"bytes": bytes(data)}:
                return self._write(data, where)
            case {"path": str(path)} | str(path):
                inside = self._tree.relative(path)
                return self._tree.listed_picture(posixpath.join(self.folder, inside), where=where)
            case bytes(data):
                return self._write(data, where)
            case _:
                self._tree.findings.add("row without a picture", where)
                return None

    def _write(self, data: bytes, where: str) -> str | None:
        if self._pictures is None:
            raise ConfigError(
                f"the pictures of {self._tree.root} lie in its tables: name a folder to write them to, --pictures DIR"
            )
        kind = identify(data) if len(data) <= MAX_BYTES else Unreadable("too large")
        if isinstance(kind, Unreadable):
            self._tree.findings.add("picture that cannot be read", f"{kind.reason}, {where}")
            return None
        # By content: rows that share a picture are seen to, and what is there already need not be written.
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        name = f"{digest[:2]}/{digest}{_SUFFIXES[kind]}"
        if name not in self.written:
            self.written.add(name)
            _write_whole(self._pictures / name, data)
        return name


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; one of the same length is it already, its name being its content's."""
    if path.is_file() and path.stat().st_size == len(data):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"cannot write {path}: {os.strerror(error.errno or 0)}") from error
