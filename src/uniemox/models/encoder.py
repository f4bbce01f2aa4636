"""The encoder: timm's vision transformer, run on the patches that it may see.

Letters of shapes: `B` batch, `N` patches of an image, `K` visible patches, `P` numbers of a patch
(patch side² · 3), `D` width of the encoder.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import Attention, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from uniemox.config.training import ENCODER_SHAPES, EncoderSize, Pool

# timm's name of each size; width, depth and heads are passed on, so the name only has to exist.
_ARCHITECTURES: dict[EncoderSize, str] = {
    "mini": "vit_tiny_patch16_224",
    "tiny": "vit_tiny_patch16_224",
    "small": "vit_small_patch16_224",
    "base": "vit_base_patch16_224",
    "large": "vit_large_patch16_224",
    "huge": "vit_huge_patch14_224",
}


class ClassAndMean(VisionTransformer):  # type: ignore[misc]  # timm has no types
    """timm's vision transformer whose head reads the class token and the mean of the patches, side by side.

    Both are taken after the final norm, which is pretraining's. timm has no pooling of this kind.
    """

    def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:
        """Pool tokens (B, 1 + N, D) to (B, 2 D)."""
        return torch.cat([x[:, 0], x[:, 1:].mean(dim=1)], dim=1) if pool_type is None else super().pool(x, pool_type)


def build_vit(
    size: EncoderSize,
    *,
    patch_size: int,
    image_size: int,
    num_classes: int = 0,
    drop_path: float = 0.0,
    pool: Pool = "mean",
) -> VisionTransformer:
    """Build timm's vision transformer of a size, with random weights.

    Args:
        size: Width, depth and heads, from `ENCODER_SHAPES`.
        patch_size: Side of a patch in pixels.
        image_size: Side of the image in pixels, a multiple of the patch.
        num_classes: Outputs of the head. With 0, the model has no head and the final norm stays on all tokens, as in
            pretraining.
        drop_path: Probability of skipping the last block in training.
        pool: What the head reads. With `mean`, patches are averaged, then normalised by a norm of their own
            (`fc_norm`); with `cls` and `cls_mean`, the final norm is pretraining's.
    """
    shape = ENCODER_SHAPES[size]
    arguments = {
        "img_size": image_size,
        "patch_size": patch_size,
        "embed_dim": shape.width,
        "depth": shape.depth,
        "num_heads": shape.num_heads,
        "num_classes": num_classes,
        "global_pool": "avg" if num_classes and pool == "mean" else "token",
        "drop_path_rate": drop_path,
        # Without memory there is nothing to draw, and to draw it would import torch's compiler, a second of a start.
        "weight_init": "skip" if torch.get_default_device().type == "meta" else "",
    }
    if num_classes and pool == "cls_mean":
        vit = ClassAndMean(**arguments)
        vit.head = nn.Linear(2 * shape.width, num_classes)
        return vit
    return timm.create_model(_ARCHITECTURES[size], pretrained=False, **arguments)


def grid_size(vit: VisionTransformer) -> int:
    """Patches along a side of the image."""
    return int(vit.patch_embed.grid_size[0])


def patch_size(vit: VisionTransformer) -> int:
    """Side of a patch in pixels."""
    return int(vit.patch_embed.patch_size[0])


def patchify(images: Tensor, side: int) -> Tensor:
    """Cut images into patches, row by row.

    Args:
        images: (B, 3, H, W), H and W multiples of `side`.
        side: Side of a patch in pixels.

    Returns:
        (B, N, side² · 3); the numbers of a patch run over rows, columns, then channels
        (He et al. 2022, the order of MAE's weights).
    """
    batch, channels, height, width = images.shape
    rows, columns = height // side, width // side
    cut = images.reshape(batch, channels, rows, side, columns, side)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, side * side * channels)


def unpatchify(patches: Tensor, side: int) -> Tensor:
    """Put square images together again, the inverse of `patchify`.

    Args:
        patches: (B, N, side² · 3), N a square number.
        side: Side of a patch in pixels.

    Returns:
        (B, 3, √N · side, √N · side)
    """
    batch, count, _ = patches.shape
    grid = round(count**0.5)
    cut = patches.reshape(batch, grid, grid, side, side, 3)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(batch, 3, grid * side, grid * side)


def encode_visible(vit: VisionTransformer, images: Tensor, visible: Tensor) -> Tensor:
    """Embed and encode the visible patches alone.

    The patch projection is applied as a matrix product to those patches, so hidden ones cost nothing.

    Args:
        vit: Encoder with a class token and learned or fixed absolute positions.
        images: (B, 3, H, W), normalised.
        visible: (B, K), indices of the patches to see, in the order of `patchify`.

    Returns:
        (B, 1 + K, D), the class token first, after the final norm.
    """
    projection = vit.patch_embed.proj
    patches = patchify(images, patch_size(vit))
    assert patches.shape[1] == vit.patch_embed.num_patches, "images of another size"
    seen = patches.gather(1, visible.unsqueeze(-1).expand(-1, -1, patches.shape[-1]))
    weight = projection.weight.permute(0, 2, 3, 1).flatten(1)  # (D, P) in patchify's order
    tokens = F.linear(seen, weight, projection.bias)
    positions = vit.pos_embed[0, 1:][visible]
    class_token = (vit.cls_token + vit.pos_embed[:, :1]).expand(tokens.shape[0], -1, -1)
    tokens = torch.cat([class_token, tokens + positions], dim=1)
    encoded: Tensor = vit.norm(run_blocks(vit.blocks, tokens, checkpoints=vit.grad_checkpointing))
    return encoded


def run_blocks(blocks: Iterable[nn.Module], tokens: Tensor, *, checkpoints: bool) -> Tensor:
    """Run blocks one after the other on tokens (B, T, D); with checkpoints, only the tokens between them are kept.

    What is not kept is computed again in the backward pass, with the same random numbers (Chen et al. 2016).
    """
    for block in blocks:
        tokens = checkpoint(block, tokens, use_reentrant=False) if checkpoints else block(tokens)
    return tokens


def checkpoint_activations(module: nn.Module) -> None:
    """Let every encoder and decoder in a module keep only the tokens between its blocks for the backward pass."""
    for part in module.modules():
        if hasattr(part, "grad_checkpointing"):
            part.__dict__["grad_checkpointing"] = True  # timm's name


@contextmanager
def explicit_attention(module: nn.Module) -> Iterator[None]:
    """Attend by two products and a softmax within, the quickest way forwards and backwards in bf16 on a CPU.

    torch's fused attention is slow backwards there. Forwards alone, and in fp32, it is the quickest.
    """
    parts = [part for part in module.modules() if isinstance(part, Attention) and part.fused_attn]
    for part in parts:
        part.fused_attn = False
    try:
        yield
    finally:
        for part in parts:
            part.fused_attn = True


def sincos_positions(width: int, grid: int) -> Tensor:
    """Fixed two-dimensional positions (He et al. 2022, after Vaswani et al. 2017, section 3.5).

    The first half of the numbers encodes the column, the second half the row; the class token's are 0.

    Args:
        width: Numbers of a position, a multiple of 4.
        grid: Patches along a side of the image.

    Returns:
        (1, 1 + grid², width)
    """
    quarter = width // 4
    frequencies = 1.0 / 10000 ** (torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(grid, dtype=torch.float64).outer(frequencies)  # (grid, width / 4)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (grid, width / 2)
    columns = waves.unsqueeze(0).expand(grid, -1, -1)
    rows = waves.unsqueeze(1).expand(-1, grid, -1)
    patches = torch.cat([columns, rows], dim=-1).reshape(1, grid * grid, width)
    return torch.cat([torch.zeros(1, 1, width), patches.float()], dim=1)


def resample_positions(positions: Tensor, *, grid: int) -> Tensor:
    """Interpolate positions bicubically for another number of patches; the class token's stay.

    Args:
        positions: (1, 1 + N, D), N a square number.
        grid: Patches along a side of the new image.

    Returns:
        (1, 1 + grid², D)
    """
    resampled: Tensor = resample_abs_pos_embed(positions, new_size=[grid, grid], num_prefix_tokens=1)
    return resampled


def fill_like_mae(module: nn.Module) -> None:
    """Set the first weights as MAE does: Xavier for linear layers, 0 for biases, identity for norms."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
