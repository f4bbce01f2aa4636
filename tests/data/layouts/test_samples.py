"""What readers of layouts have in common."""

import math

import pytest

from uniemox.data.findings import Findings
from uniemox.data.layouts.samples import ClassNames, name_list, number, share, words


@pytest.mark.parametrize(
    ("word", "classes", "label", "note"),
    [
        ("anger", ("anger", "joy"), 0, None),
        ("Anger", ("anger", "joy"), 0, None),
        ("Angry", ("anger", "joy"), 0, "1 x class called otherwise (Angry is anger)"),
        (
            "Happinesst",
            ("fear", "happiness"),
            1,
            "1 x class called otherwise (Happinesst is happiness)",
        ),
        (
            "Content",
            ("awe", "contentment"),
            1,
            "1 x class called otherwise (Content is contentment)",
        ),
        ("Sad", ("Sadness",), 0, "1 x class called otherwise (Sad is Sadness)"),
        ("calm", ("anger", "joy"), None, None),
    ],
)
def test_a_class_is_found_by_its_other_names_which_are_noted(word, classes, label, note):
    findings = Findings()
    assert ClassNames(classes, findings).label(word) == label
    assert findings.notes() == (() if note is None else (note,))
    assert findings.problems() == ()


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
    assert name_list(["a", " b "]) == ("a", "b")
    assert name_list(["a", 3]) is None
    assert name_list("a") is None
