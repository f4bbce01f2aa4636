"""What an audit knows of each picture file, read once, in several processes, and kept in parts.

A fingerprint is a row: the file's size, time and SHA-256, why it is no picture or else its size in pixels, the digest
of its pixels, how far its colours spread, and its thumbnail. Rows are written to Parquet files of a few thousand as
they come, so that an audit that was killed goes on; a row counts as long as its file has the same size and time.
"""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import secrets
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from uniemox.data.archives import file_behind
from uniemox.data.images import Unreadable, decode_picture, read_file
from uniemox.data.likeness import SHRINK_TO, SIDE, shrink, untracked
from uniemox.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from uniemox.data.likeness import Track

log = logging.getLogger(__name__)

SCHEMA: Final = pa.schema(
    [
        pa.field("path", pa.binary(), nullable=False),  # absolute; a name need not be UTF-8
        pa.field("bytes", pa.int64(), nullable=False),  # -1 where there is no such file
        pa.field("changed", pa.int64(), nullable=False),  # in nanoseconds since 1970
        pa.field("sha256", pa.string()),
        pa.field("reason", pa.string()),  # why it is no picture
        pa.field("width", pa.int32()),  # of the whole upright picture
        pa.field("height", pa.int32()),
        pa.field("pixels", pa.binary(16)),  # digest
        pa.field("spread", pa.float32()),  # largest standard deviation of a colour, in grey levels
        pa.field("thumb", pa.binary(SIDE * SIDE), nullable=False),
    ],
    metadata={b"uniemox": b"fingerprints 1"},
)

_PART: Final = 2048
_TASK: Final = 16
_NO_THUMB: Final = bytes(SIDE * SIDE)


def take_fingerprints(
    paths: Sequence[Path], *, folder: Path, workers: int = 1, track: Track = untracked
) -> pa.Table:
    """Take the fingerprint of every file, or find it in a folder of earlier ones.

    Args:
        paths: Absolute, each once.
        folder: Holds the parts; made if absent.
        workers: Processes that read; 1 reads in this one.
        track: Shows how many files are done.

    Returns:
        A table of `SCHEMA`, a row for each path in their order, in one chunk.

    Raises:
        DataError: The folder cannot be written, or a process died.
    """
    names = [os.fsencode(path) for path in paths]
    tables = [_read_parts(folder)]
    known = _known_rows(tables[0])
    missing = [name for name in names if name not in known]
    with _reader(workers) as read:
        fresh: list[dict[str, Any]] = []
        try:
            for row in track(read(missing), total=len(missing), what="pictures read"):
                fresh.append(row)
                if len(fresh) == _PART:
                    tables.append(_write_part(fresh, folder))
                    fresh = []
        finally:  # whoever is interrupted keeps what was read
            if fresh:
                tables.append(_write_part(fresh, folder))
    first = len(tables[0])
    known |= {name: first + place for place, name in enumerate(missing)}
    order = pa.array([known[name] for name in names], pa.int64())
    # Chunk by chunk: to join all and then take would hold every thumbnail three times.
    return pa.concat_tables(tables).take(order).combine_chunks()


def thumbs_of(fingerprints: pa.Table) -> np.ndarray:
    """Give the thumbnails of a table, (N, S, S) uint8."""
    column = fingerprints["thumb"].combine_chunks()
    data = np.frombuffer(column.buffers()[1] or b"", np.uint8).reshape(-1, SIDE, SIDE)
    return data[column.offset : column.offset + len(column)]


@contextmanager
def _reader(workers: int) -> Iterator[Callable[[Sequence[bytes]], Iterator[dict[str, Any]]]]:
    """Give what reads files in order, in this process or in others."""
    if workers == 1:
        yield lambda names: map(_read, names)
        return
    # Spawned: a fork would copy this process's locks as its other threads hold them.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_belong_to_parent
    )

    def read(names: Sequence[bytes]) -> Iterator[dict[str, Any]]:
        # Part by part, so that neither questions nor answers of millions wait in memory.
        for start in range(0, len(names), _PART):
            part = names[start : start + _PART]
            try:
                yield from pool.map(_read, part, chunksize=_TASK)
            except BrokenProcessPool as error:
                raise DataError(
                    f"a reading process died among the {len(part)} pictures from {_show(part[0])} on, perhaps for want "
                    "of memory: go on with --resume and fewer --workers"
                ) from error

    try:
        yield read
    finally:
        pool.shutdown(cancel_futures=True)


def _belong_to_parent() -> None:
    """Ignore Ctrl-C, which a terminal sends to workers too, and end with the parent, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A parent that is killed tells its pool nothing, and the pool would wait for work for ever.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _show(name: bytes) -> str:
    return name.decode(errors="backslashreplace")


def _read(name: bytes) -> dict[str, Any]:
    """Take one fingerprint. Nothing about the file makes this raise."""
    path = Path(os.fsdecode(name))
    size, changed = _stamp(path)
    row: dict[str, Any] = {"path": name, "bytes": size, "changed": changed, "thumb": _NO_THUMB}
    data = read_file(path)
    if isinstance(data, Unreadable):
        return row | {"reason": data.reason}
    row["sha256"] = hashlib.sha256(data).hexdigest()
    decoded = decode_picture(data, shrink_to=SHRINK_TO)
    if isinstance(decoded, Unreadable):
        return row | {"reason": decoded.reason}
    image, width, height = decoded
    pixels = hashlib.blake2b(b"%d %d\n" % (width, height), digest_size=16)
    pixels.update(image.tobytes())
    small = image.reduce(max(1, min(image.size) // SHRINK_TO))
    spread = float(np.asarray(small).std(axis=(0, 1)).max())
    return row | {
        "width": width,
        "height": height,
        "pixels": pixels.digest(),
        "spread": spread,
        "thumb": shrink(small).tobytes(),
    }


def _stamp(path: Path) -> tuple[int, int]:
    """Tell size and time of a file, by which it is known again; -1 and 0 where there is none."""
    try:
        status = file_behind(path).stat()
    except (OSError, ValueError):
        return -1, 0
    return status.st_size, status.st_mtime_ns


def _write_part(rows: list[dict[str, Any]], folder: Path) -> pa.Table:
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    name = secrets.token_hex(8)
    temporary = folder / f".{name}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Thumbnails hardly compress, and the rest is little.
        pq.write_table(table, temporary, compression="zstd")
        temporary.replace(folder / f"{name}.parquet")
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise DataError(
            f"cannot write to {folder} ({error.strerror}): make room or choose another --out"
        ) from error
    return table


def _read_parts(folder: Path) -> pa.Table:
    """Read what an earlier audit left; a damaged part is passed over, so its pictures are read again."""
    tables = [SCHEMA.empty_table()]
    for path in sorted(folder.glob("*.parquet")):
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            log.warning("%s cannot be read (%s): its pictures are read again", path, error)
            continue
        if table.schema.equals(SCHEMA, check_metadata=True):
            tables.append(table)
    return pa.concat_tables(tables)


def _known_rows(table: pa.Table) -> dict[bytes, int]:
    """Find the rows whose file has not changed since."""
    columns = (table[name].to_pylist() for name in ("path", "bytes", "changed"))
    return {
        name: row
        for row, (name, size, changed) in enumerate(zip(*columns, strict=True))
        if size >= 0 and _stamp(Path(os.fsdecode(name))) == (size, changed)
    }
