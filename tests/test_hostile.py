"""The fixture `run_hostile` itself: what it measures, and that nothing gets past it."""

import inspect
import time
from pathlib import Path

import pytest

HOLD = "x = bytearray(b'x' * (200 << 20))"  # 200 MiB twice, for a moment


def test_output_code_and_memory_of_a_script_are_told(run_hostile):
    ended = run_hostile(f"import sys, time; {HOLD}; time.sleep(0.3); print('done'); sys.exit('no')")
    assert (ended.returncode, ended.out, ended.err) == (1, "done\n", "no\n")
    assert 400 << 20 < ended.peak < 450 << 20


def test_memory_of_children_counts(run_hostile):
    inner = f"import time; {HOLD}; time.sleep(0.5)"
    assert run_hostile(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])").peak > 400 << 20


def test_a_list_of_words_is_a_command(run_hostile):
    assert run_hostile(["--version"]).out.startswith("uniemox ")


def test_a_script_that_takes_all_memory_is_stopped(run_hostile):
    began = time.monotonic()
    assert inspect.signature(run_hostile).parameters["limit"].default == 4 << 30  # a gigabyte takes seconds to fill
    with pytest.raises(AssertionError, match=r"took 0\.[5-9] GiB"):
        run_hostile("x = []\nwhile True: x.append(bytearray(b'x' * (1 << 20)))", limit=1 << 29)
    assert time.monotonic() - began < 30


def lives(status):
    try:
        return "State:\tZ" not in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_script_that_hangs_is_stopped_with_its_children(run_hostile, tmp_path):
    note = tmp_path / "pid"
    script = (
        f"import pathlib, subprocess; child = subprocess.Popen(['sleep', '99']); note = pathlib.Path({str(note)!r})"
    )
    script += "; note.write_text(str(child.pid)); child.wait()"
    with pytest.raises(AssertionError, match="ran for 3 s"):
        run_hostile(script, seconds=3)
    status = Path(f"/proc/{note.read_text()}/status")
    waited = time.monotonic() + 30  # a signal is sent at once and obeyed when the kernel comes to it
    while lives(status) and time.monotonic() < waited:
        time.sleep(0.05)
    assert not lives(status)


def test_a_traceback_fails(run_hostile):
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_hostile("1 / 0")


def test_a_process_can_be_interrupted(run_hostile):
    script = "import signal, time; signal.signal(2, lambda *_: exit(7)); print('go', flush=True); time.sleep(50)"
    ended = run_hostile(script, interrupt="go")
    assert ended.returncode == 7
    assert 0.5 < ended.seconds < 10
    with pytest.raises(AssertionError, match="ended before it could be interrupted"):
        run_hostile("pass", interrupt="go")
