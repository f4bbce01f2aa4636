"""Label knowledge: order and polarity."""

import pytest

from uniemox.emotions import DRAWN6, MIKELS, MIKELS_ALPHABETICAL, polarity


def test_the_eight_emotions_are_half_positive_and_half_negative():
    signs = [polarity(emotion) for emotion in MIKELS]
    assert signs == ["positive"] * 4 + ["negative"] * 4


def test_both_orders_name_the_same_emotions_and_one_is_that_of_sorted_folders():
    assert set(MIKELS) == set(MIKELS_ALPHABETICAL)
    assert list(MIKELS_ALPHABETICAL) == sorted(MIKELS_ALPHABETICAL)


def test_the_drawn_emotions_are_six_of_the_eight():
    assert len(DRAWN6) == 6
    assert set(DRAWN6) < set(MIKELS)


@pytest.mark.parametrize("name", ["Anger", "ANGER", "anger"])
def test_polarity_does_not_depend_on_case(name):
    assert polarity(name) == "negative"


def test_an_unknown_emotion_has_no_polarity():
    assert polarity("surprise") is None
