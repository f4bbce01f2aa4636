"""What a page and the terminal show of scores, as data: tables and charts, which each draws in its own way.

Letters: C classes, P places, K confidence bins.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt


class Interval(NamedTuple):
    """Bounds of a 95 % bootstrap interval."""

    low: float
    high: float


class Bin(NamedTuple):
    """Samples with a confidence in (low, high], their mean confidence and share correct (0 without samples)."""

    low: float
    high: float
    samples: int
    confidence: float
    accuracy: float


class Grid(NamedTuple):
    """A table of numbers, one row for each name: shares as float, counts as int, None for no value."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str | int | float | Interval | None]]
    width: Literal["full", "half"] = "full"
    are_shares: bool = True  # Whether floats lie in [0, 1], to be shown as percentages on the terminal


class Bars(NamedTuple):
    """A bar for each class, in [0, 1], with marks on it and the number of samples beside it."""

    title: str
    names: Sequence[str]
    values: Sequence[float]
    marks: Sequence[tuple[str, Sequence[float], Literal["diamond", "circle", "line"]]]
    """Names, second values of the bars (NaN draws none), and shapes."""
    counts: Sequence[int]  # Of samples, where it differs between classes; else none
    alt: str
    caption: str
    axis: str = ""  # What is shown across, where the bar's name does not say it


class Matrix(NamedTuple):
    """A confusion matrix (C, C) of counts, rows true."""

    names: Sequence[str]
    counts: npt.NDArray[np.int64]
    alt: str
    caption: str


class Calibration(NamedTuple):
    """Confidence against accuracy in bins."""

    bins: Sequence[Bin]
    error: float
    alt: str
    caption: str
    axes: tuple[str, str, str]  # What is shown across, upwards, and in each bin
    before: Sequence[Bin] = ()  # Before a temperature was fitted, where that is known


class Curve(NamedTuple):
    """A line over shares, in [0, 1], and where it would run if what is across did not matter."""

    title: str
    axes: tuple[str, str]  # What is shown across and upwards
    points: Sequence[tuple[float, float]]
    level: float  # Of the line for comparison
    alt: str
    caption: str


class Scatter(NamedTuple):
    """Dots in a square with the same scale on both axes."""

    title: str
    axes: tuple[str, str]  # What is shown across and upwards
    series: Sequence[
        tuple[str, npt.NDArray[np.float64], npt.NDArray[np.float64]]
    ]  # Names, empty for one alone, and places (P,) across and upwards
    limits: tuple[float, float]  # Ends of both axes
    alt: str
    caption: str
    is_diagonal: bool = False  # Whether a line shows where both are equal
    is_crossed: bool = False  # Whether lines cross in the middle


class Ranges(NamedTuple):
    """Numbers with the bounds of their intervals, one for each name."""

    title: str
    names: Sequence[str]
    values: Sequence[float]
    intervals: Sequence[Interval | None]
    alt: str
    caption: str
    reference: float | None = None  # Where a line shows what they are compared with


Part = Grid | Bars | Matrix | Calibration | Curve | Scatter | Ranges


class Display(NamedTuple):
    """What is shown of scores beside their metrics."""

    samples: str = "labelled samples."  # What was scored, after its number
    explanation: str = ""  # What a reader of the metrics should know
    warnings: Sequence[str] = ()
    baselines: Sequence[tuple[str, float]] = ()  # Shares that answers without a look at the image would reach
    panels: Sequence[tuple[str, Sequence[Part]]] = ()  # Sections of a page: titles and contents
