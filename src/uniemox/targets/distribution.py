"""The share of viewers who feel each emotion: a softmax over the classes, learned from raters' votes.

Six measures compare distributions, as Geng 2016 (Label Distribution Learning, table 1) collects them. Letters as in
`scores`: d are the raters' shares, d̂ the model's, of C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import numpy.typing as npt

from uniemox.config.training import ClassWeights
from uniemox.errors import DataError
from uniemox.targets import scores
from uniemox.targets.calibration import fit_temperature
from uniemox.targets.columns import Column
from uniemox.targets.intervals import Bootstrap, Weights
from uniemox.targets.scores import Flags, Floats, Metric
from uniemox.targets.softmax import SoftmaxTarget
from uniemox.targets.target import Logits, keep_rated, read_shares, refuse_unlabelled
from uniemox.targets.weights import weigh_classes

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from uniemox.manifests.table import Manifest

_EPS: Final = float(np.finfo(np.float64).eps)
_EXPLAINED: Final = (
    "KL divergence, cosine, intersection and three distances compare the shares of each image with those of its raters "
    "(Geng 2016); top-1 asks whether the likeliest emotion is one that most raters named."
)


def measure_distributions(answered: Floats, shares: Floats) -> dict[str, Floats]:
    """Compare distributions d̂ and d, (N, C) each of sum 1, by every measure: (N,).

    Chebyshev is the largest difference; Clark the root of the sum of ((d − d̂) / (d + d̂))², Canberra the sum of
    |d − d̂| / (d + d̂), both with 0 / 0 = 0 and not divided by C; `kl` is Σ d ln(d / d̂) in nats with d̂ at least
    2.2e-16; `top1` is 1 where the largest d̂, the first of equals, is at a largest d.
    """
    gaps, sums = np.abs(answered - shares), answered + shares
    ratios = np.divide(gaps, sums, out=np.zeros_like(gaps), where=sums > 0)
    logs = np.log(np.divide(shares, answered.clip(_EPS), out=np.ones_like(gaps), where=shares > 0))
    lengths = np.linalg.norm(answered, axis=1) * np.linalg.norm(shares, axis=1)
    own = np.take_along_axis(shares, answered.argmax(1)[:, None], 1)[:, 0]
    return {
        "kl": (shares * logs).sum(1),
        "cosine": (answered * shares).sum(1) / lengths,
        "intersection": np.minimum(answered, shares).sum(1),
        "chebyshev": gaps.max(1),
        "clark": np.sqrt((ratios**2).sum(1)),
        "canberra": ratios.sum(1),
        "top1": (own >= shares.max(1)).astype(np.float64),
    }


def _metric(name: str, title: str, **options: Any) -> Metric:
    return Metric(name, title, itemgetter(name), is_selectable=True, is_bootstrapped=True, **options)


@dataclass(frozen=True, kw_only=True)
class DistributionScores(scores.Scores):
    """Scores of answers that are distributions: means over the samples."""

    shares: tuple[tuple[float, float, float], ...]  # (C, 3): mean d, mean d̂ and mean |d − d̂| of each class

    @property
    def display(self) -> scores.Display:
        """What a page and the terminal show beside the metrics."""
        raters, model, gaps = np.array(self.shares).T.tolist()
        bars = scores.Bars(
            "model",
            self.classes,
            model,
            (("raters", raters, "line"),),
            (),
            "Bars of the model's mean share of each emotion, with a mark for the raters'; the table holds the numbers.",
            "Mean share of each emotion in the answers (bar) and among the raters (mark).",
            "mean share",
        )
        rows = list(zip(self.classes, raters, model, gaps, strict=True))
        grid = scores.Grid(("emotion", "raters", "model", "mean difference"), rows, "half")
        return scores.Display(
            samples=f"samples, each with the shares of raters over {len(self.classes)} emotions.",
            explanation=f"{_EXPLAINED} {self.ranges}".strip(),
            panels=(("Emotions", (bars, grid)),),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        rows = zip(self.classes, self.shares, strict=True)
        names = ("raters", "model", "difference")
        per_class = [{"name": name, **dict(zip(names, row, strict=True))} for name, row in rows]
        return {**super().to_dict(), "per_class": per_class}


@dataclass(frozen=True)
class Distribution(SoftmaxTarget):
    """The share of raters for each class."""

    name = "distribution"
    labels_kind = np.float32
    constant = "mean shares"
    is_judged = False
    columns_read = ("distribution",)
    does = "estimates what share of viewers would name each of {classes} emotions of an image"
    kept_words = "of {images} keep their likeliest class"
    metrics = (
        _metric(
            "kl",
            "KL divergence",
            note="in nats, 0 is best",
            lower_is_better=True,
            is_share=False,
            limits=(0, math.inf),
            is_of_confidence=True,
        ),
        _metric("top1", "top-1 of the mode"),
        _metric("cosine", "cosine", is_share=False, limits=(0, 1)),
        _metric("intersection", "intersection", is_share=False, limits=(0, 1)),
        _metric("chebyshev", "Chebyshev", note="0 is best", lower_is_better=True, is_share=False, limits=(0, 1)),
        _metric("clark", "Clark", note="0 is best", lower_is_better=True, is_share=False, limits=(0, math.inf)),
        _metric("canberra", "Canberra", note="0 is best", lower_is_better=True, is_share=False, limits=(0, math.inf)),
    )

    def rated(self, manifest: Manifest) -> Manifest:
        """Skip the rows without shares."""
        is_rated = manifest.table["distribution"].is_valid().to_numpy()
        return keep_rated(manifest, is_rated, "shares of raters", target=self.name)

    def missing(self, manifest: Manifest) -> list[str]:
        """Name the classes that no rater chose."""
        totals = self.read_labels(manifest).sum(0)
        return [name for name, total in zip(manifest.facts.classes, totals, strict=True) if not total]

    def read_labels(self, manifest: Manifest) -> npt.NDArray[np.float32]:
        """Read the shares (N, C), brought to a sum of 1; `DataError` names the first row where that cannot be done."""
        column = manifest.table["distribution"]
        if column.null_count == len(manifest):
            raise DataError(
                f"{manifest.facts.name} holds no distributions: take another `target`, or data with shares or votes of "
                "raters (Emotion6 is prepared with `labels` distribution)"
            )
        refuse_unlabelled(manifest, column.is_null().to_numpy())
        shares = np.array(column.to_pylist(), dtype=np.float64).reshape(len(manifest), len(manifest.facts.classes))
        sums = shares.sum(1)
        good = np.isfinite(shares).all(1) & (shares >= 0).all(1) & (sums > 0)
        if not good.all():
            place = int(good.argmin())
            why = f"the shares of {manifest.row(place).path} are {shares[place].tolist()}"
            raise DataError(f"{why}, but must be numbers of at least 0 with a sum above 0: prepare the data again")
        brought: npt.NDArray[np.float32] = (shares / sums[:, None]).astype(np.float32)
        return brought

    def soften(self, labels: Tensor, smoothing: float) -> Tensor:
        """Spread a share ε of each distribution over all classes."""
        return labels.float() * (1 - smoothing) + smoothing / self.num_outputs

    def loss(self, logits: Tensor, softened: Tensor) -> Tensor:
        """Compute the KL divergence of the softmax from the shares, the mean over the batch, in nats.

        The term of each class is multiplied by its weight, where there are weights.
        """
        from torch.nn.functional import kl_div

        terms = kl_div(logits.log_softmax(1), softened, reduction="none")
        return (terms * logits.new_tensor(self.weights) if self.weights else terms).sum(1).mean()

    def weigh(self, how: ClassWeights, labels: npt.NDArray[np.float32]) -> Self:
        """Return the target whose loss weighs classes by the sum of their shares in train."""
        return replace(self, weights=weigh_classes(labels.sum(0, dtype=np.float64), how))

    def prior(self, labels: npt.NDArray[np.float32]) -> Floats:
        """Return the logarithms of the mean shares in train, at least 2.2e-16, which have the least divergence."""
        logits: Floats = np.log(labels.mean(0, dtype=np.float64).clip(_EPS))
        return logits

    def fit_temperature(self, logits: Logits, labels: npt.NDArray[np.float32]) -> float:
        """Find what brings the softmax nearest to the shares by KL divergence; 1 without a sample."""
        if not len(labels):
            return 1.0
        from scipy.special import log_softmax

        return fit_temperature(lambda factor: -float((labels * log_softmax(logits * factor, axis=1)).sum(1).mean()))

    def is_true(self, labels: npt.NDArray[np.floating[Any]]) -> Flags:
        """Decide which classes are right (N, C): the mode; of equal shares any counts."""
        return np.asarray(labels == labels.max(1, keepdims=True))

    @property
    def truth(self) -> tuple[Column, ...]:
        """The emotion that most raters named, the first of equals, and the shares of all."""
        return (Column("label", "text"), *(Column(f"share_{name}", "share") for name in self.classes))

    def truths(self, labels: npt.NDArray[np.float32]) -> list[dict[str, Any]]:
        """Name the mode, and list the shares."""
        columns = [f"share_{name}" for name in self.classes]
        return [
            {"label": self.classes[place], **dict(zip(columns, row, strict=True))}
            for row, place in zip(labels.astype(np.float64).tolist(), labels.argmax(1).tolist(), strict=True)
        ]

    def read_answers(self, table: pa.Table) -> tuple[Floats, npt.NDArray[np.float32]]:
        """Read the model's shares and the raters' back."""
        shares = read_shares(table, (f"share_{name}" for name in self.classes))
        return self.read_numbers(table), shares.astype(np.float32)

    def in_words(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """Name the likeliest emotion, and those that most raters chose, with their shares."""
        shares = {name: row[f"share_{name}"] for name in self.classes}
        first = sorted(shares, key=shares.__getitem__, reverse=True)[:2]
        return str(row["predicted"]), ", ".join(f"{name} {100 * shares[name]:.0f} %" for name in first if shares[name])

    def resampler(self, numbers: Floats, labels: npt.NDArray[np.float32]) -> Callable[[Weights], Mapping[str, Floats]]:
        """Return what measures resamples: means over the samples."""
        found = measure_distributions(numbers, labels.astype(np.float64))
        table = np.stack(list(found.values()), 1)
        return lambda weights: dict(zip(found, (weights @ table / weights.sum(1, keepdims=True)).T, strict=True))

    def compute_scores(
        self, numbers: Floats, labels: npt.NDArray[np.float32], bootstrap: Bootstrap
    ) -> DistributionScores:
        """Score shares (N, C) against those of raters."""
        shares = labels.astype(np.float64)
        means = {name: values.mean() for name, values in measure_distributions(numbers, shares).items()}
        blocks = list(map(self.resampler(numbers, labels), bootstrap.weights()))
        parts = (shares.mean(0), numbers.mean(0), np.abs(numbers - shares).mean(0))
        return DistributionScores(
            **self.about,
            **bootstrap.bound(self.metrics, means, blocks),
            values=scores.measure(self.metrics, means) | self.guarantees.measure(numbers, self.is_true(shares)),
            shares=tuple(zip(*(part.tolist() for part in parts), strict=True)),
        )

    def _rebuild(self, values: Mapping[str, Any], common: dict[str, Any]) -> DistributionScores:
        rows: Sequence[Mapping[str, Any]] = values["per_class"]
        shares = tuple((float(row["raters"]), float(row["model"]), float(row["difference"])) for row in rows)
        return DistributionScores(**common, shares=shares)
