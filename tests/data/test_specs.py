"""The table of data sets."""

import pytest

from uniemox.data.specs import SPECS, get_spec
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
    if spec.ratios:
        assert sum(spec.ratios) == pytest.approx(1)
