"""Label knowledge: taxonomies, names, polarity, bridges and where emotions lie."""

import random
import subprocess
import sys

import numpy as np
import pytest

from uniemox.emotions import (
    DRAWN6,
    MIKELS,
    MIKELS_ALPHABETICAL,
    TAXONOMIES,
    build_bridge,
    circumplex,
    look_up,
    match_classes,
    meet,
    polarity,
    resolve,
)
from uniemox.errors import DataError

DATA_SETS = ("emoset", "fi", "emotion6", "ube", "emo8", "caer-s", "heco", "emotic")


# Taxonomies


def test_the_eight_data_sets_have_as_many_classes_as_published():
    numbers = {name: len(TAXONOMIES[name].classes) for name in DATA_SETS}
    assert list(numbers.values()) == [8, 8, 6, 6, 8, 7, 8, 26]


@pytest.mark.parametrize("name", TAXONOMIES)
def test_the_classes_of_a_taxonomy_are_distinct_lower_case_and_mean_different_things(name):
    classes = TAXONOMIES[name].classes
    assert len(set(classes)) == len(classes)
    assert all(own == own.lower() and resolve(own, classes) == own for own in classes)


@pytest.mark.parametrize("name", sorted(set(DATA_SETS) - {"emoset"}))
def test_labels_follow_the_alphabet_but_for_emoset(name):
    assert list(TAXONOMIES[name].classes) == sorted(TAXONOMIES[name].classes)


def test_the_labels_of_emoset_do_not():
    assert TAXONOMIES["emoset"].classes[:5] == ("amusement", "awe", "contentment", "excitement", "anger")


def test_emotic_alone_gives_several_labels_to_a_sample():
    assert [name for name, taxonomy in TAXONOMIES.items() if taxonomy.several] == ["emotic"]


@pytest.mark.parametrize("name", TAXONOMIES)
def test_a_taxonomy_is_found_in_any_spelling_of_its_name(name):
    for spelled in (name, name.upper(), name.replace("-", "_")):
        assert look_up(spelled, TAXONOMIES, what="taxonomy") is TAXONOMIES[name]


def test_a_near_miss_of_a_taxonomy_suggests_the_name_that_is_meant():
    with pytest.raises(DataError, match=r"called mikel: did you mean mikels\? There are "):
        look_up("mikel", TAXONOMIES, what="taxonomy")


def test_an_unknown_taxonomy_is_told_with_those_that_there_are():
    with pytest.raises(DataError, match="no taxonomy is called plutchik: there are emoset, fi"):
        look_up("plutchik", TAXONOMIES, what="taxonomy")


def test_both_orders_name_the_same_emotions_and_one_is_that_of_sorted_folders():
    assert set(MIKELS) == set(MIKELS_ALPHABETICAL)
    assert list(MIKELS_ALPHABETICAL) == sorted(MIKELS_ALPHABETICAL)


def test_the_drawn_emotions_are_six_of_the_eight():
    assert len(DRAWN6) == 6
    assert set(DRAWN6) < set(MIKELS)


# Names


@pytest.mark.parametrize(
    ("name", "taxonomy", "meant"),
    [
        ("Angry", "caer-s", "anger"),
        ("Anger", "caer-s", "anger"),
        ("Happy", "caer-s", "happiness"),
        ("Sad", "caer-s", "sadness"),
        ("Happinesst", "heco", "happiness"),
        ("Happy", "emotion6", "joy"),
        ("happiness", "ube", "joy"),
        ("JOY ", "caer-s", "happiness"),
        ("Content", "emoset", "contentment"),
        ("Doubt/Confusion", "emotic", "doubt/confusion"),
        ("doubt_confusion", "emotic", "doubt/confusion"),
        ("happy", "fi", None),
        ("contempt", "emoset", None),
        ("", "emoset", None),
        ("İstanbul\ud800", "emoset", None),
    ],
)
def test_words_of_data_sets_are_resolved(name, taxonomy, meant):
    assert resolve(name, TAXONOMIES[taxonomy].classes) == meant


def test_a_class_is_given_as_its_own_set_spells_it():
    assert resolve("anger", ["Angry", "Happy"]) == "Angry"


def test_a_word_that_could_be_two_classes_is_none():
    assert resolve("happy", ["joy", "happiness"]) is None
    assert resolve("joy", ["joy", "happiness"]) == "joy"


def spell(name, generator):
    """Write a class as another data set might."""
    other = {"anger": "Angry", "happiness": "joy", "sadness": "Sad", "fear": "fearful"}
    name = generator.choice([name, other.get(name, name), name.upper(), name.capitalize()])
    return name.replace("/", generator.choice(["/", " "]))


@pytest.mark.parametrize("taxonomy", TAXONOMIES)
@pytest.mark.parametrize("seed", range(5))
def test_the_same_classes_are_matched_in_any_order_and_spelling(taxonomy, seed):
    generator = random.Random(seed)
    classes = TAXONOMIES[taxonomy].classes
    shuffled = generator.sample(classes, len(classes))
    others = [spell(name, generator) for name in shuffled]
    match = match_classes(classes, others)
    assert match.is_whole
    assert dict(match.mapped) == dict(zip(others, shuffled, strict=True))


def test_names_of_no_emotion_are_matched_too_and_distinct_ones_stay_so():
    assert match_classes(["cat", "Big dog"], ["BIG_DOG", "Cat"]).mapped == {"Cat": "cat", "BIG_DOG": "Big dog"}
    both = match_classes(["joy", "Joy", "happiness"], ["happiness", "Joy", "joy"])
    assert both.mapped == {name: name for name in ("joy", "Joy", "happiness")}


@pytest.mark.parametrize("first", DATA_SETS)
@pytest.mark.parametrize("second", DATA_SETS)
def test_other_classes_are_named_on_both_sides(first, second):
    ours, theirs = TAXONOMIES[first].classes, TAXONOMIES[second].classes
    match = match_classes(ours, theirs)
    assert match.is_whole == ({first, second} <= {"emoset", "fi", "emo8"} or first == second)
    assert set(match.mapped) | set(match.unknown) == set(theirs)
    assert set(match.mapped.values()) | set(match.missing) == set(ours)
    assert not set(match.mapped.values()) & set(match.missing)


@pytest.mark.parametrize(
    ("others", "told"),
    [
        (("joy", "fear"), "A has awe, which B lacks"),
        (("joy", "fear", "awe", "love"), "B has love, which A lacks"),
        (("joy", "love", "awe"), "A has fear, which B lacks, and B has love, which A lacks"),
        (("joy", "happiness", "fear", "awe"), "B has happiness, which A lacks"),
        (("joy", "fear", "Awe", "AWE"), "A has awe, which B lacks, and B has Awe, AWE, which A lacks"),
        ((), "A has joy, fear, awe, which B lacks"),
        (("joy", "fear", "awe", *map(str, range(11))), "B has 0, 1, 2, 3, 4, 5, 6, 7 and 3 more, which A lacks"),
    ],
)
def test_what_is_missing_is_told(others, told):
    match = match_classes(("joy", "fear", "awe"), others)
    assert not match.is_whole
    assert match.describe("A", "B") == told


# Polarity


def test_the_eight_emotions_are_half_positive_and_half_negative():
    signs = [polarity(emotion) for emotion in MIKELS]
    assert signs == ["positive"] * 4 + ["negative"] * 4


@pytest.mark.parametrize("name", ["Anger", "ANGER", "anger", "angry"])
def test_polarity_does_not_depend_on_spelling(name):
    assert polarity(name) == "negative"


@pytest.mark.parametrize("name", ["joy", "happiness", "Happy", "love", "peace"])
def test_joy_and_its_like_are_positive(name):
    assert polarity(name) == "positive"


@pytest.mark.parametrize("name", ["surprise", "neutral", "yearning", "no emotion at all"])
def test_what_may_be_both_has_no_polarity(name):
    assert polarity(name) is None


# Bridges


@pytest.mark.parametrize("source", TAXONOMIES)
@pytest.mark.parametrize("target", TAXONOMIES)
def test_a_bridge_says_of_every_class_where_it_leads_or_why_nowhere(source, target):
    bridge = build_bridge(TAXONOMIES[source].classes, TAXONOMIES[target])
    assert not bridge.mapped.keys() & bridge.dropped.keys()
    assert bridge.mapped.keys() | bridge.dropped.keys() == set(TAXONOMIES[source].classes)
    assert set(bridge.mapped.values()) <= set(TAXONOMIES[target].classes)
    assert all(bridge.dropped.values())


@pytest.mark.parametrize("source", TAXONOMIES)
@pytest.mark.parametrize("target", TAXONOMIES)
def test_no_bridge_turns_pleasant_into_unpleasant(source, target):
    bridge = build_bridge(TAXONOMIES[source].classes, TAXONOMIES[target])
    for name, other in bridge.mapped.items():
        assert polarity(name) == polarity(other)


@pytest.mark.parametrize("name", TAXONOMIES)
def test_a_taxonomy_leads_to_itself_whole(name):
    classes = TAXONOMIES[name].classes
    bridge = build_bridge(classes, TAXONOMIES[name])
    assert bridge.mapped == dict(zip(classes, classes, strict=True))


def test_emotion6_leads_to_four_of_mikels_emotions():
    bridge = build_bridge(TAXONOMIES["emotion6"].classes, TAXONOMIES["mikels"])
    assert set(bridge.mapped) == {"anger", "disgust", "fear", "sadness"}
    assert bridge.dropped["joy"] == "could be amusement or contentment or excitement"
    assert bridge.dropped["surprise"].startswith("has no counterpart among amusement, awe")


def test_three_of_mikels_emotions_are_joy_and_awe_is_none_of_six():
    bridge = build_bridge(MIKELS, TAXONOMIES["emotion6"])
    assert [name for name, other in bridge.mapped.items() if other == "joy"] == [
        "amusement",
        "contentment",
        "excitement",
    ]
    assert set(bridge.dropped) == {"awe"}


def test_the_polarity_of_caer_s_leaves_out_neutral_and_surprise():
    bridge = build_bridge(["Angry", "Happy", "Neutral", "Surprise"], TAXONOMIES["polarity"])
    assert bridge.mapped == {"Angry": "negative", "Happy": "positive"}
    assert set(bridge.dropped) == {"Neutral", "Surprise"}


def test_steps_are_not_chained():
    # Peace is contentment and contentment is joy, but nobody says that peace is joy.
    bridge = build_bridge(["peace"], TAXONOMIES["emotion6"])
    assert set(bridge.dropped) == {"peace"}


def test_mikels_and_ekman_meet_in_ekmans_words_whoever_answers():
    for model, data, place in (("mikels", "ekman", "data"), ("ekman", "mikels", "model")):
        found = meet(TAXONOMIES[model].classes, TAXONOMIES[data].classes)
        assert found.place == place
        assert found.classes == ("anger", "disgust", "fear", "happiness", "sadness")
        assert {"surprise", "awe"} == set(found.model.dropped) | set(found.data.dropped)


def test_a_model_of_more_classes_is_asked_for_those_of_the_data_alone():
    found = meet(MIKELS, DRAWN6)
    assert found.classes == DRAWN6
    assert set(found.model.dropped) == {"awe", "disgust"}
    assert not found.data.dropped


@pytest.mark.parametrize("model", TAXONOMIES)
@pytest.mark.parametrize("data", TAXONOMIES)
def test_where_two_taxonomies_meet_every_class_is_mapped_or_dropped_and_both_sides_reach_all(model, data):
    sides = TAXONOMIES[model].classes, TAXONOMIES[data].classes
    found = meet(*sides)
    assert len(found.classes) >= 2
    for names, bridge in zip(sides, (found.model, found.data), strict=True):
        assert set(bridge.mapped) | set(bridge.dropped) == set(names)
        assert not set(bridge.mapped) & set(bridge.dropped)
        assert set(bridge.mapped.values()) == set(found.classes)


def test_two_lists_without_common_words_do_not_meet():
    with pytest.raises(DataError, match="nothing in common"):
        meet(("cat", "dog"), MIKELS)


def test_label_knowledge_is_cheap_to_import():
    code = "import sys, uniemox.emotions; print([m for m in ('numpy', 'pyarrow', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_emotions_lie_on_the_circumplex_where_their_polarity_says():
    """Pleasant is the right half, and what is activated lies above."""
    for name in (name for taxonomy in TAXONOMIES.values() for name in taxonomy.classes):
        angle = circumplex(name)
        if angle is not None and polarity(name) is not None:
            assert (np.cos(np.radians(angle)) > 0) == (polarity(name) == "positive"), name
    assert circumplex("Angry") == circumplex("anger") == 99
    assert 180 < circumplex("sadness") < 270 < circumplex("contentment") < 360
    assert circumplex("awe") is circumplex("disgust") is None
