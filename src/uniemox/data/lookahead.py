"""Reading files in threads, ahead of what is asked for, but not so far that what waits fills the memory."""

from __future__ import annotations

import sys
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Condition
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    read: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    num_workers: int,
    ahead: int,
    size: Callable[[Result], int],
    room: int,
) -> Generator[Result, None, None]:
    """Read items in their order; whoever has enough closes it.

    Args:
        read: Called from several threads.
        items: Taken as they are needed.
        num_workers: Threads; 0 reads when a result is asked for.
        ahead: Items that are taken before their result is asked for (DECISIONS 43).
        size: How much of the room a result takes.
        room: When the results that wait take as much, no other is begun but the one that is asked for. Those that
            were begun before are finished, so what waits may take that of `num_workers` results more.
    """
    if num_workers == 0:
        yield from map(read, items)
        return
    places = enumerate(items)
    waiting: deque[tuple[int, Future[Result]]] = deque()
    store = _Store(read, size, room)
    with ThreadPoolExecutor(num_workers, thread_name_prefix="read") as pool:
        try:
            while True:
                for place, item in islice(places, ahead - len(waiting)):
                    waiting.append((place, pool.submit(store.fill, place, item)))
                if not waiting:
                    return
                yield store.take(*waiting.popleft())
        finally:  # whoever took the results may have had enough
            store.ask_for(sys.maxsize)
            pool.shutdown(wait=False, cancel_futures=True)


class _Store(Generic[Item, Result]):
    """What waits."""

    def __init__(
        self, read: Callable[[Item], Result], size: Callable[[Result], int], room: int
    ) -> None:
        self._read, self._size, self._room = read, size, room
        self._held = 0
        self._asked = 0
        self._change = Condition()

    def fill(self, place: int, item: Item) -> Result:
        """Read an item when there is room, or when all before it are taken: else it might wait for those after it."""
        with self._change:
            self._change.wait_for(lambda: self._held < self._room or place <= self._asked)
        result = self._read(item)
        with self._change:
            self._held += self._size(result)
        return result

    def take(self, place: int, future: Future[Result]) -> Result:
        """Wait for the result of a place, and make room of it."""
        self.ask_for(place)
        result = future.result()
        with self._change:
            self._held -= self._size(result)
            self._change.notify_all()
        return result

    def ask_for(self, place: int) -> None:
        """Let all up to this place be read whatever the room."""
        with self._change:
            self._asked = place
            self._change.notify_all()
