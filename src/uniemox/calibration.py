"""Honest confidence: from logits to probabilities, and the temperature that makes them fit what is right."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from uniemox.config import Target

_LIMIT = math.log(20)


def to_probabilities(logits: npt.NDArray[np.floating], target: Target) -> npt.NDArray[np.float64]:
    """Bring logits (N, C) to probabilities: rows of sum 1 for one label, each by itself in [0, 1] for several."""
    wide = logits.astype(np.float64)
    match target:
        case "single_label":
            parts = np.exp(wide - wide.max(axis=1, keepdims=True))
            probabilities: npt.NDArray[np.float64] = parts / parts.sum(axis=1, keepdims=True)
        case "multi_label":
            half = np.exp(-np.abs(wide))  # at most 1, so that nothing overflows
            probabilities = np.where(wide >= 0, 1, half) / (1 + half)
    return probabilities


def fit_temperature(logits: npt.NDArray[np.floating], labels: npt.NDArray[Any]) -> float:
    """Find the temperature T for which logits / T have the least negative log-likelihood (Guo et al. 2017).

    Args:
        logits: (N, C), of samples that were not trained on.
        labels: (N,) whole numbers in [0, C); or for several labels (N, C), true for those that apply.

    Returns:
        T in [1/20, 20]; 1 where there is no sample.
    """
    if len(labels) == 0:
        return 1.0
    from scipy.optimize import (
        minimize_scalar,
    )  # takes a while to import, and prediction has no need of it

    loss = _loss_of_one(logits, labels) if labels.ndim == 1 else _loss_of_several(logits, labels)
    found = minimize_scalar(
        lambda log_temperature: loss(math.exp(-log_temperature)),
        bounds=(-_LIMIT, _LIMIT),
        method="bounded",
    )
    return math.exp(float(found.x))


def _loss_of_one(
    logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]
) -> Callable[[float], float]:
    from scipy.special import log_softmax

    rows = np.arange(len(labels))
    return lambda factor: -float(log_softmax(logits * factor, axis=1)[rows, labels].mean())


def _loss_of_several(
    logits: npt.NDArray[np.floating], labels: npt.NDArray[np.bool]
) -> Callable[[float], float]:
    signed = np.where(labels, logits, -logits)
    # -log sigmoid(z)
    return lambda factor: float(np.logaddexp(0, -signed * factor).mean())
