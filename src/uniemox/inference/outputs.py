"""A classifier's answers to labelled rows, exact on any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from uniemox.compute.devices import computing_in
from uniemox.config.checks import Precision
from uniemox.data.batch import LabelledBatch, batches_of, evaluation_loader
from uniemox.data.corruptions import Corruption
from uniemox.data.dataset import EvaluationDataset
from uniemox.data.pixels import EvaluationViews
from uniemox.errors import DataError
from uniemox.files.progress import Track, untracked
from uniemox.inference.baselines import score_baselines
from uniemox.inference.onnx_backend import OnnxBackend
from uniemox.inference.zero_shot import answer_zero_shot
from uniemox.manifests.table import Box, Manifest
from uniemox.models.classify import AnyClassifier, read_features
from uniemox.targets.calibration import Confidence, Uncalibrated
from uniemox.targets.contribution import Contribution, Gain
from uniemox.targets.domain import Domain
from uniemox.targets.intervals import Groups, describe_units, groups_of
from uniemox.targets.pairs import paired_differences
from uniemox.targets.scores import NUM_RESAMPLES, Scores
from uniemox.targets.target import Target

BATCH_SIZE: Final = 32
"""Images in one forward pass where nothing else is asked for. A run scores its chosen weights in batches of this size
too, since in bf16 the size of a batch decides how sums are rounded."""


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

    def before(self, temperatures: npt.NDArray[np.float64]) -> Uncalibrated:
        """Score what confidence was worth before the outputs were divided by temperatures (C,)."""
        before, after = (
            self.target.score(logits, self.labels, num_resamples=0)
            for logits in (self.logits * temperatures, self.logits)
        )
        found = tuple(
            Confidence(
                title=metric.title or metric.note or metric.name,
                before=before.values[metric.name],
                after=after.values[metric.name],
            )
            for metric in before.metrics
            if metric.is_of_confidence
        )
        listed = tuple(dict.fromkeys(temperatures.tolist()))
        return Uncalibrated(temperatures=listed, metrics=found, bins=before.bins)

    def against(self, without: Outputs) -> Contribution:
        """Compare them with the answers to the same rows without people, where both could read the image."""
        _, ours, theirs = np.intersect1d(self.rows, without.rows, return_indices=True)
        target, labels = self.target, self.labels[ours]
        groups = None if self.group_codes is None else self.group_codes[ours]
        numbers = [target.numbers(one) for one in (without.logits[theirs], self.logits[ours])]
        first, second = (target.score_numbers(one, labels, num_resamples=0) for one in numbers)
        differences = paired_differences(target, numbers[0], numbers[1], labels, groups)
        gains = tuple(
            Gain(
                name=metric.name,
                title=metric.title,
                without=first.values[metric.name],
                value=second.values[metric.name],
                difference=differences[metric.name].value,
                interval=differences[metric.name].interval,
            )
            for metric in first.metrics
            if metric.name in differences
        )
        people = sum(self.boxes[place] is not None for place in ours)
        return Contribution(num_samples=len(ours), num_with_person=people, gains=gains)

    def apart(self, count: int) -> list[Outputs]:
        """Take apart the answers to the samples of `count` corruptions: those to all rows for each of them."""
        parts = []
        for which in range(count):
            own = np.flatnonzero(self.rows % count == which)
            changes: dict[str, Any] = {"logits": self.logits[own], "labels": self.labels[own]}
            boxes = tuple(self.boxes[place] for place in own)
            parts.append(replace(self, **changes, rows=self.rows[own] // count, boxes=boxes, beside=None))
        return parts

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
    corruptions: Sequence[Corruption] = (),
    track: Track = untracked,
) -> Outputs:
    """Run a classifier over labelled rows. Every row counts once, whatever the number of processes.

    The model maps one view or two, (B, 3, S, S), to logits (B, C), or to those and numbers (B, K) to be kept beside
    them, on the accelerator's device and in `precision`, whatever the accelerator's. `between` is called between
    batches, by all processes, and may raise to stop; `track` shows how many are done. With corruptions, the answers are
    to as many samples of each row in sequence, which `rows` then counts (`Outputs.apart`).

    Raises:
        DataError: No image can be read, or one cannot be transformed.
    """
    dataset = EvaluationDataset(manifest, views, target, corruptions)
    loader = accelerator.prepare_data_loader(evaluation_loader(dataset, batch_size=batch_size, num_workers=num_workers))
    model.eval()
    parts: list[tuple[torch.Tensor, ...]] = []
    reasons: dict[int, str] = {}  # by row, like the boxes
    boxes: dict[int, Box | None] = {}
    with torch.no_grad():
        batch: LabelledBatch
        for batch in track(batches_of(loader), total=len(loader), what="batches"):
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
        "onnx" if isinstance(model, Exported) else precision,
        groups_of(manifest),
        beside[0][readable].numpy() if beside else None,
    )


class Exported(nn.Module):
    """An exported classifier as a module, so that one loop evaluates every classifier."""

    def __init__(self, backend: OnnxBackend) -> None:
        super().__init__()
        self.backend = backend

    def forward(self, *views: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Read one view or two (B, 3, S, S)."""
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
