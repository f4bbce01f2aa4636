"""The command `export`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from uniemox.config.checkpoint import ExportConfig
from uniemox.console.commands.command import Answer, Command
from uniemox.console.display import Terminal


def _export(config: ExportConfig, terminal: Terminal) -> Iterator[Answer]:
    """Write a classifier as ONNX, which predicts without torch."""
    from tempfile import TemporaryDirectory

    from uniemox.demo.drawn import unpack
    from uniemox.export.run import export_onnx

    with terminal.status(f"exporting {config.model}"), TemporaryDirectory(prefix="uniemox-") as folder:
        images = list(config.calibration)
        if not images and config.model == "demo":  # the embedded model has its own
            images = [unpack(Path(folder)).seen]
        report = export_onnx(
            config.model,
            config.out,
            quantize=config.quantize,
            calibration=images,
            opset=config.opset,
            dataset=config.dataset,
            zero_shot=config.zero_shot,
        )
    wrote = f"wrote {report.out}; try it with `uniemox predict {report.out} photo.jpg`"
    yield Answer([*report.describe(), wrote], report.to_dict())


COMMANDS: Final = {"export": Command(ExportConfig, _export)}
