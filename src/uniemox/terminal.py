"""How progress and results look on a terminal, or as plain lines where there is none. Nothing here decides to print."""

from __future__ import annotations

import logging
import math
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar, assert_never, get_args

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars
from rich.progress import track as track_with_bar
from rich.table import Column, Table
from rich.text import Text

from uniemox.config import MultiLabelMetric, SingleLabelMetric
from uniemox.data.findings import counted
from uniemox.train.events import Message, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    from rich.progress import TaskID

    from uniemox.checkpoints.inspection import Inspection
    from uniemox.data.agreement import Agreement
    from uniemox.data.findings import Problem
    from uniemox.data.manifest import Box, Manifest
    from uniemox.data.population import Population
    from uniemox.data.specs import DatasetSpec
    from uniemox.metrics import Report
    from uniemox.multilabel import MultiLabelReport
    from uniemox.predict import Prediction
    from uniemox.train.events import Event

_PIPE_WIDTH = 160
"""Columns of a table that no terminal limits."""


def is_main_process() -> bool:
    """Say whether this process is the one of `torchrun`'s that speaks; so is one that it did not start."""
    return os.environ.get("RANK", "0") == "0" and os.environ.get("LOCAL_RANK", "0") == "0"


def printable(text: str) -> str:
    """Escape what could steer a terminal; names of files may hold anything."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def stdout_console() -> Console:
    """Make a console for results; where stdout is no terminal, tables are wide."""
    console = Console(highlight=False, markup=False, emoji=False, quiet=not is_main_process())
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


def stderr_console() -> Console:
    """Make a console for progress and logs."""
    return Console(
        stderr=True, highlight=False, markup=False, emoji=False, quiet=not is_main_process()
    )


class ConsoleHandler(logging.Handler):
    """Logs through a console, so that lines do not tear its progress bar."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        name = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        write_line(self._console, name + self.format(record))


@contextmanager
def logs_on(console: Console) -> Iterator[None]:
    """Show the package's log from INFO on, and that of libraries from WARNING on, while the block runs."""
    root, ours = logging.getLogger(), logging.getLogger("uniemox")
    handler = ConsoleHandler(console)
    level = ours.level
    root.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        ours.setLevel(level)


def write_line(console: Console, text: str) -> None:
    """Write a line as it is, wrapped by nobody."""
    lines = (printable(line) for line in text.splitlines() or [""])
    console.print(Text("\n".join(lines)), soft_wrap=True)


def duration(seconds: float) -> str:
    """Say how long something takes, in the unit that fits."""
    if not math.isfinite(seconds):
        return "unknown time"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class Display:
    """Observer of a run: a bar on a terminal, elsewhere a line every few seconds."""

    def __init__(
        self,
        console: Console,
        *,
        seconds_between_lines: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._between = seconds_between_lines
        self._clock = clock
        self._last: Progress | None = None
        self._last_line = -math.inf
        self._task: TaskID | None = None
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}", table_column=Column(no_wrap=True, ratio=1)),
            console=console,
            expand=True,
        )

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None:  # else it would write an empty line
            self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Message():
                write_line(self._console, event.text)
            case Progress():
                if self._console.is_terminal:
                    self._draw(event)
                else:
                    self._write(event)
                self._last = event
            case _:
                assert_never(event)

    def _is_new_run(self, event: Progress) -> bool:
        last = self._last
        return last is None or event.step < last.step or event.total_steps != last.total_steps

    def _draw(self, event: Progress) -> None:
        if self._task is None or self._is_new_run(event):
            self._bars.start()
            self._task = self._bars.add_task("", total=event.total_steps, numbers="")
        self._bars.update(
            self._task,
            completed=event.step,
            description=f"epoch {event.epoch}/{event.epochs}",
            numbers=_numbers(event),
        )

    def _write(self, event: Progress) -> None:
        now = self._clock()
        is_due = now - self._last_line >= self._between
        if is_due or self._is_new_run(event) or event.step == event.total_steps:
            self._last_line = now
            steps = f"step {event.step}/{event.total_steps}, epoch {event.epoch}/{event.epochs}"
            write_line(self._console, f"{steps}: {_numbers(event)}")


def _numbers(event: Progress) -> str:
    scalars = [f"{name} {value:.4g}" for name, value in event.scalars.items()]
    speed = f"{event.images_per_second:.0f} images/s"
    return ", ".join([*scalars, speed, f"{duration(event.seconds_left)} left"])


Item = TypeVar("Item")


def track(
    items: Iterable[Item],
    console: Console,
    *,
    total: int,
    what: str,
    seconds_between_lines: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Item]:
    """Yield the items, showing how many of the total are done: a bar on a terminal, elsewhere a line now and then."""
    if console.is_terminal:
        yield from track_with_bar(
            items, total=total, description=what, console=console, transient=True
        )
        return
    last_line = clock()
    for done, item in enumerate(items, start=1):
        yield item
        if clock() - last_line >= seconds_between_lines:
            last_line = clock()
            write_line(console, f"{done}/{total} {what}")


# Tables


def _cell(text: str) -> Text:
    """Show text as it is, whatever it holds."""
    return Text(printable(text))


def percent(share: float) -> str:
    """Show a share as a percentage."""
    return f"{100 * share:.1f}"


def report_tables(report: Report | MultiLabelReport) -> Iterable[Table]:
    """Show an evaluation: the scores, then those of each class."""
    from uniemox.multilabel import MultiLabelReport  # NumPy, which help has no need of

    scores = Table("metric", Column("%", justify="right"), "95 % interval")
    intervals = {str(name): interval for name, interval in report.intervals.items()}
    several = isinstance(report, MultiLabelReport)
    for metric in get_args(MultiLabelMetric if several else SingleLabelMetric):
        interval = intervals.get(metric)
        bounds = f"{percent(interval.low)} to {percent(interval.high)}" if interval else ""
        scores.add_row(metric, percent(report.get(metric)), bounds)
    scores.add_row("calibration error", percent(report.ece))
    if isinstance(report, MultiLabelReport):
        scores.add_row("mean_average_precision in random order", percent(report.chance))
    else:
        majority = report.majority
        scores.add_row(_cell(f"majority class ({majority.name})"), percent(majority.top1))
    scores.caption = counted(report.num_samples, "picture")
    yield scores

    own = ("average precision",) if several else ()
    names = (*own, "precision", "recall", "F1", "pictures")
    classes = Table("class", *(Column(name, justify="right") for name in names))
    columns = (report.precision, report.recall, report.f1)
    for place, (name, *values) in enumerate(zip(report.classes, *columns, strict=True)):
        row = [percent(value) for value in values]
        if isinstance(report, MultiLabelReport):
            precision = report.average_precision[place]
            row.insert(0, "" if precision is None else percent(precision))
        classes.add_row(_cell(name), *row, str(report.support[place]))
    yield classes


def predictions_table(predictions: Sequence[Prediction], *, top_k: int) -> Table:
    """Show predictions, a row each; a picture that could not be read has its reason instead of a label.

    Where one of them is of a person, a column says of whom each is.
    """
    has_people = any(prediction.box is not None for prediction in predictions)
    who = [Column("person", justify="right")] if has_people else []
    table = Table(
        Column("path", overflow="fold"), *who, "emotion", Column("%", justify="right"), "likeliest"
    )
    for prediction in predictions:
        start = [_cell(str(prediction.path))]
        if has_people:
            start.append(_cell(_describe_box(prediction.box)))
        if prediction.label is None or prediction.confidence is None:
            table.add_row(*start, "", "", _cell(f"not read: {prediction.reason}"))
            continue
        likeliest = ", ".join(f"{name} {percent(share)}" for name, share in prediction.top(top_k))
        table.add_row(
            *start,
            _cell(_describe_labels(prediction)),
            percent(prediction.confidence),
            _cell(likeliest),
        )
    return table


def _describe_labels(prediction: Prediction) -> str:
    """Name the emotion, or all that apply; a dash where none does."""
    if prediction.labels is None:
        return str(prediction.label)
    return ", ".join(prediction.labels) or "–"


def _describe_box(box: Box | None) -> str:
    if box is None:
        return ""
    return f"{box.x0:.0f},{box.y0:.0f} {box.x1 - box.x0:.0f}×{box.y1 - box.y0:.0f}"


def facts_table(manifest: Manifest) -> Table:
    """Show what a manifest says about its data set."""
    facts, rows = manifest.facts, len(manifest)
    pictures = len(manifest.table["path"].unique())
    table = Table(Column("fact"), Column("value", overflow="fold"))
    shown = {
        "data set": f"{facts.title} ({facts.name})",
        "pictures": str(pictures) if pictures == rows else f"{pictures}, in {counted(rows, 'row')}",
        "emotion": facts.emotion or "not known",
        "folder": str(facts.root),
        "layout": facts.layout,
        "labels": facts.labelled_by,
        "splits": facts.split_recipe,
        "people": facts.people_source,
        "licence": facts.licence,
        "source": facts.url,
        "cite": facts.citation,
        "format": f"version {facts.version}",
    }
    for name, value in shown.items():
        if value:
            table.add_row(name, _cell(value))
    return table


def inspection_table(found: Inspection) -> Table:
    """Show what was found in a file of weights; lines without anything to say are left out."""
    table = Table(Column("what"), Column("found", overflow="fold"))
    shape = ", ".join(f"{name} {value}" for name, value in found.architecture.items())
    shown = {
        "file": found.path,
        "format": found.format,
        "layout": found.layout,
        "kind": found.kind,
        "architecture": shape,
        "parameters": f"{found.parameters:,}",
        **{f"sha256 of {name}": value for name, value in found.sha256.items()},
        "classes": ", ".join(found.classes),
        **{f"perhaps {name}": ", ".join(c) for name, c in found.likely_datasets.items()},
        **{
            words: _some(names)
            for words, names in (
                ("missing", found.missing),
                ("left over", found.extra),
                ("misshapen", found.misshapen),
                ("not used", found.unused),
                ("beside the weights", found.beside),
                ("not finite", found.not_finite),
            )
        },
        "licence": found.licence or "not stated",
        **{name: _told(value) for name, value in found.facts.items()},
        **{f"saved {name}": value for name, value in found.arguments.items()},
        "note": "\n".join(found.notes),
    }
    for name, value in shown.items():
        if value:
            table.add_row(_cell(name), Text("\n").join(map(_cell, value.split("\n"))))
    return table


def _told(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {part}" for name, part in value.items())
    return "" if value is None else str(value)


def _some(names: Sequence[str]) -> str:
    """Name some, and say how many there are."""
    return ", ".join(names[:6]) + (f" … ({len(names)} in all)" if len(names) > 6 else "")


def datasets_table(specs: Iterable[DatasetSpec]) -> Table:
    """Show what is known about each data set, one fact a line."""
    table = Table(Column("data set", no_wrap=True), "fact", Column("value", overflow="fold"))
    for spec in specs:
        sizes = {"pictures": spec.pictures, "people": spec.people}
        shown = {
            "title": spec.title,
            "classes": ", ".join(spec.classes) or "told by the data",
            "emotion": spec.emotion or "not known",
            "size": ", ".join(f"{size:,} {what}" for what, size in sizes.items() if size),
            "labels": spec.labelled_by,
            "splits": spec.published_split,
            "licence": spec.licence,
            "source": spec.url,
            "cite": spec.citation,
            "mind": spec.note,
        }
        for count, (name, value) in enumerate((n, v) for n, v in shown.items() if v):
            table.add_row("" if count else spec.name, name, value)
        table.add_section()
    return table


def counts_table(manifest: Manifest) -> Table:
    """Show the rows of each class in each split, which are columns; with a line for those without a label, if any.

    A row with a set of labels is in several lines, but is one row of all.
    """
    counts, classes = manifest.counts(), manifest.facts.classes
    table = Table("class", *(Column(_cell(split), justify="right") for split in counts))
    has_unlabelled = any(of_class.get("") for of_class in counts.values())
    for name in [*classes, *([""] if has_unlabelled else [])]:
        cells = (str(of_class.get(name, 0)) for of_class in counts.values())
        table.add_row(_cell(name or "no label"), *cells)
    table.add_section()
    table.add_row("all", *map(str, manifest.split_counts().values()))
    return table


def sources_table(sources: Mapping[str, int]) -> Table:
    """Show how many rows each data set gave to a merged manifest."""
    table = Table("data set", Column("rows", justify="right"))
    for name, count in sources.items():
        table.add_row(_cell(name), str(count))
    return table


def problems_table(problems: Iterable[Problem]) -> Table:
    """Show what an import left out or mended."""
    table = Table(
        "problem", Column("how often", justify="right"), Column("for example", overflow="fold")
    )
    for problem in problems:
        table.add_row(_cell(problem.kind), str(problem.count), _cell(problem.example))
    return table


def population_table(population: Population) -> Table:
    """Show how many pictures have people."""
    table = Table("people", Column("pictures", justify="right"))
    shown = {
        "with people": population.with_people,
        "without": population.without,
        "not read": population.unread,
        "nobody looked": population.unasked,
    }
    for name, count in shown.items():
        if count or name in ("with people", "without"):
            table.add_row(name, str(count))
    table.add_section()
    table.add_row("all", str(population.pictures))
    boxes = counted(population.boxes, "box", several="boxes")
    table.caption = f"{boxes} in {counted(population.rows, 'row')}"
    if population.shared:
        table.caption += f", {population.shared} of which share their picture with another"
    return table


def agreement_table(agreement: Agreement, *, names: tuple[str, str]) -> Table:
    """Show how far two sets of boxes agree."""
    first, second = names
    table = Table(
        "two sets of boxes",
        Column(_cell(first), justify="right"),
        Column(_cell(second), justify="right"),
    )
    table.add_row("boxes", str(agreement.first_boxes), str(agreement.second_boxes))
    shares = (agreement.first_confirmed, agreement.second_found)
    found = ("" if share is None else f"{percent(share)} %" for share in shares)
    table.add_row("of them in the other too", *found)
    table.add_row(
        "pictures with people here alone", str(agreement.first_only), str(agreement.second_only)
    )
    table.add_row("pictures with people in both", str(agreement.both), str(agreement.both))
    table.add_row("pictures with nobody in both", str(agreement.neither), str(agreement.neither))
    pairs = counted(agreement.matched, "pair of boxes overlaps", several="pairs of boxes overlap")
    table.caption = f"{pairs} by {agreement.iou:g} or more"
    if agreement.mean_iou is not None and agreement.median_iou is not None:
        table.caption += (
            f", {agreement.mean_iou:.3f} on average, {agreement.median_iou:.3f} in the median"
        )
    compared = counted(agreement.pictures, "picture was", several="pictures were")
    table.caption += f"; {compared} compared"
    if agreement.left_out:
        table.caption += f", {agreement.left_out} could not be"
    return table


def findings_table(counts: Mapping[str, Mapping[str, int]]) -> Table:
    """Show how many pictures an audit found of each kind of problem, and how many of them it removed."""
    table = Table(
        "finding", Column("pictures", justify="right"), Column("removed", justify="right")
    )
    for kind, of_kind in counts.items():
        table.add_row(_cell(kind), str(of_kind["found"]), str(of_kind["removed"]))
    return table


def kept_table(sizes: Mapping[str, tuple[int, int]]) -> Table:
    """Show the rows of each audited manifest, and how many the cleaned one keeps."""
    table = Table("manifest", Column("rows", justify="right"), Column("kept", justify="right"))
    for name, (rows, kept) in sizes.items():
        table.add_row(_cell(name), str(rows), str(kept))
    return table
