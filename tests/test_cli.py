import inspect
import json
import os
import re
import resource
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

import uniemox
from uniemox import cli
from uniemox.config import FinetuneConfig, PretrainConfig
from uniemox.data.manifest import Facts, manifest_from_columns, read_manifest
from uniemox.errors import CheckpointError, ConfigError, DataError, TrainingError
from uniemox.metrics import evaluate_predictions
from uniemox.settings import list_settings
from uniemox.train.events import Message, Progress

HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "open_clip",
    "matplotlib",
    "sklearn",
    "scipy",
    "pyarrow",
} | {
    "accelerate",
    "numpy",
    "PIL",
    "rich",
}
HELPS = [
    ["--help"],
    ["data", "--help"],
    ["--version"],
    *([*name.split(), "--help"] for name in cli.COMMANDS),
]


@pytest.fixture(autouse=True)
def _one_process(monkeypatch):
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(capsys):
    def call(*words):
        code = cli.main([str(word) for word in words])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.fixture
def fake(monkeypatch):
    """Put a module of the given names in the place of one that needs torch."""

    def put(name, **values):
        module = types.ModuleType(f"uniemox.{name}")
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, f"uniemox.{name}", module)

    return put


def start(*words, **options):
    """Run the command line in another process."""
    environment = os.environ | {"PYTHONPATH": str(Path(uniemox.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-m", "uniemox", *map(str, words)],
        env=environment | options.pop("env", {}),
        check=False,
        capture_output="stdout" not in options,
        text=True,
        timeout=60,
        **options,
    )


# What is called


def test_what_is_called_takes_what_it_is_given():
    """The fakes below are only worth something while the real ones take the same arguments."""
    from uniemox.demo.run import run_demo
    from uniemox.evaluate import evaluate
    from uniemox.predict import Predictor, find_pictures, write_predictions
    from uniemox.train.run import finetune, pretrain

    compute = {"device": "auto", "batch_size": 1, "num_workers": 0}
    calls = (
        (run_demo, (Path("x"),), {"device": "auto", "seed": 0, "observer": print}),
        (evaluate, ("m",), {"data": Path("d"), "split": "test", "out": None, **compute}),
        (Predictor.load, ("m",), {"device": "auto"}),
        (Predictor.predict, (None, []), {"batch_size": 1, "num_workers": 0}),
        (find_pictures, ([],), {}),
        (write_predictions, ([], Path("x.csv"), ()), {}),
        (pretrain, (None, print), {}),
        (finetune, (None, print), {}),
    )
    for function, positional, named in calls:
        inspect.signature(function).bind(*positional, **named)


# Help


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_help_works_in_process(run, words):
    code, out, err = run(*words)
    assert code == cli.SUCCESS
    assert out.startswith(("usage: uniemox", "uniemox 0"))
    assert err == ""


def test_no_help_brings_a_heavy_module():
    code = (
        "import sys; from uniemox.cli import main; "
        f"codes = [main(words) for words in {HELPS!r}]; "
        f"print(codes, {HEAVY!r} & {{name.split('.')[0] for name in sys.modules}})"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(uniemox.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == f"{[0] * len(HELPS)} set()"


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_help_takes_less_than_300_milliseconds(words):
    def processor_seconds():
        # Not the clock on the wall, which runs on while other processes have the processor.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert start(*words).returncode == cli.SUCCESS
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert any(processor_seconds() < 0.3 for _ in range(3))


def test_the_overview_lists_every_command(run):
    _, out, _ = run("--help")
    for name, command in cli.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.summary)}$", out, re.MULTILINE)


def test_the_overview_of_data_lists_its_commands_alone(run):
    _, out, _ = run("data", "--help")
    assert re.findall(r"^  (\w+ \w+)  ", out, re.MULTILINE) == ["data prepare", "data show"]


def test_no_word_at_all_is_wrong_use_and_shows_the_overview(run):
    code, out, _ = run()
    assert code == cli.WRONG_USE
    assert "pretrain" in out


def test_the_version_is_that_of_the_package(run):
    assert run("--version") == (cli.SUCCESS, f"uniemox {uniemox.__version__}\n", "")


def test_the_package_runs_as_a_module():
    done = start("--version")
    assert (done.returncode, done.stdout) == (0, f"uniemox {uniemox.__version__}\n")


@pytest.mark.parametrize(
    ("command", "config"), [("pretrain", PretrainConfig), ("finetune", FinetuneConfig)]
)
def test_the_help_of_a_run_has_every_setting_in_dashes(run, command, config):
    _, out, _ = run(command, "--help")
    flags = set(re.findall(r"^  (--[\w.-]+)", out, re.MULTILINE))
    assert {setting.flag for setting in list_settings(config)} <= flags
    assert not any("_" in flag for flag in flags)
    for flag in ("--preset", "--config", "--print-config", "--device", "--seed", "--num-workers"):
        assert flag in flags
    assert "--max-steps" in flags
    assert "weaker than flags, wherever they stand on the line" in " ".join(out.split())


# Wrong use


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["pretain"], "there is no command pretain; did you mean pretrain?; see"),
        (["zzz"], "there is no command zzz; see `uniemox --help`"),
        (["x" * 9999], "there is no command xxx"),
        (["data"], "data needs to know what to do: data prepare or data show"),
        (["data", "sow"], "data needs to know what to do: data prepare or data show"),
        (["--help-me"], "there is no command --help-me"),
        (["pretrain", "--help-me"], "there is no flag --help-me; did you mean --help?"),
        (["pretrain"], "--data and --out must be given"),
        (["pretrain", "x"], "unrecognized arguments: x"),
        (["pretrain", "--optim.base-lrr", "3"], "did you mean --optim.base-lr?"),
        (["pretrain", "--optim.epochs", "3.5"], "optim.epochs is 3.5, but must be a whole number"),
        (["pretrain", "--preset", "mae"], "there is no preset mae; known are base, demo, rel"),
        (["finetune", "--config", "/missing.yaml"], "/missing.yaml: No such file"),
        (["evaluate"], "MODEL and --data must be given"),
        (["evaluate", "m", "--data", "d", "--batch-size", "0"], "--batch-size is 0"),
        (["evaluate", "m", "--data", "d", "--num-workers", "-1"], "--num-workers is -1"),
        (["predict", "m"], "PATHS must be given"),
        (["predict", "m", "p", "--top-k", "0"], "--top-k is 0"),
        (["predict", "m", "p", "--batch-size", "0"], "--batch-size is 0"),
        (["predict", "m", "p", "--out", "table.xls"], "table.xls, but must end in .csv, .jsonl"),
        (["predict", "m", "p", "--out", "table"], "table, but must end in .csv"),
        (["data", "prepare", "fi"], "--root and --out must be given"),
        *(
            (["data", "prepare", "fi", "--root", "r", "--out", "o", "--split", split], "--split is")
            for split in (
                "80",
                "80/20",
                "1/2/3/4",
                "a/b/c",
                "0/1/1",
                "1/-1/1",
                "1/nan/1",
                "inf/1/1",
            )
        ),
        (["demo", "--seed", "x"], "seed is x, but must be a whole number"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_wrong_use_is_one_line_on_stderr_and_code_2(run, words, complaint):
    code, out, err = run(*words)
    assert code == cli.WRONG_USE
    assert out == ""
    assert err.startswith("uniemox: error: ")
    assert complaint in err
    assert err.count("\n") == 1
    assert len(err) < 400


def test_a_table_that_exists_is_replaced_only_if_that_is_said(run, tmp_path):
    table = tmp_path / "table.csv"
    table.touch()
    code, _, err = run("predict", "m", "p", "--out", table)
    assert code == cli.WRONG_USE
    assert "table.csv exists; --overwrite replaces it" in err


@pytest.mark.parametrize(
    ("text", "shares"),
    [("80/5/15", (0.8, 0.05, 0.15)), ("0.7/0.1/0.2", (0.7, 0.1, 0.2)), ("3/0/1", (0.75, 0, 0.25))],
)
def test_shares_of_a_split_sum_to_one(text, shares):
    ratios = cli.parse_ratios(text)
    assert ratios == pytest.approx(shares)
    assert sum(ratios) == pytest.approx(1)


# Failures


def failing(error):
    def run_it(*_, **__):
        raise error

    return run_it


TRAIN = ["--data", "d.parquet", "--out", "run"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("no picture in x"), 1),
        (CheckpointError("no model in x"), 1),
        (TrainingError("the loss is nan"), 1),
        (ConfigError("no such device"), 2),
        (OSError(28, "No space left on device", "x.bin"), 1),
        (PermissionError(13, "Permission denied", "x.bin"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_failure_is_one_line_and_its_code(run, fake, error, code):
    fake("train.run", pretrain=failing(error))
    assert run("pretrain", *TRAIN) == (code, "", f"uniemox: error: {error}\n")


def test_a_message_of_several_lines_comes_to_one_and_steers_no_terminal(run, fake):
    fake("train.run", pretrain=failing(DataError("bad\n  file \x1b[31m.png")))
    _, _, err = run("pretrain", *TRAIN)
    assert err == "uniemox: error: bad file \\x1b[31m.png\n"


@pytest.mark.parametrize("place", [0, 1, 3, 5])
def test_debug_shows_the_traceback_wherever_it_stands(run, fake, place):
    fake("train.run", pretrain=failing(DataError("no picture")))
    words = ["pretrain", *TRAIN]
    words.insert(place, "--debug")
    code, _, err = run(*words)
    assert code == cli.FAILURE
    assert "Traceback" in err
    assert "in run_it" in err
    assert err.endswith("\nuniemox: error: no picture\n")


def test_a_mistake_of_ours_keeps_its_traceback(run, fake):
    fake("train.run", pretrain=failing(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        run("pretrain", *TRAIN)


def test_an_interrupted_run_says_so_and_has_its_own_code(run, fake):
    def pretrain(config, observer):
        observer(Message("state saved at step 7"))
        raise KeyboardInterrupt

    fake("train.run", pretrain=pretrain)
    code, out, err = run("pretrain", *TRAIN)
    assert (code, out) == (130, "")
    assert err == "state saved at step 7\nuniemox: interrupted\n"


def test_a_reader_that_has_enough_is_no_error_to_speak_of():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        done = start("pretrain", "--print-config", stdout=pipe, stderr=subprocess.PIPE)
    assert done.returncode == cli.FAILURE
    assert done.stderr == ""


def test_output_that_the_encoding_cannot_say_is_escaped():
    done = start("finetune", "--print-config", "--init", "Ω", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == cli.SUCCESS
    assert "init: \\u03a9" in done.stdout


# Runs


@dataclass
class Recorder:
    """Stands for a run; keeps its configuration and tells a step."""

    config: object = None

    def __call__(self, config, observer):
        self.config = config
        observer(Progress(5, 5, 1, 1, {"loss": 0.5}, 100.0, 0.0))
        return Path("run/model")


@pytest.fixture
def pages(fake):
    """Stands for the writers of pages; keeps what they were asked for."""
    asked = []

    def write_run_report(folder):
        asked.append(folder)

    def write_evaluation_report(folder, *, model, data, split):
        asked.append((folder, model, data, split))

    fake("report")
    fake(
        "report.run",
        write_run_report=write_run_report,
        write_evaluation_report=write_evaluation_report,
    )
    return asked


def test_runs_and_evaluations_leave_pages(run, fake, pages):
    fake("train.run", pretrain=Recorder(), finetune=Recorder())
    run("pretrain", *TRAIN)
    assert pages == [Path("run")]
    run("finetune", *TRAIN)
    test = (Path("run/test"), "run/model", Path("d.parquet"), "test")
    assert pages[1:] == [Path("run"), test]
    run("finetune", *TRAIN, "--test-split", "null")
    assert pages[3:] == [Path("run")]


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_a_run_gets_its_configuration_and_prints_its_folder(run, fake, pages, command):
    recorder = Recorder()
    fake("train.run", **{command: recorder})
    code, out, err = run(command, "--preset", "demo", *TRAIN, "--seed", "3", "--num_workers=0")
    assert (code, out) == (cli.SUCCESS, "run/model\n")
    assert err.startswith("step 5/5, epoch 1/1: loss 0.5, 100 images/s")
    config = recorder.config
    assert isinstance(config, {"pretrain": PretrainConfig, "finetune": FinetuneConfig}[command])
    assert (config.data, config.out) == (Path("d.parquet"), Path("run"))
    assert (config.seed, config.num_workers) == (3, 0)


def test_only_the_first_of_many_processes_speaks(run, fake, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    fake("train.run", pretrain=Recorder())
    assert run("pretrain", *TRAIN) == (cli.SUCCESS, "", "")


def test_an_error_of_another_process_says_of_which(run, fake, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    fake("train.run", pretrain=failing(DataError("no picture")))
    assert run("pretrain", *TRAIN) == (1, "", "uniemox (rank 3): error: no picture\n")


@pytest.mark.parametrize("flag", ["--print-config", "--print_config"])
@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_the_configuration_is_printed_with_comments_and_nothing_runs(run, command, flag):
    code, out, err = run(command, "--preset", "released", flag, "--seed", "9")
    assert (code, err) == (cli.SUCCESS, "")
    tree = yaml.safe_load(out)
    assert tree["seed"] == 9
    assert tree["optim"]["weight_decay"] == 0.05
    assert "data" not in tree
    assert "# Seed of weights, order, masks and augmentation." in out


def test_the_demo_prints_its_report(run, fake):
    def run_demo(out, *, device, seed, observer):
        observer(Message(f"{out} {device} {seed}"))
        return out / "report.html"

    fake("demo")
    fake("demo.run", run_demo=run_demo)
    assert run("demo", "--out", "x", "--seed", "4") == (0, "x/report.html\n", "x auto 4\n")
    assert run("demo")[1] == "uniemox-demo/report.html\n"


# Data


@pytest.fixture
def class_folders(tmp_path):
    """Two classes of ten empty pictures, and one file that is none."""
    root = tmp_path / "pictures"
    for name in ("awe", "fear"):
        (root / name).mkdir(parents=True)
        for index in range(10):
            (root / name / f"{index}.png").touch()
    (root / "awe" / "notes.txt").touch()
    return root


def prepare(class_folders, tmp_path, *words):
    where = ["--root", class_folders, "--out", tmp_path / "m.parquet"]
    return ["data", "prepare", "folders", *where, "--split", "80/10/10", *words]


def test_a_data_set_is_prepared_and_shown(run, class_folders, tmp_path):
    code, out, _ = run(*prepare(class_folders, tmp_path))
    assert code == cli.SUCCESS
    assert out.endswith(f"{tmp_path / 'm.parquet'}\n")
    assert re.search(r"awe +│ +8 │ +1 │ +1", out)
    assert read_manifest(tmp_path / "m.parquet").split_counts() == {
        "train": 16,
        "val": 2,
        "test": 2,
    }
    code, shown, _ = run("data", "show", tmp_path / "m.parquet")
    assert code == cli.SUCCESS
    assert re.search(r"all +│ +16 │ +2 │ +2", shown)
    assert str(class_folders) in shown


def test_a_data_set_is_prepared_and_shown_for_machines(run, class_folders, tmp_path):
    code, out, err = run(*prepare(class_folders, tmp_path, "--json"))
    prepared = json.loads(out)
    assert (code, err) == (cli.SUCCESS, "")
    assert prepared["manifest"] == str(tmp_path / "m.parquet")
    assert prepared["pictures"] == {
        "train": {"awe": 8, "fear": 8},
        "val": {"awe": 1, "fear": 1},
        "test": {"awe": 1, "fear": 1},
    }
    assert all(set(problem) == {"kind", "count", "example"} for problem in prepared["problems"])
    _, out, _ = run("data", "show", "--json", tmp_path / "m.parquet")
    shown = json.loads(out)
    assert shown["pictures"] == prepared["pictures"]
    assert shown["facts"]["classes"] == ["awe", "fear"]
    assert shown["facts"]["root"] == str(class_folders)


def test_problems_of_a_data_set_are_printed(run, fake, tmp_path):
    from uniemox.data.layouts import Import, Problem

    facts = Facts(name="x", title="X", classes=("awe",), emotion=None, root=tmp_path)
    manifest = manifest_from_columns(facts, paths=["a.png"], splits=["train"], labels=[None])
    asked = {}

    def import_dataset(name, root, **options):
        asked.update(options, name=name, root=root)
        return Import(manifest, (Problem("box outside the picture", 7, "a.png"),))

    fake("data.layouts", import_dataset=import_dataset)
    code, out, _ = run(
        *("data", "prepare", "fi", "--root", "r", "--out", tmp_path / "m.parquet"),
        *("--people", "boxes.csv", "--seed", "5", "--strict"),
    )
    assert code == cli.SUCCESS
    assert re.search(r"box outside the picture +│ +7 │ a\.png", out)
    assert re.search(r"no label +│ +1", out)
    assert asked == {
        "name": "fi",
        "root": Path("r"),
        "people": Path("boxes.csv"),
        "ratios": None,
        "seed": 5,
        "strict": True,
    }


def test_a_manifest_that_is_none_is_refused(run, tmp_path):
    (tmp_path / "m.parquet").write_text("no parquet")
    code, out, err = run("data", "show", tmp_path / "m.parquet")
    assert (code, out) == (cli.FAILURE, "")
    assert "m.parquet" in err


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
    }
    _, out, _ = run("evaluate", "m", "--data", "d", "--json")
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

    def top(self, count):
        return sorted(self.probabilities.items(), key=lambda item: -item[1])[:count]

    def to_dict(self):
        return {**vars(self), "path": str(self.path)}


class Predictor:
    """Finds awe in every picture whose name does not say that it is bad."""

    facts = types.SimpleNamespace(classes=("awe", "fear"))
    asked: dict

    @classmethod
    def load(cls, model, *, device):
        cls.asked = {"model": model, "device": device}
        return cls()

    def predict(self, paths, **options):
        self.asked.update(options)
        for path in paths:
            if "bad" in path.name:
                yield Prediction(path, None, None, None, "not an image")
            else:
                yield Prediction(path, "awe", 0.75, {"awe": 0.75, "fear": 0.25})


@pytest.fixture
def predictor(fake):
    def write_predictions(predictions, out, classes):
        assert classes == ("awe", "fear")
        rows = list(predictions)
        out.write_text("".join(f"{row.path}\n" for row in rows))
        return len(rows)

    fake("predict", Predictor=Predictor, find_pictures=list, write_predictions=write_predictions)
    return Predictor


def test_predictions_are_a_table_on_stdout(run, predictor):
    code, out, err = run("predict", "m", "a.png", "bad.png", "--top-k", "1", "--device", "cpu")
    assert code == cli.SUCCESS
    assert re.search(r"a\.png +│ awe +│ 75\.0 │ awe 75\.0 ", out)
    assert re.search(r"bad\.png .* not read: not an image", out)
    assert err == "uniemox: 1 of 2 pictures could not be read\n"
    assert predictor.asked == {"model": "m", "device": "cpu", "batch_size": 32, "num_workers": 2}


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
    }
    assert (second["label"], second["reason"]) == (None, "not an image")


@pytest.mark.parametrize("suffix", cli.TABLE_SUFFIXES)
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
