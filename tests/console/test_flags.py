import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

import uniemox
from uniemox.config.transfer import TransferConfig
from uniemox.console.flags import command_line, flag_of, name_flags, parse
from uniemox.errors import ConfigError
from uniemox.settings import Setting, build, list_settings


@dataclass(frozen=True, kw_only=True)
class WallConfig:
    """What is painted."""

    wet_share: float = 0.5
    """How wet, in %."""


@dataclass(frozen=True, kw_only=True)
class Tools:
    """With what it is painted."""

    brush: str = "flat"
    """Which brush."""


@dataclass(frozen=True, kw_only=True)
class PaintConfig(Tools):
    """A job."""

    image: Path = field(kw_only=False)
    """What to paint."""
    more: Sequence[Path] = field(default=(), kw_only=False)
    """What to paint after it."""
    coats: int = 1
    """How often."""
    colour: Literal["red", "green"] = "red"
    """Which."""
    corners: tuple[float, float] = (0.1, 0.9)
    """Where."""
    shares: tuple[float, float, float] | None = field(default=None, metadata={"metavar": "80/5/15"})
    """How much of each."""
    tools: Sequence[str] = ("brush",)
    """With what."""
    plans: Sequence[Path] = ()
    """Read first."""
    ladder: float | None = None
    """How high."""
    varnish: bool = False
    """Whether to shine."""
    wall: WallConfig = field(default_factory=WallConfig)


QUICK = Setting("quick", bool, "Hurry.", False)


def given_by(line):
    words = line if isinstance(line, list) else shlex.split(line)
    return parse("paint", "Paint.", PaintConfig, words, also=[QUICK])[0]


def test_a_switch_takes_no_word_but_true_and_false():
    assert given_by("--varnish p a") == {"varnish": True, "image": Path("p"), "more": (Path("a"),)}


def test_flags_that_are_absent_are_absent_in_the_values():
    assert given_by("wall.png") == {"image": Path("wall.png")}
    assert build(PaintConfig, given_by("wall.png")) == PaintConfig(Path("wall.png"))


def test_a_configuration_is_what_was_given():
    given = given_by("a b c --wall.wet-share 1 --colour green --brush round")
    assert build(PaintConfig, given) == PaintConfig(
        Path("a"), (Path("b"), Path("c")), wall=WallConfig(wet_share=1.0), colour="green", brush="round"
    )


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("a.png", "a.png"),
        ("'a b.png' --coats 1 --colour red", "'a b.png'"),
        ("a b c --varnish", "a b c --varnish true"),
        ("a --plans x --plans y,z --wall.wet-share 1", "a --plans x --plans y,z --wall.wet-share 1.0"),
        ("a --tools '[\"red, wide\",rag]'", "a --tools '\"red, wide\",rag'"),
        ("a --tools [] --corners 0.2,0.3 --ladder 2", "a --corners 0.2,0.3 --tools '[]' --ladder 2.0"),
    ],
)
def test_a_line_gives_the_configuration_that_it_was_made_of(line, shown):
    config = build(PaintConfig, given_by(line))
    made = command_line("paint", config)
    assert made == f"uniemox paint {shown}"
    assert build(PaintConfig, given_by(shlex.split(made)[2:])) == config


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("--coats 3", "coats", 3),
        ("--coats=3", "coats", 3),
        ("--coats=-3", "coats", -3),
        ("--coats -3", "coats", -3),
        ("--coats 3 --coats 4", "coats", 4),
        ("--wall.wet-share 1e-3", "wall.wet_share", 1e-3),
        ("--wall.wet_share 1e-3", "wall.wet_share", 1e-3),
        ("--wall.wet_share=1", "wall.wet_share", 1.0),
        ("--corners 0.2,0.3", "corners", (0.2, 0.3)),
        ("--corners=0.2,0.3", "corners", (0.2, 0.3)),
        ("--corners [0.2,0.3]", "corners", (0.2, 0.3)),
        ("--shares 80/5/15", "shares", (80.0, 5.0, 15.0)),
        ("--shares none", "shares", None),
        ("--tools pen", "tools", ("pen",)),
        ("--tools pen,roller", "tools", ("pen", "roller")),
        ("--tools '[pen, roller]'", "tools", ("pen", "roller")),
        ("--tools []", "tools", ()),
        ("--tools 'a pen,\"red, wide\" '", "tools", ("a pen", "red, wide")),
        ("--tools '[\"red, wide\",rag]'", "tools", ("red, wide", "rag")),
        ("--tools '6\",7\" wide'", "tools", ('6",7" wide',)),
        ("--tools '6\",rag'", "tools", ('6"', "rag")),
        ("--tools pen --tools roller,rag", "tools", ("pen", "roller", "rag")),
        ("--plans a --plans b_c-d,e", "plans", (Path("a"), Path("b_c-d,e"))),
        ("--ladder 2", "ladder", 2.0),
        ("--ladder null", "ladder", None),
        ("--ladder None", "ladder", None),
        ("--varnish --coats 2", "varnish", True),
        ("--varnish true", "varnish", True),
        ("--varnish false", "varnish", False),
        ("--varnish=false", "varnish", False),
        ("--quick", "quick", True),
        ("--colour green", "colour", "green"),
    ],
)
def test_a_flag_gives_its_value_before_and_after_the_image(line, name, value):
    assert given_by(f"p.png {line}")[name] == value
    assert given_by(f"{line} p.png")[name] == value


@pytest.mark.parametrize("name", ["[a]", "{a: b}", "null", "1e3", "~", "*a", "!!x", "- x", " a ", "m\udcff", "-", "é"])
def test_a_path_and_a_text_are_taken_as_they_are(name):
    given = given_by([name, name, f"--brush={name}", f"--plans={name}"])
    assert (given["image"], given["brush"]) == (Path(name), name)
    assert given["more"] == given["plans"] == (Path(name),)


def test_words_after_two_dashes_are_no_flags():
    given = given_by("--coats 2 -- --odd_name.png --help")
    assert (given["image"], given["more"]) == (Path("--odd_name.png"), (Path("--help"),))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("p --coat 3", "unknown flag --coat; did you mean --coats?"),
        ("p --wet-share 3", "unknown flag --wet-share; did you mean --wall.wet-share?"),
        ("p --help-me", "unknown flag --help-me; did you mean --help?"),
        ("p --zzz 3", "unknown flag --zzz"),
        ("p -x", "unknown flag -x"),
        ("p --image x", "unknown flag --image"),
        ("p --coats abc", "coats is abc, but must be a whole number"),
        ("p --coats 1.5", "coats is 1.5, but must be a whole number"),
        ("p --coats true", "coats is true, but must be a whole number"),
        ("p --wall.wet-share much", "wall.wet_share is much, but must be a number"),
        ("p --wall.wet-share inf", "wall.wet_share is inf, but must be a number"),
        ("p --colour blue", "colour is blue, but must be one of red, green"),
        ("p --corners 1", "corners is [1], but must be 2 numbers in brackets"),
        ("p --corners 1,2,3", "corners is [1, 2, 3], but must be 2 numbers in brackets"),
        ("p --corners a,b", "but must be 2 numbers in brackets"),
        ("p --shares 80/20", "shares is [80, 20], but must be 3 numbers such as 80/5/15, or null"),
        ("p --tools", "--tools needs a value"),
        ("p --tools --quick", "--tools needs a value"),
        ("p --ladder high", "ladder is high, but must be a number, or null"),
        ("p --varnish=perhaps", "varnish is perhaps, but must be true or false"),
        ("p --plans=", "plans is [empty], but must be a list in brackets, each part a path"),
        ("''", "image is empty, but must be a path"),
        ("p --coats " + "x" * 10_000, "coats is …"),
        ("p --" + "x" * 10_000, "unknown flag "),
    ],
    ids=lambda value: value[:30],
)
def test_wrong_use_is_refused_in_one_short_line_with_the_name(line, complaint):
    with pytest.raises(ConfigError) as caught:
        given_by(line)
    message = str(caught.value)
    assert complaint in message
    assert "\n" not in message
    assert len(message) < 200


def test_a_superfluous_word_is_refused():
    @dataclass(frozen=True)
    class Nothing:
        """Takes nothing."""

    with pytest.raises(ConfigError, match=r"^unexpected argument x$"):
        parse("rest", "Rest.", Nothing, ["x"])


def test_what_must_be_given_is_left_to_who_builds():
    assert given_by("") == {}
    with pytest.raises(ConfigError, match=r"^`image` must be given$"):
        build(PaintConfig, {})


@pytest.fixture
def help_text(capsys):
    with pytest.raises(SystemExit) as leaving:
        given_by("p --coats wrong --help")
    assert leaving.value.code == 0
    return capsys.readouterr().out


def test_the_help_shows_dashes_texts_and_defaults_and_no_python(help_text):
    text = re.sub(r"[│\s]+", " ", help_text)
    assert text.startswith("usage: uniemox paint")
    for part in (
        "Paint.",
        "--wall.wet-share NUMBER How wet, in %. (default: 0.5)",
        "--colour {red,green} Which. (default: red)",
        "--corners NUMBER,NUMBER Where. (default: 0.1,0.9)",
        "--shares 80/5/15 How much of each.",
        "--tools NAME,… With what. (default: brush)",
        "--varnish [true|false] Whether to shine.",
        "--quick [true|false] Hurry.",
        "--coats INTEGER How often. (default: 1)",
        "IMAGE What to paint. (required)",
        "What is painted.",
    ):
        assert part in text
    assert "_" not in text
    assert "class" not in text
    assert "None" not in text


def test_the_help_has_what_is_inherited_after_what_is_the_commands_own(help_text):
    assert help_text.index("--ladder") < help_text.index("--brush")


def test_settings_in_messages_become_flags_only_where_they_are_meant():
    settings = list_settings(PaintConfig)
    for message, shown in {
        "coats is 0, but must be at least 1": "--coats is 0, but must be at least 1",
        "wall.wet_share is 7, but must be 1": "--wall.wet-share is 7, but must be 1",
        "omit `coats` or give `more`": "omit --coats or give MORE",
        "`image` must be given": "IMAGE must be given",
        "c.yaml: coats is 0": "c.yaml: coats is 0",
        "the coats are red": "the coats are red",
        "run `uniemox paint` or `unknown`": "run `uniemox paint` or `unknown`",
        "colour theory": "colour theory",
    }.items():
        assert name_flags(message, settings) == shown


def test_a_flag_has_dashes_and_a_positional_argument_capitals():
    flags = {setting.name: flag_of(setting) for setting in list_settings(PaintConfig)}
    assert flags["wall.wet_share"] == "--wall.wet-share"
    assert flags["image"] == "IMAGE"


@pytest.mark.parametrize("statement", ["import uniemox", "import uniemox.importers", "import uniemox.settings"])
def test_the_library_brings_no_parser_of_command_lines(statement):
    code = f"import sys; {statement}; print({{'tyro', 'argparse', 'jsonargparse'}} & {{*sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(Path(uniemox.__file__).parents[1])},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "set()\n"


def test_a_list_of_a_command_without_words_takes_all_up_to_the_next_flag():
    given, _ = parse("transfer", "T.", TransferConfig, shlex.split("--models a b --data c d --metric e --models f"))
    assert given == {"models": ("a", "b", "f"), "data": (Path("c"), Path("d")), "metric": "e"}
    with pytest.raises(ConfigError, match="unexpected argument g"):
        parse("transfer", "T.", TransferConfig, shlex.split("--metric e g"))
