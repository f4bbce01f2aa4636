"""What fine-tuning keeps of its training images, and how it answers with it."""

import csv
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.numpy import load_file
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

import uniemox.train.domain as domain_module
from uniemox.checkpoints.facts import read_facts
from uniemox.checkpoints.load import load_model
from uniemox.config.training import ConfidenceConfig
from uniemox.demo.drawn import unpack
from uniemox.files.images import read_image
from uniemox.inference.evaluate import evaluate
from uniemox.inference.predictor import Predictor
from uniemox.inference.torch_backend import load_torch
from uniemox.manifests.table import evenly, read_manifest
from uniemox.models.classify import head_of, read_features
from uniemox.targets.domain import Domain
from uniemox.train.finetune import finetune

ONE_STEP = {"max_steps": 1}
TAKEN = {"size": None, "patch_size": None, "image_size": None}


def features_of(folder, manifest):
    """What the head reads of the rows of a manifest, caught before it."""
    model, facts = (lambda made: (made.model, made.facts))(load_model(folder))
    caught = []
    head_of(model).register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].numpy()))
    rows = [manifest.row(place) for place in range(len(manifest))]
    pixels = np.stack([facts.views(read_image(row.path), row.boxes) for row in rows])
    with torch.no_grad():
        model(*torch.from_numpy(pixels).unbind(dim=1))
    return normalize(caught[0])


def distances_of(folder, manifest, split):
    """Distances to the tenth nearest of train, by scikit-learn."""
    train, asked = (features_of(folder, manifest.select([name])) for name in ("train", split))
    return NearestNeighbors(n_neighbors=10).fit(train).kneighbors(asked)[0][:, 9]


@pytest.fixture(scope="module", params=["scene", "person", "both", "cls_mean", "fused", "fused of both"])
def trained(request, finetune_config, pretrained, tmp_path_factory):
    """Classifiers of all kinds after a step; nobody may write to them."""
    kinds = {
        "scene": {},
        "person": {"view": "person"},
        "both": {"view": "both"},
        "cls_mean": {"pool": "cls_mean"},
        "fused": {"pool": "fused", "init": str(pretrained.model), **TAKEN},
        "fused of both": {"pool": "fused", "view": "both", "init": str(pretrained.model), **TAKEN},
    }
    out = tmp_path_factory.mktemp("known") / "run"
    return finetune(finetune_config(out, **kinds[request.param], **ONE_STEP))


def test_evaluate_measures_the_distance_to_the_tenth_nearest_row_of_train_whatever_the_head_reads(
    trained, painted, tmp_path
):
    evaluate(str(trained), data=painted.path, out=tmp_path, device="cpu", num_workers=0, baselines=False)
    table = pq.read_table(tmp_path / "predictions.parquet")
    expected = distances_of(trained, painted.manifest, "test")
    np.testing.assert_allclose(table["out_of_domain"].to_numpy(), expected, atol=2e-3)  # fp16
    share, cutoff, k = read_facts(trained).numbers["domain"]
    assert (share, k) == (0.95, 10)
    val = distances_of(trained, painted.manifest, "val")
    assert cutoff == pytest.approx(val.max(), abs=2e-3)  # .95 of 9 are 9
    flags = table["is_unfamiliar"].to_pylist()
    assert flags == [distance > cutoff for distance in table["out_of_domain"].to_pylist()]
    assert json.loads((tmp_path / "report.json").read_text())["unfamiliar"] == pytest.approx(np.mean(flags))


def test_the_run_reports_the_distances_that_evaluate_measures(trained, painted, tmp_path):
    evaluate(str(trained), data=painted.path, out=tmp_path, device="cpu", num_workers=0, baselines=False)
    tables = [pq.read_table(at / "predictions.parquet") for at in (tmp_path, trained.parent / "test")]
    first, second = (table["out_of_domain"].to_numpy() for table in tables)
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_features_are_kept_in_half_precision_and_said_on_the_card(finetuned):
    features = load_file(finetuned.model / "features.safetensors")["features"]
    assert features.shape == (24, 128)
    assert features.dtype == np.float16
    card = (finetuned.model / "README.md").read_text()
    assert "`out_of_domain` is the distance" in card
    assert "fp16" not in card  # which would be of the weights


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Features of drawn pictures by what they are, as the embedded classifier reads them."""
    data = read_manifest(unpack(tmp_path_factory.mktemp("drawn")).seen)
    backend = load_torch("demo", device="cpu")

    def some(split, count):
        rows = data.select([split])
        return [read_image(rows.row(place).path) for place in evenly(len(rows), count)]

    def features(images):
        pixels = torch.from_numpy(np.stack([backend.facts.views(image, ()) for image in images]))
        with torch.inference_mode():
            return read_features(backend.model, *pixels.unbind(dim=1))[1].numpy()

    test, draw = some("test", 60), np.random.default_rng(0)
    strange = {
        "noise": [Image.fromarray(draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(30)],
        "inverted": [ImageOps.invert(image.convert("RGB")) for image in test],
        "of one colour": [Image.new("RGB", (64, 64), tuple(draw.integers(0, 256, 3).tolist())) for _ in range(30)],
    }
    known = {"train": some("train", 400), "val": some("val", 60), "test": test}
    return {name: features(images) for name, images in {**known, **strange}.items()}


def test_pictures_of_the_domain_are_familiar(drawn):
    domain = Domain.of(drawn["train"])
    domain = domain.fit(domain.distances(drawn["val"]), 0.95)
    flags = [row["is_unfamiliar"] for row in domain.answers(domain.distances(drawn["test"]))]
    assert np.mean(flags) < 0.15


@pytest.mark.parametrize("strange", ["noise", "inverted", "of one colour"])
def test_pictures_of_another_kind_are_farther_on_average(drawn, strange):
    domain = Domain.of(drawn["train"])
    assert domain.distances(drawn[strange]).mean() > domain.distances(drawn["test"]).mean() + 0.03


def test_an_unreadable_file_has_no_distance(finetuned, tmp_path):
    (row,) = Predictor.load(finetuned.model, device="cpu").predict(tmp_path / "none.png")
    assert row.answer is None
    assert row.cells().get("out_of_domain") is None


def test_a_folder_whose_file_was_taken_away_answers_as_before(finetuned, painted, tmp_path):
    folder = shutil.copytree(finetuned.model, tmp_path / "model")
    (folder / "features.safetensors").unlink()
    path = next((painted.root / "test").rglob("*.png"))
    (before,), (after,) = (Predictor.load(model, device="cpu").predict(path) for model in (finetuned.model, folder))
    assert dict(after.answer) == {
        name: value for name, value in before.answer.items() if name not in ("out_of_domain", "is_unfamiliar")
    }
    assert Predictor.load(folder, device="cpu").digest() != Predictor.load(finetuned.model, device="cpu").digest()


def test_nothing_is_kept_where_no_share_is_asked_for(finetune_config, tmp_path):
    model = finetune(finetune_config(tmp_path / "run", confidence=ConfidenceConfig(domain_share=None), **ONE_STEP))
    assert not (model / "features.safetensors").exists()
    assert "domain" not in read_facts(model).numbers
    assert "out_of_domain" not in pq.read_schema(tmp_path / "run" / "test" / "predictions.parquet").names


def test_rows_of_train_are_chosen_evenly_where_there_are_many(finetune_config, tmp_path, monkeypatch):
    monkeypatch.setattr(domain_module, "MAX_FEATURES", 12)
    model = finetune(finetune_config(tmp_path / "run", **ONE_STEP))
    assert len(load_file(model / "features.safetensors")["features"]) == 12


def test_fewer_rows_than_neighbours_are_reported_and_keep_nothing(finetune_config, tmp_path, monkeypatch, heard):
    monkeypatch.setattr(domain_module, "MAX_FEATURES", 9)
    model = finetune(finetune_config(tmp_path / "run", **ONE_STEP), heard)
    assert "train: no distances from what the model knows: it needs 10 images with finite features" in heard.texts
    assert not (model / "features.safetensors").exists()


def test_an_export_is_evaluated_with_the_distances_of_its_folder(finetuned, exported, painted, tmp_path):
    tables = []
    for name, model in (("torch", finetuned.model), ("onnx", exported)):
        out = tmp_path / name
        evaluate(str(model), data=painted.path, out=out, device="cpu", num_workers=0, baselines=False)
        tables.append(pq.read_table(out / "predictions.parquet"))
    first, second = (table["out_of_domain"].to_numpy() for table in tables)
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_a_table_of_predictions_has_the_columns(finetuned, painted, tmp_path, run):
    out = tmp_path / "answers.csv"
    assert run("predict", finetuned.model, painted.root / "test", "--out", out)[0] == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    assert all(0 <= float(row["out_of_domain"]) <= 2 and row["is_unfamiliar"] in ("true", "false") for row in rows)
