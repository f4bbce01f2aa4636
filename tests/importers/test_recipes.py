"""The page of data sets shows tables for sets whose layout is not known: its commands must read its rows."""

import json
import re
import shlex
from pathlib import Path

import pytest

from uniemox.console import cli
from uniemox.emotions import MIKELS
from uniemox.manifests.table import Box, read_manifest
from uniemox.targets.distribution import Distribution
from uniemox.targets.single_label import SingleLabel

PAGE = (Path(__file__).parents[2] / "docs/datasets.md").read_text(encoding="utf-8")


@pytest.fixture
def recipe(trees, tmp_path, monkeypatch):
    """Write the table of a section, its rows repeated for these images, and run its command in their folder."""
    monkeypatch.chdir(tmp_path)

    def follow(title, rows, pictures):
        (section,) = re.findall(rf"^### {title}\n(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE)
        shown, command = re.findall(r"^```\n(.*?)\n```$", section, re.DOTALL | re.MULTILINE)
        words = shlex.split(command)
        settings = dict(zip(words[4::2], words[5::2], strict=True))
        for picture in pictures:
            trees.touch(tmp_path / settings["--root"] / picture)
        Path(settings["--table"]).write_text("\n".join(rows(shown.splitlines())))
        assert cli.main(words[1:]) == cli.SUCCESS
        return read_manifest(Path(settings["--out"]))

    return follow


def test_votes_of_multiemo_bench_become_shares_that_a_model_is_evaluated_on(recipe):
    def rows(shown):
        heading, row = shown
        assert heading.split(",")[1:9] == list(MIKELS)
        assert sum(map(int, row.split(",")[1:9])) > 20  # several votes of an annotator
        return [heading, row, "sea.jpg,0,5,15,0,0,0,0,0,test"]

    manifest = recipe("MultiEmo-Bench", rows, ["park.jpg", "sea.jpg"])
    assert manifest.facts.classes == MIKELS
    assert manifest.split_counts() == {"test": 2}
    target = Distribution().bind(MIKELS)
    first, second = target.read_labels(manifest)
    assert first == pytest.approx([11 / 32, 2 / 32, 14 / 32, 5 / 32, 0, 0, 0, 0])
    assert second == pytest.approx([0, 0.25, 0.75, 0, 0, 0, 0, 0])


def test_a_record_of_emoverse_is_an_image_with_an_emotion_and_its_boxes(recipe):
    def rows(shown):
        (row,) = map(json.loads, shown)
        rest = {
            "confidence": 5.0,
            "background": "A park",
            "attribute": "Leisurely",
            "subject": "People",
            "mask_path": None,
        }
        rest |= {
            "DES": [10.3387, 2.5036],
            "B-A-S": "A park-Leisurely-People",
            "id": "x",
            "description": "People stroll.",
        }
        two = [*row["bbox"], {"x1": 1, "y1": 2, "x2": 30, "y2": 40}]
        others = [row | {"image_path": f"images/{n}.jpg", "emotion": name.title()} for n, name in enumerate(MIKELS)]
        others[0]["bbox"], others[1]["bbox"] = two, []
        return [json.dumps(one | rest) for one in (row, *others)]

    paths = ["images/amusement/Amusement000001.jpg", *(f"images/{number}.jpg" for number in range(8))]
    manifest = recipe("EmoVerse", rows, paths)
    assert manifest.facts.classes == MIKELS
    assert len(SingleLabel().bind(manifest.facts.classes).read_labels(manifest)) == 9
    found = {row.path.name: row for row in map(manifest.row, range(9))}
    assert found["Amusement000001.jpg"].boxes == (Box(156, 283, 296, 678),)
    assert found["0.jpg"].boxes == (Box(156, 283, 296, 678), Box(1, 2, 30, 40))
    assert found["1.jpg"].boxes == ()
