"""Pages of what a run folder or an evaluation folder holds, made from its files alone."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from uniemox.errors import DataError
from uniemox.files.images import Unreadable, read_image
from uniemox.manifests.table import Manifest, evenly, read_manifest
from uniemox.report import charts
from uniemox.report.page import Figure, GalleryItem, Page, Section, Table, evaluation_page, write_page
from uniemox.targets.kinds import DEFAULT, find_target, resolve_target
from uniemox.targets.scores import Metric
from uniemox.targets.target import Target
from uniemox.train.journal import read_journal
from uniemox.version import __version__
from uniemox.wording import counted, reason_of

_IMAGES = 24


def write_evaluation_report(folder: Path, *, model: str, data: Path, split: str, target: Target | None = None) -> Path:
    """Make `report.html` of a folder that `uniemox evaluate --out` wrote.

    Args:
        folder: Holds `report.json` and `predictions.parquet`.
        model: What was evaluated, as the user called it.
        data: Manifest; its root holds the images of the gallery.
        split: Split that was scored.
        target: What the model was trained with, for a kind that is not built in.

    Raises:
        CheckpointError: The model answers with a kind that must be given.
        DataError: The page cannot be written.
    """
    saved = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    manifest = read_manifest(data)
    provenance = {
        "model": model,
        "data": str(data),
        "split": split,
        "emotion": manifest.facts.emotion or "not stated",
        "precision": saved.get("computed_in") or "not recorded",
        "unreadable images": str(len(saved["unreadable"])),
        "software": f"uniemox {__version__}",
    }
    if isinstance(saved.get("unfamiliar"), float):
        provenance["unfamiliar images"] = (
            f"{100 * saved['unfamiliar']:.1f} % are farther from train than the cutoff that val gave"
        )
    numbers = {name: tuple(values) for name, values in saved.get("numbers", {}).items()}
    answers = resolve_target(saved.get("target", DEFAULT), tuple(saved.get("classes", ())), numbers, given=target)
    scores = answers.scores_from_dict(saved)
    page = evaluation_page(
        scores,
        title=f"{model} on {manifest.facts.title}, {split}",
        provenance=provenance,
        gallery=_gallery(folder, manifest, answers),
    )
    return write_page(page, folder / "report.html")


def write_run_report(folder: Path) -> Path:
    """Make `report.html` of a run folder (curves, test scores if any, settings), or raise `DataError`."""
    journal = read_journal(folder / "metrics.jsonl")
    train, val, tested = ([line for line in journal if line["kind"] == kind] for kind in ("train", "val", "test"))
    metrics = _read_metrics(folder / "test" / "report.json")
    titles = {name: metric.title for name, metric in metrics.items() if metric.title}
    curves = []
    if train:
        curves.append(Figure(charts.loss_curves(train), "Curves of each term over the steps.", "Loss on train."))
    if val:
        terms = [name for name, value in val[0].items() if isinstance(value, float)]
        chart = charts.loss_curves(val, terms=terms, titles=titles)
        curves.append(Figure(chart, "Curves of the val scores over the steps.", "Scores on val."))
    sections = [Section("Training", blocks=curves)]
    if tested:
        others = _read_baselines(folder / "test" / "report.json")
        rows = [
            (_name(name, metrics), value, *(scores.get(name) for scores in others.values()))
            for name, value in tested[-1].items()
            if isinstance(value, float)
        ]
        text = f"Scores of the chosen weights; {folder.name}/test holds every prediction."
        heads = ("score", "this model" if others else "value", *others)
        link = ("All of the test, with its charts and images", "test/report.html") if metrics else None
        sections.append(Section("Test", text, (Table(heads, rows, width="half"),), link))
    sections.append(Section("Origin", blocks=(Table((), _describe_environment(folder / "environment.json")),)))
    last = max((line["step"] for line in journal), default=0)
    page = Page(f"Run {folder.name}", f"{counted(last, 'step')}; config.yaml repeats the run.", sections)
    return write_page(page, folder / "report.html")


def _read_metrics(path: Path) -> dict[str, Metric]:
    """Find the metrics of an evaluation by their names; none where it cannot be read, or is of an unknown kind."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        numbers = {name: tuple(values) for name, values in saved.get("numbers", {}).items()}
        target = find_target(saved.get("target", DEFAULT), tuple(saved["classes"]), numbers)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, DataError):
        return {}
    return {} if target is None else {metric.name: metric for metric in target.about["metrics"]}


def _name(name: str, metrics: Mapping[str, Metric]) -> str:
    """Call a score what a page calls it, with the note that tells good from bad."""
    metric = metrics.get(name)
    if metric is None or not metric.title:
        return name.replace("_", " ")
    return f"{metric.title} ({metric.note})" if metric.note else metric.title


def _read_baselines(path: Path) -> dict[str, dict[str, float]]:
    """Read the scores of the baselines of an evaluation by their names; those that cannot be read are omitted."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        found = {str(one["name"]): dict(one["scores"]) for one in saved["baselines"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    numbers = {
        name: {metric: value for metric, value in scores.items() if isinstance(value, float)}
        for name, scores in found.items()
    }
    return {name: scores for name, scores in numbers.items() if scores}


def _describe_environment(path: Path) -> list[tuple[str, str]]:
    try:
        entries = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        return [(path.name, f"cannot be read: {reason_of(error)}")]
    return [(str(name), str(value)) for name, value in entries.items()]


def _gallery(folder: Path, manifest: Manifest, target: Target) -> list[GalleryItem]:
    """Choose images evenly from the predictions; those that cannot be read any more are skipped."""
    table = pq.read_table(folder / "predictions.parquet")
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
