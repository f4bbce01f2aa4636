"""Honest confidence: the temperature that makes a classifier's probabilities fit what it gets right."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

if TYPE_CHECKING:
    import numpy.typing as npt

_LIMIT = math.log(20)


def fit_temperature(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> float:
    """Find the temperature T for which softmax(logits / T) has the least negative log-likelihood (Guo et al. 2017).

    Args:
        logits: (N, C), of samples that were not trained on.
        labels: (N,) whole numbers in [0, C).

    Returns:
        T in [1/20, 20]; 1 where there is no sample.
    """
    if len(labels) == 0:
        return 1.0
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        likelihood = log_softmax(logits / math.exp(log_temperature), axis=1)[rows, labels]
        return -float(likelihood.mean())

    found = minimize_scalar(loss, bounds=(-_LIMIT, _LIMIT), method="bounded")
    return math.exp(float(found.x))
