"""From the named columns of any table to samples: which column is what; `cells` reads them."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final, Literal, NamedTuple, get_args

from uniemox.errors import ConfigError, DataError
from uniemox.files.cells import as_name, as_name_or_names, as_names, is_missing, number, whole, with_point
from uniemox.files.paths import PATH_HEADINGS, alike
from uniemox.importers import cells
from uniemox.importers.cells import VAD, Take, take
from uniemox.importers.samples import ClassNames, Sample, Samples
from uniemox.importers.tables import Record, Table
from uniemox.manifests.findings import Findings
from uniemox.manifests.splits import SPLITS, split_of_word
from uniemox.manifests.table import Box
from uniemox.people.boxes import SCORE_HEADINGS, BoxForm, find_box_columns, to_box
from uniemox.wording import name_first, nearest

_Corner = Literal["x0", "y0", "x1", "y1"]
_Affect = Literal["valence", "arousal", "dominance"]
_Attribute = Literal["brightness", "colorfulness", "scene", "facial_expression", "human_action", "objects"]
_Rated = Literal["boxes", "distribution", _Affect]
Role = Literal["path", "label", "labels", "split", "group", _Corner, "score", _Rated, _Attribute]
"""What a column can be."""

ROLES: Final[tuple[Role, ...]] = get_args(Role)
Columns = Mapping[Role, Sequence[str]]  # Headings of each role: one, or of the distribution several

_OTHER_HEADINGS: Final[dict[Role, tuple[str, ...]]] = {
    "path": PATH_HEADINGS[1:],
    "label": ("emotion", "class", "category"),
    "labels": ("label_set", "emotions", "categories"),
    "split": ("set", "subset", "partition"),
    "score": SCORE_HEADINGS[1:],
    "objects": ("object",),
}  # Headings that are taken for a role besides its own name, where no column has that; in any case of letters
_KINDS: Final[dict[str, Take]] = {
    "label": as_name_or_names,
    "labels": as_names,
    "group": as_name,
    **dict.fromkeys(VAD, number),
    **cells.ATTRIBUTES,
    "objects": as_names,
}  # What reads the cells of a role; a path, a split, shares and boxes are read by themselves
_NUMBERS: Final = (*get_args(_Corner), "score", "distribution", *VAD, "brightness", "colorfulness")
_NAMES: Final = ("label", "group")
_WHOLE_WITH_COMMA: Final = re.compile(r"[+-]?\d+,0+", re.ASCII)  # 2,0, and not two labels as in 1,2
_LIKE_SPLITS: Final = re.compile(r"(is_?)?(train|test|val|valid)(ing|ation)?|fold|phase|usage|split.*", re.IGNORECASE)
_LIKE_LABELS: Final = re.compile(r"label|emotion|class|categor|sentiment|mood|affect|feeling", re.IGNORECASE)
_NO_LABEL: Final = "-1"  # Hugging Face's number for none
_SHOWN: Final = 12


def bind_columns(headings: Sequence[str], given: Mapping[str, str], *, where: str) -> Columns:
    """Find the column of each role: the one that is named, else one with a usual heading.

    Args:
        headings: Of the table.
        given: Role to heading; `distribution` may name several, joined by `+`.
        where: The table, for messages.

    Raises:
        ConfigError: A role is unknown.
        DataError: A named column does not exist, or no column holds paths.
    """
    unknown = next((role for role in given if role not in ROLES), None)
    if unknown is not None:
        raise ConfigError(f"a column cannot be {unknown}{nearest(unknown, ROLES)}; it can be {', '.join(ROLES)}")
    shown = ", ".join(headings[:_SHOWN]) + (" …" if len(headings) > _SHOWN else "")
    named = {role: name.split("+") if role == "distribution" else [name] for role, name in given.items()}
    taken = [name for names in named.values() for name in names]
    for name in taken:
        if name not in headings:
            raise DataError(f"{where} has no column {name}{nearest(name, headings)}; it has {shown}")
    by_name = {name.strip().casefold(): name for name in reversed(headings) if name not in taken}
    columns: dict[Role, list[str]] = {}
    for role in ROLES:
        usual = [by_name[name] for name in (role, *_OTHER_HEADINGS.get(role, ())) if name in by_name]
        if role in named or (usual and role != "boxes"):  # which has many forms, most of which do not say what they are
            columns[role] = named.get(role) or usual[:1]
    if not any(role in named for role in get_args(_Corner)) and (box := find_box_columns(by_name.values())):
        columns |= {role: [name] for role, name in zip(get_args(_Corner), box[0], strict=True)}
    if "path" not in columns:
        raise DataError(f"{where} has no column path: name the column, as in `columns` path=NAME; it has {shown}")
    return columns


def find_labels(table: Table, columns: Columns, findings: Findings, *, noted: Sequence[str], where: str) -> None:
    """Count a problem if no column is taken for labels though some could be: those noted as such, or so called."""
    if {"label", "labels", "distribution"} & columns.keys():
        return
    free = [name for name in table.headings if [name] not in columns.values()]
    like = [name for name in free if name in noted] or list(filter(_LIKE_LABELS.search, free))
    if like:
        kind = "column that could be labels, but is not taken"
        text = f"{name_first(like)} of {where}: choose one with --columns label={like[0]}"
        findings.add("several columns could be labels, none is taken" if like[1:] else kind, text)


def find_more(table: Table, columns: Columns, findings: Findings) -> None:
    """Note columns that look like a split or a box and are not taken, since nobody would miss them at once."""
    taken = {name for names in columns.values() for name in names}
    free = [name for name in table.headings if name not in taken]
    splits = [] if "split" in columns else list(filter(_LIKE_SPLITS.fullmatch, free))
    boxes = (
        []
        if {"x0", "boxes"} & columns.keys()
        else [name for name in free if name.casefold() in ("bbox", "bboxes", "box", "boxes")]
    )
    for found, what in ((splits, "splits"), (boxes, "boxes")):
        if found:
            findings.note(f"file with columns that could be {what}, but are not taken (--columns)", name_first(found))


@dataclass(frozen=True)
class Source:
    """What one file says of its rows; nothing of it holds for another that says it differently."""

    columns: Columns
    classes: tuple[str, ...] = ()  # Names of its numbers, if it states them
    has_decimal_comma: bool = False

    @cached_property
    def form(self) -> BoxForm:
        """What the numbers of a box mean, by the headings of their columns."""
        found = find_box_columns(name for role in get_args(_Corner) for name in self.columns.get(role, ()))
        return "corners" if found is None else found[1]


class _Draft(NamedTuple):
    """A row with its labels still in words."""

    where: str
    sample: Sample
    source: Source
    label: str | None
    labels: tuple[str, ...] | None
    is_listed: bool  # Whether the column of one label held a list
    distribution: cells.Shares | None


class Collector:
    """Gathers records, and makes samples of them once all classes are known.

    Args:
        findings: Counts the problems.
        find_image: Returns the path of the image that a cell of the column `path` means, or counts the problem and
            returns None; its second argument is where the cell is.
    """

    def __init__(self, findings: Findings, *, find_image: Callable[[Any, str], str | None]) -> None:
        self._findings = findings
        self._find_image = find_image
        self._drafts: list[_Draft] = []

    def add(self, record: Record, source: Source, *, split: str | None = None) -> None:
        """Take a record; its column of splits counts more than the given split."""
        row: dict[str, Any] = {}
        for role, headings in source.columns.items():
            values = [None if is_missing(cell := record.cells.get(name)) else cell for name in headings]
            row[role] = values[0] if len(values) == 1 else values if any(v is not None for v in values) else None
            if source.has_decimal_comma and (role in _NUMBERS or _is_whole_with_comma(role, row[role])):
                row[role] = with_point(row[role])
        path = self._find_image(row["path"], record.where)
        if path is None:
            return
        found = take(row, _KINDS, self._findings, record.where)
        if row.get("split") is not None:
            split = self._split(row["split"], record.where)
        sample = Sample(
            path,
            None,
            split=split,
            attributes=cells.attributes(found),
            boxes=self._boxes(row, source, record.where),
            group=found["group"],
            vad=cells.vad(found),
        )
        label, labels = found["label"], found["labels"]
        if label in (_NO_LABEL, (_NO_LABEL,)):
            label = None
        is_listed = isinstance(label, tuple)
        if is_listed:
            label, labels = None, labels or label
        shares = self._shares(row.get("distribution"), record.where)
        self._drafts.append(_Draft(record.where, sample, source, label, labels, is_listed, shares))

    def _shares(self, cell: Any, where: str) -> cells.Shares | None:
        if is_missing(cell):
            return None
        flaw = cells.flaw_of(cell)
        if flaw is not None:
            self._findings.add(flaw, where)
        return cells.distribution(cell)

    def _split(self, cell: Any, where: str) -> str | None:
        text = as_name(cell)
        if text is None:
            self._findings.add("split of unknown form", where)
            return None
        split = split_of_word(text) or text
        if split != cell:
            self._findings.note("split written in another way", f"{cell} is {split}")
        if split not in SPLITS:
            self._findings.note("split that is not train, val or test", split)
        return split

    def finish(self, classes: Sequence[str]) -> Samples:
        """Make the samples, in the order of the records; without classes, the files and rows define them."""
        self._name_numbers(is_given=bool(classes))
        self._sort_labels()
        self._check_labels(is_given=bool(classes))
        known = ClassNames(tuple(classes) or self._classes(), self._findings)
        some_are_split = any(draft.sample.split for draft in self._drafts)
        samples: list[Sample] = []
        earlier: dict[str, list[Sample]] = {}
        for draft in self._drafts:
            sample = self._labelled(draft, known)
            if sample is None:
                continue
            if some_are_split and not sample.split:
                self._findings.add("row without a split", draft.where)
                continue
            others = earlier.setdefault(sample.path, [])
            repeat = _repeat_of(sample, others)
            if repeat:
                self._findings.add(repeat, f"{sample.path} in {draft.where}")
                continue
            others.append(sample)
            samples.append(sample)
        return Samples(samples=samples, classes=known.classes)

    def _name_numbers(self, *, is_given: bool) -> None:
        """Put names for numbers by the classes of each row's own file, or of the others if they agree."""
        stated = list(dict.fromkeys(draft.source.classes for draft in self._drafts if draft.source.classes))
        if len(stated) > 1:
            self._findings.note("file that numbers its classes otherwise than another", ", ".join(stated[1]))
        common = stated[0] if len(stated) == 1 and not is_given else ()
        for place, draft in enumerate(self._drafts):
            names = draft.source.classes or common
            if names:
                name = partial(self._named, names, draft)
                labels = None if draft.labels is None else tuple(filter(None, map(name, draft.labels)))
                label = None if draft.label is None else name(draft.label)
                shares = _by_name(draft.distribution, names, name)
                self._drafts[place] = draft._replace(label=label, labels=labels, distribution=shares)

    def _named(self, names: tuple[str, ...], draft: _Draft, label: str) -> str | None:
        # A file that does not number its classes may hold names such as 1 and 2.
        if not label.isdecimal() or (label in names and not draft.source.classes):
            return label
        number = whole(label)
        if number is not None and number < len(names):
            return names[number]
        self._findings.add("number that no class has", f"{label[:40]} in {draft.where}")
        return None

    def _sort_labels(self) -> None:
        """Tell one label from several where a column of labels has lists, and votes from sets where names repeat."""
        listed = [draft for draft in self._drafts if draft.is_listed]
        if all(len(draft.labels or ()) <= 1 for draft in listed):  # of one, or of none
            self._drafts = [
                draft._replace(label=next(iter(draft.labels or ()), None), labels=None) if draft.is_listed else draft
                for draft in self._drafts
            ]
        else:
            self._drafts = [
                draft._replace(label=None, labels=(draft.label,)) if draft.label and draft.labels is None else draft
                for draft in self._drafts
            ]
        are_votes = any(len(set(draft.labels or ())) < len(draft.labels or ()) for draft in self._drafts)
        if are_votes and all(draft.distribution is None for draft in self._drafts):
            self._findings.remark("labels that are listed several times are votes: their shares are the distribution")
            self._drafts = [draft._replace(distribution=_shares_of(draft.labels)) for draft in self._drafts]

    def _check_labels(self, *, is_given: bool) -> None:
        """Count a column of labels that has none, and shares in an order that nobody states."""
        labelled = any(draft.label or draft.labels is not None or draft.distribution for draft in self._drafts)
        columns = self._drafts[0].source.columns if self._drafts else {}
        taken = next((columns[role][0] for role in ("label", "labels", "distribution") if columns.get(role)), None)
        if not labelled and taken is not None:
            self._findings.add("column of labels without a label: choose another with --columns label=NAME", taken)
        for place, draft in enumerate(self._drafts):
            columns = draft.source.columns
            if isinstance(draft.distribution, tuple) and not is_given and len(columns.get("distribution", ())) == 1:
                self._findings.add("list of shares without the order of its classes (--classes)", draft.where)
                self._drafts[place] = draft._replace(distribution=None)

    def _boxes(self, row: Mapping[str, Any], source: Source, where: str) -> tuple[Box, ...]:
        if row.get("boxes") is not None:
            return self._listed_boxes(row["boxes"], where)
        corners = [row.get(role) for role in get_args(_Corner)]
        if all(corner is None for corner in corners):
            return ()
        box = to_box(corners, row.get("score"), form=source.form)
        if box is None:
            self._findings.add("box that is no box", where)
        return () if box is None else (box,)

    def _listed_boxes(self, cell: Any, where: str) -> tuple[Box, ...]:
        found = cells.boxes(cell)
        if found is None:
            self._findings.add("boxes whose numbers have no names such as x0, y0, x1, y1", where)
        elif None in found:
            self._findings.add("box that is no box", where)
        return tuple(box for box in found or () if box is not None)

    def _classes(self) -> tuple[str, ...]:
        shares = next(
            (names for draft in self._drafts if (names := draft.source.columns.get("distribution", ()))[1:]), ()
        )
        if shares:
            return tuple(shares)
        stated = dict.fromkeys(name for draft in self._drafts for name in draft.source.classes)
        found: set[str] = set()
        for draft in self._drafts:
            found.update(draft.labels or (), () if draft.label is None else (draft.label,))
            if isinstance(draft.distribution, dict):
                found.update(draft.distribution)
        found.discard(_NO_LABEL)
        # Of ways to write one class, the one that has most small letters.
        by_case = sorted(found - stated.keys(), key=lambda name: (sum(map(str.isupper, name)), name))
        seen: dict[str, str] = {}
        for name in (*stated, *by_case):
            first = seen.setdefault(alike(name), name)
            if first != name:
                self._findings.note("class written in another way", f"{name} is {first}")
        return (*stated, *sorted(set(seen.values()) - stated.keys(), key=lambda name: (_in_order(name), name)))

    def _labelled(self, draft: _Draft, known: ClassNames) -> Sample | None:
        label = label_set = distribution = None
        if draft.label is not None:
            label = known.listed(draft.label, draft.where, or_number=True)
            if label is None:
                return None
        if draft.labels is not None:
            found = [known.listed(name, draft.where, or_number=True) for name in draft.labels]
            label_set = tuple(sorted({one for one in found if one is not None}))
        if draft.distribution is not None:
            distribution = _in_label_order(draft.distribution, known)
            if distribution is None:
                self._findings.add("distribution of unknown form", draft.where)
        return draft.sample._replace(label=label, label_set=label_set, distribution=distribution)


def _is_whole_with_comma(role: str, cell: Any) -> bool:
    return role in _NAMES and isinstance(cell, str) and _WHOLE_WITH_COMMA.fullmatch(cell) is not None


def _in_order(name: str) -> int:
    """Sort numbers by their size, after all other names."""
    number = whole(name)
    return -1 if number is None else number


def _shares_of(votes: tuple[str, ...] | None) -> dict[str, float] | None:
    counts = Counter(votes or ())
    return {name: count / counts.total() for name, count in counts.items()} or None


def _by_name(shares: Any, names: tuple[str, ...], name: Callable[[str], str | None]) -> Any:
    """Name shares that a file gives in the order of its classes, or by their numbers; None if one is of no class."""
    if isinstance(shares, dict):
        named: dict[str, float] = {}
        for key, value in shares.items():
            own = name(key)
            if own is None:
                return None
            named[own] = named.get(own, 0.0) + value
        return named
    in_order = isinstance(shares, tuple) and len(shares) == len(names)
    return dict(zip(names, shares, strict=True)) if in_order else shares


def _repeat_of(sample: Sample, earlier: Iterable[Sample]) -> str | None:
    """Name the problem of a row whose image was listed before; None if it shows another person."""
    for other in earlier:
        if sample.split != other.split:
            return "image listed in two splits"
        if not sample.boxes or not other.boxes or sample.boxes == other.boxes:
            same = (sample.label, sample.label_set) == (other.label, other.label_set)
            return "image listed twice" if same else "image listed twice with other labels"
    return None


def _in_label_order(shares: cells.Shares, known: ClassNames) -> tuple[float, ...] | None:
    """Bring shares into label order; None if they are not of these classes."""
    if isinstance(shares, tuple):
        return shares if len(shares) == len(known.classes) else None
    result = [0.0] * len(known.classes)
    for name, value in shares.items():
        label = known.label(name)
        if label is None:
            return None
        result[label] += value
    return tuple(result)
