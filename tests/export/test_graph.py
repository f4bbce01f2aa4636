import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from uniemox.checkpoints.facts import ModelFacts
from uniemox.config.training import ModelConfig
from uniemox.errors import CheckpointError, ConfigError
from uniemox.export import graph
from uniemox.export.graph import write_onnx
from uniemox.inference.onnx_backend import load_onnx
from uniemox.inference.onnx_file import OPERATIONS
from uniemox.models.classify import TwoViewClassifier, build_classifier, read_features
from uniemox.models.fused import FusedClassifier

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


def test_features_are_a_second_output(classifier, tmp_path):
    path = tmp_path / "model.onnx"
    write_onnx(classifier, facts(), path, opset=20, reads_features=True)
    pixels = noise(1)
    with torch.no_grad():
        features = classifier.forward_head(classifier.forward_features(torch.from_numpy(pixels[:, 0])), pre_logits=True)
    assert [output.name for output in onnx.load(path).graph.output] == ["logits", "features"]
    found = onnxruntime.InferenceSession(path).run(["features"], {"pixels": pixels[:, 0]})[0]
    assert found == pytest.approx(features.numpy(), abs=1e-5)
    assert load_onnx(path, device="cpu").domain is None  # which lies beside a file, and here does not
    assert load_onnx(path, device="cpu").outputs(pixels)[1] is None


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
    write_onnx(model, facts(view="both", fusion=fusion), path, opset=20, reads_features=True)
    pixels = noise(2)
    with torch.no_grad():
        expected, features = read_features(model, *torch.from_numpy(pixels).unbind(dim=1))
    backend = load_onnx(path, device="cpu")
    assert backend.facts.fusion == fusion
    assert backend.logits(pixels) == pytest.approx(expected.numpy(), abs=1e-5)
    feed = {"scene": pixels[:, 0], "person": pixels[:, 1]}
    assert backend.session.run(["features"], feed)[0] == pytest.approx(features.numpy(), abs=1e-5)


@pytest.mark.slow
def test_the_fused_token_is_exported(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = ModelConfig(size="mini", patch_size=8, image_size=32, decoder_width=24, decoder_heads=4, fusion="sum")
        model = FusedClassifier(shape, embedding_width=16, num_classes=3).eval()
    model.encoder.blocks = model.encoder.blocks[:2]
    path, pixels = tmp_path / "model.onnx", noise(1)
    kept = {"decoder_width": 24, "decoder_depth": 1, "decoder_heads": 4, "fusion": "sum", "embedding_width": 16}
    write_onnx(
        model, facts(pool="fused", pretraining={**kept, "reconstructs": False}), path, opset=20, reads_features=True
    )
    with torch.no_grad():
        logits, features = read_features(model, torch.from_numpy(pixels[:, 0]))
    assert features.norm(dim=1).numpy() == pytest.approx(1, abs=1e-5)
    backend = load_onnx(path, device="cpu")
    assert backend.logits(pixels) == pytest.approx(logits.numpy(), abs=1e-5)
    assert backend.session.run(["features"], {"pixels": pixels[:, 0]})[0] == pytest.approx(features.numpy(), abs=1e-5)


def test_a_model_that_one_file_cannot_hold_is_refused(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "MAX_BYTES", 1000)
    with pytest.raises(CheckpointError, match="too large for one ONNX file"):
        write_onnx(classifier, facts(), tmp_path / "model.onnx", opset=20)


@pytest.mark.parametrize("name", ["onnx", "onnxscript"])
def test_a_missing_package_says_what_to_install(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install 'uniemox\[export\]'"):
        graph.import_onnx()
