"""Locks between processes."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import uniemox
from uniemox.files import locking
from uniemox.files.locking import is_locked, locked

HOLDER = """
import sys
from pathlib import Path
from uniemox.files.locking import locked

with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""

LOOK = """
import sys
from pathlib import Path

sys.path.insert(0, ROOT)
from uniemox.files.locking import is_locked

sys.exit(7 if is_locked(Path(sys.argv[1])) else 0)
""".replace("ROOT", repr(str(Path(uniemox.__file__).parents[1])))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "none" / "lock"


def hold(path):
    """Hold a lock in another process, which is killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(uniemox.__file__).parents[1])},
    )
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_lock_is_waited_for_as_long_as_that_is_asked(path, caplog):
    caplog.set_level("INFO")
    with hold(path) as process:
        with pytest.raises(BlockingIOError), locked(path, patience=0.3):
            pass
        assert caplog.text.count(f"waiting for {path}, which process {process.pid} on ") == 1
        threading.Timer(0.2, process.kill).start()
        with locked(path, patience=60):
            assert process.wait() != 0


def test_a_lock_keeps_other_processes_out_until_its_own_ends(path):
    with hold(path) as process:
        assert is_locked(path)
        with pytest.raises(BlockingIOError, match=f"{process.pid} on "), locked(path):
            pass
        process.kill()
    assert not is_locked(path)
    with locked(path):
        assert path.exists()


def test_a_lock_is_held_against_its_own_process_too_and_outlives_every_look_at_it(path):
    with locked(path):
        for _ in range(2):
            assert is_locked(path)
            with pytest.raises(BlockingIOError, match=f"{os.getpid()}"), locked(path):
                pass
        assert subprocess.run([sys.executable, "-c", LOOK, str(path)], check=False).returncode == 7
    assert not is_locked(path)


def test_a_forked_worker_that_outlives_its_run_holds_nothing(path):
    end, start = os.pipe()
    with locked(path):
        worker = os.fork()
        if worker == 0:
            os.close(start)
            os.read(end, 1)
            os._exit(0)
    look = [sys.executable, "-c", LOOK, str(path)]
    assert subprocess.run(look, check=False, close_fds=True).returncode == 0
    os.close(start)
    os.waitpid(worker, 0)
    os.close(end)


def test_where_there_is_no_file_there_is_no_lock(path):
    assert not is_locked(path)
    assert not path.parent.exists()


def test_the_block_may_remove_the_file_and_the_folder(path):
    for _ in range(2):
        with locked(path):
            path.unlink()
            path.parent.rmdir()
    assert not path.parent.exists()


@pytest.mark.parametrize("error", [None, ValueError("broken")])
def test_a_lock_is_free_after_the_block(path, error):
    try:
        with locked(path):
            if error is not None:
                raise error
    except ValueError:
        pass
    assert not is_locked(path)


def test_a_lock_that_another_run_removed_is_none(path, monkeypatch):
    lock, calls = locking._lock, []

    def remove_once(handle):
        calls.append(handle)
        if len(calls) == 1:  # the other run ends between opening and locking
            path.unlink()
            path.parent.rmdir()
        lock(handle)

    monkeypatch.setattr(locking, "_lock", remove_once)
    with locked(path):
        assert os.path.samestat(os.fstat(calls[-1]), path.stat())
    assert len(calls) == 2


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_and_used(path, monkeypatch, caplog, number):
    import fcntl

    def refuse(handle, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with locked(path):
        assert "this file system has no locks" in caplog.text


def test_a_system_without_locks_is_used(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with locked(path):
        assert path.exists()
    assert not is_locked(path)


def test_a_place_without_a_lock_file_is_an_error_of_the_system(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"Not a directory|File exists"), locked(tmp_path / "file/lock"):
        pass
