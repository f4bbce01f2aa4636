"""The service itself: its routes, from a request to the answer of the model."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse

from uniemox.checkpoints.card import caution
from uniemox.checkpoints.notice import use_notice
from uniemox.errors import ConfigError, DataError
from uniemox.files.images import MAX_PIXELS, Unreadable, decode_image
from uniemox.inference.opening import Named
from uniemox.inference.predictor import Prediction, Predictor
from uniemox.serve import schema
from uniemox.serve.batching import Batcher, Wanted
from uniemox.serve.gate import HEADERS, Gate, require
from uniemox.serve.limits import Admission, Ticket, read_body
from uniemox.serve.metrics import CONTENT_TYPE, Metrics
from uniemox.serve.requests import Asked, Given, parse
from uniemox.serve.site import site
from uniemox.serve.urls import fetch
from uniemox.version import __version__
from uniemox.wording import printable

if TYPE_CHECKING:
    from PIL import Image

    from uniemox.config.serve import ServeConfig
    from uniemox.inference.explain import Explanation
    from uniemox.manifests.table import Box
    from uniemox.people.detectors.detector import Detector

_FETCHERS: Final = 8  # URLs that are fetched at once
_MOST_EXPLAINED: Final = 4  # Explanations at once, each of which takes as long as a hundred images
_ALONE: Final = ("gradcam", "layercam")  # Methods that change the model while they run
_UNKNOWN: Final = {
    404: "nothing is at this address: openapi.json lists those that there are",
    405: "this address takes another method: openapi.json lists them",
}


def name_of(model: str) -> str:
    """Name a model for strangers, without the path of its folder or file."""
    architecture, is_file, _ = model.partition("=")
    if model.startswith("clip:") and is_file:
        return architecture
    return model if ":" in model else Path(model).name or model


class InTurn:
    """A detector that one thread at a time uses (DECISIONS 59)."""

    def __init__(self, detector: Detector) -> None:
        self.source, self._detector, self._turn = detector.source, detector, Lock()

    def detect(self, images: Sequence[Image.Image]) -> list[tuple[Box, ...]]:
        """Find the people in each image."""
        with self._turn:
            return self._detector.detect(images)


@dataclass
class Service:
    """A model that answers requests."""

    predictor: Predictor
    config: ServeConfig
    detector: Detector | None = None
    fetch: Callable[..., bytes | Unreadable] = fetch  # Tests put another one here
    is_stopping: bool = False

    def __post_init__(self) -> None:
        config, facts = self.config, self.predictor.facts
        self.admission = Admission(config.queue, config.max_bytes)
        self.model, self.notice, self.digest = name_of(config.model), use_notice(facts), self.predictor.digest()
        about = {"model": self.model, "digest": self.digest[:16], "version": __version__}
        self.metrics = Metrics(lambda: self.admission.images, about)
        self._num_explained = 0
        self._plain = self.predictor.reader()
        if self.detector is not None:
            self.detector = InTurn(self.detector)
        self._detecting = None if self.detector is None else self.predictor.reader(self.detector)

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """Run the threads while the application does."""
        del app
        config = self.config
        self.batcher = Batcher(
            self.predictor,
            batch_size=config.batch_size,
            workers=max(1, config.workers),
            admission=self.admission,
            metrics=self.metrics,
        )
        with ThreadPoolExecutor(_FETCHERS, thread_name_prefix="fetch") as self._fetchers:
            yield
            await self.batcher.close()

    def labels(self) -> dict[str, Any]:
        """Describe the model and the limits."""
        facts, config = self.predictor.facts, self.config
        level = facts.numbers.get("label_set", (None,))
        return {
            "model": self.model,
            "digest": self.digest,
            "version": __version__,
            "target": facts.target,
            "units": self.predictor.target.units,
            "classes": list(facts.classes),
            "emotion": facts.emotion,
            "precision": self.predictor.precision,
            "label_set_level": level[0] if level else None,
            "notice": self.notice,
            "caution": caution(facts) or None,
            "limits": {
                "max_bytes": config.max_bytes,
                "max_pixels": config.max_pixels or MAX_PIXELS,
                "max_images": config.max_images,
            },
            "detects": self.detector is not None,
            "fetches": config.allow_urls,
        }

    async def predict(self, request: Request) -> dict[str, Any]:
        """Answer the images of a request."""
        with self.admission.admit() as ticket:
            asked = await self._read(request, ticket, max_images=self.config.max_images)
            request.state.images = len(asked.images)
            rows = await self._in_time(self._predict(asked, ticket))
        unreadable = sum(row.answer is None and row.box is None for row in rows)
        self.metrics.images.labels("unreadable").inc(unreadable)
        self.metrics.images.labels("answered").inc(len(asked.images) - unreadable)
        if len(asked.images) == 1 and unreadable:
            raise HTTPException(422, f"the image cannot be read: {rows[0].reason}")
        predictions = [_to_dict(row, asked) for row in rows]
        return {"model": self.model, "notice": self.notice, "predictions": predictions}

    async def explain(self, request: Request) -> dict[str, Any]:
        """Explain the answer to the image of a request."""
        with self.admission.admit() as ticket:
            asked = await self._read(request, ticket, max_images=1)
            request.state.images = 1
            if self._num_explained >= _MOST_EXPLAINED:
                raise self.admission.refuse(f"{_MOST_EXPLAINED} explanations are waiting already")
            self._num_explained += 1
            try:
                explanation, drawn = await self._in_time(self._explain(asked, ticket))
            finally:
                self._num_explained -= 1
        values = {name: value for name, value in explanation.to_dict().items() if name != "path"}
        return {"model": self.model, "notice": self.notice, **values, "overlay": drawn}

    async def _read(self, request: Request, ticket: Ticket, *, max_images: int) -> Asked:
        declared, seconds = request.headers.get("content-length"), self.config.timeout
        body = await read_body(request.stream(), ticket, declared=declared, seconds=seconds)
        kind, query = request.headers.get("content-type", ""), dict(request.query_params)
        read = partial(parse, kind, body, query, max_images=max_images)
        asked: Asked = await self._in_time(self.batcher.decode(read))
        ticket.take_images(len(asked.images))
        if asked.options.detect and self.detector is None:
            raise HTTPException(422, "detect is true, but the service was started without a detector")
        return asked

    async def _in_time(self, work: Any) -> Any:
        try:
            async with asyncio.timeout(self.config.timeout):
                return await work
        except TimeoutError:
            raise HTTPException(504, f"not answered within {self.config.timeout:g} s: try again") from None

    async def _predict(self, asked: Asked, ticket: Ticket) -> list[Prediction]:
        contents = await asyncio.gather(*map(self._content, asked.images))
        images = [Named(Path(str(place)), content) for place, content in enumerate(contents)]
        boxes = await self._boxes(asked, ticket)
        if boxes is None:
            reader = self._detecting if asked.options.detect and self._detecting else self._plain
        else:
            reader = self.predictor.reader({image.path: found for image, found in zip(images, boxes, strict=True)})
        return await self.batcher.predict(reader, images)

    async def _boxes(self, asked: Asked, ticket: Ticket) -> list[list[Box]] | None:
        boxes = await self.batcher.decode(asked.boxes)
        ticket.take_images(sum(map(len, boxes or ())))
        return boxes

    async def _explain(self, asked: Asked, ticket: Ticket) -> tuple[Explanation, str | None]:
        boxes, options = await self._boxes(asked, ticket), asked.options
        content = await self._content(asked.images[0])
        given_up = Event()
        work = partial(self._explain_now, content, None if boxes is None else boxes[0], options, given_up)
        try:
            found: tuple[Explanation, str | None] = await self.batcher.explain(work, alone=options.method in _ALONE)
        except (ConfigError, DataError) as error:
            # The error about a layer names the file of the model.
            unfit = f"method {options.method} does not fit the model, or torchcam is not installed: use occlusion"
            raise HTTPException(422, unfit if options.method in _ALONE else printable(str(error))) from None
        finally:
            given_up.set()  # no thread goes on for a request that ran out of time
        return found

    def _explain_now(
        self, content: bytes | Unreadable, boxes: list[Box] | None, options: Any, given_up: Event
    ) -> tuple[Explanation, str | None]:
        from uniemox.inference.explain import explain_image
        from uniemox.inference.overlay import overlay

        predictor = Wanted(self.predictor, given_up)
        predictor.check()
        image = content if isinstance(content, Unreadable) else decode_image(content)
        if isinstance(image, Unreadable):
            raise DataError(f"the image cannot be read: {image.reason}")
        predictor.check()
        if boxes is None and self.detector is not None:
            boxes = list(self.detector.detect([image])[0])
        found = explain_image(predictor, image, boxes=boxes, method=options.method, emotion=options.emotion)
        if found.map is None:
            return found, None
        file = io.BytesIO()
        overlay(image, found).save(file, "PNG")
        return found, base64.b64encode(file.getvalue()).decode()

    async def _content(self, given: Given) -> bytes | Unreadable:
        if given.url is None:
            assert given.content is not None
            return given.content
        if not self.config.allow_urls:
            return Unreadable("a URL, which this service does not fetch: send the image itself")
        work = partial(self.fetch, given.url, max_bytes=self.config.max_bytes)
        found: bytes | Unreadable = await asyncio.get_running_loop().run_in_executor(self._fetchers, work)
        return found


def _to_dict(row: Prediction, asked: Asked) -> dict[str, Any]:
    values = row.to_dict()
    del values["path"]
    unnamed = "image" if len(asked.images) == 1 else f"image {row.index}"
    return {"index": row.index, "name": asked.images[row.index or 0].name or unnamed, **values}


def build_app(service: Service, *, key: str | None = None) -> FastAPI:
    """Make the application of a service; with a key, requests for answers and metrics must carry it."""
    app = FastAPI(
        title="uniemox",
        version=__version__,
        description="The emotion of images, over HTTP.",
        lifespan=service.running,
        docs_url=None,  # FastAPI's pages load scripts of another host
        redoc_url=None,
    )

    guard = require(key)

    @app.post("/v1/predict", summary="Predict the emotions of images", dependencies=guard, **schema.PREDICT)
    async def predict(request: Request) -> JSONResponse:
        return JSONResponse(await service.predict(request))

    @app.post("/v1/explain", summary="Explain the answer to an image", dependencies=guard, **schema.EXPLAIN)
    async def explain(request: Request) -> JSONResponse:
        return JSONResponse(await service.explain(request))

    @app.get("/v1/labels", summary="Describe the model and the limits", dependencies=guard, **schema.LABELS)
    async def labels() -> JSONResponse:
        return JSONResponse(service.labels())

    @app.get("/health", summary="Whether the process is alive")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/ready", summary="Whether requests are answered", responses={503: {"description": "It is stopping"}})
    async def ready() -> JSONResponse:
        if service.is_stopping:
            return JSONResponse({"status": "stopping"}, 503)
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", summary="Counters for Prometheus", dependencies=guard, response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.render(), media_type=CONTENT_TYPE)

    app.include_router(site())
    for status in _UNKNOWN:
        app.add_exception_handler(status, _answer_unknown)
    app.add_exception_handler(Exception, _answer_error)
    app.add_middleware(Gate, metrics=service.metrics)
    return app


async def _answer_unknown(request: Request, error: Any) -> Response:
    del request
    return JSONResponse({"detail": _UNKNOWN[error.status_code]}, error.status_code, error.headers)


async def _answer_error(request: Request, error: Exception) -> Response:
    """Answer an error that nobody expected without what it says, which the log has; the gate is not passed again."""
    del request, error
    response = JSONResponse({"detail": "the service failed; its log says why"}, 500)
    response.raw_headers.extend(HEADERS.items())
    return response
