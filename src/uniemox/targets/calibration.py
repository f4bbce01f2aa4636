"""Honest confidence: from logits to probabilities, and the temperature that makes them match the share correct."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from uniemox.targets.parts import Bin, Grid

_LIMIT = math.log(20)


def softmax(logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Turn logits (N, C) into probabilities, rows of sum 1."""
    wide = logits.astype(np.float64)
    parts = np.exp(wide - wide.max(axis=1, keepdims=True))
    probabilities: npt.NDArray[np.float64] = parts / parts.sum(axis=1, keepdims=True)
    return probabilities


def sigmoid(logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Turn logits into probabilities, each by itself in [0, 1]."""
    wide = logits.astype(np.float64)
    half = np.exp(-np.abs(wide))  # at most 1, so that nothing overflows
    probabilities: npt.NDArray[np.float64] = np.where(wide >= 0, 1, half) / (1 + half)
    return probabilities


def fit_temperature(loss: Callable[[float], float]) -> float:
    """Find the temperature T, in [1/20, 20], with the least negative log-likelihood (Guo et al. 2017).

    Args:
        loss: Computes it for logits that are multiplied by 1 / T.
    """
    from scipy.optimize import minimize_scalar  # slow to import, and prediction does not need it

    found = minimize_scalar(
        lambda log_temperature: loss(math.exp(-log_temperature)), bounds=(-_LIMIT, _LIMIT), method="bounded"
    )
    return math.exp(float(found.x))


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """A metric of confidence before the temperature, and after."""

    title: str
    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class Uncalibrated:
    """What confidence was worth before the outputs were divided by the temperatures that val gave."""

    temperatures: tuple[float, ...]  # Each once, in the order of the outputs
    metrics: tuple[Confidence, ...]
    bins: tuple[Bin, ...] = ()

    @property
    def text(self) -> str:
        """What a reader must know."""
        listed = ", ".join(f"{one:.3g}" for one in self.temperatures)
        return (
            f"Outputs are divided by a temperature that val gave, {listed}, before they become probabilities (Guo et "
            "al. 2017): above 1 the model was too sure, below 1 too unsure. Lower is better in each line."
        )

    @property
    def parts(self) -> tuple[Grid]:
        """The table."""
        rows = [(one.title, one.before, one.after) for one in self.metrics]
        return (Grid(("confidence", "before", "after"), rows, "half", are_shares=False),)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; `validate` reads them back."""
        return {**asdict(self), "bins": [part._asdict() for part in self.bins]}
