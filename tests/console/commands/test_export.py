"""The command that writes a model for other runtimes."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from uniemox.config.zero_shot import ZeroShotConfig
from uniemox.console import cli
from uniemox.demo.drawn import DrawnData
from uniemox.export.run import DEFAULT_OPSET


@dataclass
class Report:
    out: Path

    def describe(self):
        return ["as good", "as torch"]

    def to_dict(self):
        return {"out": str(self.out)}


@pytest.fixture
def asked(fake):
    asked = {}

    def export_onnx(model, out, **options):
        asked.update(options, model=model)
        asked["there"] = [path.exists() for path in options["calibration"]]
        return Report(out)

    fake("export")
    fake("export.run", export_onnx=export_onnx)
    return asked


def test_a_model_is_exported(run, asked, tmp_path):
    code, out, _ = run("export", "m", "--out", tmp_path)
    assert code == cli.SUCCESS
    assert out.splitlines() == [
        "as good",
        "as torch",
        f"wrote {tmp_path}; try it with `uniemox predict {tmp_path} photo.jpg`",
    ]
    assert asked.pop("zero_shot") == ZeroShotConfig()
    assert asked == {
        "model": "m",
        "quantize": None,
        "calibration": [],
        "opset": DEFAULT_OPSET,
        "dataset": None,
        "there": [],
    }


def test_flags_are_handed_on(run, asked):
    words = ("--quantize", "int8", "--calibration", "a", "--calibration", "b", "--opset", "18")
    code, out, _ = run("export", "m", "--out", "o", *words, "--dataset", "fi", "--json")
    assert code == cli.SUCCESS
    assert json.loads(out) == {"out": "o"}
    assert asked["quantize"] == "int8"
    assert asked["calibration"] == [Path("a"), Path("b")]
    assert asked["opset"] == 18
    assert asked["dataset"] == "fi"


def test_the_embedded_model_brings_its_pictures(run, fake, asked):
    def unpack(folder):
        (folder / "seen.parquet").touch()
        return DrawnData(seen=folder / "seen.parquet", unseen=folder)

    fake("demo")
    fake("demo.drawn", unpack=unpack)
    assert run("export", "demo", "--out", "o")[0] == cli.SUCCESS
    assert asked["there"] == [True]
    assert not asked["calibration"][0].exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--format", "tflite"), "format is tflite, but must be one of onnx"),
        (("--quantize", "int4"), "quantize is int4, but must be one of int8"),
    ],
)
def test_another_format_is_wrong_use(run, asked, words, said):
    code, _, err = run("export", "m", "--out", "o", *words)
    assert code == cli.WRONG_USE
    assert said in err
    assert asked == {}
