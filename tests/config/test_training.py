import dataclasses
import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from uniemox.config.people import PersonConfig
from uniemox.config.training import (
    ENCODER_SHAPES,
    AugmentConfig,
    FinetuneConfig,
    Fusion,
    LossConfig,
    ModelConfig,
    OptimConfig,
    PretrainConfig,
    RunConfig,
    TeacherConfig,
    ViewsConfig,
)
from uniemox.errors import ConfigError

CONFIGS = (
    ModelConfig,
    ViewsConfig,
    PersonConfig,
    TeacherConfig,
    LossConfig,
    OptimConfig,
    AugmentConfig,
    RunConfig,
    PretrainConfig,
    FinetuneConfig,
)
WHERE = {"data": Path("data.parquet"), "out": Path("run")}
NAN = math.nan

# Class, field, values on the border that are taken, values beyond it that are refused.
BORDERS = [
    (ModelConfig, "patch_size", [2, 112], [0, -16, 1, 224, 225]),
    (ModelConfig, "image_size", [16, 512], [0, -224, 223]),
    (ModelConfig, "decoder_width", [16, 1024], [0, -16, 24]),
    (ModelConfig, "decoder_depth", [1], [0, -1]),
    (ModelConfig, "decoder_heads", [1, 256], [0, -1, 3, 512]),
    (PersonConfig, "margin", [0, 2], [-0.01, 2.01, NAN]),
    (ViewsConfig, "flip", [0, 1], [-0.01, 1.01, NAN]),
    (ViewsConfig, "scene_scale", [(1, 1), (1e-6, 1)], [(0, 1), (0.5, 0.4), (0.5, 1.01), (NAN, 1)]),
    (ViewsConfig, "mask_ratio", [0, 0.999], [-0.01, 1, NAN]),
    (LossConfig, "contrast", [0, 7], [-0.01, NAN]),
    (LossConfig, "similarity", [0, 7], [-0.01, NAN]),
    (LossConfig, "reconstruction", [0, 7], [-0.01, NAN]),
    (OptimConfig, "epochs", [1], [0, -1]),
    (OptimConfig, "batch_size", [1], [0, -1]),
    (OptimConfig, "accumulate", [1], [0, -1]),
    (OptimConfig, "base_lr", [1e-12], [0, -1, NAN]),
    (OptimConfig, "warmup_epochs", [0, 0.5, None], [-0.01, NAN]),
    (OptimConfig, "warmup_share", [0, 0.5, 1], [-0.01, 1.01, NAN]),
    (OptimConfig, "min_lr", [0], [-1e-9, NAN]),
    (OptimConfig, "weight_decay", [0], [-1e-9, NAN]),
    (OptimConfig, "betas", [(0, 0), (0.999, 0.999)], [(1, 0.9), (0.9, 1), (-0.1, 0.9), (NAN, 0)]),
    (OptimConfig, "layer_decay", [1, 1e-6], [0, 1.01, -1, NAN]),
    (OptimConfig, "clip_norm", [None, 1e-6], [0, -1, NAN]),
    (OptimConfig, "ema_decay", [0, 0.9999], [-0.01, 1, NAN]),
    (AugmentConfig, "scale", [(1, 1), (1e-6, 1)], [(0, 1), (0.5, 0.4), (0.5, 1.01), (NAN, 1)]),
    (AugmentConfig, "flip", [0, 1], [-0.01, 1.01, NAN]),
    (AugmentConfig, "erase", [0, 1], [-0.01, 1.01, NAN]),
    (AugmentConfig, "switch", [0, 1], [-0.01, 1.01, NAN]),
    (AugmentConfig, "mixup", [0, 5], [-0.01, NAN]),
    (AugmentConfig, "cutmix", [0, 5], [-0.01, NAN]),
    (AugmentConfig, "smoothing", [0, 0.99], [-0.01, 1, NAN]),
    (PretrainConfig, "seed", [0], [-1]),
    (PretrainConfig, "workers", [0], [-1]),
    (PretrainConfig, "log_every", [1], [0, -1]),
    (PretrainConfig, "max_steps", [None, 1], [0, -1]),
    (PretrainConfig, "save_every", [None, 1], [0, -1]),
    (PretrainConfig, "splits", [("a",), ["a", "b"]], [()]),
    (FinetuneConfig, "drop_path", [0, 0.99], [-0.01, 1, NAN]),
    (FinetuneConfig, "head_std", [1e-9], [0, -1, NAN]),
    (FinetuneConfig, "patch_size", [None, 1], [0, -1]),
    (FinetuneConfig, "image_size", [None, 1], [0, -1]),
]
GROUPS = {
    ModelConfig: "model.",
    ViewsConfig: "views.",
    PersonConfig: "person.",
    LossConfig: "loss.",
    OptimConfig: "optim.",
    AugmentConfig: "augment.",
}


def make(config, **values):
    return config(**(WHERE if issubclass(config, RunConfig) else {}), **values)


@pytest.mark.parametrize(
    ("config", "field", "value"), [(config, field, value) for config, field, good, _ in BORDERS for value in good]
)
def test_a_value_on_the_border_is_taken(config, field, value):
    assert getattr(make(config, **{field: value}), field) == value


@pytest.mark.parametrize(
    ("config", "field", "value"), [(config, field, value) for config, field, _, bad in BORDERS for value in bad]
)
def test_a_value_beyond_the_border_is_refused_in_one_line_with_the_dotted_name(config, field, value):
    with pytest.raises(ConfigError) as caught:
        make(config, **{field: value})
    message = str(caught.value)
    assert GROUPS.get(config, "") + field in message
    assert "\n" not in message


@pytest.mark.parametrize("config", CONFIGS)
def test_every_configuration_is_frozen_and_takes_names_alone(config):
    made = make(config)
    field = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, field, None)
    with pytest.raises(TypeError):
        config(1)


def test_equal_settings_are_equal_configurations():
    assert PretrainConfig(**WHERE) == PretrainConfig(**WHERE)
    assert PretrainConfig(**WHERE) != PretrainConfig(**WHERE, seed=1)


@pytest.mark.parametrize("config", [RunConfig, PretrainConfig, FinetuneConfig])
@pytest.mark.parametrize("missing", ["data", "out"])
def test_no_path_has_a_default(config, missing):
    with pytest.raises(TypeError, match=missing):
        config(**{name: path for name, path in WHERE.items() if name != missing})


@pytest.mark.parametrize("size", ENCODER_SHAPES)
def test_heads_divide_the_width_of_every_encoder(size):
    width, depth, num_heads = ENCODER_SHAPES[size]
    assert width % num_heads == 0
    assert width % 4 == 0  # sine-cosine positions in two dimensions
    assert depth > 0


def test_the_encoders_grow_with_their_names():
    shapes = [ENCODER_SHAPES[size] for size in ("mini", "tiny", "small", "base", "large", "huge")]
    assert all(small < large for small, large in itertools.pairwise(shapes))
    assert len(shapes) == len(ENCODER_SHAPES)


@pytest.mark.parametrize(("image_size", "patch_size"), [(224, 16), (64, 8), (224, 14), (16, 16)])
def test_the_patches_tile_the_image(image_size, patch_size):
    num_patches = ModelConfig(image_size=image_size, patch_size=patch_size).num_patches
    assert num_patches * patch_size**2 == image_size**2


@pytest.mark.parametrize(("contrast", "similarity", "reconstruction"), list(itertools.product([0, 1], repeat=3)))
def test_the_teacher_is_needed_by_the_two_terms_that_look_at_it(contrast, similarity, reconstruction):
    weights = {"contrast": contrast, "similarity": similarity, "reconstruction": reconstruction}
    if not any(weights.values()):
        with pytest.raises(ConfigError, match="nothing to learn"):
            LossConfig(**weights)
        return
    assert LossConfig(**weights).needs_teacher == bool(contrast or similarity)


@pytest.mark.parametrize(("mixup", "cutmix"), list(itertools.product([0, 0.8], repeat=2)))
def test_images_are_mixed_if_one_of_two_ways_is_on(mixup, cutmix):
    assert AugmentConfig(mixup=mixup, cutmix=cutmix).mixes == bool(mixup or cutmix)


@pytest.mark.parametrize("person", ["crop", "scene", "none"])
@pytest.mark.parametrize("fusion", get_args(Fusion))
def test_there_is_fusion_exactly_where_there_is_a_person_view(person, fusion):
    parts = {"views": ViewsConfig(person=person), "model": ModelConfig(fusion=fusion)}
    if (person == "none") == (fusion == "none"):
        PretrainConfig(**WHERE, **parts)
        return
    with pytest.raises(ConfigError, match=r"views\.person is .* model\.fusion is"):
        PretrainConfig(**WHERE, **parts)


def test_contrast_needs_two_texts():
    config = PretrainConfig(**WHERE, optim=OptimConfig(batch_size=2))
    with pytest.raises(ConfigError, match=r"optim\.batch_size"):
        replace(config, optim=OptimConfig(batch_size=1))
    replace(config, optim=OptimConfig(batch_size=1), loss=LossConfig(contrast=0))


def test_reconstruction_needs_hidden_patches():
    config = PretrainConfig(**WHERE)
    with pytest.raises(ConfigError, match=r"views\.mask_ratio"):
        replace(config, views=ViewsConfig(mask_ratio=0.0))
    replace(config, views=ViewsConfig(mask_ratio=0.0), loss=LossConfig(reconstruction=0))


@pytest.mark.parametrize(("image_size", "mask_ratio"), [(32, 0.9), (16, 0.5)])
def test_at_least_one_patch_must_be_seen(image_size, mask_ratio):
    with pytest.raises(ConfigError, match="hides all"):
        PretrainConfig(**WHERE, model=ModelConfig(image_size=image_size), views=ViewsConfig(mask_ratio=mask_ratio))


@pytest.mark.parametrize("batch_size", [1, 15])
def test_mixing_pairs_the_images_of_a_batch(batch_size):
    optim = OptimConfig(batch_size=batch_size)
    with pytest.raises(ConfigError, match=r"optim\.batch_size"):
        FinetuneConfig(**WHERE, optim=optim)
    FinetuneConfig(**WHERE, optim=optim, augment=AugmentConfig(mixup=0, cutmix=0))


def test_a_teacher_is_refused_where_no_head_asks_it():
    FinetuneConfig(**WHERE, teacher="clip:demo", pool="fused", head="language")
    with pytest.raises(ConfigError, match="teacher is clip:demo, which head random does not ask: omit `teacher`"):
        FinetuneConfig(**WHERE, teacher="clip:demo", pool="fused")
