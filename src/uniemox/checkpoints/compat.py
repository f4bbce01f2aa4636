"""Weights that others wrote: which layout it is, and the same tensors by the names used here.

A layout is one function from what a file holds to `Named`, tried in the order of `_LAYOUTS`: wrappers and prefixes come
off, and what remains has the names of MAE and timm. Everything after that, such as the architecture, follows from names
and shapes alone, so that it is the same for all layouts and costs no reading.
"""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from uniemox.checkpoints.weights import name_first
from uniemox.config import ENCODER_SHAPES, EncoderSize
from uniemox.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

Kind = Literal["pretraining", "classifier", "encoder"]
Shape = tuple[int, ...]

MAE_RUN = "run of MAE's form"
"""Layout of MAE's own files, and of what its scripts write."""

_HEADS = {shape.width: shape.num_heads for shape in ENCODER_SHAPES.values()}
_DECODER_HEADS = {512: 16}  # He et al. 2022, table 1; no tensor shows the number of heads
_BLOCK = re.compile(r"(?P<part>blocks|decoder_blocks)\.(?P<index>\d{1,3})\.")
_LONGEST_ARGUMENT = 200  # characters


@dataclass(frozen=True)
class Named:
    """Weights by the names of MAE and timm, and how they came."""

    layout: str
    state: Mapping[str, Tensor]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """The settings of the run that made them, where the file keeps them; a stranger's words."""
    beside: tuple[str, ...] = ()
    """What else the file holds, such as an optimiser."""


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """What was found in weights that others wrote."""

    layout: str
    kind: Kind
    size: EncoderSize | None
    """None where no size here has this width and depth."""
    width: int
    depth: int
    num_heads: int | None
    patch_size: int
    image_size: int
    num_classes: int
    decoder: tuple[int, int, int | None] | None
    """Width, depth and heads of the decoder."""
    fuses: bool
    """Whether there is the released fusion of scene and person."""
    state: Mapping[str, Tensor]
    """What is used, by the names of MAE and timm."""
    unused: tuple[str, ...]
    """Names that are known and that the model does not use."""
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    misshapen: tuple[str, ...]
    """Names whose shape does not go with the others, with the shape that would."""
    arguments: Mapping[str, str]
    beside: tuple[str, ...]
    """What else the file holds, such as an optimiser; it is not read."""

    def check(self, source: Path) -> None:
        """Refuse weights that would not be understood in full.

        Raises:
            CheckpointError: Something is missing, left over or misshapen, or the size is none of ours.
        """
        for what, names in (
            ("is without", self.missing),
            ("holds what a plain vision transformer has not:", self.extra),
            ("does not fit together:", self.misshapen),
        ):
            if names:
                raise CheckpointError(f"{source} ({self.layout}) {what} {name_first(list(names))}")
        if self.size is None:
            known = ", ".join(f"{s.width} × {s.depth}" for s in ENCODER_SHAPES.values())
            raise CheckpointError(
                f"{source} ({self.layout}) is {self.width} wide and {self.depth} deep, which is no size here: {known}"
            )


def recognise(tree: Mapping[str, Any], source: Path) -> Foreign:
    """Tell what weights are, from their names and shapes.

    Args:
        tree: What a file holds: tensors by name, or the dictionary around them.
        source: What a complaint calls them.

    Raises:
        CheckpointError: They are no vision transformer, or of a kind that serves another purpose.
    """
    for layout in _LAYOUTS:
        named = layout(tree)
        if named is not None:
            return _analyse(named, source)
    raise _refusal(tree, source)


def mae_name(name: str) -> str:
    """Our name of a tensor beside the encoder -> MAE's, so `decoder.blocks.0…` becomes `decoder_blocks.0…`."""
    if name == "decoder.mask_token":
        return "mask_token"
    return "decoder_" + name.removeprefix("decoder.") if name.startswith("decoder.") else name


def own_name(name: str) -> str:
    """MAE's name of a tensor beside the encoder -> ours, the inverse of `mae_name`."""
    if name == "mask_token":
        return "decoder.mask_token"
    if name.startswith("decoder_") and not name.startswith("decoder_embed."):
        return "decoder." + name.removeprefix("decoder_")
    return name


def is_beside_encoder(name: str) -> bool:
    """Whether MAE's name is one of the decoder or the fusion."""
    return name.startswith(("decoder_", "fusion.")) or name == "mask_token"


# Layouts


def _released_run(tree: Mapping[str, Any]) -> Named | None:
    """UniEmoX's released pretraining runs: DDP's prefix, and the fusion beside the model."""
    state, fusion = _tensors(tree.get("model")), _tensors(tree.get("att_fusion"))
    if state is None or fusion is None:
        return None
    state = _without("module.", state)
    names = {"bn": "norm", "linear": "linear"}  # what is called bn there is a LayerNorm
    for name, tensor in _without("module.", fusion).items():
        part, _, rest = name.partition(".")
        state[f"fusion.{names.get(part, part)}.{rest}"] = tensor
    return Named("UniEmoX, released pretraining run", state, _arguments(tree), _beside(tree))


def _run(tree: Mapping[str, Any]) -> Named | None:
    """MAE's files and runs: `{'model': …}`, perhaps with DDP's prefix and the settings beside it."""
    state = _tensors(tree.get("model"))
    if state is None or not _is_transformer(_without("module.", state)):
        return None
    return Named(MAE_RUN, _without("module.", state), _arguments(tree), _beside(tree))


def _timm_run(tree: Mapping[str, Any]) -> Named | None:
    """Checkpoints of timm's training script: `{'state_dict': …}`; the average over steps goes first, as in timm."""
    for name in ("state_dict_ema", "state_dict"):
        state = _tensors(tree.get(name))
        if state is not None and _is_transformer(_without("module.", state)):
            layout = "timm, training checkpoint" + (", average over steps" if "ema" in name else "")
            beside = tuple(
                sorted({*_beside(tree), *({"state_dict", "state_dict_ema"} & tree.keys())} - {name})
            )
            return Named(layout, _without("module.", state), _arguments(tree), beside)
    return None


def _transformers(tree: Mapping[str, Any]) -> Named | None:
    """The wrapper of timm models in transformers."""
    state = _tensors(tree)
    if state is None or not all(name.startswith("timm_model.") for name in state):
        return None
    return Named("timm, wrapped by transformers", _without("timm_model.", state))


def _bare(tree: Mapping[str, Any]) -> Named | None:
    """Tensors by name alone: UniEmoX's released classifiers, timm's files."""
    state = _tensors(tree)
    if state is None or not _is_transformer(_without("module.", state)):
        return None
    return Named("bare state dict", _without("module.", state))


_LAYOUTS: tuple[Callable[[Mapping[str, Any]], Named | None], ...] = (
    _released_run,
    _run,
    _timm_run,
    _transformers,
    _bare,
)


def _refusal(tree: Mapping[str, Any], source: Path) -> CheckpointError:
    """Say what weights are that are none of these."""
    state = _without("module.", _tensors(tree) or _tensors(tree.get("state_dict")) or {})
    if {"visual.conv1.weight", "visual.class_embedding", "text_projection"} & state.keys():
        return CheckpointError(
            f"{source} is a CLIP, which is the teacher and no start: give it as `--teacher.pretrained {source}`"
        )
    return CheckpointError(
        f"{source} is no vision transformer by MAE's and timm's names: it holds {name_first(sorted(map(str, tree)))}"
    )


def _tensors(value: object) -> dict[str, Tensor] | None:
    """Give a table of tensors by name, or None for anything else."""
    if not isinstance(value, dict) or not value:
        return None
    if all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items()):
        return dict(value)
    return None


def _without(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off a prefix that every name has."""
    if not all(name.startswith(prefix) for name in state):
        return dict(state)
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _is_transformer(state: Mapping[str, Tensor]) -> bool:
    return {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= state.keys()


def _arguments(tree: Mapping[str, Any]) -> dict[str, Any]:
    args = tree.get("args")
    told = dict(vars(args)) if isinstance(args, argparse.Namespace) else {}
    return told | {name: tree[name] for name in ("epoch",) if name in tree}


def _beside(tree: Mapping[str, Any]) -> tuple[str, ...]:
    read = {"model", "att_fusion", "state_dict", "args", "epoch"}
    return tuple(sorted(name[:_LONGEST_ARGUMENT] for name in tree.keys() - read))


# What follows from names and shapes


def _analyse(named: Named, source: Path) -> Foreign:
    state = named.state
    width, patch_size, grid = _measure(state, source)
    kind = _kind(state)
    depth = _depth(state, "blocks")
    decoder = None
    if kind == "pretraining":
        decoder_width = _first_size(state["decoder_embed.weight"])
        decoder_heads = _DECODER_HEADS.get(decoder_width)
        decoder = (decoder_width, _depth(state, "decoder_blocks"), decoder_heads)
    num_classes = _first_size(state["head.weight"]) if kind == "classifier" else 0
    fuses = any(name.startswith("fusion.") for name in state)
    expected = dict(_encoder_shapes(width, depth, patch_size, grid))
    expected |= _kind_shapes(kind, width, num_classes, decoder, patch_size, grid)
    if fuses and decoder is not None:
        expected |= _fusion_shapes(decoder[0])
    if kind == "encoder" and "fc_norm.weight" in state and "norm.weight" not in state:
        expected = {name: shape for name, shape in expected.items() if name not in _NORM}
    unused = {name for name in _UNUSED[kind] if name in state} - expected.keys()
    used = {name: tensor for name, tensor in state.items() if name not in unused}
    sizes = {(s.width, s.depth): size for size, s in ENCODER_SHAPES.items()}
    return Foreign(
        layout=named.layout,
        kind=kind,
        size=sizes.get((width, depth)),
        width=width,
        depth=depth,
        num_heads=_HEADS.get(width),
        patch_size=patch_size,
        image_size=patch_size * grid,
        num_classes=num_classes,
        decoder=decoder,
        fuses=fuses,
        state=used,
        unused=tuple(sorted(unused)),
        missing=tuple(name for name in expected if name not in state),
        extra=tuple(sorted(used.keys() - expected.keys())),
        misshapen=tuple(
            f"{name} {tuple(used[name].shape)} instead of {shape}"
            for name, shape in expected.items()
            if name in used and tuple(used[name].shape) != shape
        ),
        arguments={_shown(name): _shown(value) for name, value in named.arguments.items()},
        beside=named.beside,
    )


def _measure(state: Mapping[str, Tensor], source: Path) -> tuple[int, int, int]:
    """Give width, side of a patch and patches along a side."""
    missing = {"cls_token", "pos_embed", "patch_embed.proj.weight"} - state.keys()
    if missing:
        raise CheckpointError(
            f"{source} is no vision transformer by MAE's and timm's names: it is without {name_first(sorted(missing))}"
        )
    projection, positions = state["patch_embed.proj.weight"].shape, state["pos_embed"].shape
    square = len(projection) == 4 and projection[1] == 3 and projection[2] == projection[3] > 0
    if not square:
        raise CheckpointError(
            f"{source} does not look at square patches of three colours: patch_embed.proj.weight is {tuple(projection)}"
        )
    grid = math.isqrt(max(positions[1] - 1, 0)) if len(positions) == 3 else 0
    if grid < 1 or positions[1] != grid * grid + 1:
        raise CheckpointError(
            f"{source} has no positions of a class token and a square picture: pos_embed is {tuple(positions)}"
        )
    return projection[0], projection[2], grid


def _kind(state: Mapping[str, Tensor]) -> Kind:
    if "decoder_embed.weight" in state:
        return "pretraining"
    # A head on the class token, as timm's have it, is no head on the mean of the patches: the encoder alone is used.
    return "classifier" if {"fc_norm.weight", "head.weight"} <= state.keys() else "encoder"


def _first_size(tensor: Tensor) -> int:
    return int(tensor.shape[0]) if tensor.dim() else 0


def _depth(state: Mapping[str, Tensor], part: str) -> int:
    found = (_BLOCK.match(name) for name in state)
    return len({match["index"] for match in found if match is not None and match["part"] == part})


_NORM = ("norm.weight", "norm.bias")
_HEAD = ("head.weight", "head.bias")
_UNUSED: Mapping[Kind, tuple[str, ...]] = {
    "pretraining": (),
    "classifier": _NORM,  # the released classifiers keep the norm of pretraining beside the one they use
    "encoder": (*_HEAD, "fc_norm.weight", "fc_norm.bias"),
}


def _encoder_shapes(width: int, depth: int, patch: int, grid: int) -> Iterator[tuple[str, Shape]]:
    yield "cls_token", (1, 1, width)
    yield "pos_embed", (1, 1 + grid * grid, width)
    yield "patch_embed.proj.weight", (width, 3, patch, patch)
    yield "patch_embed.proj.bias", (width,)
    yield from _block_shapes("blocks", width, depth)


def _block_shapes(part: str, width: int, depth: int) -> Iterator[tuple[str, Shape]]:
    layers = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    for index in range(depth):
        for norm in ("norm1", "norm2"):
            yield from _pair(f"{part}.{index}.{norm}", (width,))
        for layer, (out, into) in layers.items():
            yield from _pair(f"{part}.{index}.{layer}", (out * width, into * width))


def _pair(name: str, shape: Shape) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _kind_shapes(
    kind: Kind,
    width: int,
    num_classes: int,
    decoder: tuple[int, int, int | None] | None,
    patch: int,
    grid: int,
) -> dict[str, Shape]:
    if kind == "classifier":
        return dict(_pair("fc_norm", (width,))) | dict(_pair("head", (num_classes, width)))
    shapes = dict(_pair("norm", (width,)))
    if decoder is not None:
        inner, depth, _ = decoder
        shapes |= {"mask_token": (1, 1, inner), "decoder_pos_embed": (1, 1 + grid * grid, inner)}
        shapes |= dict(_pair("decoder_embed", (inner, width)))
        shapes |= dict(_block_shapes("decoder_blocks", inner, depth))
        shapes |= dict(_pair("decoder_norm", (inner,)))
        shapes |= dict(_pair("decoder_pred", (patch * patch * 3, inner)))
    return shapes


def _fusion_shapes(width: int) -> dict[str, Shape]:
    return dict(_pair("fusion.linear", (width, width))) | dict(_pair("fusion.norm", (width,)))


def _shown(value: object) -> str:
    """Show a stranger's value in a line: plain ones alone, since nested ones may be endless."""
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number of many digits"
    if isinstance(value, list | tuple) and len(value) <= 8:
        return ", ".join(
            _shown(part) if not isinstance(part, list | tuple) else "…" for part in value
        )
    if value is None or isinstance(value, bool | int | float | str):
        text = " ".join(str(value)[: 2 * _LONGEST_ARGUMENT].split())
        return text if len(text) <= _LONGEST_ARGUMENT else f"{text[:_LONGEST_ARGUMENT]}…"
    return type(value).__name__
