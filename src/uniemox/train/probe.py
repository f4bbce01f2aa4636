"""A probe: what the frozen features of a backbone tell a simple head, from its settings to its scores.

Features are computed once for each split. The head learns from train; val chooses its one free number, then its
temperature and thresholds; test is scored once. Nothing is learned from val but these.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np

from uniemox.checkpoints.backbones import Backbone, find_backbone
from uniemox.compute.devices import choose_device
from uniemox.config.clip_name import is_clip_name
from uniemox.config.probe import ProbeConfig
from uniemox.errors import ConfigError, DataError
from uniemox.files.images import admitting
from uniemox.files.whole import check_vacant, write_whole
from uniemox.inference.evaluate import write_evaluation
from uniemox.inference.outputs import Outputs
from uniemox.manifests.table import Manifest, digest, read_manifest
from uniemox.settings import RUN_CONFIG, save_config
from uniemox.targets.intervals import groups_of
from uniemox.targets.kinds import build_target, refuse_risk
from uniemox.targets.scores import Metric, Scores
from uniemox.targets.target import Target
from uniemox.train.events import Message, Observer, ignore
from uniemox.train.features import FeatureMaker, Features
from uniemox.train.heads import Fitted, Floats, Split, fit_head
from uniemox.train.probe_folder import leave_folder
from uniemox.train.run_folder import describe_environment

FEATURES: Final = "features"  # Folder of the features in that of a probe
_ROUNDED: Final = 6  # Digits of scores in `probe.json`


@dataclass(frozen=True, kw_only=True)
class _Probe:
    """What a probe has once its head is fitted."""

    config: ProbeConfig
    backbone: Backbone
    metric: Metric
    splits: Mapping[str, Manifest]  # train, val and perhaps test
    features: Mapping[str, Features]
    data: Mapping[str, Split]
    fitted: Fitted
    temperature: float  # Divisor of the logits, found on val
    target: Target  # Fitted on val

    def logits(self, part: str) -> Floats:
        """Compute the head's logits (N, C) of a split, divided by the temperature."""
        logits: Floats = self.fitted.logits(self.data[part].features) / self.temperature
        return logits

    def outputs(self, part: str) -> Outputs:
        """Answer the readable images of a split."""
        features, manifest = self.features[part], self.splits[part]
        return Outputs(
            self.logits(part).astype(np.float32),
            self.data[part].labels,
            features.rows,
            features.boxes,
            features.unreadable(manifest),
            self.target,
            self.config.precision,
            groups_of(manifest),
        )


def probe(config: ProbeConfig, observer: Observer = ignore, *, target: Target | None = None) -> Path:
    """Fit a head on the frozen features of a backbone, and evaluate it once on test.

    The folder gets `probe.json` (what val chose, every value that was tried, scores, hashes), `test/` with the files of
    an evaluation, `config.yaml` and `environment.json`; features are in `features/`, or in the folder of the settings.
    `model/` is a classifier like any other, where the backbone is an encoder of ours or a model of timm and the head a
    linear one.

    Args:
        config: What to do.
        observer: Hears of progress.
        target: What the labels are, where that is a kind of the caller's own; None takes the setting.

    Returns:
        The folder of the probe.

    Raises:
        ConfigError: A setting, the backbone's name or the folder does not fit.
        DataError: The manifest cannot be used, or the folder cannot be written.
        CheckpointError: The backbone cannot be read, or gives no finite features.
        TrainingError: The loss is not finite.
    """
    target = target or build_target(config.target)
    metric = target.selection(config.select_by)
    kept = config.out / FEATURES
    check_vacant(config.out, ConfigError, otherwise=f"; `cache` {kept} takes its features" if kept.is_dir() else "")
    began = time.monotonic()
    refuse_risk(target, config.confidence)
    with admitting(config.max_pixels):
        probed = _promise(_fit(config, target, metric, observer), observer)
        scores = {"val": probed.outputs("val").score(num_resamples=0)}
        if "test" in probed.splits:
            scores["test"] = _report_test(probed, observer)
    missing = _leave_model(probed, scores, observer)
    _write_story(probed, scores, missing, seconds=time.monotonic() - began)
    return config.out


def _fit(config: ProbeConfig, target: Target, metric: Metric, observer: Observer) -> _Probe:
    device = choose_device(config.device)
    whole = read_manifest(config.data)
    names = {"train": config.train_split, "val": config.val_split, "test": config.test_split}
    splits = {part: whole.select([name]) for part, name in names.items() if name is not None}
    train = splits["train"]
    target = target.bind_to(train)
    splits = {part: target.rated(manifest) for part, manifest in splits.items()}
    train = splits["train"]
    labels = {part: target.read_labels(manifest) for part, manifest in splits.items()}
    if empty := target.missing(train):
        observer(Message(f"no training image shows {', '.join(empty)}, which the head will therefore never predict"))
    if config.view != "scene" and (without := train.num_without_people):
        text = f"{without} of {len(train)} images have no person box: the whole image is used instead"
        observer(Message(text))
    backbone = find_backbone(config.backbone, pool=config.pool)
    maker = FeatureMaker(
        backbone=backbone,
        view=config.view,
        person=config.person,
        precision=config.precision,
        device=device,
        workers=config.workers,
        folder=config.cache or config.out / FEATURES,
        observer=observer,
    )
    features = {part: maker.features(manifest, what=str(names[part])) for part, manifest in splits.items()}
    for part, found in features.items():
        if lost := found.unreadable(splits[part]):
            what = f"skipped {len(lost)} of {len(splits[part])} images that cannot be read; the first is {lost[0]}"
            observer(Message(f"{names[part]}: {what}"))
    data = {part: Split(found.values, labels[part][found.rows]) for part, found in features.items()}
    fitted = fit_head(config, target, metric, data["train"], data["val"], device=device, observer=observer)
    observer(Message(f"{config.val_split}: {metric.name} {fitted.score:z.4f} with {fitted.choice}"))
    for note in fitted.notes:
        observer(Message(note))
    val = data["val"]
    logits = fitted.logits(val.features)
    temperature = target.fit_temperature(logits, val.labels)
    return _Probe(
        config=config,
        backbone=backbone,
        metric=metric,
        splits=splits,
        features=features,
        data=data,
        fitted=fitted,
        temperature=temperature,
        target=target.fit((logits / temperature).astype(np.float32), val.labels),
    )


def _promise(probed: _Probe, observer: Observer) -> _Probe:
    """Fit on val what is promised of the answers, and say what cannot be."""
    answers, asked = probed.outputs("val"), probed.config.confidence
    target, lacking = probed.target.fit_guarantees(answers.logits, answers.labels, asked, answers.group_codes)
    for text in lacking:
        observer(Message(f"{probed.config.val_split}: {text}"))
    return replace(probed, target=target)


def _report_test(probed: _Probe, observer: Observer) -> Scores:
    """Score test, write the files of its evaluation, and report what can choose."""
    config, outputs, test = probed.config, probed.outputs("test"), probed.splits["test"]
    scores = outputs.score()
    if config.baselines:
        teacher = config.backbone if is_clip_name(config.backbone) else None
        scores = outputs.score_beside(test, probed.splits["train"], num_workers=config.workers, teacher=teacher)
    scores = replace(scores, uncalibrated=outputs.before(np.full(probed.target.num_outputs, probed.temperature)))
    write_evaluation(config.out / "test", scores, outputs, test, people=config.view != "scene")
    shown = (f"{metric.title} {scores.values[metric.name]:z.4f}" for metric in scores.metrics if metric.is_selectable)
    for text in (", ".join(shown), *(baseline.describe(scores.headline) for baseline in scores.baselines)):
        observer(Message(f"{config.test_split}: {text}"))
    return scores


def _leave_model(probed: _Probe, scores: Mapping[str, Scores], observer: Observer) -> str:
    """Write the model folder, or say and return why there is none."""
    config, linear = probed.config, probed.fitted.linear
    measured = {
        f"{part}_{name}": round(score, 4) for part, found in scores.items() for name, score in found.kept.items()
    }
    reason = leave_folder(
        config.out / "model",
        None if linear is None else linear.divided(probed.temperature),
        config=config,
        backbone=probed.backbone,
        target=probed.target,
        temperature=probed.temperature,
        train=probed.splits["train"],
        metrics=measured,
        chosen=probed.fitted.choice,
    )
    if reason:
        observer(Message(f"no model folder is written: {reason}"))
    return reason


def _write_story(probed: _Probe, scores: Mapping[str, Scores], missing: str, *, seconds: float) -> None:
    """Write what was done and found, and why the model is missing."""
    config = probed.config
    columns = ["path", "split", *probed.target.columns_read]
    story: dict[str, Any] = {
        "backbone": {"name": probed.backbone.name, **probed.backbone.identity},
        "features": int(probed.data["train"].features.shape[1]),
        "view": config.view,
        "head": config.head,
        "chosen": dict(probed.fitted.chosen),
        "chosen_by": f"{probed.metric.name} on {config.val_split}",
        "tried": [_rounded(trial) for trial in probed.fitted.trials],
        "notes": list(probed.fitted.notes),
        "no_model": missing,
        "temperature": probed.temperature,
        **{part: _rounded(found.kept) for part, found in scores.items()},
        "images": {part: len(found.rows) for part, found in probed.features.items()},
        "unreadable": {part: len(found.reasons) for part, found in probed.features.items()},
        "data": {part: digest(manifest, columns) for part, manifest in probed.splits.items()},
        "dataset": probed.splits["train"].facts.name,
        "classes": list(probed.target.classes),
        "seconds": round(seconds, 1),
    }
    environment = {**describe_environment(), "scikit-learn": version("scikit-learn")}
    for name, facts in (("probe.json", story), ("environment.json", environment)):
        with write_whole(config.out / name, DataError, elsewhere="choose another `out`") as beside:
            beside.write_text(json.dumps(facts, indent=2), encoding="utf-8")
    save_config(config, config.out / RUN_CONFIG)


def _rounded(numbers: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{number:.{_ROUNDED}g}") for name, number in numbers.items()}
