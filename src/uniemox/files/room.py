"""Room in memory for large images, shared by all threads and processes of a user on this machine.

Decoding needs far more memory than a file has bytes, and every worker of a loader decodes by itself. So whoever decodes
a large image first takes room for it, and waits while others have it: of all that is decoded at once, no more than the
room is large. It is kept until what was decoded is no longer needed, which `ROOM.use` marks.

The room consists of slots. A slot is one byte of a file in the folder for temporary files, and is taken by a record
lock on that byte (POSIX `fcntl`), which ends with its process however that ends. Where there are no such locks, as on
Windows, each process has a room of its own.
"""

import contextlib
import ctypes
import errno
import os
import stat
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]  # Windows

DEFAULT: Final = 1024**3  # Bytes
_SLOT: Final = 16 * 1024**2  # Bytes of a slot
_SMALL: Final = 2 * _SLOT  # Bytes that are taken without asking: 32 workers with a usual photograph fill the room
_PAUSE: Final = 0.005  # Seconds between two looks for a free slot
_PATIENCE: Final = 60.0  # Seconds that are waited for a slot: its holder may be stopped, and never go on
_GATE: Final = 0  # Byte of the file that is locked by whoever gathers slots: two at once could wait for each other


class Room:
    """Room for images.

    Args:
        size: In bytes; an image that takes more is decoded alone.
        path: File whose bytes are the slots; None for the one of this user.
    """

    def __init__(self, size: int = DEFAULT, *, path: Path | None = None) -> None:
        self.size = size
        self._slots = max(1, size // _SLOT)
        self._path = path
        self._file: int | None = None
        self._mine = threading.local()
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)

    @contextmanager
    def use(self) -> Iterator[None]:
        """Keep the room that this thread takes in the block until its end."""
        self._mine.keeps = True
        try:
            yield
        finally:
            self._mine.keeps = False
            self._leave()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Take room for the block, or up to the end of the `use` around it; wait until there is as much.

        What this thread took before is given back first: of two images, it needs the second.
        """
        self._leave()
        if size > _SMALL:
            self._mine.slots = self._take(min(self._slots, -(-size // _SLOT)))
        kept = False
        try:
            yield
            kept = getattr(self._mine, "keeps", False)
        finally:
            if not kept:
                self._leave()

    def _reset(self) -> None:
        # A forked process has its parent's descriptor, but none of its locks.
        self._turn = threading.Lock()
        self._taken = set[int]()
        self._mine.__dict__.clear()

    def _take(self, count: int) -> list[int]:
        until = time.monotonic() + _PATIENCE
        slots: list[int] = []
        with ExitStack() as interrupted, self._turn, _locked(file := self._open(), _GATE, until):
            interrupted.callback(self._give_back, slots)
            while len(slots) < count and time.monotonic() < until:
                for slot in range(1, self._slots + 1):
                    if len(slots) < count and slot not in self._taken and _lock(file, slot):
                        self._taken.add(slot)
                        slots.append(slot)
                if len(slots) < count:
                    time.sleep(_PAUSE)
            interrupted.pop_all()
        return slots

    def _leave(self) -> None:
        slots = getattr(self._mine, "slots", ())
        if not slots:
            return
        self._mine.slots = ()
        _trim()
        self._give_back(slots)

    def _give_back(self, slots: Iterable[int]) -> None:
        for slot in slots:
            _unlock(self._file, slot)
            self._taken.discard(slot)

    def _open(self) -> int | None:
        """Open the file once; None where there is none, so that this process has a room of its own."""
        if self._file is None and fcntl is not None:
            path = self._path or Path(tempfile.gettempdir()) / f"uniemox-{os.getuid()}-room"
            with contextlib.suppress(OSError):
                file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                status = os.fstat(file)
                # Nobody else may keep this user waiting.
                if stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077:
                    self._file = file
                else:
                    os.close(file)
        return self._file


@contextmanager
def _locked(file: int | None, byte: int, until: float) -> Iterator[None]:
    while not _lock(file, byte) and time.monotonic() < until:
        time.sleep(_PAUSE)
    try:
        yield
    finally:
        _unlock(file, byte)


def _lock(file: int | None, byte: int) -> bool:
    """Lock a byte; False if another process has it. Where there are no locks, none is missed."""
    if file is None:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True


def _unlock(file: int | None, byte: int) -> None:
    if file is not None:
        with contextlib.suppress(OSError):
            fcntl.lockf(file, fcntl.LOCK_UN, 1, byte)


def _trim() -> None:
    """Give freed memory back to the system, which the C library would else keep for this thread."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


ROOM: Final = Room()
