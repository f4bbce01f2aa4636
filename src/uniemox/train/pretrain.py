"""Pretraining, from its settings to a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from uniemox.checkpoints.card import carried_licence
from uniemox.checkpoints.folder import pretraining_facts, save_model
from uniemox.checkpoints.language import learn_language
from uniemox.checkpoints.load import Start
from uniemox.config.clip_name import name_of
from uniemox.config.training import PretrainConfig
from uniemox.data.batch import collate_pretrain
from uniemox.data.dataset import PretrainDataset
from uniemox.data.prompts import fit_description
from uniemox.data.stored_views import StoredViews, facts_of_run, open_stored_views
from uniemox.errors import CheckpointError
from uniemox.files.weights import fill
from uniemox.manifests.table import Manifest, digest, read_manifest
from uniemox.models.encoder import grid_size, resample_positions
from uniemox.models.pretrain import UniEmoX
from uniemox.train.engine import Plan
from uniemox.train.events import Message, Observer, ignore
from uniemox.train.started import Started, note_start, provenance, started
from uniemox.train.tasks import PretrainTask

if TYPE_CHECKING:
    from uniemox.models.teacher import Teacher


def pretrain(config: PretrainConfig, observer: Observer = ignore) -> Path:
    """Pretrain UniEmoX and write its model folder.

    Args:
        config: What to do.
        observer: Hears of progress, in the first process only.

    Returns:
        The folder `model` of the run.

    Raises:
        ConfigError: A setting or the run folder does not fit.
        DataError: The manifest cannot be used.
        CheckpointError: The teacher, the start or a saved state cannot be read.
        TrainingError: The loss is not finite, or a process that the run needs died.
        Interrupted: A signal stopped the run; `resume` continues it.
    """
    with started(config, observer) as run:
        return _pretrain(config, run)


def _pretrain(config: PretrainConfig, run: Started) -> Path:
    accelerator = run.accelerator
    manifest = read_manifest(config.data).select(config.splits)
    stored = None if config.stored_views is None else open_stored_views(config.stored_views)
    teacher = None
    if config.loss.needs_teacher:
        from uniemox.models.teacher import load_teacher  # open_clip takes seconds to import

        teacher = load_teacher(config.teacher, device=accelerator.device)
        if stored is not None:
            size = config.model.image_size
            stored.check(**facts_of_run(manifest, teacher=teacher.identity, image_size=size, views=config.views))
    texts, features = _read_texts(config, manifest, teacher, run.observer)
    language = None
    if teacher is not None:
        language = learn_language(teacher, name_of(config.teacher))
        teacher.release_text_tower()
        if stored is not None:
            teacher.release_image_tower()
    torch.manual_seed(config.seed)
    model = UniEmoX(
        config.model,
        embedding_width=teacher.width if teacher else None,
        reconstructs=config.loss.reconstruction > 0,
        embeds_mean=config.loss.mean_token,
    )
    start = run.load_start()
    if start is not None:
        _start_from(model, start, run.observer)
    if config.views.person == "crop":
        run.warn_of_boxes(manifest)
    plan = Plan(
        task=PretrainTask(
            weights=config.loss,
            mask_ratio=config.views.mask_ratio,
            patch_size=config.model.patch_size,
            teacher=teacher,
            texts=None if features is None else features.to(accelerator.device),
            gather=accelerator.gather if config.loss.gather_texts else lambda own: own,
        ),
        module=model,
        dataset=PretrainDataset(
            manifest,
            texts,
            views=config.views,
            person=config.person,
            size=config.model.image_size,
            num_patches=config.model.num_patches,
            seed=config.seed,
            stored=stored,
        ),
        collate=collate_pretrain,
        num_rows=len(manifest),
        optim=config.optim,
        run=config,
        observer=run.observer,
        identity=_identify(config, manifest, teacher, stored),
        origin=note_start(start),
        signals=run.signals,
    )
    engine = run.train(plan)
    folder = config.out / "model"
    if accelerator.is_main_process:
        learned = engine.weights_module
        assert isinstance(learned, UniEmoX)
        named = {"teacher": name_of(config.teacher)} if teacher else {}
        facts = pretraining_facts(
            learned,
            dataset=manifest.facts.name,
            emotion=manifest.facts.emotion,
            provenance=provenance(config, manifest, engine, **named),
            language=None if language is None else language.facts,
            licence=carried_licence(engine.origin["licence"]),
        )
        save_model(learned, folder, facts, language)
    accelerator.wait_for_everyone()
    return folder


def _identify(
    config: PretrainConfig, manifest: Manifest, teacher: Teacher | None, stored: StoredViews | None
) -> dict[str, str]:
    """Name what shapes the result of a pretraining beside its settings and its start."""
    columns = ["path", "split"]
    if config.loss.contrast:
        columns += ["attributes", *(["label"] if config.teacher.emotion_sentence else [])]
    if config.views.person == "crop":
        columns += ["people"]
    identity = {"data": digest(manifest, columns)}
    if stored is not None:
        identity["stored views"] = stored.facts.digest
    return identity if teacher is None else {**identity, "teacher": teacher.identity}


def _read_texts(
    config: PretrainConfig, manifest: Manifest, teacher: Teacher | None, observer: Observer
) -> tuple[npt.NDArray[np.int64], Tensor | None]:
    """Describe every row, and encode each distinct description once.

    Returns the index of each row's description and features (T, E) of these; zeros and None where no term needs them.
    """
    texts, features = np.zeros(len(manifest), dtype=np.int64), None
    if teacher is None:
        return texts, features
    if config.loss.contrast:
        places: dict[str, int] = {}
        for index in range(len(manifest)):
            row = manifest.row(index)
            label = row.label if config.teacher.emotion_sentence else None
            emotion = None if label is None else manifest.facts.classes[label]
            text = fit_description(row.attributes, emotion, teacher.fits)
            texts[index] = places.setdefault(text, len(places))
        observer(Message(f"{len(manifest)} images, {len(places)} distinct descriptions"))
        if len(places) == 1:
            observer(Message("all images have the same description, so loss.contrast teaches nothing"))
        features = teacher.encode_texts(list(places))
    return texts, features


def _start_from(model: UniEmoX, start: Start, observer: Observer) -> None:
    """Copy a start's weights; parts that it lacks, such as the fusion beside MAE's, stay random and are reported.

    A part that the model lacks, or one of another shape, raises `CheckpointError`.
    """
    weights = {f"encoder.{name}": tensor for name, tensor in start.encoder.items()} | dict(start.beside)
    for name in ("encoder.pos_embed", "decoder.pos_embed"):
        if name in weights and start.shape["image_size"] != model.config.image_size:
            weights[name] = resample_positions(weights[name], grid=grid_size(model.encoder))
            observer(Message(f"{name} is resampled, from images of {start.shape['image_size']} pixels"))
    parts = {name.partition(".")[0] for name in weights}
    fresh = {name: value for name, value in model.state_dict().items() if name.partition(".")[0] not in parts}
    if fresh:
        lacking = sorted({name.partition(".")[0] for name in fresh})
        observer(Message(f"{', '.join(lacking)}: starts from random weights, since the start has none"))
    advice = f"pretrain with its settings {json.dumps(start.shape)}"
    theirs, ours = start.shape.get("decoder_heads"), model.config.decoder_heads
    if "decoder" in parts and theirs not in (None, ours):  # which no shape shows
        heads = f"its decoder has {theirs} heads, the model's {ours}"
        raise CheckpointError(f"the start does not fit the model: {heads}; {advice}")
    try:
        fill(model, weights | fresh, "the start")
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {advice}") from error
