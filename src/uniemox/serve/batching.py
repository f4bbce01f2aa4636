"""From the images of many requests to common batches: threads decode, and one thread runs the model.

Nothing waits for a batch to fill while nobody else is about to join it: what is queued when the model is free is the
next batch, so a lone client is answered at once and many share the forward passes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from threading import Event
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from fastapi import HTTPException

from uniemox.inference.predictor import Predictor

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from uniemox.inference.opening import Named
    from uniemox.inference.predictor import Pixels, Prediction, Reader, Sample
    from uniemox.serve.limits import Admission
    from uniemox.serve.metrics import Metrics

log = logging.getLogger(__name__)
Result = TypeVar("Result")
_PAUSE: Final = 0.003  # Seconds that a batch waits for images that are being decoded
_MEMORY: Final = 0.2  # Share of the newest batch in the average time of an image


class _Waiting(NamedTuple):
    sample: Sample
    answer: asyncio.Future[Prediction]


class Wanted(Predictor):
    """A predictor that stops among the images of an explanation, once nobody waits for it any more.

    Args:
        predictor: Whose model and target these are.
        given_up: Set by another thread.
    """

    def __init__(self, predictor: Predictor, given_up: Event) -> None:
        super().__init__(predictor.backend, target=predictor.target, decoding=predictor.decoding)
        self._given_up = given_up

    def logits(self, prepared: Iterable[Pixels], *, batch_size: int = 32) -> npt.NDArray[np.float32]:
        """Run the model as `Predictor.logits` does, or raise `CancelledError`."""
        return super().logits(self._while_wanted(prepared), batch_size=batch_size)

    def check(self) -> None:
        """Raise `CancelledError` if nobody waits any more."""
        if self._given_up.is_set():
            raise CancelledError

    def _while_wanted(self, prepared: Iterable[Pixels]) -> Iterator[Pixels]:
        self.check()
        for pixels in prepared:
            self.check()
            yield pixels
            self.check()  # before the next is made


class Batcher:
    """Answers images; made, used and closed by the thread of an event loop.

    Args:
        predictor: Of the model.
        batch_size: Images in one forward pass.
        workers: Threads that decode.
        admission: Learns how long an image takes.
        metrics: Counts.
    """

    def __init__(
        self, predictor: Predictor, *, batch_size: int, workers: int, admission: Admission, metrics: Metrics
    ) -> None:
        self._predictor, self._batch_size = predictor, batch_size
        self._admission, self._metrics = admission, metrics
        self._decoders = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._model = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._explainer = ThreadPoolExecutor(1, thread_name_prefix="explain")
        self._turns = asyncio.Semaphore(workers)
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._prepared = 0  # Samples in memory; images of people have many
        self._has_room = asyncio.Condition()
        self._decoding = 0
        self._pump = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop, once nobody waits for an answer."""
        self._pump.cancel()
        with suppress(asyncio.CancelledError):
            await self._pump
        for pool in (self._decoders, self._model, self._explainer):
            pool.shutdown(wait=False, cancel_futures=True)

    async def predict(self, reader: Reader, images: Sequence[Named]) -> list[Prediction]:
        """Answer images in their order; one of several people has a row for each."""
        rows = await asyncio.gather(*(self._answer(reader, index, image) for index, image in enumerate(images)))
        return [row for of_image in rows for row in of_image]

    async def decode(self, work: Callable[[], Result]) -> Result:
        """Run something short in one of the threads that decode."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)

    async def explain(self, work: Callable[[], Result], *, alone: bool) -> Result:
        """Run a long explanation beside the predictions, or between them where it must have the model alone."""
        return await asyncio.get_running_loop().run_in_executor(self._model if alone else self._explainer, work)

    async def _answer(self, reader: Reader, index: int, image: Named) -> list[Prediction]:
        loop = asyncio.get_running_loop()
        self._decoding += 1
        try:
            async with self._turns:
                async with self._has_room:
                    await self._has_room.wait_for(lambda: self._prepared < 2 * self._batch_size)
                _, samples = await loop.run_in_executor(self._decoders, reader, (0, index, image))
                self._prepared += len(samples)
        finally:
            self._decoding -= 1
        waiting = [_Waiting(sample, loop.create_future()) for sample in samples]
        for each in waiting:
            self._queue.put_nowait(each)
        return await asyncio.gather(*(each.answer for each in waiting))

    async def _run(self) -> None:
        """Answer batch after batch."""
        while True:
            taken = [await self._queue.get()]
            if self._decoding and self._queue.qsize() + 1 < self._batch_size:
                await asyncio.sleep(_PAUSE)
            while len(taken) < self._batch_size and not self._queue.empty():
                taken.append(self._queue.get_nowait())
            await self._answer_batch([each for each in taken if not each.answer.done()])
            async with self._has_room:
                self._prepared -= len(taken)
                self._has_room.notify_all()

    async def _answer_batch(self, batch: Sequence[_Waiting]) -> None:
        if not batch:
            return
        start = time.monotonic()
        started = self._model.submit(self._predictor.answer, [each.sample for each in batch])
        await asyncio.wait([asyncio.wrap_future(started)])
        error = started.exception()
        if error is not None:
            log.error("a batch of %d images failed", len(batch), exc_info=error)
        for place, each in enumerate(batch):
            if each.answer.done():  # the request ran out of time meanwhile
                continue
            if error is None:
                each.answer.set_result(started.result()[place])
            else:
                each.answer.set_exception(_failure(error))
        self._metrics.batches.observe(len(batch))
        per_image = (time.monotonic() - start) / len(batch)
        self._admission.seconds_per_image += _MEMORY * (per_image - self._admission.seconds_per_image)


def _failure(error: BaseException) -> HTTPException:
    """Answer for a model that failed: 503 where it lacked memory, which passes, else 500; the log alone says why."""
    if isinstance(error, MemoryError) or "memory" in str(error):
        return HTTPException(503, "the model has too little memory at the moment: try again", {"Retry-After": "5"})
    return HTTPException(500, "the model failed; the log of the service says why")
