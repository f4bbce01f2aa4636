"""What stops a run from outside, sent to the command as a user starts it: signals, damage, dead helpers."""

import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from uniemox.files.journal import read_journal

pytestmark = pytest.mark.slow
SMALL = ("--size", "mini", "--patch-size", "8", "--image-size", "32", "--optim.batch-size", "4")
SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
RUN = ("--optim.epochs", "8", "--log-every", "1")


def start(*words, prefix=(), **environment):
    """Start a command in a session of its own, as a terminal or a batch system does."""
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "uniemox", *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process, *codes):
    _, told = process.communicate(timeout=300)
    assert process.returncode in (codes or (0,)), told
    assert "Traceback" not in told
    return told


def finetune(data, out, *words, **options):
    return start("finetune", "--data", data, "--out", out, *SMALL, *RUN, *words, **options)


def steps_in(out):
    return [line["step"] for line in read_journal(out / "metrics.jsonl") if line["kind"] == "train"]


def wait_for_step(process, out, step):
    deadline = time.monotonic() + 240
    while max(steps_in(out), default=0) < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def weights_in(out):
    return (out / "model" / "model.safetensors").read_bytes()


def children_of(process):
    """The processes that a command started, by their numbers."""
    listed = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True)
    return [int(number) for number in listed.stdout.split()]


@pytest.fixture(scope="module")
def whole(painted, tmp_path_factory):
    """A run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    finish(finetune(painted.path, out))
    return out


@pytest.mark.parametrize(
    ("name", "to"),
    [
        ("SIGTERM", "group"),
        *(pytest.param(name, "process", marks=pytest.mark.soak) for name in SIGNALS),
        *(pytest.param(name, "group", marks=pytest.mark.soak) for name in SIGNALS),
    ],
)
def test_a_signal_saves_and_a_resumed_run_ends_bit_identical(painted, whole, tmp_path, name, to):
    """A terminal and a batch system send signals to the loader's processes, too."""
    out, number = tmp_path / "run", getattr(signal, name)
    process = finetune(painted.path, out)
    wait_for_step(process, out, 8)
    if to == "group":
        os.killpg(process.pid, number)
        time.sleep(0.1)
        if name != "SIGINT":
            os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    # The second signal may find a process that has saved and is ending; a shell reads both as 128 + n.
    told = finish(process, 128 + number, -number)
    assert "continue with --resume" in told
    step = max(steps_in(out))
    assert (out / "state" / f"step-{step:08d}").is_dir() or (out / "state" / f"step-{step:08d}-unscored").is_dir()
    finish(start("finetune", "--out", out, "--resume"))
    assert weights_in(out) == weights_in(whole)


@pytest.mark.soak
def test_a_hangup_that_nohup_ignores_stops_nothing(painted, tmp_path):
    out = tmp_path / "run"
    process = finetune(painted.path, out, "--max-steps", "40", prefix=["nohup"])
    wait_for_step(process, out, 4)
    process.send_signal(signal.SIGHUP)
    finish(process)
    assert max(steps_in(out)) == 40


@pytest.mark.soak
def test_kills_at_any_moment_lose_nothing_but_time(painted, whole, tmp_path):
    """The same words each time, as a job that is requeued has them; the folder is absent, half made or full."""
    out, generator = tmp_path / "run", random.Random(0)
    for _ in range(6):
        process = finetune(painted.path, out, "--save-every", "1", "--resume")
        deadline = time.monotonic() + generator.uniform(2, 14)
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        process.kill()
        process.communicate()
    finish(finetune(painted.path, out, "--save-every", "1", "--resume"))
    assert weights_in(out) == weights_in(whole)
    assert steps_in(out) == list(range(1, 49))


@pytest.mark.soak
def test_two_that_resume_one_run_at_once_do_not_meet(painted, whole, tmp_path):
    out = tmp_path / "run"
    first = finetune(painted.path, out)
    wait_for_step(first, out, 4)
    second = start("finetune", "--out", out, "--resume")
    told = finish(second, 2)
    assert f"another process is running in {out} (process {first.pid} on " in told
    finish(first)
    assert weights_in(out) == weights_in(whole)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(
            pytest.param(name, damage, marks=pytest.mark.soak)
            for name in ("module.safetensors", "optimizer.pt", "state.json", "SHA256SUMS")
            for damage in ("flip", "cut", "missing")
        )
    ],
)
def test_a_damaged_state_is_named_and_the_older_one_continues(painted, whole, tmp_path, name, damage):
    out = tmp_path / "run"
    process = finetune(painted.path, out, "--save-every", "2")
    wait_for_step(process, out, 15)
    process.send_signal(signal.SIGTERM)
    finish(process, 143)
    *_, newest = sorted((out / "state").iterdir())
    data = bytearray((newest / name).read_bytes())
    match damage:
        case "flip":
            data[len(data) // 2] ^= 1
            data[len(data) // 3] ^= 128
            (newest / name).write_bytes(data)
        case "cut":
            (newest / name).write_bytes(data[: len(data) // 2])
        case "missing":
            (newest / name).unlink()
    told = finish(start("finetune", "--out", out, "--resume"))
    assert f"{newest} is damaged ({name}" in told
    assert "the run continues from the state before it" in told
    assert weights_in(out) == weights_in(whole)


@pytest.mark.soak
def test_a_killed_worker_is_one_line_within_a_minute_and_the_run_continues(painted, whole, tmp_path):
    out = tmp_path / "run"
    process = finetune(painted.path, out)
    wait_for_step(process, out, 8)
    before = time.monotonic()
    os.kill(children_of(process)[0], signal.SIGKILL)
    told = finish(process, 1)
    assert time.monotonic() - before < 60
    (line,) = [line for line in told.splitlines() if line.startswith("uniemox: error: ")]
    assert "a process that decodes images died" in line
    finish(start("finetune", "--out", out, "--resume"))
    assert weights_in(out) == weights_in(whole)


@pytest.mark.soak
def test_shared_memory_that_is_too_small_is_one_line_and_no_hang(painted, tmp_path):
    """Docker gives 64 MB; two batches of 48 at 384 pixels are 170."""
    words = 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", words, "sh"]
    tried = subprocess.run([*prefix, "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"no file system of our own here: {tried.stderr.strip()}")
    process = start(
        *("finetune", "--data", painted.path, "--out", tmp_path / "run", *RUN),
        *("--size", "mini", "--patch-size", "32", "--image-size", "384"),
        *("--optim.batch-size", "24", "--augment.mixup", "0", "--augment.cutmix", "0"),
        prefix=prefix,
    )
    before = time.monotonic()
    told = finish(process, 1)
    assert time.monotonic() - before < 90
    (line,) = [line for line in told.splitlines() if line.startswith("uniemox: error: ")]
    assert "of 64 MB are free" in line
    assert "--workers 0" in line


@pytest.mark.soak
def test_images_that_vanish_from_val_are_told_when_they_do(own_painted, tmp_path):
    out = tmp_path / "run"
    process = finetune(own_painted.path, out)
    wait_for_step(process, out, 8)
    shutil.rmtree(own_painted.root / "val" / "joy")
    told = finish(process)
    (line,) = [line for line in told.splitlines() if line.startswith("val: skipped")]
    assert "skipped 3 of 9 images" in line
    assert "epochs are no longer scored on the same rows" in line


@pytest.mark.soak
def test_a_folder_with_nothing_saved_is_started_afresh(painted, tmp_path):
    out = tmp_path / "run"
    process = finetune(painted.path, out)
    wait_for_step(process, out, 1)
    process.kill()
    process.communicate()
    shutil.rmtree(out / "state", ignore_errors=True)
    finish(finetune(painted.path, out), 2)
    told = finish(start("finetune", "--out", out, "--resume", "--max-steps", "200"))
    assert f"nothing is saved in {out} yet: the run starts from the beginning" in told
    assert steps_in(out) == list(range(1, 49))


def test_a_run_continues_by_its_folder_alone_and_may_grow(run, painted, tmp_path):
    out = tmp_path / "run"
    code, _, told = run("finetune", "--data", painted.path, "--out", out, *SMALL, *RUN, "--max-steps", "6")
    assert code == 0, told
    code, _, told = run("finetune", "--out", out, "--resume")
    assert code == 0, told
    assert max(steps_in(out)) == 6
    code, _, told = run("finetune", "--out", out, "--resume", "--max-steps", "9")
    assert code == 0, told
    assert "the run grows from 6 to 9 steps" in told
    assert max(steps_in(out)) == 9
    code, _, told = run("finetune", "--out", out, "--resume", "--max-steps", "7")
    assert code == 2
    assert "has 9 steps, which may grow and not shrink" in told


# Processes without torchrun


def start_rank(data, out, rank, port, *words):
    """Start one of two processes as srun does, without a launcher that watches them."""
    group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
    return finetune(
        data,
        out,
        *("--device", "cpu", "--optim.epochs", "100000", *words),
        MASTER_ADDR="127.0.0.1",
        **{name: str(value) for name, value in group.items()},
    )


@pytest.mark.soak
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSTOP"])
def test_a_dead_rank_ends_the_others_within_a_minute(painted, tmp_path, name, rank):
    out, port = tmp_path / "run", random.randint(20_000, 60_000)
    processes = [start_rank(painted.path, out, each, port) for each in (0, 1)]
    wait_for_step(processes[0], out, 4)
    before = time.monotonic()
    processes[rank].send_signal(getattr(signal, name))
    told = finish(processes[1 - rank], 1)
    assert time.monotonic() - before < 60
    dead = "has not answered" if name == "SIGSTOP" else "another process of the run died"
    assert dead in told
    processes[rank].kill()
    processes[rank].communicate()


@pytest.mark.soak
def test_a_signal_to_one_of_two_processes_stops_both_with_its_number(painted, tmp_path):
    out, port = tmp_path / "run", random.randint(20_000, 60_000)
    processes = [start_rank(painted.path, out, each, port) for each in (0, 1)]
    wait_for_step(processes[0], out, 4)
    processes[1].send_signal(signal.SIGTERM)
    told = [finish(process, 143) for process in processes]
    assert "continue with --resume" in told[0]
    assert any((out / "state").iterdir())


@pytest.mark.soak
def test_the_batch_script_of_the_docs_saves_requeues_and_continues(painted, tmp_path):
    """With stand-ins for SLURM's two commands; the words of the run are those of a small one."""
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```bash\n(.+?)```", page, re.DOTALL)
    out = tmp_path / "run"
    words = ["--data", painted.path, "--out", out, *SMALL, "--log-every", "1"]
    small = f"--nproc-per-node 2 -m uniemox finetune {shlex.join(map(str, words))}"
    told = "--nproc-per-node 8 -m uniemox pretrain --preset base --data emoset.parquet --out runs/base"
    assert told in script
    (tmp_path / "job.sh").write_text(script.replace(told, small))
    for name, text in {"srun": 'exec "$@"', "scontrol": f'echo "$@" >> {tmp_path}/requeued'}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    places = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    job = subprocess.Popen(
        ["bash", tmp_path / "job.sh"],
        env=os.environ | {"PATH": places, "SLURM_JOB_ID": "4711", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for_step(job, out, 6)
    job.send_signal(signal.SIGUSR1)
    log, _ = job.communicate(timeout=120)
    assert "continue with --resume" in log
    assert (tmp_path / "requeued").read_text() == "requeue 4711\n"
    step = max(steps_in(out))
    assert any(f"step-{step:08d}" in path.name for path in (out / "state").iterdir())
