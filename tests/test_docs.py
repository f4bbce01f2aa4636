"""What the README says must be so."""

import re
import shlex
from pathlib import Path

import pytest

import uniemox
from uniemox import cli
from uniemox.config import FinetuneConfig, PretrainConfig
from uniemox.settings import preset_names

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^uniemox (.+?)(?: +#.*)?$", README, re.MULTILINE)


def help_of(words, capsys):
    name = next(name for name in cli.COMMANDS if words[: len(name.split())] == name.split())
    cli.main([*name.split(), "--help"])
    return capsys.readouterr().out


def test_the_readme_shows_commands():
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_of_a_command_in_the_readme_exists(command, capsys):
    words = shlex.split(command)
    text = help_of(words, capsys)
    for word in words:
        if word.startswith("--"):
            assert word in text


@pytest.mark.parametrize("command", [c for c in COMMANDS if "--preset" in c])
def test_every_preset_in_the_readme_exists(command):
    words = shlex.split(command)
    kind = PretrainConfig if words[0] == "pretrain" else FinetuneConfig
    assert words[words.index("--preset") + 1] in preset_names(kind)


def test_every_file_that_the_readme_links_to_is_there():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_python_of_the_readme_uses_public_names():
    (code,) = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
    for name in re.findall(r"^from uniemox import (.+)$", code, re.MULTILINE):
        assert name in uniemox.__all__


def test_the_figures_of_the_readme_are_those_of_the_benchmark():
    page = (ROOT / "benchmarks/results/demo_gain.md").read_text(encoding="utf-8")
    figures = re.findall(r"\d\.\d{3} ± \d\.\d{3}", README)
    assert len(figures) == 4
    assert all(figure in page for figure in figures)
