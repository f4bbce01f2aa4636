"""The page of a collection: what a table of predictions says all in all, with the images that show it best."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from uniemox.emotions import circumplex
from uniemox.inference.collection import DATE, FOLDER, OTHERS, Breakdown, Collection, Population, Sides, Summary
from uniemox.report import charts
from uniemox.report import collection_figures as figures
from uniemox.report.collection_images import Images, section_title, show_examples, show_strange
from uniemox.report.page import Block, Cell, Figure, Notice, Page, Score, Scoreboard, Section, Table, show_cell
from uniemox.targets.clusters import Clusters, compare
from uniemox.targets.readings import Reading
from uniemox.targets.scores import Floats, Scatter
from uniemox.version import __version__
from uniemox.wording import listed, name_first, shorten

_MOST: Final = 20  # Emotions, and categories, that are shown; the others are summed up
_MONTHS: Final = 36  # From more on, years are shown
_COURSES: Final = 6
_SCATTERED: Final = (
    "Rows of the same file are not beside each other, or stand in several tables ({:,} times), and are taken for rows "
    "of different files: ranges are too narrow. Sort the tables by path, and report each image once."
)
_RANGES: Final = (
    "Ranges are 95 % intervals for more images of the same kind, with the rows of one file taken together. They say "
    "nothing of the errors of the model."
)


def collection_page(found: Collection, *, title: str, root: Path | None = None, sides: Sides | None = None) -> Page:
    """Make the page of a collection.

    Args:
        found: From `collect`.
        title: Of the page.
        root: Folder that relative paths of images start from; None is the working directory.
        sides: What is compared, if anything.
    """
    images = Images(root)
    main, other = found.main, (found.images if found.main is found.people else found.people)
    sections = [_overview(found)]
    who = "people" if main is found.people else "images"
    sections += [_whole(summary, main, who) for summary in main.summaries]
    if other.rows:
        others = "images with nobody in them" if who == "people" else "people"
        sections += [_whole(summary, other, others) for summary in other.summaries]
    for name in found.by:
        sections += [_broken_down(name, summary, found) for summary in main.summaries]
    if sides is not None:
        sections += [_compared(sides, place, summary) for place, summary in enumerate(main.summaries)]
    for summary in main.summaries:
        sections += [*_followed(summary), *show_examples(summary, images)]
    sections += show_strange(main, images)
    if found.failed:
        sections.append(_failures(found))
    sections.append(_origin(found, images))
    lead = f"{_count(found.files, 'file')}, {_count(main.rows, 'answer')}"
    return Page(title, f"{lead}: {_headline(main)}.", sections)


def summarize(found: Collection) -> dict[str, object]:
    """Return the numbers of the page as plain values for JSON."""
    answers = {"images": found.images, "people": found.people}
    return {
        "files": found.files,
        "rows": found.rows,
        "failed": found.failed,
        "reasons": dict(found.reasons.most_common()),
        **{name: _means(population) if population.rows else [] for name, population in answers.items()},
    }


def _means(population: Population) -> list[dict[str, dict[str, float | None]]]:
    """Give the mean and the range of each name, of each reading."""
    means = []
    for summary in population.summaries:
        mix = summary.whole.mix(are_shares=summary.reading.is_mix)
        rows = zip(summary.reading.names, *_cells(mix.mean[0], mix.low[0], mix.high[0]), strict=True)
        means.append({name: {"mean": mean, "low": low, "high": high} for name, mean, low, high in rows})
    return means


def _count(number: float, noun: str) -> str:
    return f"{show_cell(int(number))} {noun if number == 1 else f'{noun}s'}"


def _headline(main: Population) -> str:
    summary = main.summaries[0]
    mean = summary.whole.mix(are_shares=False).mean[0]
    if summary.reading.is_mix:
        order = np.argsort(-mean, kind="stable")[:3]
        return listed([f"{100 * mean[place]:.0f} % {summary.reading.names[place]}" for place in order])
    return listed([f"mean {name} {value:.2f}" for name, value in zip(summary.reading.names, mean, strict=True)])


def _overview(found: Collection) -> Section:
    main = found.main
    board = [Score("files", show_cell(found.files), _count(found.rows, "row"))]
    board.append(Score("without an answer", show_cell(found.failed), "see Failures" if found.failed else ""))
    if found.people.rows:
        board.append(Score("people", show_cell(found.people.rows), f"in {_count(found.people.files, 'file')}"))
    sure = main.summaries[0].sure
    if sure.sum():
        low = np.searchsorted(sure.cumsum(), sure.sum() / 2) / len(sure)
        board.append(Score("median confidence", f"{low:.2f} to {low + 1 / len(sure):.2f}", "between these two"))
    if main.promised:
        board.append(Score("abstained", f"{100 * main.abstained / main.promised:.1f} %", "too unsure to answer"))
    if main.sets:
        board.append(Score("labels in a set", f"{main.in_sets / main.sets:.2f}", "mean"))
    if main.measured:
        board.append(
            Score("unfamiliar", f"{100 * main.unfamiliar / main.measured:.1f} %", "unlike the training images")
        )
    notices = dict.fromkeys(table.about["notice"] for table in found.tables if "notice" in table.about)
    if found.scattered:
        notices[_SCATTERED.format(found.scattered)] = None
    return Section("At a glance", blocks=[*(Notice(text, "warning") for text in notices), Scoreboard(board)])


def _shown(weights: Floats) -> list[int]:
    """Choose the names to show, those with most weight (C,), in their own order."""
    order = np.argsort(-np.nan_to_num(weights), kind="stable")[:_MOST]
    return sorted(order.tolist())


def _omitted(reading: Reading, places: Sequence[int]) -> str:
    more = len(reading.names) - len(places)
    return f" {_count(more, 'rarer emotion')} omitted." if more else ""


def _whole(summary: Summary, population: Population, who: str) -> Section:
    """Show what all rows are like."""
    reading = summary.reading
    mix = summary.whole.mix(are_shares=reading.is_mix)
    places = _shown(mix.mean[0])
    names = [reading.names[place] for place in places]
    mean, low, high = (values[0][places] for values in (mix.mean, mix.low, mix.high))
    text = f"{_count(population.rows, 'answer')} to {who}, in {_count(population.files, 'file')}. {_RANGES}"
    if mix.clusters[0] < 2:
        text = f"{_count(population.rows, 'answer')}, all to one file, so nothing shows how far another would differ."
    if not reading.is_mix:
        heads = ("rating", "mean", "from", "to")
        blocks: list[Block] = [
            *_plane(summary),
            Table(heads, list(zip(names, *_cells(mean, low, high), strict=True)), width="half"),
        ]
        return Section(section_title(summary, f"Ratings of {who}"), text, blocks)
    rows = np.round(mean * mix.rows[0]).astype(int).tolist()
    expected = summary.shares[places] / mix.rows[0]
    table = list(zip(names, rows, *_cells(mean, low, high, expected), strict=True))
    caption = (
        "Share of the answers, its range, and the mean probability: where both differ much, the model is often unsure."
        f"{_omitted(reading, places)}"
    )
    blocks = [
        Figure(figures.mix_bars(names, mean, low, high), _in_words(names, mean), "Share of each emotion.", "half"),
        Table(("emotion", "rows", "share", "from", "to", "probability"), table, caption, "half"),
    ]
    if any(circumplex(name) is not None for name in names):
        blocks.append(_circle(names, mean))
    return Section(section_title(summary, f"Emotions of {who}"), text, blocks)


def _cells(*columns: Floats) -> Iterator[list[float | None]]:
    """Turn numbers into cells, NaN into none."""
    for column in columns:
        yield [None if np.isnan(value) else float(value) for value in column]


def _in_words(names: Sequence[str], mean: Floats) -> str:
    return ", ".join(f"{name} {100 * value:.1f} %" for name, value in zip(names, mean, strict=True))


def _circle(names: Sequence[str], mean: Floats) -> Figure:
    known = [place for place, name in enumerate(names) if circumplex(name) is not None]
    lacking = [name for name in names if circumplex(name) is None]
    without = f" Russell places no word for {listed(lacking)}." if lacking else ""
    caption = f"Where the emotions lie on Russell's circumplex (1980); the area of a disc is the share.{without}"
    own = [names[place] for place in known]
    return Figure(figures.circle(own, mean[known]), f"Circumplex: {_in_words(own, mean[known])}", caption, "half")


def _plane(summary: Summary) -> Iterator[Figure]:
    """Draw valence and arousal of some rows."""
    names, points = summary.reading.names, summary.points
    if not {"valence", "arousal"} <= set(names):
        return
    across, up = (points[:, names.index(name)] for name in ("valence", "arousal"))
    low, high = float(np.floor(points.min())), float(np.ceil(points.max()))
    plot = Scatter(
        title="valence and arousal",
        axes=("valence: unpleasant to pleasant", "arousal: calm to activated"),
        series=(("", across, up),),
        limits=(low, high if high > low else low + 1),
        alt=f"Valence and arousal of {_count(len(points), 'row')}.",
        caption=f"{_count(len(points), 'row')}{' by lot' if summary.whole.rows[0] > len(points) else ''}. The axes "
        "reach as far as the ratings, which may be less than the scale of the model.",
    )
    yield Figure(charts.scatter(plot), plot.alt, plot.caption, "half")


def _broken_down(name: str, summary: Summary, found: Collection) -> Section:
    """Show the answers by category."""
    part, reading = summary.parts[name], summary.reading
    labels, sums = _categories(name, part)
    mix = sums.mix(are_shares=reading.is_mix)
    heads: tuple[str, ...]
    if reading.is_mix:
        best = np.nan_to_num(mix.mean).argmax(1)
        cells = zip(
            *_cells(*(values[np.arange(len(best)), best] for values in (mix.mean, mix.low, mix.high))), strict=True
        )
        rows: list[tuple[Cell, ...]] = [
            (label, int(count), reading.names[place], *one)
            for label, count, place, one in zip(labels, mix.rows, best, cells, strict=True)
        ]
        heads = (name, "rows", "most often", "share", "from", "to")
    else:
        columns = [*_cells(*mix.mean.T)]
        rows = [(label, int(count), *one) for label, count, *one in zip(labels, mix.rows, *columns, strict=True)]
        heads = (name, "rows", *(f"mean {dimension}" for dimension in reading.names))
    blocks: list[Block] = []
    if reading.adds_up:
        names, shares = _with_others(reading, mix.rows, mix.mean)
        caption = "Share of each emotion; the number of rows to the right."
        blocks.append(Figure(figures.stacks(labels, mix.rows, names, shares), f"Emotions by {name}.", caption, "half"))
    blocks.append(Table(heads, rows, width="half" if blocks else "full"))
    return Section(
        section_title(summary, f"By {name}"), _explain(name, part, len(labels), found, is_mix=reading.is_mix), blocks
    )


def _with_others(reading: Reading, rows: Floats, mean: Floats) -> tuple[list[str], Floats]:
    """Choose the emotions of a chart of few colours from means (K, C) over rows (K,), and sum up the others."""
    mean = np.nan_to_num(mean)
    weights = rows @ np.abs(mean)
    places = sorted(np.argsort(-weights, kind="stable")[:11].tolist())
    names, shares = [reading.names[place] for place in places], mean[:, places]
    if len(places) < len(reading.names) and reading.adds_up:
        names, shares = [*names, OTHERS], np.column_stack([shares, 1 - shares.sum(1)]).clip(0)
    kept = ~(shares == 0).all(0)
    return [name for name, is_kept in zip(names, kept, strict=True) if is_kept], shares[:, kept]


def _categories(name: str, part: Breakdown) -> tuple[list[str], Clusters]:
    """Choose the categories that are shown: dates in order, others by size, with the rest summed up."""
    groups: dict[str, list[int]] = {}
    dates = [label for label in part.codes if label[:1].isdigit()]
    for label, code in part.codes.items():
        is_year = name == DATE and len(dates) > _MONTHS and label in dates
        groups.setdefault(label[:4] if is_year else label, []).append(code)
    rest = groups.pop(OTHERS, [])
    sizes = part.sums.rows
    order = sorted(groups, key=lambda label: -sum(sizes[code] for code in groups[label]))
    shown = [label for label in order if name == DATE or label in order[:_MOST]][: max(_MOST, _MONTHS)]
    rest += [code for label in order if label not in shown for code in groups[label]]
    if name == DATE:
        shown = sorted(shown)
    labels = list(strip_common(shown)) if name == FOLDER else [shorten(label) for label in shown]
    codes = [groups[label] for label in shown]
    return ([*labels, OTHERS], part.sums.merged([*codes, rest])) if rest else (labels, part.sums.merged(codes))


def strip_common(folders: Sequence[str]) -> Iterator[str]:
    """Yield folders without what all of them start with."""
    parts = [folder.split("/") for folder in folders]
    shared = 0
    if len(parts) > 1:
        shortest = min(map(len, parts))
        while shared < shortest - 1 and len({part[shared] for part in parts}) == 1:
            shared += 1
    yield from ("/".join(part[shared:]) or "." for part in parts)


def _explain(name: str, part: Breakdown, shown: int, found: Collection, *, is_mix: bool) -> str:
    total = len(part.codes)
    texts = {
        FOLDER: "The folder of each file, less what all paths have in common.",
        DATE: f"When images were taken, as EXIF says of {_count(found.dated, 'file')} of {show_cell(found.files)}.",
    }
    more = f" The {shown - 1} largest of {show_cell(total)} are shown." if total > shown else ""
    ranges = " Ranges are of the share of the emotion that is named most often." if is_mix else ""
    return f"{texts.get(name, '')}{more}{ranges}".strip()


def _compared(sides: Sides, place: int, summary: Summary) -> Section:
    """Show how far two sets of answers are apart."""
    reading, (first, second) = summary.reading, sides.names
    mix = sides.sums[place].mix(are_shares=reading.is_mix)
    apart = compare(mix, are_shares=reading.is_mix, correlation=sides.correlations[place] if sides.shared else None)
    places = _shown(np.nan_to_num(mix.mean).max(0))
    names = [reading.names[one] for one in places]
    values = [row[places] for row in (*mix.mean, apart.value, apart.low, apart.high)]
    p = [_probability(one) for one in apart.p[places]]
    table = list(zip(names, *_cells(*values), p, strict=True))
    unit = "share" if reading.is_mix else "mean"
    differing = [name for name, one in zip(names, apart.p[places], strict=True) if one < 0.05]
    verdict = f"Beyond chance at 5 %: {listed(differing)}." if differing else "No difference is beyond chance at 5 %."
    text = (
        f"A is {first}: {_count(mix.rows[0], 'row')} of {_count(mix.clusters[0], 'file')}. B is {second}: "
        f"{_count(mix.rows[1], 'row')} of {_count(mix.clusters[1], 'file')}. {verdict}\n\n"
        "Differences are B less A, with 95 % intervals; p is corrected for the number of rows (Holm). "
        f"{_pairing(sides)}"
    )
    blocks: list[Block] = [
        Table(
            ("emotion" if reading.is_mix else "rating", f"A, {unit}", f"B, {unit}", "difference", "from", "to", "p"),
            table,
            width="half",
        )
    ]
    if np.isfinite(values[3]).any():
        chart = figures.differences(names, *values[2:], are_shares=reading.is_mix)
        blocks.insert(0, Figure(chart, f"Differences of B from A: {verdict}", "B less A, with 95 % intervals.", "half"))
    return Section(section_title(summary, "A against B"), text, blocks)


def _pairing(sides: Sides) -> str:
    if not sides.shared:
        return "A and B are taken as independent."
    return f"{_count(sides.shared, 'file')} of both {'is' if sides.shared == 1 else 'are'} compared in pairs."


def _probability(p: float) -> str:
    return "–" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _followed(summary: Summary) -> Iterator[Section]:
    """Show how the longest videos go."""
    reading = summary.reading
    longest = sorted(summary.courses.items(), key=lambda item: -item[1].count.sum())[:_COURSES]
    blocks: list[Block] = []
    for path, course in longest:
        end = int(np.flatnonzero(course.count)[-1]) + 1
        seconds = np.arange(end, dtype=np.float64) * course.span
        with np.errstate(invalid="ignore", divide="ignore"):
            values: Floats = course.sums[:end] / course.count[:end, None]
        names, shown = _with_others(reading, course.count[:end], values)
        shown[course.count[:end] == 0] = np.nan
        chart = figures.course(seconds, names, shown, are_shares=reading.adds_up)
        frames = _count(course.count.sum(), "frame")
        blocks.append(
            Figure(chart, f"Course of {path}", f"{shorten(path)}: {frames}, {course.span:g} s a step.", "half")
        )
    if blocks:
        more = len(summary.courses) - len(blocks)
        text = f"The {len(blocks)} with most frames of {show_cell(len(summary.courses))}." if more else ""
        yield Section(section_title(summary, "Videos over time"), text, blocks)


def _failures(found: Collection) -> Section:
    """Count why files have no answer, and name some."""
    rows = [(reason, count) for reason, count in found.reasons.most_common(_MOST)]
    more = len(found.reasons) - len(rows)
    caption = f"{_count(more, 'rarer reason')} omitted." if more else ""
    text = f"{_count(found.failed, 'row')} of {show_cell(found.rows)} have no answer."
    examples = Table(
        ("file", "reason"), [(path, reason) for path, reason in found.failures], "The first of each reason."
    )
    return Section("Failures", text, [Table(("reason", "rows"), rows, caption), examples])


def _origin(found: Collection, images: Images) -> Section:
    """Say where everything comes from."""
    about = found.tables[0].about
    kinds = {"evoked": "what viewers feel", "felt": "what a depicted person seems to feel"}
    rows = [
        (
            "table" if len(found.tables) == 1 else "tables",
            name_first([str(table.path) for table in found.tables], most=8),
        ),
        ("model", shorten(about.get("model", "not recorded in the table"))),
        ("digest of the model", shorten(about.get("digest", "not recorded in the table"))),
        ("emotion", kinds.get(about.get("emotion", ""), "not recorded in the table")),
        ("small images", images.describe()),
        ("software", f"uniemox {__version__}"),
    ]
    return Section("Origin", blocks=[Table((), rows)])
