"""Tables of predictions in CSV, JSON lines and Parquet: written row by row, and joined from parts."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from uniemox.checkpoints.notice import use_notice
from uniemox.config.checks import TABLES
from uniemox.errors import DataError
from uniemox.files.whole import write_whole
from uniemox.targets.columns import Column
from uniemox.wording import reason_of

if TYPE_CHECKING:
    import pyarrow as pa

    from uniemox.checkpoints.facts import ModelFacts
    from uniemox.inference.predictor import Prediction
    from uniemox.targets.domain import Domain
    from uniemox.targets.target import Target

BOX_COLUMNS: Final = ("x0", "y0", "x1", "y1", "box_score")  # Of a person
SUFFIXES: Final = TABLES  # Endings of the tables that are written
ABOUT: Final = "uniemox."  # Start of the keys of Parquet metadata that say what made a table
_ROWS_IN_PYTHON: Final = 1024  # Rows that are made into columns at once
_ROWS_IN_GROUP: Final = 65_536  # Rows of a row group of Parquet, which is held in memory while it fills


class Tabled(Protocol):
    """What can be a row of a table."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""

    def cells(self) -> dict[str, Any]:
        """Return the values by the columns of a table, one of which is `path`."""


@dataclass(frozen=True)
class Form:
    """What a table looks like."""

    suffix: str
    columns: tuple[Column, ...]  # Each may be absent in any row
    about: Mapping[str, str] = field(default_factory=dict)
    """What made the table, as `about_model` says it; of the formats, Parquet alone has a place for it."""

    def write(self, predictions: Iterable[Tabled], path: Path) -> int:
        """Write the rows to a file, and count them."""
        if self.suffix == ".parquet":
            return self._write_batches(self._batches(predictions), path)
        count = 0
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            file.write(self._header())
            table = csv.writer(file)
            for count, prediction in enumerate(predictions, 1):  # noqa: B007
                if self.suffix == ".jsonl":
                    file.write(json.dumps(prediction.to_dict()) + "\n")
                else:
                    row = prediction.cells()
                    table.writerow([column.in_csv(row.get(column.name)) for column in self.columns])
        return count

    def join(self, parts: Sequence[Path], path: Path) -> None:
        """Write what parts hold, which `write` made, to one file; it is that of one `write` of all their rows."""
        if self.suffix == ".parquet":
            self._write_batches(_read_batches(parts), path)
            return
        header = self._header().encode("utf-8", "surrogateescape")
        with path.open("wb") as file:
            file.write(header)
            for part in parts:
                with part.open("rb") as rows:
                    rows.seek(len(header))
                    shutil.copyfileobj(rows, file)

    def _header(self) -> str:
        text = io.StringIO(newline="")
        if self.suffix == ".csv":
            csv.writer(text).writerow([column.name for column in self.columns])
        return text.getvalue()

    def _schema(self) -> pa.Schema:
        import pyarrow as pa

        about = {f"{ABOUT}{name}": text for name, text in self.about.items()}
        return pa.schema([(column.name, column.arrow) for column in self.columns], metadata=about or None)

    def _batches(self, predictions: Iterable[Tabled]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        cells, schema = (prediction.cells() for prediction in predictions), self._schema()
        while rows := list(islice(cells, _ROWS_IN_PYTHON)):
            for row in rows:
                if row["path"] is not None:  # Parquet holds UTF-8 alone
                    row["path"] = row["path"].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            yield pa.RecordBatch.from_pylist(rows, schema=schema)

    def _write_batches(self, batches: Iterable[pa.RecordBatch], path: Path) -> int:
        """Write full row groups, however the rows come, so that small parts do not make a file of small groups."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        count, schema = 0, self._schema()
        held = schema.empty_table()
        with path.open("wb") as file, pq.ParquetWriter(file, schema) as writer:
            for batch in batches:
                count += len(batch)
                held = pa.concat_tables([held, pa.Table.from_batches([batch], schema)])
                while len(held) >= _ROWS_IN_GROUP:
                    writer.write_table(held.slice(0, _ROWS_IN_GROUP).combine_chunks(), row_group_size=_ROWS_IN_GROUP)
                    held = held.slice(_ROWS_IN_GROUP)
            if len(held):
                writer.write_table(held.combine_chunks(), row_group_size=_ROWS_IN_GROUP)
        return count


def _read_batches(parts: Iterable[Path]) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    for part in parts:
        with pq.ParquetFile(part) as rows:
            if rows.num_row_groups:  # else pyarrow 18 cannot iterate
                yield from rows.iter_batches(batch_size=_ROWS_IN_PYTHON)


def about_model(name: str, facts: ModelFacts, *, digest: str) -> dict[str, str]:
    """Say of a table which model made it: `model`, `digest`, and where known `emotion` and `notice`."""
    found = {"model": name, "digest": digest, "emotion": facts.emotion, "notice": use_notice(facts)}
    return {key: text for key, text in found.items() if text is not None}


def form_of(
    out: Path,
    target: Target,
    *,
    people: bool = False,
    times: bool = False,
    rows: bool = False,
    is_evaluation: bool = False,
    groups: bool = False,
    domain: Domain | None = None,
    more: Sequence[Column] = (),
    about: Mapping[str, str] | None = None,
) -> Form:
    """Describe the table of a file, which names the format by its ending: path, the target's columns, reason.

    `people` adds columns for the box of the person, x0, y0, x1, y1 and box_score; `times` one for the second of a
    video, `rows` one for the row of the table that named the image, `domain` those of distances from what the model
    knows, `more` others after them. An evaluation has columns for the truth and for the row in the manifest, with
    `groups` one for a number that rows share which are alike, and none for a reason. `about` is that of `about_model`.
    Another ending raises `DataError`.
    """
    suffix = out.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{out} ends in {out.suffix or 'nothing'}, but must end in .csv, .jsonl or .parquet")
    box = tuple(Column(name, "number") for name in BOX_COLUMNS) if people else ()
    path = Column("path", "text")
    answers = (*target.columns, *(() if domain is None else domain.columns), *more)
    if is_evaluation:
        alike = [Column("group", "whole")] if groups else []
        return Form(suffix, (path, Column("row", "whole"), *box, *alike, *target.truth, *answers), about or {})
    places = [*([Column("row", "whole")] if rows else []), *([Column("time", "number")] if times else [])]
    return Form(suffix, (path, *places, *box, *answers, Column("reason", "text")), about or {})


def count_rows(path: Path) -> tuple[int, int]:
    """Count the rows of a table of predictions, and those without an answer, or raise `DataError`."""
    try:
        match path.suffix.lower():
            case ".parquet":
                reasons: Iterable[str | None] = _read_reasons(path)
            case ".jsonl":
                with path.open(encoding="utf-8") as file:
                    reasons = [json.loads(line)["reason"] for line in file]
            case _:
                with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
                    table = csv.reader(file)
                    place = next(table, []).index("reason")
                    reasons = [row[place] for row in table]
    except (OSError, ValueError, LookupError, TypeError, csv.Error) as error:  # pyarrow's errors are among them
        raise DataError(
            f"{path} exists, but is no table of predictions ({reason_of(error)}): `overwrite` replaces it"
        ) from error
    listed = list(reasons)
    return len(listed), sum(map(bool, listed))


def _read_reasons(path: Path) -> list[str | None]:
    import pyarrow.parquet as pq

    found: list[str | None] = pq.read_table(path, columns=["reason"])["reason"].to_pylist()
    return found


def write_predictions(
    predictions: Iterable[Prediction],
    out: Path,
    target: Target,
    *,
    people: bool = False,
    is_evaluation: bool = False,
    groups: bool = False,
    domain: Domain | None = None,
    about: Mapping[str, str] | None = None,
) -> int:
    """Write a table in the form of `form_of` with a row for each prediction, as they come; return how many.

    The file exists only when it is whole; its folder is made if absent.
    """
    options: dict[str, Any] = {"people": people, "is_evaluation": is_evaluation, "groups": groups}
    form = form_of(out, target, **options, domain=domain, about=about)
    with write_whole(out, DataError, elsewhere="choose another `out`") as beside:
        return form.write(predictions, beside)
