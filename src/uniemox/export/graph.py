"""A classifier as an ONNX graph."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from uniemox.checkpoints.facts import ModelFacts
from uniemox.errors import CheckpointError, ConfigError
from uniemox.files.onnx_walk import MAX_BYTES
from uniemox.inference.onnx_file import METADATA_KEY, OUTPUT_NAME, PREPARATION, input_names
from uniemox.models.classify import TwoViewClassifier, plain_classifier


class _Plain(nn.Module):
    """A classifier of one view or of two, without what a graph could not be freed of.

    The class token is added to its position beforehand and laid before the patches by padding, so that nothing depends
    on the number of images, and nothing remains to be folded when the graph is loaded.
    """

    def __init__(self, model: VisionTransformer | TwoViewClassifier) -> None:
        super().__init__()
        self.vit = plain_classifier(model)
        self.fusion = model.fusion if isinstance(model, TwoViewClassifier) else None
        positions = self.vit.pos_embed.detach().clone()
        positions[:, :1] += self.vit.cls_token.detach()
        self.positions = nn.Parameter(positions)

    def forward(self, scene: Tensor, person: Tensor | None = None) -> Tensor:
        """Return logits (N, C) of one or two views (N, 3, S, S)."""
        pixels = scene if person is None else torch.cat([scene, person])
        tokens = F.pad(self.vit.patch_embed(pixels), (0, 0, 1, 0)) + self.positions
        pooled = self.vit.forward_head(self.vit.norm(self.vit.blocks(tokens)), pre_logits=True)
        if self.fusion is not None:
            pooled = self.fusion(pooled[: scene.shape[0]], pooled[scene.shape[0] :])
        logits: Tensor = self.vit.head(pooled)
        return logits


def write_onnx(model: VisionTransformer | TwoViewClassifier, facts: ModelFacts, path: Path, *, opset: int) -> None:
    """Write a classifier on the CPU as one ONNX file for any number of images, with its facts in the metadata."""
    import_onnx()
    if 4 * sum(weight.numel() for weight in model.parameters()) > MAX_BYTES:
        raise CheckpointError(f"the model is too large for one ONNX file, which holds {MAX_BYTES} bytes")
    names = input_names(facts.view)
    # Two images, since torch takes a dimension of one for a constant; a tensor for each view, since it would merge two
    # views that are the same tensor.
    examples = tuple(torch.zeros(2, 3, facts.image_size, facts.image_size) for _ in names)
    with warnings.catch_warnings():
        # Both views have the same number of images, which torch finds worth a warning.
        warnings.filterwarnings("ignore", message="# The axis name", category=UserWarning)
        program = torch.onnx.export(
            _Plain(model).eval(),
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
    """Import onnx, or raise `ConfigError` if torch's exporter lacks what it needs."""
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        step = "pip install 'uniemox[export]'"
        raise ConfigError(f"an export to ONNX needs onnx and onnxscript ({error}): {step}") from error
    return onnx
