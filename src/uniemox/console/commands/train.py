"""The commands that train: `pretrain`, `finetune`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from uniemox.config.training import FinetuneConfig, PretrainConfig
from uniemox.console.commands.command import Answer, Command
from uniemox.console.display import Display, Terminal, is_main_process
from uniemox.settings import Setting, preset_names


def list_sources(config: type[Any]) -> Sequence[Setting]:
    """List the flags that name other sources of settings: presets and files."""
    return (
        Setting("preset", str, f"Set of settings to start from: {', '.join(preset_names(config))}.", metavar="NAME"),
        Setting(
            "config",
            Path,
            "YAML file of settings, stronger than the preset and weaker than flags, in any order on the line; "
            "of several, the later is stronger. Paths in it are relative to the working directory.",
            is_list=True,
            metavar="FILE",
        ),
        Setting("print_config", bool, "Print the whole resulting YAML with comments, and exit.", False),
    )


def _pretrain(config: PretrainConfig, terminal: Terminal) -> Iterator[Answer]:
    """Pretrain on scenes and persons, distilling CLIP."""
    from uniemox.train.pretrain import pretrain

    with Display(terminal) as display:
        folder = pretrain(config, display)
    if is_main_process():
        from uniemox.report.run import write_run_report

        write_run_report(config.out)
    yield Answer([folder])


def _finetune(config: FinetuneConfig, terminal: Terminal) -> Iterator[Answer]:
    """Train a classifier from a pretrained model or from random weights."""
    if config.folds is not None:
        yield _cross_validate(config, terminal)
        return
    from uniemox.train.finetune import finetune

    with Display(terminal) as display:
        folder = finetune(config, display)
    if is_main_process():
        from uniemox.report.run import write_evaluation_report, write_run_report

        write_run_report(config.out)
        if config.test_split is not None:
            test = config.out / "test"
            write_evaluation_report(test, model=str(folder), data=config.data, split=config.test_split)
    yield Answer([folder])


def _cross_validate(config: FinetuneConfig, terminal: Terminal) -> Answer:
    """Fine-tune a model for each fold, each with a report of its own."""
    from uniemox.compute.processes import check_alone
    from uniemox.console.tables import folds_table
    from uniemox.report.run import write_evaluation_report, write_run_report
    from uniemox.train.folds import SUMMARY, cross_validate

    check_alone("finetune --folds")
    with Display(terminal) as display:
        found = cross_validate(config, display)
    for folder in sorted(config.out.glob("fold-*")):
        write_run_report(folder)
        data = config.out / "data" / f"{folder.name}.parquet"
        write_evaluation_report(folder / "test", model=str(folder / "model"), data=data, split="test")
    summary = config.out / SUMMARY
    return Answer([folds_table(found), summary], {"folds": summary})


COMMANDS: Final = {
    "pretrain": Command(PretrainConfig, _pretrain, trains=True, in_several_processes=True),
    "finetune": Command(FinetuneConfig, _finetune, trains=True, in_several_processes=True),
}
