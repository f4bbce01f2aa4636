"""The classifier: a plain vision transformer, mean over patches, norm, linear head (He et al. 2022, section A.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from uniemox.models.encoder import build_vit, grid_size, resample_positions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from timm.models.vision_transformer import VisionTransformer

    from uniemox.config import EncoderSize


def build_classifier(
    size: EncoderSize,
    *,
    patch_size: int,
    image_size: int,
    num_classes: int,
    drop_path: float = 0.0,
    head_std: float = 2e-5,
) -> VisionTransformer:
    """Build a classifier with random weights; the head starts near 0.

    Args:
        size: Size of the encoder.
        patch_size: Side of a patch in pixels.
        image_size: Side of the picture in pixels.
        num_classes: Number of emotions.
        drop_path: Probability of skipping the last block in training.
        head_std: Standard deviation of the head's first weights.
    """
    vit = build_vit(
        size,
        patch_size=patch_size,
        image_size=image_size,
        num_classes=num_classes,
        drop_path=drop_path,
    )
    nn.init.trunc_normal_(vit.head.weight, std=head_std)
    nn.init.zeros_(vit.head.bias)
    return vit


@torch.no_grad()
def start_from_encoder(classifier: VisionTransformer, encoder: Mapping[str, Tensor]) -> None:
    """Copy a pretrained encoder's weights into a classifier.

    Positions are resampled where the picture has another size. The encoder's final norm is left behind: the classifier
    normalises the mean of the patches by a norm of its own, which starts fresh, as does the head.

    Args:
        classifier: Model to fill.
        encoder: State of an encoder (or of another classifier) of the same size and patch, by timm's names.

    Raises:
        KeyError: There are no positions, `pos_embed`.
        RuntimeError: Another name or a shape does not fit; torch names them.
    """
    state = {name: tensor for name, tensor in encoder.items() if not name.startswith("norm.")}
    state["pos_embed"] = resample_positions(state["pos_embed"], grid=grid_size(classifier))
    own = classifier.state_dict()
    fresh = {name: own[name] for name in own if name.startswith(("fc_norm.", "head."))}
    classifier.load_state_dict(state | fresh)
