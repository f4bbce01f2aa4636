"""Charts of a collection of predictions, as SVG that is read on a phone without scrolling."""

from collections.abc import Sequence
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from uniemox.emotions import circumplex
from uniemox.report.charts import GRID, INK, MUTED, STYLE, label, save_svg
from uniemox.targets.scores import Floats

OTHER: Final = "#c9ced8"  # Colour of what is summed up as others
_HALF: Final = 5.45  # Inches, as wide as half a page or a phone
_PALETTE: Final = (
    *("#2b6cb0", "#e0a33e", "#2f7d5b", "#c05638", "#7a5c99", "#6ea5d8", "#8fb06a", "#d48a9a", "#8c6d46", "#46a09c"),
    *("#b8c04a", "#5b6b8c", "#e2825f", "#a98bc9", "#3f6f4f", "#9fb9c9", "#c7a27c", "#8a3f4e", "#5d9e7e", "#d9c27a"),
)
_OWN: Final = {
    "anger": "#c0392b",
    "fear": "#6c4a8f",
    "sadness": "#2b6cb0",
    "disgust": "#5f7d3a",
    "amusement": "#e9a23b",
    "awe": "#58a6d6",
    "contentment": "#46a09c",
    "excitement": "#e2725b",
    "happiness": "#e9bd3b",
    "joy": "#e9bd3b",
    "surprise": "#d48ab0",
    "neutral": "#a5adba",
    "love": "#d1608f",
    "peace": "#7fb8a8",
    "positive": "#46a09c",
    "negative": "#c05638",
    "others": OTHER,
}  # Where a colour is expected


def colours_of(names: Sequence[str]) -> list[str]:
    """Choose a colour for each name: that which is expected of an emotion, others in the order of the palette."""
    own = [_OWN.get(name.casefold()) for name in names]
    left = iter([colour for colour in _PALETTE if colour not in own] * len(names))
    return [colour or next(left) for colour in own]


def _percent(axes: Axes, side: str = "x") -> None:
    axis = axes.xaxis if side == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    axis.set_major_locator(MaxNLocator(5))
    axes.grid(axis=side)  # type: ignore[arg-type]


@mpl.rc_context(STYLE)
def mix_bars(names: Sequence[str], shares: Floats, low: Floats, high: Floats) -> bytes:
    """Draw a bar for each emotion's share with its interval, of which NaN draws none."""
    figure = Figure(figsize=(_HALF, 0.36 * len(names) + 0.7), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(names))
    axes.barh(places, shares, height=0.62, color=colours_of(names))
    ends = np.where(np.isnan(high), shares, high)
    for place, share, left, right, end in zip(places, shares, low, high, ends, strict=True):
        if not np.isnan(left):
            axes.hlines(place, left, right, color=INK, linewidth=1.2)
        axes.annotate(
            f"{100 * share:.1f} %", (end, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8.5
        )
    axes.set_yticks(places, [label(name) for name in names])
    axes.set(ylim=(len(names) - 0.4, -0.6), xlim=(0, 1.16 * max(float(ends.max()), 0.01)))
    axes.spines["left"].set_visible(False)
    _percent(axes)
    return save_svg(figure)


@mpl.rc_context(STYLE)
def circle(names: Sequence[str], shares: Floats) -> bytes:
    """Draw emotions, which have a place on the circumplex, each as a disc of an area that goes with its share."""
    figure = Figure(figsize=(_HALF, 4.2), layout="constrained")
    axes = figure.subplots()
    turn = np.linspace(0, 2 * np.pi, 181)
    thin: Any = {"color": GRID, "linewidth": 1.2}
    axes.plot(np.cos(turn), np.sin(turn), **thin)
    axes.axhline(0, **thin)
    axes.axvline(0, **thin)
    side: Any = {"color": MUTED, "fontsize": 8}
    axes.text(0.96, 0.03, "pleasant", ha="right", va="bottom", **side)
    axes.text(-0.96, 0.03, "unpleasant", ha="left", va="bottom", **side)
    axes.text(0.03, 0.94, "activated", ha="left", va="top", **side)
    axes.text(0.03, -0.94, "calm", ha="left", va="bottom", **side)
    for name, share, colour in zip(names, shares, colours_of(names), strict=True):
        angle = np.radians(circumplex(name) or 0)
        x, y, size = np.cos(angle), np.sin(angle), 4 + 60 * np.sqrt(share)  # Points
        axes.plot(x, y, "o", color=colour, markersize=size, alpha=0.75, mew=0)
        axes.annotate(
            f"{label(name)} {100 * share:.0f} %",
            (x, y),
            xytext=(x * (size / 2 + 4), y * (size / 2 + 7)),
            textcoords="offset points",
            ha="left" if x > 0.25 else "right" if x < -0.25 else "center",
            va="center",
            fontsize=9,
        )
    axes.set(xlim=(-1.75, 1.75), ylim=(-1.35, 1.35), aspect="equal")
    axes.set_axis_off()
    return save_svg(figure)


@mpl.rc_context(STYLE)
def stacks(labels: Sequence[str], rows: Floats, names: Sequence[str], shares: Floats) -> bytes:
    """Draw a bar for each category, cut into the shares (K, C) of emotions, with its number of rows beside it."""
    figure = Figure(figsize=(_HALF, 0.34 * len(labels) + 0.7 + 0.22 * -(-len(names) // 4)), layout="constrained")
    axes = figure.subplots()
    places, left = np.arange(len(labels)), np.zeros(len(labels))
    for name, colour, width in zip(names, colours_of(names), shares.T, strict=True):
        axes.barh(places, width, left=left, height=0.72, color=colour, label=label(name), edgecolor="white", lw=0.5)
        left += width
    for place, count in zip(places, rows, strict=True):
        axes.annotate(
            f"{count:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}"),
            (left.max(), place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=MUTED,
            fontsize=8.5,
        )
    axes.set_yticks(places, [label(name, longest=24) for name in labels])
    axes.set(ylim=(len(labels) - 0.4, -0.6), xlim=(0, 1.001 * left.max()))
    axes.spines["left"].set_visible(False)
    _percent(axes)
    figure.legend(loc="outside upper left", ncols=4, fontsize=8.5, handlelength=1, columnspacing=1.2)
    return save_svg(figure)


@mpl.rc_context(STYLE)
def differences(names: Sequence[str], value: Floats, low: Floats, high: Floats, *, are_shares: bool) -> bytes:
    """Draw a dot for each difference with its interval, and the line where nothing differs."""
    figure = Figure(figsize=(_HALF, 0.36 * len(names) + 0.8), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(names))
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.hlines(places, low, high, color=colours_of(names), linewidth=2.2)
    axes.scatter(value, places, color=colours_of(names), s=26, zorder=3)
    axes.set_yticks(places, [label(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    if are_shares:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{100 * at:+.0f}" if at else "0"))
        axes.set_xlabel("percentage points")
    axes.grid(axis="x")
    return save_svg(figure)


@mpl.rc_context(STYLE)
def course(seconds: Floats, names: Sequence[str], values: Floats, *, are_shares: bool) -> bytes:
    """Draw how the shares, or the ratings, (T, C) of a video go over time; NaN where no frame is."""
    figure = Figure(figsize=(_HALF, 2.6 + 0.2 * -(-len(names) // 4)), layout="constrained")
    axes = figure.subplots()
    colours = [label(name) for name in names], colours_of(names)
    if are_shares:
        width = float(np.diff(seconds).min()) if len(seconds) > 1 else 1.0
        low = np.zeros(len(seconds))
        for name, colour, part in zip(*colours, np.nan_to_num(values).T, strict=True):
            axes.bar(seconds, part, width, bottom=low, align="edge", color=colour, label=name)
            low += part
        axes.set(xlim=(seconds[0], seconds[-1] + width))
        _percent(axes, "y")
    else:
        for name, colour, part in zip(*colours, values.T, strict=True):
            axes.plot(seconds, part, color=colour, marker="o", markersize=3, label=name)
        axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: clock(at)))
    axes.spines["left"].set_visible(False)
    figure.legend(loc="outside upper left", ncols=4, fontsize=8.5, handlelength=1, columnspacing=1.2)
    return save_svg(figure)


def clock(seconds: float) -> str:
    """Write a time of a video as minutes and seconds, or with hours."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
