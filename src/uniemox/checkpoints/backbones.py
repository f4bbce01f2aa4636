"""Frozen backbones by name: what makes features of images, found first and loaded only when somebody needs them.

`timm:NAME` and `timm:NAME=FILE` are timm's architectures, `clip:…` the image towers of open_clip, and all other names
are encoders that a run can start from. Each brings its own preprocessing. No pickle is executed: timm's files pass
through the same guard as all others.

Letters of shapes: `B` images, `N` patches, `D` width of the features, `S` side of the square image in pixels.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import timm
import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from timm.models import get_pretrained_cfg
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from uniemox.checkpoints import foreign
from uniemox.checkpoints.facts import TIMM_PREFIX, ModelFacts
from uniemox.checkpoints.layouts import Foreign
from uniemox.checkpoints.load import describe_start, load_start
from uniemox.checkpoints.timm_models import quiet_timm
from uniemox.config.checks import Precision
from uniemox.config.clip_name import is_clip_name, reword, teacher_of
from uniemox.config.probe import ProbePool
from uniemox.data.pixels import Preparation
from uniemox.errors import DAMAGED, CheckpointError, ConfigError
from uniemox.files.digest import hash_file
from uniemox.files.state_dicts import read_state
from uniemox.files.weights import fill, is_finite
from uniemox.models import teacher as clip
from uniemox.models.encoder import build_vit
from uniemox.wording import nearest, one_line, shorten

log = logging.getLogger(__name__)

_WEIGHT_FILES: Final = ("model.safetensors", "pytorch_model.bin")  # Of timm's repositories, the preferred first
_FILTERS: Final = ("bicubic", "bilinear", "nearest", "lanczos", "box", "hamming")  # What timm's names of Pillow's are


@dataclass(frozen=True)
class Loaded:
    """A backbone that computes."""

    encode: Callable[[Tensor], Tensor]
    """From prepared images (B, 3, S, S) on its device to features (B, D)."""
    prepare: Preparation


@dataclass(frozen=True, kw_only=True)
class TimmModel:
    """A model of timm that gives what its own classifier reads."""

    name: str  # timm's, with the tag that the user gave
    preparation: Preparation
    licence: str  # Of timm's weights; empty for a file of the user's


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A backbone that was found, and not yet loaded."""

    name: str  # As the user gave it
    identity: Mapping[str, str]  # All that its features depend on: hashes, architecture, pooling, preprocessing
    load: Callable[[torch.device, Precision], Loaded]
    """Loads it onto a device, or raises `CheckpointError` or, for a pooling that it does not have, `ConfigError`."""
    pool: ProbePool | None = None  # Of an encoder that a model folder can hold; None for all others
    timm: TimmModel | None = None  # What a model folder may hold instead


def find_backbone(name: str, *, pool: ProbePool | None = None) -> Backbone:
    """Find out what a user means by a backbone, and hash its weights without reading a number.

    Args:
        name: `timm:NAME`, `timm:NAME=FILE`, a name of a CLIP as `teacher_of` has them, or what `load_start` takes.
        pool: What becomes the features of a vision transformer; None takes what its own head reads, and the class token
            of a pretrained model of ours.

    Raises:
        ConfigError: Nobody knows that name, its form is invalid, or the pooling does not fit.
        CheckpointError: Its weights are not at hand, or cannot be understood.
    """
    if name.startswith(TIMM_PREFIX):
        return _find_timm(name, pool)
    if is_clip_name(name):
        return _find_clip(name)
    if not Path(name).exists() and timm.is_model(name):
        raise ConfigError(f"backbone is {name}, an architecture of timm: give `{TIMM_PREFIX}{name}`")
    return _find_encoder(name, pool)


# Vision transformers of ours, and files that others wrote


def _find_encoder(name: str, pool: ProbePool | None) -> Backbone:
    _, found = foreign.find_weights(name)
    shape: Foreign | ModelFacts
    if isinstance(found, foreign.Source):
        shape, colours = found.foreign, json.dumps(asdict(found.colours))
    else:
        shape, colours = found, "of ImageNet"
    pool = pool or _own_pool(shape)
    images = f"{shape.image_size} pixels in patches of {shape.patch_size}, colours {colours}"
    identity = {"weights": describe_start(name), "images": images, "pool": pool}
    return Backbone(name=name, identity=identity, load=partial(_load_encoder, name, pool), pool=pool)


def _own_pool(of: Foreign | ModelFacts) -> ProbePool:
    """Name what the head of a classifier reads; of other encoders, and of a fused token, the class token."""
    if of.kind != "classifier":
        return "cls"
    reads = of.pool if isinstance(of, ModelFacts) else "mean"
    return "cls" if reads == "fused" else reads


def _load_encoder(name: str, pool: ProbePool, device: torch.device, precision: Precision) -> Loaded:
    del precision  # the caller's autocast
    start = load_start(name)
    for note in start.notes:
        log.info("%s: %s", name, note)
    shape = {part: start.shape[part] for part in ("patch_size", "image_size")}
    with quiet_timm():
        vit = build_vit(start.shape["size"], **shape)
    state = dict(start.encoder)
    fresh = {part: tensor for part, tensor in vit.norm.state_dict(prefix="norm.").items() if part not in state}
    if fresh and pool != "mean":
        log.info(
            "%s keeps no final norm, as classifiers on the mean of the patches do: one without weights is used", name
        )
    fill(vit, state | fresh, name)
    return _checked(name, TokenPool(vit, pool), Preparation(shape["image_size"]), device)


class TokenPool(nn.Module):
    """A vision transformer of timm with another pooling than its own, in the words of fine-tuning's `pool`.

    Args:
        vit: Encoder; it is changed where its final norm has to wait for the mean.
        pool: The class token, the mean of the patches or both. The mean has a norm of its own, which a linear head can
            scale: without weights, unless the encoder brings one.

    Raises:
        ConfigError: The encoder has no class token.
    """

    def __init__(self, vit: VisionTransformer, pool: ProbePool) -> None:
        super().__init__()
        if pool != "mean" and vit.cls_token is None:
            raise ConfigError(
                f"pool is {pool}, but this vision transformer has no class token: take mean, or omit `pool`"
            )
        self.vit, self.pool, self.first = vit, pool, vit.num_prefix_tokens
        self.norm = vit.fc_norm  # an identity where the final norm is applied to all tokens
        if pool == "mean" and isinstance(self.norm, nn.Identity):
            self.norm, vit.norm = nn.LayerNorm(vit.embed_dim, eps=1e-6), nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute features (B, D), or (B, 2 D) of both, of images (B, 3, S, S)."""
        tokens = self.vit.forward_features(pixels)  # (B, prefix + N, D)
        if self.pool == "mean":
            pooled: Tensor = self.norm(tokens[:, self.first :].mean(dim=1))
            return pooled
        tokens = self.norm(tokens)
        parts = [tokens[:, 0]] if self.pool == "cls" else [tokens[:, 0], tokens[:, self.first :].mean(dim=1)]
        return torch.cat(parts, dim=1)


# timm


class OwnPool(nn.Module):
    """A model of timm without its last layer."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute features (B, D) of images (B, 3, S, S)."""
        pooled: Tensor = self.model.forward_head(self.model.forward_features(pixels), pre_logits=True)
        return pooled


def _find_timm(name: str, pool: ProbePool | None) -> Backbone:
    architecture, equals, file = name.removeprefix(TIMM_PREFIX).partition("=")
    if not timm.is_model(architecture):
        step = nearest(architecture, timm.list_models()) or f": give {TIMM_PREFIX}NAME of `timm.list_models()`"
        raise ConfigError(f"backbone is {shorten(name)}, which names no architecture of timm{step}")
    tag = architecture.partition(".")[2]
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture.partition('.')[0]}.*")]
    if tag and tag not in tags:
        raise ConfigError(f"backbone is {shorten(name)}, but timm's weights of it are {', '.join(tags) or 'none'}")
    config = get_pretrained_cfg(architecture)
    prepare = _preparation_of(name, config)
    if equals:
        path = Path(file).expanduser()
        if not path.is_file():
            raise ConfigError(f"backbone is {shorten(name)}, but no file is at {shorten(path)}")
    else:
        path = _fetch(name, config)
    identity = {
        "architecture": f"timm {architecture}",
        "weights": f"sha256 {hash_file(path)}",
        "images": str(prepare),
        "pool": pool or "its own",
    }
    load = partial(_load_timm, name, architecture, path, prepare, pool, is_file=bool(equals))
    licence = "" if equals else str(config.license or "")
    own = TimmModel(name=architecture, preparation=prepare, licence=licence) if pool is None else None
    return Backbone(name=name, identity=identity, load=load, timm=own)


def _preparation_of(name: str, config: Any) -> Preparation:
    """Take over timm's evaluation transform, or raise `ConfigError` for one that is not known here."""
    _, height, width = config.input_size
    is_known = config.crop_mode in ("center", "squash") and config.interpolation in _FILTERS
    if height != width or not is_known:
        what = f"{height} × {width} pixels, {config.interpolation}, {config.crop_mode}"
        raise ConfigError(
            f"backbone is {name}, made for images in a form that is not known here ({what}): take another"
        )
    mean, std = (tuple(map(float, part)) for part in (config.mean, config.std))
    is_squashed = config.crop_mode == "squash"
    return Preparation(height, float(config.crop_pct), mean, std, config.interpolation, is_squashed)  # type: ignore[arg-type]


def _fetch(name: str, config: Any) -> Path:
    """Return timm's weight file from the hub's cache, or else from the hub, which respects HF_HUB_OFFLINE."""
    repo, files = config.hf_hub_id, (config.hf_hub_filename,) if config.hf_hub_filename else _WEIGHT_FILES
    instead = f"give a file of them, `{name}=FILE`"
    if not repo:
        where = f", such as {config.url}" if config.url else ""
        raise CheckpointError(f"{name}: timm has no weights of it on the hub: {instead}{where}")
    for file in files:
        if isinstance(cached := try_to_load_from_cache(repo, file), str):
            return Path(cached)
    for file in files:
        try:
            return Path(hf_hub_download(repo, file))
        except EntryNotFoundError as error:
            log.debug("%s: %s", name, error)
        except (OSError, ValueError):
            break  # the hub is out of reach: do not wait for it again
    raise CheckpointError(
        f"{name}: its weights are not in the cache of the hub, and the hub is out of reach: fetch them once with "
        f"`hf download {repo} {files[0]}`, or {instead}"
    )


def _load_timm(
    name: str,
    architecture: str,
    path: Path,
    prepare: Preparation,
    pool: ProbePool | None,
    device: torch.device,
    precision: Precision,
    *,
    is_file: bool,
) -> Loaded:
    del precision  # the caller's autocast
    named = get_pretrained_cfg(architecture).classifier
    heads = tuple(f"{head}." for head in ([named] if isinstance(named, str) else named or ()))
    state = {key: tensor for key, tensor in read_state(path).items() if not key.startswith(heads)}
    # timm converts older forms. Without the name of a classifier, it loads strictly; its own files may have more heads.
    overlay = {"state_dict": state} | ({"classifier": None} if is_file else {})
    try:
        with quiet_timm():
            model = timm.create_model(architecture, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay)
    except DAMAGED as error:
        why = one_line(str(error)).partition("state_dict for ")[2] or one_line(str(error)) or type(error).__name__
        step = "give the weights of this architecture"
        raise CheckpointError(f"{path} does not fit timm's {architecture}: {shorten(why)}: {step}") from error
    model.pretrained_cfg = model.default_cfg = {}  # they hold the file's tensors
    if pool is None:
        return _checked(name, OwnPool(model), prepare, device)
    if not isinstance(model, VisionTransformer):
        kind = type(model).__name__
        raise ConfigError(f"pool is {pool}, but {name} is a {kind}, not a plain vision transformer: omit `pool`")
    return _checked(name, TokenPool(model, pool), prepare, device)


# CLIP


def _find_clip(name: str) -> Backbone:
    config = teacher_of(name)
    try:
        source = clip.find_source(config)
    except (ConfigError, CheckpointError) as error:
        raise type(error)(f"{shorten(name)}: {reword(str(error), config)}") from error
    facts = source.preprocess or (source.folder or {}).get("preprocess_cfg", {})
    resize_mode = facts.get("resize_mode") or "shortest"
    if resize_mode not in ("shortest", "squash"):
        raise ConfigError(f"backbone is {shorten(name)}, which resizes images by {shorten(resize_mode)}: take another")
    built_of = json.dumps([source.architecture, source.preprocess, source.quick_gelu], sort_keys=True)
    identity = {
        "architecture": f"open_clip {source.title}, {hashlib.sha256(built_of.encode()).hexdigest()[:16]}",
        "weights": f"sha256 {hash_file(source.weights)}",
        "images": f"its own, {resize_mode}",
        "pool": "its own",
    }
    interpolation = "bilinear" if facts.get("interpolation") == "bilinear" else "bicubic"  # as open_clip takes others
    load = partial(_load_clip, name, interpolation, is_squashed=resize_mode == "squash")
    return Backbone(name=name, identity=identity, load=load)


def _load_clip(
    name: str, interpolation: str, device: torch.device, precision: Precision, *, is_squashed: bool
) -> Loaded:
    config = replace(teacher_of(name), precision=precision)
    try:
        tower = clip.load_teacher(config, device=device)
    except (ConfigError, CheckpointError) as error:
        raise type(error)(f"{shorten(name)}: {reword(str(error), config)}") from error
    tower.release_text_tower()
    # The tower normalises pixels in [0, 1] itself.
    prepare = Preparation(tower.image_size, 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), interpolation, is_squashed)
    return Loaded(tower.encode_images, prepare)


def _checked(name: str, module: nn.Module, prepare: Preparation, device: torch.device) -> Loaded:
    """Freeze a module; `CheckpointError` unless its weights are finite and an image becomes one vector."""
    for part, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not is_finite(tensor):
            raise CheckpointError(f"the weights of {name} are not finite in {part}: fetch or make them again")
    module.eval().requires_grad_(False).to(device)
    try:
        with torch.no_grad():
            shape = tuple(module(torch.zeros(1, 3, prepare.size, prepare.size, device=device)).shape)
    except DAMAGED as error:
        raise CheckpointError(f"{name} gives no pooled features ({shorten(error)}): take another backbone") from error
    if len(shape) != 2 or shape[1] < 1:
        found = " × ".join(map(str, shape[1:]))
        raise CheckpointError(
            f"{name} gives no pooled features but {found or 'nothing'} of an image: take another backbone"
        )
    return Loaded(module, prepare)
