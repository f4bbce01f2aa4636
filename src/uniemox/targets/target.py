"""What a model answers with: everything that depends on the kind of its labels is behind a `Target`.

Training, evaluation, tables, reports and cards ask the target, and never its kind. For a kind of your own, pass a
subclass as `target=` to `finetune`, `evaluate` and `Predictor.load`. torch is imported only where it is needed.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from uniemox.config.training import ClassWeights, PromiseConfig
from uniemox.emotions import match_classes, meet
from uniemox.errors import ConfigError, DataError
from uniemox.targets.bridges import Bridged, Crossing, Parts
from uniemox.targets.columns import Column
from uniemox.targets.coverage import Covered
from uniemox.targets.intervals import Bootstrap, Codes, Weights
from uniemox.targets.scores import (
    NUM_RESAMPLES,
    STUDIES,
    Baseline,
    Bin,
    Counts,
    Flags,
    Floats,
    Interval,
    Metric,
    Scores,
)
from uniemox.targets.slices import Slices
from uniemox.validation import validate
from uniemox.wording import name_first, shorten

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor, nn

    from uniemox.manifests.table import Manifest

Logits = npt.NDArray[np.floating[Any]]  # (N, C), C being `num_outputs`
Numbers = Mapping[str, tuple[float, ...]]  # What a model folder keeps of a target beside its classes, by name


@dataclass(frozen=True)
class Target(ABC):
    """One kind of labels and answers; before `bind` it knows no classes."""

    classes: tuple[str, ...] = ()  # Names, in label order

    name: ClassVar[str]  # The word for it in settings, model folders and reports
    metrics: ClassVar[tuple[Metric, ...]]  # In the order in which they are shown; at least one is selectable
    columns_read: ClassVar[tuple[str, ...]]  # Of a manifest; a run is resumed only if they are the same
    labels_kind: ClassVar[Any] = None  # NumPy type of `read_labels`; None cannot be one of several
    labels_are_wide: ClassVar[bool] = True  # Whether labels are (N, C), one for each output, else (N,)
    problem_type: ClassVar[str | None] = None  # What transformers calls it, if it does
    is_judged: ClassVar[bool] = True  # Whether an answer is right or wrong
    has_guarantees: ClassVar[bool] = False  # Whether `fit_guarantees` fits any
    is_zero_shot: ClassVar[bool] = False  # Whether a softmax over texts of its classes answers it, as CLIP gives one
    does: ClassVar[str] = ""  # What `summary` says, with the number of `classes`
    constant: ClassVar[str] = "majority"  # What the best answer that is the same for all images is called
    number_word: ClassVar[str] = "probability"  # What one of `numbers` is
    kept_words: ClassVar[str] = "of {images} keep their answer"  # Counted where `decisions` of two models agree
    flip_words: ClassVar[str] = "images with another answer"  # What `flips` counts
    joining: ClassVar[tuple[str, ...]] = ()
    """How `join_logits` makes one of several classes, and what becomes of those that are dropped; none cannot."""

    def bind(self, classes: tuple[str, ...], numbers: Numbers = MappingProxyType({})) -> Self:
        """Make the target of these classes, with the numbers from `to_facts`; `DataError` if those cannot be its."""
        del numbers
        return replace(self, classes=classes)

    def bind_to(self, manifest: Manifest) -> Self:
        """Make the target of the labels that a manifest has; `DataError` if it has none of this kind."""
        return self.bind(manifest.facts.classes)

    def align(self, manifest: Manifest) -> tuple[Self, Manifest]:
        """Bring the labels of another manifest to those of the model; `DataError` if they are others.

        Returns the target that reads and scores them, and the manifest for it to read.
        """
        from uniemox.manifests.merge import number_as  # PyArrow, which prediction has no need of

        return self, number_as(self.classes, manifest)

    def crossing(self, manifest: Manifest, *, bridge: bool) -> Crossing[Self]:
        """Bring labels and the model's answers together: as `align` does, or with `bridge` where they `meet`.

        Classes that are the same, by whatever name, are aligned, and so are targets without classes to be joined.
        """
        names = manifest.facts.classes
        if not bridge or not self.joining or match_classes(self.classes, names).is_whole:
            return Crossing(*self.align(manifest))
        from uniemox.manifests.merge import lead_to  # PyArrow, which prediction has no need of

        found = meet(self.classes, names)
        pairs = [(self.classes.index(own), into) for own, into in found.model.mapped.items()]
        parts = [[place for place, into in pairs if into == name] for name in found.classes]
        return Crossing(
            self.join(found.classes, parts),
            lead_to(manifest, found.classes, found.data.mapped, self.columns_read),
            lambda logits: self.join_logits(logits, parts),
            Bridged.over(found, self.joining),
        )

    def join(self, classes: tuple[str, ...], parts: Parts) -> Self:
        """Return the target of other classes, each of which joins those at some places; nothing fitted is kept."""
        raise NotImplementedError  # of a target that has no words for `joining`

    def join_logits(self, logits: Logits, parts: Parts) -> Logits:
        """Compute the logits (N, C) of the target that `join` made from those of this one."""
        raise NotImplementedError

    def rated(self, manifest: Manifest) -> Manifest:
        """Skip the rows that raters gave nothing of this kind, where data may lack it; a log line counts them.

        By default no row: one without a class is a mistake, which `read_labels` refuses.
        """
        return manifest

    def missing(self, manifest: Manifest) -> list[str]:
        """Name the classes that no row has."""
        return [name for name, count in manifest.class_counts().items() if count == 0]

    def to_facts(self) -> dict[str, Any]:
        """Return what a model folder keeps: the fields `target`, `thresholds` and `numbers` of its facts."""
        return {"target": self.name, "thresholds": ()}

    @property
    def about(self) -> dict[str, Any]:
        """The fields of `Scores` that describe the target."""
        return {"kind": self.name, "classes": self.classes, "metrics": self.metrics}

    @property
    def num_outputs(self) -> int:
        """C, the outputs of the head."""
        return len(self.classes)

    @property
    def emotions(self) -> tuple[str | None, ...]:
        """The emotion that each of the C outputs stands for, so that its name can start a head; None for another."""
        return self.classes

    @property
    def summary(self) -> str:
        """What a card calls the model, after "A vision transformer that"."""
        return self.does.format(classes=len(self.classes)) or f"gives answers of the kind {self.name}"

    @property
    def units(self) -> str:
        """What a reader of answers must know to read their numbers, such as the ends of a scale; mostly nothing."""
        return ""

    @property
    def fitted(self) -> str:
        """What a card reports of what was fitted on val."""
        return ""

    # Labels and learning

    @abstractmethod
    def read_labels(self, manifest: Manifest) -> npt.NDArray[Any]:
        """Read the label of each row (N, …); a `DataError` names the first row without one of this kind."""

    @abstractmethod
    def soften(self, labels: Tensor, smoothing: float) -> Tensor:
        """Return what the loss compares with (B, …), as float: labels smoothed by ε, if that means something.

        Mixed images get the mean of theirs, weighted by the shares of the images.
        """

    @abstractmethod
    def loss(self, logits: Tensor, softened: Tensor) -> Tensor:
        """Compute the mean loss of a batch, in float: logits (B, C) against labels from `soften`."""

    def weigh(self, how: ClassWeights, labels: npt.NDArray[Any]) -> Self:
        """Return the target whose loss weighs classes by the labels of train (N, …).

        Raises:
            ConfigError: It has no classes to weigh; the default.
        """
        del labels
        if how != "none":
            raise ConfigError(f"class_weights is {how}, but target {self.name} has no classes to weigh: set it to none")
        return self

    def start_head(self, head: nn.Linear, labels: npt.NDArray[Any]) -> None:
        """Start a new head from the labels of train (N, …); by default it stays as it is."""
        del head, labels

    def prior(self, labels: npt.NDArray[Any]) -> npt.NDArray[np.float64] | None:
        """Return the logits (C,) of the best answer that is the same for all images, from the labels of train (N, …).

        None, the default, lets the loss find them.
        """
        del labels
        return None

    def fit_temperature(self, logits: Logits, labels: npt.NDArray[Any]) -> float:
        """Find on val what the logits are divided by, which is folded into the head; 1 changes nothing."""
        del logits, labels
        return 1.0

    def fit_temperatures(self, logits: Logits, labels: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Find on val what each of the C outputs is divided by; one number for all, unless parts of them differ."""
        return np.full(self.num_outputs, self.fit_temperature(logits, labels))

    def fit(self, logits: Logits, labels: npt.NDArray[Any]) -> Self:
        """Fit on val what turns logits, divided by their temperature, into answers."""
        del logits, labels
        return self

    def fit_guarantees(
        self, logits: Logits, labels: npt.NDArray[Any], asked: PromiseConfig, groups: Codes | None = None
    ) -> tuple[Self, tuple[str, ...]]:
        """Fit on val what is promised of answers (`conformal`); the default promises nothing.

        Returns the target, and in words what could not be fitted. Logits that are not finite raise `DataError`.
        """
        del logits, labels, asked, groups
        return self, ()

    def without_guarantees(self) -> Self:
        """Return it without what was fitted for one model, to answer for others."""
        return self

    # Answers

    @property
    @abstractmethod
    def columns(self) -> tuple[Column, ...]:
        """The columns of an answer, in every table."""

    @abstractmethod
    def answers(self, logits: Logits) -> list[dict[str, Any]]:
        """Answer each row: `predicted` and what else `columns` names; the columns `p_NAME` as `probabilities`."""

    @abstractmethod
    def numbers(self, logits: Logits) -> npt.NDArray[np.float64]:
        """Compute the numbers behind the answers, such as probabilities (N, C)."""

    def foremost(self, numbers: npt.NDArray[np.float64]) -> int:
        """Return the place of the number (C,) that an explanation is about: by default of the largest."""
        return int(numbers.argmax())

    @property
    @abstractmethod
    def truth(self) -> tuple[Column, ...]:
        """The columns of a label, in a table of what was evaluated."""

    @abstractmethod
    def truths(self, labels: npt.NDArray[Any]) -> list[dict[str, Any]]:
        """Return the values of `truth` for each row."""

    def read_answers(self, table: pa.Table) -> tuple[Floats, npt.NDArray[Any]]:
        """Read what a table with `columns` and `truth` says back: `numbers` (N, …), and labels as from `read_labels`.

        A column that is absent raises KeyError; a label that is none of the target's `DataError`, and so does a kind
        that does not say how, the default.
        """
        del table
        raise DataError(f"answers of the kind {self.name} cannot be read back")

    def right(self, numbers: Floats, labels: npt.NDArray[Any]) -> Flags | None:
        """Decide which of the answers are right (N,); None, the default, where they are neither right nor wrong."""
        del numbers, labels
        return None

    def in_words(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """Describe the answer and the truth of a row of a table of what was evaluated."""

        def describe(value: object) -> str:
            if isinstance(value, list):
                return ", ".join(sorted(value, key=self.classes.index)) or "none"
            return str(value)

        return describe(row["predicted"]), describe(row["label"])

    def more_in_words(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Describe further answers to a row with their truths, where there are answers of several kinds."""
        del row
        return ()

    @abstractmethod
    def decisions(self, logits: Logits) -> npt.NDArray[Any]:
        """Return what is compared to find whether two models agree: (N,) or (N, C)."""

    def self_confidence(self, numbers: Floats, labels: npt.NDArray[Any]) -> Floats:
        """Take from `numbers` the probability of what labels (N, …) say of each class (N, C); infinite of no word.

        Confident learning ranks labels by it (Northcutt, Jiang and Chuang 2021, section 3).

        Raises:
            ConfigError: Labels of this kind say yes or no to no class; the default.
        """
        del numbers, labels
        raise ConfigError(f"target is {self.name}, where no label is right or wrong: choose one of classes")

    def agreement(self, logits: Logits, others: Logits) -> float:
        """Compute the share of answers that two models have in common."""
        return float((self.decisions(logits) == self.decisions(others)).mean())

    def kept(self, logits: Logits, others: Logits) -> float:
        """Compute the share of `decisions` that another model keeps, as `kept_words` call it."""
        return float((self.decisions(logits) == self.decisions(others)).mean())

    def flips(self, logits: Logits, others: Logits) -> Floats:
        """Compute how much of the answer to each image is another (N,), from 0 to 1, as `flip_words` call it."""
        changed: Floats = (self.decisions(logits) != self.decisions(others)).reshape(len(logits), -1).mean(1)
        return changed

    def largest_change(self, logits: Logits, others: Logits) -> float:
        """Compute how far the numbers of two models are apart at most."""
        return float(np.abs(self.numbers(logits) - self.numbers(others)).max())

    # Scores

    def score(
        self,
        logits: Logits,
        labels: npt.NDArray[Any],
        *,
        num_resamples: int = NUM_RESAMPLES,
        groups: Codes | None = None,
    ) -> Scores:
        """Score the answers of N samples as `score_numbers` does; `DataError` for none or for infinite logits."""
        refuse_infinite(logits)
        return self.score_numbers(self.numbers(logits), labels, num_resamples=num_resamples, groups=groups)

    def score_numbers(
        self,
        numbers: npt.NDArray[np.float64],
        labels: npt.NDArray[Any],
        *,
        seed: int = 0,
        num_resamples: int = NUM_RESAMPLES,
        groups: Codes | None = None,
    ) -> Scores:
        """Score the answers of N samples, at least one.

        Args:
            numbers: From `numbers`.
            labels: From `read_labels`.
            seed: Of the bootstrap.
            num_resamples: Of the bootstrap; 0 omits the intervals.
            groups: A number (N,) that samples which are alike share, such as the frames of a clip; None for none. They
                are resampled together. Where all are of one group there are no intervals.
        """
        return self.compute_scores(numbers, labels, Bootstrap(len(labels), groups, seed, num_resamples))

    @abstractmethod
    def compute_scores(
        self, numbers: npt.NDArray[np.float64], labels: npt.NDArray[Any], bootstrap: Bootstrap
    ) -> Scores:
        """Score numbers (N, …) from `numbers` against labels (N, …), with the intervals of the bootstrap."""

    def resampler(self, numbers: Floats, labels: npt.NDArray[Any]) -> Callable[[Weights], Mapping[str, Floats]]:
        """Return what computes the metrics that have intervals, (R,) each, of resamples of N samples.

        It takes how often each sample is drawn (R, N). The default scores every resample by itself, which takes time.
        """
        places = np.arange(len(labels))

        def measure(weights: Weights) -> Mapping[str, Floats]:
            drawn = (np.repeat(places, row.astype(np.int64)) for row in weights)
            found = [self.score_numbers(numbers[rows], labels[rows], num_resamples=0).values for rows in drawn]
            names = (metric.name for metric in self.metrics if metric.is_bootstrapped)
            return {name: np.array([values[name] for values in found]) for name in names}

        return measure

    def scores_from_dict(self, values: Mapping[str, Any]) -> Scores:
        """Rebuild scores from `Scores.to_dict`; `DataError` if a value is missing or invalid."""
        try:
            about = self._about(values)
            known = (metric.name for metric in about["metrics"] if metric.name in values)
            common = {
                **about,
                "num_samples": int(values["num_samples"]),
                "values": {name: float(values[name]) for name in known},
                "intervals": {name: Interval(*pair) for name, pair in values["intervals"].items()},
                "resampled": str(values.get("resampled", "")),
                "computed_in": str(values.get("computed_in", "")),
                "baselines": tuple(map(_rebuild_baseline, values.get("baselines", ()))),
                "bins": tuple(Bin(**part) for part in values.get("bins", ())),
                "coverage": tuple(Covered(*map(float, one)) for one in values.get("coverage", ())),
                "bridged": Bridged.from_dict(values["bridge"]) if "bridge" in values else None,
                "slices": tuple(_rebuild_study(Slices, one, "slices") for one in values.get("slices", ())),
            }
            common |= {
                name: _rebuild_study(kind, values[name], name) for name, (_, kind) in STUDIES.items() if name in values
            }
            ends = (end for pair in common["intervals"].values() for end in pair)
            if not all(map(math.isfinite, (*common["values"].values(), *ends))):
                raise ValueError("a score is not finite")  # noqa: TRY301, as other values that no score can be
            return self._rebuild(values, common)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError, ConfigError) as error:
            raise DataError(
                f"not a saved evaluation ({type(error).__name__}: {error}); evaluate the model again"
            ) from error

    def _about(self, values: Mapping[str, Any]) -> dict[str, Any]:
        classes = tuple(values["classes"])
        return (self if classes == self.classes else self.bind(classes, values.get("numbers", {}))).about

    def _rebuild(self, values: Mapping[str, Any], common: dict[str, Any]) -> Scores:
        """Rebuild scores from their dictionary and the fields that all scores have."""
        del values
        return Scores(**common)

    def selection(self, name: str | None) -> Metric:
        """Find the metric that chooses the epoch (None: the first that can); `ConfigError` if it cannot."""
        known = {metric.name: metric for metric in self.metrics if metric.is_selectable}
        if name is None:
            return next(iter(known.values()))
        if name not in known:
            raise ConfigError(f"select_by is {name}, but for target {self.name} must be one of {', '.join(known)}")
        return known[name]


def _rebuild_baseline(values: Mapping[str, Any]) -> Baseline:
    scores = {str(name): float(value) for name, value in values["scores"].items()}
    return Baseline(str(values["name"]), scores, str(values["note"]))


def _rebuild_study(kind: type[Any], values: object, name: str) -> Any:
    return validate(kind, values, source="", prefix=f"{name}.")


def refuse_infinite(logits: Logits) -> None:
    """Raise a DataError if there are no logits (N, C), or some that are not finite."""
    if not len(logits):
        raise DataError("nothing to evaluate: no labelled sample is given")
    finite = np.isfinite(logits).all(1)
    if not finite.all():
        raise DataError(f"the outputs for sample {finite.argmin()} are not finite; the model's weights may be damaged")


def read_shares(table: pa.Table, columns: Iterable[str]) -> Floats:
    """Read columns of numbers side by side (N, C)."""
    shares: Floats = np.stack([table[name].to_numpy() for name in columns], 1).astype(np.float64)
    return shares


def find_places(names: pa.Array | pa.ChunkedArray, classes: tuple[str, ...]) -> Counts:
    """Find the places of names in the classes; `DataError` names one that is none of them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.index_in(names, pa.array(classes, names.type))
    if found.null_count:
        strange = names.filter(found.is_null())[0].as_py()
        raise DataError(f"a label is {shorten(strange)}, but must be one of {name_first(classes)}")
    places: Counts = found.to_numpy(zero_copy_only=False).astype(np.int64)
    return places


def keep_rated(manifest: Manifest, is_rated: npt.NDArray[np.bool], what: str, *, target: str) -> Manifest:
    """Keep the rows (N,) that have what a target reads; `DataError` if none has."""
    count = int((~is_rated).sum())
    if count == len(manifest):
        raise DataError(
            f"none of {count} rows of {manifest.facts.name} has {what}: choose other splits, or another `target`"
        )
    if count:
        text = "target %s leaves out %d of %d rows of %s, which have no %s"
        log.info(text, target, count, len(manifest), manifest.facts.name, what)
    return manifest.where(is_rated)


def refuse_unlabelled(manifest: Manifest, unlabelled: npt.NDArray[np.bool]) -> None:
    """Raise a DataError that names the first row without a label, if a row (N,) has none."""
    if unlabelled.any():
        raise DataError(
            f"{unlabelled.sum()} of {len(manifest)} rows have no label, the first being "
            f"{manifest.row(int(unlabelled.argmax())).path}: choose splits with a label in every row"
        )
