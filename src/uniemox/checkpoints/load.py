"""Weights of models from wherever they come: folders, files that others wrote, the hub."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uniemox.checkpoints import folder as model_folder
from uniemox.checkpoints import foreign
from uniemox.checkpoints.domain import read_features
from uniemox.checkpoints.facts import ModelFacts
from uniemox.checkpoints.folder import Classifier, Pretrained
from uniemox.checkpoints.language import Language, read_language
from uniemox.checkpoints.layouts import Foreign, own_name
from uniemox.checkpoints.open import Opened, open_model, open_weights
from uniemox.checkpoints.zero_shot import is_zero_shot, load_zero_shot
from uniemox.config.checks import MAX_GRID, MAX_SIDE
from uniemox.config.zero_shot import ZeroShotConfig, refuse_zero_shot
from uniemox.errors import CheckpointError
from uniemox.files.digest import hash_file
from uniemox.files.weights import as_floats
from uniemox.files.whole import check_vacant
from uniemox.models.classify import head_of

_HEAD = re.compile(r"(encoder\.)?(head|fc_norm)\..*")


@dataclass(frozen=True, kw_only=True)
class Start:
    """Weights that a run starts from."""

    name: str  # For the provenance: what it was and its hash
    licence: str
    shape: Mapping[str, Any]  # By the names of `ModelConfig`; of a classifier those of the encoder
    encoder: Mapping[str, Tensor]  # By timm's names, without any head
    beside: Mapping[str, Tensor]  # Decoder and fusion, by our names; none for a classifier that keeps neither
    notes: tuple[str, ...] = ()
    language: Language | None = None  # What it keeps of its teacher's


def load_model(
    model: str | Path | Opened,
    *,
    dataset: str | None = None,
    device: torch.device | None = None,
    zero_shot: ZeroShotConfig | None = None,
) -> Classifier:
    """Load a classifier, ready to predict.

    Args:
        model: A folder of this software, of timm or of transformers' wrapper of it; a file of weights, such as
            UniEmoX's released ones; `demo`; a name on the hub, `hf-hub:org/name`; or a model that needs no training:
            the folder of a pretrained model, or a CLIP, `clip:ARCH/TAG`.
        dataset: For models that do not name their classes: a data set, such as fi, or a manifest.
        device: Where it computes; None is the CPU.
        zero_shot: The classes of a model that needs no training, and their words.

    Returns:
        The model, which maps normalised images (B, 3, S, S) to logits (B, C), and its facts. With the view
        `both` it takes scenes and persons.

    Raises:
        CheckpointError: The weights cannot be read, or hold no classifier, or their classes are not named.
        ConfigError: The settings of zero-shot models do not fit, or are given for a model with classes of its own.
        DataError: The data set does not exist.
    """
    opened = open_model(model)
    if is_zero_shot(opened):
        built = load_zero_shot(opened, zero_shot or ZeroShotConfig(), dataset=dataset)
        return Classifier(built.model.to(device).eval(), built.facts)
    refuse_zero_shot(opened.name, zero_shot)
    place, found = foreign.find_weights(opened)
    domain = None
    if isinstance(found, foreign.Source):
        facts = foreign.classifier_facts(found, dataset=dataset)
        classifier = _make(found, facts)
    else:
        facts = found
        if dataset is not None:  # the folder names its classes, so the order of the others means nothing
            foreign.check_classes(place, facts.classes, foreign.describe_dataset(dataset)[0], "omit `dataset`")
        path = model_folder.weight_files(place, facts)[0]
        classifier = model_folder.make_model(facts, model_folder.read_folder(place, facts), path)
        if facts.size is not None and facts.kind == "classifier":
            domain = read_features(place, facts, width=head_of(classifier).in_features)
    return Classifier(classifier.to(device).eval(), facts, domain)


def load_pretraining(model: str | Path) -> Pretrained:
    """Load a pretrained model with its decoder and fusion, on the CPU.

    Which patches are hidden follows from the noise that is passed in, so a masked forward pass can be repeated:
    `model(scene, person, scene_noise, person_noise, mask_ratio)` with noise (B, N) hides the patches of the largest.

    Args:
        model: A folder of this software; a file of MAE or of UniEmoX's released runs; `demo-pretrained`; or a name on
            the hub.

    Raises:
        CheckpointError: The weights cannot be read, or hold no decoder.
    """
    place, found = foreign.find_weights(model)
    if isinstance(found, foreign.Source):
        facts = foreign.pretraining_facts(found)
        return Pretrained(_make(found, facts), facts)
    if found.kind != "pretraining":
        raise CheckpointError(f"{place} holds a classifier, but a pretrained model was asked for")
    return Pretrained(model_folder.make_model(found, model_folder.read_folder(place, found), place), found)


def load_start(model: str) -> Start:
    """Read the weights to start a run from, or raise `CheckpointError`."""
    place, found = _find_start(model)
    notes: tuple[str, ...] = ()
    language = None
    shape: ModelFacts | Foreign
    if isinstance(found, foreign.Source):
        shape = found.foreign
        shape.check(place)
        weights, decoder = foreign.adapt_state(found, shape.image_size), shape.decoder
        name, notes = found.title, found.notes()
    else:
        shape = found
        weights, decoder = model_folder.read_folder(place, found), found.pretraining
        model_folder.compare_folder(place, found, weights).check(place)
        name, language = _name_of(place, found), read_language(place, found)
        if found.view == "both" and found.pool != "fused":  # whose fusion is no pretraining's
            weights = {k: v for k, v in weights.items() if k.startswith("encoder.")}
    floats = as_floats({k: v for k, v in weights.items() if not _HEAD.fullmatch(k)}, place)
    floats = {k if k.startswith("encoder.") else own_name(k): v for k, v in floats.items()}
    assert shape.size is not None
    return Start(
        name=name,
        licence=found.licence,
        shape={"size": shape.size, "patch_size": shape.patch_size, "image_size": shape.image_size, **decoder},
        encoder={k.removeprefix("encoder."): v for k, v in floats.items() if k.startswith("encoder.")},
        beside={k: v for k, v in floats.items() if not k.startswith("encoder.")},
        notes=notes,
        language=language,
    )


def describe_start(model: str) -> str:
    """Return the name that `load_start` gives weights, without reading their numbers, or raise `CheckpointError`."""
    place, found = _find_start(model)
    return found.title if isinstance(found, foreign.Source) else _name_of(place, found)


def _find_start(model: str) -> tuple[Path, foreign.Source | ModelFacts]:
    place, found = foreign.find_weights(model)
    if isinstance(found, ModelFacts) and found.size is None:
        step = "it predicts as it is; start from an encoder of ours, or from a file of MAE or timm"
        raise CheckpointError(f"{place} is {found.architecture}, which is no encoder of ours: {step}")
    return place, found


def _name_of(folder: Path, facts: ModelFacts) -> str:
    return f"{facts.kind} on {facts.dataset}, sha256 {hash_file(model_folder.weight_files(folder, facts)[0])}"


def convert(model: str, out: Path, *, dataset: str | None = None, image_size: int | None = None) -> ModelFacts:
    """Write weights that others made as a model folder, or raise `CheckpointError`; return its facts.

    Args:
        model: File, folder or name on the hub.
        out: Folder to write; it must be empty or absent.
        dataset: Data set or manifest that names a classifier's classes.
        image_size: Side of the images in pixels; None keeps the weights' own.
    """
    opened = open_weights(model)
    check_vacant(out, CheckpointError)
    if opened.role == "folder":
        raise CheckpointError(f"{opened.path} is a model folder of this software already")
    source = foreign.open_source(opened.path)
    patch = source.foreign.patch_size
    side = source.foreign.image_size if image_size is None else image_size
    most = min(patch * MAX_GRID, MAX_SIDE)
    if side < patch or side % patch or side > most:
        raise CheckpointError(f"image_size is {side}, but must be a multiple of {patch}, up to {most}")
    if source.foreign.kind == "pretraining":
        facts = foreign.pretraining_facts(source, image_size=side)
    else:
        facts = foreign.classifier_facts(source, dataset=dataset, image_size=side)
    model_folder.save_model(_make(source, facts), out, facts)
    return facts


def _make(source: foreign.Source, facts: ModelFacts) -> Any:
    return model_folder.make_model(facts, foreign.adapt_state(source, facts.image_size), source.path)
