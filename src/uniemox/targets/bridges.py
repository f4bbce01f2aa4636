"""A model scored on data of other classes: where both meet, what becomes one there, and what is dropped.

Letters as in `scores`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt

from uniemox.emotions import Meeting
from uniemox.errors import DataError
from uniemox.wording import counted, listed

if TYPE_CHECKING:
    from uniemox.manifests.table import Manifest

Kind = TypeVar("Kind")
Logits = npt.NDArray[np.floating[Any]]
Parts = Sequence[Sequence[int]]  # Places of the classes that become each of others

_PLACES: Final = {"data": "the classes of the data", "model": "the classes of the model", "polarity": "polarity"}


@dataclass(frozen=True)
class Bridged:
    """What scores were bridged over, as `report.json` keeps it."""

    place: str  # data, model or polarity: what the classes that are scored are of
    classes: tuple[str, ...]
    model: Mapping[str, str]  # Class of the model to class that is scored
    data: Mapping[str, str]  # Class of the data to class that is scored
    model_dropped: Mapping[str, str]  # Why not, for each other class of the model
    data_dropped: Mapping[str, str]  # Why not, for each other class of the data
    joined: str  # How several classes of the model become one, in words
    ignored: str  # What becomes of the answers that are dropped, in words
    rows_of: Mapping[str, int] = field(default_factory=dict)
    """Labels of each class of the data that is dropped, in the split that is scored; empty of shares of raters."""
    num_dropped: int = 0  # Rows that lost all their labels, which are not scored
    num_rows: int = 0  # Those and the scored ones

    @classmethod
    def over(cls, found: Meeting, words: Sequence[str]) -> Self:
        """Describe a meeting, with the target's words for `joined` and `ignored`."""
        model, data = found.model, found.data
        joined, ignored = words
        sides = (model.mapped, data.mapped, model.dropped, data.dropped)
        return cls(found.place, found.classes, *sides, joined=joined, ignored=ignored)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild it from `to_dict`; `TypeError` for other values."""
        return cls(**{**values, "classes": tuple(values["classes"])})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    def count(self, before: Manifest, after: Manifest) -> Bridged:
        """Count what rows lost, from those with the labels of the data, and those that are left."""
        labels = before.class_counts()
        lost = {name: labels[name] for name in self.data_dropped} if any(labels.values()) else {}
        return replace(self, rows_of=lost, num_dropped=len(before) - len(after), num_rows=len(before))

    @property
    def sentences(self) -> list[str]:
        """Everything that was mapped and dropped, in words."""
        texts = [f"Bridged: model and data meet in {_PLACES[self.place]}, {listed(self.classes)}."]
        for side, mapped in (("of the model", self.model), ("of the data", self.data)):
            groups = {into: [name for name in mapped if mapped[name] == into] for into in self.classes}
            renamed = [f"{listed(names)} as {into}" for into, names in groups.items() if names != [into]]
            if renamed:
                how = f" ({self.joined})" if side == "of the model" else ""
                texts.append(f"Classes {side} are read as others: {'; '.join(renamed)}{how}.")
        if self.model_dropped:
            texts.append(f"Dropped of the model: {_reasons(self.model_dropped)}; {self.ignored}.")
        if self.data_dropped:
            counts = {name: f" ({count:,})" for name, count in self.rows_of.items()}
            there = {name: why for name, why in self.data_dropped.items() if self.rows_of.get(name) != 0}
            named = {f"{name}{counts.get(name, '')}": why for name, why in there.items()}
            rows = f"{self.num_dropped:,} of {counted(self.num_rows, 'row')} are not scored"
            texts += [f"Dropped of the data: {_reasons(named)}; {rows}."] if named else []
        return texts


def _reasons(dropped: Mapping[str, str]) -> str:
    """Name what was dropped, once for each reason."""
    names: dict[str, list[str]] = {}
    for name, reason in dropped.items():
        names.setdefault(reason, []).append(name)
    several = {"has": "have", "is": "are"}
    phrases = []
    for reason, own in names.items():
        verb, _, rest = reason.partition(" ")
        phrases.append(f"{listed(own)} {several.get(verb, verb) if own[1:] else verb} {rest}")
    return "; ".join(phrases)


class Crossing(NamedTuple, Generic[Kind]):
    """How a model's answers and a manifest's labels come together."""

    target: Kind  # Reads the labels, and scores what `lead` makes
    manifest: Manifest
    lead: Callable[[Logits], Logits] = lambda logits: logits  # From the model's logits (N, C) to those of the target
    bridged: Bridged | None = None  # None where both have the same classes

    def select(self, split: str, whole: Manifest) -> tuple[Manifest, Bridged | None]:
        """Take the rows of a split, and count what they lost since they were in `whole`."""
        before = whole.select([split])
        if split not in self.manifest.split_counts():
            rows = counted(len(before), "row")
            raise DataError(
                f"none of the {rows} of split {split} has a label that the model can answer: take other data"
            )
        after = self.manifest.select([split])
        return after, None if self.bridged is None else self.bridged.count(before, after)
