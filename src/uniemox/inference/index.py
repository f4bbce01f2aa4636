"""An index of images: what a model answered and found in each of them, computed once, found again by path.

`index.json` names the model. A part is a table, `part-00000.parquet` (path, size, time of change, answer), and beside
it `part-00000.safetensors`, the features in fp16, of length 1, which are read block by block and never whole. Parts are
small while images are indexed, so that an interruption loses little, and are merged afterwards. What is in the folder
may be a stranger's: nothing that it names is opened.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from uniemox.errors import CheckpointError, ConfigError, DataError
from uniemox.files.json_file import read_json
from uniemox.files.locking import locked
from uniemox.files.parquet import open_parquet, read_columns
from uniemox.files.whole import is_unfinished, write_whole
from uniemox.files.writing import explain_failure
from uniemox.targets.columns import Column
from uniemox.validation import validate
from uniemox.wording import counted, reason_of

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Rows = npt.NDArray[np.int64]

_FORMAT: Final = 1
_HEAD, _LOCK = "index.json", "lock"
_OURS: Final = re.compile(r"(index\.json|lock|part-\d{5,9}\.(parquet|safetensors))")
_PART: Final = re.compile(r"part-(\d{5,9})\.parquet")
_KEY: Final = "features"
_AGAIN: Final = "make it again with `reindex`"
_LARGE: Final = 65_536  # Rows from which a part is not merged any more: 64 MB of features at a width of 512
_MOST_SMALL: Final = 16  # Smaller parts that may stay as they are
_PATIENCE: Final = 60.0  # Seconds that another search is waited for
_BLOCK: Final = 1024  # Features in memory at once, which fit into a processor's cache
_LARGEST_COSINE: Final = 1.01  # Of features of length 1, rounded to fp16
_MAX_ROWS: Final = 2**21  # Of a part that anybody may have written
_SEPARATOR: Final = os.fsencode(os.sep)
_STAMPS: Final = ("path", "size", "modified")


class Stamp(NamedTuple):
    """By what a file is known again, beside its path."""

    size: int  # Bytes
    modified: int  # Nanoseconds since 1970


class Place(NamedTuple):
    """Where an image is in an index, and how it scored."""

    part: int
    row: int
    score: float


@dataclass(frozen=True, kw_only=True)
class IndexedModel:
    """The model of an index."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    format: int = _FORMAT
    name: str  # As the user called it
    digest: str
    precision: str
    width: int  # D of its features; 0 where none can be had


class _Part:
    """A part whose table and features were found to fit."""

    def __init__(self, path: Path, schema: pa.Schema, width: int) -> None:
        self.path, self.width = path, width
        with open_parquet(path, then=f"; {_AGAIN}") as file:
            self.count = file.metadata.num_rows
            if not file.schema_arrow.equals(schema) or not 0 < self.count <= _MAX_ROWS:
                raise DataError(f"{path} is not part of this index")
        if width:
            with self._tensors() as tensors:
                found = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
                stated = {name: (one.get_dtype(), tuple(one.get_shape())) for name, one in found.items()}
                if stated != {_KEY: ("F16", (self.count, width))}:
                    raise DataError(f"{self.features_path} does not fit its table")

    @property
    def features_path(self) -> Path:
        return self.path.with_suffix(".safetensors")

    def read(self, names: Sequence[str]) -> pa.Table:
        with open_parquet(self.path, then=f"; {_AGAIN}") as file:
            return read_columns(file, names, self.path)

    @cached_property
    def _stamps(self) -> pa.Table:
        return self.read(_STAMPS)

    def paths(self) -> list[bytes]:
        """List the paths of its rows, in order."""
        found: list[bytes] = self._stamps["path"].to_pylist()
        return found

    def stamps(self) -> Iterator[tuple[bytes, tuple[int, int]]]:
        """Yield the paths of its rows, in order, with size and time; as tuples, since there may be a million."""
        sizes, times = (self._stamps[name].to_pylist() for name in ("size", "modified"))
        return zip(self.paths(), zip(sizes, times, strict=True), strict=True)

    def features(self, rows: Rows) -> Iterator[tuple[Rows, Halves]]:
        """Yield features (B, D) of some rows, ascending, a block at a time."""
        with self._tensors() as tensors:
            stored = tensors.get_slice(_KEY)
            for start in range(0, self.count, _BLOCK):
                first, last = np.searchsorted(rows, (start, start + _BLOCK))
                if first == last:
                    continue
                block, wanted = stored[start : min(start + _BLOCK, self.count)], rows[first:last]
                yield wanted, block if len(wanted) == len(block) else block[wanted - start]

    @contextmanager
    def _tensors(self) -> Iterator[Any]:
        if not self.features_path.is_file():
            raise DataError(f"no file at {self.features_path}: {_AGAIN}")
        try:
            with safe_open(self.features_path, framework="numpy") as tensors:
                yield tensors
        except (OSError, SafetensorError) as error:
            raise DataError(f"{self.features_path} cannot be read ({reason_of(error)}): {_AGAIN}") from error


class Index:
    """The images that a model has seen; made by `open_index`, which holds it for one run."""

    def __init__(self, folder: Path, model: IndexedModel, columns: Sequence[Column]) -> None:
        self.folder, self.model = folder, model
        self.answers = tuple(column.name for column in columns)
        stamps = [("path", pa.binary()), ("size", pa.int64()), ("modified", pa.int64())]
        self._schema = pa.schema([*stamps, *((column.name, column.arrow) for column in columns)])
        self._parts: dict[int, _Part] = {}
        self._rows: dict[int, Rows] = {}  # Of the images that are searched
        self.num_added = 0
        """Images that this run has stored."""
        self._load()

    def __len__(self) -> int:
        """How many images are searched, after `choose`."""
        return sum(map(len, self._rows.values()))

    def refresh(self, files: Mapping[bytes, Stamp], folders: Collection[bytes]) -> list[bytes]:
        """Forget what has changed or is gone; return the files that must be read, in their order.

        Args:
            files: All images of the folders, by their absolute paths.
            folders: Absolute paths; what the index has from elsewhere stays as it is.
        """
        below = tuple(folder.rstrip(_SEPARATOR) + _SEPARATOR for folder in folders)
        fresh, stale = set[bytes](), dict[int, npt.NDArray[np.bool]]()
        for number, part in sorted(self._parts.items(), reverse=True):  # of two rows of a path, the later one is right
            keep = np.ones(part.count, np.bool)
            for row, (path, stamp) in enumerate(part.stamps()):
                known = files.get(path)
                keep[row] = path not in fresh and (known == stamp if known else not path.startswith(below))
                fresh.add(path) if keep[row] else None
            if not keep.all():
                stale[number] = keep
        self._merge(stale)
        return [path for path in files if path not in fresh]

    def add(self, files: Mapping[bytes, Stamp], answers: Iterable[Mapping[str, Any]], features: Floats) -> None:
        """Store a part: files with their answers, by the names of columns, and features (N, D), of any length."""
        rows = [
            {"path": path, **stamp._asdict(), **{name: answer.get(name) for name in self.answers}}
            for (path, stamp), answer in zip(files.items(), answers, strict=True)
        ]
        if rows:
            wide = np.nan_to_num(features.astype(np.float64), nan=0, posinf=0, neginf=0)
            units = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
            self._write(pa.Table.from_pylist(rows, schema=self._schema), units.astype(np.float16))
            self.num_added += len(rows)

    def tidy(self) -> None:
        """Merge parts that are small, if there are many."""
        small = {number: part for number, part in self._parts.items() if part.count < _LARGE}
        if len(small) > _MOST_SMALL:
            self._merge({number: np.ones(part.count, np.bool) for number, part in small.items()})

    def choose(self, files: Collection[bytes]) -> None:
        """Let searches be about these files."""
        self._rows = {
            number: np.flatnonzero(np.fromiter((path in files for path in part.paths()), np.bool))
            for number, part in sorted(self._parts.items())
        }

    def nearest(self, query: Floats, count: int) -> list[Place]:
        """Find the images whose features are nearest to a query (D,) of length 1 by cosine, the nearest first."""
        num_damaged = 0

        def scored() -> Iterator[tuple[int, Rows, Floats]]:
            nonlocal num_damaged
            for number, chosen in self._rows.items():
                for rows, features in self._parts[number].features(chosen):
                    scores = _cosines(features, query)
                    is_cosine = np.abs(scores) < _LARGEST_COSINE
                    num_damaged += len(rows) - int(is_cosine.sum())
                    yield number, rows, np.where(is_cosine, scores, 0)

        found = _merge_best(scored(), count)
        if num_damaged:
            text = "features of %s in the index %s are no numbers, and score 0: %s"
            log.warning(text, counted(num_damaged, "image"), self.folder, _AGAIN)
        return found

    def highest(self, column: str, count: int) -> list[Place]:
        """Find the images with the highest numbers in a column of the answers, the highest first."""

        def scored() -> Iterator[tuple[int, Rows, Floats]]:
            for number, rows in self._rows.items():
                values = self._parts[number].read([column])[column].to_numpy(zero_copy_only=False)
                yield number, rows, values[rows].astype(np.float64)

        return _merge_best(scored(), count)

    def read(self, places: Sequence[Place]) -> list[tuple[bytes, dict[str, Any]]]:
        """Read the paths of images, and their answers by the names of columns."""
        found: dict[Place, tuple[bytes, dict[str, Any]]] = {}
        for number in {place.part for place in places}:
            own = [place for place in places if place.part == number]
            table = self._parts[number].read(["path", *self.answers]).take([place.row for place in own])
            for place, row in zip(own, table.to_pylist(), strict=True):
                found[place] = row.pop("path"), row
        return [found[place] for place in places]

    def _load(self) -> None:
        """Find the parts; what is damaged or half written is dropped, so that its images are read again."""
        damaged = []
        for path in sorted(self.folder.iterdir()):
            named = _PART.fullmatch(path.name)
            if named is None:
                continue
            try:
                part = _Part(path, self._schema, self.model.width)
                part.paths()
            except DataError as error:
                damaged.append(error)
                continue
            self._parts[int(named[1])] = part
        if damaged:
            what = counted(len(damaged), "part")
            log.warning(
                "%s of the index %s cannot be used: their images are read again (%s)", what, self.folder, damaged[0]
            )
        kept = {file for part in self._parts.values() for file in (part.path, part.features_path)}
        for path in self.folder.iterdir():
            if is_unfinished(path) or (path.name not in (_HEAD, _LOCK) and path not in kept):
                path.unlink(missing_ok=True)

    def _merge(self, chosen: Mapping[int, npt.NDArray[np.bool]]) -> None:
        """Replace parts by one or more that hold only what is kept of them."""
        held: list[tuple[pa.Table, Halves]] = []
        for number, keep in sorted(chosen.items()):
            part, rows = self._parts[number], np.flatnonzero(keep)
            if len(rows):
                blocks = [block for _, block in part.features(rows)] if part.width else []
                features = np.concatenate(blocks) if blocks else np.empty((len(rows), 0), np.float16)
                held.append((part.read(self._schema.names).take(rows), features))
            if sum(len(table) for table, _ in held) >= _LARGE:
                self._write_held(held)
                held = []
        self._write_held(held)
        for number in chosen:
            part = self._parts.pop(number)
            part.path.unlink(missing_ok=True)  # the table first: without it, features are nothing
            part.features_path.unlink(missing_ok=True)

    def _write_held(self, held: Sequence[tuple[pa.Table, Halves]]) -> None:
        if held:
            features = np.concatenate([features for _, features in held])
            self._write(pa.concat_tables([table for table, _ in held]).combine_chunks(), features)

    def _write(self, table: pa.Table, features: Halves) -> None:
        """Write a part; its table comes last, since it is what makes it one."""
        number = max(self._parts, default=-1) + 1
        path = self.folder / f"part-{number:05d}.parquet"
        if self.model.width:
            with write_whole(path.with_suffix(".safetensors"), DataError, elsewhere="choose another `index`") as beside:
                save_file({_KEY: np.ascontiguousarray(features)}, beside)
        with write_whole(path, DataError, elsewhere="choose another `index`") as beside:
            pq.write_table(table, beside)
        self._parts[number] = _Part(path, self._schema, self.model.width)


@contextmanager
def open_index(
    folder: Path, model: IndexedModel, columns: Sequence[Column], *, reindex: bool = False
) -> Iterator[Index]:
    """Hold an index for one run; it is made if absent.

    Args:
        folder: Where it is, or goes: a folder that holds nothing else.
        model: What indexes now.
        columns: Of its answers.
        reindex: Whether an index that is there is made again, also that of another model.

    Raises:
        ConfigError: The index is of another model, or damaged, or the folder is somebody else's.
        DataError: Another run holds it for more than a minute, or it cannot be written.
    """
    _refuse_others(folder)
    try:
        with locked(folder / _LOCK, patience=_PATIENCE):
            _prepare(folder, model, reindex=reindex)
            yield Index(folder, model, columns)
    except BlockingIOError as error:
        raise DataError(f"{folder} is in use by another search: wait for it, or give another `index`") from error
    except OSError as error:
        why = explain_failure(folder, error, elsewhere="choose another `index`")
        raise DataError(f"{folder} cannot be written: {why}") from error


def _prepare(folder: Path, model: IndexedModel, *, reindex: bool) -> None:
    """Refuse an index of another model; write the head of a new one."""
    head = folder / _HEAD
    if head.exists() and not reindex:
        try:
            then = validate(IndexedModel, read_json(head), source="")
        except (ConfigError, CheckpointError, DataError) as error:
            raise ConfigError(f"{head} is damaged ({error}): {_AGAIN}") from error
        if then.format != _FORMAT:
            raise ConfigError(f"{folder} was made by another version of uniemox: {_AGAIN}")
        pairs = {"model": (then.digest, model.digest), "precision": (then.precision, model.precision)}
        for what, (before, now) in pairs.items():
            if before != now:
                them = f"{then.name}, {before[:16]}, then; {model.name}, {now[:16]}, now"
                raise ConfigError(
                    f"{folder} is the index of another {what} ({them}): give another `index`, or {_AGAIN}"
                )
        if then.width == model.width:
            return
    for path in folder.iterdir():
        if path.name not in (_LOCK, _HEAD):
            path.unlink()
    with write_whole(head, DataError, elsewhere="choose another `index`") as beside:
        beside.write_text(json.dumps(asdict(model)), encoding="utf-8")


def _refuse_others(folder: Path) -> None:
    """Refuse a place that is no folder, or holds what no index has."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file, but the index is a folder: give another `index`")
    try:
        names = [path.name for path in folder.iterdir() if not (_OURS.fullmatch(path.name) or is_unfinished(path))]
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {reason_of(error)}") from error
    if names:
        raise ConfigError(f"{folder} holds {names[0][:80]}, which is not part of an index: give another `index`")


def stamp_files(paths: Iterable[Path]) -> dict[bytes, tuple[Path, Stamp]]:
    """Look at files; return each with its stamp by its absolute path. One that cannot be looked at is of no size."""
    found = {}
    for path in paths:
        try:
            status = path.stat()
            stamp = Stamp(status.st_size, status.st_mtime_ns)
        except OSError:
            stamp = Stamp(-1, -1)
        found[os.fsencode(path.absolute())] = path, stamp
    return found


# The nearest


def _cosines(features: Halves, query: Floats) -> Floats:
    """Multiply features (B, D) in fp16 by a query (D,): several times faster than NumPy makes fp32 of them.

    Sign, exponent and mantissa are put where fp32 has them. There exponents are 112 too small: the query is enlarged.
    """
    bits = features.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.int32(-0x70002000)  # 0x8fffe000
    scores: Floats = bits.view(np.float32) @ (query * np.float32(2.0**112))
    return scores


def _merge_best(found: Iterable[tuple[int, Rows, Floats]], count: int) -> list[Place]:
    """Merge the best of blocks: the number of the part, its rows, and their scores."""
    best: list[Place] = []
    for number, rows, scores in found:
        order = np.argsort(-scores, kind="stable")[:count]
        own = (Place(number, int(rows[one]), float(scores[one])) for one in order if np.isfinite(scores[one]))
        best = sorted([*best, *own], key=lambda place: (-place.score, place.part, place.row))[:count]
    return best
