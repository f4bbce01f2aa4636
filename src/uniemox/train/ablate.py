"""The runs of a grid, one after another: finished steps are skipped, failures written down, the others done.

Each run has a `run.json` beside the folders of its steps: settings and seconds of the steps that are done, and the
reasons of those that failed.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from uniemox.errors import ConfigError, DataError, UniEmoXError
from uniemox.files.json_file import read_json
from uniemox.files.locking import locked
from uniemox.files.whole import write_whole
from uniemox.inference.compare import Comparison, compare
from uniemox.train.events import Message, Observer
from uniemox.train.grid import MAKING, Grid, Run, Step
from uniemox.validation import validate
from uniemox.wording import counted, listed, one_line, reason_of

RECORD: Final = "run.json"
_SHOWN: Final = 3  # Settings that a message names


@dataclass(kw_only=True)
class Record:
    """What `run.json` holds."""

    settings: dict[str, dict[str, Any]] = field(default_factory=dict)  # By step that is done, what shaped its result
    seconds: dict[str, float] = field(default_factory=dict)  # By step that is done
    failures: dict[str, str] = field(default_factory=dict)  # By step that failed, why

    def left(self, run: Run) -> tuple[Step, ...]:
        """List the steps that are still to do."""
        return tuple(step for step in run.steps if step.name not in self.seconds)

    def state(self, run: Run) -> str:
        """Describe in a few words how far a run is."""
        if failed := [f"{step} failed: {why}" for step, why in self.failures.items()]:
            return "; ".join(failed)
        left, count = len(self.left(run)), len(run.steps)
        if not left:
            return "done"
        if left < count:
            return f"{count - left} of {counted(count, 'step')} done"
        return "started" if run.steps[0].config.out.exists() else "to do"


def open_record(run: Run) -> Record:
    """Read what is written of a run, if anything; a `ConfigError` if a step was done with other settings."""
    path = run.folder / RECORD
    if not path.is_file():
        return Record()
    record, settings = validate(Record, read_json(path), source=str(path)), run.settings()
    changed = [
        f"`{step}.{name}` is {value} and was {before.get(name)}"
        for step, before in record.settings.items()
        for name, value in settings.get(step, {}).items()
        if value != before.get(name)
    ]
    if changed:
        what = f"{run.folder} was made with other settings: {listed(changed[:_SHOWN])}"
        raise ConfigError(f"{what}: put them back, delete that folder, or choose another `out`")
    for step in run.steps:
        if step.command not in MAKING and not step.config.out.exists():  # deleted, so nothing of it can be compared
            record.seconds.pop(step.name, None)
            record.settings.pop(step.name, None)
    return record


def check_data(runs: Sequence[Run]) -> None:
    """Refuse runs that read a manifest which neither exists nor is made by a step of theirs, with a `DataError`."""
    for run in runs:
        made = {step.config.out for step in run.steps}
        for step in run.steps:
            path = vars(step.config)["manifest" if step.command == "split" else "data"]
            if path not in made and not path.is_file():
                raise DataError(f"{run.name}, {step.name}: no manifest at {path}: give one of `data prepare`")


def run_grid(runs: Sequence[Run], execute: Callable[[Step], None], observer: Observer) -> list[str]:
    """Do what is missing of each run.

    Args:
        runs: In the order in which they are done.
        execute: Does one step, as its command would.
        observer: Hears which step begins.

    Returns:
        A line for each step that failed.

    Raises:
        ConfigError: A step was done with other settings; nothing is run then.
        KeyboardInterrupt: Someone stopped the grid, whose next call continues.
    """
    for run in runs:
        open_record(run)
    failures = []
    for number, run in enumerate(runs, 1):
        place = f"{number}/{len(runs)}"
        try:
            with locked(run.folder / ".lock"):
                record = open_record(run)
                _run(run, record, execute, observer, place)
        except BlockingIOError as error:
            observer(Message(f"{run.name} is being run by another process ({error.strerror}): skipped"))
            continue
        failures += [f"{run.name}: {step} failed: {why}" for step, why in record.failures.items()]
    return failures


def _run(run: Run, record: Record, execute: Callable[[Step], None], observer: Observer, place: str) -> None:
    record.failures.clear()
    settings = run.settings()
    lost: set[str] = set()
    for step in record.left(run):
        if step.needs & lost:
            lost.add(step.name)
            continue
        observer(Message(f"{place} {run.name}: {step.name}"))
        began = time.monotonic()
        if step.command == "probe":
            shutil.rmtree(step.config.out, ignore_errors=True)  # of one that was stopped; its features are elsewhere
        try:
            execute(step)
        except (UniEmoXError, OSError, MemoryError, RuntimeError) as error:
            why = one_line(str(error)) if isinstance(error, UniEmoXError) else reason_of(error)
            record.failures[step.name] = why
            lost.add(step.name)
            observer(Message(f"{run.name}: {step.name} failed: {why}"))
        except KeyboardInterrupt as stop:
            stop.__notes__ = ["interrupted: run the same command again to continue"]
            raise
        else:
            record.seconds[step.name] = round(time.monotonic() - began, 1)
            record.settings[step.name] = settings[step.name]
        _write(record, run.folder / RECORD)


def _write(record: Record, path: Path) -> None:
    with write_whole(path, DataError) as beside:
        beside.write_text(json.dumps(asdict(record), indent=1), encoding="utf-8")


@dataclass(frozen=True)
class Compared:
    """What is finished of a grid."""

    name: str
    arms: tuple[str, ...]
    comparisons: Mapping[str, Comparison]  # By what is scored: a step, a test or both
    records: Sequence[tuple[Run, Record]]


def compare_grid(grid: Grid) -> Compared:
    """Compare the arms of a grid in what is finished of it, by what is scored.

    Raises:
        ConfigError: A step was done with other settings.
        DataError: Nothing is finished.
    """
    records = {run.folder: open_record(run) for run in grid.runs}
    found = {}
    for title, scored in grid.scored().items():
        sources = {str(step.config.out): run.arm for run, step in scored if step.name in records[run.folder].seconds}
        if sources:
            base = grid.arms[0] if grid.arms[0] in sources.values() else None
            found[title] = compare([*sources], arms=[*sources.values()], base=base)
    if not found:
        raise DataError(f"nothing is finished of grid {grid.name}: run it, or fix what its failures name")
    return Compared(grid.name, grid.arms, found, [(run, records[run.folder]) for run in grid.runs])
