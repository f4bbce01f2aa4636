from typing import get_args

import pytest
import torch
from torch.nn import functional as F

from uniemox.config.training import FusedBy
from uniemox.models.classify import (
    TwoViewClassifier,
    build_classifier,
    encoder_of,
    head_of,
    read_features,
    start_from_encoder,
)
from uniemox.models.encoder import build_vit, encode_visible, resample_positions


def classifier(*, image_size=32, side=8, seed=0, **more):
    torch.manual_seed(seed)
    return build_classifier("mini", patch_size=side, image_size=image_size, num_classes=6, **more)


def encoder(*, image_size=32, side=8, size="mini"):
    """An encoder with every weight away from its start."""
    torch.manual_seed(1)
    vit = build_vit(size, patch_size=side, image_size=image_size).eval()
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        vit.pos_embed.normal_()
    return vit


def pictures(size=32):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_logits_are_head_of_norm_of_mean_over_patches_without_the_class_token():
    model = classifier(head_std=0.5).eval()
    model.fc_norm.weight.uniform_(0.5, 2)
    model.fc_norm.bias.uniform_(-1, 1)
    model.head.bias.uniform_(-1, 1)
    images = pictures()
    tokens = model.blocks(model._pos_embed(model.patch_embed(images)))  # no norm before the mean
    mean = tokens[:, 1:].sum(dim=1) / 16
    normed = F.layer_norm(mean, (128,), model.fc_norm.weight, model.fc_norm.bias, 1e-6)
    expected = normed @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("std", [2e-5, 0.02])
def test_the_head_starts_at_its_deviation_without_bias(std):
    head = classifier(head_std=std).head
    assert head.weight.std().item() == pytest.approx(std, rel=0.1)  # 768 numbers
    assert abs(head.weight.mean().item()) < std / 5
    assert not head.bias.any()


@torch.no_grad()
def test_a_new_classifier_finds_all_classes_almost_equally_likely():
    probabilities = classifier().eval()(pictures()).softmax(dim=1)
    assert (probabilities - 1 / 6).abs().max() < 1e-3


def test_positions_are_learned_in_a_classifier():
    assert classifier().pos_embed.requires_grad


def test_drop_path_reaches_the_last_block():
    assert classifier(drop_path=0.3).blocks[-1].drop_path1.drop_prob == pytest.approx(0.3)


def test_starting_from_an_encoder_copies_everything_but_its_norm():
    model, vit = classifier(), encoder()
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start_from_encoder(model, vit.state_dict())
    state, given = model.state_dict(), vit.state_dict()
    own = {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    assert state.keys() - own == given.keys() - {"norm.weight", "norm.bias"}
    for name, tensor in state.items():
        expected = fresh[name] if name in own else given[name]
        assert torch.equal(tensor, expected), name
        assert name in own or not torch.equal(tensor, fresh[name]), name


@torch.no_grad()
def test_a_started_classifier_sees_what_the_encoder_saw():
    model, vit, images = classifier(head_std=0.5).eval(), encoder(), pictures()
    start_from_encoder(model, vit.state_dict())
    vit.norm = torch.nn.Identity()
    everything = torch.arange(16).expand(2, -1)
    mean = encode_visible(vit, images, everything)[:, 1:].mean(dim=1)
    expected = model.head(F.layer_norm(mean, (128,), eps=1e-6))
    torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-5)


def test_a_start_is_a_copy_and_leaves_the_given_weights_as_they_were():
    model, given = classifier(), encoder(image_size=48).state_dict()
    before = {name: tensor.clone() for name, tensor in given.items()}
    start_from_encoder(model, given)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert given.keys() == before.keys()
    assert all(torch.equal(given[name], before[name]) for name in before)


@pytest.mark.parametrize("size", [16, 48, 64])
@torch.no_grad()
def test_positions_are_resampled_for_pictures_of_another_size(size):
    model, vit = classifier(image_size=size).eval(), encoder()
    start_from_encoder(model, vit.state_dict())
    assert torch.equal(model.pos_embed, resample_positions(vit.pos_embed, grid=size // 8))
    assert model(pictures(size)).shape == (2, 6)


def test_a_trained_head_is_left_behind():
    trained = classifier(seed=1, head_std=1.0)
    with torch.no_grad():
        trained.fc_norm.weight.fill_(3)
    model = classifier()
    head = model.head.weight.clone()
    start_from_encoder(model, trained.state_dict())
    assert torch.equal(model.head.weight, head)
    assert torch.equal(model.fc_norm.weight, torch.ones(128))
    assert torch.equal(model.blocks[0].attn.qkv.weight, trained.blocks[0].attn.qkv.weight)


def test_a_missing_name_is_refused_by_that_name():
    given = encoder().state_dict()
    del given["blocks.3.mlp.fc1.weight"]
    with pytest.raises(RuntimeError, match=r"blocks\.3\.mlp\.fc1\.weight"):
        start_from_encoder(classifier(), given)


def test_missing_positions_are_refused_by_name():
    given = encoder().state_dict()
    del given["pos_embed"]
    with pytest.raises(KeyError, match="pos_embed"):
        start_from_encoder(classifier(), given)


def test_a_name_too_many_is_refused_by_that_name():
    given = encoder().state_dict() | {"blocks.6.norm1.weight": torch.ones(128)}
    with pytest.raises(RuntimeError, match=r"blocks\.6\.norm1\.weight"):
        start_from_encoder(classifier(), given)


def test_an_encoder_of_another_size_is_refused_by_the_first_shape():
    with pytest.raises(RuntimeError, match=r"cls_token.*1, 1, 192"):
        start_from_encoder(classifier(), encoder(size="tiny").state_dict())


def test_an_encoder_of_another_patch_is_refused_by_its_projection():
    with pytest.raises(RuntimeError, match=r"patch_embed\.proj\.weight"):
        start_from_encoder(classifier(), encoder(side=16).state_dict())


@pytest.mark.parametrize("numbers", [128, 192, 96])
@pytest.mark.parametrize("count", [12, 16, 18])
def test_positions_that_are_no_square_are_refused(count, numbers):
    given = encoder().state_dict() | {"pos_embed": torch.zeros(1, count, numbers)}
    with pytest.raises(RuntimeError, match=r"pos_embed|invalid for input"):
        start_from_encoder(classifier(), given)


# Two views


def two_views(fusion="sum"):
    return TwoViewClassifier(classifier(head_std=0.5), fusion).eval()


@pytest.mark.parametrize("fusion", get_args(FusedBy))
@torch.no_grad()
def test_logits_of_two_views_are_head_of_fusion_of_both_pooled_encodings(fusion):
    model = two_views(fusion)
    scene, person = pictures(), pictures().flip(3) + 1
    pooled = []
    for view in (scene, person):
        tokens = model.encoder.blocks(model.encoder._pos_embed(model.encoder.patch_embed(view)))
        pooled.append(F.layer_norm(tokens[:, 1:].mean(dim=1), (128,), eps=1e-6))
    fused = model.fusion(*pooled)
    expected = fused @ model.encoder.head.weight.T + model.encoder.head.bias
    torch.testing.assert_close(model(scene, person), expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_both_views_are_encoded_in_one_pass():
    model, seen = two_views(), []
    model.encoder.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    model(pictures(), pictures())
    assert seen == [(4, 17, 128)]


@torch.no_grad()
def test_each_view_changes_the_logits_of_its_own_picture_alone():
    model, scene, person = two_views("scaled_sum"), pictures(), pictures() + 1
    before = model(scene, person)
    for view in (0, 1):
        views = [scene.clone(), person.clone()]
        views[view][1] += pictures()[0]
        differs = (model(*views) - before).abs().amax(dim=1) > 1e-4
        assert differs.tolist() == [False, True]


@pytest.mark.parametrize("fusion", get_args(FusedBy))
def test_every_weight_of_two_views_gets_a_gradient(fusion):
    model = two_views(fusion).train()
    model(pictures(), pictures().flip(2)).square().sum().backward()
    assert [name for name, part in model.named_parameters() if part.grad is None] == []


def test_the_fusion_takes_no_draw_from_the_encoder():
    plain, both = classifier(), TwoViewClassifier(classifier(), "bilinear")
    for name, tensor in plain.state_dict().items():
        assert torch.equal(both.encoder.state_dict()[name], tensor), name
    assert (encoder_of(both), head_of(both)) == (both.encoder, both.encoder.head)
    assert (encoder_of(plain), head_of(plain)) == (plain, plain.head)


def test_positions_and_class_token_are_named_for_what_does_not_decay():
    model = two_views()
    own = {name for name, _ in model.named_parameters()}
    assert model.no_weight_decay() & own == {"encoder.pos_embed", "encoder.cls_token"}


# What the head reads


@pytest.mark.parametrize("pool", ["cls", "cls_mean"])
@torch.no_grad()
def test_a_head_on_the_class_token_reads_it_under_the_norm_of_pretraining(pool):
    vit, model = encoder(), classifier(pool=pool, head_std=0.5).eval()
    start_from_encoder(model, vit.state_dict())
    tokens = vit.forward_features(pictures())
    read = [tokens[:, 0], tokens[:, 1:].mean(dim=1)] if pool == "cls_mean" else [tokens[:, 0]]
    expected = torch.cat(read, dim=1) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(pictures()), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pool", ["cls", "cls_mean"])
@torch.no_grad()
def test_two_views_are_fused_from_what_the_head_reads(pool):
    plain = classifier(pool=pool, head_std=0.5)
    model = TwoViewClassifier(plain, "scaled_sum").eval()
    alpha, beta = (
        plain.forward_head(plain.forward_features(view), pre_logits=True) for view in (pictures(), -pictures())
    )
    expected = plain.head(model.fusion(alpha, beta))
    assert alpha.shape[1] == plain.embed_dim * (2 if pool == "cls_mean" else 1)
    torch.testing.assert_close(model(pictures(), -pictures()), expected, atol=1e-5, rtol=1e-5)


def test_a_start_without_the_final_norm_leaves_that_of_the_classifier_fresh():
    given = {name: part for name, part in encoder().state_dict().items() if not name.startswith("norm.")}
    model = classifier(pool="cls")
    start_from_encoder(model, given)
    assert torch.equal(model.norm.weight, torch.ones_like(model.norm.weight))
    assert torch.equal(model.blocks[0].norm1.weight, given["blocks.0.norm1.weight"])


def test_features_come_with_the_logits_that_the_model_gives_of_them():
    for model, views in ((classifier(), [pictures()]), (two_views(), [pictures(), pictures().flip(3)])):
        model.eval()
        with torch.no_grad():
            torch.nn.init.normal_(head_of(model).weight)
            logits, features = read_features(model, *views)
            assert torch.equal(logits, model(*views))
            assert torch.equal(head_of(model)(features), logits)
