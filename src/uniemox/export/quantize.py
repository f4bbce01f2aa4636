"""An ONNX classifier in integers of 8 bits.

What is quantised: the products with weights (query-key-value, projection and MLP of each block), their inputs to 8 bits
with one scale, their weights to 8 bits with a scale for each column. What the attention multiplies, norms, softmax and
the first and last layers stay in fp32. See DECISIONS 45 for what else was measured.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from uniemox.export.graph import import_onnx
from uniemox.models.classify import AnyClassifier, encoder_of

if TYPE_CHECKING:
    Pixels = npt.NDArray[np.float32]

_SMOOTHING = 0.5  # Xiao et al. 2023, section 4: half of the difficulty goes to the weights
_MIN = 1e-5
_BATCH = 16


@torch.no_grad()
def smooth(model: AnyClassifier, pixels: Pixels) -> None:
    """Even out channels that are much larger than others, without a change of the result (Xiao et al. 2023, eq. 4).

    Pretrained vision transformers have such channels, and one scale for all of them would leave few steps to the rest.
    Channel j of each block's norms is divided by max|x_j|^½ / max|w_j|^½, and the weights that read it are multiplied.
    Both are those of `model`, whose channels are measured on prepared images, (N, V, 3, S, S).
    """
    pairs: list[tuple[Any, Any]] = []
    for block in encoder_of(model).blocks:
        pairs += [(block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1)]
    largest: dict[nn.Module, Tensor] = {}  # by norm, (D,)

    def keep(module: nn.Module, _: Any, output: Tensor) -> None:
        found = output.abs().flatten(0, -2).amax(dim=0)
        largest[module] = torch.maximum(largest.get(module, found), found)

    hooks = [norm.register_forward_hook(keep) for norm, _ in pairs]
    try:
        for start in range(0, len(pixels), _BATCH):
            model(*torch.from_numpy(pixels[start : start + _BATCH]).unbind(dim=1))
    finally:
        for hook in hooks:
            hook.remove()
    for norm, linear in pairs:
        weights = linear.weight.abs().amax(dim=0).clamp(min=_MIN)
        scale = largest[norm].clamp(min=_MIN) ** _SMOOTHING / weights ** (1 - _SMOOTHING)
        norm.weight /= scale
        norm.bias /= scale
        linear.weight *= scale


def quantize_file(source: Path, out: Path, names: tuple[str, ...], pixels: Pixels) -> None:
    """Write an ONNX classifier, whose inputs have these names, in 8 bits and with its metadata.

    Ranges are measured on prepared images, (N, V, 3, S, S).
    """
    onnx = import_onnx()
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    images = (dict(zip(names, views[:, None], strict=True)) for views in pixels)  # one at a time
    graph = onnx.load(source).graph
    weights = {weight.name for weight in graph.initializer}
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # its advice to preprocess the graph, as torch's exporter has done
    try:
        quantize_static(
            source,
            out,
            SimpleNamespace(get_next=partial(next, images, None)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=[n.name for n in graph.node if n.op_type == "MatMul" and n.input[1] in weights],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
        )
    finally:
        root.setLevel(level)
