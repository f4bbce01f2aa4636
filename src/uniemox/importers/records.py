"""From the named columns of any table to samples: which column is what; `cells` reads them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, get_args

from uniemox.errors import ConfigError, DataError
from uniemox.importers import cells
from uniemox.importers.cells import VAD, Take, is_missing, take
from uniemox.importers.samples import ClassNames, Sample, Samples
from uniemox.importers.tables import Record
from uniemox.manifests.findings import Findings
from uniemox.manifests.splits import split_of_word
from uniemox.manifests.table import Box
from uniemox.people.boxes import to_box
from uniemox.wording import nearest

_Corner = Literal["x0", "y0", "x1", "y1"]
_Affect = Literal["valence", "arousal", "dominance"]
_Attribute = Literal["brightness", "colorfulness", "scene", "facial_expression", "human_action", "objects"]
Role = Literal["path", "label", "labels", "split", "group", _Corner, "score", "distribution", _Affect, _Attribute]
"""What a column can be."""

ROLES: Final[tuple[Role, ...]] = get_args(Role)
Columns = Mapping[Role, Sequence[str]]  # Headings of each role: one, or of the distribution several

_OTHER_HEADINGS: Final[dict[Role, tuple[str, ...]]] = {
    "path": ("image", "image_path", "img", "file_name", "filename", "file"),
    "label": ("emotion", "class", "category"),
    "labels": ("label_set", "emotions", "categories"),
    "split": ("set", "subset", "partition"),
    "x0": ("xmin", "x_min"),
    "y0": ("ymin", "y_min"),
    "x1": ("xmax", "x_max"),
    "y1": ("ymax", "y_max"),
    "objects": ("object",),
}  # Headings that are taken for a role besides its own name, where no column has that; in any case of letters
_KINDS: Final[dict[str, Take]] = {
    "label": cells.label_name,
    "labels": cells.label_names,
    "group": cells.label_name,
    "distribution": cells.distribution,
    **dict.fromkeys(VAD, cells.number),
    **cells.ATTRIBUTES,
    "objects": cells.label_names,
}  # What reads the cells of a role; a path, a split and a box are read by themselves
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
    by_name = {name.casefold(): name for name in reversed(headings) if name not in taken}
    columns: dict[Role, list[str]] = {}
    for role in ROLES:
        usual = [by_name[name] for name in (role, *_OTHER_HEADINGS.get(role, ())) if name in by_name]
        if role in named or usual:
            columns[role] = named.get(role) or usual[:1]
    if "path" not in columns:
        raise DataError(f"{where} has no column path: name the column, as in `columns` path=NAME; it has {shown}")
    return columns


class _Draft(NamedTuple):
    """A row with its labels still in words."""

    where: str
    sample: Sample
    label: str | None
    labels: tuple[str, ...] | None
    distribution: dict[str, float] | tuple[float, ...] | None


class Collector:
    """Gathers records, and makes samples of them once all classes are known.

    Args:
        columns: Which column is what.
        findings: Counts the problems.
        find_image: Returns the path of the image that a cell of the column `path` means, or counts the problem and
            returns None; its second argument is where the cell is.
    """

    def __init__(self, columns: Columns, findings: Findings, *, find_image: Callable[[Any, str], str | None]) -> None:
        self._columns = columns
        self._findings = findings
        self._find_image = find_image
        self._drafts: list[_Draft] = []

    def add(self, record: Record, *, split: str | None = None) -> None:
        """Take a record; its column of splits counts more than the given split."""
        row: dict[str, Any] = {}
        for role, headings in self._columns.items():
            values = [None if is_missing(cell := record.cells.get(name)) else cell for name in headings]
            row[role] = values[0] if len(values) == 1 else values if any(v is not None for v in values) else None
        path = self._find_image(row["path"], record.where)
        if path is None:
            return
        found = take(row, _KINDS, self._findings, record.where)
        if row.get("split") is not None:
            text = str(row["split"])
            split = split_of_word(text) or text.strip()
            if split != text:
                self._findings.note("split written in another way", f"{text} is {split}")
        sample = Sample(
            path,
            None,
            split=split,
            attributes=cells.attributes(found),
            boxes=self._boxes(row, record.where),
            group=found["group"],
            vad=cells.vad(found),
        )
        label = None if found["label"] == _NO_LABEL else found["label"]
        self._drafts.append(_Draft(record.where, sample, label, found["labels"], found["distribution"]))

    def finish(self, classes: Sequence[str]) -> Samples:
        """Make the samples, in the order of the records; without classes, the rows define them."""
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

    def _boxes(self, row: Mapping[str, Any], where: str) -> tuple[Box, ...]:
        corners = [row.get(role) for role in get_args(_Corner)]
        if all(corner is None for corner in corners):
            return ()
        box = to_box(corners, row.get("score"))
        if box is None:
            self._findings.add("box that is no box", where)
        return () if box is None else (box,)

    def _classes(self) -> tuple[str, ...]:
        shares = self._columns.get("distribution", ())
        if len(shares) > 1:
            return tuple(shares)
        found: set[str] = set()
        for draft in self._drafts:
            found.update(draft.labels or (), () if draft.label is None else (draft.label,))
            if isinstance(draft.distribution, dict):
                found.update(draft.distribution)
        found.discard(_NO_LABEL)
        names = sorted(found, key=lambda name: (int(name) if name.isdecimal() else -1, name))
        seen: dict[str, str] = {}
        for name in names:
            first = seen.setdefault(name.casefold(), name)
            if first != name:
                self._findings.add("classes that differ only in case", f"{first} and {name}")
        return tuple(names)

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


def _repeat_of(sample: Sample, earlier: Iterable[Sample]) -> str | None:
    """Name the problem of a row whose image was listed before; None if it shows another person."""
    for other in earlier:
        if sample.split != other.split:
            return "image listed in two splits"
        if not sample.boxes or not other.boxes or sample.boxes == other.boxes:
            same = (sample.label, sample.label_set) == (other.label, other.label_set)
            return "image listed twice" if same else "image listed twice with other labels"
    return None


def _in_label_order(shares: dict[str, float] | tuple[float, ...], known: ClassNames) -> tuple[float, ...] | None:
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
