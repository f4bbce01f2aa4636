"""The whole path by its commands: prepare, pretrain, fine-tune, evaluate, predict."""

import csv
import json

import pytest

from uniemox.console.cli import main

SHAPE = ["--model.size", "mini", "--model.patch-size", "8", "--model.image-size", "32"]
DECODER = ["--model.decoder-width", "24", "--model.decoder-depth", "1", "--model.decoder-heads", "4"]
STEPS = ["--optim.epochs", "2", "--optim.batch-size", "8", "--optim.warmup-epochs", "0"]
HERE = ["--device", "cpu", "--workers", "0"]


@pytest.fixture
def run(capsys):
    """Run a command that succeeds; give what it printed."""

    def call(*words):
        code = main([str(word) for word in words])
        shown = capsys.readouterr()
        assert code == 0, shown.err
        return shown.out

    return call


def test_from_a_folder_of_pictures_to_a_table_of_emotions(run, painted, tiny_clip, tmp_path):
    data, pretrained, finetuned = (tmp_path / name for name in ("data.parquet", "p", "f"))
    prepared = run(
        *("data", "prepare", "split-folders", "--root", painted.root, "--boxes", painted.people),
        *("--out", data, "--json"),
    )
    counts = json.loads(prepared)["pictures"]
    assert {split: sum(classes.values()) for split, classes in counts.items()} == {"train": 24, "val": 9, "test": 7}

    clip = ["--teacher.model", tiny_clip, "--teacher.pretrained", "null"]
    printed = run(
        *("pretrain", "--data", data, "--out", pretrained, *clip, "--views.mask-ratio", "0.5"),
        *(*SHAPE, *DECODER, *STEPS, *HERE),
    )
    assert printed.strip() == str(pretrained / "model")

    printed = run(
        *("finetune", "--init", pretrained, "--data", data, "--out", finetuned),
        *("--optim.base-lr", "0.05", *STEPS, *HERE),
    )
    assert printed.strip() == str(finetuned / "model")
    told = json.loads((finetuned / "test" / "report.json").read_text())

    printed = run(*("evaluate", finetuned / "model", "--data", data, "--out", tmp_path / "again", *HERE), "--json")
    report = json.loads(printed)
    assert report["num_samples"] == 7
    assert report["confusion"] == told["confusion"]
    assert report["nll"] == pytest.approx(told["nll"], rel=1e-5)

    (tmp_path / "bad.png").write_text("no image")
    run(*("predict", finetuned, painted.root / "test", tmp_path / "bad.png", *HERE), *("--out", tmp_path / "table.csv"))
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert rows[-1]["reason"] == "not an image"
    for row in rows[:-1]:
        assert sum(float(row[f"p_{name}"]) for name in ("awe", "fear", "joy")) == pytest.approx(1)
    right = sum(row["predicted"] == row["path"].split("/")[-2] for row in rows[:-1])
    assert right == sum(report["confusion"][index][index] for index in range(3))
