"""Backbones by name, against timm and open_clip used by themselves."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_data_config

import uniemox
from uniemox.checkpoints import backbones
from uniemox.checkpoints.backbones import find_backbone
from uniemox.checkpoints.load import load_model, load_pretraining
from uniemox.data.pixels import Preparation
from uniemox.errors import CheckpointError, ConfigError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images():
    generator = np.random.default_rng(5)
    return [Image.fromarray(generator.integers(0, 256, (*sides, 3), np.uint8)) for sides in ((300, 260), (90, 400))]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Write a model of timm with seeded random weights; give it and its file."""
    folder = tmp_path_factory.mktemp("timm")

    def make(architecture):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            model = timm.create_model(architecture, pretrained=False).eval()
        file = folder / f"{architecture}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, file)
        return model, file

    return make


def features_of(name, images, **options):
    loaded = find_backbone(name, **options).load(CPU, "fp32")
    with torch.no_grad():
        return loaded.encode(torch.stack([torch.from_numpy(loaded.prepare(image)) for image in images]))


# timm


@pytest.mark.parametrize("architecture", ["resnet18", "densenet121", "test_vit", "test_vit2", "test_vit3"])
def test_features_of_timm_are_those_of_timm_alone(weights, images, architecture):
    model, file = weights(architecture)
    prepare = create_transform(**resolve_data_config(model=model))
    with torch.no_grad():
        tokens = model.forward_features(torch.stack([prepare(image) for image in images]))
        expected = model.forward_head(tokens, pre_logits=True)
    # torch 2.8 adds in another order where a weight is aligned otherwise in memory: 2.2e-8 of numbers up to .5.
    torch.testing.assert_close(features_of(f"timm:{architecture}={file}", images), expected, rtol=0, atol=1e-7)


def test_images_are_squashed_where_timm_squashes_them(images):
    names = [n for n in timm.list_models(pretrained=True) if timm.get_pretrained_cfg(n).crop_mode == "squash"]
    shares = {timm.get_pretrained_cfg(name).crop_pct: name for name in names}
    for name in shares.values():
        config = timm.get_pretrained_cfg(name).to_dict()
        theirs = create_transform(**resolve_data_config({}, pretrained_cfg=config))
        ours = backbones._preparation_of(name, timm.get_pretrained_cfg(name))
        for image in images:
            assert np.array_equal(ours(image), theirs(image).numpy()), name


@pytest.mark.parametrize("form", [{"crop_mode": "border"}, {"input_size": (3, 224, 256)}], ids=["borders", "wide"])
def test_images_in_a_form_that_is_not_known_are_refused(form, monkeypatch):
    odd = dataclasses.replace(timm.get_pretrained_cfg("resnet18"), **form)
    monkeypatch.setattr(backbones, "get_pretrained_cfg", lambda *_, **__: odd)
    with pytest.raises(ConfigError, match="made for images in a form that is not known here"):
        find_backbone("timm:resnet18")


@pytest.mark.parametrize("pool", ["cls", "mean", "cls_mean"])
def test_a_vision_transformer_of_timm_is_pooled_as_asked(weights, images, pool):
    model, file = weights("test_vit")
    prepare = create_transform(**resolve_data_config(model=model))
    with torch.no_grad():
        tokens = model.forward_features(torch.stack([prepare(image) for image in images]))
        model.norm = torch.nn.Identity()
        raw = model.forward_features(torch.stack([prepare(image) for image in images]))
        mean = raw[:, 1:].mean(1)
        expected = {
            "cls": tokens[:, 0],
            "mean": (mean - mean.mean(1, keepdim=True)) / (mean.var(1, keepdim=True, correction=0) + 1e-6).sqrt(),
            "cls_mean": torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1),
        }
    found = features_of(f"timm:test_vit={file}", images, pool=pool)
    torch.testing.assert_close(found, expected[pool], atol=1e-5, rtol=1e-5)


def test_a_norm_of_timm_that_follows_the_mean_is_kept(weights, images):
    model, file = weights("test_vit2")
    assert model.global_pool == "avg"
    assert isinstance(model.fc_norm, torch.nn.LayerNorm)
    name = f"timm:test_vit2={file}"
    assert torch.equal(features_of(name, images, pool="mean"), features_of(name, images))


# CLIP


@pytest.mark.parametrize("name", ["clip:demo", "clip:FOLDER"])
def test_features_of_a_clip_are_those_of_open_clip_alone(tiny_clip, images, name):
    folder = Path(uniemox.__file__).parent / "demo/assets/mini_clip" if name == "clip:demo" else tiny_clip
    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    with torch.no_grad():
        expected = model.eval().encode_image(torch.stack([prepare(image) for image in images]))
    found = features_of(name.replace("FOLDER", str(folder)), images)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_a_clip_that_squashes_images_gets_them_squashed(tiny_clip, images, tmp_path):
    folder = tmp_path / "squash"
    shutil.copytree(tiny_clip, folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["preprocess_cfg"] |= {"resize_mode": "squash", "interpolation": "bilinear"}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    with torch.no_grad():
        expected = model.eval().encode_image(torch.stack([prepare(image) for image in images]))
    torch.testing.assert_close(features_of(f"clip:{folder}", images), expected, atol=1e-6, rtol=1e-5)
    assert find_backbone(f"clip:{folder}").identity != find_backbone(f"clip:{tiny_clip}").identity


# Encoders of ours, and of others


def test_a_pretrained_model_gives_its_class_token(pretrained, images):
    encoder = load_pretraining(pretrained.model).model.encoder.eval()
    prepare = Preparation(32)
    with torch.no_grad():
        expected = encoder.forward_features(torch.stack([torch.from_numpy(prepare(image)) for image in images]))[:, 0]
    found = features_of(str(pretrained.model), images)
    torch.testing.assert_close(found, expected)
    assert torch.equal(found, features_of(str(pretrained.model), images, pool="cls"))
    assert find_backbone(str(pretrained.model)).pool == "cls"


def test_a_classifier_gives_what_its_head_reads_but_for_the_weights_of_its_norm(finetuned, images, caplog):
    model = load_model(finetuned.model).model
    prepare = Preparation(32)
    with torch.no_grad():
        pixels = torch.stack([torch.from_numpy(prepare(image)) for image in images])
        expected = model.forward_head(model.forward_features(pixels), pre_logits=True)
        found = features_of(str(finetuned.model), images) * model.fc_norm.weight + model.fc_norm.bias
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    with caplog.at_level(logging.INFO, "uniemox"):
        features_of(str(finetuned.model), images, pool="cls")
    assert "keeps no final norm" in caplog.text


def test_a_file_that_others_wrote_is_an_encoder(weights, images):
    model, file = weights("vit_tiny_patch16_224")
    prepare = Preparation(224)
    with torch.no_grad():
        expected = model.forward_features(torch.stack([torch.from_numpy(prepare(image)) for image in images]))[:, 0]
    torch.testing.assert_close(features_of(str(file), images), expected, atol=1e-5, rtol=1e-5)


# What is found is not loaded


def test_what_a_backbone_is_follows_from_its_weights_its_pooling_and_its_images(weights, tmp_path, monkeypatch):
    _, file = weights("vit_tiny_patch16_224")
    other = tmp_path / "other.safetensors"
    save_file({name: tensor + 1e-3 for name, tensor in load_file(file).items()}, other)
    monkeypatch.setattr(backbones, "read_state", lambda path: pytest.fail("weights were read"))
    monkeypatch.setattr(backbones, "load_start", lambda name: pytest.fail("weights were read"))
    name = "timm:vit_tiny_patch16_224"
    found = [
        find_backbone(f"{name}={file}"),
        find_backbone(f"{name}={other}"),
        find_backbone(f"{name}={file}", pool="mean"),
        find_backbone(f"timm:vit_tiny_patch16_384={file}"),
        find_backbone(str(file)),
        find_backbone(str(file), pool="mean"),
    ]
    identities = [sorted(one.identity.items()) for one in found]
    assert len({str(identity) for identity in identities}) == len(found)
    assert identities[0] == sorted(find_backbone(f"{name}={file}").identity.items())


def test_building_a_backbone_leaves_the_global_generator_alone(weights, images):
    _, file = weights("resnet18")
    before = torch.get_rng_state()
    features_of(f"timm:resnet18={file}", images)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_in_the_cache_of_the_hub_are_found(weights, images, tmp_path, monkeypatch):
    _, file = weights("resnet18")
    monkeypatch.setattr(backbones, "try_to_load_from_cache", lambda repo, name: str(file))
    assert torch.equal(features_of("timm:resnet18.a1_in1k", images), features_of(f"timm:resnet18={file}", images))


# Bad input


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet51", "names no architecture of timm; did you mean resnet51q"),
        ("timm:", "names no architecture of timm: give timm:NAME"),
        ("timm:resnet50.mine", "but timm's weights of it are a1_in1k"),
        ("timm:resnet18=absent.pt", "but no file is at absent.pt"),
        ("resnet18", "an architecture of timm: give `timm:resnet18`"),
        ("clip:ViT-B-17/openai", "its architecture is 'ViT-B-17', neither a folder nor an architecture"),
        ("clip:ViT-B-16", "does not name both architecture and weights"),
    ],
)
def test_a_bad_name_is_one_clear_line(name, message):
    with pytest.raises(ConfigError) as error:
        find_backbone(name)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        (
            "timm:resnet18",
            "`hf download timm/resnet18.a1_in1k model.safetensors`, or give a file of them, `timm:resnet18=FILE`",
        ),
        ("clip:ViT-B-16/openai", "`clip:ARCH=FILE`"),
        ("absent", "no model folder at absent"),
    ],
)
def test_weights_that_are_not_at_hand_are_one_line_with_the_next_step(name, step, tmp_path, monkeypatch):
    monkeypatch.setattr(backbones, "try_to_load_from_cache", lambda repo, file: None)
    with pytest.raises(CheckpointError) as error:
        find_backbone(name)
    assert step in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_of_another_architecture_are_refused(weights):
    _, file = weights("resnet18")
    with pytest.raises(CheckpointError, match=r"does not fit timm's resnet34: ResNet: Missing key\(s\)"):
        find_backbone(f"timm:resnet34={file}").load(CPU, "fp32")


def test_weights_that_are_more_than_the_architecture_are_refused(weights, tmp_path):
    _, file = weights("resnet18")
    save_file({**load_file(file), "layer5.weight": torch.zeros(1)}, tmp_path / "more.safetensors")
    with pytest.raises(CheckpointError, match=r"does not fit timm's resnet18: ResNet: Unexpected key\(s\)"):
        find_backbone(f"timm:resnet18={tmp_path / 'more.safetensors'}").load(CPU, "fp32")


def test_weights_that_could_run_code_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    torch.save({"conv1.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="could run code"):
        find_backbone(f"timm:resnet18={tmp_path / 'evil.pth'}").load(CPU, "fp32")


def test_weights_that_are_not_finite_are_refused(weights, tmp_path):
    _, file = weights("resnet18")
    state = load_file(file)
    state["conv1.weight"][0, 0, 0, 0] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(CheckpointError, match="not finite in model"):
        find_backbone(f"timm:resnet18={tmp_path / 'nan.safetensors'}").load(CPU, "fp32")


def test_a_backbone_without_pooled_features_is_refused(weights, monkeypatch):
    _, file = weights("resnet18")
    made = timm.create_model("resnet18", num_classes=0, global_pool="")
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: made)
    with pytest.raises(CheckpointError, match="gives no pooled features but 512 × 7 × 7 of an image"):
        find_backbone(f"timm:resnet18={file}").load(CPU, "fp32")


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("resnet18", "is a ResNet, not a plain vision transformer: omit `pool`"),
        ("test_vit2", "has no class token: take mean, or omit `pool`"),
    ],
)
def test_a_class_token_is_not_asked_of_what_has_none(weights, architecture, message):
    _, file = weights(architecture)
    with pytest.raises(ConfigError, match=message):
        find_backbone(f"timm:{architecture}={file}", pool="cls").load(CPU, "fp32")
