"""From a picture to the numbers that a classifier reads. Brings no torch.

This is the only preprocessing of evaluation and prediction, whatever runs the model, so no two of them can drift apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, assert_never

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from uniemox.config import CropShape, PersonConfig, View
    from uniemox.data.manifest import Box
    from uniemox.data.people import Region

MEAN: Final = (0.485, 0.456, 0.406)
"""Mean of ImageNet's red, green and blue, in [0, 1]."""
STD: Final = (0.229, 0.224, 0.225)
"""Deviation of ImageNet's red, green and blue."""
CROP_SHARE: Final = 224 / 256
"""Share of the resized picture's side that evaluation keeps: Resize 256, CenterCrop 224 (released)."""
_MEAN_COLOUR: Final = (round(255 * MEAN[0]), round(255 * MEAN[1]), round(255 * MEAN[2]))
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
        return self.normalize(self.cut(image))

    def cut(self, image: Image.Image) -> Image.Image:
        """Resize an RGB picture and cut its centre; gives S × S, not yet normalised."""
        return self._cut_centre(self._resize(_shorten(image)))

    def normalize(self, image: Image.Image) -> npt.NDArray[np.float32]:
        """Normalise an RGB picture as it is; gives (3, H, W)."""
        # A pixel has 256 values, so looking its result up equals computing it.
        channels = zip(self._values(), np.moveaxis(np.asarray(image), -1, 0), strict=True)
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


@dataclass(frozen=True, kw_only=True)
class EvaluationViews:
    """Prepares what a classifier reads: the scene's centre, the person's whole crop (DECISIONS 56), or both."""

    size: int
    """Side S of a view in pixels."""
    view: View
    """What the classifier reads."""
    person: PersonConfig
    """How the person is chosen and cut."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(V, 3, S, S), V being 1 or 2."""
        return 2 if self.view == "both" else 1, 3, self.size, self.size

    def __call__(self, image: Image.Image, boxes: Sequence[Box] = ()) -> npt.NDArray[np.float32]:
        """Prepare the views of a picture, scene first; gives (V, 3, S, S), normalised.

        Args:
            image: Upright RGB picture.
            boxes: Its people; where none lies in the picture, the scene stands in.
        """
        match self.view:
            case "scene":
                views = [self._scene(image)]
            case "person":
                views = [self._person(image, boxes)]
            case "both":
                views = [self._scene(image), self._person(image, boxes)]
            case _:
                assert_never(self.view)
        return np.stack(views)

    def _scene(self, image: Image.Image) -> npt.NDArray[np.float32]:
        return Preparation(self.size)(image)

    def _person(self, image: Image.Image, boxes: Sequence[Box]) -> npt.NDArray[np.float32]:
        from uniemox.data.people import person_region  # brings Arrow, which a scene can do without

        region = person_region(boxes, self.person, width=image.width, height=image.height)
        if region is None:
            return self._scene(image)
        cut = cut_region(image, region, size=self.size, shape=self.person.shape)
        return Preparation(self.size).normalize(cut)


def cut_region(image: Image.Image, region: Region, *, size: int, shape: CropShape) -> Image.Image:
    """Cut a region out of a picture and bring it to a square.

    Args:
        image: Upright RGB picture.
        region: Pixels of it.
        size: Side of the square.
        shape: squeeze resizes both sides to it; pad the longer one, and fills what is left at both ends of the other
            with ImageNet's mean colour, which is 0 to the encoder.
    """
    # Cut first: a resize of a box would blend in what surrounds it.
    cut = image.crop(region)
    width, height = cut.size
    if shape == "squeeze" or width == height:
        return cut.resize((size, size), Image.Resampling.BICUBIC)
    # Resized before it is laid on the square: a strip's own square could take all memory.
    longest = max(width, height)
    across, down = (max(1, round(side * size / longest)) for side in (width, height))
    square = Image.new("RGB", (size, size), _MEAN_COLOUR)
    place = ((size - across) // 2, (size - down) // 2)
    square.paste(cut.resize((across, down), Image.Resampling.BICUBIC), place)
    return square


def _shorten(image: Image.Image) -> Image.Image:
    """Cut the ends off a strip."""
    width, height = image.size
    longest = _LONGEST * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, width - longest) // 2, max(0, height - longest) // 2
    return image.crop((left, top, left + min(width, longest), top + min(height, longest)))
