"""The commands about weights: `checkpoint inspect`, `checkpoint convert`, `checkpoint push`."""

from collections.abc import Iterator
from typing import Final

from uniemox.config.checkpoint import ConvertConfig, InspectConfig, PushConfig
from uniemox.console.commands.command import Answer, Command


def _inspect(config: InspectConfig, _: object) -> Iterator[Answer]:
    """Show what a file of weights holds, executing nothing of it."""
    from uniemox.checkpoints.inspection import inspect
    from uniemox.console.tables import inspection_table

    found = inspect(config.weights)
    yield Answer([inspection_table(found)], found.to_dict())


def _convert(config: ConvertConfig, _: object) -> Iterator[Answer]:
    """Make a model folder from weights that others wrote."""
    from uniemox.checkpoints.load import convert

    convert(config.weights, config.out, dataset=config.dataset, image_size=config.image_size)
    yield Answer([config.out])


def _push(config: PushConfig, _: object) -> Iterator[Answer]:
    """Upload a model folder to the hub."""
    from uniemox.checkpoints.facts import read_facts
    from uniemox.checkpoints.hub import push
    from uniemox.checkpoints.open import model_folder

    folder = model_folder(config.folder)
    read_facts(folder)  # a folder that nobody could read is not sent
    yield Answer([push(folder, config.name, private=config.private)])


COMMANDS: Final = {
    "checkpoint inspect": Command(InspectConfig, _inspect),
    "checkpoint convert": Command(ConvertConfig, _convert),
    "checkpoint push": Command(PushConfig, _push),
}
