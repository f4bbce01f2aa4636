"""Charts and pictures for reports, as bytes: SVG where there are lines and numbers, WebP where there are pictures.

Only matplotlib's object interface is used, so there is no open figure to forget. Pictures are uint8 arrays (H, W, 3).
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image

from uniemox.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from uniemox.metrics import Report
    from uniemox.multilabel import MultiLabelReport

Picture = npt.NDArray[np.uint8]
Lines = Sequence[Mapping[str, Any]]

INK, MUTED, GRID, HIDDEN = "#1f2a37", "#667085", "#e6e9ee", 226
BLUE, PALE, RUST, GREEN = "#2b6cb0", "#bcd5ec", "#c05638", "#2f7d5b"
SERIES = (BLUE, RUST, GREEN, "#7a5c99", "#b59b54", MUTED)
HEAT = LinearSegmentedColormap.from_list("heat", ["#f7f9fc", "#bcd5ec", "#6ea5d8", BLUE, "#163d66"])
TERMS = ("loss", "contrast", "similarity", "reconstruction")
NOT_TERMS = {"step", "epoch", "lr", "images_per_second", "seconds", "seconds_left", "time"}
WIDTH = 11.3  # inches, as wide as a page
STYLE: Any = {
    "text.usetex": False,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.fonttype": "none",  # the reader's fonts, which know more scripts than matplotlib's
    "svg.hashsalt": "uniemox",  # equal charts are equal bytes
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


CONFIDENCE_AXES = ("confidence", "accuracy", "samples")
"""What a chart of calibration shows of a classifier of one label."""


class Comparison(NamedTuple):
    """One bar: what was evaluated, on what, and its score in [0, 1] with the bounds of its interval."""

    name: str
    condition: str
    value: float
    low: float | None = None
    high: float | None = None


class Crop(NamedTuple):
    """A scene with the person's box in its pixels, the person's crop, and what the encoder saw of the two views."""

    scene: Picture
    box: tuple[float, float, float, float] | None
    person: Picture
    seen_scene: Picture | None = None
    seen_person: Picture | None = None


def label(name: str, *, longest: int = 28) -> str:
    """Make a name safe to draw: one short line of printable letters."""
    line = "".join(letter if letter.isprintable() else " " for letter in name).strip()
    return line if len(line) <= longest else line[: longest - 1] + "…"


def hide(picture: Picture, hidden: npt.NDArray[np.bool]) -> Picture:
    """Grey out the hidden patches of a picture; `hidden` (rows, columns) is true where the encoder did not see."""
    height, width = picture.shape[0] // hidden.shape[0], picture.shape[1] // hidden.shape[1]
    covered = np.kron(hidden, np.ones((height, width), dtype=bool)).astype(bool)
    assert covered.shape == picture.shape[:2], "the picture is not a whole number of patches"
    return np.where(covered[..., None], np.uint8(HIDDEN), picture)


def thumbnail(picture: Picture, *, side: int = 240) -> bytes:
    """Encode a picture as WebP, shrunk so that neither side is longer than `side` pixels."""
    image = Image.fromarray(picture)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "webp", quality=82)
    return buffer.getvalue()


def _save(figure: Figure, form: str = "svg", **options: Any) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The reader's fonts draw what matplotlib's lack.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure.savefig(buffer, format=form, **options)
    return buffer.getvalue()


def _save_svg(figure: Figure) -> bytes:
    svg = _save(figure, metadata={"Date": None, "Creator": None})
    return svg.replace(b"'DejaVu Sans'", b"system-ui, 'DejaVu Sans', sans-serif")


def _unit_axis(axes: Axes, name: str) -> None:
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
    axes.set_xlabel(name)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)


def _series(lines: Lines, term: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    points = [(line["step"], line[term]) for line in lines if "step" in line and term in line]
    finite = [point for point in points if all(map(math.isfinite, point))]
    steps, values = np.array(finite, dtype=np.float64).reshape(-1, 2).T
    return steps, values


def _smooth(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Average over a window of a twentieth of the values, narrower near the ends so that it stays centred."""
    places = np.arange(len(values))
    reach = np.minimum(len(values) // 40, np.minimum(places, places[::-1]))
    sums = np.concatenate([[0], values.cumsum()])
    totals = sums[places + reach + 1] - sums[places - reach]
    means: npt.NDArray[np.float64] = totals / (2 * reach + 1)
    return means


def _terms(runs: Mapping[str, Lines]) -> list[str]:
    found = {
        key
        for lines in runs.values()
        for line in lines
        for key, value in line.items()
        if isinstance(value, int | float) and "step" in line and key not in NOT_TERMS
    }
    first = [term for term in TERMS if term in found]
    return first + sorted(found - set(first))


@mpl.rc_context(STYLE)
def loss_curves(runs: Lines | Mapping[str, Lines], *, terms: Sequence[str] = ()) -> bytes:
    """Draw one small chart per term over the steps, from the lines of `metrics.jsonl`.

    Args:
        runs: Lines of one run, or of several by name.
        terms: What to draw; by default every number that is not a step, a rate or a time.

    Raises:
        DataError: No line holds a term.
    """
    by_name: Mapping[str, Lines] = runs if isinstance(runs, Mapping) else {"": runs}
    terms = terms or _terms(by_name)
    if not terms:
        raise DataError("no curve to draw: the run has logged no step yet")
    columns = min(len(terms), 4)
    rows = math.ceil(len(terms) / columns)
    figure = Figure(figsize=(WIDTH, 2.5 * rows + 0.3 * (len(by_name) > 1)), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    for axes, term in zip(panels, terms, strict=False):
        for colour, (name, lines) in zip(_colours(len(by_name)), by_name.items(), strict=True):
            steps, values = _series(lines, term)
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            axes.plot(steps, _smooth(values), color=colour, linewidth=1.8, label=label(name))
        axes.set_title(label(term.replace("_", " ")))
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_tick_params(labelbottom=True)
    for axes in panels[len(terms) :]:
        axes.set_axis_off()
    figure.supxlabel("step", color=MUTED, fontsize=9.5)
    if len(by_name) > 1:
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=len(by_name))
    return _save_svg(figure)


def _colours(number: int) -> list[str]:
    return [SERIES[i % len(SERIES)] for i in range(number)]


@mpl.rc_context(STYLE)
def confusion(report: Report, title: str = "") -> bytes:
    """Draw the confusion matrix, coloured by the share of each true class; numbers only while they can be read."""
    counts = report.confusion
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    number = len(counts)
    side = min(max(0.62 * number, 2.2), 8.5)
    figure = Figure(figsize=(side + 1.6, side + 1.3), layout="constrained")
    axes = figure.subplots()
    axes.pcolormesh(shares, cmap=HEAT, vmin=0, vmax=1, edgecolors="white", linewidth=1.5)
    for row, column in np.argwhere(counts).tolist() if number <= 12 else ():
        colour = "white" if shares[row, column] > 0.5 else INK
        at: dict[str, Any] = {"ha": "center", "va": "center", "color": colour}
        axes.text(column + 0.5, row + 0.42, f"{100 * shares[row, column]:.0f} %", fontsize=9, **at)
        axes.text(column + 0.5, row + 0.72, f"{counts[row, column]}", fontsize=6.5, **at)
    names = [label(name) for name in report.classes]
    middles = np.arange(number) + 0.5
    axes.set_xticks(middles, names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(middles, names)
    axes.set(xlim=(0, number), ylim=(number, 0), aspect="equal", xlabel="predicted", ylabel="true")
    axes.set_title(label(title, longest=60))
    axes.spines[:].set_visible(False)
    return _save_svg(figure)


@mpl.rc_context(STYLE)
def per_class_bars(report: Report) -> bytes:
    """Draw F1 of each class as a bar, with precision and recall as marks and the number of samples beside it."""
    number = len(report.classes)
    figure = Figure(figsize=(5.45, 0.36 * number + 1.1), layout="constrained")
    axes = figure.subplots()
    places = np.arange(number)
    axes.barh(places, report.f1, height=0.6, color=PALE, label="F1")
    for name, mark, colour in (("precision", "d", RUST), ("recall", "o", BLUE)):
        values = np.where(report.support > 0, getattr(report, name), np.nan)
        axes.plot(values, places, mark, color=colour, markersize=5, label=name, clip_on=False)
    for place, support in enumerate(report.support):
        axes.text(1.03, place, f"n = {support}", va="center", color=MUTED, fontsize=8.5)
    axes.set_yticks(places, [label(name) for name in report.classes])
    axes.set_ylim(number - 0.4, -0.6)
    _unit_axis(axes, "")
    figure.legend(loc="outside upper right", ncols=3, reverse=True)
    return _save_svg(figure)


@mpl.rc_context(STYLE)
def average_precision_bars(report: MultiLabelReport) -> bytes:
    """Draw average precision of each class as a bar, the share of samples that have it as a mark, and their number.

    The share is what a list in random order would reach.
    """
    number = len(report.classes)
    figure = Figure(figsize=(5.45, 0.36 * number + 1.1), layout="constrained")
    axes = figure.subplots()
    places = np.arange(number)
    values = [value or 0.0 for value in report.average_precision]
    axes.barh(places, values, height=0.6, color=PALE, label="average precision")
    chance = report.support / report.num_samples
    axes.plot(chance, places, "|", color=RUST, markersize=10, label="random order", clip_on=False)
    for place, support in enumerate(report.support):
        axes.text(1.03, place, f"n = {support}", va="center", color=MUTED, fontsize=8.5)
    axes.set_yticks(places, [label(name) for name in report.classes])
    axes.set_ylim(number - 0.4, -0.6)
    _unit_axis(axes, "")
    figure.legend(loc="outside upper right", ncols=2, reverse=True)
    return _save_svg(figure)


@mpl.rc_context(STYLE)
def reliability(
    report: Report | MultiLabelReport, *, axes_names: tuple[str, str, str] = CONFIDENCE_AXES
) -> bytes:
    """Draw accuracy against confidence, the diagonal being a calibrated model, and how many samples each bin holds.

    Args:
        report: Whose bins are drawn.
        axes_names: What lies across, upwards, and what a bin holds.
    """
    across, upwards, held = axes_names
    filled = [part for part in report.bins if part.samples]
    left = [part.low for part in filled]
    width = report.bins[0].high - report.bins[0].low
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    top.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    bars = {"width": width, "align": "edge", "edgecolor": "white", "linewidth": 1}
    top.bar(left, [part.accuracy for part in filled], color=PALE, **bars)
    confidence = [part.confidence for part in filled]
    top.plot(
        confidence, [part.accuracy for part in filled], "o", color=BLUE, markersize=4, clip_on=False
    )
    bottom.bar(left, [part.samples for part in filled], color=MUTED, **bars)
    top.set(ylim=(0, 1), ylabel=upwards)
    top.set_title(f"calibration error {report.ece:.3f}")
    bottom.set_ylabel(held)
    bottom.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    _unit_axis(bottom, across)
    for axes in (top, bottom):
        axes.grid(axis="both")
    return _save_svg(figure)


@mpl.rc_context(STYLE)
def comparison_bars(rows: Sequence[Comparison], *, score: str = "balanced accuracy") -> bytes:
    """Draw one chart per condition, side by side, with a bar and its interval for each name.

    Raises:
        DataError: There is nothing to compare.
    """
    if not rows:
        raise DataError("no bar to draw: there is no evaluation to compare")
    names = list(dict.fromkeys(row.name for row in rows))
    conditions = list(dict.fromkeys(row.condition for row in rows))
    figure = Figure(figsize=(WIDTH, 0.42 * len(names) + 1.1))
    figure.set_layout_engine("constrained", wspace=0.06)
    panels = figure.subplots(1, len(conditions), sharey=True, squeeze=False)[0]
    for axes, condition in zip(panels, conditions, strict=True):
        for row in (row for row in rows if row.condition == condition):
            place = names.index(row.name)
            colour = MUTED if row.low is None else SERIES[place % len(SERIES)]
            axes.barh(place, row.value, height=0.56, color=colour, alpha=0.35)
            axes.vlines(row.value, place - 0.28, place + 0.28, color=colour, linewidth=2)
            if row.low is not None and row.high is not None:
                axes.hlines(place, row.low, row.high, color=INK, linewidth=1.2)
            axes.text(1.02, place, f"{row.value:.2f}", va="center", fontweight="bold")
        axes.set_title(label(condition, longest=40))
        _unit_axis(axes, score)
    panels[0].set_yticks(range(len(names)), [label(name) for name in names])
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    return _save_svg(figure)


class _Sheet:
    """A white sheet measured in pixels from its upper left corner, for pictures beside each other."""

    def __init__(self, width: int, height: int) -> None:
        self.figure = Figure(figsize=(width / 100, height / 100))
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        self.axes.set_axis_off()
        self.axes.set_autoscale_on(False)

    def place(self, picture: Picture, x: float, y: float, side: int) -> tuple[float, float, float]:
        """Centre a picture in a square; return its upper left corner and the factor it was scaled by."""
        assert picture.dtype == np.uint8, f"a picture holds {picture.dtype}, not uint8"
        assert picture.shape[2:] == (3,), f"a picture has the shape {picture.shape}, not (H, W, 3)"
        height, width = picture.shape[:2]
        scale = side / max(height, width)
        left, top = x + (side - width * scale) / 2, y + (side - height * scale) / 2
        extent = (left, left + width * scale, top + height * scale, top)
        self.axes.imshow(picture, extent=extent, aspect="auto")
        return left, top, scale

    def encode(self) -> bytes:
        """Return the sheet as WebP, at twice its size for dense screens."""
        return _save(self.figure, "webp", dpi=200, pil_kwargs={"quality": 85})


def _sheet(heads: Sequence[str], *, rows: int, groups: int, side: int) -> tuple[_Sheet, list[int]]:
    """Make a sheet with groups of headed columns; return it with the left edge of each column."""
    gap, between, number = 6, 30, len(heads) * groups
    lefts = [i * (side + gap) + i // len(heads) * (between - gap) for i in range(number)]
    sheet = _Sheet(lefts[-1] + side, 26 + rows * (side + gap) - gap)
    for left, head in zip(lefts, list(heads) * groups, strict=True):
        sheet.axes.text(left, 16, head, fontsize=8.5, color=MUTED)
    return sheet, lefts


@mpl.rc_context(STYLE)
def reconstruction_grid(rows: Sequence[tuple[Picture, Picture, Picture]]) -> bytes:
    """Show what the encoder saw, what the decoder made of it, and the original, for each sample.

    Raises:
        DataError: There is no sample.
    """
    if not rows:
        raise DataError("no reconstruction to show: there is no sample")
    groups, side = min(len(rows), 2), 144
    lines = math.ceil(len(rows) / groups)
    sheet, lefts = _sheet(("seen", "predicted", "original"), rows=lines, groups=groups, side=side)
    for i, triple in enumerate(rows):
        line, group = divmod(i, groups)
        for left, picture in zip(lefts[3 * group : 3 * group + 3], triple, strict=True):
            sheet.place(picture, left, 26 + line * (side + 6), side)
    return sheet.encode()


@mpl.rc_context(STYLE)
def crops(rows: Sequence[Crop]) -> bytes:
    """Show each scene with the box drawn on it, the person cut from it, and what the encoder saw of both.

    Raises:
        DataError: There is no scene.
    """
    if not rows:
        raise DataError("no crop to show: there is no scene")
    seen = any(row.seen_scene is not None or row.seen_person is not None for row in rows)
    heads = ("scene and box", "person", *(("scene, seen", "person, seen") if seen else ()))
    side = 216
    sheet, lefts = _sheet(heads, rows=len(rows), groups=1, side=side)
    for i, row in enumerate(rows):
        top = 26 + i * (side + 6)
        x, y, scale = sheet.place(row.scene, lefts[0], top, side)
        if row.box is not None:
            x0, y0, x1, y1 = (scale * edge for edge in row.box)
            box = Rectangle((x + x0, y + y0), x1 - x0, y1 - y0, fill=False, ec=RUST, lw=2)
            sheet.axes.add_patch(box)
        others = (row.person, row.seen_scene, row.seen_person)
        for left, picture in zip(lefts[1:], others, strict=False):
            if picture is not None:
                sheet.place(picture, left, top, side)
    return sheet.encode()
