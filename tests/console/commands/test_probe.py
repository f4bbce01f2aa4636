"""The command `probe`."""

from pathlib import Path

import yaml

from uniemox.config.probe import ProbeConfig
from uniemox.console import cli

WORDS = ["probe", "--backbone", "demo-pretrained", "--data", "d.parquet", "--out", "run"]


def test_a_probe_gets_its_settings_and_prints_its_folder(run, fake, pages):
    given = []

    def probe(config, observer):
        given.append(config)
        return config.out

    fake("train.probe", probe=probe)
    code, out, _ = run(*WORDS, "--preset", "released_baselines", "--seed", "3")
    assert (code, out) == (cli.SUCCESS, "run\n")
    (config,) = given
    assert isinstance(config, ProbeConfig)
    assert (config.head, config.seed, config.batch_size) == ("linear", 3, 256)
    assert pages == [(Path("run/test"), "demo-pretrained, linear", Path("d.parquet"), "test")]
    run(*WORDS, "--test-split", "null")
    assert len(pages) == 1


def test_the_settings_of_the_baselines_are_printed(run):
    code, out, _ = run("probe", "--preset", "released_baselines", "--print-config")
    assert code == cli.SUCCESS
    tree = yaml.safe_load(out)
    assert (tree["head"], tree["base_lr"]) == ("linear", 1e-3)
    assert "backbone" not in tree


def test_what_is_missing_or_wrong_is_one_line_with_the_flag(run, tmp_path):
    code, _, err = run("probe", "--data", "d.parquet", "--out", "run")
    assert (code, err) == (cli.WRONG_USE, "uniemox: error: --backbone must be given; see `uniemox probe --help`\n")
    code, _, err = run(*WORDS, "--val-split", "train")
    assert code == cli.WRONG_USE
    assert err == "uniemox: error: --val-split is train, which the head learns from: choose another split\n"
    code, _, err = run(*WORDS, "--head", "svm")
    assert code == cli.WRONG_USE
    assert "--head is svm, but must be one of logistic, knn, linear" in err


def test_a_backbone_that_is_not_at_hand_is_one_line(run, painted, tmp_path):
    words = ["probe", "--data", painted.path, "--out", tmp_path / "run", "--backbone"]
    code, _, err = run(*words, "timm:resnet10t")
    assert code == cli.FAILURE
    assert err.count("\n") == 1
    assert "or give a file of them, `timm:resnet10t=FILE`" in err
    code, _, err = run(*words, "timm:resnet10x")
    assert code == cli.WRONG_USE
    assert err.startswith("uniemox: error: --backbone is timm:resnet10x, which names no architecture of timm")
    code, _, err = run(*words, "clip:demo", "--pool", "cls")
    assert code == cli.WRONG_USE
    assert "--pool is cls" in err
    assert not (tmp_path / "run").exists()
