"""Hiding patches, and the decoder that predicts them (He et al. 2022), all or a share of them (Fu et al. 2025).

Letters of shapes: `B` batch, `N` patches, `K` visible patches, `M` patches that are predicted, `P` numbers of a patch,
`W` width of the decoder.
"""

from functools import partial
from typing import NamedTuple

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from uniemox.models.encoder import fill_like_mae, run_blocks, sincos_positions

_norm = partial(nn.LayerNorm, eps=1e-6)


class Hiding(NamedTuple):
    """Which patches the encoder sees, and which the decoder predicts."""

    visible: Tensor  # (B, K) indices of the patches that are seen
    hidden: Tensor  # (B, N) bool, true where the encoder did not see
    decoded: Tensor | None = None  # (B, M) indices of the hidden patches that are predicted; None: every patch is


def num_visible(num_patches: int, ratio: float) -> int:
    """Patches that stay visible: int(N (1 − ratio)) in floating point, as MAE rounds (19 of 196 at 0.9, 9 of 100)."""
    return int(num_patches * (1 - ratio))


def hide(noise: Tensor, ratio: float, decode_share: float = 1.0) -> Hiding:
    """Hide a share of the patches, those with the largest noise, and choose those to predict, the least noisy of them.

    Args:
        noise: (B, N), one number for each patch; passing it makes a masked forward reproducible.
        ratio: Share to hide, in [0, 1).
        decode_share: Share of the hidden patches to predict, in (0, 1], and at least one patch; 1 predicts every patch.
    """
    keep = num_visible(noise.shape[1], ratio)
    order = noise.argsort(dim=1)
    visible, rest = order[:, :keep], order[:, keep:]
    hidden = torch.ones_like(noise, dtype=torch.bool).scatter(1, visible, False)
    if decode_share == 1:
        return Hiding(visible, hidden)
    return Hiding(visible, hidden, rest[:, : max(1, round(decode_share * rest.shape[1]))])


class Decoder(nn.Module):
    """Predicts the pixels of patches from the visible ones."""

    def __init__(self, *, width: int, depth: int, num_heads: int, grid: int, patch_size: int) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(sincos_positions(width, grid), requires_grad=False)
        self.blocks = nn.ModuleList(Block(width, num_heads, qkv_bias=True, norm_layer=_norm) for _ in range(depth))
        self.norm = _norm(width)
        self.pred = nn.Linear(width, patch_size**2 * 3)
        fill_like_mae(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, visible: Tensor, decoded: Tensor | None = None) -> Tensor:
        """Predict all patches, or some.

        Only the patches to predict, the visible ones and the class token attend to each other, so a share of the
        patches costs about that share of the work.

        Args:
            tokens: (B, 1 + K, W), class token first, already of the decoder's width.
            visible: (B, K), where the tokens belong.
            decoded: (B, M), the patches to predict; None for all of them, the visible ones included.

        Returns:
            (B, M, P) in the order of `decoded`, or (B, N, P) in that of `patchify`.
        """
        positions = self.pos_embed
        if decoded is None:
            empty = self.mask_token.to(tokens.dtype).expand(tokens.shape[0], positions.shape[1] - 1, -1)
            place = visible.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
            x = torch.cat([tokens[:, :1], empty.scatter(1, place, tokens[:, 1:])], dim=1) + positions
        else:
            shown = torch.cat([tokens[:, :1] + positions[:, :1], tokens[:, 1:] + positions[0, 1:][visible]], dim=1)
            x = torch.cat([shown, self.mask_token + positions[0, 1:][decoded]], dim=1)
        x = self.norm(run_blocks(self.blocks, x, checkpoints=self.grad_checkpointing))
        prediction: Tensor = self.pred(x[:, 1:] if decoded is None else x[:, -decoded.shape[1] :])
        return prediction
