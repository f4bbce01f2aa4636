"""Reading files in threads, ahead of what is asked for, but not so far that what waits fills the memory."""

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Condition
from typing import TypeVar

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
        room: When the results that wait take as much, only the one that is asked for is started. Those that were
            started before are finished, so what waits may take that of `num_workers` results more.
    """
    if num_workers == 0:
        yield from map(read, items)
        return
    held = asked = 0
    change = Condition()

    def fill(place: int, item: Item) -> Result:
        """Read an item when there is room, or when all before it are taken: else it might wait for those after it."""
        nonlocal held
        with change:
            change.wait_for(lambda: held < room or place <= asked)
        result = read(item)
        with change:
            held += size(result)
        return result

    def update(*, place: int, freed: int = 0) -> None:
        """Let all up to this place be read whatever the room, and free some of it."""
        nonlocal held, asked
        with change:
            held, asked = held - freed, place
            change.notify_all()

    places = enumerate(items)
    waiting: deque[tuple[int, Future[Result]]] = deque()
    with ThreadPoolExecutor(num_workers, thread_name_prefix="read") as pool:
        try:
            while True:
                for place, item in islice(places, ahead - len(waiting)):
                    waiting.append((place, pool.submit(fill, place, item)))
                if not waiting:
                    return
                place, future = waiting.popleft()
                update(place=place)
                result = future.result()
                update(place=place, freed=size(result))
                yield result
        finally:  # whoever took the results may have had enough
            update(place=sys.maxsize)
            pool.shutdown(wait=False, cancel_futures=True)
