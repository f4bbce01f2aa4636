"""Results as tables of a terminal. Nothing here decides to print."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Column, Table
from rich.text import Text

from uniemox.wording import counted, name_first, printable

if TYPE_CHECKING:
    from uniemox.audit.audit import Audit
    from uniemox.checkpoints.inspection import Inspection
    from uniemox.importers.specs import DatasetSpec
    from uniemox.inference.explain import Explanation
    from uniemox.inference.predictor import Prediction
    from uniemox.inference.search import Hit
    from uniemox.manifests.findings import Problem
    from uniemox.manifests.population import Population
    from uniemox.manifests.table import Box, Manifest
    from uniemox.people.agreement import Agreement
    from uniemox.report.sheets import Sheet
    from uniemox.targets.scores import Grid, Metric, Scores
    from uniemox.targets.target import Target
    from uniemox.train.folds import FoldScore
    from uniemox.train.grid import Run


def _cell(value: object) -> Text:
    """Show a value as it is, whatever text it holds."""
    return Text("\n").join(Text(printable(line)) for line in str(value).split("\n"))


def _make_table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, right: Collection[str] = ()) -> Table:
    """Make a table, with the columns of some heads on the right; what is too long is folded."""
    columns = (Column(_cell(head), overflow="fold", justify="right" if head in right else "left") for head in heads)
    table = Table(*columns)
    for row in rows:
        table.add_row(*map(_cell, row))
    return table


def _list_facts(heads: tuple[str, str], facts: Mapping[str, object]) -> Table:
    """Make a table with a line for each fact that is known."""
    return _make_table(heads, ((name, value) for name, value in facts.items() if value))


def percent(share: float) -> str:
    """Show a share as a percentage."""
    return f"{100 * share:.1f}"


def report_tables(scores: Scores) -> Iterable[Table]:
    """Show an evaluation: the metrics, then those of each class."""
    from uniemox.targets.scores import Grid  # NumPy, which help has no need of

    shown = [metric for metric in scores.metrics if metric.title and metric.name in scores.values]
    # Of all but a few, or else said beside each.
    unit = "%" if all(metric.is_share for metric in shown if metric.is_selectable) else "value"
    rows: list[tuple[str, str, str]] = []
    for metric in shown:
        sign = " %" if metric.is_share and unit != "%" else ""
        interval = " to ".join(_number(end, metric) for end in scores.intervals.get(metric.name) or ())
        rows.append((metric.title, _number(scores.values[metric.name], metric) + sign, interval))
    rows += [(name, percent(share) + ("" if unit == "%" else " %"), "") for name, share in scores.display.baselines]
    table = _make_table(("metric", unit, "95 % interval"), rows, right=[unit])
    notes = [] if scores.compared else scores.notes
    table.caption = _cell(
        "\n".join([counted(scores.num_samples, "image"), *filter(None, [scores.ranges]), *notes, *scores.bridge_notes])
    )
    yield table
    if scores.compared:
        yield _compared_table(scores)
    for _, parts in scores.display.panels:
        for part in parts:
            if isinstance(part, Grid):
                yield _grid_table(part)
    for _, text, parts in scores.studies:
        for part in parts:
            if isinstance(part, Grid):
                table = _grid_table(part)
                table.caption = _cell(text)
                yield table


def _grid_table(grid: Grid) -> Table:
    cells = ([_score(cell, is_share=grid.are_shares) for cell in row] for row in grid.rows)
    columns = zip(grid.heads, *grid.rows, strict=True)
    numeric = [head for head, *column in columns if not any(isinstance(cell, str) for cell in column)]
    return _make_table(grid.heads, cells, right=numeric)


def _compared_table(scores: Scores) -> Table:
    """Show the model beside its baselines."""
    is_mixed = len({metric.is_share for metric in scores.headline}) > 1  # else the table above says the unit
    heads = [f"{one.title}{' %' if is_mixed and one.is_share else ''}" for one in scores.headline]
    rows = [(name, *(_number(values[one.name], one) for one in scores.headline)) for name, values in scores.compared]
    table = _make_table(("compared", *heads), rows, right=heads)
    table.caption = _cell("\n".join(scores.notes))
    return table


def _score(cell: object, *, is_share: bool) -> object:
    if isinstance(cell, float):
        return percent(cell) if is_share else f"{cell:z.3f}"
    if isinstance(cell, tuple):  # the bounds of an interval
        return " to ".join(str(_score(end, is_share=is_share)) for end in cell)
    return "" if cell is None else cell


def sheet_tables(sheets: Iterable[Sheet]) -> Iterable[Table]:
    """Show tables of results, what is beside a number under it."""
    for sheet in sheets:
        rows = ([f"{cell.text}\n{cell.note}".rstrip() for cell in row] for row in sheet.rows)
        table = _make_table([sheet.title, *sheet.heads[1:]], rows, right=sheet.heads[1:])
        table.caption = _cell(sheet.note) if sheet.note else None
        yield table


def folds_table(found: Sequence[FoldScore]) -> Table:
    """Show what the folds of a cross-validation say together."""
    rows = [
        (one.metric.title, f"{one.mean:.4f}", f"{one.mean - one.half:.4f} to {one.mean + one.half:.4f}")
        for one in found
        if one.metric.title
    ]
    table = _make_table(("metric", "mean", "95 % interval"), rows, right=["mean"])
    table.caption = _cell(f"{len(found[0].values)} folds" if found else "no fold")
    return table


def _number(value: float, metric: Metric) -> str:
    return percent(value) if metric.is_share else f"{value:z.3f}"


def predictions_table(predictions: Sequence[Prediction], target: Target, *, top_k: int) -> Table:
    """Show a target's predictions, a row each; an image that could not be read has its reason instead of an answer.

    If one of them is of a person, a column shows the box of each, and likewise the second of a frame, label sets, and a
    note of flags that are up, such as that the model abstains. Numbers have their units under the table.
    """
    from uniemox.inference.effects import COLUMNS  # NumPy, which help has no need of

    hidden = [column.name for column in COLUMNS if column.kind == "number"]
    words = [column.name for column in target.columns if column.kind in ("text", "texts")]
    further = [name for name in words if name != "predicted" and not name.endswith("likeliest")]
    numbers = [column.name for column in target.columns if column.kind == "number"]
    rows = []
    for prediction in predictions:
        answer, confidence = prediction.answer, prediction.confidence
        if answer is None:
            cells = ["", "", *("" for _ in further), f"not read: {prediction.reason}", *("" for _ in hidden), ""]
        else:
            known = [(name, answer.get(name)) for name in numbers]
            parts = [f"{name} {value:.2f}" for name, value in known if value is not None]
            if prediction.predicted is not None or not parts:
                parts.insert(0, _join(prediction.predicted))
            likeliest = ", ".join(f"{name} {percent(share)}" for name, share in prediction.top(top_k))
            flags = ", ".join(_spell(name.removeprefix("is_")) for name, value in answer.items() if value is True)
            more = (_join(answer.get(name)) for name in further)
            changes = ["" if answer.get(name) is None else f"{answer[name]:+.3f}" for name in hidden]
            share = "" if confidence is None else percent(confidence)
            cells = [", ".join(parts), share, *more, likeliest, *changes, flags]
        moment = "" if prediction.time is None else f"{prediction.time:g} s"
        rows.append([prediction.path, moment, _describe_box(prediction.box), *cells])
    heads = ["path", "time", "person", "emotion", "%", *map(_spell, further), "likeliest", *map(_spell, hidden), "note"]
    table = _without_empty_columns(heads, rows, right=("time", "person", "%"))
    if target.units:
        table.caption = _cell(target.units)
    return table


def explanations_table(explanations: Sequence[Explanation]) -> Table:
    """Show how hiding parts of each image changes the number of the explained emotion, or why that is not known."""
    from uniemox.people.hiding import WAYS

    rows: list[list[object]] = []
    for one in explanations:
        number = "" if one.answer is None else f"{one.numbers[one.emotion]:.3f}"
        start = [one.path, "" if one.time is None else f"{one.time:g} s", one.emotion, number]
        for name, changes in one.changes(one.emotion).items():
            same = "agree" if one.agrees[name] else "disagree"
            rows.append([*start, name, *(f"{changes[way]:+.3f}" for way in WAYS), same])
        if not one.effects:
            rows.append([*start, one.reason, *("" for _ in WAYS), ""])
    heads = ["path", "time", "emotion", "number", "hidden", *WAYS, "the three"]
    return _without_empty_columns(heads, rows, right=("time", "number", *WAYS))


def _without_empty_columns(heads: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str]) -> Table:
    # Ratings have neither confidences nor classes, images no time, and most answers nothing to note.
    used = [place for place, head in enumerate(heads) if head in ("path", "emotion") or any(row[place] for row in rows)]
    shown = [[row[place] for place in used] for row in rows]
    return _make_table([heads[place] for place in used], shown, right=right)


def hits_table(hits: Sequence[Hit], *, top_k: int = 3) -> Table:
    """Show found images, the best match first, with their likeliest emotions."""
    rows = []
    for hit in hits:
        likeliest = ", ".join(f"{name} {percent(share)}" for name, share in hit.prediction.top(top_k))
        rows.append((hit.path, f"{hit.score:.3f}", likeliest or describe_answer(hit.prediction)))
    return _make_table(("path", "score", "emotion"), rows, right=("score",))


def describe_answer(prediction: Prediction) -> str:
    """Name what a model says of an image: emotions, or numbers on a scale."""
    numbers = ((name, value) for name, value in (prediction.answer or {}).items() if isinstance(value, float))
    return _join(prediction.predicted or [f"{_spell(name)} {value:.2f}" for name, value in numbers])


def _spell(name: str) -> str:
    return name.replace("_", " ")


def _join(value: object) -> str:
    """Show a label, or those of a list."""
    return (", ".join(value) or "–") if isinstance(value, list) else str(value)


def _describe_box(box: Box | None) -> str:
    return "" if box is None else f"{box.x0:.0f},{box.y0:.0f} {box.x1 - box.x0:.0f}×{box.y1 - box.y0:.0f}"


def facts_table(manifest: Manifest, *, targets: Sequence[str] = ()) -> Table:
    """Show what a manifest records about its data set, and the kinds of labels that its rows have."""
    from uniemox.manifests.ratings import average_ratings  # PyArrow, which help has no need of

    low, high = manifest.facts.vad_range or (None, None)
    rated = [f"{name} {one.mean:.2f} ± {one.deviation:.2f}" for name, one in average_ratings(manifest).items()]
    scale = "" if low is None else f", from {low:g} to {high:g}"
    facts, rows = manifest.facts, len(manifest)
    images = len(manifest.table["path"].unique())
    shown = {
        "data set": f"{facts.title} ({facts.name})",
        "images": images if images == rows else f"{images}, in {counted(rows, 'row')}",
        "emotion": facts.emotion or "not known",
        "folder": facts.root,
        "layout": facts.layout,
        "labels": facts.labelled_by,
        "ratings": f"{', '.join(rated)}{scale}" if rated else "",
        "targets": ", ".join(targets),
        "splits": facts.split_recipe,
        "people": facts.people_source,
        "licence": facts.licence,
        "source": facts.url,
        "cite": facts.citation,
        "format": f"version {facts.version}",
    }
    return _list_facts(("fact", "value"), shown)


def inspection_table(found: Inspection) -> Table:
    """Show what was found in a file of weights; lines with nothing to show are omitted."""
    tensors = {
        "missing": found.missing,
        "left over": found.extra,
        "misshapen": found.misshapen,
        "not used": found.unused,
        "beside the weights": found.beside,
        "not finite": found.not_finite,
    }
    facts = dict(found.facts)
    shown: dict[str, object] = {
        "file": found.path,
        "format": found.format,
        "layout": found.layout,
        "kind": found.kind,
        "architecture": ", ".join(f"{name} {value}" for name, value in found.architecture.items()),
        "parameters": f"{found.parameters:,}",
        **{f"sha256 of {name}": value for name, value in found.sha256.items()},
        "classes": ", ".join(found.classes),
        **{f"perhaps {name}": ", ".join(classes) for name, classes in found.likely_datasets.items()},
        **{words: name_first(names, most=6) for words, names in tensors.items() if names},
        "licence": found.licence or "not stated",
    }
    if "dataset" in facts:  # a model folder; other weights do not say what they were trained on
        shown["trained on"] = ", ".join(filter(None, (facts.pop("dataset"), facts.pop("title"))))
        shown["emotion"] = facts.pop("emotion") or "evoked or felt: not recorded"
    for name, value in facts.items():
        lines = [f"{n}: {part}" for n, part in value.items()] if isinstance(value, dict) else [str(value)]
        shown[name] = "" if value is None else "\n".join(lines)
    shown |= {f"saved {name}": value for name, value in found.arguments.items()}
    return _list_facts(("what", "found"), shown | {"note": "\n".join(found.notes)})


def datasets_table(specs: Iterable[DatasetSpec]) -> Table:
    """Show what is known about each data set, one fact a line."""
    table = Table(Column("data set", no_wrap=True), "fact", Column("value", overflow="fold"))
    for spec in specs:
        sizes = {"images": spec.pictures, "people": spec.people}
        shown = {
            "title": spec.title,
            "classes": ", ".join(spec.classes) or "given by the data",
            "emotion": spec.emotion or "not known",
            "size": ", ".join(f"{size:,} {what}" for what, size in sizes.items() if size),
            "labels": spec.labelled_by,
            "splits": spec.published_split,
            "licence": spec.licence,
            "source": spec.url,
            "cite": spec.citation,
            "note": spec.note,
        }
        for name, value in shown.items():
            if value:
                table.add_row("" if name != "title" else spec.name, name, value)
        table.add_section()
    return table


def counts_table(manifest: Manifest) -> Table:
    """Show the rows of each class in each split, which are columns; with a line for those without a label, if any.

    A row with a set of labels is in several lines, but counts once in all.
    """
    from uniemox.manifests.ratings import average_shares  # PyArrow, which help has no need of

    counts, shares = manifest.counts(), average_shares(manifest)
    names = [*manifest.facts.classes, *([""] if any(of_class.get("") for of_class in counts.values()) else [])]
    rows = (
        [name or "no label", *(of_class.get(name, 0) for of_class in counts.values())]
        + ([percent(shares[name]) if name in shares else ""] if shares else [])
        for name in names
    )
    heads = [*counts, *(["raters %"] if shares else [])]
    table = _make_table(["class", *heads], rows, right=heads)
    table.add_section()
    table.add_row("all", *map(str, manifest.split_counts().values()))
    return table


def sources_table(sources: Mapping[str, int]) -> Table | None:
    """Show how many rows each data set gave to a merged manifest; None if it is not merged."""
    return _make_table(("data set", "rows"), sources.items(), right=["rows"]) if sources else None


def runs_table(states: Sequence[tuple[Run, str]]) -> Table:
    """Show the runs of a grid, and how far each is."""
    rows = [(run.arm, run.seed, ", ".join(step.name for step in run.steps), state) for run, state in states]
    return _make_table(("arm", "seed", "steps", "state"), rows, right=["seed"])


def problems_table(problems: Sequence[Problem]) -> Table | None:
    """Show what an import skipped or fixed; None if that is nothing."""
    rows = [(problem.kind, problem.count, problem.example) for problem in problems]
    return _make_table(("problem", "how often", "for example"), rows, right=["how often"]) if rows else None


def population_table(population: Population) -> Table:
    """Show how many images have people."""
    counts = {"not read": population.unread, "not searched": population.unasked}
    rows = [("with people", population.with_people), ("without", population.without)]
    rows += [(name, count) for name, count in counts.items() if count]
    table = _make_table(("people", "images"), rows, right=["images"])
    table.add_section()
    table.add_row("all", str(population.pictures))
    boxes = counted(population.boxes, "box", several="boxes")
    table.caption = f"{boxes} in {counted(population.rows, 'row')}"
    if population.shared:
        table.caption += f", {population.shared} of which share their image with another"
    return table


def agreement_table(agreement: Agreement, *, names: tuple[str, str]) -> Table:
    """Show how far two sets of boxes agree."""
    shares = (agreement.first_confirmed, agreement.second_found)
    rows = [
        ("boxes", agreement.first_boxes, agreement.second_boxes),
        ("also in the other", *("" if share is None else f"{percent(share)} %" for share in shares)),
        ("images with people in this one only", agreement.first_only, agreement.second_only),
        ("images with people in both", agreement.both, agreement.both),
        ("images without people in both", agreement.neither, agreement.neither),
    ]
    table = _make_table(("two sets of boxes", *names), rows, right=names)
    pairs = counted(agreement.matched, "pair of boxes overlaps", several="pairs of boxes overlap")
    table.caption = f"{pairs} by {agreement.iou:g} or more"
    if agreement.mean_iou is not None and agreement.median_iou is not None:
        table.caption += f", {agreement.mean_iou:.3f} on average, {agreement.median_iou:.3f} in the median"
    compared = counted(agreement.pictures, "image was", several="images were")
    table.caption += f"; {compared} compared"
    if agreement.left_out:
        table.caption += f", {agreement.left_out} could not be"
    return table


def findings_table(counts: Mapping[str, Mapping[str, int]]) -> Table:
    """Show how many images an audit found of each kind of problem, and how many of them it removed."""
    rows = ((kind, of_kind["found"], of_kind["removed"]) for kind, of_kind in counts.items())
    return _make_table(("finding", "images", "removed"), rows, right=("images", "removed"))


def doubts_table(labels: Sequence[Mapping[str, Any]]) -> Table | None:
    """Show how many rows of each manifest were ranked by their label, and for how many other rows suggest another."""
    if not labels:
        return None
    heads = ("manifest", "rows ranked", "label in doubt")
    table = _make_table(heads, ((one["manifest"], one["ranked"], one["doubted"]) for one in labels), right=heads[1:])
    table.caption = "a ranking, not a verdict: look at the first rows, in the pages named below"
    return table


def kept_table(audit: Audit) -> Table:
    """Show the rows of each audited manifest, and how many the cleaned one keeps."""
    rows = zip(audit.names, map(len, audit.manifests), map(len, audit.cleaned), strict=True)
    return _make_table(("manifest", "rows", "kept"), rows, right=("rows", "kept"))
