"""The commands that make a manifest of others."""

import json
import re
from pathlib import Path

import pytest

from uniemox.console import cli
from uniemox.manifests.table import Facts, manifest_from_columns, read_manifest, write_manifest


@pytest.fixture
def write(tmp_path):
    """Write a manifest of 100 images of each class, all in train; nobody has the images."""

    def call(name, classes=("awe", "fear"), **changes):
        facts = {"title": name.upper(), "emotion": "evoked", "root": tmp_path / name} | changes
        count = 100 * len(classes)
        manifest = manifest_from_columns(
            Facts(name=name, classes=classes, **facts),
            paths=[f"{i}.jpg" for i in range(count)],
            splits=["train"] * count,
            labels=[i % len(classes) for i in range(count)],
        )
        path = tmp_path / f"{name}.parquet"
        write_manifest(manifest, path)
        return path

    return call


def read(path):
    return read_manifest(path, check_root=False)


def test_a_manifest_is_cut_anew(run, write, tmp_path):
    out = tmp_path / "cut.parquet"
    code, shown, err = run(*("data", "split", write("x"), "--out", out, "--ratios", "70/10/20", "--seed", "3"))
    assert (code, err) == (cli.SUCCESS, "")
    assert shown.endswith(f"{out}\n")
    assert re.search(r"awe +│ +70 │ +10 │ +20", shown)
    manifest = read(out)
    assert manifest.split_counts() == {"train": 140, "val": 20, "test": 40}
    assert manifest.facts.split_recipe == "70/10/20 per class, seed 3"


def test_a_manifest_can_take_the_place_of_the_one_it_was_made_of(run, write):
    path = write("x")
    code, _, _ = run("data", "split", path, "--out", path, "--ratios", "0/34/66")
    assert code == cli.SUCCESS
    assert read(path).split_counts() == {"val": 68, "test": 132}


def test_a_cut_and_a_fraction_are_told_to_machines(run, write, tmp_path):
    code, shown, _ = run(
        *("data", "split", write("x"), "--out", tmp_path / "o.parquet", "--ratios", "80/5/15"),
        *("--fraction", "0.1", "--by", "class", "--rounding", "truncate", "--json"),
    )
    assert code == cli.SUCCESS
    assert json.loads(shown) == {
        "manifest": str(tmp_path / "o.parquet"),
        "pictures": {"train": {"awe": 8, "fear": 8}, "val": {"awe": 5, "fear": 5}, "test": {"awe": 15, "fear": 15}},
        "splits": "80/5/15 per class, truncated, seed 0; 10 % of train per class, seed 0",
        "problems": [],
    }


def test_a_published_list_is_followed_and_what_does_not_fit_is_shown(run, write, tmp_path):
    (tmp_path / "official.csv").write_text("path,split\n0.jpg,test\n1.jpg,train\nzzz.jpg,val\n")
    words = ["data", "split", write("x"), "--out", tmp_path / "o.parquet"]
    code, shown, _ = run(*words, "--list", tmp_path / "official.csv")
    assert code == cli.SUCCESS
    assert "198" in shown
    assert "zzz.jpg" in shown
    assert read(tmp_path / "o.parquet").split_counts() == {"train": 1, "test": 1}
    (tmp_path / "o.parquet").unlink()
    code, _, err = run(*words, "--list", tmp_path / "official.csv", "--strict")
    assert code == cli.FAILURE
    assert "198 x image that the list does not name" in err
    assert not (tmp_path / "o.parquet").exists()


def test_problems_of_a_list_survive_a_fraction(run, write, tmp_path):
    (tmp_path / "l.json").write_text('{"train": ["0.jpg", "1.jpg"]}')
    code, shown, _ = run(
        *("data", "split", write("x"), "--out", tmp_path / "o.parquet", "--json"),
        *("--split-list", tmp_path / "l.json", "--fraction", "0.5"),
    )
    assert code == cli.SUCCESS
    assert [problem["count"] for problem in json.loads(shown)["problems"]] == [198]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "nothing to do: give --ratios, --split-list or --fraction"),
        (["--ratios", "70/10/20", "--split-list", "l.csv"], "give one of them"),
        (["--fraction", "0.5", "--group-by", "folder"], "give --ratios with it"),
        (["--ratios", "70/30"], "--ratios is [70, 30], but must be 3 numbers such as 70/10/20"),
        (["--ratios", "a/b/c"], "--ratios is [a, b, c], but must be 3 numbers"),
        (["--ratios", "1/-1/0"], "ratios are 1.0, -1.0, 0.0, but must be shares"),
        (["--ratios", "nan/1/0"], "--ratios is [nan, 1, 0]"),
        (["--fraction", "2"], "--fraction is 2.0, but must be above 0"),
        (["--ratios", "1/1/1", "--by", "colour"], "by is colour, but must be one of"),
    ],
)
def test_what_cannot_be_meant_is_refused(run, write, tmp_path, words, complaint):
    code, out, err = run("data", "split", write("x"), "--out", tmp_path / "o.parquet", *words)
    assert (code, out) == (cli.WRONG_USE, "")
    assert complaint in err
    assert not (tmp_path / "o.parquet").exists()


def test_manifests_are_merged(run, write, tmp_path):
    out = tmp_path / "all.parquet"
    code, shown, err = run(*("data", "merge", write("a"), write("b", ("fear", "awe")), "--out", out))
    assert (code, err) == (cli.SUCCESS, "")
    assert re.search(r"awe +│ +200", shown)
    assert re.search(r"b +│ +200", shown)
    merged = read(out)
    assert merged.facts.classes == ("awe", "fear")
    assert merged.facts.root == tmp_path
    assert merged.class_counts() == {"awe": 200, "fear": 200}


def test_manifests_of_other_classes_are_led_to_one_taxonomy(run, write, tmp_path):
    words = ["data", "merge", write("a"), write("b", ("joy", "fear"), emotion="felt")]
    words += ["--out", tmp_path / "o.parquet", "--json"]
    code, _, err = run(*words)
    assert code == cli.FAILURE
    assert "--mixed-emotions" in err
    code, _, err = run(*words, "--mixed-emotions")
    assert code == cli.FAILURE
    assert "to one --taxonomy, for example mikels" in err
    code, _, err = run(*words, "--mixed-emotions", "--taxonomy", "mikels")
    assert code == cli.FAILURE
    assert "joy (100) could be amusement or contentment or excitement" in err
    code, out, _ = run(*words, "--mixed-emotions", "--taxonomy", "mikels", "--unmapped", "drop")
    assert code == cli.SUCCESS
    answer = json.loads(out)
    assert answer["sources"] == {"a": 200, "b": 100}
    assert answer["pictures"]["train"]["fear"] == 200
    assert [problem["count"] for problem in answer["problems"]] == [100, 100]
    shown = read(Path(answer["manifest"]))
    assert shown.facts.emotion is None


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["a.parquet"], cli.WRONG_USE, "two or more manifests"),
        (["a.parquet", "b.parquet"], cli.FAILURE, "no manifest at b.parquet"),
        (["a.parquet", "a.parquet", "--taxonomy", "moods"], cli.FAILURE, "no taxonomy is called"),
    ],
)
def test_what_cannot_be_merged_is_told(run, write, monkeypatch, tmp_path, words, code, complaint):
    write("a")
    monkeypatch.chdir(tmp_path)
    found, out, err = run("data", "merge", *words, "--out", "o.parquet")
    assert (found, out) == (code, "")
    assert complaint in err
