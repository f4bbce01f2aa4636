"""The presets: valid, without paths, of the recorded values; and the released ones have the released numbers."""

import json
from pathlib import Path

import pytest
import yaml

import uniemox
from uniemox import settings
from uniemox.config.probe import ProbeConfig
from uniemox.config.training import ENCODER_SHAPES, FinetuneConfig, PretrainConfig

FOLDERS = {"pretrain": PretrainConfig, "finetune": FinetuneConfig, "probe": ProbeConfig}
FILES = [file for kind in FOLDERS for file in sorted(Path(uniemox.__file__).parent.glob(f"presets/{kind}/*.yaml"))]
PRESETS = [(FOLDERS[file.parent.name], file.stem) for file in FILES]
ELSEWHERE = {ProbeConfig: {"backbone": "demo-pretrained"}}  # What else must be given
RESOLVED = json.loads(Path(__file__).with_name("presets.json").read_text())

every_preset = pytest.mark.parametrize(
    ("config", "name"), PRESETS, ids=[f"{file.parent.name}-{file.stem}" for file in FILES]
)


def load(config, name):
    values = settings.load_preset(config, name)
    return settings.build(config, {"data": Path("d"), "out": Path("o"), **ELSEWHERE.get(config, {}), **values})


def test_the_presets_are_these():
    assert set(settings.preset_names(PretrainConfig)) == {"released", "base", "small", "fast", "demo"}
    assert set(settings.preset_names(FinetuneConfig)) == {
        *("released", "mae", "uniemox", "heco", "caer_s", "emotic", "emotic_vad", "demo"),
        *("emotion6_distribution", "emotion6_vad"),
    }
    assert set(settings.preset_names(ProbeConfig)) == {"released_baselines"}
    assert len(FILES) == sum(len(settings.preset_names(config)) for config in FOLDERS.values())


@every_preset
def test_a_preset_is_valid(config, name):
    assert isinstance(load(config, name), config)


@every_preset
def test_a_preset_resolves_to_what_it_was_recorded_as(config, name):
    """`extends` changes nothing of what a recipe trains; a new setting needs no line here."""
    kind = next(kind for kind, known in FOLDERS.items() if known is config)
    values = json.loads(json.dumps(dict(settings.list_values(load(config, name))), default=str))
    recorded = RESOLVED[f"{kind}/{name}"]
    assert {key: values[key] for key in recorded} == recorded


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_preset_says_only_what_differs_from_what_it_extends(file):
    tree, config = yaml.safe_load(file.read_text()), FOLDERS[file.parent.name]
    base = tree.pop("extends", None)
    if base is None:
        assert file.stem in ("released", "released_baselines")
        return
    below = settings.load_preset(config, base)
    own = {
        f"{key}.{leaf}" if isinstance(value, dict) else key: setting
        for key, value in tree.items()
        for leaf, setting in (value if isinstance(value, dict) else {key: value}).items()
    }
    assert not [name for name, value in own.items() if below.get(name, ...) == value]


@every_preset
def test_a_preset_has_no_path(config, name):
    values = settings.load_preset(config, name).values()
    assert not any(isinstance(value, Path) for value in values)
    assert not any("/" in value or "\\" in value for value in values if isinstance(value, str))


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_preset_keeps_the_order_of_the_fields(file):
    config = FOLDERS[file.parent.name]
    written = [
        f"{key}.{leaf}" if isinstance(value, dict) else key
        for key, value in yaml.safe_load(file.read_text()).items()
        if key != "extends"
        for leaf in (value if isinstance(value, dict) else [key])
    ]
    fields = [setting.name for setting in settings.list_settings(config)]
    # Top-level settings come before groups in the dataclasses, so in the files.
    assert [name for name in fields if name in written and "." in name] == [name for name in written if "." in name]
    assert all("." not in name for name in written[: sum("." not in n for n in written)])


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_preset_begins_with_what_it_is_and_a_published_one_with_its_source(file):
    head = "".join(line for line in file.read_text().splitlines() if line.startswith("#"))
    released = dict.fromkeys(("released", "released_baselines"), "arXiv 2409.18877")
    sources = {**released, "mae": "He et al. 2022, table 9"}
    assert sources.get(file.stem, "") in head
    assert len(head) > 100


RELEASED_PRETRAINING = {
    "splits": ("train", "val"),
    "model.size": "large",
    "model.patch_size": 16,
    "model.image_size": 224,
    "model.decoder_width": 512,
    "model.decoder_depth": 8,
    "model.decoder_heads": 16,
    "model.fusion": "sum",
    "views.person": "crop",
    "views.scene_scale": (0.2, 1.0),
    "views.flip": 0.5,
    "views.mask_ratio": 0.9,
    "teacher.model": "ViT-B-16-quickgelu",
    "teacher.pretrained": "openai",
    "teacher.emotion_sentence": True,
    "loss.contrast": 1.0,
    "loss.similarity": 1.0,
    "loss.reconstruction": 1.0,
    "loss.normalized_target": False,
    "optim.epochs": 800,
    "optim.warmup_share": 40 / 800,
    "optim.base_lr": 1e-3,
    "optim.min_lr": 0.0,
    "optim.weight_decay": 0.05,
    "optim.betas": (0.9, 0.95),
    "optim.layer_decay": 1.0,
}
RELEASED_FINETUNING = {
    "select_by": "top1",
    "size": "large",
    "patch_size": 16,
    "image_size": 224,
    "drop_path": 0.2,
    "head_std": 2e-5,
    "augment.rand_augment": "rand-m9-mstd0.5-inc1",
    "augment.erase": 0.25,
    "augment.mixup": 0.8,
    "augment.cutmix": 1.0,
    "augment.switch": 0.5,
    "augment.smoothing": 0.1,
    "optim.epochs": 100,
    "optim.warmup_share": 5 / 100,
    "optim.batch_size": 16,
    "optim.base_lr": 1e-3,
    "optim.min_lr": 1e-6,
    "optim.weight_decay": 0.05,
    "optim.layer_decay": 1.0,
}
RELEASED_BASELINES = {
    "head": "linear",
    "select_by": "top1",
    "view": "scene",
    "pool": None,
    "batch_size": 256,
    "base_lr": 1e-3,
}
# MAE, FINETUNE.md, ViT-Base.
MAE_FINETUNING = {
    "drop_path": 0.1,
    "augment.erase": 0.25,
    "augment.mixup": 0.8,
    "augment.cutmix": 1.0,
    "optim.epochs": 100,
    "optim.base_lr": 5e-4,
    "optim.weight_decay": 0.05,
    "optim.betas": (0.9, 0.999),
    "optim.layer_decay": 0.65,
}


@pytest.mark.parametrize(
    ("config", "name", "expected"),
    [
        (PretrainConfig, "released", RELEASED_PRETRAINING),
        (FinetuneConfig, "released", RELEASED_FINETUNING),
        (FinetuneConfig, "mae", MAE_FINETUNING),
        (ProbeConfig, "released_baselines", RELEASED_BASELINES),
    ],
    ids=["pretrain-released", "finetune-released", "finetune-mae", "probe-released"],
)
def test_a_published_recipe_has_the_published_numbers(config, name, expected):
    values = settings.load_preset(config, name)
    assert {key: values[key] for key in expected} == expected


def test_the_released_mask_leaves_19_of_196_patches():
    config = load(PretrainConfig, "released")
    assert int(config.model.num_patches * (1 - config.views.mask_ratio)) == 19


def test_the_defaults_of_pretraining_are_released_where_they_say_so():
    defaults = {s.name: s.default for s in settings.list_settings(PretrainConfig)}
    for name in ("views.scene_scale", "views.mask_ratio", "loss.normalized_target", "model.fusion"):
        assert defaults[name] == RELEASED_PRETRAINING[name]


def test_the_defaults_of_fine_tuning_are_released_where_they_say_so():
    defaults = {s.name: s.default for s in settings.list_settings(FinetuneConfig)}
    for name in ("drop_path", "head_std"):
        assert defaults[name] == RELEASED_FINETUNING[name]


@pytest.mark.parametrize("name", ["base", "small"])
def test_our_recipes_keep_val_held_out(name):
    assert load(PretrainConfig, name).splits == ("train",)


@pytest.mark.parametrize("name", sorted({*settings.preset_names(PretrainConfig)} & {*ENCODER_SHAPES}))
def test_a_preset_named_like_an_encoder_has_that_encoder(name):
    assert load(PretrainConfig, name).model.size == name


@pytest.mark.parametrize("name", ["heco", "caer_s", "emotic"])
def test_recipes_for_felt_emotion_read_the_person_and_the_scene(name):
    config = load(FinetuneConfig, name)
    assert config.view == "both"
    assert (config.size, config.patch_size, config.image_size) == (None, None, None)
    file = next(file for file in FILES if file.stem == name)
    assert f"--preset {name} --init" in file.read_text()


def test_the_recipe_for_sets_of_labels_is_chosen_by_what_is_published():
    config = load(FinetuneConfig, "emotic")
    assert (config.target, config.select_by) == (("multi_label",), "mean_average_precision")


@pytest.mark.parametrize("name", ["released", "mae"])
def test_published_recipes_read_the_whole_picture_by_a_new_head_on_the_mean(name):
    config = load(FinetuneConfig, name)
    assert (config.view, config.pool, config.head, config.trained_share) == ("scene", "mean", "random", 1.0)


@pytest.mark.parametrize("name", ["uniemox", "demo"])
def test_our_own_recipes_keep_what_pretraining_taught(name):
    config = load(FinetuneConfig, name)
    assert (config.view, config.pool, config.head, config.trained_share) == ("both", "fused", "language", 0.5)


def test_the_demo_is_mini_in_both_kinds_of_run():
    pretraining, finetuning = load(PretrainConfig, "demo"), load(FinetuneConfig, "demo")
    model = pretraining.model
    assert (model.size, model.patch_size, model.image_size) == ("mini", 8, 64)
    assert (finetuning.size, finetuning.patch_size, finetuning.image_size) == ("mini", 8, 64)
