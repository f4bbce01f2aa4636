"""The classifier: a vision transformer, its tokens pooled, a linear head.

The mean over patches with a norm of its own is MAE's and the released one (He et al. 2022, section A.1). For two views
the same encoder reads both, and a fusion comes before the head. `FusedClassifier` keeps pretraining's fusion instead.
"""

from collections.abc import Mapping
from typing import TypeAlias

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from uniemox.config.training import EncoderSize, FusedBy, Pool
from uniemox.models.encoder import build_vit, grid_size, resample_positions
from uniemox.models.fused import FusedClassifier
from uniemox.models.fusion import build_fusion
from uniemox.models.zero_shot import ClipClassifier


class TwoViewClassifier(nn.Module):
    """One encoder on scene and person, their fusion, a linear head.

    α and β are what the head of the plain classifier would read: the pooled tokens of each view. The fusion is not
    pretraining's, for that one fuses class tokens after a projection (DECISIONS 55).

    Args:
        classifier: The encoder with its pooling and its head, as `build_classifier` makes it.
        fusion: How both views become one embedding.
    """

    def __init__(self, classifier: VisionTransformer, fusion: FusedBy) -> None:
        super().__init__()
        self.encoder = classifier
        self.fusion = build_fusion(fusion, classifier.head.in_features)

    def forward(self, scene: Tensor, person: Tensor) -> Tensor:
        """Compute logits (B, C) of two views (B, 3, H, W), encoded in one pass."""
        logits: Tensor = self.encoder.head(self.features(scene, person))
        return logits

    def features(self, scene: Tensor, person: Tensor) -> Tensor:
        """Compute what the head reads of two views (B, 3, H, W): (B, D)."""
        tokens = self.encoder.forward_features(torch.cat([scene, person]))
        alpha, beta = self.encoder.forward_head(tokens, pre_logits=True).chunk(2)
        fused: Tensor = self.fusion(alpha, beta)
        return fused

    def no_weight_decay(self) -> set[str]:
        """Name the weights without weight decay, as timm asks a model."""
        return {f"encoder.{name}" for name in self.encoder.no_weight_decay()}


AnyClassifier: TypeAlias = VisionTransformer | TwoViewClassifier | FusedClassifier | ClipClassifier


def encoder_of(model: AnyClassifier) -> VisionTransformer:
    """Return the encoder of a classifier of ours, which for one view is the model itself."""
    assert not isinstance(model, ClipClassifier)
    return model if isinstance(model, VisionTransformer) else model.encoder


def head_of(model: AnyClassifier) -> nn.Linear:
    """Return the last layer of a classifier."""
    head: nn.Linear = model.encoder.head if isinstance(model, TwoViewClassifier) else model.head
    return head


def read_features(model: AnyClassifier, *views: Tensor) -> tuple[Tensor, Tensor]:
    """Compute logits (B, C) of one view or two (B, 3, H, W), as the model does, and what its head reads (B, D)."""
    if isinstance(model, TwoViewClassifier | FusedClassifier | ClipClassifier):
        features = model.features(*views)
        return head_of(model)(features), features
    features = model.forward_head(model.forward_features(*views), pre_logits=True)
    return model.get_classifier()(features), features  # of all of timm's models the name of the layer


def build_classifier(
    size: EncoderSize,
    *,
    patch_size: int,
    image_size: int,
    num_classes: int,
    drop_path: float = 0.0,
    head_std: float = 2e-5,
    pool: Pool = "mean",
) -> VisionTransformer:
    """Build a classifier with random weights; the head starts near 0.

    Args:
        size: Size of the encoder.
        patch_size: Side of a patch in pixels.
        image_size: Side of the image in pixels.
        num_classes: Number of emotions.
        drop_path: Probability of skipping the last block in training.
        head_std: Standard deviation of the head's first weights.
        pool: What the head reads, as `build_vit` has it.
    """
    shape = {"patch_size": patch_size, "image_size": image_size, "num_classes": num_classes}
    vit = build_vit(size, **shape, drop_path=drop_path, pool=pool)
    nn.init.trunc_normal_(vit.head.weight, std=head_std)
    nn.init.zeros_(vit.head.bias)
    return vit


@torch.no_grad()
def start_from_encoder(classifier: VisionTransformer, encoder: Mapping[str, Tensor]) -> None:
    """Copy a pretrained encoder's weights into a classifier.

    Positions are resampled where the image has another size. The head starts fresh, as does the norm of a classifier
    that normalises the mean of the patches by one of its own; others keep the encoder's final norm, where it has one.

    Args:
        classifier: Model to fill.
        encoder: State of an encoder (or of another classifier) of the same size and patch, by timm's names.

    Raises:
        KeyError: The state lacks positions, `pos_embed`.
        RuntimeError: Another name or a shape does not fit; torch names them.
    """
    own = classifier.state_dict()
    state = {name: tensor for name, tensor in encoder.items() if not name.startswith("norm.") or name in own}
    state["pos_embed"] = resample_positions(state["pos_embed"], grid=grid_size(classifier))
    fresh = ("fc_norm.", "head.") if "norm.weight" in state else ("fc_norm.", "head.", "norm.")
    classifier.load_state_dict(state | {name: own[name] for name in own if name.startswith(fresh)})


@torch.no_grad()
def start_from_pretraining(model: FusedClassifier, encoder: Mapping[str, Tensor], beside: Mapping[str, Tensor]) -> None:
    """Copy encoder, fusion and projection of a pretrained model, or of another fused classifier; the head stays.

    Args:
        model: Model to fill.
        encoder: State of the encoder, by timm's names; positions are resampled as in `start_from_encoder`.
        beside: State of what is beside it, by the names of `UniEmoX`; a decoder is not used.

    Raises:
        KeyError: The state lacks positions, `pos_embed`.
        RuntimeError: A name or a shape does not fit; torch names them.
    """
    positions = resample_positions(encoder["pos_embed"], grid=grid_size(model.encoder))
    state = {f"encoder.{name}": tensor for name, tensor in {**encoder, "pos_embed": positions}.items()}
    state |= {name: tensor for name, tensor in beside.items() if not name.startswith("decoder.")}
    head = {f"head.{name}": tensor for name, tensor in model.head.state_dict().items()}
    model.load_state_dict(state | head)
