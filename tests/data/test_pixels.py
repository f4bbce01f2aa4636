import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform

import uniemox
from uniemox.data.pixels import CROP_SHARE, MEAN, STD, Preparation

RED, BLUE = (200, 0, 0), (0, 0, 200)


def noisy(width=60, height=40, seed=0):
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8))


def by_timm(size, **changes):
    facts = {"mean": MEAN, "std": STD, "crop_pct": CROP_SHARE, "interpolation": "bicubic"}
    return create_transform(size, is_training=False, **facts | changes)


SIZES = [(1, 1), (2, 1), (1, 16), (3, 5), (37, 36), (36, 37), (255, 257), (33, 500), (500, 33)]
SIZES += [(10, 160), (641, 479), (1023, 771)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("side", [32, 56, 224])
def test_pixels_are_bit_for_bit_those_of_timm(size, side):
    image = noisy(*size)
    pixels = Preparation(side)(image)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    assert np.array_equal(pixels, by_timm(side)(image).numpy())


def test_the_mean_and_deviation_are_those_of_imagenet():
    assert (MEAN, STD) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


@pytest.mark.parametrize("interpolation", ["bilinear", "lanczos", "nearest"])
def test_another_models_preprocessing_can_be_asked_for(interpolation):
    mean, std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    prepare = Preparation(64, crop_share=1.0, mean=mean, std=std, interpolation=interpolation)
    timms = by_timm(64, crop_pct=1.0, mean=mean, std=std, interpolation=interpolation)
    assert np.array_equal(prepare(noisy(90, 70)), timms(noisy(90, 70)).numpy())


@pytest.mark.parametrize("across", [True, False])
def test_a_strip_of_a_million_pixels_is_cut_before_it_is_blown_up(across):
    length = 2_000_000  # 36 × 72,000,000 pixels when its short side is 36
    strip = Image.new("RGB", (length, 1) if across else (1, length), BLUE)
    middle = length // 2
    region = (middle - 5, 0, middle + 5, 1) if across else (0, middle - 5, 1, middle + 5)
    strip.paste(RED, region)
    means = Preparation(32)(strip).mean(axis=(1, 2)) * STD + MEAN
    assert (means * 255).tolist() == pytest.approx(RED, abs=1)


def test_preparing_brings_no_torch():
    code = (
        "import sys; from PIL import Image; from uniemox.data.pixels import Preparation; "
        "Preparation(32)(Image.new('RGB', (40, 40))); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(Path(uniemox.__file__).parents[1])},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "False\n"
