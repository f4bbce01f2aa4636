"""How pleasant, how activated and how much in control an image makes feel: one number on a scale for each.

Outputs of the head and labels lie in −1 to 1, from one end of the data's scale to the other, so that any scale trains
alike; answers and errors are in the units of the scale. Letters as in `scores`; D dimensions.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import numpy.typing as npt

from uniemox.errors import DataError
from uniemox.targets import scores
from uniemox.targets.columns import Column
from uniemox.targets.intervals import Bootstrap, Weights
from uniemox.targets.scores import Floats, Metric
from uniemox.targets.target import Logits, Numbers, Target, keep_rated, read_shares, refuse_unlabelled
from uniemox.wording import listed

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor, nn

    from uniemox.manifests.table import Manifest

log = logging.getLogger(__name__)

VAD: Final = ("valence", "arousal", "dominance")  # As `manifests.columns` names them, without PyArrow
_KEPT_POINTS: Final = 500  # Of all samples, in a report
_EPS: Final = 1e-12  # Below this a variance is rounding
_FEWEST: Final = 30  # Samples of val that the spread of answers is fitted on
Points = tuple[tuple[float, ...], ...]


def correlations(answered: Floats, rated: Floats, weights: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    """Compute concordance (Lin 1989) and Pearson's correlation of answers and ratings (N, D): (R, D) each.

    Concordance is 2 cov / (var + var + (mean − mean)²), with variances divided by N as Lin has them. Where one side
    does not vary both are 0.

    Args:
        answered: The model's numbers.
        rated: Those of the raters.
        weights: Of the samples, (R, N); each row is divided by its sum.
    """
    shares = weights / weights.sum(1, keepdims=True)
    centre = rated.mean(0)  # so that no squares of large numbers are subtracted
    first, second = answered - centre, rated - centre
    means = shares @ first, shares @ second
    spreads = shares @ first**2 - means[0] ** 2, shares @ second**2 - means[1] ** 2
    together = shares @ (first * second) - means[0] * means[1]
    varies = (spreads[0] > _EPS) & (spreads[1] > _EPS)
    zeros = np.zeros_like(together)
    concordance = np.divide(2 * together, sum(spreads) + (means[0] - means[1]) ** 2, out=zeros.copy(), where=varies)
    pearson = np.divide(together, np.sqrt((spreads[0] * spreads[1]).clip(0)), out=zeros, where=varies)
    return concordance, pearson


def _measure_ratings(answered: Floats, rated: Floats, ranks: tuple[Floats, Floats], weights: Any) -> dict[str, Floats]:
    """Compute every score of each dimension: (R, D)."""
    concordance, pearson = correlations(answered, rated, weights)
    return {
        "ccc": concordance,
        "pearson": pearson,
        "spearman": correlations(*ranks, weights)[1],  # resamples keep the ranks of all samples
        "mae": weights @ np.abs(answered - rated) / weights.sum(1, keepdims=True),
    }


def _mean(name: str, measured: Mapping[str, Floats]) -> Floats:
    means: Floats = measured[name].mean(-1)
    return means


def _metric(name: str, title: str, **options: Any) -> Metric:
    return Metric(
        name, title, partial(_mean, name), is_selectable=True, is_bootstrapped=True, is_share=False, **options
    )


@dataclass(frozen=True, kw_only=True)
class ValenceArousalScores(scores.Scores):
    """Scores of answers that are numbers on a scale; the metrics are means over the dimensions."""

    scale: tuple[float, float]  # Its ends
    per_dimension: Mapping[str, tuple[float, ...]]  # (D,) of each metric by its name
    rated: Points  # (P, D), ratings of at most 500 samples, evenly chosen
    answered: Points  # (P, D), the answers to them

    @property
    def headline(self) -> list[Metric]:
        """Every metric: the same answer to all has no correlation, so its error alone says what it is worth."""
        return [metric for metric in self.metrics if metric.name in self.values]

    @property
    def display(self) -> scores.Display:
        """What a page and the terminal show beside the metrics."""
        low, high = self.scale
        rated, answered = np.array(self.rated), np.array(self.answered)
        heads = ("dimension", *(metric.title for metric in self.metrics))
        columns = (self.per_dimension[metric.name] for metric in self.metrics)
        grid = scores.Grid(heads, list(zip(self.classes, *columns, strict=True)), are_shares=False)
        parts: list[scores.Part] = [
            scores.Scatter(
                title=name,
                axes=("raters", "model"),
                series=(("", rated[:, place], answered[:, place]),),
                limits=self.scale,
                is_diagonal=True,
                alt=f"The model's {name} against the raters'; the table holds the numbers.",
                caption=f"{name.capitalize()}: a dot for each sample; on the dashed line both say the same.",
            )
            for place, name in enumerate(self.classes)
        ]
        if {"valence", "arousal"} <= set(self.classes):
            across, up = self.classes.index("valence"), self.classes.index("arousal")
            plane = scores.Scatter(
                title="valence and arousal",
                axes=("valence: unpleasant to pleasant", "arousal: calm to activated"),
                series=tuple((who, of[:, across], of[:, up]) for who, of in (("raters", rated), ("model", answered))),
                limits=self.scale,
                is_crossed=True,
                alt="Valence against arousal (Russell 1980), as raters and the model gave them.",
                caption="The plane of Russell's circumplex (1980); the dashed lines cross at the middle of the scale.",
            )
            parts.append(plane)
        return scores.Display(
            samples=f"samples, each rated from {low:g} to {high:g} in {listed(self.classes)}.",
            explanation="Concordance (CCC, Lin 1989) is 1 where answers equal the ratings and 0 where they are "
            f"unrelated; the mean absolute error is in units of the scale, {low:g} to {high:g}. The scores are means "
            f"over the dimensions. {self.ranges}".strip(),
            panels=(("Dimensions", (grid, *parts)),),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            **super().to_dict(),
            "scale": list(self.scale),
            "per_dimension": {name: list(values) for name, values in self.per_dimension.items()},
            "rated": [list(row) for row in self.rated],
            "answered": [list(row) for row in self.answered],
        }


@dataclass(frozen=True)
class ValenceArousal(Target):
    """Valence and arousal, and dominance where the data has it; `classes` are the dimensions."""

    scale: tuple[float, float] = (-1.0, 1.0)  # Ends of the data's scale, those of valence meaning unpleasant, pleasant
    slopes: tuple[float, ...] = ()  # By which `fit` multiplies the outputs; none changes nothing
    offsets: tuple[float, ...] = ()  # What it adds to them then

    name = "valence_arousal"
    problem_type = "regression"
    labels_kind = np.float32
    constant = "mean ratings"
    is_judged = False
    number_word = "rating"
    columns_read = ("vad",)
    flip_words = "ratings that move by more than a tenth of the scale"
    kept_words = "of the ratings of {images} move by less than a hundredth of the scale"
    metrics = (
        _metric("ccc", "CCC", limits=(-1, 1)),
        _metric("pearson", "Pearson", limits=(-1, 1)),
        _metric("spearman", "Spearman", limits=(-1, 1)),
        _metric("mae", "mean absolute error", note="in units of the scale", lower_is_better=True, limits=(0, math.inf)),
    )

    def bind(self, classes: tuple[str, ...], numbers: Numbers = MappingProxyType({})) -> Self:
        """Make the target of these dimensions and of the scale; `DataError` if those cannot be."""
        if unknown := next((name for name in classes if name not in VAD), None):
            raise DataError(f"classes name {unknown}, but the dimensions of {self.name} are {', '.join(VAD)}")
        scale = tuple(numbers.get("scale", self.scale))
        if len(scale) != 2 or not -np.inf < scale[0] < scale[1] < np.inf:
            raise DataError(f"numbers.scale is {list(scale)}, but must be the two ends of a scale")
        slopes, offsets = tuple(numbers.get("slopes", ())), tuple(numbers.get("offsets", ()))
        counts = {len(slopes), len(offsets)}
        if (
            counts not in ({0}, {len(classes)})
            or not np.isfinite([*slopes, *offsets]).all()
            or min(slopes, default=1) <= 0
        ):
            fitted = f"slopes {list(slopes)} and offsets {list(offsets)}"
            raise DataError(
                f"numbers has {fitted}, but must have a slope above 0 and an offset for each dimension, or none"
            )
        ends = (float(scale[0]), float(scale[1]))
        return replace(self, classes=classes, scale=ends, slopes=slopes, offsets=offsets)

    def bind_to(self, manifest: Manifest) -> Self:
        """Make the target of the dimensions that some row has, on the manifest's scale."""
        import pyarrow.compute as pc  # which prediction has no need of

        facts, ratings = manifest.facts, manifest.table["vad"]
        known = tuple(name for name in VAD if pc.struct_field(ratings, name).null_count < len(manifest))
        if not known:
            raise DataError(
                f"{facts.name} holds no ratings of valence or arousal: take another `target`, or prepare the data with "
                "columns valence and arousal"
            )
        if facts.vad_range is None:
            raise DataError(
                f"{facts.name} does not say the scale of its {listed(known)}: prepare it again with the ends of "
                "that, as in `uniemox data prepare table --scale 1,9`"
            )
        return self.bind(known, {"scale": facts.vad_range})

    def align(self, manifest: Manifest) -> tuple[Self, Manifest]:
        """Take the manifest's scale; `DataError` if it lacks a dimension of the model."""
        own = self.bind_to(manifest)
        if lacking := [name for name in self.classes if name not in own.classes]:
            have = f"{manifest.facts.name} has {listed(own.classes)}"
            raise DataError(f"the model answers with {listed(self.classes)}, but {have}, not {lacking[0]}")
        if own.scale != self.scale:
            ends = [f"{low:g} to {high:g}" for low, high in (self.scale, own.scale)]
            log.info("the model learned from a scale of %s; its answers are brought to that of the data, %s", *ends)
        return replace(self, scale=own.scale), manifest

    def rated(self, manifest: Manifest) -> Manifest:
        """Skip the rows without a rating in one of the dimensions."""
        return keep_rated(manifest, ~self._unrated(self._ratings(manifest)), listed(self.classes), target=self.name)

    def _ratings(self, manifest: Manifest) -> Floats:
        """Read the ratings (N, D) in units of the scale; NaN where there is none."""
        import pyarrow.compute as pc  # which prediction has no need of

        column = manifest.table["vad"]
        return np.stack([pc.struct_field(column, name).cast("float64").to_numpy() for name in self.classes], 1)

    @staticmethod
    def _unrated(ratings: Floats) -> npt.NDArray[np.bool]:
        """Find the rows (N,) that lack a dimension."""
        return np.asarray(np.isnan(ratings).any(axis=1))

    def missing(self, manifest: Manifest) -> list[str]:
        """Name nothing: a dimension that no row has is none of the target."""
        del manifest
        return []

    def to_facts(self) -> dict[str, Any]:
        """Return what a model folder keeps."""
        fitted = {"slopes": self.slopes, "offsets": self.offsets} if self.slopes else {}
        return {**super().to_facts(), "numbers": {"scale": self.scale, **fitted}}

    @property
    def emotions(self) -> tuple[None, ...]:
        """No output stands for an emotion."""
        return (None,) * len(self.classes)

    @property
    def summary(self) -> str:
        """What a card calls the model."""
        return f"rates the emotion of an image in {listed(self.classes)}, from {self._ends}"

    @property
    def units(self) -> str:
        """The ends of the scale."""
        return f"{listed(self.classes)} from {self._ends}"

    @property
    def fitted(self) -> str:
        """What a card says of the outputs, and of what was fitted on val."""
        text = f"An output of −1 is the low end of the scale and 1 the high end, {self._ends}"
        triples = zip(self.classes, self.slopes, self.offsets, strict=bool(self.slopes))
        maps = [f"{name} {slope:.3f} × output {offset:+.3f}" for name, slope, offset in triples]
        fitted = f", once outputs are brought to the mean and the spread of the ratings of val: {listed(maps)}"
        return f"{text}{fitted if maps else ''}."

    @property
    def _ends(self) -> str:
        return f"{self.scale[0]:g} to {self.scale[1]:g}"

    def _in_units(self, outputs: Floats) -> Floats:
        low, high = self.scale
        rated: Floats = (low + high) / 2 + outputs * (high - low) / 2
        return rated

    def _on_scale(self, ratings: Floats) -> npt.NDArray[np.float32]:
        low, high = self.scale
        brought: npt.NDArray[np.float32] = ((ratings - (low + high) / 2) / ((high - low) / 2)).astype(np.float32)
        return brought

    def read_labels(self, manifest: Manifest) -> npt.NDArray[np.float32]:
        """Read the ratings (N, D), from −1 to 1; `DataError` names the first row without or beyond the scale."""
        ratings = self._ratings(manifest)
        refuse_unlabelled(manifest, self._unrated(ratings))
        low, high = self.scale
        slack = 1e-6 * (high - low)  # ratings are kept in fp32
        beyond = ((ratings < low - slack) | (ratings > high + slack)).any(1)
        if beyond.any():
            place = int(beyond.argmax())
            rated = ", ".join(f"{name} {value:g}" for name, value in zip(self.classes, ratings[place], strict=True))
            where = f"{beyond.sum()} of {len(manifest)} rows are beyond the scale of {self._ends}"
            raise DataError(f"{where}, the first being {manifest.row(place).path} ({rated}): fix it or the scale")
        return self._on_scale(ratings)

    def soften(self, labels: Tensor, smoothing: float) -> Tensor:
        """Return the ratings as they are: there is no class to smooth towards."""
        del smoothing
        return labels.float()

    def loss(self, logits: Tensor, softened: Tensor) -> Tensor:
        """Compute 1 − CCC of the batch plus the mean squared error, the mean over the dimensions."""
        squared = ((logits - softened) ** 2).mean()
        if len(logits) < 2:
            return squared
        first, second = logits - logits.mean(0), softened - softened.mean(0)
        apart = (logits.mean(0) - softened.mean(0)) ** 2
        spread = (first**2).mean(0) + (second**2).mean(0) + apart
        concordance = 2 * (first * second).mean(0) / spread.clamp_min(_EPS)
        return (1 - concordance).mean() + squared

    def start_head(self, head: nn.Linear, labels: npt.NDArray[np.float32]) -> None:
        """Start from the mean ratings of train, which a head would else take long to reach."""
        import torch

        with torch.no_grad():
            head.bias.copy_(torch.from_numpy(self.prior(labels)))

    def prior(self, labels: npt.NDArray[np.float32]) -> Floats:
        """Return the mean ratings in train."""
        means: Floats = labels.mean(0, dtype=np.float64)
        return means

    def fit(self, logits: Logits, labels: npt.NDArray[np.float32]) -> Self:
        """Bring the mean and the spread of the answers to those of the ratings, each dimension by itself.

        Of all maps a x + b with a > 0 that one has the largest concordance, which is then Pearson's r (Lin 1989: r
        times a factor that is 1 where means and variances are equal). Least squares would draw uncertain answers to the
        mean: concordance 2 r² / (1 + r²). A dimension stays as it is where r is below what chance gives unrelated
        numbers in one of forty cases (Fisher 1915: tanh(1.96 / √(N − 3))), and all do with fewer than 30 samples.
        """
        count = len(labels)
        if count < _FEWEST:
            return self
        answered, rated = logits.astype(np.float64), labels.astype(np.float64)
        related = correlations(answered, rated, np.ones((1, count)))[1][0] > math.tanh(1.96 / math.sqrt(count - 3))
        slopes = np.divide(rated.std(0), answered.std(0), out=np.ones(len(related)), where=related)
        offsets = np.where(related, rated.mean(0) - slopes * answered.mean(0), 0)
        return replace(self, slopes=tuple(slopes.tolist()), offsets=tuple(offsets.tolist()))

    def without_guarantees(self) -> Self:
        """Return it for outputs of another model, which are spread otherwise."""
        return replace(self, slopes=(), offsets=())

    @property
    def columns(self) -> tuple[Column, ...]:
        """The dimensions, in units of the scale."""
        return tuple(Column(name, "number") for name in self.classes)

    def answers(self, logits: Logits) -> list[dict[str, Any]]:
        """Answer with a number for each dimension."""
        return [dict(zip(self.classes, row, strict=True)) for row in self.numbers(logits).tolist()]

    def numbers(self, logits: Logits) -> Floats:
        """Compute the ratings (N, D) in units of the scale, at most its ends."""
        return self._in_units(self.decisions(logits))

    def foremost(self, numbers: Floats) -> int:
        """Return the place of valence, or of the first dimension: ratings do not compete."""
        del numbers
        return 0

    @property
    def truth(self) -> tuple[Column, ...]:
        """What raters gave."""
        return tuple(Column(f"label_{name}", "number") for name in self.classes)

    def truths(self, labels: npt.NDArray[np.float32]) -> list[dict[str, Any]]:
        """List the ratings, in units of the scale."""
        names = [f"label_{name}" for name in self.classes]
        rated = self._in_units(labels.astype(np.float64)).round(5)  # labels are float32: 4 comes back as 3.99999996
        return [dict(zip(names, row, strict=True)) for row in rated.tolist()]

    def read_answers(self, table: pa.Table) -> tuple[Floats, npt.NDArray[np.float32]]:
        """Read the ratings of the model and of raters back, the latter from −1 to 1."""
        rated = read_shares(table, (f"label_{name}" for name in self.classes))
        return read_shares(table, self.classes), self._on_scale(rated)

    def in_words(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """List the numbers by their dimensions."""
        answer, truth = (
            ", ".join(f"{name} {row[start + name]:.2f}" for name in self.classes) for start in ("", "label_")
        )
        return answer, truth

    def decisions(self, logits: Logits) -> npt.NDArray[np.float64]:
        """Return the ratings (N, D) from −1 to 1; use `agreement` to compare them."""
        outputs = logits.astype(np.float64)
        return (outputs * self.slopes + self.offsets if self.slopes else outputs).clip(-1, 1)

    def agreement(self, logits: Logits, others: Logits) -> float:
        """Compute the share of the ratings that are less than a hundredth of the scale apart."""
        return float((np.abs(self.decisions(logits) - self.decisions(others)) < 0.02).mean())

    def flips(self, logits: Logits, others: Logits) -> Floats:
        """Compute the share of an image's ratings that are more than a tenth of the scale apart."""
        moved: Floats = (np.abs(self.decisions(logits) - self.decisions(others)) > 0.2).mean(1)
        return moved

    def kept(self, logits: Logits, others: Logits) -> float:
        """Compute the same: numbers are never quite equal."""
        return self.agreement(logits, others)

    def resampler(self, numbers: Floats, labels: npt.NDArray[np.float32]) -> Callable[[Weights], Mapping[str, Floats]]:
        """Return what measures resamples: means over the dimensions."""
        measured = self._measure(numbers, self._in_units(labels.astype(np.float64)))

        def measure(weights: Weights) -> Mapping[str, Floats]:
            found = measured(weights)
            return {one.name: one.compute(found) for one in self.metrics}

        return measure

    @staticmethod
    def _measure(numbers: Floats, rated: Floats) -> Callable[[npt.NDArray[Any]], dict[str, Floats]]:
        """Return what computes every score of each dimension (R, D) from weights (R, N)."""
        from scipy.stats import rankdata

        ranks = rankdata(numbers, axis=0), rankdata(rated, axis=0)
        return lambda weights: _measure_ratings(numbers, rated, ranks, weights.astype(np.float64))

    def compute_scores(
        self, numbers: Floats, labels: npt.NDArray[np.float32], bootstrap: Bootstrap
    ) -> ValenceArousalScores:
        """Score ratings (N, D) against those of raters, in units of the scale."""
        rated = self._in_units(labels.astype(np.float64))
        measure = self._measure(numbers, rated)
        whole = {name: values[0] for name, values in measure(np.ones((1, len(rated)))).items()}
        blocks = list(map(measure, bootstrap.weights()))
        shown = np.unique(np.linspace(0, len(rated) - 1, min(len(rated), _KEPT_POINTS)).round().astype(int))
        return ValenceArousalScores(
            **self.about,
            **bootstrap.bound(self.metrics, whole, blocks),
            values=scores.measure(self.metrics, whole),
            scale=self.scale,
            per_dimension={name: tuple(values.tolist()) for name, values in whole.items()},
            rated=tuple(map(tuple, rated[shown].round(4).tolist())),
            answered=tuple(map(tuple, numbers[shown].round(4).tolist())),
        )

    def _rebuild(self, values: Mapping[str, Any], common: dict[str, Any]) -> ValenceArousalScores:
        low, high = map(float, values["scale"])
        return ValenceArousalScores(
            **common,
            scale=(low, high),
            per_dimension={
                metric.name: tuple(map(float, values["per_dimension"][metric.name])) for metric in self.metrics
            },
            rated=tuple(tuple(map(float, row)) for row in values["rated"]),
            answered=tuple(tuple(map(float, row)) for row in values["answered"]),
        )
