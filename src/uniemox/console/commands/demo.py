"""The command `demo`."""

from collections.abc import Iterator
from typing import Final

from uniemox.config.demo import DemoConfig
from uniemox.console.commands.command import Answer, Command
from uniemox.console.display import Display, Terminal


def _demo(config: DemoConfig, terminal: Terminal) -> Iterator[Answer]:
    """Run the whole pipeline on the embedded data, offline, and write a report."""
    from uniemox.demo.run import run_demo

    with Display(terminal) as display:
        report = run_demo(config.out, device=config.device, seed=config.seed, observer=display)
    yield Answer([report])


COMMANDS: Final = {"demo": Command(DemoConfig, _demo)}
