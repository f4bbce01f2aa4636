"""One label for each image: a softmax over the classes, and what its probabilities are worth.

A confusion matrix counts samples: rows are the true classes, columns the predicted ones. Letters as in `scores`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from uniemox.config.training import ClassWeights
from uniemox.errors import DataError
from uniemox.targets import scores
from uniemox.targets.calibration import fit_temperature
from uniemox.targets.columns import Column
from uniemox.targets.coverage import cover
from uniemox.targets.intervals import Bootstrap, PseudoCounts, Weights, draw_kinds
from uniemox.targets.scores import Counts, Flags, Floats, Metric, share
from uniemox.targets.softmax import SoftmaxTarget
from uniemox.targets.target import Logits, find_places, refuse_unlabelled
from uniemox.targets.weights import weigh_classes

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from uniemox.manifests.table import Manifest


@dataclass(frozen=True, kw_only=True)
class _Evidence(scores.Evidence):
    is_top3: Flags  # (N,), whether the label is among the min(3, C) likeliest; of equals the lower label comes first


def _tallies(confusion: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Count hits, false alarms and misses of each class, (3, …, C), from a confusion matrix (…, C, C)."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.stack([hits, confusion.sum(-2) - hits, confusion.sum(-1) - hits])


def _top1(of: scores.Evidence) -> Floats:
    """Share of the samples with their label as the likeliest class."""
    return share(of.tallies[0].sum(-1), of.support.sum(-1))


def _top3(of: _Evidence) -> float:
    return float(of.is_top3.mean())


def _balanced_accuracy(of: scores.Evidence) -> Floats:
    """Mean recall over the classes that have samples."""
    return share(share(of.tallies[0], of.support).sum(-1), (of.support > 0).sum(-1))


def _weighted_f1(of: scores.Evidence) -> Floats:
    """Mean F1 over the classes, weighted by their samples."""
    return share((scores.f1_of(*of.tallies) * of.support).sum(-1), of.support.sum(-1))


class OneAnswer(NamedTuple):
    """Scores of answering one class for every sample."""

    name: str
    top1: float
    balanced_accuracy: float
    macro_f1: float


@dataclass(frozen=True, kw_only=True)
class SingleLabelScores(scores.ClassScores):
    """Scores of a classifier of one label; all but `nll` and `brier` lie in [0, 1]."""

    counts: tuple[tuple[int, ...], ...]  # The confusion matrix (C, C) as plain numbers, rows true

    @property
    def confusion(self) -> Counts:
        """The confusion matrix (C, C), rows true."""
        return np.array(self.counts, dtype=np.int64)

    @property
    def tallies(self) -> Counts:
        """Hits, false alarms and misses of each class: (3, C)."""
        return _tallies(self.confusion)

    @property
    def majority(self) -> OneAnswer:
        """Scores of always answering the class with most samples here, the first of equals."""
        answer, present = int(self.support.argmax()), int(self.support.astype(bool).sum())
        hits, total = int(self.support[answer]), int(self.support.sum())
        return OneAnswer(self.classes[answer], hits / total, 1 / present, 2 * hits / (hits + total) / present)

    @property
    def matrix(self) -> scores.Matrix:
        """The confusion matrix, to be drawn."""
        errors = self.confusion
        np.fill_diagonal(errors, 0)
        true, predicted = divmod(int(errors.argmax()), len(errors))
        often = f"; most often {self.classes[true]} taken for {self.classes[predicted]}, {errors.max()} times."
        return scores.Matrix(
            self.classes,
            self.confusion,
            f"Matrix of true against predicted classes{often if errors.any() else ', without errors.'}",
            "Share of each true class, and number of samples, by predicted class.",
        )

    @property
    def display(self) -> scores.Display:
        """What a page and the terminal show beside the metrics."""
        name, top1, balanced_accuracy, macro = self.majority
        present = self.support > 0
        precision, recall = (np.where(present, values, np.nan).tolist() for values in (self.precision, self.recall))
        bars = scores.Bars(
            "F1",
            self.classes,
            self.f1.tolist(),
            (("precision", precision, "diamond"), ("recall", recall, "circle")),
            self.support.tolist(),
            "Bars of F1 for each class, with marks for precision and recall; the table holds the numbers.",
            "F1 (bar), precision and recall (marks) of each class.",
        )
        rows = [
            (name, precision, recall if support else None, f1, support)
            for name, precision, recall, f1, support in zip(*self.per_class.values(), strict=True)
        ]
        grid = scores.Grid(("class", "precision", "recall", "F1", "samples"), rows, "half")
        confidence = (self.matrix, self.calibration("confidence", "accuracy", "samples"), *self.covered)
        text = f"No sample here is labelled {', '.join(self.absent)}: balanced accuracy ignores such classes."
        always = (
            f" Always answering the most frequent class, {name}, would reach top-1 {top1:.3f}, balanced accuracy "
            f"{balanced_accuracy:.3f} and macro F1 {macro:.3f}."
        )
        alone = not self.compared  # else the baselines say it
        return scores.Display(
            samples=f"labelled samples of {len(self.classes)} classes.",
            explanation=f"{self.ranges}{always if alone else ''}".strip(),
            warnings=(text,) if self.absent else (),
            baselines=((f"majority class ({name})", top1),) if alone else (),
            panels=(("Classes", (bars, grid)), ("Confusions and confidence", confidence)),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            **super().to_dict(),
            "majority": self.majority._asdict(),
            "confusion": [list(row) for row in self.counts],
        }


@dataclass(frozen=True)
class SingleLabel(SoftmaxTarget):
    """One of the classes."""

    name = "single_label"
    labels_kind = np.int64
    labels_are_wide = False
    problem_type = "single_label_classification"
    is_zero_shot = True
    columns_read = ("label",)
    truth = (Column("label", "text"),)
    does = "names one of {classes} emotions of an image"
    kept_words = "of {images} keep their likeliest class"
    metrics = (
        Metric("top1", "top-1", _top1, is_selectable=True, is_bootstrapped=True),
        Metric("top3", "top-3", _top3, is_selectable=True),
        Metric("balanced_accuracy", "balanced accuracy", _balanced_accuracy, is_selectable=True, is_bootstrapped=True),
        scores.MACRO_F1,
        Metric("weighted_f1", "weighted F1", _weighted_f1, is_selectable=True, is_bootstrapped=True),
        *scores.OF_PROBABILITIES,
    )

    def read_labels(self, manifest: Manifest) -> npt.NDArray[np.int64]:
        """Read (N,) places in the classes."""
        missing = manifest.labels < 0
        if (missing & manifest.table["label_set"].is_valid().to_numpy()).any():
            raise DataError(
                f"{manifest.facts.name} gives several labels to one row (label_set): train with `target` "
                "multi_label, or prepare the data with one label for each row"
            )
        refuse_unlabelled(manifest, missing)
        return manifest.labels.copy()

    def soften(self, labels: Tensor, smoothing: float) -> Tensor:
        """Spread a share ε of each label over all classes (Szegedy et al. 2016, section 7)."""
        from torch.nn.functional import one_hot

        return one_hot(labels, self.num_outputs).float() * (1 - smoothing) + smoothing / self.num_outputs

    def loss(self, logits: Tensor, softened: Tensor) -> Tensor:
        """Compute the cross-entropy of the softmax, the share of each class times its weight."""
        from torch.nn.functional import cross_entropy

        weight = logits.new_tensor(self.weights) if self.weights else None
        return cross_entropy(logits, softened, weight)

    def weigh(self, how: ClassWeights, labels: Counts) -> Self:
        """Return the target whose loss weighs classes by their number in train."""
        return replace(self, weights=weigh_classes(np.bincount(labels, minlength=self.num_outputs), how))

    def prior(self, labels: Counts) -> Floats:
        """Return the logarithms of the shares of the classes in train, at least 2.2e-16."""
        shares = np.bincount(labels, minlength=self.num_outputs) / len(labels)
        logits: Floats = np.log(shares.clip(np.finfo(np.float64).eps))
        return logits

    def fit_temperature(self, logits: Logits, labels: Counts) -> float:
        """Find what makes the softmax honest; 1 without a sample."""
        if not len(labels):
            return 1.0
        from scipy.special import log_softmax

        rows = np.arange(len(labels))
        return fit_temperature(lambda factor: -float(log_softmax(logits * factor, axis=1)[rows, labels].mean()))

    def is_true(self, labels: Counts) -> Flags:
        """Decide which classes are right (N, C): the label alone."""
        return np.asarray(np.arange(self.num_outputs) == labels[:, None])

    def truths(self, labels: Counts) -> list[dict[str, Any]]:
        """Name the labels."""
        return [{"label": self.classes[place]} for place in labels]

    def self_confidence(self, numbers: Floats, labels: Counts) -> Floats:
        """Take the probability of the label (N, C), infinite at the other classes."""
        return np.where(self.is_true(labels), numbers, np.inf)

    def read_answers(self, table: pa.Table) -> tuple[Floats, Counts]:
        """Read probabilities and labels back."""
        return self.read_numbers(table), find_places(table["label"], self.classes)

    def right(self, numbers: Floats, labels: Counts) -> Flags:
        """Decide which answers are right: the label is the likeliest class."""
        return np.asarray(numbers.argmax(1) == labels)

    def resampler(self, numbers: Floats, labels: Counts) -> Callable[[Weights], Mapping[str, Floats]]:
        """Return what measures resamples, by their confusion matrices."""
        count, empty = self.num_outputs, np.empty(0)
        cells = labels * count + numbers.argmax(1)

        def measure(weights: Weights) -> Mapping[str, Floats]:
            confusion = np.stack([np.bincount(cells, row, count**2) for row in weights]).reshape(-1, count, count)
            evidence = scores.Evidence(tallies=_tallies(confusion), own=empty, errors=empty, bins=())
            return {one.name: one.compute(evidence) for one in self.metrics if one.is_bootstrapped}

        return measure

    def compute_scores(self, numbers: Floats, labels: Counts, bootstrap: Bootstrap) -> SingleLabelScores:
        """Score probabilities (N, C); of equal ones the lower label counts as the likelier."""
        predicted, own = numbers.argmax(1), numbers[np.arange(len(labels)), labels]
        count = self.num_outputs
        cells = np.bincount(labels * count + predicted, minlength=count**2)
        confusion = cells.reshape(count, count)
        is_earlier = np.arange(count) < labels[:, None]
        before = (numbers > own[:, None]) | ((numbers == own[:, None]) & is_earlier)
        evidence = _Evidence(
            tallies=_tallies(confusion),
            own=own,
            errors=(numbers**2).sum(1) - 2 * own + 1,  # summed over classes (Brier 1950), the square multiplied out
            bins=scores.bin_confidences(numbers.max(1), predicted == labels),
            is_top3=before.sum(1) < 3,
        )
        pseudo = PseudoCounts(evidence.support, bootstrap.groups, bootstrap.seed)
        resampled = [
            replace(evidence, tallies=tallies + pseudo.draw(tallies.shape[1]))
            for tallies in _resample(labels * count + predicted, count, bootstrap)
        ]
        centre = replace(evidence, tallies=evidence.tallies + pseudo.mean)
        return SingleLabelScores(
            **self.about,
            **bootstrap.bound(self.metrics, evidence, resampled, centre=centre),
            values=scores.measure(self.metrics, evidence) | self.guarantees.measure(numbers, self.is_true(labels)),
            counts=tuple(map(tuple, confusion.tolist())),
            bins=evidence.bins,
            coverage=cover(numbers.max(1), predicted == labels),
        )

    def _rebuild(self, values: Mapping[str, Any], common: dict[str, Any]) -> SingleLabelScores:
        counts = tuple(tuple(map(int, row)) for row in values["confusion"])
        return SingleLabelScores(**common, counts=counts)


def _resample(cells: Counts, count: int, bootstrap: Bootstrap) -> Iterator[npt.NDArray[Any]]:
    """Resample the tallies (3, R, C) from each sample's cell of the confusion matrix (N,), in blocks."""
    groups = bootstrap.groups
    # Units with the same tallies are interchangeable: to draw units is one multinomial draw over the kinds of them.
    if groups is None:
        kinds, frequency = _tallies_of(np.arange(count**2), np.arange(count**2), count), np.bincount(cells)
        kinds = kinds[: len(frequency)]
    else:
        held = _tallies_of(cells, np.unique(groups, return_inverse=True)[1], count)
        kinds, frequency = np.unique(held, axis=0, return_counts=True)
    rounds = bootstrap.num_resamples if frequency.sum() > 1 else 0
    for draws in draw_kinds(frequency, seed=bootstrap.seed, num_resamples=rounds):
        yield np.moveaxis((draws @ kinds).reshape(-1, 3, count), 1, 0)


def _tallies_of(cells: Counts, owners: Counts, count: int) -> Floats:
    """Count hits, false alarms and misses of each class, (U, 3 · C), over the samples of each of U owners."""
    true, predicted = np.divmod(cells, count)
    is_hit = true == predicted
    owned, size = owners * count, (owners.max() + 1) * count
    parts = ((true, is_hit), (predicted, ~is_hit), (true, ~is_hit))
    columns = [np.bincount(owned + place, which, size).reshape(-1, count) for place, which in parts]
    return np.concatenate(columns, 1)
