import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

from uniemox.errors import CheckpointError
from uniemox.train import state as resume
from uniemox.train.state import RunState, find_state, load_state, remove_newer, save_state


def state_of(step, **changes):
    """A state of two models and of an optimiser that has done steps."""
    generator = torch.Generator().manual_seed(step)
    weight = torch.nn.Parameter(torch.randn(3, 4, generator=generator))
    optimizer = torch.optim.AdamW([weight], lr=1e-3)
    weight.sum().backward()
    optimizer.step()
    values = {
        "step": step,
        "total_steps": 200,
        "weights": {
            "module": {"weight": weight.detach(), "view": weight.detach().T},
            "best": {"weight": torch.randn(2, generator=generator)},
        },
        "optimizer": optimizer.state_dict(),
        "notes": {"epoch": 3, "score": 0.1 + 0.2},
        "origin": {"init": "random weights", "licence": ""},
    }
    return RunState(**values | changes)


def load(folder):
    return load_state(find_state(folder).path)


def assert_equal(one, other):
    for name in ("step", "total_steps", "notes", "identity", "origin", "scored"):
        assert getattr(one, name) == getattr(other, name)
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
    assert_equal(load(tmp_path / "state"), state_of(7))
    assert find_state(tmp_path / "state").origin == state_of(7).origin


def test_the_last_two_states_stay(tmp_path):
    for step in (9, 10, 11, 12):
        assert save_state(tmp_path, state_of(step)).name == f"step-{step:08d}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000011", "step-00000012"]


def test_a_state_that_is_not_scored_comes_before_that_of_the_same_step(tmp_path):
    first = save_state(tmp_path, state_of(7, scored=False))
    assert first.name == "step-00000007-unscored"
    assert_equal(load(tmp_path), state_of(7, scored=False))
    save_state(tmp_path, state_of(7))
    assert_equal(load(tmp_path), state_of(7))
    save_state(tmp_path, state_of(8))
    assert not first.exists()


def test_the_sums_are_what_sha256sum_reads(tmp_path):
    path = save_state(tmp_path, state_of(7))
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(list(path.iterdir())) - 1


def test_the_newest_of_several_states_is_loaded(tmp_path):
    newest = save_state(tmp_path / "a", state_of(100))
    save_state(tmp_path / "b", state_of(99))
    newest.rename(tmp_path / "b" / newest.name)
    assert load(tmp_path / "b").step == 100


def test_a_state_of_the_same_step_is_never_replaced(tmp_path):
    path = save_state(tmp_path, state_of(7))
    before = {file: file.stat().st_mtime_ns for file in path.iterdir()}
    assert save_state(tmp_path, state_of(7)) == path
    assert {file: file.stat().st_mtime_ns for file in path.iterdir()} == before


@pytest.mark.parametrize(("where", "name"), [(resume, "save_file"), (torch, "save"), (os, "fsync")])
def test_a_full_disk_leaves_the_last_state_whole(tmp_path, monkeypatch, where, name):
    save_state(tmp_path, state_of(7))
    with monkeypatch.context() as patch:
        patch.setattr(where, name, fail_with_a_full_disk)
        with pytest.raises(CheckpointError, match=r"step-00000008 cannot be written: no space is left.*`resume`"):
            save_state(tmp_path, state_of(8))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007"]
    assert_equal(load(tmp_path), state_of(7))
    save_state(tmp_path, state_of(8))
    assert load(tmp_path).step == 8


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "state").write_text("a file")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_state(tmp_path / "state", state_of(1))


def test_what_a_killed_save_left_behind_is_no_state_and_in_nobodys_way(tmp_path):
    save_state(tmp_path, state_of(7))
    half = tmp_path / ".step-00000008.4711-abc"
    half.mkdir()
    (half / "module.safetensors").write_bytes(b"half")
    assert load(tmp_path).step == 7
    save_state(tmp_path, state_of(8))
    assert_equal(load(tmp_path), state_of(8))
    assert not half.exists()


@pytest.mark.soak
@pytest.mark.parametrize("at", ["resume.save_file", "torch.save", "os.fsync"])
def test_kill_9_while_saving_leaves_the_last_state(tmp_path, at):
    save_state(tmp_path, state_of(7))
    script = f"""
        import os, signal
        import torch
        from uniemox.train import state as resume
        from uniemox.train.state import RunState, save_state
        def die(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGKILL)
        {at} = die
        weights = {{"module": {{"weight": torch.zeros(3)}}}}
        from pathlib import Path
        save_state(Path({str(tmp_path)!r}), RunState(step=8, total_steps=9, weights=weights, optimizer={{}}))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert_equal(load(tmp_path), state_of(7))


def test_where_nothing_was_saved_there_is_nothing_to_find(tmp_path):
    for folder in (tmp_path / "run" / "state", tmp_path):
        assert find_state(folder) is None


FILES = ("module.safetensors", "best.safetensors", "optimizer.pt", "state.json", "SHA256SUMS")
DAMAGES = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "cut by a byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "foreign": lambda path: path.write_bytes(b"\x80\x02 this is no such file" * 10),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
}


@pytest.mark.parametrize(("name", "damage"), [(name, damage) for name in FILES for damage in DAMAGES])
def test_a_damaged_state_gives_way_to_the_older_one_which_is_said(tmp_path, name, damage):
    older = save_state(tmp_path, state_of(6))
    path = save_state(tmp_path, state_of(7))
    DAMAGES[damage](path / name)
    found = find_state(tmp_path)
    assert found.path == older
    assert_equal(load_state(found.path), state_of(6))
    (told,) = found.damaged
    assert told.startswith(f"{path} is damaged (")
    assert "\n" not in told


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_noticed(tmp_path, name):
    path = save_state(tmp_path, state_of(7)) / name
    whole = path.read_bytes()
    generator = random.Random(0)
    for _ in range(60):
        spoilt = bytearray(whole)
        spoilt[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        path.write_bytes(spoilt)
        with pytest.raises(CheckpointError, match=r"is whole: .* is damaged"):
            find_state(tmp_path)
    path.write_bytes(whole)
    assert_equal(load(tmp_path), state_of(7))


def test_where_every_state_is_damaged_each_is_named_in_one_line(tmp_path):
    for step in (6, 7):
        (save_state(tmp_path / "state", state_of(step)) / "optimizer.pt").unlink()
    with pytest.raises(CheckpointError, match=r"step-00000007 .*step-00000006 .*new run") as told:
        find_state(tmp_path / "state")
    assert "\n" not in str(told.value)


def test_states_after_the_one_that_continues_are_removed(tmp_path):
    older, newer = (save_state(tmp_path, state_of(step)) for step in (6, 7))
    remove_newer(tmp_path, older)
    assert not newer.exists()
    assert older.is_dir()


@pytest.mark.parametrize("text", ["[]", "{}", '{"step": 7}', "null"])
def test_a_table_that_lacks_something_is_told(tmp_path, text):
    path = save_state(tmp_path, state_of(7))
    (path / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_state(path)


def test_nothing_in_a_state_is_executed(tmp_path):
    path = save_state(tmp_path, state_of(7))

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"state": Evil()}, path / "optimizer.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_state(path)
    assert not (tmp_path / "owned").exists()


def sum_again(path):
    names = sorted(file.name for file in path.iterdir() if file.name != "SHA256SUMS")
    sums = [f"{hashlib.sha256((path / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (path / "SHA256SUMS").write_text("".join(sums))


WRONG = {
    "step": [None, "7", 7.5, True, -1, 2**63, 10**4000, []],
    "total_steps": [None, "7", 0, 10**4000, {}],
    "notes": [None, [], 3, {"epoch": "1"}, {"score": "x"}, {"score": None}, {"missing": [None]}, {"missing": 3}],
    "identity": [None, [], "x"],
    "origin": [None, [], {"init": 3}, {"licence": None}, {"shape": []}],
    "scored": [None, 1, "yes"],
}


@pytest.mark.parametrize(("name", "number"), [(name, n) for name in WRONG for n in range(len(WRONG[name]))])
def test_a_state_whose_sums_are_right_and_whose_values_are_not_is_damaged(tmp_path, name, number):
    save_state(tmp_path, state_of(6))
    path = save_state(tmp_path, state_of(7))
    saved = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(saved))
    sum_again(path)
    assert find_state(tmp_path).path == path
    (path / "state.json").write_text(json.dumps(saved | {name: WRONG[name][number]}))
    sum_again(path)
    found = find_state(tmp_path)
    assert found.path.name == "step-00000006"
    assert "state.json" in found.damaged[0]
    assert len(found.damaged[0]) < 400 + len(str(path))
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_state(path)


@pytest.mark.parametrize("text", ["[1]", "3", "{}", "[" * 100_000, "{", "\xff"])
def test_a_state_without_values_is_damaged(tmp_path, text):
    path = save_state(tmp_path, state_of(7))
    (path / "state.json").write_bytes(text.encode("latin-1"))
    sum_again(path)
    with pytest.raises(CheckpointError, match=r"is damaged \(state\.json: "):
        find_state(tmp_path)
