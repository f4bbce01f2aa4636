"""Simple heads on fixed features: logistic regression, nearest neighbours, a linear layer trained by Adam.

Each has one free number, which val chooses by a metric of the target: the strength of the regularisation, the number of
neighbours, the epoch. Of equal scores the stronger regularisation, the fewer neighbours and the earlier epoch is taken.

Labels are those of a target: whole numbers (N,) are places in its classes, booleans (N, C) say yes or no to each.
Letters of shapes: `N` samples, `D` width of the features, `C` outputs of the target, `K` neighbours.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from uniemox.config.probe import NEIGHBOURS, STRENGTHS, ProbeConfig
from uniemox.errors import ConfigError, DataError, TrainingError
from uniemox.inference.baselines import Linear
from uniemox.targets.scores import Metric
from uniemox.targets.target import Target
from uniemox.train.events import Observer, Progress, ignore

Floats = npt.NDArray[np.floating[Any]]
_TOLERANCE: Final = 1e-6
"""Of the gradient at which a regression has converged. At scikit-learn's own, 1e-4, probabilities of weakly regularised
ones are off by several hundredths, here by less than a thousandth."""
_MAX_ITERATIONS: Final = 1000
_NEVER: Final = -30.0
"""Logit of a class without a training sample: a probability below 1e-13, since the likeliest class has at least 0."""
_LEAST_SHARE: Final = 1e-6  # Added to the share of every class among the neighbours, whose logarithm is the logit
_ROWS_AT_ONCE: Final = 1024


class Split(NamedTuple):
    """Features and labels of the readable images of a split."""

    features: npt.NDArray[np.float32]  # (N, D)
    labels: npt.NDArray[Any]  # (N,) or (N, C)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A head, and how it was chosen."""

    logits: Callable[[Floats], Floats]  # From features (N, D) to (N, C)
    linear: Linear | None  # The same as a linear layer, if it is one
    chosen: Mapping[str, float]  # The free number by its name
    score: float  # On val
    trials: Sequence[Mapping[str, float]]  # Each value that was tried, with its score on val
    notes: tuple[str, ...] = ()  # What the user should know

    @property
    def choice(self) -> str:
        """What was chosen, in words."""
        return ", ".join(f"{name} {value:g}" for name, value in self.chosen.items())


class _Choice:
    """Keeps the best of what was tried."""

    def __init__(self, name: str, target: Target, metric: Metric, val: Split) -> None:
        self.name, self.target, self.metric, self.val = name, target, metric, val
        self.trials: list[dict[str, float]] = []
        self.best: Any = None
        self.score, self.value = math.nan, math.nan

    def offer(self, value: float, logits: Floats, head: Any) -> None:
        """Score logits of val (N, C), and keep their head if they are the best so far."""
        score = self.target.score(logits, self.val.labels, num_resamples=0).values[self.metric.name]
        self.trials.append({self.name: value, f"val_{self.metric.name}": score})
        if self.metric.improves(score, on=self.score if len(self.trials) > 1 else None):
            self.score, self.value, self.best = score, value, head

    def at_edge(self) -> tuple[str, ...]:
        """Say so where a larger or a smaller value than all that were tried might be better."""
        values = [trial[self.name] for trial in self.trials]
        if len(values) < 2 or self.value not in (values[0], values[-1]):
            return ()
        return (
            f"the best {self.name}, {self.value:g}, is at the end of what was tried: {values[0]:g} to {values[-1]:g}",
        )

    def fitted(
        self, logits: Callable[[Floats], Floats], notes: tuple[str, ...], *, linear: Linear | None = None
    ) -> Fitted:
        """Return the head of the best."""
        chosen = {self.name: self.value}
        return Fitted(
            logits=logits, linear=linear, chosen=chosen, score=self.score, trials=tuple(self.trials), notes=notes
        )


def fit_head(
    config: ProbeConfig,
    target: Target,
    metric: Metric,
    train: Split,
    val: Split,
    *,
    device: torch.device,
    observer: Observer = ignore,
) -> Fitted:
    """Fit a head on train; val chooses its free number.

    Raises:
        ConfigError: The head cannot learn labels of this kind.
        DataError: Train shows one class alone.
        TrainingError: The loss is not finite.
    """
    if config.head == "linear":
        return _train_linear(config, target, metric, train, val, device=device, observer=observer)
    if train.labels.dtype.kind not in "iub":
        raise ConfigError(f"head is {config.head}, which cannot learn labels of the kind {target.name}: take linear")
    fit = _fit_logistic if config.head == "logistic" else _fit_neighbours
    return fit(target, metric, train, val)


# Logistic regression


def regress(train: Split, num_outputs: int) -> Iterator[tuple[float, Linear, bool]]:
    """Fit scikit-learn's regression for each of `STRENGTHS`; the standardisation is folded into the layer.

    Yields:
        The strength, the layer from features as they are to logits, and whether the regression converged.

    Raises:
        DataError: Train shows one class alone.
    """
    scaler = StandardScaler()
    regression = _Regression(scaler.fit_transform(train.features.astype(np.float64)), train.labels, num_outputs)
    for strength in STRENGTHS:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            weight, bias = regression.fit(strength)
        weight = weight / scaler.scale_
        is_unfinished = any(issubclass(one.category, ConvergenceWarning) for one in caught)
        yield strength, Linear(weight, bias - weight @ scaler.mean_), not is_unfinished


def _fit_logistic(target: Target, metric: Metric, train: Split, val: Split) -> Fitted:
    choice, unfinished = _Choice("C", target, metric, val), []
    for strength, layer, is_converged in regress(train, target.num_outputs):
        unfinished += [] if is_converged else [strength]
        choice.offer(strength, layer(val.features), layer)
    notes = choice.at_edge()
    if choice.value in unfinished:
        notes += (f"the regression at C {choice.value:g} stopped after {_MAX_ITERATIONS} steps, before it converged",)
    return choice.fitted(choice.best, notes, linear=choice.best)


class _Regression:
    """One softmax over classes, or a sigmoid for each of several labels.

    Each fit starts from the one before it, which changes nothing but the time, since the problem is convex.
    """

    def __init__(self, features: Floats, labels: npt.NDArray[Any], num_outputs: int) -> None:
        self.features, self.labels, self.num_outputs = features, labels, num_outputs
        if labels.ndim == 1 and len(np.unique(labels)) < 2:
            raise DataError("the training images show one class alone, so there is nothing to learn: choose others")
        count = 1 if labels.ndim == 1 else num_outputs
        settings = {"tol": _TOLERANCE, "max_iter": _MAX_ITERATIONS, "warm_start": True}
        self.models = [LogisticRegression(**settings) for _ in range(count)]

    def fit(self, strength: float) -> tuple[Floats, Floats]:
        """Fit weights (C, D) and biases (C,)."""
        weight, bias = np.zeros((self.num_outputs, self.features.shape[1])), np.full(self.num_outputs, _NEVER)
        if self.labels.ndim == 1:
            rows, offsets = self._fit_one(self.models[0], self.labels, strength)
            # Of two classes scikit-learn keeps one row, of their difference.
            if len(rows) == 1:
                rows, offsets = np.concatenate([-rows, rows]) / 2, np.concatenate([-offsets, offsets]) / 2
            present = np.unique(self.labels)
            weight[present], bias[present] = rows, offsets
            return weight, bias
        for place, (column, model) in enumerate(zip(self.labels.T, self.models, strict=True)):
            count = int(column.sum())
            if count in (0, len(column)):  # the log odds, one yes and one no being added
                bias[place] = math.log((count + 1) / (len(column) - count + 1))
                continue
            rows, offsets = self._fit_one(model, column, strength)
            weight[place], bias[place] = rows[0], offsets[0]
        return weight, bias

    def _fit_one(self, model: Any, labels: npt.NDArray[Any], strength: float) -> tuple[Floats, Floats]:
        model.set_params(C=strength).fit(self.features, labels)
        return model.coef_, model.intercept_


# Nearest neighbours


def _fit_neighbours(target: Target, metric: Metric, train: Split, val: Split) -> Fitted:
    counts = [count for count in NEIGHBOURS if count <= len(train.features)]
    index = NearestNeighbors(n_neighbors=counts[-1], metric="cosine", algorithm="brute").fit(train.features)
    votes = train.labels if train.labels.ndim == 2 else np.eye(target.num_outputs)[train.labels]
    nearest = index.kneighbors(val.features, return_distance=False)
    choice = _Choice("k", target, metric, val)
    is_softmax = train.labels.ndim == 1
    for count in counts:
        choice.offer(count, _vote(votes, nearest[:, :count], is_softmax=is_softmax), count)
    chosen: int = choice.best

    def logits(features: Floats) -> Floats:
        found = index.kneighbors(features, n_neighbors=chosen, return_distance=False)
        return _vote(votes, found, is_softmax=is_softmax)

    notes = choice.at_edge() if chosen > 1 else ()  # no fewer exist
    return choice.fitted(logits, notes)


def _vote(votes: npt.NDArray[Any], nearest: npt.NDArray[np.int64], *, is_softmax: bool) -> Floats:
    """Compute logits (N, C) whose probabilities are the shares of each class among the neighbours (N, K)."""
    blocks = (nearest[start : start + _ROWS_AT_ONCE] for start in range(0, len(nearest), _ROWS_AT_ONCE))
    shares = np.concatenate([votes[block].mean(axis=1) for block in blocks])
    yes = np.log(shares + _LEAST_SHARE)
    return yes if is_softmax else yes - np.log(1 - shares + _LEAST_SHARE)


# The linear layer of the released baselines


def _train_linear(
    config: ProbeConfig,
    target: Target,
    metric: Metric,
    train: Split,
    val: Split,
    *,
    device: torch.device,
    observer: Observer,
) -> Fitted:
    """Train on the features as they are, at a constant rate, with the loss of the target."""
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        head = nn.Linear(train.features.shape[1], target.num_outputs)
    target.start_head(head, train.labels)
    head.to(device)
    features = torch.from_numpy(train.features).to(device)
    softened = target.soften(torch.from_numpy(train.labels), 0.0).to(device)
    rate = config.base_lr * config.batch_size / 256
    optimizer = torch.optim.Adam(head.parameters(), lr=rate)
    choice, began = _Choice("epoch", target, metric, val), time.monotonic()
    for epoch in range(1, config.epochs + 1):
        loss = _train_epoch(head, optimizer, target, features, softened, config.batch_size, generator)
        if not math.isfinite(loss):
            raise TrainingError(f"the loss is {loss} in epoch {epoch}: lower `base_lr`")
        layer = Linear(*(part.detach().cpu().double().numpy().copy() for part in (head.weight, head.bias)))
        choice.offer(epoch, layer(val.features), layer)
        per_epoch = (time.monotonic() - began) / epoch
        left = (config.epochs - epoch) * per_epoch
        speed = len(features) / max(per_epoch, 1e-9)
        observer(Progress(epoch, config.epochs, epoch, config.epochs, {"loss": loss}, speed, left))
    notes = choice.at_edge() if choice.value == config.epochs else ()
    return choice.fitted(choice.best, notes, linear=choice.best)


def _train_epoch(
    head: nn.Linear,
    optimizer: torch.optim.Optimizer,
    target: Target,
    features: Tensor,
    softened: Tensor,
    batch_size: int,
    generator: torch.Generator,
) -> float:
    """Take a step for each batch of a new order; return the mean loss."""
    total = torch.zeros((), device=features.device)
    order = torch.randperm(len(features), generator=generator).to(features.device)
    for rows in torch.split(order, batch_size):
        loss = target.loss(head(features[rows]), softened[rows])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        total += loss.detach() * len(rows)
    return float(total / len(features))
