"""The command `ablate`; the shipped grids, each run at toy size."""

import json

import pytest

from uniemox.console import cli
from uniemox.train.grid import grid_names

TINY = {
    "pretrain": "preset=demo model.image_size=32 model.decoder_width=24 model.decoder_heads=4 precision=fp32 "
    "optim.epochs=1 optim.batch_size=8 teacher.pretrained=null",
    "finetune": "size=mini patch_size=8 image_size=32 select_by=top1 precision=fp32 optim.epochs=1 "
    "optim.batch_size=2 optim.accumulate=1",
}


@pytest.fixture
def grid(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text("arms:\n  votes: {probe: {head: knn}}\n  line: {probe: {head: logistic}}\n")
    return path


def test_a_grid_is_run_and_compared_and_runs_nothing_again(run, grid, painted, pretrained, tmp_path):
    words = ["ablate", grid, "--data", painted.path, "--start", pretrained.model, "--out", tmp_path / "out"]
    code, out, err = run(*words, "--device", "cpu", "--workers", "0", "--seeds", "3")
    assert code == cli.SUCCESS, err
    assert "1/2 votes, seed 3: probe" in err
    assert all(word in out for word in ("votes", "line", "test: top-1 %", "Beside each"))
    code, again, err = run(*words, "--seeds", "3", "--device", "cpu")
    assert (code, again) == (cli.SUCCESS, out)
    assert "probe" not in err
    code, shown, _ = run(*words, "--seeds", "3", "--table")
    assert (code, shown) == (cli.SUCCESS, out)
    code, listed, _ = run(*words, "--seeds", "3,4", "--dry-run", "--json")
    rows = [(row["arm"], row["seed"], row["state"]) for row in json.loads(listed)]
    assert rows == [("votes", 3, "done"), ("line", 3, "done"), ("votes", 4, "to do"), ("line", 4, "to do")]


def test_a_run_that_fails_is_named_and_the_exit_code_is_1(run, grid, painted, tmp_path):
    grid.write_text(grid.read_text() + "  lost: {probe: {backbone: nowhere.pth}}\n")
    words = ["ablate", grid, "--data", painted.path, "--start", "demo-pretrained", "--out", tmp_path / "out"]
    code, out, err = run(*words, "--device", "cpu", "--workers", "0")
    assert code == cli.FAILURE
    assert "uniemox: lost, seed 0: probe failed: no model folder at nowhere.pth" in err
    assert "votes" in out
    code, out, _ = run(*words, "--dry-run", "--json")
    assert json.loads(out)[2]["state"].startswith("probe failed: no model folder at nowhere.pth")


def test_a_manifest_that_is_missing_is_one_line_before_anything_runs(run, grid, painted, tmp_path):
    words = ["ablate", grid, "--start", "demo-pretrained", "--out", tmp_path / "out"]
    tested = ["--data", painted.path, "--tests", f"unseen={tmp_path / 'lost.parquet'}"]
    for data in (["--data", tmp_path / "lost.parquet"], tested, [*tested, "--dry-run"]):
        code, _, err = run(*words, *data)
        assert (code, err.count("\n")) == (cli.FAILURE, 1)
        assert f"no manifest at {tmp_path / 'lost.parquet'}" in err
    assert not (tmp_path / "out").exists()


def test_a_grid_that_cannot_be_run_is_one_line(run, grid, tmp_path):
    code, _, err = run("ablate", "term", "--out", tmp_path)
    assert code == cli.WRONG_USE
    assert err.startswith("uniemox: error: unknown grid term; did you mean terms?")
    grid.write_text("arms: {one: {probe: {hed: knn}}}")
    code, _, err = run("ablate", grid, "--out", tmp_path)
    assert (code, err.count("\n")) == (cli.WRONG_USE, 1)
    assert "arm one, probe: unknown setting hed; did you mean head?" in err
    grid.write_text("arms: {one: {probe: {backbone: clip:demo}}}")
    _, _, err = run("ablate", grid, "--out", tmp_path)
    assert err.endswith("arm one, probe: --data must be given; see `uniemox ablate --help`\n")


def test_nothing_finished_is_said_and_not_a_table(run, grid, painted, tmp_path):
    words = ["ablate", grid, "--data", painted.path, "--start", "demo-pretrained", "--out", tmp_path / "out"]
    code, _, err = run(*words, "--table")
    assert code == cli.FAILURE
    assert "nothing is finished" in err


@pytest.mark.slow
@pytest.mark.parametrize("name", grid_names())
def test_a_shipped_grid_runs_at_toy_size(run, name, painted, tiny_clip, pretrained, tmp_path):
    sets = [f"{step}.{change}" for step, changes in TINY.items() for change in changes.split()]
    sets.append(f"pretrain.teacher.model={tiny_clip}")
    arms = ["finetuned", "from-random-weights", "zero-shot", "probe"] if name == "baselines" else []
    words = [word for flag, given in (("--set", sets), ("--arms", arms)) for each in given for word in (flag, each)]
    words += ["--data", painted.path, "--tests", f"again={painted.path}", "--device", "cpu", "--workers", "0"]
    words += ["--start", pretrained.model] if name in ("baselines", "data") else []
    words += ["--seeds", "0"]
    code, out, err = run("ablate", name, *words, "--out", tmp_path / "out")
    assert code == cli.SUCCESS, err
    code, listed, _ = run("ablate", name, *words, "--out", tmp_path / "out", "--dry-run", "--json")
    assert {row["state"] for row in json.loads(listed)} == {"done"}
    assert all(row["arm"] in out for row in json.loads(listed))
