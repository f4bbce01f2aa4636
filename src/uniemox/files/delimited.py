"""Tables of text as people save them: by commas, semicolons, tabs or bars, from Excel, a database or a script.

Understood besides RFC 4180: a byte order mark, UTF-16, a first line `sep=;`, blanks around cells, and the decimal comma
of tables whose cells are not separated by commas. A Git LFS pointer in place of a file is named as such.
"""

import csv
import io
import re
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from uniemox.errors import DataError
from uniemox.files.cells import with_point
from uniemox.wording import printable, reason_of

MAX_BYTES: Final = 4 * 1024**3  # Maximum size of a table of text; three million rows have a tenth of it
_LONGEST_CELL: Final = 16 * 1024**2  # Characters; one quote that is never closed would else take the whole file
_SEPARATORS: Final = ",;\t|"  # Among equals the first is taken
_DECLARED: Final = re.compile(r"sep=(?P<separator>[^\r\n])?\r?\n?", re.IGNORECASE)
_QUOTED: Final = re.compile(r'"[^"]*"')
_POINTER: Final = b"version https://git-lfs"
_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")


class Line(NamedTuple):
    """One row of a table of text."""

    number: int  # Of the line that it ends in, from 1
    cells: list[str]  # Without blanks around them
    lines: int  # That it reaches over: more than one where a quote does


@dataclass(frozen=True)
class Delimited:
    """A table of text."""

    headings: tuple[str, ...]
    lines: Iterator[Line]  # Below the headings, those without any cell left out; can be gone through once
    separator: str

    @property
    def has_decimal_comma(self) -> bool:
        """Whether a comma in a number is that of a decimal fraction: where it separates no cells, it is."""
        return self.separator != ","

    def read_number(self, text: str) -> Any:
        """Write a number of this table with a point."""
        return with_point(text) if self.has_decimal_comma else text


def read_delimited(path: Path) -> Delimited:
    """Read a table of text, or raise `DataError`; in files that end in .tsv only tabs separate."""
    text = read_text(path)
    declared = _DECLARED.match(text)
    skipped = 0
    if declared is not None:
        text, skipped = text[declared.end() :], 1
    separator = (declared and declared["separator"]) or _find_separator(text, path)
    lines = _lines(text, separator, path, skipped=skipped)
    first = next(lines, None)
    headings = () if first is None else tuple(first.cells)
    check_headings(headings, path)
    return Delimited(headings, lines, separator)


def check_headings(headings: Sequence[str], path: Path) -> None:
    """Raise `DataError` if a table has no headings, or two that are alike."""
    if not any(headings):
        raise DataError(f"{path} has no headings: its first line must name the columns")
    # A column without a heading is nobody's: spreadsheets and R write such.
    name, count = Counter(filter(None, headings)).most_common(1)[0]
    if count > 1:
        raise DataError(f"{path} has two columns called {printable(name[:80])}: rename one")


def find_column(headings: Sequence[str], names: Sequence[str], path: Path) -> str:
    """Find the one column that has one of some names, in any case of letters, or raise `DataError`."""
    found = [heading for heading in headings if heading.casefold() in names]
    if len(found) != 1:
        number = "more than one" if found else "no"
        shown = printable(",".join(headings)[:80])
        raise DataError(f"{path} has {number} column called {' or '.join(names)}; its first line is '{shown}'")
    return found[0]


def read_text(path: Path) -> str:
    """Read a whole text file in UTF-8 or UTF-16; `DataError` if it is missing, too large or something else."""
    data = read_bytes(path, max_bytes=MAX_BYTES, then="save it as Parquet")
    encoding = "utf-16" if data.startswith(_UTF_16) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 at byte {error.start}: save it as UTF-8") from error
    if (place := text.find("\0")) >= 0:  # as in UTF-16 or UTF-32 without a mark
        raise DataError(f"{path} is not UTF-8, or is no text, at character {place}: save it as UTF-8")
    return text


def read_bytes(path: Path, *, max_bytes: int, then: str) -> bytes:
    """Read a file of a data set whole, or raise `DataError`, which ends with what to do where it is too large."""
    with damage_named(path):
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise DataError(f"{path} is not a file")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise DataError(f"{path} is larger than {max_bytes} bytes: {then}")
    refuse_pointer(data, path)
    return data


def refuse_pointer(start: bytes, path: Path) -> None:
    """Raise `DataError` if a file starts as Git LFS's pointers do, which stand for files that were not fetched."""
    if start.startswith(_POINTER):
        raise DataError(f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` where it was cloned")


@contextmanager
def damage_named(path: Path | str, kinds: tuple[type[Exception], ...] = (OSError, ValueError)) -> Iterator[None]:
    """Turn the errors of a reader into a `DataError` that names the file."""
    try:
        yield
    except kinds as error:
        then = "check the path" if isinstance(error, FileNotFoundError) else "get the file again"
        raise DataError(f"cannot read {path}: {reason_of(error)}; {then}") from error


def _find_separator(text: str, path: Path) -> str:
    """Take the separator that the first line has most of, outside of quotes."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    header = _QUOTED.sub("", text.lstrip("\r\n").partition("\n")[0])
    found = max(_SEPARATORS, key=header.count)
    return found if found in header or path.suffix.lower() != ".txt" else "\t"


def _lines(text: str, separator: str, path: Path, *, skipped: int) -> Iterator[Line]:
    limit = csv.field_size_limit()
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    before = 0
    while True:
        csv.field_size_limit(_LONGEST_CELL)  # of the whole module; pandas and others do the same
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"cannot read {path}, line {reader.line_num + skipped}: {error}") from error
        finally:
            csv.field_size_limit(limit)
        lines, before = reader.line_num - before, reader.line_num
        stripped = [cell.strip() for cell in cells]
        if any(stripped):
            yield Line(reader.line_num + skipped, stripped, lines)


Problem = Callable[[str, str], None]  # Counts a problem by its kind, with an example


def rows_of(table: Delimited, path: Path, problem: Problem) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield where each row is, and its cells by heading; rows of another number of cells are counted, and skipped.

    A row with quotes over several lines is counted as well: a quote that nobody closed takes rows in.
    """
    headings = tuple(map(sys.intern, table.headings))
    for line in table.lines:
        where = f"line {line.number} of {path.name}"
        if line.lines > 1:
            first = line.number - line.lines + 1
            problem("quotes that reach over several lines", f"lines {first} to {line.number} of {path.name}")
        # A quote that takes rows in holds what separates their cells.
        if any("\n" in cell and table.separator in cell for cell in line.cells):
            continue
        if len(line.cells) == len(headings):
            yield where, dict(zip(headings, line.cells, strict=True))
        else:
            problem("row of unknown form", where)
