"""How far scores would move with other samples of the same kind: 95 % intervals.

What is resampled are groups of samples that are alike, such as the frames of a clip, or else single samples.
Letters: N samples, G groups, R resamples.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from uniemox.targets.scores import Floats, Interval, Metric

Codes = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float32]

_DRAWS_AT_ONCE: Final = 2**23  # Numbers in one block of resamples, so that memory does not grow with the set


def count_units(groups: Codes | None, count: int) -> int:
    """Count what is resampled: the groups, or else the samples."""
    return count if groups is None else len(np.unique(groups))


def resample(groups: Codes | None, count: int, *, seed: int, num_resamples: int) -> Iterator[Weights]:
    """Draw weights of samples by the Bayesian bootstrap (Rubin 1981): exponential, one for each group.

    No weight is 0, so every class stays in every resample. Scores must be ratios of weighted sums, since weights have a
    mean of 1 but do not sum to N.

    Args:
        groups: A number (N,) that samples of the same group share; None if each sample stands for itself.
        count: N.
        seed: Of the draws.
        num_resamples: R.

    Yields:
        Blocks of resamples (≤ R, N), together R; none where there is one group only, since nothing varies then.
    """
    units, codes = (count, None) if groups is None else _number(groups)
    if units < 2:
        return
    rng = np.random.default_rng(seed)
    step = max(1, _DRAWS_AT_ONCE // count)
    for start in range(0, num_resamples, step):
        drawn = rng.standard_exponential((min(step, num_resamples - start), units), dtype=np.float32)
        yield drawn if codes is None else drawn[:, codes]


def _number(groups: Codes) -> tuple[int, Codes]:
    """Count the groups, and number them from 0."""
    found, codes = np.unique(groups, return_inverse=True)
    return len(found), codes


def interval(drawn: Floats) -> Interval:
    """Compute the 95 % interval of a score from its resampled values (R,)."""
    return Interval(*np.percentile(drawn, [2.5, 97.5]).tolist())


def bound(metrics: Sequence[Metric], resampled: Sequence[Any]) -> dict[str, Interval]:
    """Compute the intervals of the bootstrapped metrics, from blocks of resamples of the evidence."""
    found = {}
    for metric in metrics if resampled else ():
        if metric.is_bootstrapped:
            found[metric.name] = interval(np.concatenate([metric.compute(block) for block in resampled]))
    return found
