"""A model has one number: what a run reports of its model is what every command says of its folder."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

import uniemox.compute.devices
import uniemox.train.selection as selection_module
from uniemox import Predictor
from uniemox.checkpoints.facts import read_facts
from uniemox.console import cli
from uniemox.errors import ConfigError
from uniemox.export.run import export_onnx
from uniemox.files.journal import read_journal
from uniemox.inference.evaluate import evaluate
from uniemox.targets.kinds import resolve_target
from uniemox.targets.multi_label import fit_thresholds
from uniemox.train.finetune import finetune

CHOICES = {"bf16": (0.0, 1.0), "fp32": (2.0, 1.0)}
"""Bounds of agreement and loss with which a precision is chosen for sure."""
PLAIN = {"rand_augment": None, "erase": 0.0, "mixup": 0.0, "cutmix": 0.0}


@pytest.fixture(autouse=True)
def _a_device_that_does_bf16_well(monkeypatch):
    say_well(monkeypatch, True)


def say_well(monkeypatch, is_well):
    for module in (uniemox.compute.devices, selection_module):
        monkeypatch.setattr(module, "does_bfloat16_well", lambda _: is_well)


@pytest.fixture(scope="module")
def run(finetune_config, tmp_path_factory):
    """Make a run in bf16 that records a precision; each is made once."""
    made = {}

    def make(target, recorded, *, ema=0.0):
        key = (target, recorded, ema)
        if key not in made:
            out = tmp_path_factory.mktemp("precision") / "run"
            several = {"mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0}
            config = finetune_config(
                out,
                precision="bf16",
                target=target,
                augment=PLAIN | (several if target == "multi_label" else {}),
                optim={"epochs": 3, "ema_decay": ema},
            )
            with pytest.MonkeyPatch.context() as patch:
                say_well(patch, True)
                if recorded in CHOICES:
                    agreement, lost = CHOICES[recorded]
                    patch.setattr(selection_module, "_LEAST_AGREEMENT", agreement)
                    patch.setattr(selection_module, "_MOST_LOST", lost)
                finetune(config)
            made[key] = config
        return made[key]

    return make


def score(config, out=None, **changes):
    options = {"device": "cpu", "num_workers": 0} | changes
    return evaluate(str(config.out / "model"), data=config.data, out=out, **options)


def saved(folder):
    values = json.loads((folder / "report.json").read_text())
    return resolve_target(values["target"], ()).scores_from_dict(values)


kinds = pytest.mark.parametrize(
    ("target", "recorded", "ema"),
    [
        ("single_label", "bf16", 0.0),
        ("single_label", "fp32", 0.0),
        ("single_label", "bf16", 0.5),
        ("single_label", "fp32", 0.5),
        ("multi_label", "bf16", 0.0),
        ("multi_label", "fp32", 0.0),
        ("multi_label", "whichever val chooses", 0.0),
    ],
)


@kinds
def test_a_run_reports_of_test_what_evaluate_does(run, tmp_path, target, recorded, ema):
    config = run(target, recorded, ema=ema)
    report = score(config, tmp_path / "again")
    assert report == replace(saved(config.out / "test"), uncalibrated=None)  # which only a run knows
    tables = [pq.read_table(f / "predictions.parquet") for f in (config.out / "test", tmp_path / "again")]
    assert tables[0].equals(tables[1])
    facts = read_facts(config.out / "model")
    assert report.computed_in == facts.precision
    assert recorded not in CHOICES or facts.precision == recorded
    for name, value in facts.metrics.items():
        if name.startswith("test_"):
            assert value == round(report.values[name.removeprefix("test_")], 4)


@kinds
def test_a_folder_says_of_val_what_evaluate_does(run, tmp_path, target, recorded, ema):
    config = run(target, recorded, ema=ema)
    facts = read_facts(config.out / "model")
    report = score(config, tmp_path, split="val")
    (value,) = [value for name, value in facts.metrics.items() if name.startswith("val_")]
    metric = "top1" if target == "single_label" else "mean_average_precision"
    assert value == round(report.values[metric], 4)
    if target == "multi_label":
        table = pq.read_table(tmp_path / "predictions.parquet")
        probabilities = np.stack([table[f"p_{name}"].to_numpy() for name in facts.classes], 1)
        labels = np.array([[c in row for c in facts.classes] for row in table["label"].to_pylist()])
        assert facts.thresholds == fit_thresholds(probabilities, labels)


@kinds
def test_a_prediction_is_what_evaluate_predicts(run, painted, target, recorded, ema):
    config = run(target, recorded, ema=ema)
    rows = pq.read_table(config.out / "test" / "predictions.parquet").to_pylist()
    predictor = Predictor.load(config.out / "model", device="cpu")
    found = predictor.predict([painted.root / row["path"] for row in rows])
    for row, prediction in zip(rows, found, strict=True):
        assert row["predicted"] == prediction.predicted
        assert prediction.probabilities == {
            name.removeprefix("p_"): value for name, value in row.items() if name[:2] == "p_"
        }


def test_bf16_and_fp32_are_told_apart_here_at_all(run):
    config = run("single_label", "bf16")
    both = [score(config, precision=precision) for precision in ("fp32", "bf16")]
    assert [report.computed_in for report in both] == ["fp32", "bf16"]
    assert both[0].nll != both[1].nll
    assert score(config) == both[1]
    assert score(run("single_label", "fp32")) == score(run("single_label", "fp32"), precision="fp32")


def test_a_run_in_bf16_says_how_it_chose_and_in_what_its_epochs_were_scored(run):
    config = run("single_label", "bf16")
    provenance = read_facts(config.out / "model").provenance["precision"]
    assert provenance.startswith("trained in bf16, measured in bf16: on val ")
    card = (config.out / "model" / "README.md").read_text()
    assert provenance in card
    assert "Measured in bf16, which `uniemox` therefore computes in" in card
    lines = read_journal(run("single_label", "fp32").out / "metrics.jsonl")
    told = [(line["kind"], line["computed_in"]) for line in lines if line["kind"] != "train"]
    assert told == [("val", "bf16")] * 3 + [("test", "fp32")]


def test_what_val_answers_otherwise_in_bf16_is_recorded_as_fp32(finetune_config, tmp_path, heard, monkeypatch):
    answers, calls = selection_module.Selection.answers, []

    def spoil(self, model, manifest, accelerator, precision, **options):
        outputs = answers(self, model, manifest, accelerator, precision, **options)
        if precision == "fp32" or "batch_size" in options:  # of an epoch
            return outputs
        calls.append(precision)
        logits = outputs.logits.copy()
        logits[0] = -logits[0]  # one of nine
        return replace(outputs, logits=logits)

    monkeypatch.setattr(selection_module.Selection, "answers", spoil)
    folder = finetune(finetune_config(tmp_path / "run", precision="bf16", augment=PLAIN), heard)
    assert calls == ["bf16"]
    assert read_facts(folder).precision == "fp32"
    (told,) = [text for text in heard.texts if "measured in fp32" in text]
    assert "on val 88.9 % of the answers in bf16 are those in fp32, and top1 is " in told


def test_a_device_that_does_bf16_slowly_is_not_asked_for_it(run, finetune_config, tmp_path, heard, monkeypatch, caplog):
    say_well(monkeypatch, False)
    config = run("single_label", "bf16")
    caplog.set_level("INFO")
    assert score(config) == score(config, precision="fp32")
    assert "precision: fp32, since the model records bf16, which this cpu does slowly" in caplog.text
    assert score(config, precision="bf16").computed_in == "bf16"
    predictor = Predictor.load(config.out / "model", device="cpu")
    assert predictor.backend.precision == "fp32"
    folder = finetune(finetune_config(tmp_path / "run", precision="bf16", augment=PLAIN), heard)
    facts = read_facts(folder)
    assert facts.precision == "fp32"
    assert "trained in bf16, which this device does slowly" in facts.provenance["precision"]
    own = replace(config, out=tmp_path / "run")
    assert score(own) == replace(saved(tmp_path / "run" / "test"), uncalibrated=None)


def test_the_command_says_in_which_precision_it_computed(run, tmp_path, capsys):
    config = run("single_label", "bf16")
    words = ["evaluate", config.out / "model", "--data", config.data, "--device", "cpu"]
    words += ["--workers", "0", "--json"]
    for asked, line, used in (
        ([], "precision: bf16", "bf16"),
        (["--precision", "auto"], "precision: bf16", "bf16"),
        (["--precision", "fp32"], "precision: fp32, as asked; the model was measured in bf16", "fp32"),
    ):
        assert cli.main([*map(str, words), *asked, "--out", str(tmp_path / used), "--overwrite"]) == 0
        shown = capsys.readouterr()
        assert line in shown.err.splitlines()
        assert json.loads(shown.out)["computed_in"] == used
        assert saved(tmp_path / used).computed_in == used
        assert f">{used}<" in (tmp_path / used / "report.html").read_text()
    picture = config.data.parent / "test" / "awe" / "00.png"
    words = ["predict", config.out / "model", picture, "--device", "cpu", "--json", "--precision"]
    answers = []
    for asked in ("fp32", "bf16"):
        assert cli.main([*map(str, words), asked]) == 0
        shown = capsys.readouterr()
        assert f"precision: {asked}" in shown.err
        answers.append(json.loads(shown.out)["confidence"])
    assert answers[0] != answers[1]
    assert answers[0] == pytest.approx(answers[1], abs=0.05)
    assert cli.main([*map(str, words), "fp16"]) == cli.WRONG_USE


def test_an_export_is_in_fp32_and_compared_with_what_torch_answers(run, tmp_path):
    config = run("single_label", "bf16")
    report = export_onnx(str(config.out / "model"), tmp_path / "onnx", calibration=[config.data.parent / "test"])
    assert report.compared_with == "bf16"
    assert report.fp32_difference < 1e-4 < report.largest_change
    assert "against torch in bf16" in "\n".join(report.describe())
    facts, theirs = read_facts(tmp_path / "onnx"), read_facts(config.out / "model")
    assert facts == replace(theirs, precision="fp32")
    assert Predictor.load(tmp_path / "onnx").facts == facts
    card = (tmp_path / "onnx" / "README.md").read_text()
    assert "Measured in bf16.\n" in card
    assert "This was measured before the export" in card
    own = replace(config, out=tmp_path)
    scored = evaluate(str(tmp_path / "onnx"), data=own.data, device="cpu", num_workers=0)
    assert scored.computed_in == "onnx"
    for asked in ("fp32", "bf16"):
        with pytest.raises(ConfigError, match="computes as it was exported: omit `precision`"):
            evaluate(str(tmp_path / "onnx"), data=own.data, precision=asked)
        with pytest.raises(ConfigError, match="computes as it was exported"):
            Predictor.load(tmp_path / "onnx", precision=asked)
