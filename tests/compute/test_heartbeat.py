"""Processes that watch each other, here as threads that share a store; real ones are killed in `train/test_run.py`."""

import threading
import time

import pytest
import torch.distributed as dist

from uniemox.compute import heartbeat
from uniemox.compute.heartbeat import FAILED, PATIENCE, STOPPED, Heartbeat

SECONDS = 0.05


class Watched:
    """Heartbeats of some processes on one store, and what each was told."""

    def __init__(self, count):
        self.store = dist.HashStore()
        self.told = {rank: [] for rank in range(count)}
        self.beats = [
            Heartbeat(self.store, rank=rank, num_processes=count, dead=self.told[rank].append, seconds=SECONDS)
            for rank in range(count)
        ]
        for beat in self.beats:
            beat.first_beat()
        for beat in self.beats:
            beat.start()

    def wait(self, rank, seconds=20 * PATIENCE * SECONDS):
        deadline = time.monotonic() + seconds
        while not self.told[rank] and time.monotonic() < deadline:
            time.sleep(SECONDS / 2)
        return self.told[rank]

    def silence(self, rank):
        """Let a process fall silent, as one that is killed or stopped."""
        self.beats[rank]._over.set()


@pytest.fixture
def three():
    watched = Watched(3)
    yield watched
    for beat in watched.beats:
        beat.stop()


def test_processes_that_beat_hear_nothing(three):
    time.sleep(3 * PATIENCE * SECONDS)
    assert three.told == {0: [], 1: [], 2: []}


@pytest.mark.parametrize("rank", [0, 2])
def test_a_silent_process_is_named_once_to_each_of_the_others(three, rank):
    three.silence(rank)
    for other in {0, 1, 2} - {rank}:
        (told,) = three.wait(other)
        assert told == f"process {rank} has not answered for {PATIENCE * SECONDS:.0f} s"
    assert three.told[rank] == []


def test_a_process_that_left_is_not_missed(three):
    three.beats[1].stop()
    time.sleep(3 * PATIENCE * SECONDS)
    assert three.told == {0: [], 1: [], 2: []}


def test_a_process_that_was_stopped_alone_is_missed_like_a_silent_one(three):
    three.beats[1].stop(STOPPED)
    assert three.wait(0) == [f"process 1 has not answered for {PATIENCE * SECONDS:.0f} s"]


def test_a_process_that_failed_is_named_at_once(three):
    three.beats[1].stop(FAILED)
    assert three.wait(0) == ["process 1 failed"]
    assert three.wait(2) == ["process 1 failed"]


def test_a_store_that_never_answers_is_the_death_of_the_first_process():
    stuck = threading.Event()

    class Store:
        def set(self, *_):
            stuck.wait(30)
            raise RuntimeError("the store is gone")

    told = []
    beat = Heartbeat(Store(), rank=1, num_processes=2, dead=told.append, seconds=SECONDS)
    beat.start()
    deadline = time.monotonic() + 30
    while not told and time.monotonic() < deadline:
        time.sleep(SECONDS)
    assert told == [f"process 0 has not answered for {PATIENCE * SECONDS:.0f} s"]
    beat.stop()  # does not wait for it
    stuck.set()


def test_a_dead_process_is_found_within_a_minute():
    assert PATIENCE * heartbeat.SECONDS + 2 * heartbeat.SECONDS < 60
