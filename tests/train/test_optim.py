import itertools
import math

import pytest
import torch

from uniemox.config.training import ModelConfig, OptimConfig
from uniemox.models.classify import TwoViewClassifier, build_classifier
from uniemox.models.pretrain import UniEmoX
from uniemox.train.optim import build_optimizer, peak_rate, rate_at, set_rate


@pytest.fixture(scope="module")
def pretraining():
    shape = {"decoder_width": 24, "decoder_depth": 1, "decoder_heads": 4}
    config = ModelConfig(size="mini", patch_size=8, image_size=32, fusion="scaled_sum", **shape)
    return UniEmoX(config, embedding_width=16)


@pytest.fixture(scope="module")
def classifier():
    return build_classifier("mini", patch_size=8, image_size=32, num_classes=3)


@pytest.fixture(scope="module")
def two_views():
    plain = build_classifier("mini", patch_size=8, image_size=32, num_classes=3)
    return TwoViewClassifier(plain, "attention")


def groups_of(module, **settings):
    """The group of the optimiser that each parameter is in, by name."""
    optimizer = build_optimizer(module, OptimConfig(**settings))
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    found = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert names[id(parameter)] not in found
            found[names[id(parameter)]] = group
    return found


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
@pytest.mark.parametrize("kind", ["pretraining", "classifier", "two_views"])
def test_every_trainable_part_is_in_one_group_and_frozen_ones_in_none(kind, layer_decay, request):
    module = request.getfixturevalue(kind)
    trainable = {name for name, p in module.named_parameters() if p.requires_grad}
    assert groups_of(module, layer_decay=layer_decay).keys() == trainable
    if kind == "pretraining":
        assert not {"encoder.pos_embed", "decoder.pos_embed"} & trainable


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
@pytest.mark.parametrize("kind", ["pretraining", "classifier", "two_views"])
def test_norms_and_biases_do_not_decay_and_all_other_weights_do(kind, layer_decay, request):
    module = request.getfixturevalue(kind)
    free = set()
    for name, group in groups_of(module, layer_decay=layer_decay, weight_decay=0.07).items():
        assert group["weight_decay"] in (0.0, 0.07)
        if group["weight_decay"] == 0:
            free.add(name)
    expected = {
        f"{name}.{own}" if name else own
        for name, part in module.named_modules()
        for own, parameter in part.named_parameters(recurse=False)
        if isinstance(part, torch.nn.LayerNorm) or own == "bias" or parameter.ndim == 0
    }
    if kind == "classifier":  # as MAE's fine-tuning
        expected |= {"cls_token", "pos_embed"}
    if kind == "two_views":
        expected |= {"encoder.cls_token", "encoder.pos_embed"}
    assert free == expected


def test_the_rate_of_a_classifier_falls_with_each_layer_below_the_head(classifier):
    factors = {name: group["lr_scale"] for name, group in groups_of(classifier, layer_decay=0.5).items()}
    # Six blocks: the head is layer 7, the patches and positions are layer 0 (Clark et al. 2020).
    expected = {
        "head.": 1.0,
        "fc_norm.": 1.0,
        "blocks.5.": 0.5,
        "blocks.4.": 0.25,
        "blocks.3.": 0.125,
        "blocks.2.": 0.0625,
        "blocks.1.": 0.03125,
        "blocks.0.": 0.015625,
        "patch_embed.": 0.0078125,
        "pos_embed": 0.0078125,
        "cls_token": 0.0078125,
    }
    for name, factor in factors.items():
        (prefix,) = (prefix for prefix in expected if name.startswith(prefix))
        assert factor == expected[prefix], name


def test_rates_of_two_views_are_those_of_one_and_the_fusion_keeps_the_whole_rate(classifier, two_views):
    plain, both = (groups_of(module, layer_decay=0.5) for module in (classifier, two_views))
    for name, group in both.items():
        one = plain.get(name.removeprefix("encoder."))
        assert group["lr_scale"] == (one["lr_scale"] if one else 1.0), name
        assert (one is None) == name.startswith("fusion."), name


def test_what_stands_beside_the_encoder_keeps_the_whole_rate(pretraining):
    factors = {name: group["lr_scale"] for name, group in groups_of(pretraining, layer_decay=0.5).items()}
    beside = {factor for name, factor in factors.items() if not name.startswith("encoder.")}
    assert beside == {1.0}
    assert factors["encoder.norm.weight"] == factors["encoder.blocks.5.mlp.fc1.weight"] == 1.0
    assert factors["encoder.blocks.4.mlp.fc1.weight"] == 0.5
    assert factors["encoder.cls_token"] == 0.5**6


def test_setting_the_rate_respects_the_factors(classifier):
    optimizer = build_optimizer(classifier, OptimConfig(layer_decay=0.5))
    set_rate(optimizer, 0.8)
    rates = {group["lr_scale"]: group["lr"] for group in optimizer.param_groups}
    assert rates[1.0] == 0.8
    assert rates[0.5] == 0.4
    assert rates[0.5**7] == 0.8 / 128


def test_without_layer_decay_every_rate_is_the_same(classifier):
    assert {group["lr_scale"] for group in groups_of(classifier).values()} == {1.0}


def test_the_optimiser_is_adamw_with_the_betas_of_the_settings(classifier):
    optimizer = build_optimizer(classifier, OptimConfig(betas=(0.8, 0.85)))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.85)}


def test_the_peak_grows_with_the_samples_of_a_step():
    config = OptimConfig(base_lr=1.5e-4)
    assert peak_rate(config, 256) == 1.5e-4
    assert peak_rate(config, 4096) == pytest.approx(2.4e-3)  # MAE's PRETRAIN.md


@pytest.mark.parametrize(
    ("progress", "rate"),
    [
        (0.05, 0.25),
        (0.1, 0.5),
        (0.2, 1.0),
        (0.4, 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2),  # a quarter of the way down
        (0.6, 0.55),
        (1.0, 0.1),
    ],
)
def test_the_rate_rises_in_a_line_and_falls_by_half_a_cosine(progress, rate):
    config = OptimConfig(epochs=10, warmup_epochs=2, min_lr=0.1)
    assert rate_at(progress, config, peak=1.0) == pytest.approx(rate)


def test_without_warm_up_the_rate_begins_at_its_peak():
    config = OptimConfig(epochs=10, warmup_epochs=0)
    assert rate_at(0.0, config, peak=3.0) == 3.0
    assert rate_at(1.0, config, peak=3.0) == pytest.approx(0.0)


@pytest.mark.parametrize("warmup_epochs", [4, 9])
def test_a_run_that_is_all_warm_up_ends_at_its_peak(warmup_epochs):
    config = OptimConfig(epochs=4, warmup_epochs=warmup_epochs)
    assert rate_at(0.5, config, peak=2.0) == 1.0
    assert rate_at(1.0, config, peak=2.0) == 2.0


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        ({}, 0.05),
        ({"epochs": 5}, 0.05),
        ({"warmup_share": 0.3}, 0.3),
        ({"warmup_epochs": 5}, 0.05),
        ({"warmup_epochs": 5, "epochs": 10, "warmup_share": 0.3}, 0.5),
        ({"warmup_epochs": 5, "epochs": 4}, 1.0),
        ({"warmup_epochs": 0, "warmup_share": 0.3}, 0.0),
    ],
)
def test_warm_up_is_a_share_of_the_run_unless_said_in_epochs(settings, share):
    assert OptimConfig(**settings).warmup == pytest.approx(share)


def test_the_rate_never_jumps():
    config = OptimConfig(epochs=10, warmup_epochs=3, min_lr=0.01)
    rates = [rate_at(step / 1000, config, peak=1.0) for step in range(1, 1001)]
    jumps = [abs(after - before) for before, after in itertools.pairwise(rates)]
    assert max(jumps) < 0.004
    assert rates.index(max(rates)) == 299
    assert min(rates[300:]) == rates[-1] == pytest.approx(0.01)
