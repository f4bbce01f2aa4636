import json
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from uniemox.manifests.table import Facts, manifest_from_columns, write_manifest
from uniemox.report.run import write_evaluation_report, write_run_report
from uniemox.targets.calibration import Confidence, Uncalibrated
from uniemox.targets.contribution import Contribution, Gain
from uniemox.targets.multi_label import MultiLabel
from uniemox.targets.scores import Interval
from uniemox.targets.single_label import SingleLabel


def evaluate_predictions(probabilities, labels, classes):
    return SingleLabel(tuple(classes)).score_numbers(probabilities, labels)


def evaluate_multilabel(probabilities, labels, classes, **options):
    return MultiLabel(tuple(classes)).score_numbers(probabilities, labels, **options)


CLASSES = ("awe", "fear")


@pytest.fixture
def run_folder(tmp_path):
    lines = [{"kind": "train", "step": step, "epoch": 1, "loss": 1 / step, "lr": 0.1} for step in range(1, 6)]
    lines += [{"kind": "val", "step": 5, "epoch": 1, "top1": 0.5, "balanced_accuracy": 0.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "environment.json").write_text(json.dumps({"torch": "2.15", "gpus": []}))
    return tmp_path


def test_a_run_is_told_from_the_files_of_its_folder(run_folder):
    path = write_run_report(run_folder)
    page = path.read_text(encoding="utf-8")
    assert path == run_folder / "report.html"
    assert "Curves of each term" in page
    assert "5 steps" in page
    assert "torch" in page
    assert "Scores of the chosen weights" not in page


def test_a_run_with_test_scores_shows_them(run_folder):
    with (run_folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "test", "step": 5, "top1": 0.625}) + "\n")
    page = write_run_report(run_folder).read_text(encoding="utf-8")
    assert "Scores of the chosen weights" in page
    assert "0.625" in page


def page_of_test(run_folder, text):
    """The page of a run whose test has a report of this text."""
    with (run_folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "test", "step": 5, "top1": 0.625}) + "\n")
    (run_folder / "test").mkdir()
    (run_folder / "test" / "report.json").write_text(text)
    return write_run_report(run_folder).read_text(encoding="utf-8")


def test_a_run_shows_its_test_beside_the_baselines_that_it_has(run_folder):
    baselines = [
        {"name": "majority", "scores": {"top1": 0.125}, "note": ""},
        {"name": "colour", "scores": {}, "note": "no train"},
    ]
    page = page_of_test(run_folder, json.dumps({"baselines": baselines}))
    row = page[page.index(">top1<") :].partition("</tr>")[0]
    assert re.findall(r"\d\.\d+", row) == ["0.625", "0.125"]
    assert ">majority<" in page
    assert ">colour<" not in page


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"baselines": 3}', '{"baselines": [{"name": "x", "scores": {"top1": ["<b>"]}}]}']
)
def test_a_damaged_report_of_a_test_leaves_the_run_its_scores(run_folder, text):
    page = page_of_test(run_folder, text)
    assert "0.625" in page
    assert "<b>" not in page.partition("</style>")[2].partition("0.625")[2]


def test_an_evaluation_shows_pictures_and_leaves_out_those_that_are_gone(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    facts = Facts(name="two", title="Two images", classes=CLASSES, emotion="felt", root=tmp_path)
    manifest = manifest_from_columns(facts, paths=["a.png", "b.png"], labels=[0, 1], splits=["test", "test"])
    write_manifest(manifest, tmp_path / "m.parquet")
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3]])
    report = evaluate_predictions(probabilities, np.array([0, 1]), CLASSES)
    saved = {**report.to_dict(), "unreadable": ["c.png: it is empty"]}
    (tmp_path / "report.json").write_text(json.dumps(saved))
    columns = {
        "path": ["a.png", "b.png"],
        "label": ["awe", "fear"],
        "predicted": ["awe", "awe"],
        "p_awe": [0.9, 0.7],
        "p_fear": [0.1, 0.3],
    }
    pq.write_table(pa.table(columns), tmp_path / "predictions.parquet")
    (tmp_path / "b.png").unlink()
    page = write_evaluation_report(tmp_path, model="demo", data=tmp_path / "m.parquet", split="test").read_text(
        encoding="utf-8"
    )
    assert "demo on Two images, test" in page
    assert page.count("data:image/webp") == 1


def test_an_evaluation_of_several_labels_has_a_page_of_its_own(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    facts = Facts(name="two", title="Two images", classes=CLASSES, emotion="felt", root=tmp_path)
    manifest = manifest_from_columns(facts, paths=["a.png", "a.png"], label_sets=[[0, 1], []], splits=["test", "test"])
    write_manifest(manifest, tmp_path / "m.parquet")
    probabilities, labels = np.array([[0.9, 0.7], [0.2, 0.1]]), np.array([[1, 1], [0, 0]], bool)
    report = evaluate_multilabel(probabilities, labels, CLASSES)
    (tmp_path / "report.json").write_text(json.dumps({**report.to_dict(), "unreadable": []}))
    columns = {
        "path": ["a.png", "a.png"],
        "label": [["awe", "fear"], []],
        "predicted": [["awe", "fear"], []],
        "p_awe": [0.9, 0.2],
        "p_fear": [0.7, 0.1],
    }
    pq.write_table(pa.table(columns), tmp_path / "predictions.parquet")
    page = write_evaluation_report(tmp_path, model="demo", data=tmp_path / "m.parquet", split="test").read_text(
        encoding="utf-8"
    )
    assert "mean average precision" in page
    assert page.count("data:image/webp") == 2
    assert "awe, fear" in page
    assert "none" in page


def whole_test(**changes):
    """Scores of a test with intervals, as a run saves them."""
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.6, 0.4]])
    scores = evaluate_predictions(probabilities, np.array([0, 1, 1, 0]), CLASSES)
    return replace(scores, **changes)


def test_a_run_shows_the_intervals_of_its_test(run_folder):
    scores = whole_test()
    page = page_of_test(run_folder, json.dumps(scores.to_dict()))
    low, high = scores.intervals["top1"]
    row = page[page.index(">top-1<") :].partition("</tr>")[0]
    assert f">{low:.3f} to {high:.3f}<" in row
    assert ">95 % interval<" in page
    assert scores.ranges in page


def test_a_run_shows_its_surest_answers_the_temperature_and_what_the_person_adds(run_folder):
    metrics = (Confidence(title="calibration error", before=0.4321, after=0.1),)
    before = Uncalibrated(temperatures=(2.5,), metrics=metrics)
    gain = Gain(name="top1", title="top-1", without=0.5, value=0.75, difference=0.25, interval=Interval(-0.1, 0.6))
    person = Contribution(num_samples=4, num_with_person=3, gains=(gain,))
    page = page_of_test(run_folder, json.dumps(whole_test(uncalibrated=before, person=person).to_dict()))
    for text in ("The surest answers", "Temperature", "0.432", "3 of 4 samples", ">-0.100 to 0.600<"):
        assert text in page


def test_a_run_of_before_without_these_parts_has_a_page_all_the_same(run_folder):
    saved = whole_test().to_dict()
    del saved["coverage"]
    page = page_of_test(run_folder, json.dumps(saved))
    assert "The surest answers" not in page
    assert "Temperature" not in page
    assert ">top-1<" in page


def test_a_run_names_the_command_that_repeats_it_and_leads_to_its_settings(run_folder):
    (run_folder / "config.yaml").write_text("# Settings of uniemox 9, for `uniemox finetune --config FILE`.\n")
    page = write_run_report(run_folder).read_text(encoding="utf-8")
    assert f"uniemox finetune --config {run_folder / 'config.yaml'} --out FOLDER" in page
    assert 'href="config.yaml"' in page


@pytest.mark.parametrize(
    ("given", "shown"),
    [("uniemox evaluate m", "uniemox evaluate m"), ("", "uniemox probe --config"), (None, "not recorded")],
)
def test_an_evaluation_names_its_command_or_that_of_its_run(tmp_path, given, shown):
    if given is not None:
        (tmp_path / "config.yaml").write_text("# Settings of uniemox 9, for `uniemox probe --config FILE`.\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "report.json").write_text(json.dumps({**whole_test().to_dict(), "unreadable": []}))
    facts = Facts(name="none", title="None", classes=CLASSES, emotion="felt", root=tmp_path)
    write_manifest(manifest_from_columns(facts, paths=["a.png"], labels=[0], splits=["test"]), tmp_path / "m.parquet")
    columns = {"path": ["a.png"], "label": ["awe"], "predicted": ["awe"]}
    pq.write_table(pa.table(columns), tmp_path / "test" / "predictions.parquet")
    options = {"model": "m", "data": tmp_path / "m.parquet", "split": "test", "command": given or ""}
    page = write_evaluation_report(tmp_path / "test", **options).read_text(encoding="utf-8")
    assert shown in page[page.index(">command<") :]


@pytest.mark.parametrize("text", ["", "seed: 1", "# for `uniemox rm; -rf --config FILE`"])
def test_settings_that_name_no_command_give_none(run_folder, text):
    (run_folder / "config.yaml").write_text(text)
    assert "How to repeat it" not in write_run_report(run_folder).read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["[1]", "3", "{", "[[1]]", "\xff", "[" * 100_000])
def test_a_damaged_description_of_the_surroundings_is_told_on_the_page(run_folder, text):
    (run_folder / "environment.json").write_bytes(text.encode("latin-1"))
    assert "environment.json" in write_run_report(run_folder).read_text(encoding="utf-8")


def test_lines_of_other_kinds_of_values_leave_the_curves(run_folder):
    with (run_folder / "metrics.jsonl").open("a") as file:
        file.write('[1]\n{"kind": "train", "step": 6, "loss": "none"}\n{"kind": "train", "step": 7, "loss": 0.5}\n')
    assert "7 steps" in write_run_report(run_folder).read_text(encoding="utf-8")


def test_a_run_names_scores_as_its_test_does_and_leads_to_it(run_folder):
    tested = {"target": "distribution", "classes": list(CLASSES)}
    page = page_of_test(run_folder, json.dumps(tested))
    assert "top-1 of the mode" in page
    assert 'href="test/report.html"' in page


def test_a_run_of_one_step_is_in_the_singular(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"kind": "train", "step": 1, "loss": 1.0}) + "\n")
    (tmp_path / "environment.json").write_text("{}")
    assert ">1 step;" in write_run_report(tmp_path).read_text(encoding="utf-8")
