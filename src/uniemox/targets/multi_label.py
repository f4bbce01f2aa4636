"""Any number of labels for each image: a sigmoid for each class, answered yes from a threshold on.

Letters as in `scores`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import numpy.typing as npt

from uniemox.config.training import ClassWeights
from uniemox.errors import DataError
from uniemox.targets import scores
from uniemox.targets.bridges import Parts
from uniemox.targets.calibration import fit_temperature, sigmoid
from uniemox.targets.columns import SHARE, Column
from uniemox.targets.intervals import Bootstrap, PseudoCounts, Weights
from uniemox.targets.scores import Counts, Flags, Floats, Metric, f1_of, share
from uniemox.targets.target import Logits, Numbers, Target, find_places, read_shares, refuse_unlabelled
from uniemox.targets.weights import weigh_classes

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor, nn

    from uniemox.manifests.table import Manifest

_EPS: Final = 1e-12  # A threshold of 0 or 1 has no finite logit
_COUNTS: Final = ("hits", "false_alarms", "misses")


@dataclass(frozen=True, kw_only=True)
class _Evidence(scores.Evidence):
    precisions: Floats  # (C,) or (R, C), average precision; NaN where no sample has the class


def _mean_average_precision(of: _Evidence) -> Floats:
    """Mean of the average precisions over the classes that have samples; 0 where none has."""
    known = ~np.isnan(of.precisions)
    return share(np.where(known, of.precisions, 0).sum(-1), known.sum(-1))


def _chance(of: _Evidence) -> float:
    """Mean average precision of an endless list in random order: the mean share of the classes that occur."""
    shares = of.support[of.support > 0] / len(of.own)
    return float(shares.mean()) if len(shares) else 0.0


def _micro_f1(of: scores.Evidence) -> Floats:
    """F1 of all answers together."""
    return f1_of(*of.tallies.sum(-1))


@dataclass(frozen=True, kw_only=True)
class MultiLabelScores(scores.ClassScores):
    """Scores of a classifier of any number of labels; all but `nll` lie in [0, 1]."""

    thresholds: tuple[float, ...]  # (C,), the probability from which a class is answered yes
    average_precision: tuple[float | None, ...]  # (C,), area under the precision-recall curve; None without samples
    decisions: tuple[tuple[int, ...], ...]  # (C, 3), hits, false alarms and misses of each class at its threshold

    @property
    def tallies(self) -> Counts:
        """Hits, false alarms and misses of each class: (3, C)."""
        return np.array(self.decisions, dtype=np.int64).T

    @property
    def per_class(self) -> dict[str, Sequence[Any]]:
        """The scores of each class by their names in JSON, (C,) each."""
        return {
            **super().per_class,
            "average_precision": self.average_precision,
            "threshold": self.thresholds,
            **dict(zip(_COUNTS, self.tallies.tolist(), strict=True)),
        }

    @property
    def display(self) -> scores.Display:
        """What a page and the terminal show beside the metrics."""
        bars = scores.Bars(
            "average precision",
            self.classes,
            [value or 0.0 for value in self.average_precision],
            (("random order", (self.support / self.num_samples).tolist(), "line"),),
            self.support.tolist(),
            "Bars of average precision for each label, with a mark for random order; the table holds the numbers.",
            "Average precision (bar), and what random order would reach (mark).",
        )
        names = ("name", "average_precision", "threshold", "precision", "recall", "f1", "support")
        heads = ("label", "average precision", "threshold", "precision", "recall", "F1", "samples")
        table = self.per_class
        grid = scores.Grid(heads, list(zip(*(table[name] for name in names), strict=True)))
        calibration = self.calibration("probability", "share that applies", "answers")
        text = f"No sample here has the label {', '.join(self.absent)}: the mean ignores such labels."
        return scores.Display(
            samples=f"samples, each with any number of {len(self.classes)} labels.",
            explanation="Average precision asks whether the samples that have a label come first when all are ranked "
            "by its probability; its mean counts every label the same. F1 is of the answers from each label's "
            "threshold on."
            f"{self.ranges and ' '}{self.ranges}",
            warnings=(text,) if self.absent else (),
            panels=(("Labels", (bars, grid)), ("Confidence", (calibration,))),
        )


@dataclass(frozen=True)
class MultiLabel(Target):
    """Any number of the classes, each a question of its own."""

    thresholds: tuple[float, ...] = ()  # (C,), probabilities from which a class is answered; 0.5 before `fit`
    weights: tuple[float, ...] = ()  # (C,), of the classes in the loss; empty for equal ones

    name = "multi_label"
    labels_kind = np.bool
    problem_type = "multi_label_classification"
    columns_read = ("label", "label_set")
    truth = (Column("label", "texts"),)
    does = "decides for each of {classes} emotions whether an image shows it"
    joining = ("given where any of them is", "its answers are ignored")
    flip_words = "of the labels that an image has before or after a change, those it has only once"
    kept_words = "of the labels given and not given to {images} stay"
    metrics = (
        Metric(
            "mean_average_precision",
            "mean average precision",
            _mean_average_precision,
            is_selectable=True,
            is_bootstrapped=True,
            is_biased=True,
        ),
        Metric("chance", "in random order", _chance, is_kept=False),
        scores.MACRO_F1,
        Metric("micro_f1", "micro F1", _micro_f1, is_selectable=True, is_bootstrapped=True),
        *scores.OF_PROBABILITIES,
    )

    def bind(self, classes: tuple[str, ...], numbers: Numbers = MappingProxyType({})) -> Self:
        """Make the target of these classes and thresholds; `DataError` if those are others than one of each class."""
        thresholds = tuple(numbers.get("thresholds", ()))
        if thresholds and (len(thresholds) != len(classes) or not all(0 <= one <= 1 for one in thresholds)):
            raise DataError(f"thresholds must list {len(classes)} numbers from 0 to 1")
        return replace(self, classes=classes, thresholds=thresholds)

    def to_facts(self) -> dict[str, Any]:
        """Return what a model folder keeps."""
        return {"target": self.name, "thresholds": self._thresholds_or_even}

    @property
    def _thresholds_or_even(self) -> tuple[float, ...]:
        return self.thresholds or (0.5,) * len(self.classes)

    @property
    def fitted(self) -> str:
        """What a card reports of what was fitted on val."""
        pairs = zip(self.classes, self.thresholds, strict=True)
        listed = ", ".join(f"{name} {threshold:.3f}" for name, threshold in pairs)
        return f"Each emotion is given from a probability on, fitted on val: {listed}."

    def read_labels(self, manifest: Manifest) -> npt.NDArray[np.bool]:
        """Read (N, C), true for each label that applies; one label is a set of one."""
        has_set = manifest.table["label_set"].is_valid().to_numpy()
        refuse_unlabelled(manifest, (manifest.labels < 0) & ~has_set)
        return manifest.label_sets.copy()

    def soften(self, labels: Tensor, smoothing: float) -> Tensor:
        """Spread a share ε of each answer over yes and no."""
        return labels.float() * (1 - smoothing) + smoothing / 2

    def loss(self, logits: Tensor, softened: Tensor) -> Tensor:
        """Compute the mean over classes of the binary cross-entropy of each, times its weight."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        weight = logits.new_tensor(self.weights) if self.weights else None
        return binary_cross_entropy_with_logits(logits, softened, weight)

    def weigh(self, how: ClassWeights, labels: npt.NDArray[np.bool]) -> Self:
        """Return the target whose loss weighs classes by how often they apply in train."""
        return replace(self, weights=weigh_classes(labels.sum(0), how))

    def start_head(self, head: nn.Linear, labels: npt.NDArray[np.bool]) -> None:
        """Start from the log odds of each class in train, which a head would else take long to reach.

        Lin et al. 2017, section 4.1; one yes and one no are added, so that a class without samples has odds too.
        """
        import torch

        with torch.no_grad():
            head.bias.copy_(torch.from_numpy(self.prior(labels)))

    def prior(self, labels: npt.NDArray[np.bool]) -> Floats:
        """Return the log odds of each class in train, with one yes and one no added."""
        yes = labels.sum(0) + 1
        logits: Floats = np.log(yes / (len(labels) + 2 - yes))
        return logits

    def fit_temperature(self, logits: Logits, labels: npt.NDArray[np.bool]) -> float:
        """Find what makes the sigmoids honest; 1 without a sample."""
        if not len(labels):
            return 1.0
        signed = np.where(labels, logits, -logits)
        # -log sigmoid(z)
        return fit_temperature(lambda factor: float(np.logaddexp(0, -signed * factor).mean()))

    def fit(self, logits: Logits, labels: npt.NDArray[np.bool]) -> Self:
        """Find the thresholds of the best F1."""
        return replace(self, thresholds=fit_thresholds(sigmoid(logits), labels))

    def join(self, classes: tuple[str, ...], parts: Parts) -> Self:
        """Return the target of other classes, with the threshold of the first of each part."""
        thresholds = tuple(self.thresholds[part[0]] for part in parts) if self.thresholds else ()
        return replace(self, classes=classes, thresholds=thresholds, weights=())

    def join_logits(self, logits: Logits, parts: Parts) -> Logits:
        """Take the largest logit of each part, as seen from its own threshold: it is given where any of them is."""
        edges = np.array(self._thresholds_or_even).clip(_EPS, 1 - _EPS)
        edges = np.log(edges / (1 - edges))
        shifts = [edges[part[0]] - edges[list(part)] for part in parts]  # 0 of a part of one
        return np.stack([(logits[:, list(part)] + shift).max(1) for part, shift in zip(parts, shifts, strict=True)], 1)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The labels that apply, the likeliest first; the likeliest of all, its probability, and those of all."""
        shares = (Column(f"{SHARE}{name}", "share") for name in self.classes)
        return (Column("predicted", "texts"), Column("likeliest", "text"), Column("confidence", "share"), *shares)

    def answers(self, logits: Logits) -> list[dict[str, Any]]:
        """Answer with the labels that reach their thresholds, none or many."""
        answers = []
        for row in sigmoid(logits).tolist():
            ranked = sorted(zip(row, self.classes, self._thresholds_or_even, strict=True), key=lambda one: -one[0])
            answers.append(
                {
                    "predicted": [name for probability, name, threshold in ranked if probability >= threshold],
                    "likeliest": ranked[0][1],
                    "confidence": ranked[0][0],
                    "probabilities": dict(zip(self.classes, row, strict=True)),
                }
            )
        return answers

    def numbers(self, logits: Logits) -> Floats:
        """Compute the probabilities (N, C)."""
        return sigmoid(logits)

    def truths(self, labels: npt.NDArray[np.bool]) -> list[dict[str, Any]]:
        """Name the labels, in label order."""
        return [{"label": [self.classes[place] for place in row.nonzero()[0]]} for row in labels]

    def decisions(self, logits: Logits) -> npt.NDArray[np.bool]:
        """Decide which labels apply (N, C)."""
        return sigmoid(logits) >= np.array(self._thresholds_or_even)

    def agreement(self, logits: Logits, others: Logits) -> float:
        """Compute the share of the labels given by both among those given by either."""
        given, also = self.decisions(logits), self.decisions(others)
        either = (given | also).sum()
        return float((given & also).sum() / either) if either else 1.0

    def flips(self, logits: Logits, others: Logits) -> Floats:
        """Compute the share of the labels that one of both gives to an image and the other does not (Jaccard 1901)."""
        given, also = self.decisions(logits), self.decisions(others)
        return share((given ^ also).sum(1), (given | also).sum(1))

    def self_confidence(self, numbers: Floats, labels: npt.NDArray[np.bool]) -> Floats:
        """Take for each class the probability of the answer that the labels give (N, C)."""
        return np.where(labels, numbers, 1 - numbers)

    def read_answers(self, table: pa.Table) -> tuple[Floats, Flags]:
        """Read probabilities and labels back."""
        import pyarrow.compute as pc

        lists = table["label"].combine_chunks()
        labels = np.zeros((len(table), self.num_outputs), dtype=np.bool)
        labels[pc.list_parent_indices(lists).to_numpy(), find_places(lists.flatten(), self.classes)] = True
        return read_shares(table, (f"{SHARE}{name}" for name in self.classes)), labels

    def right(self, numbers: Floats, labels: Flags) -> Flags:
        """Decide which answers are right: exactly the labels that apply."""
        return np.asarray(((numbers >= np.array(self._thresholds_or_even)) == labels).all(1))

    def resampler(self, numbers: Floats, labels: Flags) -> Callable[[Weights], Mapping[str, Floats]]:
        """Return what measures resamples, by their tallies and the ranks of all samples."""
        weigh, empty = self._weigher(numbers, labels, self.thresholds or fit_thresholds(numbers, labels)), np.empty(0)

        def measure(weights: Weights) -> Mapping[str, Floats]:
            tallies, precisions = weigh(weights, np.zeros((3, len(weights), self.num_outputs)))
            evidence = _Evidence(tallies=tallies, precisions=precisions, own=empty, errors=empty, bins=())
            return {one.name: one.compute(evidence) for one in self.metrics if one.is_bootstrapped}

        return measure

    @staticmethod
    def _weigher(
        numbers: Floats, labels: Flags, thresholds: Sequence[float]
    ) -> Callable[[npt.NDArray[np.floating], Floats], tuple[npt.NDArray[Any], Floats]]:
        given = numbers >= np.array(thresholds)
        parts = (given & labels, given & ~labels, ~given & labels)

        def weigh(weights: npt.NDArray[np.floating], extra: Floats) -> tuple[npt.NDArray[Any], Floats]:
            """Count tallies (3, R, C) and precisions (R, C) of samples weighted by (R, N), and `extra` (3, R, C)."""
            columns = zip(numbers.T, labels.T, extra[0].T, extra[2].T, strict=True)
            precisions = [
                _average_precision(column, truth, weights, first, last) for column, truth, first, last in columns
            ]
            tallies = np.stack([(weights @ part).astype(np.float64) for part in parts])
            return tallies + extra, np.stack(precisions, 1)

        return weigh

    def compute_scores(self, numbers: Floats, labels: Flags, bootstrap: Bootstrap) -> MultiLabelScores:
        """Score probabilities (N, C); before `fit` at the thresholds that are best here, which flatters F1."""
        thresholds = self.thresholds or fit_thresholds(numbers, labels)
        weigh = self._weigher(numbers, labels, thresholds)
        once = np.ones((1, len(labels)))
        tallies, precisions = weigh(once, np.zeros((3, 1, self.num_outputs)))
        evidence = _Evidence(
            tallies=tallies[:, 0],
            own=np.where(labels, numbers, 1 - numbers),
            errors=(numbers - labels) ** 2,
            bins=scores.bin_confidences(numbers.ravel(), labels.ravel()),
            precisions=precisions[0],
        )
        pseudo = PseudoCounts(evidence.support, bootstrap.groups, bootstrap.seed)
        resampled = []
        for weights in bootstrap.weights():
            tallies, precisions = weigh(weights, pseudo.draw(len(weights)))
            resampled.append(replace(evidence, tallies=tallies, precisions=precisions))
        tallies, precisions = weigh(once, pseudo.mean[:, None])
        centre = replace(evidence, tallies=tallies[:, 0], precisions=precisions[0])
        return MultiLabelScores(
            **self.about,
            **bootstrap.bound(self.metrics, evidence, resampled, centre=centre),
            thresholds=thresholds,
            values=scores.measure(self.metrics, evidence),
            average_precision=tuple(None if np.isnan(one) else float(one) for one in evidence.precisions),
            decisions=tuple(map(tuple, evidence.tallies.T.astype(int).tolist())),
            bins=evidence.bins,
        )

    def _rebuild(self, values: Mapping[str, Any], common: dict[str, Any]) -> MultiLabelScores:
        rows = values["per_class"]
        found = [row["average_precision"] for row in rows]
        return MultiLabelScores(
            **common,
            thresholds=tuple(float(row["threshold"]) for row in rows),
            average_precision=tuple(None if one is None else float(one) for one in found),
            decisions=tuple(tuple(int(row[name]) for name in _COUNTS) for row in rows),
        )


def fit_thresholds(numbers: npt.NDArray[Any], labels: Flags) -> tuple[float, ...]:
    """Find for each class the probability from which a yes gives the best F1.

    The threshold lies in the middle between the last sample that is taken and the next; of equal F1 the one that takes
    fewer samples is chosen. A class without samples gets 0.5.

    Args:
        numbers: (N, C), of samples that were not trained on.
        labels: (N, C), true for each label of a sample.
    """
    thresholds = []
    for column, truth in zip(numbers.T.astype(np.float64), labels.T, strict=True):
        if not truth.any():
            thresholds.append(0.5)
            continue
        order, ends = _order(column)
        hits = truth[order].cumsum()[ends]
        best = int(f1_of(hits, ends + 1 - hits, truth.sum() - hits).argmax())
        ranked = np.append(column[order][ends], 0.0)
        thresholds.append(float((ranked[best] + ranked[best + 1]) / 2))
    return tuple(thresholds)


def _order(numbers: Floats) -> tuple[Counts, Counts]:
    """Rank the samples from the likeliest down, and find where each run of equal numbers ends."""
    order = np.argsort(-numbers, kind="stable")
    ranked = numbers[order]
    ends = np.append((ranked[1:] != ranked[:-1]).nonzero()[0], len(ranked) - 1)
    return order, ends


def _average_precision(
    numbers: Floats, labels: Flags, weights: npt.NDArray[np.floating], first: Floats, last: Floats
) -> Floats:
    """Sum over thresholds the rise of recall times precision (Zhu 2004), (R,), for samples weighted by (R, N).

    `first` and `last` (R,) weigh a further sample of the class before all others and one behind them. Recall rises only
    at samples of the class, so precision is computed only there, over all samples of at least the same probability. NaN
    where no sample of the class has weight.
    """
    order, ends = _order(numbers)
    ours = labels[order].nonzero()[0]
    runs = np.searchsorted(ends, ours)  # of equal numbers, which come and go together
    rises = weights[:, order[ours]]
    run_ends = np.searchsorted(runs, runs, side="right") - 1
    before = first[:, None].astype(weights.dtype)
    hits = rises.cumsum(1)[:, run_ends] + before
    taken = weights[:, order].cumsum(1)
    whole = rises.sum(1, dtype=np.float64) + first + last
    precision_of_last = share(whole, taken[:, -1] + first + last)
    found = (rises * share(hits, taken[:, ends[runs]] + before)).sum(1) + first + last * precision_of_last
    return np.where(whole > 0, share(found, whole), np.nan)
