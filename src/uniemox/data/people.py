"""Geometry of the person view: which box, and which pixels of the picture it covers.

Boxes are `(x0, y0, x1, y1)`, in pixels of the upright picture, half-open. Pure functions of numbers: no picture is
read.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from uniemox.data.manifest import Box

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from uniemox.config import PersonChoice, PersonConfig

Region = tuple[int, int, int, int]
"""Left, top, right, bottom: whole pixels inside a picture, half-open, at least 1 × 1."""


def person_region(
    boxes: Iterable[Box], person: PersonConfig, *, width: int, height: int
) -> Region | None:
    """Find the pixels that the person view is cut from.

    With the shape `pad` they are a square, or as much of one as the picture has room for: what is missing then is for
    the one who cuts to fill.

    Args:
        boxes: Boxes of one picture, in any order.
        person: Choice, margin and shape.
        width: Width of the upright picture in pixels.
        height: Height of the upright picture in pixels.

    Returns:
        The region, or None where no box has a part inside the picture.
    """
    box = choose_box(boxes, person.choice, width=width, height=height)
    if box is None:
        return None
    region = crop_region(box, width=width, height=height, margin=person.margin)
    if region is None or person.shape == "squeeze":
        return region
    return square_region(region, width=width, height=height)


def choose_box(
    boxes: Iterable[Box], choice: PersonChoice, *, width: int, height: int
) -> Box | None:
    """Choose the box that the person view shows, clipped to the picture.

    A box is as large as what of it lies in the picture; boxes that lie outside are passed over. What the choice leaves
    open is decided by the larger area, then by the higher score (a box without one counts as 0), then by the order of
    the boxes.

    Args:
        boxes: Boxes of one picture, in any order.
        choice: Largest area; highest score; centre nearest to the picture's; or the smallest box around all, with the
            best of their scores.
        width: Width of the upright picture in pixels.
        height: Height of the upright picture in pixels.

    Returns:
        The box, or None where no box has a part inside the picture.
    """
    clipped = [clip_box(box, width=width, height=height) for box in boxes]
    inside = [box for box in clipped if box is not None]
    if not inside:
        return None
    # max keeps the first of equals, so the order of the table decides what the numbers leave open.
    match choice:
        case "largest":
            return max(inside, key=_size)
        case "confident":
            return max(inside, key=lambda box: (box.score or 0.0, *_size(box)))
        case "central":
            return max(inside, key=lambda box: (-_distance(box, width, height), *_size(box)))
        case "union":
            return _hull(inside)
        case _:
            assert_never(choice)


def crop_region(box: Box, *, width: int, height: int, margin: float) -> Region | None:
    """Find the pixels to cut for a box: the box, its margin, the edges of the picture.

    Args:
        box: Box of a person; it may reach over the edges of the picture.
        width: Width of the upright picture in pixels.
        height: Height of the upright picture in pixels.
        margin: Share of the box's width (height) that is added at its left and right (top and bottom); at least 0.

    Returns:
        The region; or None where no part of the box itself (the margin does not count) lies inside the picture.
    """
    if clip_box(box, width=width, height=height) is None:
        return None
    left, right = _widen(box.x0, box.x1, margin=margin, end=width)
    top, bottom = _widen(box.y0, box.y1, margin=margin, end=height)
    return left, top, right, bottom


def square_region(region: Region, *, width: int, height: int) -> Region:
    """Extend the shorter side of a region to the length of the longer one, as far as the picture has room.

    The region stays in the middle unless an edge of the picture is in the way. One pixel more goes right and down.
    """
    left, top, right, bottom = region
    side = max(right - left, bottom - top)
    left, right = _lengthen(left, right, length=side, end=width)
    top, bottom = _lengthen(top, bottom, length=side, end=height)
    return left, top, right, bottom


def clip_box(box: Box, *, width: int, height: int) -> Box | None:
    """Clip a box to the picture; None where no part of it lies inside, or where a coordinate is not a finite number."""
    if not all(map(math.isfinite, (box.x0, box.y0, box.x1, box.y1))):
        return None
    x0, y0 = max(box.x0, 0.0), max(box.y0, 0.0)
    x1, y1 = min(box.x1, float(width)), min(box.y1, float(height))
    return replace(box, x0=x0, y0=y0, x1=x1, y1=y1) if x1 > x0 and y1 > y0 else None


def _size(box: Box) -> tuple[float, float]:
    return (box.x1 - box.x0) * (box.y1 - box.y0), box.score or 0.0


def _distance(box: Box, width: int, height: int) -> float:
    return math.hypot((box.x0 + box.x1 - width) / 2, (box.y0 + box.y1 - height) / 2)


def _hull(boxes: Sequence[Box]) -> Box:
    scores = [box.score for box in boxes if box.score is not None]
    return Box(
        min(box.x0 for box in boxes),
        min(box.y0 for box in boxes),
        max(box.x1 for box in boxes),
        max(box.y1 for box in boxes),
        max(scores, default=None),
    )


def _widen(low: float, high: float, *, margin: float, end: int) -> tuple[int, int]:
    extra = margin * (high - low)
    # Clipped first: a far number has no whole one.
    return math.floor(max(0.0, low - extra)), math.ceil(min(float(end), high + extra))


def _lengthen(low: int, high: int, *, length: int, end: int) -> tuple[int, int]:
    length = min(length, end)
    start = min(max(0, low - (length - (high - low)) // 2), end - length)
    return start, start + length
