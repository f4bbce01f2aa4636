import numpy as np
import onnx
import pytest
import torch

from uniemox.checkpoints.facts import ModelFacts
from uniemox.export.graph import write_onnx
from uniemox.export.quantize import quantize_file, smooth
from uniemox.inference.onnx_backend import load_onnx
from uniemox.models.classify import TwoViewClassifier, build_classifier

FACTS = ModelFacts(
    kind="classifier", size="mini", patch_size=8, image_size=32, dataset="x", emotion="felt", classes=("a", "b", "c")
)


@pytest.fixture
def model():
    """A classifier with a few channels that are a hundred times larger than others, as pretrained ones have them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_classifier("mini", patch_size=8, image_size=32, num_classes=3, head_std=0.3)
        model.blocks = model.blocks[:2]
        for block in model.blocks:
            for norm, linear in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1)):
                with torch.no_grad():
                    norm.weight[:3] *= 100
                    linear.weight[:, :3] /= 100
        return model.eval()


@pytest.fixture
def pixels():
    return np.random.default_rng(0).standard_normal((24, 1, 3, 32, 32)).astype(np.float32)


def logits(model, pixels):
    with torch.no_grad():
        return model(*torch.from_numpy(pixels).unbind(dim=1)).numpy()


def test_smoothing_changes_no_result_but_the_channels(model, pixels):
    before, first = logits(model, pixels), model.blocks[0].norm1.weight.clone()
    smooth(model, pixels)
    assert np.abs(logits(model, pixels) - before).max() < 1e-4 * np.abs(before).max()
    largest = model.blocks[0].norm1.weight.abs()
    assert first[:3].min() > 90 * first[3:].max()
    assert largest[:3].max() < 10 * largest[3:].median()


def test_smoothing_sees_both_views(model, pixels):
    both = np.concatenate([pixels, pixels[::-1]], axis=1)
    classifier = TwoViewClassifier(model, "sum").eval()
    before = logits(classifier, both)
    smooth(classifier, both)
    assert np.abs(logits(classifier, both) - before).max() < 1e-4 * np.abs(before).max()


@pytest.mark.slow
def test_products_with_weights_alone_are_quantised_and_smoothing_keeps_them_near(model, pixels, tmp_path):
    expected = logits(model, pixels)
    errors = []
    for smoothed in (False, True):
        if smoothed:
            smooth(model, pixels)
        source, out = tmp_path / f"{smoothed}.onnx", tmp_path / f"{smoothed}8.onnx"
        write_onnx(model, FACTS, source, opset=20)
        quantize_file(source, out, ("pixels",), pixels)
        errors.append(np.abs(load_onnx(out, device="cpu").logits(pixels) - expected).mean())
    assert errors[1] < errors[0] / 10  # measured: a fiftieth
    assert errors[1] < 0.1 * np.abs(expected).mean()
    graph = onnx.load(out).graph
    weights = [weight for weight in graph.initializer if weight.data_type == onnx.TensorProto.INT8]
    matrices = [weight for weight in weights if len(weight.dims) == 2]
    assert len(matrices) == 4 * len(model.blocks)
    assert out.stat().st_size < source.stat().st_size / 2
