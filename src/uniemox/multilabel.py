"""What a multi-label classifier's probabilities are worth, as one `MultiLabelReport`.

Each class is a question of its own, answered yes from a threshold on. Letters: N samples, C classes, K confidence bins,
R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from uniemox.config import MultiLabelMetric
from uniemox.errors import DataError
from uniemox.metrics import NUM_RESAMPLES, Bin, Interval, bin_confidences, share

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from uniemox.config import SelectionMetric

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool]

_DRAWS_AT_ONCE = 2**23
"""Numbers of one block of resamples, so that large sets take no more memory than small ones."""


class Decisions(NamedTuple):
    """Counts of one class's answers at its threshold."""

    hits: int
    """Samples of the class that are answered yes."""
    false_alarms: int
    misses: int


def _f1(hits: Floats, false_alarms: Floats, misses: Floats) -> Floats:
    return share(2 * hits, 2 * hits + false_alarms + misses)


@dataclass(frozen=True, kw_only=True)
class MultiLabelReport:
    """Scores of one classifier on one set of samples with any number of labels; all but `nll` lie in [0, 1]."""

    classes: tuple[str, ...]
    """Names, in label order."""
    num_samples: int
    average_precision: tuple[float | None, ...]
    """(C,), area under each class's precision-recall curve, by steps; None for a class without samples."""
    thresholds: tuple[float, ...]
    """(C,), the probability from which a class is answered yes."""
    decisions: tuple[Decisions, ...]
    """(C,), what comes of the answers at these thresholds."""
    brier: float
    """Mean squared error of a probability."""
    nll: float
    """Mean negative log likelihood of an answer in nats; probabilities are kept 2.2e-16 away from 0 and 1."""
    bins: tuple[Bin, ...]
    """Probability against share of yes over all N × C answers, in K bins of equal width."""
    intervals: Mapping[MultiLabelMetric, Interval]
    """95 % bootstrap intervals over the samples; none where they were not asked for."""

    @property
    def support(self) -> Counts:
        """Samples of each class (C,)."""
        return np.array([each.hits + each.misses for each in self.decisions], dtype=np.int64)

    @property
    def precision(self) -> Floats:
        """Share correct of the samples given each class (C,); 0 for a class never given."""
        hits, false_alarms, _ = self._columns
        return share(hits, hits + false_alarms)

    @property
    def recall(self) -> Floats:
        """Share found of the samples of each class (C,); 0 for a class without samples."""
        hits, _, misses = self._columns
        return share(hits, hits + misses)

    @property
    def f1(self) -> Floats:
        """Harmonic mean of precision and recall of each class (C,); 0 for a class neither present nor given."""
        return _f1(*self._columns)

    @property
    def mean_average_precision(self) -> float:
        """Mean of the average precisions over the classes that have samples; 0 where none has."""
        known = [value for value in self.average_precision if value is not None]
        return float(np.mean(known)) if known else 0.0

    @property
    def macro_f1(self) -> float:
        """Mean F1 over the classes that are present or given."""
        return float(_macro_f1(*(column[None] for column in self._columns))[0])

    @property
    def micro_f1(self) -> float:
        """F1 of all answers together."""
        return float(_micro_f1(*(column[None] for column in self._columns))[0])

    @property
    def ece(self) -> float:
        """Mean distance of a probability from the share of yes in its bin (Guo et al. 2017, eq. 3, per answer)."""
        gaps = (part.samples * abs(part.accuracy - part.confidence) for part in self.bins)
        return sum(gaps) / sum(part.samples for part in self.bins)

    @property
    def chance(self) -> float:
        """Mean average precision of an endless list in random order: the mean share of the classes that occur."""
        shares = self.support[self.support > 0] / self.num_samples
        return float(shares.mean()) if len(shares) else 0.0

    @property
    def headline(self) -> dict[str, float]:
        """The scores that a journal keeps."""
        names = (*get_args(MultiLabelMetric), "ece", "nll")
        return {name: float(getattr(self, name)) for name in names}

    def get(self, metric: SelectionMetric) -> float:
        """Return the score that a run is selected by.

        Raises:
            AttributeError: It is one of a single label.
        """
        value: float = getattr(self, metric)
        return value

    @property
    def _columns(self) -> tuple[Floats, Floats, Floats]:
        hits, false_alarms, misses = np.array(self.decisions, dtype=np.float64).T
        return hits, false_alarms, misses

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: all that `from_dict` needs, and the scores that follow from it."""
        per_class = zip(
            self.classes,
            self.average_precision,
            self.thresholds,
            self.decisions,
            self.precision,
            self.recall,
            self.f1,
            strict=True,
        )
        return {
            "target": "multi_label",
            "num_samples": self.num_samples,
            "mean_average_precision": self.mean_average_precision,
            "macro_f1": self.macro_f1,
            "micro_f1": self.micro_f1,
            "chance": self.chance,
            "ece": self.ece,
            "brier": self.brier,
            "nll": self.nll,
            "intervals": {name: list(interval) for name, interval in self.intervals.items()},
            "classes": list(self.classes),
            "per_class": [
                {
                    "name": name,
                    "average_precision": average_precision,
                    "threshold": threshold,
                    **decisions._asdict(),
                    "precision": float(precision),
                    "recall": float(recall),
                    "f1": float(f1),
                    "support": decisions.hits + decisions.misses,
                }
                for name, average_precision, threshold, decisions, precision, recall, f1 in per_class
            ],
            "bins": [part._asdict() for part in self.bins],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MultiLabelReport:
        """Rebuild a report; scores that follow from others are computed anew.

        Raises:
            DataError: A value is missing or of the wrong form.
        """
        try:
            rows = values["per_class"]
            found = [row["average_precision"] for row in rows]
            return cls(
                classes=tuple(values["classes"]),
                num_samples=int(values["num_samples"]),
                average_precision=tuple(None if one is None else float(one) for one in found),
                thresholds=tuple(float(row["threshold"]) for row in rows),
                decisions=tuple(
                    Decisions(*(int(row[name]) for name in Decisions._fields)) for row in rows
                ),
                brier=float(values["brier"]),
                nll=float(values["nll"]),
                bins=tuple(Bin(**part) for part in values["bins"]),
                intervals={name: Interval(*pair) for name, pair in values["intervals"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"not a saved evaluation ({type(error).__name__}: {error}); evaluate the model again"
            ) from error


def fit_thresholds(probabilities: npt.NDArray[Any], labels: Flags) -> tuple[float, ...]:
    """Find for each class the probability from which a yes gives the best F1.

    The threshold lies in the middle between the last sample that is taken and the next; of equal F1 the one that takes
    fewer samples is chosen. A class without samples gets 0.5.

    Args:
        probabilities: (N, C), of samples that were not trained on.
        labels: (N, C), true for each label of a sample.
    """
    return tuple(
        _fit_threshold(column, truth)
        for column, truth in zip(probabilities.T.astype(np.float64), labels.T, strict=True)
    )


def _fit_threshold(probabilities: Floats, labels: Flags) -> float:
    if not labels.any():
        return 0.5
    order, ends = _order(probabilities)
    hits = labels[order].cumsum()[ends]
    best = int(_f1(hits, ends + 1 - hits, labels.sum() - hits).argmax())
    ranked = probabilities[order][ends]
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float((ranked[best] + below) / 2)


def _order(probabilities: Floats) -> tuple[Counts, Counts]:
    """Give the samples from the likeliest down, and where in this order each run of equal probabilities ends."""
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    ends = np.append((ranked[1:] != ranked[:-1]).nonzero()[0], len(ranked) - 1)
    return order, ends


def _average_precision(
    probabilities: Floats, labels: Flags, weights: npt.NDArray[np.floating]
) -> Floats:
    """Sum over thresholds the rise of recall times precision (Zhu 2004), (R,), for samples weighted by (R, N).

    Recall rises only at samples of the class, so precision is computed only there, over all samples of at least the
    same probability. Not a number where no sample of the class has weight.
    """
    order, ends = _order(probabilities)
    ours = labels[order].nonzero()[0]
    runs = np.searchsorted(ends, ours)  # of equal probabilities, which come and go together
    rises = weights[:, order[ours]]
    last = np.searchsorted(runs, runs, side="right") - 1
    hits = rises.cumsum(1)[:, last]
    taken = weights[:, order].cumsum(1)[:, ends[runs]]
    whole = rises.sum(1, dtype=np.float64)
    found = (rises * share(hits, taken)).sum(1)
    return np.where(whole > 0, found / np.maximum(whole, 1), np.nan)


def _macro_f1(hits: Floats, false_alarms: Floats, misses: Floats) -> Floats:
    occurs = hits + false_alarms + misses > 0
    return share(_f1(hits, false_alarms, misses).sum(-1), occurs.sum(-1))


def _micro_f1(hits: Floats, false_alarms: Floats, misses: Floats) -> Floats:
    return _f1(hits.sum(-1), false_alarms.sum(-1), misses.sum(-1))


class _Sums(NamedTuple):
    """Counts of answers, each (R, C)."""

    hits: Floats
    false_alarms: Floats
    misses: Floats


def _count(given: Flags, labels: Flags, weights: npt.NDArray[np.floating]) -> _Sums:
    return _Sums(
        *(
            (weights @ part).astype(np.float64)
            for part in (given & labels, given & ~labels, ~given & labels)
        )
    )


def _check(holds: bool | np.bool, message: str) -> None:
    if not holds:
        raise DataError(message)


def _check_inputs(
    probabilities: npt.NDArray[Any], labels: npt.NDArray[Any], classes: Sequence[str]
) -> None:
    _check(len(labels) > 0, "nothing to evaluate: there is no labelled sample")
    shape = (len(labels), len(classes))
    for name, array in (("labels", labels), ("probabilities", probabilities)):
        _check(
            array.shape == shape,
            f"{name} have shape {array.shape}, but {shape[0]} samples and {shape[1]} classes need {shape}",
        )
    _check(labels.dtype == np.bool, f"labels are of type {labels.dtype}, but must be true or false")
    proper = ((probabilities >= 0) & (probabilities <= 1)).all(1)  # false for what is no number
    _check(
        proper.all(),
        f"probabilities of sample {proper.argmin()} are not in [0, 1]; pass the sigmoid of the logits",
    )


def evaluate_multilabel(
    probabilities: npt.NDArray[Any],
    labels: npt.NDArray[np.bool],
    classes: Sequence[str],
    *,
    thresholds: Sequence[float] | None = None,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> MultiLabelReport:
    """Score probabilities against sets of labels.

    Args:
        probabilities: (N, C), each in [0, 1].
        labels: (N, C), true for each label of a sample.
        classes: C names, in label order.
        thresholds: The probability from which each class is answered yes; None takes those that are best here, which
            flatters F1.
        seed: Seed of the bootstrap.
        num_resamples: Of the bootstrap; 0 leaves the intervals out.

    Raises:
        DataError: There is no sample, or shapes or values do not fit together.
    """
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    _check_inputs(probabilities, labels, classes)
    probabilities = probabilities.astype(np.float64)
    chosen = fit_thresholds(probabilities, labels) if thresholds is None else tuple(thresholds)
    _check(
        len(chosen) == len(classes),
        f"{len(chosen)} thresholds were given for {len(classes)} classes",
    )
    given = probabilities >= np.array(chosen)
    once = np.ones((1, len(labels)))
    sums = _count(given, labels, once)
    precisions = [_average_precision(*pair, once)[0] for pair in _by_class(probabilities, labels)]
    tiny = np.finfo(np.float64).eps
    own = np.where(labels, probabilities, 1 - probabilities).clip(tiny, 1 - tiny)
    return MultiLabelReport(
        classes=tuple(classes),
        num_samples=len(labels),
        average_precision=tuple(None if np.isnan(one) else float(one) for one in precisions),
        thresholds=chosen,
        decisions=tuple(
            Decisions(*(int(one) for one in row)) for row in zip(*(s[0] for s in sums), strict=True)
        ),
        brier=float(((probabilities - labels) ** 2).mean()),
        nll=float(-np.log(own).mean()),
        bins=bin_confidences(probabilities.ravel(), labels.ravel()),
        intervals=_intervals(probabilities, labels, given, seed, num_resamples),
    )


def _by_class(probabilities: Floats, labels: Flags) -> zip[tuple[Floats, Flags]]:
    return zip(probabilities.T, labels.T, strict=True)


def _intervals(
    probabilities: Floats, labels: Flags, given: Flags, seed: int, num_resamples: int
) -> dict[MultiLabelMetric, Interval]:
    """Resample the samples with replacement, so many at once as memory is meant for."""
    if num_resamples == 0:
        return {}
    rng = np.random.default_rng(seed)
    count = len(labels)
    step = max(1, _DRAWS_AT_ONCE // count)
    scores: list[Floats] = []
    for start in range(0, num_resamples, step):
        draws = min(step, num_resamples - start)
        weights = rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float32)
        sums = _count(given, labels, weights)
        precisions = [
            _average_precision(*pair, weights) for pair in _by_class(probabilities, labels)
        ]
        scores.append(
            np.stack([_mean_known(np.stack(precisions, 1)), _macro_f1(*sums), _micro_f1(*sums)])
        )
    bounds = np.percentile(np.concatenate(scores, axis=1), [2.5, 97.5], axis=1).T
    names = get_args(MultiLabelMetric)
    return {name: Interval(*pair.tolist()) for name, pair in zip(names, bounds, strict=True)}


def _mean_known(precisions: Floats) -> Floats:
    """Mean over the classes (R, C) that have samples in each resample."""
    known = ~np.isnan(precisions)
    return share(np.where(known, precisions, 0).sum(1), known.sum(1))
