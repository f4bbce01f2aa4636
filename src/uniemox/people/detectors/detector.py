"""What a detector is, and the rules by which every detector's findings become the boxes of people."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from uniemox.config.people import Limits
from uniemox.errors import DataError
from uniemox.files.digest import hash_file
from uniemox.manifests.table import Box
from uniemox.wording import reason_of

if TYPE_CHECKING:
    from PIL import Image


class Detector(Protocol):
    """Finds people in images."""

    @property
    def source(self) -> str:
        """Name, version, weights and settings, in one line: the manifest keeps it."""

    def detect(self, images: Sequence[Image.Image]) -> list[tuple[Box, ...]]:
        """Find the people of each image.

        Args:
            images: Upright RGB images at their original size.

        Returns:
            Boxes of each image, in its pixels and inside it, the surest first.
        """


def select_people(
    corners: np.ndarray, scores: np.ndarray, *, limits: Limits, width: int, height: int, nms: bool = True
) -> tuple[Box, ...]:
    """Make boxes of what a detector found in one image.

    Args:
        corners: (N, 4), x0, y0, x1, y1 in pixels of the image; they may reach over its edges.
        scores: (N,), how sure each is to be a person.
        limits: What counts.
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        nms: Whether duplicates are still among them.

    Returns:
        Boxes inside the image, the surest first; equals keep their order.
    """
    # Those that cannot count go first, since a graph may give tens of thousands. NaN compares false.
    counts = (scores >= limits.score) & np.isfinite(corners).all(1)
    scores = scores[counts].astype(np.float64)
    inside = np.clip(corners[counts].astype(np.float64), 0, [width, height, width, height])
    sides = inside[:, 2:] - inside[:, :2]
    fits = ((sides > 0) & (sides >= limits.min_size)).all(1)
    order = np.argsort(-scores[fits], kind="stable")
    inside, scores = inside[fits][order], scores[fits][order]
    most = limits.max_people
    kept = suppress(inside, limits.nms_iou, most=most) if nms else list(range(min(len(scores), most)))
    rows = zip(inside[kept].tolist(), scores[kept].tolist(), strict=True)
    return tuple(Box(x0, y0, x1, y1, score) for (x0, y0, x1, y1), score in rows)


def suppress(corners: np.ndarray, iou: float, *, most: int) -> list[int]:
    """Drop boxes, (N, 4), best first, that overlap an earlier one by more than `iou`; return the places of the others.

    It stops when `most` are kept.
    """
    kept: list[int] = []
    left = np.arange(len(corners))
    while len(left) and len(kept) < most:
        first, rest = left[0], left[1:]
        kept.append(int(first))
        left = rest[overlaps(corners[first][None], corners[rest])[0] <= iou]
    return kept


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the intersection over union, (N, M), of each of N boxes with each of M; all must have an area."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first, second)]
    result: np.ndarray = shared / (areas[0][:, None] + areas[1][None] - shared)
    return result


def fingerprint(path: Path, *others: Path) -> str:
    """Return the first 12 digits of a SHA-256, of a file or of the hashes of several, which identify a model.

    Raises:
        DataError: One cannot be read.
    """
    try:
        marks = [hash_file(each) for each in (path, *others)]
    except OSError as error:
        raise DataError(f"cannot read {path}: {reason_of(error)}") from error
    return (hashlib.sha256("".join(marks).encode()).hexdigest() if others else marks[0])[:12]
