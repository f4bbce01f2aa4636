"""From an image to tensors: views of pretraining, augmentation of fine-tuning, preprocessing of evaluation.

Everything random draws from the global generators of Python, NumPy and torch, as timm's and torchvision's augmentations
do; `seeded` sets them for one sample and puts them back.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, assert_never

import numpy as np
import timm
import torch
from PIL import Image, ImageOps
from timm.data import create_transform
from timm.data.auto_augment import RandAugment
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import Compose
from torchvision.transforms.v2 import RandomResizedCrop

from uniemox.config.people import CropShape
from uniemox.config.training import AugmentConfig, View, ViewsConfig
from uniemox.data import rand_augment
from uniemox.data.pixels import CROP_SHARE, MEAN, MEAN_COLOUR, STD, Inner, Preparation, cut_region, part_of_square
from uniemox.errors import ConfigError

if TYPE_CHECKING:
    from uniemox.people.regions import Region


def seed_of(*parts: int) -> int:
    """Mix whole numbers into one seed of 63 bits; equal parts give equal seeds on every machine."""
    digest = hashlib.blake2b(",".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generators of Python, NumPy and torch (CPU) for a block, then restore them."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch_seeded(seed):
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def torch_seeded(seed: int) -> Iterator[None]:
    """Seed torch's generator alone, which pretraining draws from: a thirtieth of the time of all three."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)  # torch.manual_seed seeds GPUs too, or notes for later who asked
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


class Crop(NamedTuple):
    """What is drawn of a view of pretraining: the part of the image that the scene shows, and mirroring."""

    left: int  # in pixels of the upright image, like the next three
    top: int
    width: int
    height: int
    mirrored: bool  # of scene and person


class PretrainTransform:
    """Cuts the scene and the person out of an image, both of side `size` in pixels, and mirrors them together."""

    def __init__(self, config: ViewsConfig, size: int, *, shape: CropShape = "squeeze") -> None:
        self.config, self.size, self.shape = config, size, shape
        self._crop = RandomResizedCrop(size, scale=config.scene_scale, ratio=(3 / 4, 4 / 3))

    def __call__(self, image: Image.Image, person: Region | None) -> tuple[Tensor, Tensor]:
        """Cut both views, each (3, S, S) uint8: a random crop of the whole image, and the person's crop.

        Args:
            image: Upright RGB image.
            person: Region of the person in its pixels, half-open; None repeats the scene.
        """
        return self.cut(image, person, self.draw(image))

    def draw(self, image: Image.Image) -> Crop:
        """Draw the crop of an upright image from torch's global generator."""
        crop = self._crop.make_params([image])
        is_mirrored = torch.rand(()).item() < self.config.flip
        return Crop(crop["left"], crop["top"], crop["width"], crop["height"], is_mirrored)

    def cut(self, image: Image.Image, person: Region | None, crop: Crop) -> tuple[Tensor, Tensor]:
        """Cut both views by a crop that was drawn; the arguments and the views are those of a call."""
        corners = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
        pixels = np.asarray(image)
        views = [cut_view(pixels, corners, size=self.size, shape="squeeze")]
        if person is not None:
            views.append(cut_view(pixels, person, size=self.size, shape=self.shape))
        if crop.mirrored:
            views = [view.flip(-1) for view in views]
        return views[0], views[-1]


def cut_view(pixels: np.ndarray, region: Region, *, size: int, shape: CropShape) -> Tensor:
    """Cut a region out of pixels (H, W, 3) uint8 and bring it to (3, size, size), as `cut_region` does with an image.

    torch's resize of bytes takes a quarter of the time of Pillow's. Its weights have fewer bits, and the passes over a
    tall region come in another order, so of photographs 4 % of the values differ, nearly all by one grey level
    (DECISIONS 134).
    """
    left, top, right, bottom = region
    width, height = right - left, bottom - top
    inner = Inner(0, 0, size, size) if shape == "squeeze" else part_of_square(width, height, size=size)
    # A copy of the part alone: torch would copy a part that is not contiguous as well, in a slower order.
    part = torch.from_numpy(pixels[top:bottom, left:right].copy()).permute(2, 0, 1).unsqueeze(0)
    view = interpolate(part, (inner.height, inner.width), mode="bicubic", antialias=True).squeeze(0)
    if (inner.width, inner.height) == (size, size):
        return view
    square = torch.tensor(MEAN_COLOUR, dtype=torch.uint8).view(3, 1, 1).repeat(1, size, size)
    square[:, inner.top : inner.top + inner.height, inner.left : inner.left + inner.width] = view
    return square


class AugmentedViews:
    """Augments what a classifier reads: the scene, the person, or both.

    Scene and person are cropped and recoloured independently and mirrored together. The person is squeezed or padded
    to a square first, as in evaluation, so that a random crop of it has the same proportions. Views have the side
    `size` in pixels.
    """

    def __init__(self, config: AugmentConfig, size: int, *, view: View, shape: CropShape) -> None:
        self.view, self.shape, self.flip = view, shape, config.flip
        self.person_size = int(size / CROP_SHARE)
        # Of both views each would be mirrored by itself.
        self.augment = augmentation(replace(config, flip=0) if view == "both" else config, size)

    def __call__(self, image: Image.Image, person: Region | None) -> tuple[Tensor, ...]:
        """Augment one view or two, scene first, each (3, S, S) float, normalised.

        Args:
            image: Upright RGB image.
            person: Region of the person in its pixels; where it is None, the whole image is used instead.
        """
        cut = image
        if self.view != "scene" and person is not None:
            cut = cut_region(image, person, size=self.person_size, shape=self.shape)
        match self.view:
            case "scene" | "person":
                return (self.augment(cut),)
            case "both":
                if torch.rand(()).item() < self.flip:
                    image, cut = ImageOps.mirror(image), ImageOps.mirror(cut)
                scene = self.augment(image)
                return scene, (scene if person is None else self.augment(cut))
            case _:
                assert_never(self.view)


def normalize(pixels: Tensor) -> Tensor:
    """Bring uint8 pixels (…, 3, H, W) to ImageNet's mean 0 and deviation 1, as the encoder reads them."""
    mean, std = (torch.tensor(part, device=pixels.device).view(3, 1, 1) for part in (MEAN, STD))
    return (pixels.float() / 255 - mean) / std


def denormalize(values: Tensor) -> Tensor:
    """Bring normalised values (…, 3, H, W) back to uint8 pixels, the inverse of `normalize` up to clipping."""
    mean, std = (torch.tensor(part, device=values.device).view(3, 1, 1) for part in (MEAN, STD))
    return ((values * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def augmentation(config: AugmentConfig, size: int) -> Callable[[Image.Image], Tensor]:
    """Build timm's training transform, from an RGB image to (3, size, size) float: crop, mirror, RandAugment, erase.

    Mixing of images happens later, on the batch.

    Raises:
        ConfigError: timm refuses the words of RandAugment.
    """
    words = config.rand_augment
    try:
        transform = create_transform(
            size,
            is_training=True,
            scale=config.scale,
            hflip=config.flip,
            color_jitter=0.0,
            auto_augment=words,
            interpolation="bicubic",
            mean=MEAN,
            std=STD,
            re_prob=config.erase,
            re_mode="pixel",
        )
    except (AssertionError, ValueError, LookupError) as error:
        raise ConfigError(
            f"augment.rand_augment is {words}, which timm {timm.__version__} refuses ({error}): choose another, such "
            "as rand-m9-mstd0.5-inc1, or null"
        ) from error
    for step in transform.transforms:
        if isinstance(step, RandAugment):
            rand_augment.guard(step, str(words))
    augment: Callable[[Image.Image], Tensor] = transform
    return augment


def evaluation(size: int) -> Callable[[Image.Image], Tensor]:
    """Build `pixels.Preparation` with tensors as results: from an RGB image to (3, size, size) float, normalised."""
    transform: Callable[[Image.Image], Tensor] = Compose([Preparation(size), torch.from_numpy])
    return transform
