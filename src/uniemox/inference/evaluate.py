"""Evaluation of a classifier on a split of a manifest, exact on any number of processes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from uniemox.checkpoints.open import open_model
from uniemox.checkpoints.zero_shot import is_zero_shot
from uniemox.compute.devices import computing_in, computing_on
from uniemox.config.checks import Precision
from uniemox.config.inference import AskedPrecision
from uniemox.config.zero_shot import ZeroShotConfig, refuse_zero_shot
from uniemox.data.batch import LabelledBatch, batches_of, dead_workers_named, evaluation_loader
from uniemox.data.dataset import EvaluationDataset
from uniemox.data.pixels import EvaluationViews
from uniemox.errors import DataError
from uniemox.files.whole import write_whole
from uniemox.inference.baselines import score_baselines
from uniemox.inference.onnx_backend import OnnxBackend, load_onnx
from uniemox.inference.predictor import Prediction
from uniemox.inference.tables import about_model, write_predictions
from uniemox.inference.torch_backend import TorchBackend, load_torch
from uniemox.inference.zero_shot import answer_zero_shot
from uniemox.manifests.table import Box, Manifest, read_manifest
from uniemox.models.classify import AnyClassifier, read_features
from uniemox.targets.domain import Domain
from uniemox.targets.intervals import Groups, describe_units, groups_of
from uniemox.targets.kinds import resolve_target
from uniemox.targets.scores import NUM_RESAMPLES, Scores
from uniemox.targets.target import Target

log = logging.getLogger(__name__)

BATCH_SIZE: Final = 32
"""Images in one forward pass where nothing else is asked for. A run scores its chosen weights in batches of this size
too, since in bf16 the size of a batch decides how sums are rounded."""
_ROWS_AT_ONCE: Final = 1024  # Rows of a table that are made into answers at once


@dataclass(frozen=True)
class Outputs:
    """A model's answers to the readable images of a manifest, in its order."""

    logits: npt.NDArray[np.float32]  # (N, C)
    labels: npt.NDArray[Any]  # (N, …), as the target reads them
    rows: npt.NDArray[np.int64]  # (N,), place in the manifest
    boxes: tuple[Box | None, ...]  # (N,), the person that was cut out; None where the whole image was used
    unreadable: tuple[str, ...]  # Path and reason of each image that was skipped
    target: Target
    computed_in: str  # Precision of the forward passes, or onnx
    groups: Groups | None = None  # Of the manifest's rows, which intervals resample together
    beside: npt.NDArray[np.float32] | None = None  # (N, K), what the module gave beside logits
    domain: Domain | None = None  # That `beside` holds distances (N, 1) from, if it does

    @property
    def group_codes(self) -> npt.NDArray[np.int64] | None:
        """The groups of the samples (N,), if rows of the manifest have some."""
        return None if self.groups is None else self.groups.codes[self.rows]

    def score(self, *, num_resamples: int = NUM_RESAMPLES) -> Scores:
        """Score the answers as they are, with intervals over groups of rows that are alike (`groups_of`)."""
        if self.groups is None:
            scores = self.target.score(self.logits, self.labels, num_resamples=num_resamples)
            return replace(scores, computed_in=self.computed_in)
        groups = self.group_codes
        scores = self.target.score(self.logits, self.labels, num_resamples=num_resamples, groups=groups)
        return replace(scores, computed_in=self.computed_in, resampled=describe_units(groups, self.groups.word))

    def score_beside(
        self,
        manifest: Manifest,
        train: Manifest | None,
        *,
        num_workers: int,
        teacher: str | None = None,
        device: str = "cpu",
    ) -> Scores:
        """Score the answers and, beside them, baselines: some learn from the rows of `train`.

        `teacher` names the CLIP that the model was distilled from, which answers too where its weights are at hand, on
        `device`.
        """
        answered = manifest
        if len(self.rows) < len(manifest):
            table = manifest.table.take(pa.array(self.rows))
            answered = Manifest(table, manifest.facts, manifest.places[self.rows])
        more = {f"zero-shot of {teacher}": partial(answer_zero_shot, teacher)} if teacher else None
        baselines = score_baselines(
            self.target.without_guarantees(),  # which were fitted for the model alone
            test=answered,
            labels=self.labels,
            train=train,
            num_workers=num_workers,
            more=more,
            device=device,
        )
        return replace(self.score(), baselines=baselines)

    def agreement(self, other: Outputs) -> float:
        """Compute the share of answers that another precision keeps, on the images that both could read.

        The target is fitted here first.
        """
        _, ours, theirs = np.intersect1d(self.rows, other.rows, return_indices=True)
        fitted = self.target.fit(self.logits[ours], self.labels[ours])
        return fitted.agreement(self.logits[ours], other.logits[theirs])

    def describe_unreadable(self) -> str:
        """Count the images that were skipped, and name the first with its reason."""
        return (
            f"skipped {len(self.unreadable)} of {len(self.unreadable) + len(self.labels)} images that cannot be "
            f"read; the first is {self.unreadable[0]}"
        )


def compute_outputs(
    model: nn.Module,
    manifest: Manifest,
    *,
    views: EvaluationViews,
    accelerator: Accelerator,
    num_workers: int,
    target: Target,
    precision: Precision,
    batch_size: int = BATCH_SIZE,
    between: Callable[[], None] = lambda: None,
) -> Outputs:
    """Run a classifier over labelled rows. Every row counts once, whatever the number of processes.

    The model maps one view or two, (B, 3, S, S), to logits (B, C), or to those and numbers (B, K) to be kept beside
    them, on the accelerator's device and in `precision`, whatever the accelerator's. `between` is called between
    batches, by all processes, and may raise to stop. Where no image can be read, or one cannot be transformed,
    `DataError` is raised.
    """
    dataset = EvaluationDataset(manifest, views, target)
    loader = accelerator.prepare_data_loader(evaluation_loader(dataset, batch_size=batch_size, num_workers=num_workers))
    model.eval()
    parts: list[tuple[torch.Tensor, ...]] = []
    reasons: dict[int, str] = {}  # by row, like the boxes
    boxes: dict[int, Box | None] = {}
    with torch.no_grad():
        batch: LabelledBatch
        for batch in batches_of(loader):
            between()
            with computing_in(precision, accelerator.device):
                answer = model(*batch.to(accelerator.device).views)
            outputs = tuple(output.float() for output in (answer if isinstance(answer, tuple) else (answer,)))
            gathered = accelerator.gather_for_metrics((batch.labels, batch.rows, batch.readable, *outputs))
            parts.append(tuple(tensor.cpu() for tensor in gathered))
            skipped = (f"{path}: {reason}" for path, reason in batch.skipped)
            reasons |= zip(batch.rows[~batch.readable].tolist(), skipped, strict=True)
            boxes |= zip(batch.rows.tolist(), batch.boxes, strict=True)
    # What all processes know; a row that fills up another's batch is the same in both.
    reasons, boxes = (dict(gather_object(list(known.items()))) for known in (reasons, boxes))
    labels, rows, readable, logits, *beside = (torch.cat(column) for column in zip(*parts, strict=True))
    if not readable.any():
        raise DataError(f"none of the {len(manifest)} images below {manifest.facts.root} can be read: {reasons[0]}")
    return Outputs(
        logits[readable].numpy(),
        labels[readable].numpy(),
        rows[readable].numpy(),
        tuple(boxes[row] for row in rows[readable].tolist()),
        tuple(reason for _, reason in sorted(reasons.items())),
        target,
        "onnx" if isinstance(model, _Exported) else precision,
        groups_of(manifest),
        beside[0][readable].numpy() if beside else None,
    )


def evaluate(
    model: str,
    *,
    data: Path,
    split: str = "test",
    out: Path | None = None,
    device: str = "auto",
    batch_size: int = BATCH_SIZE,
    num_workers: int = 2,
    dataset: str | None = None,
    precision: AskedPrecision = "auto",
    target: Target | None = None,
    baselines: bool = True,
    zero_shot: ZeroShotConfig | None = None,
) -> Scores:
    """Score a classifier on a split of a manifest.

    Classes are matched by name, in whatever order and spelling the manifest has them; the report and the predictions
    have the model's.

    Args:
        model: A classifier: its folder, an export, a file that others wrote, `demo`, a name on the hub, or a model that
            needs no training: the folder of a pretrained model, or a CLIP (`clip:ARCH/TAG`).
        data: Manifest.
        split: Split to score on.
        out: Folder for `report.json` and `predictions.parquet`; None writes nothing.
        device: auto, cpu, cuda or mps.
        batch_size: Images in one forward pass.
        num_workers: Processes that decode.
        dataset: Data set or manifest that names the classes, for weights that do not.
        precision: auto, fp32 or bf16; auto is what the model folder records. An export has its own.
        target: What the model was trained with, where that is a kind of the caller's own.
        baselines: Whether the first process scores cheap baselines beside the model, from the rows of split train.
        zero_shot: Classes and words of a model that needs no training; by default the classes are those of the data.

    Raises:
        CheckpointError: The model cannot be read, or answers with a kind that must be given.
        ConfigError: The device does not exist, or an export was asked for a precision.
        DataError: The data cannot be read, its classes are not the model's, by whatever name, or a process that decodes
            images died.
    """
    with computing_on(device) as accelerator:
        opened = open_model(model)
        module: nn.Module
        backend: OnnxBackend | TorchBackend
        chosen: Precision
        if opened.role == "export":
            refuse_zero_shot(opened.name, zero_shot)
            backend = load_onnx(opened.path, device=device, dataset=dataset, precision=precision)
            module, facts, domain, chosen = _Exported(backend), backend.facts, backend.domain, "fp32"
        else:
            if is_zero_shot(opened) and not (dataset or (zero_shot and (zero_shot.classes or zero_shot.taxonomy))):
                dataset = str(data)
            elif opened.role == "clip" and zero_shot is not None and zero_shot.wording == "auto":
                zero_shot = replace(zero_shot, wording=read_manifest(data).facts.emotion or "auto")
            backend = load_torch(opened, device=device, dataset=dataset, precision=precision, zero_shot=zero_shot)
            facts, domain, chosen = backend.facts, backend.domain, backend.precision
            module = backend.model if domain is None else Measuring(backend.model, domain)
        answers = resolve_target(facts.target, facts.classes, facts.kept, given=target)
        answers, whole = answers.align(read_manifest(data))
        manifest = answers.rated(whole.select([split]))
        _warn_of_calibration(zero_shot, data, split, has_val="val" in whole.split_counts())
        reads_people = facts.view != "scene"
        without = manifest.num_without_people
        if reads_people and without and accelerator.is_main_process:
            log.warning("%d of %d images have no person box: the whole image is used instead", without, len(manifest))
        with dead_workers_named():
            outputs = compute_outputs(
                module,
                manifest,
                views=facts.views,
                accelerator=accelerator,
                batch_size=batch_size,
                num_workers=num_workers,
                target=answers,
                precision=chosen,
            )
        outputs = replace(outputs, domain=domain)
        if outputs.unreadable and accelerator.is_main_process:
            log.warning("%s", outputs.describe_unreadable())
        if baselines and accelerator.is_main_process:
            train = whole.select(["train"]) if "train" in whole.split_counts() else None
            teacher = facts.provenance.get("teacher")
            scores = outputs.score_beside(
                manifest, train, num_workers=num_workers, teacher=teacher, device=str(accelerator.device)
            )
        else:
            scores = outputs.score()
        if out is not None and accelerator.is_main_process:
            about = about_model(opened.name, facts, digest=backend.digest())
            write_evaluation(out, scores, outputs, manifest, people=reads_people, about=about)
        return scores


def _warn_of_calibration(zero_shot: ZeroShotConfig | None, data: Path, split: str, *, has_val: bool) -> None:
    """Warn where a temperature is fitted on what is scored."""
    fitted_on = None if zero_shot is None else zero_shot.calibrate
    is_same = fitted_on is not None and fitted_on.absolute() == data.absolute()
    if is_same and (split == "val" or not has_val):
        log.warning("the temperature is fitted on the images that are scored, which flatters calibration error and nll")


class _Exported(nn.Module):
    """An exported classifier as a module, so that one loop evaluates every classifier."""

    def __init__(self, backend: OnnxBackend) -> None:
        super().__init__()
        self.backend = backend

    def forward(self, *views: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        logits, features = self.backend.outputs(torch.stack(views, dim=1).cpu().numpy())
        answer, domain = torch.from_numpy(logits).to(views[0].device), self.backend.domain
        if features is None or domain is None:
            return answer
        return answer, _measure(domain, torch.from_numpy(features)).to(views[0].device)


class Reading(nn.Module):
    """A classifier that gives logits (B, C) and what its head reads (B, D), for `compute_outputs`."""

    def __init__(self, model: AnyClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, *views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Read one view or two (B, 3, S, S)."""
        return read_features(self.model, *views)


class Measuring(Reading):
    """A classifier that gives logits (B, C) and distances (B, 1) from what it knows, for `compute_outputs`."""

    def __init__(self, model: AnyClassifier, domain: Domain) -> None:
        super().__init__(model)
        self.domain = domain

    def forward(self, *views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Read one view or two (B, 3, S, S)."""
        logits, features = super().forward(*views)
        return logits, _measure(self.domain, features)


def _measure(domain: Domain, features: torch.Tensor) -> torch.Tensor:
    distances = domain.distances(features.float().cpu().numpy())
    return torch.from_numpy(distances[:, None]).to(features.device, torch.float32)


def write_evaluation(
    folder: Path,
    scores: Scores,
    outputs: Outputs,
    manifest: Manifest,
    *,
    people: bool,
    about: Mapping[str, str] | None = None,
) -> None:
    """Write `report.json`, and `predictions.parquet` in the columns of `predict` with the truth and the row.

    The folder is made if absent; `people` adds the boxes of the persons that the model read, `about` is that of
    `about_model`.
    """
    numbers = outputs.target.to_facts().get("numbers", {})
    summary = {**scores.to_dict(), "numbers": numbers, "unreadable": list(outputs.unreadable)}
    if outputs.domain is not None:
        known = _locate(outputs, slice(None))
        summary["unfamiliar"] = sum(row["is_unfamiliar"] for row in known) / len(known)
    with write_whole(folder / "report.json", DataError) as beside:
        beside.write_text(json.dumps(summary, indent=2), encoding="utf-8")
    predictions, out = _evaluated(outputs, manifest), folder / "predictions.parquet"
    more: dict[str, Any] = {"people": people, "domain": outputs.domain, "about": about}
    write_predictions(predictions, out, outputs.target, is_evaluation=True, **more)


def _evaluated(outputs: Outputs, manifest: Manifest) -> Iterator[Prediction]:
    paths, target = manifest.table["path"], outputs.target
    for start in range(0, len(outputs.rows), _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        truths, answers = target.truths(outputs.labels[block]), target.answers(outputs.logits[block])
        places, known = outputs.rows[block].tolist(), _locate(outputs, block)
        boxes = outputs.boxes[block]
        for place, box, truth, answer, more in zip(places, boxes, truths, answers, known, strict=True):
            row = {"row": int(manifest.places[place]), **truth, **answer, **more}
            yield Prediction(Path(paths[place].as_py()), row, box=box)


def _locate(outputs: Outputs, block: slice) -> list[dict[str, Any]]:
    """Say how far the samples are from what the model knows; nothing of a model that keeps nothing."""
    if outputs.domain is None or outputs.beside is None:
        return [{} for _ in outputs.rows[block]]
    return outputs.domain.answers(outputs.beside[block, 0])
