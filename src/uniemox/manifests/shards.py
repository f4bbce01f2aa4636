"""Shards: the images of a manifest in a few tar archives, and a manifest of them that every command takes.

An archive is plain and uncompressed, and follows WebDataset's convention: the members of one image have one name and
are neighbours, `KEY.jpg` (the file's own bytes), `KEY.json` (what its rows hold) and, where it has one row with one
label, `KEY.cls`. Each split has archives of its own, with images in a drawn order, since readers of streams would
otherwise see one class after the other. The manifest keeps the order of its rows, and with it what a seed means.
"""

import io
import json
import math
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from uniemox.errors import DataError
from uniemox.files.archives import SUFFIX, slice_path
from uniemox.files.images import EXTENSIONS, Unreadable, identify, read_file
from uniemox.files.progress import Track, untracked
from uniemox.files.read_ahead import read_ahead
from uniemox.files.whole import check_vacant, replace_folder
from uniemox.manifests.columns import with_column
from uniemox.manifests.findings import Findings, Problem
from uniemox.manifests.table import Manifest, write_manifest

DEFAULT_BYTES: Final = 10**9  # Of a shard; WebDataset advises some hundred megabytes to a gigabyte
_BLOCK: Final = 256  # Images that have Python objects of their rows at once
_AHEAD: Final = 64
_ROOM: Final = 2**28  # Images that are read ahead, and the bytes that they may take
_UNREADABLE: Final = "image that cannot be read; its rows are skipped"


class Sharded(NamedTuple):
    """What was written, and the problems that were met."""

    manifest: Path
    pictures: int
    shards: int
    num_bytes: int  # Of all shards
    problems: tuple[Problem, ...]


def write_shards(
    manifest: Manifest,
    out: Path,
    *,
    shard_bytes: int = DEFAULT_BYTES,
    seed: int = 0,
    num_workers: int = 4,
    strict: bool = False,
    track: Track = untracked,
) -> Sharded:
    """Copy the images of a manifest into shards.

    Args:
        manifest: Rows; an image that several share is stored once for each split.
        out: Folder to write; it appears only when it is whole.
        shard_bytes: Size from which a new shard is started.
        seed: Of the order in the shards.
        num_workers: Threads that read images.
        strict: Whether an image that cannot be read is an error.
        track: Shows how many images are done.

    Raises:
        DataError: The folder is not empty or cannot be written, no image can be read, or one cannot and `strict` is
            on.
    """
    _check_out(out)
    names = _name_archives(manifest)
    root, classes = manifest.facts.root, manifest.facts.classes
    findings = Findings()
    paths: list[str | None] = [None] * len(manifest)
    images = _draw(manifest, seed)
    files = read_ahead(
        _read_image,
        (root / image.path for image in images),
        num_workers=num_workers,
        ahead=_AHEAD,
        size=lambda data: 0 if isinstance(data, Unreadable) else len(data),
        room=_ROOM,
    )
    with (
        replace_folder(out, DataError, elsewhere="choose another `out`") as beside,
        closing(_Writer(beside, names, shard_bytes)) as writer,
        closing(files),
    ):
        samples = zip(images, files, _entries(manifest, images), strict=True)
        for image, data, entries in track(samples, total=len(images), what="images stored"):
            if isinstance(data, Unreadable):
                findings.add(_UNREADABLE, f"{image.path}: {data.reason}")
                continue
            place = writer.add(image.split, _members(image.path, data, entries, classes))
            for row in image.rows:
                paths[row] = place
        writer.close()
        problems = findings.problems()
        if problems and (strict or writer.num_samples == 0):
            advice = "fix them, or omit `strict`" if writer.num_samples else "fix them"
            raise DataError(f"there are problems: {'; '.join(map(str, problems))}; {advice}")
        column = pa.array(paths, pa.string())
        kept = with_column(manifest.table, "path", column).filter(column.is_valid())
        file = f"{_plain(manifest.facts.name)}.parquet"
        write_manifest(Manifest(kept, replace(manifest.facts, root=beside)), beside / file)
    return Sharded(out / file, writer.num_samples, writer.num_shards, writer.num_bytes, problems)


def _check_out(out: Path) -> None:
    """Refuse at once what a finished folder could not replace."""
    check_vacant(out, DataError)
    if out.is_symlink() or out.is_mount() or out.resolve() == Path.cwd():
        raise DataError(
            f"out is {out}, a link, a mount or the working directory, which cannot be replaced: name a folder below it"
        )


def _name_archives(manifest: Manifest) -> dict[str, str]:
    """Name the archives of each split, without their numbers."""
    names = {split: f"{_plain(manifest.facts.name)}-{_plain(split)}" for split in manifest.split_counts()}
    for (split, name), (other, same) in combinations(names.items(), 2):
        if name.casefold() == same.casefold():
            raise DataError(
                f"the splits {split} and {other} would both be stored as {same}: store one after the other with "
                "`split`, each in a folder of its own"
            )
    return names


def _plain(name: str) -> str:
    """Make a short name of a file, without dots, which WebDataset takes for the end of a key."""
    return re.sub(r"[^0-9A-Za-z_]", "-", name)[:80]


class _Image(NamedTuple):
    """One file of one split, with its rows."""

    split: str
    path: str
    rows: list[int]


def _draw(manifest: Manifest, seed: int) -> list[_Image]:
    """List the images of each split in a drawn order."""
    found: dict[tuple[str, str], list[int]] = {}
    keys = zip(manifest.table["split"].to_pylist(), manifest.table["path"].to_pylist(), strict=True)
    for row, key in enumerate(keys):
        found.setdefault(key, []).append(row)
    generator = np.random.default_rng(seed)
    drawn: list[_Image] = []
    for split in manifest.split_counts():
        own = [_Image(*key, rows) for key, rows in found.items() if key[0] == split]
        drawn += [own[place] for place in generator.permutation(len(own))]
    return drawn


def _read_image(path: Path) -> bytes | Unreadable:
    """Read the bytes of a file that starts as an image does; it is not decoded."""
    data = read_file(path)
    kind = data if isinstance(data, Unreadable) else identify(data)
    return kind if isinstance(kind, Unreadable) else data


def _entries(manifest: Manifest, images: Sequence[_Image]) -> Iterator[list[dict[str, Any]]]:
    """Yield the columns of each row of each image, which become Python objects block by block."""
    for start in range(0, len(images), _BLOCK):
        block = images[start : start + _BLOCK]
        rows = [row for image in block for row in image.rows]
        entries = iter(manifest.table.take(pa.array(rows, pa.int64())).to_pylist())
        for image in block:
            yield [next(entries) for _ in image.rows]


def _members(path: str, data: bytes, entries: Sequence[dict[str, Any]], classes: Sequence[str]) -> dict[str, bytes]:
    """Make what is stored of one image, by its ending."""
    ending = PurePosixPath(path).suffix.lower()
    if ending not in EXTENSIONS:
        ending = f".{str(identify(data)).lower()}"
    record = {"path": path, "rows": [_name_labels(entry, classes) for entry in entries]}
    members = {ending: data, ".json": json.dumps(record, ensure_ascii=False, allow_nan=False).encode()}
    if len(entries) == 1 and entries[0]["label"] is not None and entries[0]["label_set"] is None:
        members[".cls"] = str(entries[0]["label"]).encode()
    return members


def _name_labels(entry: dict[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Describe a row with the names of its labels; what is null is omitted."""
    rest = {name: value for name, value in entry.items() if name not in ("path", "label", "label_set", "distribution")}
    named: dict[str, Any] = {}
    if entry["label"] is not None:
        named["label"] = classes[entry["label"]]
    if entry["label_set"] is not None:
        named["labels"] = [classes[label] for label in entry["label_set"]]
    if entry["distribution"] is not None:
        named["distribution"] = dict(zip(classes, _known(entry["distribution"]), strict=True))
    return {**named, **_known(rest)}


def _known(value: Any) -> Any:
    """Make what JSON has no number for null, and drop what is null in a dictionary, at any depth."""
    match value:
        case dict():
            parts = {name: _known(part) for name, part in value.items()}
            return {name: part for name, part in parts.items() if part is not None}
        case float() if not math.isfinite(value):
            return None
        case list():
            return [_known(part) for part in value]
        case _:
            return value


@dataclass
class _Writer:
    """Writes archives one after the other."""

    folder: Path
    names: Mapping[str, str]  # Of each split's archives
    shard_bytes: int
    num_samples: int = 0
    num_shards: int = 0
    num_bytes: int = 0
    _archive: tarfile.TarFile | None = None
    _split: str = ""
    _number: int = 0

    def add(self, split: str, members: dict[str, bytes]) -> str:
        """Store one sample, and return the path of its first member."""
        archive = self._archive_for(split)
        place = ""
        for ending, data in members.items():
            member = tarfile.TarInfo(f"{self.num_samples:08d}{ending}")
            member.size, member.mode, member.mtime = len(data), 0o644, 0
            start = archive.offset + tarfile.BLOCKSIZE
            place = place or slice_path(Path(str(archive.name)).name, start, len(data), member.name)
            archive.addfile(member, io.BytesIO(data))
        self.num_samples += 1
        return place

    def close(self) -> None:
        """Finish the archive that is open, if one is."""
        if self._archive is not None:
            self._archive.close()
            self.num_bytes += Path(str(self._archive.name)).stat().st_size
            self._archive = None

    def _archive_for(self, split: str) -> tarfile.TarFile:
        full = self._archive is not None and self._archive.offset >= self.shard_bytes
        if self._archive is None or full or split != self._split:
            self.close()
            self._number = self._number + 1 if split == self._split else 0
            self._split = split
            self.num_shards += 1
            path = self.folder / f"{self.names[split]}-{self._number:06d}{SUFFIX}"
            self._archive = tarfile.open(path, "x:", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        return self._archive
