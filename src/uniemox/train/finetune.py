"""Fine-tuning, from its settings to the model folder of a classifier."""

import dataclasses
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from timm.data import Mixup
from torch import nn

from uniemox.checkpoints.card import carried_licence
from uniemox.checkpoints.facts import ModelFacts
from uniemox.checkpoints.folder import restate, save_model
from uniemox.checkpoints.load import Start
from uniemox.config.checks import check_grid
from uniemox.config.training import FinetuneConfig, ModelConfig
from uniemox.data.batch import collate_labelled
from uniemox.data.dataset import AugmentedDataset
from uniemox.data.pixels import EvaluationViews
from uniemox.errors import ConfigError
from uniemox.inference.evaluate import write_evaluation
from uniemox.inference.outputs import Measuring, Outputs
from uniemox.manifests.table import Manifest, digest, read_manifest
from uniemox.models.classify import (
    AnyClassifier,
    TwoViewClassifier,
    build_classifier,
    head_of,
    start_from_encoder,
    start_from_pretraining,
)
from uniemox.models.fused import FusedClassifier, start_from_texts
from uniemox.models.fusion import start_as_mean
from uniemox.targets.conformal import describe_too_few
from uniemox.targets.intervals import count_units, groups_of
from uniemox.targets.kinds import build_target, refuse_risk
from uniemox.targets.scores import Metric
from uniemox.targets.target import Target
from uniemox.train.domain import answer_val
from uniemox.train.engine import Engine, Plan
from uniemox.train.events import Message, Observer, ignore
from uniemox.train.language import encode_classes
from uniemox.train.selection import Selection
from uniemox.train.started import Started, note_start, provenance, started
from uniemox.train.tasks import FinetuneTask

_CONFIGURED = ("decoder_width", "decoder_depth", "decoder_heads", "fusion")  # Of a pretrained model, in `ModelConfig`


def finetune(config: FinetuneConfig, observer: Observer = ignore, *, target: Target | None = None) -> Path:
    """Fine-tune a classifier, choose its best epoch on val, evaluate it once on test, and write its model folder.

    Args:
        config: What to do.
        observer: Hears of progress, in the first process only.
        target: What the labels are, where that is a kind of the caller's own; None takes the setting.

    Returns:
        The folder `model` of the run.

    Raises:
        ConfigError: A setting or the run folder does not fit.
        DataError: The manifest cannot be used.
        CheckpointError: The start or a saved state cannot be read.
        TrainingError: The loss is not finite, or a process that the run needs died.
        Interrupted: A signal stopped the run; `resume` continues it.
    """
    target = target or build_target(config.target)
    metric = target.selection(config.select_by)
    with started(config, observer) as run:
        return _finetune(config, target, metric, run)


def _finetune(config: FinetuneConfig, target: Target, metric: Metric, run: Started) -> Path:
    whole = read_manifest(config.data)
    names = {"train": config.train_split, "val": config.val_split, "test": config.test_split}
    splits = {part: whole.select([name]) for part, name in names.items() if name is not None}
    train = splits["train"]
    target = target.bind_to(train)
    splits = {part: target.rated(manifest) for part, manifest in splits.items()}
    train = splits["train"]
    labels = {part: target.read_labels(manifest) for part, manifest in splits.items()}  # refuses before any training
    weighed = target.weigh(config.class_weights, labels["train"])
    _report_lacks(config, target, train, splits["val"], run.observer)
    if config.view != "scene":
        run.warn_of_boxes(train)
    torch.manual_seed(config.seed)
    start = run.load_start()
    shape, fused = _shape_of(config, start), _fused_shape(config, start)
    if config.trained_share < 1 and config.init is None:
        share = f"trained_share is {config.trained_share}, but without `init` the rest is random weights"
        raise ConfigError(f"{share}: set it to 1, or give `init`")
    if run.saved is not None:
        # States that were saved before heads could read the fused token have no `fused`.
        shape, fused = dict(run.saved.origin["shape"]), dict(run.saved.origin.get("fused", {}))
    size, augment = shape["image_size"], config.augment
    selection = Selection(
        config=config,
        target=target,
        metric=metric,
        val=splits["val"],
        views=EvaluationViews(size=size, view=config.view, person=config.person),
        observer=run.observer,
    )
    model = _build_start(config, target, start, shape, fused, train)
    shares = {"mixup_alpha": augment.mixup, "cutmix_alpha": augment.cutmix, "switch_prob": augment.switch}
    # Its classes are the places in the batch.
    mixup = Mixup(**shares, label_smoothing=0.0, num_classes=config.optim.batch_size) if augment.mixes else None
    plan = Plan(
        task=FinetuneTask(target=weighed, smoothing=augment.smoothing, mixup=mixup),
        module=model,
        dataset=AugmentedDataset(
            train, augment, size=size, seed=config.seed, view=config.view, person=config.person, target=target
        ),
        collate=collate_labelled,
        num_rows=len(train),
        optim=config.optim,
        run=config,
        observer=run.observer,
        identity=_identify_data(config, target, splits),
        origin={**note_start(start), "shape": shape, "fused": fused},
        trained_share=config.trained_share,
        signals=run.signals,
        after_epoch=selection.after_epoch,
        is_enough=selection.is_enough,
    )
    return _leave_model(selection, run.train(plan), shape, train, splits.get("test"))


def _report_lacks(config: FinetuneConfig, target: Target, train: Manifest, val: Manifest, observer: Observer) -> None:
    """Report before the training what the rows are too few for; refuse a promise that the target cannot make."""
    if empty := target.missing(train):
        observer(Message(f"no training image shows {', '.join(empty)}, which the model will therefore never predict"))
    if target.has_guarantees:
        groups = groups_of(val)
        for text in describe_too_few(config.confidence, count_units(groups and groups.codes, len(val))):
            observer(Message(f"{config.val_split}: {text}"))
    refuse_risk(target, config.confidence)


def _leave_model(
    selection: Selection, engine: Engine, shape: Mapping[str, Any], train: Manifest, test: Manifest | None
) -> Path:
    """Choose precision and temperature of the best weights on val, score them once on test, and write them."""
    config, target, accelerator = selection.config, selection.target, engine.accelerator
    # Accelerate has wrapped the forward pass in the precision of training.
    best: Any = accelerator.unwrap_model(engine.weights_module, keep_fp32_wrapper=False)
    assert engine.kept.weights is not None
    best.load_state_dict(dict(engine.kept.weights))
    precision, answers, why = selection.precision(best, accelerator)
    temperatures = target.fit_temperatures(answers.logits, answers.labels)
    with torch.no_grad():  # folded into the head, so that every reader gets honest probabilities
        for parameter in head_of(best).parameters():
            parameter.div_(torch.from_numpy(temperatures).to(parameter).reshape(-1, *[1] * (parameter.ndim - 1)))
    answers = answer_val(selection, best, train, accelerator, precision)
    domain = answers.domain
    fitted = target.fit(answers.logits, answers.labels)
    fitted, lacking = fitted.fit_guarantees(answers.logits, answers.labels, config.confidence, answers.group_codes)
    for text in lacking:
        selection.observer(Message(f"{config.val_split}: {text}"))
    folder = config.out / "model"
    if accelerator.is_main_process:
        kept = fitted.to_facts()
        numbers = {**kept.pop("numbers", {}), **({} if domain is None else domain.to_numbers())}
        facts = ModelFacts(
            kind="classifier",
            **shape,
            dataset=train.facts.name,
            emotion=train.facts.emotion,
            classes=target.classes,
            temperature=float(temperatures[0]) if len(set(temperatures.tolist())) == 1 else 1.0,
            precision=precision,
            view=config.view,
            fusion=config.fusion if config.view == "both" and config.pool != "fused" else "none",
            pool=config.pool,
            pretraining=engine.origin.get("fused", {}),
            person=config.person,
            **kept,
            numbers=numbers,
            provenance=provenance(config, train, engine, best_epoch=str(engine.kept.notes["epoch"]), precision=why),
            metrics={f"val_{selection.metric.name}": round(selection.score(answers), 4)},
            licence=carried_licence(engine.origin["licence"]),
        )
        save_model(best, folder, facts, domain=domain)
    accelerator.wait_for_everyone()
    if test is not None:
        module = best if domain is None else Measuring(best, domain)
        outputs = selection.answers(module, test, accelerator, precision)
        alone = None
        if config.baselines and config.view == "both":
            alone = selection.answers(best, test.without_people, accelerator, precision)
        if accelerator.is_main_process:
            outputs = dataclasses.replace(outputs, target=fitted, domain=domain)
            studies: dict[str, Any] = {"uncalibrated": outputs.before(temperatures)}
            studies |= {} if alone is None else {"person": outputs.against(alone)}
            scores = _report_test(selection, outputs, test, train, engine, studies)
            restate(folder, dataclasses.replace(facts, metrics={**facts.metrics, **scores}))
    return folder


def _report_test(
    selection: Selection, outputs: Outputs, test: Manifest, train: Manifest, engine: Engine, studies: Mapping[str, Any]
) -> dict[str, float]:
    """Write down how the chosen weights do on test; return what the card keeps of it."""
    config = selection.config
    if config.baselines:
        teacher = engine.origin.get("teacher")
        scores = outputs.score_beside(
            test, train, num_workers=config.workers, teacher=teacher, device=str(engine.accelerator.device)
        )
    else:
        scores = outputs.score()
    scores = dataclasses.replace(scores, **studies)
    if outputs.unreadable:
        selection.observer(Message(f"{config.test_split}: {outputs.describe_unreadable()}"))
    with closing(engine.journal):
        engine.journal.write("test", engine.step, {"computed_in": scores.computed_in, **scores.kept})
    write_evaluation(config.out / "test", scores, outputs, test, people=config.view != "scene")
    shown = (f"{metric.title} {scores.values[metric.name]:z.4f}" for metric in scores.metrics if metric.is_selectable)
    for text in (", ".join(shown), *(baseline.describe(scores.headline) for baseline in scores.baselines)):
        selection.observer(Message(f"{config.test_split}: {text}"))
    return {f"test_{name}": round(score, 4) for name, score in scores.kept.items()}


def _identify_data(config: FinetuneConfig, target: Target, splits: Mapping[str, Manifest]) -> dict[str, str]:
    """Name what shapes the result of a fine-tuning beside its settings and its start."""
    columns = ["path", "split", *target.columns_read, *(["people"] if config.view != "scene" else [])]
    identity = {f"data of {part}": digest(manifest, columns) for part, manifest in splits.items()}
    return identity if target.name == build_target(config.target).name else {**identity, "target": target.name}


def _shape_of(config: FinetuneConfig, start: Start | None) -> dict[str, Any]:
    """Take size, patch and image size of the classifier from the settings, `init` or the defaults."""
    shape: dict[str, Any] = {"size": "base", "patch_size": 16, "image_size": 224}
    asked = {name: getattr(config, name) for name in shape if getattr(config, name) is not None}
    if start is not None:
        shape = {name: start.shape[name] for name in shape}
        for name in ("size", "patch_size"):
            if asked.get(name, shape[name]) != shape[name]:
                step = f"omit {name}, or choose another `init`"
                raise ConfigError(f"{name} is {asked[name]}, but init {config.init} has {shape[name]}: {step}")
    return shape | asked


def _fused_shape(config: FinetuneConfig, start: Start | None) -> dict[str, Any]:
    """Take the shape of what is beside the encoder from `init`, for a head on its fused token; else empty."""
    if config.pool != "fused":
        return {}
    if config.init is None:
        raise ConfigError("pool fused reads the token of a pretrained model: give that as `init`")
    if start is None:  # of a run that is resumed
        return {}
    if start.shape.get("embedding_width") is None:
        step = "give a model that UniEmoX pretrained with a teacher, or take pool cls_mean"
        raise ConfigError(f"init {config.init} has no fused token, which pool fused needs: {step}")
    if config.view == "both" and start.shape["fusion"] == "none":
        step = "take view scene, or another pool"
        raise ConfigError(f"init {config.init} was pretrained without a person, so pool fused cannot read both: {step}")
    names = ("decoder_width", "decoder_depth", "decoder_heads", "fusion", "embedding_width")
    return {**{name: start.shape[name] for name in names}, "reconstructs": False}


def _start_from_language(
    head: nn.Linear, config: FinetuneConfig, start: Start, target: Target, train: Manifest
) -> None:
    """Start the outputs that stand for emotions as text features of their names."""
    rows = [place for place, name in enumerate(target.emotions) if name is not None]
    names = tuple(name for name in target.emotions if name is not None)
    if not rows:
        step = "set `head` to random"
        raise ConfigError(f"head language reads names of emotions, and target {target.name} has none: {step}")
    distinct = tuple(dict.fromkeys(names))
    texts, scale = encode_classes(config, start, distinct, train.facts)
    start_from_texts(head, texts[[distinct.index(name) for name in names]], scale, centred=True, rows=rows)


def _build_start(
    config: FinetuneConfig,
    target: Target,
    start: Start | None,
    shape: Mapping[str, Any],
    fused: Mapping[str, Any],
    train: Manifest,
) -> AnyClassifier:
    """Build the classifier, from `init` or from random weights."""
    check_grid(shape["image_size"], shape["patch_size"])
    more: dict[str, Any] = {"num_classes": target.num_outputs, "drop_path": config.drop_path}
    if config.pool == "fused":
        width, beside = fused["embedding_width"], {name: fused[name] for name in fused if name in _CONFIGURED}
        model = FusedClassifier(ModelConfig(**shape, **beside), embedding_width=width, **more)
        nn.init.trunc_normal_(model.head.weight, std=config.head_std)
        nn.init.zeros_(model.head.bias)
        if start is not None:
            start_from_pretraining(model, start.encoder, start.beside)
            if config.head == "language":
                _start_from_language(model.head, config, start, target, train)
        target.start_head(model.head, target.read_labels(train))
        return model
    vit = build_classifier(**shape, **more, head_std=config.head_std, pool=config.pool)
    if start is not None:
        start_from_encoder(vit, start.encoder)
    target.start_head(vit.head, target.read_labels(train))
    if config.view != "both":
        return vit
    two_views = TwoViewClassifier(vit, config.fusion)
    start_as_mean(two_views.fusion)
    return two_views
