"""The command `export`."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from uniemox.commands.command import SUCCESS, Command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jsonargparse import Namespace

    from uniemox.commands.command import Output
    from uniemox.flags import Parser


def _add_export(parser: Parser) -> None:
    parser.add_words(
        "model", str, "A classifier: its folder, a file of weights, demo, or hf-hub:org/name."
    )
    parser.add_flag(
        "--out", Path, "Folder to write: a model that runs without torch.", required=True
    )
    parser.add_flag("--format", Literal["onnx"], "Format of the model.", default="onnx")
    parser.add_flag(
        "--quantize",
        Literal["int8"] | None,
        "Store and compute in integers of 8 bits: smaller, faster.",
    )
    parser.add_flag(
        "--calibration",
        str,
        "Pictures like those that the model will see: a file, a folder or a manifest; repeatable. demo has its own.",
        metavar="PATH",
        repeat=True,
    )
    parser.add_flag("--opset", int, "Version of ONNX's operators.", default=20)
    parser.add_flag("--dataset", str, "Data set or manifest that names the classes of a file.")
    parser.add_switch("--json", "Print JSON instead of lines.")


def _export(given: Namespace, output: Output) -> int:
    from rich.text import Text

    from uniemox.export.run import export_onnx

    with output.console.status(Text(f"exporting {given.model}")), _calibration(given) as pictures:
        report = export_onnx(
            given.model,
            given.out,
            quantize=given.quantize,
            calibration=pictures,
            opset=given.opset,
            dataset=given.dataset,
        )
    if given.json:
        output.say_json(report.to_dict())
        return SUCCESS
    for line in report.describe():
        output.say(line)
    output.say(f"wrote {report.out}: uniemox predict {report.out} photo.jpg")
    return SUCCESS


@contextmanager
def _calibration(given: Namespace) -> Iterator[list[Path]]:
    """Give the pictures to calibrate on; the embedded model has its own."""
    if given.calibration or given.model != "demo":
        yield [Path(name) for name in given.calibration or ()]
        return
    from uniemox.demo.drawn import unpack

    with tempfile.TemporaryDirectory(prefix="uniemox-") as folder:
        yield [unpack(Path(folder)).seen]


COMMANDS: Final = {
    "export": Command(
        "Write a classifier as ONNX, which predicts without torch.", _add_export, _export
    ),
}
