import json
import multiprocessing
from pathlib import Path

import pytest
import yaml

from uniemox.config.ablate import AblateConfig
from uniemox.errors import ConfigError, DataError, Interrupted
from uniemox.files.locking import locked
from uniemox.train.ablate import open_record, run_grid
from uniemox.train.grid import read_grid

TREE = {
    "seeds": [0, 1],
    "pretrain": {"preset": "demo"},
    "probe": {},
    "finetune": {"preset": "demo", "pool": "mean", "head": "random"},
    "tests": {"unseen": "unseen.parquet"},
    "arms": {"plain": {}, "light": {"pretrain": {"loss": {"contrast": 0}}}},
}
STEPS = ["pretrain", "probe", "probe-unseen", "finetune", "finetune-unseen"]


@pytest.fixture
def runs(tmp_path):
    """Make the runs of a grid; what is changed is laid over the settings of its fine-tuning."""

    def make(**finetune):
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.safe_dump({**TREE, "finetune": {**TREE["finetune"], **finetune}}, sort_keys=False))
        return read_grid(AblateConfig(grid=str(path), out=tmp_path / "runs", data=Path("own.parquet"))).runs

    return make


@pytest.fixture
def execute():
    """Do nothing but remember it; fail where that was asked for."""

    def do(step):
        out = step.config.out
        do.done.append(f"{out.parent.parent.name}/{out.parent.name}/{step.name}")
        if error := do.errors.get(do.done[-1]):
            raise error
        out.mkdir(parents=True, exist_ok=True)

    do.done, do.errors = [], {}
    return do


def test_every_step_of_every_run_is_done_once(runs, execute, heard):
    assert run_grid(runs(), execute, heard) == []
    order = [f"{arm}/{seed}/{step}" for seed in (0, 1) for arm in ("plain", "light") for step in STEPS]
    assert execute.done == order
    assert heard.texts[0] == "1/4 plain, seed 0: pretrain"
    run_grid(runs(), execute, heard)
    assert execute.done == order


def test_a_stopped_grid_continues_with_the_step_that_was_stopped(runs, execute, heard):
    execute.errors["light/0/probe"] = Interrupted(15)
    with pytest.raises(KeyboardInterrupt) as stopped:
        run_grid(runs(), execute, heard)
    assert stopped.value.__notes__ == ["interrupted: run the same command again to continue"]
    execute.errors.clear()
    execute.done.clear()
    run_grid(runs(), execute, heard)
    assert execute.done[:2] == ["light/0/probe", "light/0/probe-unseen"]


def test_a_failure_is_written_down_and_the_others_are_done(runs, execute, heard):
    execute.errors["light/0/pretrain"] = DataError("no such image")
    (failure,) = run_grid(runs(), execute, heard)
    assert failure == "light, seed 0: pretrain failed: no such image"
    light = [step for step in execute.done if step.startswith("light/0")]
    assert light == ["light/0/pretrain"]  # of what needs it nothing
    assert "light/1/finetune-unseen" in execute.done
    record = json.loads((runs()[1].folder / "run.json").read_text())
    assert record["failures"] == {"pretrain": "no such image"}
    assert open_record(runs()[1]).state(runs()[1]) == "pretrain failed: no such image"


def test_what_needs_no_failed_step_is_done(runs, execute, heard):
    execute.errors["plain/0/probe"] = RuntimeError("out of memory")
    run_grid(runs()[:1], execute, heard)
    assert execute.done == [f"plain/0/{step}" for step in STEPS if step != "probe-unseen"]


def test_a_failed_step_is_tried_again(runs, execute, heard):
    execute.errors["plain/0/probe"] = DataError("no such image")
    run_grid(runs(), execute, heard)
    execute.errors.clear()
    execute.done.clear()
    assert run_grid(runs(), execute, heard) == []
    assert execute.done == ["plain/0/probe", "plain/0/probe-unseen"]
    assert open_record(runs()[0]).state(runs()[0]) == "done"


def test_a_scored_step_whose_folder_was_deleted_is_done_again(runs, execute, heard):
    run_grid(runs()[:1], execute, heard)
    execute.done.clear()
    for step in ("pretrain", "finetune"):
        (runs()[0].folder / step).rmdir()
    run_grid(runs()[:1], execute, heard)
    assert execute.done == ["plain/0/finetune"]  # weights that others have taken may go


def test_what_is_no_failure_of_the_run_stops_the_grid(runs, execute, heard):
    execute.errors["plain/0/probe"] = KeyError("a bug")
    with pytest.raises(KeyError):
        run_grid(runs(), execute, heard)


def test_a_finished_step_whose_settings_changed_is_refused_before_anything_runs(runs, execute, heard):
    run_grid(runs()[:1], execute, heard)
    execute.done.clear()
    changed = r"plain/0 was made with other settings: `finetune.optim.epochs` is 3 and was 5: put them back"
    with pytest.raises(ConfigError, match=changed):
        run_grid(runs(optim={"epochs": 3}), execute, heard)
    assert execute.done == []


def test_a_step_that_failed_may_change_its_settings(runs, execute, heard):
    execute.errors["plain/0/finetune"] = DataError("too few rows")
    run_grid(runs()[:1], execute, heard)
    execute.errors.clear()
    assert run_grid(runs(optim={"epochs": 3})[:1], execute, heard) == []


def test_runs_whose_folder_was_moved_are_still_done(runs, execute, heard, tmp_path):
    run_grid(runs(), execute, heard)
    execute.done.clear()
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    config = AblateConfig(grid=str(tmp_path / "grid.yaml"), out=tmp_path / "elsewhere", data=Path("own.parquet"))
    run_grid(read_grid(config).runs, execute, heard)
    assert execute.done == []


def test_what_a_stopped_probe_had_written_is_removed(runs, execute, heard):
    run = runs()[0]
    left = run.folder / "probe" / "test" / "report.json"
    left.parent.mkdir(parents=True)
    left.touch()
    run_grid([run], execute, heard)
    assert not left.exists()


def test_the_state_of_a_run_counts_its_steps(runs, execute, heard):
    run = runs()[0]
    assert open_record(run).state(run) == "to do"
    run.steps[0].config.out.mkdir(parents=True)
    assert open_record(run).state(run) == "started"
    execute.errors["plain/0/probe"] = Interrupted(15)
    with pytest.raises(KeyboardInterrupt):
        run_grid([run], execute, heard)
    assert open_record(run).state(run) == "1 of 5 steps done"


def hold(path, taken, done):
    with locked(path):
        taken.set()
        done.wait(30)


def test_a_run_that_another_process_is_doing_is_skipped(runs, execute, heard):
    context = multiprocessing.get_context("spawn")
    taken, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(runs()[0].folder / ".lock", taken, done))
    other.start()
    taken.wait(30)
    try:
        assert run_grid(runs(), execute, heard) == []
    finally:
        done.set()
        other.join()
    assert any(text.startswith("plain, seed 0 is being run by another process") for text in heard.texts)
    assert not any(step.startswith("plain/0") for step in execute.done)
    assert "light/0/pretrain" in execute.done


def test_a_damaged_record_is_refused_by_name(runs, execute, heard):
    run_grid(runs()[:1], execute, heard)
    (runs()[0].folder / "run.json").write_text('{"seconds": 3}')
    with pytest.raises(ConfigError, match=r"run.json: seconds is 3, but must be"):
        run_grid(runs(), execute, heard)
