"""What a model's answers are worth on parts of the samples, such as the images of each scene."""

from collections.abc import Mapping  # pydantic reads annotations when it runs
from dataclasses import asdict, dataclass
from typing import Any, Final

from uniemox.targets.parts import Grid, Interval, Ranges

SMALL: Final = 30  # Groups or samples below which a slice is marked, and compared with none


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The scores of one part of the samples."""

    name: str
    num_samples: int
    num_units: int  # What is resampled: groups, or else samples
    values: Mapping[str, float]  # Of each metric that is kept, by its name
    intervals: Mapping[str, Interval]

    @property
    def is_small(self) -> bool:
        """Whether it says little."""
        return self.num_units < SMALL


@dataclass(frozen=True, kw_only=True)
class Gap:
    """The largest difference of two slices that are not small, in the headline metric."""

    low: str
    high: str
    value: float  # high − low
    interval: Interval  # 95 % for all pairs together (Bonferroni), since it is the largest of them
    pairs: int


@dataclass(frozen=True, kw_only=True)
class Slices:
    """The scores of each part of the samples, by a column."""

    column: str
    overlaps: bool  # Whether a sample can be in several
    metrics: tuple[tuple[str, str], ...]  # Names and titles of those that are shown; the first is the headline
    is_share: bool  # Whether the headline metric is one, to be shown as a percentage on the terminal
    whole: float  # The headline metric of all samples
    slices: tuple[Slice, ...]
    gap: Gap | None  # None where fewer than two slices are not small

    @property
    def text(self) -> str:
        """What a reader must know."""
        title, small = self.metrics[0][1], [one.name for one in self.slices if one.is_small]
        texts = ["An image is in each slice whose value it has."] if self.overlaps else []
        if small:
            texts.append(f"Marked *: fewer than {SMALL} independent images, which say little: {', '.join(small)}.")
        if self.gap is None:
            return " ".join([*texts, "No two slices are large enough to be compared."])
        ends = (self.gap.value, *self.gap.interval)
        value, low, high = (f"{100 * end:.1f}" if self.is_share else f"{end:.3f}" for end in ends)
        together = (
            f" for all {self.gap.pairs:,} pairs together, by Bonferroni: the largest of many gaps is large by chance"
        )
        texts.append(
            f"Largest gap in {title}, between {self.gap.low} and {self.gap.high}: {value}"
            f"{' points' if self.is_share else ''} ({low} to {high}; 95 %{together if self.gap.pairs > 1 else ''})."
        )
        texts.append("A gap names no cause: slices differ in their images and labels too.")
        return " ".join(texts)

    @property
    def parts(self) -> tuple[Ranges | Grid, ...]:
        """The chart and the table."""
        (name, title), *others = self.metrics
        names = [f"{one.name} *" if one.is_small else one.name for one in self.slices]
        chart = Ranges(
            title,
            names,
            [one.values[name] for one in self.slices],
            [one.intervals.get(name) for one in self.slices],
            f"The {title} of each slice by {self.column}, with intervals.",
            "The dashed line is the score of all images.",
            reference=self.whole,
        )
        rows = [
            (
                shown,
                one.num_samples,
                one.values[name],
                one.intervals.get(name),
                *(one.values.get(other) for other, _ in others),
            )
            for shown, one in zip(names, self.slices, strict=True)
        ]
        return chart, Grid(
            (self.column, "images", title, "95 %", *(other for _, other in others)), rows, are_shares=self.is_share
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; `validate` reads them back."""
        return asdict(self)
