"""The command `data reinforce`."""

from collections.abc import Iterator
from typing import Final

from uniemox.config.reinforce import ReinforceConfig
from uniemox.console.commands.command import Answer, Command
from uniemox.console.display import Display, Terminal


def _reinforce(config: ReinforceConfig, terminal: Terminal) -> Iterator[Answer]:
    """Draw views for a pretraining and store the teacher's features of them."""
    from uniemox.train.reinforce import reinforce

    with Display(terminal) as display:
        yield Answer([reinforce(config, display)])


COMMANDS: Final = {"data reinforce": Command(ReinforceConfig, _reinforce)}
