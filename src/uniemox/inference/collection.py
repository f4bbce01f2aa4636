"""What tables of predictions hold all in all, in one pass that keeps sums, the first of rankings and a few samples.

Rows of one file follow one another in a table and are alike, so they are one cluster of the intervals. Letters: M rows
of a batch, C names of a reading.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from uniemox.errors import ConfigError, DataError
from uniemox.files.images import read_date
from uniemox.inference.stored_tables import EDGES, StoredTable
from uniemox.targets.clusters import Clusters
from uniemox.targets.readings import Reading, given
from uniemox.targets.scores import share
from uniemox.wording import counted, name_first, shorten

if TYPE_CHECKING:
    from uniemox.targets.scores import Counts, Flags, Floats

FOLDER, DATE, TABLE = KNOWN = "folder", "date", "table"
"""What answers can be broken down by beside the columns of their tables."""
OTHERS, EMPTY, UNDATED = "others", "(empty)", "no date"
_MOST_CATEGORIES: Final = 5000  # Of a breakdown; later ones are others
_MOST_SUMS: Final = 2**20  # Categories times names
_MOST_REASONS: Final = 200
_EXAMPLES: Final = 12  # Of files without an answer
_KEPT: Final = 12  # Rows of a ranking
_POINTS: Final = 1500  # Rows that are drawn as dots
_VIDEOS: Final = 100  # Whose course is kept, the first
_MOMENTS: Final = 64  # Of the course of a video
_LAST_MOMENT: Final = 1e9  # Seconds


class Shown(NamedTuple):
    """A row that stands for others."""

    path: str
    time: float | None
    box: tuple[float, float, float, float] | None  # Of the person that is meant
    answer: str
    confidence: float | None
    score: float  # By which it was chosen


class Ranking:
    """The rows with the highest scores, one of each file."""

    def __init__(self) -> None:
        self.rows: list[Shown] = []

    def add(self, scores: Floats, files: Counts, show: Callable[[int, float], Shown]) -> None:
        """Add rows by their scores (M,), of which NaN is none; rows of the same file have the same number."""
        least = self.rows[-1].score if len(self.rows) == _KEPT else -np.inf
        places = np.flatnonzero(scores > least)  # none that is NaN
        if not len(places):
            return
        places = places[np.lexsort((places, -scores[places]))]
        first = np.sort(np.unique(files[places], return_index=True)[1])[: _KEPT + 1]
        for row in (show(int(place), float(scores[place])) for place in places[first]):
            same = next((own for own in self.rows if own.path == row.path), None)
            if same is None:
                self.rows.append(row)
            elif same.score < row.score:
                self.rows[self.rows.index(same)] = row
        self.rows = sorted(self.rows, key=lambda row: -row.score)[:_KEPT]


class Course:
    """How the answers to the frames of a video go: sums over equal spans of time, which double where it is long."""

    def __init__(self, names: int) -> None:
        self.span = 1.0  # Seconds
        self.count = np.zeros(_MOMENTS)
        self.sums = np.zeros((_MOMENTS, names))

    def add(self, times: Floats, values: Floats) -> None:
        """Add rows by their seconds (M,), at least 0."""
        while times.max() >= self.span * _MOMENTS:
            self.span *= 2
            for kept in (self.count, self.sums):
                kept[: _MOMENTS // 2] = kept[::2] + kept[1::2]
                kept[_MOMENTS // 2 :] = 0
        places = (times // self.span).astype(np.int64)
        np.add.at(self.count, places, 1)
        np.add.at(self.sums, places, values)


class Breakdown:
    """Sums of a reading by category, of which those after the first thousands are others."""

    def __init__(self, names: int) -> None:
        self.sums = Clusters(names)
        self.codes: dict[str, int] = {}
        self._most = min(_MOST_CATEGORIES, max(64, _MOST_SUMS // names))

    def add(self, labels: Sequence[str], places: Counts, files: Counts, values: Floats) -> None:
        """Add rows: their categories are `labels` at `places` (M,)."""
        own = np.array([self._code(label) for label in labels], dtype=np.int64)
        self.sums.add(files, own[places], values)

    def _code(self, label: str) -> int:
        if label not in self.codes and len(self.codes) >= self._most:
            label = OTHERS
        return self.codes.setdefault(label, len(self.codes))


@dataclass
class Summary:
    """What the answers of one reading are like."""

    reading: Reading
    whole: Clusters
    parts: dict[str, Breakdown]
    shares: Floats  # (C,), sums of probabilities
    sure: Floats  # Number of answers by confidence, in 20 steps
    typical: dict[str, Ranking] = field(default_factory=dict)
    doubtful: Ranking = field(default_factory=Ranking)
    courses: dict[str, Course] = field(default_factory=dict)
    points: Floats = field(default_factory=lambda: np.zeros((0, 0)))  # Of ratings, some chosen by lot


@dataclass
class Population:
    """The rows of whole images, or those of people."""

    summaries: list[Summary]
    rows: int = 0
    files: int = 0
    abstained: int = 0
    promised: int = 0  # Rows that say whether the model abstains
    sets: int = 0  # Rows with a label set
    in_sets: int = 0  # Labels in them
    measured: int = 0  # Rows that say whether the image is unfamiliar
    unfamiliar: int = 0
    strange: Ranking = field(default_factory=Ranking)
    kept: list[tuple[Counts, Floats]] = field(default_factory=list)  # Numbers of files (M,), and values of all readings

    def by_file(self, keys: Counts) -> tuple[Counts, Floats]:
        """Return the keys of its files (F,), of those of all by number, and sums over rows: of 1, and of the values."""
        if not self.kept:
            return np.zeros(0, np.int64), np.zeros((0, 1 + sum(len(one.reading.names) for one in self.summaries)))
        files, values = (np.concatenate(arrays) for arrays in zip(*self.kept, strict=True))
        own, places = np.unique(keys[files], return_inverse=True)
        sums = np.zeros((len(own), 1 + values.shape[1]))
        np.add.at(sums, places, np.column_stack([np.ones(len(values)), values]))
        return own, sums


@dataclass
class Collection:
    """All that a report of tables shows."""

    tables: Sequence[StoredTable]
    by: Sequence[str]
    images: Population
    people: Population
    rows: int = 0
    files: int = 0
    failed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, str]] = field(default_factory=list)  # Some paths with their reasons
    scattered: int = 0  # Runs of rows whose file had others before, apart from them or in another table
    dated: int = 0  # Files that were asked for their date and have one
    keys: Counts = field(default_factory=lambda: np.zeros(0, np.int64))  # Hashes of the paths of files

    @property
    def main(self) -> Population:
        """The rows of whole images, unless files with people have none, as of a model that reads persons alone."""
        return self.people if self.people.files > self.images.files else self.images


class Sides(NamedTuple):
    """Two sets of answers to the same question."""

    names: tuple[str, str]
    sums: Sequence[Clusters]  # Of each reading: two categories
    shared: int = 0  # Files that both have answers to
    correlations: Sequence[Floats | None] = (None, None)  # Of each reading, between its two means (C,)


def put_against(first: StoredTable, second: Collection) -> Sides:
    """Read a table, perhaps of another model, to compare a collection with it, which keeps its files.

    Raises `DataError` as `collect`.
    """
    _check_readings(first, second.tables[0])
    own = collect([first], by=(), keeps_files=True)
    one, two = (own.images if second.main is second.images else own.people), second.main
    sums = [before.whole.beside(after.whole) for before, after in zip(one.summaries, two.summaries, strict=True)]
    are_shares = [summary.reading.is_mix for summary in two.summaries for _ in summary.reading.names]
    shared, correlation = _correlate(one.by_file(own.keys), two.by_file(second.keys), np.array(are_shares))
    names = (str(first.path), ", ".join(str(table.path) for table in second.tables))
    starts = np.cumsum([len(summary.reading.names) for summary in two.summaries])[:-1]
    return Sides(names, sums, shared, np.split(correlation, starts))


def _correlate(first: tuple[Counts, Floats], second: tuple[Counts, Floats], are_shares: Flags) -> tuple[int, Floats]:
    """Count the files of both, and correlate the means over rows (C,): as ratios of sums over files, linearised.

    Half a file of each pair of answers to a share is added, as Agresti and Min do (2005): tables that never disagree
    would have no variance.
    """
    _, own, theirs = np.intersect1d(first[0], second[0], return_indices=True)
    deviations, variances, added = [], [], []
    for _, sums in (first, second):
        rows, mean = sums[:, :1], share(sums[:, 1:].sum(0), sums[:, :1].sum(0))
        size = share((rows**2).sum(0), rows.sum(0)) * are_shares * (len(own) > 0)  # Of a row's file on average
        deviations.append(sums[:, 1:] - mean * rows)
        variances.append((deviations[-1] ** 2).sum(0) + size**2 * ((1 - mean) ** 2 + mean**2))
        added.append(size * (1 - 2 * mean))
    products = (deviations[0][own] * deviations[1][theirs]).sum(0) + added[0] * added[1] / 2
    return len(own), share(products, np.sqrt(variances[0] * variances[1]))


def cut_in_two(found: Collection, name: str) -> Sides:
    """Compare the two values of what a collection was broken down by; `ConfigError` if it has more or fewer."""
    parts = [summary.parts[name] for summary in found.main.summaries]
    labels = [label for label in parts[0].codes if label not in (EMPTY, UNDATED)]
    if len(labels) != 2:
        have = f"{name_first(labels)}: {counted(len(labels), 'value')}" if labels else "no value"
        raise ConfigError(f"compare is {shorten(name)}, which has {have}, but must have two")
    first, second = sorted(labels)
    return Sides((first, second), [part.sums.merged([[part.codes[first]], [part.codes[second]]]) for part in parts])


def check_same(tables: Sequence[StoredTable]) -> None:
    """Raise a `DataError` if tables are of several models, or answer different questions."""
    first = tables[0]
    for other in tables[1:]:
        _check_readings(first, other)
        digests = [table.about.get("digest") for table in (first, other)]
        if None not in digests and len(set(digests)) > 1:
            names = [shorten(table.about.get("model", "a model")) for table in (first, other)]
            raise DataError(
                f"{first.path} is of the model {names[0]} and {other.path} of another, {names[1]}: give one of them as "
                "`compare`"
            )


def _check_readings(first: StoredTable, other: StoredTable) -> None:
    if [(one.part, one.names) for one in other.readings] != [(one.part, one.names) for one in first.readings]:
        raise DataError(f"{first.path} and {other.path} answer with different emotions or ratings: report each alone")


def collect(
    tables: Sequence[StoredTable], *, by: Sequence[str] = (FOLDER,), root: Path | None = None, keeps_files: bool = False
) -> Collection:
    """Read tables of one model, as `check_same` has it.

    Args:
        tables: At least one.
        by: What answers are counted by: folder, date (of EXIF, read from each file), table, or a column of the tables.
        root: Folder that relative paths of images start from; None is the working directory.
        keeps_files: Whether the values of each file are kept, for `put_against`.

    Raises:
        ConfigError: A table lacks a column of `by`.
        DataError: A table is damaged, there is no row, or none has an answer.
    """
    for name in by:
        for table in tables:
            if name not in (*KNOWN, *table.columns):
                raise ConfigError(f"by names {shorten(name)}, but {table.path} has no such column")
    images, people = (Population(_summaries(tables[0].readings, by)) for _ in range(2))
    found = Collection(tables, by, images, people)
    reader = _Reader(found, root, keeps_files=keeps_files)
    for table in tables:
        for batch in table.batches([name for name in by if name not in KNOWN]):
            reader.read(batch, table)
    reader.recount()
    names = ", ".join(str(table.path) for table in tables)
    if not found.rows:
        raise DataError(f"{names} has no row, so there is nothing to report")
    if not found.main.rows:
        reason, count = found.reasons.most_common(1)[0] if found.reasons else ("no reason given", found.rows)
        raise DataError(f"{names} has no answer in its {found.rows:,} rows, most often ({count:,}): {shorten(reason)}")
    return found


def _summaries(readings: Sequence[Reading], by: Sequence[str]) -> list[Summary]:
    return [
        Summary(
            reading,
            Clusters(len(reading.names)),
            {name: Breakdown(len(reading.names)) for name in by},
            shares=np.zeros(len(reading.names)),
            sure=np.zeros(20),
        )
        for reading in readings
    ]


class _Reader:
    """Adds batches to a collection, and knows the file that the last one ended in."""

    def __init__(self, found: Collection, root: Path | None, *, keeps_files: bool) -> None:
        self.found, self.root, self.keeps_files = found, root, keeps_files
        self._last = ""
        self._file = -1
        self._seen = {id(population): -1 for population in (found.images, found.people)}
        self._labels: dict[str, str] = {}  # Of the last file
        self._lot = np.random.default_rng(0)
        self._keys: list[Counts] = []  # Hashes of the paths, each where its rows begin: 8 MB for a million

    def read(self, batch: pa.RecordBatch, table: StoredTable) -> None:
        """Add the rows of a batch."""
        if not len(batch):
            return
        found = self.found
        paths = np.array(batch.column("path").fill_null("").to_pylist(), dtype=object)
        is_new = np.ones(len(paths), dtype=bool)
        is_new[1:] = paths[1:] != paths[:-1]
        is_new[0] = self._file < 0 or paths[0] != self._last
        files = self._file + is_new.cumsum()
        found.rows += len(batch)
        found.files += int(is_new.sum())
        self._keys.append(np.fromiter(map(hash, paths[is_new]), np.int64))
        readings = [summary.reading for summary in found.images.summaries]
        values = [reading.values(batch) for reading in readings]
        answered = ~np.logical_or.reduce([np.isnan(one).any(1) for one in values])
        self._count_failures(batch, paths, ~answered)
        labels = {name: self._label(name, batch, table, paths, is_new) for name in found.by}
        self._last, self._file = str(paths[-1]), int(files[-1])
        is_person = batch.column(EDGES[0]).is_valid().to_numpy(zero_copy_only=False)
        for population, ours in ((found.images, answered & ~is_person), (found.people, answered & is_person)):
            if ours.any():
                chosen = np.flatnonzero(ours)
                own = {name: (texts, places[chosen]) for name, (texts, places) in labels.items()}
                rows = batch.filter(pa.array(ours))
                self._add(population, rows, [one[chosen] for one in values], files[chosen], own)

    def recount(self) -> None:
        """Count files once whose rows are not beside each other, after the last batch."""
        if self._keys:
            keys = np.concatenate(self._keys)
            self.found.keys = keys if self.keeps_files else self.found.keys
            self.found.scattered = self.found.files - len(np.unique(keys))
            self.found.files -= self.found.scattered

    def _count_failures(self, batch: pa.RecordBatch, paths: Any, failed: Flags) -> None:
        found = self.found
        places = np.flatnonzero(failed)
        found.failed += len(places)
        if not len(places):
            return
        reasons = batch.column("reason").fill_null("no answer").take(places).to_pylist()
        for place, reason in zip(places, reasons, strict=True):
            known = shorten(reason) or "no answer"
            if known not in found.reasons:
                known = known if len(found.reasons) < _MOST_REASONS else "other reasons"
                if len(found.failures) < _EXAMPLES:
                    found.failures.append((str(paths[place]), known))
            found.reasons[known] += 1

    def _label(
        self, name: str, batch: pa.RecordBatch, table: StoredTable, paths: Any, is_new: Flags
    ) -> tuple[Sequence[str], Counts]:
        """Give the categories of the rows (M,) as texts and places in them."""
        if name == TABLE:
            return [str(table.path)], np.zeros(len(paths), dtype=np.int64)
        if name not in (FOLDER, DATE):
            column = batch.column(name).dictionary_encode()
            texts = [shorten(text) or EMPTY for text in column.dictionary.to_pylist()]
            places = column.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False)
            return [*texts, EMPTY], places.astype(np.int64)
        ask: Callable[[str], str] = _folder if name == FOLDER else self._date
        texts = [self._labels.get(name, ""), *(ask(path) for path in paths[is_new])]
        self._labels[name] = texts[-1]
        return texts, is_new.cumsum()

    def _date(self, path: str) -> str:
        taken = read_date((self.root or Path()) / path)
        self.found.dated += taken is not None
        return UNDATED if taken is None else f"{taken:%Y-%m}"

    def _add(
        self,
        population: Population,
        batch: pa.RecordBatch,
        values: Sequence[Floats],
        files: Counts,
        labels: Mapping[str, tuple[Sequence[str], Counts]],
    ) -> None:
        """Add rows that have an answer."""
        if self.keeps_files:
            population.kept.append((files, np.concatenate(values, axis=1)))
        population.rows += len(batch)
        population.files += len(np.unique(files)) - (int(files[0]) == self._seen[id(population)])
        self._seen[id(population)] = int(files[-1])
        _count_promises(population, batch)
        for summary, own in zip(population.summaries, values, strict=True):
            reading = summary.reading
            summary.whole.add(files, np.zeros(len(files), dtype=np.int64), own)
            for name, (texts, places) in labels.items():
                used, ours = np.unique(places, return_inverse=True)
                summary.parts[name].add([texts[place] for place in used], ours, files, own)
            shares, confidence = reading.shares(batch), reading.confidence(batch)
            if shares is not None:
                summary.shares += np.nan_to_num(shares).sum(0)
            if confidence is not None:
                summary.sure += np.histogram(confidence, bins=20, range=(0, 1))[0]
            show = _shower(batch, reading, confidence)
            for what, scores in reading.typical(batch, own):
                summary.typical.setdefault(what, Ranking()).add(scores, files, show)
            doubt = reading.doubt(batch)
            if doubt is not None:
                summary.doubtful.add(doubt, files, show)
            _follow(summary, batch, own, files)
            if not reading.is_mix:
                self._draw_lots(summary, own, population.rows)
        distance = batch.column("out_of_domain").to_numpy(zero_copy_only=False).astype(np.float64)
        population.strange.add(distance, files, show)

    def _draw_lots(self, summary: Summary, values: Floats, rows: int) -> None:
        """Keep a sample of the rows so far: every one of them with the same probability."""
        kept = summary.points if len(summary.points) else values[:0]
        before = rows - len(values)
        room = min(len(values), _POINTS - len(kept))
        summary.points = np.concatenate([kept, values[:room]])
        # Vitter 1985, algorithm R: the row with number n takes a place by lot with the probability of places / n.
        numbers = np.arange(before + room, rows)
        places = self._lot.integers(0, numbers + 1)
        for place, row in zip(places, values[room:], strict=True):
            if place < _POINTS:
                summary.points[place] = row


def _count_promises(population: Population, batch: pa.RecordBatch) -> None:
    abstains, sets, known = (batch.column(name) for name in ("abstains", "label_set", "is_unfamiliar"))
    population.promised += len(batch) - abstains.null_count
    population.abstained += int(given(batch, "abstains").sum())
    population.sets += len(batch) - sets.null_count
    population.in_sets += len(sets.flatten())
    population.measured += len(batch) - known.null_count
    population.unfamiliar += int(given(batch, "is_unfamiliar").sum())


def _shower(batch: pa.RecordBatch, reading: Reading, confidence: Floats | None) -> Callable[[int, float], Shown]:
    """Make what describes a row of a batch."""
    names = [column.name for column in reading.columns]

    def show(place: int, score: float) -> Shown:
        row = {name: batch.column(name)[place].as_py() for name in (*names, "path", "time", *EDGES)}
        time = row["time"] if row["time"] is not None and 0 <= row["time"] < _LAST_MOMENT else None
        edges = [row[edge] for edge in EDGES]
        box = None if None in edges else (edges[0], edges[1], edges[2], edges[3])
        sure = None if confidence is None else float(confidence[place])
        return Shown(row["path"] or "", time, box, reading.in_words(row), sure, score)

    return show


def _follow(summary: Summary, batch: pa.RecordBatch, values: Floats, files: Counts) -> None:
    """Add the frames of videos to their courses."""
    times = batch.column("time").to_numpy(zero_copy_only=False).astype(np.float64)
    timed = np.flatnonzero(np.isfinite(times) & (times >= 0) & (times < _LAST_MOMENT))
    starts = np.flatnonzero(np.diff(files[timed], prepend=-1))
    for rows in np.split(timed, starts[1:]) if len(timed) else ():
        path = batch.column("path")[int(rows[0])].as_py() or ""
        if path in summary.courses or len(summary.courses) < _VIDEOS:
            course = summary.courses.setdefault(path, Course(len(summary.reading.names)))
            course.add(times[rows], values[rows])


def _folder(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[0] or "."
