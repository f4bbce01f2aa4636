"""Signals that ask a run to stop: noted during a step and obeyed after it, obeyed at once everywhere else.

Ctrl-C sends SIGINT, batch systems and `kill` send SIGTERM, SLURM's `--signal` often SIGUSR1, and a closed terminal
SIGHUP. A signal that is ignored when the run starts, as SIGHUP under nohup, stays ignored.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from uniemox.errors import Interrupted

STOPPING: Final = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
    if hasattr(signal, name)  # Windows lacks the last two
)


class StopSignals:
    """Hears signals that ask to stop. Outside the main thread, where Python hears none, it hears none either."""

    def __init__(self) -> None:
        self.received: int | None = None
        """Number of the signal that arrived while stopping was deferred."""
        self._deferred = False

    @contextmanager
    def listening(self) -> Iterator[StopSignals]:
        """Turn the signals into `Interrupted` while the block runs."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.getsignal(number) for number in STOPPING}
        heard = {number: old for number, old in before.items() if old is not signal.SIG_IGN}
        for number in heard:
            signal.signal(number, self._hear)
        try:
            yield self
        finally:
            for number, old in heard.items():
                # None: set by other than Python, which cannot put it back
                signal.signal(number, old or signal.SIG_DFL)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note the first signal while the block runs, so that it can finish a step; a second Ctrl-C stops at once.

        Raises:
            Interrupted: One arrived, and the block ended without acting on it.
        """
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.received is not None:
            raise Interrupted(self.received)

    def _hear(self, signum: int, frame: Any) -> None:
        del frame
        if not self._deferred or (self.received == signum == signal.SIGINT):
            raise Interrupted(signum)
        if self.received is None:  # a batch system may send SIGTERM several times
            self.received = signum
