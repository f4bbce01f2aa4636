"""The table of data sets."""

import pytest

from uniemox.emotions import TAXONOMIES
from uniemox.errors import DataError
from uniemox.importers.specs import SPECS, get_spec


@pytest.mark.parametrize("name", SPECS)
def test_a_data_set_is_found_by_its_name(name):
    assert get_spec(name).name == name


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("spell", [str.upper, str.title, lambda name: name.replace("-", "_"), lambda name: f" {name} "])
def test_a_data_set_is_found_in_any_spelling_of_its_name(name, spell):
    assert get_spec(spell(name)).name == name


def test_the_names_stay_distinct_in_every_spelling():
    letters = {"".join(filter(str.isalnum, name.casefold())) for name in SPECS}
    assert len(letters) == len(SPECS)


@pytest.mark.parametrize(
    ("name", "meant"), [("emoste", "emoset"), ("EmoSet-118K", "emoset"), ("caer", "caer-s"), ("foldres", "folders")]
)
def test_a_near_miss_suggests_the_name_that_is_meant(name, meant):
    with pytest.raises(DataError, match=f"did you mean {meant}\\? There are emoset, fi"):
        get_spec(name)


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
    assert get_spec("drawn6").classes == ("anger", "fear", "sadness", "amusement", "contentment", "excitement")


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


@pytest.mark.parametrize("name", ["emoset", "fi", "emotion6", "ube", "emo8", "caer-s", "heco", "emotic"])
def test_classes_are_those_of_the_taxonomy_and_three_sets_label_what_a_depicted_person_feels(name):
    assert SPECS[name].classes == TAXONOMIES[name].classes
    assert SPECS[name].emotion == ("felt" if name in ("caer-s", "heco", "emotic") else "evoked")


def test_the_published_counts_of_emoset_add_up():
    spec = SPECS["emoset"]
    sums = {split: sum(counts) for split, counts in spec.counts.items()}
    assert sums == {"train": 94_481, "val": 5_905, "test": 17_716}
    assert sum(sums.values()) == spec.pictures
