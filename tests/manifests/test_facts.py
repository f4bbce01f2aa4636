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


@pytest.mark.parametrize(
    "change",
    [
        lambda _: "{",
        lambda entries: entries.update(vad_range=[1]),
        lambda _: "[]",
        lambda _: "3",
        lambda entries: entries.pop("classes") and None,
        lambda entries: entries.update(version="new"),
        lambda entries: entries.update(version=None),
        lambda entries: entries.update(classes=3),
        lambda entries: entries.update(root=3),
        lambda entries: entries.update(emotion="seen"),
    ],
)
def test_damaged_facts_are_refused_in_one_line(tmp_path, change, toy):
    path = tmp_path / "m.parquet"
    write_manifest(toy.make(tmp_path), path)
    toy.change_facts(path, change)
    with pytest.raises(DataError, match=r"has damaged facts \(.*\): prepare it again"):
        read_manifest(path)


def test_classes_must_be_distinct_and_not_too_many(tmp_path, toy):
    with pytest.raises(DataError, match="not distinct"):
        toy.facts_at(tmp_path, classes=("awe", "awe"))
    with pytest.raises(DataError, match="32768 classes"):
        toy.facts_at(tmp_path, classes=tuple(map(str, range(32768))))
