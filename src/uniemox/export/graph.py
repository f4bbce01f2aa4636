"""A classifier as an ONNX graph."""

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uniemox.checkpoints.facts import ModelFacts
from uniemox.errors import CheckpointError, ConfigError
from uniemox.files.onnx_walk import MAX_BYTES
from uniemox.inference.onnx_file import FEATURES_OUTPUT, METADATA_KEY, OUTPUT_NAME, input_names, preparation_of
from uniemox.models.classify import AnyClassifier, TwoViewClassifier, encoder_of
from uniemox.models.fused import FusedClassifier


class _Plain(nn.Module):
    """A classifier of one view or of two, without what a graph could not be freed of.

    The class token is added to its position beforehand and laid before the patches by padding, so that nothing depends
    on the number of images, and nothing remains to be folded when the graph is loaded.
    """

    def __init__(self, model: AnyClassifier, *, reads_features: bool = False) -> None:
        super().__init__()
        self.reads_features = reads_features
        self.vit = encoder_of(model)
        self.fusion = model.fusion if isinstance(model, TwoViewClassifier) else None
        self.fused = model if isinstance(model, FusedClassifier) else None
        positions = self.vit.pos_embed.detach().clone()
        positions[:, :1] += self.vit.cls_token.detach()
        self.positions = nn.Parameter(positions)

    def forward(self, scene: Tensor, person: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits (N, C) of one or two views (N, 3, S, S), and if asked for what the head reads (N, D)."""
        features = self._features(scene, person)
        logits: Tensor = (self.vit if self.fused is None else self.fused).head(features)
        return (logits, features) if self.reads_features else logits

    def _features(self, scene: Tensor, person: Tensor | None) -> Tensor:
        pixels = scene if person is None else torch.cat([scene, person])
        tokens = F.pad(self.vit.patch_embed(pixels), (0, 0, 1, 0)) + self.positions
        encoded = self.vit.norm(self.vit.blocks(tokens))
        if self.fused is not None:
            tokens, count = encoded[:, 0], scene.shape[0]
            return self.fused.read_tokens(tokens[:count], None if person is None else tokens[count:])
        pooled: Tensor = self.vit.forward_head(encoded, pre_logits=True)
        if self.fusion is not None:
            pooled = self.fusion(pooled[: scene.shape[0]], pooled[scene.shape[0] :])
        return pooled


def _without_adaptive(model: nn.Module) -> nn.Module:
    """Return a CLIP or timm's model whose average over all pixels is a mean: that needs no loop over images."""
    model = copy.deepcopy(model)
    pools = [(part, name) for part in model.modules() for name, pool in part.named_children() if _takes_mean(pool)]
    for part, name in pools:
        setattr(part, name, _Mean())
    return model


def _takes_mean(module: nn.Module) -> bool:
    return isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1))


class _Mean(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.mean(dim=(2, 3), keepdim=True)


def write_onnx(
    model: AnyClassifier, facts: ModelFacts, path: Path, *, opset: int, reads_features: bool = False
) -> None:
    """Write a classifier on the CPU as one ONNX file for any number of images, with its facts in the metadata.

    `reads_features` adds a second output, what the head reads; only of our own encoders.
    """
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
            _without_adaptive(model).eval()
            if facts.size is None
            else _Plain(model, reads_features=reads_features).eval(),
            examples,
            dynamo=True,
            input_names=list(names),
            output_names=[OUTPUT_NAME, *([FEATURES_OUTPUT] if reads_features else [])],
            dynamic_shapes=({0: torch.export.Dim("N", min=1, max=2**16)},) * len(names),
            opset_version=opset,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    # What the graph reads goes with it, so that the file alone is enough.
    metadata = {"classifier": facts.to_dict(), "preparation": preparation_of(facts)}
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
