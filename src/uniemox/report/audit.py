"""The page of an audit: what was found, shown with the pictures themselves, and what was removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from uniemox.data.audit import KINDS, count_classes
from uniemox.data.images import Unreadable, read_image
from uniemox.data.likeness import untracked
from uniemox.report.page import (
    Block,
    Comparison,
    Notice,
    Page,
    Score,
    Scores,
    Section,
    Table,
    Tile,
    TileGroup,
    show_cell,
    write_page,
)
from uniemox.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from uniemox.data.audit import Audit, Finding, Group, Kind
    from uniemox.data.likeness import Track
    from uniemox.report.page import Cell

_GROUPS: Final = 40
_TILES: Final = 6
_ROWS: Final = 60
_SHRINK_TO: Final = 200

_MEANINGS: Final[dict[Kind, str]] = {
    "unreadable": "no picture can be had of the file",
    "tiny": "too small to show anything",
    "blank": "one colour",
    "placeholder": "the same pixels under many names",
    "leak": "another copy is in a more held-out split",
    "conflict": "another copy has another label",
    "repeat": "another copy comes first in the same split",
    "overlap": "another copy comes first in another manifest, or a split as held out",
    "box": "a person's box that cannot be right",
}
_TITLES: Final[dict[Kind, str]] = {
    "leak": "Leaks",
    "conflict": "Conflicting labels",
    "placeholder": "Placeholders",
    "repeat": "Repeats",
    "overlap": "Overlaps",
    "unreadable": "Unreadable files",
    "tiny": "Tiny pictures",
    "blank": "Blank pictures",
    "box": "Wrong boxes",
}
_TEXTS: Final[dict[Kind, str]] = {
    "leak": "Each group shows the same picture in train and in a split that it is tested on, or in val and test. The "
    "copy that is framed goes, so that scores on the other stay honest.",
    "conflict": "Copies of one picture with different labels of the same classes. Which is right nobody knows: those "
    "in train go, those in other splits stay as their authors made them.",
    "placeholder": "Sites put such a picture where the one that was asked for is gone.",
    "repeat": "The same picture twice in one split weighs double. They stay unless --remove names repeat.",
    "overlap": "The same picture in splits that are equally held out, such as train of two data sets: nothing is wrong "
    "with each alone, but in both together it weighs double. They stay unless --remove names overlap.",
    "unreadable": "",
    "tiny": "",
    "blank": "",
    "box": "Boxes are pixels of the upright picture. They stay unless --remove names box.",
}


def write_audit_report(result: Audit, folder: Path, *, track: Track = untracked) -> Path:
    """Write `report.html` of an audit.

    Raises:
        DataError: The page cannot be written.
    """
    path = folder / "report.html"
    write_page(audit_page(result, track=track), path)
    return path


def audit_page(result: Audit, *, track: Track = untracked) -> Page:
    """Make the page of an audit. Pictures are read again, to be shown."""
    counts = result.counts()
    found = [kind for kind in _TITLES if counts[kind]["found"]]
    sections = [
        _overview(result),
        *(
            _section(kind, result)
            for kind in track(found, total=len(found), what="parts of the report")
        ),
        _balance(result),
        _origin(result),
    ]
    lead = (
        f"{_number(len(result.copies.files))} picture files in {', '.join(result.names)}: what cannot be used, what is "
        "there more than once, and where training would see what it is tested on."
    )
    return Page("Audit of pictures", lead, sections)


def _number(value: int) -> str:
    return show_cell(value)


def _overview(result: Audit) -> Section:
    counts = result.counts()
    rows = sum(map(len, result.manifests))
    kept = sum(map(len, result.cleaned))
    scores = [
        Score(
            "files",
            _number(len(result.copies.files)),
            f"{_number(rows)} {'row' if rows == 1 else 'rows'}",
        ),
        *(
            Score(_TITLES[kind].lower(), _number(counts[kind]["found"]), _removed_of(counts[kind]))
            for kind in _TITLES
        ),
        Score("rows kept", _number(kept), f"{_number(rows - kept)} left out"),
    ]
    blocks: list[Block] = [Scores(scores)]
    if counts["leak"]["found"]:
        text = (
            f"Pictures that are also in a more held-out split: {_number(counts['leak']['found'])}. Scores of models "
            "trained on them flatter."
        )
        blocks.append(Notice(text, "warning"))
    table = [
        (kind, _MEANINGS[kind], counts[kind]["found"], counts[kind]["removed"]) for kind in KINDS
    ]
    blocks.append(
        Table(
            ("finding", "what it means", "pictures", "removed"),
            table,
            "A picture can be in several lines. The folder clean beside this page holds the manifests without what "
            "was removed; audit.json names every finding with its rows.",
        )
    )
    return Section("What was found", blocks=blocks)


def _removed_of(count: dict[str, int]) -> str:
    if not count["found"]:
        return ""
    return "all removed" if count["removed"] == count["found"] else f"{count['removed']} removed"


def _section(kind: Kind, result: Audit) -> Section:
    findings = [finding for finding in result.findings if finding.kind == kind]
    blocks: list[Block] = []
    match kind:
        case "leak" | "conflict" | "repeat" | "overlap":
            if kind in ("leak", "overlap"):
                blocks.append(_directions(findings, result))
            blocks += _groups(findings, result)
        case "placeholder" | "tiny" | "blank":
            blocks += _singles(findings, result)
        case _:
            blocks.append(_listing(findings, result))
    return Section(_TITLES[kind], _TEXTS[kind], blocks)


def _directions(findings: Sequence[Finding], result: Audit) -> Table:
    """Count the pictures that each split shares with each other one."""
    counts: dict[tuple[str, str], int] = {}
    for finding in findings:
        assert finding.other is not None
        ends = (_where(finding.copy, result), _where(finding.other, result))
        counts[ends] = counts.get(ends, 0) + 1
    rows = [(*ends, count) for ends, count in sorted(counts.items(), key=lambda item: -item[1])]
    return Table(("pictures of", "are also in", "pictures"), rows, width="half")


def _where(index: int, result: Audit) -> str:
    copy = result.copies[index]
    return f"{result.names[copy.manifest]}, {copy.split}"


def _groups(findings: Sequence[Finding], result: Audit) -> Iterable[Block]:
    wrong = {finding.copy: finding for finding in findings}
    groups = [group for group in result.groups if not wrong.keys().isdisjoint(group.copies)]
    groups.sort(key=lambda group: (-len(group.copies), -group.likeness))
    shown = [_tile_group(group, wrong, result) for group in groups[:_GROUPS]]
    yield Comparison(shown, _limit(len(shown), len(groups), "groups"))


def _limit(shown: int, total: int, what: str) -> str:
    if shown == total:
        return ""
    return f"{_number(shown)} of {_number(total)} {what}; audit.json has all."


def _tile_group(group: Group, wrong: dict[int, Finding], result: Audit) -> TileGroup:
    title = {
        "file": "The same file",
        "pixels": "The same pixels",
        "look": f"Alike, {group.likeness:.2f}",
    }[group.same]
    # What is wrong comes first, each beside what it is wrong beside.
    order: dict[int, None] = {}
    for index in group.copies:
        if index in wrong:
            order[index] = None
            other = wrong[index].other
            if other is not None:
                order[other] = None
    order |= dict.fromkeys(group.copies)
    indices = list(order)[:_TILES]
    tiles = [_tile(index, wrong.get(index), result) for index in indices]
    return TileGroup(title, tiles, more=len(order) - len(tiles))


def _tile(index: int, finding: Finding | None, result: Audit) -> Tile:
    copy = result.copies[index]
    image = read_image(copy.file, shrink_to=_SHRINK_TO)
    several = len(result.names) > 1
    return Tile(
        picture=None if isinstance(image, Unreadable) else np.asarray(image),
        name=f"{result.names[copy.manifest]}: {copy.path}" if several else copy.path,
        badge=copy.split,
        text=copy.label,
        note="" if finding is None else finding.text,
        is_struck=finding is not None and finding.removed,
    )


def _singles(findings: Sequence[Finding], result: Audit) -> Iterable[Block]:
    shown = findings[: _GROUPS // 2]
    tiles = [_tile(finding.copy, finding, result) for finding in shown]
    yield Comparison([TileGroup("", tiles, more=len(findings) - len(shown))])


def _listing(findings: Sequence[Finding], result: Audit) -> Table:
    rows: list[Sequence[Cell]] = []
    for finding in findings[:_ROWS]:
        copy = result.copies[finding.copy]
        rows.append((copy.path, result.names[copy.manifest], copy.split, finding.text))
    caption = _limit(len(rows), len(findings), "files")
    return Table(("path", "manifest", "split", "what is wrong"), rows, caption)


def _balance(result: Audit) -> Section:
    blocks: list[Block] = []
    for name, manifest, kept in zip(result.names, result.manifests, result.cleaned, strict=True):
        before, after = count_classes(manifest), count_classes(kept)
        rows: list[Sequence[Cell]] = [
            (
                label,
                *(
                    cell
                    for split in before
                    for cell in (before[split][label], after.get(split, {}).get(label, 0))
                ),
            )
            for label in manifest.facts.classes
        ]
        columns = [part for split in before for part in (split, "kept")]
        blocks.append(Table(("class", *columns), rows, f"Rows of {name}, and how many are kept."))
        blocks += [Notice(text, "warning") for text in _lopsided(name, before)]
    return Section("Classes", blocks=blocks)


def _lopsided(name: str, counts: dict[str, dict[str, int]]) -> Iterable[str]:
    for split, of_class in counts.items():
        absent = [label for label, count in of_class.items() if not count]
        if absent:
            yield f"{name}, {split}: no row is labelled {', '.join(absent)}."
        most = max(of_class, key=of_class.__getitem__)
        least = min(of_class, key=of_class.__getitem__)
        if not absent and of_class[most] >= 10 * of_class[least]:
            yield (
                f"{name}, {split}: {most} is {of_class[most] / of_class[least]:.0f} times as frequent as {least}; "
                "report balanced accuracy or macro F1."
            )


def _origin(result: Audit) -> Section:
    config = result.config
    facts = [
        *(
            (name, f"{manifest.facts.title}, pictures in {manifest.facts.root}")
            for name, manifest in zip(result.names, result.manifests, strict=True)
        ),
        ("removed", ", ".join(config.remove) or "nothing"),
        ("alike from", f"{config.like:.2f}"),
        ("tiny below", f"{config.min_side} pixels"),
        ("placeholder from", f"{config.placeholder_copies} files"),
        ("software", f"uniemox {__version__}"),
    ]
    text = (
        "Look-alikes survive resizing, recompression, mirroring, crops of up to a sixth of each side, other light, "
        "and a caption. Pictures almost without detail, such as a clear sky, are compared by their pixels alone."
    )
    return Section("Origin", text, (Table((), facts),))
