"""The table of data sets."""

import pytest

from uniemox.data.specs import SPECS, get_spec
from uniemox.emotions import TAXONOMIES
from uniemox.errors import DataError


@pytest.mark.parametrize("name", SPECS)
def test_a_data_set_is_found_by_its_name(name):
    assert get_spec(name).name == name


def test_an_unknown_data_set_is_refused_with_the_names_that_exist():
    with pytest.raises(DataError, match=r"no data set is called imagenet: there are emoset, fi"):
        get_spec("imagenet")


def test_labels_are_numbered_as_the_published_sets_number_them():
    assert get_spec("emoset").classes == (
        "amusement",
        "awe",
        "contentment",
        "excitement",
        "anger",
        "disgust",
        "fear",
        "sadness",
    )
    assert get_spec("drawn6").classes == (
        "anger",
        "fear",
        "sadness",
        "amusement",
        "contentment",
        "excitement",
    )


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_row_is_whole(spec):
    assert len(set(spec.classes)) == len(spec.classes)
    if spec.layout != "emoset":
        assert list(spec.classes) == sorted(spec.classes)  # sorted folder names number the labels
    if spec.classes:
        assert all((spec.title, spec.licence, spec.url, spec.citation))
        assert spec.emotion in ("evoked", "felt")
        assert spec.published_split
        assert spec.labelled_by
    if spec.recipe:
        assert sum(spec.recipe.ratios) == pytest.approx(1)
    for counts in spec.counts.values():
        assert len(counts) == len(spec.classes)


@pytest.mark.parametrize(
    "name", ["emoset", "fi", "emotion6", "ube", "emo8", "caer-s", "heco", "emotic"]
)
def test_classes_and_emotion_are_those_of_the_taxonomy(name):
    assert SPECS[name].classes == TAXONOMIES[name].classes
    assert SPECS[name].emotion == TAXONOMIES[name].emotion


def test_the_published_counts_of_emoset_add_up():
    spec = SPECS["emoset"]
    sums = {split: sum(counts) for split, counts in spec.counts.items()}
    assert sums == {"train": 94_481, "val": 5_905, "test": 17_716}
    assert sum(sums.values()) == spec.pictures
