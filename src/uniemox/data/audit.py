"""What is wrong with the pictures of one or several manifests, and manifests without it.

A finding is about a copy: a picture file in one split of one manifest, with all its rows (a picture of several people
has a row for each, which is no repetition). Copies show the same picture where their files, their pixels or their looks
agree; what follows from that rests on the pair itself, never on a chain of pairs. Of two copies the one in the more
held-out split stays: test, and every split that is neither train nor val, over val over train, within a data set and
across (DECISIONS 35).
"""

from __future__ import annotations

import json
import posixpath
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from uniemox.data.findings import counted
from uniemox.data.fingerprints import thumbs_of
from uniemox.data.likeness import LIKE, Links, find_links, group, untracked
from uniemox.data.manifest import Manifest, write_manifest
from uniemox.errors import ConfigError, DataError
from uniemox.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from uniemox.data.likeness import Track

Kind = Literal[
    "unreadable", "tiny", "blank", "placeholder", "leak", "conflict", "repeat", "overlap", "box"
]
"""
unreadable   no picture can be had of the file
tiny         a side is shorter than allowed
blank        one colour
placeholder  the same pixels under many names, as of \"this photo is no longer available\"
leak         another copy is in a more held-out split
conflict     another copy has another label, of the same classes
repeat       another copy is in the same split of the same manifest, and comes first
overlap      another copy is as held out, in another split or manifest, and comes first
box          a person's box cannot be right
"""

Same = Literal["file", "pixels", "look"]
"""In what the copies of a group are the same."""

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
REMOVED: Final[tuple[Kind, ...]] = (
    "unreadable",
    "tiny",
    "blank",
    "placeholder",
    "leak",
    "conflict",
)
"""What a cleaned manifest is without, if nothing else is asked for. Conflicts are removed from train alone."""

_BLANK_SPREAD: Final = (
    2.0  # grey levels of standard deviation; JPEG's noise on one colour stays below
)
_TINY_BOX: Final = 8  # pixels
_MOST_BOXES: Final = 100
_ROOM: Final = 1.0  # pixels by which a box may reach over the edge: rounding
_LEAST_LIKE: Final = 0.5
_RANKS: Final = {"train": 0, "val": 1}
_HELD_OUT: Final = 2


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """What counts as wrong, and what is removed."""

    remove: tuple[Kind, ...] = REMOVED
    min_side: int = 32
    """Pixels of the shorter side below which a picture is tiny."""
    placeholder_copies: int = 5
    """Files of the same pixels from which they are a placeholder."""
    like: float = LIKE
    """Likeness, up to 1, from which two pictures show the same."""

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.remove if kind not in KINDS]
        if unknown:
            raise ConfigError(f"--remove names {unknown[0]}, but knows {', '.join(KINDS)}")
        if self.min_side < 1:
            raise ConfigError(f"--min-side is {self.min_side}, but must be at least 1")
        if self.placeholder_copies < 2:
            raise ConfigError(
                f"--placeholder-copies is {self.placeholder_copies}, but must be at least 2"
            )
        if not _LEAST_LIKE <= self.like <= 1:
            raise ConfigError(
                f"--like is {self.like}, but must lie between {_LEAST_LIKE} and 1: different pictures reach less"
            )


@dataclass(frozen=True)
class Copy:
    """A picture file in one split of one manifest."""

    manifest: int
    """Which of the audited ones."""
    file: Path
    path: str
    """As in the manifest."""
    split: str
    label: str
    """Names of its labels, joined; empty where it has none."""
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Finding:
    """Something wrong with a copy."""

    kind: Kind
    copy: int
    text: str
    other: int | None = None
    """The copy that it is wrong beside."""
    removed: bool = False


@dataclass(frozen=True)
class Group:
    """Copies that show the same."""

    copies: tuple[int, ...]
    same: Same
    likeness: float
    """Of the pair that is least alike of those compared; 1 for equal pixels."""


class _Table(NamedTuple):
    """The copies of one manifest."""

    path: list[str]
    split: list[str]
    label: list[str]
    torn: np.ndarray
    """(N,) bool, whether rows without boxes give the one picture several labels."""
    of_row: np.ndarray
    """(rows,) the copy of each row."""

    def rows(self) -> list[np.ndarray]:
        """Give the rows of each copy."""
        counts = np.bincount(self.of_row, minlength=len(self.path))
        return np.split(np.argsort(self.of_row, kind="stable"), np.cumsum(counts)[:-1])


class Copies:
    """All copies, as columns; a `Copy` is made where it is asked for."""

    def __init__(self, manifests: Sequence[Manifest]) -> None:
        self.tables = tuple(_find_copies(manifest) for manifest in manifests)
        counts = [len(table.path) for table in self.tables]
        self.starts = np.cumsum([0, *counts])
        self.manifest = np.repeat(np.arange(len(manifests)), counts)
        """(N,) which manifest."""
        files: dict[Path, int] = {}
        labels: dict[tuple[int, str], int] = {}
        sets: dict[frozenset[str], int] = {}
        file, label, rank, classes = [], [], [], []
        for manifest, table in zip(manifests, self.tables, strict=True):
            root = manifest.facts.root
            names = frozenset(name.lower() for name in manifest.facts.classes)
            number = sets.setdefault(names, len(sets))
            file += [files.setdefault(root / path, len(files)) for path in table.path]
            rank += [_RANKS.get(split, _HELD_OUT) for split in table.split]
            classes += [number] * len(table.path)
            label += [
                labels.setdefault((number, name.lower()), len(labels)) if name else -1
                for name in table.label
            ]
        self.files = tuple(files)
        """Paths of the files, each once."""
        self.file = np.array(file, np.int64)
        """(N,) place in `files`."""
        self.rank = np.array(rank, np.int64)
        """(N,) how far the split is held out."""
        self.classes = np.array(classes, np.int64)
        """(N,) number of the set of class names; labels are compared within one."""
        self.label = np.array(label, np.int64)
        """(N,) number of the label, -1 for none."""

    @cached_property
    def _rows(self) -> list[list[np.ndarray]]:
        return [table.rows() for table in self.tables]

    def __len__(self) -> int:
        return len(self.file)

    def __getitem__(self, index: int) -> Copy:
        manifest = int(self.manifest[index])
        place = index - int(self.starts[manifest])
        table = self.tables[manifest]
        return Copy(
            manifest=manifest,
            file=self.files[self.file[index]],
            path=table.path[place],
            split=table.split[place],
            label=table.label[place],
            rows=tuple(self._rows[manifest][place].tolist()),
        )

    def of_rows(self, manifest: int) -> np.ndarray:
        """Give the copy of each row of a manifest."""
        return cast("np.ndarray", self.tables[manifest].of_row + self.starts[manifest])


def _find_copies(manifest: Manifest) -> _Table:
    table = manifest.table.select(["path", "split"]).combine_chunks()
    paths = table["path"].combine_chunks().dictionary_encode()
    splits = pc.cast(table["split"], pa.string()).combine_chunks().dictionary_encode()
    split_names = splits.dictionary.to_pylist()
    keys = paths.indices.to_numpy().astype(np.int64) * len(split_names)
    unique, of_row = np.unique(keys + splits.indices.to_numpy(), return_inverse=True)
    path, split = np.divmod(unique, max(len(split_names), 1))
    label, torn = _label_copies(manifest, of_row, len(unique))
    return _Table(
        path=paths.dictionary.take(pa.array(path)).to_pylist(),
        split=[split_names[number] for number in split],
        label=label,
        torn=torn,
        of_row=of_row,
    )


def _label_copies(
    manifest: Manifest, of_row: np.ndarray, count: int
) -> tuple[list[str], np.ndarray]:
    """Name the labels of each copy, and tell where rows without boxes contradict one another."""
    names = (*manifest.facts.classes, "")
    of_row_names = [{names[label]} - {""} for label in manifest.labels]
    label_sets = manifest.table["label_set"]
    if label_sets.null_count < len(label_sets):
        for row, labels in enumerate(label_sets.to_pylist()):
            of_row_names[row] |= {names[label] for label in labels or ()}
    has_box = pc.list_value_length(manifest.table["people"]).fill_null(0).to_numpy() > 0
    first: list[set[str] | None] = [None] * count
    together: list[set[str]] = [set() for _ in range(count)]
    torn = np.zeros(count, bool)
    for copy, labels, boxed in zip(of_row.tolist(), of_row_names, has_box.tolist(), strict=True):
        before = first[copy]
        first[copy] = labels if before is None else before
        torn[copy] |= not boxed and before is not None and before != labels
        together[copy] |= labels
    return [" + ".join(sorted(labels)) for labels in together], torn


@dataclass(frozen=True)
class Audit:
    """What was found, and the manifests without it."""

    names: tuple[str, ...]
    """What each manifest is called."""
    manifests: tuple[Manifest, ...]
    config: AuditConfig
    copies: Copies
    findings: tuple[Finding, ...]
    groups: tuple[Group, ...]
    cleaned: tuple[Manifest, ...]

    def counts(self) -> dict[str, dict[str, int]]:
        """Count the findings of each kind: all, and those that were removed."""
        counts: dict[str, dict[str, int]] = {kind: {"found": 0, "removed": 0} for kind in KINDS}
        for finding in self.findings:
            counts[finding.kind]["found"] += 1
            counts[finding.kind]["removed"] += finding.removed
        return counts


def audit(
    manifests: Mapping[str, Manifest],
    fingerprints: pa.Table,
    *,
    copies: Copies | None = None,
    config: AuditConfig = AuditConfig(),
    track: Track = untracked,
) -> Audit:
    """Judge the pictures of manifests by the fingerprints of their files.

    Args:
        manifests: By what they are called.
        fingerprints: Of `Copies(manifests).files`, in their order.
        copies: Those, where they are at hand.
        config: What counts as wrong, and what is removed.
        track: Shows how far the search for look-alikes is.
    """
    tables = tuple(manifests.values())
    if copies is None:
        copies = Copies(tables)
    judge = _Judge(copies, fingerprints, config, track)
    findings = [
        *judge.of_pictures(),
        *judge.of_likeness(),
        *_box_findings(tables, copies, fingerprints),
    ]
    findings = [
        replace(finding, removed=_is_removed(finding, copies, config)) for finding in findings
    ]
    findings.sort(key=lambda finding: (KINDS.index(finding.kind), finding.copy))
    removed = np.zeros(len(copies), bool)
    removed[[finding.copy for finding in findings if finding.removed]] = True
    return Audit(
        names=tuple(manifests),
        manifests=tables,
        config=config,
        copies=copies,
        findings=tuple(findings),
        groups=tuple(judge.groups()),
        cleaned=tuple(
            _clean(manifest, number, copies, fingerprints, removed)
            for number, manifest in enumerate(tables)
        ),
    )


def _is_removed(finding: Finding, copies: Copies, config: AuditConfig) -> bool:
    if finding.kind not in config.remove:
        return False
    # Which label is right nobody knows, and what a benchmark is scored on is not ours to change.
    return finding.kind != "conflict" or bool(copies.rank[finding.copy] == 0)


class _Judge:
    """Finds what is wrong with the copies of pictures.

    Files of equal pixels are one picture (a number; -1 where a file is none), and links join pictures.
    """

    def __init__(
        self, copies: Copies, fingerprints: pa.Table, config: AuditConfig, track: Track
    ) -> None:
        self._copies, self._config = copies, config
        self._sha256 = fingerprints["sha256"].combine_chunks()
        self._reasons = fingerprints["reason"].combine_chunks()
        self._width = fingerprints["width"].fill_null(0).to_numpy()
        self._height = fingerprints["height"].fill_null(0).to_numpy()
        spread = fingerprints["spread"].fill_null(np.inf).to_numpy()
        of_file = _number(fingerprints["pixels"])
        self._picture = of_file[copies.file]
        count = int(of_file.max(initial=-1)) + 1
        _, first_file = np.unique(of_file, return_index=True)
        first_file = first_file[len(first_file) - count :]  # without -1's
        files_of = np.bincount(of_file[of_file >= 0], minlength=count)
        self._is_blank = spread[first_file] < _BLANK_SPREAD
        self._is_placeholder = ~self._is_blank & (files_of >= config.placeholder_copies)
        self._num_files = files_of
        # What holds no picture cannot leak, and would be linked with everything like it.
        self._is_compared = ~self._is_blank & ~self._is_placeholder
        compared = np.flatnonzero(self._is_compared)
        thumbs = thumbs_of(fingerprints)[first_file[compared]]
        links = find_links(thumbs, like=config.like, track=track)
        self._links = Links(
            compared[links.first], compared[links.second], links.likeness, links.mirrored
        )
        self._by_picture: dict[int, list[int]] = {}
        for copy, picture in enumerate(self._picture.tolist()):
            if picture >= 0 and self._is_compared[picture]:
                self._by_picture.setdefault(picture, []).append(copy)
        self._linked: dict[int, list[tuple[int, float, bool]]] = {}
        for first, second, likeness, mirrored in zip(
            *map(np.ndarray.tolist, self._links), strict=True
        ):
            self._linked.setdefault(first, []).append((second, likeness, mirrored))
            self._linked.setdefault(second, []).append((first, likeness, mirrored))

    def of_pictures(self) -> Iterator[Finding]:
        """Find what is wrong with a copy by itself."""
        side = np.minimum(self._width, self._height)
        for copy, (file, picture) in enumerate(
            zip(self._copies.file.tolist(), self._picture.tolist(), strict=True)
        ):
            if picture < 0:
                yield Finding("unreadable", copy, self._reasons[file].as_py())
                continue
            if side[file] < self._config.min_side:
                yield Finding("tiny", copy, f"{self._width[file]} x {self._height[file]} pixels")
            if self._is_blank[picture]:
                yield Finding("blank", copy, "one colour")
            elif self._is_placeholder[picture]:
                text = f"the same pixels in {self._num_files[picture]} files"
                yield Finding("placeholder", copy, text)

    def of_likeness(self) -> Iterator[Finding]:
        """Find what is wrong with a copy beside others that show the same."""
        for copy in range(len(self._copies)):
            others = self._others(copy)
            if self._is_torn(copy):
                yield Finding("conflict", copy, "listed several times with other labels")
            tests: tuple[tuple[Kind, Callable[[int, int], bool]], ...] = (
                ("leak", self._leaks),
                ("conflict", self._conflicts),
                ("repeat", self._repeats),
                ("overlap", self._overlaps),
            )
            for kind, is_wrong in tests:
                other = next((other for other in others if is_wrong(copy, other.copy)), None)
                if other is not None:
                    yield Finding(kind, copy, other.text, other.copy)

    def groups(self) -> Iterator[Group]:
        """Gather the copies that show the same, the most copies first."""
        linked = group(self._links)
        alone = set(self._by_picture) - {picture for pictures in linked for picture in pictures}
        gathered = [*linked, *([picture] for picture in sorted(alone))]
        for pictures in gathered:
            copies = [copy for picture in pictures for copy in self._by_picture.get(picture, ())]
            if len(copies) < 2:
                continue
            inside = set(pictures)
            likeness = [
                likeness
                for picture in pictures
                for other, likeness, _ in self._linked.get(picture, ())
                if other in inside
            ]
            files = {self._sha256[self._copies.file[copy]].as_py() for copy in copies}
            same: Same = "look" if len(pictures) > 1 else "pixels" if len(files) > 1 else "file"
            yield Group(tuple(sorted(copies)), same, min(likeness, default=1.0))

    def _others(self, copy: int) -> list[_Other]:
        """Name the other copies that show the same as one, the likest first."""
        picture = int(self._picture[copy])
        if picture not in self._by_picture:
            return []
        others = [
            _Other(other, 1.0, self._sameness(copy, other))
            for other in self._by_picture[picture]
            if other != copy
        ]
        for linked, likeness, mirrored in self._linked.get(picture, ()):
            text = f"likeness {likeness:.2f}{', mirrored' if mirrored else ''}"
            others += [_Other(other, likeness, text) for other in self._by_picture[linked]]
        return sorted(others, key=lambda other: -other.likeness)

    def _sameness(self, copy: int, other: int) -> str:
        ours, theirs = self._copies.file[copy], self._copies.file[other]
        if ours == theirs:
            return "the same file"
        return "the same bytes" if self._sha256[ours] == self._sha256[theirs] else "the same pixels"

    def _is_torn(self, copy: int) -> bool:
        manifest = self._copies.manifest[copy]
        place = copy - self._copies.starts[manifest]
        return bool(self._copies.tables[manifest].torn[place])

    def _leaks(self, copy: int, other: int) -> bool:
        return bool(self._copies.rank[copy] < self._copies.rank[other])

    def _conflicts(self, copy: int, other: int) -> bool:
        copies = self._copies
        ours, theirs = copies.label[copy], copies.label[other]
        # One file may have a row for each of its people.
        is_other_file = copies.file[copy] != copies.file[other]
        is_told = copies.classes[copy] == copies.classes[other] and min(ours, theirs) >= 0
        return bool(is_other_file and is_told and ours != theirs)

    def _repeats(self, copy: int, other: int) -> bool:
        return copy > other and self._are_of_one_split(copy, other)

    def _overlaps(self, copy: int, other: int) -> bool:
        ranks = self._copies.rank
        return bool(
            copy > other and ranks[copy] == ranks[other] and not self._are_of_one_split(copy, other)
        )

    def _are_of_one_split(self, copy: int, other: int) -> bool:
        copies = self._copies
        manifest = copies.manifest[copy]
        splits, start = copies.tables[manifest].split, copies.starts[manifest]
        return bool(
            manifest == copies.manifest[other] and splits[copy - start] == splits[other - start]
        )


class _Other(NamedTuple):
    copy: int
    likeness: float
    text: str
    """In what it is the same."""


def _number(digests: pa.ChunkedArray) -> np.ndarray:
    """Number equal digests alike; -1 for null."""
    numbers = digests.combine_chunks().dictionary_encode().indices
    return cast("np.ndarray", numbers.fill_null(-1).to_numpy().astype(np.int64))


def _box_findings(
    manifests: Sequence[Manifest], copies: Copies, fingerprints: pa.Table
) -> Iterator[Finding]:
    """Find copies with boxes that cannot be right: the first such box of each, and how many there are."""
    width = fingerprints["width"].fill_null(0).to_numpy()
    height = fingerprints["height"].fill_null(0).to_numpy()
    for number, manifest in enumerate(manifests):
        people = manifest.table["people"].combine_chunks()
        counts = pc.list_value_length(people).fill_null(0).to_numpy()
        boxes = np.stack(
            [leaf.fill_null(np.nan).to_numpy() for leaf in people.flatten().flatten()[:4]], axis=1
        )
        of_box = np.repeat(copies.of_rows(number), counts)
        size = np.stack([width, height], axis=1)[copies.file[of_box]]
        problem = _box_problems(boxes, size)
        wrong = np.flatnonzero(problem >= 0)
        of_wrong = of_box[wrong]
        for copy in np.unique(of_wrong):
            mine = wrong[of_wrong == copy]
            x0, y0, x1, y1 = boxes[mine[0]]
            text = (
                f"{_BOX_PROBLEMS[problem[mine[0]]]}: {x0:g}, {y0:g}, {x1:g}, {y1:g} "
                f"in {size[mine[0]][0]} x {size[mine[0]][1]} pixels"
            )
            more = f" (and {len(mine) - 1} more)" if len(mine) > 1 else ""
            yield Finding("box", int(copy), text + more)
        rows = np.flatnonzero(counts > _MOST_BOXES)
        for row in rows:
            yield Finding("box", int(copies.of_rows(number)[row]), f"{counts[row]} boxes in a row")


_BOX_PROBLEMS: Final = (
    "not numbers",
    "empty",
    "for the picture turned by a quarter",
    "outside the picture",
    "over the edge",
    "tiny",
)


def _box_problems(boxes: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Tell what is wrong with each box (M, 4) in pictures of some size (M, 2): a place in `_BOX_PROBLEMS`, or -1."""
    low, high = boxes[:, :2], boxes[:, 2:]
    with np.errstate(invalid="ignore"):  # of infinities; they are told first
        side = (high - low).min(axis=1)
        fits = ((low >= -_ROOM) & (high <= size + _ROOM)).all(axis=1)
        fits_turned = ((low >= -_ROOM) & (high <= size[:, ::-1] + _ROOM)).all(axis=1)
        is_outside = ((high <= 0) | (low >= size)).any(axis=1)
    is_known = size.min(axis=1) > 0  # else there is no picture to be outside of
    tests = (
        ~np.isfinite(boxes).all(axis=1),
        side <= 0,
        is_known & ~fits & fits_turned,
        is_known & is_outside,
        is_known & ~fits,
        side < _TINY_BOX,
    )
    return np.select(tests, range(len(tests)), default=-1)


def _clean(
    manifest: Manifest,
    number: int,
    copies: Copies,
    fingerprints: pa.Table,
    removed: np.ndarray,
) -> Manifest:
    """Leave out the rows of removed copies, and fill in sizes and hashes."""
    of_row = copies.of_rows(number)
    kept = np.flatnonzero(~removed[of_row])
    table = manifest.table.take(pa.array(kept))
    files = pa.array(copies.file[of_row[kept]])
    columns = {"width": "width", "height": "height", "hash": "sha256"}
    for name, source in columns.items():
        place = table.schema.get_field_index(name)
        values = fingerprints[source].combine_chunks().take(files)
        table = table.set_column(place, table.schema.field(name), values)
    facts = manifest.facts
    left_out = f"audited: {counted(len(of_row) - len(kept), 'row')} left out"
    recipe = f"{facts.split_recipe}; {left_out}" if facts.split_recipe else left_out
    return Manifest(table, replace(facts, split_recipe=recipe))


def check_folder(folder: Path, manifests: Sequence[Manifest], *, resume: bool) -> None:
    """Check that an audit may write into a folder.

    Raises:
        ConfigError: It is a file, lies among the pictures, or is not empty though nothing is to be resumed.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out is {folder}, which is a file: choose a folder")
    for pictures in (place for manifest in manifests for place in _picture_folders(manifest)):
        if folder.resolve().is_relative_to(pictures.resolve()):
            raise ConfigError(
                f"--out is {folder}, which lies among the pictures in {pictures}, where nothing is written: choose "
                "another folder"
            )
    if not resume and folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(
            f"the folder {folder} is not empty: choose another --out, or go on with --resume"
        )


def _picture_folders(manifest: Manifest) -> list[Path]:
    """Name the folders of pictures: the root, or those of merged sets, whose common root may hold anything."""
    root = manifest.facts.root
    if manifest.facts.layout != "merged":
        return [root]
    ends = manifest.table.group_by("source").aggregate([("path", "min"), ("path", "max")])
    # What the first and the last of sorted paths have in common, all have.
    return [
        root / posixpath.commonpath([posixpath.dirname(first), posixpath.dirname(last)])
        for first, last in zip(
            *(ends[name].to_pylist() for name in ("path_min", "path_max")), strict=True
        )
    ]


def write_audit(result: Audit, folder: Path) -> list[Path]:
    """Write `audit.json` and the cleaned manifests.

    Returns:
        The cleaned manifests, one for each that was audited.

    Raises:
        DataError: The folder cannot be written.
    """
    clean = folder / "clean"
    paths = [clean / f"{name}.parquet" for name in result.names]
    text = json.dumps(to_json(result, paths), indent=1) + "\n"
    partial = folder / "audit.json.partial"
    try:
        clean.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="ascii")
        partial.replace(folder / "audit.json")
    except OSError as error:
        raise DataError(
            f"cannot write to {folder} ({error.strerror}): make room or choose another --out"
        ) from error
    for manifest, path in zip(result.cleaned, paths, strict=True):
        write_manifest(manifest, path)
    return paths


def to_json(result: Audit, cleaned: Sequence[Path]) -> dict[str, Any]:
    """Say everything that was found, for machines."""

    def show(index: int) -> dict[str, Any]:
        copy = result.copies[index]
        entries = {"split": copy.split, "label": copy.label or None, "rows": list(copy.rows)}
        return {"manifest": result.names[copy.manifest], "path": copy.path, **entries}

    return {
        "version": 1,
        "uniemox": __version__,
        "settings": asdict(result.config),
        "manifests": [
            {
                "name": name,
                "root": str(manifest.facts.root),
                "rows": len(manifest),
                "kept": len(kept),
                "cleaned": str(path),
                "classes": count_classes(manifest),
                "classes_kept": count_classes(kept),
            }
            for name, manifest, kept, path in zip(
                result.names, result.manifests, result.cleaned, cleaned, strict=True
            )
        ],
        "files": len(result.copies.files),
        "counts": result.counts(),
        "findings": [
            {
                "kind": finding.kind,
                "text": finding.text,
                "removed": finding.removed,
                **show(finding.copy),
                "beside": None if finding.other is None else show(finding.other),
            }
            for finding in result.findings
        ],
        "groups": [
            {
                "same": group.same,
                "likeness": round(group.likeness, 3),
                "copies": [show(index) for index in group.copies],
            }
            for group in result.groups
        ],
    }


def count_classes(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Count split to class to rows."""
    if not len(manifest):
        return {}
    return {split: manifest.select([split]).class_counts() for split in manifest.split_counts()}
