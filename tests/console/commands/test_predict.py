"""The commands that run a classifier."""

import csv
import functools
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import types
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import uniemox
from uniemox.checkpoints.load import load_model
from uniemox.config.zero_shot import ZeroShotConfig
from uniemox.console import cli
from uniemox.console.commands import people as people_commands
from uniemox.console.commands import predict as commands
from uniemox.inference.predictor import Named, Prediction
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
    assert re.search(r"top-1 +│ +66\.7", out)
    assert re.search(r"fear +│ +100\.0 │ +50\.0", out)
    assert asked.pop("zero_shot") == ZeroShotConfig()
    assert callable(asked.pop("track"))
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
        "bridge": False,
        "robustness": False,
        "by": (),
    }
    _, out, _ = run("evaluate", "m", "--data", "d", "--json", "--dataset", "fi", "--baselines", "false")
    assert (asked["dataset"], asked["baselines"]) == ("fi", False)
    assert json.loads(out) == json.loads(json.dumps(report().to_dict()))
    assert asked["split"] == "test"
    run("evaluate", "m", "--data", "d", "--robustness", "--by", "scene,people")
    assert asked["robustness"]
    assert list(asked["by"]) == ["scene", "people"]


def test_robustness_goes_into_the_card_of_a_folder_of_ones_own(run, finetuned, painted, tmp_path):
    model = shutil.copytree(finetuned.model, tmp_path / "model")
    weights = (model / "model.safetensors").read_bytes()
    words = ["--data", painted.path, "--baselines", "false", "--workers", "0", "--device", "cpu"]
    code, out, err = run("evaluate", model, "--robustness", "--card", "--by", "scene", "--out", tmp_path / "o", *words)
    assert code == cli.SUCCESS, err
    assert "blur" in out
    assert "field *" in out
    assert "## Robustness" in (model / "README.md").read_text()
    assert "Measured on Painted, test: 7 images" in (model / "README.md").read_text()
    page = (tmp_path / "o" / "report.html").read_text()
    assert ">Robustness</h2>" in page
    assert ">By scene</h2>" in page
    assert (model / "model.safetensors").read_bytes() == weights
    assert load_model(model).facts.robustness.shifts[1].change == "greyscale"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["demo", "--card"], cli.WRONG_USE, "--card is about --robustness: give both"),
        (["demo", "--card", "--robustness"], cli.FAILURE, "demo has no card to write robustness into"),
    ],
)
def test_a_card_that_cannot_be_written_is_refused_in_a_line(run, painted, words, code, said):
    found, _, err = run("evaluate", *words, "--data", painted.path, "--workers", "0")
    assert found == code
    assert said in err
    assert len(err.strip().splitlines()) == 1


# Prediction


class Predictor:
    """Finds awe in every image whose name does not say that it is bad."""

    domain = None
    facts = types.SimpleNamespace(classes=("awe", "fear"), target="single_label", emotion="evoked", view="scene")
    asked: dict
    stops = True
    precision = "fp32"
    decoding = "auto"

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
        for given in paths:
            path, row = (given.path, given.row) if isinstance(given, Named) else (given, None)
            if "stop" in path.name and self.stops:
                raise KeyboardInterrupt
            if "bad" in path.name or (isinstance(given, Named) and given.content is not None):
                yield Prediction(path, None, "not an image", row=row)
            else:
                yield replace(answered(path, "awe", {"awe": 0.75, "fear": 0.25}), row=row)
            people = options.get("people")
            for box in people.get(path, ()) if isinstance(people, dict) else ():
                yield answered(path, "fear", {"awe": 0.5, "fear": 0.5}, box=box)


@pytest.fixture
def predictor(monkeypatch):
    monkeypatch.setattr("uniemox.inference.predictor.Predictor", Predictor)
    monkeypatch.setattr("uniemox.inference.inputs.find_images", list)
    monkeypatch.setattr(sys, "stdin", None)
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
    assert err == "uniemox: 1 of 2 images got no answer\n"
    compute = {"device": "cpu", "precision": "auto", "batch_size": 32, "num_workers": 2}
    assert predictor.asked.pop("zero_shot") == ZeroShotConfig()
    people = {"people": None, "explain": False, "mask_people": False}
    assert predictor.asked == {"model": "m", "dataset": None, "decoding": "auto", **people, **compute}


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
    assert err == "uniemox: 2 of 2 images got no answer\n"


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
    assert "uniemox: 64 of 65 images got no answer\n" in err


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
    monkeypatch.setattr(people_commands, "build_asked_detector", lambda *_, **__: detector)
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


def test_a_finished_table_is_not_made_again_and_what_it_has_is_counted(run, predictor, tmp_path, monkeypatch):
    for suffix in SUFFIXES:
        out = tmp_path / f"t{suffix}"
        words = ["predict", "m", "a.png", "bad.png", "--out", out, "--resume"]
        assert run(*words)[0] == cli.SUCCESS
        before = out.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(predictor, "load", None)
            code, text, err = run(*words)
            assert (code, text) == (cli.SUCCESS, f"{out}\n")
            assert err == (
                f"uniemox: {out} is finished: it has 2 rows, 1 of them without an answer; --overwrite makes it again\n"
            )
            _, text, _ = run(*words, "--json")
        assert json.loads(text) == {"out": str(out), "pictures": 2}
        assert out.read_bytes() == before
        assert run(*words, "--overwrite")[0] == cli.SUCCESS


def test_what_stands_in_the_place_of_a_table_is_not_counted(run, predictor, tmp_path):
    out = tmp_path / "t.csv"
    out.write_text("mine")
    code, _, err = run("predict", "m", "a.png", "--out", out, "--resume")
    assert code == cli.FAILURE
    assert "t.csv exists, but is no table of predictions (" in err
    assert "--overwrite replaces it" in err
    assert out.read_text() == "mine"


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
    notice, line = err.splitlines()
    assert notice.startswith("This model says what a depicted person seems to feel.")
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
    assert "uniemox: 1 of 600 images got no answer" in err
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
    monkeypatch.setattr(people_commands, "build_asked_detector", lambda name, *_, **__: made.append(name) or {})
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


# Other inputs than files


@pytest.fixture
def pipe(monkeypatch):
    """Pipe bytes into the command."""

    def put(data):
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(data)))

    return put


def test_what_is_predicted_must_be_given(run):
    code, _, err = run("predict", "m")
    assert code == cli.WRONG_USE
    assert err == "uniemox: error: PATHS must be given; see `uniemox predict --help`\n"
    code, _, err = run("predict", "m", "--list", "l.txt", "--column", "image")
    assert code == cli.WRONG_USE
    assert "--column is about a table of paths: give one" in err


@pytest.mark.parametrize("words", [["--list", "LIST"], ["--list", "-"], ["0.png", "--list", "-"]])
@pytest.mark.parametrize("suffix", ["", ".csv"])
def test_a_list_names_images(run, predictor, pipe, tmp_path, words, suffix):
    data = b"a.png\n\nbad.png\n"
    pipe(data)
    (tmp_path / "list").write_bytes(data)
    words = [tmp_path / "list" if word == "LIST" else word for word in words]
    more = ["--out", tmp_path / f"t{suffix}"] if suffix else ["--json"]
    code, out, err = run("predict", "m", *words, *more)
    found = (
        [row[0] for row in read(tmp_path / f"t{suffix}")]
        if suffix
        else [json.loads(r)["path"] for r in out.split("\n")[:-1]]
    )
    expected = ["a.png", "bad.png"] if words[0] == "--list" else ["0.png", "a.png", "bad.png"]
    assert (code, found) == (cli.SUCCESS, expected)
    assert err == f"uniemox: 1 of {len(expected)} images got no answer\n"


def test_a_list_without_an_image_that_can_be_read_is_a_failure(run, predictor, pipe):
    pipe(b"bad.png\n")
    code, _, err = run("predict", "m", "--list", "-", "--json")
    assert (code, err) == (cli.FAILURE, "uniemox: 1 of 1 images got no answer\n")


def test_an_empty_list_on_stdin_is_an_error_of_one_line(run, predictor, pipe):
    pipe(b"\n")
    code, out, err = run("predict", "m", "--list", "-", "--json")
    assert (code, out, err) == (cli.FAILURE, "", "uniemox: error: - names no image\n")


@pytest.mark.slow
def test_a_list_on_stdin_is_answered_as_its_lines_come(painted, exported):
    pictures = sorted(painted.root.rglob("*.png"))[:2]
    environment = os.environ | {"PYTHONPATH": str(Path(uniemox.__file__).parents[1])}
    words = [sys.executable, "-m", "uniemox", "predict", exported, "--list", "-", "--json", "--device", "cpu"]
    with subprocess.Popen(
        list(map(str, words)), env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        for picture in pictures:
            process.stdin.write(f"{picture}\n".encode())
            answer = json.loads(process.stdout.readline())  # while the next line is not written yet
            assert (answer["path"], answer["reason"]) == (str(picture), None)
        process.stdin.close()
        assert process.wait(60) == cli.SUCCESS


def test_nothing_is_waited_for_on_a_terminal(run, predictor, monkeypatch):
    terminal = types.SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=terminal))
    monkeypatch.setattr(predictor, "load", None)
    for words in (["-"], ["--list", "-"]):
        code, _, err = run("predict", "m", *words)
        assert code == cli.WRONG_USE
        assert err == "uniemox: error: - reads stdin, but nothing is piped into it: add < FILE, or COMMAND |\n"


def test_a_table_is_predicted_and_each_row_says_which_it_was(run, predictor, tmp_path):
    table = tmp_path / "photos.csv"
    table.write_text("id,shot\n7,a.png\n8,\n9,bad.png\n")
    out = tmp_path / "t.csv"
    code, _, err = run("predict", "m", table, "--column", "shot", "--root", "in", "--out", out)
    assert code == cli.SUCCESS
    with out.open(newline="") as file:
        rows = [(row["path"], row["row"]) for row in csv.DictReader(file)]
    assert rows == [("in/a.png", "0"), (str(table), "1"), ("in/bad.png", "2")]
    code, _, err = run("predict", "m", table, "--column", "shoot")
    assert code == cli.FAILURE
    assert "has no column shoot; did you mean shot?" in err


@pytest.fixture
def photos(painted, tmp_path):
    """A few images, as files and in archives."""
    pictures = sorted(painted.root.rglob("*.png"))[:6]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for picture in pictures:
            archive.write(picture, picture.name)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for picture in pictures:
            archive.add(picture, picture.name)
    return pictures


def shares_in(out):
    return [
        [value for name, value in row.items() if name.startswith("p_")]
        for row in map(dict, csv.DictReader(out.read_text().splitlines()))
    ]


def test_an_archive_gives_the_answers_to_its_files(run, exported, photos, tmp_path):
    out = tmp_path / "files.csv"
    assert run("predict", exported, *photos, "--out", out, "--device", "cpu")[0] == cli.SUCCESS
    for form in ("a.zip", "a.tar.gz"):
        table = tmp_path / f"{form}.csv"
        assert run("predict", exported, tmp_path / form, "--out", table)[0] == cli.SUCCESS
        assert shares_in(table) == shares_in(out)
        assert [row[0] for row in read(table)] == [f"{tmp_path / form}/{picture.name}" for picture in photos]


def test_people_in_an_archive_are_found_by_the_paths_of_its_images(run, exported, photos, tmp_path):
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(f"path,x0,y0,x1,y1\n{tmp_path}/a.zip/{photos[0].name},1,2,20,20\n{photos[1].name},3,2,20,20\n")
    out = tmp_path / "t.csv"
    code, _, _ = run("predict", exported, tmp_path / "a.zip", "--boxes", boxes, "--out", out)
    assert code == cli.SUCCESS
    assert [row[2] for row in read(out)][:4] == [None, "1.0", None, "3.0"]
    code, _, err = run("predict", exported, tmp_path / "a.tar.gz", "--boxes", boxes)
    assert code == cli.WRONG_USE
    assert "--boxes is about paths that are known before " in err
    assert "a.tar.gz is read: give --detector, or pack it as zip or tar" in err


@pytest.mark.parametrize("form", ["zip", "tar", "stdin", "table"])
def test_boxes_in_shares_are_of_the_image_that_is_read(run, exported, photos, tmp_path, monkeypatch, form):
    # The sides are all 0.5 of an image whose size Pillow knows; the path of a member is no file on the disk.
    name = photos[0].name
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(photos[0], name)
    (tmp_path / "t.csv").write_text(f"path\n{photos[0]}\n")
    piped = io.TextIOWrapper(io.BytesIO(photos[0].read_bytes()))
    monkeypatch.setattr("sys.stdin", piped)
    path, given = {
        "zip": (f"{tmp_path}/a.zip/{name}", tmp_path / "a.zip"),
        "tar": (f"{tmp_path}/a.tar/{name}", tmp_path / "a.tar"),
        "stdin": ("-", "-"),
        "table": (str(photos[0]), tmp_path / "t.csv"),
    }[form]
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(f"path,x0,y0,x1,y1\n{path},0,.25,.5,1\n")
    code, out, err = run("predict", exported, given, "--boxes", boxes, "--box-units", "shares", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    with Image.open(photos[0]) as photo:
        width, height = photo.size
    box = next(row["box"] for row in rows if row["path"] == path and row["box"])
    assert (code, err) == (cli.SUCCESS, "")
    assert [box[edge] for edge in ("x0", "y0", "x1", "y1")] == [0, height / 4, width / 2, height]


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    """A program in the place of ffmpeg that gives images of a grey of its own each; sets how many, and how it ends."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (tmp_path / "v.mp4").touch()

    def put(count, *, after=""):
        code = (
            f"#!{sys.executable}",
            "import os, sys, time, itertools",
            f"open({str(folder / 'pid')!r}, 'w').write(str(os.getpid()))",
            f"for n in {'itertools.count()' if count is None else f'range({count})'}:",
            "    sys.stdout.buffer.write(b'P6\\n40 30\\n255\\n' + bytes([n % 256]) * 3600)",
            after,
        )
        (folder / "ffmpeg").write_text("\n".join(code) + "\n")
        (folder / "ffmpeg").chmod(0o755)
        return folder / "pid"

    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return put


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_video_gives_a_row_for_each_frame_with_its_time(run, exported, ffmpeg, tmp_path, suffix):
    ffmpeg(5)
    out = tmp_path / f"t{suffix}"
    code, text, _ = run("predict", exported, tmp_path / "v.mp4", "--fps", "2.5", "--out", out, "--json")
    assert (code, json.loads(text)) == (cli.SUCCESS, {"out": str(out), "pictures": 5})
    assert [row[0] for row in read(out)] == [str(tmp_path / "v.mp4")] * 5
    match suffix:
        case ".parquet":
            times = pq.read_table(out)["time"].to_pylist()
        case ".jsonl":
            times = [json.loads(line)["time"] for line in out.read_text().splitlines()]
        case _:
            times = [float(row["time"]) for row in csv.DictReader(out.read_text().splitlines())]
    assert times == pytest.approx([0, 0.4, 0.8, 1.2, 1.6])


def test_frames_are_shown_with_their_times_and_what_breaks_off_with_its_reason(
    run, exported, ffmpeg, tmp_path, monkeypatch
):
    ffmpeg(2, after="sys.exit('cut off')")
    monkeypatch.chdir(tmp_path)  # a short path, which no line of the table is broken in
    code, out, err = run("predict", exported, "v.mp4")
    assert code == cli.SUCCESS
    assert re.search(r"v\.mp4 +│ +1 s │ \w+ ", out)
    assert "not read: the video breaks off after 2 frames: cut off" in out
    assert "uniemox: 1 of 3 images got no answer" in err


def test_an_interrupted_video_is_continued_to_the_bytes_of_an_unbroken_run(
    run, exported, ffmpeg, tmp_path, monkeypatch
):
    from uniemox.inference.parts import Parts

    ffmpeg(1300)
    words = ["predict", exported, tmp_path / "v.mp4", "--fps", "25", "--workers", "0"]
    assert run(*words, "--out", tmp_path / "whole.csv")[0] == cli.SUCCESS
    keep = Parts.keep

    def interrupted(self, portion, predictions):
        if portion.number == 1:
            raise KeyboardInterrupt
        keep(self, portion, predictions)

    out = tmp_path / "t.csv"
    with monkeypatch.context() as patch:
        patch.setattr(Parts, "keep", interrupted)
        code, _, err = run(*words, "--out", out)
    assert code == 130
    assert f"interrupted: 512 images are kept in {out}.parts" in err
    code, _, err = run(*words, "--out", out, "--resume", "--fps", "24")
    assert code == cli.WRONG_USE
    assert "another list of inputs (1 input, SHA-256 " in err
    code, _, err = run(*words, "--out", out, "--resume")
    assert code == cli.SUCCESS
    assert err.startswith("continuing after 512 images\n")
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.slow
def test_a_signal_ends_ffmpeg_too(start, exported, ffmpeg, tmp_path):
    pid, out = ffmpeg(None), tmp_path / "t.csv"
    started = start("predict", exported, tmp_path / "v.mp4", "--out", out, "--batch-size", "1", "--device", "cpu")
    started.wait_for(tmp_path / "t.csv.parts", 1)
    process = int(pid.read_text())
    os.kill(process, 0)
    code, _, err = started.end(signal.SIGTERM)
    assert code == 143
    assert "images are kept in" in err
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
