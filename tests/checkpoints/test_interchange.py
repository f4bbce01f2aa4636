"""Folders go both ways between this software, timm and transformers: same labels, order and probabilities."""

import json
import shutil

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_data_config

from uniemox import Predictor
from uniemox.checkpoints.facts import ModelFacts, read_facts
from uniemox.checkpoints.folder import save_model
from uniemox.checkpoints.load import load_model
from uniemox.checkpoints.open import EMBEDDED
from uniemox.models.classify import build_classifier

CLASSES = ("joy", "awe", "fear", "anger")  # in no alphabetical order
TEMPERATURE = 1.7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A calibrated classifier whose answers differ by image."""
    torch.manual_seed(4)
    model = build_classifier("mini", patch_size=8, image_size=32, num_classes=4, head_std=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
        model.head.weight.div_(TEMPERATURE)
        model.head.bias.div_(TEMPERATURE)
    facts = ModelFacts(
        kind="classifier", size="mini", patch_size=8, image_size=32, dataset="painted",
        emotion="evoked", classes=CLASSES, temperature=TEMPERATURE,
    )  # fmt: skip
    out = tmp_path_factory.mktemp("interchange") / "model"
    save_model(model, out, facts)
    return out


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Noise of several shapes, on disk."""
    generator = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("pictures")
    paths = []
    for index, size in enumerate([(60, 80), (33, 47), (200, 64)]):
        coarse = generator.integers(0, 256, (6, 7, 3), np.uint8)
        path = root / f"{index}.png"
        Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).save(path)
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def ours(folder, pictures):
    return [dict(prediction.probabilities) for prediction in Predictor.load(folder, device="cpu").predict(pictures)]


def same(found, expected):
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, abs=1e-4)


def test_the_answers_differ_by_picture(ours):
    assert max(abs(ours[0][name] - ours[1][name]) for name in CLASSES) > 0.01


def test_timm_reads_our_folder(folder, pictures, ours):
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config({}, model=model))
    names = json.loads((folder / "config.json").read_text())["label_names"]
    for path, expected in zip(pictures, ours, strict=True):
        with torch.no_grad():
            probabilities = model(transform(Image.open(path).convert("RGB"))[None]).softmax(1)[0]
        same(dict(zip(names, probabilities.tolist(), strict=True)), expected)


def test_transformers_reads_our_folder(folder, pictures, ours):
    from transformers import pipeline

    classify = pipeline("image-classification", model=str(folder), top_k=4, device="cpu")
    assert [classify.model.config.id2label[index] for index in range(4)] == list(CLASSES)
    for path, expected in zip(pictures, ours, strict=True):
        found = {row["label"]: row["score"] for row in classify(str(path))}
        same({name: found[name] for name in CLASSES}, expected)


def test_the_temperature_is_in_the_weights_and_on_record(folder):
    assert read_facts(folder).temperature == TEMPERATURE
    raw = load_model(folder).model.head.weight * TEMPERATURE
    torch.manual_seed(4)
    assert raw.std() > 0.3  # of head_std 0.5, with the temperature taken out again


def test_we_read_what_transformers_saves_of_it(folder, pictures, ours, tmp_path):
    from transformers import TimmWrapperForImageClassification

    model = TimmWrapperForImageClassification.from_pretrained(str(folder))
    model.save_pretrained(str(tmp_path / "saved"))
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    config.pop("uniemox", None)  # transformers carries it along; without it, the folder is a stranger's
    (tmp_path / "saved" / "config.json").write_text(json.dumps(config))
    predictor = Predictor.load(tmp_path / "saved", device="cpu")
    assert predictor.facts.classes == CLASSES
    assert predictor.facts.dataset == "unknown"
    for prediction, expected in zip(predictor.predict(pictures), ours, strict=True):
        same(dict(prediction.probabilities), expected)


def test_we_read_our_folder_after_timm_has_saved_it_again(folder, pictures, ours, tmp_path):
    from timm.models import save_for_hf

    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    names = json.loads((folder / "config.json").read_text())["label_names"]
    save_for_hf(model, str(tmp_path / "timm"), model_config={"label_names": names}, safe_serialization=True)
    predictor = Predictor.load(tmp_path / "timm", device="cpu")
    for prediction, expected in zip(predictor.predict(pictures), ours, strict=True):
        same(dict(prediction.probabilities), expected)


def test_the_embedded_classifier_is_read_by_transformers(pictures):
    from transformers import pipeline

    classify = pipeline("image-classification", model=str(EMBEDDED["demo"]), top_k=6, device="cpu")
    (prediction,) = Predictor.load("demo", device="cpu").predict(pictures[:1])
    found = {row["label"]: row["score"] for row in classify(str(pictures[0]))}
    assert found == pytest.approx(dict(prediction.probabilities), abs=1e-4)


def test_weights_that_are_stored_in_half_are_trained_by_transformers_under_bf16(folder, tmp_path):
    from transformers import AutoModelForImageClassification

    half = shutil.copytree(folder, tmp_path / "half")
    weights = load_file(half / "model.safetensors")
    save_file({k: v.half() for k, v in weights.items()}, half / "model.safetensors", metadata={"format": "pt"})
    for place, side in ((half, 32), (EMBEDDED["demo"], 64)):
        model = AutoModelForImageClassification.from_pretrained(str(place))
        assert model.dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16):  # as its Trainer does
            loss = model(pixel_values=torch.zeros(2, 3, side, side), labels=torch.tensor([0, 1])).loss
        loss.backward()
        assert torch.isfinite(loss)


def test_a_folder_without_a_card_is_still_a_model(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "model")
    (copy / "README.md").unlink()
    assert load_model(copy).facts == read_facts(folder)
