"""A classifier on the fused token: what pretraining distilled from CLIP, with a head that language can start.

The token lies in the teacher's space, so the text features of the classes are a head for it (Radford et al. 2021,
section 3.1.2). Before any training that is zero-shot classification; training then continues from there instead of
from a random head (Wortsman et al. 2022; Goyal et al. 2023).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uniemox.config.training import ModelConfig
from uniemox.models.pretrain import UniEmoX


class FusedClassifier(UniEmoX):
    """Encoder, fusion and projection of pretraining, nothing hidden, then a linear head on the unit sphere.

    Args:
        config: Shape of encoder and fusion.
        embedding_width: Width E of the teacher's embedding.
        num_classes: C, the outputs of the head.
        drop_path: Probability of skipping the encoder's last block in training.
    """

    def __init__(self, config: ModelConfig, *, embedding_width: int, num_classes: int, drop_path: float = 0.0) -> None:
        super().__init__(config, embedding_width=embedding_width, reconstructs=False, drop_path=drop_path)
        self.encoder.pos_embed.requires_grad_(True)  # as in every fine-tuning
        self.head = nn.Linear(embedding_width, num_classes)

    def forward(self, scene: Tensor, person: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Compute logits (B, C) of one or two views (B, 3, H, W); a scene alone stands for both."""
        logits: Tensor = self.head(self.features(scene, person))
        return logits

    def features(self, scene: Tensor, person: Tensor | None = None) -> Tensor:
        """Compute what the head reads of one or two views (B, 3, H, W): the token, of length 1 (B, E)."""
        return F.normalize(self.embed(scene, person))

    def read_tokens(self, scene: Tensor, person: Tensor | None = None) -> Tensor:
        """Compute what the head reads (B, E) of the class tokens (B, D) of both views, or of the scene for both."""
        return F.normalize(self.embed_tokens(scene, person))

    def no_weight_decay(self) -> set[str]:
        """Name the weights without weight decay, as timm asks a model."""
        return {f"encoder.{name}" for name in self.encoder.no_weight_decay()}


@torch.no_grad()
def start_from_texts(
    head: nn.Linear, texts: Tensor, scale: float, *, centred: bool = False, rows: Sequence[int] | None = None
) -> None:
    """Let a head compute scale · cos(embedding, text): CLIP's logits of zero-shot classification.

    Args:
        head: Linear layer (E → C) on normalised embeddings.
        texts: (C, E), a feature for each class, of any length.
        scale: Factor of the cosine, exp(logit_scale) of the teacher; divide it by a temperature, where there is one.
        centred: Whether the mean over the classes is taken off, which changes no softmax: all texts resemble each
            other, and what goes through a sigmoid must be near 0 for an image that resembles none.
        rows: Outputs of the head that the texts are for; None if for all. The others stay as they are.
    """
    texts = F.normalize(texts)
    places = list(range(len(texts)) if rows is None else rows)
    head.weight[places] = scale * (texts - texts.mean(dim=0) if centred else texts)
    head.bias[places] = 0
