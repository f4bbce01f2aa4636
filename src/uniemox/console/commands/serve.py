"""The command `serve`."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import Final

from uniemox.config.serve import ServeConfig
from uniemox.console.commands.command import SUCCESS, Answer, Command
from uniemox.console.commands.predict import load_predictor
from uniemox.console.display import Terminal
from uniemox.errors import ConfigError

_LOCAL: Final = ("127.0.0.1", "::1", "localhost")


def _serve(config: ServeConfig, terminal: Terminal) -> Generator[Answer, None, int]:
    """Answer HTTP requests with a classifier, and show a page to try it."""
    try:
        from uniemox.serve.app import Service
        from uniemox.serve.run import bind, read_key, run, warm_up
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed: pip install 'uniemox[serve]'") from error

    key = read_key(config.key_file)
    if key is None and config.host not in _LOCAL:
        terminal.complain(f"{config.host} is reached by other machines, and no key is asked for: give --key-file")
    with closing(bind(config.host, config.port)) as listener:
        detector = None
        if config.detector is not None:
            from uniemox.console.commands.people import build_asked_detector

            detector = build_asked_detector(config.detector, config, device=config.device)
        with terminal.status(f"loading {config.model}"):
            predictor = load_predictor(config, decoding=config.decoding)
            warm_up(predictor)
            service = Service(predictor, config, detector)
        host = f"[{config.host}]" if ":" in config.host else config.host
        url = f"http://{host}:{listener.getsockname()[1]}"
        yield Answer([url], {"url": url})
        sys.stdout.flush()  # a pipe would keep it back
        with _request_log():
            stopped_by = run(service, listener, key=key)
    if stopped_by == signal.SIGINT:
        raise KeyboardInterrupt
    return SUCCESS


@contextmanager
def _request_log() -> Iterator[None]:
    """Write the line of each request to stderr as it is; a terminal would remember each of them."""
    log, handler = logging.getLogger("uniemox.requests"), logging.StreamHandler()
    log.addHandler(handler)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = True


COMMANDS: Final = {"serve": Command(ServeConfig, _serve)}
