"""From a picture to tensors: views of pretraining, augmentation of fine-tuning, preprocessing of evaluation.

Everything random draws from the global generators of Python, NumPy and torch, as timm's and torchvision's augmentations
do; `seeded` sets them for one sample and puts them back.
"""

from __future__ import annotations

import hashlib
import random
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, assert_never

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data import create_transform
from torchvision.transforms import Compose
from torchvision.transforms.v2 import RandomResizedCrop
from torchvision.transforms.v2.functional import pil_to_tensor

from uniemox.data.pixels import CROP_SHARE, MEAN, STD, Preparation, cut_region

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from uniemox.config import AugmentConfig, CropShape, View, ViewsConfig
    from uniemox.data.people import Region

_ASPECT = (3 / 4, 4 / 3)


def seed_of(*parts: int) -> int:
    """Mix whole numbers into one seed of 63 bits; equal parts give equal seeds on every machine."""
    digest = hashlib.blake2b(",".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generators of Python, NumPy and torch (CPU) for a while, then restore them."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


class Views(NamedTuple):
    """What the model sees of one picture in pretraining."""

    scene: Tensor
    """(3, S, S) uint8, a random crop of the whole picture."""
    person: Tensor
    """(3, S, S) uint8, the person's crop, or the scene where there is none."""


class PretrainTransform:
    """Cuts the scene and the person out of a picture and mirrors them together.

    Args:
        config: Scale of the scene's crop, and probability of mirroring.
        size: Side S of both views in pixels.
        shape: How the person's region becomes a square.
    """

    def __init__(self, config: ViewsConfig, size: int, *, shape: CropShape = "squeeze") -> None:
        self.config = config
        self.size = size
        self.shape = shape

    def __call__(self, image: Image.Image, person: Region | None) -> Views:
        """Give both views.

        Args:
            image: Upright RGB picture.
            person: Region of the person in its pixels, half-open; None repeats the scene.
        """
        crop = RandomResizedCrop(self.size, scale=self.config.scene_scale, ratio=_ASPECT)
        region = crop.make_params([image])
        left, top = region["left"], region["top"]
        corners = (left, top, left + region["width"], top + region["height"])
        scene = cut_region(image, corners, size=self.size, shape="squeeze")
        mirrored = torch.rand(()).item() < self.config.flip
        view = _to_tensor(scene, mirrored=mirrored)
        if person is None:
            return Views(view, view)
        cut = cut_region(image, person, size=self.size, shape=self.shape)
        return Views(view, _to_tensor(cut, mirrored=mirrored))


class AugmentedViews:
    """Augments what a classifier reads: the scene, the person, or both.

    Scene and person are cropped and recoloured independently and mirrored together. The person is squeezed or padded
    to a square first, as in evaluation, so that a random crop of it has the same proportions.

    Args:
        config: Settings of the augmentation.
        size: Side S of a view in pixels.
        view: What the classifier reads.
        shape: How the person's region becomes a square.
    """

    def __init__(
        self,
        config: AugmentConfig,
        size: int,
        *,
        view: View,
        shape: CropShape,
    ) -> None:
        self.view = view
        self.shape = shape
        self.flip = config.flip
        self.person_size = int(size / CROP_SHARE)
        # Of both views each would be mirrored by itself.
        self.augment = augmentation(replace(config, flip=0) if view == "both" else config, size)

    def __call__(self, image: Image.Image, person: Region | None) -> tuple[Tensor, ...]:
        """Give one view or two, scene first, each (3, S, S) float, normalised.

        Args:
            image: Upright RGB picture.
            person: Region of the person in its pixels; where it is None, the scene stands in.
        """
        match self.view:
            case "scene":
                return (self.augment(image),)
            case "person":
                return (self.augment(image if person is None else self._cut(image, person)),)
            case "both":
                return self._both(image, person)
            case _:
                assert_never(self.view)

    def _both(self, image: Image.Image, person: Region | None) -> tuple[Tensor, Tensor]:
        turn = ImageOps.mirror if torch.rand(()).item() < self.flip else _leave
        scene = self.augment(turn(image))
        if person is None:
            return scene, scene
        return scene, self.augment(turn(self._cut(image, person)))

    def _cut(self, image: Image.Image, person: Region) -> Image.Image:
        return cut_region(image, person, size=self.person_size, shape=self.shape)


def _leave(image: Image.Image) -> Image.Image:
    return image


def _to_tensor(image: Image.Image, *, mirrored: bool) -> Tensor:
    tensor: Tensor = pil_to_tensor(ImageOps.mirror(image) if mirrored else image)
    return tensor


def normalize(pixels: Tensor) -> Tensor:
    """Bring uint8 pixels (…, 3, H, W) to ImageNet's mean 0 and deviation 1, as the encoder reads them."""
    mean = torch.tensor(MEAN, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(STD, device=pixels.device).view(3, 1, 1)
    return (pixels.float() / 255 - mean) / std


def denormalize(values: Tensor) -> Tensor:
    """Bring normalised values (…, 3, H, W) back to uint8 pixels, the inverse of `normalize` up to clipping."""
    mean = torch.tensor(MEAN, device=values.device).view(3, 1, 1)
    std = torch.tensor(STD, device=values.device).view(3, 1, 1)
    return ((values * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def augmentation(config: AugmentConfig, size: int) -> Callable[[Image.Image], Tensor]:
    """Build timm's training transform: crop, mirror, RandAugment, normalise, erase.

    Args:
        config: Its settings; mixing of pictures happens later, on the batch.
        size: Side of the result in pixels.

    Returns:
        Maps an RGB picture to (3, size, size) float, normalised.
    """
    transform: Callable[[Image.Image], Tensor] = create_transform(
        size,
        is_training=True,
        scale=config.scale,
        hflip=config.flip,
        color_jitter=0.0,
        auto_augment=config.rand_augment,
        interpolation="bicubic",
        mean=MEAN,
        std=STD,
        re_prob=config.erase,
        re_mode="pixel",
    )
    return transform


def evaluation(size: int) -> Callable[[Image.Image], Tensor]:
    """Build the preprocessing of evaluation, `pixels.Preparation`, as tensors.

    Args:
        size: Side of the result in pixels.

    Returns:
        Maps an RGB picture to (3, size, size) float, normalised.
    """
    transform: Callable[[Image.Image], Tensor] = Compose([Preparation(size), torch.from_numpy])
    return transform
