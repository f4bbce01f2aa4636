"""The model folder of a probe: a classifier like any other, which answers as the probe did."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch

from uniemox.checkpoints.facts import read_facts
from uniemox.config.probe import ProbeConfig
from uniemox.data.pixels import EvaluationViews
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
    assert "no model folder is written: model folders hold vision transformers, prepared as ours are" in heard.texts
