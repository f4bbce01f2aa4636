"""Tables as users have them: CSV, TSV, JSON lines, Parquet and Arrow, read row by row into records of named cells."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from uniemox.errors import DataError
from uniemox.manifests.findings import Findings
from uniemox.wording import reason_of

_MAX_BYTES: Final = 4 * 1024**3  # Maximum size of a table of text; three million rows have a tenth of it
_ROWS: Final = 128  # Rows in memory at a time, as Python objects as well; a row may hold an image


class Record(NamedTuple):
    """One row of a table."""

    where: str  # Which row, for a message
    cells: Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows of named cells."""

    headings: tuple[str, ...]
    records: Iterable[Record]  # Can be gone through once
    schema: pa.Schema | None = None  # Of a Parquet or Arrow file


def read_table(path: Path, findings: Findings) -> Table:
    """Read a table by the suffix of its name, or raise `DataError`; rows of another form are counted and skipped."""
    match path.suffix.lower():
        case ".csv" | ".tsv" | ".txt":
            table = _read_csv(path, findings)
        case ".jsonl" | ".ndjson" | ".json":
            table = _read_json(path, findings)
        case ".parquet":
            with _damage_named(path):
                file = pq.ParquetFile(path)
            batches = file.iter_batches(batch_size=_ROWS)
            table = Table(tuple(file.schema_arrow.names), batch_records(batches, path.name), file.schema_arrow)
        case ".arrow":  # not mapped into memory: a file that is cut while it is read would end the process
            with _damage_named(path):
                stream = pa.ipc.open_stream(pa.OSFile(str(path)))
            table = Table(tuple(stream.schema.names), batch_records(stream, path.name), stream.schema)
        case _:
            raise DataError(f"{path} is no table that can be read: give .csv, .tsv, .txt, .json, .jsonl or .parquet")
    if not any(table.headings):
        raise DataError(f"{path} has no headings: its first line must name the columns")
    twice = next((name for name in table.headings if table.headings.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path} has two columns called {twice or 'nothing'}: rename one")
    return table


def read_text(path: Path) -> str:
    """Read a whole text file in UTF-8; `DataError` if it is missing, too large or something else."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise DataError(f"{path} is larger than {_MAX_BYTES} bytes: save it as Parquet")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {reason_of(error)}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 at byte {error.start}: save it as UTF-8") from error


def load_json(path: Path) -> Any:
    """Read a JSON file of a data set, or raise `DataError`."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {path}: {reason_of(error)}; get the data set again") from error


def batch_records(batches: Iterable[pa.RecordBatch], name: str) -> Iterator[Record]:
    """Turn Arrow's batches into records, a few rows at a time; `DataError` if a batch contradicts itself."""
    row = 0
    with _damage_named(name):
        for batch in batches:
            batch.validate(full=True)  # else hostile offsets are read as they are
            for start in range(0, batch.num_rows, _ROWS):
                for cells in batch.slice(start, _ROWS).to_pylist():
                    yield Record(f"row {row} of {name}", cells)
                    row += 1


@contextmanager
def _damage_named(name: Path | str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"cannot read {name}: {reason_of(error)}; get the file again") from error


def _read_csv(path: Path, findings: Findings) -> Table:
    text = read_text(path)
    header = text.partition("\n")[0]
    # Spreadsheets write semicolons where the comma is decimal; among equals the comma is taken.
    delimiter = max(",;\t", key=header.count) if path.suffix.lower() == ".csv" else "\t"
    rows = _csv_rows(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), path)
    headings = tuple(heading.strip() for heading in next(rows, (0, []))[1])

    def records() -> Iterator[Record]:
        for line, cells in rows:
            where = f"line {line} of {path.name}"
            if len(cells) == len(headings):
                yield Record(where, dict(zip(headings, cells, strict=True)))
            elif cells:
                findings.add("row of unknown form", where)

    return Table(headings, records())


def _csv_rows(reader: Any, path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"cannot read {path}, line {reader.line_num}: {error}") from error


def _read_json(path: Path, findings: Findings) -> Table:
    text = read_text(path)
    if path.suffix.lower() == ".json":
        rows, word = _parse_json(text), "entry"
        if not isinstance(rows, list):
            raise DataError(f"{path} is no list of rows: write a JSON list of objects, or JSON lines")
    else:  # splitlines would also cut at characters that JSON allows in texts
        rows, word = [_parse_json(line) for line in text.split("\n") if line.strip()], "line"
    records = []
    headings: dict[str, None] = {}
    for count, row in enumerate(rows, start=1):
        where = f"{word} {count} of {path.name}"
        if isinstance(row, dict):
            headings |= dict.fromkeys(row)
            records.append(Record(where, row))
        else:
            findings.add("row of unknown form", where)
    return Table(tuple(headings), records)


def _parse_json(text: str) -> Any:
    """Parse JSON; None for anything else, which is no row either."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
