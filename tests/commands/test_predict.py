"""The commands that run a classifier."""

import json
import os
import re
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from uniemox import cli
from uniemox.commands import predict as commands
from uniemox.commands.predict import TABLE_SUFFIXES
from uniemox.data.manifest import Box
from uniemox.metrics import evaluate_predictions


def test_a_table_that_exists_is_replaced_only_if_that_is_said(run, tmp_path):
    table = tmp_path / "table.csv"
    table.touch()
    code, _, err = run("predict", "m", "p", "--out", table)
    assert code == cli.WRONG_USE
    assert "table.csv exists; --overwrite replaces it" in err


# Evaluation


def report():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    return evaluate_predictions(probabilities, np.array([0, 1, 1]), ["awe", "fear"])


def test_a_model_is_evaluated(run, fake, pages):
    asked = {}

    def evaluate(model, **options):
        asked.update(options, model=model)
        return report()

    fake("evaluate", evaluate=evaluate)
    code, out, _ = run("evaluate", "m", "--data", "d", "--split", "val", "--out", "o")
    assert code == cli.SUCCESS
    assert pages == [(Path("o"), "m", Path("d"), "val")]
    assert re.search(r"top1 +│ +66\.7", out)
    assert re.search(r"fear +│ +100\.0 │ +50\.0", out)
    assert asked == {
        "model": "m",
        "data": Path("d"),
        "split": "val",
        "out": Path("o"),
        "device": "auto",
        "batch_size": 32,
        "num_workers": 2,
        "dataset": None,
    }
    _, out, _ = run("evaluate", "m", "--data", "d", "--json", "--dataset", "fi")
    assert asked["dataset"] == "fi"
    assert json.loads(out) == json.loads(json.dumps(report().to_dict()))
    assert asked["split"] == "test"


# Prediction


@dataclass
class Prediction:
    path: Path
    label: str | None
    confidence: float | None
    probabilities: dict[str, float] | None
    reason: str | None = None
    box: Box | None = None
    labels: tuple[str, ...] | None = None

    def top(self, count):
        return sorted(self.probabilities.items(), key=lambda item: -item[1])[:count]

    def to_dict(self):
        values = {**vars(self), "path": str(self.path)}
        return {name: value for name, value in values.items() if (name, value) != ("labels", None)}


class Predictor:
    """Finds awe in every picture whose name does not say that it is bad."""

    facts = types.SimpleNamespace(classes=("awe", "fear"), target="single_label")
    asked: dict

    @classmethod
    def load(cls, model, *, device, dataset):
        cls.asked = {"model": model, "device": device, "dataset": dataset}
        return cls()

    def predict(self, paths, **options):
        self.asked.update(options)
        for path in paths:
            if "bad" in path.name:
                yield Prediction(path, None, None, None, "not an image")
            else:
                yield Prediction(path, "awe", 0.75, {"awe": 0.75, "fear": 0.25})
            people = options.get("people")
            for box in people.get(path, ()) if people else ():
                yield Prediction(path, "fear", 0.5, {"awe": 0.5, "fear": 0.5}, box=box)


@pytest.fixture
def predictor(fake):
    def write_predictions(predictions, out, classes, *, people, target):
        assert classes == ("awe", "fear")
        rows = list(predictions)
        out.write_text(
            "".join(f"{row.path}{' person' * (people and row.box is not None)}\n" for row in rows)
        )
        return len(rows)

    fake("predict", Predictor=Predictor, find_pictures=list, write_predictions=write_predictions)
    return Predictor


def test_predictions_are_a_table_on_stdout(run, predictor):
    code, out, err = run("predict", "m", "a.png", "bad.png", "--top-k", "1", "--device", "cpu")
    assert code == cli.SUCCESS
    assert re.search(r"a\.png +│ awe +│ 75\.0 │ awe 75\.0 ", out)
    assert re.search(r"bad\.png .* not read: not an image", out)
    assert err == "uniemox: 1 of 2 pictures could not be read\n"
    compute = {"device": "cpu", "batch_size": 32, "num_workers": 2}
    assert predictor.asked == {"model": "m", "dataset": None, **compute}


def test_predictions_are_a_line_of_json_each(run, predictor):
    code, out, _ = run("predict", "m", "a.png", "bad.png", "--json")
    first, second = map(json.loads, out.splitlines())
    assert code == cli.SUCCESS
    assert first == {
        "path": "a.png",
        "label": "awe",
        "confidence": 0.75,
        "probabilities": {"awe": 0.75, "fear": 0.25},
        "reason": None,
        "box": None,
    }
    assert (second["label"], second["reason"]) == (None, "not an image")


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
def test_predictions_are_written_to_a_table(run, predictor, tmp_path, suffix):
    out = tmp_path / f"table{suffix.upper()}"
    assert run("predict", "m", "a.png", "b.png", "--out", out) == (0, f"{out}\n", "")
    assert out.read_text() == "a.png\nb.png\n"
    _, text, _ = run("predict", "m", "c.png", "--out", out, "--overwrite", "--json")
    assert json.loads(text) == {"out": str(out), "pictures": 1}
    assert out.read_text() == "c.png\n"


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_it_is_a_failure_if_no_picture_can_be_read(run, predictor, options):
    code, _, err = run("predict", "m", "bad.png", "bad.jpg", *options)
    assert code == cli.FAILURE
    assert err == "uniemox: 2 of 2 pictures could not be read\n"


def test_a_name_that_is_no_text_is_printed_escaped(run, predictor):
    name = os.fsdecode(b"m\xff.png")
    code, out, _ = run("predict", "m", name)
    assert code == cli.SUCCESS
    assert "m\\udcff.png" in out


# People


@pytest.fixture
def boxes(tmp_path):
    path = tmp_path / "boxes.csv"
    path.write_text(
        "path,x0,y0,x1,y1,score\na.png,1,2,11,22,0.9\na.png,5,5,9,9,\nz.png,1,1,2,2,1\n"
    )
    return path


def test_given_boxes_make_a_row_for_each_person(run, predictor, boxes):
    code, out, err = run("predict", "m", "a.png", "b.png", "--people", "--boxes", boxes)
    assert code == cli.SUCCESS
    assert predictor.asked["people"] == {Path("a.png"): (Box(1, 2, 11, 22, 0.9), Box(5, 5, 9, 9))}
    assert [line.count("awe") > 0 for line in out.splitlines()].count(True) == 4
    assert "1,2 10×20" in out
    assert err == f"uniemox: {boxes}: 1 x picture that is not among these (z.png)\n"


def test_boxes_alone_ask_for_people_too_and_a_table_keeps_them(run, predictor, boxes, tmp_path):
    out = tmp_path / "table.csv"
    code, _, _ = run("predict", "m", "a.png", "bad.png", "--boxes", boxes, "--out", out)
    assert code == cli.SUCCESS
    assert out.read_text() == "a.png\na.png person\na.png person\nbad.png\n"
    words = ["--boxes", boxes, "--out", out, "--overwrite", "--json"]
    _, text, _ = run("predict", "m", "a.png", *words)
    assert json.loads(text) == {"out": str(out), "rows": 3}


def test_a_detector_is_made_as_for_data_people(run, predictor, fake, monkeypatch):
    made = []
    monkeypatch.setattr(commands, "detector_of", lambda given: made.append(given.detector) or {})
    assert run("predict", "m", "a.png", "--people", "--detector", "x.onnx")[0] == cli.SUCCESS
    assert made == ["x.onnx"]
    assert predictor.asked["people"] == {}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--people"], "--people needs boxes: find them with --detector, or give a file of them"),
        (["--detector", "ssdlite", "--boxes", "b.csv"], "--detector and --boxes both give boxes"),
        (["--boxes", "b.csv", "--score", "0.9"], "--score says something of a detector: give"),
    ],
)
def test_people_need_one_source_of_boxes(run, words, said):
    code, _, err = run("predict", "m", "a.png", *words)
    assert code == cli.WRONG_USE
    assert said in err


def test_boxes_that_cannot_be_read_are_told_before_the_model_is_loaded(run, predictor, tmp_path):
    (tmp_path / "boxes.csv").write_text("what,is,this\n")
    code, _, err = run("predict", "m", "a.png", "--boxes", tmp_path / "boxes.csv")
    assert code == cli.FAILURE
    assert "boxes need a header such as path,x0,y0,x1,y1,score" in err
