"""Classifiers that are models of timm: an architecture by its name, and a linear layer on its pooled features.

A name has to stand in timm's own list, and nothing else of a folder's configuration reaches timm: what is built depends
on that name and the number of classes alone. So no folder can ask for another file, or for an address.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import nn

from uniemox.checkpoints.facts import TIMM_PREFIX, ModelFacts, PreparationFacts
from uniemox.data.pixels import Preparation
from uniemox.errors import DAMAGED, CheckpointError
from uniemox.wording import reason_of, shorten

INTERPOLATIONS: Final = ("bicubic", "bilinear")  # That the facts of a folder can name
_AS_THEY_ARE: Final = ("input_size", "fixed_input_size", "first_conv", "classifier")  # Of timm's `pretrained_cfg`


def empty_timm(facts: ModelFacts, source: object) -> nn.Module:
    """Build the model of the facts without memory, or raise `CheckpointError`."""
    return _build(facts, source, "meta")


def build_timm(facts: ModelFacts, source: object) -> nn.Module:
    """Build the model of the facts with random weights, or raise `CheckpointError`."""
    return _build(facts, source, "cpu")


def _build(facts: ModelFacts, source: object, device: str) -> nn.Module:
    name = facts.architecture.removeprefix(TIMM_PREFIX)
    if not facts.is_timm or not is_listed(name):
        step = "upgrade timm, or make the folder again"
        raise CheckpointError(f"{source}: the architecture {shorten(name)} is not one that timm lists here: {step}")
    side = tuple(get_pretrained_cfg(name).input_size[1:])
    if side != (facts.image_size, facts.image_size):
        reads = " × ".join(map(str, side))
        step = "make the folder again"
        raise CheckpointError(f"{source}: image_size is {facts.image_size}, but timm's {name} reads {reads}: {step}")
    return _create(name, len(facts.classes), source, device)


def is_listed(name: str) -> bool:
    """Whether timm lists an architecture, and the weights that a tag after it names."""
    base, _, tag = name.partition(".")
    return base in timm.list_models() and (not tag or name in timm.list_pretrained(f"{base}.*"))


def _create(name: str, num_classes: int, source: object, device: str) -> nn.Module:
    try:
        with quiet_timm(), torch.device(device):
            model: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes)
    except DAMAGED as error:
        raise CheckpointError(f"{source}: timm cannot build {name} ({reason_of(error)})") from error
    return model.eval()


def why_no_classifier(name: str, preparation: Preparation, *, width: int) -> str:
    """Say why a linear layer on the pooled features of an architecture is no model of timm; empty if it is one.

    Args:
        name: Of the architecture, as timm lists it.
        preparation: How its images are prepared.
        width: Of its pooled features.
    """
    if preparation.interpolation not in INTERPOLATIONS:
        return f"its images are resized by {preparation.interpolation}, which the facts of a folder cannot say"
    if not is_listed(name):
        return f"timm reads {name}, but lists it under another name"
    try:
        whole, rest = (_create(name, count, "without weights", "meta") for count in (2, 0))
    except CheckpointError as error:
        return str(error)
    layer = last_layer(whole)
    if layer is None:
        return "its classifier is not one linear layer"
    reads = whole.get_submodule(layer).in_features
    if reads != width:
        return f"its pooled features are {width} numbers, but its classifier reads {reads}"
    if whole.state_dict().keys() - rest.state_dict().keys() != {f"{layer}.weight", f"{layer}.bias"}:
        return "its classifier has layers of its own before the last"
    return ""


def last_layer(model: Any) -> str | None:
    """Name the linear layer, with a bias, that is the classifier of a model; None where that is something else."""
    head = model.get_classifier()
    if not isinstance(head, nn.Linear) or head.bias is None:
        return None
    return next((name for name, module in model.named_modules() if module is head), None)


def preparation_facts(preparation: Preparation) -> PreparationFacts:
    """Write down how images are prepared, by a filter that `INTERPOLATIONS` has."""
    return PreparationFacts(
        crop_share=preparation.crop_share,
        mean=preparation.mean,
        std=preparation.std,
        interpolation=preparation.interpolation,  # type: ignore[arg-type]
        squash=preparation.squash,
    )


def timm_config(model: Any, facts: ModelFacts) -> dict[str, Any]:
    """Describe a model in timm's words: what its `config.json` holds beside our section and the labels."""
    assert facts.preparation is not None
    name, prepare = facts.architecture.removeprefix(TIMM_PREFIX), facts.preparation
    theirs = get_pretrained_cfg(name).to_dict()
    crop_share, crop_mode, interpolation = prepare.crop_share, "center", prepare.interpolation
    if prepare.squash:
        crop_mode = "squash"
    if facts.view == "person":  # whose crop is taken whole
        crop_share, interpolation = 1.0, "bicubic"
        crop_mode = "squash" if facts.person.shape == "squeeze" else "border"
    preprocessing = {
        "tag": f"uniemox_{facts.dataset}",
        "custom_load": False,
        **{key: theirs.get(key) for key in _AS_THEY_ARE},
        "interpolation": interpolation,
        "crop_pct": crop_share,
        "crop_mode": crop_mode,
        "mean": prepare.mean,
        "std": prepare.std,
        "num_classes": len(facts.classes),
        "pool_size": theirs.get("pool_size"),
        "license": facts.licence or "unstated",
    }
    return {
        "architecture": name.partition(".")[0],
        "num_classes": len(facts.classes),
        "num_features": model.num_features,
        "pretrained_cfg": preprocessing,
    }


@contextmanager
def quiet_timm() -> Iterator[None]:
    """Build a model without traces: its random weights are overwritten, and the global generator stays as it was."""
    logger, level = logging.getLogger("timm"), logging.getLogger("timm").level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
