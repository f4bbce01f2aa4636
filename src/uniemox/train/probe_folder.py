"""The model folder of a probe whose head is linear and whose backbone is an encoder of ours or a model of timm."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import nn

from uniemox.checkpoints.backbones import Backbone, OwnPool
from uniemox.checkpoints.card import carried_licence
from uniemox.checkpoints.facts import TIMM_PREFIX, ModelFacts
from uniemox.checkpoints.folder import save_model
from uniemox.checkpoints.load import load_start
from uniemox.checkpoints.timm_models import build_timm, last_layer, preparation_facts, why_no_classifier
from uniemox.config.probe import ProbeConfig
from uniemox.files.weights import load_copy
from uniemox.inference.baselines import Linear
from uniemox.manifests.table import Manifest
from uniemox.models.classify import build_classifier, start_from_encoder
from uniemox.targets.target import Target
from uniemox.version import __version__

_OMITTED: Final = {"backbone", "data", "out", "device", "workers", "cache"}  # Paths, and what changes no number
_TOLERANCE: Final = 1e-4  # Of a logit, in the largest; rounding of fp32 is a hundredth of this


class _Made(NamedTuple):
    """A model with the head of a probe."""

    model: nn.Module
    facts: Mapping[str, Any]  # Those of its architecture
    start: str  # What its weights were
    licence: str  # Of these


def leave_folder(
    folder: Path,
    linear: Linear | None,
    *,
    config: ProbeConfig,
    backbone: Backbone,
    target: Target,
    temperature: float,
    train: Manifest,
    metrics: Mapping[str, float],
    chosen: str,
) -> str:
    """Write the backbone with the head as a classifier; return why none is written, or nothing.

    Args:
        folder: Model folder to write.
        linear: The head, if it is a linear one; its logits are divided by the temperature already.
        config: Settings of the probe.
        backbone: What made its features.
        target: Fitted on val.
        temperature: What the logits were divided by.
        train: Rows that the head learned from.
        metrics: Measurements by split and score.
        chosen: What val chose, in words.

    Raises:
        CheckpointError: The backbone cannot be read again, or the folder cannot be written.
    """
    if reason := _why_none(config, backbone, linear):
        return reason
    assert linear is not None
    classes = target.classes
    made = _on_timm(backbone, linear, classes) if backbone.timm else _on_encoder(backbone, linear, target)
    if isinstance(made, str):
        return made
    settings = {name: value for name, value in asdict(config).items() if name not in _OMITTED}
    facts = ModelFacts(
        kind="classifier",
        **made.facts,
        dataset=train.facts.name,
        emotion=train.facts.emotion,
        classes=classes,
        temperature=temperature,
        view=config.view,
        person=config.person,
        **target.to_facts(),
        provenance={
            "software": f"uniemox {__version__}, torch {torch.__version__}",
            "rows": str(len(train)),
            "seed": str(config.seed),
            "settings": json.dumps(settings),
            "init": made.start,
            "head": f"on the frozen encoder, with {chosen}",
        },
        metrics=metrics,
        licence=carried_licence(made.licence),
    )
    save_model(made.model.eval(), folder, facts)
    return ""


def _why_none(config: ProbeConfig, backbone: Backbone, linear: Linear | None) -> str:
    """Say why a probe cannot be a model folder, as far as names and shapes show; empty if they do not."""
    if linear is None:
        return f"head {config.head} is no layer of a model"
    if backbone.pool is None and backbone.timm is None:
        step = ": omit `pool`" if config.pool else ""
        return f"model folders hold vision transformers of ours and models of timm with their own pooling{step}"
    if config.view == "both":
        return "the features of two views are side by side, which no model of ours computes"
    if config.precision != "fp32":
        return f"features were computed in {config.precision}: take `precision` fp32"
    own = backbone.timm
    return why_no_classifier(own.name, own.preparation, width=linear.weight.shape[1]) if own else ""


def _on_encoder(backbone: Backbone, linear: Linear, target: Target) -> _Made:
    assert backbone.pool is not None
    start = load_start(backbone.name)
    shape = {name: start.shape[name] for name in ("size", "patch_size", "image_size")}
    with torch.random.fork_rng(devices=[]):  # its random weights are overwritten
        model = build_classifier(**shape, num_classes=target.num_outputs, pool=backbone.pool)
    start_from_encoder(model, start.encoder)
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(linear.weight))
        model.head.bias.copy_(torch.from_numpy(linear.bias))
    return _Made(model, {**shape, "pool": backbone.pool}, start.name, start.licence)


def _on_timm(backbone: Backbone, linear: Linear, classes: tuple[str, ...]) -> _Made | str:
    """Put the head in the place of timm's classifier, or say why that computes something else."""
    own = backbone.timm
    assert own is not None
    encode = backbone.load(torch.device("cpu"), "fp32").encode
    assert isinstance(encode, OwnPool)
    shape: dict[str, Any] = {
        "size": None,
        "patch_size": 0,
        "image_size": own.preparation.size,
        "architecture": f"{TIMM_PREFIX}{own.name}",
        "preparation": preparation_facts(own.preparation),
    }
    plain: dict[str, Any] = {"kind": "classifier", "dataset": "", "emotion": None, "classes": classes}
    model = build_timm(ModelFacts(**plain, **shape), backbone.name)
    layer = last_layer(model)
    head = {f"{layer}.weight": torch.from_numpy(linear.weight), f"{layer}.bias": torch.from_numpy(linear.bias)}
    load_copy(model, {**encode.model.state_dict(), **head}, backbone.name)
    pixels = torch.randn(2, 3, own.preparation.size, own.preparation.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = linear(encode(pixels).numpy()), model(pixels).double().numpy()
    if found.shape != expected.shape or not np.allclose(found, expected, atol=_TOLERANCE * np.abs(expected).max()):
        return "its classifier does not read its pooled features as they are"
    return _Made(model, shape, f"{backbone.identity['architecture']}, {backbone.identity['weights']}", own.licence)
