"""An ONNX classifier in integers of 8 bits.

What is quantised: the products with weights (query-key-value, projection and MLP of each block), their inputs to 8 bits
with one scale, their weights to 8 bits with a scale for each column. What the attention multiplies, norms, softmax and
the first and last layers stay in fp32. See DECISIONS 45 for what else was measured.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from uniemox.export.graph import import_onnx
from uniemox.models.classify import plain_classifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from timm.models.vision_transformer import VisionTransformer
    from torch import Tensor, nn

    from uniemox.models.classify import TwoViewClassifier

    Pixels = npt.NDArray[np.float32]

_SMOOTHING = 0.5  # Xiao et al. 2023, section 4: half of the difficulty goes to the weights
_LEAST = 1e-5
_BATCH = 16


@torch.no_grad()
def smooth(model: VisionTransformer | TwoViewClassifier, pixels: Pixels) -> None:
    """Even out channels that are much larger than others, without a change of the result (Xiao et al. 2023, eq. 4).

    Pretrained vision transformers have such channels, and one scale for all of them would leave few steps to the rest.
    Channel j of each block's norms is divided by max|x_j|^½ / max|w_j|^½, and the weights that read it are multiplied.

    Args:
        model: The classifier, whose weights are changed.
        pixels: (N, V, 3, S, S), prepared pictures to see the channels on.
    """
    pairs = [
        pair
        for block in plain_classifier(model).blocks
        for pair in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1))
    ]
    with _largest([norm for norm, _ in pairs]) as largest:
        for start in range(0, len(pixels), _BATCH):
            model(*torch.from_numpy(pixels[start : start + _BATCH]).unbind(dim=1))
    for norm, linear in pairs:
        seen = largest[norm].clamp(min=_LEAST) ** _SMOOTHING
        weights = linear.weight.abs().amax(dim=0).clamp(min=_LEAST) ** (1 - _SMOOTHING)
        scale = seen / weights
        norm.weight /= scale
        norm.bias /= scale
        linear.weight *= scale


@contextmanager
def _largest(modules: list[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Keep the largest value that each channel of what modules give has had."""
    largest: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        del inputs
        found = output.abs().flatten(0, -2).amax(dim=0)
        largest[module] = torch.maximum(largest.get(module, found), found)

    hooks = [module.register_forward_hook(keep) for module in modules]
    try:
        yield largest
    finally:
        for hook in hooks:
            hook.remove()


def quantize_file(source: Path, out: Path, names: tuple[str, ...], pixels: Pixels) -> None:
    """Write an ONNX classifier in 8 bits.

    Args:
        source: Its file in fp32.
        out: File to write; the metadata are kept.
        names: Of the graph's inputs.
        pixels: (N, V, 3, S, S), prepared pictures to measure ranges on.
    """
    onnx = import_onnx()
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    products = _products_with_weights(onnx.load(source).graph)
    with _quiet_advice():
        quantize_static(
            source,
            out,
            _Pictures(names, pixels),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=products,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
        )


def _products_with_weights(graph: Any) -> list[str]:
    weights = {weight.name for weight in graph.initializer}
    return [
        node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights
    ]


class _Pictures:
    """Gives onnxruntime's calibration one picture at a time."""

    def __init__(self, names: tuple[str, ...], pixels: Pixels) -> None:
        self._views = (dict(zip(names, views[:, None], strict=True)) for views in pixels)

    def get_next(self) -> dict[str, Pixels] | None:
        return next(self._views, None)


@contextmanager
def _quiet_advice() -> Iterator[None]:
    """Silence onnxruntime's advice to preprocess a graph, given to the root log; torch's exporter has done so."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
