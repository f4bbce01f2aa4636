"""The command `compare`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from uniemox.config.compare import CompareConfig
from uniemox.console.commands.command import Answer, Command
from uniemox.console.display import Terminal


def _compare(config: CompareConfig, terminal: Terminal) -> Iterator[Answer]:
    """Compare runs, evaluations and models, with paired tests and curves."""
    from uniemox.console.tables import sheet_tables
    from uniemox.files.whole import check_absent
    from uniemox.inference.compare import compare
    from uniemox.report.comparison import comparison_page, list_sheets
    from uniemox.report.sheets import write_sheets

    for out in config.out:
        check_absent(out, overwrite=config.overwrite)
    with terminal.status("comparing"):
        found = compare(
            config.sources,
            base=config.base,
            data=config.data,
            split=config.split,
            device=config.device,
            batch_size=config.batch_size,
            num_workers=config.workers,
        )
        where = "" if config.data is None else f" on {config.data.name}, {config.split}"
        sheets, title = list_sheets(found), f"Comparison with {found.base.name}{where}"
        data = found.to_dict()
        write_sheets(config.out, sheets, title=title, data=data, page=lambda: comparison_page(found, title=title))
    shown = [sheets[0], *(sheet.turned() for sheet in sheets[1:])]
    yield Answer([*sheet_tables(shown), *config.out], data)


COMMANDS: Final = {"compare": Command(CompareConfig, _compare)}
