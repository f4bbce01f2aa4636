"""`data shard`."""

import json

import pytest

from uniemox.console import cli
from uniemox.manifests.table import read_manifest


def test_a_manifest_is_stored_and_told(run, painted, tmp_path):
    code, out, _ = run("data", "shard", painted.path, "--out", tmp_path / "out")
    told, path = out.splitlines()
    assert code == cli.SUCCESS
    assert told.startswith("images: 40, archives: 3, megabytes: ")
    assert path == str(tmp_path / "out" / "painted.parquet")
    assert read_manifest(tmp_path / "out" / "painted.parquet").split_counts() == {
        "train": 24, "val": 9, "test": 7
    }  # fmt: skip


def test_machines_are_told_too_and_splits_can_be_chosen(run, painted, tmp_path):
    words = ["--split", "val", "--split", "test", "--shard-size", 1, "--seed", 3, "--json"]
    code, out, _ = run("data", "shard", painted.path, "--out", tmp_path / "out", *words)
    told = json.loads(out)
    assert code == cli.SUCCESS
    assert told["manifest"] == str(tmp_path / "out" / "painted.parquet")
    assert (told["pictures"], told["shards"], told["problems"]) == (16, 2, [])
    assert told["bytes"] == sum(p.stat().st_size for p in (tmp_path / "out").glob("*.tar"))


def test_a_picture_that_is_gone_is_shown_and_refused_where_that_is_asked_for(run, own_painted, tmp_path):
    own_painted.manifest.row(3).path.unlink()
    words = ["data", "shard", own_painted.path, "--out", tmp_path / "out"]
    code, _, err = run(*words, "--strict")
    assert (code, "1 x image that cannot be read" in err) == (cli.FAILURE, True)
    code, out, _ = run(*words)
    assert (code, "image that cannot be read" in out) == (cli.SUCCESS, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--shard-size", 0], "--shard-size is 0, but must be at least 1"),
        (["--workers", 0], "--workers is 0, but must be between 1 and "),
        (["--seed", -1], "--seed is -1, but must be at least 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(run, painted, tmp_path, words, told):
    code, _, err = run("data", "shard", painted.path, "--out", tmp_path / "out", *words)
    assert (code, told in err) == (cli.WRONG_USE, True)
    assert not (tmp_path / "out").exists()
