"""`data shard`."""

import json

import pytest

from uniemox import cli
from uniemox.data.manifest import read_manifest


def shard(*words):
    return cli.main(["data", "shard", *map(str, words)])


def test_a_manifest_is_stored_and_told(painted, tmp_path, capsys):
    assert shard(painted.path, "--out", tmp_path / "out") == cli.SUCCESS
    told, path = capsys.readouterr().out.splitlines()
    assert told.startswith("pictures: 40, archives: 3, megabytes: ")
    assert path == str(tmp_path / "out" / "painted.parquet")
    assert read_manifest(tmp_path / "out" / "painted.parquet").split_counts() == {
        "train": 24, "val": 9, "test": 7
    }  # fmt: skip


def test_machines_are_told_too_and_splits_can_be_chosen(painted, tmp_path, capsys):
    words = ["--split", "val", "--split", "test", "--shard-size", 1, "--seed", 3, "--json"]
    assert shard(painted.path, "--out", tmp_path / "out", *words) == cli.SUCCESS
    told = json.loads(capsys.readouterr().out)
    assert told["manifest"] == str(tmp_path / "out" / "painted.parquet")
    assert (told["pictures"], told["shards"], told["problems"]) == (16, 2, [])
    assert told["bytes"] == sum(p.stat().st_size for p in (tmp_path / "out").glob("*.tar"))


def test_a_picture_that_is_gone_is_shown_and_refused_where_that_is_asked_for(
    own_painted, tmp_path, capsys
):
    own_painted.manifest.row(3).path.unlink()
    words = [own_painted.path, "--out", tmp_path / "out"]
    assert shard(*words, "--strict") == cli.FAILURE
    assert "1 x picture that cannot be read" in capsys.readouterr().err
    assert shard(*words) == cli.SUCCESS
    assert "picture that cannot be read" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--shard-size", 0], "--shard-size is 0, but must be at least 1"),
        (["--num-workers", 0], "--num-workers is 0, but must be at least 1"),
        (["--seed", -1], "--seed is -1, but must not be negative"),
    ],
)
def test_what_cannot_be_meant_is_refused(painted, tmp_path, capsys, words, told):
    assert shard(painted.path, "--out", tmp_path / "out", *words) == cli.WRONG_USE
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
