"""The commands that make and show manifests."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uniemox.console import cli
from uniemox.console.commands.prepare import parse_columns
from uniemox.errors import ConfigError
from uniemox.importers.specs import SPECS
from uniemox.manifests.table import Facts, manifest_from_columns, read_manifest


@pytest.fixture
def class_folders(tmp_path):
    """Two classes of ten empty images, and one file that is none."""
    root = tmp_path / "pictures"
    for name in ("awe", "fear"):
        (root / name).mkdir(parents=True)
        for index in range(10):
            (root / name / f"{index}.png").touch()
    (root / "awe" / "notes.txt").touch()
    return root


def prepare(class_folders, tmp_path, *words):
    where = ["--root", class_folders, "--out", tmp_path / "m.parquet"]
    return ["data", "prepare", "folders", *where, "--ratios", "80/10/10", *words]


@pytest.mark.parametrize("out", ["awe/m.parquet", "awe/../new/m.parquet"])
def test_no_manifest_is_written_into_a_folder_of_the_data(run, class_folders, tmp_path, out):
    (tmp_path / "link").symlink_to(class_folders)
    for root in (class_folders, tmp_path / "link"):
        where = ["--root", root, "--out", class_folders / out, "--ratios", "80/10/10"]
        code, _, err = run("data", "prepare", "folders", *where)
        assert code == cli.WRONG_USE
        assert f"in a folder of the data set: write {root / 'm.parquet'}, or choose a place" in err
    assert sorted(path.name for path in class_folders.iterdir()) == ["awe", "fear"]


def test_a_manifest_beside_the_data_changes_nothing_of_it_and_moves_with_it(run, class_folders, tmp_path, monkeypatch):
    monkeypatch.chdir(class_folders)
    words = ["data", "prepare", "folders", "--root", ".", "--ratios", "80/10/10", "--json"]
    _, outside, _ = run(*words, "--out", tmp_path / "m.parquet")
    for _ in range(2):  # the second time it already exists
        code, inside, _ = run(*words, "--out", "m.parquet")
        assert code == cli.SUCCESS
        assert json.loads(inside) | {"manifest": ""} == json.loads(outside) | {"manifest": ""}
    moved = class_folders.rename(tmp_path / "moved")
    manifest = read_manifest(moved / "m.parquet")
    assert all(manifest.row(index).path.is_relative_to(moved) for index in range(len(manifest)))
    assert manifest.row(0).path.exists()


@pytest.mark.parametrize("out", ["m.csv", "m.json", "m", "m.parquet.zip"])
def test_a_manifest_that_is_not_named_like_a_parquet_file_is_refused(run, tmp_path, out):
    for words in (
        ["prepare", "folders", "--root", tmp_path],
        ["split", "m.parquet", "--ratios", "1/1/1"],
        ["merge", "a.parquet", "b.parquet"],
    ):
        code, _, err = run("data", *words, "--out", tmp_path / out)
        assert code == cli.WRONG_USE
        wanted = {"m.parquet.zip": "m.parquet.parquet"}.get(out, "m.parquet")
        assert f"a manifest is a Parquet file: write {tmp_path / wanted}\n" in err
    assert list(tmp_path.iterdir()) == []


def test_a_table_of_the_user_is_never_replaced_by_a_manifest(run, class_folders, tmp_path):
    table = tmp_path / "table.parquet"
    pq.write_table(pa.table({"path": ["awe/1.png"], "label": ["awe"]}), table)
    before = table.read_bytes()
    words = ["data", "prepare", "table", "--root", class_folders, "--table", table]
    code, _, err = run(*words, "--out", table, "--ratios", "1/0/0")
    assert code == cli.WRONG_USE
    assert "a file that is no manifest, so it is not replaced: choose another name" in err
    assert table.read_bytes() == before


@pytest.mark.parametrize("name", ["FOLDERS", "Folders", "folders "])
def test_a_data_set_is_prepared_by_its_name_in_any_case(run, class_folders, tmp_path, name):
    words = prepare(class_folders, tmp_path)
    words[2] = name
    assert run(*words)[0] == cli.SUCCESS


def test_a_data_set_is_prepared_and_shown(run, class_folders, tmp_path):
    code, out, _ = run(*prepare(class_folders, tmp_path))
    assert code == cli.SUCCESS
    assert out.endswith(f"{tmp_path / 'm.parquet'}\n")
    assert re.search(r"awe +│ +8 │ +1 │ +1", out)
    assert read_manifest(tmp_path / "m.parquet").split_counts() == {"train": 16, "val": 2, "test": 2}
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
    from uniemox.importers.importing import Import
    from uniemox.manifests.findings import Problem

    facts = Facts(name="x", title="X", classes=("awe",), emotion=None, root=tmp_path)
    manifest = manifest_from_columns(facts, paths=["a.png"], splits=["train"], labels=[None])
    asked = {}

    def import_dataset(name, root, **options):
        asked.update(options, name=name, root=root)
        return Import(manifest, (Problem("box outside the image", 7, "a.png"),), ("a note",))

    fake("importers.importing", import_dataset=import_dataset)
    code, out, _ = run(
        *("data", "prepare", "fi", "--root", "r", "--out", tmp_path / "m.parquet"),
        *("--people", "boxes.csv", "--seed", "5", "--strict", "--fraction", "0.5"),
        *("--columns", "path=my image,label=mood", "--classes", "awe, fear", "--scale", "-3,3"),
    )
    assert code == cli.SUCCESS
    assert re.search(r"box outside the image +│ +7 │ a\.png", out)
    assert re.search(r"no label +│ +1", out)
    assert "\nnote: a note\n" in out
    assert asked == {
        "name": "fi",
        "root": Path("r"),
        "people": Path("boxes.csv"),
        "box_units": "auto",
        "ratios": None,
        "scale": (-3.0, 3.0),
        "seed": 5,
        "fraction": 0.5,
        "split_list": None,
        "labels": None,
        "table": None,
        "columns": {"path": "my image", "label": "mood"},
        "classes": ("awe", "fear"),
        "pictures": None,
        "strict": True,
    }


def test_the_old_name_of_ratios_works_and_the_later_one_counts(run, class_folders, tmp_path):
    code, _, err = run(*prepare(class_folders, tmp_path, "--split", "60/20/20"))
    assert (code, err) == (cli.SUCCESS, "uniemox: --split is now called --ratios\n")
    assert read_manifest(tmp_path / "m.parquet").split_counts() == {"train": 12, "val": 4, "test": 4}


@pytest.mark.parametrize("text", ["path", "path=", "=a", "path=a,,label=b", "path=a,path=b"])
def test_columns_that_are_not_said_clearly_are_refused(text):
    with pytest.raises(ConfigError, match="columns has the part"):
        parse_columns(text)


def test_columns_may_have_any_heading_without_a_comma():
    assert parse_columns("path=my file, distribution=prob. a+prob. b,label=a=b") == {
        "path": "my file",
        "distribution": "prob. a+prob. b",
        "label": "a=b",
    }


def test_the_data_sets_are_listed_with_what_one_must_know(run):
    code, out, err = run("data", "datasets")
    assert (code, err) == (cli.SUCCESS, "")
    for spec in SPECS.values():
        assert re.search(rf"│ {spec.name} +│ title +│ {re.escape(spec.title)} ", out)
    assert "118,102 images" in out
    assert "9,385 images, 19,781 people" in out


def test_the_data_sets_are_listed_for_machines(run):
    _, out, _ = run("data", "datasets", "--json")
    listed = {entry["name"]: entry for entry in json.loads(out)}
    assert list(listed) == list(SPECS)
    assert listed["emotion6"] == {
        "name": "emotion6",
        "title": "Emotion6",
        "classes": ["anger", "disgust", "fear", "joy", "sadness", "surprise"],
        "emotion": "evoked",
        "pictures": 1980,
        "people": None,
        "published_split": SPECS["emotion6"].published_split,
        "labelled_by": "the searched keyword, or what raters chose: labels",
        "licence": SPECS["emotion6"].licence,
        "url": SPECS["emotion6"].url,
        "citation": SPECS["emotion6"].citation,
        "layout": "emotion6",
        "note": SPECS["emotion6"].note,
    }


def test_a_manifest_that_is_none_is_refused(run, tmp_path):
    (tmp_path / "m.parquet").write_text("no parquet")
    code, out, err = run("data", "show", tmp_path / "m.parquet")
    assert (code, out) == (cli.FAILURE, "")
    assert "m.parquet" in err
