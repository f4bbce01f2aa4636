"""Facts of a data set in the metadata of its manifest."""

import shutil
from pathlib import Path

import pytest

from uniemox.errors import DataError
from uniemox.manifests.facts import VERSION
from uniemox.manifests.table import read_manifest, write_manifest


def test_a_relative_root_becomes_absolute(tmp_path, monkeypatch, toy):
    monkeypatch.chdir(tmp_path)
    assert toy.facts_at(Path("data")).root == tmp_path / "data"


def test_a_manifest_in_its_data_folder_moves_with_it(tmp_path, toy):
    home = tmp_path / "here"
    (home / "data").mkdir(parents=True)
    for root, name in ((home, "m.parquet"), (home / "data", "n.parquet")):
        write_manifest(toy.make(root), home / name)
    shutil.move(home, tmp_path / "there")
    assert read_manifest(tmp_path / "there/m.parquet").facts.root == tmp_path / "there"
    assert read_manifest(tmp_path / "there/n.parquet").facts.root == tmp_path / "there/data"


def test_a_manifest_elsewhere_keeps_the_absolute_root(tmp_path, toy):
    (tmp_path / "data").mkdir()
    (tmp_path / "out").mkdir()
    write_manifest(toy.make(tmp_path / "data"), tmp_path / "out/m.parquet")
    shutil.move(tmp_path / "out", tmp_path / "moved")
    assert read_manifest(tmp_path / "moved/m.parquet").facts.root == tmp_path / "data"


def test_a_newer_version_is_refused_with_advice(tmp_path, toy):
    path = tmp_path / "m.parquet"
    write_manifest(toy.make(tmp_path), path)
    toy.change_facts(path, lambda entries: entries.update(version=VERSION + 1, surprise=1))
    with pytest.raises(DataError, match=rf"version {VERSION + 1}, .* up to {VERSION}: upgrade"):
        read_manifest(path)


TYPES = [None, True, 3, 2.5, "text", "", [], {}, [None], [[1]], {"a": 1}, float("nan"), float("inf"), 10**400, "\ud800"]
TEXTS = ("name", "title", "licence", "url", "citation", "layout", "labelled_by", "split_recipe", "people_source")
WRONG = {
    **{name: [None, True, 3, [], ["a"], {}, "\ud800"] for name in TEXTS},
    "classes": [*(each for each in TYPES if each != []), [""], ["a", None], ["a", "a"], ["x" * 256], ["\ud800"]],
    "emotion": [True, 3, "seen", "", [], {}],
    "root": [None, True, 3, 2.5, [], {}],
    "vad_range": [
        *(True, 3, "1", [], [1], [1, 2, 3], [1, None], ["1", "9"], {}),
        *([5, 5], [9, 1], [0, float("nan")], [float("nan"), 1], [0, float("inf")], [-float("inf"), 0], [0, 10**400]),
    ],
    "version": [None, "new", "2", 2.5, True, 0, -1, [], {}, float("nan"), float("inf"), "9" * 5000],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_fact_of_a_wrong_inner_or_outer_type_is_refused_in_one_line(tmp_path, toy, name):
    path = tmp_path / "m.parquet"
    write_manifest(toy.make(tmp_path), path)
    for value in WRONG[name]:
        toy.change_facts(path, lambda entries, value=value: entries.update({name: value}))
        with pytest.raises(DataError, match=r"has damaged facts \(.+\): prepare it again") as caught:
            read_manifest(path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500 + len(str(path)), value
        write_manifest(toy.make(tmp_path), path)


@pytest.mark.parametrize(
    "text", ["{", "[]", "3", "", "null", '{"version": 1e999}', "[" * 100_000, '{"a":' * 100_000, " " * 2**23, "\xff"]
)
def test_a_text_that_is_no_table_of_facts_is_refused_in_one_line(tmp_path, toy, text):
    path = tmp_path / "m.parquet"
    write_manifest(toy.make(tmp_path), path)
    toy.change_facts(path, lambda _: text if text != "\xff" else b"\xff")
    with pytest.raises(DataError, match=r"has damaged facts \(.+\): prepare it again"):
        read_manifest(path)


def test_a_missing_fact_is_named(tmp_path, toy):
    path = tmp_path / "m.parquet"
    write_manifest(toy.make(tmp_path), path)
    toy.change_facts(path, lambda entries: entries.pop("classes") and None)
    with pytest.raises(DataError, match=r"classes must be given"):
        read_manifest(path)


def test_classes_must_be_distinct_and_not_too_many(tmp_path, toy):
    with pytest.raises(DataError, match="not distinct"):
        toy.facts_at(tmp_path, classes=("awe", "awe"))
    assert len(toy.facts_at(tmp_path, classes=tuple(map(str, range(4096)))).classes) == 4096
    with pytest.raises(DataError, match=r"4,097 classes are more than the 4,096"):
        toy.facts_at(tmp_path, classes=tuple(map(str, range(4097))))
