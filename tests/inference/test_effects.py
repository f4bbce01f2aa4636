"""What hiding parts of an image does to an answer."""

import weakref

import numpy as np
import pytest
from PIL import Image

from uniemox.inference import effects
from uniemox.inference.effects import COLUMNS, Effect, agree, describe, list_hidden, mask_all, summarize
from uniemox.manifests.table import Box
from uniemox.people.hiding import WAYS, mark

IMAGE = Image.new("RGB", (20, 10), (9, 9, 9))


def test_people_each_of_several_and_the_scene_are_hidden_in_turn():
    hidden = list_hidden(IMAGE, [Box(0, 0, 4, 4), Box(10, 0, 12, 10)])
    assert list(hidden) == ["people", "person 0", "person 1", "scene"]
    assert (hidden["people"] == (hidden["person 0"] | hidden["person 1"])).all()
    assert (hidden["scene"] == ~hidden["people"]).all()
    assert hidden["person 0"].sum() == 16


def test_the_masks_of_a_crowd_take_the_memory_of_one(monkeypatch):
    held = []

    def count(*asked, **size):
        marked = mark(*asked, **size)
        held.append(weakref.ref(marked))
        return marked

    monkeypatch.setattr(effects, "mark", count)
    hidden = list_hidden(IMAGE, [Box(0, 0, x, 9) for x in range(1, 20)])
    assert len(hidden) == 21
    assert all(mask.any() and sum(one() is not None for one in held) < 5 for mask in hidden.values())


def test_one_person_is_the_people():
    assert list(list_hidden(IMAGE, [Box(0, 0, 4, 4)])) == ["people", "scene"]
    assert list(list_hidden(IMAGE, [Box(0, 0, 4, 4)] * 3, each=False)) == ["people", "scene"]


def test_a_box_outside_keeps_the_numbers_of_the_others():
    hidden = list_hidden(IMAGE, [Box(90, 90, 99, 99), Box(0, 0, 4, 4)])
    assert list(hidden) == ["people", "person 1", "scene"]


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        ([], "no people in the image"),
        ([Box(90, 90, 99, 99)], "no people in the image"),
        ([Box(0, 0, 20, 10)], "the people cover the whole image"),
    ],
)
def test_where_nothing_can_be_hidden_there_is_a_reason(boxes, reason):
    assert list_hidden(IMAGE, boxes) == reason


def test_masked_people_take_the_colour_around_them():
    pixels = np.full((10, 20, 3), 50, np.uint8)
    pixels[2:6, 3:9] = (255, 0, 0)
    masked = mask_all(Image.fromarray(pixels), [Box(3, 2, 9, 6)])
    assert (np.asarray(masked) == 50).all()
    assert mask_all(IMAGE, ()) is IMAGE
    assert mask_all(IMAGE, [Box(0, 0, 20, 10)]) == "the people cover the whole image"


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ((-0.1, -0.2, -0.001), True),
        ((-0.1, -0.2, 0.001), False),
        ((-0.1, -0.2, -0.0004), False),
        ((0.0004, -0.0004, 0.0), True),
    ],
)
def test_ways_agree_where_all_changes_have_one_sign_to_the_third_digit(changes, same):
    assert agree(changes) is same


def test_a_sentence_says_what_was_measured_and_no_more():
    people = [Effect("people", way, {"joy": change}) for way, change in zip(WAYS, (-0.39, -0.43, -0.41), strict=True)]
    scene = [Effect("scene", way, {"joy": change}) for way, change in zip(WAYS, (0.05, -0.02, 0.01), strict=True)]
    assert describe("joy", 0.72, [*people, *scene]) == (
        "Hiding the people lowers joy from 0.720 to 0.310 (blur 0.330, mean 0.290, neighbours 0.310); the three ways "
        "of hiding the scene disagree (joy 0.720; blur 0.770, mean 0.700, neighbours 0.730)"
    )
    still = [Effect("scene", way, {"joy": 0.0001}) for way in WAYS]
    assert "hiding the scene does not change joy at 0.720" in describe("joy", 0.72, [*people, *still])


def test_a_summary_is_the_mean_of_the_ways_for_people_and_scene():
    numbers = np.array([[0.5, 0.1], [0.2, 0], [0.3, 0], [0.1, 0], [0.6, 0], [0.7, 0], [0.8, 0]])
    values = summarize(numbers, 0)
    assert values["hiding_people"] == pytest.approx(-0.3)
    assert values["hiding_scene"] == pytest.approx(0.2)
    assert values["hiding_agrees"] is True
    numbers[6, 0] = 0.4
    assert summarize(numbers, 0)["hiding_agrees"] is False
    assert summarize(None, 0) == dict.fromkeys(column.name for column in COLUMNS)
