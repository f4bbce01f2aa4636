"""The command `transfer`."""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from uniemox.config.transfer import TransferConfig
from uniemox.console.commands.command import FAILURE, SUCCESS, Answer, Command
from uniemox.console.display import Terminal


def _transfer(config: TransferConfig, terminal: Terminal) -> Generator[Answer, None, int]:
    """Score every model on every data set, across classes, as one matrix."""
    from uniemox.console.tables import sheet_tables
    from uniemox.files.whole import check_absent
    from uniemox.inference.transfer import transfer
    from uniemox.report.sheets import write_sheets
    from uniemox.report.transfer import list_remarks, make_sheet, transfer_page

    for out in config.out:
        check_absent(out, overwrite=config.overwrite)
    found = transfer(config, track=terminal.track)
    sheet, title = make_sheet(found), "Transfer between data sets"
    data = found.to_dict()
    write_sheets(config.out, [sheet], title=title, data=data, page=lambda: transfer_page(found, title=title))
    yield Answer([*sheet_tables([sheet._replace(note="")]), *list_remarks(found), *config.out], data)
    scored = {cell.model for cell in found.cells if cell.scores is not None}
    return SUCCESS if scored & set(config.models) else FAILURE


COMMANDS: Final = {"transfer": Command(TransferConfig, _transfer)}
