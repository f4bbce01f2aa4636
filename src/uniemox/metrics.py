"""What a classifier's probabilities are worth, as one `Report`.

Letters: N samples, C classes, K confidence bins. A confusion matrix counts samples: rows are the true classes, columns
the predicted ones. What follows from it is a property, and has an interval once `INTERVAL_METRICS` names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from uniemox.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from uniemox.config import SelectionMetric

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
IntervalMetric = Literal["top1", "balanced_accuracy", "macro_f1", "weighted_f1"]

NUM_BINS = 15  # Guo et al. 2017, section 4
NUM_RESAMPLES = 1000
SUM_TOLERANCE = 1e-2  # a softmax in bfloat16 keeps two to three digits


class Interval(NamedTuple):
    """Bounds of a 95 % percentile bootstrap interval (Efron 1981)."""

    low: float
    high: float


class Bin(NamedTuple):
    """Samples whose confidence lies in (low, high], with their mean confidence and share correct (0 where none are)."""

    low: float
    high: float
    samples: int
    confidence: float
    accuracy: float


class Baseline(NamedTuple):
    """Scores of answering one class for every sample."""

    name: str
    top1: float
    balanced_accuracy: float
    macro_f1: float


def share(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Floats:
    """Divide, with 0 where the whole is 0 (scikit-learn's `zero_division=0`)."""
    shares: Floats = np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)
    return shares


def _hits(confusion: Counts) -> Counts:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _top1(confusion: Counts) -> Floats:
    return share(_hits(confusion).sum(-1), confusion.sum((-2, -1)))


def _balanced_accuracy(confusion: Counts) -> Floats:
    support = confusion.sum(-1)
    return share(share(_hits(confusion), support).sum(-1), (support > 0).sum(-1))


def _f1(confusion: Counts) -> Floats:
    return share(2 * _hits(confusion), confusion.sum(-1) + confusion.sum(-2))


def _macro_f1(confusion: Counts) -> Floats:
    occurs = confusion.sum(-1) + confusion.sum(-2) > 0
    return share(_f1(confusion).sum(-1), occurs.sum(-1))


def _weighted_f1(confusion: Counts) -> Floats:
    support = confusion.sum(-1)
    return share((_f1(confusion) * support).sum(-1), support.sum(-1))


INTERVAL_METRICS: dict[IntervalMetric, Callable[[Counts], Floats]] = {
    "top1": _top1,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
    "weighted_f1": _weighted_f1,
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """Scores of one classifier on one set of labelled samples; every score but `nll` and `brier` lies in [0, 1]."""

    classes: tuple[str, ...]
    """Names, in label order."""
    counts: tuple[tuple[int, ...], ...]
    """The confusion matrix (C, C) as plain numbers, rows true."""
    top3: float
    """Share of the samples whose label is among the min(3, C) likeliest classes."""
    brier: float
    """Mean over samples of the squared error summed over classes, in [0, 2] (Brier 1950)."""
    nll: float
    """Mean negative log likelihood in nats; probabilities below 2.2e-16 count as that, as in scikit-learn."""
    bins: tuple[Bin, ...]
    """Confidence against accuracy, in K bins of equal width."""
    intervals: Mapping[IntervalMetric, Interval]
    """95 % bootstrap intervals over the samples."""

    @property
    def confusion(self) -> Counts:
        """The confusion matrix (C, C), rows true."""
        return np.array(self.counts, dtype=np.int64)

    @property
    def num_samples(self) -> int:
        """Samples behind the scores."""
        return int(self.confusion.sum())

    @property
    def support(self) -> Counts:
        """Samples of each class (C,)."""
        samples: Counts = self.confusion.sum(1)
        return samples

    @property
    def precision(self) -> Floats:
        """Share correct of the samples given each class (C,); 0 for a class never predicted."""
        return share(_hits(self.confusion), self.confusion.sum(0))

    @property
    def recall(self) -> Floats:
        """Share found of the samples of each class (C,); 0 for a class without samples."""
        return share(_hits(self.confusion), self.support)

    @property
    def f1(self) -> Floats:
        """Harmonic mean of precision and recall of each class (C,); 0 for a class neither present nor predicted."""
        return _f1(self.confusion)

    @property
    def top1(self) -> float:
        """Share of the samples whose likeliest class is their label."""
        return float(_top1(self.confusion))

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall over the classes that have samples."""
        return float(_balanced_accuracy(self.confusion))

    @property
    def macro_f1(self) -> float:
        """Mean F1 over the classes that are present or predicted."""
        return float(_macro_f1(self.confusion))

    @property
    def weighted_f1(self) -> float:
        """Mean F1 over the classes, weighted by their samples."""
        return float(_weighted_f1(self.confusion))

    @property
    def ece(self) -> float:
        """Expected calibration error, the bins' mean distance of confidence and accuracy (Guo et al. 2017, eq. 3)."""
        gaps = (part.samples * abs(part.accuracy - part.confidence) for part in self.bins)
        return sum(gaps) / self.num_samples

    @property
    def majority(self) -> Baseline:
        """Scores of always answering the class with most samples here, the first of equals."""
        answer = int(self.support.argmax())
        confusion = np.zeros_like(self.confusion)
        confusion[:, answer] = self.support
        scores = [float(m(confusion)) for m in (_top1, _balanced_accuracy, _macro_f1)]
        return Baseline(self.classes[answer], *scores)

    @property
    def headline(self) -> dict[str, float]:
        """The scores that a journal keeps."""
        names = ("top1", "top3", "balanced_accuracy", "macro_f1", "weighted_f1", "ece", "nll")
        return {name: float(getattr(self, name)) for name in names}

    def get(self, metric: SelectionMetric) -> float:
        """Return the score that a run is selected by.

        Raises:
            AttributeError: It is one of several labels.
        """
        value: float = getattr(self, metric)
        return value

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: all that `from_dict` needs, and the scores that follow from it."""
        per_class = zip(
            self.classes, self.precision, self.recall, self.f1, self.support, strict=True
        )
        return {
            "num_samples": self.num_samples,
            "top1": self.top1,
            "top3": self.top3,
            "balanced_accuracy": self.balanced_accuracy,
            "macro_f1": self.macro_f1,
            "weighted_f1": self.weighted_f1,
            "ece": self.ece,
            "brier": self.brier,
            "nll": self.nll,
            "intervals": {name: list(interval) for name, interval in self.intervals.items()},
            "majority": self.majority._asdict(),
            "classes": list(self.classes),
            "per_class": [
                {
                    "name": name,
                    "precision": float(precision),
                    "recall": float(recall),
                    "f1": float(f1),
                    "support": int(support),
                }
                for name, precision, recall, f1, support in per_class
            ],
            "confusion": [list(row) for row in self.counts],
            "bins": [part._asdict() for part in self.bins],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Report:
        """Rebuild a report; scores that follow from others are computed anew.

        Raises:
            DataError: A value is missing or of the wrong form.
        """
        try:
            return cls(
                classes=tuple(values["classes"]),
                counts=tuple(tuple(int(cell) for cell in row) for row in values["confusion"]),
                top3=float(values["top3"]),
                brier=float(values["brier"]),
                nll=float(values["nll"]),
                bins=tuple(Bin(**part) for part in values["bins"]),
                intervals={name: Interval(*pair) for name, pair in values["intervals"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"not a saved evaluation ({type(error).__name__}: {error}); evaluate the model again"
            ) from error


def _check(holds: bool | np.bool, message: str) -> None:
    if not holds:
        raise DataError(message)


def _check_shapes(
    probabilities: npt.NDArray[Any], labels: npt.NDArray[Any], classes: Sequence[str]
) -> None:
    _check(len(labels) > 0, "nothing to evaluate: there is no labelled sample")
    _check(
        labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer),
        f"labels have shape {labels.shape} and type {labels.dtype}, but must be one whole number per sample",
    )
    _check(
        probabilities.shape == (len(labels), len(classes)),
        f"probabilities have shape {probabilities.shape}, but {len(labels)} labels and {len(classes)} classes need "
        f"{(len(labels), len(classes))}",
    )


def _check_values(probabilities: Floats, labels: Counts, classes: Sequence[str]) -> None:
    outside = (labels < 0) | (labels >= len(classes))
    _check(
        not outside.any(),
        f"label {labels[outside.argmax()]} of sample {outside.argmax()} is not one of the {len(classes)} classes "
        f"(0 to {len(classes) - 1}); leave samples without a label out",
    )
    finite = np.isfinite(probabilities).all(1)
    _check(
        finite.all(),
        f"probabilities of sample {finite.argmin()} are not finite; the model's weights may be damaged",
    )
    proper = (probabilities.min(1) >= 0) & (abs(probabilities.sum(1) - 1) <= SUM_TOLERANCE)
    _check(
        proper.all(),
        f"probabilities of sample {proper.argmin()} are negative or do not sum to 1; pass the softmax of the logits",
    )


def _ranks(probabilities: Floats, labels: Counts) -> Counts:
    """Count the classes before each sample's label, (N,); of equal probabilities the lower label comes first."""
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)
    earlier = np.arange(probabilities.shape[1]) < labels[:, None]
    ranks: Counts = ((probabilities > own) | ((probabilities == own) & earlier)).sum(1)
    return ranks


def bin_confidences(confidence: Floats, correct: npt.NDArray[np.bool]) -> tuple[Bin, ...]:
    """Put confidences (N,) into bins of equal width, with the share that was correct (N,) in each."""
    edges = np.linspace(0, 1, NUM_BINS + 1)
    # A confidence may pass 1 by rounding: it belongs to the last bin.
    places = np.searchsorted(edges[1:-1], confidence, side="left")
    count = np.bincount(places, minlength=NUM_BINS)
    mean = share(np.bincount(places, confidence, NUM_BINS), count)
    accuracy = share(np.bincount(places, correct, NUM_BINS), count)
    columns = (edges[:-1], edges[1:], count, mean, accuracy)
    return tuple(Bin(*row) for row in zip(*(column.tolist() for column in columns), strict=True))


def _intervals(confusion: Counts, seed: int) -> dict[IntervalMetric, Interval]:
    """Resample the samples with replacement: for the confusion matrix, that is one multinomial draw over its cells."""
    cells = confusion.ravel()
    total = int(cells.sum())
    draws = np.random.default_rng(seed).multinomial(total, cells / total, size=NUM_RESAMPLES)
    resampled = draws.reshape(-1, *confusion.shape)
    return {
        name: Interval(*np.percentile(metric(resampled), [2.5, 97.5]).tolist())
        for name, metric in INTERVAL_METRICS.items()
    }


def evaluate_predictions(
    probabilities: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    classes: Sequence[str],
    *,
    seed: int = 0,
) -> Report:
    """Score probabilities against labels.

    Of equal probabilities the lower label counts as the likelier, for top-1, top-3 and the confusion matrix alike.

    Args:
        probabilities: (N, C), each row in [0, 1] with sum 1.
        labels: (N,) whole numbers in [0, C).
        classes: C names, in label order.
        seed: Seed of the bootstrap.

    Raises:
        DataError: There is no sample, or shapes or values do not fit together.
    """
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    _check_shapes(probabilities, labels, classes)
    probabilities = probabilities.astype(np.float64)
    labels = labels.astype(np.int64)
    _check_values(probabilities, labels, classes)
    num_samples, num_classes = probabilities.shape
    predicted = probabilities.argmax(1)  # the first of equals, as in `_ranks`
    confusion = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    confusion = confusion.reshape(num_classes, num_classes)
    own = probabilities[np.arange(num_samples), labels]
    return Report(
        classes=tuple(classes),
        counts=tuple(tuple(row) for row in confusion.tolist()),
        top3=float((_ranks(probabilities, labels) < 3).mean()),
        # The sum over classes of (p - y)^2, with the square multiplied out.
        brier=float(((probabilities**2).sum(1) - 2 * own + 1).mean()),
        nll=float(-np.log(own.clip(np.finfo(np.float64).eps, 1)).mean()),
        bins=bin_confidences(probabilities.max(1), predicted == labels),
        intervals=_intervals(confusion, seed),
    )
