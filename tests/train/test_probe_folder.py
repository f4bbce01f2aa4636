"""The model folder of a probe: a classifier like any other, which answers as the probe did."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config
from timm.models.vision_transformer import VisionTransformer

from uniemox.checkpoints import backbones
from uniemox.checkpoints.facts import read_facts
from uniemox.checkpoints.open import open_model
from uniemox.config.probe import ProbeConfig
from uniemox.data.pixels import EvaluationViews
from uniemox.errors import CheckpointError
from uniemox.export.run import export_onnx
from uniemox.files.images import read_image
from uniemox.inference.evaluate import evaluate
from uniemox.targets.calibration import softmax
from uniemox.train.probe import probe

CLASSES = ("awe", "fear", "joy")


@pytest.fixture
def run(painted, tmp_path, heard):
    """Run a probe of a backbone; return its folder."""

    def start(backbone, **changes):
        out = tmp_path / "probe"
        shared = {"data": painted.path, "out": out, "device": "cpu", "workers": 0, "baselines": False}
        return probe(ProbeConfig(backbone=str(backbone), **shared | changes), heard)

    return start


def probabilities(folder):
    table = pq.read_table(folder / "predictions.parquet")
    return np.stack([table[f"p_{name}"].to_numpy() for name in CLASSES], 1)


@pytest.mark.parametrize(
    ("start", "changes"),
    [
        ("pretrained", {}),
        ("pretrained", {"pool": "mean"}),
        ("pretrained", {"pool": "cls_mean"}),
        ("pretrained", {"head": "linear", "epochs": 5, "base_lr": 1e-2}),
        ("pretrained", {"view": "person"}),
        ("finetuned", {}),
        ("finetuned", {"pool": "cls"}),
    ],
)
def test_the_model_answers_as_the_probe(run, request, painted, tmp_path, start, changes):
    out = run(request.getfixturevalue(start).model, **changes)
    evaluate(str(out), data=painted.path, out=tmp_path / "again", device="cpu", num_workers=0, baselines=False)
    np.testing.assert_allclose(probabilities(tmp_path / "again"), probabilities(out / "test"), atol=1e-5)


def test_the_folder_is_a_model_of_timm(run, pretrained, painted):
    out = run(pretrained.model)
    model = timm.create_model(f"local-dir:{out / 'model'}", pretrained=True).eval()
    prepare = EvaluationViews(size=32, view="scene", person=read_facts(out / "model").person)
    test = painted.manifest.select(["test"])
    with torch.no_grad():
        pixels = np.concatenate([prepare(read_image(test.row(i).path)) for i in range(len(test))])
        logits = model(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(softmax(logits), probabilities(out / "test"), atol=1e-5)


def test_the_facts_say_where_the_head_comes_from(run, pretrained):
    out = run(pretrained.model)
    facts, story = read_facts(out / "model"), json.loads((out / "probe.json").read_text())
    assert (facts.kind, facts.pool, facts.view, facts.classes) == ("classifier", "cls", "scene", CLASSES)
    assert facts.temperature == pytest.approx(story["temperature"])
    assert facts.metrics["test_top1"] == pytest.approx(story["test"]["top1"], abs=1e-4)
    assert facts.provenance["head"] == f"on the frozen encoder, with C {story['chosen']['C']:g}"
    assert facts.provenance["init"] == story["backbone"]["weights"]
    assert not any(
        str(Path(path).parent) in (out / "model" / "config.json").read_text() for path in (pretrained.model, out)
    )
    assert story["no_model"] == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"head": "knn"}, "head knn is no layer of a model"),
        ({"view": "both"}, "the features of two views are side by side, which no model of ours computes"),
        ({"precision": "bf16"}, "features were computed in bf16: take `precision` fp32"),
    ],
)
def test_what_is_no_classifier_of_ours_leaves_no_folder_and_says_so(run, pretrained, heard, changes, reason):
    out = run(pretrained.model, **changes)
    assert not (out / "model").exists()
    assert f"no model folder is written: {reason}" in heard.texts
    assert json.loads((out / "probe.json").read_text())["no_model"] == reason


def test_other_towers_leave_no_folder(run, tiny_clip, heard):
    out = run(f"clip:{tiny_clip}")
    assert not (out / "model").exists()
    reason = "model folders hold vision transformers of ours and models of timm with their own pooling"
    assert f"no model folder is written: {reason}" in heard.texts


# Models of timm


@pytest.fixture
def of_timm(tmp_path):
    """Name a model of timm with seeded random weights, in a file."""

    def make(architecture):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            model = timm.create_model(architecture, pretrained=False)
        file = tmp_path / f"{architecture}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, file)
        return f"timm:{architecture}={file}"

    return make


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("resnet10t", {}),
        ("test_vit", {"head": "linear", "epochs": 5, "base_lr": 1e-2}),
        ("test_vit2", {"view": "person"}),
        ("test_efficientnet", {}),
    ],
)
def test_a_model_of_timm_answers_as_the_probe(run, of_timm, painted, tmp_path, architecture, changes):
    out = run(of_timm(architecture), **changes)
    evaluate(str(out), data=painted.path, out=tmp_path / "again", device="cpu", num_workers=0, baselines=False)
    np.testing.assert_allclose(probabilities(tmp_path / "again"), probabilities(out / "test"), atol=1e-5)


@pytest.mark.parametrize("architecture", ["resnet10t", "test_vit", "densenet121"])
def test_timm_alone_answers_as_the_probe(run, of_timm, painted, architecture):
    out = run(of_timm(architecture))
    model = timm.create_model(f"local-dir:{out / 'model'}", pretrained=True).eval()
    prepare = create_transform(**resolve_data_config(model=model))
    test = painted.manifest.select(["test"])
    with torch.no_grad():
        pixels = torch.stack([prepare(Image.open(test.row(i).path).convert("RGB")) for i in range(len(test))])
        logits = model(pixels).numpy()
    np.testing.assert_allclose(softmax(logits), probabilities(out / "test"), atol=1e-5)


def test_the_facts_say_what_model_of_timm_it_is(run, of_timm):
    out = run(of_timm("test_vit"))
    facts, story = read_facts(out / "model"), json.loads((out / "probe.json").read_text())
    assert (facts.size, facts.architecture, facts.image_size) == (None, "timm:test_vit", 160)
    assert facts.preparation.crop_share == timm.get_pretrained_cfg("test_vit").crop_pct
    assert (facts.classes, facts.licence) == (CLASSES, "")
    assert facts.temperature == pytest.approx(story["temperature"])
    assert facts.metrics["test_top1"] == pytest.approx(story["test"]["top1"], abs=1e-4)
    assert facts.provenance["init"] == f"timm test_vit, {story['backbone']['weights']}"
    assert str(out.parent) not in (out / "model" / "config.json").read_text()
    assert story["no_model"] == ""


def test_the_licence_of_timms_own_weights_is_carried(run, of_timm, monkeypatch):
    file = of_timm("test_vit").partition("=")[2]
    monkeypatch.setattr(backbones, "_fetch", lambda *_: Path(file))
    out = run("timm:test_vit.r160_in1k")
    assert read_facts(out / "model").licence == "not stated; follows from a start under: apache-2.0"


@pytest.mark.parametrize("architecture", ["test_vit", "resnet10t"])
def test_an_export_of_a_model_of_timm_answers_without_torch_as_the_probe(run, of_timm, painted, tmp_path, architecture):
    out = run(of_timm(architecture))
    export_onnx(str(out), tmp_path / "onnx")
    onnx = str(tmp_path / "onnx")
    evaluate(onnx, data=painted.path, out=tmp_path / "again", device="cpu", num_workers=0, baselines=False)
    np.testing.assert_allclose(probabilities(tmp_path / "again"), probabilities(out / "test"), atol=1e-5)


def test_an_export_that_our_reader_would_refuse_is_refused(run, of_timm, tmp_path):
    out = run(of_timm("mobilenetv3_small_050"))
    with pytest.raises(CheckpointError, match="the operation 'HardSwish', which no exported classifier does"):
        export_onnx(str(out), tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


@pytest.mark.parametrize(
    ("architecture", "changes", "reason"),
    [
        ("test_vit", {"head": "knn"}, "head knn is no layer of a model"),
        ("test_vit", {"pool": "mean"}, "and models of timm with their own pooling: omit `pool`"),
        ("test_vit", {"view": "both"}, "the features of two views are side by side"),
        ("test_vit", {"precision": "bf16"}, "features were computed in bf16: take `precision` fp32"),
        ("test_convnext3", {"interpolation": "lanczos"}, "its images are resized by lanczos"),
        ("deit_tiny_distilled_patch16_224", {}, "its classifier is not one linear layer"),
    ],
)
def test_a_model_of_timm_that_is_no_folder_says_why(run, of_timm, heard, monkeypatch, architecture, changes, reason):
    changes = dict(changes)
    if filter_name := changes.pop("interpolation", None):
        config = dataclasses.replace(timm.get_pretrained_cfg(architecture), interpolation=filter_name)
        monkeypatch.setattr(backbones, "get_pretrained_cfg", lambda _: config)
    out = run(of_timm(architecture), **changes)
    assert not (out / "model").exists()
    told = json.loads((out / "probe.json").read_text())["no_model"]
    assert reason in told
    assert f"no model folder is written: {told}" in heard.texts
    with pytest.raises(CheckpointError, match="is a probe that left no model, since"):
        open_model(out)


def test_a_classifier_that_changes_the_features_first_is_no_folder(run, of_timm, monkeypatch):
    head = VisionTransformer.forward_head

    def doubled(self, tokens, pre_logits=False):
        return head(self, tokens, pre_logits=pre_logits) * (2 if pre_logits else 1)

    monkeypatch.setattr(VisionTransformer, "forward_head", doubled)
    out = run(of_timm("test_vit"))
    assert "does not read its pooled features as they are" in json.loads((out / "probe.json").read_text())["no_model"]
