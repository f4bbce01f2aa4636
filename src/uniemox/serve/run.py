"""Running a service: its address, its server, and how it stops."""

from __future__ import annotations

import functools
import math
import os
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from uniemox.config.serve import KEY_VARIABLE
from uniemox.errors import CheckpointError, ConfigError, DataError
from uniemox.serve.app import build_app
from uniemox.wording import reason_of

if TYPE_CHECKING:
    from asyncio import TimerHandle, Transport

    from uniemox.inference.predictor import Predictor
    from uniemox.serve.app import Service

_HEAD_SECONDS: Final = 10.0  # In which a connection must send the head of a request, the first or another
_KEEP_ALIVE: Final = 5  # Seconds without a byte after which a connection between two requests is closed
_BACKLOG: Final = 2048
_SHORTEST_KEY, _LONGEST_KEY = 16, 1024  # Characters


def read_key(path: Path | None) -> str | None:
    """Read the key from its file or the environment; None where neither is given, `ConfigError` where it is none."""
    if path is None:
        given, place = os.environ.get(KEY_VARIABLE), f"the variable {KEY_VARIABLE}"
    else:
        place = str(path)
        try:
            given = path.read_text(encoding="utf-8")[: _LONGEST_KEY + 2]
        except (OSError, ValueError) as error:
            raise ConfigError(f"`key_file` {path} cannot be read: {reason_of(error)}") from error
    if given is None:
        return None
    key = given.strip()
    if not (_SHORTEST_KEY <= len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(
            f"{place} holds no key: give {_SHORTEST_KEY} to {_LONGEST_KEY} letters, digits and signs without blanks, "
            "such as `openssl rand -hex 32` prints"
        )
    return key


def bind(host: str, port: int) -> socket.socket:
    """Take an address, or raise `DataError` where it is in use, or not of this machine."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except (OSError, UnicodeError) as error:
        listener.close()
        step = "stop what listens there, or choose another `port` or `host`"
        raise DataError(f"cannot listen on {host} port {port}: {reason_of(error)}; {step}") from error
    return listener


def warm_up(predictor: Predictor) -> None:
    """Run the model once, or raise `CheckpointError`: what cannot answer must not listen."""
    (row,) = predictor.predict(np.full((64, 64, 3), 128, np.uint8))
    if row.answer is None:
        raise CheckpointError(f"the model does not answer a grey image: {row.reason}")


def run(service: Service, listener: socket.socket, *, key: str | None) -> int | None:
    """Answer requests until a signal stops it; what is accepted by then is answered first.

    Returns the number of the signal.
    """
    _raise_limit_of_files()
    longest = 3 * service.config.timeout + _HEAD_SECONDS  # to arrive, to be read and to be answered, each in its time
    config = uvicorn.Config(
        build_app(service, key=key),
        http=functools.partial(Patient, seconds=longest),  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=math.ceil(longest),
        backlog=_BACKLOG,
    )
    server = _Server(config, service)
    server.run(sockets=[listener])
    return server.stopped_by


class _Server(uvicorn.Server):
    """A server that a signal stops and does not kill."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.stopped_by: int | None = None
        self._service = service

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Hear signals while it runs; uvicorn's own way raises them again when all is done, which kills."""
        heard = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop after what is accepted; a second Ctrl-C at once."""
        self.force_exit = self.stopped_by == sig == signal.SIGINT
        self.stopped_by = sig
        self._service.is_stopping = True
        self.should_exit = True
        del frame


class Patient(H11Protocol):
    """A connection that is patient but not for ever: idle ones are closed, and clients that do not read are cut off.

    Args:
        seconds: From the head of a request to the last byte of its answer.
        connection: What uvicorn gives its protocols.
    """

    def __init__(self, *, seconds: float, **connection: Any) -> None:
        super().__init__(**connection)
        self._seconds = seconds
        self._timer: TimerHandle | None = None
        self._is_busy = False

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Start to wait for a request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Read; only a whole head moves the time that is left."""
        super().data_received(data)
        if self._answers() != self._is_busy:
            self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _answers(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _watch(self) -> None:
        self._is_busy = self._answers()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(self._seconds if self._is_busy else _HEAD_SECONDS, self.transport.abort)


def _raise_limit_of_files() -> None:
    """Let as many connections be open as the system allows; idle ones must not keep others out."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(hard, 65_536) if hard != resource.RLIM_INFINITY else 65_536
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
