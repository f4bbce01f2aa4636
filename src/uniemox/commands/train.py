"""The commands that train: `pretrain`, `finetune`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from uniemox.commands.command import SUCCESS, Command

if TYPE_CHECKING:
    from pathlib import Path

    from jsonargparse import Namespace

    from uniemox.commands.command import Output
    from uniemox.flags import Parser
    from uniemox.settings import Config


def _add_pretrain(parser: Parser) -> None:
    from uniemox.config import PretrainConfig
    from uniemox.settings import add_settings

    parser.usage = _usage("pretrain")
    add_settings(parser, PretrainConfig)


def _add_finetune(parser: Parser) -> None:
    from uniemox.config import FinetuneConfig
    from uniemox.settings import add_settings

    parser.usage = _usage("finetune")
    add_settings(parser, FinetuneConfig)


def _usage(command: str) -> str:
    return f"uniemox {command} [--preset NAME] [--config FILE] --data PATH --out PATH [--setting VALUE …]"


def _configure(kind: type[Config], given: Namespace, output: Output) -> Config | None:
    """Make the configuration; or print it, if that was asked for, and give None."""
    from uniemox import settings

    values = settings.combine(kind, given)
    if given.get("print_config"):
        output.say_text(settings.preview(kind, values))
        return None
    return settings.build(kind, values)


def _pretrain(given: Namespace, output: Output) -> int:
    from uniemox.config import PretrainConfig

    config = _configure(PretrainConfig, given, output)
    if config is not None:
        from uniemox.terminal import Display
        from uniemox.train.run import pretrain

        with Display(output.console) as display:
            folder = pretrain(config, display)
        _tell_run(config.out)
        output.say(folder)
    return SUCCESS


def _finetune(given: Namespace, output: Output) -> int:
    from uniemox.config import FinetuneConfig

    config = _configure(FinetuneConfig, given, output)
    if config is not None:
        from uniemox.commands.predict import tell_evaluation
        from uniemox.terminal import Display
        from uniemox.train.run import finetune

        with Display(output.console) as display:
            folder = finetune(config, display)
        _tell_run(config.out)
        if config.test_split is not None:
            tell_evaluation(
                config.out / "test", model=folder, data=config.data, split=config.test_split
            )
        output.say(folder)
    return SUCCESS


def _tell_run(folder: Path) -> None:
    """Write the page of a run, in the first process."""
    from uniemox.terminal import is_main_process

    if is_main_process():
        from uniemox.report.run import write_run_report

        write_run_report(folder)


COMMANDS: Final = {
    "pretrain": Command(
        "Pretrain on scenes and persons, distilling CLIP.",
        _add_pretrain,
        _pretrain,
        keeps_defaults=False,
    ),
    "finetune": Command(
        "Train a classifier from a pretrained model or from random weights.",
        _add_finetune,
        _finetune,
        keeps_defaults=False,
    ),
}
