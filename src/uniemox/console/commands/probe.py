"""The command `probe`."""

from collections.abc import Iterator
from typing import Final

from uniemox.config.probe import ProbeConfig
from uniemox.console.commands.command import Answer, Command
from uniemox.console.display import Display, Terminal


def _probe(config: ProbeConfig, terminal: Terminal) -> Iterator[Answer]:
    """Fit a simple head on the features of a frozen backbone."""
    from uniemox.report.run import write_evaluation_report
    from uniemox.train.probe import probe

    with Display(terminal) as display:
        folder = probe(config, display)
    if config.test_split is not None:
        title = f"{config.backbone}, {config.head}"
        write_evaluation_report(folder / "test", model=title, data=config.data, split=config.test_split)
    yield Answer([folder])


COMMANDS: Final = {"probe": Command(ProbeConfig, _probe, trains=True)}
