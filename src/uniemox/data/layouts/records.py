"""From the named columns of any table to samples: which column is what, and what its cells mean."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast, get_args

from uniemox.data.boxes import to_box
from uniemox.data.layouts.samples import (
    ClassNames,
    Sample,
    name_list,
    number,
    share,
    words,
)
from uniemox.data.manifest import Attributes
from uniemox.data.splits import split_of_word
from uniemox.errors import ConfigError, DataError
from uniemox.flags import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from uniemox.data.findings import Findings
    from uniemox.data.layouts.samples import Vad
    from uniemox.data.layouts.tables import Record
    from uniemox.data.manifest import Box

Role = Literal[
    "path",
    "label",
    "labels",
    "split",
    "group",
    "x0",
    "y0",
    "x1",
    "y1",
    "score",
    "distribution",
    "valence",
    "arousal",
    "dominance",
    "brightness",
    "colorfulness",
    "scene",
    "facial_expression",
    "human_action",
    "objects",
]
"""What a column can be."""

ROLES: Final[tuple[Role, ...]] = get_args(Role)
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
}
"""Headings that are taken for a role besides its own name, where no column has that; in any case of letters."""
_CORNERS: Final[tuple[Role, ...]] = ("x0", "y0", "x1", "y1")
_VAD: Final[tuple[Role, ...]] = ("valence", "arousal", "dominance")
_SEPARATORS: Final = re.compile(r"[|;,]")
_SHOWN: Final = 12


@dataclass(frozen=True)
class Columns:
    """Which column has which role."""

    of: Mapping[Role, str]
    shares: tuple[str, ...] = ()
    """Columns of which each holds the share of one class."""

    def cell(self, record: Record, role: Role) -> Any:
        """Look up a cell; None where no column has the role, and for an empty text."""
        name = self.of.get(role)
        value = None if name is None else record.cells.get(name)
        return None if value == "" else value


def bind_columns(headings: Sequence[str], given: Mapping[str, str], *, where: str) -> Columns:
    """Find the column of each role: the one that is named, else one with a heading that says so.

    Args:
        headings: Of the table.
        given: Role to heading; `distribution` may name several, joined by `+`.
        where: The table, for messages.

    Raises:
        ConfigError: A role is none.
        DataError: A named column is not there, or no column holds paths.
    """
    unknown = next((role for role in given if role not in ROLES), None)
    if unknown is not None:
        raise ConfigError(
            f"a column cannot be {unknown}{nearest(unknown, ROLES)}; it can be {', '.join(ROLES)}"
        )
    shown = ", ".join(headings[:_SHOWN]) + (" …" if len(headings) > _SHOWN else "")
    shares = given["distribution"].split("+") if "distribution" in given else []
    named = {cast("Role", role): name for role, name in given.items() if role != "distribution"}
    for name in (*shares, *named.values()):
        if name not in headings:
            raise DataError(
                f"{where} has no column {name}{nearest(name, headings)}; it has {shown}"
            )
    of = _usual_columns(headings, taken={*shares, *named.values()}) | named
    if "path" not in of:
        raise DataError(
            f"{where} has no column path: say which one it is, as in --columns path=NAME; it has {shown}"
        )
    if len(shares) == 1:
        of["distribution"] = shares[0]
    return Columns(of, tuple(shares) if len(shares) > 1 else ())


def _usual_columns(headings: Sequence[str], *, taken: set[str]) -> dict[Role, str]:
    """Find the columns whose headings say what they are."""
    by_name = {name.casefold(): name for name in reversed(headings) if name not in taken}
    of: dict[Role, str] = {}
    for role in ROLES:
        usual = (role, *_OTHER_HEADINGS.get(role, ()))
        found = next((by_name[name] for name in usual if name in by_name), None)
        if found is not None:
            of[role] = found
    return of


class _Draft(NamedTuple):
    """A row whose labels are still words."""

    where: str
    sample: Sample
    label: str | None
    labels: tuple[str, ...] | None
    shares: dict[str, float] | tuple[float, ...] | None


class Collector:
    """Gathers records, and makes samples of them once all classes are known."""

    def __init__(
        self,
        columns: Columns,
        findings: Findings,
        *,
        find_picture: Callable[[Any, str], str | None],
    ) -> None:
        """Begin with nothing.

        Args:
            columns: Which column is what.
            findings: What is wrong is counted there.
            find_picture: Gives the path of the picture that a cell of the column `path` means, or None having counted
                what is wrong; its second argument says where the cell is.
        """
        self._columns = columns
        self._findings = findings
        self._find_picture = find_picture
        self._drafts: list[_Draft] = []

    def add(self, record: Record, *, split: str | None = None) -> None:
        """Take a record; its column of splits is stronger than the split that is said here."""
        path = self._find_picture(self._columns.cell(record, "path"), record.where)
        if path is None:
            return
        own = self._columns.cell(record, "split")
        box = self._box(record)
        sample = Sample(
            path,
            None,
            split=split if own is None else self._split(str(own)),
            attributes=self._attributes(record),
            boxes=() if box is None else (box,),
            group=_text(self._columns.cell(record, "group")),
            vad=self._vad(record),
        )
        label, labels = (self._columns.cell(record, role) for role in ("label", "labels"))
        self._drafts.append(
            _Draft(record.where, sample, _text(label), _texts(labels), self._shares(record))
        )

    def finish(self, classes: Sequence[str]) -> tuple[tuple[str, ...], list[Sample]]:
        """Make the samples.

        Args:
            classes: In label order; none where the rows tell them.

        Returns:
            The classes, and the samples in the order of the records.
        """
        names = tuple(classes) or self._classes()
        known = ClassNames(names, self._findings)
        some_are_split = any(draft.sample.split for draft in self._drafts)
        samples: list[Sample] = []
        earlier: dict[str, list[Sample]] = {}
        for draft in self._drafts:
            sample = self._labelled(draft, known, len(names))
            if sample is None:
                continue
            if some_are_split and not sample.split:
                self._findings.add("row without a split", draft.where)
                continue
            others = earlier.setdefault(sample.path, [])
            wrong = _wrong_with_again(sample, others)
            if wrong:
                self._findings.add(wrong, f"{sample.path} in {draft.where}")
                continue
            others.append(sample)
            samples.append(sample)
        return names, samples

    def _classes(self) -> tuple[str, ...]:
        if self._columns.shares:
            return self._columns.shares
        found: set[str] = set()
        for draft in self._drafts:
            found.update(draft.labels or (), () if draft.label is None else (draft.label,))
            if isinstance(draft.shares, dict):
                found.update(draft.shares)
        found.discard("-1")
        names = sorted(found, key=lambda name: (int(name) if name.isdecimal() else -1, name))
        seen: dict[str, str] = {}
        for name in names:
            first = seen.setdefault(name.casefold(), name)
            if first != name:
                self._findings.add("classes that differ only in case", f"{first} and {name}")
        return tuple(names)

    def _labelled(self, draft: _Draft, known: ClassNames, count: int) -> Sample | None:
        label = None
        if draft.label not in (None, "-1"):  # how Hugging Face says that there is none
            label = _label(draft.label or "", known, count)
            if label is None:
                self._findings.add("unknown class", f"{draft.label} in {draft.where}")
                return None
        label_set = None
        if draft.labels is not None:
            found = [_label(name, known, count) for name in draft.labels]
            label_set = tuple(sorted({one for one in found if one is not None}))
            for name, one in zip(draft.labels, found, strict=True):
                if one is None:
                    self._findings.add("unknown class", f"{name} in {draft.where}")
        distribution = None
        if draft.shares is not None:
            distribution = _distribution(draft.shares, known, count)
            if distribution is None:
                self._findings.add("distribution of unknown form", draft.where)
        return draft.sample._replace(label=label, label_set=label_set, distribution=distribution)

    def _split(self, text: str) -> str:
        name = split_of_word(text) or text.strip()
        if name != text:
            self._findings.note("split written in another way", f"{text} is {name}")
        return name

    def _box(self, record: Record) -> Box | None:
        corners = [self._columns.cell(record, role) for role in _CORNERS]
        if all(corner is None for corner in corners):
            return None
        box = to_box(corners, self._columns.cell(record, "score"))
        if box is None:
            self._findings.add("box that is no box", record.where)
        return box

    def _vad(self, record: Record) -> Vad | None:
        valence, arousal, dominance = (self._number(record, role) for role in _VAD)
        found = (valence, arousal, dominance)
        return None if found == (None, None, None) else found

    def _number(self, record: Record, role: Role) -> float | None:
        return cast("float | None", self._checked(record, role, number))

    def _attributes(self, record: Record) -> Attributes | None:
        found = Attributes(
            brightness=self._checked(record, "brightness", share),
            colorfulness=self._checked(record, "colorfulness", share),
            scene=self._checked(record, "scene", words),
            facial_expression=self._checked(record, "facial_expression", words),
            human_action=self._checked(record, "human_action", words),
            objects=self._checked(record, "objects", _texts) or (),
        )
        return None if found == Attributes() else found

    def _checked(self, record: Record, role: Role, take: Callable[[Any], Any]) -> Any:
        value = self._columns.cell(record, role)
        found = None if value is None else take(value)
        if found is None and value is not None:
            self._findings.add(f"{role} of unknown form", record.where)
        return found

    def _shares(self, record: Record) -> dict[str, float] | tuple[float, ...] | None:
        value: Any = [record.cells.get(name) for name in self._columns.shares]
        if not self._columns.shares:
            value = _unpack(self._columns.cell(record, "distribution"))
        if value is None or (isinstance(value, list) and all(cell in (None, "") for cell in value)):
            return None
        if isinstance(value, dict):
            # Structs of Arrow have all names in all rows.
            parts = {str(name): number(cell) for name, cell in value.items() if cell is not None}
            numbers = list(parts.values())
        else:
            parts = {}
            numbers = list(map(number, value)) if isinstance(value, list) else [None]
        known = [found for found in numbers if found is not None and found >= 0]
        total = sum(known)
        if len(known) < len(numbers) or not total > 0:
            self._findings.add("distribution of unknown form", record.where)
            return None
        scaled = tuple(found / total for found in known)
        return dict(zip(parts, scaled, strict=True)) if parts else scaled


def _wrong_with_again(sample: Sample, earlier: Iterable[Sample]) -> str | None:
    """Say what is wrong with a row whose picture was listed before; nothing if it shows another person."""
    for other in earlier:
        if sample.split != other.split:
            return "picture listed in two splits"
        if not sample.boxes or not other.boxes or sample.boxes == other.boxes:
            same = (sample.label, sample.label_set) == (other.label, other.label_set)
            return "picture listed twice" if same else "picture listed twice with other labels"
    return None


def _label(name: str, known: ClassNames, count: int) -> int | None:
    label = known.label(name)
    if label is None and name.isdecimal() and int(name) < count:
        return int(name)
    return label


def _distribution(
    shares: dict[str, float] | tuple[float, ...], known: ClassNames, count: int
) -> tuple[float, ...] | None:
    """Bring shares into label order; None if they are not of these classes."""
    if isinstance(shares, tuple):
        return shares if len(shares) == count else None
    result = [0.0] * count
    for name, value in shares.items():
        label = known.label(name)
        if label is None:
            return None
        result[label] += value
    return tuple(result)


def _text(value: Any) -> str | None:
    """Write a cell as the name that it is; whole numbers without the fraction that spreadsheets give them."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or isinstance(value, bytes | dict | list):
        return None
    return words(str(value))


def _texts(value: Any) -> tuple[str, ...] | None:
    """Take a list of names: of texts or numbers, as JSON, or in one text with |, ; or commas between them."""
    value = _unpack(value)
    if isinstance(value, str):
        value = [part for part in _SEPARATORS.split(value) if part.strip()]
    if not isinstance(value, list):
        return None
    return name_list([_text(part) for part in value])


def _unpack(value: Any) -> Any:
    """Read the JSON in a cell of text."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
