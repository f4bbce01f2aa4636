"""Geometry of boxes."""

import math
import random

import numpy as np
import pytest

from uniemox.config.people import PersonConfig
from uniemox.manifests.table import Box
from uniemox.people.regions import choose_box, crop_region, person_region, square_region

CHOICES = ("largest", "confident", "central", "union")
WIDE = {"width": 100, "height": 100}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("largest", Box(0, 0, 50, 50, 0.3)),
        ("confident", Box(80, 80, 100, 100, 0.9)),
        ("central", Box(45, 45, 65, 65, 0.5)),
        ("union", Box(0, 0, 100, 100, 0.9)),
    ],
)
def test_each_choice_takes_its_box_wherever_it_stands(choice, expected):
    boxes = [Box(0, 0, 50, 50, 0.3), Box(80, 80, 100, 100, 0.9), Box(45, 45, 65, 65, 0.5)]
    for _ in range(6):
        random.shuffle(boxes)
        assert choose_box(boxes, choice, **WIDE) == expected


@pytest.mark.parametrize("choice", CHOICES)
def test_no_box_is_chosen_among_none(choice):
    assert choose_box([], choice, **WIDE) is None


@pytest.mark.parametrize("choice", CHOICES)
def test_the_one_box_of_a_picture_is_every_choice(choice):
    assert choose_box([Box(3, 4, 9, 8)], choice, **WIDE) == Box(3, 4, 9, 8)


def test_equal_areas_go_to_the_better_score_then_to_the_first():
    scored = [Box(0, 0, 4, 1), Box(0, 0, 2, 2, 0.9), Box(0, 0, 1, 4, 0.5)]
    assert choose_box(scored, "largest", **WIDE).score == 0.9
    assert choose_box([Box(0, 0, 4, 1), Box(0, 0, 2, 2)], "largest", **WIDE) == Box(0, 0, 4, 1)


def test_equal_scores_go_to_the_larger_box():
    boxes = [Box(0, 0, 2, 2, 0.5), Box(9, 9, 19, 19, 0.5), Box(0, 0, 90, 90)]
    assert choose_box(boxes, "confident", **WIDE) == boxes[1]


def test_equal_distances_go_to_the_larger_box():
    boxes = [Box(30, 45, 40, 55), Box(60, 40, 70, 60)]
    assert choose_box(boxes, "central", **WIDE) == boxes[1]


def test_a_box_is_as_large_as_what_of_it_lies_in_the_picture():
    boxes = [Box(90, 0, 900, 100), Box(10, 10, 60, 60)]
    assert choose_box(boxes, "largest", **WIDE) == boxes[1]
    assert choose_box(boxes, "union", **WIDE) == Box(10, 0, 100, 100)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize(
    "bad",
    [
        Box(3, 3, 3, 9),
        Box(9, 0, 1, 5),
        Box(9, 9, 1, 1),
        Box(math.nan, 0, 5, 5),
        Box(0, 0, math.inf, 5),
        Box(-9, -9, 0, 0, 1.0),
        Box(200, 0, 300, 50, 1.0),
    ],
)
def test_a_box_without_a_finite_area_inside_is_passed_over(choice, bad):
    assert choose_box([bad], choice, **WIDE) is None
    assert choose_box([bad, Box(0, 0, 1, 1)], choice, **WIDE) == Box(0, 0, 1, 1)
    assert crop_region(bad, width=100, height=100, margin=0.1) is None


def test_without_a_margin_the_region_is_the_box():
    assert crop_region(Box(2, 3, 7, 9), width=20, height=20, margin=0) == (2, 3, 7, 9)


def test_the_margin_is_a_share_of_each_side():
    assert crop_region(Box(40, 40, 60, 80), width=200, height=200, margin=0.25) == (35, 30, 65, 90)


def test_parts_of_pixels_count_as_whole_ones():
    assert crop_region(Box(2.9, 3.1, 4.1, 4.2), width=20, height=20, margin=0) == (2, 3, 5, 5)


@pytest.mark.parametrize("outside", [Box(10, 0, 20, 5), Box(-9, 0, 0, 5), Box(0, -3, 5, 0), Box(0, 12, 5, 20)])
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


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        ((40, 20, 60, 80), (20, 20, 80, 80)),
        ((40, 45, 80, 50), (40, 28, 80, 68)),  # one more row below than above
        ((0, 10, 20, 70), (0, 10, 60, 70)),  # the left edge is in the way
        ((90, 10, 100, 70), (40, 10, 100, 70)),
        ((10, 10, 30, 30), (10, 10, 30, 30)),
    ],
)
def test_a_region_is_made_square_inside_the_picture(region, expected):
    assert square_region(region, **WIDE) == expected


def test_a_square_that_the_picture_has_no_room_for_takes_what_there_is():
    assert square_region((5, 0, 15, 200), width=30, height=200) == (0, 0, 30, 200)
    assert square_region((0, 2, 90, 4), width=90, height=9) == (0, 0, 90, 9)


def test_every_square_region_holds_the_region_and_is_a_square_or_touches_two_edges():
    generator = np.random.default_rng(1)
    for _ in range(500):
        width, height = (int(side) for side in generator.integers(1, 40, 2))
        left, right = np.sort(generator.choice(width + 1, 2, replace=False)).tolist()
        top, bottom = np.sort(generator.choice(height + 1, 2, replace=False)).tolist()
        square = square_region((left, top, right, bottom), width=width, height=height)
        assert 0 <= square[0] <= left < right <= square[2] <= width
        assert 0 <= square[1] <= top < bottom <= square[3] <= height
        across, down = square[2] - square[0], square[3] - square[1]
        assert across == down or min(across, down) in ((width, height)[across > down],)


def test_the_region_of_the_person_follows_choice_margin_and_shape():
    boxes = [Box(40, 20, 60, 60), Box(0, 0, 10, 10, 0.9)]

    def region(**changes):
        return person_region(boxes, PersonConfig(**changes), width=100, height=100)

    assert region() == (38, 16, 62, 64)
    assert region(margin=0) == (40, 20, 60, 60)
    assert region(margin=0, shape="pad") == (30, 20, 70, 60)
    assert region(margin=0, choice="confident") == (0, 0, 10, 10)
    assert region(margin=0, choice="union") == (0, 0, 60, 60)
    assert person_region([], PersonConfig(), width=100, height=100) is None
