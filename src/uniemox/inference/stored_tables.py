"""Tables of predictions, read back in batches: what `uniemox predict --out` wrote, of whatever ending.

No more than a batch is held, so a table may have any number of rows.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv

from uniemox.errors import DataError
from uniemox.files.delimited import check_headings
from uniemox.files.parquet import MAX_COLUMNS, open_parquet, stream_batches
from uniemox.inference.tables import ABOUT, BOX_COLUMNS, SUFFIXES
from uniemox.targets.columns import SHARE, Column
from uniemox.targets.readings import Reading, find_readings
from uniemox.wording import reason_of, shorten

EDGES: Final = BOX_COLUMNS[:4]
_COMMON: Final = (
    Column("path", "text"),
    Column("time", "number"),
    *(Column(name, "number") for name in EDGES),
    Column("label_set", "texts"),
    Column("abstains", "flag"),
    Column("out_of_domain", "number"),
    Column("is_unfamiliar", "flag"),
    Column("reason", "text"),
)  # Read of every table; those that it lacks are empty
_ROWS: Final = 2**15  # Of a batch
_CSV_BLOCK: Final = 2**20  # Bytes, of which Arrow holds several; a row must fit into it
_LONGEST_ABOUT: Final = 600  # Characters of what is kept of a model; anybody may have written it
_SLACK: Final = 1e-4  # By which a probability may leave its bounds: those of fp16 or written with few digits do
_OTHER_SEPARATORS: Final = {";": "semicolons", "\t": "tabs", "|": "bars"}
_LONGEST_LINE: Final = 2**22  # Bytes of a heading, or of a row of JSON


@dataclass(frozen=True)
class StoredTable:
    """A table of predictions, of which only its head was read."""

    path: Path
    columns: tuple[str, ...]
    readings: tuple[Reading, ...]  # What it answers, at least one
    about: Mapping[str, str]  # What Parquet keeps of the model: `model`, `digest`, `emotion`, `notice`

    def batches(self, also: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
        """Yield its rows, with the columns of `readings`, all that any table may have, and `also` as texts.

        Raises:
            DataError: The file is damaged, or a column holds something else than predictions.
        """
        own = (column for reading in self.readings for column in reading.columns)
        wanted = list(dict.fromkeys((*_COMMON, *own, *(Column(name, "text") for name in also))))
        with _named(self.path):
            for batch in self._read([column.name for column in wanted if column.name in self.columns]):
                arrays = [_convert(batch, column, self.path) for column in wanted]
                yield pa.RecordBatch.from_arrays(arrays, names=[column.name for column in wanted])

    def _read(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        match self.path.suffix.lower():
            case ".parquet":
                yield from stream_batches(self.path, _ROWS)
            case ".jsonl":
                with self.path.open("rb") as file:
                    rows = (_flatten(line) for line in _lines(file))
                    while held := list(islice(rows, _ROWS)):
                        columns = {name: _array([row.get(name) for row in held]) for name in names}
                        yield pa.RecordBatch.from_pydict(columns)
            case _:
                convert = arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.binary()),
                    include_columns=list(names),
                    strings_can_be_null=True,
                    null_values=[""],
                )
                parse = arrow_csv.ParseOptions(newlines_in_values=True)
                read = arrow_csv.ReadOptions(block_size=_CSV_BLOCK, use_threads=False)
                with arrow_csv.open_csv(
                    self.path, read_options=read, parse_options=parse, convert_options=convert
                ) as table:
                    yield from table


def open_stored(path: Path) -> StoredTable:
    """Read the head of a table of predictions.

    Raises:
        DataError: It cannot be read, has no row, or is no table of predictions; says which.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder: name the `model` that predicts its images first")
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path} is not a table of predictions: those end in {', '.join(SUFFIXES)}")
    if not path.is_file():  # a pipe would be waited for
        raise DataError(f"{path} is not a file" if path.exists() else f"no file at {path}")
    with _named(path):
        columns, about = _read_head(path)
    readings = find_readings(columns)
    if "path" not in columns or not readings:
        shown = shorten(", ".join(columns)) or "none"
        raise DataError(
            f"{path} is not a table of predictions: it must have the columns path, and predicted, confidence and "
            f"p_NAME, or valence and arousal; it has {shown}. Write one with `uniemox predict --out`"
        )
    return StoredTable(path, columns, readings, about)


def _read_head(path: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    """Read the names of the columns, and what made the table where that is kept."""
    match path.suffix.lower():
        case ".parquet":
            with open_parquet(path, what="a table of predictions") as file:
                schema = file.schema_arrow
            kept = {key.decode(): text.decode() for key, text in (schema.metadata or {}).items()}
            return tuple(schema.names), {
                key.removeprefix(ABOUT): text[:_LONGEST_ABOUT] for key, text in kept.items() if key.startswith(ABOUT)
            }
        case ".jsonl":
            with path.open("rb") as file:
                names: dict[str, None] = {}
                for line in islice(_lines(file), _ROWS):  # rows without an answer name no class
                    names |= dict.fromkeys(_flatten(line))
                    if len(names) > MAX_COLUMNS:
                        raise ValueError(f"more than {MAX_COLUMNS:,} columns")
            return tuple(names), {}
        case _:
            with path.open(newline="", encoding="utf-8-sig", errors="replace") as text:
                head = text.readline(_LONGEST_LINE)
            columns = tuple(next(csv.reader([head]), []))
            other = max(_OTHER_SEPARATORS, key=head.count)
            if len(columns) == 1 and other in head:
                raise ValueError(f"{_OTHER_SEPARATORS[other]} separate its cells: save it with commas, as predict does")
            check_headings(columns, path)
            return columns, {}


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn the errors of readers into a `DataError` that names the file."""
    try:
        yield
    except (OSError, pa.ArrowException, ValueError, OverflowError, RecursionError, csv.Error) as error:
        raise DataError(f"cannot read {path} as a table of predictions: {reason_of(error)}") from error


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    while line := file.readline(_LONGEST_LINE + 1):
        if len(line) > _LONGEST_LINE:
            raise ValueError(f"a line is longer than {_LONGEST_LINE:,} bytes")
        if not line.isspace():
            yield line


def _flatten(line: bytes) -> dict[str, Any]:
    """Bring a line of JSON to the columns of the other formats."""
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("a line is no object")  # noqa: TRY004
    for name, start in (("probabilities", SHARE), ("box", "")):
        held = row.pop(name, None) or {}
        if not isinstance(held, dict):
            raise ValueError(f"{name} is no object")  # noqa: TRY004
        row |= {f"{start}{key}": value for key, value in held.items()}
    return row


def _array(values: list[Any]) -> pa.Array:
    """Make a column of JSON's values; a lone surrogate stands for a byte of a name that is no UTF-8."""
    try:
        return pa.array(values)
    except UnicodeEncodeError:
        return pa.array([_readable(value) if isinstance(value, str) else value for value in values])


def _readable(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _convert(batch: pa.RecordBatch, column: Column, path: Path) -> pa.Array:
    """Bring a column to its kind; one that is absent is empty."""
    kind = pa.float64() if column.kind in ("number", "share") else column.arrow
    if column.name not in batch.schema.names:
        return pa.nulls(len(batch), kind)
    values = batch.column(column.name)
    if pa.types.is_binary(values.type):  # of CSV
        values = _decode(values)
    try:
        if column.kind == "texts" and pa.types.is_string(values.type):
            values = pa.array([None if cell is None else json.loads(cell) for cell in values.to_pylist()], kind)
        if pa.types.is_string(values.type) and column.kind == "flag":
            values = pc.equal(pc.utf8_lower(values), "true")
        values = values if values.type == kind else values.cast(kind)
    except (pa.ArrowException, ValueError, TypeError, RecursionError) as error:
        wanted = {"text": "text", "texts": "lists of texts", "flag": "true or false"}.get(column.kind, "numbers")
        raise DataError(
            f"{path} has a column {shorten(column.name)} that does not hold {wanted} ({reason_of(error)})"
        ) from error
    if column.kind == "share" and pc.any(pc.or_(pc.less(values, -_SLACK), pc.greater(values, 1 + _SLACK))).as_py():
        raise DataError(f"{path} has a column {shorten(column.name)} that does not hold probabilities from 0 to 1")
    return values


def _decode(values: pa.Array) -> pa.Array:
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:  # bytes of a name that are no UTF-8
        return pa.array([None if one is None else one.decode("utf-8", "replace") for one in values.to_pylist()])
