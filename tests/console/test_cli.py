import inspect
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import uniemox
from uniemox.config.training import FinetuneConfig, PretrainConfig
from uniemox.console import cli
from uniemox.console.flags import flag_of
from uniemox.errors import CheckpointError, ConfigError, DataError, TrainingError
from uniemox.settings import list_settings
from uniemox.train.events import Message

HEAVY = {"torch", "torchvision", "timm", "open_clip", "matplotlib", "sklearn", "scipy", "pyarrow"} | {
    "accelerate",
    "numpy",
    "PIL",
    "rich",
}
HELPS = [["--help"], ["data", "--help"], ["--version"], *([*name.split(), "--help"] for name in cli.COMMANDS)]


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
    from uniemox.export.run import export_onnx
    from uniemox.inference.evaluate import evaluate
    from uniemox.inference.predictor import Predictor, find_images
    from uniemox.inference.tables import write_predictions
    from uniemox.targets.single_label import SingleLabel
    from uniemox.train.finetune import finetune
    from uniemox.train.pretrain import pretrain

    compute = {"device": "auto", "batch_size": 1, "num_workers": 0}
    calls = (
        (run_demo, (Path("x"),), {"device": "auto", "seed": 0, "observer": print}),
        (evaluate, ("m",), {"data": Path("d"), "split": "test", "out": None, **compute}),
        (Predictor.load, ("m",), {"device": "auto"}),
        (export_onnx, ("m", Path("o")), {"quantize": None, "calibration": [], "opset": 20, "dataset": None}),
        (Predictor.predict, (None, []), {"batch_size": 1, "num_workers": 0}),
        (find_images, ([],), {}),
        (write_predictions, ([], Path("x.csv"), SingleLabel()), {}),
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
        "import sys; from uniemox.console.cli import main; "
        f"codes = [main(words) for words in {HELPS!r}]; "
        f"print(codes, {HEAVY!r} & {{name.split('.')[0] for name in sys.modules}})"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(uniemox.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == f"{[0] * len(HELPS)} set()"


def processor_seconds(*line):
    """Not the clock on the wall, which runs on while other processes have the processor."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"PYTHONPATH": str(Path(uniemox.__file__).parents[1])}
    subprocess.run([sys.executable, *line], env=environment, check=True, capture_output=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_takes_less_than_three_imports_of_the_parser():
    """A ratio, because the seconds are those of the machine: an import of tyro takes .08 of them, or twice as many."""
    imports = [processor_seconds("-c", "import tyro") for _ in range(5)]
    for words in HELPS:
        helps = [processor_seconds("-m", "uniemox", *words)]
        while min(helps) >= 3 * min(imports) and len(helps) < 10:  # what else runs here adds to all but the least
            helps.append(processor_seconds("-m", "uniemox", *words))
            imports.append(processor_seconds("-c", "import tyro"))
        told = f"{words}: {min(helps):.3f} s of the processor, and an import of tyro {min(imports):.3f}"
        assert min(helps) < 3 * min(imports), told


@pytest.mark.soak  # on a machine that does nothing else
@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_help_takes_less_than_300_milliseconds(words):
    assert any(processor_seconds("-m", "uniemox", *words) < 0.3 for _ in range(10))


def test_the_overview_lists_every_command(run):
    _, out, _ = run("--help")
    for name, command in cli.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.summary)}$", out, re.MULTILINE)


def test_the_overview_of_data_lists_its_commands_alone(run):
    _, out, _ = run("data", "--help")
    commands = [name for name in cli.COMMANDS if name.startswith("data ")]
    assert re.findall(r"^  (\w+ \w+)  ", out, re.MULTILINE) == commands
    assert "data prepare" in commands


def test_no_word_at_all_is_wrong_use_and_shows_the_overview(run):
    code, out, _ = run()
    assert code == cli.WRONG_USE
    assert "pretrain" in out


def test_the_version_is_that_of_the_package(run):
    assert run("--version") == (cli.SUCCESS, f"uniemox {uniemox.__version__}\n", "")


def test_the_package_runs_as_a_module():
    done = start("--version")
    assert (done.returncode, done.stdout) == (0, f"uniemox {uniemox.__version__}\n")


@pytest.mark.parametrize(("command", "config"), [("pretrain", PretrainConfig), ("finetune", FinetuneConfig)])
def test_the_help_of_a_run_has_every_setting_in_dashes(run, command, config):
    _, out, _ = run(command, "--help")
    flags = set(re.findall(r"^[│ ]+(--[\w.-]+)", out, re.MULTILINE))
    assert {flag_of(setting) for setting in list_settings(config)} <= flags
    assert not any("_" in flag for flag in flags)
    for flag in ("--preset", "--config", "--print-config", "--device", "--seed", "--workers"):
        assert flag in flags
    assert "--max-steps" in flags
    assert "weaker than flags, in any order on the line" in " ".join(out.replace("│", "").split())


# Wrong use


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["pretain"], "unknown command pretain; did you mean pretrain?; see"),
        (["zzz"], "unknown command zzz; see `uniemox --help`"),
        (["x" * 9999], "unknown command xxx"),
        (["data"], "data needs a subcommand: data prepare or data datasets or data"),
        (["data", "sow"], "data needs a subcommand: data prepare or data datasets or data"),
        (["--help-me"], "unknown command --help-me"),
        (["pretrain", "--help-me"], "unknown flag --help-me; did you mean --help?"),
        (["pretrain"], "--data and --out must be given"),
        (["pretrain", "x"], "unexpected argument x"),
        (["pretrain", "--optim.base-lrr", "3"], "did you mean --optim.base-lr?"),
        (["pretrain", "--optim.epochs", "3.5"], "--optim.epochs is 3.5, but must be a whole number"),
        (["pretrain", "--preset", "mae"], "unknown preset mae; known are base, demo, fast, rel"),
        (["finetune", "--config", "/missing.yaml"], "/missing.yaml: no such file"),
        (["evaluate"], "MODEL and --data must be given"),
        (["evaluate", "m", "--data", "d", "--batch-size", "0"], "--batch-size is 0"),
        (["evaluate", "m", "--data", "d", "--workers", "-1"], "--workers is -1"),
        (["predict", "m"], "PATHS must be given"),
        (["predict", "m", "p", "--top-k", "0"], "--top-k is 0"),
        (["predict", "m", "p", "--batch-size", "0"], "--batch-size is 0"),
        (["predict", "m", "p", "--out", "table.xls"], "table.xls, but must end in .csv, .jsonl"),
        (["predict", "m", "p", "--out", "table"], "table, but must end in .csv"),
        (["data", "prepare", "fi"], "--root and --out must be given"),
        *(
            (["data", "prepare", "fi", "--root", "r", "--out", "o.parquet", "--ratios", ratios], "--ratios")
            for ratios in ("80", "80/20", "1/2/3/4", "a/b/c", "0/1/1", "1/-1/1", "1/nan/1", "inf/1/1")
        ),
        (["demo", "--seed", "x"], "--seed is x, but must be a whole number"),
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


# Failures


def failing(error):
    def run_it(*_, **__):
        raise error

    return run_it


TRAIN = ["--data", "d.parquet", "--out", "run"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("no image in x"), 1),
        (CheckpointError("no model in x"), 1),
        (TrainingError("the loss is nan"), 1),
        (ConfigError("no such device"), 2),
        (OSError(28, "No space left on device", "x.bin"), 1),
        (PermissionError(13, "Permission denied", "x.bin"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_failure_is_one_line_and_its_code(run, fake, error, code):
    fake("train.pretrain", pretrain=failing(error))
    assert run("pretrain", *TRAIN) == (code, "", f"uniemox: error: {error}\n")


def test_a_message_of_several_lines_comes_to_one_and_steers_no_terminal(run, fake):
    fake("train.pretrain", pretrain=failing(DataError("bad\n  file \x1b[31m.png")))
    _, _, err = run("pretrain", *TRAIN)
    assert err == "uniemox: error: bad file \\x1b[31m.png\n"


@pytest.mark.parametrize("place", [0, 1, 3, 5])
def test_debug_shows_the_traceback_wherever_it_stands(run, fake, place):
    fake("train.pretrain", pretrain=failing(DataError("no image")))
    words = ["pretrain", *TRAIN]
    words.insert(place, "--debug")
    code, _, err = run(*words)
    assert code == cli.FAILURE
    assert "Traceback" in err
    assert "in run_it" in err
    assert err.endswith("\nuniemox: error: no image\n")


def test_a_mistake_of_ours_keeps_its_traceback(run, fake):
    fake("train.pretrain", pretrain=failing(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        run("pretrain", *TRAIN)


def test_an_interrupted_run_says_so_and_has_its_own_code(run, fake):
    def pretrain(config, observer):
        observer(Message("state saved at step 7"))
        raise KeyboardInterrupt

    fake("train.pretrain", pretrain=pretrain)
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


def test_only_the_first_of_many_processes_speaks(run, fake, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    fake("train.pretrain", pretrain=lambda config, observer: observer(Message("a step")))
    assert run("pretrain", *TRAIN) == (cli.SUCCESS, "", "")


def test_an_error_of_another_process_says_of_which(run, fake, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    fake("train.pretrain", pretrain=failing(DataError("no image")))
    assert run("pretrain", *TRAIN) == (1, "", "uniemox (rank 3): error: no image\n")
