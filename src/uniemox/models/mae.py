"""Hiding patches, and the decoder that predicts them (He et al. 2022).

Letters of shapes: `B` batch, `N` patches, `K` visible patches, `P` numbers of a patch, `W` width of the decoder.
"""

from functools import partial
from typing import NamedTuple

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from uniemox.models.encoder import fill_like_mae, sincos_positions

_norm = partial(nn.LayerNorm, eps=1e-6)


class Hiding(NamedTuple):
    """Which patches the encoder sees."""

    visible: Tensor  # (B, K) indices of the patches that are seen
    hidden: Tensor  # (B, N) bool, true where the encoder did not see


def num_visible(num_patches: int, ratio: float) -> int:
    """Patches that stay visible: int(N (1 − ratio)) in floating point, as MAE rounds (19 of 196 at 0.9, 9 of 100)."""
    return int(num_patches * (1 - ratio))


def hide(noise: Tensor, ratio: float) -> Hiding:
    """Hide a share of the patches: those with the largest noise.

    Args:
        noise: (B, N), one number for each patch; passing it makes a masked forward reproducible.
        ratio: Share to hide, in [0, 1).
    """
    keep = num_visible(noise.shape[1], ratio)
    visible = noise.argsort(dim=1)[:, :keep]
    hidden = torch.ones_like(noise, dtype=torch.bool).scatter(1, visible, False)
    return Hiding(visible, hidden)


class Decoder(nn.Module):
    """Predicts the pixels of every patch from the visible ones."""

    def __init__(self, *, width: int, depth: int, num_heads: int, grid: int, patch_size: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(sincos_positions(width, grid), requires_grad=False)
        self.blocks = nn.ModuleList(Block(width, num_heads, qkv_bias=True, norm_layer=_norm) for _ in range(depth))
        self.norm = _norm(width)
        self.pred = nn.Linear(width, patch_size**2 * 3)
        fill_like_mae(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Predict all patches.

        Args:
            tokens: (B, 1 + K, W), class token first, already of the decoder's width.
            visible: (B, K), where the tokens belong.

        Returns:
            (B, N, P) in the order of `patchify`.
        """
        width = tokens.shape[-1]
        num_patches = self.pos_embed.shape[1] - 1
        empty = self.mask_token.to(tokens.dtype).expand(tokens.shape[0], num_patches, -1)
        place = visible.unsqueeze(-1).expand(-1, -1, width)
        patches = empty.scatter(1, place, tokens[:, 1:])
        x = torch.cat([tokens[:, :1], patches], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        prediction: Tensor = self.pred(self.norm(x)[:, 1:])
        return prediction
