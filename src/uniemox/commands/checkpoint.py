"""The commands about weights: `checkpoint inspect`, `checkpoint convert`, `checkpoint push`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from uniemox.commands.command import SUCCESS, Command

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from uniemox.commands.command import Output
    from uniemox.flags import Parser

_WEIGHTS: Final = "A file of weights, a model folder, or hf-hub:org/name."


def _add_inspect(parser: Parser) -> None:
    parser.add_words("weights", str, _WEIGHTS)
    parser.add_switch("--json", "Print JSON instead of a table.")


def _inspect(given: Namespace, output: Output) -> int:
    from uniemox.checkpoints.inspection import inspect

    found = inspect(given.weights)
    if given.json:
        output.say_json(found.to_dict())
        return SUCCESS
    from uniemox.terminal import inspection_table

    output.show(inspection_table(found))
    return SUCCESS


def _add_convert(parser: Parser) -> None:
    parser.add_words("weights", str, _WEIGHTS)
    parser.add_flag("--out", Path, "Model folder to write; empty or absent.", required=True)
    parser.add_flag("--dataset", str, "Data set or manifest that names a classifier's classes.")
    parser.add_flag(
        "--image-size", int, "Side of the pictures in pixels, for which positions are resampled."
    )


def _convert(given: Namespace, output: Output) -> int:
    from uniemox.checkpoints.sources import convert

    convert(given.weights, given.out, dataset=given.dataset, image_size=given.image_size)
    output.say(given.out)
    return SUCCESS


def _add_push(parser: Parser) -> None:
    parser.add_words("folder", Path, "Model folder.")
    parser.add_words("name", str, "Where it goes: hf-hub:org/name.")
    parser.add_switch("--private", "Make a new repository that its owner alone sees.")


def _push(given: Namespace, output: Output) -> int:
    from uniemox.checkpoints.facts import read_facts
    from uniemox.checkpoints.hub import push

    read_facts(given.folder)  # a folder that nobody could read is not sent
    output.say(push(given.folder, given.name, private=given.private))
    return SUCCESS


COMMANDS: Final = {
    "checkpoint inspect": Command(
        "Say what a file of weights holds, executing nothing of it.", _add_inspect, _inspect
    ),
    "checkpoint convert": Command(
        "Make a model folder of weights that others wrote.", _add_convert, _convert
    ),
    "checkpoint push": Command("Put a model folder on the hub.", _add_push, _push),
}
