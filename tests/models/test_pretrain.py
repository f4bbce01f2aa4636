import itertools
from typing import get_args

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from uniemox.config.training import FusedBy, Fusion, LossConfig, ModelConfig
from uniemox.losses import PretrainLosses, contrast_loss, reconstruction_loss, similarity_loss
from uniemox.models.encoder import encode_visible, patchify, sincos_positions, unpatchify
from uniemox.models.mae import hide
from uniemox.models.pretrain import UniEmoX

RATIO = 0.75
CONFIG = {
    "size": "mini",
    "patch_size": 8,
    "image_size": 32,
    "decoder_width": 24,
    "decoder_depth": 1,
    "decoder_heads": 4,
}
# (contrast, similarity, reconstruction), all but none at all.
OBJECTIVES = [weights for weights in itertools.product((1.0, 0.0), repeat=3) if any(weights)]


def build(*, embedding_width=24, reconstructs=True, **more):
    torch.manual_seed(0)
    config = ModelConfig(**CONFIG | more)
    return UniEmoX(config, embedding_width=embedding_width, reconstructs=reconstructs)


def inputs(batch=3, *, size=32, num_patches=16, seed=0):
    """Scene, person, and the noise of each."""
    generator = torch.Generator().manual_seed(seed)
    scene, person = torch.randn(2, batch, 3, size, size, generator=generator).unbind(0)
    scene_noise, person_noise = torch.rand(2, batch, num_patches, generator=generator).unbind(0)
    return scene, person, scene_noise, person_noise


def spoil_hidden(images, noise):
    """The same images with other pixels in every hidden patch."""
    patches, hidden = patchify(images, 8), hide(noise, RATIO).hidden
    return unpatchify(torch.where(hidden.unsqueeze(-1), 1e6, patches), 8)


def calls_of(module):
    """Shapes of the first input of each call of a module."""
    calls = []
    module.register_forward_hook(lambda _module, given, _result: calls.append(given[0].shape))
    return calls


@torch.no_grad()
def test_the_output_has_the_shapes_it_states():
    embedding, prediction, hiding, mean = build(embedding_width=40).eval()(*inputs(), RATIO)
    assert mean is None
    assert embedding.shape == (3, 40)
    assert prediction.shape == (3, 16, 192)
    assert hiding.visible.shape == (3, 4)
    assert torch.equal(hiding.hidden, hide(inputs()[2], RATIO).hidden)


@pytest.mark.parametrize("fusion", get_args(FusedBy))
@torch.no_grad()
def test_one_pass_over_both_views_equals_two_passes(fusion):
    model = build(fusion=fusion, embedding_width=40).eval()
    scene, person, scene_noise, person_noise = inputs()
    visible = [hide(noise, RATIO).visible for noise in (scene_noise, person_noise)]
    alpha, beta = (
        model.decoder_embed(encode_visible(model.encoder, view, ids))
        for view, ids in zip((scene, person), visible, strict=True)
    )
    output = model(scene, person, scene_noise, person_noise, RATIO)
    fused = model.projection(model.fusion(alpha[:, 0], beta[:, 0]))
    torch.testing.assert_close(output.embedding, fused, rtol=0, atol=1e-5)
    prediction = model.decoder(alpha, visible[0])
    torch.testing.assert_close(output.prediction, prediction, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_encoder_runs_once_on_both_views_and_the_decoder_once_on_the_scene():
    model = build()
    encoded, decoded = calls_of(model.encoder.blocks[0]), calls_of(model.decoder.blocks[0])
    model(*inputs(), RATIO)
    assert encoded == [(6, 1 + 4, 128)]
    assert decoded == [(3, 1 + 16, 24)]


@pytest.mark.parametrize("absent", ["fusion", "embedding"])
@torch.no_grad()
def test_a_person_is_not_encoded_where_nothing_is_fused(absent):
    model = build(fusion="none") if absent == "fusion" else build(embedding_width=None)
    encoded = calls_of(model.encoder.blocks[0])
    scene, person, scene_noise, person_noise = inputs()
    given = model(scene, person, scene_noise, person_noise, RATIO)
    without = model(scene, None, scene_noise, None, RATIO)
    assert encoded == [(3, 1 + 4, 128)] * 2
    assert torch.equal(given.prediction, without.prediction)
    assert (given.embedding is None) == (absent == "embedding")


@torch.no_grad()
def test_without_fusion_the_embedding_is_the_scenes_class_token():
    model = build(fusion="none").eval()
    scene, _, noise, _ = inputs()
    tokens = encode_visible(model.encoder, scene, hide(noise, RATIO).visible)
    output = model(scene, None, noise, None, RATIO)
    torch.testing.assert_close(output.embedding, model.decoder_embed(tokens[:, 0]))


@pytest.mark.parametrize("fusion", get_args(FusedBy))
@torch.no_grad()
def test_the_person_changes_the_embedding_and_not_the_prediction(fusion):
    model = build(fusion=fusion).eval()
    scene, person, scene_noise, person_noise = inputs()
    before = model(scene, person, scene_noise, person_noise, RATIO)
    other = person.clone()
    other[1] += inputs(seed=1)[1][1]
    after = model(scene, other, scene_noise, person_noise, RATIO)
    differs = (after.embedding - before.embedding).abs().amax(dim=1) > 1e-3
    assert differs.tolist() == [False, True, False]
    torch.testing.assert_close(after.prediction, before.prediction, rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_mask_of_the_person_is_its_own():
    model = build().eval()
    scene, person, scene_noise, person_noise = inputs()
    before = model(scene, person, scene_noise, person_noise, RATIO)
    after = model(scene, person, scene_noise, person_noise.flip(1), RATIO)
    assert (after.embedding - before.embedding).abs().max() > 1e-3
    assert torch.equal(after.hiding.hidden, before.hiding.hidden)
    torch.testing.assert_close(after.prediction, before.prediction, rtol=0, atol=1e-6)


@torch.no_grad()
def test_hidden_pixels_of_both_views_change_nothing():
    model = build().eval()
    scene, person, *noise = inputs()
    before = model(scene, person, *noise, RATIO)
    after = model(spoil_hidden(scene, noise[0]), spoil_hidden(person, noise[1]), *noise, RATIO)
    assert torch.equal(after.embedding, before.embedding)
    assert torch.equal(after.prediction, before.prediction)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.9])
@torch.no_grad()
def test_the_mask_ratio_is_that_of_the_call(ratio):
    model = build()
    encoded = calls_of(model.encoder.blocks[0])
    output = model(*inputs(), ratio)
    assert encoded == [(6, 1 + int(16 * (1 - ratio)), 128)]
    assert output.prediction.shape == (3, 16, 192)


def objective(model, weights, seed=0):
    """The weighted sum of the terms, as a task computes it, against random teacher features."""
    given = inputs()
    output = model(*given, RATIO)
    terms = dict.fromkeys(PretrainLosses._fields)
    if output.embedding is not None:
        generator = torch.Generator().manual_seed(seed)
        image, texts = torch.randn(2, *output.embedding.shape, generator=generator).unbind(0)
        if weights.contrast:
            terms["contrast"] = contrast_loss(output.embedding, image, texts)
        if weights.similarity:
            terms["similarity"] = similarity_loss(output.embedding, image)
    if output.prediction is not None:
        terms["reconstruction"] = reconstruction_loss(output.prediction, patchify(given[0], 8), output.hiding.hidden)
    return PretrainLosses(**terms).total(weights)


@pytest.mark.parametrize("width", [24, 40])
@pytest.mark.parametrize("fusion", get_args(Fusion))
@pytest.mark.parametrize("objective_weights", OBJECTIVES)
def test_every_weight_gets_a_gradient_whatever_the_objective(objective_weights, fusion, width):
    weights = LossConfig(**dict(zip(PretrainLosses._fields, objective_weights, strict=True)))
    model = build(
        fusion=fusion, embedding_width=width if weights.needs_teacher else None, reconstructs=weights.reconstruction > 0
    )
    objective(model, weights).backward()
    learned = {name: part.grad for name, part in model.named_parameters() if part.requires_grad}
    assert [name for name, grad in learned.items() if grad is None or not grad.any()] == []
    assert all(part.grad is None for part in model.parameters() if not part.requires_grad)


def test_the_default_objective_reaches_encoder_decoder_fusion_and_projection():
    model = build(embedding_width=40)
    objective(model, LossConfig()).backward()
    for part in (model.encoder, model.decoder_embed, model.decoder, model.fusion, model.projection):
        assert any(parameter.grad is not None for parameter in part.parameters())


def test_only_positions_are_fixed():
    model = build()
    fixed = {name for name, part in model.named_parameters() if not part.requires_grad}
    assert fixed == {"encoder.pos_embed", "decoder.pos_embed"}


def test_a_term_that_is_off_builds_no_modules():
    whole = {"encoder", "decoder_embed", "decoder", "fusion"}
    assert parts(build()) == whole
    assert parts(build(fusion="none")) == whole - {"fusion"}
    assert parts(build(reconstructs=False)) == whole - {"decoder"}
    assert parts(build(embedding_width=None)) == whole - {"fusion"}
    assert parts(build(embedding_width=40)) == whole | {"projection"}
    assert parts(build(embedding_width=40, fusion="none")) == whole - {"fusion"} | {"projection"}


def parts(model):
    return {name for name, part in model.named_children() if next(part.parameters(), None) is not None}


@torch.no_grad()
def test_what_was_not_built_is_none_in_the_output():
    assert build(reconstructs=False)(*inputs(), RATIO).prediction is None
    assert build(embedding_width=None)(*inputs(), RATIO).embedding is None


@torch.no_grad()
def test_a_fusion_refuses_to_go_without_the_person():
    model = build()
    scene, person, scene_noise, person_noise = inputs()
    with pytest.raises(AssertionError):
        model(scene, None, scene_noise, person_noise, RATIO)
    with pytest.raises(AssertionError):
        model(scene, person, scene_noise, None, RATIO)


def test_first_weights_are_maes():
    model = build(embedding_width=40)
    assert torch.equal(model.encoder.pos_embed, sincos_positions(128, 4))
    assert torch.equal(model.decoder.pos_embed, sincos_positions(24, 4))
    assert model.encoder.cls_token.std().item() == pytest.approx(0.02, rel=0.3)
    projection = model.encoder.patch_embed.proj
    bound = (6 / (128 + 192)) ** 0.5  # Xavier of the patch as a row of 8 · 8 · 3 numbers
    assert 0.98 * bound < projection.weight.abs().max() <= bound
    assert not projection.bias.any()
    for name, part in model.named_modules():
        if isinstance(part, nn.Linear):
            bound = (6 / sum(part.weight.shape)) ** 0.5
            assert 0.9 * bound < part.weight.abs().max() <= bound, name
            assert not part.bias.any(), name


@pytest.mark.parametrize(
    ("size", "side", "num_patches", "numbers"),
    [(32, 8, 16, 192), (48, 16, 9, 768), (64, 8, 64, 192), (224, 14, 256, 588)],
)
def test_other_sizes_of_picture_and_patch_give_their_own_shapes(size, side, num_patches, numbers):
    with torch.device("meta"):
        model = build(image_size=size, patch_size=side, embedding_width=40)
        views = torch.empty(2, 3, 3, size, size)
        noise = torch.empty(2, 3, num_patches)
        output = model(*views, *noise, 0.5)
    assert output.embedding.shape == (3, 40)
    assert output.prediction.shape == (3, num_patches, numbers)


def test_the_released_shapes_build_and_run():
    with torch.device("meta"):
        model = UniEmoX(ModelConfig(size="large"), embedding_width=512)
        output = model(*torch.empty(2, 2, 3, 224, 224), *torch.empty(2, 2, 196), 0.9)
    assert model.projection is None  # CLIP ViT-B/16 is 512 wide, as is the decoder
    assert output.embedding.shape == (2, 512)
    assert output.prediction.shape == (2, 196, 768)
    assert output.hiding.visible.shape == (2, 19)


def test_bf16_stays_close_to_fp32_and_keeps_its_gradients_finite():
    model = build()
    expected = model(*inputs(), RATIO)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(*inputs(), RATIO)
    for name in ("embedding", "prediction"):
        ours, theirs = getattr(output, name).float(), getattr(expected, name)
        assert (ours - theirs).norm() < 0.05 * theirs.norm(), name
    (output.embedding.float().sum() + output.prediction.float().sum()).backward()
    grads = [part.grad for part in model.parameters() if part.requires_grad]
    assert all(grad.dtype == torch.float32 and grad.isfinite().all() for grad in grads)


@torch.no_grad()
def test_a_forward_pass_in_training_mode_can_be_repeated():
    model = build().train()
    first, second = model(*inputs(), RATIO), model(*inputs(), RATIO)
    assert torch.equal(first.embedding, second.embedding)
    assert torch.equal(first.prediction, second.prediction)


@pytest.mark.parametrize("fusion", get_args(Fusion))
def test_the_mean_of_the_patches_goes_the_way_of_the_class_token(fusion):
    torch.manual_seed(0)
    model = UniEmoX(ModelConfig(**CONFIG, fusion=fusion), embedding_width=16, embeds_mean=True).eval()
    scene, person, scene_noise, person_noise = inputs()
    output = model(scene, person, scene_noise, person_noise, RATIO)
    fused = []
    for pick in (lambda tokens: tokens[:, 0], lambda tokens: tokens[:, 1:].mean(dim=1)):
        alpha, beta = (
            model.decoder_embed(pick(encode_visible(model.encoder, view, hide(noise, RATIO).visible)))
            for view, noise in ((scene, scene_noise), (person, person_noise))
        )
        fused.append(model.projection(alpha if model.fusion is None else model.fusion(alpha, beta)))
    torch.testing.assert_close(output.embedding, fused[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.mean_embedding, fused[1], atol=1e-5, rtol=1e-5)


# What a step costs, in operations, which are the same on every machine


def operations(*, decode_share=1.0):
    """Count floating-point operations of a forward and a backward pass for a sample of ViT-B/16 at mask 0.9."""
    with torch.device("meta"):
        model = UniEmoX(ModelConfig(decode_share=decode_share), embedding_width=512)
        views, noise = torch.empty(2, 1, 3, 224, 224), torch.empty(2, 1, 196)
        with FlopCounterMode(display=False) as counter:
            output = model(*views, *noise, 0.9)
            (output.prediction.sum() + output.embedding.sum()).backward()
    return counter.get_total_flops()


def block_operations(tokens, width):
    """Operations of a block on so many tokens: products with 12 times the square of the width, and attention."""
    return 2 * tokens * width * width * (4 + 8) + 2 * 2 * tokens * tokens * width


def test_a_step_encodes_twenty_tokens_of_each_view_and_decodes_the_scene_once():
    """By hand: 12 blocks on 2 × 20 tokens of 768, 8 blocks on 197 tokens of 512, thrice for the backward pass."""
    encoder = 2 * 12 * block_operations(20, 768)
    decoder = 8 * block_operations(197, 512) + 2 * 197 * 512 * 768  # with the layer that predicts pixels
    assert operations() == pytest.approx(3 * (encoder + decoder), rel=0.03)


def test_a_quarter_of_the_hidden_patches_is_a_third_of_the_decoders_work():
    encoder = 2 * 12 * block_operations(20, 768)
    whole, quarter = operations() - 3 * encoder, operations(decode_share=0.25) - 3 * encoder
    assert quarter / whole < 0.34  # 64 of 197 tokens
