import os
import subprocess
import sys
import time

import pytest

from uniemox.compute import processes
from uniemox.compute.processes import check_alone, is_first_to_report, num_local_processes, num_processes
from uniemox.errors import ConfigError


@pytest.fixture(autouse=True)
def _nobody_launched(monkeypatch):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_ERROR_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(processes, "_PATIENCE", 0.2)


def launch(monkeypatch, tmp_path, *, rank, count=2):
    monkeypatch.setenv("WORLD_SIZE", str(count))
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    file = tmp_path / "attempt_0" / str(rank) / "error.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))


def test_a_process_that_nobody_launched_is_alone():
    assert (num_processes(), num_local_processes()) == (1, 1)


@pytest.mark.parametrize(("name", "count"), [("WORLD_SIZE", num_processes), ("LOCAL_WORLD_SIZE", num_local_processes)])
def test_the_launcher_says_how_many_processes_there_are(monkeypatch, name, count):
    monkeypatch.setenv(name, "12")
    assert count() == 12
    for text in ("", "two", "0", "-1", "1.5", "²"):
        monkeypatch.setenv(name, text)
        with pytest.raises(ConfigError, match=f"the variable {name} is '{text}', but must be a wh"):
            count()


@pytest.mark.parametrize(
    ("variables", "is_refused"),
    [
        ({}, False),
        ({"WORLD_SIZE": "1", "LOCAL_RANK": "0"}, False),
        ({"WORLD_SIZE": "4"}, False),  # a cluster says this of its whole job
        ({"WORLD_SIZE": "4", "LOCAL_RANK": "3"}, True),
    ],
)
def test_what_one_process_does_is_refused_to_several(monkeypatch, variables, is_refused):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if not is_refused:
        check_alone("predict")
        return
    with pytest.raises(ConfigError, match="predict runs in one process, and torchrun started 4"):
        check_alone("predict")


def test_one_process_reports_what_all_of_them_met(monkeypatch, tmp_path):
    for rank, is_first in ((0, True), (1, False), (2, False)):
        launch(monkeypatch, tmp_path, rank=rank, count=3)
        assert is_first_to_report("error: no space") is is_first


def test_an_error_that_one_process_alone_met_is_reported(monkeypatch, tmp_path):
    for rank in (0, 1):
        launch(monkeypatch, tmp_path, rank=rank)
        assert is_first_to_report(f"error: of {rank}")


def test_a_process_leaves_the_first_one_a_moment_and_no_more(monkeypatch, tmp_path):
    launch(monkeypatch, tmp_path, rank=1)
    began = time.monotonic()
    assert is_first_to_report("error: none")
    assert 0.2 <= time.monotonic() - began < 60
    launch(monkeypatch, tmp_path, rank=0)
    assert not is_first_to_report("error: none")


def test_without_a_place_for_marks_each_process_reports(monkeypatch, tmp_path):
    launch(monkeypatch, tmp_path, rank=0)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "none" / "0" / "error.json"))
    assert is_first_to_report("error") == is_first_to_report("error") == True  # noqa: E712
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE")
    assert is_first_to_report("error")


# As a user types it


def torchrun(*words, count=2, script=None):
    """Start the command line, or a script, in several processes and without a device."""
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={count}"]
    launcher += ["-m", "uniemox"] if script is None else [script]
    return subprocess.run(
        [sys.executable, *map(str, [*launcher, *words])],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        timeout=300,
        check=False,
    )


def lines_of(done):
    """What our processes said; torchrun adds a table of its own."""
    return [line for line in done.stderr.splitlines() if line.startswith(("uniemox:", "uniemox ("))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        pytest.param(
            ("predict", "demo", "photo.jpg"),
            "error: predict runs in one process, and torchrun started 2: start it without torchrun",
            marks=pytest.mark.soak,
        ),
        pytest.param(
            ("data", "show", "x.parquet"), "error: data show runs in one process, and torchrun ", marks=pytest.mark.soak
        ),
        (("evaluate", "demo", "--data", "none.parquet"), "error: no manifest at none.parquet"),
        pytest.param(
            ("finetune", "--data", "none.parquet", "--out", "runs/x"),
            "error: no manifest at none",
            marks=pytest.mark.soak,
        ),
        pytest.param(
            ("finetune", "--device", "mps", "--data", "a", "--out", "b"),
            "error: --device is mps",
            marks=pytest.mark.soak,
        ),
        pytest.param(("evaluate", "demo"), "error: --data must be given", marks=pytest.mark.soak),
    ],
)
def test_an_error_of_all_processes_is_one_line(words, told):
    done = torchrun(*words)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = lines_of(done)
    # On a busy machine the first process may be later than the moment that the others leave it.
    assert line.replace(" (rank 1):", ":").startswith(f"uniemox: {told}")


ALONE = """
import os
import sys
import uniemox.inference.evaluate
from uniemox.console import cli
from uniemox.errors import DataError

whole = uniemox.inference.evaluate.compute_outputs

def fail(*arguments, **options):
    if os.environ["RANK"] == "1":
        raise DataError("the disk of this one is gone")
    return whole(*arguments, **options)

uniemox.inference.evaluate.compute_outputs = fail
sys.exit(cli.main())
"""


@pytest.mark.slow
def test_where_one_process_alone_fails_the_others_end_too(finetuned, painted, tmp_path):
    script = tmp_path / "alone.py"
    script.write_text(ALONE)
    began = time.monotonic()
    done = torchrun("evaluate", finetuned.model, "--data", painted.path, script=script)
    assert done.returncode == 1
    own, *others = lines_of(done)
    assert own == "uniemox (rank 1): error: the disk of this one is gone"
    # torchrun may end the other process before it has heard of the death
    assert others in ([], ["uniemox: error: another process of the run died; its own message says why"])
    assert time.monotonic() - began < 120
