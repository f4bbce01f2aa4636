"""Hiding parts of images."""

import numpy as np
import pytest
from PIL import Image

from uniemox.manifests.table import Box
from uniemox.people.hiding import WAYS, hide, mark

BOX = Box(20, 10, 40, 50)


def noisy(width=70, height=60, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def test_a_mark_covers_the_pixels_that_a_box_touches_and_no_others():
    marked = mark([Box(1.5, 2, 3.2, 4), Box(90, 90, 99, 99)], width=6, height=5)
    expected = np.zeros((5, 6), bool)
    expected[2:4, 1:4] = True
    assert (marked == expected).all()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [(70, 60), (1300, 700)])
def test_what_is_not_hidden_stays_as_it_is_and_what_is_hidden_changes(way, size):
    image = noisy(*size)
    hidden = mark([BOX], width=image.width, height=image.height)
    before, after = np.asarray(image), np.asarray(hide(image, hidden, way))
    assert (after[~hidden] == before[~hidden]).all()
    assert (after[hidden] != before[hidden]).any(1).mean() > 0.9
    assert (np.asarray(image) == before).all()


@pytest.mark.parametrize("way", ["mean", "neighbours"])
@pytest.mark.parametrize("size", [(70, 60), (1100, 900)])
def test_what_is_hidden_has_no_influence_on_what_replaces_it(way, size):
    image = noisy(*size)
    hidden = mark([BOX], width=image.width, height=image.height)
    pixels = np.array(image)
    pixels[hidden] = (255, 0, 0)
    other = Image.fromarray(pixels)
    assert hide(image, hidden, way).tobytes() == hide(other, hidden, way).tobytes()


def test_the_mean_is_that_of_what_is_not_hidden():
    pixels = np.zeros((10, 10, 3), np.uint8)
    pixels[:5] = (200, 100, 50)
    pixels[0, 0] = (255, 255, 255)
    hidden = np.zeros((10, 10), bool)
    hidden[0, 0] = True
    seen = pixels.reshape(-1, 3)[1:].mean(0).round()
    assert tuple(hide(Image.fromarray(pixels), hidden, "mean").getpixel((0, 0))) == tuple(seen.astype(int))


def test_neighbours_continue_a_slope():
    slope = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    hidden = mark([Box(24, 24, 40, 40)], width=64, height=64)
    filled = np.asarray(hide(Image.fromarray(slope), hidden, "neighbours")).astype(int)
    assert np.abs(filled - slope)[hidden].max() <= 20  # of 252; the mean of the image is up to 32 away
    assert filled[32, 24, 0] < filled[32, 32, 0] < filled[32, 39, 0]


def test_a_blur_keeps_one_colour_and_takes_detail_away():
    plain = Image.new("RGB", (64, 64), (10, 120, 240))
    hidden = mark([BOX], width=64, height=64)
    assert hide(plain, hidden, "blur").tobytes() == plain.tobytes()
    blurred = np.asarray(hide(noisy(64, 64), hidden, "blur"))[hidden]
    assert blurred.std() < np.asarray(noisy(64, 64))[hidden].std() / 4


@pytest.mark.parametrize("way", WAYS)
def test_one_pixel_is_enough_to_fill_all_others(way):
    image, hidden = noisy(33, 17), np.ones((17, 33), bool)
    hidden[5, 7] = False
    after = np.asarray(hide(image, hidden, way))
    if way != "blur":
        assert (after == np.asarray(image)[5, 7]).all()
