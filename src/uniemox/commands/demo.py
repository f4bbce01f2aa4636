"""The command `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from uniemox.commands.command import SUCCESS, Command

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from uniemox.commands.command import Output
    from uniemox.flags import Parser


def _add_demo(parser: Parser) -> None:
    parser.add_flag(
        "--out", Path, "Folder of the demo's runs and report.", default=Path("uniemox-demo")
    )
    parser.add_flag("--device", str, "auto, cpu, cuda or mps.", default="auto")
    parser.add_flag("--seed", int, "Seed of weights, order, masks and augmentation.", default=0)


def _demo(given: Namespace, output: Output) -> int:
    from uniemox.demo.run import run_demo
    from uniemox.terminal import Display

    with Display(output.console) as display:
        report = run_demo(given.out, device=given.device, seed=given.seed, observer=display)
    output.say(report)
    return SUCCESS


COMMANDS: Final = {
    "demo": Command(
        "Run the whole pipeline on the embedded data, offline, and write a report.",
        _add_demo,
        _demo,
    ),
}
