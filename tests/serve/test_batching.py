"""Many requests share batches, and each gets its own answers."""

import asyncio
import time
from concurrent.futures import CancelledError
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from fastapi import HTTPException

from uniemox.inference.opening import Named
from uniemox.inference.predictor import Predictor
from uniemox.serve.batching import Batcher, Wanted
from uniemox.serve.limits import Admission
from uniemox.serve.metrics import Metrics


class Decoder:
    """Counts how many images are decoded at once, and remembers all."""

    def __init__(self, reader, seconds=0.0):
        self.reader, self.seconds, self.now, self.most, self.count = reader, seconds, 0, 0, 0

    def __call__(self, given):
        self.now, self.count = self.now + 1, self.count + 1
        self.most = max(self.most, self.now)
        time.sleep(self.seconds)
        result = self.reader(given)
        self.now -= 1
        return result


def with_batcher(backend, work, *, batch_size=4, workers=2):
    async def run():
        predictor = Predictor(backend)
        metrics = Metrics(lambda: 0, {"model": "red"})
        admission = Admission(100, 100)
        batcher = Batcher(predictor, batch_size=batch_size, workers=workers, admission=admission, metrics=metrics)
        try:
            return await work(batcher, Decoder(predictor.reader()))
        finally:
            await batcher.close()

    return asyncio.run(run())


def test_each_request_gets_its_own_answers_in_order(backend, make_image):
    colours = [(220, 20, 20), (20, 20, 220)]
    asked = [[(number + place) % 2 for place in range(number % 4 + 1)] for number in range(12)]

    async def work(batcher, decoder):
        images = [[Named(Path(str(c)), make_image(colours[c])) for c in request] for request in asked]
        return await asyncio.gather(*(batcher.predict(decoder, request) for request in images))

    found = with_batcher(backend, work)
    assert [[row.predicted for row in rows] for rows in found] == [[("red", "other")[c] for c in r] for r in asked]
    assert [[row.index for row in rows] for rows in found] == [list(range(len(request))) for request in asked]


def test_what_waits_while_the_model_is_busy_is_one_batch(backend, red):
    async def work(batcher, decoder):
        backend.gate.clear()
        first = asyncio.create_task(batcher.predict(decoder, [Named(Path("0"), red)]))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(batcher.predict(decoder, [Named(Path("0"), red)])) for _ in range(6)]
        await asyncio.sleep(0.1)
        backend.gate.set()
        await asyncio.gather(first, *others)

    with_batcher(backend, work)
    assert backend.batches == [1, 4, 2]


def test_a_lone_image_does_not_wait_for_others(backend, red):
    async def work(batcher, decoder):
        start = time.monotonic()
        for _ in range(20):
            await batcher.predict(decoder, [Named(Path("0"), red)])
        return (time.monotonic() - start) / 20

    assert with_batcher(backend, work) < 0.05
    assert backend.batches == [1] * 20


def test_no_more_is_decoded_ahead_than_two_batches_and_what_is_under_way(backend, red):
    async def work(batcher, decoder):
        backend.gate.clear()
        asked = asyncio.create_task(batcher.predict(decoder, [Named(Path("0"), red)] * 60))
        await asyncio.sleep(0.3)
        count, most = decoder.count, decoder.most
        backend.gate.set()
        return count, most, await asked

    count, most, rows = with_batcher(backend, work)
    assert most <= 2
    assert 2 * 4 <= count <= 2 * 4 + 2
    assert [row.predicted for row in rows] == ["red"] * 60


@pytest.mark.parametrize(("error", "status"), [(RuntimeError("/secret/path"), 500), (MemoryError(), 503)])
def test_a_model_that_fails_fails_its_batch_alone(backend, red, error, status, caplog):
    async def work(batcher, decoder):
        backend.error = error
        with pytest.raises(HTTPException) as failed:
            await batcher.predict(decoder, [Named(Path("0"), red)] * 3)
        backend.error = None
        return failed.value, await batcher.predict(decoder, [Named(Path("0"), red)])

    failed, rows = with_batcher(backend, work)
    assert failed.status_code == status
    assert "secret" not in failed.detail
    assert rows[0].predicted == "red"
    assert "failed" in caplog.text


def test_a_request_that_gave_up_leaves_no_trace(backend, red):
    async def work(batcher, decoder):
        backend.gate.clear()
        asked = asyncio.create_task(batcher.predict(decoder, [Named(Path("0"), red)] * 20))
        await asyncio.sleep(0.05)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        backend.gate.set()
        return await batcher.predict(decoder, [Named(Path("0"), red)] * 20)

    rows = with_batcher(backend, work)
    assert [row.predicted for row in rows] == ["red"] * 20


def test_an_explanation_runs_beside_predictions(backend, red):
    async def work(batcher, decoder):
        slow = asyncio.create_task(batcher.explain(lambda: time.sleep(0.5), alone=False))
        await asyncio.sleep(0.02)
        await batcher.predict(decoder, [Named(Path("0"), red)])
        is_running = not slow.done()
        await slow
        return is_running

    assert with_batcher(backend, work)


def test_an_explanation_that_nobody_waits_for_stops_among_its_images(backend):
    given_up, read = Event(), []

    def images():
        for place in range(10):
            read.append(place)
            yield np.zeros((1, 3, 16, 16), np.float32)
            if place == 4:
                given_up.set()

    assert len(Wanted(Predictor(backend), Event()).logits(images())) == 10
    given_up.clear()
    read.clear()
    with pytest.raises(CancelledError):
        Wanted(Predictor(backend), given_up).logits(images(), batch_size=2)
    assert (read, backend.batches[-2:]) == ([0, 1, 2, 3, 4, 5], [2, 2])
    read.clear()
    with pytest.raises(CancelledError):  # before the first is made
        Wanted(Predictor(backend), given_up).logits(images())
    assert read == []
