"""Evaluation of a classifier on a split of a manifest, exact on any number of processes."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from accelerate import Accelerator
from torch import nn

from uniemox.checkpoints.facts import ModelFacts
from uniemox.checkpoints.open import open_model
from uniemox.checkpoints.zero_shot import is_zero_shot
from uniemox.compute.devices import computing_on
from uniemox.config.checks import Precision
from uniemox.config.inference import AskedPrecision
from uniemox.config.zero_shot import ZeroShotConfig, refuse_zero_shot
from uniemox.data.batch import dead_workers_named
from uniemox.data.corruptions import Corruption
from uniemox.errors import DataError
from uniemox.files.progress import Track, untracked
from uniemox.files.whole import write_whole
from uniemox.inference.onnx_backend import OnnxBackend, load_onnx
from uniemox.inference.outputs import BATCH_SIZE, Exported, Measuring, Outputs, compute_outputs
from uniemox.inference.predictor import Prediction
from uniemox.inference.robustness import answer_changed, score_changed
from uniemox.inference.slices import score_by
from uniemox.inference.sources import PREDICTIONS, REPORT
from uniemox.inference.tables import about_model, write_predictions
from uniemox.inference.torch_backend import TorchBackend, load_torch
from uniemox.manifests.slicing import slice_rows
from uniemox.manifests.table import Manifest, read_manifest
from uniemox.targets.bridges import Crossing
from uniemox.targets.kinds import resolve_target
from uniemox.targets.scores import Scores
from uniemox.targets.target import Target
from uniemox.wording import counted

log = logging.getLogger(__name__)

_ROWS_AT_ONCE: Final = 1024  # Rows of a table that are made into answers at once


@dataclass(frozen=True)
class Evaluator:
    """A classifier of any kind, opened once to answer labelled rows of any number of manifests."""

    name: str
    backend: OnnxBackend | TorchBackend
    precision: Precision  # Of the forward passes; an export has its own
    accelerator: Accelerator
    batch_size: int = BATCH_SIZE
    num_workers: int = 2
    crossing: Crossing[Target] | None = None  # To the classes of `target`, where it answers for others than its own

    @classmethod
    def open(
        cls,
        model: str,
        *,
        accelerator: Accelerator,
        device: str,
        dataset: str | None = None,
        precision: AskedPrecision = "auto",
        zero_shot: ZeroShotConfig | None = None,
        data: Path | None = None,
        batch_size: int = BATCH_SIZE,
        num_workers: int = 2,
    ) -> Self:
        """Open a classifier as `evaluate` does, which has the arguments.

        `data` names the manifest whose classes and wording a model that needs no training takes, where none are asked
        for.
        """
        opened = open_model(model)
        backend: OnnxBackend | TorchBackend
        if opened.role == "export":
            refuse_zero_shot(opened.name, zero_shot)
            backend = load_onnx(opened.path, device=device, dataset=dataset, precision=precision)
            return cls(opened.name, backend, "fp32", accelerator, batch_size, num_workers)
        asks_classes = bool(dataset or (zero_shot and (zero_shot.classes or zero_shot.taxonomy)))
        if data is not None and is_zero_shot(opened) and not asks_classes:
            dataset = str(data)
        elif data is not None and opened.role == "clip" and zero_shot is not None and zero_shot.wording == "auto":
            zero_shot = replace(zero_shot, wording=read_manifest(data).facts.emotion or "auto")
        backend = load_torch(opened, device=device, dataset=dataset, precision=precision, zero_shot=zero_shot)
        return cls(opened.name, backend, backend.precision, accelerator, batch_size, num_workers)

    @property
    def facts(self) -> ModelFacts:
        """What is known of the model."""
        return self.backend.facts

    @property
    def reads_people(self) -> bool:
        """Whether it reads the person in an image."""
        return self.facts.view != "scene"

    @property
    def module(self) -> nn.Module:
        """The classifier as `compute_outputs` takes it."""
        if isinstance(self.backend, OnnxBackend):
            return Exported(self.backend)
        domain = self.backend.domain
        return self.backend.model if domain is None else Measuring(self.backend.model, domain)

    def target(self, given: Target | None = None) -> Target:
        """Return what it answers; `CheckpointError` for a kind of the caller's own that is not `given`."""
        return resolve_target(self.facts.target, self.facts.classes, self.facts.kept, given=given)

    def outputs(
        self, manifest: Manifest, target: Target, *, corruptions: Sequence[Corruption] = (), track: Track = untracked
    ) -> Outputs:
        """Answer the rows of a manifest whose labels are those of the target (`Target.align`, `Target.rated`).

        `corruptions` and `track` are those of `compute_outputs`. Images that cannot be read are warned of; `DataError`
        is raised where none can be, or where a process that decodes images died.
        """
        with dead_workers_named():
            outputs = compute_outputs(
                self.module,
                manifest,
                views=self.facts.views,
                accelerator=self.accelerator,
                batch_size=self.batch_size,
                num_workers=self.num_workers,
                target=target,
                precision=self.precision,
                corruptions=corruptions,
                track=track,
            )
        if outputs.unreadable and self.accelerator.is_main_process:
            log.warning("%s", outputs.describe_unreadable())
        logits = outputs.logits if self.crossing is None else self.crossing.lead(outputs.logits)
        return replace(outputs, logits=logits, domain=self.backend.domain)


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
    bridge: bool = False,
    robustness: bool = False,
    by: Sequence[str] = (),
    track: Track = untracked,
) -> Scores:
    """Score a classifier on a split of a manifest.

    Classes are matched by name, in whatever order and spelling the manifest has them; the report and the predictions
    have the model's, or those that `bridge` finds.

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
        bridge: Whether a model and data of other classes meet where most of them have a counterpart (`meet`); the
            scores say what was mapped and dropped (`bridged`).
        robustness: Whether every image is answered again in the forms of `CORRUPTIONS`, and compared.
        by: Columns of the manifest, or of its file, to score slices by (`slice_rows`).
        track: Shows how many batches are answered.

    Raises:
        CheckpointError: The model cannot be read, or answers with a kind that must be given.
        ConfigError: The device does not exist, or an export was asked for a precision.
        DataError: The data cannot be read, its classes are not the model's, by whatever name, nor can be bridged, or a
            process that decodes images died.
    """
    with computing_on(device) as accelerator:
        evaluator = Evaluator.open(
            model,
            accelerator=accelerator,
            device=device,
            dataset=dataset,
            precision=precision,
            zero_shot=zero_shot,
            data=data,
            batch_size=batch_size,
            num_workers=num_workers,
        )
        given = read_manifest(data)
        crossing = evaluator.target(target).crossing(given, bridge=bridge)
        answers, whole, evaluator = crossing.target, crossing.manifest, replace(evaluator, crossing=crossing)
        manifest, bridged = crossing.select(split, given)
        manifest = answers.rated(manifest)
        _warn_of_calibration(zero_shot, data, split, has_val="val" in whole.split_counts())
        is_main = accelerator.is_main_process
        if is_main and evaluator.reads_people and (without := manifest.num_without_people):
            log.warning("%d of %d images have no person box: the whole image is used instead", without, len(manifest))
        sliced = {column: slice_rows(manifest, column, data) for column in by}  # refused before the model runs
        outputs = evaluator.outputs(manifest, answers, track=track)
        changed = answer_changed(evaluator.outputs, manifest, outputs, track=track) if robustness else []
        if baselines and is_main:
            train = whole.select(["train"]) if "train" in whole.split_counts() else None
            teacher = evaluator.facts.provenance.get("teacher")
            scores = outputs.score_beside(
                manifest, train, num_workers=num_workers, teacher=teacher, device=str(accelerator.device)
            )
        else:
            scores = outputs.score()
        scores = replace(scores, bridged=bridged, slices=score_by(outputs, sliced) if is_main else ())
        if changed and is_main:
            measured_on = f"{manifest.facts.title}, {split}: {counted(len(outputs.labels), 'image')}"
            scores = replace(scores, robustness=score_changed(outputs, changed, measured_on=measured_on))
        if out is not None and is_main:
            about = about_model(evaluator.name, evaluator.facts, digest=evaluator.backend.digest())
            write_evaluation(out, scores, outputs, manifest, people=evaluator.reads_people, about=about)
        return scores


def _warn_of_calibration(zero_shot: ZeroShotConfig | None, data: Path, split: str, *, has_val: bool) -> None:
    """Warn where a temperature is fitted on what is scored."""
    fitted_on = None if zero_shot is None else zero_shot.calibrate
    is_same = fitted_on is not None and fitted_on.absolute() == data.absolute()
    if is_same and (split == "val" or not has_val):
        log.warning("the temperature is fitted on the images that are scored, which flatters calibration error and nll")


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
    kept = outputs.target.to_facts()
    thresholds = {"thresholds": kept["thresholds"]} if kept["thresholds"] else {}
    numbers = {**thresholds, **kept.get("numbers", {})}
    summary = {**scores.to_dict(), "numbers": numbers, "unreadable": list(outputs.unreadable)}
    if outputs.domain is not None:
        known = _locate(outputs, slice(None))
        summary["unfamiliar"] = sum(row["is_unfamiliar"] for row in known) / len(known)
    with write_whole(folder / REPORT, DataError) as beside:
        beside.write_text(json.dumps(summary, indent=2), encoding="utf-8")
    write_predictions(
        _evaluated(outputs, manifest),
        folder / PREDICTIONS,
        outputs.target,
        is_evaluation=True,
        people=people,
        domain=outputs.domain,
        groups=outputs.groups is not None,
        about=about,
    )


def _evaluated(outputs: Outputs, manifest: Manifest) -> Iterator[Prediction]:
    paths, target = manifest.table["path"], outputs.target
    for start in range(0, len(outputs.rows), _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        truths, answers = target.truths(outputs.labels[block]), target.answers(outputs.logits[block])
        places, known = outputs.rows[block].tolist(), _locate(outputs, block)
        boxes, groups = outputs.boxes[block], outputs.groups
        for place, box, truth, answer, more in zip(places, boxes, truths, answers, known, strict=True):
            group = {} if groups is None else {"group": int(groups.codes[place])}
            row = {"row": int(manifest.places[place]), **group, **truth, **answer, **more}
            yield Prediction(Path(paths[place].as_py()), row, box=box)


def _locate(outputs: Outputs, block: slice) -> list[dict[str, Any]]:
    """Say how far the samples are from what the model knows; nothing of a model that keeps nothing."""
    if outputs.domain is None or outputs.beside is None:
        return [{} for _ in outputs.rows[block]]
    return outputs.domain.answers(outputs.beside[block, 0])
