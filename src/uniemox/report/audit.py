"""The page of an audit: what was found, shown with the images themselves, and what was removed."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from uniemox.audit.audit import Audit, count_classes
from uniemox.audit.findings import Finding, Group
from uniemox.config.audit import KINDS, MEANINGS, Kind
from uniemox.files.images import Unreadable, read_image
from uniemox.files.progress import Track, untracked
from uniemox.report.doubts import doubts_section
from uniemox.report.page import (
    Block,
    Cell,
    Notice,
    Page,
    Score,
    Scoreboard,
    Section,
    Table,
    Tile,
    TileGroup,
    TileGroups,
    show_cell,
    write_page,
)
from uniemox.train.doubts import Doubts
from uniemox.version import __version__

_GROUPS: Final = 40
_TILES: Final = 6
_ROWS: Final = 60
_SHRINK_TO: Final = 200


_SECTIONS: Final[dict[Kind, tuple[str, str]]] = {
    "leak": (
        "Leaks",
        "Each group shows copies of an image, or images alike enough to count as such, in train and in a split that it "
        "is tested on, or in val and test. What is framed is removed, so that scores on the other stay honest.",
    ),
    "conflict": (
        "Conflicting labels",
        "Copies of one image, or images as alike, with different labels of the same classes. Nobody knows which is "
        "right: those in train are removed, those in other splits stay as their authors made them.",
    ),
    "placeholder": ("Placeholders", "Sites serve such an image instead of one that was deleted."),
    "repeat": ("Repeats", "What is twice in one split weighs double. They stay unless --remove names repeat."),
    "overlap": (
        "Overlaps",
        "The same image in splits that are equally held out, such as train of two data sets: each is fine alone, but "
        "in both together it weighs double. They stay unless --remove names overlap.",
    ),
    "unreadable": ("Unreadable files", ""),
    "tiny": ("Tiny images", ""),
    "blank": ("Blank images", ""),
    "box": ("Invalid boxes", "Boxes are pixels of the upright image. They stay unless --remove names box."),
}  # Title and text, in the order of the page


def write_audit_report(result: Audit, folder: Path, *, doubts: Sequence[Doubts] = (), track: Track = untracked) -> Path:
    """Write `report.html` of an audit, or raise `DataError`."""
    return write_page(audit_page(result, doubts=doubts, track=track), folder / "report.html")


def audit_page(result: Audit, *, doubts: Sequence[Doubts] = (), track: Track = untracked) -> Page:
    """Make the page of an audit, with the labels in doubt of each manifest. Images are read again, to be shown."""
    found = [kind for kind in _SECTIONS if any(finding.kind == kind for finding in result.findings)]
    sections = [
        _overview(result),
        *(_section(kind, result) for kind in track(found, total=len(found), what="parts of the report")),
        *map(doubts_section, doubts),
        _balance(result),
        _origin(result),
    ]
    lead = (
        f"{show_cell(len(result.copies.files))} image files in {', '.join(result.names)}: what cannot be used, what "
        "is repeated, and where training would see what it is tested on."
    )
    return Page("Audit of images", lead, sections)


def _overview(result: Audit) -> Section:
    counts = result.counts()
    rows = sum(map(len, result.manifests))
    kept = sum(map(len, result.cleaned))
    scores = [
        Score("files", show_cell(len(result.copies.files)), f"{show_cell(rows)} {'row' if rows == 1 else 'rows'}")
    ]
    for kind, (title, _) in _SECTIONS.items():
        found, removed = counts[kind]["found"], counts[kind]["removed"]
        note = "" if not found else "all removed" if removed == found else f"{removed} removed"
        scores.append(Score(title.lower(), show_cell(found), note))
    scores.append(Score("rows kept", show_cell(kept), f"{show_cell(rows - kept)} removed"))
    blocks: list[Block] = [Scoreboard(scores)]
    if leaks := counts["leak"]["found"]:
        text = f"Images of which a copy, or an image as alike, is in a more held-out split: {show_cell(leaks)}. Copies "
        blocks.append(Notice(f"{text}inflate the scores of models trained on them.", "warning"))
    table = [(kind, MEANINGS[kind], counts[kind]["found"], counts[kind]["removed"]) for kind in KINDS]
    caption = (
        "An image can be in several lines. The folder clean beside this page holds the manifests without what was "
        "removed; audit.json names every finding with its rows."
    )
    blocks.append(Table(("finding", "what it means", "images", "removed"), table, caption))
    return Section("What was found", blocks=blocks)


def _section(kind: Kind, result: Audit) -> Section:
    findings = [finding for finding in result.findings if finding.kind == kind]
    blocks: list[Block] = []
    match kind:
        case "leak" | "conflict" | "repeat" | "overlap":
            if kind in ("leak", "overlap"):
                blocks.append(_directions(findings, result))
            blocks.append(_groups(findings, result))
        case "placeholder" | "tiny" | "blank":
            shown = findings[: _GROUPS // 2]
            tiles = [_tile(finding.copy, finding, result) for finding in shown]
            blocks.append(TileGroups([TileGroup("", tiles, more=len(findings) - len(shown))]))
        case _:
            copies = [(result.copies[finding.copy], finding.text) for finding in findings[:_ROWS]]
            rows = [(copy.path, result.names[copy.manifest], copy.split, text) for copy, text in copies]
            caption = _limit(len(rows), len(findings), "files")
            blocks.append(Table(("path", "manifest", "split", "problem"), rows, caption))
    return Section(*_SECTIONS[kind], blocks)


def _directions(findings: Sequence[Finding], result: Audit) -> Table:
    """Count the images that each split shares with each other one."""

    def where(index: int | None) -> str:
        assert index is not None
        copy = result.copies[index]
        return f"{result.names[copy.manifest]}, {copy.split}"

    counts = Counter((where(finding.copy), where(finding.other)) for finding in findings)
    rows = [(*ends, count) for ends, count in counts.most_common()]
    return Table(("images of", "are also in", "images"), rows, width="half")


def _groups(findings: Sequence[Finding], result: Audit) -> TileGroups:
    found = {finding.copy: finding for finding in findings}
    groups = [group for group in result.groups if not found.keys().isdisjoint(group.copies)]
    groups.sort(key=lambda group: (-len(group.copies), -group.likeness))
    shown = [_tile_group(group, found, result) for group in groups[:_GROUPS]]
    return TileGroups(shown, _limit(len(shown), len(groups), "groups"))


def _limit(shown: int, total: int, what: str) -> str:
    return "" if shown == total else f"{show_cell(shown)} of {show_cell(total)} {what}; audit.json has all."


def _tile_group(group: Group, found: dict[int, Finding], result: Audit) -> TileGroup:
    title = {"file": "The same file", "pixels": "The same pixels", "look": f"Alike, {group.likeness:.2f}"}[group.same]
    # Copies with a finding come first, each beside the copy that it refers to.
    pairs = ((index, found[index].other) for index in group.copies if index in found)
    order = dict.fromkeys([*(end for pair in pairs for end in pair if end is not None), *group.copies])
    tiles = [_tile(index, found.get(index), result) for index in list(order)[:_TILES]]
    return TileGroup(title, tiles, more=len(order) - len(tiles))


def _tile(index: int, finding: Finding | None, result: Audit) -> Tile:
    copy = result.copies[index]
    image = read_image(copy.file, shrink_to=_SHRINK_TO)
    return Tile(
        image=None if isinstance(image, Unreadable) else np.asarray(image),
        name=f"{result.names[copy.manifest]}: {copy.path}" if len(result.names) > 1 else copy.path,
        badge=copy.split,
        text=copy.label,
        note="" if finding is None else finding.text,
        is_struck=finding is not None and finding.removed,
    )


def _balance(result: Audit) -> Section:
    blocks: list[Block] = []
    for name, manifest, kept in zip(result.names, result.manifests, result.cleaned, strict=True):
        before, after = count_classes(manifest), count_classes(kept)
        rows: list[Sequence[Cell]] = [
            (label, *(cell for split in before for cell in (before[split][label], after.get(split, {}).get(label, 0))))
            for label in manifest.facts.classes
        ]
        columns = [part for split in before for part in (split, "kept")]
        blocks.append(Table(("class", *columns), rows, f"Rows of {name}, and how many are kept."))
        blocks += [Notice(text, "warning") for text in _lopsided(name, before)]
    return Section("Classes", blocks=blocks)


def _lopsided(name: str, counts: dict[str, dict[str, int]]) -> Iterable[str]:
    for split, of_class in counts.items():
        most, least = max(of_class, key=of_class.__getitem__), min(of_class, key=of_class.__getitem__)
        if absent := [label for label, count in of_class.items() if not count]:
            yield f"{name}, {split}: no row is labelled {', '.join(absent)}."
        elif (ratio := of_class[most] / of_class[least]) >= 10:
            yield (
                f"{name}, {split}: {most} is {ratio:.0f} times as frequent as {least}; report balanced accuracy or "
                "macro F1."
            )


def _origin(result: Audit) -> Section:
    config = result.config
    facts = [
        *(
            (name, f"{manifest.facts.title}, images in {manifest.facts.root}")
            for name, manifest in zip(result.names, result.manifests, strict=True)
        ),
        ("removed", ", ".join(config.remove) or "nothing"),
        ("alike from", f"{config.like:.2f}"),
        ("tiny below", f"{config.min_side} pixels"),
        ("placeholder from", f"{config.placeholder_copies} files"),
        ("software", f"uniemox {__version__}"),
    ]
    text = (
        "Look-alikes are found after resizing, recompression, mirroring, crops of up to a sixth of each side, changes "
        "of light, and a caption. Images almost without detail, such as a clear sky, are compared by their pixels "
        "alone."
    )
    return Section("Origin", text, (Table((), facts),))
