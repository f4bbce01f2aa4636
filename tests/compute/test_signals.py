"""Signals that ask to stop, sent to this process."""

import os
import signal
import threading
from contextlib import nullcontext

import pytest

from uniemox.compute.signals import STOPPING, StopSignals
from uniemox.errors import Interrupted


def send(number):
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def _as_before():
    before = {number: signal.getsignal(number) for number in STOPPING}
    yield
    assert {number: signal.getsignal(number) for number in STOPPING} == before


def hear(*numbers, deferred=True):
    """Send signals to a block; give the number that stopped it, and how many were sent by then."""
    signals, sent = StopSignals(), []
    with pytest.raises(Interrupted) as stopped:
        listen(signals, numbers, sent, deferred=deferred)
    return stopped.value.signum, len(sent)


def listen(signals, numbers, sent, *, deferred):
    with signals.listening(), signals.deferred() if deferred else nullcontext():
        for number in numbers:
            sent.append(number)
            send(number)
        sent.append("done")


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_stops_at_once_with_its_number(number):
    assert hear(number, deferred=False) == (number, 1)


@pytest.mark.parametrize("number", STOPPING)
def test_a_deferred_signal_stops_at_the_end_of_the_block(number):
    assert hear(number) == (number, 2)


def test_a_second_ctrl_c_does_not_wait():
    assert hear(signal.SIGINT, signal.SIGINT) == (signal.SIGINT, 2)


def test_a_batch_system_may_send_its_signal_as_often_as_it_likes():
    sent = (signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1)
    assert hear(*sent) == (signal.SIGTERM, 4)


def test_a_hangup_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals().listening():
            send(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_thread_hears_nothing():
    heard = []

    def listen():
        with StopSignals().listening() as signals, signals.deferred():
            heard.append(signals.received)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert heard == [None]
