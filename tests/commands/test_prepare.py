"""The commands that make and show manifests."""

import json
import re
from pathlib import Path

import pytest

from uniemox import cli
from uniemox.commands.prepare import parse_ratios
from uniemox.data.manifest import Facts, manifest_from_columns, read_manifest


@pytest.mark.parametrize(
    ("text", "shares"),
    [("80/5/15", (0.8, 0.05, 0.15)), ("0.7/0.1/0.2", (0.7, 0.1, 0.2)), ("3/0/1", (0.75, 0, 0.25))],
)
def test_shares_of_a_split_sum_to_one(text, shares):
    ratios = parse_ratios(text)
    assert ratios == pytest.approx(shares)
    assert sum(ratios) == pytest.approx(1)


@pytest.fixture
def class_folders(tmp_path):
    """Two classes of ten empty pictures, and one file that is none."""
    root = tmp_path / "pictures"
    for name in ("awe", "fear"):
        (root / name).mkdir(parents=True)
        for index in range(10):
            (root / name / f"{index}.png").touch()
    (root / "awe" / "notes.txt").touch()
    return root


def prepare(class_folders, tmp_path, *words):
    where = ["--root", class_folders, "--out", tmp_path / "m.parquet"]
    return ["data", "prepare", "folders", *where, "--split", "80/10/10", *words]


def test_a_data_set_is_prepared_and_shown(run, class_folders, tmp_path):
    code, out, _ = run(*prepare(class_folders, tmp_path))
    assert code == cli.SUCCESS
    assert out.endswith(f"{tmp_path / 'm.parquet'}\n")
    assert re.search(r"awe +│ +8 │ +1 │ +1", out)
    assert read_manifest(tmp_path / "m.parquet").split_counts() == {
        "train": 16,
        "val": 2,
        "test": 2,
    }
    code, shown, _ = run("data", "show", tmp_path / "m.parquet")
    assert code == cli.SUCCESS
    assert re.search(r"all +│ +16 │ +2 │ +2", shown)
    assert str(class_folders) in shown


def test_a_data_set_is_prepared_and_shown_for_machines(run, class_folders, tmp_path):
    code, out, err = run(*prepare(class_folders, tmp_path, "--json"))
    prepared = json.loads(out)
    assert (code, err) == (cli.SUCCESS, "")
    assert prepared["manifest"] == str(tmp_path / "m.parquet")
    assert prepared["pictures"] == {
        "train": {"awe": 8, "fear": 8},
        "val": {"awe": 1, "fear": 1},
        "test": {"awe": 1, "fear": 1},
    }
    assert all(set(problem) == {"kind", "count", "example"} for problem in prepared["problems"])
    _, out, _ = run("data", "show", "--json", tmp_path / "m.parquet")
    shown = json.loads(out)
    assert shown["pictures"] == prepared["pictures"]
    assert shown["facts"]["classes"] == ["awe", "fear"]
    assert shown["facts"]["root"] == str(class_folders)


def test_problems_of_a_data_set_are_printed(run, fake, tmp_path):
    from uniemox.data.layouts import Import, Problem

    facts = Facts(name="x", title="X", classes=("awe",), emotion=None, root=tmp_path)
    manifest = manifest_from_columns(facts, paths=["a.png"], splits=["train"], labels=[None])
    asked = {}

    def import_dataset(name, root, **options):
        asked.update(options, name=name, root=root)
        return Import(manifest, (Problem("box outside the picture", 7, "a.png"),))

    fake("data.layouts", import_dataset=import_dataset)
    code, out, _ = run(
        *("data", "prepare", "fi", "--root", "r", "--out", tmp_path / "m.parquet"),
        *("--people", "boxes.csv", "--seed", "5", "--strict"),
    )
    assert code == cli.SUCCESS
    assert re.search(r"box outside the picture +│ +7 │ a\.png", out)
    assert re.search(r"no label +│ +1", out)
    assert asked == {
        "name": "fi",
        "root": Path("r"),
        "people": Path("boxes.csv"),
        "ratios": None,
        "seed": 5,
        "strict": True,
    }


def test_a_manifest_that_is_none_is_refused(run, tmp_path):
    (tmp_path / "m.parquet").write_text("no parquet")
    code, out, err = run("data", "show", tmp_path / "m.parquet")
    assert (code, out) == (cli.FAILURE, "")
    assert "m.parquet" in err
