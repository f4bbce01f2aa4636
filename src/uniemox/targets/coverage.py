"""How right a model is on the samples that it is surest of: coverage against accuracy, and how confidence came about.

Letters: N samples.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

_STEPS: Final = 20  # Shares at which a curve is kept: 1/20, 2/20, … 1


class Covered(NamedTuple):
    """A share of the samples, the surest first, and the share of right answers among them."""

    share: float
    accuracy: float


def cover(confidence: npt.NDArray[np.floating], right: npt.NDArray[np.bool]) -> tuple[Covered, ...]:
    """Compute the accuracy of the surest 1/20, 2/20, … of the samples (Geifman and El-Yaniv 2017; 1 − selective risk).

    Of samples of equal confidence, some of which are answered, each is as likely to be: they count by their mean.

    Args:
        confidence: (N,), at least one.
        right: (N,), whether each answer is right.
    """
    order = np.argsort(-confidence, kind="stable")
    _, ties = np.unique(-confidence[order], return_inverse=True)
    means = np.bincount(ties, right[order]) / np.bincount(ties)
    hits, count = means[ties].cumsum(), len(confidence)
    # Rounded upwards; fewer samples than steps would otherwise repeat a place.
    places = sorted({-(-count * step // _STEPS) for step in range(1, _STEPS + 1)})
    return tuple(Covered(answered / count, float(hits[answered - 1]) / answered) for answered in places)
