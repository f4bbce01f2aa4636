"""From a picture to the numbers that a classifier reads. Brings no torch.

This is the only preprocessing of evaluation and prediction, whatever runs the model, so no two of them can drift apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import numpy.typing as npt

MEAN: Final = (0.485, 0.456, 0.406)
"""Mean of ImageNet's red, green and blue, in [0, 1]."""
STD: Final = (0.229, 0.224, 0.225)
"""Deviation of ImageNet's red, green and blue."""
CROP_SHARE: Final = 224 / 256
"""Share of the resized picture's side that evaluation keeps: Resize 256, CenterCrop 224 (released)."""
_LONGEST = 16
"""Times its short side that a picture may be long. The centre that is kept lies far within; to resize a strip of one by
ten million pixels would take all memory."""


@dataclass(frozen=True)
class Preparation:
    """Resizes a picture, cuts its centre and normalises it, bit for bit as timm's evaluation transform does."""

    size: int
    """Side S of the result in pixels."""
    crop_share: float = CROP_SHARE
    """Share of the resized side that is kept, at most 1."""
    mean: tuple[float, float, float] = MEAN
    """Of each channel, in [0, 1]."""
    std: tuple[float, float, float] = STD
    """Of each channel."""
    interpolation: str = "bicubic"
    """Filter of the resize, by its name in Pillow or timm."""

    def __call__(self, image: Image.Image) -> npt.NDArray[np.float32]:
        """Prepare an RGB picture; gives (3, S, S), normalised."""
        cut = np.asarray(self._cut_centre(self._resize(_shorten(image))))
        # A pixel has 256 values, so looking its result up equals computing it.
        channels = zip(self._values(), np.moveaxis(cut, -1, 0), strict=True)
        return np.stack([values[channel] for values, channel in channels])

    def _resize(self, image: Image.Image) -> Image.Image:
        """Bring the short side to its length."""
        short, shortest = int(self.size / self.crop_share), min(image.size)
        width, height = (short * side // shortest for side in image.size)
        return image.resize((width, height), Image.Resampling[self.interpolation.upper()])

    def _cut_centre(self, image: Image.Image) -> Image.Image:
        left, top = (round((side - self.size) / 2) for side in image.size)
        return image.crop((left, top, left + self.size, top + self.size))

    def _values(self) -> npt.NDArray[np.float32]:
        """(3, 256), what each value of a pixel becomes in each channel."""
        shares = np.arange(256, dtype=np.float32) / np.float32(255)
        mean, std = (np.array(part, np.float32)[:, None] for part in (self.mean, self.std))
        values: npt.NDArray[np.float32] = (shares - mean) / std
        return values


def _shorten(image: Image.Image) -> Image.Image:
    """Cut the ends off a strip."""
    width, height = image.size
    longest = _LONGEST * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, width - longest) // 2, max(0, height - longest) // 2
    return image.crop((left, top, left + min(width, longest), top + min(height, longest)))
