"""The page of one evaluation of a multi-label classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

from uniemox.report import charts
from uniemox.report.page import (
    Block,
    Figure,
    Gallery,
    GalleryItem,
    Notice,
    Page,
    Score,
    Scores,
    Section,
    Table,
    show_cell,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from uniemox.config import MultiLabelMetric
    from uniemox.multilabel import MultiLabelReport

_AXES = ("probability", "share that applies", "answers")


def multilabel_page(
    report: MultiLabelReport,
    *,
    title: str,
    provenance: Mapping[str, str],
    gallery: Sequence[GalleryItem] = (),
) -> Page:
    """Make the page of one evaluation.

    Args:
        report: Scores of a model on a split.
        title: Heading of the page.
        provenance: Where model and data come from, such as their paths, versions and seed.
        gallery: Pictures of the split with their predictions.
    """
    sections = [_scores(report), _classes(report), _confidence(report)]
    if gallery:
        sections.append(Section("Pictures", blocks=(Gallery(gallery),)))
    sections.append(Section("Origin", blocks=(Table((), list(provenance.items())),)))
    samples = show_cell(report.num_samples)
    lead = (
        f"Predictions for {samples} samples, each with any number of {len(report.classes)} labels."
    )
    return Page(title, lead, sections)


def _scores(report: MultiLabelReport) -> Section:
    blocks: list[Block] = [
        Scores(
            (
                _with_interval(report, "mean average precision", "mean_average_precision"),
                Score("in random order", f"{report.chance:.3f}"),
                _with_interval(report, "macro F1", "macro_f1"),
                _with_interval(report, "micro F1", "micro_f1"),
                Score("calibration error", f"{report.ece:.3f}", "0 is best"),
            )
        )
    ]
    found = zip(report.classes, report.average_precision, strict=True)
    if absent := [name for name, value in found if value is None]:
        text = f"No sample here has the label {', '.join(absent)}: the mean leaves that out."
        blocks.append(Notice(text, "warning"))
    return Section(
        "Scores",
        "Average precision asks whether the samples that have a label come first when all are ranked by its "
        "probability; its mean counts every label the same. F1 is of the answers from each label's threshold on. "
        "Ranges are 95 % bootstrap intervals over the samples.",
        blocks,
    )


def _with_interval(report: MultiLabelReport, name: str, metric: MultiLabelMetric) -> Score:
    bounds = report.intervals.get(metric)
    note = "" if bounds is None else f"{bounds.low:.3f} to {bounds.high:.3f}"
    return Score(name, f"{report.get(metric):.3f}", note)


def _classes(report: MultiLabelReport) -> Section:
    columns = (
        report.classes,
        report.average_precision,
        report.thresholds,
        report.precision.tolist(),
        report.recall.tolist(),
        report.f1.tolist(),
        report.support.tolist(),
    )
    heads = ("label", "average precision", "threshold", "precision", "recall", "F1", "samples")
    bars = Figure(
        charts.average_precision_bars(report),
        "Bars of average precision for each label, with a mark for random order; the table holds the numbers.",
        "Average precision (bar), and what random order would reach (mark).",
        "half",
    )
    return Section("Labels", blocks=(bars, Table(heads, list(zip(*columns, strict=True)))))


def _confidence(report: MultiLabelReport) -> Section:
    chart = Figure(
        charts.reliability(report, axes_names=_AXES),
        f"Share that applies against probability in bins; the mean distance is {report.ece:.3f}.",
        "Bars on the dashed line: a probability can be taken at its word. Below it: too sure.",
        "half",
    )
    return Section("Confidence", blocks=(chart,))
