"""The command `ablate`."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

from uniemox.config.ablate import AblateConfig
from uniemox.console.commands.command import FAILURE, SUCCESS, Answer, Command
from uniemox.console.display import Display, Terminal

if TYPE_CHECKING:
    from uniemox.train.grid import Grid, Step


def _ablate(config: AblateConfig, terminal: Terminal) -> Generator[Answer, None, int]:
    """Run a grid of settings with several seeds, and compare its arms."""
    from uniemox.train.ablate import check_data, open_record, run_grid
    from uniemox.train.grid import read_grid

    grid = read_grid(config)
    runs = [grid.runs[place] for place in config.take(grid.runs)]
    if not config.table:
        check_data(runs)
    if config.dry_run:
        from uniemox.console.tables import runs_table

        rows = [(run, open_record(run).state(run)) for run in runs]
        data = [{"arm": run.arm, "seed": run.seed, "folder": run.folder, "state": state} for run, state in rows]
        yield Answer([runs_table(rows)], data)
        return SUCCESS
    failures = []
    if not config.table:
        with Display(terminal) as display:
            failures = run_grid(runs, lambda step: _execute(step, terminal), display)
    if config.table or config.shard is None:
        yield _compare(grid, config, terminal)
    for failure in failures:
        terminal.complain(failure)
    return FAILURE if failures else SUCCESS


def _execute(step: Step, terminal: Terminal) -> None:
    """Do a step as its command does."""
    from uniemox.console.commands import predict, probe, split, train
    from uniemox.files.images import admitting

    commands: dict[str, Command] = {**split.COMMANDS, **train.COMMANDS, **predict.COMMANDS, **probe.COMMANDS}
    most = getattr(step.config, "max_pixels", None)
    with nullcontext() if most is None else admitting(most):
        for _ in commands["data split" if step.command == "split" else step.command].run(step.config, terminal):
            pass  # what it answers lies in its folder


def _compare(grid: Grid, config: AblateConfig, terminal: Terminal) -> Answer:
    """Compare what is finished, on the terminal in the first metric of each test, and in files in all of them."""
    from uniemox.console.tables import sheet_tables
    from uniemox.report.ablation import grid_page, grid_to_dict, list_grid_sheets
    from uniemox.report.sheets import write_sheets
    from uniemox.train.ablate import compare_grid

    with terminal.status("comparing"):
        found = compare_grid(grid)
        sheets, title, data = list_grid_sheets(found), f"Ablation: {grid.name}", grid_to_dict(found)
        write_sheets(config.pages, sheets, title=title, data=data, page=lambda: grid_page(found, title=title))
    return Answer([*sheet_tables(sheets[:1]), *config.pages], data)


COMMANDS: Final = {"ablate": Command(AblateConfig, _ablate)}
