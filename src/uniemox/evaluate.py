"""Evaluation of a classifier on a split of a manifest, exact on any number of processes."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from uniemox.calibration import to_probabilities
from uniemox.checkpoints.sources import load_model
from uniemox.data.batch import evaluation_loader
from uniemox.data.dataset import EvaluationDataset
from uniemox.data.images import Unreadable, read_image
from uniemox.data.manifest import read_manifest
from uniemox.data.people import choose_box
from uniemox.data.pixels import EvaluationViews
from uniemox.devices import computing_on
from uniemox.errors import DataError
from uniemox.metrics import NUM_RESAMPLES, evaluate_predictions
from uniemox.multilabel import MultiLabelReport, evaluate_multilabel
from uniemox.predict import BOX_COLUMNS
from uniemox.runtime.backend import find_onnx
from uniemox.runtime.onnx_backend import load_onnx

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt
    import pyarrow as pa
    from accelerate import Accelerator

    from uniemox.checkpoints.facts import ModelFacts
    from uniemox.config import PersonConfig, Target
    from uniemox.data.batch import LabelledBatch
    from uniemox.data.manifest import Box, Manifest
    from uniemox.metrics import Report
    from uniemox.runtime.onnx_backend import OnnxBackend

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outputs:
    """What a classifier says of the readable pictures of a manifest, in its order."""

    logits: npt.NDArray[np.float32]
    """(N, C)"""
    labels: npt.NDArray[Any]
    """(N,) int64; for several labels (N, C) bool."""
    rows: npt.NDArray[np.int64]
    """(N,), place in the manifest."""
    unreadable: tuple[str, ...]
    """Path and reason of each picture that was left out."""
    target: Target

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """(N, C); rows of sum 1 where there is one label."""
        return to_probabilities(self.logits, self.target)

    def score(
        self,
        classes: Sequence[str],
        *,
        thresholds: Sequence[float] | None = None,
        num_resamples: int = NUM_RESAMPLES,
    ) -> Report | MultiLabelReport:
        """Score what the classifier says.

        Args:
            classes: C names, in label order.
            thresholds: For several labels, the probability from which each is given; None takes the best for these.
            num_resamples: Of the bootstrap of several labels.
        """
        match self.target:
            case "single_label":
                return evaluate_predictions(self.probabilities, self.labels, classes)
            case "multi_label":
                return evaluate_multilabel(
                    self.probabilities,
                    self.labels,
                    classes,
                    thresholds=thresholds,
                    num_resamples=num_resamples,
                )

    def describe_unreadable(self) -> str:
        """Say how many pictures were left out, and why the first was."""
        return (
            f"left out {len(self.unreadable)} of {len(self.unreadable) + len(self.labels)} pictures, which cannot be "
            f"read; the first is {self.unreadable[0]}"
        )


def compute_outputs(
    model: nn.Module,
    manifest: Manifest,
    *,
    views: EvaluationViews,
    accelerator: Accelerator,
    batch_size: int,
    num_workers: int,
    target: Target,
) -> Outputs:
    """Run a classifier over a manifest. Every row counts once, whatever the number of processes.

    Args:
        model: Maps one view or two, (B, 3, S, S), to logits (B, C); on the accelerator's device.
        manifest: Labelled rows.
        views: What it reads of a picture.
        accelerator: Device and processes.
        batch_size: Pictures in one forward pass of one process.
        num_workers: Processes that decode.
        target: Whether it gives one label or several.

    Raises:
        DataError: A row has no label, or no picture can be read.
    """
    dataset = EvaluationDataset(manifest, views, target)
    loader = accelerator.prepare_data_loader(
        evaluation_loader(dataset, batch_size=batch_size, num_workers=num_workers)
    )
    model.eval()
    parts: list[tuple[torch.Tensor, ...]] = []
    with torch.no_grad():
        batch: LabelledBatch
        for batch in loader:
            with accelerator.autocast():
                logits = model(*batch.to(accelerator.device).views)
            gathered = accelerator.gather_for_metrics(
                (logits.float(), batch.labels, batch.rows, batch.readable)
            )
            parts.append(tuple(tensor.cpu() for tensor in gathered))
    logits, labels, rows, readable = (torch.cat(column) for column in zip(*parts, strict=True))
    if not readable.any():
        raise DataError(
            f"none of the {len(manifest)} pictures below {manifest.facts.root} can be read: "
            f"{_reasons(manifest, rows[:1].tolist())[0]}"
        )
    return Outputs(
        logits[readable].numpy(),
        labels[readable].numpy(),
        rows[readable].numpy(),
        _reasons(manifest, rows[~readable].tolist()),
        target,
    )


def _reasons(manifest: Manifest, rows: list[int]) -> tuple[str, ...]:
    """Read pictures again to say why they cannot be read."""
    reasons = []
    for index in rows:
        path = manifest.row(index).path
        image = read_image(path)
        reasons.append(
            f"{path}: {image.reason if isinstance(image, Unreadable) else 'read the second time'}"
        )
    return tuple(reasons)


def evaluate(
    model: str,
    *,
    data: Path,
    split: str = "test",
    out: Path | None = None,
    device: str = "auto",
    batch_size: int = 64,
    num_workers: int = 2,
    dataset: str | None = None,
) -> Report | MultiLabelReport:
    """Score a classifier on a split of a manifest.

    Args:
        model: A classifier: its folder, an export, a file that others wrote, `demo`, or a name on the hub.
        data: Manifest.
        split: Split to score on.
        out: Folder for `report.json` and `predictions.parquet`; None writes nothing.
        device: auto, cpu, cuda or mps.
        batch_size: Pictures in one forward pass.
        num_workers: Processes that decode.
        dataset: Data set or manifest that names the classes, for weights that do not.

    Raises:
        CheckpointError: The model cannot be read.
        DataError: The data cannot be read, or its classes are not the model's.
    """
    with computing_on(device) as accelerator:
        classifier = _load(model, accelerator.device, device=device, dataset=dataset)
        whole = read_manifest(data)
        manifest = whole.select([split])
        facts = classifier.facts
        check_classes(facts.classes, manifest)
        if facts.view != "scene" and accelerator.is_main_process:
            _tell_missing_boxes(manifest)
        outputs = compute_outputs(
            classifier.model,
            manifest,
            views=EvaluationViews(size=facts.image_size, view=facts.view, person=facts.person),
            accelerator=accelerator,
            batch_size=batch_size,
            num_workers=num_workers,
            target=facts.target,
        )
        if outputs.unreadable and accelerator.is_main_process:
            log.warning("%s", outputs.describe_unreadable())
        thresholds = facts.thresholds or None
        report = outputs.score(manifest.facts.classes, thresholds=thresholds)
        if out is not None and accelerator.is_main_process:
            person = None if facts.view == "scene" else facts.person
            write_evaluation(out, report, outputs, whole, split=split, person=person)
        return report


@dataclass(frozen=True)
class _Runnable:
    """A classifier of either kind, with what is known of it."""

    model: nn.Module
    facts: ModelFacts


class _Exported(nn.Module):
    """An exported classifier as a module, so that one loop evaluates every classifier."""

    def __init__(self, backend: OnnxBackend) -> None:
        super().__init__()
        self.backend = backend

    def forward(self, *views: torch.Tensor) -> torch.Tensor:
        pixels = torch.stack(views, dim=1).cpu().numpy()
        return torch.from_numpy(self.backend.logits(pixels)).to(views[0].device)


def _load(model: str, place: torch.device, *, device: str, dataset: str | None) -> _Runnable:
    file = find_onnx(model)
    if file is None:
        classifier = load_model(model, dataset=dataset, device=place)
        return _Runnable(classifier.model, classifier.facts)
    backend = load_onnx(file, device=device, dataset=dataset)
    return _Runnable(_Exported(backend), backend.facts)


def _tell_missing_boxes(manifest: Manifest) -> None:
    if without := manifest.num_without_people:
        log.warning(
            "%d of %d pictures have no person box: the scene stands in", without, len(manifest)
        )


def check_classes(classes: tuple[str, ...], manifest: Manifest) -> None:
    """Refuse data whose labels mean something else than the model's outputs.

    Raises:
        DataError: Names both lists.
    """
    if classes != manifest.facts.classes:
        raise DataError(
            f"the model knows {', '.join(classes)}, in this order, but the manifest of {manifest.facts.name} has "
            f"{', '.join(manifest.facts.classes)}: evaluate on data with the same classes, or fine-tune on these"
        )


def write_evaluation(
    folder: Path,
    report: Report | MultiLabelReport,
    outputs: Outputs,
    manifest: Manifest,
    *,
    split: str,
    person: PersonConfig | None,
) -> None:
    """Write `report.json` and `predictions.parquet` (path, row, label, predicted, probabilities).

    Of several labels, label and predicted are lists; those at or above the report's thresholds are predicted.

    Args:
        folder: Made if absent.
        report: Scores.
        outputs: What the classifier says of the split.
        manifest: All splits, so that `row` is the place in the file.
        split: The one that was asked.
        person: How the person was chosen, whose box is then told as `predict` does; None for a classifier of scenes.

    Raises:
        DataError: The folder cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    classes = manifest.facts.classes
    probabilities = outputs.probabilities
    if isinstance(report, MultiLabelReport):
        given = probabilities >= np.array(report.thresholds)
        label, predicted = (_names(flags, classes) for flags in (outputs.labels, given))
    else:
        label = [classes[place] for place in outputs.labels]
        predicted = [classes[place] for place in probabilities.argmax(1)]
    rows = manifest.places(split)[outputs.rows]
    columns = {
        "path": manifest.table["path"].take(pa.array(rows)),
        "row": pa.array(rows),
        **({} if person is None else _box_columns(manifest, rows, person)),
        "label": pa.array(label),
        "predicted": pa.array(predicted),
        **{f"p_{name}": pa.array(probabilities[:, index]) for index, name in enumerate(classes)},
    }
    summary = {**report.to_dict(), "unreadable": list(outputs.unreadable)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_text(json.dumps(summary, indent=2), encoding="utf-8")
        pq.write_table(pa.table(columns), folder / "predictions.parquet")
    except OSError as error:
        raise DataError(f"the report cannot be written to {folder} ({error})") from error


def _box_columns(
    manifest: Manifest, rows: npt.NDArray[np.int64], person: PersonConfig
) -> dict[str, pa.Array]:
    """Give the box of each row's person, in the columns of `predict`."""
    import pyarrow as pa

    boxes = [_person(manifest, index, person) for index in rows.tolist()]
    values = [(None,) * len(BOX_COLUMNS) if box is None else astuple(box) for box in boxes]
    columns = zip(*values, strict=True)
    return {
        name: pa.array(column, pa.float64())
        for name, column in zip(BOX_COLUMNS, columns, strict=True)
    }


def _person(manifest: Manifest, index: int, person: PersonConfig) -> Box | None:
    """Choose the person that the classifier read in a row; None where the scene stood in."""
    row = manifest.row(index)
    width, height = (manifest.table[side][index].as_py() for side in ("width", "height"))
    if len(row.boxes) > 1 and None in (width, height):
        image = read_image(row.path)  # the choice hangs on what of each box lies in the picture
        width, height = (None, None) if isinstance(image, Unreadable) else image.size
    return choose_box(
        row.boxes, person.choice, width=width or sys.maxsize, height=height or sys.maxsize
    )


def _names(flags: npt.NDArray[np.bool], classes: Sequence[str]) -> list[list[str]]:
    """Name the classes that are true in each row (N, C)."""
    return [[classes[place] for place in row.nonzero()[0]] for row in flags]
