"""Classifiers on every token and view: each folder is read by every command, and by timm and transformers where it can.

The oracle is written with timm's encoder and torch's functions alone, from the published formulas.
"""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from uniemox import Predictor
from uniemox.checkpoints import hub
from uniemox.checkpoints.domain import FEATURES_NAME
from uniemox.checkpoints.facts import read_facts
from uniemox.checkpoints.folder import restate
from uniemox.checkpoints.inspection import inspect
from uniemox.checkpoints.load import load_model
from uniemox.checkpoints.open import EMBEDDED
from uniemox.errors import CheckpointError, ConfigError
from uniemox.export.run import export_onnx
from uniemox.inference.evaluate import evaluate
from uniemox.train.finetune import finetune
from uniemox.train.pretrain import pretrain

TAKEN = {"size": None, "patch_size": None, "image_size": None}
CASES = [
    *(("cls", "scene"), ("cls", "both"), ("cls_mean", "scene"), ("cls_mean", "both")),
    *(("fused", "scene"), ("fused", "person"), ("fused", "both")),
]
FILES = {"cls": "model", "cls_mean": "class_and_mean", "fused": "fused"}
every_folder = pytest.mark.parametrize(("pool", "view"), CASES)


@pytest.fixture(scope="module")
def make(finetune_config, pretrained, tmp_path_factory):
    """Make a classifier by a step of fine-tuning, once."""
    made = {}

    def once(pool, view):
        if (pool, view) not in made:
            more = {"pool": pool, "view": view, "head_std": 0.5, "max_steps": 1, "baselines": False}
            more |= {"head": "language"} if pool == "fused" else {}
            out = tmp_path_factory.mktemp("pools") / "run"
            with torch.enable_grad():
                made[pool, view] = finetune(finetune_config(out, init=str(pretrained.model), **more, **TAKEN))
        return made[pool, view]

    return once


def weights_of(folder):
    (path,) = (path for path in folder.glob("*.safetensors") if path.name != FEATURES_NAME)
    return load_file(path)


def encoder_in(weights):
    names = [name for name in weights if name.startswith("encoder.")]
    return {name.removeprefix("encoder."): weights[name] for name in names} if names else dict(weights)


@torch.no_grad()
def by_hand(folder, pool, *views):
    """Compute logits of views (B, 3, 32, 32) from the files of a folder."""
    weights = weights_of(folder)
    state = encoder_in(weights)
    head = [weights[f"head.{kind}"] if pool == "fused" else state[f"head.{kind}"] for kind in ("weight", "bias")]
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 6, "num_heads": 4, "num_classes": 0}
    vit = timm.create_model("vit_tiny_patch16_224", **shape).eval()
    vit.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("head.")})

    def linear(name, x):
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x):
        return F.layer_norm(x, x.shape[-1:], weights["fusion.norm.weight"], weights["fusion.norm.bias"], 1e-6)

    def read(pixels):
        tokens = vit.forward_features(pixels)
        if pool == "cls_mean":
            return torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1)
        return linear("decoder_embed", tokens[:, 0]) if pool == "fused" else tokens[:, 0]

    read_views = [read(pixels) for pixels in views]
    if pool == "fused" or len(views) == 2:
        gamma = F.elu(linear("fusion.linear", norm(read_views[0]) + norm(read_views[-1])))
    else:
        (gamma,) = read_views
    if pool == "fused":
        gamma = F.normalize(linear("projection", gamma) if "projection.weight" in weights else gamma)
    return F.linear(gamma, *head)


def noise(view, count=3):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, 3, 32, 32, generator=generator) for _ in range(2 if view == "both" else 1)]


@every_folder
@torch.no_grad()
def test_a_folder_answers_by_the_formula_and_scores_as_the_run_did(make, painted, pool, view):
    folder = make(pool, view)
    expected = by_hand(folder, pool, *noise(view))
    assert expected.std() > 0.05
    torch.testing.assert_close(load_model(folder).model(*noise(view)), expected, atol=1e-5, rtol=1e-5)
    scores = evaluate(str(folder), data=painted.path, device="cpu", num_workers=0, baselines=False)
    recorded = {name: value for name, value in read_facts(folder).metrics.items() if name.startswith("test_")}
    assert recorded == {f"test_{name}": round(value, 4) for name, value in scores.kept.items()}


@every_folder
def test_a_folder_is_inspected_sent_stated_again_and_not_converted(make, tmp_path, run, pool, view):
    folder = make(pool, view)
    name = f"{'two_views' if view == 'both' and pool != 'fused' else FILES[pool]}.safetensors"
    assert (
        {path.name for path in folder.iterdir()} == {name, FEATURES_NAME, "config.json", "README.md"} <= set(hub._FILES)
    )
    found = inspect(str(folder))
    assert (found.missing, found.extra, found.misshapen, found.not_finite) == ((), (), (), ())
    assert (found.architecture["pool"], found.architecture["view"]) == (pool, view)
    assert ("fusion" in found.architecture) == (view == "both" or pool == "fused")
    assert set(found.sha256) == {name}
    code, _, err = run("checkpoint", "convert", folder, "--out", tmp_path / "out")
    assert code == 1
    assert "is a model folder of this software already" in err
    before, facts = (folder / name).read_bytes(), read_facts(folder)
    restate(folder, replace(facts, metrics={**facts.metrics, "more": 1.0}))
    assert read_facts(folder).metrics["more"] == 1.0
    assert (folder / name).read_bytes() == before
    restate(folder, facts)


def test_what_a_pretrained_model_knows_of_language_survives_new_facts(tmp_path):
    folder = shutil.copytree(EMBEDDED["demo-pretrained"], tmp_path / "model")
    before = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    assert before.keys() == {"model.safetensors", "pretrain.safetensors", "texts.safetensors"} <= set(hub._FILES)
    restate(folder, replace(read_facts(folder), metrics={"x": 1.0}))
    assert {path.name: path.read_bytes() for path in folder.glob("*.safetensors")} == before


@torch.no_grad()
def test_a_class_token_of_one_view_is_read_by_timm_and_transformers(make):
    from transformers import AutoModelForImageClassification

    folder, pixels = make("cls", "scene"), noise("scene")
    expected = by_hand(folder, "cls", *pixels)
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    torch.testing.assert_close(theirs(*pixels), expected, atol=1e-5, rtol=1e-5)
    wrapped = AutoModelForImageClassification.from_pretrained(str(folder)).eval()
    torch.testing.assert_close(wrapped(*pixels).logits, expected, atol=1e-5, rtol=1e-5)
    assert list(wrapped.config.id2label.values()) == ["awe", "fear", "joy"]


@every_folder
def test_timm_reads_no_part_of_the_others(make, pool, view):
    if (pool, view) != ("cls", "scene"):
        with pytest.raises(RuntimeError, match=r"Unknown model .*uniemox_"):
            timm.create_model(f"local-dir:{make(pool, view)}", pretrained=True)


@pytest.mark.parametrize(("pool", "view"), [("cls_mean", "scene"), ("fused", "both")])
def test_the_commands_predict_and_evaluate(make, painted, tmp_path, run, pool, view):
    folder, here = make(pool, view), ["--device", "cpu", "--workers", "0"]
    pictures = sorted((painted.root / "test").rglob("*.png"))[:3]
    code, _, err = run("predict", folder, *pictures, "--out", tmp_path / "table.csv", *here)
    assert code == 0, err
    facts = read_facts(folder)
    for row, path in zip(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()), pictures, strict=True):
        views = torch.from_numpy(facts.views(Image.open(path).convert("RGB"))).unsqueeze(1)
        expected = by_hand(folder, pool, *views).softmax(1)[0].tolist()
        assert [float(row[f"p_{name}"]) for name in facts.classes] == pytest.approx(expected, abs=1e-4)
    code, out, err = run("evaluate", folder, "--data", painted.path, "--baselines", "false", "--json", *here)
    assert code == 0, err
    assert round(json.loads(out)["top1"], 4) == facts.metrics["test_top1"]


# Starts


def left_by(folder):
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.parametrize(("pool", "view"), [("cls", "scene"), ("cls_mean", "both"), ("fused", "scene")])
def test_a_folder_is_a_start_of_another_fine_tuning(make, finetune_config, tmp_path, pool, view):
    """A trained share of 0 leaves the start."""
    folder = make(pool, view)
    others = [("mean", "scene"), ("cls_mean", "both"), *([("fused", "both")] if pool == "fused" else [])]
    before = encoder_in(weights_of(folder))
    for other, of_view in others:
        more = {"pool": other, "view": of_view, "trained_share": 0.0, "max_steps": 1, "baselines": False, **TAKEN}
        left = finetune(finetune_config(tmp_path / other, init=str(folder), **more))
        after = encoder_in(weights_of(left))
        kept = {name for name in before if not name.startswith(("head.", "norm."))}  # which `mean` has no use for
        assert len(kept) > 70
        for name in kept:
            torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=0, msg=name)
        assert read_facts(left).provenance["init"].startswith("classifier on painted, sha256 ")
    if pool == "fused":
        own, theirs = weights_of(folder), weights_of(left)
        beside = {name for name in own if name.startswith(("decoder_embed.", "fusion.", "projection."))}
        assert beside
        assert all(torch.allclose(theirs[name], own[name], atol=1e-6) for name in beside)


@pytest.mark.parametrize("pool", ["cls", "cls_mean"])
def test_a_folder_without_a_fused_token_is_no_start_of_one(make, finetune_config, tmp_path, pool):
    with pytest.raises(ConfigError, match="has no fused token, which pool fused needs"):
        finetune(finetune_config(tmp_path / "run", init=str(make(pool, "both")), pool="fused", **TAKEN))


@pytest.mark.parametrize(("pool", "view"), [("cls", "scene"), ("cls_mean", "both"), ("fused", "both")])
def test_a_folder_is_a_start_of_pretraining(make, pretrain_config, tmp_path, heard, pool, view):
    folder = make(pool, view)
    nothing = {"base_lr": 1e-30, "weight_decay": 0.0}
    after = left_by(pretrain(pretrain_config(tmp_path / "run", init=str(folder), max_steps=1, optim=nothing), heard))
    for name, tensor in encoder_in(weights_of(folder)).items():
        if not name.startswith("head."):
            torch.testing.assert_close(after[name], tensor, atol=1e-6, rtol=0, msg=name)
    (lacking,) = (text for text in heard.texts if "starts from random weights" in text)
    assert lacking.startswith("decoder: " if pool == "fused" else "decoder, decoder_embed, fusion: ")


def test_a_head_of_language_on_a_classifiers_token_asks_for_the_teacher(make, finetune_config, tmp_path, tiny_clip):
    more = {"init": str(make("fused", "both")), "pool": "fused", "head": "language", "max_steps": 1, **TAKEN}
    with pytest.raises(ConfigError, match="does not say from which CLIP it was distilled: give that as `teacher`"):
        finetune(finetune_config(tmp_path / "run", **more))
    folder = finetune(finetune_config(tmp_path / "other", teacher=f"clip:{tiny_clip}", **more))
    assert read_facts(folder).pool == "fused"


# Exports

CHILD = """
import sys
import numpy as np

class Refuse:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("torch", "timm", "open_clip"):
            raise AssertionError(f"{name} was imported")

sys.meta_path.insert(0, Refuse())
from uniemox import Predictor
from uniemox.inference.backend import load_backend

folder, pixels, out, picture = sys.argv[1:]
np.save(out, load_backend(folder, device="cpu").logits(np.load(pixels)))
(found,) = Predictor.load(folder).predict([picture])
print(found.predicted)
"""
slow = pytest.mark.slow
RARE = (("cls", "both"), ("cls_mean", "scene"), ("fused", "scene"))  # each part of their graphs is in another's


@pytest.mark.parametrize(
    ("pool", "view"),
    [
        case if case == ("fused", "both") else pytest.param(*case, marks=pytest.mark.soak if case in RARE else slow)
        for case in CASES
    ],
)
def test_an_export_gives_the_logits_of_the_formula_without_torch(make, painted, tmp_path, pool, view):
    folder = make(pool, view)
    assert export_onnx(str(folder), tmp_path / "out").fp32_difference < 1e-5
    np.save(tmp_path / "pixels.npy", np.stack(noise(view, 5), axis=1))
    picture = next((painted.root / "test").rglob("*.png"))
    words = [tmp_path / "out", tmp_path / "pixels.npy", tmp_path / "logits.npy", picture]
    ended = subprocess.run([sys.executable, "-c", CHILD, *words], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    expected = by_hand(folder, pool, *noise(view, 5)).numpy()
    assert np.load(tmp_path / "logits.npy") == pytest.approx(expected, abs=1e-4)
    (known,) = Predictor.load(folder, device="cpu").predict([picture])
    assert ended.stdout.strip() == known.predicted
    assert read_facts(tmp_path / "out") == read_facts(folder)


@slow
@pytest.mark.parametrize(
    ("pool", "view"),
    [
        *(pytest.param(*case, marks=pytest.mark.soak) for case in (("cls", "scene"), ("cls_mean", "both"))),
        ("fused", "both"),
    ],
)
def test_an_export_in_8_bits_is_near(make, painted, tmp_path, pool, view):
    folder = make(pool, view)
    report = export_onnx(str(folder), tmp_path / "out", quantize="int8", calibration=[painted.path])
    assert report.onnx_bytes < report.torch_bytes / 2
    assert 0 < report.largest_change < 0.1


def test_int8_of_another_architecture_is_refused_before_anything_is_measured(painted, tmp_path):
    from uniemox.config.zero_shot import ZeroShotConfig

    asked = {"zero_shot": ZeroShotConfig(taxonomy="mikels"), "quantize": "int8", "calibration": [painted.path]}
    with pytest.raises(ConfigError, match="int8 is for our own encoders"):
        export_onnx("clip:demo", tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [["checkpoint", "inspect"], ["checkpoint", "convert"]])
def test_commands_about_files_say_that_a_clip_is_none(run, tmp_path, words):
    out = ["--out", tmp_path / "out"] if words[-1] == "convert" else []
    code, _, err = run(*words, "clip:demo", *out)
    assert code == 1
    assert "clip:demo is a CLIP, which is no model of ours" in err
    with pytest.raises(CheckpointError, match="is a CLIP"):
        inspect("clip:demo")
