"""What a command is, and what it answers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uniemox.console.display import Terminal
from uniemox.errors import ConfigError

SUCCESS, FAILURE, WRONG_USE = 0, 1, 2


@dataclass(frozen=True)
class Answer:
    """What a command prints on stdout."""

    shown: Sequence[object] = ()  # Tables, and what is printed as a line, in order; None is skipped
    data: object = None  # What `--json` prints instead; dataclasses become objects, paths text


@dataclass(frozen=True)
class Command:
    """What one command takes and does."""

    config: type[Any]  # Dataclass of its settings, which are its flags
    run: Callable[[Any, Terminal], Iterator[Answer]]
    """From the settings, and the terminal of progress and logs, to answers. A generator may return an exit code.

    The first line of its docstring is the summary in the help."""
    trains: bool = False  # Whether presets and files give settings too
    in_several_processes: bool = False  # Whether processes of torchrun run it together; else they are refused

    @property
    def summary(self) -> str:
        """What it does, in one sentence."""
        return (self.run.__doc__ or "").partition("\n")[0]


def check_not_replacing(out: Path) -> None:
    """Refuse to replace a file that is no manifest, by a `ConfigError` that names it."""
    from uniemox.manifests.table import is_manifest

    if out.exists() and not is_manifest(out):
        raise ConfigError(f"out is {out}, a file that is no manifest, so it is not replaced: choose another name")
