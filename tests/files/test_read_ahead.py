"""Reading ahead."""

import threading
import time

import pytest

from uniemox.files.read_ahead import read_ahead


class Reader:
    """Gives each number as it is, and notes what was begun; those of `slow` take a while."""

    def __init__(self, slow=()):
        self.begun = []
        self.slow = slow

    def __call__(self, number):
        self.begun.append(number)
        if number in self.slow:
            time.sleep(0.02)
        if number < 0:
            raise ValueError("below 0")
        return number


def wait_until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.001)


def ahead(read, items, **changes):
    options = {"num_workers": 3, "ahead": 5, "size": lambda number: 1, "room": 100}
    return read_ahead(read, items, **options | changes)


@pytest.mark.parametrize("num_workers", [0, 1, 4])
@pytest.mark.parametrize("room", [1, 3, 100])
def test_results_come_in_order_however_many_read_and_wait(num_workers, room):
    read = Reader(slow={0, 1, 5, 12})
    found = list(ahead(read, range(40), num_workers=num_workers, room=room))
    assert found == list(range(40))
    assert sorted(read.begun) == found


def test_no_more_items_are_taken_than_are_read_ahead():
    taken = []

    def items():
        for number in range(50):
            taken.append(number)
            yield number

    results = ahead(Reader(), items())
    for count in range(1, 9):
        next(results)
        assert len(taken) == 5 + count - 1
    results.close()


def test_without_threads_an_item_is_read_when_it_is_asked_for():
    read = Reader()
    results = ahead(read, range(9), num_workers=0)
    assert [next(results), next(results)] == [0, 1]
    assert read.begun == [0, 1]


def test_what_waits_takes_no_more_than_the_room_and_what_was_begun():
    read = Reader()
    results = ahead(read, range(50), ahead=40, num_workers=2, size=lambda number: 10, room=30)
    assert next(results) == 0
    # Three fill the room; the other thread may have looked into it just before.
    wait_until(lambda: len(read.begun) >= 4)
    time.sleep(0.05)
    assert len(read.begun) <= 1 + 3 + 1
    assert list(results) == list(range(1, 50))


def test_a_result_larger_than_the_room_comes_like_others():
    found = ahead(Reader(slow={0}), range(20), num_workers=4, size=lambda number: 10**9, room=1)
    assert list(found) == list(range(20))


def test_an_error_comes_where_its_result_would_and_ends_all_threads():
    results = ahead(Reader(), [0, 1, -1, 2, 3], room=1)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="below 0"):
        next(results)
    wait_until(lambda: not any(t.name.startswith("read") for t in threading.enumerate()))


def test_who_stops_early_does_not_wait_for_threads_that_wait_for_room():
    results = ahead(Reader(), range(10_000), ahead=1000, num_workers=4, room=1)
    next(results)
    results.close()
    wait_until(lambda: not any(t.name.startswith("read") for t in threading.enumerate()))
