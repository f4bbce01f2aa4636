"""Tables of results for papers and notes: one form of them, written as Markdown, LaTeX, JSON or a page."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from uniemox.errors import DataError
from uniemox.files.whole import write_whole
from uniemox.report.page import Page, Table, write_page
from uniemox.targets.scores import Interval, Metric
from uniemox.wording import one_line, printable

_LATEX: Final = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{sign: f"{{{sign}}}" for sign in "[*"},  # which the end of the row before would take for its own
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "×": r"$\times$",
    "λ": r"$\lambda$",
    "<": "$<$",
    ">": "$>$",
}
_MARKDOWN: Final = re.compile(r"([\\`*_\[\]<>|#~])")


class Cell(NamedTuple):
    """What a cell says, and its interval or another small remark, if any."""

    text: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.note})" if self.note else self.text


class Sheet(NamedTuple):
    """A table with a title, and sentences on how to read it."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]  # The first cell of each names it
    note: str = ""

    @property
    def table(self) -> Table:
        """The block of a page."""
        return Table(self.heads, [list(map(str, row)) for row in self.rows], self.note)

    def turned(self) -> "Sheet":
        """Exchange rows and columns where that is narrower, for a screen."""
        if len(self.rows) >= len(self.heads) - 1:
            return self
        rows = [[Cell(head), *(row[place] for row in self.rows)] for place, head in enumerate(self.heads) if place]
        return self._replace(heads=["", *(str(row[0]) for row in self.rows)], rows=rows)


def head_of(metric: Metric) -> str:
    """Name a metric over a column, with its unit and which end is better."""
    return f"{metric.title}{' %' if metric.is_share else ''}{' ↓' if metric.lower_is_better else ''}"


def show(value: float, metric: Metric, *, sign: bool = False) -> str:
    """Show a score: a share as a percentage, and a difference with its sign."""
    shown = f"{100 * value:z.1f}" if metric.is_share else f"{value:z.3f}"
    shown = shown.replace("-", "−")
    return f"+{shown}" if sign and not shown.startswith("−") and float(shown) != 0 else shown


def show_interval(interval: Interval, metric: Metric, *, sign: bool = False) -> str:
    """Show both ends of an interval."""
    return " to ".join(show(end, metric, sign=sign) for end in interval)


def to_markdown(sheets: Iterable[Sheet], *, title: str) -> str:
    """Write tables as GitHub reads them."""
    parts = [f"# {_quote(title)}"]
    for sheet in sheets:
        heads, *rows = ([_quote(str(cell)) for cell in row] for row in (sheet.heads, *sheet.rows))
        ruled = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in ruled)
        parts += filter(None, (f"## {_quote(sheet.title)}", table, _quote(sheet.note)))
    return "\n\n".join(parts) + "\n"


def _quote(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", printable(one_line(text)))


def to_latex(sheets: Iterable[Sheet]) -> str:
    """Write tables for LaTeX with the package booktabs; everything in them is text."""
    parts = ["% needs \\usepackage{booktabs}"]
    for sheet in sheets:
        lines = [f"{' & '.join(map(_escape, map(str, row)))} \\\\" for row in (sheet.heads, *sheet.rows)]
        parts += [
            "\\begin{table}",
            f"\\caption{{{_escape(f'{sheet.title}. {sheet.note}'.strip())}}}",
            f"\\begin{{tabular}}{{l{'r' * (len(sheet.heads) - 1)}}}",
            "\\toprule",
            lines[0],
            "\\midrule",
            *lines[1:],
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
            "",
        ]
    return "\n".join(parts)


def _escape(text: str) -> str:
    shown = printable(one_line(text)).replace("↓", "(lower is better)")
    return "".join(_LATEX.get(letter, letter) for letter in shown)


def write_sheets(
    files: Iterable[Path], sheets: Sequence[Sheet], *, title: str, data: Mapping[str, Any], page: Callable[[], Page]
) -> None:
    """Write results to each file in the form that its ending, one of `config.checks.SHEETS`, names.

    `data` is what JSON gets, and `page` makes the page. A file that cannot be written raises `DataError`.
    """
    for out in files:
        match out.suffix.lower():
            case ".html":
                write_page(page(), out)
                continue
            case ".md":
                text = to_markdown(sheets, title=title)
            case ".tex":
                text = to_latex(sheets)
            case _:
                text = json.dumps(data, indent=2, allow_nan=False) + "\n"
        with write_whole(out, DataError, elsewhere="choose another `out`") as beside:
            beside.write_text(text, encoding="utf-8")
