"""Tables as users have them: CSV, TSV, JSON lines and Parquet, read row by row into records of named cells."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from uniemox.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from uniemox.data.findings import Findings

SUFFIXES: Final = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet")
_MAX_BYTES: Final = 4 * 1024**3
"""Most bytes of a table of text; three million rows have a tenth of it."""
_ROWS: Final = 128
"""Rows that are in memory at a time, as Python objects as well; a row may hold a picture."""


class Record(NamedTuple):
    """One row of a table."""

    where: str
    """Which row, for a message."""
    cells: Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows of named cells."""

    headings: tuple[str, ...]
    records: Iterable[Record]
    """Can be gone through once."""
    schema: pa.Schema | None = None
    """Of a Parquet or Arrow file."""


def read_table(path: Path, findings: Findings) -> Table:
    """Read a table by the ending of its name; rows that are none are counted and left out.

    Raises:
        DataError: The file is absent, of another kind, or damaged.
    """
    match path.suffix.lower():
        case ".csv" | ".tsv" | ".txt":
            return _read_csv(path, findings)
        case ".jsonl" | ".ndjson" | ".json":
            return _read_json(path, findings)
        case ".parquet":
            return _read_parquet(path)
        case _:
            raise DataError(f"{path} is no table that can be read: give {', '.join(SUFFIXES)}")


def read_text(path: Path) -> str:
    """Read a whole text file in UTF-8, with or without a mark at its beginning.

    Raises:
        DataError: It is absent, too large or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise DataError(f"{path} is larger than {_MAX_BYTES} bytes: save it as Parquet")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 at byte {error.start}: save it as UTF-8") from error


def batch_records(batches: Iterable[pa.RecordBatch], name: str) -> Iterator[Record]:
    """Turn Arrow's batches into records, a few rows at a time.

    Raises:
        DataError: A batch contradicts itself.
    """
    row = 0
    try:
        for batch in batches:
            batch.validate(full=True)  # else hostile offsets are read as they are
            for start in range(0, batch.num_rows, _ROWS):
                for cells in batch.slice(start, _ROWS).to_pylist():
                    yield Record(f"row {row} of {name}", cells)
                    row += 1
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"cannot read {name}: {error}; get the file again") from error


def _read_csv(path: Path, findings: Findings) -> Table:
    text = read_text(path)
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(path, first))
    try:
        headings = tuple(heading.strip() for heading in next(reader, []))
    except csv.Error as error:
        raise DataError(f"cannot read {path}: {error}") from error
    _check_headings(headings, path)

    def records() -> Iterator[Record]:
        try:
            for cells in reader:
                where = f"line {reader.line_num} of {path.name}"
                if not cells:
                    continue
                if len(cells) != len(headings):
                    findings.add("row of unknown form", where)
                    continue
                yield Record(where, dict(zip(headings, cells, strict=True)))
        except csv.Error as error:
            raise DataError(f"cannot read {path}, line {reader.line_num}: {error}") from error

    return Table(headings, records())


def _delimiter(path: Path, header: str) -> str:
    """Tell what parts the cells: spreadsheets write semicolons where the comma is decimal."""
    if path.suffix.lower() != ".csv":
        return "\t"
    return max(",;\t", key=header.count)  # the comma among equals


def _read_json(path: Path, findings: Findings) -> Table:
    text = read_text(path)
    if path.suffix.lower() == ".json":
        rows, word = _parse_json(text), "entry"
        if not isinstance(rows, list):
            raise DataError(
                f"{path} is no list of rows: write a JSON list of objects, or JSON lines"
            )
    else:
        lines = text.split(
            "\n"
        )  # splitlines would also cut at characters that JSON allows in texts
        rows, word = [_parse_json(line) if line.strip() else None for line in lines], "line"
        rows = [row for row, line in zip(rows, lines, strict=True) if line.strip() or row]
    records = []
    headings: dict[str, None] = {}
    for count, row in enumerate(rows, start=1):
        where = f"{word} {count} of {path.name}"
        if isinstance(row, dict):
            headings |= dict.fromkeys(row)
            records.append(Record(where, row))
        else:
            findings.add("row of unknown form", where)
    _check_headings(tuple(headings), path)
    return Table(tuple(headings), records)


def _parse_json(text: str) -> Any:
    """Parse JSON; None for what is none, which is no row either."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _read_parquet(path: Path) -> Table:
    try:
        file = pq.ParquetFile(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"cannot read {path}: {error}; get the file again") from error
    schema = file.schema_arrow
    _check_headings(tuple(schema.names), path)
    return Table(
        tuple(schema.names), batch_records(file.iter_batches(batch_size=_ROWS), path.name), schema
    )


def _check_headings(headings: tuple[str, ...], path: Path) -> None:
    if not any(headings):
        raise DataError(f"{path} has no headings: its first line must name the columns")
    twice = next((name for name in headings if headings.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path} has two columns called {twice or 'nothing'}: rename one")
