"""Zero-shot classification: an image tower of CLIP, and a head of text features (Radford et al. 2021, section 3.1).

Letters of shapes: `B` images, `C` classes, `E` width of the embedding, `S` side of the image in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from uniemox.models.teacher import Teacher  # open_clip takes seconds to import


class ClipClassifier(nn.Module):
    """An image tower of CLIP with a linear head on the unit sphere.

    Args:
        tower: Maps normalised images (B, 3, S, S) to features (B, E).
        width: E.
        num_classes: C.
    """

    def __init__(self, tower: nn.Module, *, width: int, num_classes: int) -> None:
        super().__init__()
        self.tower = tower
        self.head = nn.Linear(width, num_classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute logits (B, C) float32 of images (B, 3, S, S), in the arithmetic of the tower."""
        with torch.autocast(pixels.device.type, enabled=False):
            logits: Tensor = self.head(self.features(pixels))
        return logits

    def features(self, pixels: Tensor) -> Tensor:
        """Compute what the head reads of images (B, 3, S, S): CLIP's features (B, E), of length 1, in float32."""
        dtype = next(self.tower.parameters()).dtype
        with torch.autocast(pixels.device.type, enabled=False):
            features = self.tower(pixels.to(dtype))
        pooled = features[0] if isinstance(features, tuple) else features  # some towers return their tokens too
        return F.normalize(pooled.float())


def ensemble(teacher: Teacher, prompts: Mapping[str, Sequence[str]]) -> Tensor:
    """Compute a text feature of length 1 for each class, (C, E) float32 on the CPU.

    As CLIP's authors do for ImageNet, the features of a class's prompts are normalised, averaged and normalised again
    (Radford et al. 2021, section 3.1.4, and their notebook `Prompt_Engineering_for_ImageNet`).
    """
    texts = list(dict.fromkeys(text for of_class in prompts.values() for text in of_class))
    features = dict(zip(texts, F.normalize(teacher.encode_texts(texts)), strict=True))
    means = [torch.stack([features[text] for text in of_class]).mean(dim=0) for of_class in prompts.values()]
    return F.normalize(torch.stack(means))
