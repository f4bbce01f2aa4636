"""The tables and the page of a grid of runs: an overview, then the comparison of each test."""

from collections.abc import Mapping
from typing import Any

from uniemox.report.comparison import comparison_page, list_sheets, show_apart, show_score
from uniemox.report.page import Page, Section
from uniemox.report.sheets import Cell, Sheet, head_of
from uniemox.train.ablate import Compared
from uniemox.version import __version__
from uniemox.wording import counted

_NONE = Cell("–")


def list_grid_sheets(found: Compared) -> list[Sheet]:
    """Make the tables of a grid: an overview, the runs, then all that `compare` shows of each test."""
    sheets = [_overview(found), _runs(found)]
    for title, one in found.comparisons.items():
        sheets += [sheet._replace(title=f"{title}: {sheet.title.lower()}") for sheet in list_sheets(one)]
    return sheets


def grid_to_dict(found: Compared) -> dict[str, Any]:
    """Return plain values for JSON."""
    runs = [{"arm": run.arm, "seed": run.seed, **vars(record)} for run, record in found.records]
    return {
        "grid": found.name,
        "tests": {title: one.to_dict() for title, one in found.comparisons.items()},
        "runs": runs,
    }


def grid_page(found: Compared, *, title: str) -> Page:
    """Make the page, with the curves of the runs of each test."""
    own = [Section(sheet.title, blocks=[sheet.table]) for sheet in (_overview(found), _runs(found))]
    for test, one in found.comparisons.items():
        sections = comparison_page(one, title="").sections
        own += [Section(f"{test}: {part.title.lower()}", part.text, part.blocks) for part in sections]
    return Page(title, f"{counted(len(found.arms), 'arm')}, {counted(len(found.records), 'run')}.", own)


def _overview(found: Compared) -> Sheet:
    heads, columns = [""], list[Mapping[str, Cell]]()
    for title, one in found.comparisons.items():
        tested = [each for arm in one.arms for each in arm.tested]
        if not tested:  # the reasons stand in its own tables
            continue
        metric = tested[0].scores.headline[0]
        apart = {arm.name: show_apart(arm.differences[metric.name], metric) for arm in one.compared}
        notes = {name: ", ".join(filter(None, cell)) for name, cell in apart.items() if one.base.name == found.arms[0]}
        heads.append(f"{title}: {head_of(metric)}")
        columns.append({arm.name: Cell(show_score(arm, metric).text, notes.get(arm.name, "")) for arm in one.arms})
    rows = [[Cell(arm), *(column.get(arm, _NONE) for column in columns)] for arm in found.arms]
    note = (
        f"Beside each score, how far it is from {found.arms[0]}, with its 95 % interval, as in the tables of each test."
    )
    return Sheet("Overview", heads, rows, note)


def _runs(found: Compared) -> Sheet:
    rows, failures = [], []
    for run, record in found.records:
        state = f"failed: {', '.join(record.failures)}" if record.failures else record.state(run)
        seconds = ", ".join(f"{step} {seconds:.0f} s" for step, seconds in record.seconds.items())
        rows.append([Cell(run.arm), Cell(str(run.seed)), Cell(state), Cell(seconds or "–")])
        failures += [f"{run.name}, {step}: {reason}." for step, reason in record.failures.items()]
    note = f"Made by uniemox ablate, version {__version__}. Seconds are those of the machine and what else it did."
    return Sheet("Runs", ["", "seed", "state", "seconds"], rows, " ".join([note, *failures]))
