"""What changes of the images do to a model's answers: scores, differences to the unchanged, and answers that flip."""

from collections.abc import Mapping  # pydantic reads annotations when it runs
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final

from annotated_types import Len

from uniemox.targets.parts import Grid, Interval, Ranges

UNCHANGED: Final = "unchanged"


@dataclass(frozen=True, kw_only=True)
class Shift:
    """What one change of one strength does to the answers."""

    change: str
    strength: str  # In words; empty where a change has but one
    values: Mapping[str, float]  # Of each metric that is kept, by its name
    interval: Interval | None = None  # 95 %, of the headline metric, as the next ones are; None for a single group
    difference: float = 0.0  # Changed − unchanged
    difference_interval: Interval | None = None
    flipped: float = 0.0  # Share of the answers that are others than to the unchanged images
    flipped_interval: Interval | None = None

    @property
    def title(self) -> str:
        """The change and its strength."""
        return f"{self.change}, {self.strength}" if self.strength else self.change


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """What changes do to the answers to one set of images."""

    metric: str  # Name of the headline metric
    title: str  # What a page calls it
    is_share: bool  # Whether it is one, to be shown as a percentage on the terminal
    flips: str  # What `flipped` counts
    description: str  # The changes in words
    shifts: Annotated[tuple[Shift, ...], Len(2, 64)]  # Of the unchanged images first
    measured_on: str = ""  # Which images, and how many

    @property
    def text(self) -> str:
        """What a reader must know, in paragraphs."""
        worst = max(self.shifts[1:], key=lambda one: one.flipped)
        most = f"Most flip by {worst.title}: {100 * worst.flipped:.1f} %." if worst.flipped else "No answer flips."
        flips = f"Flipped: {self.flips}. {most}"
        ranges = "Ranges are 95 % intervals, those of differences paired by image; none is corrected for their number."
        return f"{self.description}\n\n{flips} {ranges}"

    @property
    def parts(self) -> tuple[Ranges | Grid, ...]:
        """The charts and the table."""
        first, *others = self.shifts
        names = [one.title for one in others]
        scores = Ranges(
            self.title,
            names,
            [one.values[self.metric] for one in others],
            [one.interval for one in others],
            f"The {self.title} on images of each change, with intervals.",
            "The dashed line is the score on unchanged images.",
            reference=first.values[self.metric],
        )
        flipped = Ranges(
            "flipped",
            names,
            [one.flipped for one in others],
            [one.flipped_interval for one in others],
            "The share of flipped answers for each change, with intervals.",
            "Answers that are others than to the unchanged image, right or wrong.",
        )
        heads = ("change", "strength", self.title, "95 %", "difference", "95 % paired", "flipped", "95 % of flipped")
        rows: list[tuple[str | float | Interval | None, ...]] = [
            (first.change, "", first.values[self.metric], first.interval, None, None, None, None)
        ]
        for one in others:
            moved = (one.difference, one.difference_interval, one.flipped, one.flipped_interval)
            rows.append((one.change, one.strength, one.values[self.metric], one.interval, *moved))
        return scores, flipped, Grid(heads, rows, are_shares=self.is_share)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; `validate` reads them back."""
        return asdict(self)
