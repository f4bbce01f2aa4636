"""What the README says must be so."""

import doctest
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import uniemox
from uniemox.checkpoints import card
from uniemox.config.audit import KINDS, REMOVED
from uniemox.config.probe import ProbeConfig
from uniemox.config.training import FinetuneConfig, PretrainConfig
from uniemox.console import cli
from uniemox.importers.records import ROLES
from uniemox.importers.specs import SPECS
from uniemox.settings import preset_names

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {page.name: page.read_text(encoding="utf-8") for page in sorted(ROOT.glob("docs/*.md"))}
DATASETS = PAGES["datasets.md"]


def commands_in(text):
    return re.findall(r"^uniemox (.+?)(?: +#.*)?$", text, re.MULTILINE)


COMMANDS = [command for text in (README, *PAGES.values()) for command in dict.fromkeys(commands_in(text))]


def help_of(words, capsys):
    name = next(name for name in cli.COMMANDS if words[: len(name.split())] == name.split())
    cli.main([*name.split(), "--help"])
    return capsys.readouterr().out


def test_the_readme_shows_commands():
    assert len(commands_in(README)) >= 5


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_of_a_command_in_the_readme_and_the_docs_exists(command, capsys):
    words = shlex.split(command)
    text = help_of(words, capsys)
    for word in words:
        if word.startswith("--"):
            assert word in text


@pytest.mark.parametrize("command", [c for c in COMMANDS if "--preset" in c])
def test_every_preset_in_the_readme_exists(command):
    words = shlex.split(command)
    kind = {"pretrain": PretrainConfig, "finetune": FinetuneConfig, "probe": ProbeConfig}[words[0]]
    assert words[words.index("--preset") + 1] in preset_names(kind)


def test_every_file_that_the_readme_links_to_is_there():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_python_of_the_readme_uses_public_names():
    (code,) = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
    for name in re.findall(r"^from uniemox import (.+)$", code, re.MULTILINE):
        assert name in uniemox.__all__


@pytest.fixture
def photo(tmp_path, monkeypatch):
    """A folder with the image that the examples read."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)


def test_the_python_of_the_readme_runs(photo, capsys):
    (code,) = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
    exec(code, {})
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"photo\.jpg \w+ 0\.\d+ None", first)
    assert second == "other.jpg None None no such file or directory"


@pytest.mark.parametrize(("name", "least"), [("python.md", 15), ("confidence.md", 10)])
def test_the_pages_about_python_give_what_they_show(name, least, photo):
    page = PAGES[name].replace("```", "\n")
    examples = doctest.DocTestParser().get_doctest(page, {}, name, None, 0)
    assert len(examples.examples) >= least
    runner = doctest.DocTestRunner(verbose=False)
    assert runner.run(examples).failed == 0


def test_the_readme_cites_the_paper_as_every_card_does():
    assert card._CITATION in README
    fields = dict(re.findall(r"^  (\w+) += \{(.*)\},?$", card._CITATION, re.MULTILINE))
    assert fields["author"] == "Chen, Chuang and Sun, Xiao and Liu, Zhi"
    assert (fields["volume"], fields["pages"], fields["year"]) == ("34", "4691--4705", "2025")
    assert "2409.18877" in fields["note"]


def test_the_figures_of_the_readme_are_those_of_the_benchmark():
    cell = r"\d+\.\d(?: \(\d+\.\d to \d+\.\d\))?"
    page = (ROOT / "benchmarks/results/ladder.md").read_text(encoding="utf-8")
    shown, made = (re.findall(rf"^\| .+ \| {cell} \| {cell} \|$", text, re.MULTILINE) for text in (README, page))
    assert len(made) > 5
    assert shown == made


def test_the_figures_of_the_page_of_audits_are_those_of_the_benchmark():
    page = (ROOT / "benchmarks/results/data.md").read_text(encoding="utf-8")
    text = " ".join(PAGES["audit.md"].split())
    found = re.findall(r"\| (\d\.\d\d) \| (\d\.\d\d) \|", page)
    shares = [float(share) for row in found for share in row]
    assert f"{min(shares):.2f} to {max(shares):.2f} of the copies were found" in text
    assert re.findall(r" 0 are of different photographs", page) == [" 0 are of different photographs"] * 2
    (speed,) = re.findall(r"audits (\d+) a second", page)
    assert f"{speed} images of 640 × 480 a second" in text
    photographs = sum(map(int, re.findall(r"photographs \((\d+)\)", page)))
    assert f"Of {photographs} photographs" in text


def test_the_page_of_audits_knows_every_finding_and_what_is_removed():
    rows = re.findall(r"^\| `(\w+)` \|.*\| (yes|from train|no) \|$", PAGES["audit.md"], re.MULTILINE)
    assert [kind for kind, _ in rows] == list(KINDS)
    assert [kind for kind, removed in rows if removed != "no"] == list(REMOVED)


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_links_to_is_there(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", PAGES[page]):
        assert (ROOT / "docs" / target).exists(), target


def section(name):
    """The part of the page of data sets that is about one of them."""
    (found,) = re.findall(rf"^## [^\n]*`{name}`[^\n]*\n(.*?)(?=^## |\Z)", DATASETS, re.DOTALL | re.MULTILINE)
    return found


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_page_of_data_sets_says_what_their_table_says(spec):
    sizes = {"images": spec.pictures, "people": spec.people}
    known = ", ".join(f"{size:,} {what}" for what, size in sizes.items() if size)
    cells = (
        f"`{spec.name}`",
        spec.title,
        ", ".join(spec.classes) or "given by the data",
        spec.emotion or "not known",
        known or ("not known" if spec.classes else ""),
        spec.published_split,
        spec.licence,
    )
    assert "".join(f"| {cell} " if cell else "| " for cell in cells) + "|" in DATASETS.splitlines()


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_each_data_set_has_a_section_with_its_command_its_source_and_its_traps(spec):
    text = " ".join(section(spec.name).split())
    assert f"uniemox data prepare {spec.name} --root " in text
    assert spec.url in text
    assert spec.note in text
    assert spec.folder in text
    assert spec.classes == () or "Note: " in text


def test_the_page_of_data_sets_has_no_row_of_another():
    rows = re.findall(r"^\| `([\w-]+)` (?:\|.*){6}\|$", DATASETS, re.MULTILINE)
    assert rows == list(SPECS)


def test_the_page_of_data_sets_says_what_a_column_can_be():
    shown = re.findall(r"^\| ((?:`\w+` ?)+)\|", section("table"), re.MULTILINE)
    assert re.findall(r"\w+", " ".join(shown)) == list(ROLES)
