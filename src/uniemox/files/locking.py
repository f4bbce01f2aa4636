"""Locks between processes: a folder that one run writes is closed to others until it ends, however it ends.

A lock is of the process alone (POSIX record locks): a loader's worker that outlives its run does not hold it. The
system lets go of such a lock when the process closes the file anywhere, so what this process holds is written down.
"""

import errno
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Final

from uniemox.wording import one_line

log = logging.getLogger(__name__)

_PAUSE: Final = 0.1  # Seconds between two looks at a lock that is waited for
_held: Final = set[tuple[int, int]]()  # Device and number of the files that this process has locked
_change: Final = Lock()


@contextmanager
def locked(path: Path, *, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock of a file, which is made with its folder if absent; the block may remove both.

    Whoever holds it is waited for so many seconds.

    Raises:
        BlockingIOError: It is held; `strerror` says by which process, as the file does.
        OSError: The file cannot be made.
    """
    handle, key = _take_in_turn(path, time.monotonic() + patience)
    try:
        os.truncate(handle, 0)
        os.write(handle, f"{os.getpid()} on {platform.node()}".encode())
        yield
    finally:
        _held.discard(key)
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Whether the lock of a file is held."""
    with _change:
        try:
            if _key(path.stat()) in _held:
                return True
            handle = os.open(path, os.O_RDWR)
        except OSError:
            return False
        try:
            _lock(handle)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
    return False


def _take_in_turn(path: Path, until: float) -> tuple[int, tuple[int, int]]:
    is_waiting = False
    while True:
        try:
            with _change:
                handle = _take(path)
                key = _key(os.fstat(handle))
                _held.add(key)
                return handle, key
        except BlockingIOError as error:
            if time.monotonic() >= until:
                raise
            if not is_waiting:
                log.info("waiting for %s, which process %s holds", path, error.strerror)
        is_waiting = True
        time.sleep(_PAUSE)


def _take(path: Path) -> int:
    """Open and lock a file; again where whoever had it before removed it in between."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and _key(path.stat()) in _held:
            raise BlockingIOError(errno.EAGAIN, f"{os.getpid()}, this one")
        with suppress(FileNotFoundError), ExitStack() as stack:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            stack.callback(os.close, handle)
            _lock(handle)
            if _key(os.fstat(handle)) == _key(path.stat()):
                stack.pop_all()
                return handle


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _lock(handle: int) -> None:
    """Lock an open file where system and file system can; `BlockingIOError` if another process has it."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            holder = os.pread(handle, 200, 0).decode("utf-8", "replace")
            raise BlockingIOError(errno.EAGAIN, one_line(holder) or "unknown") from error
        log.warning("this file system has no locks (%s): start no second run on the same files", error)
