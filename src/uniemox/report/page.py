"""A report as one HTML file that needs nothing else: no network, no script, pictures inside.

A `Page` holds sections, a section holds blocks, and every word in them is escaped, so names of files and classes may
hold anything.
"""

from __future__ import annotations

import base64
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from uniemox.errors import DataError
from uniemox.report import charts
from uniemox.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from uniemox.metrics import IntervalMetric, Report

Cell = str | int | float | None
Width = Literal["full", "half"]

SIGNATURES = {b"\x89PNG": "image/png", b"\xff\xd8": "image/jpeg", b"RIFF": "image/webp"}


@dataclass(frozen=True)
class Figure:
    """A chart or picture: its bytes, what it shows in words for those who cannot see it, and a caption."""

    kind: ClassVar = "figure"
    data: bytes
    alt: str
    caption: str = ""
    width: Width = "full"


@dataclass(frozen=True)
class Table:
    """Rows of cells under names of columns; without names there is no head. Columns of numbers are set right."""

    kind: ClassVar = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    width: Width = "full"

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers, or nothing, alone."""
        columns = zip(*self.rows, strict=True)
        return [all(not isinstance(cell, str) for cell in column) for column in columns]


@dataclass(frozen=True)
class GalleryItem:
    """A picture with what was predicted, how surely (in [0, 1]), what is true if known, and the picture's name."""

    picture: charts.Picture
    predicted: str
    confidence: float
    true: str | None = None
    name: str = ""

    @property
    def verdict(self) -> Literal["right", "wrong", "unknown"]:
        """Whether the prediction is true."""
        if self.true is None:
            return "unknown"
        return "right" if self.true == self.predicted else "wrong"

    @property
    def thumbnail(self) -> bytes:
        """The picture, small."""
        return charts.thumbnail(self.picture)


@dataclass(frozen=True)
class Gallery:
    """Pictures with their predictions."""

    kind: ClassVar = "gallery"
    items: Sequence[GalleryItem]
    caption: str = ""
    width: Width = "full"


@dataclass(frozen=True)
class Tile:
    """A picture among others, with what is known of it; without one where it cannot be shown."""

    picture: charts.Picture | None
    name: str
    badge: str
    """What tells it from its neighbours, such as its split."""
    text: str = ""
    note: str = ""
    is_struck: bool = False
    """Whether it is one that goes."""

    @property
    def thumbnail(self) -> bytes:
        """The picture, small; nothing where there is none."""
        return b"" if self.picture is None else charts.thumbnail(self.picture, side=200)


@dataclass(frozen=True)
class TileGroup:
    """Pictures side by side, and what they have in common."""

    title: str
    tiles: Sequence[Tile]
    more: int = 0
    """How many others there are that are not shown."""


@dataclass(frozen=True)
class Comparison:
    """Groups of pictures side by side."""

    kind: ClassVar = "comparison"
    groups: Sequence[TileGroup]
    caption: str = ""
    width: Width = "full"


@dataclass(frozen=True)
class Notice:
    """Something the reader must not miss."""

    kind: ClassVar = "notice"
    text: str
    tone: Literal["note", "warning"] = "note"
    width: Width = "full"


@dataclass(frozen=True)
class Score:
    """A number worth large print, with a note under it."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Scores:
    """Numbers in large print, beside each other."""

    kind: ClassVar = "scores"
    items: Sequence[Score]
    width: Width = "full"


Block = Figure | Table | Gallery | Comparison | Notice | Scores


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs (an empty line parts them) and blocks."""

    title: str
    text: str = ""
    blocks: Sequence[Block] = ()


@dataclass(frozen=True)
class Page:
    """A title, a lead of one or two sentences, and sections."""

    title: str
    lead: str
    sections: Sequence[Section]


def data_uri(data: bytes) -> str:
    """Return a picture as an address that holds it; what is not PNG, JPEG or WebP is taken for SVG."""
    kinds = (kind for start, kind in SIGNATURES.items() if data.startswith(start))
    return f"data:{next(kinds, 'image/svg+xml')};base64,{base64.b64encode(data).decode()}"


def show_cell(cell: Cell) -> str:
    """Return a cell as text: three decimals, thousands apart, a dash for nothing."""
    match cell:
        case None:
            return "–"
        case int():
            return f"{cell:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
        case float():
            return f"{cell:.3f}"
        case _:
            return cell


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("uniemox.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(data_uri=data_uri, cell=show_cell)
    return environment


def render(page: Page) -> str:
    """Return the page as HTML."""
    return _environment().get_template("page.html").render(page=page, version=__version__)


def write_page(page: Page, path: Path) -> None:
    """Write the page; a page that was there before stays whole until the new one is.

    Raises:
        DataError: The file cannot be written.
    """
    # A file name that is not UTF-8 reaches us with surrogates in it, which no file may hold.
    html = render(page).encode("utf-8", errors="replace")
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(html)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise DataError(
            f"cannot write the report {path}: {error.strerror}; free space or choose another place"
        ) from error


def _with_interval(report: Report, name: str, metric: IntervalMetric) -> Score:
    low, high = report.intervals[metric]
    return Score(name, f"{report.get(metric):.3f}", f"{low:.3f} to {high:.3f}")


def _scores(report: Report) -> Section:
    majority = report.majority
    absent = [
        name for name, number in zip(report.classes, report.support, strict=True) if not number
    ]
    blocks: list[Block] = [
        Scores(
            (
                _with_interval(report, "top-1", "top1"),
                Score("top-3", f"{report.top3:.3f}"),
                _with_interval(report, "balanced accuracy", "balanced_accuracy"),
                _with_interval(report, "macro F1", "macro_f1"),
                _with_interval(report, "weighted F1", "weighted_f1"),
                Score("calibration error", f"{report.ece:.3f}", "0 is best"),
            )
        )
    ]
    if absent:
        text = f"No sample here is labelled {', '.join(absent)}: balanced accuracy leaves that out."
        blocks.append(Notice(text, "warning"))
    return Section(
        "Scores",
        "Ranges are 95 % bootstrap intervals over the samples. Always answering the most frequent class, "
        f"{majority.name}, would reach top-1 {majority.top1:.3f}, balanced accuracy "
        f"{majority.balanced_accuracy:.3f} and macro F1 {majority.macro_f1:.3f}.",
        blocks,
    )


def _classes(report: Report) -> Section:
    columns = (report.classes, report.precision, report.recall, report.f1, report.support)
    rows = [
        (name, float(precision), float(recall) if support else None, float(f1), int(support))
        for name, precision, recall, f1, support in zip(*columns, strict=True)
    ]
    table = Table(("class", "precision", "recall", "F1", "samples"), rows, width="half")
    bars = Figure(
        charts.per_class_bars(report),
        "Bars of F1 for each class, with marks for precision and recall; the table holds the numbers.",
        "F1 (bar), precision and recall (marks) of each class.",
        "half",
    )
    return Section("Classes", blocks=(bars, table))


def _confusions(report: Report) -> Section:
    counts = report.confusion.copy()
    counts[range(len(counts)), range(len(counts))] = 0
    true, predicted = divmod(int(counts.argmax()), len(counts))
    often = f"{report.classes[true]} taken for {report.classes[predicted]}"
    alt = f"Matrix of true against predicted classes; most often {often}, {counts.max()} times."
    width: Width = "half" if len(counts) <= 12 else "full"
    return Section(
        "Confusions and confidence",
        blocks=(
            Figure(
                charts.confusion(report),
                alt
                if counts.any()
                else "Matrix of true against predicted classes, without errors.",
                "Share of each true class, and number of samples, by predicted class.",
                width,
            ),
            Figure(
                charts.reliability(report),
                f"Accuracy against confidence in bins; the mean distance is {report.ece:.3f}.",
                "Bars on the dashed line: the confidence can be taken at its word. Below it: too sure.",
                "half",
            ),
        ),
    )


def evaluation_page(
    report: Report,
    *,
    title: str,
    provenance: Mapping[str, str],
    gallery: Sequence[GalleryItem] = (),
) -> Page:
    """Make the page of one evaluation.

    Args:
        report: Scores of a model on a split.
        title: Heading of the page.
        provenance: Where model and data come from, such as their paths, versions and seed.
        gallery: Pictures of the split with their predictions.
    """
    sections = [_scores(report), _classes(report), _confusions(report)]
    if gallery:
        sections.append(Section("Pictures", blocks=(Gallery(gallery),)))
    sections.append(Section("Origin", blocks=(Table((), list(provenance.items())),)))
    samples = show_cell(report.num_samples)
    lead = f"Predictions for {samples} labelled samples of {len(report.classes)} classes."
    return Page(title, lead, sections)
