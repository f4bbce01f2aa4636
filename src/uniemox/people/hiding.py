"""Hiding a part of an image in three ways, to ask a model what it answers without it. NumPy and Pillow alone.

No way of hiding is neutral: what a model makes of a blur, of a flat colour or of a smooth filling is its own. So an
effect is trusted only where all three have the same sign (`inference.effects`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, assert_never, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

if TYPE_CHECKING:
    from uniemox.manifests.table import Box

Way = Literal["blur", "mean", "neighbours"]
WAYS: Final[tuple[Way, ...]] = get_args(Way)
Mask: TypeAlias = npt.NDArray[np.bool]
_SIDE: Final = 512  # Pixels along the longer side, in which fillings are computed: all of them are smooth
_BLUR: Final = 0.25  # σ in shorter sides of the rectangle around what is hidden


def mark(boxes: Iterable[Box], *, width: int, height: int) -> Mask:
    """Mark the pixels (H, W) that boxes touch; a box that lies outside of the image marks none."""
    from uniemox.people.regions import crop_region  # Arrow, which an image without people can do without

    marked = np.zeros((height, width), np.bool)
    for box in boxes:
        if (region := crop_region(box, width=width, height=height, margin=0)) is not None:
            left, top, right, bottom = region
            marked[top:bottom, left:right] = True
    return marked


def hide(image: Image.Image, hidden: Mask, way: Way) -> Image.Image:
    """Fill the hidden pixels; the others stay as they are.

    - `blur`: Gaussian, σ = a quarter of the shorter side of the smallest rectangle around all that is hidden.
    - `mean`: the mean colour of what is not hidden.
    - `neighbours`: a pyramid of halved images, each pixel the mean of those of its four that are known; from the top
      down, an unknown pixel takes the bilinear value of the level above ("pull-push", Gortler et al. 1996, The
      Lumigraph). What is hidden has no influence.

    Args:
        image: Upright RGB image.
        hidden: (H, W), some but not all of it.
        way: How.
    """
    assert hidden.any()
    assert not hidden.all()
    factor = -(-max(image.size) // _SIDE)
    match way:
        case "blur":
            small = image.reduce(factor)
            fill = small.filter(ImageFilter.GaussianBlur(_BLUR * _shorter_side(hidden) / factor))
        case "mean":
            sums, counts = _pool(np.asarray(image), ~hidden, factor)
            fill = Image.fromarray(np.full((1, 1, 3), (sums.sum((0, 1)) / counts.sum()).round(), np.uint8))
            factor = max(image.size)
        case "neighbours":
            fill = Image.fromarray(_fill(*_pool(np.asarray(image), ~hidden, factor)))
        case _:
            assert_never(way)
    part = (0, 0, image.width / factor, image.height / factor)
    result = image.copy()
    result.paste(fill.resize(image.size, Image.Resampling.BILINEAR, box=part), mask=Image.fromarray(hidden))
    return result


def _shorter_side(hidden: Mask) -> int:
    """Measure the smallest rectangle around what is hidden."""
    return min(int(np.ptp(np.flatnonzero(hidden.any(axis=axis)))) + 1 for axis in (0, 1))


def _pool(pixels: npt.NDArray[np.uint8], known: Mask, factor: int) -> tuple[npt.NDArray[np.int64], ...]:
    """Sum and count the known pixels (H, W, 3) in squares of a side: (h, w, 3) and (h, w)."""
    starts = np.arange(0, pixels.shape[1], factor)
    sums, counts = [], []
    for top in range(0, len(pixels), factor):  # in strips: the whole would take eight times the memory
        rows = known[top : top + factor]
        strip = (pixels[top : top + factor] * rows[..., None]).sum(0, dtype=np.int64)
        sums.append(np.add.reduceat(strip, starts))
        counts.append(np.add.reduceat(rows.sum(0, dtype=np.int64), starts))
    return np.stack(sums), np.stack(counts)


def _fill(sums: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Fill pixels without a count from the level above; at least one has a count."""
    known = counts > 0
    colours: npt.NDArray[np.uint8] = (sums / counts.clip(1)[..., None]).round().astype(np.uint8)
    if known.all():
        return colours
    above = _fill(*_pool(colours, known, 2))
    height, width = known.shape
    size = Image.fromarray(above).resize((width, height), Image.Resampling.BILINEAR, box=(0, 0, width / 2, height / 2))
    return np.where(known[..., None], colours, np.asarray(size))
