"""The encoder and the classifier against timm's own forward pass on the same weights."""

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed

from uniemox.models.classify import build_classifier
from uniemox.models.encoder import build_vit, encode_visible, resample_positions

# Worst difference measured in fp32 is 3.1e-6 on tokens of up to 4: a matrix product stands for a convolution.
TOLERANCE = {"rtol": 0, "atol": 1e-5}

# With the head of 1000 classes: the counts that timm's model cards and Dosovitskiy et al. 2021 state (5.7, 22, 86, 304,
# 632 million).
PUBLISHED = {
    "tiny": ("vit_tiny_patch16_224", 16, 5_717_416),
    "small": ("vit_small_patch16_224", 16, 22_050_664),
    "base": ("vit_base_patch16_224", 16, 86_567_656),
    "large": ("vit_large_patch16_224", 16, 304_326_632),
    "huge": ("vit_huge_patch14_224", 14, 632_045_800),
}


def build(image_size, side):
    torch.manual_seed(0)
    vit = build_vit("mini", patch_size=side, image_size=image_size).eval()
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        vit.pos_embed.normal_()
        vit.cls_token.normal_()
    return vit


def pictures(size):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("size", "side"), [(32, 8), (48, 16), (56, 14)])
@torch.no_grad()
def test_seeing_all_patches_equals_timms_forward_pass(size, side):
    vit, images = build(size, side), pictures(size)
    everything = torch.arange((size // side) ** 2).expand(2, -1)
    torch.testing.assert_close(encode_visible(vit, images, everything), vit.forward_features(images), **TOLERANCE)


@pytest.mark.parametrize(("size", "side"), [(32, 8), (48, 16), (56, 14)])
@torch.no_grad()
def test_seeing_some_patches_equals_timms_blocks_on_their_tokens(size, side):
    vit, images = build(size, side), pictures(size)
    noise = torch.rand(2, (size // side) ** 2, generator=torch.Generator().manual_seed(2))
    visible = noise.argsort(dim=1)[:, :4]
    embedded = vit._pos_embed(vit.patch_embed(images))
    places = [[0, *(1 + n for n in ids)] for ids in visible.tolist()]
    seen = torch.stack([row[torch.tensor(p)] for row, p in zip(embedded, places, strict=True)])
    expected = vit.norm(vit.blocks(seen))
    torch.testing.assert_close(encode_visible(vit, images, visible), expected, **TOLERANCE)


@pytest.mark.parametrize("grid", [2, 3, 7, 14])
def test_positions_are_resampled_as_timm_does(grid):
    positions = torch.randn(1, 17, 12, generator=torch.Generator().manual_seed(0))
    expected = resample_abs_pos_embed(positions, new_size=[grid, grid], num_prefix_tokens=1)
    assert torch.equal(resample_positions(positions, grid=grid), expected)


@pytest.mark.parametrize("size", PUBLISHED)
def test_sizes_are_timms_and_have_the_published_numbers_of_parameters(size):
    name, side, count = PUBLISHED[size]
    with torch.device("meta"):
        ours = build_vit(size, patch_size=side, image_size=224, num_classes=1000)
        theirs = timm.create_model(name, num_classes=1000, global_pool="avg")
    assert sum(parameter.numel() for parameter in ours.parameters()) == count
    assert shapes(ours) == shapes(theirs)
    assert ours.pretrained_cfg["architecture"] == name  # a saved folder names it
    for mine, other in zip(ours.blocks, theirs.blocks, strict=True):
        assert mine.attn.num_heads == other.attn.num_heads


def test_an_encoder_and_a_classifier_have_timms_names():
    shape = {"patch_size": 16, "image_size": 224}
    with torch.device("meta"):
        pairs = [
            (build_vit("tiny", **shape), {"num_classes": 0}),
            (build_classifier("tiny", num_classes=8, **shape), {"num_classes": 8, "global_pool": "avg"}),
        ]
        for ours, settings in pairs:
            theirs = timm.create_model("vit_tiny_patch16_224", **settings)
            assert shapes(ours) == shapes(theirs)


def shapes(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
