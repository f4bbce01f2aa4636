"""A report as one HTML file that needs nothing else: no network, no script, images inside.

A `Page` holds sections, a section holds blocks, and every word in them is escaped: names of files and classes may
hold anything.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, assert_never

from jinja2 import Environment, PackageLoader, StrictUndefined

from uniemox.errors import DataError
from uniemox.files.whole import write_whole
from uniemox.report import charts
from uniemox.targets.scores import Bars, Calibration, Curve, Grid, Interval, Matrix, Part, Ranges, Scatter, Scores
from uniemox.version import __version__
from uniemox.wording import printable

Cell = str | int | float | Interval | None
Width = Literal["full", "half"]


@dataclass(frozen=True)
class Figure:
    """A chart or image: SVG or WebP, what it shows in words for those who cannot see it, and a caption."""

    kind: ClassVar = "figure"
    data: bytes
    alt: str
    caption: str = ""
    width: Width = "full"


@dataclass(frozen=True)
class Table:
    """Rows of cells under the names of columns, if any. Columns of numbers are set right."""

    kind: ClassVar = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    width: Width = "full"

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds only numbers, or nothing."""
        return [not any(isinstance(cell, str) for cell in column) for column in zip(*self.rows, strict=True)]


@dataclass(frozen=True)
class GalleryItem:
    """An image with what was predicted, how surely (in [0, 1], if known), what is true if known, and its name."""

    image: charts.Pixels
    predicted: str
    confidence: float | None
    true: str | None = None
    name: str = ""
    is_judged: bool = True  # Whether the answer is right or wrong; numbers on a scale are neither
    more: Sequence[str] = ()  # Further answers with what is true, of a model that gives several

    @property
    def verdict(self) -> Literal["right", "wrong", "unknown"]:
        """Whether the prediction is true."""
        if self.true is None or not self.is_judged:
            return "unknown"
        return "right" if self.true == self.predicted else "wrong"


@dataclass(frozen=True)
class Gallery:
    """Images with their predictions."""

    kind: ClassVar = "gallery"
    items: Sequence[GalleryItem]
    caption: str = ""
    width: Width = "full"


@dataclass(frozen=True)
class Tile:
    """An image among others, with what is known of it; None where it cannot be shown."""

    image: charts.Pixels | None
    name: str
    badge: str  # What differs from its neighbours, such as its split
    text: str = ""
    note: str = ""
    is_struck: bool = False  # Whether it is removed


@dataclass(frozen=True)
class TileGroup:
    """Images side by side, and what they have in common."""

    title: str
    tiles: Sequence[Tile]
    more: int = 0  # Number of others that are not shown


@dataclass(frozen=True)
class TileGroups:
    """Groups of images side by side."""

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
class Scoreboard:
    """Numbers in large print, beside each other."""

    kind: ClassVar = "scores"
    items: Sequence[Score]
    width: Width = "full"


Block = Figure | Table | Gallery | TileGroups | Notice | Scoreboard


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs separated by empty lines, and blocks."""

    title: str
    text: str = ""
    blocks: Sequence[Block] = ()
    link: tuple[str, str] | None = None  # Words, and the address of a file beside the page


@dataclass(frozen=True)
class Page:
    """A title, a lead of one or two sentences, and sections."""

    title: str
    lead: str
    sections: Sequence[Section]


def data_uri(data: bytes) -> str:
    """Return an image, WebP or SVG, as an address that holds it."""
    kind = "webp" if data.startswith(b"RIFF") else "svg+xml"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def show_cell(cell: Cell) -> str:
    """Return a cell as text: three decimals, thousands apart, a dash for nothing, and no zero with a sign."""
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:z.3f}"
    if isinstance(cell, Interval):
        return f"{cell.low:z.3f} to {cell.high:z.3f}"
    return f"{cell:,}".replace(",", "\N{NARROW NO-BREAK SPACE}") if isinstance(cell, int) else cell


def _show(value: object) -> object:
    """Make visible what would let a name read otherwise than it is; markup is a text of ours."""
    return printable(value, keep="\n") if type(value) is str else value


def render(page: Page) -> str:
    """Return the page as HTML."""
    environment = Environment(
        loader=PackageLoader("uniemox.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_show,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(data_uri=data_uri, cell=show_cell, thumbnail=charts.thumbnail)
    return environment.get_template("page.html").render(page=page, version=__version__)


def write_page(page: Page, path: Path) -> Path:
    """Write the page and return its path, or raise `DataError`; an older one stays whole until the new one is."""
    html = render(page).encode()
    with write_whole(path, DataError) as beside:
        beside.write_bytes(html)
    return path


def draw(part: Part) -> Block:
    """Make a part of scores a block of a page."""
    match part:
        case Grid():
            return Table(part.heads, part.rows, width=part.width)
        case Bars():
            return Figure(charts.class_bars(part), part.alt, part.caption, "half")
        case Matrix():
            width: Width = "half" if len(part.names) <= 12 else "full"
            return Figure(charts.confusion(part), part.alt, part.caption, width)
        case Calibration():
            return Figure(charts.reliability(part), part.alt, part.caption, "half")
        case Curve():
            return Figure(charts.curve(part), part.alt, part.caption, "half")
        case Ranges():
            return Figure(charts.ranges(part), part.alt, part.caption, "half")
        case Scatter():
            return Figure(charts.scatter(part), part.alt, part.caption, "half")
        case _:
            assert_never(part)


def _compare(scores: Scores) -> Section:
    """Show the model beside its baselines, and how these were made or why they are omitted."""
    metrics = scores.headline
    rows = [(name, *(values.get(metric.name) for metric in metrics)) for name, values in scores.compared]
    if not rows:
        return Section("Baselines", "\n\n".join(scores.notes))
    table = Table(("", *(metric.title for metric in metrics)), rows, " ".join(scores.notes))
    return Section("Baselines", "Cheap answers to the same images, which a model must beat.", (table,))


def evaluation_page(
    scores: Scores, *, title: str, provenance: Mapping[str, str], gallery: Sequence[GalleryItem] = ()
) -> Page:
    """Make the page of one evaluation, which names where model and data come from and shows images with predictions."""
    display = scores.display
    board = []
    for metric in scores.metrics:
        if metric.title and metric.name in scores.values:
            bounds = scores.intervals.get(metric.name)
            range_ = "" if bounds is None else f"{bounds.low:z.3f} to {bounds.high:z.3f}"
            note = "; ".join(filter(None, (range_, metric.note)))
            board.append(Score(metric.title, f"{scores.values[metric.name]:z.3f}", note))
    notices = [Notice(text, "warning") for text in display.warnings]
    if scores.bridge_notes:
        notices.append(Notice(" ".join(scores.bridge_notes)))
    sections = [Section("Scores", display.explanation, (Scoreboard(board), *notices))]
    if scores.baselines:
        sections.append(_compare(scores))
    sections += [Section(head, blocks=[draw(part) for part in parts]) for head, parts in display.panels]
    sections += [Section(head, text, [draw(part) for part in parts]) for head, text, parts in scores.studies]
    if gallery:
        sections.append(Section("Images", blocks=(Gallery(gallery),)))
    sections.append(Section("Origin", blocks=(Table((), list(provenance.items())),)))
    return Page(title, f"Predictions for {show_cell(scores.num_samples)} {display.samples}", sections)
