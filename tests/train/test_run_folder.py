"""The folder of a run: who may write it, and what a resumed run may change."""

import json
import subprocess
import sys
import textwrap
from contextlib import closing
from dataclasses import replace

import pytest

from uniemox.config.training import FinetuneConfig, PretrainConfig
from uniemox.errors import CheckpointError, ConfigError
from uniemox.settings import load_config
from uniemox.train.run_folder import RunFolder, describe_environment


@pytest.fixture
def config(pretrain_config, tmp_path):
    return pretrain_config(tmp_path / "new" / "run")


def check_run_folder(config):
    with closing(RunFolder(config)) as folder:
        folder.check()


def open_run_folder(config):
    with closing(RunFolder(config)) as folder:
        folder.open()


def contents(folder):
    return {path: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_a_new_run_keeps_its_settings_and_its_surroundings(config):
    open_run_folder(config)
    names = {path.name for path in config.out.iterdir()}
    assert names == {"config.yaml", "environment.json", ".lock"}
    assert load_config(PretrainConfig, config.out / "config.yaml") == config
    environment = json.loads((config.out / "environment.json").read_text())
    assert environment == describe_environment()
    assert {"uniemox", "torch", "timm", "python", "platform", "cpus", "gpus"} <= environment.keys()


def test_no_variable_of_the_environment_is_written_down(config, monkeypatch):
    monkeypatch.setenv("API_TOKEN", "do-not-tell-4711")
    open_run_folder(config)
    for path in config.out.iterdir():
        assert "4711" not in path.read_text()


def test_an_empty_folder_will_do(config):
    config.out.mkdir(parents=True)
    open_run_folder(config)
    assert (config.out / "config.yaml").is_file()


def test_checking_writes_nothing(config):
    check_run_folder(config)
    assert not config.out.exists()


@pytest.mark.parametrize("use", [check_run_folder, open_run_folder])
def test_a_folder_that_is_not_empty_is_refused(config, use):
    config.out.mkdir(parents=True)
    (config.out / "thesis.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(ConfigError, match=r"run is not empty, and holds no run to resume"):
            use(replace(config, resume=resume))
    assert [path.name for path in config.out.iterdir()] == ["thesis.txt"]


def test_a_file_in_the_place_of_the_folder_is_refused(config):
    config.out.parent.mkdir()
    config.out.write_text("mine")
    with pytest.raises(ConfigError, match="which is a file"):
        open_run_folder(config)


def test_a_folder_that_cannot_be_made_is_told(config):
    config.out.parent.write_text("a file where a folder is needed")
    with pytest.raises(CheckpointError, match="cannot be written"):
        open_run_folder(config)


@pytest.mark.parametrize("use", [check_run_folder, open_run_folder])
def test_a_folder_with_a_run_asks_for_resume(config, use):
    open_run_folder(config)
    with pytest.raises(ConfigError, match=r"not empty: choose another `out`, or .*`resume`"):
        use(config)


@pytest.mark.parametrize("left", [(), (".lock",), (".lock", "environment.json", ".config.yaml.7")])
def test_what_a_run_leaves_that_was_killed_before_its_settings_is_in_nobodys_way(config, left):
    config.out.mkdir(parents=True)
    for name in left:
        (config.out / name).write_text("4711 on a machine")
    for resume in (False, True):
        check_run_folder(replace(config, resume=resume))
    open_run_folder(replace(config, resume=True))
    assert load_config(PretrainConfig, config.out / "config.yaml") == config


def test_a_resumed_run_leaves_the_folder_as_it_is(config):
    open_run_folder(config)
    before = contents(config.out)
    open_run_folder(replace(config, resume=True, workers=7))
    assert contents(config.out) == before


@pytest.mark.parametrize("change", [{"max_steps": 3}, {"optim": {"epochs": 9}}])
def test_a_run_that_grows_is_written_down(config, pretrain_config, change):
    open_run_folder(config)
    grown = pretrain_config(config.out, resume=True, **change)
    check_run_folder(grown)
    assert load_config(PretrainConfig, config.out / "config.yaml") == config
    open_run_folder(grown)
    saved = load_config(PretrainConfig, config.out / "config.yaml")
    assert saved == replace(grown, resume=False)


def hold(folder):
    """Take a run folder in another process until it is killed."""
    script = f"""
        import sys, time
        from pathlib import Path
        from uniemox.config.training import PretrainConfig
        from uniemox.train.run_folder import RunFolder
        folder = RunFolder(PretrainConfig(data=Path("d"), out=Path({str(folder)!r}), resume=True))
        folder._take()
        print("taken", flush=True)
        time.sleep(600)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "taken\n"
    return process


@pytest.mark.slow
def test_a_run_folder_belongs_to_one_process_and_to_nobody_once_that_was_killed(config):
    open_run_folder(config)
    process = hold(config.out)
    resumed = replace(config, resume=True)
    for use in (check_run_folder, open_run_folder):
        with pytest.raises(ConfigError, match=rf"another process .*\(process {process.pid} on "):
            use(resumed)
    process.kill()
    process.communicate()
    open_run_folder(resumed)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("seed", {"seed": 1}),
        ("splits", {"splits": ("train", "val")}),
        ("optim.base_lr", {"optim": {"base_lr": 0.5}}),
        ("optim.betas", {"optim": {"betas": (0.9, 0.5)}}),
        ("views.mask_ratio", {"views": {"mask_ratio": 0.25}}),
        ("loss.contrast", {"loss": {"contrast": 0.5}}),
        ("model.fusion", {"model": {"fusion": "scaled_sum"}}),
        ("teacher.emotion_sentence", {"teacher": {"emotion_sentence": False}}),
    ],
)
def test_a_run_is_not_resumed_with_another_setting_which_is_named(config, pretrain_config, name, change):
    open_run_folder(config)
    with pytest.raises(ConfigError, match=rf"but `{name}` is .* and was .*: omit what differs") as told:
        open_run_folder(pretrain_config(config.out, resume=True, **change))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "change",
    [
        {"device": "auto"},
        {"workers": 5},
        {"log_every": 3},
        {"save_every": 3},
        {"save_minutes": None},
        {"optim": {"batch_size": 4, "accumulate": 2}},  # the engine compares the rows of a step
        {"data": "other"},
    ],
)
def test_what_changes_nothing_that_is_learned_may_change(config, pretrain_config, change, tmp_path):
    open_run_folder(config)
    if "data" in change:
        change = {"data": tmp_path / "moved.parquet"}
    open_run_folder(replace(pretrain_config(config.out, **{"data": config.data} | change), resume=True))


def test_a_run_of_another_kind_is_not_resumed(config, finetune_config):
    open_run_folder(config)
    other = finetune_config(config.out, resume=True)
    assert isinstance(other, FinetuneConfig)
    with pytest.raises(ConfigError, match="unknown setting"):
        open_run_folder(other)
