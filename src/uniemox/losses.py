"""The three terms of the objective, as pure functions (Chen, Sun, Liu 2025).

Letters of shapes: `B` batch, `T` texts, `E` width of an embedding, `N` patches, `P` numbers of a patch.
All are computed in fp32, whatever the precision of the forward pass and of an autocast around them.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from uniemox.config.training import LossConfig


def contrast_loss(embedding: Tensor, image: Tensor, texts: Tensor) -> Tensor:
    """Distance of student and teacher in their similarity to all texts of the batch (L1).

    1 − mean_i cos(A_i, C_i) with A = s γ̂ Λ̂ᵀ and C = s Ω̂ Λ̂ᵀ, hats for L2 normalisation. The scale s of CLIP
    cancels in the cosine, so it is not asked for. There is no softmax and no cross-entropy: a row is compared
    as a whole, so the order of the texts does not matter.

    Args:
        embedding: γ, (B, E), of the student.
        image: Ω, (B, E), of the teacher.
        texts: Λ, (T, E), of the teacher; T = B in one process, all processes' texts in several.

    Returns:
        A scalar in [0, 2].
    """
    directions = F.normalize(texts.float(), dim=-1)
    with torch.autocast(embedding.device.type, enabled=False):  # it would take the products in bf16
        student = F.normalize(embedding.float(), dim=-1) @ directions.T  # (B, T)
        teacher = F.normalize(image.float(), dim=-1) @ directions.T
    return 1 - F.cosine_similarity(student, teacher, dim=-1).mean()


def similarity_loss(embedding: Tensor, image: Tensor) -> Tensor:
    """Cosine distance of the student's embedding to the teacher's image feature (L2).

    Args:
        embedding: γ, (B, E).
        image: Ω, (B, E).

    Returns:
        1 − mean_i cos(γ_i, Ω_i), a scalar in [0, 2].
    """
    return 1 - F.cosine_similarity(embedding.float(), image.float(), dim=-1).mean()


def reconstruction_loss(prediction: Tensor, target: Tensor, hidden: Tensor, *, normalized: bool = False) -> Tensor:
    """Mean squared error of the hidden patches (L3; He et al. 2022).

    Args:
        prediction: (B, N, P).
        target: (B, N, P), the image's own patches.
        hidden: (B, N) bool; the mean runs over the hidden patches alone.
        normalized: Whether each target patch is first brought to mean 0 and (unbiased) variance 1.

    Returns:
        A scalar ≥ 0, in squared units of the pixels given.
    """
    target = target.float()
    if normalized:
        mean = target.mean(dim=-1, keepdim=True)
        variance = target.var(dim=-1, keepdim=True)
        target = (target - mean) / (variance + 1e-6).sqrt()
    error = (prediction.float() - target).square().mean(dim=-1)  # (B, N)
    return (error * hidden).sum() / hidden.sum()


class PretrainLosses(NamedTuple):
    """The terms of one batch; a term that was not computed is None."""

    contrast: Tensor | None
    similarity: Tensor | None
    reconstruction: Tensor | None

    def total(self, weights: LossConfig) -> Tensor:
        """Sum the terms by their weights (released: 1 each)."""
        terms = self.computed()
        return sum(
            (getattr(weights, name) * term for name, term in terms.items()), next(iter(terms.values())).new_zeros(())
        )

    def computed(self) -> dict[str, Tensor]:
        """Name and value of each term that was computed."""
        return {name: term for name, term in self._asdict().items() if term is not None}
