"""The notice of models that say what people feel: once on stderr for every command that answers, and in what is kept.

The service carries it in its answers, which its own tests look at.
"""

import json

import pyarrow.parquet as pq
import pytest

from uniemox.checkpoints.card import build_card
from uniemox.checkpoints.facts import read_facts
from uniemox.checkpoints.open import open_model
from uniemox.console import cli

ARTICLE = "Article 5(1)(f)"


@pytest.fixture
def commands(painted, tmp_path, monkeypatch):
    """Make the commands that answer, for a CLIP that is asked what viewers feel, or what a depicted person feels."""
    monkeypatch.chdir(tmp_path)
    scenes, photo = painted.root / "test", next(painted.root.rglob("test/*/*.png"))

    def make(wording):
        one_by_one = ["clip:demo", "--device", "cpu", "--wording", wording]
        model = [*one_by_one, "--workers", "0"]
        classes = ["--classes", "awe,fear,joy"]
        return {
            "predict": ["predict", *model, *classes, photo, photo, "--json"],
            "a table": ["predict", *model, *classes, scenes, "--out", "table.parquet"],
            "evaluate": ["evaluate", *model, "--data", painted.path, "--baselines", "false", "--out", "scores"],
            "search": ["search", *model, *classes, scenes, "--emotion", "joy", "--out", "found.parquet"],
            "explain": ["explain", *one_by_one, *classes, photo, "--boxes", painted.people],
            "report": ["report", "table.parquet", "--out", "report.html"],
        }

    return make


@pytest.mark.parametrize("wording", ["felt", "evoked"])
def test_every_command_that_answers_carries_the_notice_of_people_once_and_no_other(run, commands, wording, tmp_path):
    times = 1 if wording == "felt" else 0
    for name, words in commands(wording).items():
        code, out, err = run(*words)
        assert code == cli.SUCCESS, (name, err)
        assert err.count(ARTICLE) == times, (name, err)
        assert ARTICLE not in out, name
    for table in ("table", "found", "scores/predictions"):
        kept = pq.read_schema(tmp_path / f"{table}.parquet").metadata
        assert kept[b"uniemox.emotion"].decode() == wording
        assert (b"uniemox.notice" in kept) is (wording == "felt")
        assert kept.get(b"uniemox.notice", b"").decode().count(ARTICLE) == times


def test_an_export_carries_it_as_its_folder_does(run, finetuned, exported, painted):
    """Both say what viewers feel."""
    for model in (finetuned.model, exported):
        code, out, err = run("predict", model, painted.root / "test", "--json", "--workers", "0")
        assert code == cli.SUCCESS
        assert ARTICLE not in out + err
        assert json.loads(out.splitlines()[0])["predicted"]


def test_the_card_of_a_model_says_what_its_answers_are_about():
    card = build_card(read_facts(open_model("demo").path))
    assert "depicted person seems to **feel**" in card
    assert ARTICLE in card
