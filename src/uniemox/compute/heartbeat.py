"""Watches that all processes of a run are alive, since a collective waits for a dead or a stopped one for half an hour.

Each process writes a growing number into the store that the group was made with, and reads those of the others. Time is
counted in the watcher's own ticks, so that a job that was suspended as a whole does not look dead when it wakes up.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store, _get_default_store

log = logging.getLogger(__name__)
SECONDS: Final = 5.0  # Between two beats
PATIENCE: Final = 9  # Beats that a process may miss
LEFT, STOPPED, FAILED = "left", "stopped", "failed"  # Last words of a process


class Heartbeat:
    """Beats for this process and watches the others, in two threads: one may wait for the store for ever.

    Args:
        store: Which all processes share; used by this object alone.
        rank: Of this process.
        num_processes: Of the group.
        dead: Called once with what is known of the process that is dead, from a thread.
        seconds: Between two beats.
    """

    def __init__(
        self, store: Store, *, rank: int, num_processes: int, dead: Callable[[str], None], seconds: float = SECONDS
    ) -> None:
        self.dead = dead
        self.seconds = seconds
        self._store, self._own = store, f"beat of {rank}"
        self._over = threading.Event()
        self._ticks = 0
        self._round = 0
        """Tick in which the store last answered."""
        self._beats = {other: ("", 0) for other in range(num_processes) if other != rank}
        """Last beat of each other process, and the tick in which it was new."""
        self._beating, self._watching = (
            threading.Thread(target=work, daemon=True, name=f"uniemox {work.__name__}")
            for work in (self._beat, self._watch)
        )

    def start(self) -> None:
        """Start to beat and to watch; all processes must have written a first beat."""
        self._beating.start()
        self._watching.start()

    def first_beat(self) -> None:
        """Write a first beat, so that nobody waits for it."""
        self._store.set(self._own, "0")

    def stop(self, word: str = LEFT) -> None:
        """Stop watching, and leave a last word to the others.

        One that was stopped is missed like one that fell silent, unless all are stopped.
        """
        self._over.set()
        self._beating.join(timeout=2 * self.seconds)
        if self._beating.is_alive():
            return  # it waits for a store that is gone
        try:
            self._store.set(self._own, word)
        except (RuntimeError, OSError):
            log.debug("the store of the group is gone already")

    def _beat(self) -> None:
        count = 0
        while not self._over.wait(self.seconds):
            count += 1
            try:
                self._store.set(self._own, str(count))
                for other, (last, _) in self._beats.items():
                    beat = self._store.get(f"beat of {other}").decode()
                    if beat != last:
                        self._beats[other] = beat, self._ticks
            except (RuntimeError, OSError):  # the watcher reports it when it lasts
                continue
            self._round = self._ticks

    def _watch(self) -> None:
        while not self._over.wait(self.seconds):
            self._ticks += 1
            if reason := self._find_dead():
                self._over.set()
                self.dead(reason)

    def _find_dead(self) -> str | None:
        # Process 0 has the store, which was last heard of in the tick `_round`.
        silent = 0 if self._ticks - self._round >= PATIENCE else None
        for other, (beat, tick) in self._beats.items():
            if beat == FAILED:
                return f"process {other} failed"
            if beat != LEFT and self._round - tick >= PATIENCE:
                silent = other
                break
        return None if silent is None else f"process {silent} has not answered for {PATIENCE * self.seconds:.0f} s"


@contextmanager
def watched() -> Iterator[None]:
    """Watch the default group while the block runs; where a process of it dies, exit this one with code 1.

    The main thread may be inside a collective that never returns, so nothing gentler is possible.
    """
    store = _get_default_store()
    own = store.clone() if hasattr(store, "clone") else store
    own.set_timeout(timedelta(seconds=2 * SECONDS))
    heartbeat = Heartbeat(
        PrefixStore("uniemox", own), rank=dist.get_rank(), num_processes=dist.get_world_size(), dead=_exit
    )
    heartbeat.first_beat()
    dist.barrier()
    heartbeat.start()
    word = FAILED
    try:
        yield
        word = LEFT
    except KeyboardInterrupt:
        word = STOPPED
        raise
    finally:
        heartbeat.stop(word)


def _exit(reason: str) -> None:
    log.critical("%s, and all processes are needed: start the command again, a training run with --resume", reason)
    os._exit(1)
