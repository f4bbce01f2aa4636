"""Whole probes, against scikit-learn on features of timm and open_clip, each used by itself."""

import json

import numpy as np
import open_clip
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, average_precision_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from timm.data import create_transform, resolve_data_config

from uniemox.checkpoints.facts import read_facts
from uniemox.config.probe import NEIGHBOURS, STRENGTHS, ProbeConfig
from uniemox.config.training import PromiseConfig
from uniemox.errors import ConfigError, DataError
from uniemox.manifests.table import manifest_from_columns, write_manifest
from uniemox.settings import load_config
from uniemox.targets.calibration import softmax
from uniemox.train.probe import probe

CLASSES = ("awe", "fear", "joy")


@pytest.fixture(scope="module")
def convolutional(tmp_path_factory):
    """A small model of timm with random weights, and its file."""
    file = tmp_path_factory.mktemp("timm") / "resnet10t.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = timm.create_model("resnet10t", pretrained=False).eval()
    save_file(model.state_dict(), file)
    return model, f"timm:resnet10t={file}"


@pytest.fixture
def run(painted, tmp_path, heard):
    """Run a probe on the painted images; return its folder, its story, and the scores on test."""

    def start(backbone, **changes):
        out = changes.pop("out", tmp_path / "run")
        config = ProbeConfig(
            **{"backbone": str(backbone), "data": painted.path, "out": out, "device": "cpu"} | {"workers": 0} | changes
        )
        assert probe(config, heard) == out
        story = json.loads((out / "probe.json").read_text())
        report = out / "test" / "report.json"
        return out, story, json.loads(report.read_text()) if report.exists() else None

    return start


def splits_of(manifest, encode):
    """Features by an encoder of Pillow images, and labels, of each split."""
    splits = {}
    for name in ("train", "val", "test"):
        rows = [manifest.select([name]).row(i) for i in range(len(manifest.select([name])))]
        with torch.no_grad():
            features = [encode(Image.open(row.path).convert("RGB")) for row in rows]
        splits[name] = np.concatenate(features).astype(np.float64), np.array([row.label for row in rows])
    return splits


def regress(splits):
    """Choose C on val; return it, its scores on val and test, and the shares that it answers test with."""
    (train, labels), (val, val_labels), (test, test_labels) = splits.values()
    scaler, found = StandardScaler().fit(train), {}
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, tol=1e-9, max_iter=10_000).fit(scaler.transform(train), labels)
        score = accuracy_score(val_labels, model.predict(scaler.transform(val)))
        found[strength] = score, accuracy_score(test_labels, model.predict(scaler.transform(test))), model
    best = max(found, key=lambda strength: found[strength][0])
    return best, *found[best][:2], found[best][2].decision_function(scaler.transform(test))


def test_a_probe_promises_label_sets_and_abstention_and_keeps_both_in_its_model(run, heard):
    out, _, report = run("demo-pretrained", confidence=PromiseConfig(level=0.5, risk=0.05))
    level, threshold, samples = read_facts(out / "model").numbers["label_set"]
    assert (level, samples) == (0.5, 9.0)
    assert any(text.startswith("val: risk 0.05 needs 117 independent samples") for text in heard.texts)
    rows = pq.read_table(out / "test" / "predictions.parquet").to_pylist()
    for row in rows:
        held = {name for name in CLASSES if row[f"p_{name}"] >= threshold} | {row["predicted"]}
        assert set(row["label_set"]) == held
        assert row["abstains"] is True
    assert report["set_coverage"] == np.mean([row["label"] in row["label_set"] for row in rows])


def test_a_probe_of_label_sets_refuses_to_abstain_before_it_computes(run):
    with pytest.raises(ConfigError, match=r"confidence.risk is 0.05, but only .* can abstain, not multi_label: omit"):
        run("demo-pretrained", target="multi_label", confidence=PromiseConfig(risk=0.05))


def test_a_probe_of_timm_is_scikit_learn_on_features_of_timm(run, convolutional, painted):
    model, name = convolutional
    prepare = create_transform(**resolve_data_config(model=model))

    def encode(image):
        return model.forward_head(model.forward_features(prepare(image)[None]), pre_logits=True).numpy()

    strength, val, test, logits = regress(splits_of(painted.manifest, encode))
    out, story, report = run(name)
    assert story["chosen"] == {"C": strength}
    assert story["val"]["top1"] == pytest.approx(val, abs=1e-5)
    assert story["test"]["top1"] == pytest.approx(test, abs=1e-5)
    assert report["top1"] == pytest.approx(test)
    predictions = pq.read_table(out / "test" / "predictions.parquet")
    shares = np.stack([predictions[f"p_{name}"].to_numpy() for name in CLASSES], 1)
    np.testing.assert_allclose(shares, softmax(logits / story["temperature"]), atol=1e-4)
    assert predictions["label"].to_pylist() == [CLASSES[i % 3] for i in range(7)]


def test_a_probe_of_a_clip_is_scikit_learn_on_features_of_open_clip(run, tiny_clip, painted, tmp_path):
    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{tiny_clip}")
    splits = splits_of(painted.manifest, lambda image: model.eval().encode_image(prepare(image)[None]).numpy())
    strength, val, test, _ = regress(splits)
    _, story, report = run(f"clip:{tiny_clip}")
    assert story["chosen"] == {"C": strength}
    assert (story["val"]["top1"], report["top1"]) == (pytest.approx(val, abs=1e-5), pytest.approx(test))
    (train, labels), (val, val_labels), (test, test_labels) = splits.values()
    scores = {}
    for count in NEIGHBOURS[:5]:  # of 24 training images
        other = KNeighborsClassifier(count, metric="cosine", algorithm="brute").fit(train, labels)
        scores[count] = accuracy_score(val_labels, other.predict(val)), accuracy_score(test_labels, other.predict(test))
    best = max(scores, key=lambda count: scores[count][0])
    _, story, report = run(f"clip:{tiny_clip}", head="knn", out=tmp_path / "knn")
    assert story["chosen"] == {"k": best}
    assert (story["val"]["top1"], report["top1"]) == (
        pytest.approx(scores[best][0], abs=1e-5),
        pytest.approx(scores[best][1]),
    )


def test_the_story_names_all_that_a_number_depends_on(run, convolutional, heard):
    _, name = convolutional
    out, story, report = run(name, head="linear", epochs=4, base_lr=1e-2)
    assert story["backbone"]["name"] == name
    assert story["backbone"]["weights"].startswith("sha256 ")
    assert story["backbone"]["architecture"] == "timm resnet10t"
    assert "interpolation='bicubic'" in story["backbone"]["images"]
    assert (story["features"], story["head"], story["view"]) == (512, "linear", "scene")
    assert story["chosen_by"] == "top1 on val"
    assert [trial["epoch"] for trial in story["tried"]] == [1, 2, 3, 4]
    assert max(trial["val_top1"] for trial in story["tried"]) == pytest.approx(story["val"]["top1"], abs=1e-5)
    assert story["images"] == {"train": 24, "val": 9, "test": 7}
    assert story["classes"] == list(CLASSES)
    assert report["computed_in"] == "fp32"
    assert {path.name for path in out.iterdir()} >= {
        "probe.json",
        "config.yaml",
        "environment.json",
        "test",
        "features",
    }
    assert load_config(ProbeConfig, out / "config.yaml").backbone == name
    assert "scikit-learn" in json.loads((out / "environment.json").read_text())
    assert any(text.startswith("test: top-1 ") for text in heard.texts)


def test_probes_share_features_in_a_folder(run, convolutional, tmp_path, monkeypatch):
    _, name = convolutional
    cache = tmp_path / "cache"
    first, *_ = run(name, cache=cache)
    assert not (first / "features").exists()
    monkeypatch.setattr("uniemox.train.features.FeatureMaker._compute", lambda *_: pytest.fail("they were computed"))
    run(name, cache=cache, head="linear", epochs=2, out=tmp_path / "linear")
    monkeypatch.setattr("uniemox.checkpoints.backbones._load_timm", lambda *_, **__: pytest.fail("it was loaded"))
    run(name, cache=cache, head="knn", out=tmp_path / "knn")
    assert len(list(cache.iterdir())) == 3


def test_a_probe_without_a_test_split_scores_val_alone(run, convolutional):
    _, name = convolutional
    out, story, report = run(name, test_split=None)
    assert report is None
    assert "test" not in story
    assert not (out / "test").exists()
    assert story["val"]["top1"] > 0


def test_several_labels_are_scored_by_their_target(run, convolutional, own_painted):
    manifest, (_, name) = own_painted.manifest, convolutional
    rows = [manifest.row(i) for i in range(len(manifest))]
    sets = [sorted({row.label, index % 3}) for index, row in enumerate(rows)]
    sets = [
        [*found, (found[0] + 1) % 3] if index % 5 == 0 and len(found) == 1 else found
        for index, found in enumerate(sets)
    ]
    paths = [row.path.relative_to(own_painted.root).as_posix() for row in rows]
    many = manifest_from_columns(manifest.facts, paths=paths, splits=[row.split for row in rows], label_sets=sets)
    write_manifest(many, own_painted.path)
    for head in ("logistic", "knn", "linear"):
        out = own_painted.root.parent / head
        settings = {"head": head, "epochs": 3, "out": out, "cache": own_painted.root.parent / "cache"}
        out, story, report = run(name, data=own_painted.path, target="multi_label", **settings)
        assert story["chosen_by"] == "mean_average_precision on val"
        table = pq.read_table(out / "test" / "predictions.parquet")
        truth = np.array([[name in labels for name in CLASSES] for labels in table["label"].to_pylist()])
        shares = np.stack([table[f"p_{name}"].to_numpy() for name in CLASSES], 1)
        expected = average_precision_score(truth, shares, average="macro")
        assert report["mean_average_precision"] == pytest.approx(expected, abs=1e-6)


def test_both_views_are_side_by_side(run, convolutional):
    _, name = convolutional
    _, story, _ = run(name, view="both")
    assert story["features"] == 1024


def test_images_that_cannot_be_read_are_counted_in_each_split(run, convolutional, own_painted, heard):
    _, name = convolutional
    for split in ("train", "val", "test"):
        own_painted.manifest.select([split]).row(0).path.unlink()
    _, story, report = run(name, data=own_painted.path)
    assert story["unreadable"] == {"train": 1, "val": 1, "test": 1}
    assert story["images"] == {"train": 23, "val": 8, "test": 6}
    assert report["num_samples"] == 6
    assert len(report["unreadable"]) == 1
    assert sum("images that cannot be read; the first is" in text for text in heard.texts) == 3


def test_a_folder_that_is_not_empty_is_refused_and_its_features_are_offered(run, convolutional, tmp_path):
    _, name = convolutional
    run(name)
    with pytest.raises(
        ConfigError, match=r"exists and is not empty: choose another `out`; `cache` .*features takes its features"
    ):
        run(name)


def test_a_split_or_a_metric_that_does_not_exist_is_refused_before_anything_is_read(run, tmp_path):
    with pytest.raises(DataError, match="no row in split dev"):
        run("timm:resnet18", val_split="dev")
    with pytest.raises(ConfigError, match="select_by is fame, but for target single_label must be one of top1"):
        run("timm:resnet18", select_by="fame")
    with pytest.raises(ConfigError, match="device is abacus"):
        run("timm:resnet18", device="abacus")
    assert not (tmp_path / "run").exists()
