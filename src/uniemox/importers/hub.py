"""Folders of Hugging Face `datasets`, read without that library: what it saves, its Parquet shards, and imagefolders.

Three forms, recognised by their files:

- `dataset_dict.json` or `state.json`: what `save_to_disk` writes, Arrow streams named by the state of each split;
- Parquet files with their split in their name or folder: what the hub converts to and stores;
- `metadata.csv`, `.jsonl` or `.parquet` beside the images that its column `file_name` names.

Images that lie in the tables are written to a folder that the caller names.
"""

import hashlib
import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from uniemox.errors import ConfigError, DataError
from uniemox.files.images import MAX_BYTES, OTHER_EXTENSIONS, Unreadable, identify
from uniemox.files.whole import write_whole
from uniemox.importers.records import Collector, Source, bind_columns, find_labels, find_more
from uniemox.importers.roots import HUB_FILES, wrong_root
from uniemox.importers.samples import Samples
from uniemox.importers.specs import DatasetSpec
from uniemox.importers.tables import Table, load_json, read_table
from uniemox.importers.tree import Tree
from uniemox.manifests.splits import split_of_word
from uniemox.manifests.table import is_manifest

_WORDS: Final = re.compile(r"[A-Za-z]+")
_LEVELS: Final = 3  # Folders below the root in which shards are looked for: a configuration, a split
_SUFFIXES: Final = {"JPEG": ".jpg", "PNG": ".png", "WebP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif"} | {
    name: suffix for suffix, name in reversed(OTHER_EXTENSIONS.items())
}
_Shard = tuple[str | None, str]  # Split and path of one file of rows


def read_hub(spec: DatasetSpec, tree: Tree, *, columns: Mapping[str, str], images: Path | None) -> Samples:
    """Read the rows of all shards; `images` is the folder to write images to that lie in the tables."""
    shards = list(_shards(tree))
    if not shards:
        raise wrong_root(spec, tree, f"{', '.join(HUB_FILES)} or Parquet files")
    store = _Store(tree, images)
    collector = Collector(tree.findings, find_image=store.find)
    for split, path in shards:
        table = read_table(tree.root / path, tree.findings)
        rows = _bind(tree, path, table, columns)
        store.folder = posixpath.dirname(path) if posixpath.basename(path) in HUB_FILES else ""
        for record in table.records:
            collector.add(record, rows, split=split)
    found = _with_splits_of_folders(collector.finish(spec.classes))
    if not store.written:
        return found
    for sample in found.samples:
        if sample.path not in store.written:
            tree.findings.add("image outside of the tables, skipped", sample.path)
    # A manifest has one root, which is now that of the images written out.
    return replace(found, samples=[sample for sample in found.samples if sample.path in store.written], root=images)


def _with_splits_of_folders(found: Samples) -> Samples:
    """Take the splits from the first folder of each path, where one list at the root names the images of all."""
    splits = [split_of_word(sample.path.partition("/")[0]) for sample in found.samples]
    if any(sample.split for sample in found.samples) or not all(splits):
        return found
    pairs = zip(found.samples, splits, strict=True)
    return replace(found, samples=[sample._replace(split=split) for sample, split in pairs])


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
        tables = (path for path in files if path.endswith(".parquet"))
        for path in metadata or (path for path in tables if not is_manifest(tree.root / path)):
            # The split is in its name, or else in its folders, the nearest first.
            words = (word for part in reversed(path.split("/")) for word in _WORDS.findall(part))
            yield next(filter(None, map(split_of_word, words)), None), path


def _saved(tree: Tree, folder: str) -> Iterator[_Shard]:
    """Yield the files that the state of a saved split names."""
    state = _load(tree, posixpath.join(folder, "state.json"))
    files = state.get("_data_files")
    if state.get("_indices_data_files") or not isinstance(files, list):
        raise DataError(
            f"{tree.root / folder} was saved by an old version of datasets: load it and save_to_disk it again"
        )
    name = str(state.get("_split") or folder)
    for entry in files:
        file = str(entry.get("filename")) if isinstance(entry, dict) else ""
        path = posixpath.normpath(posixpath.join(folder, file))
        if tree.kind(path) == "file":
            yield split_of_word(name) or name or None, path
        else:
            tree.findings.add("file of rows that does not exist", path)


def _files(tree: Tree, folder: str, levels: int) -> Iterator[str]:
    for name, kind in (tree.names(folder) or {}).items():
        path = posixpath.join(folder, name)
        if kind == "file":
            yield path
        elif kind == "folder" and levels:
            yield from _files(tree, path, levels - 1)


def _load(tree: Tree, path: str) -> dict[str, Any]:
    if tree.kind(path) != "file":
        raise DataError(f"{tree.root / path} does not exist: copy the whole folder")
    found = load_json(tree.root / path)
    return found if isinstance(found, dict) else {}


def _bind(tree: Tree, path: str, table: Table, given: Mapping[str, str]) -> Source:
    """Find which column is what, and the classes that the library noted; of this file alone.

    The caller decides first, then the library's notes, then headings.
    """
    notes = _notes(tree, path, table.schema)
    images = [name for name, note in notes.items() if isinstance(note, dict) and note.get("_type") == "Image"]
    labels: dict[str, tuple[str, ...]] = {}
    label_sets: dict[str, tuple[str, ...]] = {}
    for name, note in notes.items():
        match note:
            case {"_type": "ClassLabel", "names": list(names)}:
                labels[name] = tuple(map(str, names))
            # The items of a column of lists, in the ways of several versions.
            case {"feature": {"_type": "ClassLabel", "names": list(names)}}:
                label_sets[name] = tuple(map(str, names))
            case [{"_type": "ClassLabel", "names": list(names)}]:
                label_sets[name] = tuple(map(str, names))
    if not images:  # structs of bytes have the form of images
        structs = [field for field in table.schema or () if pa.types.is_struct(field.type)]
        images = [field.name for field in structs if field.type.get_field_index("bytes") >= 0]
    noted: dict[str, str] = {}
    for role, known in (("path", images), ("label", list(labels)), ("labels", list(label_sets))):
        # Among several columns of a kind, the heading decides.
        if len(known) == 1 and known[0] in table.headings and known[0] not in given.values():
            noted[role] = known[0]
    columns = bind_columns(table.headings, {**noted, **given}, where=str(tree.root / path))
    find_labels(table, columns, tree.findings, noted=[*labels, *label_sets], where=path)
    find_more(table, columns, tree.findings)
    label, label_set = (columns.get(role, [""])[0] for role in ("label", "labels"))
    classes = labels.get(label) or label_sets.get(label_set) or label_sets.get(label) or labels.get(label_set) or ()
    return Source(columns, classes, table.has_decimal_comma)


def _notes(tree: Tree, path: str, schema: pa.Schema | None) -> dict[str, Any]:
    """Read what the library noted about the columns, in the schema or beside the file."""
    noted: Any = None
    try:
        text = ((schema.metadata if schema is not None else None) or {}).get(b"huggingface")
        noted = json.loads(text)["info"]["features"] if text else None
    except (ValueError, KeyError, TypeError, RecursionError):
        tree.findings.add("notes about columns that cannot be read", path)
    beside = posixpath.join(posixpath.dirname(path), "dataset_info.json")
    if noted is None and tree.kind(beside) == "file":
        noted = _load(tree, beside).get("features")
    return noted if isinstance(noted, dict) else {}


class _Store:
    """Finds images beside the tables, and writes out those that lie in them."""

    def __init__(self, tree: Tree, images: Path | None) -> None:
        self._tree = tree
        self._images = images
        self.folder = ""
        """Folder of the table that is read now."""
        self.written: set[str] = set()
        if images is not None and images.resolve().is_relative_to(tree.root.resolve()):
            raise ConfigError(
                f"`pictures` is {images}, inside of the data set: name a folder elsewhere, nothing is written there"
            )

    def find(self, cell: Any, where: str) -> str | None:
        """Return the path of the image of a cell: a path, bytes, or a struct of both."""
        match cell:
            case {"bytes": bytes(data)} | bytes(data):
                return self._write(data, where)
            case {"path": str(path)} | str(path):
                inside = self._tree.relative(path)
                return self._tree.listed_image(posixpath.join(self.folder, inside), where=where)
            case _:
                self._tree.findings.add("row without an image", where)
                return None

    def _write(self, data: bytes, where: str) -> str | None:
        if self._images is None:
            raise ConfigError(
                f"the images of {self._tree.root} lie in its tables: name a folder to write them to, `pictures`"
            )
        kind = identify(data) if len(data) <= MAX_BYTES else Unreadable("too large")
        if isinstance(kind, Unreadable):
            self._tree.findings.add("image that cannot be read", f"{kind.reason}, {where}")
            return None
        # By content: rows that share an image are seen to, and what already exists need not be written.
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        name = f"{digest[:2]}/{digest}{_SUFFIXES[kind]}"
        file = self._images / name
        if name not in self.written and not (file.is_file() and file.stat().st_size == len(data)):
            with write_whole(file, DataError) as beside:
                beside.write_bytes(data)
        self.written.add(name)
        return name
