"""Which epoch of a fine-tuning is kept, and in which precision it answers: both chosen on val."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from accelerate import Accelerator

from uniemox.compute.devices import does_bfloat16_well
from uniemox.config.checks import Precision
from uniemox.config.training import FinetuneConfig
from uniemox.data.pixels import EvaluationViews
from uniemox.inference.outputs import Outputs, compute_outputs
from uniemox.manifests.table import Manifest
from uniemox.targets.scores import Metric
from uniemox.targets.target import Target
from uniemox.train.engine import Engine, Kept
from uniemox.train.events import Message, Observer

# How much bf16 may change the answers of fp32 on val, and lower the score that chooses the epoch, to be recorded.
_LEAST_AGREEMENT = 0.99
_MOST_LOST = 0.005


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Scores each epoch on val and keeps the best weights; they are part of the state of the run."""

    config: FinetuneConfig
    target: Target
    metric: Metric
    val: Manifest
    views: EvaluationViews
    observer: Observer

    def answers(
        self, model: Any, manifest: Manifest, accelerator: Accelerator, precision: Precision, **options: Any
    ) -> Outputs:
        """Run a classifier over a split, just as `evaluate` does but for the options of `compute_outputs`."""
        return compute_outputs(
            model,
            manifest,
            views=self.views,
            accelerator=accelerator,
            num_workers=self.config.workers,
            target=self.target,
            precision=precision,
            **options,
        )

    def score(self, outputs: Outputs) -> float:
        """Compute the metric that the epoch is chosen by."""
        return outputs.score(num_resamples=0).values[self.metric.name]

    def precision(self, model: Any, accelerator: Accelerator) -> tuple[Precision, Outputs, str]:
        """Choose in which precision the chosen weights answer: bf16 only where val gets the answers of fp32.

        Returns that precision, the model's answers to val in it, and why.
        """
        full = self.answers(model, self.val, accelerator, "fp32")
        trained = self.config.precision
        if trained == "fp32":
            return "fp32", full, "trained and measured in fp32"
        if not does_bfloat16_well(accelerator.device):
            return "fp32", full, f"trained in {trained}, which this device does slowly; measured in fp32"
        half = self.answers(model, self.val, accelerator, trained)
        agreement, before, after = full.agreement(half), self.score(full), self.score(half)
        is_same = agreement >= _LEAST_AGREEMENT and self.metric.loss(before, after) <= _MOST_LOST
        chosen = trained if is_same else "fp32"
        why = (
            f"trained in {trained}, measured in {chosen}: on {self.config.val_split} {100 * agreement:.1f} % of the "
            f"answers in {trained} are those in fp32, and {self.metric.name} is {after:z.4f} against {before:z.4f}"
        )
        self.observer(Message(why))
        return chosen, half if is_same else full, why

    def after_epoch(self, engine: Engine) -> Kept:
        """Score the weights of the epoch; keep them if they are the best so far, the earlier of equals."""
        model, notes = engine.weights_module, engine.kept.notes
        outputs = self.answers(
            model,
            self.val,
            engine.accelerator,
            self.config.precision,
            batch_size=self.config.optim.batch_size * 2,
            between=engine.heed_signals,
        )
        missing = self._report_missing(outputs, notes.get("missing"))
        scores = outputs.score(num_resamples=0)
        if engine.accelerator.is_main_process:
            how: dict[str, float | str] = {"epoch": engine.epoch, "computed_in": scores.computed_in}
            engine.journal.write("val", engine.step, how | scores.kept)
        score = scores.values[self.metric.name]
        best = self.metric.improves(score, on=notes.get("score"))
        text = f"epoch {engine.epoch}: val {self.metric.name} {score:z.4f}{' (best so far)' if best else ''}"
        self.observer(Message(text))
        if not best:
            return Kept({**notes, "missing": missing}, engine.kept.weights)
        weights = {name: value.cpu().clone() for name, value in model.state_dict().items()}
        return Kept({"missing": missing, "epoch": engine.epoch, "score": score}, weights)

    def is_enough(self, engine: Engine) -> bool:
        """Whether the score has not improved for as many epochs as the settings are patient."""
        patience, best = self.config.patience, engine.kept.notes.get("epoch")
        return patience is not None and best is not None and engine.epochs_done - best >= patience

    def _report_missing(self, outputs: Outputs, before: list[int] | None) -> list[int]:
        """List the rows of val that are not scored, and report them where they are others than in the epoch before."""
        missing: list[int] = np.setdiff1d(np.arange(len(self.val)), outputs.rows).tolist()
        if missing != (before or []):
            what = outputs.describe_unreadable() if missing else "all images can be read again"
            change = "" if before is None else "; epochs are no longer scored on the same rows"
            self.observer(Message(f"{self.config.val_split}: {what}{change}"))
        return missing
