"""What cells mean."""

import pytest

from uniemox.files.cells import number
from uniemox.importers.cells import (
    ATTRIBUTES,
    attributes,
    boxes,
    distribution,
    flaw_of,
    share,
    take,
    vad,
    weights,
    word_list,
)
from uniemox.manifests.findings import Findings
from uniemox.manifests.table import Attributes, Box


def test_a_share_lies_between_0_and_1():
    assert [share(value) for value in (0, 1, 0.5, -0.1, 1.1)] == [0.0, 1.0, 0.5, None, None]


def test_a_list_of_words_holds_texts_alone():
    assert word_list(["a", " b "]) == ("a", "b")
    assert word_list(["a", 3]) is None
    assert word_list("a") is None


@pytest.mark.parametrize(
    ("cell", "shares"),
    [
        ([1, 3], (0.25, 0.75)),
        ("[1, 3]", (0.25, 0.75)),
        ({"a": 1, "b": None, "c": "3"}, {"a": 0.25, "c": 0.75}),
        ([1, -1], None),
        ([0], None),
        ({}, None),
        (1, None),
        ("[0.25 0.75]", (0.25, 0.75)),
        ("{'a': 0.5, 'b': nan, 'c': 0.5}", {"a": 0.5, "c": 0.5}),
        ([1e308, 1e308], None),
    ],
)
def test_a_distribution_sums_to_1(cell, shares):
    assert distribution(cell) == shares


@pytest.mark.parametrize(
    ("cell", "flaw"),
    [
        ([3, 17], None),
        ([1.0, 0.0], None),
        ([0.5, 0.46], None),
        ([0.5, 0.44], "shares that do not add up to 1, scaled to it"),
        ({"a": 0.5}, "shares that do not add up to 1, scaled to it"),
        ([0.5, -0.5], "distribution with a share below 0"),
        ([0, 0.0], "distribution without a vote"),
        (["a", 1], "distribution of unknown form"),
        ([1e308, 1e308], "distribution of unknown form"),
        ("joy", "distribution of unknown form"),
    ],
)
def test_what_is_wrong_with_a_distribution_is_named(cell, flaw):
    assert flaw_of(cell) == flaw


def test_weights_are_as_they_were_given():
    assert weights({"a": "3", "b": None, "c": 1}) == {"a": 3, "c": 1}
    assert weights("[3, 1]") == (3, 1)
    assert weights([3, None]) is None


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ([{"x1": 1, "y1": 2, "x2": 3, "y2": 4}], (Box(1, 2, 3, 4),)),
        ({"xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4, "score": 0.5}, (Box(1, 2, 3, 4, 0.5),)),
        ('[{"x": 1, "y": 2, "w": 2, "h": 2}, {"x": 0, "y": 0, "w": 9, "h": 9}]', (Box(1, 2, 3, 4), Box(0, 0, 9, 9))),
        ([{"x1": 3, "y1": 2, "x2": 1, "y2": 4}, {"x1": 0, "y1": 0, "x2": 1, "y2": "?"}], (None, None)),
        ([], ()),
        ([1, 2, 3, 4], None),
        ([[1, 2, 3, 4]], None),
        ([{"x1": 1, "y1": 2}], None),
        ("a box", None),
        (7, None),
    ],
)
def test_boxes_are_read_where_their_numbers_have_names(cell, found):
    assert boxes(cell) == found


def test_a_missing_cell_is_no_problem_and_one_of_another_form_is_counted():
    findings = Findings()
    row = {"a": "1", "b": " ", "c": None, "e": "x", "f": "not asked for"}
    assert take(row, dict.fromkeys("abcde", number), findings, "line 7") == {**dict.fromkeys("bcde"), "a": 1}
    assert [str(problem) for problem in findings.problems()] == ["1 x e of unknown form (line 7)"]


def test_cells_become_attributes_and_vad():
    found = {**dict.fromkeys(ATTRIBUTES), "scene": "beach", "things": ("tree",), "none": None}
    assert attributes(found, objects="things") == Attributes(scene="beach", objects=("tree",))
    assert attributes(found, objects="none") == Attributes(scene="beach")
    assert vad({"valence": 1, "arousal": None, "dominance": 2}) == (1, None, 2)
    assert vad(dict.fromkeys(("valence", "arousal", "dominance"))) is None
