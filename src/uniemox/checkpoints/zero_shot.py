"""Classifiers without training: a CLIP, or a pretrained model in its teacher's space, with texts for a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from uniemox.checkpoints import folder as model_folder
from uniemox.checkpoints.card import carried_licence
from uniemox.checkpoints.facts import ModelFacts, PreparationFacts, read_facts
from uniemox.checkpoints.foreign import describe_dataset
from uniemox.checkpoints.language import Language, read_language
from uniemox.checkpoints.open import Opened
from uniemox.config.clip_name import reword, teacher_of
from uniemox.config.zero_shot import ZeroShotConfig
from uniemox.data.class_prompts import class_prompts, pretraining_prompts, taxonomy_classes
from uniemox.data.prompt_files import read_prompts
from uniemox.emotions import TAXONOMIES, Emotion, look_up
from uniemox.errors import CheckpointError, ConfigError
from uniemox.importers.specs import SPECS
from uniemox.models.fused import FusedClassifier, start_from_texts
from uniemox.targets.kinds import DEFAULT, resolve_target
from uniemox.version import __version__
from uniemox.wording import shorten

if TYPE_CHECKING:
    from uniemox.models.teacher import Teacher

_EMBEDDED = "clip:demo"
_ALIKE = 1e-6  # Largest difference between two text features that are one but for rounding


class Asked(NamedTuple):
    """The classes that a zero-shot model tells apart."""

    classes: tuple[str, ...]
    emotion: Emotion
    source: str  # What named them


def is_zero_shot(opened: Opened) -> bool:
    """Whether a model has no classes of its own: a CLIP, or the folder of a pretrained model."""
    return opened.role == "clip" or (opened.role == "folder" and read_facts(opened.path).kind == "pretraining")


def load_zero_shot(opened: Opened, config: ZeroShotConfig, *, dataset: str | None = None) -> model_folder.Classifier:
    """Build a zero-shot classifier on the CPU.

    Args:
        opened: A name of a CLIP, or the folder of a pretrained model.
        config: Its classes and their words.
        dataset: Data set or manifest that names the classes where the settings do not.

    Raises:
        ConfigError: No classes are named, or fewer than two or twice the same; a name is not known; the prompts cannot
            be used, or are the same to the CLIP for two classes; or a setting does not apply to the model.
        CheckpointError: Weights are not at hand or cannot be read, or the model has no embedding in a teacher's space.
    """
    if opened.role == "clip":
        if config.teacher is not None:
            raise ConfigError(f"{opened.name} reads its texts itself: omit `teacher`")
        return _from_clip(opened.name, _ask(opened.name, config, dataset, own=None), config)
    return _from_pretraining(opened, config, dataset)


def class_texts(
    asked: Asked, config: ZeroShotConfig, *, language: Language | None, teacher: str | None, width: int, what: str
) -> tuple[Tensor, float]:
    """Find the text features of classes for a model in a teacher's space: (C, E) of length 1, and the scale.

    Args:
        asked: The classes.
        config: With the prompts of the user, if any.
        language: Text features that the model keeps, which serve where they have every class and no prompts are given.
        teacher: Name of the CLIP to ask instead; None takes the one that the model was distilled from.
        width: E, that of the model.
        what: The model, for messages.

    Raises:
        ConfigError: The CLIP is not known, or not the model's teacher.
        CheckpointError: Its weights are not at hand, or cannot be read.
    """
    if language is not None and teacher is None and config.prompts is None:
        kept = language.select(asked.classes)
        if kept is not None:
            return kept, language.facts.scale
    from uniemox.models.zero_shot import ensemble  # open_clip takes seconds to import

    loaded = _load_own_teacher(language, teacher, width=width, what=what)
    own = config.prompts
    prompts = _sentences(asked.classes) if own is None else read_prompts(own, asked.classes)
    return ensemble(loaded, prompts), loaded.scale


def load_text_tower(opened: Opened, config: ZeroShotConfig) -> Teacher:
    """Load the CLIP whose texts lie in the space of a model's features, without its image tower.

    Args:
        opened: A name of a CLIP, or the folder of a model that was pretrained with a teacher.
        config: With the name of that teacher, if it is not the folder's own word.

    Raises:
        ConfigError: The model has no such space, or the CLIP is not known, or not the model's teacher.
        CheckpointError: The weights of the CLIP are not at hand, or cannot be read.
    """
    if opened.role == "clip":
        teacher = _load_clip(opened.name, needed_by="")
    else:
        facts = read_facts(opened.path) if is_zero_shot(opened) else None
        width = None if facts is None else facts.pretraining.get("embedding_width")
        if facts is None or width is None:
            works = "take a CLIP (such as clip:ViT-B-16-quickgelu/openai) or the folder of a pretrained model"
            raise ConfigError(f"{opened.name} has no space that it shares with texts: {works}, or give an image")
        language = read_language(opened.path, facts)
        teacher = _load_own_teacher(language, config.teacher, width=width, what=opened.name)
    teacher.release_image_tower()
    return teacher


def _load_own_teacher(language: Language | None, teacher: str | None, *, width: int, what: str) -> Teacher:
    """Load the CLIP that a model was distilled from; arguments and errors are those of `class_texts`."""
    if teacher is None and language is None:
        raise ConfigError(f"{what} does not say from which CLIP it was distilled: give that as `teacher`")
    name = teacher or (language.facts.teacher if language is not None else "")
    loaded = _load_clip(name, needed_by=what)
    if loaded.width != width:
        found = f"{name} has features of {loaded.width} numbers, but {what} of {width}"
        raise ConfigError(f"{found}: give the CLIP that it was distilled from as `teacher`")
    if language is not None and language.facts.digest != loaded.digest:
        raise ConfigError(f"{name} is not the CLIP that {what} was distilled from ({language.facts.teacher})")
    return loaded


def _from_pretraining(opened: Opened, config: ZeroShotConfig, dataset: str | None) -> model_folder.Classifier:
    facts = read_facts(opened.path)
    width, what = facts.pretraining.get("embedding_width"), opened.name
    if width is None:
        step = f"train a classifier with `uniemox finetune --init {what}`"
        raise CheckpointError(f"{what} holds a pretrained model without a teacher, so texts cannot be its head: {step}")
    if config.wording != "auto" and config.prompts is None:
        step = "omit `wording`, or give `prompts`"
        raise ConfigError(f"`wording` is {config.wording}, but {what} was distilled with one sentence alone: {step}")
    language = read_language(opened.path, facts)
    asked = _ask(what, config, dataset, own=facts)
    texts, scale = class_texts(asked, config, language=language, teacher=config.teacher, width=width, what=what)
    _refuse_twins(texts, asked.classes, what)
    source = model_folder.make_model(facts, model_folder.read_folder(opened.path, facts), opened.path)
    model = FusedClassifier(source.config, embedding_width=width, num_classes=len(asked.classes))
    model.load_state_dict(_without_decoder(source.state_dict()) | model.head.state_dict(prefix="head."))
    start_from_texts(model.head, texts, scale)
    made = replace(
        facts,
        kind="classifier",
        classes=asked.classes,
        emotion=asked.emotion,
        pool="fused",
        view="scene" if facts.pretraining["fusion"] == "none" else "both",
        pretraining={**facts.pretraining, "reconstructs": False},
        language=None,
        metrics={},
        provenance={
            **facts.provenance,
            **({} if language is None else {"teacher": language.facts.teacher}),
            **_provenance(asked, config),
        },
        licence=carried_licence(facts.licence),
    )
    return model_folder.Classifier(model, made)


def _refuse_twins(texts: Tensor, classes: Sequence[str], what: str) -> None:
    """Refuse two classes of one feature: Joy and joy to a CLIP without capitals, or long texts, cut to the same."""
    alike = (torch.cdist(texts, texts, p=float("inf")) < _ALIKE).triu(diagonal=1).nonzero().tolist()
    if alike:
        first, second = (classes[place] for place in alike[0])
        step = "rename one, or give other `prompts`"
        raise ConfigError(f"{what} reads the same text for {shorten(first)} and {shorten(second)}: {step}")


def _without_decoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith("decoder.")}


def _from_clip(name: str, asked: Asked, config: ZeroShotConfig) -> model_folder.Classifier:
    from uniemox.models.zero_shot import ClipClassifier, ensemble  # open_clip takes seconds to import

    teacher = _load_clip(name, needed_by="")
    prompts: Mapping[str, Sequence[str]]
    if config.prompts is not None:
        prompts = read_prompts(config.prompts, asked.classes)
    elif name == _EMBEDDED:  # which was trained on this sentence alone
        prompts = _sentences(asked.classes)
    else:
        prompts = class_prompts(asked.classes, asked.emotion)
    model = ClipClassifier(teacher.tower, width=teacher.width, num_classes=len(asked.classes))
    texts = ensemble(teacher, prompts)
    _refuse_twins(texts, asked.classes, name)
    start_from_texts(model.head, texts, teacher.scale)
    facts = ModelFacts(
        kind="classifier",
        size=None,
        patch_size=0,
        image_size=teacher.image_size,
        dataset="drawn6" if name == _EMBEDDED else "unknown",
        emotion=asked.emotion,
        classes=asked.classes,
        architecture=teacher.name,
        preparation=_preparation(name, teacher.preprocess),
        target=DEFAULT,
        provenance={"software": f"uniemox {__version__}", "weights": teacher.name, **_provenance(asked, config)},
    )
    return model_folder.Classifier(model.requires_grad_(False), facts)


def _sentences(classes: Sequence[str]) -> dict[str, list[str]]:
    """Make the one prompt of each class that a model was trained with."""
    return {name: [text] for name, text in zip(classes, pretraining_prompts(classes), strict=True)}


def _preparation(name: str, preprocess: Mapping[str, Any]) -> PreparationFacts:
    """Read open_clip's words for how an image is prepared, or raise `CheckpointError` for what is not known here."""
    mode, interpolation = preprocess.get("resize_mode", "shortest"), preprocess.get("interpolation", "bicubic")
    if mode not in ("shortest", "squash") or interpolation not in ("bicubic", "bilinear"):
        what = f"{name} prepares images by resize_mode {mode} and interpolation {interpolation}"
        raise CheckpointError(f"{what}, which is not known here: choose another CLIP")
    (red, green, blue), (of_red, of_green, of_blue) = preprocess["mean"], preprocess["std"]
    mean, std = (float(red), float(green), float(blue)), (float(of_red), float(of_green), float(of_blue))
    return PreparationFacts(crop_share=1.0, mean=mean, std=std, interpolation=interpolation, squash=mode == "squash")


def _load_clip(name: str, *, needed_by: str) -> Teacher:
    from uniemox.models.teacher import load_teacher  # open_clip takes seconds to import

    settings = replace(teacher_of(name), precision="fp32")
    try:
        return load_teacher(settings, device=torch.device("cpu"))
    except (ConfigError, CheckpointError) as error:
        whose = f"{needed_by} needs the text tower of {name}" if needed_by else shorten(name)
        raise type(error)(f"{whose}: {reword(str(error), settings)}") from error


def _ask(name: str, config: ZeroShotConfig, dataset: str | None, *, own: ModelFacts | None) -> Asked:
    """Find out which classes are meant; the model's own data set comes last."""
    classes, emotion, source = tuple(config.classes), None, "classes"
    if config.taxonomy is not None:
        classes = taxonomy_classes(config.taxonomy)
        source = look_up(config.taxonomy, TAXONOMIES, what="taxonomy").name  # the user may spell it otherwise
        spec = SPECS.get(source)
        emotion = None if spec is None else spec.emotion
    elif not classes and dataset is not None:
        data, kind = describe_dataset(dataset)
        if not resolve_target(kind, data.classes).is_zero_shot:
            raise ConfigError(f"{dataset} gives an image several labels, and a zero-shot model one: take another set")
        classes, emotion, source = data.classes, data.emotion, data.name
    elif not classes and own is not None and own.dataset in SPECS:
        spec = SPECS[own.dataset]
        classes, emotion, source = spec.classes, spec.emotion, spec.name
    if not classes:
        step = "give them as `taxonomy` (such as mikels, ekman, emotion6 or polarity) or as `classes`"
        raise ConfigError(f"{name} has no classes of its own: {step}")
    cleaned = tuple(" ".join(each.split()) for each in classes)
    if not all(cleaned) or len(set(cleaned)) < len(cleaned) or len(cleaned) < 2:
        raise ConfigError(f"`classes` are {', '.join(cleaned)}, but must be two or more distinct names")
    chosen: Emotion = emotion or "evoked" if config.wording == "auto" else config.wording
    return Asked(cleaned, chosen, source)


def _provenance(asked: Asked, config: ZeroShotConfig) -> dict[str, str]:
    words = "prompts of a file" if config.prompts else f"known prompts, {asked.emotion}"
    return {"head": f"text features of the classes, {words}; nothing was trained", "classes": asked.source}
