"""What answers with one softmax over the classes share: their answers, and what is promised of these."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from uniemox.config.training import PromiseConfig
from uniemox.targets.bridges import Parts
from uniemox.targets.calibration import softmax
from uniemox.targets.columns import SHARE, Column
from uniemox.targets.conformal import Guarantees, fit_guarantees
from uniemox.targets.intervals import Codes
from uniemox.targets.scores import Flags, Floats
from uniemox.targets.target import Logits, Numbers, Target, read_shares, refuse_infinite

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class SoftmaxTarget(Target):
    """A target whose numbers are a softmax over the classes."""

    weights: tuple[float, ...] = ()  # (C,), of the classes in the loss; empty for equal ones
    guarantees: Guarantees = field(default_factory=Guarantees)  # What was fitted for a model

    has_guarantees = True
    flip_words = "images with another likeliest class"
    joining = ("their probabilities summed", "the others share out its probability")

    def bind(self, classes: tuple[str, ...], numbers: Numbers = MappingProxyType({})) -> Self:
        """Make the target of these classes, with what was fitted for a model; `DataError` if that cannot be."""
        return replace(self, classes=classes, guarantees=Guarantees.from_numbers(numbers))

    def to_facts(self) -> dict[str, Any]:
        """Return what a model folder keeps."""
        return {**super().to_facts(), "numbers": self.guarantees.to_numbers()}

    @property
    def about(self) -> dict[str, Any]:
        """The fields of `Scores` that describe the target."""
        return {**super().about, "metrics": (*self.metrics, *self.guarantees.metrics)}

    @property
    def fitted(self) -> str:
        """What a card reports of what was fitted on val."""
        return self.guarantees.fitted

    @abstractmethod
    def is_true(self, labels: npt.NDArray[Any]) -> Flags:
        """Decide which classes are a right answer to each sample (N, C)."""

    def fit_guarantees(
        self, logits: Logits, labels: npt.NDArray[Any], asked: PromiseConfig, groups: Codes | None = None
    ) -> tuple[Self, tuple[str, ...]]:
        """Fit label sets and abstention on val."""
        refuse_infinite(logits)
        guarantees, notes = fit_guarantees(softmax(logits), self.is_true(labels), asked, groups)
        return replace(self, guarantees=guarantees), notes

    def without_guarantees(self) -> Self:
        """Return it without what was fitted for one model."""
        return replace(self, guarantees=Guarantees())

    def join(self, classes: tuple[str, ...], parts: Parts) -> Self:
        """Return the target of other classes; label sets and abstention were fitted for these, and are lost."""
        del parts
        return replace(self.without_guarantees(), classes=classes, weights=())

    def join_logits(self, logits: Logits, parts: Parts) -> Logits:
        """Sum the probabilities of each part; the softmax brings what is left to a sum of 1."""
        from scipy.special import logsumexp  # slow to import

        return np.stack([logsumexp(logits[:, part], axis=1) for part in map(list, parts)], axis=1)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The likeliest class, its probability, and those of all."""
        shares = (Column(f"{SHARE}{name}", "share") for name in self.classes)
        return (Column("predicted", "text"), Column("confidence", "share"), *self.guarantees.columns, *shares)

    def answers(self, logits: Logits) -> list[dict[str, Any]]:
        """Answer with the likeliest class, the first of equals."""
        probabilities = softmax(logits)
        return [
            {
                "predicted": self.classes[place],
                "confidence": row[place],
                **promised,
                "probabilities": dict(zip(self.classes, row, strict=True)),
            }
            for row, place, promised in zip(
                probabilities.tolist(),
                probabilities.argmax(1).tolist(),
                self.guarantees.answers(probabilities, self.classes),
                strict=True,
            )
        ]

    def numbers(self, logits: Logits) -> Floats:
        """Compute the probabilities (N, C)."""
        return softmax(logits)

    def read_numbers(self, table: pa.Table) -> Floats:
        """Read the probabilities (N, C) of a table back."""
        return read_shares(table, (f"{SHARE}{name}" for name in self.classes))

    def decisions(self, logits: Logits) -> npt.NDArray[np.int64]:
        """Choose the likeliest classes (N,)."""
        likeliest: npt.NDArray[np.int64] = softmax(logits).argmax(1)
        return likeliest
