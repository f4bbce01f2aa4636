"""Boxes of people that somebody else found or drew: CSV files, and COCO's JSON.

Whatever such a file holds, an invalid box and an unknown image are counted, never an error.
"""

import csv
import json
import math
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from uniemox.errors import DataError
from uniemox.manifests.findings import Findings, Problem
from uniemox.manifests.population import Found
from uniemox.manifests.table import Box
from uniemox.wording import reason_of

MAX_BYTES: Final = 1024**3  # Maximum size of a JSON file; COCO's largest has 470,000,000
_PATH_COLUMNS: Final = ("path", "image", "filename", "file_name")
_CORNER_COLUMNS: Final = (("x0", "y0", "x1", "y1"), ("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"))
_SIDE_COLUMNS: Final = (("x", "y", "w", "h"), ("x", "y", "width", "height"))
_OURS: Final = "box_score"  # Column of a table of `predict` with people, where a row without a box is the whole image
_COCO_PERSON: Final = 1  # Number of COCO's class where the file does not name its classes


class Assigned(NamedTuple):
    """Boxes given to the images of a manifest."""

    paths: list[str]  # Images of the manifest that the file knows
    found: list[Found]  # The boxes of each
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class BoxList:
    """The people of a file."""

    people: dict[str, list[Box]]  # Boxes of each image that the file names, under the name that it has there
    problems: tuple[Problem, ...]

    def assign(self, paths: Iterable[str], *, root: Path | None = None) -> Assigned:
        """Find the images of a manifest that the file names.

        An image is found by its path, or else by the end of its path, if only one has that end: COCO's files give
        names without their folder.

        Args:
            paths: The images.
            root: Folder that paths are relative to, if names may be given from the working directory as well.
        """
        known = dict.fromkeys(paths)
        problems = Findings()
        problems.include(self.problems)
        ends: dict[str, list[str]] = {}
        if not self.people.keys() <= known.keys():
            for path in known:
                ends.setdefault(posixpath.basename(path), []).append(path)
        assigned: dict[str, tuple[Box, ...]] = {}
        for name, boxes in self.people.items():
            below = name
            if root is not None and name not in known:
                below = posixpath.relpath(posixpath.abspath(name), root.as_posix())
            fitting = [below] if below in known else ends.get(posixpath.basename(name), [])
            fitting = [path for path in fitting if path == below or path.endswith(f"/{name}")]
            if len(fitting) == 1:
                assigned[fitting[0]] = (*assigned.get(fitting[0], ()), *boxes)
            else:
                problems.add("name that several images end in" if fitting else "image that is not among these", name)
        return Assigned(list(assigned), list(map(Found, assigned.values())), problems.problems())


def read_boxes(path: Path) -> BoxList:
    """Read a file of boxes.

    Args:
        path: `.csv` or `.tsv` with a header: path, image, filename or file_name; x0, y0, x1, y1 or one of the other
            usual ways to name a box; score if known. A table of people by `predict` is one. Or `.json` in the form of
            COCO's annotations, with images and categories.

    Raises:
        DataError: It cannot be read, or is neither.
    """
    problems = Findings()
    try:
        match path.suffix.lower():
            case ".json":
                people = _read_coco(path, problems)
            case ".csv" | ".tsv" as suffix:
                people = _read_table(path, problems, delimiter="," if suffix == ".csv" else "\t")
            case _:
                raise DataError(f"boxes are read from .csv, .tsv and COCO's .json, but not from {path}")
    except (OSError, csv.Error, ValueError, RecursionError) as error:
        raise DataError(f"cannot read the boxes in {path}: {reason_of(error)}") from error
    return BoxList(people, problems.problems())


def _read_table(path: Path, problems: Findings, *, delimiter: str) -> dict[str, list[Box]]:
    people: dict[str, list[Box]] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        header = reader.fieldnames = tuple(name.strip().casefold() for name in reader.fieldnames or ())
        names = [column for column in _PATH_COLUMNS if column in header]
        boxes = [columns for columns in (*_CORNER_COLUMNS, *_SIDE_COLUMNS) if set(columns) <= set(header)]
        if not names or not boxes:
            raise DataError(
                f"{path} starts with {','.join(header)[:200] or 'nothing'}, but boxes need a header such as "
                "path,x0,y0,x1,y1,score"
            )
        has_sides = boxes[0] in _SIDE_COLUMNS
        for line in reader:
            name = posixpath.normpath(line[names[0]] or "")
            corners = [line[column] for column in boxes[0]]
            box = to_box(corners, line.get("score", line.get(_OURS)), has_sides=has_sides)
            if box is not None:
                people.setdefault(name, []).append(box)
            elif any(corners) or _OURS not in header:
                problems.add("box that is no box", f"line {reader.line_num}")
            elif line.get("reason"):
                problems.add("image that could not be read", name)
            else:
                people.setdefault(name, [])
    return people


def _read_coco(path: Path, problems: Findings) -> dict[str, list[Box]]:
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path} is longer than {MAX_BYTES} bytes: cut it into several")
    tree = json.loads(path.read_bytes())
    if not isinstance(tree, dict) or not all(isinstance(tree.get(key), list) for key in ("images", "annotations")):
        raise DataError(
            f"{path} is not COCO's JSON: it needs the lists images and annotations (a list of results alone does not "
            "name its images)"
        )
    names: dict[Any, str] = {}
    for entry in _objects(tree, "images", problems):
        name = entry.get("file_name")
        if isinstance(name, str) and isinstance(entry.get("id"), int | str):
            names[entry["id"]] = posixpath.normpath(name)
        else:
            problems.add("image without id and file_name", str(entry)[:80])
    people: dict[str, list[Box]] = {name: [] for name in names.values()}
    persons = _find_persons(path, tree.get("categories"))
    for entry in _objects(tree, "annotations", problems):
        if not _is_among(entry.get("category_id"), persons):
            continue
        corners = entry.get("bbox")
        box = to_box(corners if isinstance(corners, list) else [], entry.get("score"), has_sides=True)
        which = f"annotation {entry.get('id')}"[:80]
        if entry.get("iscrowd") == 1:
            problems.add("crowd, which is no person", which)
        elif not _is_among(entry.get("image_id"), names):
            problems.add("annotation of an image that is not in the file", which)
        elif box is None:
            problems.add("box that is no box", which)
        else:
            people[names[entry["image_id"]]].append(box)
    return people


def _objects(tree: dict[str, Any], key: str, problems: Findings) -> Iterator[dict[str, Any]]:
    for entry in tree[key]:
        if isinstance(entry, dict):
            yield entry
        else:
            problems.add(f"entry of {key} that is no object", str(entry)[:80])


def _is_among(number: Any, known: Iterable[Any]) -> bool:
    """Whether an entry's number is a known one; JSON may hold a list or a mapping in its place."""
    return isinstance(number, int | str) and number in known


def _find_persons(path: Path, categories: Any) -> set[Any]:
    """Find the numbers of the class of people, by its name."""
    if not categories:
        return {_COCO_PERSON}
    known = [c for c in categories if isinstance(c, dict)] if isinstance(categories, list) else []
    names = {str(category.get("name")): category.get("id") for category in known}
    persons = {
        names[name] for name in names if name.casefold() in ("person", "people") and isinstance(names[name], int | str)
    }
    if not persons:
        raise DataError(f"{path} has the categories {', '.join(names)[:200] or 'none'}, but none is person")
    return persons


def to_box(values: Sequence[Any], score: Any = None, *, has_sides: bool = False) -> Box | None:
    """Make a box of texts or numbers; None where they are not finite, or leave no area in an image."""
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
    # What reaches over the edges at the left and top is known without the image.
    return Box(max(x0, 0.0), max(y0, 0.0), x1, y1, sure)
