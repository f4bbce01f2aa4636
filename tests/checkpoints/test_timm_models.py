"""Models of timm in folders of ours: what is built from a name, and what is refused before anything is built."""

import dataclasses
import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_data_config

from uniemox.checkpoints.backbones import find_backbone
from uniemox.checkpoints.card import build_card
from uniemox.checkpoints.facts import ModelFacts, PreparationFacts, read_facts
from uniemox.checkpoints.folder import save_model
from uniemox.checkpoints.inspection import inspect
from uniemox.checkpoints.load import describe_start, load_model, load_start
from uniemox.checkpoints.timm_models import (
    build_timm,
    is_listed,
    last_layer,
    preparation_facts,
    timm_config,
    why_no_classifier,
)
from uniemox.config.people import PersonConfig
from uniemox.data.pixels import Preparation

OWN_WAY = PreparationFacts(
    crop_share=0.95, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bilinear", squash=False
)
FACTS = ModelFacts(
    kind="classifier",
    size=None,
    patch_size=0,
    image_size=160,
    architecture="timm:test_vit",
    preparation=OWN_WAY,
    dataset="painted",
    emotion="evoked",
    classes=("awe", "fear", "joy"),
    licence="MIT",
)


def changed(**more):
    return dataclasses.replace(FACTS, **more)


@pytest.fixture
def folder(tmp_path):
    """The folder of a small model with random weights."""
    save_model(build_timm(FACTS, "here"), tmp_path / "model", FACTS)
    return tmp_path / "model"


def spoil(folder, name, value, *, section=True):
    config = json.loads((folder / "config.json").read_text())
    (config["uniemox"] if section else config)[name] = value
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def untouched(monkeypatch):
    """Let nothing be built."""
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("a model was built"))


# What is written and read


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet", "test_convnext", "resnet10t"])
def test_timm_reads_the_folder_with_equal_logits(tmp_path, name):
    side = timm.get_pretrained_cfg(name).input_size[1]
    facts = changed(architecture=f"timm:{name}", image_size=side)
    save_model(build_timm(facts, "here"), tmp_path / "model", facts)
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = load_model(tmp_path / "model").model(pixels)
        theirs = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()(pixels)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert ours.shape == (2, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"preparation": dataclasses.replace(OWN_WAY, squash=True, crop_share=0.9)},
        {"preparation": dataclasses.replace(OWN_WAY, interpolation="bicubic")},
    ],
)
def test_timm_prepares_images_from_the_folder_as_we_do(tmp_path, changes, noisy_image):
    facts = changed(**changes)
    save_model(build_timm(facts, "here"), tmp_path / "model", facts)
    model = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True)
    theirs = create_transform(**resolve_data_config(model=model))
    loaded = load_model(tmp_path / "model").facts
    assert np.array_equal(loaded.views(noisy_image)[0], theirs(noisy_image).numpy())
    assert (loaded.classes, loaded.preparation) == (facts.classes, facts.preparation)


@pytest.fixture
def noisy_image():
    from PIL import Image

    return Image.fromarray(np.random.default_rng(2).integers(0, 256, (210, 300, 3), np.uint8))


@pytest.mark.parametrize(("shape", "mode"), [("squeeze", "squash"), ("pad", "border")])
def test_a_persons_crop_is_described_as_taken_whole(shape, mode):
    facts = changed(view="person", person=PersonConfig(shape=shape))
    config = timm_config(build_timm(facts, "here"), facts)["pretrained_cfg"]
    assert (config["crop_pct"], config["crop_mode"], config["interpolation"]) == (1.0, mode, "bicubic")


def test_a_tag_is_part_of_the_facts_and_not_of_the_architecture(tmp_path):
    facts = changed(architecture="timm:test_vit.r160_in1k")
    save_model(build_timm(facts, "here"), tmp_path / "model", facts)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["architecture"] == "test_vit"
    assert load_model(tmp_path / "model").facts.architecture == "timm:test_vit.r160_in1k"
    assert timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).num_classes == 3


def test_building_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    build_timm(FACTS, "here")
    assert torch.equal(torch.get_rng_state(), before)


def test_inspection_and_card_name_the_architecture(folder):
    found = inspect(str(folder))
    assert found.architecture["name"] == "timm:test_vit"
    assert found.architecture["num_classes"] == 3
    assert found.missing == found.extra == found.misshapen == ()
    card = build_card(read_facts(folder))
    assert "timm:test_vit" in card
    assert "timm.create_model" in card
    assert "CLIP" not in card
    assert "- data set: painted" in card


# What is refused


def test_it_is_no_start_of_a_run(folder, refusal):
    for start in (load_start, describe_start, find_backbone):
        assert "is timm:test_vit, which is no encoder of ours: it predicts as it is" in refusal(start, str(folder))


@pytest.mark.parametrize(
    "name",
    [
        "timm:local-dir:/etc",
        "timm:hf-hub:org/name",
        "timm:/etc/passwd",
        "timm:no_such_model",
        "timm:test_vit.no_such_tag",
        "timm:test_*",
        "timm:",
        "ViT-B-16",
    ],
)
def test_a_name_that_timm_does_not_list_builds_nothing(folder, refusal, untouched, name):
    spoil(folder, "architecture", name)
    spoil(folder, "architecture", name.removeprefix("timm:").partition(".")[0], section=False)
    text = refusal(load_model, folder)
    assert "is not one that timm lists here" in text or "is an export of ViT-B-16" in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("architecture", "resnet18"),
        ("architecture", ["test_vit"]),
        ("model_args", {"img_size": 32}),
        ("model_args", {"pretrained_cfg": {"file": "/etc/passwd"}, "checkpoint_path": "/etc/passwd"}),
    ],
)
def test_a_configuration_that_timm_would_understand_otherwise_builds_nothing(folder, refusal, untouched, name, value):
    spoil(folder, name, value, section=False)
    assert f"config.json: {name} is " in refusal(load_model, folder)


@pytest.mark.parametrize("side", [32, 224])
def test_another_image_size_than_the_architectures_builds_nothing(folder, refusal, untouched, side):
    spoil(folder, "image_size", side)
    assert f"image_size is {side}, but timm's test_vit reads 160 × 160" in refusal(load_model, folder)


@pytest.mark.parametrize(("name", "value"), [("view", "both"), ("pool", "cls_mean")])
def test_what_only_our_encoders_have_is_refused(folder, refusal, name, value):
    spoil(folder, name, value)
    if value == "both":
        spoil(folder, "fusion", "sum")
    assert f"uniemox.{name} is {value}, but uniemox.size is null" in refusal(load_model, folder)


def test_weights_are_compared_before_a_model_gets_memory(folder, refusal, monkeypatch):
    spoil(folder, "architecture", "timm:test_vit2")
    spoil(folder, "architecture", "test_vit2", section=False)
    create, devices = timm.create_model, []

    def watched(*args, **options):
        model = create(*args, **options)
        devices.extend({parameter.device.type for parameter in model.parameters()})
        return model

    monkeypatch.setattr(timm, "create_model", watched)
    assert "does not fit the model" in refusal(load_model, folder)
    assert devices == ["meta"]


@pytest.mark.parametrize("what", ["nan", "missing", "misshapen"])
def test_damaged_weights_are_refused(folder, refusal, what):
    state = load_file(folder / "model.safetensors")
    if what == "nan":
        state["head.bias"][0] = float("nan")
    elif what == "missing":
        del state["head.bias"]
    else:
        state["head.bias"] = torch.zeros(4)
    save_file(state, folder / "model.safetensors")
    assert "head.bias" in refusal(load_model, folder)


# What can be a folder


@pytest.mark.parametrize(
    ("name", "interpolation", "width", "reason"),
    [
        ("test_vit", "bicubic", 64, ""),
        ("test_vit", "lanczos", 64, "resized by lanczos, which the facts of a folder cannot say"),
        ("test_vit", "bicubic", 65, "its pooled features are 65 numbers, but its classifier reads 64"),
        ("deit_tiny_distilled_patch16_224", "bicubic", 192, "its classifier is not one linear layer"),
        ("caformer_s18", "bicubic", 512, "its classifier is not one linear layer"),
        ("vit_huge_patch14_224_in21k", "bicubic", 1280, "lists it under another name"),
    ],
)
def test_why_features_are_no_classifier_of_timm(name, interpolation, width, reason):
    found = why_no_classifier(name, Preparation(224, interpolation=interpolation), width=width)
    assert reason in found
    assert bool(found) == bool(reason)


def test_names_are_those_of_timms_list():
    assert all(map(is_listed, ("resnet50", "resnet50.a1_in1k", "vgg16", "vit_large_patch16_224")))
    assert not any(map(is_listed, ("resnet51", "resnet50.mine", "hf-hub:timm/resnet50", "*", "", ".a1_in1k")))


def test_the_last_layer_is_that_of_timm():
    layers = {"resnet10t": "fc", "test_vit": "head", "densenet121": "classifier", "vgg11": "head.fc"}
    for name, layer in layers.items():
        with torch.device("meta"):
            assert last_layer(timm.create_model(name)) == layer == timm.get_pretrained_cfg(name).classifier


def test_a_preparation_is_written_down_in_full():
    prepare = Preparation(160, 0.95, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear")
    assert preparation_facts(prepare) == OWN_WAY
    assert changed().views.preparation == prepare


def test_an_architecture_that_timm_cannot_build_is_one_line(monkeypatch, refusal):
    def fails(*_, **__):
        raise RuntimeError("of an old\nversion")

    monkeypatch.setattr(timm, "create_model", fails)
    assert "here: timm cannot build test_vit (of an old version)" in refusal(build_timm, FACTS, "here")
