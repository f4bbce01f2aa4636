"""The tables and the page of a transfer matrix."""

from uniemox.inference.transfer import Cell as Scored
from uniemox.inference.transfer import Transfer
from uniemox.report.page import Page, Section
from uniemox.report.sheets import Cell, Sheet, head_of, show, show_interval
from uniemox.wording import counted, listed

_MARK = "*"


def list_sheets(found: Transfer) -> list[Sheet]:
    """Make the tables: the matrix, and what a reader must know of its cells, if that is anything."""
    metrics = {metric for cell in found.cells if cell.scores and (metric := found.metric_of(cell.scores)) is not None}
    shared = metrics.pop() if len(metrics) == 1 else None
    rows = [[Cell(name), *(_show(cell, found, shared is None) for cell in cells)] for name, cells in found.rows.items()]
    title = "Transfer" if shared is None else f"Transfer: {head_of(shared)}"
    ranges = "Ranges are 95 % bootstrap intervals over the samples, or over groups of these that are alike."
    note = " ".join([ranges, *found.remarks])
    sheets = [Sheet(title, ["", *found.data], rows, note)]
    noted: dict[tuple[str, str, str], list[str]] = {}
    for cell in found.cells:
        if cell.notes:
            noted.setdefault((" ".join(cell.notes), cell.data, _count(cell)), []).append(cell.model)
    if remarks := [[*map(Cell, (text, listed(models), data, count))] for (text, data, count), models in noted.items()]:
        sheets[0] = sheets[0]._replace(note=f"{_MARK} has remarks. {note}")
        sheets.append(Sheet("Remarks", ["", "of", "on", "images"], remarks))
    return sheets


def _show(cell: Scored, found: Transfer, names_metric: bool) -> Cell:
    mark = _MARK if cell.notes else ""
    metric = None if cell.scores is None else found.metric_of(cell.scores)
    if cell.scores is None or metric is None:
        return Cell(f"–{mark}")
    interval = cell.scores.intervals.get(metric.name)
    title = head_of(metric) if names_metric else ""
    note = ", ".join(filter(None, (title, "" if interval is None else show_interval(interval, metric))))
    return Cell(f"{show(cell.scores.values[metric.name], metric)}{mark}", note)


def _count(cell: Scored) -> str:
    return "–" if cell.scores is None else f"{cell.scores.num_samples:,}"


def transfer_page(found: Transfer, *, title: str) -> Page:
    """Make the page: the matrix, the remarks, and what is true of all."""
    sections = [Section(sheet.title, blocks=[sheet.table]) for sheet in list_sheets(found)]
    lead = (
        f"{counted(len(found.rows), 'row')} of answers to {counted(len(found.data), 'data set')}, split {found.split}."
    )
    return Page(title, lead, sections)
