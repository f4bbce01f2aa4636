"""Evaluation of a classifier on a split of a manifest, exact on any number of processes."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import softmax
from torch import nn

from uniemox.checkpoints.sources import load_model
from uniemox.data.batch import evaluation_loader
from uniemox.data.dataset import EvaluationDataset
from uniemox.data.images import Unreadable, read_image
from uniemox.data.manifest import read_manifest
from uniemox.data.pixels import EvaluationViews
from uniemox.devices import computing_on
from uniemox.errors import DataError
from uniemox.metrics import evaluate_predictions
from uniemox.runtime.backend import find_onnx
from uniemox.runtime.onnx_backend import load_onnx

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    from accelerate import Accelerator

    from uniemox.checkpoints.facts import ModelFacts
    from uniemox.data.batch import LabelledBatch
    from uniemox.data.manifest import Manifest
    from uniemox.metrics import Report
    from uniemox.runtime.onnx_backend import OnnxBackend

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outputs:
    """What a classifier says of the readable pictures of a manifest, in its order."""

    logits: npt.NDArray[np.float32]
    """(N, C)"""
    labels: npt.NDArray[np.int64]
    """(N,)"""
    rows: npt.NDArray[np.int64]
    """(N,), place in the manifest."""
    unreadable: tuple[str, ...]
    """Path and reason of each picture that was left out."""

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """(N, C), rows of sum 1."""
        probabilities: npt.NDArray[np.float64] = softmax(self.logits.astype(np.float64), axis=1)
        return probabilities

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
) -> Outputs:
    """Run a classifier over a manifest. Every row counts once, whatever the number of processes.

    Args:
        model: Maps one view or two, (B, 3, S, S), to logits (B, C); on the accelerator's device.
        manifest: Labelled rows.
        views: What it reads of a picture.
        accelerator: Device and processes.
        batch_size: Pictures in one forward pass of one process.
        num_workers: Processes that decode.

    Raises:
        DataError: A row has no label, or no picture can be read.
    """
    dataset = EvaluationDataset(manifest, views)
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
) -> Report:
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
        manifest = read_manifest(data).select([split])
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
        )
        if outputs.unreadable and accelerator.is_main_process:
            log.warning("%s", outputs.describe_unreadable())
        report = evaluate_predictions(outputs.probabilities, outputs.labels, manifest.facts.classes)
        if out is not None and accelerator.is_main_process:
            write_evaluation(out, report, outputs, manifest)
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


def write_evaluation(folder: Path, report: Report, outputs: Outputs, manifest: Manifest) -> None:
    """Write `report.json` and `predictions.parquet` (path, label, predicted, probabilities).

    Raises:
        DataError: The folder cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    classes = manifest.facts.classes
    probabilities = outputs.probabilities
    columns = {
        "path": manifest.table["path"].take(pa.array(outputs.rows)),
        "label": pa.array([classes[label] for label in outputs.labels]),
        "predicted": pa.array([classes[index] for index in probabilities.argmax(1)]),
        **{f"p_{name}": pa.array(probabilities[:, index]) for index, name in enumerate(classes)},
    }
    summary = {**report.to_dict(), "unreadable": list(outputs.unreadable)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_text(json.dumps(summary, indent=2), encoding="utf-8")
        pq.write_table(pa.table(columns), folder / "predictions.parquet")
    except OSError as error:
        raise DataError(f"the report cannot be written to {folder} ({error})") from error
