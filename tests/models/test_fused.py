import pytest
import torch
from torch.nn import functional as F

from uniemox.config.training import ModelConfig
from uniemox.models.classify import encoder_of, head_of, start_from_pretraining
from uniemox.models.encoder import resample_positions
from uniemox.models.fused import FusedClassifier, start_from_texts
from uniemox.models.pretrain import UniEmoX

SHAPE = {"size": "mini", "patch_size": 8, "decoder_width": 24, "decoder_depth": 1, "decoder_heads": 4}


def config(*, image_size=32, fusion="sum"):
    return ModelConfig(image_size=image_size, fusion=fusion, **SHAPE)


@torch.no_grad()
def away_from_start(model):
    for part in model.parameters():
        part.add_(torch.randn_like(part) * 0.05)
    return model.eval()


def pretrained(**more):
    torch.manual_seed(1)
    return away_from_start(UniEmoX(config(**more), embedding_width=16))


def classifier(**more):
    torch.manual_seed(2)
    return away_from_start(FusedClassifier(config(**more), embedding_width=16, num_classes=5))


def pictures(seed=0, side=32):
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(seed))


def parts_of(model):
    """State of the encoder, and of what is beside it."""
    state = model.state_dict()
    encoder = {name.removeprefix("encoder."): part for name, part in state.items() if name.startswith("encoder.")}
    return encoder, {name: part for name, part in state.items() if not name.startswith(("encoder.", "head."))}


@pytest.mark.parametrize("fusion", ["sum", "none"])
@torch.no_grad()
def test_the_embedding_is_that_of_a_forward_pass_that_hides_nothing(fusion):
    model, scene, person = pretrained(fusion=fusion), pictures(), pictures(1)
    noise = torch.rand(3, 16, generator=torch.Generator().manual_seed(0))
    expected = model(scene, None if fusion == "none" else person, noise, noise.flip(1), 0.0).embedding
    torch.testing.assert_close(model.embed(scene, person), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_scene_alone_stands_for_both_views():
    model, scene = classifier(), pictures()
    torch.testing.assert_close(model(scene), model(scene, scene), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(model(scene), model(scene, pictures(1)), atol=1e-3)


@torch.no_grad()
def test_logits_are_the_head_on_the_unit_sphere():
    model, scene, person = classifier(), pictures(), pictures(1)
    embedding = model.embed(scene, person)
    expected = embedding / embedding.norm(dim=1, keepdim=True) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(scene, person), expected, atol=1e-5, rtol=1e-5)
    tokens = model.encoder.forward_features(torch.cat([scene, person]))[:, 0]
    torch.testing.assert_close(model.head(model.read_tokens(tokens[:3], tokens[3:])), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_head_of_texts_gives_clips_logits():
    model, scene = classifier(), pictures()
    texts = torch.randn(5, 16, generator=torch.Generator().manual_seed(3)) * 7
    start_from_texts(model.head, texts, 100.0)
    expected = 100 * F.cosine_similarity(model.embed(scene).unsqueeze(1), texts.unsqueeze(0), dim=2)
    torch.testing.assert_close(model(scene), expected, atol=1e-3, rtol=1e-5)


@torch.no_grad()
def test_a_start_from_pretraining_embeds_as_pretraining_does_and_leaves_the_head():
    source, model, scene, person = pretrained(), classifier(), pictures(), pictures(1)
    head = {name: part.clone() for name, part in model.head.state_dict().items()}
    start_from_pretraining(model, *parts_of(source))
    torch.testing.assert_close(model.embed(scene, person), source.embed(scene, person), atol=0, rtol=0)
    assert all(torch.equal(part, head[name]) for name, part in model.head.state_dict().items())


@torch.no_grad()
def test_a_fused_classifier_starts_from_another_one():
    source, model = classifier(), FusedClassifier(config(), embedding_width=16, num_classes=2)
    start_from_pretraining(model, *parts_of(source))
    torch.testing.assert_close(model.eval().embed(pictures()), source.embed(pictures()), atol=0, rtol=0)


def test_positions_are_resampled_for_another_size():
    source, model = pretrained(), classifier(image_size=48)
    start_from_pretraining(model, *parts_of(source))
    expected = resample_positions(source.encoder.pos_embed, grid=6)
    torch.testing.assert_close(model.encoder.pos_embed.detach(), expected.detach(), atol=0, rtol=0)


def test_a_start_of_another_shape_or_without_a_fusion_is_refused():
    encoder, beside = parts_of(pretrained())
    with pytest.raises(RuntimeError, match="fusion"):
        start_from_pretraining(classifier(), encoder, {"decoder_embed.weight": beside["decoder_embed.weight"]})
    with pytest.raises(RuntimeError, match="size mismatch"):
        start_from_pretraining(classifier(), encoder, {**beside, "projection.weight": torch.zeros(3, 3)})
    with pytest.raises(KeyError, match="pos_embed"):
        start_from_pretraining(classifier(), {}, beside)


def test_every_weight_gets_a_gradient_from_both_views_and_from_one():
    model = classifier().train()
    for views in ((pictures(), pictures(1)), (pictures(),)):
        model.zero_grad()
        model(*views).square().sum().backward()
        assert [name for name, part in model.named_parameters() if part.grad is None] == []


def test_encoder_head_and_what_does_not_decay_are_named():
    model = classifier()
    assert (encoder_of(model), head_of(model)) == (model.encoder, model.head)
    own = {name for name, _ in model.named_parameters()}
    assert model.no_weight_decay() & own == {"encoder.pos_embed", "encoder.cls_token"}
    assert model.decoder is None
