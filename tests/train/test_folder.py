import json
from dataclasses import replace

import pytest

from uniemox.config import FinetuneConfig, PretrainConfig
from uniemox.errors import CheckpointError, ConfigError
from uniemox.settings import load_config
from uniemox.train.folder import check_run_folder, describe_environment, open_run_folder


@pytest.fixture
def config(pretrain_config, tmp_path):
    return pretrain_config(tmp_path / "new" / "run")


def test_a_new_run_keeps_its_settings_and_its_surroundings(config):
    open_run_folder(config)
    assert {path.name for path in config.out.iterdir()} == {"config.yaml", "environment.json"}
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
    with pytest.raises(ConfigError, match=r"run is not empty: choose another --out, or .*--resume"):
        use(config)
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


def test_there_must_be_something_to_resume(config):
    config.out.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"no run to resume in .*run: start it without --resume"):
        open_run_folder(replace(config, resume=True))


def test_a_resumed_run_leaves_the_folder_as_it_is(config):
    open_run_folder(config)
    before = {path: path.read_bytes() for path in config.out.iterdir()}
    open_run_folder(replace(config, resume=True, num_workers=7))
    assert {path: path.read_bytes() for path in config.out.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("seed", {"seed": 1}),
        ("max_steps", {"max_steps": 3}),
        ("splits", {"splits": ("train", "val")}),
        ("optim.base_lr", {"optim": {"base_lr": 0.5}}),
        ("optim.betas", {"optim": {"betas": (0.9, 0.5)}}),
        ("views.mask_ratio", {"views": {"mask_ratio": 0.25}}),
        ("loss.contrast", {"loss": {"contrast": 0.5}}),
        ("model.fusion", {"model": {"fusion": "scaled_sum"}}),
        ("teacher.emotion_sentence", {"teacher": {"emotion_sentence": False}}),
    ],
)
def test_a_run_is_not_resumed_with_another_setting_which_is_named(
    config, pretrain_config, name, change
):
    open_run_folder(config)
    with pytest.raises(
        ConfigError, match=rf"but {name} is .* and was .*\(1 differ\): give"
    ) as told:
        open_run_folder(pretrain_config(config.out, resume=True, **change))
    assert "\n" not in str(told.value)
    assert str(config.out / "config.yaml") in str(told.value)


@pytest.mark.parametrize(
    "change",
    [
        {"device": "auto"},
        {"num_workers": 5},
        {"log_every": 3},
        {"save_every": 3},
        {"data": "other"},
    ],
)
def test_what_changes_nothing_that_is_learned_may_change(config, change, tmp_path):
    open_run_folder(config)
    if "data" in change:
        change = {"data": tmp_path / "moved.parquet"}
    open_run_folder(replace(config, resume=True, **change))


def test_a_run_of_another_kind_is_not_resumed(config, finetune_config):
    open_run_folder(config)
    other = finetune_config(config.out, resume=True)
    assert isinstance(other, FinetuneConfig)
    with pytest.raises(ConfigError, match="there is no setting"):
        open_run_folder(other)
