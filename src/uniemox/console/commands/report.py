"""The command `report`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from uniemox.config.report import ReportConfig
from uniemox.console.commands.command import Answer, Command
from uniemox.console.display import Terminal
from uniemox.errors import ConfigError
from uniemox.wording import listed, one_line, shorten


def _report(config: ReportConfig, terminal: Terminal) -> Iterator[Answer]:
    """Report on a whole collection, from tables of predictions or images and a model."""
    from uniemox.files.whole import check_absent
    from uniemox.inference.collection import KNOWN, check_same, collect, cut_in_two, put_against
    from uniemox.inference.stored_tables import open_stored
    from uniemox.report.collection import collection_page, summarize
    from uniemox.report.page import write_page

    check_absent(config.page, overwrite=config.overwrite)
    paths = config.paths if config.model is None else [_predict(config, terminal)]
    tables = [open_stored(path) for path in paths]
    check_same(tables)
    by, other = list(config.by), None
    if config.compare is not None and Path(config.compare).is_file():
        other = open_stored(Path(config.compare))
    elif config.compare is not None and config.compare not in by:
        if config.compare not in (*KNOWN, *tables[0].columns):
            raise ConfigError(f"compare is {config.compare}, but no file and no column has this name")
        by.append(config.compare)
    if config.model is None:  # else the model has said so
        for notice in dict.fromkeys(table.about["notice"] for table in tables if "notice" in table.about):
            terminal.write(one_line(notice))
    with terminal.status("reading the tables"):
        found = collect(tables, by=by, root=config.root, keeps_files=other is not None)
        sides = None
        if other is not None:
            sides = put_against(other, found)
        elif config.compare is not None:
            sides = cut_in_two(found, config.compare)
    title = listed([path.name or str(path) for path in config.paths[:3]]) + (" and others" * (len(config.paths) > 3))
    with terminal.status("making the page"):
        page = collection_page(found, title=f"Emotions of {shorten(title)}", root=config.root, sides=sides)
        write_page(page, config.page)
    yield Answer([config.page], {"report": config.page, **summarize(found)})


def _predict(config: ReportConfig, terminal: Terminal) -> Path:
    """Predict into a table as `uniemox predict --out` does, and return its path."""
    from uniemox.console.commands.predict import COMMANDS as PREDICTING

    asked = config.prediction
    for _ in PREDICTING["predict"].run(asked, terminal):
        pass  # what it answers is the path of the table
    assert asked.out is not None
    return asked.out


COMMANDS: Final = {"report": Command(ReportConfig, _report)}
