"""Boxes of people that somebody else found or drew: tables of text, and COCO's JSON.

Whatever such a file holds, an invalid box and an unknown image are counted, never an error.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from uniemox.config.people import BoxUnits
from uniemox.emotions import TAXONOMIES, resolve
from uniemox.errors import DataError
from uniemox.files.cells import is_missing
from uniemox.files.delimited import Delimited, damage_named, read_bytes, read_delimited, rows_of
from uniemox.files.images import Unreadable, read_size
from uniemox.files.paths import PATH_HEADINGS, PathIndex, clean_path
from uniemox.manifests.findings import Findings, Problem
from uniemox.manifests.population import Found
from uniemox.manifests.table import Box
from uniemox.wording import counted, name_first

MAX_BYTES: Final = 1024**3  # Maximum size of a JSON file; COCO's largest has 470,000,000
SCORE_HEADINGS: Final = ("score", "confidence", "conf", "probability", "prob")
PEOPLE: Final = ("person", "people", "persons", "human", "pedestrian")  # What detectors and their data call the class
BoxForm = Literal["corners", "centre", "sides"]
SizeOf = Callable[[Path], tuple[int, int] | Unreadable]  # Width and height in pixels
_FORMS: Final[dict[tuple[str, ...], BoxForm]] = {
    ("x0", "y0", "x1", "y1"): "corners",
    ("xmin", "ymin", "xmax", "ymax"): "corners",
    ("x_min", "y_min", "x_max", "y_max"): "corners",
    ("x1", "y1", "x2", "y2"): "corners",
    ("left", "top", "right", "bottom"): "corners",
    ("x_center", "y_center", "w", "h"): "centre",  # before those whose width may be the image's
    ("left", "top", "width", "height"): "sides",
    ("x_center", "y_center", "width", "height"): "centre",
    ("xcenter", "ycenter", "width", "height"): "centre",
    ("cx", "cy", "w", "h"): "centre",
    ("xc", "yc", "w", "h"): "centre",
    ("x", "y", "w", "h"): "sides",
    ("x", "y", "width", "height"): "sides",
}  # Columns of a box, and what they mean; the first that a table has are taken
_CLASSES: Final = (
    *("name", "class_name", "category_name", "class", "label", "category", "cls", "object", "class_label"),
    *("labelname", "label_name", "class_id", "category_id"),
)
"""Columns of what a detector found, by its name or its number; a table of emotions has some of them as well."""
_OURS: Final = "box_score"  # Column of a table of `predict` with people, where a row without a box is the whole image
_COCO_PERSON: Final = 1  # Number of COCO's class where the file does not name its classes
_LARGEST_SHARE: Final = 1.5
"""Of a side: a detector's boxes reach over the edge, but nobody has a box that ends within two pixels."""


class Assigned(NamedTuple):
    """Boxes given to the images of a manifest."""

    paths: list[str]  # Images of the manifest that the file knows
    found: list[Found]  # The boxes of each
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()  # What was understood but is worth knowing


@dataclass(frozen=True)
class BoxList:
    """The people of a file."""

    people: Mapping[str, Sequence[Box]]  # Boxes of each image that the file names, under the name that it has there
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()

    def assign(
        self, paths: Iterable[str], *, root: Path | None = None, units: BoxUnits = "auto", size_of: SizeOf = read_size
    ) -> Assigned:
        """Find the images of a manifest that the file names.

        An image is found by its path, in whatever way that is written; or else by an end of its path, if only one has
        that end, and no other name of the file means the same image: COCO's files give names without their folder, and
        others with the folders of another machine.

        Args:
            paths: The images.
            root: Folder that paths are relative to; names may be given from the working directory as well.
            units: Of the boxes. `auto` takes them for shares of the image's sides if none reaches beyond 1.5.
            size_of: Reads width and height of an image by its path, where it is not simply a file there.
        """
        findings = Findings()
        findings.include(self.problems)
        index = PathIndex(paths)
        assigned: dict[str, list[Box]] = {}
        later: dict[str, list[str]] = {}
        for name, boxes in self.people.items():
            found = _find_path(name, index, root)
            if len(found) == 1 and found[0] != name and found[0] in self.people:  # a.jpg and A.jpg are two images
                findings.add("image that is not among these", name)
            elif len(found) == 1:
                assigned.setdefault(found[0], []).extend(boxes)
            elif found:
                findings.add("name that several images end in", name)
            else:
                ends = index.sharing_an_end(name)
                later.setdefault(ends[0] if len(ends) == 1 else "", []).append(name)
        for path, names in later.items():
            if path and path not in assigned and len(names) == 1:
                findings.note("image found by the end of its path", f"{names[0]} is {path}")
                assigned[path] = list(self.people[names[0]])
            else:
                for name in names:
                    findings.add("image that is not among these", name)
        given: dict[str, Sequence[Box] | None] = {**assigned}
        if are_shares((box for boxes in assigned.values() for box in boxes), units, findings):
            base = root or Path()
            given = {path: scale_boxes(base / path, boxes, findings, size_of) for path, boxes in assigned.items()}
        known = {path: Found(tuple(boxes)) for path, boxes in given.items() if boxes is not None}
        return Assigned(list(known), list(known.values()), findings.problems(), (*self.notes, *findings.notes()))


def _find_path(name: str, index: PathIndex, root: Path | None) -> list[str]:
    found = index.find(name)
    if not found and root is not None:
        absolute = Path(clean_path(name)).absolute()
        if absolute.is_relative_to(root.absolute()):
            found = index.find(absolute.relative_to(root.absolute()).as_posix())
    return found or index.ending_in(name)


def read_boxes(path: Path) -> BoxList:
    """Read a file of boxes.

    Args:
        path: `.csv`, `.tsv` or `.txt` with a header: path, image, filename or another usual word; x0, y0, x1, y1 or one
            of the other usual ways to name a box; score or confidence if known. Where a column of a detector's classes
            is among them, only people are read. A table of people by `predict` is one. Or `.json` in the form of
            COCO's annotations, with images and categories.

    Raises:
        DataError: It cannot be read, or is neither.
    """
    findings = Findings()
    match path.suffix.lower():
        case ".json":
            people = _read_coco(path, findings)
        case ".csv" | ".tsv" | ".txt":
            people = _read_table(path, findings)
        case _:
            raise DataError(f"boxes are read from .csv, .tsv, .txt and COCO's .json, but not from {path}")
    return BoxList(people, findings.problems(), findings.notes())


def find_box_columns(headings: Iterable[str]) -> tuple[tuple[str, ...], BoxForm] | None:
    """Find the four columns of a box, by their headings in any case; None where there are no such."""
    by_name = {heading.strip().casefold(): heading for heading in headings}
    for names, form in _FORMS.items():
        if set(names) <= by_name.keys():
            return tuple(by_name[name] for name in names), form
    return None


def are_shares(boxes: Iterable[Box], units: BoxUnits, findings: Findings) -> bool:
    """Whether boxes are shares of an image's sides; `auto` takes them for that, with a note, if none is beyond 1.5."""
    if units != "auto":
        return units == "shares"
    listed = list(boxes)
    found = bool(listed) and max(max(box.x1, box.y1) for box in listed) <= _LARGEST_SHARE
    for box in () if found else listed:
        if min(box.x1 - box.x0, box.y1 - box.y0) < 1:
            findings.add("box smaller than a pixel: if these are shares, say --box-units shares", str(box))
    if found:
        findings.remark(
            "no box reaches beyond 1.5, so all are taken for shares of the image's sides: if they are pixels, repeat "
            "the command with --box-units pixels"
        )
    return found


def scale_boxes(
    path: Path, boxes: Sequence[Box], findings: Findings, size_of: SizeOf = read_size
) -> tuple[Box, ...] | None:
    """Turn boxes in shares of an image's sides into pixels; None, and counted, if its size cannot be read."""
    size = size_of(path) if boxes else (0, 0)
    if isinstance(size, Unreadable):
        findings.add("box in shares of an image whose size cannot be read", f"{path}: {size.reason}")
        return None
    width, height = size
    return tuple(
        replace(box, x0=box.x0 * width, y0=box.y0 * height, x1=box.x1 * width, y1=box.y1 * height) for box in boxes
    )


def _read_table(path: Path, findings: Findings) -> dict[str, list[Box]]:
    table = read_delimited(path)
    by_name = {heading.casefold(): heading for heading in table.headings}
    names = [by_name[column] for column in PATH_HEADINGS if column in by_name]
    found = find_box_columns(table.headings)
    if not names or found is None:
        raise DataError(
            f"{path} starts with {','.join(table.headings)[:200]}, but boxes need a header such as "
            "path,x0,y0,x1,y1,score"
        )
    columns, form = found
    is_ours = _OURS in by_name
    scores = (_OURS,) if is_ours else (*SCORE_HEADINGS, _OURS)
    score_column = next((by_name[name] for name in scores if name in by_name), None)
    rows = list(rows_of(table, path, findings.add))
    if not is_ours:
        rows = _keep_people(path, table, rows, findings)
    people: dict[str, list[Box]] = {}
    for where, cells in rows:
        name = clean_path(cells[names[0]])
        corners = [table.read_number(cells[column]) for column in columns]
        score = None if score_column is None else table.read_number(cells[score_column])
        box = to_box(corners, score, form=form)
        if box is not None:
            people.setdefault(name, []).append(box)
        elif any(corners) or not is_ours:
            findings.add("box that is no box", where)
        elif cells.get("reason"):
            findings.add("image that could not be read", name)
        else:
            people.setdefault(name, [])
    return people


_Row = tuple[str, dict[str, str]]


def _keep_people(path: Path, table: Delimited, rows: list[_Row], findings: Findings) -> list[_Row]:
    """Keep the rows of people where a column says what a detector found; all where none does."""
    named = find_person_column(table.headings, (cells for _, cells in rows))
    if named is None:
        for column in table.headings:
            if column.casefold() in _CLASSES:
                _refuse_strangers(path, column, {cells[column] for _, cells in rows} - {""})
        return rows
    people = [row for row in rows if is_person(row[1][named])]
    if others := len(rows) - len(people):
        findings.remark(f"{counted(others, 'box', several='boxes')} skipped: no person by the column {named}")
    return people


def find_person_column(headings: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str | None:
    """Find the column in which some rows are called persons, one with a usual heading first; None if none is."""
    found = {name for row in rows for name, cell in row.items() if isinstance(cell, str) and is_person(cell)}
    order = {name: place for place, name in enumerate(_CLASSES)}
    return min(
        (name for name in headings if name in found), key=lambda name: order.get(name.casefold(), 99), default=None
    )


def _refuse_strangers(path: Path, column: str, values: set[str]) -> None:
    """Raise `DataError` if a column holds classes of a detector, but no person; emotions are none."""
    known = [taxonomy.classes for taxonomy in TAXONOMIES.values()]
    strange = sorted(value for value in values if not any(resolve(value, classes) for classes in known))
    if strange:
        raise DataError(
            f"{path} has a column {column} with {name_first(strange)}, but none is person: name people so, or take "
            "the column out if it does not say what a box shows"
        )


def is_person(name: str) -> bool:
    """Whether the name of a class is that of people, in any case of its letters."""
    return name.strip().casefold() in PEOPLE


def _read_coco(path: Path, findings: Findings) -> dict[str, list[Box]]:
    data = read_bytes(path, max_bytes=MAX_BYTES, then="cut it into several")
    with damage_named(path, (ValueError, RecursionError)):
        tree = json.loads(data)  # which knows a byte order mark
    if not isinstance(tree, dict) or not all(isinstance(tree.get(key), list) for key in ("images", "annotations")):
        raise DataError(
            f"{path} is not COCO's JSON: it needs the lists images and annotations (a list of results alone does not "
            "name its images)"
        )
    names: dict[Any, str] = {}
    for entry in _objects(tree, "images", findings):
        name = entry.get("file_name")
        if isinstance(name, str) and isinstance(entry.get("id"), int | str):
            if names.setdefault(str(entry["id"]), clean_path(name)) != clean_path(name):
                raise DataError(
                    f"{path} has two images of the id {str(entry['id'])[:40]}, {names[str(entry['id'])][:80]} and "
                    f"{name[:80]}: give those of each merged file ids of their own"
                )
        else:
            findings.add("image without id and file_name", str(entry)[:80])
    people: dict[str, list[Box]] = {name: [] for name in names.values()}
    persons = _find_persons(path, tree.get("categories"), findings)
    for entry in _objects(tree, "annotations", findings):
        if not _is_among(entry.get("category_id"), persons):
            continue
        corners = entry.get("bbox")
        box = to_box(corners if isinstance(corners, list) else [], entry.get("score"), form="sides")
        which = f"annotation {entry.get('id')}"[:80]
        if str(entry.get("iscrowd")) in ("1", "True"):
            findings.add("crowd, which is no person", which)
        elif not _is_among(entry.get("image_id"), names):
            findings.add("annotation of an image that is not in the file", which)
        elif box is None:
            findings.add("box that is no box", which)
        else:
            people[names[str(entry["image_id"])]].append(box)
    return people


def _objects(tree: dict[str, Any], key: str, findings: Findings) -> Iterator[dict[str, Any]]:
    for entry in tree[key]:
        if isinstance(entry, dict):
            yield entry
        else:
            findings.add(f"entry of {key} that is no object", str(entry)[:80])


def _is_among(number: Any, known: Iterable[str]) -> bool:
    """Whether an entry's number is a known one; JSON may hold a list or a mapping in its place, or a text."""
    return isinstance(number, int | str) and str(number) in known


def _find_persons(path: Path, categories: Any, findings: Findings) -> set[str]:
    """Find the numbers of the class of people, by its name."""
    if not categories:
        findings.remark(f"{path.name} names no classes, so class {_COCO_PERSON} is taken for people")
        return {str(_COCO_PERSON)}
    known = [c for c in categories if isinstance(c, dict)] if isinstance(categories, list) else []
    named = [(str(c.get("name")), str(c.get("id"))) for c in known if isinstance(c.get("id"), int | str)]
    persons = {number for name, number in named if is_person(name)}
    names = [str(category.get("name")) for category in known]
    if not persons:
        raise DataError(f"{path} has the categories {', '.join(names)[:200] or 'none'}, but none is person")
    if others := [name for name, number in named if number in persons and not is_person(name)]:
        raise DataError(f"{path} gives person and {name_first(others)} one id: give each category an id of its own")
    return persons


def to_box(values: Sequence[Any], score: Any = None, *, form: BoxForm = "corners") -> Box | None:
    """Make a box of texts or numbers; None where they are not finite, or leave no area in an image."""
    try:
        x0, y0, x1, y1 = map(float, values)
        sure = None if is_missing(score) else float(score)
    except (TypeError, ValueError, OverflowError):
        return None
    match form:
        case "sides":
            x1, y1 = x0 + x1, y0 + y1
        case "centre":
            x0, y0, x1, y1 = x0 - x1 / 2, y0 - y1 / 2, x0 + x1 / 2, y0 + y1 / 2
        case _:
            pass
    is_finite = all(map(math.isfinite, (x0, y0, x1, y1, sure or 0.0)))
    if not (is_finite and x0 < x1 and y0 < y1 and x1 > 0 and y1 > 0):
        return None
    # What reaches over the edges at the left and top is known without the image.
    return Box(max(x0, 0.0), max(y0, 0.0), x1, y1, sure)
