"""What a command is, what it may say, and the flags that several have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from uniemox.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jsonargparse import Namespace
    from rich.console import Console, RenderableType

    from uniemox.flags import Parser

SUCCESS, FAILURE, WRONG_USE, INTERRUPTED = 0, 1, 2, 130


class Output(Protocol):
    """Where a command puts what it says. Only the first of several processes is heard."""

    @property
    def console(self) -> Console:
        """The console of progress and logs, on stderr."""

    def say(self, result: object) -> None:
        """Print a result as a line on stdout."""

    def say_text(self, text: str) -> None:
        """Print text on stdout as it is, from every process."""

    def say_json(self, value: object) -> None:
        """Print a result as a line of JSON on stdout."""

    def show(self, picture: RenderableType) -> None:
        """Draw a table on stdout."""

    def complain(self, text: str) -> None:
        """Print one line about something wrong on stderr."""


@dataclass(frozen=True)
class Command:
    """What one command takes and does."""

    summary: str
    add_flags: Callable[[Parser], None]
    run: Callable[[Namespace, Output], int]
    """Takes what the flags gave, and gives the exit code."""
    keeps_defaults: bool = True
    """Whether absent flags have their default in what `run` gets; otherwise they are absent there too."""


def add_compute_flags(parser: Parser) -> None:
    """Add the flags of where and how fast a model runs."""
    parser.add_flag("--device", str, "auto, cpu, cuda or mps.", default="auto")
    parser.add_flag("--batch-size", int, "Pictures in one forward pass.", default=32)
    parser.add_flag(
        "--num-workers",
        int,
        "Workers that decode pictures while the model computes; 0 decodes in between.",
        default=2,
    )


def check_compute_flags(given: Namespace) -> None:
    """Refuse impossible values of the flags of `add_compute_flags`.

    Raises:
        ConfigError: Names the flag.
    """
    if given.batch_size < 1:
        raise ConfigError(f"--batch-size is {given.batch_size}, but must be at least 1")
    if given.num_workers < 0:
        raise ConfigError(f"--num-workers is {given.num_workers}, but must not be negative")


def parse_shares(text: str, *, flag: str) -> tuple[float, float, float]:
    """Turn "80/5/15" into three numbers for train, val and test.

    Raises:
        ConfigError: On anything but three numbers; names the flag.
    """
    try:
        train, val, test = (float(part) for part in text.split("/"))
    except ValueError as error:
        raise ConfigError(
            f"{flag} is {text[:40]}, but must be three shares for train, val and test, such as 80/5/15"
        ) from error
    return train, val, test
