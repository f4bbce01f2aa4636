"""What the view of the person adds: the same weights once with it, and once with the whole image in its place."""

from dataclasses import asdict, dataclass
from typing import Any

from uniemox.targets.parts import Grid, Interval


@dataclass(frozen=True, kw_only=True)
class Gain:
    """A score with the person and without."""

    name: str  # Of the metric
    title: str  # What a page calls it
    without: float
    value: float  # With the person
    difference: float  # With the person − without
    interval: Interval | None  # 95 % of the difference, paired; None for a single group of samples


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """The scores of a model of two views with the person and without, on the same samples."""

    num_samples: int
    num_with_person: int  # Samples that have the box of a person; the others are answered alike
    gains: tuple[Gain, ...]

    @property
    def text(self) -> str:
        """What a reader must know."""
        return (
            f"{self.num_with_person} of {self.num_samples} samples have the box of a person. The same weights answer "
            "them once with the person, and once with the whole image in the place of the person; differences are "
            "paired, with 95 % intervals. A model that is trained without the person might make up for it otherwise."
        )

    @property
    def parts(self) -> tuple[Grid]:
        """The table."""
        heads = ("score", "without the person", "with the person", "difference", "95 % paired")
        rows = [(one.title, one.without, one.value, one.difference, one.interval) for one in self.gains]
        return (Grid(heads, rows, are_shares=False),)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; `validate` reads them back."""
        return asdict(self)
