"""Geometry of the person view: which box, and which pixels of the image it covers.

Boxes are `(x0, y0, x1, y1)`, half-open, in pixels of the upright image, as its width and height are. Pure functions of
numbers: no image is read.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import assert_never

from uniemox.config.people import PersonChoice, PersonConfig
from uniemox.manifests.table import Box

Region = tuple[int, int, int, int]  # Left, top, right, bottom: whole pixels inside an image, half-open, at least 1 × 1


def person_region(boxes: Iterable[Box], person: PersonConfig, *, width: int, height: int) -> Region | None:
    """Find the pixels that the person view is cut from; None where no box has a part inside the image.

    With the shape `pad` they are a square, or as much of one as the image has room for: whoever cuts fills the rest.
    """
    box = choose_box(boxes, person.choice, width=width, height=height)
    return None if box is None else box_region(box, person, width=width, height=height)


def box_region(box: Box, person: PersonConfig, *, width: int, height: int) -> Region | None:
    """Find the pixels that the view of one person is cut from, by a box that lies in the image."""
    region = crop_region(box, width=width, height=height, margin=person.margin)
    if region is None or person.shape == "squeeze":
        return region
    return square_region(region, width=width, height=height)


def choose_box(boxes: Iterable[Box], choice: PersonChoice, *, width: int, height: int) -> Box | None:
    """Choose the box that the person view shows, clipped to the image; None where no box has a part inside it.

    That is the box of largest area, of highest score, of the centre nearest to the image's, or the smallest box around
    all, with the best of their scores. A box is as large as what of it lies in the image; boxes that lie outside are
    skipped. Among equals, the larger area decides, then the higher score (a box without one counts as 0), then the
    order of the boxes.
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
            return max(
                inside, key=lambda box: (-math.hypot(box.x0 + box.x1 - width, box.y0 + box.y1 - height), *_size(box))
            )
        case "union":
            x0, y0 = min(box.x0 for box in inside), min(box.y0 for box in inside)
            x1, y1 = max(box.x1 for box in inside), max(box.y1 for box in inside)
            return Box(x0, y0, x1, y1, max((box.score for box in inside if box.score is not None), default=None))
        case _:
            assert_never(choice)


def crop_region(box: Box, *, width: int, height: int, margin: float) -> Region | None:
    """Find the pixels to cut for a box: the box, its margin, the edges of the image.

    The margin is the share of the box's width (height) that is added at its left and right (top and bottom). None where
    no part of the box itself (the margin does not count) lies inside the image.
    """
    if clip_box(box, width=width, height=height) is None:
        return None
    left, right = _widen(box.x0, box.x1, margin=margin, end=width)
    top, bottom = _widen(box.y0, box.y1, margin=margin, end=height)
    return left, top, right, bottom


def square_region(region: Region, *, width: int, height: int) -> Region:
    """Extend the shorter side of a region to the length of the longer one, as far as the image has room.

    The region stays in the middle unless an edge of the image is in the way. One pixel more goes right and down.
    """
    left, top, right, bottom = region
    side = max(right - left, bottom - top)
    left, right = _lengthen(left, right, length=side, end=width)
    top, bottom = _lengthen(top, bottom, length=side, end=height)
    return left, top, right, bottom


def clip_box(box: Box, *, width: int, height: int) -> Box | None:
    """Clip a box to the image; None where no part of it lies inside, or where a coordinate is not a finite number."""
    if not all(map(math.isfinite, (box.x0, box.y0, box.x1, box.y1))):
        return None
    x0, y0 = max(box.x0, 0.0), max(box.y0, 0.0)
    x1, y1 = min(box.x1, float(width)), min(box.y1, float(height))
    return replace(box, x0=x0, y0=y0, x1=x1, y1=y1) if x1 > x0 and y1 > y0 else None


def _size(box: Box) -> tuple[float, float]:
    return (box.x1 - box.x0) * (box.y1 - box.y0), box.score or 0.0


def _widen(low: float, high: float, *, margin: float, end: int) -> tuple[int, int]:
    extra = margin * (high - low)
    # Clipped first: a far number has no whole one.
    return math.floor(max(0.0, low - extra)), math.ceil(min(float(end), high + extra))


def _lengthen(low: int, high: int, *, length: int, end: int) -> tuple[int, int]:
    length = min(length, end)
    start = min(max(0, low - (length - (high - low)) // 2), end - length)
    return start, start + length
