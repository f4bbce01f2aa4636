"""Classifiers that give any number of labels, from training to what other tools read of them."""

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from scipy.special import expit
from timm.data import create_transform, resolve_data_config

from uniemox import Predictor, load_model
from uniemox.checkpoints.facts import read_facts
from uniemox.config.people import PersonConfig
from uniemox.config.training import AugmentConfig, FinetuneConfig, OptimConfig
from uniemox.console import cli
from uniemox.data.pixels import EvaluationViews
from uniemox.errors import ConfigError, DataError
from uniemox.files.journal import read_journal
from uniemox.inference.evaluate import evaluate
from uniemox.inference.tables import write_predictions
from uniemox.manifests.table import Box, Facts, manifest_from_columns, read_manifest, write_manifest
from uniemox.models.classify import head_of
from uniemox.targets.multi_label import MultiLabel, MultiLabelScores
from uniemox.train.finetune import finetune

CLASSES = ("awe", "fear", "joy")
SHARES = (0.5, 0.3, 0.2)
COUNTS = {"train": 96, "val": 23, "test": 19}
PLAIN = AugmentConfig(scale=(0.8, 1), flip=0, rand_augment=None, erase=0, mixup=0.2, cutmix=0, smoothing=0)


@dataclass(frozen=True)
class Striped:
    """Noise in which the k-th third is of the k-th colour where label k applies."""

    root: Path
    path: Path

    @property
    def manifest(self):
        return read_manifest(self.path)

    def pictures(self, split):
        return sorted(self.root.glob(f"{split}*.png"))


@pytest.fixture(scope="module")
def striped(tmp_path_factory):
    root = tmp_path_factory.mktemp("striped")
    generator = np.random.default_rng(0)
    paths, splits, sets = [], [], []
    for split, count in COUNTS.items():
        for index in range(count):
            labels = generator.random(3) < SHARES
            pixels = generator.integers(0, 60, (32, 32, 3))
            for place in labels.nonzero()[0]:
                pixels[:, 11 * place : 11 * place + 10, place] = 220
            paths.append(f"{split}{index:02d}.png")
            Image.fromarray(pixels.astype(np.uint8)).save(root / paths[-1])
            splits.append(split)
            sets.append(labels.nonzero()[0].tolist())
    facts = Facts(name="striped", title="Striped", classes=CLASSES, emotion="felt", root=root)
    people = [(Box(0, 0, 32, 32),)] * len(paths)
    manifest = manifest_from_columns(facts, paths=paths, splits=splits, label_sets=sets, people=people)
    write_manifest(manifest, root / "striped.parquet")
    return Striped(root, root / "striped.parquet")


def config_of(striped, out, *, epochs=2, **changes):
    given = {
        "data": striped.path,
        "device": "cpu",
        "workers": 0,
        "size": "mini",
        "patch_size": 8,
        "image_size": 32,
        "drop_path": 0.0,
        "target": "multi_label",
        "augment": PLAIN,
    }
    optim = OptimConfig(epochs=epochs, warmup_epochs=1, batch_size=16, base_lr=1e-2)
    return FinetuneConfig(**{**given, "optim": optim, **changes}, out=out)


@pytest.fixture(scope="module")
def run(striped, tmp_path_factory):
    """A run that has learned; nobody may write to it."""
    config = config_of(striped, tmp_path_factory.mktemp("several") / "run")
    finetune(config)
    return config.out


@pytest.fixture(scope="module")
def model(run):
    return run / "model"


# Training


def test_a_run_learns_more_than_how_often_a_label_applies(run):
    saved = json.loads((run / "test" / "report.json").read_text())
    report = MultiLabel().scores_from_dict(saved)
    assert report.mean_average_precision > report.chance + 0.4
    assert report.intervals.keys() == {"mean_average_precision", "macro_f1", "micro_f1"}


def test_the_journal_and_the_folder_tell_the_scores_of_several_labels(run, model):
    lines = read_journal(run / "metrics.jsonl")
    val = [line for line in lines if line["kind"] == "val"]
    assert all("mean_average_precision" in line and "top1" not in line for line in val)
    facts = read_facts(model)
    assert (facts.target, facts.format_version) == ("multi_label", 3)
    assert len(facts.thresholds) == 3
    assert all(0 < threshold < 1 for threshold in facts.thresholds)
    best = max(line["mean_average_precision"] for line in val)
    assert facts.metrics["val_mean_average_precision"] == round(best, 4)
    assert {"test_mean_average_precision", "test_macro_f1", "test_micro_f1"} <= facts.metrics.keys()


def test_the_thresholds_are_those_that_are_best_on_val(striped, model):
    on_val = evaluate(str(model), data=striped.path, split="val", device="cpu", num_workers=0)
    outputs = [list(p.probabilities.values()) for p in predictions(model, striped, "val")]
    labels = striped.manifest.select(["val"]).label_sets
    best = MultiLabel(CLASSES).score_numbers(np.array(outputs), labels)
    assert on_val.thresholds == pytest.approx(best.thresholds, abs=1e-5)
    assert on_val.decisions == best.decisions


def test_the_head_begins_with_the_odds_of_train(striped, tmp_path):
    rate = OptimConfig(epochs=1, batch_size=96, base_lr=1e-12, warmup_epochs=0, weight_decay=0)
    folder = finetune(config_of(striped, tmp_path / "run", optim=rate, test_split=None))
    loaded = load_model(folder)
    bias = head_of(loaded.model).bias.detach().numpy() * loaded.facts.temperature
    train = striped.manifest.select(["train"]).label_sets
    np.testing.assert_allclose(expit(bias), (train.sum(0) + 1) / (len(train) + 2), atol=1e-5)


@pytest.mark.parametrize("view", ["person", "both"])
def test_persons_have_several_labels_too(striped, tmp_path, view):
    folder = finetune(config_of(striped, tmp_path / "run", epochs=1, view=view))
    facts = read_facts(folder)
    assert (facts.view, facts.target, facts.format_version) == (view, "multi_label", 3)
    report = evaluate(str(folder), data=striped.path, device="cpu", num_workers=0)
    saved = json.loads((tmp_path / "run" / "test" / "report.json").read_text())
    assert report.mean_average_precision == pytest.approx(saved["mean_average_precision"])


def test_one_label_for_each_row_is_a_set_of_one(painted, tmp_path):
    config = config_of(painted, tmp_path / "run", epochs=1)
    report = evaluate(str(finetune(config)), data=painted.path, device="cpu", num_workers=0)
    assert report.support.tolist() == list(painted.manifest.select(["test"]).class_counts().values())


def test_several_labels_need_to_be_asked_for(striped, tmp_path):
    with pytest.raises(DataError, match="train with `target` multi_label"):
        finetune(config_of(striped, tmp_path / "run", target="single_label"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("target", "metric", "known"), [("multi_label", "top1", "micro_f1"), ("single_label", "micro_f1", "weighted_f1")]
)
def test_an_epoch_is_chosen_by_a_metric_of_its_kind(striped, tmp_path, target, metric, known):
    config = config_of(striped, tmp_path / "run", target=target, select_by=metric)
    with pytest.raises(ConfigError, match=rf"select_by is {metric}.*target {target}.*{known}"):
        finetune(config)
    assert not config.out.exists()


# Prediction


def predictions(model, striped, split="test", **options):
    pictures = striped.pictures(split)
    return list(Predictor.load(model, device="cpu").predict(pictures, **options))


def test_each_probability_is_a_sigmoid_of_its_own(model, striped):
    loaded = load_model(model)
    prepare = EvaluationViews(size=32, view="scene", person=PersonConfig())
    for prediction in predictions(model, striped):
        with torch.no_grad():
            logits = loaded.model(torch.from_numpy(prepare.cut(Image.open(prediction.path), None)))[0]
        found = list(prediction.probabilities.values())
        assert found == pytest.approx(expit(logits.numpy()).tolist(), abs=1e-6)


def test_a_prediction_names_all_labels_that_reach_their_thresholds_the_likeliest_first(model, striped):
    thresholds = dict(zip(CLASSES, read_facts(model).thresholds, strict=True))
    numbers = set()
    for prediction in predictions(model, striped):
        given = {n for n, p in prediction.probabilities.items() if p >= thresholds[n]}
        assert set(prediction.predicted) == given
        shares = [prediction.probabilities[name] for name in prediction.predicted]
        assert shares == sorted(shares, reverse=True)
        assert prediction.confidence == max(prediction.probabilities.values())
        numbers.add(len(given))
    assert len(numbers) > 1


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_a_table_of_predictions_has_the_labels(model, striped, tmp_path, ending):
    rows = predictions(model, striped)
    out = tmp_path / f"table{ending}"
    write_predictions(rows, out, MultiLabel(CLASSES))
    match ending:
        case ".csv":
            with out.open(newline="") as file:
                found = [json.loads(row["predicted"]) for row in csv.DictReader(file)]
        case ".jsonl":
            found = [json.loads(line)["predicted"] for line in out.read_text().splitlines()]
        case _:
            found = [row["predicted"] for row in pq.read_table(out).to_pylist()]
    assert found == [list(row.predicted) for row in rows]


def test_a_table_of_predictions_is_read_as_data_with_its_labels(model, striped, tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    for path in striped.pictures("test"):
        shutil.copy(path, root)
    pictures = sorted(root.glob("*.png"))
    rows = list(Predictor.load(model, device="cpu").predict(pictures))
    write_predictions(rows, tmp_path / "table.csv", MultiLabel(CLASSES))
    lines = (tmp_path / "table.csv").read_text().splitlines()
    (tmp_path / "table.csv").write_text("\n".join(line.replace(f"{root}/", "") for line in lines) + "\n")
    words = ["data", "prepare", "table", "--root", root, "--table", tmp_path / "table.csv"]
    words += ["--columns", "labels=predicted", "--ratios", "60/20/20", "--out", tmp_path / "m.parquet"]
    assert cli.main([str(word) for word in words]) == 0
    manifest = read_manifest(tmp_path / "m.parquet")
    classes = manifest.facts.classes
    found = {
        manifest.row(index).path.name: {classes[place] for place in row.nonzero()[0]}
        for index, row in enumerate(manifest.label_sets)
    }
    assert found == {row.path.name: set(row.predicted) for row in rows}


# Evaluation


def test_an_evaluation_keeps_the_labels_of_every_picture(model, striped, tmp_path):
    report = evaluate(str(model), data=striped.path, out=tmp_path / "out", device="cpu", num_workers=0)
    table = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    test = striped.manifest.select(["test"])
    for row, labels in zip(table, test.label_sets, strict=True):
        assert row["label"] == [CLASSES[place] for place in labels.nonzero()[0]]
        given = [n for n, t in zip(CLASSES, report.thresholds, strict=True) if row[f"p_{n}"] >= t]
        assert row["predicted"] == sorted(given, key=lambda name: -row[f"p_{name}"])
    assert report.thresholds == read_facts(model).thresholds


def test_the_commands_tell_several_labels(model, striped, tmp_path, capsys):
    words = ["evaluate", model, "--data", striped.path, "--out", tmp_path / "out"]
    assert cli.main([*map(str, words), "--device", "cpu", "--workers", "0"]) == 0
    told = capsys.readouterr().out
    assert "mean average precision" in told
    assert "average precision" in (tmp_path / "out" / "report.html").read_text()
    picture = striped.pictures("test")[0]
    assert cli.main(["predict", str(model), str(picture), "--json", "--device", "cpu"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["predicted"] == predictions(model, striped)[0].predicted
    assert cli.main(["checkpoint", "inspect", str(model)]) == 0
    assert "multi_label" in capsys.readouterr().out
    card = (model / "README.md").read_text()
    assert "decides for each of 3 emotions whether an image shows it" in card
    assert f"awe {read_facts(model).thresholds[0]:.3f}" in card


@pytest.mark.slow
def test_two_processes_train_and_score_as_one(striped, tmp_path, run, on_two_processes):
    words = ["finetune", "--config", run / "config.yaml", "--out", tmp_path / "run"]
    words += ["--device", "auto"]  # which is what a user types who types nothing
    on_two_processes(*words, "--optim.batch-size", "8", "--augment.mixup", "0")
    alone = config_of(striped, tmp_path / "alone", augment=AugmentConfig(**{**vars(PLAIN), "mixup": 0}))
    finetune(alone)
    found, expected = (json.loads((out / "test" / "report.json").read_text()) for out in (tmp_path / "run", alone.out))
    assert found["num_samples"] == COUNTS["test"]
    assert found["nll"] == pytest.approx(expected["nll"], rel=1e-2)


# Other tools


def test_timm_reads_the_folder(model, striped):
    theirs = timm.create_model(f"local-dir:{model}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config({}, model=theirs))
    for prediction in predictions(model, striped):
        with torch.no_grad():
            found = theirs(transform(Image.open(prediction.path))[None])[0].sigmoid().tolist()
        assert found == pytest.approx(list(prediction.probabilities.values()), abs=1e-5)


def test_transformers_takes_the_sigmoid_too(model, striped):
    from transformers import pipeline

    classify = pipeline("image-classification", model=str(model), top_k=3, device="cpu")
    for prediction in predictions(model, striped)[:4]:
        found = {row["label"]: row["score"] for row in classify(str(prediction.path))}
        assert found == pytest.approx(dict(prediction.probabilities), abs=1e-4)


def test_a_strangers_folder_says_by_its_problem_type_that_it_gives_several(model, striped, tmp_path):
    folder = shutil.copytree(model, tmp_path / "theirs")
    config = json.loads((folder / "config.json").read_text())
    del config["uniemox"]
    (folder / "config.json").write_text(json.dumps(config))
    facts = load_model(folder).facts
    assert (facts.target, facts.thresholds) == ("multi_label", (0.5, 0.5, 0.5))
    ours, theirs = (predictions(place, striped) for place in (model, folder))
    for one, two in zip(ours, theirs, strict=True):
        assert two.probabilities == pytest.approx(one.probabilities)


@pytest.mark.parametrize("quantize", [[], ["--quantize", "int8", "--calibration"]])
def test_an_export_gives_the_same_labels(model, striped, tmp_path, capsys, quantize):
    words = ["export", model, "--out", tmp_path / "onnx", *quantize]
    assert cli.main([*map(str, words), *([str(striped.path)] if quantize else [])]) == 0
    told = capsys.readouterr().out
    assert "of the labels given and not given" in told
    expected, found = (predictions(place, striped) for place in (model, tmp_path / "onnx"))
    tolerance = 0.1 if quantize else 1e-5
    for one, two in zip(expected, found, strict=True):
        assert two.probabilities == pytest.approx(one.probabilities, abs=tolerance)
        if not quantize:
            assert two.predicted == one.predicted
    report = evaluate(str(tmp_path / "onnx"), data=striped.path, device="cpu", num_workers=0)
    assert isinstance(report, MultiLabelScores)
