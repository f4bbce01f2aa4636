"""GradCAM and LayerCAM of the encoders that classifiers have."""

import builtins

import numpy as np
import pytest
import timm
import torch
from torch import nn

from uniemox.errors import ConfigError
from uniemox.inference.activations import activation_maps
from uniemox.models.classify import TwoViewClassifier, build_classifier


class Pooled(nn.Module):
    """A convolution whose channels are the red and the green of an image, averaged: GradCAM has a known answer."""

    def __init__(self):
        super().__init__()
        self.places = nn.Conv2d(3, 2, 4, stride=4, bias=False)
        with torch.no_grad():
            self.places.weight.zero_()
            self.places.weight[0, 0] = self.places.weight[1, 1] = 1 / 16

    def forward(self, pixels):
        return self.places(pixels).mean((2, 3))


@pytest.mark.parametrize("method", ["gradcam", "layercam"])
def test_the_map_of_averaged_channels_is_the_channel(method):
    pixels = torch.rand(1, 3, 16, 16)
    found = activation_maps(Pooled(), [pixels], 1, method)
    expected = torch.nn.functional.avg_pool2d(pixels, 4)[0, 1].numpy() / 16  # the gradient of the mean of 4 x 4
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)


@pytest.mark.parametrize("method", ["gradcam", "layercam"])
def test_both_views_of_a_classifier_have_maps(method):
    torch.manual_seed(0)
    encoder = build_classifier("mini", patch_size=8, image_size=32, num_classes=3, head_std=0.5)
    model = TwoViewClassifier(encoder, "attention").eval()
    found = activation_maps(model, list(torch.rand(2, 1, 3, 32, 32)), 0, method)
    assert found.shape == (2, 4, 4)
    assert found.max(axis=(1, 2)).min() > 0
    assert not model.training


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet10t", "convnext_atto"])
def test_encoders_of_timm_have_maps_and_no_hook_is_left(name):
    torch.manual_seed(0)
    size = {"img_size": 32, "patch_size": 8} if name.startswith("vit") else {}
    model = timm.create_model(name, num_classes=4, **size).eval()
    before = [parameter.requires_grad for parameter in model.parameters()]
    found = activation_maps(model, [torch.rand(1, 3, 64 if not size else 32, 64 if not size else 32)], 2, "layercam")
    assert found.shape[0] == 1
    assert found.shape[1] == found.shape[2] > 1
    assert not any(module._forward_hooks for module in model.modules())
    assert [parameter.requires_grad for parameter in model.parameters()] == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_without_places_is_refused_by_name():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    with pytest.raises(ConfigError, match=r"no layer of Sequential has places .*: use `method` occlusion"):
        activation_maps(model, [torch.rand(1, 3, 8, 8)], 0, "gradcam")


def test_without_torchcam_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def fail(name, *more):
        if name.startswith("torchcam"):
            raise ImportError("No module named 'torchcam'")
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(ConfigError, match=r"pip install 'uniemox\[explain\]', or use `method` occlusion"):
        activation_maps(Pooled(), [torch.rand(1, 3, 16, 16)], 0, "gradcam")
