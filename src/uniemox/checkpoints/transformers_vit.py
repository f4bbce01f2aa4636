"""Weights of transformers' ViT and ViTMAE, such as facebook/vit-mae-base, by the names of timm and MAE."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from uniemox.config.checks import MAX_HEADS
from uniemox.errors import CheckpointError
from uniemox.wording import shorten

PATCHES: Final = "embeddings.patch_embeddings.projection.weight"
"""The end of a name that each of these models has, and no other."""
MODEL_TYPES: Final = ("vit", "vit_mae")
_WHOLE: Final = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
    "decoder.mask_token": "mask_token",
    **{f"decoder.decoder_{part}": f"decoder_{part}" for part in ("embed", "pos_embed", "norm", "pred")},
}
_BLOCK: Final = re.compile(
    r"(?P<decoder>decoder\.decoder_)?(?:encoder\.layer|layers)\.(?P<number>\d{1,3})\.(?P<part>.+)"
)
_PARTS: Final = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    **dict.fromkeys(("attention.output.dense", "attention.o_proj"), "attn.proj"),
    **dict.fromkeys(("intermediate.dense", "mlp.fc1"), "mlp.fc1"),
    **dict.fromkeys(("output.dense", "mlp.fc2"), "mlp.fc2"),
    **{f"attention.attention.{part}": f"attn.{part}" for part in ("query", "key", "value")},
    **{f"attention.{part[0]}_proj": f"attn.{part}" for part in ("query", "key", "value")},
}  # The names of files; and those of the modules since transformers 5
_USUAL: Final = {"num_channels": 3, "hidden_act": "gelu", "qkv_bias": True}
_LARGEST_EPSILON: Final = 1e-6  # MAE's own, as timm's; transformers' 1e-12 differs from it by less than rounding does


def to_timm(state: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Rename weights, and put queries, keys and values together; `CheckpointError` where they do not go together."""
    names = [_timm_name(name.removeprefix("vit.")) for name in state]
    found = dict(zip(names, state.values(), strict=True))
    for query in [name for name in found if ".attn.query." in name]:
        parts = [found.pop(query.replace(".query.", f".{part}."), None) for part in ("query", "key", "value")]
        kinds = {None if part is None else (part.shape, part.dtype) for part in parts}
        if len(kinds) > 1 or parts[0] is None or parts[0].dim() == 0:
            raise CheckpointError(f"{source} has queries, keys and values that differ in shape at {query[:80]}")
        names.append(query.replace(".query.", ".qkv."))
        found[names[-1]] = torch.cat([part for part in parts if part is not None])
    if len(set(names)) < len(names):
        raise CheckpointError(f"{source} names a tensor twice, as transformers and as timm do: it is refused")
    return found


def _timm_name(name: str) -> str:
    """Name of a tensor in transformers -> timm's or MAE's; one that neither has stays."""
    stem, _, kind = name.rpartition(".")
    if name in _WHOLE:
        return _WHOLE[name]
    if stem in _WHOLE:
        return f"{_WHOLE[stem]}.{kind}"
    block = _BLOCK.fullmatch(stem)
    if block is None or block["part"] not in _PARTS:
        return name
    blocks = "decoder_blocks" if block["decoder"] else "blocks"
    return f"{blocks}.{block['number']}.{_PARTS[block['part']]}.{kind}"


def check_config(config: Mapping[str, Any], num_heads: int | None, path: Path) -> None:
    """Raise `CheckpointError` for a model that computes something else than its tensors show."""
    for name, usual in {**_USUAL, "num_attention_heads": num_heads}.items():
        if config.get(name, usual) != usual:
            raise _other(path, name, config[name], str(usual))
    epsilon = config.get("layer_norm_eps", 1e-12)
    if not isinstance(epsilon, float) or not 0 <= epsilon <= _LARGEST_EPSILON:
        raise _other(path, "layer_norm_eps", epsilon, f"at most {_LARGEST_EPSILON}")


def decoder_heads(config: Mapping[str, Any], width: int, path: Path) -> int:
    """Return the heads of a decoder, which no tensor shows, or raise `CheckpointError`."""
    heads = config.get("decoder_num_attention_heads", 16)  # transformers omits what is as it has it
    if type(heads) is not int or not 1 <= heads <= MAX_HEADS or width % heads:
        wanted = f"a divisor of decoder_hidden_size {width}, up to {MAX_HEADS}"
        raise CheckpointError(f"{path}: decoder_num_attention_heads is {shorten(heads)}, but must be {wanted}")
    return heads


def _other(path: Path, name: str, value: object, usual: str) -> CheckpointError:
    what = f"{name} of this model is {shorten(value)}, which no tensor shows, and which is {usual} here"
    return CheckpointError(f"{path}: {what}: use it with transformers")
