import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest
import safetensors.torch
import torch

from uniemox.checkpoints import resume
from uniemox.checkpoints.resume import RunState, load_state, save_state
from uniemox.errors import CheckpointError


def state_of(step, **changes):
    """A state of two models and of an optimiser that has done steps."""
    generator = torch.Generator().manual_seed(step)
    weight = torch.nn.Parameter(torch.randn(3, 4, generator=generator))
    optimizer = torch.optim.AdamW([weight], lr=1e-3)
    weight.sum().backward()
    optimizer.step()
    values = {
        "step": step,
        "weights": {
            "module": {"weight": weight.detach(), "view": weight.detach().T},
            "best": {"weight": torch.randn(2, generator=generator)},
        },
        "optimizer": optimizer.state_dict(),
        "notes": {"epoch": 3, "score": 0.1 + 0.2},
    }
    return RunState(**values | changes)


def assert_equal(one, other):
    assert (one.step, one.notes) == (other.step, other.notes)
    assert one.weights.keys() == other.weights.keys()
    for name, tensors in one.weights.items():
        assert tensors.keys() == other.weights[name].keys()
        assert all(torch.equal(tensors[key], other.weights[name][key]) for key in tensors)
    assert one.optimizer["param_groups"] == other.optimizer["param_groups"]
    for key, moments in one.optimizer["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, other.optimizer["state"][key][name])


def fail_with_a_full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_is_saved_is_loaded(tmp_path):
    save_state(tmp_path / "state", state_of(7))
    assert_equal(load_state(tmp_path / "state"), state_of(7))


def test_only_the_newest_state_stays(tmp_path):
    for step in (9, 10, 11):
        assert save_state(tmp_path, state_of(step)).name == f"step-{step:08d}"
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000011"]


def test_the_newest_of_several_states_is_loaded(tmp_path):
    newest = save_state(tmp_path / "a", state_of(100))
    save_state(tmp_path / "b", state_of(99))
    newest.rename(tmp_path / "b" / newest.name)
    assert load_state(tmp_path / "b").step == 100


def test_a_state_of_the_same_step_is_never_replaced(tmp_path):
    path = save_state(tmp_path, state_of(7))
    before = {file: file.stat().st_mtime_ns for file in path.iterdir()}
    assert save_state(tmp_path, state_of(7)) == path
    assert {file: file.stat().st_mtime_ns for file in path.iterdir()} == before


@pytest.mark.parametrize(
    ("where", "name"),
    [(resume, "save_file"), (torch, "save"), (resume, "_flush"), (resume.os, "fsync")],
)
def test_a_full_disk_leaves_the_last_state_whole(tmp_path, monkeypatch, where, name):
    save_state(tmp_path, state_of(7))
    with monkeypatch.context() as patch:
        patch.setattr(where, name, fail_with_a_full_disk)
        with pytest.raises(
            CheckpointError, match=r"after step 8 could not .*No space left.*--resume"
        ):
            save_state(tmp_path, state_of(8))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007"]
    assert_equal(load_state(tmp_path), state_of(7))
    save_state(tmp_path, state_of(8))
    assert load_state(tmp_path).step == 8


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "state").write_text("a file")
    with pytest.raises(CheckpointError, match="could not be written to"):
        save_state(tmp_path / "state", state_of(1))


def test_what_a_killed_save_left_behind_is_no_state_and_in_nobodys_way(tmp_path):
    save_state(tmp_path, state_of(7))
    half = tmp_path / ".step-00000008.writing"
    half.mkdir()
    (half / "module.safetensors").write_bytes(b"half")
    assert load_state(tmp_path).step == 7
    save_state(tmp_path, state_of(8))
    assert_equal(load_state(tmp_path), state_of(8))
    assert not half.exists()


@pytest.mark.slow
@pytest.mark.parametrize("at", ["save_file", "torch.save", "_flush"])
def test_kill_9_while_saving_leaves_the_last_state(tmp_path, at):
    save_state(tmp_path, state_of(7))
    script = f"""
        import os, signal
        import torch
        from uniemox.checkpoints import resume
        from uniemox.checkpoints.resume import RunState, save_state
        def die(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGKILL)
        {"torch.save" if at == "torch.save" else f"resume.{at}"} = die
        weights = {{"module": {{"weight": torch.zeros(3)}}}}
        from pathlib import Path
        save_state(Path({str(tmp_path)!r}), RunState(step=8, weights=weights, optimizer={{}}))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert_equal(load_state(tmp_path), state_of(7))


def test_without_a_state_the_user_is_told_what_to_do(tmp_path):
    folder = tmp_path / "run" / "state"
    with pytest.raises(CheckpointError) as told:
        load_state(folder)
    assert str(told.value) == (
        f"no saved state in {folder}, since the run ended before its first one: delete {tmp_path / 'run'} and start "
        "without --resume"
    )


DAMAGES = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "foreign": lambda path: path.write_bytes(b"\x80\x02 this is no such file" * 10),
}


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (name, damage)
        for name in ("module.safetensors", "optimizer.pt", "state.json")
        for damage in DAMAGES
        if (name, damage) != ("module.safetensors", "missing")  # the engine tells of that
    ],
)
def test_a_damaged_state_is_told_in_one_line(tmp_path, name, damage):
    path = save_state(tmp_path, state_of(7))
    DAMAGES[damage](path / name)
    with pytest.raises(
        CheckpointError, match=r"step-00000007 is damaged \(.*start the run anew"
    ) as told:
        load_state(tmp_path)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize("text", ["[]", "{}", '{"step": 7}', "null"])
def test_a_damaged_table_is_told(tmp_path, text):
    path = save_state(tmp_path, state_of(7))
    (path / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match="is damaged"):
        load_state(tmp_path)


def test_an_older_state_is_offered_where_there_is_one(tmp_path):
    older = save_state(tmp_path / "a", state_of(6))
    newest = save_state(tmp_path / "b", state_of(7))
    older.rename(tmp_path / "b" / older.name)
    (newest / "optimizer.pt").unlink()
    with pytest.raises(CheckpointError, match="delete it to go on from an older one"):
        load_state(tmp_path / "b")
    shutil.rmtree(newest)
    assert load_state(tmp_path / "b").step == 6


def test_nothing_in_a_state_is_executed(tmp_path):
    path = save_state(tmp_path, state_of(7))

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"state": Evil()}, path / "optimizer.pt")
    with pytest.raises(CheckpointError, match="is damaged"):
        load_state(tmp_path)
    assert not (tmp_path / "owned").exists()


def test_a_state_is_made_of_plain_files(tmp_path):
    path = save_state(tmp_path, state_of(7))
    assert sorted(file.name for file in path.iterdir()) == [
        "best.safetensors",
        "module.safetensors",
        "optimizer.pt",
        "state.json",
    ]
    assert json.loads((path / "state.json").read_text())["step"] == 7
    assert safetensors.torch.load_file(path / "best.safetensors").keys() == {"weight"}
