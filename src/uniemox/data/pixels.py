"""From an image to the numbers that a classifier reads. Brings no torch.

This is the only preprocessing of evaluation and prediction, whatever runs the model, so no two of them can drift apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, assert_never

import numpy as np
import numpy.typing as npt
from PIL import Image

from uniemox.config.people import CropShape, PersonConfig
from uniemox.config.training import View

if TYPE_CHECKING:
    from uniemox.manifests.table import Box
    from uniemox.people.regions import Region

MEAN: Final = (0.485, 0.456, 0.406)  # Mean of ImageNet's red, green and blue, in [0, 1]
STD: Final = (0.229, 0.224, 0.225)  # Deviation of ImageNet's red, green and blue
CROP_SHARE: Final = 224 / 256  # Share of the resized side that evaluation keeps: Resize 256, CenterCrop 224 (released)
MEAN_COLOUR: Final = (round(255 * MEAN[0]), round(255 * MEAN[1]), round(255 * MEAN[2]))
Area: TypeAlias = tuple[float, float, float, float]  # Left, top, right, bottom in pixels; may reach beyond an image
_LONGEST = 16
"""Maximum length of an image in short sides. The centre that is kept lies far within; to resize a strip of one by ten
million pixels would take all memory."""


@dataclass(frozen=True)
class Preparation:
    """Resizes an image, cuts its centre and normalises it, bit-identical to timm's evaluation transform."""

    size: int  # Side S of the result in pixels
    crop_share: float = CROP_SHARE  # Share of the resized side that is kept, at most 1
    mean: tuple[float, float, float] = MEAN  # Of each channel, in [0, 1]
    std: tuple[float, float, float] = STD  # Of each channel
    interpolation: str = "bicubic"  # Filter of the resize, by its name in Pillow or timm
    squash: bool = False  # Whether both sides are resized to the same length first, whatever the aspect

    def __call__(self, image: Image.Image) -> npt.NDArray[np.float32]:
        """Prepare an RGB image as (3, S, S), normalised."""
        return self.normalize(self.cut(image))

    def cut(self, image: Image.Image) -> Image.Image:
        """Resize an RGB image and cut its centre, S × S, not yet normalised."""
        image = _shorten(image)
        short, shortest = int(self.size / self.crop_share), min(image.size)
        width, height = (short if self.squash else short * side // shortest for side in image.size)
        image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        left, top = (round((side - self.size) / 2) for side in image.size)
        return image.crop((left, top, left + self.size, top + self.size))

    def area(self, width: int, height: int) -> Area:
        """Return the part of an image that `cut` shows, in its pixels."""
        short, shortest = int(self.size / self.crop_share), min(width, height)
        spans = []
        for side in (width, height):
            kept = min(side, _LONGEST * shortest)
            seen = kept * self.size / (short if self.squash else short * kept // shortest)
            spans.append(((side - seen) / 2, (side + seen) / 2))
        (left, right), (top, bottom) = spans
        return left, top, right, bottom

    def normalize(self, image: Image.Image) -> npt.NDArray[np.float32]:
        """Normalise an RGB image as it is, (3, H, W)."""
        # A pixel has 256 values, so looking its result up equals computing it.
        shares = np.arange(256, dtype=np.float32) / np.float32(255)
        mean, std = (np.array(part, np.float32)[:, None] for part in (self.mean, self.std))
        channels = zip((shares - mean) / std, np.moveaxis(np.asarray(image), -1, 0), strict=True)
        return np.stack([values[channel] for values, channel in channels])


@dataclass(frozen=True, kw_only=True)
class EvaluationViews:
    """Prepares what a classifier reads: the scene's centre, the person's whole crop (DECISIONS 56), or both."""

    size: int  # Side S of a view in pixels
    view: View  # What the classifier reads
    person: PersonConfig  # How the person is chosen and cut
    preparation: Preparation | None = None  # Of the same size, where it is not that of our own classifiers

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(V, 3, S, S), V being 1 or 2."""
        return 2 if self.view == "both" else 1, 3, self.size, self.size

    def __call__(self, image: Image.Image, boxes: Sequence[Box] = ()) -> npt.NDArray[np.float32]:
        """Prepare the views of an image, scene first, as (V, 3, S, S), normalised, by the boxes of its people."""
        region = None
        if self.view != "scene":
            from uniemox.people.regions import person_region  # Arrow, which a scene can do without

            region = person_region(boxes, self.person, width=image.width, height=image.height)
        return self.cut(image, region)

    @property
    def resized_side(self) -> int:
        """The short side in pixels that an image is resized to before its centre is cut."""
        return int(self.size / (CROP_SHARE if self.preparation is None else self.preparation.crop_share))

    def of(self, image: Image.Image, box: Box | None) -> npt.NDArray[np.float32] | None:
        """Prepare an image or one of its people as (V, 3, S, S), normalised; None where the box lies outside of it.

        Where scenes alone are read, the person's crop is prepared as if that were the image.
        """
        if box is None:
            return self.cut(image, None)
        from uniemox.people.regions import person_region  # brings Arrow

        region = person_region([box], self.person, width=image.width, height=image.height)
        if region is None:
            return None
        if self.view != "scene":
            return self.cut(image, region)
        # Preparation keeps the centre: as much as a crop with the usual margin can spare.
        return self.cut(cut_region(image, region, size=self.resized_side, shape=self.person.shape), None)

    def areas(self, width: int, height: int, box: Box | None) -> list[Area]:
        """Return the part of an image that each view of a person in it shows, in its pixels."""
        scene = (self.preparation or Preparation(self.size)).area(width, height)
        person = scene
        if box is not None and self.view != "scene":
            from uniemox.people.regions import person_region  # brings Arrow

            region = person_region([box], self.person, width=width, height=height)
            assert region is not None
            left, top, right, bottom = region
            spare = 0 if self.person.shape == "squeeze" else (right - left) - (bottom - top)
            across, down = max(0, -spare) / 2, max(0, spare) / 2  # of padding, on both sides
            person = left - across, top - down, right + across, bottom + down
        return {"scene": [scene], "person": [person], "both": [scene, person]}[self.view]

    def cut(self, image: Image.Image, region: Region | None) -> npt.NDArray[np.float32]:
        """Prepare the views of an upright RGB image, scene first, as (V, 3, S, S), normalised.

        Where no person has a region in the image, the whole image is used instead.
        """
        prepare = self.preparation or Preparation(self.size)

        def cut_person() -> npt.NDArray[np.float32]:
            if region is None:
                return prepare(image)
            return prepare.normalize(cut_region(image, region, size=self.size, shape=self.person.shape))

        match self.view:
            case "scene":
                views = [prepare(image)]
            case "person":
                views = [cut_person()]
            case "both":
                views = [prepare(image), cut_person()]
            case _:
                assert_never(self.view)
        return np.stack(views)


def cut_region(image: Image.Image, region: Region, *, size: int, shape: CropShape) -> Image.Image:
    """Cut a region out of an image and bring it to a square.

    Args:
        image: Upright RGB image.
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
    inner = part_of_square(width, height, size=size)
    square = Image.new("RGB", (size, size), MEAN_COLOUR)
    square.paste(cut.resize((inner.width, inner.height), Image.Resampling.BICUBIC), (inner.left, inner.top))
    return square


class Inner(NamedTuple):
    """Part of a square, in pixels of it."""

    left: int
    top: int
    width: int
    height: int


def part_of_square(width: int, height: int, *, size: int) -> Inner:
    """Find the middle part of a square of side `size` that has the aspect of a region and spans the longer side."""
    longest = max(width, height)
    across, down = (max(1, round(side * size / longest)) for side in (width, height))
    return Inner((size - across) // 2, (size - down) // 2, across, down)


def _shorten(image: Image.Image) -> Image.Image:
    """Cut the ends off a strip."""
    width, height = image.size
    longest = _LONGEST * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, width - longest) // 2, max(0, height - longest) // 2
    return image.crop((left, top, left + min(width, longest), top + min(height, longest)))
