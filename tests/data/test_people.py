"""Geometry of boxes."""

import math
import random

import numpy as np
import pytest

from uniemox.data.manifest import Box
from uniemox.data.people import choose_box, crop_region


def test_the_largest_box_is_chosen_wherever_it_stands():
    boxes = [Box(0, 0, 2, 2), Box(0, 0, 9, 9), Box(5, 5, 8, 9)]
    for _ in range(6):
        random.shuffle(boxes)
        assert choose_box(boxes) == Box(0, 0, 9, 9)


def test_no_box_is_chosen_among_none():
    assert choose_box([]) is None


def test_equal_areas_go_to_the_better_score_then_to_the_first():
    assert choose_box([Box(0, 0, 4, 1), Box(0, 0, 2, 2, 0.9), Box(0, 0, 1, 4, 0.5)]).score == 0.9
    assert choose_box([Box(0, 0, 4, 1), Box(0, 0, 2, 2)]) == Box(0, 0, 4, 1)


@pytest.mark.parametrize(
    "bad",
    [
        Box(3, 3, 3, 9),
        Box(9, 0, 1, 5),
        Box(9, 9, 1, 1),
        Box(math.nan, 0, 5, 5),
        Box(0, 0, math.inf, 5),
    ],
)
def test_a_box_without_a_finite_area_is_passed_over(bad):
    assert choose_box([bad]) is None
    assert choose_box([bad, Box(0, 0, 1, 1)]) == Box(0, 0, 1, 1)
    assert crop_region(bad, width=10, height=10, margin=0.1) is None


def test_without_a_margin_the_region_is_the_box():
    assert crop_region(Box(2, 3, 7, 9), width=20, height=20, margin=0) == (2, 3, 7, 9)


def test_the_margin_is_a_share_of_each_side():
    assert crop_region(Box(40, 40, 60, 80), width=200, height=200, margin=0.25) == (35, 30, 65, 90)


def test_parts_of_pixels_count_as_whole_ones():
    assert crop_region(Box(2.9, 3.1, 4.1, 4.2), width=20, height=20, margin=0) == (2, 3, 5, 5)


@pytest.mark.parametrize(
    "outside", [Box(10, 0, 20, 5), Box(-9, 0, 0, 5), Box(0, -3, 5, 0), Box(0, 12, 5, 20)]
)
def test_a_box_outside_of_the_picture_has_no_region_even_if_its_margin_reaches_in(outside):
    assert crop_region(outside, width=10, height=10, margin=1) is None


def test_every_region_lies_in_the_picture_and_covers_the_part_of_the_box_that_does():
    generator = np.random.default_rng(0)
    for _ in range(500):
        width, height = (int(side) for side in generator.integers(1, 50, 2))
        x, y = np.sort(generator.uniform(-20, 70, (2, 2)), axis=1)
        box = Box(x[0], y[0], x[1], y[1])
        region = crop_region(box, width=width, height=height, margin=generator.uniform(0, 1))
        # Independent of the module: mark the box's pixels one by one on a grid.
        columns = np.arange(width)
        rows = np.arange(height)
        covered_x = (columns + 1 > box.x0) & (columns < box.x1)
        covered_y = (rows + 1 > box.y0) & (rows < box.y1)
        if region is None:
            assert not (covered_x.any() and covered_y.any())
            continue
        left, top, right, bottom = region
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert covered_x[:left].sum() + covered_x[right:].sum() == 0
        assert covered_y[:top].sum() + covered_y[bottom:].sum() == 0
