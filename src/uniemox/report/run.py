"""Pages of what a run folder or an evaluation folder holds, made from its files alone."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from uniemox.errors import UniEmoXError
from uniemox.files.images import Unreadable, read_image
from uniemox.files.journal import read_journal
from uniemox.inference.sources import PREDICTIONS, REPORT
from uniemox.manifests.table import Manifest, evenly, read_manifest
from uniemox.report import charts
from uniemox.report.page import Cell, Figure, GalleryItem, Page, Section, Table, draw, evaluation_page, write_page
from uniemox.settings import RUN_CONFIG
from uniemox.targets.kinds import target_of
from uniemox.targets.scores import Interval, Metric, Scores
from uniemox.targets.target import Target
from uniemox.version import __version__
from uniemox.wording import counted, reason_of

_IMAGES = 24


def write_evaluation_report(
    folder: Path, *, model: str, data: Path, split: str, command: str = "", target: Target | None = None
) -> Path:
    """Make `report.html` of a folder that `uniemox evaluate --out` wrote.

    Args:
        folder: Holds `report.json` and `predictions.parquet`.
        model: What was evaluated, as the user called it.
        data: Manifest; its root holds the images of the gallery.
        split: Split that was scored.
        command: That made it; by default that of the run that the folder is in, if it is.
        target: What the model was trained with, for a kind that is not built in.

    Raises:
        CheckpointError: The model answers with a kind that must be given.
        DataError: The page cannot be written.
    """
    saved = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    manifest = read_manifest(data)
    provenance = {
        "model": model,
        "data": str(data),
        "split": split,
        "emotion": manifest.facts.emotion or "not stated",
        "precision": saved.get("computed_in") or "not recorded",
        "unreadable images": str(len(saved["unreadable"])),
        "software": f"uniemox {__version__}",
        "command": command or _find_command(folder.parent / RUN_CONFIG) or "not recorded",
    }
    if isinstance(saved.get("unfamiliar"), float):
        provenance["unfamiliar images"] = (
            f"{100 * saved['unfamiliar']:.1f} % are farther from train than the cutoff that val gave"
        )
    answers = target_of(saved, given=target)
    scores = answers.scores_from_dict(saved)
    page = evaluation_page(
        scores,
        title=f"{model} on {manifest.facts.title}, {split}",
        provenance=provenance,
        gallery=_gallery(folder, manifest, answers),
    )
    return write_page(page, folder / "report.html")


def write_run_report(folder: Path) -> Path:
    """Make `report.html` of a run folder (curves, test scores if any, how to repeat it), or raise `DataError`."""
    journal = read_journal(folder / "metrics.jsonl")
    train, val, tested = ([line for line in journal if line["kind"] == kind] for kind in ("train", "val", "test"))
    test = _read_test(folder / "test" / REPORT)
    titles = {name: metric.title for name, metric in test.metrics.items() if metric.title}
    curves = []
    if train:
        curves.append(Figure(charts.loss_curves(train), "Curves of each term over the steps.", "Loss on train."))
    if val:
        terms = [name for name, value in val[0].items() if isinstance(value, float)]
        chart = charts.loss_curves(val, terms=terms, titles=titles)
        curves.append(Figure(chart, "Curves of the val scores over the steps.", "Scores on val."))
    sections = [Section("Training", blocks=curves)]
    if tested:
        text = f"Scores of the chosen weights; {folder.name}/test holds every prediction."
        link = ("All of the test, with its charts and images", "test/report.html") if test.metrics else None
        sections.append(Section("Test", text, (test.table(tested[-1]),), link))
    if test.scores is not None:
        parts = [(title, text, shown) for title, text, shown in test.scores.studies]
        parts += [("The surest answers", "", test.scores.covered)] if test.scores.covered else []
        sections += [Section(title, text, [draw(part) for part in shown]) for title, text, shown in parts]
    if command := _find_command(folder / RUN_CONFIG):
        sections.append(Section("How to repeat it", command, link=("All settings of this run", RUN_CONFIG)))
    sections.append(Section("Origin", blocks=(Table((), _describe_environment(folder / "environment.json")),)))
    last = max((line["step"] for line in journal), default=0)
    page = Page(f"Run {folder.name}", f"{counted(last, 'step')}; {RUN_CONFIG} repeats the run.", sections)
    return write_page(page, folder / "report.html")


@dataclass(frozen=True)
class _Test:
    """What can be read of the evaluation of a run; each part may be empty."""

    metrics: Mapping[str, Metric] = field(default_factory=dict)  # By name
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # Scores by the names of baselines
    scores: Scores | None = None  # None where the file is not whole, or of an unknown kind

    def table(self, tested: Mapping[str, object]) -> Table:
        """Show the scores that the journal keeps of the test, with their intervals and beside the baselines."""
        rows: list[Sequence[Cell]] = [
            (
                self._call(name),
                value,
                *([self.intervals.get(name)] if self.intervals else []),
                *(scores.get(name) for scores in self.baselines.values()),
            )
            for name, value in tested.items()
            if isinstance(value, float)
        ]
        ranges = ["95 % interval"] if self.intervals else []
        heads = ("score", "this model" if self.baselines else "value", *ranges, *self.baselines)
        return Table(heads, rows, "" if self.scores is None else self.scores.ranges)

    def _call(self, name: str) -> str:
        """Call a score what a page calls it, with the note that tells good from bad."""
        metric = self.metrics.get(name)
        if metric is None or not metric.title:
            return name.replace("_", " ")
        return f"{metric.title} ({metric.note})" if metric.note else metric.title


def _read_test(path: Path) -> _Test:
    """Read the evaluation of a run, as far as it can be read."""
    unreadable = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UniEmoXError)
    test = _Test()
    with suppress(*unreadable):
        saved = json.loads(path.read_text(encoding="utf-8"))
        test = replace(test, baselines=_read_baselines(saved))
        target = target_of(saved)
        test = replace(test, metrics={metric.name: metric for metric in target.about["metrics"]})
        scores = target.scores_from_dict(saved)
        test = replace(test, intervals=scores.intervals, scores=scores)
    return test


def _read_baselines(saved: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Read the scores of the baselines of an evaluation by their names, without those that have none."""
    found = {str(one["name"]): dict(one["scores"]) for one in saved.get("baselines", ())}
    numbers = {
        name: {metric: value for metric, value in scores.items() if isinstance(value, float)}
        for name, scores in found.items()
    }
    return {name: scores for name, scores in numbers.items() if scores}


def _find_command(path: Path) -> str:
    """Find the command in the first line of the settings of a run; empty where there is none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            found = re.search(r"`uniemox ([a-z]+) --config FILE`", file.readline())
    except OSError:
        return ""
    return f"uniemox {found[1]} --config {shlex.quote(str(path))} --out FOLDER" if found else ""


def _describe_environment(path: Path) -> list[tuple[str, str]]:
    try:
        entries = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        return [(path.name, f"cannot be read: {reason_of(error)}")]
    return [(str(name), str(value)) for name, value in entries.items()]


def _gallery(folder: Path, manifest: Manifest, target: Target) -> list[GalleryItem]:
    """Choose images evenly from the predictions; those that cannot be read any more are skipped."""
    table = pq.read_table(folder / PREDICTIONS)
    items = []
    for row in table.take(evenly(table.num_rows, _IMAGES)).to_pylist():
        image = read_image(manifest.facts.root / row["path"])
        if not isinstance(image, Unreadable):
            answer, truth = target.in_words(row)
            item = GalleryItem(
                image=np.asarray(charts.frame(image, [row.get(edge) for edge in ("x0", "y0", "x1", "y1")])),
                predicted=answer,
                confidence=row.get("confidence"),
                true=truth,
                name=row["path"],
                is_judged=target.is_judged,
                more=target.more_in_words(row),
            )
            items.append(item)
    return items
