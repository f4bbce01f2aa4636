"""Words of messages."""

import errno
import pickle
import unicodedata

import pytest

from uniemox.wording import counted, listed, name_first, nearest, one_line, printable, reason_of, shorten


@pytest.mark.parametrize(
    ("word", "known", "found"),
    [
        ("base_lrr", ["optim.base_lr", "seed"], "optim.base_lr"),
        ("optim.base-lr", ["optim.base_lr", "seed"], "optim.base_lr"),
        ("model.batch_size", ["optim.batch_size", "model.size"], "optim.batch_size"),
        ("sed", ["optim.base_lr", "seed"], "seed"),
        ("zebra", ["optim.base_lr", "seed"], None),
        ("", ["seed"], None),
    ],
)
def test_the_nearest_name_is_found_in_other_groups_too(word, known, found):
    assert nearest(word, known) == (f"; did you mean {found}?" if found else "")


def test_texts_come_to_one_short_line():
    assert one_line(" a\n  b\tc ") == "a b c"
    assert "\n" not in shorten("a\n" * 1000)
    assert len(shorten("a" * 1000)) <= 100
    assert shorten(["a"]) == "['a']"


SEEN = [
    *("plain", "Müller, Ωmega 漢字 🙂", "[bold]", "", "a\xa0b", "1\u202f234", "漢\u3000字"),
    *("می\u200cخواهم", "\u0915\u094d\u200d\u0937", "👨\u200d👩\u200d👧", "❤️"),
]
HIDDEN = [
    *("\u202ayoj", "\u202byoj", "\u202cyoj", "\u202dyoj", "\u202eyoj", "\u2066yoj", "\u2067yoj", "\u2068yoj", "\u2069"),
    *("\u200ejoy", "\u200fjoy", "\u061cjoy", "jo\u200by", "\ufeffjoy", "jo\xady", "jo\u2060y", "joy\U000e0041"),
    *("jo\u200dy", "joy\u200d", "\u200cjoy", "я\u200dя", "joy\ue000", "joy\u0378", "joy\u2028", "\u180ejoy"),
]


@pytest.mark.parametrize("text", SEEN)
def test_printable_text_stays(text):
    assert printable(text) == text


@pytest.mark.parametrize("text", ["\x1b[31m", "\x07", "a\rb", "a\nb", "\x9b", "\udcff", "\u202e"])
def test_what_steers_a_terminal_is_escaped(text):
    shown = printable(text)
    assert shown.isprintable()
    assert shown.isascii()
    assert shown.encode().decode("unicode_escape") == text


@pytest.mark.parametrize("text", HIDDEN)
def test_what_is_not_seen_and_what_turns_the_direction_is_escaped(text):
    shown = printable(text)
    categories = {unicodedata.category(letter) for letter in shown}
    assert not categories & {"Cf", "Cc", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert shown.encode("latin-1", "backslashreplace").decode("unicode_escape") == text


def test_characters_to_keep_stay():
    assert printable("a\n\tb", keep="\n") == "a\n\\tb"


def test_one_is_told_otherwise_than_several():
    told = [counted(number, "row") for number in (0, 1, 2, 1200)]
    assert told == ["0 rows", "1 row", "2 rows", "1,200 rows"]
    assert [counted(n, "box", several="boxes") for n in (1, 2)] == ["1 box", "2 boxes"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("a\n  b"), "a b"),
        (ValueError("a" * 999), "a" * 200),
        (pickle.UnpicklingError(), "UnpicklingError"),
        (FileNotFoundError(errno.ENOENT, "x", "/a/b"), "no such file or directory"),
        (OSError("of a library"), "of a library"),
    ],
)
def test_an_exception_is_one_short_line(error, told):
    assert reason_of(error) == told


@pytest.mark.parametrize(
    ("names", "said"), [([], "none"), (["a"], "a"), (["a", "b", "c"], "a, b, c"), (list("abcde"), "a, b, c and 2 more")]
)
def test_three_names_are_enough(names, said):
    assert name_first(names) == said


@pytest.mark.parametrize(
    ("names", "said"), [((), ""), (("a",), "a"), (("a", "b"), "a and b"), (("a", "b", "c"), "a, b and c")]
)
def test_names_are_listed_as_in_a_sentence(names, said):
    assert listed(names) == said


def test_as_many_names_are_listed_as_are_asked_for():
    assert name_first(list("abcde"), most=4) == "a, b, c, d and 1 more"
    assert name_first(list("abcd"), most=4) == "a, b, c, d"
    assert name_first(["x" * 10**6]) == "x" * 80


def test_a_number_that_python_does_not_write_is_shortened_too():
    assert shorten(16**9000) == "a number of thousands of digits"
    assert len(shorten([1] * 10**6)) <= 80
