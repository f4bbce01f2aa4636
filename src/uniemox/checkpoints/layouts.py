"""Weights that others wrote: their layout, and the same tensors by the names used here.

A layout takes wrappers and prefixes off what a file holds, until the names are those of MAE and timm. Everything after
that, such as the architecture, follows from names and shapes alone: it is the same for all layouts and reads no number.
"""

import argparse
import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from uniemox.checkpoints import transformers_vit
from uniemox.checkpoints.facts import ModelFacts
from uniemox.config.training import ENCODER_SHAPES, EncoderSize, ModelConfig, Pool
from uniemox.errors import CheckpointError, ConfigError
from uniemox.files.state_dicts import StateDict, find_state, unwrap
from uniemox.files.weights import Fit, compare
from uniemox.models.encoder import build_vit
from uniemox.models.fused import FusedClassifier
from uniemox.models.pretrain import UniEmoX
from uniemox.wording import name_first

Kind = Literal["pretraining", "classifier", "encoder"]
MAE_RUN = "run of MAE's form"  # Layout of MAE's own files, and of what its scripts write
TRANSFORMERS = "transformers"  # Layout of its ViT and ViTMAE
_EMBEDDING = {"cls_token", "pos_embed", "patch_embed.proj.weight"}
_NORM = ("norm.weight", "norm.bias")
_UNUSED: Mapping[Kind, tuple[str, ...]] = {
    "pretraining": (),
    "classifier": _NORM,  # the released classifiers keep the norm of pretraining beside the one they use
    "encoder": ("head.weight", "head.bias", "fc_norm.weight", "fc_norm.bias"),
}
_HEADS = re.compile(r"(head|heads|head_dist|fc|classifier|pooler)\.(\w+\.)*\w+")
"""Names of heads and of what is before them, which an encoder does not use; `pretrained_cfg` may have others."""
_CLASS_TOKEN_HEAD = {"head.weight", "head.bias"}  # timm's own, without a norm of its own before it
_BESIDE_CONFIG = ("embedding_width", "reconstructs")  # Fields of `PretrainingShape` that `ModelConfig` does not have
_LONGEST_ARGUMENT = 200  # characters


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """What was found in weights that others wrote."""

    layout: str
    kind: Kind
    size: EncoderSize | None  # None where no size here has this width and depth
    width: int
    depth: int
    num_heads: int | None
    patch_size: int
    image_size: int
    num_classes: int
    decoder: Mapping[str, Any]  # Fields of `PretrainingShape`, `decoder_heads` None where unknown; none for other kinds
    state: Mapping[str, Tensor]  # The tensors that are used, by the names of MAE and timm
    arguments: Mapping[str, str]
    beside: tuple[str, ...]  # What else the file holds, such as an optimiser; it is not read
    taken: tuple[str, ...]  # What was done to the names, and which of several states was taken
    unused: tuple[str, ...] = ()  # Names that are known and that the model does not use
    fit: Fit = field(default_factory=Fit)  # Against our model of this architecture; empty where `size` is None

    @property
    def unused_as(self) -> str:
        """What the unused names are."""
        if self.kind != "encoder":
            return "not used by the model"
        if _CLASS_TOKEN_HEAD.issuperset(self.unused):
            return "a head on the class token"
        if set(self.unused) <= {"fc_norm.weight", "fc_norm.bias"}:
            return "the norm of a head that is missing"
        return "a head under another name than timm's, which may compute more than its tensors show"

    def check(self, source: Path) -> None:
        """Raise `CheckpointError` for weights that would not be understood in full."""
        if self.size is None:
            sizes = "no size here: " + ", ".join(f"{s.width} × {s.depth}" for s in ENCODER_SHAPES.values())
            what = f"{self.width} wide and {self.depth} deep"
            raise CheckpointError(f"{source} ({self.layout}) is {what}, which is {sizes}")
        self.fit.check(f"{source} ({self.layout})")


def recognise(tree: Mapping[str, Any], source: Path, heads: tuple[str, ...] = ()) -> Foreign:
    """Recognise what a file holds, tensors or tables around them, by names and shapes, or raise `CheckpointError`.

    `heads` are the parts that a configuration beside the file calls the head of the model.
    """
    layout, found = _released_run(tree) or _saved(tree)
    if found.tensors.keys() & {"visual.conv1.weight", "visual.class_embedding", "text_projection"}:
        raise CheckpointError(f"{source} is a CLIP, which is the teacher: give it as `teacher.pretrained`")
    found = _only_model(found, source)
    state = found.tensors
    if any(name.endswith(transformers_vit.PATCHES) for name in state):
        layout, state = TRANSFORMERS, transformers_vit.to_timm(state, source)
    if missing := _EMBEDDING - state.keys():
        raise CheckpointError(
            f"{source} is no vision transformer by MAE's and timm's names: it holds "
            f"{name_first(sorted(map(str, tree)))}, without {name_first(sorted(missing))}; give its `state_dict()`"
        )
    width, patch_size, grid = _measure(state, source)
    depth = _depth(state, "blocks")
    args = tree.get("args")
    arguments = dict(vars(args)) if isinstance(args, argparse.Namespace) else {}
    arguments |= {"epoch": tree["epoch"]} if "epoch" in tree else {}
    kind: Kind = "encoder"  # also with a head on the class token, as timm's have it, which is not read
    if "decoder_embed.weight" in state:
        kind = "pretraining"
    elif {"fc_norm.weight", "head.weight"} <= state.keys():
        kind = "classifier"
    foreign = Foreign(
        layout=layout,
        kind=kind,
        size=next((size for size, s in ENCODER_SHAPES.items() if (s.width, s.depth) == (width, depth)), None),
        width=width,
        depth=depth,
        num_heads=next((s.num_heads for s in ENCODER_SHAPES.values() if s.width == width), None),
        patch_size=patch_size,
        image_size=patch_size * grid,
        num_classes=_rows(state["head.weight"]) if kind == "classifier" else 0,
        decoder=_decoder(state) if kind == "pretraining" else {},
        state=state,
        arguments={_shown(name): _shown(value) for name, value in arguments.items()},
        beside=tuple(name[:_LONGEST_ARGUMENT] for name in found.beside if name not in ("args", "epoch")),
        taken=found.notes,
    )
    return foreign if foreign.size is None else _compared(foreign, source, heads)


def _only_model(found: StateDict, source: Path) -> StateDict:
    """Free the names of one vision transformer of the part of a larger module that it is, and skip what is beside it.

    So are the modules of Lightning, which hold losses and metrics too, and models that call it `backbone`.
    """
    marks = (f"vit.{transformers_vit.PATCHES}", transformers_vit.PATCHES, "patch_embed.proj.weight")
    ends = ((name, next((mark for mark in marks if f".{name}".endswith(f".{mark}")), "")) for name in found.tensors)
    prefixes = sorted(name.removesuffix(mark) for name, mark in ends if mark)
    if len(prefixes) > 1:
        several = name_first([prefix or "without a prefix" for prefix in prefixes])
        step = "save the `state_dict()` of the one that you want"
        raise CheckpointError(f"{source} holds {len(prefixes)} vision transformers ({several}): {step}")
    if not prefixes or not prefixes[0]:
        return found
    prefix = prefixes[0]
    tensors = {name.removeprefix(prefix): tensor for name, tensor in found.tensors.items() if name.startswith(prefix)}
    rest = tuple(name for name in found.tensors if not name.startswith(prefix))
    wrappers = (*found.wrappers, prefix[:_LONGEST_ARGUMENT])
    return dataclasses.replace(found, tensors=tensors, wrappers=wrappers, beside=(*found.beside, *rest))


def mae_name(name: str) -> str:
    """Name of a tensor in `UniEmoX` -> MAE's, such as `decoder.blocks.0…` -> `decoder_blocks.0…`."""
    if name == "decoder.mask_token":
        return "mask_token"
    name = name.removeprefix("encoder.")
    return "decoder_" + name.removeprefix("decoder.") if name.startswith("decoder.") else name


def own_name(name: str) -> str:
    """MAE's name of a tensor -> its name in `UniEmoX`, the inverse of `mae_name`."""
    if name == "mask_token":
        return "decoder.mask_token"
    if not is_beside_encoder(name):
        return f"encoder.{name}"
    if name.startswith("decoder_") and not name.startswith("decoder_embed."):
        return "decoder." + name.removeprefix("decoder_")
    return name


def is_beside_encoder(name: str) -> bool:
    """Whether MAE's name is one of the decoder, the fusion or the projection."""
    return name.startswith(("decoder_", "fusion.", "projection.")) or name == "mask_token"


def _released_run(tree: Mapping[str, Any]) -> tuple[str, StateDict] | None:
    """UniEmoX's released pretraining runs: the fusion beside the model, each in DDP."""
    found, fusion = find_state({"model": tree.get("model")}), tree.get("att_fusion")
    if found is None or not isinstance(fusion, dict) or find_state(fusion) is None:
        return None
    state = dict(found.tensors)
    for name, tensor in unwrap(fusion)[0].items():
        part, _, rest = name.partition(".")
        state[f"fusion.{'norm' if part == 'bn' else part}.{rest}"] = tensor  # bn is a LayerNorm
    beside = tuple(sorted(tree.keys() - {"model", "att_fusion"}))
    return "UniEmoX, released pretraining run", dataclasses.replace(found, tensors=state, beside=beside)


def _saved(tree: Mapping[str, Any]) -> tuple[str, StateDict]:
    """What MAE's scripts keep as `model`, timm's as `state_dict`, transformers as `timm_model.…`, or a bare state."""
    found = find_state(tree)
    if found is None:
        return "", StateDict({}, "", (), ())
    prefix = "timm_model."
    if all(name.startswith(prefix) for name in found.tensors):
        state = {name.removeprefix(prefix): tensor for name, tensor in found.tensors.items()}
        return "timm, wrapped by transformers", dataclasses.replace(found, tensors=state)
    layout = {"": "bare state dict", "model": MAE_RUN, "model_ema": MAE_RUN}.get(found.key, "timm, training checkpoint")
    return layout + (", average over steps" if found.is_average else ""), found


def _measure(state: Mapping[str, Tensor], source: Path) -> tuple[int, int, int]:
    """Return the width, the side of a patch, and the patches along a side."""
    projection, positions = state["patch_embed.proj.weight"].shape, state["pos_embed"].shape
    if not (len(projection) == 4 and projection[1] == 3 and projection[2] == projection[3] > 0):
        kernel = f"patch_embed.proj.weight is {tuple(projection)}"
        raise CheckpointError(f"{source} does not look at square patches of three colours: {kernel}")
    grid = math.isqrt(max(positions[1] - 1, 0)) if len(positions) == 3 else 0
    if grid < 1 or positions[1] != grid * grid + 1:
        embedding = f"pos_embed is {tuple(positions)}"
        raise CheckpointError(f"{source} has no positions of a class token and a square image: {embedding}")
    return projection[0], projection[2], grid


def _decoder(state: Mapping[str, Tensor]) -> dict[str, Any]:
    width, fuses = _rows(state["decoder_embed.weight"]), any(name.startswith("fusion.") for name in state)
    return {
        "decoder_width": width,
        "decoder_depth": _depth(state, "decoder_blocks"),
        "decoder_heads": 16 if width == 512 else None,  # He et al. 2022, table 1; no tensor shows it
        "fusion": "sum" if fuses else "none",
        "embedding_width": width if fuses else None,
        "reconstructs": True,
    }


def _depth(state: Mapping[str, Tensor], part: str) -> int:
    found = (re.match(rf"{part}\.(\d{{1,3}})\.", name) for name in state)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _rows(tensor: Tensor) -> int:
    return int(tensor.shape[0]) if tensor.dim() else 0


def empty_pretraining(of: Foreign | ModelFacts, pretraining: Mapping[str, Any], source: Path) -> UniEmoX:
    """Build a model without memory from the fields of `PretrainingShape`, or raise `CheckpointError`."""
    config = _model_config(of, pretraining, source)
    with torch.device("meta"):
        return UniEmoX(config, **{name: pretraining[name] for name in _BESIDE_CONFIG})


def empty_fused(of: ModelFacts, source: Path) -> FusedClassifier:
    """Build a classifier of the fused token without memory, or raise `CheckpointError`."""
    config, width = _model_config(of, of.pretraining, source), of.pretraining["embedding_width"]
    with torch.device("meta"):
        return FusedClassifier(config, embedding_width=width, num_classes=len(of.classes))


def _model_config(of: Foreign | ModelFacts, pretraining: Mapping[str, Any], source: Path) -> ModelConfig:
    assert of.size is not None
    shape = {name: value for name, value in pretraining.items() if name not in _BESIDE_CONFIG}
    try:
        return ModelConfig(size=of.size, patch_size=of.patch_size, image_size=of.image_size, **shape)
    except ConfigError as error:
        place = f"{source}/config.json: uniemox.pretraining" if isinstance(of, ModelFacts) else source
        raise CheckpointError(f"{place} is no model of ours: {error}") from error


def empty_vit(of: Foreign | ModelFacts, num_classes: int, pool: Pool = "mean") -> VisionTransformer:
    """Build an encoder or a classifier without memory."""
    assert of.size is not None
    shape = {"patch_size": of.patch_size, "image_size": of.image_size, "num_classes": num_classes}
    with torch.device("meta"):
        return build_vit(of.size, **shape, pool=pool)


def _compared(foreign: Foreign, source: Path, heads: tuple[str, ...]) -> Foreign:
    """Compare weights with the model that they seem to be; those that are known and have no use are no surplus."""
    model: nn.Module
    if foreign.decoder:
        shape = {**foreign.decoder, "decoder_heads": foreign.decoder["decoder_heads"] or 1}
        model = empty_pretraining(foreign, shape, source)
    else:
        model = empty_vit(foreign, foreign.num_classes)
    own = {mae_name(name): tensor for name, tensor in model.state_dict().items()}
    if foreign.kind == "encoder" and "fc_norm.weight" in foreign.state and "norm.weight" not in foreign.state:
        own = {name: tensor for name, tensor in own.items() if name not in _NORM}
    unused = {name for name in _UNUSED[foreign.kind] if name in foreign.state}
    if foreign.kind == "encoder":
        parts = tuple(f"{part}." for part in heads)
        unused |= {name for name in foreign.state if _HEADS.fullmatch(name) or name.startswith(parts)}
    unused -= own.keys()
    used = {name: tensor for name, tensor in foreign.state.items() if name not in unused}
    return dataclasses.replace(foreign, state=used, unused=tuple(sorted(unused)), fit=compare(own, used))


def _shown(value: object) -> str:
    """Show a stranger's value in a line: plain ones alone, since nested ones may be endless."""
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number of many digits"
    if isinstance(value, list | tuple) and len(value) <= 8:
        return ", ".join(_shown(part) if not isinstance(part, list | tuple) else "…" for part in value)
    if value is None or isinstance(value, bool | int | float | str):
        text = " ".join(str(value)[: 2 * _LONGEST_ARGUMENT].split())
        return text if len(text) <= _LONGEST_ARGUMENT else f"{text[:_LONGEST_ARGUMENT]}…"
    return type(value).__name__
