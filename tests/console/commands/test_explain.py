"""The command `explain`."""

import csv
import json

import pytest

from uniemox.console import cli
from uniemox.files.images import read_image


@pytest.fixture
def images(painted):
    """Two images of which the first shows a person."""
    return [painted.root / "test" / "awe" / name for name in ("00.png", "03.png")]


def test_a_table_sentences_and_overlays_are_made(run, exported, painted, images, tmp_path):
    words = ["explain", exported, *images, "--boxes", painted.people, "--overlays", tmp_path / "maps"]
    code, out, _ = run(*words)
    assert code == cli.SUCCESS
    assert "hidden" in out
    assert "people" in out
    assert f"{images[0]}: " in out.replace("\n", "")
    drawn = sorted((tmp_path / "maps").iterdir())
    assert len(drawn) == 2
    assert read_image(drawn[0]).width == 640
    assert out.rstrip().replace("\n", "").endswith(str(tmp_path / "maps"))
    code, _, err = run(*words)
    assert code == cli.WRONG_USE
    assert "maps exists and is not empty" in err


def test_json_has_a_line_for_each_image(run, exported, painted, images):
    code, out, _ = run("explain", exported, *images, "--boxes", painted.people, "--map", "false", "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == cli.SUCCESS
    assert [line["path"] for line in lines] == [str(image) for image in images]
    assert all(line["map"] is None for line in lines)
    assert {effect["hidden"] for effect in lines[0]["effects"]} == {"people", "scene"}
    assert lines[1]["effects"] == []
    assert lines[1]["reason"].endswith("the boxes that are given name no such image")


def test_a_written_table_is_replaced_only_if_that_is_said(run, exported, painted, images, tmp_path):
    table = tmp_path / "table.csv"
    words = ["explain", exported, images[0], "--boxes", painted.people, "--map", "false", "--out", table]
    assert run(*words)[0] == cli.SUCCESS
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert {row["hidden"] for row in rows} == {"people", "scene"}
    assert len({row["emotion"] for row in rows}) == 3
    assert len(rows) == 6
    code, _, err = run(*words)
    assert code == cli.WRONG_USE
    assert "table.csv exists; --overwrite replaces it" in err
    assert run(*words, "--overwrite")[0] == cli.SUCCESS


def test_bad_images_are_counted_and_only_bad_ones_fail(run, exported, painted, images, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    code, out, err = run("explain", exported, bad, images[0], "--boxes", painted.people)
    assert code == cli.SUCCESS
    assert "not an image" in out
    assert "1 of 2 images got no answer" in err
    assert run("explain", exported, bad, "--json")[0] == cli.FAILURE


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to show: give --overlays for maps, and --boxes or --detector"),
        (["--json", "--emotion", "rage"], "--emotion is rage, but the model knows awe, fear, joy"),
        (["--json", "--method", "layercam"], "whose layers --method layercam cannot read: use occlusion"),
        (["--json", "--out", "table.txt"], "--out is table.txt, but must end in .csv, .jsonl, .parquet"),
        (["--overlays", "."], "exists and is not empty: choose another --overlays, or give --overwrite"),
    ],
)
def test_wrong_use_is_one_line_that_names_flags(run, exported, images, words, message):
    code, _, err = run("explain", exported, images[0], *words)
    assert code == cli.WRONG_USE
    assert message in err
    assert err.count("error:") == 1
