"""What every request passes: a number of its own, safe headers, a line in the log, and the counters; and the key.

The log has no content: neither images nor names of files, addresses or headers of the client.
"""

from __future__ import annotations

import hmac
import json
import logging
import time
import uuid
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import Depends, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from uniemox.serve.metrics import Metrics

log = logging.getLogger("uniemox.requests")
"""One line of JSON for each request, at level INFO."""
HEADERS: Final = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
}  # Of an answer that has none of its own
_BEARER: Final = HTTPBearer(auto_error=False, description="The key that the service was started with")


class Gate:
    """ASGI middleware around the whole service.

    Args:
        app: What answers.
        metrics: Counts.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self.app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, number, status = time.monotonic(), uuid.uuid4().hex, 500  # where nothing is sent

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name for name, _ in message["headers"]}
                added = [(name, value) for name, value in HEADERS.items() if name not in given]
                message["headers"] = [*message["headers"], *added, (b"x-request-id", number.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_noted)
        finally:
            seconds = time.monotonic() - start
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(seconds)
            images = scope.get("state", {}).get("images", 0)
            line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "id": number, "route": route}
            log.info("%s", json.dumps({**line, "status": status, "ms": round(1000 * seconds, 1), "images": images}))


def require(key: str | None) -> list[Any]:
    """Make the dependencies of a route that answers only requests with the key; none where there is none."""

    async def check(given: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]) -> None:
        sent = "" if given is None else given.credentials
        if not hmac.compare_digest(sent.encode(), (key or "").encode()):
            detail = "this service asks for a key: send the header Authorization: Bearer KEY"
            raise HTTPException(401, detail, {"WWW-Authenticate": "Bearer"})

    return [] if key is None else [Depends(check)]
