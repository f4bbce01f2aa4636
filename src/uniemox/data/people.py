"""Geometry of the person view: which box, and which pixels of the picture it covers.

Boxes are `(x0, y0, x1, y1)`, in pixels of the upright picture, half-open. Pure functions of numbers: no picture is
read.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from uniemox.data.manifest import Box


def choose_box(boxes: Iterable[Box]) -> Box | None:
    """Choose the person that the person view shows: the largest one.

    Equal areas are decided by the higher score (a box without one counts as 0), then by the order of the boxes.
    Boxes without area, and those with a coordinate that is not finite, are passed over.

    Args:
        boxes: Boxes of one picture, in any order.

    Returns:
        The box of largest area, or None where there is no box with an area.
    """
    candidates = [box for box in boxes if 0 < _area(box) < math.inf]
    # max keeps the first of equals, so the order of the table decides what area and score leave open.
    return max(candidates, key=lambda box: (_area(box), box.score or 0.0), default=None)


def crop_region(
    box: Box, *, width: int, height: int, margin: float
) -> tuple[int, int, int, int] | None:
    """Find the pixels to cut for a box: the box, its margin, the edges of the picture.

    Args:
        box: Box of a person; it may reach over the edges of the picture.
        width: Width of the upright picture in pixels.
        height: Height of the upright picture in pixels.
        margin: Share of the box's width (height) that is added at its left and right (top and bottom); at least 0.

    Returns:
        `(left, top, right, bottom)`, half-open, whole pixels, inside the picture, at least 1 × 1; or None where no part
        of the box itself (the margin does not count) lies inside the picture.
    """
    inside_x = min(box.x1, width) - max(box.x0, 0)
    inside_y = min(box.y1, height) - max(box.y0, 0)
    # Comparisons with NaN are false, so a box that is not a number is a box that is not there.
    if not (inside_x > 0 and inside_y > 0 and _area(box) < math.inf):
        return None
    left, right = _widen(box.x0, box.x1, margin=margin, end=width)
    top, bottom = _widen(box.y0, box.y1, margin=margin, end=height)
    return left, top, right, bottom


def clip_box(box: Box, *, width: int, height: int) -> Box | None:
    """Clip a box to the picture; None where no part of it lies inside."""
    x0, x1 = max(box.x0, 0), min(box.x1, width)
    y0, y1 = max(box.y0, 0), min(box.y1, height)
    return replace(box, x0=x0, y0=y0, x1=x1, y1=y1) if x1 > x0 and y1 > y0 else None


def _area(box: Box) -> float:
    return max(0.0, box.x1 - box.x0) * max(0.0, box.y1 - box.y0)


def _widen(low: float, high: float, *, margin: float, end: int) -> tuple[int, int]:
    extra = margin * (high - low)
    # Clipped first: a far number has no whole one.
    return math.floor(max(0.0, low - extra)), math.ceil(min(float(end), high + extra))
