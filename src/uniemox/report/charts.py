"""Charts and images for reports, as bytes: SVG for lines and numbers, WebP for images.

Only matplotlib's object interface is used, so no figure stays open. Images are uint8 arrays (H, W, 3).
"""

import io
import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw

from uniemox.errors import DataError
from uniemox.targets.scores import Bars, Calibration, Curve, Matrix, Ranges, Scatter
from uniemox.wording import one_line, printable

Pixels = npt.NDArray[np.uint8]
Lines = Sequence[Mapping[str, Any]]

INK, MUTED, GRID, HIDDEN = "#1f2a37", "#667085", "#e6e9ee", 226
BLUE, PALE, RUST = "#2b6cb0", "#bcd5ec", "#c05638"
SERIES = (BLUE, RUST, "#2f7d5b", "#7a5c99", "#b59b54", MUTED)
HEAT = LinearSegmentedColormap.from_list("heat", ["#f7f9fc", "#bcd5ec", "#6ea5d8", BLUE, "#163d66"])
TERMS = ("loss", "contrast", "similarity", "reconstruction")
NOT_TERMS = {"step", "epoch", "lr", "images_per_second", "data_wait", "seconds", "seconds_left", "time"}
WIDTH = 11.3  # inches, as wide as a page
STYLE: Any = {
    "text.usetex": False,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.fonttype": "none",  # the reader's fonts know more scripts than matplotlib's
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
MARKS = {"diamond": ("d", RUST, 5), "circle": ("o", BLUE, 5), "line": ("|", RUST, 10)}  # Marker, colour and size


class ScoreBar(NamedTuple):
    """One bar: what was evaluated, on what, and its score in [0, 1] with the bounds of its interval."""

    name: str
    condition: str
    value: float
    low: float | None = None
    high: float | None = None


def label(name: str, *, longest: int = 28) -> str:
    """Make a name safe to draw: one short line, in which is seen what a table of the page shows."""
    line = printable(one_line(name))
    return line if len(line) <= longest else line[: longest - 1] + "…"


def hide(image: Pixels, hidden: npt.NDArray[np.bool]) -> Pixels:
    """Grey out the patches of an image that the encoder did not see: `hidden` (rows, columns) is true."""
    height, width = image.shape[0] // hidden.shape[0], image.shape[1] // hidden.shape[1]
    covered = np.kron(hidden, np.ones((height, width), dtype=bool)).astype(bool)
    assert covered.shape == image.shape[:2], "the image is not a whole number of patches"
    return np.where(covered[..., None], np.uint8(HIDDEN), image)


def thumbnail(image: Pixels, *, side: int = 240) -> bytes:
    """Encode an image as WebP, shrunk so that neither side is longer than `side` pixels."""
    small = Image.fromarray(image)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return encode(small, quality=82)


def frame(image: Image.Image, edges: Sequence[float | None]) -> Image.Image:
    """Frame the person that a row is about, wide enough to be seen in a small copy; without edges, nobody."""
    known = [edge for edge in edges if edge is not None]
    if not known or len(known) < len(edges):
        return image
    framed = image.copy()
    ImageDraw.Draw(framed).rectangle(known, outline=BLUE, width=max(2, max(image.size) // 80))
    return framed


def encode(image: Image.Image, *, quality: int) -> bytes:
    """Encode an image as WebP."""
    buffer = io.BytesIO()
    image.save(buffer, "webp", quality=quality)
    return buffer.getvalue()


def _save(figure: Figure, form: str = "svg", **options: Any) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The reader's fonts draw what matplotlib's lack.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure.savefig(buffer, format=form, **options)
    return buffer.getvalue()


def save_svg(figure: Figure) -> bytes:
    """Return a figure as SVG, in the fonts of whoever reads it."""
    svg = _save(figure, metadata={"Date": None, "Creator": None})
    return svg.replace(b"'DejaVu Sans'", b"system-ui, 'DejaVu Sans', sans-serif")


def _unit_axis(axes: Axes, name: str) -> None:
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
    axes.set_xlabel(name)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)


def _smooth(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Average over a window of a twentieth of the values, narrower near the ends so that it stays centred."""
    places = np.arange(len(values))
    reach = np.minimum(len(values) // 40, np.minimum(places, places[::-1]))
    sums = np.concatenate([[0], values.cumsum()])
    means: npt.NDArray[np.float64] = (sums[places + reach + 1] - sums[places - reach]) / (2 * reach + 1)
    return means


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _terms(runs: Mapping[str, Lines]) -> list[str]:
    """List what lines of `metrics.jsonl` measure: every number that is not a step, a rate or a time."""
    steps = [line for lines in runs.values() for line in lines if "step" in line]
    found = {key for line in steps for key, value in line.items() if _is_number(value)} - NOT_TERMS
    first = [term for term in TERMS if term in found]
    return first + sorted(found - set(first))


@mpl.rc_context(STYLE)
def loss_curves(
    runs: Lines | Mapping[str, Lines],
    *,
    terms: Sequence[str] = (),
    titles: Mapping[str, str] = MappingProxyType({}),
    arms: Mapping[str, str] = MappingProxyType({}),
    chosen: Mapping[str, int] = MappingProxyType({}),
) -> bytes:
    """Draw one small chart per term over the steps, from the lines of `metrics.jsonl`.

    Args:
        runs: Lines of one run, or of several by name.
        terms: What to draw; by default every number that is not a step, a rate or a time.
        titles: What terms are called, where that is not their name.
        arms: Names of what several runs belong to, which gives them one colour; by default each has its own.
        chosen: Steps of runs at which a dot stands.

    Raises:
        DataError: No line holds a term.
    """
    by_name: Mapping[str, Lines] = runs if isinstance(runs, Mapping) else {"": runs}
    terms = terms or _terms(by_name)
    if not terms:
        raise DataError("no curve to draw: the run has logged no step yet")
    columns = min(len(terms), 4)
    rows = math.ceil(len(terms) / columns)
    colours = dict(zip(dict.fromkeys(arms.get(name, name) for name in by_name), itertools.cycle(SERIES), strict=False))
    figure = Figure(figsize=(WIDTH, 2.5 * rows + 0.3 * math.ceil(len(colours) / 6) * (len(by_name) > 1)))
    figure.set_layout_engine("constrained", hspace=0.08)
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    for axes, term in zip(panels, terms, strict=False):
        for name, lines in by_name.items():
            colour = colours[arms.get(name, name)]
            points = ((line["step"], line[term]) for line in lines if "step" in line and _is_number(line.get(term)))
            finite = [point for point in points if all(map(math.isfinite, point))]
            steps, values = np.array(finite, dtype=np.float64).reshape(-1, 2).T
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            form = "o" if len(steps) == 1 else "-"  # a line through one point would show nothing
            smooth = _smooth(values)
            axes.plot(steps, smooth, form, color=colour, linewidth=1.8)
            if name in chosen and len(steps):
                axes.plot(chosen[name], np.interp(chosen[name], steps, smooth), "o", color=colour, markersize=6)
        axes.set_title(label(titles.get(term, term.replace("_", " "))))
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_tick_params(labelbottom=True)
    for axes in panels[len(terms) :]:
        axes.set_axis_off()
    figure.supxlabel("step", color=MUTED, fontsize=9.5)
    if len(by_name) > 1:
        handles = [Line2D([], [], color=colour, linewidth=1.8) for colour in colours.values()]
        figure.legend(handles, list(map(label, colours)), loc="outside upper left", ncols=min(6, len(colours)))
    return save_svg(figure)


@mpl.rc_context(STYLE)
def confusion(matrix: Matrix, title: str = "") -> bytes:
    """Draw a confusion matrix, coloured by the share of each true class; numbers only while they can be read."""
    counts = matrix.counts
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
    names = [label(name) for name in matrix.names]
    middles = np.arange(number) + 0.5
    axes.set_xticks(middles, names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(middles, names)
    axes.set(xlim=(0, number), ylim=(number, 0), aspect="equal", xlabel="predicted", ylabel="true")
    axes.set_title(label(title, longest=60))
    axes.spines[:].set_visible(False)
    return save_svg(figure)


@mpl.rc_context(STYLE)
def class_bars(bars: Bars) -> bytes:
    """Draw a bar for each class, with its marks and, where it differs, the number of samples beside it."""
    number = len(bars.names)
    figure = Figure(figsize=(5.45, 0.36 * number + 1.1), layout="constrained")
    axes = figure.subplots()
    places = np.arange(number)
    axes.barh(places, bars.values, height=0.6, color=PALE, label=bars.title)
    for name, values, shape in bars.marks:
        marker, colour, size = MARKS[shape]
        axes.plot(values, places, marker, color=colour, markersize=size, label=name, clip_on=False)
    axes.tick_params("y", pad=7)  # clear of a mark at 0
    for place, count in enumerate(bars.counts):
        axes.text(1.03, place, f"n = {count}", va="center", color=MUTED, fontsize=8.5)
    axes.set_yticks(places, [label(name) for name in bars.names])
    axes.set_ylim(number - 0.4, -0.6)
    _unit_axis(axes, bars.axis)
    figure.legend(loc="outside upper right", ncols=1 + len(bars.marks), reverse=True)
    return save_svg(figure)


@mpl.rc_context(STYLE)
def reliability(calibration: Calibration) -> bytes:
    """Draw accuracy against confidence, the diagonal being a calibrated model, and how many samples each bin holds."""
    across, upwards, held = calibration.axes
    filled = [part for part in calibration.bins if part.samples]
    left = [part.low for part in filled]
    width = calibration.bins[0].high - calibration.bins[0].low
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    top.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    bars = {"width": width, "align": "edge", "edgecolor": "white", "linewidth": 1}
    top.bar(left, [part.accuracy for part in filled], color=PALE, **bars)
    confidence = [part.confidence for part in filled]
    top.plot(confidence, [part.accuracy for part in filled], "o", color=BLUE, markersize=4, clip_on=False)
    bottom.bar(left, [part.samples for part in filled], color=MUTED, **bars)
    before = [part for part in calibration.before if part.samples]
    rings: Any = {"color": RUST, "markersize": 5, "fillstyle": "none", "clip_on": False}
    top.plot([part.confidence for part in before], [part.accuracy for part in before], "o", **rings)
    top.set(ylim=(0, 1), ylabel=upwards)
    top.set_title(f"calibration error {calibration.error:.3f}")
    bottom.set_ylabel(held)
    bottom.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    _unit_axis(bottom, across)
    for axes in (top, bottom):
        axes.grid(axis="both")
    return save_svg(figure)


@mpl.rc_context(STYLE)
def curve(plot: Curve) -> bytes:
    """Draw a line over shares, from its lowest point or that of the dashed line for comparison up to 1."""
    figure = Figure(figsize=(4.6, 3.4), layout="constrained")
    axes = figure.subplots()
    across, upwards = np.array(plot.points, dtype=np.float64).T
    axes.axhline(plot.level, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.plot(across, upwards, "o-", color=BLUE, markersize=4, linewidth=1.8, clip_on=False)
    lowest = min(upwards.min(), plot.level)
    axes.set(ylim=(max(0.0, math.floor(10 * lowest - 1) / 10), 1), ylabel=plot.axes[1])
    axes.set_title(label(plot.title, longest=60))
    _unit_axis(axes, plot.axes[0])
    axes.grid(axis="both")
    return save_svg(figure)


@mpl.rc_context(STYLE)
def scatter(plot: Scatter) -> bytes:
    """Draw dots of one colour for each series, in a square."""
    low, high = plot.limits
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.subplots()
    thin: Any = {"color": MUTED, "linewidth": 0.8, "linestyle": (0, (4, 3))}
    if plot.is_diagonal:
        axes.plot([low, high], [low, high], **thin)
    if plot.is_crossed:
        axes.axhline((low + high) / 2, **thin)
        axes.axvline((low + high) / 2, **thin)
    for colour, (name, across, upwards) in zip(itertools.cycle(SERIES), plot.series, strict=False):
        many = 0.75 if len(across) < 100 else 0.4
        axes.plot(across, upwards, "o", color=colour, markersize=4, alpha=many, mew=0, label=name, clip_on=False)
    if high - low <= 12 and float(low).is_integer() and float(high).is_integer():
        axes.set_xticks(np.arange(low, high + 1))
        axes.set_yticks(np.arange(low, high + 1))
    margin = 0.02 * (high - low)
    limits = (low - margin, high + margin)
    axes.set(xlim=limits, ylim=limits, aspect="equal", xlabel=plot.axes[0], ylabel=plot.axes[1])
    axes.grid(axis="both")
    axes.set_title(label(plot.title, longest=60))
    if len(plot.series) > 1:
        figure.legend(loc="outside upper right", ncols=len(plot.series))
    return save_svg(figure)


@mpl.rc_context(STYLE)
def ranges(plot: Ranges) -> bytes:
    """Draw a dot for each name, with its interval, and a line for what they are compared with."""
    number = len(plot.names)
    figure = Figure(figsize=(5.45, 0.26 * number + 0.9), layout="constrained")
    axes = figure.subplots()
    if plot.reference is not None:
        axes.axvline(plot.reference, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    for place, bounds in enumerate(plot.intervals):
        if bounds is not None:
            axes.hlines(place, *bounds, color=BLUE, linewidth=1.4)
    axes.plot(plot.values, range(number), "o", color=BLUE, markersize=4.5, clip_on=False)
    axes.set_yticks(range(number), [label(name) for name in plot.names])
    axes.set_ylim(number - 0.4, -0.6)
    axes.grid(axis="both")
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_title(label(plot.title, longest=60))
    return save_svg(figure)


@mpl.rc_context(STYLE)
def comparison_bars(rows: Sequence[ScoreBar], *, score: str = "balanced accuracy") -> bytes:
    """Draw one chart per condition, side by side, with a bar and its interval for each name; at least one."""
    names = list(dict.fromkeys(row.name for row in rows))
    conditions = list(dict.fromkeys(row.condition for row in rows))
    figure = Figure(figsize=(WIDTH, 0.42 * len(names) + 1.1))
    figure.set_layout_engine("constrained", wspace=0.06)
    panels = dict(zip(conditions, figure.subplots(1, len(conditions), sharey=True, squeeze=False)[0], strict=True))
    for row in rows:
        axes, place = panels[row.condition], names.index(row.name)
        colour = MUTED if row.low is None else SERIES[place % len(SERIES)]
        axes.barh(place, row.value, height=0.56, color=colour, alpha=0.35)
        axes.vlines(row.value, place - 0.28, place + 0.28, color=colour, linewidth=2)
        if row.low is not None and row.high is not None:
            axes.hlines(place, row.low, row.high, color=INK, linewidth=1.2)
        axes.text(1.02, place, f"{row.value:.2f}", va="center", fontweight="bold")
    for condition, axes in panels.items():
        axes.set_title(label(condition, longest=40))
        _unit_axis(axes, score)
    panels[conditions[0]].set_yticks(range(len(names)), [label(name) for name in names])
    panels[conditions[0]].set_ylim(len(names) - 0.5, -0.5)
    return save_svg(figure)


@mpl.rc_context(STYLE)
def image_grid(
    heads: Sequence[str],
    rows: Sequence[Sequence[Pixels]],
    *,
    boxes: Sequence[tuple[float, float, float, float]] = (),
    side: int,
    groups: int = 1,
) -> bytes:
    """Show rows of images in squares under the heads of their columns.

    Args:
        heads: One for each image of a row.
        rows: Images, at least one row.
        boxes: One for each row, in pixels of its first image, to be drawn on it.
        side: Pixels of a square; the sheet has twice as many, for dense screens.
        groups: Rows that are set beside each other.
    """
    top, gap, between = 26, 6, 30
    lefts = [i * (side + gap) + i // len(heads) * (between - gap) for i in range(len(heads) * groups)]
    width, height = lefts[-1] + side, top + math.ceil(len(rows) / groups) * (side + gap) - gap
    figure = Figure(figsize=(width / 100, height / 100))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    axes.set_autoscale_on(False)
    for left, head in zip(lefts, [*heads] * groups, strict=True):
        axes.text(left, 16, head, fontsize=8.5, color=MUTED)
    for place, row in enumerate(rows):
        line, group = divmod(place, groups)
        for column, image in enumerate(row):
            assert image.dtype == np.uint8, f"an image holds {image.dtype}, not uint8"
            scale = side / max(image.shape[:2])
            down, across = (scale * length for length in image.shape[:2])
            x = lefts[group * len(heads) + column] + (side - across) / 2
            y = top + line * (side + gap) + (side - down) / 2
            axes.imshow(image, extent=(x, x + across, y + down, y), aspect="auto")
            if column == 0 and boxes:
                x0, y0, x1, y1 = (scale * edge for edge in boxes[place])
                axes.add_patch(Rectangle((x + x0, y + y0), x1 - x0, y1 - y0, fill=False, ec=RUST, lw=2))
    return _save(figure, "webp", dpi=200, pil_kwargs={"quality": 85})
