import sys

import numpy as np
import onnx
import pytest
import torch

from uniemox.checkpoints.facts import ModelFacts
from uniemox.errors import CheckpointError, ConfigError
from uniemox.export import graph
from uniemox.export.graph import write_onnx
from uniemox.inference.onnx_backend import load_onnx
from uniemox.inference.onnx_file import OPERATIONS
from uniemox.models.classify import TwoViewClassifier, build_classifier

FACTS = {"size": "mini", "patch_size": 8, "image_size": 32, "dataset": "x", "emotion": "felt"}


@pytest.fixture
def classifier():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_classifier("mini", patch_size=8, image_size=32, num_classes=3, head_std=0.02).eval()
        model.blocks = model.blocks[:2]  # each is traced by itself, which is slow
        yield model


def facts(**more):
    return ModelFacts(kind="classifier", classes=("a", "b", "c"), **FACTS, **more)


def noise(views):
    return np.random.default_rng(0).standard_normal((3, views, 3, 32, 32)).astype(np.float32)


@pytest.mark.parametrize("opset", [18, pytest.param(22, marks=pytest.mark.slow)])
def test_the_graph_gives_what_torch_gives(classifier, tmp_path, opset):
    path = tmp_path / "model.onnx"
    write_onnx(classifier, facts(), path, opset=opset)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    pixels = noise(1)
    with torch.no_grad():
        expected = classifier(torch.from_numpy(pixels[:, 0])).numpy()
    assert load_onnx(path, device="cpu").logits(pixels) == pytest.approx(expected, abs=1e-5)
    model = onnx.load(path)
    assert model.opset_import[0].version == opset
    assert {node.op_type for node in model.graph.node} <= OPERATIONS


@pytest.mark.parametrize(
    "fusion",
    [
        "attention",
        *(pytest.param(fusion, marks=pytest.mark.soak) for fusion in ("sum", "multihead_sum", "gated_mlp", "bilinear")),
    ],
)
@pytest.mark.slow
def test_every_fusion_of_two_views_is_exported(classifier, tmp_path, fusion):
    check_two_views(classifier, tmp_path, fusion)


@pytest.mark.slow
def test_two_views_are_exported(classifier, tmp_path):
    check_two_views(classifier, tmp_path, "scaled_sum")


def check_two_views(classifier, tmp_path, fusion):
    model = TwoViewClassifier(classifier, fusion).eval()
    path = tmp_path / "model.onnx"
    write_onnx(model, facts(view="both", fusion=fusion), path, opset=20)
    pixels = noise(2)
    with torch.no_grad():
        expected = model(*torch.from_numpy(pixels).unbind(dim=1)).numpy()
    backend = load_onnx(path, device="cpu")
    assert backend.facts.fusion == fusion
    assert backend.logits(pixels) == pytest.approx(expected, abs=1e-5)


def test_a_model_that_one_file_cannot_hold_is_refused(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "MAX_BYTES", 1000)
    with pytest.raises(CheckpointError, match="too large for one ONNX file"):
        write_onnx(classifier, facts(), tmp_path / "model.onnx", opset=20)


@pytest.mark.parametrize("name", ["onnx", "onnxscript"])
def test_a_missing_package_says_what_to_install(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install 'uniemox\[export\]'"):
        graph.import_onnx()
