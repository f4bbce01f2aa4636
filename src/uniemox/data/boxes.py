"""Boxes of people that somebody else found or drew: CSV files, and COCO's JSON.

Whatever such a file holds, a box that is none and a picture that is not known are counted, never an error.
"""

from __future__ import annotations

import csv
import json
import math
import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from uniemox.data.findings import Findings
from uniemox.data.manifest import Box
from uniemox.data.population import Found
from uniemox.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from uniemox.data.findings import Problem

MAX_BYTES: Final = 1024**3
"""Most bytes of a JSON file; COCO's largest has 470,000,000."""
_PATH_COLUMNS: Final = ("path", "image", "filename", "file_name")
_CORNER_COLUMNS: Final = (
    ("x0", "y0", "x1", "y1"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x1", "y1", "x2", "y2"),
)
_SIDE_COLUMNS: Final = (("x", "y", "w", "h"), ("x", "y", "width", "height"))
_SCORE_COLUMNS: Final = ("score", "box_score")
_OURS: Final = "box_score"
"""A table that has this column is one of `predict --people`, where a row without a box is the picture as a whole."""
_COCO_PERSON: Final = 1
"""Number of COCO's class where the file does not name its classes."""


class Assigned(NamedTuple):
    """Boxes given to the pictures of a manifest."""

    paths: list[str]
    """Pictures of the manifest that the file knows."""
    found: list[Found]
    """The boxes of each."""
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class BoxList:
    """What a file says about people."""

    people: dict[str, list[Box]]
    """Boxes of each picture that the file names, under the name that it has there."""
    problems: tuple[Problem, ...]

    def assign(self, paths: Iterable[str], *, root: Path | None = None) -> Assigned:
        """Find the pictures of a manifest that the file names.

        A picture is found by its path, or else by the end of its path, if only one has that end: COCO's files give
        names without their folder.

        Args:
            paths: The pictures.
            root: Folder that paths are relative to, if names may be given from the working directory as well.
        """
        known = dict.fromkeys(paths)
        problems = Findings()
        ends: dict[str, list[str]] = {}
        if not self.people.keys() <= known.keys():
            for path in known:
                ends.setdefault(posixpath.basename(path), []).append(path)
        assigned: dict[str, tuple[Box, ...]] = {}
        for name, boxes in self.people.items():
            below = name if name in known or root is None else _below(root, name)
            fitting = [below] if below in known else ends.get(posixpath.basename(name), [])
            fitting = [path for path in fitting if path == below or path.endswith(f"/{name}")]
            if len(fitting) == 1:
                assigned[fitting[0]] = (*assigned.get(fitting[0], ()), *boxes)
            else:
                kind = (
                    "name that several pictures end in"
                    if fitting
                    else "picture that is not among these"
                )
                problems.add(kind, name)
        found = [Found(boxes) for boxes in assigned.values()]
        return Assigned(list(assigned), found, (*self.problems, *problems.problems()))


def _below(root: Path, name: str) -> str:
    """Give the path from the root of what is named from the working directory."""
    return posixpath.relpath(posixpath.abspath(name), root.as_posix())


def read_boxes(path: Path) -> BoxList:
    """Read a file of boxes.

    Args:
        path: `.csv` or `.tsv` with a header: path, image, filename or file_name; x0, y0, x1, y1 or one of the other
            usual ways to name a box; score if known. A table of `predict --people` is one. Or `.json` as COCO's
            annotations are, with images and categories.

    Raises:
        DataError: It cannot be read, or is neither.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".json":
            return _read_coco(path)
        if suffix in (".csv", ".tsv"):
            return _read_table(path, delimiter="," if suffix == ".csv" else "\t")
    except OSError as error:
        raise DataError(f"cannot read the boxes in {path}: {error.strerror}") from error
    except (csv.Error, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"cannot read the boxes in {path}: {reason}") from error
    raise DataError(f"boxes are read from .csv, .tsv and COCO's .json, but not from {path}")


# Tables


def _read_table(path: Path, *, delimiter: str) -> BoxList:
    people: dict[str, list[Box]] = {}
    problems = Findings()
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        header = tuple(name.strip().casefold() for name in reader.fieldnames or ())
        reader.fieldnames = header
        name_column, columns = _find_columns(path, header)
        has_sides = columns in _SIDE_COLUMNS
        score_column = next((name for name in _SCORE_COLUMNS if name in header), "score")
        for line in reader:
            name = posixpath.normpath(line[name_column] or "")
            corners = [line[column] for column in columns]
            box = to_box(corners, line.get(score_column), has_sides=has_sides)
            if box is not None:
                people.setdefault(name, []).append(box)
            elif any(corners) or _OURS not in header:
                problems.add("box that is no box", f"line {reader.line_num}")
            elif line.get("reason"):
                problems.add("picture that could not be read", name)
            else:
                people.setdefault(name, [])
    return BoxList(people, problems.problems())


def _find_columns(path: Path, header: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    names = [column for column in _PATH_COLUMNS if column in header]
    boxes = [
        columns for columns in (*_CORNER_COLUMNS, *_SIDE_COLUMNS) if set(columns) <= set(header)
    ]
    if not names or not boxes:
        raise DataError(
            f"{path} begins with {','.join(header)[:200] or 'nothing'}, but boxes need a header such as "
            "path,x0,y0,x1,y1,score"
        )
    return names[0], boxes[0]


# COCO


def _read_coco(path: Path) -> BoxList:
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path} is longer than {MAX_BYTES} bytes: cut it into several")
    tree = json.loads(path.read_bytes())
    if not isinstance(tree, dict) or not all(
        isinstance(tree.get(key), list) for key in ("images", "annotations")
    ):
        raise DataError(
            f"{path} is not COCO's JSON: it needs the lists images and annotations (a list of results alone does not "
            "name its pictures)"
        )
    problems = Findings()
    names: dict[Any, str] = {}
    for entry in _objects(tree["images"], problems, "images"):
        name = entry.get("file_name")
        if isinstance(name, str) and isinstance(entry.get("id"), int | str):
            names[entry["id"]] = posixpath.normpath(name)
        else:
            problems.add("picture without id and file_name", str(entry)[:80])
    people: dict[str, list[Box]] = {name: [] for name in names.values()}
    persons = _find_persons(path, tree.get("categories"))
    for entry in _objects(tree["annotations"], problems, "annotations"):
        kind = entry.get("category_id")
        if isinstance(kind, int | str) and kind in persons:
            _add_annotation(entry, names, people, problems)
    return BoxList(people, problems.problems())


def _objects(entries: list[Any], problems: Findings, where: str) -> Iterator[dict[str, Any]]:
    for entry in entries:
        if isinstance(entry, dict):
            yield entry
        else:
            problems.add(f"entry of {where} that is no object", str(entry)[:80])


def _find_persons(path: Path, categories: Any) -> set[Any]:
    """Numbers of the class of people, by its name."""
    if not categories:
        return {_COCO_PERSON}
    known = [c for c in categories if isinstance(c, dict)] if isinstance(categories, list) else []
    names = {str(category.get("name")): category.get("id") for category in known}
    persons = {
        number
        for name, number in names.items()
        if name.casefold() in ("person", "people") and isinstance(number, int | str)
    }
    if not persons:
        raise DataError(
            f"{path} has the categories {', '.join(names)[:200] or 'none'}, but none is person"
        )
    return persons


def _add_annotation(
    entry: dict[str, Any], names: dict[Any, str], people: dict[str, list[Box]], problems: Findings
) -> None:
    which = f"annotation {entry.get('id')}"[:80]
    picture = entry.get("image_id")
    corners = entry.get("bbox")
    box = to_box(corners if isinstance(corners, list) else [], entry.get("score"), has_sides=True)
    if entry.get("iscrowd") == 1:
        problems.add("crowd, which is no person", which)
    elif not isinstance(picture, int | str) or picture not in names:
        problems.add("annotation of a picture that is not in the file", which)
    elif box is None:
        problems.add("box that is no box", which)
    else:
        people[names[picture]].append(box)


def to_box(values: Sequence[Any], score: Any = None, *, has_sides: bool = False) -> Box | None:
    """Make a box of texts or numbers; None where they are not finite, or leave no area in a picture."""
    try:
        x0, y0, x1, y1 = map(float, values)
        sure = None if score in (None, "") else float(score)
    except (TypeError, ValueError, OverflowError):
        return None
    if has_sides:
        x1, y1 = x0 + x1, y0 + y1
    is_finite = all(map(math.isfinite, (x0, y0, x1, y1, sure or 0.0)))
    if not (is_finite and x0 < x1 and y0 < y1 and x1 > 0 and y1 > 0):
        return None
    # What reaches over the edges at the left and top is known without the picture.
    return Box(max(x0, 0.0), max(y0, 0.0), x1, y1, sure)
