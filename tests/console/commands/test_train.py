"""The commands that train."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from uniemox.config.training import FinetuneConfig, PretrainConfig
from uniemox.console import cli
from uniemox.train.events import Progress

TRAIN = ["--data", "d.parquet", "--out", "run"]


@dataclass
class Recorder:
    """Stands for a run; keeps its configuration and tells a step."""

    config: object = None

    def __call__(self, config, observer):
        self.config = config
        observer(Progress(5, 5, 1, 1, {"loss": 0.5}, 100.0, 0.0))
        return Path("run/model")


def test_runs_and_evaluations_leave_pages(run, fake, pages):
    fake("train.pretrain", pretrain=Recorder())
    fake("train.finetune", finetune=Recorder())
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
    fake(f"train.{command}", **{command: recorder})
    code, out, err = run(command, "--preset", "demo", *TRAIN, "--seed", "3", "--workers=0")
    assert (code, out) == (cli.SUCCESS, "run/model\n")
    assert err.startswith("step 5/5, epoch 1/1: loss 0.5, 100 images/s")
    config = recorder.config
    assert isinstance(config, {"pretrain": PretrainConfig, "finetune": FinetuneConfig}[command])
    assert (config.data, config.out) == (Path("d.parquet"), Path("run"))
    assert (config.seed, config.workers) == (3, 0)


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
