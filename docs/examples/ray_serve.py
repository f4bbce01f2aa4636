"""The service on several machines, by Ray Serve: each replica is a whole service with its own model and batches.

pip install 'uniemox[serve,export,ray]'
serve run docs.examples.ray_serve:app model=/models/exported replicas=4
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from uniemox.config.serve import ServeConfig
from uniemox.inference.predictor import Predictor
from uniemox.serve.app import Service, build_app


class Emotions:
    """A replica."""

    def __init__(self, model: str) -> None:
        self.service = Service(Predictor.load(model), ServeConfig(model=model))
        self.app = build_app(self.service)
        self.running: Any = None

    async def __call__(self, request: Request) -> Response:
        """Answer one request, whose body Ray has read."""
        if self.running is None:
            self.running = self.service.running(self.app)
            await self.running.__aenter__()
        messages: list[Any] = []

        async def send(message: Any) -> None:
            messages.append(message)

        await self.app(request.scope, request.receive, send)
        head, *parts = messages
        response = Response(b"".join(part.get("body", b"") for part in parts), head["status"])
        response.raw_headers = head["headers"]
        return response


def app(arguments: dict[str, str]) -> Any:
    """Make the application that `serve run` starts."""
    from ray import serve

    deployment = serve.deployment(Emotions).options(num_replicas=int(arguments.get("replicas", "1")))
    return deployment.bind(arguments["model"])
