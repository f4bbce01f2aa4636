"""What a detector is, and the rules by which every detector's findings become the boxes of people."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from uniemox.data.manifest import Box
from uniemox.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL import Image


class Detector(Protocol):
    """Finds people in pictures."""

    @property
    def source(self) -> str:
        """Name, version, weights and settings, in one line: the manifest keeps it."""

    def detect(self, images: Sequence[Image.Image]) -> list[tuple[Box, ...]]:
        """Find the people of each picture.

        Args:
            images: Upright RGB pictures at their original size.

        Returns:
            Boxes of each picture, in its pixels and inside it, the surest first.
        """


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Which of a detector's findings count as a person."""

    score: float = 0.5
    """Least score, from 0 to 1."""
    nms_iou: float = 0.5
    """Of two boxes that overlap by more than this share of what they cover together, the surer one stays."""
    min_size: float = 0.0
    """Least width and height in pixels of the picture."""
    max_people: int = 100
    """Most people of a picture, the surest."""

    def __post_init__(self) -> None:
        for name in ("score", "nms_iou"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"{_flag(name)} is {value}, but must be between 0 and 1")
        if not 0 <= self.min_size < float("inf"):
            raise ConfigError(f"--min-size is {self.min_size}, but must not be negative")
        if self.max_people < 1:
            raise ConfigError(f"--max-people is {self.max_people}, but must be at least 1")

    def __str__(self) -> str:
        return (
            f"score from {self.score:g}, NMS at IoU {self.nms_iou:g}, from {self.min_size:g} pixels, "
            f"at most {self.max_people} people"
        )


def select_people(
    corners: np.ndarray,
    scores: np.ndarray,
    *,
    limits: Limits,
    width: int,
    height: int,
    nms: bool = True,
) -> tuple[Box, ...]:
    """Make boxes of what a detector found in one picture.

    Args:
        corners: (N, 4), x0, y0, x1, y1 in pixels of the picture; they may reach over its edges.
        scores: (N,), how sure each is to be a person.
        limits: What counts.
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
        nms: Whether duplicates are still among them.

    Returns:
        Boxes inside the picture, the surest first; equals keep their order.
    """
    # Those that cannot count go first, since a graph may give tens of thousands. NaN compares false.
    sure = scores >= limits.score
    corners, scores = corners[sure].astype(np.float64), scores[sure].astype(np.float64)
    finite = np.isfinite(corners).all(1)
    inside = np.clip(corners[finite], 0, [width, height, width, height])
    scores = scores[finite]
    sides = inside[:, 2:] - inside[:, :2]
    fits = ((sides > 0) & (sides >= limits.min_size)).all(1)
    inside, scores = inside[fits], scores[fits]
    order = np.argsort(-scores, kind="stable")
    inside, scores = inside[order], scores[order]
    kept = (
        suppress(inside, limits.nms_iou, most=limits.max_people)
        if nms
        else range(min(len(scores), limits.max_people))
    )
    chosen = [(*inside[i].tolist(), float(scores[i])) for i in kept]
    return tuple(Box(x0, y0, x1, y1, score) for x0, y0, x1, y1, score in chosen)


def suppress(corners: np.ndarray, iou: float, *, most: int) -> list[int]:
    """Leave out each box that overlaps an earlier one by more than `iou`; stop when `most` are kept.

    Args:
        corners: (N, 4), the best first.
        iou: Intersection over union that is still let pass.
        most: Largest number of boxes.

    Returns:
        Positions of those that stay.
    """
    kept: list[int] = []
    left = np.arange(len(corners))
    while len(left) and len(kept) < most:
        first, rest = left[0], left[1:]
        kept.append(int(first))
        left = rest[overlaps(corners[first][None], corners[rest])[0] <= iou]
    return kept


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of each box of one list with each of another.

    Args:
        first: (N, 4) corners of boxes with an area.
        second: (M, 4).

    Returns:
        (N, M), from 0 to 1.
    """
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first, second)]
    result: np.ndarray = shared / (areas[0][:, None] + areas[1][None] - shared)
    return result


def fingerprint(path: Path) -> str:
    """Begin of a file's SHA-256, which tells one file of weights from another.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:12]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
