import dataclasses

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from uniemox.checkpoints.folder import Classifier
from uniemox.checkpoints.load import load_model
from uniemox.config.zero_shot import ZeroShotConfig
from uniemox.data.transforms import evaluation
from uniemox.errors import CheckpointError, ConfigError
from uniemox.inference.torch_backend import TorchBackend, load_torch


def test_logits_are_those_of_the_model_on_prepared_pixels(finetuned):
    backend = load_torch(finetuned.model, device="cpu")
    noise = np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), np.uint8)
    images = [Image.fromarray(pixels) for pixels in noise]
    logits = backend.logits(np.stack([backend.facts.views(image) for image in images]))
    model = load_model(finetuned.model).model
    with torch.no_grad():
        expected = model(torch.stack([evaluation(32)(image) for image in images]))
    assert logits.dtype == np.float32
    assert np.array_equal(logits, expected.numpy())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_gives_no_number_is_an_error_and_not_the_first_class(value, finetuned):
    backend = load_torch(finetuned.model, device="cpu")
    pixels = np.zeros((1, 1, 3, 32, 32), np.float32)
    with torch.no_grad():
        next(parameter for name, parameter in backend.model.named_parameters() if name.endswith("bias"))[0] = value
    for run in (backend.logits, backend.outputs):
        with pytest.raises(CheckpointError, match="the model gave no finite number for a class"):
            run(pixels)


def test_a_pretrained_model_wants_the_names_of_classes(pretrained):
    with pytest.raises(ConfigError, match="has no classes of its own: give them as `taxonomy`"):
        load_torch(pretrained.model, device="cpu")


def test_a_clip_is_refused_in_bf16_which_it_would_not_compute_in():
    with pytest.raises(ConfigError, match=r"precision is bf16, but .* computes in fp32: omit `precision`"):
        load_torch("clip:demo", device="cpu", precision="bf16", zero_shot=ZeroShotConfig(taxonomy="mikels"))


@pytest.mark.parametrize("kind", ["classifier", "clip", "pretrained", "timm"])
def test_features_are_what_the_last_layer_reads_and_logits_are_those_of_the_model(kind, finetuned, pretrained):
    if kind == "timm":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = timm.create_model("resnet10t", num_classes=2).eval()
        facts = dataclasses.replace(load_model(finetuned.model).facts, size=None, architecture="timm:resnet10t")
        backend = TorchBackend(Classifier(model, facts), torch.device("cpu"), precision="fp32")
        last = model.fc
    else:
        name = {"classifier": finetuned.model, "clip": "clip:demo", "pretrained": pretrained.model}[kind]
        asked = None if kind == "classifier" else ZeroShotConfig(taxonomy="ekman")
        backend = load_torch(name, device="cpu", zero_shot=asked)
        last = backend.model.head
    side = backend.facts.image_size
    views = 2 if backend.facts.view == "both" else 1
    pixels = np.random.default_rng(0).standard_normal((3, views, 3, side, side)).astype(np.float32)
    logits, features = backend.embed(pixels)
    assert features.shape == (3, last.in_features)
    np.testing.assert_allclose(logits, last(torch.from_numpy(features)).detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(logits, backend.logits(pixels), atol=1e-5)
