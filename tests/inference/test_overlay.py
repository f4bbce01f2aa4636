"""Images with the map of an explanation over them."""

import numpy as np
import pytest
from PIL import Image

from uniemox.inference.effects import Explanation
from uniemox.inference.overlay import overlay
from uniemox.manifests.table import Box


def drawn(size=(700, 500), **known):
    explanation = Explanation(answer={}, emotion="joy", numbers={"joy": 0.5}, method="occlusion", **known)
    return overlay(Image.new("RGB", size, (128, 128, 128)), explanation)


def test_what_speaks_for_the_emotion_is_orange_and_what_speaks_against_it_is_blue():
    pixels = np.asarray(drawn(map=np.array([[1.0, 0.0, -1.0]]))).astype(int)
    red, blue = pixels[250, 20], pixels[250, 680]
    assert red[0] - red[2] > 80
    assert blue[2] - blue[0] > 80
    assert np.ptp(pixels[250, 350]) < 12


@pytest.mark.parametrize("size", [(3000, 2000), (2000, 3000), (160, 160), (1, 1), (900, 3), (3, 900)])
def test_an_image_of_any_shape_fits_and_has_its_caption_below(size):
    page = drawn(size, map=np.ones((2, 2)))
    shown = round(size[1] * min(max(1024, 0), max(max(size), 640)) / max(size)) if max(size) > 1024 else None
    assert max(page.width, 640) <= 1024
    assert page.height > (shown or 0)
    assert page.mode == "RGB"


def test_boxes_are_outlined_and_the_one_that_is_read_more_so():
    first, second = Box(100, 100, 200, 200), Box(300, 100, 400, 200)
    pixels = np.asarray(drawn(people=(first, second), box=second))
    rows = [(pixels[150, left : left + 20] == 255).all(1).sum() for left in (100, 300)]
    assert rows[1] > rows[0] > 0


def test_a_map_of_zeros_and_a_box_outside_draw_nothing():
    pixels = np.asarray(drawn(map=np.zeros((4, 4)), people=(Box(800, 800, 900, 900),)))
    assert np.ptp(pixels[:500]) == 0
