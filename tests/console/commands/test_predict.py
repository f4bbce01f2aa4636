"""The commands that run a classifier."""

import csv
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import uniemox
from uniemox.config.zero_shot import ZeroShotConfig
from uniemox.console import cli
from uniemox.console.commands import predict as commands
from uniemox.inference.predictor import Prediction
from uniemox.inference.tables import SUFFIXES
from uniemox.manifests.table import Box
from uniemox.targets.single_label import SingleLabel


def answered(path, predicted, probabilities, box=None):
    confidence = probabilities[predicted]
    answer = {"predicted": predicted, "confidence": confidence, "probabilities": probabilities}
    return Prediction(path, answer, box=box)


def evaluate_predictions(probabilities, labels, classes):
    return SingleLabel(tuple(classes)).score_numbers(probabilities, labels)


def test_a_table_that_exists_is_replaced_only_if_that_is_said(run, tmp_path):
    table = tmp_path / "table.csv"
    table.touch()
    code, _, err = run("predict", "m", "p", "--out", table)
    assert code == cli.WRONG_USE
    assert "table.csv exists; --overwrite replaces it" in err


# Evaluation


def test_an_earlier_report_is_replaced_only_when_asked(run, fake, pages, tmp_path):
    fake("inference.evaluate", evaluate=lambda *_, **__: report())
    (tmp_path / "report.json").touch()
    code, _, err = run("evaluate", "m", "--data", "d", "--out", tmp_path)
    assert (code, pages) == (cli.WRONG_USE, [])
    assert "exists and is not empty: choose another --out, or give --overwrite" in err
    code, _, _ = run("evaluate", "m", "--data", "d", "--out", tmp_path, "--overwrite")
    assert code == cli.SUCCESS
    assert len(pages) == 1


def report():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    return evaluate_predictions(probabilities, np.array([0, 1, 1]), ["awe", "fear"])


def test_a_model_is_evaluated(run, fake, pages):
    asked = {}

    def evaluate(model, **options):
        asked.update(options, model=model)
        return report()

    fake("inference.evaluate", evaluate=evaluate)
    code, out, _ = run("evaluate", "m", "--data", "d", "--split", "val", "--out", "o")
    assert code == cli.SUCCESS
    assert pages == [(Path("o"), "m", Path("d"), "val")]
    assert re.search(r"top1 +│ +66\.7", out)
    assert re.search(r"fear +│ +100\.0 │ +50\.0", out)
    assert asked.pop("zero_shot") == ZeroShotConfig()
    assert asked == {
        "model": "m",
        "data": Path("d"),
        "split": "val",
        "out": Path("o"),
        "device": "auto",
        "batch_size": 32,
        "num_workers": 2,
        "dataset": None,
        "precision": "auto",
        "baselines": True,
    }
    _, out, _ = run("evaluate", "m", "--data", "d", "--json", "--dataset", "fi", "--baselines", "false")
    assert (asked["dataset"], asked["baselines"]) == ("fi", False)
    assert json.loads(out) == json.loads(json.dumps(report().to_dict()))
    assert asked["split"] == "test"


# Prediction


class Predictor:
    """Finds awe in every image whose name does not say that it is bad."""

    facts = types.SimpleNamespace(classes=("awe", "fear"), target="single_label")
    asked: dict
    stops = True
    precision = "fp32"

    @classmethod
    def load(cls, model, **options):
        cls.asked = {"model": model, **options}
        return cls()

    target = SingleLabel(("awe", "fear"))

    def digest(self):
        return f"digest of {self.asked['model']}"

    def predict_groups(self, groups, **options):
        for group in groups:
            yield self.predict(group, **options)

    def predict(self, paths, **options):
        self.asked.update(options)
        for path in paths:
            if "stop" in path.name and self.stops:
                raise KeyboardInterrupt
            if "bad" in path.name:
                yield Prediction(path, None, "not an image")
            else:
                yield answered(path, "awe", {"awe": 0.75, "fear": 0.25})
            people = options.get("people")
            for box in people.get(path, ()) if isinstance(people, dict) else ():
                yield answered(path, "fear", {"awe": 0.5, "fear": 0.5}, box=box)


@pytest.fixture
def predictor(monkeypatch):
    monkeypatch.setattr("uniemox.inference.predictor.Predictor", Predictor)
    monkeypatch.setattr("uniemox.inference.inputs.find_images", list)
    return Predictor


def read(table):
    """The rows of a table in any format, each as (path, label, left edge of the box)."""
    match table.suffix.lower():
        case ".csv":
            with table.open(newline="") as file:
                rows = list(csv.DictReader(file))
            return [(row["path"], row["predicted"] or None, row.get("x0") or None) for row in rows]
        case ".jsonl":
            rows = [json.loads(line) for line in table.read_text().splitlines()]
            return [(row["path"], row["predicted"], (row["box"] or {}).get("x0")) for row in rows]
        case _:
            rows = pq.read_table(table).to_pylist()
            return [(row["path"], row["predicted"], row.get("x0")) for row in rows]


def test_predictions_are_a_table_on_stdout(run, predictor):
    code, out, err = run("predict", "m", "a.png", "bad.png", "--top-k", "1", "--device", "cpu")
    assert code == cli.SUCCESS
    assert re.search(r"a\.png +│ awe +│ 75\.0 │ awe 75\.0 ", out)
    assert re.search(r"bad\.png .* not read: not an image", out)
    assert err == "uniemox: 1 of 2 images could not be read\n"
    compute = {"device": "cpu", "precision": "auto", "batch_size": 32, "num_workers": 2}
    assert predictor.asked.pop("zero_shot") == ZeroShotConfig()
    assert predictor.asked == {"model": "m", "dataset": None, "people": None, **compute}


def test_predictions_are_a_line_of_json_each(run, predictor):
    code, out, _ = run("predict", "m", "a.png", "bad.png", "--json")
    first, second = map(json.loads, out.splitlines())
    assert code == cli.SUCCESS
    assert first == {
        "path": "a.png",
        "predicted": "awe",
        "confidence": 0.75,
        "probabilities": {"awe": 0.75, "fear": 0.25},
        "reason": None,
        "box": None,
    }
    assert (second["predicted"], second["reason"]) == (None, "not an image")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_predictions_are_written_to_a_table(run, predictor, tmp_path, suffix):
    out = tmp_path / f"table{suffix.upper()}"
    assert run("predict", "m", "a.png", "b.png", "--out", out) == (0, f"{out}\n", "")
    assert read(out) == [("a.png", "awe", None), ("b.png", "awe", None)]
    _, text, _ = run("predict", "m", "c.png", "--out", out, "--overwrite", "--json")
    assert json.loads(text) == {"out": str(out), "pictures": 1}
    assert read(out) == [("c.png", "awe", None)]
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_folder_of_a_table_is_made(run, predictor, tmp_path, suffix):
    out = tmp_path / "none" / "below" / f"table{suffix}"
    assert run("predict", "m", "a.png", "--out", out)[0] == cli.SUCCESS
    assert read(out) == [("a.png", "awe", None)]


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_it_is_a_failure_if_no_picture_can_be_read(run, predictor, options):
    code, _, err = run("predict", "m", "bad.png", "bad.jpg", *options)
    assert code == cli.FAILURE
    assert err == "uniemox: 2 of 2 images could not be read\n"


def test_a_name_that_is_no_text_is_printed_escaped(run, predictor):
    name = os.fsdecode(b"m\xff.png")
    code, out, _ = run("predict", "m", name)
    assert code == cli.SUCCESS
    assert "m\\udcff.png" in out


# Continuing


def names(count, stop=None):
    """Files of which one stops the run."""
    return [f"stop{i}.png" if i == stop else f"{i}.png" for i in range(count)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_interrupted_table_is_continued(run, predictor, tmp_path, monkeypatch, suffix):
    out, paths = tmp_path / f"t{suffix}", names(200, stop=150)
    words = ["predict", "m", *paths, "--out", out, "--batch-size", "1"]
    code, text, err = run(*words)
    assert (code, text) == (130, "")
    assert err == (
        f"uniemox: interrupted: 128 of 200 images are kept in {out}.parts. Run the command again with --resume to "
        "continue\n"
    )
    monkeypatch.setattr(predictor, "stops", False)
    code, _, err = run(*words)
    assert code == cli.WRONG_USE
    assert "holds parts of an interrupted run: continue it with --resume, or start again" in err
    code, text, err = run(*words, "--resume", "--json")
    assert (code, json.loads(text)) == (0, {"out": str(out), "pictures": 200})
    assert err.startswith("continuing after 128 of 200 images\n")
    assert [row[0] for row in read(out)] == paths
    whole = out.read_bytes()
    assert run(*words, "--overwrite")[0] == cli.SUCCESS
    assert out.read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_an_interrupt_before_the_first_part_leaves_nothing(run, predictor, tmp_path):
    code, _, err = run("predict", "m", *names(9, stop=5), "--out", tmp_path / "t.csv")
    assert code == 130
    assert "before the first part was finished, so nothing is kept: run the command again" in err
    assert list(tmp_path.iterdir()) == []


def test_what_could_not_be_read_before_an_interrupt_counts(run, predictor, tmp_path, monkeypatch):
    out = tmp_path / "t.csv"
    paths = [f"bad{index}.png" for index in range(64)] + ["stop.png"]
    words = ["predict", "m", *paths, "--out", out, "--batch-size", "1"]
    run(*words)
    monkeypatch.setattr(predictor, "stops", False)
    code, _, err = run(*words, "--resume")
    assert code == cli.SUCCESS
    assert "uniemox: 64 of 65 images could not be read\n" in err


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"model": "other"}, "another model (SHA-256 digest of m then, SHA-256 digest of other now)"),
        ({"paths": names(199)}, "another list of inputs (200 images, SHA-256 "),
        ({"paths": names(200)[::-1]}, "another list of inputs (200 images, SHA-256 "),
        ({"flags": ["--boxes", "BOXES"]}, "another file of boxes (none then, SHA-256 "),
        ({"flags": ["--detector", "x.onnx"]}, "another detector (none then, x.onnx, score 0.5 now)"),
        ({"version": "9.9.9"}, "another version of uniemox (0.1.0 then, 9.9.9 now)"),
    ],
)
def test_a_table_is_not_continued_with_other_work(run, predictor, tmp_path, monkeypatch, boxes, changed, told):
    detector = types.SimpleNamespace(source="x.onnx, score 0.5")
    monkeypatch.setattr(commands, "build_asked_detector", lambda *_, **__: detector)
    monkeypatch.setattr(commands, "__version__", "0.1.0")
    out = tmp_path / "t.csv"
    run("predict", "m", *names(200, stop=150), "--out", out, "--batch-size", "1")
    monkeypatch.setattr(predictor, "stops", False)
    monkeypatch.setattr(commands, "__version__", changed.get("version", "0.1.0"))
    flags = [boxes if flag == "BOXES" else flag for flag in changed.get("flags", [])]
    paths = changed.get("paths", names(200, stop=150))
    words = ["predict", changed.get("model", "m"), *paths, "--out", out, *flags]
    code, text, err = run(*words, "--resume")
    assert (code, text) == (cli.WRONG_USE, "")
    assert f"t.csv.parts is of a run with {told}" in err
    assert err.count("\n") <= 2
    assert run(*words, "--overwrite")[0] == cli.SUCCESS


def test_what_changes_no_row_may_change_in_between(run, predictor, tmp_path, monkeypatch):
    out, paths = tmp_path / "t.csv", names(200, stop=150)
    run("predict", "m", *paths, "--out", out, "--batch-size", "1")
    monkeypatch.setattr(predictor, "stops", False)
    flags = ["--batch-size", "64", "--workers", "0", "--device", "cpu", "--top-k", "1"]
    assert run("predict", "m", *paths, "--out", out, "--resume", *flags)[0] == cli.SUCCESS
    assert [row[0] for row in read(out)] == paths


def test_resuming_needs_a_table(run):
    code, _, err = run("predict", "m", "a.png", "--resume")
    assert code == cli.WRONG_USE
    assert "--resume continues a table: name it with --out" in err


def test_a_url_is_told_before_a_model_is_loaded(run):
    code, _, err = run("predict", "no model", "https://example.com/a.jpg")
    assert code == cli.FAILURE
    assert err == (
        "uniemox: error: https://example.com/a.jpg is a URL, which is not fetched: download it and give the path of "
        "the file\n"
    )


def test_the_demo_says_once_on_stderr_that_it_knows_drawings_alone(run, painted):
    picture = next(painted.root.rglob("*.png"))
    code, out, err = run("predict", "demo", picture, picture, "--json", "--device", "cpu")
    assert code == cli.SUCCESS
    assert len(list(map(json.loads, out.splitlines()))) == 2
    (line,) = err.splitlines()
    assert line.startswith("warning: demo was trained on drawings alone and knows nothing of ")
    assert "`uniemox finetune`" in line


# Signals, as a user, a scheduler or a terminal sends them


@pytest.fixture(scope="session")
def many(tmp_path_factory):
    """A folder of 600 images, one of which is none; at one in a batch they take some seconds."""
    folder = tmp_path_factory.mktemp("many")
    generator = np.random.default_rng(0)
    for index in range(600):
        pixels = generator.integers(0, 256, (150, 200, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03d}.png")
    (folder / "350.png").write_bytes(b"")
    return folder


def finished(parts):
    """How many parts a run has finished."""
    progress = parts / "progress.json"
    return len(json.loads(progress.read_text())["parts"]) if progress.exists() else 0


class Started:
    """A command that runs in another process."""

    def __init__(self, *words, ignored=()):
        def ignore():
            for number in ignored:
                signal.signal(number, signal.SIG_IGN)

        environment = os.environ | {"PYTHONPATH": str(Path(uniemox.__file__).parents[1])}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "uniemox", *map(str, words)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=ignore,
        )

    def wait_for(self, parts, count):
        """Wait until so many parts are finished."""
        deadline = time.monotonic() + 60
        while finished(parts) < count:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def end(self, number=None):
        """Give what it said, and its exit code, after a signal."""
        if number is not None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out, err


@pytest.fixture
def start():
    """Start commands, and leave none running."""
    started = []

    def call(*words, **options):
        started.append(Started(*words, **options))
        return started[-1]

    yield call
    for each in started:
        with each.process:
            each.process.kill()


@pytest.fixture(scope="session")
def unbroken(many, exported, tmp_path_factory):
    """The bytes of an unbroken run, by the suffix of its table."""
    folder = tmp_path_factory.mktemp("unbroken")

    @functools.cache
    def predict(suffix):
        out = folder / f"t{suffix}"
        words = ["predict", exported, many, "--out", out, "--batch-size", "1", "--workers", "2"]
        assert cli.main(list(map(str, words))) == cli.SUCCESS
        return out.read_bytes()

    return predict


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [pytest.param(s, marks=[] if s == ".csv" else pytest.mark.soak) for s in SUFFIXES])
def test_signals_keep_what_is_finished_and_the_end_is_that_of_an_unbroken_run(
    start, many, exported, unbroken, tmp_path, suffix
):
    out, parts = tmp_path / f"t{suffix}", tmp_path / f"t{suffix}.parts"
    words = ["predict", exported, many, "--out", out, "--batch-size", "1", "--workers", "2"]
    expected = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGKILL: -9}
    for count, (number, code) in enumerate(expected.items(), 1):
        started = start(*words, *(["--resume"] if count > 1 else []))
        started.wait_for(parts, count)
        found, text, err = started.end(number)
        assert (found, text) == (code, ""), err
        assert not out.exists()
        kept = finished(parts)
        assert kept >= count
        if number == signal.SIGKILL:
            continue
        how = "" if number == signal.SIGINT else f" by {number.name}"
        last = err.splitlines()[-1]
        assert last == (
            f"uniemox: interrupted{how}: {64 * kept} of 600 images are kept in {parts}. Run the command again with "
            "--resume to continue"
        )
    code, _, err = start(*words).end()
    assert code == cli.WRONG_USE
    assert "continue it with --resume, or start again with --overwrite" in err
    code, text, err = start(*words, "--resume").end()
    assert (code, text) == (cli.SUCCESS, f"{out}\n"), err
    assert "uniemox: 1 of 600 images could not be read" in err
    assert out.read_bytes() == unbroken(suffix)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.mark.slow
def test_a_hangup_that_is_ignored_ends_nothing(start, many, exported, unbroken, tmp_path):
    out = tmp_path / "t.csv"
    words = ["predict", exported, many, "--out", out, "--batch-size", "1"]
    started = start(*words, ignored=[signal.SIGHUP])
    started.wait_for(tmp_path / "t.csv.parts", 1)
    assert started.end(signal.SIGHUP)[0] == cli.SUCCESS
    assert out.read_bytes() == unbroken(".csv")


@pytest.mark.slow
def test_two_runs_of_one_table_are_told_apart(start, many, exported, unbroken, tmp_path):
    out = tmp_path / "t.csv"
    words = ["predict", exported, many, "--out", out, "--batch-size", "1"]
    first = start(*words)
    first.wait_for(tmp_path / "t.csv.parts", 1)
    first.process.send_signal(signal.SIGSTOP)  # so that it does not end meanwhile
    for flags in ([], ["--resume"], ["--overwrite"]):
        code, _, err = start(*words, *flags).end()
        assert code == cli.FAILURE
        assert "t.csv.parts is in use by another run that writes this table: wait for it" in err
    assert first.end(signal.SIGCONT)[0] == cli.SUCCESS
    assert out.read_bytes() == unbroken(".csv")


@pytest.mark.soak
def test_a_run_in_torch_with_people_is_continued_too(run, start, many, finetuned, tmp_path):
    boxes = tmp_path / "boxes.csv"
    pictures = sorted(many.iterdir())[:200]
    rows = [f"{path},{index % 50},5,150,140,0.9" for index, path in enumerate(pictures[::3])]
    boxes.write_text("\n".join(["path,x0,y0,x1,y1,score", *rows]) + "\n")
    flags = ["--boxes", boxes, "--batch-size", "3", "--device", "cpu"]
    out = {name: tmp_path / f"{name}.parquet" for name in ("whole", "broken")}
    model = finetuned.model.parent
    assert run("predict", model, *pictures, "--out", out["whole"], *flags)[0] == cli.SUCCESS
    words = ["predict", model, *pictures, "--out", out["broken"], *flags]
    started = start(*words)
    started.wait_for(tmp_path / "broken.parquet.parts", 1)
    assert started.end(signal.SIGTERM)[0] == 143
    assert run(*words, "--resume")[0] == cli.SUCCESS
    assert out["broken"].read_bytes() == out["whole"].read_bytes()


# People


@pytest.fixture
def boxes(tmp_path):
    path = tmp_path / "boxes.csv"
    path.write_text("path,x0,y0,x1,y1,score\na.png,1,2,11,22,0.9\na.png,5,5,9,9,\nz.png,1,1,2,2,1\n")
    return path


def test_given_boxes_make_a_row_for_each_person(run, predictor, boxes):
    code, out, err = run("predict", "m", "a.png", "b.png", "--boxes", boxes)
    assert code == cli.SUCCESS
    assert predictor.asked["people"] == {Path("a.png"): (Box(1, 2, 11, 22, 0.9), Box(5, 5, 9, 9))}
    assert [line.count("awe") > 0 for line in out.splitlines()].count(True) == 4
    assert "1,2 10×20" in out
    assert err == f"uniemox: {boxes}: 1 x image that is not among these (z.png)\n"


def test_boxes_alone_ask_for_people_too_and_a_table_keeps_them(run, predictor, boxes, tmp_path):
    out = tmp_path / "table.csv"
    code, _, _ = run("predict", "m", "a.png", "bad.png", "--boxes", boxes, "--out", out)
    assert code == cli.SUCCESS
    assert read(out) == [
        ("a.png", "awe", None),
        ("a.png", "fear", "1.0"),
        ("a.png", "fear", "5.0"),
        ("bad.png", None, None),
    ]
    words = ["--boxes", boxes, "--out", out, "--overwrite", "--json"]
    _, text, _ = run("predict", "m", "a.png", *words)
    assert json.loads(text) == {"out": str(out), "rows": 3}


def test_a_detector_is_made_as_for_data_people(run, predictor, fake, monkeypatch):
    made = []
    monkeypatch.setattr(commands, "build_asked_detector", lambda name, *_, **__: made.append(name) or {})
    assert run("predict", "m", "a.png", "--detector", "x.onnx")[0] == cli.SUCCESS
    assert made == ["x.onnx"]
    assert predictor.asked["people"] == {}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--detector", "ssdlite", "--boxes", "b.csv"], "--detector and --boxes both give boxes"),
        (["--boxes", "b.csv", "--score", "0.9"], "--score is about a detector: omit it"),
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


@pytest.mark.slow
def test_an_image_of_many_pixels_is_read_where_that_is_asked_for(run, tmp_path):
    Image.new("L", (12_000, 9_000)).save(tmp_path / "scan.png")
    words = ("predict", "demo", tmp_path / "scan.png", "--json")
    code, out, _ = run(*words)
    assert code == cli.FAILURE
    assert json.loads(out)["reason"] == "12000 x 9000 pixels, over the limit of 89478485 (max_pixels)"
    code, out, _ = run(*words, "--max-pixels", "108000000")
    assert (code, json.loads(out)["reason"]) == (cli.SUCCESS, None)
