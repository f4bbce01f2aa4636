"""The model folder of a probe whose backbone is an encoder of ours and whose head is linear."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from uniemox.checkpoints.backbones import Backbone
from uniemox.checkpoints.card import carried_licence
from uniemox.checkpoints.facts import ModelFacts
from uniemox.checkpoints.folder import save_model
from uniemox.checkpoints.load import load_start
from uniemox.config.probe import ProbeConfig
from uniemox.manifests.table import Manifest
from uniemox.models.classify import build_classifier, start_from_encoder
from uniemox.targets.target import Target
from uniemox.train.heads import Linear
from uniemox.version import __version__

_OMITTED = {"backbone", "data", "out", "device", "workers", "cache"}  # Paths, and what changes no number


def why_no_folder(config: ProbeConfig, backbone: Backbone, linear: Linear | None) -> str:
    """Say why a probe cannot be a model folder; empty if it can."""
    if linear is None:
        return f"head {config.head} is no layer of a model"
    if backbone.pool is None:
        step = "give the file or the folder of its weights alone" if backbone.name.startswith("timm:vit") else ""
        return f"model folders hold vision transformers, prepared as ours are{f': {step}' * bool(step)}"
    if config.view == "both":
        return "the features of two views are side by side, which no model of ours computes"
    return "" if config.precision == "fp32" else f"features were computed in {config.precision}: take `precision` fp32"


def write_folder(
    folder: Path,
    linear: Linear,
    *,
    config: ProbeConfig,
    backbone: Backbone,
    target: Target,
    temperature: float,
    train: Manifest,
    metrics: Mapping[str, float],
    chosen: str,
) -> None:
    """Write the encoder with the head as a classifier, or raise `CheckpointError`.

    Args:
        folder: Model folder to write.
        linear: The head; its logits are divided by the temperature already.
        config: Settings of the probe.
        backbone: An encoder of ours.
        target: Fitted on val.
        temperature: What the logits were divided by.
        train: Rows that the head learned from.
        metrics: Measurements by split and score.
        chosen: What val chose, in words.
    """
    assert backbone.pool is not None
    start = load_start(backbone.name)
    shape = {name: start.shape[name] for name in ("size", "patch_size", "image_size")}
    with torch.random.fork_rng(devices=[]):  # its random weights are overwritten
        model = build_classifier(**shape, num_classes=target.num_outputs, pool=backbone.pool)
    start_from_encoder(model, start.encoder)
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(linear.weight))
        model.head.bias.copy_(torch.from_numpy(linear.bias))
    settings = {name: value for name, value in asdict(config).items() if name not in _OMITTED}
    facts = ModelFacts(
        kind="classifier",
        **shape,
        dataset=train.facts.name,
        emotion=train.facts.emotion,
        classes=train.facts.classes,
        temperature=temperature,
        view=config.view,
        pool=backbone.pool,
        person=config.person,
        **target.to_facts(),
        provenance={
            "software": f"uniemox {__version__}, torch {torch.__version__}",
            "rows": str(len(train)),
            "seed": str(config.seed),
            "settings": json.dumps(settings),
            "init": start.name,
            "head": f"on the frozen encoder, with {chosen}",
        },
        metrics=metrics,
        licence=carried_licence(start.licence),
    )
    save_model(model.eval(), folder, facts)
