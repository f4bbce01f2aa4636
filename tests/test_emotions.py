"""Label knowledge: taxonomies, names, polarity, bridges and where emotions lie."""

import subprocess
import sys

import pytest

from uniemox.emotions import (
    AFFECT,
    DRAWN6,
    MIKELS,
    MIKELS_ALPHABETICAL,
    TAXONOMIES,
    build_bridge,
    get_taxonomy,
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
    assert TAXONOMIES["emoset"].classes[:5] == (
        "amusement",
        "awe",
        "contentment",
        "excitement",
        "anger",
    )


def test_three_data_sets_label_what_a_depicted_person_feels():
    felt = [name for name in DATA_SETS if TAXONOMIES[name].emotion == "felt"]
    assert felt == ["caer-s", "heco", "emotic"]
    assert all(TAXONOMIES[name].emotion == "evoked" for name in set(DATA_SETS) - set(felt))


def test_emotic_alone_gives_several_labels_to_a_sample():
    assert [name for name, taxonomy in TAXONOMIES.items() if taxonomy.several] == ["emotic"]


def test_an_unknown_taxonomy_is_told_with_those_that_there_are():
    with pytest.raises(DataError, match="no taxonomy is called plutchik: there are emoset, fi"):
        get_taxonomy("plutchik")


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
    assert bridge.mapped.keys() == bridge.reasons.keys()
    assert not bridge.mapped.keys() & bridge.dropped.keys()
    assert bridge.mapped.keys() | bridge.dropped.keys() == set(TAXONOMIES[source].classes)
    assert set(bridge.mapped.values()) <= set(TAXONOMIES[target].classes)
    assert all(bridge.reasons.values())
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
    assert "Shaver" in bridge.reasons["amusement"]
    assert set(bridge.dropped) == {"awe"}


def test_the_polarity_of_caer_s_leaves_out_neutral_and_surprise():
    bridge = build_bridge(["Angry", "Happy", "Neutral", "Surprise"], TAXONOMIES["polarity"])
    assert bridge.mapped == {"Angry": "negative", "Happy": "positive"}
    assert set(bridge.dropped) == {"Neutral", "Surprise"}


def test_steps_are_not_chained():
    # Peace is contentment and contentment is joy, but nobody says that peace is joy.
    bridge = build_bridge(["peace"], TAXONOMIES["emotion6"])
    assert set(bridge.dropped) == {"peace"}


# Valence and arousal


def test_every_number_has_a_source_and_lies_on_the_scale():
    for affect in AFFECT.values():
        assert affect.source
        assert affect.term
        assert all(-1 <= number <= 1 for number in affect[:3])


@pytest.mark.parametrize("name", sorted(set(AFFECT) - {"surprise"}))
def test_the_sign_of_valence_is_the_polarity(name):
    assert ("positive" if AFFECT[name].valence > 0 else "negative") == polarity(name)


def test_emotions_lie_in_the_quadrants_of_the_circumplex():
    # Russell 1980: excitement at 45 degrees, distress at 135, depression at 225.
    quadrants = {name: (affect.valence > 0, affect.arousal > 0) for name, affect in AFFECT.items()}
    assert quadrants["excitement"] == (True, True)
    assert quadrants["fear"] == quadrants["anger"] == (False, True)
    assert quadrants["sadness"] == (False, False)


def test_anger_and_fear_differ_by_dominance():
    assert AFFECT["anger"].dominance > 0 > AFFECT["fear"].dominance


def test_label_knowledge_is_cheap_to_import():
    code = "import sys, uniemox.emotions; print([m for m in ('numpy', 'pyarrow', 'torch') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
