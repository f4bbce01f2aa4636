"""A kind of target that the package does not know, through everything: ordered levels."""

import csv
import json
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from uniemox import Predictor, evaluate, finetune
from uniemox.checkpoints.facts import read_facts
from uniemox.console.display import stdout_console
from uniemox.console.tables import predictions_table, report_tables
from uniemox.errors import CheckpointError, ConfigError, DataError
from uniemox.files.journal import read_journal
from uniemox.inference.tables import write_predictions
from uniemox.report.run import write_evaluation_report, write_run_report
from uniemox.targets.calibration import softmax
from uniemox.targets.columns import Column
from uniemox.targets.scores import Metric, Scores, measure
from uniemox.targets.target import Target

CLASSES = ("awe", "fear", "joy")


@dataclass(frozen=True)
class Ordinal(Target):
    """Levels in their order; what counts is how far off an answer is."""

    name = "ordinal"
    columns_read = ("label",)
    metrics = (
        Metric(
            "mean_absolute_error",
            "mean absolute error",
            lambda errors: np.abs(errors).mean(),
            note="in levels",
            is_selectable=True,
            lower_is_better=True,
            is_share=False,
        ),
        Metric("bias", "bias", lambda errors: errors.mean(), is_share=False),
    )

    def read_labels(self, manifest):
        if (manifest.labels < 0).any():
            raise DataError("a row has no level")
        return manifest.labels.copy()

    def soften(self, labels, smoothing):
        del smoothing
        return labels.float()[:, None]

    def loss(self, logits, softened):
        levels = torch.arange(logits.shape[1], dtype=torch.float32)
        return ((logits.softmax(1) @ levels - softened[:, 0]) ** 2).mean()

    columns = (Column("predicted", "text"), Column("expected_level", "number"))
    truth = (Column("label", "text"), Column("level", "whole"))

    def numbers(self, logits):
        return softmax(logits) @ np.arange(self.num_outputs)

    def answers(self, logits):
        return [
            {"predicted": self.classes[round(level)], "expected_level": level}
            for level in self.numbers(logits).tolist()
        ]

    def truths(self, labels):
        return [{"label": self.classes[level], "level": int(level)} for level in labels]

    def decisions(self, logits):
        return self.numbers(logits).round()

    def compute_scores(self, numbers, labels, bootstrap):
        values = measure(self.metrics, numbers - labels)
        return Scores(**self.about, num_samples=len(labels), values=values)


@pytest.fixture(scope="module")
def config(finetune_config, tmp_path_factory):
    out = tmp_path_factory.mktemp("ordinal") / "run"
    return finetune_config(out, optim={"epochs": 3})


@pytest.fixture(scope="module")
def model(config):
    """The folder of a model that answers with levels; nobody may write to it."""
    return finetune(config, target=Ordinal())


def score(model, painted, **options):
    settings = {"device": "cpu", "num_workers": 0, "target": Ordinal()} | options
    return evaluate(str(model), data=painted.path, **settings)


# Training


def test_the_journal_and_the_card_keep_its_metrics(config, model):
    lines = read_journal(config.out / "metrics.jsonl")
    val = [line for line in lines if line["kind"] == "val"]
    assert len(val) == 3
    for line in [*val, lines[-1]]:
        assert {"mean_absolute_error", "bias"} < line.keys()
        assert "top1" not in line
    facts = read_facts(model)
    assert (facts.target, facts.thresholds, facts.format_version) == ("ordinal", (), 3)
    card = (model / "README.md").read_text()
    assert "gives answers of the kind ordinal" in card
    assert f"| test_mean_absolute_error | {facts.metrics['test_mean_absolute_error']:.4f} |" in card


def test_the_epoch_of_the_least_error_is_kept(config, model):
    val = [line for line in read_journal(config.out / "metrics.jsonl") if line["kind"] == "val"]
    errors = [line["mean_absolute_error"] for line in val]
    facts = read_facts(model)
    assert facts.metrics["val_mean_absolute_error"] == round(min(errors), 4)
    assert facts.provenance["best_epoch"] == str(1 + errors.index(min(errors)))


def test_an_epoch_is_chosen_by_one_of_its_metrics(finetune_config, tmp_path):
    for name in ("top1", "bias"):
        config = finetune_config(tmp_path / "run", select_by=name)
        told = f"select_by is {name}, but for target ordinal must be one of mean_absolute_error"
        with pytest.raises(ConfigError, match=told):
            finetune(config, target=Ordinal())
    assert not config.out.exists()


# Answers


def test_the_predictor_answers_with_it(model, painted):
    paths = sorted((painted.root / "test").rglob("*.png"))
    predictor = Predictor.load(model, device="cpu", target=Ordinal())
    for prediction in predictor.predict(paths):
        level = prediction.answer["expected_level"]
        assert prediction.predicted == CLASSES[round(level)]
        assert prediction.to_dict()["expected_level"] == level
        assert (prediction.confidence, prediction.probabilities) == (None, None)
        assert prediction.top(3) == []


def test_who_does_not_bring_it_is_told_to(model, painted, capsys):
    told = r"answers with 'ordinal', and this version .*target="
    for use in (lambda: Predictor.load(model), lambda: score(model, painted, target=None)):
        with pytest.raises(CheckpointError, match=told):
            use()


def test_tables_have_its_columns(model, painted, tmp_path):
    predictor = Predictor.load(model, device="cpu", target=Ordinal())
    rows = list(predictor.predict([next((painted.root / "test").rglob("*.png")), b""]))
    for ending in (".csv", ".parquet"):
        write_predictions(rows, tmp_path / f"t{ending}", predictor.target)
    table = pq.read_table(tmp_path / "t.parquet")
    assert table.column_names == ["path", "predicted", "expected_level", "reason"]
    assert table["expected_level"].to_pylist() == [rows[0].answer["expected_level"], None]
    with (tmp_path / "t.csv").open(newline="") as file:
        assert next(csv.reader(file)) == table.column_names


# Scores


@pytest.fixture(scope="module")
def evaluated(model, painted, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluated") / "test"
    return score(model, painted, out=out), out


def test_an_evaluation_has_its_scores_and_columns(config, evaluated):
    scores, out = evaluated
    table = pq.read_table(out / "predictions.parquet").to_pydict()
    own = ["path", "row", "label", "level", "predicted", "expected_level"]
    assert list(table) == [*own, "out_of_domain", "is_unfamiliar"]
    errors = np.array(table["expected_level"]) - table["level"]
    assert scores.mean_absolute_error == pytest.approx(np.abs(errors).mean())
    assert [CLASSES[level] for level in table["level"]] == table["label"]
    again = Ordinal().scores_from_dict(json.loads((out / "report.json").read_text()))
    assert again == scores
    tested = json.loads((config.out / "test" / "report.json").read_text())
    assert tested["mean_absolute_error"] == pytest.approx(scores.mean_absolute_error, rel=1e-5)


def test_a_page_and_the_terminal_show_them(evaluated, model, painted, capsys):
    scores, out = evaluated
    options = {"model": "mine", "data": painted.path, "split": "test"}
    with pytest.raises(CheckpointError, match="target="):
        write_evaluation_report(out, **options)
    page = write_evaluation_report(out, **options, target=Ordinal()).read_text()
    shown = f"{scores.mean_absolute_error:.3f}"
    for text in ("mean absolute error", "in levels", shown, "7 labelled samples"):
        assert text in page
    console = stdout_console()
    for table in report_tables(scores):
        console.print(table)
    predictor = Predictor.load(model, device="cpu", target=Ordinal())
    path = next((painted.root / "test").rglob("*.png"))
    (prediction,) = predictor.predict(path)
    console.print(predictions_table([prediction], predictor.target, top_k=3))
    told = capsys.readouterr().out
    assert "mean absolute error" in told
    assert shown in told
    assert prediction.predicted in told


def test_the_page_of_the_run_draws_its_curves(config, model):
    page = write_run_report(config.out).read_text()
    assert "Curves of the val scores" in page
    assert "mean absolute error" in page
