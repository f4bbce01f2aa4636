"""The tables and the page of a comparison, with the curves of its runs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from uniemox.inference.compare import Arm, Comparison
from uniemox.report import charts
from uniemox.report.page import Figure, Notice, Page, Section
from uniemox.report.sheets import Cell, Sheet, head_of, show, show_interval
from uniemox.targets.pairs import Difference
from uniemox.targets.scores import Metric
from uniemox.wording import counted, name_first

_NONE = Cell("–")


def list_sheets(found: Comparison) -> list[Sheet]:
    """Make the tables: what is compared, its scores, and the differences from the base, if there are any."""
    metrics = found.metrics
    sheets = [_describe(found)]
    if metrics:
        rows = [
            [_name(arm, found), *(show_score(arm, metric) for metric in metrics)] for arm in found.arms if arm.tested
        ]
        sheets.append(Sheet("Scores", ["", *map(head_of, metrics)], rows, _explain_scores(found)))
    if found.compared:
        kept = [one for one in metrics if one.name in found.compared[0].differences and one in found.base.metrics]
        tests = ["p", "p by Holm"][: len(found.compared)]  # which are the same for one
        heads = ["", *map(head_of, kept), *tests]
        rows = [
            [
                _name(arm, found),
                *(show_apart(arm.differences[one.name], one) for one in kept),
                *map(_p, (arm.p, arm.corrected)[: len(tests)]),
            ]
            for arm in found.compared
        ]
        sheets.append(Sheet(f"Differences from {found.base.name}", heads, rows, _explain_differences(found)))
    return sheets


def _name(arm: Arm, found: Comparison) -> Cell:
    return Cell(arm.name, "base" if arm is found.base and len(found.arms) > 1 else "")


def _describe(found: Comparison) -> Sheet:
    rows = []
    for arm in found.arms:
        seeds = [source.seed for source in arm.sources if source.seed]
        epochs = [str(source.chosen["epoch"]) for source in arm.sources if source.chosen is not None]
        counts = {one.scores.num_samples for one in arm.tested}
        differs = [f"{name} {value}" for name, value in arm.differs.items()]
        tested = ", ".join(f"{count:,}" for count in sorted(counts)) or arm.sources[0].reason
        columns = (name_first(differs, most=8) if differs else "", ", ".join(seeds), ", ".join(epochs), tested)
        rows.append([_name(arm, found), *(Cell(text) if text else _NONE for text in columns)])
    return Sheet("Compared", ["", "what differs", "seeds", "chosen epoch", "images"], rows, " ".join(found.notes))


def show_score(arm: Arm, metric: Metric) -> Cell:
    """Show what an arm scores in a metric, with its interval."""
    if metric not in arm.metrics:
        return _NONE
    text, seeds = show(float(np.mean(arm.values(metric.name))), metric), arm.seeds(metric.name)
    interval = arm.interval(metric.name)
    if seeds is not None:
        text += f" ± {show(seeds.deviation, metric)}"
    return Cell(text, "" if interval is None else show_interval(interval, metric))


def show_apart(one: Difference, metric: Metric) -> Cell:
    """Show a difference from the base, with its interval."""
    note = "" if one.interval is None else show_interval(one.interval, metric, sign=True)
    return Cell(show(one.value, metric, sign=True), note)


def _p(value: float) -> Cell:
    return _NONE if math.isnan(value) else Cell("< 0.0001" if value < 1e-4 else f"{value:.4f}")


def _explain_scores(found: Comparison) -> str:
    single = any(len(arm.tested) == 1 for arm in found.arms)
    several = any(len(arm.tested) > 1 for arm in found.arms)
    texts = []
    if single:
        texts.append(
            f"Ranges{' of single runs' if several else ''} are 95 % bootstrap intervals over the samples tested."
        )
    if several:
        texts.append(
            "Of several seeds: the mean ± the standard deviation over them, and the 95 % interval of the mean over "
            "seeds by Student's t."
        )
    return " ".join(texts)


def _explain_differences(found: Comparison) -> str:
    seeds = any(len(arm.tested) > 1 for arm in (found.base, *found.compared))
    over = f"{found.samples}{' and over seeds' if seeds else ''}"
    several = len(found.compared) > 1
    test = f"{found.test}, then by Holm's method for {len(found.compared):,} comparisons" if several else found.test
    return (
        f"Each minus {found.base.name}, on the same samples. Ranges are 95 % intervals over {over}, by resamples drawn "
        f"once for all. p is the chance that equals differ as much: from {test}."
    )


def comparison_page(found: Comparison, *, title: str) -> Page:
    """Make the page: the tables, and the curves of all runs in one image."""
    described, *others = list_sheets(found)
    notices = [Notice(text) for text in found.notes]
    sections = [Section(described.title, blocks=[described._replace(note="").table, *notices])]
    sections += [Section(sheet.title, blocks=[sheet.turned().table]) for sheet in others]
    if (curves := _draw_curves(found.arms)) is not None:
        sections.append(Section("Curves", blocks=[curves]))
    lead = f"{counted(len(found.arms), 'arm')}, {counted(sum(len(arm.sources) for arm in found.arms), 'source')}."
    return Page(title, lead, sections)


def _draw_curves(arms: Sequence[Arm]) -> Figure | None:
    """Draw train and val of all runs, a colour for each arm, with a dot at the epoch that was chosen."""
    runs = {source.name: source.lines for arm in arms for source in arm.sources if source.lines}
    names = {source.name: arm.name for arm in arms for source in arm.sources}
    chosen = {
        source.name: int(source.chosen["step"]) for arm in arms for source in arm.sources if source.chosen is not None
    }
    kept = {name: [line for line in lines if line["kind"] in ("train", "val")] for name, lines in runs.items()}
    if not any(kept.values()):
        return None
    shown = [metric for arm in arms for metric in arm.metrics if metric.is_kept]
    trained = {key for lines in kept.values() for line in lines if line["kind"] == "train" for key in line}
    titles = {term: f"{term} on train" for term in charts.TERMS if term in trained}
    known = {key for lines in kept.values() for line in lines if line["kind"] == "val" for key in line}
    titles |= {metric.name: f"{metric.title} on val" for metric in shown if metric.name in known}
    chart = charts.loss_curves(kept, terms=list(titles)[:8], titles=titles, arms=names, chosen=chosen)
    caption = "Train and val over the steps, a colour for each arm; a dot marks the epoch that val chose."
    return Figure(chart, f"Curves of {counted(len(kept), 'run')}: {', '.join(titles.values())}.", caption)
