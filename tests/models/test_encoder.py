import math
from contextlib import nullcontext

import pytest
import torch
from timm.models.vision_transformer import Attention
from torch import nn

from uniemox.models.encoder import (
    build_vit,
    checkpoint_activations,
    encode_visible,
    explicit_attention,
    fill_like_mae,
    grid_size,
    patch_size,
    patchify,
    resample_positions,
    sincos_positions,
    unpatchify,
)
from uniemox.models.mae import Decoder


def build(*, image_size=32, side=8):
    """A small encoder with weights, positions and class token far from 0, so that each of them counts."""
    torch.manual_seed(0)
    vit = build_vit("mini", patch_size=side, image_size=image_size).eval()
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        vit.pos_embed.normal_()
        vit.cls_token.normal_()
    return vit


def pictures(batch=2, size=32, seed=1):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_patchify_runs_over_rows_columns_then_channels():
    images = torch.arange(2 * 3 * 4 * 6).float().reshape(2, 3, 4, 6)  # 2 × 3 patches of 2 × 2 pixels
    patches = patchify(images, 2)
    assert patches.shape == (2, 6, 12)
    for b in range(2):
        for n in range(6):
            numbers = iter(patches[b, n].tolist())
            for y in range(2):
                for x in range(2):
                    for c in range(3):
                        assert next(numbers) == images[b, c, n // 3 * 2 + y, n % 3 * 2 + x]


@pytest.mark.parametrize(("size", "side"), [(32, 8), (48, 16), (224, 14), (6, 1), (5, 5)])
def test_unpatchify_is_the_inverse_of_patchify(size, side):
    images = pictures(size=size)
    patches = patchify(images, side)
    assert torch.equal(unpatchify(patches, side), images)
    assert torch.equal(patchify(unpatchify(patches, side), side), patches)


@pytest.mark.parametrize(("width", "grid"), [(4, 3), (32, 4), (12, 1)])
def test_positions_are_sines_and_cosines_of_column_then_row(width, grid):
    quarter = width // 4
    expected = [[0.0] * width]
    for row in range(grid):
        for column in range(grid):
            numbers = []
            for place in (column, row):
                angles = [place / 10000 ** (i / quarter) for i in range(quarter)]
                numbers += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            expected.append(numbers)
    positions = sincos_positions(width, grid)
    assert positions.dtype == torch.float32
    torch.testing.assert_close(positions, torch.tensor([expected]), rtol=0, atol=1e-7)


def test_pixels_of_hidden_patches_do_not_change_the_tokens():
    vit, images = build(), pictures()
    visible = torch.tensor([[0, 5, 14], [3, 2, 8]])
    patches = patchify(images, 8)
    other = torch.full_like(patches, 1e6)
    place = visible.unsqueeze(-1).expand(-1, -1, patches.shape[-1])
    changed = unpatchify(other.scatter(1, place, patches.gather(1, place)), 8)
    assert torch.equal(encode_visible(vit, changed, visible), encode_visible(vit, images, visible))


def test_each_visible_patch_changes_the_class_token():
    vit, images = build(), pictures(batch=1)
    visible = torch.tensor([[1, 6, 11]])
    before = encode_visible(vit, images, visible)[:, 0]
    for index in visible[0]:
        patches = patchify(images, 8)
        patches[:, index] += 1
        after = encode_visible(vit, unpatchify(patches, 8), visible)[:, 0]
        assert (after - before).abs().max() > 1e-3


def test_the_same_patch_at_another_place_gives_another_token():
    vit, images = build(), torch.ones(1, 3, 32, 32)  # all patches look alike
    tokens = encode_visible(vit, images, torch.tensor([[4, 9]]))
    assert (tokens[0, 1] - tokens[0, 2]).abs().max() > 1e-3


def test_tokens_follow_the_order_of_the_visible_ids():
    vit, images = build(), pictures(batch=1)
    tokens = encode_visible(vit, images, torch.tensor([[2, 7, 13]]))
    turned = encode_visible(vit, images, torch.tensor([[13, 2, 7]]))
    torch.testing.assert_close(turned, tokens[:, [0, 3, 1, 2]], rtol=0, atol=1e-5)


def test_pictures_of_another_size_than_the_encoders_are_refused():
    with pytest.raises(AssertionError, match="images of another size"):
        encode_visible(build(), pictures(size=40), torch.tensor([[0], [1]]))


@pytest.mark.parametrize(("size", "side", "grid"), [(32, 8, 4), (48, 16, 3), (224, 14, 16)])
def test_grid_and_patch_are_those_asked_for(size, side, grid):
    with torch.device("meta"):
        vit = build_vit("mini", patch_size=side, image_size=size)
    assert grid_size(vit) == grid
    assert patch_size(vit) == side
    assert vit.pos_embed.shape == (1, 1 + grid * grid, 128)


def test_the_smallest_size_has_the_shape_of_its_table_row():  # the others equal timm's, in parity
    vit = build_vit("mini", patch_size=16, image_size=32)
    heads = {block.attn.num_heads for block in vit.blocks}
    assert (vit.embed_dim, len(vit.blocks), heads) == (128, 6, {4})
    norms = [part for part in vit.modules() if isinstance(part, nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-6}


def test_blocks_are_skipped_more_often_the_later_they_come():
    vit = build_vit("mini", patch_size=16, image_size=32, drop_path=0.2)
    chances = [getattr(block.drop_path1, "drop_prob", 0.0) for block in vit.blocks]
    assert chances == pytest.approx([0, 0.04, 0.08, 0.12, 0.16, 0.2])


def test_resampling_keeps_the_class_token_and_the_layout():
    grid = torch.linspace(0, 1, 4)
    ramp = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), dim=-1).reshape(1, 16, 2)
    positions = torch.cat([torch.tensor([[[7.0, -7.0]]]), ramp], dim=1)
    larger = resample_positions(positions, grid=8)
    assert larger.shape == (1, 65, 2)
    assert torch.equal(larger[:, 0], positions[:, 0])
    rows, columns = larger[0, 1:].reshape(8, 8, 2).unbind(-1)
    assert (rows.diff(dim=0) > 0).all()  # the first number tells the row, before and after
    assert (columns.diff(dim=1) > 0).all()
    torch.testing.assert_close(rows, columns.T)


def test_resampling_to_the_same_grid_changes_nothing():
    positions = torch.randn(1, 17, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resample_positions(positions, grid=4), positions)


def test_first_weights_are_xavier_with_biases_0_and_plain_norms():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 32), nn.LayerNorm(32), nn.Linear(32, 8, bias=False))
    for parameter in module.parameters():
        nn.init.constant_(parameter, 9.0)
    fill_like_mae(module)
    for linear in (module[0], module[2]):
        bound = math.sqrt(6 / sum(linear.weight.shape))  # Glorot & Bengio 2010, eq. 16
        assert 0.9 * bound < linear.weight.abs().max() <= bound
        assert linear.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15)
    assert not module[0].bias.any()
    assert torch.equal(module[1].weight, torch.ones(32))
    assert not module[1].bias.any()


# Activation checkpointing


def gradients(module, *inputs):
    """Run in training mode with drop path and dropout as they come; give the output and every gradient."""
    module.train()
    torch.manual_seed(3)
    module.zero_grad()
    kept = []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = module(*inputs)
    output.square().sum().backward()
    return output.detach(), {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}, kept


class Masked(nn.Module):
    """Encoder and decoder as pretraining runs them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.vit = build_vit("mini", patch_size=8, image_size=32, drop_path=0.5)
        self.decoder = Decoder(width=128, depth=2, num_heads=4, grid=4, patch_size=8)

    def forward(self, images, visible):
        return self.decoder(encode_visible(self.vit, images, visible), visible)


@pytest.mark.parametrize("kind", ["pretraining", "classifier"])
def test_checkpoints_change_no_bit_and_keep_less(kind):
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    visible = torch.rand(4, 16, generator=torch.Generator().manual_seed(2)).argsort(dim=1)[:, :8]
    if kind == "pretraining":
        inputs, module = (images, visible), Masked()
    else:
        torch.manual_seed(0)
        inputs, module = (images,), build_vit("mini", patch_size=8, image_size=32, num_classes=3, drop_path=0.5)
    plain, expected, all_kept = gradients(module, *inputs)
    checkpoint_activations(module)
    output, found, kept = gradients(module, *inputs)
    assert torch.equal(output, plain)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert sum(kept) < sum(all_kept) / 3


@pytest.mark.parametrize("bf16", [False, True])
def test_explicit_attention_computes_the_same_and_ends_with_its_block(bf16):
    torch.manual_seed(0)
    vit = build().train()
    images = torch.randn(2, 3, 32, 32)
    parts = [part for part in vit.modules() if isinstance(part, Attention)]
    found = []
    for attention in (nullcontext, lambda: explicit_attention(vit)):
        with attention(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            assert {part.fused_attn for part in parts} == {attention is nullcontext}
            output = vit.forward_features(images).float()
        gradient = torch.autograd.grad(output.square().sum(), vit.patch_embed.proj.weight)[0]
        found.append((output.detach(), gradient))
    assert all(part.fused_attn for part in parts)
    tolerance = {"rtol": 0.05, "atol": 0.1} if bf16 else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(found[0][0], found[1][0], **tolerance)
    similarity = torch.nn.functional.cosine_similarity(found[0][1].flatten(), found[1][1].flatten(), dim=0)
    assert similarity > (0.99 if bf16 else 0.99999)


def test_an_error_ends_explicit_attention_too():
    vit = build()
    with pytest.raises(ValueError, match="stop"), explicit_attention(vit):
        raise ValueError("stop")
    assert all(part.fused_attn for part in vit.modules() if isinstance(part, Attention))
