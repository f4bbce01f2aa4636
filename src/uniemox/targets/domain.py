"""How unlike its training images an image is: the distance to the k-th nearest of their features.

Sun, Ming, Zhu and Li 2022, "Out-of-distribution detection with deep nearest neighbors", section 3. Nothing of it asks
what the labels are. Letters: N features that a model keeps of train, M images, D the width of a feature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from uniemox.errors import DataError
from uniemox.targets.columns import Column
from uniemox.targets.scores import Floats

MAX_FEATURES: Final = 4096
"""Features that a model keeps: 6 MB at a width of 768."""
NUM_NEIGHBOURS: Final = 10
"""k, which the paper takes for 1 % of ImageNet's training images (section 4.2)."""
NUMBER: Final = "domain"
"""Among the `numbers` of a model's facts: the share of val that is familiar, the cutoff and k."""
_TINY: Final = 1e-12
_UNIT: Final = 1e-2  # How far the length of a stored feature may be from 1; fp16 moves it by about 5e-4


@dataclass(frozen=True)
class Domain:
    """The images that a model knows, as their features."""

    features: npt.NDArray[np.float16]  # (N, D), of length 1
    share: float = math.nan  # Of val, that lies within the cutoff
    cutoff: float = math.inf  # Distance above which an image is unfamiliar
    k: int = NUM_NEIGHBOURS

    @classmethod
    def of(cls, features: npt.NDArray[np.float32]) -> Self | None:
        """Keep features (N, D); None if fewer than k are finite."""
        finite = features[np.isfinite(features).all(axis=1)]
        return cls(_normalised(finite).astype(np.float16)) if len(finite) >= NUM_NEIGHBOURS else None

    def fit(self, distances: npt.NDArray[np.float32], share: float) -> Domain:
        """Set the cutoff so that it holds at least a share of the distances (M,) of val."""
        place = math.ceil(share * len(distances) - 1e-9)
        return Domain(self.features, share, float(np.sort(distances)[max(place, 1) - 1]), self.k)

    def distances(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Measure how far the features (M, D) of images are from the k-th nearest of train: (M,), from 0 to 2.

        Both have length 1 for that. Features that are not finite get nan.
        """
        asked, kept = _normalised(features), self._kept
        likeness = np.nan_to_num(asked.astype(np.float32)) @ kept.T
        # The place is found in single precision, but two features that are nearly the same need more.
        places = np.argpartition(-likeness, self.k - 1, axis=1)[:, self.k - 1]
        found: Floats = np.linalg.norm(asked - kept[places].astype(np.float64), axis=1)
        return found.astype(np.float32)

    def answers(self, distances: npt.NDArray[np.float32]) -> list[dict[str, Any]]:
        """Answer by the names of `columns`; a distance that is no number is none, of an unfamiliar image."""
        return [
            {"out_of_domain": None, "is_unfamiliar": True}
            if math.isnan(distance)
            else {"out_of_domain": distance, "is_unfamiliar": distance > self.cutoff}
            for distance in map(float, distances)
        ]

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of `answers`."""
        return (Column("out_of_domain", "number"), Column("is_unfamiliar", "flag"))

    def to_numbers(self) -> dict[str, tuple[float, ...]]:
        """Return what the facts of a model keep beside the features; `read_cutoff` is the inverse."""
        return {NUMBER: (self.share, self.cutoff, float(self.k))}

    @cached_property
    def _kept(self) -> npt.NDArray[np.float32]:
        return _normalised(self.features).astype(np.float32)


def read_domain(features: npt.NDArray[np.float16], numbers: Mapping[str, Sequence[float]], *, width: int) -> Domain:
    """Build a domain of what a stranger may have written.

    Args:
        features: (N, D), as they are stored.
        numbers: As `Domain.to_numbers` gives them, perhaps among others.
        width: D of the model.

    Raises:
        DataError: The features or the numbers are not what `Domain` writes; says which.
    """
    stated = tuple(numbers.get(NUMBER, ()))
    if len(stated) != 3 or not (0 < stated[0] < 1 and 0 <= stated[1] <= 2.01 and 1 <= stated[2] <= MAX_FEATURES):
        raise DataError(
            f"numbers.{NUMBER} is {list(stated)}, but must be a share, a distance and a count of neighbours"
        )
    share, cutoff, k = stated[0], stated[1], int(stated[2])
    if features.ndim != 2 or features.shape[1] != width or not k <= len(features) <= MAX_FEATURES:
        wanted = f"{k} to {MAX_FEATURES} features of {width} numbers"
        raise DataError(f"features have the shape {features.shape}, but must be {wanted}")
    lengths = np.linalg.norm(features.astype(np.float32), axis=1)
    if not (np.abs(lengths - 1) <= _UNIT).all():  # nan and infinity too
        raise DataError("features must be finite and of length 1")
    return Domain(features, share, cutoff, k)


def describe_domain(numbers: Mapping[str, Sequence[float]]) -> str:
    """Write what a card says of `Domain.to_numbers`; empty if there are none."""
    stated = numbers.get(NUMBER, ())
    if len(stated) != 3:
        return ""
    share, cutoff, k = stated
    return (
        f"`out_of_domain` is the distance of an image's feature to the {k:g}th nearest of the images of train, whose "
        f"features the folder keeps. Images are unfamiliar above {cutoff:.4f}, within which {100 * share:g} % of "
        "val lie."
    )


def _normalised(features: npt.NDArray[Any]) -> Floats:
    """Bring features (N, D) to length 1; zeros stay zeros, what is not finite becomes nan."""
    wide = features.astype(np.float64)
    with np.errstate(invalid="ignore"):
        units: Floats = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), _TINY)
    return units
