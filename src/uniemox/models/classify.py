"""The classifier: a plain vision transformer, mean over patches, norm, linear head (He et al. 2022, section A.1).

For two views the same encoder reads both, and a fusion comes before the head.
"""

from collections.abc import Mapping

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from uniemox.config.training import EncoderSize, FusedBy
from uniemox.models.encoder import build_vit, grid_size, resample_positions
from uniemox.models.fusion import build_fusion


class TwoViewClassifier(nn.Module):
    """One encoder on scene and person, their fusion, a linear head.

    α and β are what the head of the plain classifier would read: the normed mean over the patches of each view. The
    fusion is not pretraining's, for that one fuses class tokens after a projection (DECISIONS 55).

    Args:
        classifier: The encoder with its `fc_norm` and its head, as `build_classifier` makes it.
        fusion: How both views become one embedding.
    """

    def __init__(self, classifier: VisionTransformer, fusion: FusedBy) -> None:
        super().__init__()
        self.encoder = classifier
        self.fusion = build_fusion(fusion, classifier.embed_dim)

    def forward(self, scene: Tensor, person: Tensor) -> Tensor:
        """Compute logits (B, C) of two views (B, 3, H, W), encoded in one pass."""
        tokens = self.encoder.forward_features(torch.cat([scene, person]))
        alpha, beta = self.encoder.forward_head(tokens, pre_logits=True).chunk(2)
        logits: Tensor = self.encoder.head(self.fusion(alpha, beta))
        return logits

    def no_weight_decay(self) -> set[str]:
        """Name the weights without weight decay, as timm asks a model."""
        return {f"encoder.{name}" for name in self.encoder.no_weight_decay()}


def plain_classifier(model: VisionTransformer | TwoViewClassifier) -> VisionTransformer:
    """Return the part of a classifier with the encoder and the head: of one view, the model itself."""
    return model.encoder if isinstance(model, TwoViewClassifier) else model


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
        image_size: Side of the image in pixels.
        num_classes: Number of emotions.
        drop_path: Probability of skipping the last block in training.
        head_std: Standard deviation of the head's first weights.
    """
    vit = build_vit(size, patch_size=patch_size, image_size=image_size, num_classes=num_classes, drop_path=drop_path)
    nn.init.trunc_normal_(vit.head.weight, std=head_std)
    nn.init.zeros_(vit.head.bias)
    return vit


@torch.no_grad()
def start_from_encoder(classifier: VisionTransformer, encoder: Mapping[str, Tensor]) -> None:
    """Copy a pretrained encoder's weights into a classifier.

    Positions are resampled where the image has another size. The encoder's final norm is not copied: the classifier
    normalises the mean of the patches by a norm of its own, which starts fresh, as does the head.

    Args:
        classifier: Model to fill.
        encoder: State of an encoder (or of another classifier) of the same size and patch, by timm's names.

    Raises:
        KeyError: The state lacks positions, `pos_embed`.
        RuntimeError: Another name or a shape does not fit; torch names them.
    """
    state = {name: tensor for name, tensor in encoder.items() if not name.startswith("norm.")}
    state["pos_embed"] = resample_positions(state["pos_embed"], grid=grid_size(classifier))
    own = classifier.state_dict()
    fresh = {name: own[name] for name in own if name.startswith(("fc_norm.", "head."))}
    classifier.load_state_dict(state | fresh)
