"""Fusion of the scene's and the person's embedding into one.

Letters of shapes: `B` batch, `E` width of an embedding. α is the scene, β the person.
"""

from __future__ import annotations

from typing import Literal, assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SumFusion(nn.Module):
    """γ = ELU(W [LN(α) + LN(β)] + b), with one shared LayerNorm and a Xavier W: the released default."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.linear = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, scene: Tensor, person: Tensor) -> Tensor:
        """Fuse (B, E) and (B, E) into (B, E)."""
        return F.elu(self.linear(self.norm(scene) + self.norm(person)))


class ScaledSumFusion(nn.Module):
    """γ = W (λα + β) + b, with a learned scalar λ that starts at 1: the fusion that the paper's figure draws."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.linear = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, scene: Tensor, person: Tensor) -> Tensor:
        """Fuse (B, E) and (B, E) into (B, E)."""
        fused: Tensor = self.linear(self.scale * scene + person)
        return fused


def build_fusion(name: Literal["sum", "scaled_sum"], width: int) -> nn.Module:
    """Build a fusion by its name in the settings."""
    match name:
        case "sum":
            return SumFusion(width)
        case "scaled_sum":
            return ScaledSumFusion(width)
        case _:
            assert_never(name)
