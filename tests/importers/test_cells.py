"""What cells mean."""

import math

import pytest

from uniemox.importers.cells import (
    ATTRIBUTES,
    attributes,
    distribution,
    is_text,
    label_name,
    label_names,
    number,
    share,
    take,
    vad,
    word_list,
    words,
)
from uniemox.manifests.findings import Findings
from uniemox.manifests.table import Attributes


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        (2, 2.0),
        ("2.5", 2.5),
        (" 3 ", 3.0),
        (True, None),
        ("nan", None),
        (math.inf, None),
        ("", None),
        (None, None),
        ([1], None),
        (10**400, None),
    ],
)
def test_a_number_is_finite(value, taken):
    assert number(value) == taken


def test_a_share_lies_between_0_and_1():
    assert [share(value) for value in (0, 1, 0.5, -0.1, 1.1)] == [0.0, 1.0, 0.5, None, None]


def test_words_are_one_line_of_text():
    assert words(" a\nb ") == "a b"
    assert [words(value) for value in ("", " ", 3, "\ud800")] == [None] * 4
    assert word_list(["a", " b "]) == ("a", "b")
    assert word_list(["a", 3]) is None
    assert word_list("a") is None


def test_a_text_is_one_that_can_be_written():
    assert is_text("é")
    assert not is_text("\udce9")


@pytest.mark.parametrize(
    ("cell", "name"), [("joy ", "joy"), (2.0, "2"), (2.5, "2.5"), ("", None), (b"joy", None), (["joy"], None)]
)
def test_a_label_is_a_text_or_a_number(cell, name):
    assert label_name(cell) == name


@pytest.mark.parametrize(
    ("cell", "names"), [('["a", 2]', ("a", "2")), ("a|b; c,d", ("a", "b", "c", "d")), (["a"], ("a",)), (3, None)]
)
def test_labels_are_a_list_or_a_text_with_separators(cell, names):
    assert label_names(cell) == names


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
    ],
)
def test_a_distribution_sums_to_1(cell, shares):
    assert distribution(cell) == shares


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
