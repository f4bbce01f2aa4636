"""What answers are worth: metrics as rows, scores as one value, and what a page shows of them, as data.

Letters: N samples, C classes, K confidence bins, R resamples.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from uniemox.targets.bridges import Bridged
from uniemox.targets.calibration import Uncalibrated
from uniemox.targets.contribution import Contribution
from uniemox.targets.coverage import Covered
from uniemox.targets.parts import Bars as Bars
from uniemox.targets.parts import Bin as Bin
from uniemox.targets.parts import Calibration as Calibration
from uniemox.targets.parts import Curve as Curve
from uniemox.targets.parts import Display as Display
from uniemox.targets.parts import Grid as Grid
from uniemox.targets.parts import Interval as Interval
from uniemox.targets.parts import Matrix as Matrix
from uniemox.targets.parts import Part as Part
from uniemox.targets.parts import Ranges as Ranges
from uniemox.targets.parts import Scatter as Scatter
from uniemox.targets.robustness import Robustness
from uniemox.targets.slices import Slices

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool]

NUM_BINS: Final = 15  # Guo et al. 2017, section 4
NUM_RESAMPLES: Final = 1000
STUDIES: Final[Mapping[str, tuple[str, type[Any]]]] = {
    "uncalibrated": ("Temperature", Uncalibrated),
    "person": ("The person's contribution", Contribution),
    "robustness": ("Robustness", Robustness),
}
"""What may be measured beside scores: titles and types by the fields of `Scores`, which are keys of `report.json`."""


@dataclass(frozen=True)
class Metric:
    """One number that a target is measured by: a row of its `metrics`, which everything that shows scores iterates."""

    name: str  # Key in the journal, the card, `report.json` and `select_by`
    title: str  # What a page and the terminal call it; they omit a metric without one
    compute: Callable[[Any], Any]  # From the evidence that the target collects to (), or to (R,) from R resamples of it
    _: KW_ONLY
    note: str = ""  # Shown under it on a page; of a metric without a title what it is called beside others
    is_selectable: bool = False  # Whether it can choose the epoch; the first that can is the default
    is_bootstrapped: bool = False  # Whether it has a 95 % interval
    is_kept: bool = True  # Whether the journal and the card keep it
    lower_is_better: bool = False
    is_share: bool = True  # Whether it is a share, in [0, 1], to be shown as a percentage on the terminal
    limits: tuple[float, float] = (-math.inf, math.inf)  # Between which it lies, if it is no share
    is_biased: bool = False  # Whether few samples make it too high or too low, which its interval corrects
    is_of_confidence: bool = False  # Whether the temperature that val gives is to make it better

    def improves(self, value: float, on: float | None) -> bool:
        """Whether a value beats an earlier one; None is beaten by any."""
        return on is None or (value < on if self.lower_is_better else value > on)

    def loss(self, value: float, other: float) -> float:
        """How much worse another value is."""
        return other - value if self.lower_is_better else value - other


@dataclass(frozen=True)
class Baseline:
    """What a cheap answer to the same samples is worth, or why there is none."""

    name: str
    values: Mapping[str, float] = field(default_factory=dict)  # Of each metric by its name; empty where omitted
    note: str = ""  # How it was made, or why it is omitted

    def describe(self, metrics: Sequence[Metric]) -> str:
        """Put some of its values in one line, or the reason why it has none."""
        shown = (f"{one.title} {self.values[one.name]:z.4f}" for one in metrics if one.name in self.values)
        return f"{self.name} {', '.join(shown)}" if self.values else f"{self.name} omitted: {self.note}"


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a model's answers are worth on one set of samples. A metric is an attribute too: `scores.macro_f1`.

    A target with more to show than its metrics has a subclass.
    """

    kind: str  # The name of the target
    classes: tuple[str, ...]  # Names, in label order
    metrics: tuple[Metric, ...]  # Of the target, in the order in which they are shown
    num_samples: int
    values: Mapping[str, float]  # Of each metric by its name
    intervals: Mapping[str, Interval] = field(default_factory=dict)  # 95 % bootstrap, if asked for
    resampled: str = ""  # What the intervals are over, such as 200 groups; empty for the samples
    computed_in: str = ""  # Precision of the forward passes, or onnx for an export; empty if unknown
    baselines: tuple[Baseline, ...] = ()  # On the same samples
    bins: tuple[Bin, ...] = ()  # Confidence against share correct, in K bins of equal width
    coverage: tuple[Covered, ...] = ()  # Accuracy of the surest answers; empty where none is right or wrong
    uncalibrated: Uncalibrated | None = None  # Before a temperature, where that is known
    person: Contribution | None = None  # What the view of the person adds
    bridged: Bridged | None = None  # Of data with other classes than the model's
    robustness: Robustness | None = None  # Against changes of the images
    slices: tuple[Slices, ...] = ()  # Scores of parts of the samples, by columns

    def __getattr__(self, name: str) -> float:
        values = self.__dict__.get("values", {})  # absent while a copy is made
        if name not in values:
            raise AttributeError(f"{type(self).__name__} has no metric {name}")
        value: float = values[name]
        return value

    @property
    def ranges(self) -> str:
        """A sentence on the intervals; empty where none was asked for."""
        if self.intervals:
            return f"Ranges are 95 % bootstrap intervals over {self.resampled or 'the samples'}."
        if self.resampled.startswith("1 "):
            return f"All samples are of {self.resampled}, so nothing shows how far the scores would move."
        return ""

    @property
    def kept(self) -> dict[str, float]:
        """What a journal and a card keep."""
        return {one.name: self.values[one.name] for one in self.metrics if one.is_kept and one.name in self.values}

    @property
    def headline(self) -> list[Metric]:
        """The metrics that baselines are compared in: three with an interval, or else that can choose the epoch."""
        known = [one for one in self.metrics if one.title and one.name in self.values]
        ours = [one for one in known if one.is_bootstrapped] or [one for one in known if one.is_selectable]
        return ours[:3]

    @property
    def compared(self) -> list[tuple[str, Mapping[str, float]]]:
        """The names and values of the model and of the baselines that have some; empty if none has."""
        rows = [(one.name, one.values) for one in self.baselines if one.values]
        return [("this model", self.values), *rows] if rows else []

    @property
    def notes(self) -> list[str]:
        """Sentences on how the baselines were made, or why they are omitted; those of the same reason in one."""
        omitted: dict[str, list[str]] = {}
        for one in self.baselines:
            if not one.values:
                omitted.setdefault(one.note, []).append(one.name)
        texts = [f"{one.name}: {one.note}." for one in self.baselines if one.values]
        texts += [f"{' and '.join(names)} omitted: {reason}." for reason, names in omitted.items()]
        return [text[0].upper() + text[1:] for text in texts]

    @property
    def bridge_notes(self) -> list[str]:
        """Sentences on what a bridge to other classes mapped and dropped; none without one."""
        return [] if self.bridged is None else self.bridged.sentences

    @property
    def display(self) -> Display:
        """What a page and the terminal show beside the metrics."""
        return Display()

    @property
    def studies(self) -> list[tuple[str, str, Sequence[Part]]]:
        """Titles, words and contents of what was asked for beside the scores."""
        made = [(title, getattr(self, name)) for name, (title, _) in STUDIES.items()]
        found = [(title, one.text, one.parts) for title, one in made if one is not None]
        return found + [(f"By {one.column}", one.text, one.parts) for one in self.slices]

    @property
    def covered(self) -> tuple[Part, ...]:
        """The curve and the table of the surest answers, to be shown; empty where none is right or wrong."""
        if not self.coverage:
            return ()
        whole = self.coverage[-1].accuracy
        half = min(self.coverage, key=lambda one: abs(one.share - 0.5)).accuracy
        kept = [one for one in self.coverage[::-1] if round(20 * one.share) in range(10, 21, 2)]
        rows = [(f"{100 * one.share:.0f} %", one.accuracy) for one in kept]
        curve = Curve(
            "accuracy of the surest",
            ("share answered, the surest first", "accuracy"),
            self.coverage,
            whole,
            f"Accuracy is {half:.3f} on the surer half of the samples and {whole:.3f} on all; the table has more.",
            "Right answers among those that the model is surest of (Geifman and El-Yaniv 2017); the dashed line is "
            "what confidence that says nothing would give.",
        )
        return curve, Grid(("surest answered", "accuracy"), rows, "half")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; `Target.scores_from_dict` is the inverse."""
        return {
            "target": self.kind,
            "num_samples": self.num_samples,
            "computed_in": self.computed_in,
            **self.values,
            "intervals": {name: list(interval) for name, interval in self.intervals.items()},
            "resampled": self.resampled,
            "baselines": [{"name": one.name, "scores": {**one.values}, "note": one.note} for one in self.baselines],
            "classes": list(self.classes),
            **({"coverage": [list(one) for one in self.coverage]} if self.coverage else {}),
            **{name: one.to_dict() for name in STUDIES if (one := getattr(self, name)) is not None},
            **({} if self.bridged is None else {"bridge": self.bridged.to_dict()}),
            **({"slices": [one.to_dict() for one in self.slices]} if self.slices else {}),
        }


@dataclass(frozen=True, kw_only=True)
class ClassScores(Scores, ABC):
    """Scores of a classifier: its answers are right or wrong for each class."""

    @property
    @abstractmethod
    def tallies(self) -> Counts:
        """Hits, false alarms and misses of each class: (3, C)."""

    @property
    def support(self) -> Counts:
        """Samples of each class (C,)."""
        support: Counts = self.tallies[0] + self.tallies[2]
        return support

    @property
    def absent(self) -> list[str]:
        """Names of the classes without samples."""
        return [name for name, number in zip(self.classes, self.support, strict=True) if not number]

    @property
    def precision(self) -> Floats:
        """Share correct of the samples given each class (C,); 0 for a class never given."""
        return share(self.tallies[0], self.tallies[0] + self.tallies[1])

    @property
    def recall(self) -> Floats:
        """Share found of the samples of each class (C,); 0 for a class without samples."""
        return share(self.tallies[0], self.support)

    @property
    def f1(self) -> Floats:
        """Harmonic mean of precision and recall of each class (C,); 0 for a class neither present nor given."""
        return f1_of(*self.tallies)

    @property
    def per_class(self) -> dict[str, Sequence[Any]]:
        """The scores of each class by their names in JSON, (C,) each."""
        numbers = {"precision": self.precision, "recall": self.recall, "f1": self.f1, "support": self.support}
        return {"name": self.classes, **{name: values.tolist() for name, values in numbers.items()}}

    def calibration(self, across: str, upwards: str, held: str) -> Calibration:
        """Describe the chart of the bins, by the words for its axes and for what a bin holds."""
        before, text = self.uncalibrated, ""
        if before is not None and before.bins:
            text = f" Rings: before the temperature, with an error of {calibration_error(before.bins):.3f}."
        return Calibration(
            self.bins,
            self.ece,
            f"{upwards.capitalize()} against {across} in bins; the mean distance is {self.ece:.3f}.",
            f"Bars on the dashed line: the {across} can be taken at its word. Below it: too sure.{text}",
            (across, upwards, held),
            () if before is None else before.bins,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        table = self.per_class
        rows = zip(*table.values(), strict=True)
        return {
            **super().to_dict(),
            "per_class": [dict(zip(table, row, strict=True)) for row in rows],
            "bins": [part._asdict() for part in self.bins],
        }


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the metrics of a classifier are computed from."""

    tallies: npt.NDArray[Any]  # Hits, false alarms and misses of each class: (3, C), or (3, R, C) of R resamples
    own: Floats  # (N, …), the probability of what is true
    errors: Floats  # (N, …), the squared error of the probabilities
    bins: tuple[Bin, ...]

    @property
    def support(self) -> npt.NDArray[Any]:
        """Samples of each class."""
        support: npt.NDArray[Any] = self.tallies[0] + self.tallies[2]
        return support


def _macro_f1(of: Evidence) -> Floats:
    """Mean F1 over the classes that are present or given."""
    return share(f1_of(*of.tallies).sum(-1), of.tallies.any(0).sum(-1))


def _ece(of: Evidence) -> float:
    return calibration_error(of.bins)


def _nll(of: Evidence) -> float:
    """Mean negative log likelihood in nats; below 2.2e-16 counts as that, as in scikit-learn."""
    return float(-np.log(of.own.clip(np.finfo(np.float64).eps, 1)).mean())


def _brier(of: Evidence) -> float:
    return float(of.errors.mean())


MACRO_F1: Final = Metric("macro_f1", "macro F1", _macro_f1, is_selectable=True, is_bootstrapped=True, is_biased=True)
OF_PROBABILITIES: Final = (
    Metric("ece", "calibration error", _ece, note="0 is best", lower_is_better=True, is_of_confidence=True),
    Metric("nll", "", _nll, note="negative log likelihood", lower_is_better=True, is_of_confidence=True),
    Metric("brier", "", _brier, note="Brier score", is_kept=False, lower_is_better=True, is_of_confidence=True),
)


def f1_of(hits: npt.NDArray[Any], false_alarms: npt.NDArray[Any], misses: npt.NDArray[Any]) -> Floats:
    """Compute the harmonic mean of precision and recall; 0 where all counts are 0."""
    return share(2 * hits, 2 * hits + false_alarms + misses)


def share(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Floats:
    """Divide, with 0 where the whole is 0 (scikit-learn's `zero_division=0`)."""
    shares: Floats = np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)
    return shares


def bin_confidences(confidence: Floats, correct: Flags) -> tuple[Bin, ...]:
    """Sort confidences (N,) into bins of equal width, with the share correct in each."""
    edges = np.linspace(0, 1, NUM_BINS + 1)
    # A confidence may pass 1 by rounding: it belongs to the last bin.
    places = np.searchsorted(edges[1:-1], confidence, side="left")
    count = np.bincount(places, minlength=NUM_BINS)
    mean = share(np.bincount(places, confidence, NUM_BINS), count)
    accuracy = share(np.bincount(places, correct, NUM_BINS), count)
    columns = (edges[:-1], edges[1:], count, mean, accuracy)
    return tuple(Bin(*row) for row in zip(*(column.tolist() for column in columns), strict=True))


def calibration_error(bins: Sequence[Bin]) -> float:
    """Mean distance of confidence and accuracy over the samples (Guo et al. 2017, eq. 3)."""
    gaps = (part.samples * abs(part.accuracy - part.confidence) for part in bins)
    return sum(gaps) / sum(part.samples for part in bins)


def measure(metrics: Sequence[Metric], evidence: Any) -> dict[str, float]:
    """Compute all metrics."""
    return {metric.name: float(metric.compute(evidence)) for metric in metrics}
