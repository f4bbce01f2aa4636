from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Optional

import pytest

from uniemox.errors import ConfigError
from uniemox.flags import (
    Parser,
    expectation,
    is_list,
    is_optional,
    nearest,
    one_line,
    shorten,
    without_null,
)

Colour = Literal["red", "green"]
KINDS = [int, float, bool, str, Path, Colour, tuple[float, float], Sequence[str]]


@pytest.fixture
def parser():
    parser = Parser("paint", "Paint a picture.")
    parser.add_words("picture", Path, "What to paint.")
    parser.add_flag("--coats", int, "How often.", default=1)
    parser.add_flag("--wall.wet-share", float, "How wet, in %.", default=0.5)
    parser.add_flag("--colour", Colour, "Which.", default="red")
    parser.add_flag("--corners", tuple[float, float], "Where.", default=(0.1, 0.9))
    parser.add_flag("--tools", Sequence[str], "With what.", default=("brush",))
    parser.add_flag("--ladder", float | None, "How high.", default=None)
    parser.add_flag("--varnish", bool, "Whether.", default=False)
    parser.add_flag("--plan", str, "Read first.", repeat=True)
    parser.add_switch("--quick", "Hurry.")
    return parser


def parse(parser, line):
    return dict(parser.parse(line.split()).items())


def test_absent_flags_have_their_defaults(parser):
    assert parse(parser, "wall.png") == {
        "debug": False,
        "picture": Path("wall.png"),
        "coats": 1,
        "wall.wet_share": 0.5,
        "colour": "red",
        "corners": (0.1, 0.9),
        "tools": ("brush",),
        "ladder": None,
        "varnish": False,
        "plan": None,
        "quick": False,
    }


def test_absent_flags_are_left_out_where_that_is_asked_for(parser):
    given = parser.parse(["p", "--coats", "2"], defaults=False)
    assert dict(given.items()) == {"picture": Path("p"), "coats": 2}


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("--coats 3", "coats", 3),
        ("--coats=3", "coats", 3),
        ("--wall.wet-share 1e-3", "wall.wet_share", 1e-3),
        ("--wall.wet_share 1e-3", "wall.wet_share", 1e-3),
        ("--wall.wet_share=1", "wall.wet_share", 1.0),
        ("--corners 0.2,0.3", "corners", (0.2, 0.3)),
        ("--corners=0.2,0.3", "corners", (0.2, 0.3)),
        ("--corners [0.2,0.3]", "corners", (0.2, 0.3)),
        ("--tools pen", "tools", ["pen"]),
        ("--tools pen,roller", "tools", ["pen", "roller"]),
        ("--tools [pen,roller]", "tools", ["pen", "roller"]),
        ("--ladder 2", "ladder", 2.0),
        ("--ladder null", "ladder", None),
        ("--varnish --quick", "varnish", True),
        ("--varnish true", "varnish", True),
        ("--varnish=false", "varnish", False),
        ("--quick", "quick", True),
        ("--plan a --plan b_c-d", "plan", ["a", "b_c-d"]),
        ("--colour green", "colour", "green"),
    ],
)
def test_a_flag_gives_its_value(parser, line, name, value):
    assert parse(parser, f"p.png {line}")[name] == value


@pytest.mark.parametrize(
    "name", ["[a]", "{a: b}", "null", "1e3", "~", "*a", "!!x", "- x", " a ", "m\udcff", "-", "é"]
)
def test_a_path_and_a_text_are_taken_as_they_are(name):
    parser = Parser("paint", "Paint.")
    parser.add_words("who", str, "Painter.")
    parser.add_words("pictures", Path, "What to paint.", many=True)
    parser.add_flag("--plan", Path, "Read first.")
    parser.add_flag("--colour", str, "Which.")
    given = parser.parse([name, name, name, f"--plan={name}", f"--colour={name}"])
    assert (given.who, given.colour, given.plan) == (name, name, Path(name))
    assert given.pictures == [Path(name), Path(name)]


def test_an_empty_path_is_refused(parser):
    with pytest.raises(ConfigError, match="PICTURE: invalid path value"):
        parser.parse([""])


def test_words_after_two_dashes_are_no_flags(parser):
    assert parse(parser, "--coats 2 -- --odd_name.png")["picture"] == Path("--odd_name.png")


def test_dashes_in_values_stay(parser):
    assert parse(parser, "a_b-c.png --plan=x_y-z")["plan"] == ["x_y-z"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("p --coat 3", "there is no flag --coat; did you mean --coats?"),
        ("p --wet-share 3", "there is no flag --wet-share; did you mean --wall.wet-share?"),
        ("p --coats+ 3", "there is no flag --coats+; did you mean --coats?"),
        ("p --zzz 3", "there is no flag --zzz"),
        ("p --coats abc", "coats is abc, but must be a whole number"),
        ("p --coats 1.5", "coats is 1.5, but must be a whole number"),
        ("p --coats true", "coats is True, but must be a whole number"),
        ("p --wall.wet-share much", "wall.wet_share is much, but must be a number"),
        ("p --colour blue", "colour is blue, but must be one of red, green"),
        ("p --corners 1", "corners is [1], but must be 2 numbers in brackets"),
        ("p --corners 1,2,3", "corners is [1, 2, 3], but must be 2 numbers in brackets"),
        ("p --corners a,b", "but must be 2 numbers in brackets"),
        ("p --tools", "expected one argument"),
        ("p --tools --quick", "expected one argument"),
        ("p --ladder high", "ladder is high, but must be a number, or null"),
        ("p --varnish=perhaps", "varnish is perhaps, but must be true or false"),
        ("p --coats", "expected one argument"),
        ("p q", "unrecognized arguments: q"),
        ("p -x", "unrecognized arguments: -x"),
        ("", "PICTURE must be given; see `uniemox paint --help`"),
    ],
)
def test_wrong_use_is_refused_in_one_line_with_the_name(parser, line, complaint):
    with pytest.raises(ConfigError) as caught:
        parse(parser, line)
    message = str(caught.value)
    assert complaint in message
    assert "\n" not in message


def test_a_long_value_is_not_repeated_at_length(parser):
    with pytest.raises(ConfigError) as caught:
        parser.parse(["p", "--coats", "x" * 10_000])
    assert len(str(caught.value)) < 200


def test_a_required_flag_must_be_given():
    parser = Parser("paint", "Paint.")
    parser.add_flag("--wall.top-left", str, "Where.", required=True)
    with pytest.raises(ConfigError, match=r"--wall\.top-left must be given"):
        parser.parse([])


def test_the_help_shows_dashes_texts_and_defaults_and_no_python(parser):
    text = " ".join(parser.format_help().split())
    assert "--wall.wet-share NUMBER How wet, in %. (default: 0.5)" in text
    assert "--colour {red,green} Which. (default: red)" in text
    assert "--corners NUMBER,NUMBER Where. (default: 0.1,0.9)" in text
    assert "--tools NAME,… With what. (default: brush)" in text
    assert "--varnish [{true,false}] Whether. (default: false)" in text
    assert "--quick Hurry." in text
    assert "PICTURE What to paint." in text
    assert "_" not in text
    assert "class" not in text
    assert "--tools+" not in text


def test_help_leaves_with_success(parser, capsys):
    with pytest.raises(SystemExit) as leaving:
        parser.parse(["--help"])
    assert leaving.value.code == 0
    assert "usage: uniemox paint" in capsys.readouterr().out


def test_values_of_a_file_are_converted_like_flags():
    parser = Parser("paint", "Paint.")
    parser.add_flag("--coats", int, "How often.", default=1)
    parser.add_flag("--wall.wet-share", float, "How wet.", default=0.5)
    parser.add_flag("--corners", tuple[float, float], "Where.", default=(0.1, 0.9))
    values = parser.parse_values({"coats": "2", "wall": {"wet_share": "1e-3"}, "corners": [0, 1]})
    assert dict(values.items()) == {"coats": 2, "wall.wet_share": 1e-3, "corners": (0.0, 1.0)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_type_and_null_are_told_apart(kind):
    assert not is_optional(kind)
    for optional in (kind | None, Optional[kind]):  # noqa: UP045
        assert is_optional(optional)
        assert without_null(optional) == kind
        assert is_list(optional) == is_list(kind)
        assert expectation(optional) == f"{expectation(kind)}, or null"


def test_lists_are_told_from_other_types():
    assert [kind for kind in KINDS if is_list(kind)] == [tuple[float, float], Sequence[str]]


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
