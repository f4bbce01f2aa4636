"""The tables and the page of a transfer matrix."""

from uniemox.inference.transfer import Cell as Scored
from uniemox.inference.transfer import Transfer
from uniemox.report.page import Page, Section
from uniemox.report.sheets import Cell, Sheet, head_of, show, show_interval
from uniemox.wording import counted, listed

_MARK = "*"


def make_sheet(found: Transfer) -> Sheet:
    """Make the matrix; its note has the remarks."""
    metrics = {metric for cell in found.cells if cell.scores and (metric := found.metric_of(cell.scores)) is not None}
    shared = metrics.pop() if len(metrics) == 1 else None
    rows = [[Cell(name), *(_show(cell, found, shared is None) for cell in cells)] for name, cells in found.rows.items()]
    title = "Transfer" if shared is None else f"Transfer: {head_of(shared)}"
    return Sheet(title, ["", *found.data], rows, " ".join(list_remarks(found)))


def list_remarks(found: Transfer) -> list[str]:
    """Write what a reader must know of the matrix and of its cells, those of the same remark together."""
    noted: dict[tuple[str, str], list[str]] = {}
    for cell in found.cells:
        if cell.notes:
            count = "" if cell.scores is None else f", {counted(cell.scores.num_samples, 'image')}"
            noted.setdefault((f"{cell.data}{count}", " ".join(cell.notes)), []).append(cell.model)
    remarks = [f"{_MARK} {listed(models)} on {where}: {text}" for (where, text), models in noted.items()]
    ranges = "Ranges are 95 % bootstrap intervals over the samples, or over groups of these that are alike."
    return [ranges, *found.remarks, *remarks]


def _show(cell: Scored, found: Transfer, names_metric: bool) -> Cell:
    mark = _MARK if cell.notes else ""
    metric = None if cell.scores is None else found.metric_of(cell.scores)
    if cell.scores is None or metric is None:
        return Cell(f"–{mark}")
    interval = cell.scores.intervals.get(metric.name)
    title = head_of(metric) if names_metric else ""
    note = ", ".join(filter(None, (title, "" if interval is None else show_interval(interval, metric))))
    return Cell(f"{show(cell.scores.values[metric.name], metric)}{mark}", note)


def transfer_page(found: Transfer, *, title: str) -> Page:
    """Make the page: the matrix and the remarks."""
    sheet = make_sheet(found)
    remarks = Section("Remarks", "\n\n".join(list_remarks(found)))
    lead = (
        f"{counted(len(found.rows), 'row')} of answers to {counted(len(found.data), 'data set')}, split {found.split}."
    )
    return Page(title, lead, [Section(sheet.title, blocks=[sheet._replace(note="").table]), remarks])
