"""Fusion of the scene's and the person's embedding into one.

Letters of shapes: `B` batch, `E` width of an embedding, `H` heads. α is the scene, β the person; α̂ and β̂ are their
LayerNorms, one norm for both. Several heads weigh the whole width side by side; they are not slices of it.

The names are those of the authors' code (arXiv 2409.18877). `sum` is its default and `scaled_sum` the paper's figure.
No formula of the others is published: ours are written to do what their names say (DECISIONS 54).
"""

from typing import Final, assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uniemox.config.training import FusedBy
from uniemox.models.encoder import fill_like_mae

NUM_HEADS: Final = 3  # Heads of `multihead_sum`, `attention` and `gated_mlp` (released)


class SumFusion(nn.Module):
    """γ = ELU(W [LN(α) + LN(β)] + b), with one shared LayerNorm and a Xavier W: the released default."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.linear = nn.Linear(width, width)
        fill_like_mae(self)

    def forward(self, scene: Tensor, person: Tensor) -> Tensor:
        """Fuse (B, E) and (B, E) into (B, E)."""
        return F.elu(self.linear(self.norm(scene) + self.norm(person)))


class ScaledSumFusion(nn.Module):
    """γ = W (λα + β) + b, with a learned scalar λ that starts at 1: the fusion that the paper's figure draws."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.linear = nn.Linear(width, width)
        fill_like_mae(self)

    def forward(self, scene: Tensor, person: Tensor) -> Tensor:
        """Fuse (B, E) and (B, E) into (B, E)."""
        fused: Tensor = self.linear(self.scale * scene + person)
        return fused


class MultiheadSumFusion(nn.Module):
    """γ = ELU(W [h₁ … h_H] + b) with h_k = u_k ∘ α̂ + v_k ∘ β̂: each head is a weighted sum of the views.

    u_k and v_k weigh every number of the width and start at 1, where this is H sums side by side.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.scene_weight = nn.Parameter(torch.ones(NUM_HEADS, width))
        self.person_weight = nn.Parameter(torch.ones(NUM_HEADS, width))
        self.linear = nn.Linear(NUM_HEADS * width, width)
        fill_like_mae(self)

    def forward(self, scene: Tensor, person: Tensor) -> Tensor:
        """Fuse (B, E) and (B, E) into (B, E)."""
        alpha, beta = self.norm(scene).unsqueeze(1), self.norm(person).unsqueeze(1)
        heads = self.scene_weight * alpha + self.person_weight * beta  # (B, H, E)
        return F.elu(self.linear(heads.flatten(1)))


class ViewAttention(nn.Module):
    """h_k = a_k α̂ + (1 − a_k) β̂, with (a_k, 1 − a_k) = softmax over the two views of Q_k m · (K_k α̂, K_k β̂) / √E.

    m = (α̂ + β̂) / 2 asks, and both views answer: dot-product attention (Vaswani et al. 2017, eq. 1) in each head, with
    the views themselves as values, since what follows is linear in them.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        # No biases: one of the keys adds the same to both views, and the softmax takes it out.
        self.query = nn.Linear(width, NUM_HEADS * width, bias=False)
        self.key = nn.Linear(width, NUM_HEADS * width, bias=False)

    def forward(self, scene: Tensor, person: Tensor) -> Tensor:
        """Weigh (B, E) and (B, E) into the heads (B, H · E)."""
        views = self.norm(torch.stack([scene, person], dim=1))  # (B, 2, E)
        heads: Tensor = self._weigh(views) @ views  # (B, H, E)
        return heads.flatten(1)

    def weights(self, scene: Tensor, person: Tensor) -> Tensor:
        """Compute the shares of scene and person in each head, (B, H, 2), which sum to 1 over the views."""
        return self._weigh(self.norm(torch.stack([scene, person], dim=1)))

    def _weigh(self, views: Tensor) -> Tensor:
        batch, _, width = views.shape
        query = self.query(views.mean(dim=1)).view(batch, NUM_HEADS, 1, width)
        key = self.key(views).view(batch, 2, NUM_HEADS, width).transpose(1, 2)
        scores = (query * key).sum(dim=-1) / width**0.5  # (B, H, 2)
        shares: Tensor = scores.softmax(dim=-1)
        return shares


class AttentionFusion(nn.Module):
    """γ = W [h₁ … h_H] + b over the heads of `ViewAttention`.

    The softmax of the released variant of this name runs over a dimension of size one, so that its weights are always
    1; here the two views are weighed against each other.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = ViewAttention(width)
        self.linear = nn.Linear(NUM_HEADS * width, width)
        fill_like_mae(self)

    def forward(self, scene: Tensor, person: Tensor) -> Tensor:
        """Fuse (B, E) and (B, E) into (B, E)."""
        fused: Tensor = self.linear(self.attention(scene, person))
        return fused


class GatedMlpFusion(nn.Module):
    """γ = W₂ [(W₁ h + b₁) ∘ σ(W_g h + b_g)] + b₂ with h = [h₁ … h_H], the heads of `ViewAttention`.

    An MLP whose activation is a gated linear unit (Dauphin et al. 2017, eq. 1).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = ViewAttention(width)
        self.value_and_gate = nn.Linear(NUM_HEADS * width, 2 * width)
        self.linear = nn.Linear(width, width)
        fill_like_mae(self)

    def forward(self, scene: Tensor, person: Tensor) -> Tensor:
        """Fuse (B, E) and (B, E) into (B, E)."""
        gated = F.glu(self.value_and_gate(self.attention(scene, person)))
        fused: Tensor = self.linear(gated)
        return fused


class BilinearFusion(nn.Module):
    """γ = P [(U α̂ + b_U) ∘ (V β̂ + b_V)] + b, of rank E / 2: the full model of Kim et al. 2017.

    The biases of both factors start at 1, so that the product has the views themselves in it besides their products.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        rank = max(1, width // 2)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.scene_factor = nn.Linear(width, rank)
        self.person_factor = nn.Linear(width, rank)
        self.linear = nn.Linear(rank, width)
        fill_like_mae(self)
        nn.init.ones_(self.scene_factor.bias)
        nn.init.ones_(self.person_factor.bias)

    def forward(self, scene: Tensor, person: Tensor) -> Tensor:
        """Fuse (B, E) and (B, E) into (B, E)."""
        factors = self.scene_factor(self.norm(scene)) * self.person_factor(self.norm(person))
        fused: Tensor = self.linear(factors)
        return fused


@torch.no_grad()
def start_as_mean(fusion: nn.Module) -> None:
    """Let a fusion start as the mean of the normed views (`sum` and `multihead_sum`: as its ELU), where its form can.

    A classifier with a trained encoder then starts from what its head would read of one view, instead of from a random
    mixture (DECISIONS 60). `bilinear`, of half the rank, cannot, and stays as it is.
    """
    match fusion:
        case SumFusion() | ScaledSumFusion():
            _repeat_identity(fusion.linear.weight, share=0.5)
        case MultiheadSumFusion():
            _repeat_identity(fusion.linear.weight, share=0.5 / NUM_HEADS)
        case AttentionFusion():
            _repeat_identity(fusion.linear.weight, share=1 / NUM_HEADS)
        case GatedMlpFusion():
            width = fusion.linear.out_features
            fusion.value_and_gate.weight[width:].zero_()  # a gate of one half for everything
            _repeat_identity(fusion.linear.weight, share=2)
            _repeat_identity(fusion.value_and_gate.weight[:width], share=1 / NUM_HEADS)


def _repeat_identity(weight: Tensor, *, share: float) -> None:
    """Fill a weight (E, H · E) with identities [I … I] times a share."""
    width = len(weight)
    weight.copy_(share * torch.eye(width).repeat(1, weight.shape[1] // width))


def build_fusion(name: FusedBy, width: int) -> nn.Module:
    """Build a fusion by its name in the settings."""
    match name:
        case "sum":
            return SumFusion(width)
        case "scaled_sum":
            return ScaledSumFusion(width)
        case "multihead_sum":
            return MultiheadSumFusion(width)
        case "attention":
            return AttentionFusion(width)
        case "gated_mlp":
            return GatedMlpFusion(width)
        case "bilinear":
            return BilinearFusion(width)
        case _:
            assert_never(name)
