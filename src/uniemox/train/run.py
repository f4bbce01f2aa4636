"""The two kinds of run: pretraining and fine-tuning, from a configuration to a model folder."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from timm.data import Mixup

from uniemox.calibration import fit_temperature, to_probabilities
from uniemox.checkpoints.bundle import (
    pretraining_facts,
    restate,
    save_classifier,
    save_pretraining,
)
from uniemox.checkpoints.card import carried_licence
from uniemox.checkpoints.facts import ModelFacts
from uniemox.checkpoints.sources import load_start
from uniemox.checkpoints.weights import fill
from uniemox.config import PretrainConfig, check_grid
from uniemox.data.batch import collate_labelled, collate_pretrain
from uniemox.data.dataset import AugmentedDataset, PretrainDataset, check_labels
from uniemox.data.manifest import digest, read_manifest
from uniemox.data.pixels import EvaluationViews
from uniemox.data.prompts import fit_description
from uniemox.devices import computing_on
from uniemox.errors import CheckpointError, ConfigError
from uniemox.evaluate import compute_outputs, write_evaluation
from uniemox.models.classify import (
    TwoViewClassifier,
    build_classifier,
    plain_classifier,
    start_from_encoder,
)
from uniemox.models.encoder import grid_size, resample_positions
from uniemox.models.fusion import start_as_mean
from uniemox.models.pretrain import UniEmoX
from uniemox.multilabel import fit_thresholds
from uniemox.train.engine import Engine, Plan
from uniemox.train.events import Message, ignore
from uniemox.train.folder import check_run_folder, describe_environment, open_run_folder
from uniemox.train.journal import Journal
from uniemox.train.tasks import FinetuneTask, PretrainTask
from uniemox.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt
    from accelerate import Accelerator
    from timm.models.vision_transformer import VisionTransformer
    from torch import Tensor

    from uniemox.checkpoints.sources import Start
    from uniemox.config import EncoderSize, FinetuneConfig, SelectionMetric, Target
    from uniemox.data.manifest import Manifest
    from uniemox.evaluate import Outputs
    from uniemox.metrics import Report
    from uniemox.models.teacher import Teacher
    from uniemox.multilabel import MultiLabelReport
    from uniemox.train.events import Observer


_SELECT_BY: dict[Target, SelectionMetric] = {
    "single_label": "top1",
    "multi_label": "mean_average_precision",
}
"""What chooses the epoch where nothing else is asked for."""
_TOLD: dict[Target, dict[SelectionMetric, str]] = {
    "single_label": {
        "top1": "top-1",
        "balanced_accuracy": "balanced accuracy",
        "macro_f1": "macro F1",
    },
    "multi_label": {
        "mean_average_precision": "mean average precision",
        "macro_f1": "macro F1",
        "micro_f1": "micro F1",
    },
}
"""Scores of test that a run tells at its end, and what they are called."""
# Paths, and what changes nothing of what is learned.
_UNTOLD = {"data", "out", "init", "resume", "device", "num_workers", "log_every", "save_every"}


def pretrain(config: PretrainConfig, observer: Observer = ignore) -> Path:
    """Pretrain UniEmoX and leave its model folder.

    Args:
        config: What to do.
        observer: Hears of progress, in the first process only.

    Returns:
        The folder `model` of the run.

    Raises:
        ConfigError: A setting or the run folder does not fit.
        DataError: The manifest cannot be used.
        CheckpointError: The teacher, the start or a saved state cannot be read.
        TrainingError: The loss is not finite.
        KeyboardInterrupt: The user stopped the run; `--resume` goes on.
    """
    with computing_on(
        config.device, precision=config.precision, accumulate=config.optim.accumulate
    ) as accelerator:
        return _pretrain(config, accelerator, _first_only(observer, accelerator))


def _pretrain(config: PretrainConfig, accelerator: Accelerator, observer: Observer) -> Path:
    _check_folder(config, accelerator)
    manifest = read_manifest(config.data).select(config.splits)
    teacher = _load_teacher(config, accelerator) if config.loss.needs_teacher else None
    texts, features = _read_texts(config, manifest, teacher, observer)
    torch.manual_seed(config.seed)
    model = UniEmoX(
        config.model,
        embedding_width=teacher.width if teacher else None,
        reconstructs=config.loss.reconstruction > 0,
    )
    start = None if config.init is None or config.resume else load_start(config.init)
    if start is not None:
        _tell(start, observer)
        _start_from(model, start, observer)
    if config.views.person == "crop":
        _tell_boxes(manifest, observer)
    task = PretrainTask(
        weights=config.loss,
        mask_ratio=config.views.mask_ratio,
        patch_size=config.model.patch_size,
        teacher=teacher,
        texts=None if features is None else features.to(accelerator.device),
        gather=accelerator.gather,
    )
    dataset = PretrainDataset(
        manifest,
        texts,
        views=config.views,
        person=config.person,
        size=config.model.image_size,
        num_patches=config.model.num_patches,
        seed=config.seed,
    )
    journal = Journal(config.out)
    plan = Plan(
        task=task,
        module=model,
        dataset=dataset,
        collate=collate_pretrain,
        num_rows=len(manifest),
        optim=config.optim,
        run=config,
        state_folder=config.out / "state",
        journal=journal,
        observer=observer,
        identity={"data": digest(manifest)},
    )
    engine = Engine(plan, accelerator)
    # Kept in the state, since a resumed run no longer reads its start.
    engine.notes = _note_start(start)
    _go(engine, config)
    folder = config.out / "model"
    if accelerator.is_main_process:
        learned = engine.weights_module
        assert isinstance(learned, UniEmoX)
        facts = pretraining_facts(
            learned,
            dataset=manifest.facts.name,
            emotion=manifest.facts.emotion,
            provenance={
                **_provenance(config, manifest, engine.step, teacher.name if teacher else ""),
                "init": engine.notes.get("init", "not recorded"),
            },
            licence=carried_licence(engine.notes.get("licence", "")),
        )
        save_pretraining(learned, folder, facts)
    accelerator.wait_for_everyone()
    return folder


def finetune(config: FinetuneConfig, observer: Observer = ignore) -> Path:
    """Fine-tune a classifier, choose its best epoch on val, evaluate it once on test, and leave its model folder.

    Args:
        config: What to do.
        observer: Hears of progress, in the first process only.

    Returns:
        The folder `model` of the run.

    Raises:
        ConfigError: A setting or the run folder does not fit.
        DataError: The manifest cannot be used.
        CheckpointError: The start or a saved state cannot be read.
        TrainingError: The loss is not finite.
        KeyboardInterrupt: The user stopped the run; `--resume` goes on.
    """
    with computing_on(
        config.device, precision=config.precision, accumulate=config.optim.accumulate
    ) as accelerator:
        return _finetune(config, accelerator, _first_only(observer, accelerator))


def _finetune(config: FinetuneConfig, accelerator: Accelerator, observer: Observer) -> Path:
    _check_folder(config, accelerator)
    whole = read_manifest(config.data)
    train, val = whole.select([config.train_split]), whole.select([config.val_split])
    test = None if config.test_split is None else whole.select([config.test_split])
    for part in (train, val, test):
        if part is not None:
            check_labels(part, config.target)  # now, not after hours of training
    _check_train_classes(train, observer)
    if config.view != "scene":
        _tell_boxes(train, observer)
    torch.manual_seed(config.seed)
    start = None if config.init is None else load_start(config.init)
    if start is not None:
        _tell(start, observer)
    model, shape = _build_start(config, start, train)
    origin = _note_start(start)
    classes, image_size = train.facts.classes, shape["image_size"]
    mixup = _build_mixup(config)
    journal = Journal(config.out)
    choice = _Choice(config, val, image_size, journal, observer)
    plan = Plan(
        task=FinetuneTask(target=config.target, smoothing=config.augment.smoothing, mixup=mixup),
        module=model,
        dataset=AugmentedDataset(
            train,
            config.augment,
            size=image_size,
            seed=config.seed,
            view=config.view,
            person=config.person,
            target=config.target,
        ),
        collate=collate_labelled,
        num_rows=len(train),
        optim=config.optim,
        run=config,
        state_folder=config.out / "state",
        journal=journal,
        observer=observer,
        identity={"data": digest(train)},
        after_epoch=choice.after_epoch,
    )
    engine = Engine(plan, accelerator)
    _go(engine, config)
    best: Any = engine.weights_module
    best.load_state_dict(dict(engine.extra_weights["best"]))
    answers = choice.outputs(best, val, accelerator)
    temperature = _calibrate(best, answers)
    folder = config.out / "model"
    if accelerator.is_main_process:
        facts = ModelFacts(
            kind="classifier",
            **shape,
            dataset=train.facts.name,
            emotion=train.facts.emotion,
            classes=classes,
            temperature=temperature,
            view=config.view,
            fusion=config.fusion if config.view == "both" else "none",
            person=config.person,
            target=config.target,
            thresholds=_thresholds(answers, temperature),
            provenance={
                **_provenance(config, train, engine.step, ""),
                "init": origin["init"],
                "best_epoch": str(engine.notes["epoch"]),
            },
            metrics={f"val_{_metric(config)}": round(engine.notes["score"], 4)},
            licence=carried_licence(origin["licence"]),
        )
        save_classifier(best, folder, facts)
    accelerator.wait_for_everyone()
    if test is not None:
        outputs = choice.outputs(best, test, accelerator)
        if accelerator.is_main_process:
            report = outputs.score(classes, thresholds=facts.thresholds or None)
            _report_test(config, report, outputs, whole, journal, engine.step, observer)
            scores = {f"test_{name}": round(score, 4) for name, score in report.headline.items()}
            restate(folder, dataclasses.replace(facts, metrics={**facts.metrics, **scores}))
    journal.close()
    return folder


class _Choice:
    """Scores each epoch on val and keeps the best weights in the engine's state, so a resume does not lose them."""

    def __init__(
        self,
        config: FinetuneConfig,
        val: Manifest,
        image_size: int,
        journal: Journal,
        observer: Observer,
    ) -> None:
        self.config, self.val = config, val
        self.views = EvaluationViews(size=image_size, view=config.view, person=config.person)
        self.journal, self.observer = journal, observer
        self._told = False

    def outputs(self, model: Any, manifest: Manifest, accelerator: Accelerator) -> Outputs:
        """Run a classifier over a split."""
        return compute_outputs(
            model,
            manifest,
            views=self.views,
            accelerator=accelerator,
            batch_size=self.config.optim.batch_size * 2,
            num_workers=self.config.num_workers,
            target=self.config.target,
        )

    def after_epoch(self, engine: Engine[Any], epoch: int) -> None:
        """Score the weights of the epoch; keep them if they are the best so far, the earlier of equals."""
        model = engine.weights_module
        outputs = self.outputs(model, self.val, engine.accelerator)
        if outputs.unreadable and not self._told:
            self._told = True
            self.observer(Message(f"{self.config.val_split}: {outputs.describe_unreadable()}"))
        report = outputs.score(self.val.facts.classes, num_resamples=0)
        if engine.accelerator.is_main_process:
            self.journal.write("val", engine.step, {"epoch": epoch, **report.headline})
        metric = _metric(self.config)
        score = report.get(metric)
        best = score > engine.notes.get("score", -1.0)
        self.observer(
            Message(f"epoch {epoch}: val {metric} {score:.4f}{' (best so far)' if best else ''}")
        )
        if best:
            engine.notes = {"epoch": epoch, "score": score}
            engine.extra_weights = {
                "best": {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}
            }


def _metric(config: FinetuneConfig) -> SelectionMetric:
    return config.select_by or _SELECT_BY[config.target]


def _first_only(observer: Observer, accelerator: Accelerator) -> Observer:
    return observer if accelerator.is_main_process else ignore


def _check_folder(config: PretrainConfig | FinetuneConfig, accelerator: Accelerator) -> None:
    if accelerator.is_main_process:  # the others may come late, when the folder is no longer empty
        check_run_folder(config)


def _go(engine: Engine[Any], config: PretrainConfig | FinetuneConfig) -> None:
    """Open the run folder, now that everything else is known to fit, and train."""
    if engine.accelerator.is_main_process:
        open_run_folder(config)
    engine.accelerator.wait_for_everyone()
    if config.resume:
        engine.resume()
    try:
        engine.run()
    finally:
        engine.plan.journal.close()


def _load_teacher(config: PretrainConfig, accelerator: Accelerator) -> Teacher:
    from uniemox.models.teacher import load_teacher  # open_clip takes seconds to import

    return load_teacher(config.teacher, device=accelerator.device)


def _read_texts(
    config: PretrainConfig, manifest: Manifest, teacher: Teacher | None, observer: Observer
) -> tuple[npt.NDArray[np.int64], Tensor | None]:
    """Describe every row, and encode each distinct description once.

    Returns:
        (rows,) the index of each row's description, and (T, E) their features; zeros and None where no term needs
        them.
    """
    if teacher is None:
        return np.zeros(len(manifest), dtype=np.int64), None
    if not config.loss.contrast:
        teacher.release_text_tower()
        return np.zeros(len(manifest), dtype=np.int64), None
    classes = manifest.facts.classes
    places: dict[str, int] = {}
    texts = np.empty(len(manifest), dtype=np.int64)
    for index in range(len(manifest)):
        row = manifest.row(index)
        emotion = None
        if config.teacher.emotion_sentence and row.label is not None:
            emotion = classes[row.label]
        text = fit_description(row.attributes, emotion, teacher.fits)
        texts[index] = places.setdefault(text, len(places))
    observer(Message(f"{len(manifest)} pictures, {len(places)} distinct descriptions"))
    if len(places) == 1:
        observer(
            Message("all pictures have the same description, so loss.contrast teaches nothing")
        )
    features = teacher.encode_texts(list(places))
    teacher.release_text_tower()
    return texts, features


def _tell_boxes(manifest: Manifest, observer: Observer) -> None:
    if without := manifest.num_without_people:
        observer(
            Message(
                f"{without} of {len(manifest)} pictures have no person box: the scene stands in"
            )
        )


def _tell(start: Start, observer: Observer) -> None:
    for note in start.notes:
        observer(Message(f"the start, {note}"))


def _start_from(model: UniEmoX, start: Start, observer: Observer) -> None:
    """Copy a start's weights. Parts that it has not, such as the fusion beside MAE's, stay fresh, and are told.

    Raises:
        CheckpointError: It has a part that the model has not, or one of another shape; names the first.
    """
    own = model.state_dict()
    weights = {f"encoder.{name}": tensor for name, tensor in start.encoder.items()}
    weights |= start.beside
    for name in ("encoder.pos_embed", "decoder.pos_embed"):
        if name in weights and start.image_size != model.config.image_size:
            weights[name] = resample_positions(weights[name], grid=grid_size(model.encoder))
            observer(Message(f"{name} is resampled, from pictures of {start.image_size} pixels"))
    brought = {name.partition(".")[0] for name in weights}
    fresh = {name: own[name] for name in own if name.partition(".")[0] not in brought}
    if fresh:
        parts = sorted({name.partition(".")[0] for name in fresh})
        observer(Message(f"{', '.join(parts)}: begins fresh, since the start has none"))
    try:
        _check_decoder_heads(model, start)
        fill(model, weights | fresh, "the start")
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}; pretrain with its settings {json.dumps(start.shape)}"
        ) from error


def _check_decoder_heads(model: UniEmoX, start: Start) -> None:
    """Refuse a decoder that was trained with other heads, which no shape shows."""
    theirs, ours = start.decoder.get("decoder_heads"), model.config.decoder_heads
    if any(name.startswith("decoder.") for name in start.beside) and theirs not in (None, ours):
        raise CheckpointError(
            f"the start does not fit the model: its decoder has {theirs} heads, the model's {ours}"
        )


def _note_start(start: Start | None) -> dict[str, str]:
    """Name a start and its licence for what follows from it."""
    if start is None:
        return {"init": "random weights", "licence": ""}
    return {"init": start.name, "licence": start.licence}


def _build_start(
    config: FinetuneConfig, start: Start | None, train: Manifest
) -> tuple[VisionTransformer | TwoViewClassifier, dict[str, Any]]:
    """Build the classifier, from `init` or from random weights; give it with its size, patch and picture size.

    Raises:
        ConfigError: A size was asked for that `init` does not have.
    """
    shape: dict[str, Any] = {"size": "base", "patch_size": 16, "image_size": 224}
    if start is not None:
        shape = {name: getattr(start, name) for name in shape}
    wanted = {name: getattr(config, name) for name in shape if getattr(config, name) is not None}
    if start is not None:
        _check_fits(config.init, shape, wanted)
    shape |= wanted
    size: EncoderSize = shape["size"]
    check_grid(shape["image_size"], shape["patch_size"])
    model = build_classifier(
        size,
        patch_size=shape["patch_size"],
        image_size=shape["image_size"],
        num_classes=len(train.facts.classes),
        drop_path=config.drop_path,
        head_std=config.head_std,
    )
    if start is not None:
        start_from_encoder(model, start.encoder)
    if config.target == "multi_label":
        _start_at_prevalence(model, train)
    if config.view == "both":
        two_views = TwoViewClassifier(model, config.fusion)
        start_as_mean(two_views.fusion)
        return two_views, shape
    return model, shape


def _check_fits(init: str | None, shape: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for name in ("size", "patch_size"):
        if wanted.get(name, shape[name]) != shape[name]:
            raise ConfigError(
                f"{name} is {wanted[name]}, but init {init} has {shape[name]}: leave {name} out, or start elsewhere"
            )


def _build_mixup(config: FinetuneConfig) -> Mixup | None:
    """Build timm's mixing of pictures, whose classes are the places in the batch."""
    augment = config.augment
    if not augment.mixes:
        return None
    return Mixup(
        mixup_alpha=augment.mixup,
        cutmix_alpha=augment.cutmix,
        switch_prob=augment.switch,
        label_smoothing=0.0,
        num_classes=config.optim.batch_size,
    )


@torch.no_grad()
def _start_at_prevalence(classifier: VisionTransformer, train: Manifest) -> None:
    """Let the head begin with the log odds of each class in train, which it would else take long to reach.

    Lin et al. 2017, section 4.1; one yes and one no are added, so that a class without samples has odds too.
    """
    yes = torch.from_numpy(train.label_sets.sum(0)).double() + 1
    classifier.head.bias.copy_((yes / (len(train) + 2 - yes)).log())


@torch.no_grad()
def _calibrate(model: VisionTransformer | TwoViewClassifier, outputs: Outputs) -> float:
    """Fold the temperature that fits val into the head, so that every reader gets honest probabilities."""
    temperature = fit_temperature(outputs.logits, outputs.labels)
    head = plain_classifier(model).head
    head.weight.div_(temperature)
    head.bias.div_(temperature)
    return temperature


def _thresholds(outputs: Outputs, temperature: float) -> tuple[float, ...]:
    """Find from which probability on each of several labels is given, once the temperature is folded in."""
    if outputs.target == "single_label":
        return ()
    return fit_thresholds(
        to_probabilities(outputs.logits / temperature, outputs.target), outputs.labels
    )


def _check_train_classes(train: Manifest, observer: Observer) -> None:
    empty = [name for name, count in train.class_counts().items() if count == 0]
    if empty:
        observer(
            Message(f"no training picture of {', '.join(empty)}: they will never be predicted")
        )


def _report_test(
    config: FinetuneConfig,
    report: Report | MultiLabelReport,
    outputs: Outputs,
    whole: Manifest,
    journal: Journal,
    step: int,
    observer: Observer,
) -> None:
    assert config.test_split is not None
    if outputs.unreadable:
        observer(Message(f"{config.test_split}: {outputs.describe_unreadable()}"))
    journal.write("test", step, report.headline)
    write_evaluation(
        config.out / "test",
        report,
        outputs,
        whole,
        split=config.test_split,
        person=None if config.view == "scene" else config.person,
    )
    told = ", ".join(
        f"{words} {report.get(name):.4f}" for name, words in _TOLD[config.target].items()
    )
    observer(Message(f"{config.test_split}: {told}"))


def _provenance(
    config: PretrainConfig | FinetuneConfig, manifest: Manifest, steps: int, teacher: str
) -> dict[str, str]:
    """Say how weights were made, without paths of this machine."""
    environment = describe_environment()
    settings = {
        name: value for name, value in dataclasses.asdict(config).items() if name not in _UNTOLD
    }
    if isinstance(config, PretrainConfig):
        settings["teacher"] = {"emotion_sentence": config.teacher.emotion_sentence}
    told = {
        "software": f"uniemox {__version__}, torch {environment['torch']}, timm {environment['timm']}",
        "rows": str(len(manifest)),
        "steps": str(steps),
        "seed": str(config.seed),
        "settings": json.dumps(settings),
    }
    return told | ({"teacher": teacher} if teacher else {})
