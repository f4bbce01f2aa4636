"""Tables as users have them: CSV, TSV, JSON lines, Parquet and Arrow, read row by row into records of named cells."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa

from uniemox.errors import DataError
from uniemox.files.delimited import (
    check_headings,
    damage_named,
    read_bytes,
    read_delimited,
    read_text,
    refuse_pointer,
    rows_of,
)
from uniemox.files.parquet import open_parquet, stream_batches
from uniemox.manifests.findings import Findings

_MAX_JSON: Final = 2 * 1024**3  # Bytes of a JSON file of a data set
_ROWS: Final = 128  # Rows in memory at a time, as Python objects as well; a row may hold an image
_DAMAGE: Final = (OSError, ValueError, pa.ArrowException)


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
    has_decimal_comma: bool = False


def read_table(path: Path, findings: Findings) -> Table:
    """Read a table by the suffix of its name, or raise `DataError`; rows of another form are counted and skipped."""
    match path.suffix.lower():
        case ".csv" | ".tsv" | ".txt" | ".ann":
            found = read_delimited(path)
            records = (Record(where, cells) for where, cells in rows_of(found, path, findings.add))
            return Table(found.headings, records, has_decimal_comma=found.has_decimal_comma)
        case ".jsonl" | ".ndjson" | ".json":
            table = _read_json(path, findings)
        case ".parquet" | ".arrow":
            table = _read_arrow(path)
        case _:
            raise DataError(
                f"{path} is no table that can be read: give .csv, .tsv, .txt, .json, .jsonl or .parquet; save a "
                "spreadsheet as CSV, and unpack what is packed"
            )
    check_headings(table.headings, path)
    return table


def load_json(path: Path) -> Any:
    """Read a JSON file of a data set, or raise `DataError`."""
    data = read_bytes(path, max_bytes=_MAX_JSON, then="get the data set again")
    with damage_named(path, (ValueError, RecursionError)):
        return json.loads(data)  # which knows a byte order mark


def _read_arrow(path: Path) -> Table:
    with damage_named(path, _DAMAGE):
        with path.open("rb") as file:
            refuse_pointer(file.read(64), path)
        if path.suffix.lower() == ".parquet":
            with open_parquet(path, then="; get the file again") as parquet:
                schema = parquet.schema_arrow
            batches = stream_batches(path, _ROWS)
        else:  # not mapped into memory: a file that is cut while it is read would end the process
            batches = pa.ipc.open_stream(pa.OSFile(str(path)))
            schema = batches.schema
    return Table(tuple(schema.names), batch_records(batches, path.name), schema)


def batch_records(batches: Iterable[pa.RecordBatch], name: str) -> Iterator[Record]:
    """Turn Arrow's batches into records, a few rows at a time; `DataError` if a batch contradicts itself."""
    row = 0
    with damage_named(name, _DAMAGE):
        for batch in batches:
            batch.validate(full=True)  # else hostile offsets are read as they are
            for start in range(0, batch.num_rows, _ROWS):
                for cells in batch.slice(start, _ROWS).to_pylist():
                    yield Record(f"row {row} of {name}", cells)
                    row += 1


def _read_json(path: Path, findings: Findings) -> Table:
    text = read_text(path)
    rows, word = _parse_json(text) if text.lstrip()[:1] == "[" else None, "entry"
    if not isinstance(rows, list):  # splitlines would also cut at characters that JSON allows in texts
        rows, word = [_parse_json(line) for line in text.split("\n") if line.strip()], "line"
    if not any(isinstance(row, dict) for row in rows) and path.suffix.lower() == ".json":
        raise DataError(f"{path} is no list of rows: write a JSON list of objects, or JSON lines")
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
