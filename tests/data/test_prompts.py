"""Descriptions: wording, and what goes first when they are too long."""

from itertools import product

import pytest

from uniemox.data.prompts import describe, fit_description
from uniemox.manifests.table import Attributes

FULL = Attributes(
    brightness=0.3,
    colorfulness=1.0,
    scene="amusement_park",
    facial_expression="happy",
    human_action="riding a bike",
    objects=("Alarm clock", "Tree", "Dog"),
)


def test_a_full_description_has_the_seven_parts_in_order():
    assert describe(FULL, "awe") == (
        "The scene type of this photo is amusement_park. "
        "The main subjects are Alarm clock, Tree and Dog. "
        "The image has a brightness of 0.3 and color saturation of 1.0. "
        "Human facial expression is happy. "
        "The action being performed is riding a bike. "
        "The overall emotion conveyed is awe."
    )


@pytest.mark.parametrize(
    ("objects", "subjects"),
    [
        (("Alarm clock",), "Alarm clock"),
        (("a", "b"), "a and b"),
        (("a", "b", "c"), "a, b and c"),
        (("a", "b", "c", "d"), "a, b, c and d"),
    ],
)
def test_objects_are_joined_as_in_english_and_never_split(objects, subjects):
    assert describe(Attributes(objects=objects), None) == f"The main subjects are {subjects}."


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        (Attributes(brightness=0.0), "The image has a brightness of 0.0."),
        (Attributes(colorfulness=0.25001), "The image has a color saturation of 0.3."),
        (
            Attributes(brightness=0.30000001192, colorfulness=0.1),
            "The image has a brightness of 0.3 and color saturation of 0.1.",
        ),
    ],
)
def test_one_of_brightness_and_colour_alone_is_still_a_sentence(attributes, text):
    assert describe(attributes, None) == text


def test_the_emotion_stands_alone_where_nothing_else_is_known():
    assert describe(Attributes(), "fear") == "The overall emotion conveyed is fear."


def test_nothing_known_is_an_empty_description():
    assert describe(Attributes(), None) == ""


def test_a_description_without_labels_does_not_speak_of_emotion():
    assert "emotion" not in describe(FULL, None)


def test_every_description_is_made_of_whole_sentences():
    for flags in product((True, False), repeat=7):
        bright, colour, scene, face, action, objects, emotion = flags
        attributes = Attributes(
            brightness=0.5 if bright else None,
            colorfulness=0.5 if colour else None,
            scene="beach" if scene else None,
            facial_expression="sad" if face else None,
            human_action="crying" if action else None,
            objects=("Sea",) if objects else (),
        )
        text = describe(attributes, "sadness" if emotion else None)
        sentences = text.replace("0.5", "half").split(". ")
        assert "  " not in text
        assert text == text.strip()
        assert all(sentence.startswith(("The ", "Human ")) for sentence in sentences if sentence)
        assert len([s for s in sentences if s]) == sum((bright or colour, scene, face, action, objects, emotion))
        assert text == "" or text.endswith(".")


@pytest.mark.parametrize(
    ("most", "subjects"), [(0, None), (1, "Alarm clock."), (2, "Alarm clock and Tree."), (9, "Tree and Dog.")]
)
def test_fewer_objects_are_the_first_ones(most, subjects):
    text = describe(FULL, "awe", max_objects=most)
    assert ("main subjects" in text) == (subjects is not None)
    assert (subjects or "") in text


def words_at_most(limit):
    return lambda text: len(text.split()) <= limit


def test_a_description_that_fits_is_left_whole():
    assert fit_description(FULL, "awe", lambda _: True) == describe(FULL, "awe")


def test_objects_go_before_any_other_sentence():
    whole = len(describe(FULL, "awe").split())
    text = fit_description(FULL, "awe", words_at_most(whole - 1))
    assert text == describe(FULL, "awe", max_objects=2)
    bare = len(describe(FULL, "awe", max_objects=0).split())
    assert fit_description(FULL, "awe", words_at_most(bare)) == describe(FULL, "awe", max_objects=0)


def test_the_longest_number_of_objects_that_fits_is_found():
    attributes = Attributes(objects=tuple(f"thing{i}" for i in range(40)))
    for limit in range(11, 50):
        text = fit_description(attributes, "awe", words_at_most(limit))
        best = max(
            (describe(attributes, "awe", max_objects=n) for n in range(41)),
            key=lambda text: len(text) if len(text.split()) <= limit else -1,
        )
        assert text == best


def test_sentences_go_one_by_one_and_the_emotion_stays():
    kept = []
    for limit in range(len(describe(FULL, "awe").split()), -1, -1):
        text = fit_description(FULL, "awe", words_at_most(limit))
        assert text.endswith("The overall emotion conveyed is awe.")
        kept.append(len(text.split()))
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] == 6


def test_what_says_least_about_emotion_goes_first():
    order = ["The main subjects", "The image has", "The scene", "The action", "Human facial"]
    gone = []
    for limit in range(len(describe(FULL, "awe").split()), 5, -1):
        text = fit_description(FULL, "awe", words_at_most(limit))
        gone += [start for start in order if start not in text and start not in gone]
    assert gone == order


def test_without_emotion_nothing_may_be_left():
    assert fit_description(FULL, None, lambda text: text == "") == ""
