"""Shards: the pictures of a manifest in a few tar archives, and a manifest of them that every command takes.

An archive is plain and uncompressed, and follows WebDataset's convention: the members of one picture have one name and
stand side by side, `KEY.jpg` (the file's own bytes), `KEY.json` (what its rows say) and, where it has one row with one
label, `KEY.cls`. Each split has archives of its own, in which pictures stand in a drawn order, since readers of streams
would else see one class after the other. The manifest keeps the order of its rows, and with it what a seed means.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import tempfile
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from uniemox.data.archives import SUFFIX, slice_path
from uniemox.data.findings import Findings
from uniemox.data.images import EXTENSIONS, Unreadable, identify, read_file
from uniemox.data.likeness import untracked
from uniemox.data.lookahead import read_ahead
from uniemox.data.manifest import SCHEMA, Manifest, write_manifest
from uniemox.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from uniemox.data.findings import Problem
    from uniemox.data.likeness import Track

DEFAULT_BYTES: Final = 10**9
"""Of a shard; what WebDataset's documentation advises, some hundred megabytes to a gigabyte."""
_BLOCK: Final = 256
"""Pictures whose rows are Python objects at once."""
_AHEAD: Final = 64
_ROOM: Final = 2**28
"""Pictures that are read ahead, and the bytes that they may take."""
_SAID_ELSEWHERE: Final = frozenset(("path", "label", "label_set", "distribution"))
UNREADABLE: Final = "picture that cannot be read; its rows are left out"


class Sharded(NamedTuple):
    """What was written, and what was wrong."""

    manifest: Path
    pictures: int
    shards: int
    num_bytes: int
    """Of all shards."""
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
    """Copy the pictures of a manifest into shards.

    Args:
        manifest: Rows; a picture that several share is stored once for each split.
        out: Folder to write; it is there only when it is whole.
        shard_bytes: Size from which a new shard is begun.
        seed: Of the order in the shards.
        num_workers: Threads that read pictures.
        strict: Whether a picture that cannot be read is an error.
        track: Shows how many pictures are done.

    Raises:
        DataError: The folder is not empty or cannot be written, no picture can be read, or one cannot and `strict` is
            on.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is not empty: choose another --out")
    findings = Findings()
    with (
        _whole_or_not(out) as beside,
        closing(_Writer(beside, manifest.facts.name, shard_bytes)) as writer,
    ):
        paths: list[str | None] = [None] * len(manifest)
        pictures = list(_drawn(manifest, seed))
        for sample in track(
            _read(manifest, pictures, num_workers=num_workers),
            total=len(pictures),
            what="pictures stored",
        ):
            if isinstance(sample.data, Unreadable):
                findings.add(UNREADABLE, f"{sample.path}: {sample.data.reason}")
                continue
            place = writer.add(sample.split, sample.members(manifest.facts.classes))
            for row in sample.rows:
                paths[row] = place
        writer.close()
        problems = findings.problems()
        if problems and (strict or writer.num_samples == 0):
            raise DataError(
                f"there are problems: {'; '.join(map(str, problems))}; mend them"
                f"{', or leave out --strict' if writer.num_samples else ''}"
            )
        name = f"{_plain(manifest.facts.name)}.parquet"
        write_manifest(_with_paths(manifest, paths, root=beside), beside / name)
    return Sharded(out / name, writer.num_samples, writer.num_shards, writer.num_bytes, problems)


def _plain(name: str) -> str:
    """Make a data set's name one of a file, without dots, which WebDataset takes for the end of a key."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)


def _with_paths(manifest: Manifest, paths: Sequence[str | None], *, root: Path) -> Manifest:
    column = pa.array(paths, pa.string())
    table = manifest.table.set_column(SCHEMA.get_field_index("path"), SCHEMA.field("path"), column)
    kept = table.filter(column.is_valid())
    return Manifest(kept, replace(manifest.facts, root=root))


# What goes into a shard


class _Picture(NamedTuple):
    """One file of one split, with its rows."""

    split: str
    path: str
    rows: list[int]


@dataclass(frozen=True)
class _Sample:
    """A picture that was read."""

    split: str
    path: str
    rows: Sequence[int]
    data: bytes | Unreadable
    said: Sequence[dict[str, Any]]
    """The columns of each row."""

    def members(self, classes: Sequence[str]) -> dict[str, bytes]:
        """Give what is stored, by its ending."""
        assert isinstance(self.data, bytes)
        told = {"path": self.path, "rows": [_tell(row, classes) for row in self.said]}
        members = {
            _ending(self.path, self.data): self.data,
            ".json": json.dumps(told, ensure_ascii=False).encode(),
        }
        first = self.said[0]
        if len(self.said) == 1 and first["label"] is not None and first["label_set"] is None:
            members[".cls"] = str(first["label"]).encode()
        return members


def _ending(path: str, data: bytes) -> str:
    ending = PurePosixPath(path).suffix.lower()
    return ending if ending in EXTENSIONS else f".{str(identify(data)).lower()}"


def _tell(row: dict[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Say what a row says, in names; nothing is null."""
    told: dict[str, Any] = {}
    if row["label"] is not None:
        told["label"] = classes[row["label"]]
    if row["label_set"] is not None:
        told["labels"] = [classes[label] for label in row["label_set"]]
    if row["distribution"] is not None:
        told["distribution"] = dict(zip(classes, row["distribution"], strict=True))
    rest = {name: _known(value) for name, value in row.items() if name not in _SAID_ELSEWHERE}
    return told | {name: value for name, value in rest.items() if value is not None}


def _known(value: Any) -> Any:
    """Leave out what is null in a struct or in a list of them."""
    match value:
        case dict():
            return {name: part for name, part in value.items() if part is not None}
        case list():
            return [_known(part) for part in value]
        case _:
            return value


def _drawn(manifest: Manifest, seed: int) -> Iterator[_Picture]:
    """Give the pictures of each split in a drawn order."""
    names = manifest.table["split"].to_pylist()
    paths = manifest.table["path"].to_pylist()
    found: dict[tuple[str, str], list[int]] = {}
    for row, key in enumerate(zip(names, paths, strict=True)):
        found.setdefault(key, []).append(row)
    generator = np.random.default_rng(seed)
    for split in manifest.split_counts():
        own = [_Picture(*key, rows) for key, rows in found.items() if key[0] == split]
        for place in generator.permutation(len(own)):
            yield own[place]


def _read(
    manifest: Manifest, pictures: Sequence[_Picture], *, num_workers: int
) -> Iterator[_Sample]:
    """Read pictures in their order; their rows become Python objects block by block."""
    root = manifest.facts.root
    found = read_ahead(
        _read_picture,
        (root / picture.path for picture in pictures),
        num_workers=num_workers,
        ahead=_AHEAD,
        size=_num_bytes,
        room=_ROOM,
    )
    with closing(found):
        for start in range(0, len(pictures), _BLOCK):
            block = pictures[start : start + _BLOCK]
            rows = [row for picture in block for row in picture.rows]
            said = iter(manifest.table.take(pa.array(rows, pa.int64())).to_pylist())
            for picture, data in zip(block, found, strict=False):  # asks `found` for no more
                own = [next(said) for _ in picture.rows]
                yield _Sample(picture.split, picture.path, picture.rows, data, own)


def _num_bytes(data: bytes | Unreadable) -> int:
    return 0 if isinstance(data, Unreadable) else len(data)


def _read_picture(path: Path) -> bytes | Unreadable:
    """Read the bytes of a file that begins as a picture does; it is not decoded."""
    data = read_file(path)
    kind = data if isinstance(data, Unreadable) else identify(data)
    return kind if isinstance(kind, Unreadable) else data


# Archives


@dataclass
class _Writer:
    """Writes archives one after the other."""

    folder: Path
    name: str
    shard_bytes: int
    num_samples: int = 0
    num_shards: int = 0
    num_bytes: int = 0
    _archive: tarfile.TarFile | None = None
    _split: str = ""
    _number: int = field(default=0)

    def add(self, split: str, members: dict[str, bytes]) -> str:
        """Store one sample, and give the path of its first member."""
        archive = self._archive_for(split)
        key = f"{self.num_samples:08d}"
        place = ""
        for ending, data in members.items():
            member = tarfile.TarInfo(f"{key}{ending}")
            member.size, member.mode, member.mtime = len(data), 0o644, 0
            place = place or slice_path(
                Path(str(archive.name)).name,
                archive.offset + tarfile.BLOCKSIZE,
                len(data),
                member.name,
            )
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
            name = f"{_plain(self.name)}-{_plain(split)}-{self._number:06d}{SUFFIX}"
            self._archive = tarfile.open(  # noqa: SIM115
                self.folder / name, "x:", format=tarfile.USTAR_FORMAT
            )
        return self._archive


@contextmanager
def _whole_or_not(out: Path) -> Iterator[Path]:
    """Write a folder beside its place, and put it there when it is whole."""
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.absolute().parent))
        try:
            yield beside
            beside.chmod(0o755)
            beside.replace(out)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"cannot write to {out} ({error}): make room or choose another --out"
        ) from error
