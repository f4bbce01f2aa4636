"""How much a label counts in the loss, so that rare classes are not passed over."""

from typing import Final

import numpy as np

from uniemox.config.training import ClassWeights
from uniemox.targets.scores import Counts, Floats

BETA: Final = 0.999  # One of those that Cui et al. 2019 try: a class beyond some 1,000 samples hardly gains by more


def weigh_classes(counts: Counts | Floats, how: ClassWeights) -> tuple[float, ...]:
    """Compute a weight for each class (C,) from its samples in train; none where `how` is none.

    balanced: N / (C · n), with the C classes that have samples (King and Zeng 2001; scikit-learn's).
    effective: (1 − β) / (1 − βⁿ) (Cui et al. 2019, equation 2), brought to a mean of 1 over those classes.
    A class without samples weighs 1: no image asks for it.
    """
    if how == "none":
        return ()
    numbers = np.asarray(counts, dtype=np.float64)
    present = numbers > 0
    own = numbers[present]
    weights = np.ones(len(numbers))
    if how == "balanced":
        weights[present] = own.sum() / (len(own) * own)
    else:
        raw = (1 - BETA) / -np.expm1(own * np.log(BETA))
        weights[present] = raw / raw.mean()
    return tuple(weights.tolist())
