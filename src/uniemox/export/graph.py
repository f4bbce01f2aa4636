"""A classifier as an ONNX graph."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uniemox.errors import CheckpointError, ConfigError
from uniemox.models.classify import TwoViewClassifier
from uniemox.runtime.onnx_file import (
    MAX_BYTES,
    METADATA_KEY,
    OUTPUT_NAME,
    PREPARATION,
    input_names,
)

if TYPE_CHECKING:
    from pathlib import Path

    from timm.models.vision_transformer import VisionTransformer

    from uniemox.checkpoints.facts import ModelFacts


class _PlainEncoder(nn.Module):
    """timm's vision transformer without what a graph could not be freed of.

    The class token is added to its position beforehand and laid before the patches by padding, so that nothing depends
    on the number of pictures, and nothing is left to be folded when the graph is loaded.
    """

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.vit = vit
        positions = vit.pos_embed.detach().clone()
        positions[:, :1] += vit.cls_token.detach()
        self.positions = nn.Parameter(positions)

    def forward(self, pixels: Tensor) -> Tensor:
        """Give the normed mean over the patches (N, D) of pictures (N, 3, S, S)."""
        tokens = F.pad(self.vit.patch_embed(pixels), (0, 0, 1, 0)) + self.positions
        pooled: Tensor = self.vit.forward_head(
            self.vit.norm(self.vit.blocks(tokens)), pre_logits=True
        )
        return pooled


class _OneView(nn.Module):
    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.encoder = _PlainEncoder(vit)
        self.head = vit.head

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(pixels))
        return logits


class _TwoViews(nn.Module):
    def __init__(self, classifier: TwoViewClassifier) -> None:
        super().__init__()
        self.encoder = _PlainEncoder(classifier.encoder)
        self.fusion = classifier.fusion
        self.head = classifier.encoder.head

    def forward(self, scene: Tensor, person: Tensor) -> Tensor:
        pooled, count = self.encoder(torch.cat([scene, person])), scene.shape[0]
        logits: Tensor = self.head(self.fusion(pooled[:count], pooled[count:]))
        return logits


def write_onnx(
    model: VisionTransformer | TwoViewClassifier, facts: ModelFacts, path: Path, *, opset: int
) -> None:
    """Write a classifier as one ONNX file for any number of pictures, with its facts in the metadata.

    Args:
        model: The classifier, on the CPU.
        facts: What is known of it.
        path: The file.
        opset: Version of ONNX's operators.

    Raises:
        CheckpointError: The model is too large for one file.
        ConfigError: onnx or onnxscript is missing.
    """
    import_onnx()
    if 4 * sum(weight.numel() for weight in model.parameters()) > MAX_BYTES:
        raise CheckpointError(
            f"the model is too large for one ONNX file, which holds {MAX_BYTES} bytes"
        )
    plain = _TwoViews(model) if isinstance(model, TwoViewClassifier) else _OneView(model)
    names = input_names(facts.view)
    # Two pictures, since torch takes a dimension of one for a constant; a tensor for each view, since it takes the same
    # one given twice for one view.
    examples = tuple(torch.zeros(2, 3, facts.image_size, facts.image_size) for _ in names)
    with warnings.catch_warnings():
        # Both views have the same number of pictures, which torch finds worth a warning.
        warnings.filterwarnings("ignore", message="# The axis name", category=UserWarning)
        program = torch.onnx.export(
            plain.eval(),
            examples,
            dynamo=True,
            input_names=list(names),
            output_names=[OUTPUT_NAME],
            dynamic_shapes=({0: torch.export.Dim("N", min=1, max=2**16)},) * len(names),
            opset_version=opset,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    # What the graph reads goes with it, so that the file alone is enough.
    metadata = {"classifier": facts.to_dict(), "preparation": PREPARATION}
    program.model.metadata_props[METADATA_KEY] = json.dumps(metadata)
    program.save(path, external_data=False)


def import_onnx() -> Any:
    """Import onnx, and see to what torch's exporter needs.

    Raises:
        ConfigError: It is not installed; says how to.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"an export to ONNX needs onnx and onnxscript ({error}): pip install 'uniemox[export]'"
        ) from error
    return onnx
