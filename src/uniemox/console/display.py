"""How progress looks on a terminal, and as plain lines elsewhere. Nothing here decides to print."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, TypeVar, assert_never

from uniemox.train.events import Event, Message, Progress
from uniemox.wording import one_line, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

Item = TypeVar("Item")

_PIPE_WIDTH = 160  # Columns of a table that no terminal limits
_SECONDS_BETWEEN_LINES = 10  # Of progress without a terminal


def is_main_process() -> bool:
    """Return whether this process prints: the first of `torchrun`'s, or one that it did not start."""
    return os.environ.get("RANK", "0") == "0" and os.environ.get("LOCAL_RANK", "0") == "0"


def _make_console(*, stderr: bool, quiet: bool) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, quiet=quiet, highlight=False, markup=False, emoji=False)


def stdout_console() -> Console:
    """Make a console for results; without a terminal, tables are wide."""
    console = _make_console(stderr=False, quiet=not is_main_process())
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


def _shares_terminal() -> bool:
    """Whether results too appear on a terminal, where a bar makes room for them; a file gets them as they are."""
    return sys.stdout is not None and sys.stdout.isatty()


class Terminal:
    """What a command shows on stderr while it runs: lines, logs, and progress.

    Args:
        console: Where; None is stderr, for the main process alone.
        clock: Seconds from any start.
    """

    def __init__(self, console: Console | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console or _make_console(stderr=True, quiet=not is_main_process())
        self.clock = clock

    def write(self, text: str) -> None:
        """Write a line as it is, without wrapping."""
        from rich.text import Text

        lines = (printable(line) for line in text.splitlines() or [""])
        self.console.print(Text("\n".join(lines)), soft_wrap=True)

    def complain(self, text: str) -> None:
        """Write one line about something the user should know that stops nothing."""
        self.write(f"uniemox: {one_line(text)}")

    def status(self, text: str) -> AbstractContextManager[object]:
        """Show a text while a block runs, if this is a terminal."""
        from rich.text import Text

        return self.console.status(Text(text))

    def track(self, items: Iterable[Item], *, total: int, what: str) -> Generator[Item, None, None]:
        """Yield the items, showing how many are done: a bar on a terminal, elsewhere a line now and then."""
        if self.console.is_terminal:
            from rich import progress

            shown = progress.Progress(console=self.console, transient=True, redirect_stdout=_shares_terminal())
            with shown as bars:
                yield from bars.track(items, total=total, description=what)
            return
        last_line = self.clock()
        for done, item in enumerate(items, start=1):
            yield item
            if self.clock() - last_line >= _SECONDS_BETWEEN_LINES:
                last_line = self.clock()
                self.write(f"{done}/{total} {what}")

    @contextmanager
    def logs(self) -> Iterator[None]:
        """Show the package's log from INFO, and that of libraries from WARNING, while the block runs."""
        root, ours = logging.getLogger(), logging.getLogger("uniemox")
        handler = _Handler(self)
        level = ours.level
        root.addHandler(handler)
        ours.setLevel(logging.INFO)
        try:
            yield
        finally:
            root.removeHandler(handler)
            ours.setLevel(level)


class _Handler(logging.Handler):
    """Logs through a terminal, so that lines do not tear its progress bar."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self._terminal = terminal
        self._shown: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Pass a line of information once, since one command may load several models."""
        text = record.getMessage()
        is_new = record.levelno > logging.INFO or text not in self._shown
        self._shown.add(text)
        return is_new and bool(super().filter(record))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        name = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        terminal = self._terminal
        if record.levelno >= logging.CRITICAL and terminal.console.quiet:  # each process reports what ends it
            name = f"rank {os.environ.get('RANK', '0')}: {name}"
            terminal = Terminal(_make_console(stderr=True, quiet=False))
        terminal.write(name + self.format(record))


def duration(seconds: float) -> str:
    """Write a duration in the unit that fits."""
    if not math.isfinite(seconds):
        return "unknown time"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class Display:
    """Observer of a run: a bar on a terminal, elsewhere a line every few seconds."""

    def __init__(self, terminal: Terminal) -> None:
        from rich import progress
        from rich.table import Column

        self._terminal = terminal
        self._last: Progress | None = None
        self._last_line = -math.inf
        self._task: TaskID | None = None
        self._bars = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=24),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[numbers]}", table_column=Column(no_wrap=True, ratio=1)),
            console=terminal.console,
            expand=True,
            redirect_stdout=_shares_terminal(),
        )

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *error: object) -> None:
        if self._task is not None:  # else it would write an empty line
            self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Message():
                self._terminal.write(event.text)
            case Progress():
                last, self._last = self._last, event
                is_new = last is None or event.step < last.step or event.total_steps != last.total_steps
                (self._draw if self._terminal.console.is_terminal else self._write)(event, is_new)
            case _:
                assert_never(event)

    def _draw(self, event: Progress, is_new: bool) -> None:
        if self._task is None or is_new:
            self._bars.start()
            self._task = self._bars.add_task("", total=event.total_steps, numbers="")
        epoch = f"epoch {event.epoch}/{event.epochs}"
        self._bars.update(self._task, completed=event.step, description=epoch, numbers=_numbers(event))

    def _write(self, event: Progress, is_new: bool) -> None:
        now = self._terminal.clock()
        if is_new or now - self._last_line >= _SECONDS_BETWEEN_LINES or event.step == event.total_steps:
            self._last_line = now
            steps = f"step {event.step}/{event.total_steps}, epoch {event.epoch}/{event.epochs}"
            self._terminal.write(f"{steps}: {_numbers(event)}")


def _numbers(event: Progress) -> str:
    scalars = [f"{name} {value:.4g}" for name, value in event.scalars.items()]
    speed = f"{event.images_per_second:.0f} images/s"
    return ", ".join([*scalars, speed, f"{duration(event.seconds_left)} left"])
