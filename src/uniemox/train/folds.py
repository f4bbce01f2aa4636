"""Cross-validation: as many fine-tunings as folds, and what their scores say together."""

import json
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from uniemox.compute.processes import num_processes
from uniemox.config.training import FinetuneConfig
from uniemox.data.batch import TrainingOrder
from uniemox.errors import ConfigError, DataError
from uniemox.files.whole import write_whole
from uniemox.inference.sources import REPORT
from uniemox.manifests.recut import cut_folds
from uniemox.manifests.table import Manifest, read_manifest, write_manifest
from uniemox.targets.kinds import build_target
from uniemox.targets.scores import Metric
from uniemox.targets.target import Target
from uniemox.train.events import Message, Observer, ignore
from uniemox.train.finetune import finetune

SUMMARY: Final = "folds.json"  # The scores of all folds, in the folder of the cross-validation


@dataclass(frozen=True)
class FoldScore:
    """What the folds say of one metric."""

    metric: Metric
    values: tuple[float, ...]  # Of each fold, on its own part of the data
    test_share: float  # Rows of a fold's test over those of its train, the mean of the folds

    @property
    def mean(self) -> float:
        """Mean over the folds."""
        return float(np.mean(self.values))

    @property
    def half(self) -> float:
        """Half the width of the 95 % interval of the mean.

        Models of different folds learn from mostly the same rows, so their scores vary less than those of independent
        data would: the variance of the mean is taken as (1 / K + n_test / n_train) s² (Nadeau and Bengio 2003).
        """
        from scipy.special import stdtrit

        count = len(self.values)
        spread = np.var(self.values, ddof=1) * (1 / count + self.test_share)
        return float(stdtrit(count - 1, 0.975) * np.sqrt(spread))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"mean": self.mean, "interval": [self.mean - self.half, self.mean + self.half], "folds": [*self.values]}


def cross_validate(
    config: FinetuneConfig, observer: Observer = ignore, *, target: Target | None = None
) -> list[FoldScore]:
    """Fine-tune a model for each of `config.folds` folds, and write what their scores say together.

    Each fold is a run of its own in `config.out`, with the rows of its data beside it; `config.resume` continues with
    the first fold that is not done.

    Args:
        config: What to do; its splits are those whose rows are divided.
        observer: Hears of progress.
        target: What the labels are, where that is a kind of the caller's own.

    Returns:
        The scores by metric, in the order in which the target shows them.

    Raises:
        ConfigError: No folds are set, or the folder is not empty and not resumed.
        DataError: There are fewer groups, or images, than folds; or a fold leaves too few rows to train on.
    """
    if config.folds is None:
        raise ConfigError("folds is not set: give a number, or call `finetune`")
    if not config.resume and config.out.exists() and any(config.out.iterdir()):
        raise ConfigError(f"out {config.out} is not empty: choose another folder, or `resume` its folds")
    parts = _prepare(config, target or build_target(config.target), observer)
    found, shares = [], []
    for number, manifest in enumerate(parts, 1):
        folder = config.out / f"fold-{number}"
        data = config.out / "data" / f"fold-{number}.parquet"
        if not (config.resume and data.exists()):
            write_manifest(manifest, data)
        observer(Message(f"fold {number} of {config.folds}: {manifest.split_counts()}"))
        own = replace(config, data=data, out=folder, folds=None)
        finetune(replace(own, train_split="train", val_split="val", test_split="test"), observer, target=target)
        saved = json.loads((folder / "test" / REPORT).read_text(encoding="utf-8"))
        found.append((target or build_target(config.target)).scores_from_dict(saved))
        counts = manifest.split_counts()
        shares.append(counts["test"] / counts["train"])
    together = [
        FoldScore(metric, tuple(scores.values[metric.name] for scores in found), float(np.mean(shares)))
        for metric in found[0].metrics
        if metric.is_kept and all(metric.name in scores.values for scores in found)
    ]
    with write_whole(config.out / SUMMARY, DataError) as beside:
        text = json.dumps({score.metric.name: score.to_dict() for score in together}, indent=2)
        beside.write_text(text, encoding="utf-8")
    for score in together:
        if score.metric.is_selectable:
            text = f"{score.metric.title} {score.mean:.4f} ± {score.half:.4f} over {config.folds} folds"
            observer(Message(text))
    return together


def _prepare(config: FinetuneConfig, target: Target, observer: Observer) -> list[Manifest]:
    """Divide the rows that have labels, refuse folds that leave too few to train on, and say which lacks a class."""
    assert config.folds is not None
    asked = dict.fromkeys(
        name for name in (config.train_split, config.val_split, config.test_split) if name is not None
    )
    whole = read_manifest(config.data).select(list(asked))
    whole = target.bind_to(whole).rated(whole)
    parts = cut_folds(whole, num_folds=config.folds, seed=config.seed)
    fewest = min(range(len(parts)), key=lambda place: parts[place].split_counts()["train"])
    try:  # before the first fold has run for hours
        TrainingOrder(
            num_rows=parts[fewest].split_counts()["train"],
            batch_size=config.optim.batch_size,
            accumulate=config.optim.accumulate,
            seed=config.seed,
            num_processes=num_processes(),
        )
    except DataError as error:
        raise DataError(f"fold {fewest + 1} of {config.folds} trains on too few rows: {error}") from error
    for number, part in enumerate(parts, 1):
        counts = part.select(["test"]).class_counts()
        lacking = [name for name, count in whole.class_counts().items() if count and not counts[name]]
        if lacking:
            text = f"fold {number} has no image of {', '.join(lacking)}: its scores do not speak of that"
            observer(Message(text))
    return parts
