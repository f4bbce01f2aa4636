"""Read a Parquet file that anybody may have written, within the memory that an honest file of its size can need.

A value that repeats takes nothing in the file: 800 kB can hold five million rows, and a dictionary of one long text can
stand for terabytes. So what is declared is bounded before anything is read, the longest text of each dictionary is
looked up before it is repeated, and rows are unfolded in batches whose sizes are summed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from uniemox.errors import DataError
from uniemox.wording import reason_of

MAX_COLUMNS: Final = 4096  # Values that a row may hold beside each other; a manifest has 25
MAX_GROUPS: Final = 4096  # Row groups; writers put 65,000 rows and more in one, and each takes a millisecond
MAX_UNFOLDED: Final = 7 * 2**28  # Bytes in memory of any file; ten million plain rows of a manifest take 1.1 GB
_MAX_RATIO: Final = 32  # Times its own size, for a larger file: one with hashes and boxes unfolds to three times
_MOST_FOLDED: Final = 2**28  # Bytes of a column in a group of rows that may be folded more closely than that
_LONGEST_TEXT: Final = 2**22  # Bytes of a cell of a table; repeated for each row, a longer one takes hours
_BATCH_BYTES: Final = 2**27  # That the texts of a batch can take at most
_BATCH_ROWS: Final = 2**16
_BUFFER: Final = 2**18  # Bytes that are read at once of each column
_TEXT: Final = "BYTE_ARRAY"
_WIDTHS: Final = {"INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12, _TEXT: 4}  # Bytes of a value
_PREFIXED: Final = "DELTA_BYTE_ARRAY"  # An encoding by which texts repeat their start


class _Group(NamedTuple):
    """What a group of rows takes in memory at most."""

    rows: int
    fixed: int  # Bytes of its numbers, and of the places of its texts
    texts: int  # Bytes of its texts, those in the dictionary as long as the longest


@contextmanager
def open_parquet(path: Path, *, what: str = "Parquet", then: str = "") -> Iterator[pq.ParquetFile]:
    """Open a file, or raise `DataError` if it is none, or declares more than an honest file of its size holds.

    What is raised by Arrow in the block is a `DataError` too.

    Args:
        path: The file.
        what: What it should be, and `then` what follows the reason where it is not.
        then: Such as a question.
    """
    if not path.is_file():  # a pipe would be waited for
        raise DataError(f"{path} is not a file" if path.exists() else f"no file at {path}")
    try:
        # Whole row groups would be held else, before the first batch of them.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER) as file:
            if reason := next(_faults(file.metadata, _budget(path)), None):
                raise DataError(f"{path} {reason}: check where it comes from")
            yield file
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path} as {what}: {reason_of(error)}{then}") from error


def read_columns(file: pq.ParquetFile, names: Sequence[str], path: Path) -> pa.Table:
    """Read columns whole, or raise `DataError` if they need more memory than a file of this size may; see `_budget`.

    Every value is of its type: texts are UTF-8, and lists lie within their values.
    """
    budget, groups = _budget(path), list(_bound_groups(file, names, path))
    if sum(group.fixed + group.texts for group in groups) <= budget:
        table = file.read(columns=list(names))
        table.validate(full=True)
        return table
    columns: list[pa.ChunkedArray] = []
    for name in names:  # one at a time, so that what is refused at last was not all held twice
        room = budget - sum(column.nbytes for column in columns)
        batches = list(_read_batches(file, name, groups, room))
        if sum(batch.nbytes for batch in batches) > room:
            raise _too_large(path, budget)
        columns.append(pa.chunked_array([batch.column(0) for batch in batches], file.schema_arrow.field(name).type))
    return pa.table(columns, schema=pa.schema([file.schema_arrow.field(name) for name in names]))


def stream_batches(path: Path, rows: int) -> Iterator[pa.RecordBatch]:
    """Yield a file's rows, so many at a time or as few as their texts need; `DataError` as `open_parquet`."""
    with open_parquet(path, then="; get the file again") as file:
        declared = file.metadata
        texts = [declared.schema.column(n).path for n in range(declared.num_columns)]
        with pq.ParquetFile(path, metadata=declared, read_dictionary=texts) as folded:
            for number in range(declared.num_row_groups):
                group = declared.row_group(number)
                chunks = [group.column(n) for n in range(declared.num_columns)]
                _refuse_prefixes(chunks, path)
                _refuse_bombs(chunks, path)
                long = {n: _longest_of(folded, number, chunk) for n, chunk in enumerate(chunks)}
                for n, longest in long.items():
                    column = declared.schema.column(n)
                    if str(column.logical_type) == "String":
                        _refuse_long(longest, column.path, path)
                size = max(1, min(rows, _BATCH_BYTES // max(1, sum(long.values()))))
                for batch in file.iter_batches(size, row_groups=[number]):
                    # Texts that are in no dictionary; as Python's they would take as much again.
                    for name, values in zip(batch.schema.names, batch.columns, strict=True):
                        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
                            _refuse_long(pc.max(pc.binary_length(values)).as_py() or 0, name, path)
                    yield batch


def _refuse_long(longest: int, name: str, path: Path) -> None:
    if longest > _LONGEST_TEXT:
        raise DataError(f"{path} has a text of {longest:,} bytes in its column {name}: drop it")


def _refuse_bombs(chunks: Sequence[pq.ColumnChunkMetaData], path: Path) -> None:
    """Refuse texts that unfold to much: a page of them is unfolded whole before it can be looked at."""
    for chunk in chunks:
        stored, unfolded = chunk.total_compressed_size, chunk.total_uncompressed_size
        if chunk.physical_type == _TEXT and unfolded > _MOST_FOLDED and unfolded > _MAX_RATIO * stored:
            name = chunk.path_in_schema
            raise DataError(f"{path} unfolds its column {name} from {stored:,} to {unfolded:,} bytes: drop it")


def _refuse_prefixes(chunks: Sequence[pq.ColumnChunkMetaData], path: Path) -> None:
    if any(_PREFIXED in chunk.encodings for chunk in chunks):
        raise DataError(f"{path} is stored in {_PREFIXED}, which is not read: write it with pyarrow's defaults")


def _read_batches(file: pq.ParquetFile, name: str, groups: Sequence[_Group], room: int) -> Iterator[pa.RecordBatch]:
    """Read a column in batches that are safe to unfold, up to the first that no longer fits into the room."""
    for number, group in enumerate(groups):
        rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES * group.rows // group.texts))
        for batch in file.iter_batches(rows, row_groups=[number], columns=[name]):
            room -= batch.nbytes
            batch.validate(full=True)
            yield batch
            if room < 0:
                return


def _budget(path: Path) -> int:
    return max(MAX_UNFOLDED, _MAX_RATIO * path.stat().st_size)


def _too_large(path: Path, budget: int) -> DataError:
    return DataError(
        f"{path} unfolds to more than {budget / 2**20:,.0f} MB, which no list of images of its size does: check where "
        "it comes from"
    )


def _faults(declared: pq.FileMetaData, budget: int) -> Iterator[str]:
    if declared.num_columns > MAX_COLUMNS:
        yield f"has {declared.num_columns:,} columns, more than {MAX_COLUMNS:,}"
    if declared.num_row_groups > MAX_GROUPS:
        yield f"has {declared.num_row_groups:,} groups of rows, more than {MAX_GROUPS:,}"
    if not 0 <= declared.num_rows <= budget:  # not even a byte for each
        yield f"declares {declared.num_rows:,} rows, which its size cannot hold"


def _bound_groups(file: pq.ParquetFile, names: Sequence[str], path: Path) -> Iterator[_Group]:
    """Bound what each group of rows takes, by what is declared and by the longest text of each dictionary."""
    declared, budget = file.metadata, _budget(path)
    columns = {n: declared.schema.column(n) for n in range(declared.num_columns)}
    columns = {n: column for n, column in columns.items() if column.path.split(".")[0] in set(names)}
    texts = [column.path for column in columns.values() if column.physical_type == _TEXT]
    total = 0
    with pq.ParquetFile(path, metadata=declared, read_dictionary=texts) as folded:
        for number in range(declared.num_row_groups):
            group = declared.row_group(number)
            chunks = [group.column(n) for n in columns]
            fixed = sum(max(0, chunk.num_values) * _WIDTHS.get(chunk.physical_type, 1) for chunk in chunks)
            stored = sum(max(0, chunk.total_uncompressed_size) for chunk in chunks)
            total += max(fixed, stored)
            if total > budget:
                raise _too_large(path, budget)
            _refuse_prefixes(chunks, path)
            long = sum(_longest_of(folded, number, chunk) * chunk.num_values for chunk in chunks)
            yield _Group(max(1, group.num_rows), fixed, max(1, stored + long))


def _longest_of(folded: pq.ParquetFile, group: int, chunk: pq.ColumnChunkMetaData) -> int:
    if chunk.physical_type != _TEXT or chunk.num_values < 1:
        return 0
    first = next(iter(folded.iter_batches(1, row_groups=[group], columns=[chunk.path_in_schema])), None)
    return 0 if first is None else max(map(_longest_text, first.columns), default=0)


def _longest_text(column: pa.Array) -> int:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return int(pc.max(pc.binary_length(column.dictionary)).as_py() or 0)
    if pa.types.is_struct(kind):
        return max((_longest_text(part) for part in column.flatten()), default=0)
    if pa.types.is_list(kind):
        return _longest_text(column.flatten())
    return 0
