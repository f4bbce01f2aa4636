"""What cells mean, whatever file they come from."""

import datetime
import json
import math
import random
import time

import numpy as np
import pytest

from uniemox.files.cells import (
    MISSING,
    as_name,
    as_name_or_names,
    as_names,
    is_missing,
    is_text,
    number,
    unpack,
    whole,
    with_point,
    words,
)

NAMES = ["joy", "awe", "it's", 'a "good" day', "fear, or so", "ärger", "doubt/confusion", "géné", "2", "new york"]


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
        ("3,5", None),
        ("1_000", None),
    ],
)
def test_a_number_is_finite(value, taken):
    assert number(value) == taken


def test_words_are_one_line_of_text():
    assert words(" a\nb ") == "a b"
    assert [words(value) for value in ("", " ", 3, "\ud800")] == [None] * 4


def test_a_text_is_one_that_can_be_written():
    assert is_text("é")
    assert not is_text("\udce9")


@pytest.mark.parametrize("value", [None, float("nan"), np.float64("nan"), "", " ", b"", *MISSING])
def test_nothing_is_missing_in_every_way_to_write_it(value):
    assert is_missing(value)
    assert as_name(value) is None
    assert as_names(["joy", value]) == ("joy",)


@pytest.mark.parametrize("value", [0, 0.0, False, "0", "none of these", "no", "n", "Nancy", [], {}])
def test_what_is_like_nothing_is_not_missing(value):
    assert not is_missing(value)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("joy ", "joy"),
        (b"joy", "joy"),
        (2, "2"),
        (2.0, "2"),
        ("2.0", "2"),
        ("10.000", "10"),
        ("-1.0", "-1"),
        (np.float64(2), "2"),
        (2.5, "2.5"),
        ("2.5", "2.5"),
        ("2.0.1", "2.0.1"),
        (1e300, None),
        (math.inf, None),
        (b"\xff", None),
        ("\ud800", None),
        (["joy"], None),
        ("['joy', 'awe']", None),
        ("['joy'", None),
        ("joy']", None),
        ("{joy", None),
        ("joy (mild)", "joy (mild)"),
        ("(a) joy", "(a) joy"),
        ("'joy'", "joy"),
        ('"joy"', "joy"),
        ("b'joy'", "joy"),
        ("joy\u200b", "joy"),
        ("\ufeffjoy", "joy"),
        ("\u202ejoy", "joy"),
        ("\u0646\u200c\u0627", "\u0646\u200c\u0627"),
        (datetime.date(2026, 11, 29), "2026-11-29"),
        ("x" * 256, None),
        ("9" * 5000, None),
        ("cafe\u0301", "caf\u00e9"),
        (True, "True"),
    ],
)
def test_a_name_is_a_text_or_a_number(value, name):
    assert as_name(value) == name


def numpy_text(names):
    return str(np.array(names, dtype=object))


WRITERS = {
    "list": repr,
    "tuple": lambda names: repr(tuple(names)),
    "json": json.dumps,
    "json in ASCII": lambda names: json.dumps(names, ensure_ascii=True),
    "numpy": lambda names: repr(np.array(names, dtype=object)),
    "numpy without a type": lambda names: repr(np.array(names)),
    "printed by numpy": numpy_text,
    "scalars of numpy": lambda names: f"[{', '.join(f'np.str_({name!r})' for name in names)}]",
    "index of pandas": lambda names: f"Index({names!r}, dtype='object')",
    "set": lambda names: "{" + ", ".join(map(repr, names)) + "}",
    "frozenset": lambda names: f"frozenset({{{', '.join(map(repr, names))}}})",
    "keys": lambda names: repr(dict.fromkeys(names).keys()),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_list_in_a_text_is_the_list_that_was_written(write):
    generator = random.Random(0)
    for count in (1, 2, 3, 5) * 20:
        names = generator.sample(NAMES, count)
        if write is WRITERS["scalars of numpy"]:
            names = [name for name in names if "(" not in name]
        assert as_names(write(names)) == tuple(names), write(names)


@pytest.mark.parametrize(
    "text", ["[]", "()", "set()", "array([], dtype=object)", "frozenset()", "[nan]", "[None, None]"]
)
def test_an_empty_list_holds_nothing(text):
    assert as_names(text) == ()


@pytest.mark.parametrize("text", ["[0. 2. 10.]", "[0, 2, 10]", "array([0, 2, 10])", "[0.0, 2.0, 10.0]", "[ 0  2 10]"])
def test_numbers_in_a_list_are_names_too(text):
    assert as_names(text) == ("0", "2", "10")


@pytest.mark.parametrize("text", ["[joy, new york]", "{joy, new york}", "(joy, new york)", "['joy', 'new york',]"])
def test_words_in_brackets_need_no_quotes(text):
    assert as_names(text) == ("joy", "new york")


def test_repeats_stay_and_missing_ones_go():
    assert as_names("['joy', 'joy', nan, 'fear']") == ("joy", "joy", "fear")
    assert as_names(["joy", None, "joy"]) == ("joy", "joy")


@pytest.mark.parametrize(
    ("text", "names"),
    [("a|b; c,d", ("a", "b", "c", "d")), ("a", ("a",)), (3, ("3",)), (2.0, ("2",)), ("a,,b", ("a", "b"))],
)
def test_a_text_is_cut_at_separators(text, names):
    assert as_names(text) == names


def spoilt():
    """Lists that were cut, doubled or nested."""
    for write in WRITERS.values():
        text = write(["joy", "fear"])
        yield from (text[:place] for place in range(1, len(text)) if text[:place].count("'") + text[:place].count('"'))
        yield text[1:] if text[0] in "[({" else f"[{text}]"
        yield f"[{text}, 'x']"


@pytest.mark.parametrize(
    "text",
    [
        *spoilt(),
        "[['joy']]",
        "['joy',, 'fear']",
        "['joy' fear]",
        "[{'a': 1}]",
        "['joy', ['fear']]",
        "[0 1 2 ... 97 98 99]",
        "['joy' 'fear' ... 'awe']",
        "list(list(list(list(['joy']))))",
        "[" * 100_000,
        "{'a': 1}",
    ],
)
def test_a_list_of_no_known_form_is_never_a_name_with_a_bracket(text):
    names = as_names(text)
    assert names is None or not any(set("[](){}'\"") & set(name) for name in names), names


def test_one_name_and_several_are_told_apart():
    assert as_name_or_names("joy, or so") == "joy, or so"
    assert as_name_or_names("['joy', 'fear']") == ("joy", "fear")
    assert as_name_or_names(["joy"]) == ("joy",)
    assert as_name_or_names("['joy'") is None


def test_a_mapping_is_read_as_python_and_json_write_it():
    for text in ("{'joy': 0.5, 'fear': nan}", '{"joy": 0.5, "fear": null}'):
        assert {name: value for name, value in unpack(text).items() if not is_missing(value)} == {"joy": 0.5}


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("3,5", "3.5"),
        ("-0,25", "-0.25"),
        (",5", ".5"),
        ("1,5e-3", "1.5e-3"),
        ("1,234,567", "1,234,567"),
        ("a,b", "a,b"),
    ],
)
def test_a_decimal_comma_becomes_a_point(text, changed):
    assert with_point(text) == changed
    assert with_point([text, None]) == [changed, None]


def test_a_number_of_a_class_has_a_few_digits():
    assert [whole(text) for text in ("7", "007", "-1", "x", "", "9" * 5000)] == [7, 7, None, None, None, None]


def test_long_texts_are_read_in_time():
    started = time.monotonic()
    for text in (
        *("[" + "'a', " * 200_000 + "'a']", "[" * 1_000_000, "'" * 1_000_000, "array(" * 150_000),
        *("array(" * 50_000 + ")" * 50_000, f"list({',name=' * 150_000})", f"list({',name=' * 150_000}()"),
        *("{" + "'\\" * 450_000 + "}", "{" + "'a':" * 100_000 + "}", f"[{' ' * 900_000}(]"),
    ):
        as_names(text)
    assert time.monotonic() - started < 20  # 0.3 s; 30,000 characters took 5 s where it was quadratic
