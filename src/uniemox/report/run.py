"""Pages of what a run folder or an evaluation folder holds, made from its files alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from uniemox.data.images import Unreadable, read_image
from uniemox.data.manifest import read_manifest
from uniemox.metrics import Report
from uniemox.multilabel import MultiLabelReport
from uniemox.report import charts
from uniemox.report.multilabel import multilabel_page
from uniemox.report.page import (
    Block,
    Figure,
    GalleryItem,
    Page,
    Section,
    Table,
    evaluation_page,
    write_page,
)
from uniemox.train.journal import read_journal
from uniemox.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from uniemox.data.manifest import Manifest

_PICTURES = 24
_VAL_TERMS = ("top1", "balanced_accuracy", "mean_average_precision", "macro_f1", "nll")


def write_evaluation_report(folder: Path, *, model: str, data: Path, split: str) -> Path:
    """Make `report.html` of a folder that `uniemox evaluate --out` wrote.

    Args:
        folder: Holds `report.json` and `predictions.parquet`.
        model: What was evaluated, as the user called it.
        data: Manifest; it tells the root of the pictures, for a gallery.
        split: Split that was scored.

    Raises:
        DataError: The page cannot be written.
    """
    saved = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    manifest = read_manifest(data)
    title = f"{model} on {manifest.facts.title}, {split}"
    provenance = {
        "model": model,
        "data": str(data),
        "split": split,
        "emotion": manifest.facts.emotion or "not stated",
        "unreadable pictures": str(len(saved["unreadable"])),
        "software": f"uniemox {__version__}",
    }
    gallery = _gallery(folder, manifest)
    page = (
        multilabel_page(
            MultiLabelReport.from_dict(saved), title=title, provenance=provenance, gallery=gallery
        )
        if saved.get("target") == "multi_label"
        else evaluation_page(
            Report.from_dict(saved), title=title, provenance=provenance, gallery=gallery
        )
    )
    path = folder / "report.html"
    write_page(page, path)
    return path


def write_run_report(folder: Path) -> Path:
    """Make `report.html` of a run folder: its curves, its test scores if it has some, its settings.

    Raises:
        DataError: The page cannot be written.
    """
    journal = read_journal(folder / "metrics.jsonl")
    sections = [Section("Training", blocks=_curves(journal))]
    tested = [line for line in journal if line["kind"] == "test"]
    if tested:
        rows = [(name, value) for name, value in tested[-1].items() if isinstance(value, float)]
        text = f"Scores of the chosen weights; {folder.name}/test holds every prediction."
        sections.append(Section("Test", text, (Table(("score", "value"), rows, width="half"),)))
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    facts = [(name, str(value)) for name, value in environment.items()]
    sections.append(Section("Origin", blocks=(Table((), facts),)))
    last = max((line["step"] for line in journal), default=0)
    page = Page(f"Run {folder.name}", f"{last} steps; config.yaml repeats the run.", sections)
    path = folder / "report.html"
    write_page(page, path)
    return path


def _curves(journal: Sequence[Mapping[str, Any]]) -> tuple[Block, ...]:
    train = [line for line in journal if line["kind"] == "train"]
    val = [line for line in journal if line["kind"] == "val"]
    blocks: list[Block] = []
    if train:
        chart = charts.loss_curves(train)
        blocks.append(Figure(chart, "Curves of each term over the steps.", "Training."))
    if val:
        terms = [name for name in _VAL_TERMS if name in val[0]]
        chart = charts.loss_curves(val, terms=terms)
        blocks.append(Figure(chart, "Curves of the val scores over the steps.", "Val."))
    return tuple(blocks)


def _gallery(folder: Path, manifest: Manifest) -> list[GalleryItem]:
    """Choose pictures evenly from the predictions; those that cannot be read any more are left out."""
    table = pq.read_table(folder / "predictions.parquet")
    places = np.linspace(0, table.num_rows - 1, min(_PICTURES, table.num_rows)).round().astype(int)
    items = []
    for row in table.take(places).to_pylist():
        image = read_image(manifest.facts.root / row["path"])
        if not isinstance(image, Unreadable):
            items.append(_gallery_item(row, np.asarray(image)))
    return items


def _gallery_item(row: Mapping[str, Any], picture: charts.Picture) -> GalleryItem:
    predicted, true = row["predicted"], row["label"]
    if isinstance(predicted, list):
        likeliest = max(row, key=lambda name: row[name] if name.startswith("p_") else -1.0)
        confidence = row[likeliest]
        predicted, true = (", ".join(names) or "none" for names in (predicted, true))
    else:
        confidence = row[f"p_{predicted}"]
    return GalleryItem(
        picture=picture, predicted=predicted, confidence=confidence, true=true, name=row["path"]
    )
