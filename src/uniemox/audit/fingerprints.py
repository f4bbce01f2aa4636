"""What an audit knows of each image file, read once, in several processes, and kept in parts.

A fingerprint is a row: the file's size, time and SHA-256, why it is no image or else its size in pixels, the digest
of its pixels, how far its colours spread, and its thumbnail. Rows are written to Parquet files of a few thousand as
they come, so that an audit that was killed can continue; a row is valid while its file has the same size and time.
"""

import hashlib
import logging
import multiprocessing
import os
import secrets
import signal
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from uniemox.audit.likeness import SHRINK_TO, SIDE, shrink
from uniemox.errors import DataError
from uniemox.files.archives import file_behind
from uniemox.files.images import Unreadable, admit, admitted_pixels, decode_picture, read_file
from uniemox.files.progress import Track, untracked
from uniemox.files.room import ROOM
from uniemox.files.whole import write_whole

log = logging.getLogger(__name__)

SCHEMA: Final = pa.schema(
    [
        pa.field("path", pa.binary(), nullable=False),  # absolute; a name need not be UTF-8
        pa.field("bytes", pa.int64(), nullable=False),  # -1 for no such file
        pa.field("changed", pa.int64(), nullable=False),  # in nanoseconds since 1970
        pa.field("sha256", pa.string()),
        pa.field("reason", pa.string()),  # why it is no image
        pa.field("width", pa.int32()),  # of the whole upright image
        pa.field("height", pa.int32()),
        pa.field("pixels", pa.binary(16)),  # digest
        pa.field("spread", pa.float32()),  # largest standard deviation of a colour, in grey levels
        pa.field("thumb", pa.binary(SIDE * SIDE), nullable=False),
    ],
    metadata={b"uniemox": b"fingerprints 1"},
)

_PART: Final = 2048  # rows of a file
_TASK: Final = 16  # images that a process reads at a time


def take_fingerprints(paths: Sequence[Path], *, folder: Path, workers: int = 1, track: Track = untracked) -> pa.Table:
    """Take the fingerprint of every file, or find it in a folder of earlier ones.

    Args:
        paths: Absolute, each once.
        folder: Holds the parts; made if absent.
        workers: Processes that read; 1 reads in this one.
        track: Shows the number of files read.

    Returns:
        A table of `SCHEMA`, a row for each path in their order, in one chunk.

    Raises:
        DataError: The folder cannot be written, or a process died.
    """
    names = [os.fsencode(path) for path in paths]
    tables = [_read_parts(folder)]
    columns = (tables[0][name].to_pylist() for name in ("path", "bytes", "changed"))
    known = {
        name: row
        for row, (name, size, changed) in enumerate(zip(*columns, strict=True))
        if size >= 0 and _stamp(Path(os.fsdecode(name))) == (size, changed)
    }
    missing = [name for name in names if name not in known]
    with closing(_read_all(missing, workers)) as rows:
        fresh: list[dict[str, Any]] = []
        try:
            for row in track(rows, total=len(missing), what="images read"):
                fresh.append(row)
                if len(fresh) == _PART:
                    tables.append(_write_part(fresh, folder))
                    fresh = []
        finally:  # an interrupt keeps what was read
            if fresh:
                tables.append(_write_part(fresh, folder))
    first = len(tables[0])
    known |= {name: first + place for place, name in enumerate(missing)}
    order = pa.array([known[name] for name in names], pa.int64())
    # Chunk by chunk: to join all and then take would hold every thumbnail three times.
    return pa.concat_tables(tables).take(order).combine_chunks()


def thumbs_of(fingerprints: pa.Table) -> np.ndarray:
    """Return the thumbnails of a table, (N, S, S) uint8."""
    column = fingerprints["thumb"].combine_chunks()
    data = np.frombuffer(column.buffers()[1] or b"", np.uint8).reshape(-1, SIDE, SIDE)
    return data[column.offset : column.offset + len(column)]


def _read_all(names: Sequence[bytes], workers: int) -> Generator[dict[str, Any], None, None]:
    """Read files in order, in this process or in others, which exit when it is closed."""
    if workers == 1:
        yield from map(_read, names)
        return
    # Spawned: a fork would copy this process's locks as its other threads hold them.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_belong_to_parent, initargs=(admitted_pixels(),)
    )
    part: Sequence[bytes] = ()
    try:
        # Part by part, so that millions of names or rows do not wait in memory.
        for start in range(0, len(names), _PART):
            part = names[start : start + _PART]
            yield from pool.map(_read, part, chunksize=_TASK)
    except BrokenProcessPool as error:
        first = part[0].decode(errors="backslashreplace")
        raise DataError(
            f"a reading process died among the {len(part)} images from {first} on, perhaps out of memory: continue "
            "with `resume` and fewer `workers`"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _belong_to_parent(max_pixels: int) -> None:
    """Ignore Ctrl-C, which a terminal sends to workers too, and exit with the parent, however that ends."""
    admit(max_pixels)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A parent that is killed cannot close its pool, and the workers would wait for ever.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@ROOM.use()
def _read(name: bytes) -> dict[str, Any]:
    """Take one fingerprint; a bad file never raises."""
    path = Path(os.fsdecode(name))
    size, changed = _stamp(path)
    row: dict[str, Any] = {"path": name, "bytes": size, "changed": changed, "thumb": bytes(SIDE * SIDE)}
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
    return row | {
        "width": width,
        "height": height,
        "pixels": pixels.digest(),
        "spread": float(np.asarray(small).std(axis=(0, 1)).max()),
        "thumb": shrink(small).tobytes(),
    }


def _stamp(path: Path) -> tuple[int, int]:
    """Read size and time of a file, by which it is recognised; -1 and 0 for no file."""
    try:
        status = file_behind(path).stat()
    except (OSError, ValueError):
        return -1, 0
    return status.st_size, status.st_mtime_ns


def _write_part(rows: list[dict[str, Any]], folder: Path) -> pa.Table:
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    path = folder / f"{secrets.token_hex(8)}.parquet"
    with write_whole(path, DataError, elsewhere="choose another `out`") as beside:
        # Thumbnails hardly compress, and the rest is little.
        pq.write_table(table, beside, compression="zstd")
    return table


def _read_parts(folder: Path) -> pa.Table:
    """Read the parts of an earlier audit; a damaged one is skipped, so its images are read again."""
    tables = [SCHEMA.empty_table()]
    for path in sorted(folder.glob("*.parquet")):
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            log.warning("%s cannot be read (%s): its images are read again", path, error)
            continue
        if table.schema.equals(SCHEMA, check_metadata=True):
            tables.append(table)
    return pa.concat_tables(tables)
