"""Charts of a collection: what they say is in them, whatever names hold."""

from xml.etree import ElementTree

import numpy as np
import pytest

from uniemox.report import collection_figures as figures

NAMES = ["awe", "fear", "<b>$x$</b>\u202e"]


def texts_of(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter() if element.text and element.text.strip()]


def test_bars_show_each_share():
    nothing = np.full(3, np.nan)
    for low, high in ((nothing, nothing), (np.array([0.4, 0.2, 0]), np.array([0.6, 0.4, 0.3]))):
        texts = texts_of(figures.mix_bars(NAMES, np.array([0.5, 0.3, 0.2]), low, high))
        assert {"awe", "fear", "50.0 %", "30.0 %", "20.0 %"} <= set(texts)
        assert not any("\u202e" in text for text in texts)


def test_the_circle_shows_emotions_that_have_a_place():
    assert {"fear 30 %", "joy 70 %"} <= set(texts_of(figures.circle(["fear", "joy"], np.array([0.3, 0.7]))))


def test_stacks_show_categories_and_their_rows():
    shares = np.array([[0.5, 0.5, 0], [1, 0, 0]])
    texts = texts_of(figures.stacks(["a", "b"], np.array([1234, 5]), NAMES, shares))
    assert {"a", "b", "awe", "1\u202f234", "5"} <= set(texts)


def test_differences_are_in_percentage_points():
    svg = figures.differences(NAMES, np.array([0.1, 0, -0.1]), np.full(3, -0.2), np.full(3, 0.2), are_shares=True)
    assert {"percentage points", "+10", "0"} <= set(texts_of(svg))


@pytest.mark.parametrize("are_shares", [True, False])
def test_a_course_has_a_clock(are_shares):
    values = np.array([[0.5, 0.3, 0.2], [np.nan] * 3, [0.1, 0.8, 0.1]])
    assert "1:00" in texts_of(figures.course(np.array([0.0, 40, 80]), NAMES, values, are_shares=are_shares))
    assert texts_of(figures.course(np.array([0.0]), NAMES, values[:1], are_shares=are_shares))


def test_times_are_written_as_clocks_do():
    assert [figures.clock(seconds) for seconds in (0, 59.6, 61, 3661)] == ["0:00", "1:00", "1:01", "1:01:01"]


def test_no_two_names_have_one_colour():
    from uniemox.emotions import MIKELS, TAXONOMIES

    assert len(set(figures.colours_of(MIKELS))) == 8
    assert len(set(figures.colours_of(TAXONOMIES["ekman"].classes))) == 6
    assert len(set(figures.colours_of([str(number) for number in range(20)]))) == 20
    assert len(figures.colours_of([str(number) for number in range(500)])) == 500
