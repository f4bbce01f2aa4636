"""Who is in the rows of a manifest: assign boxes to rows, part rows by person, count.

Whole columns stay in Arrow, so that three million rows take seconds.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from uniemox.errors import DataError
from uniemox.manifests.columns import SCHEMA, build_column, lengths_of, list_array, single, to_numpy, with_column
from uniemox.manifests.table import Box, Manifest

FOUND: Final = pa.schema([SCHEMA.field(name) for name in ("people", "people_reason", "width", "height")])
"""What is known of an image after somebody looked for people in it."""


@dataclass(frozen=True)
class Found:
    """What a search for people in one image came to."""

    boxes: tuple[Box, ...] = ()
    reason: str | None = None  # Why nobody could look
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class Population:
    """How many images show people."""

    pictures: int  # Different files; the next four sum to it
    with_people: int
    without: int
    unread: int  # Nobody could look for people in them
    unasked: int  # Nobody looked
    boxes: int  # Of all rows
    rows: int
    shared: int  # Rows that share their image with another row


def to_table(found: Iterable[Found]) -> pa.Table:
    """Make a table in the columns of `FOUND`; where nobody could look, `people` is null."""
    rows = [(one.boxes if one.reason is None else None, one.reason, one.width, one.height) for one in found]
    columns = zip(*rows, strict=True) if rows else [()] * len(FOUND)
    arrays = [build_column(name, values, len(rows)) for name, values in zip(FOUND.names, columns, strict=True)]
    return pa.Table.from_arrays(arrays, schema=FOUND)


def _have_boxes(manifest: Manifest) -> np.ndarray:
    return lengths_of(manifest.table["people"]) > 0


def _was_never_searched(manifest: Manifest) -> bool:
    """A manifest that names nobody who looked, and has no box; its empty lists are those of an import."""
    return not manifest.facts.people_source and not _have_boxes(manifest).any()


def was_searched(manifest: Manifest) -> pa.ChunkedArray:
    """Compute for each row whether somebody looked for people in its image, and could."""
    table = manifest.table
    if _was_never_searched(manifest):
        return pa.chunked_array([np.zeros(len(table), bool)])
    return pc.and_(pc.is_valid(table["people"]), pc.is_null(table["people_reason"]))


def mark_unasked(manifest: Manifest) -> pa.Table:
    """Return the table, in which people are null if nobody ever looked for them.

    Once the facts name somebody who looked, the empty lists of an import would mean that nobody was seen.
    """
    table = manifest.table
    if not _was_never_searched(manifest):
        return table
    return with_column(table, "people", build_column("people", None, len(table)))


def pictures_without_boxes(manifest: Manifest) -> pa.Array:
    """Paths of the rows that have no box, each once, in the order of the table."""
    return pc.unique(manifest.table["path"].filter(pa.array(~_have_boxes(manifest))))


def all_pictures(manifest: Manifest) -> pa.Array:
    """Paths of all rows, each once, in the order of the table."""
    return pc.unique(manifest.table["path"])


def assign_people(
    manifest: Manifest, paths: pa.Array, *, found: pa.Table, source: str, replace_boxes: bool
) -> Manifest:
    """Assign every row the people that were found in its image.

    Args:
        manifest: Rows; several may share an image.
        paths: Images that were looked at.
        found: What came out of each, in the columns of `FOUND`.
        source: Who looked.
        replace_boxes: Whether rows that have boxes already get the new ones; else they keep theirs.

    Returns:
        The manifest with boxes, reasons and, where they were not known, sizes; its facts name the source. Rows of a
        manifest that nobody searched before have null for people where nobody looked now either.
    """
    table = mark_unasked(manifest)
    places = pc.index_in(table["path"], value_set=paths)
    had_boxes = _have_boxes(manifest)
    is_new = to_numpy(places.is_valid())
    if not replace_boxes:
        is_new = is_new & ~had_boxes
    if not is_new.any():
        return manifest
    rows = np.where(is_new, len(table) + to_numpy(places.fill_null(0)), np.arange(len(table)))
    for name in FOUND.names:
        both = pa.chunked_array([*table[name].chunks, *found[name].chunks], SCHEMA.field(name).type)
        taken = both.combine_chunks().take(pa.array(rows))
        if name in ("width", "height"):
            taken = pc.coalesce(taken, single(table[name]))
        table = with_column(table, name, taken)
    if had_boxes[~is_new].any():
        source = f"{manifest.facts.people_source or 'given'}; elsewhere {source}"
    return Manifest(table, replace(manifest.facts, people_source=source))


def check_replaceable(manifest: Manifest) -> None:
    """Refuse new boxes where a box decides which person of an image a row means.

    Raises:
        DataError: Boxes are annotated, also of the only one in an image; or rows of one image have boxes of their
            own. Names the first such image.
    """
    rows = manifest.table.select(["path", "people"]).filter(pa.array(_have_boxes(manifest)))
    if len(rows) and "annotated" in manifest.facts.people_source:
        raise DataError(
            f"boxes are annotated, that of {rows['path'][0].as_py()} among them, and mark the person that a label is "
            "for; new ones would be of anybody whom a detector sees: omit `replace`"
        )
    if len(rows) == len(rows["path"].unique()):
        return
    known: dict[str, Any] = {}
    for path, boxes in zip(rows["path"].to_pylist(), rows["people"].to_pylist(), strict=True):
        if known.setdefault(path, boxes) != boxes:
            raise DataError(
                f"the rows of {path} have boxes of their own, which mark the person that each label is for; new ones "
                "would be the same in all of them: omit `replace`"
            )


def one_row_per_person(manifest: Manifest) -> Manifest:
    """Make a row of every box, in order; a row without a box stays as it is.

    Rows of one image get its path as their group where they had none, so that no later split tears them apart.
    """
    table = manifest.table
    people = single(table["people"])
    counts = lengths_of(people)
    rows = np.repeat(np.arange(len(table)), np.maximum(counts, 1))
    taken = pa.array(rows)
    parted = table.take(taken)
    boxes = list_array(people.flatten(), counts[rows] > 0, mask=people.is_null().take(taken))
    parted = with_column(parted, "people", boxes)
    parted = with_column(parted, "group", pc.coalesce(parted["group"], parted["path"]))
    return Manifest(parted.combine_chunks(), manifest.facts)


def count_people(manifest: Manifest) -> Population:
    """Count images and boxes."""
    table = manifest.table
    marks = {
        "path": table["path"],
        "people": _have_boxes(manifest),
        "reason": pc.is_valid(table["people_reason"]),
        "searched": was_searched(manifest),
    }
    sums = [(name, "any") for name in ("people", "reason", "searched")]
    each = pa.table(marks).group_by("path").aggregate([*sums, ("path", "count")])
    people, reason, searched = (each[f"{name}_any"].to_numpy() for name, _ in sums)
    rows = each["path_count"].to_numpy()
    return Population(
        pictures=len(people),
        with_people=int(people.sum()),
        without=int((searched & ~people).sum()),
        unread=int((reason & ~searched & ~people).sum()),
        unasked=int((~searched & ~reason & ~people).sum()),
        boxes=int(lengths_of(table["people"]).sum()),
        rows=len(table),
        shared=int(rows[rows > 1].sum()),
    )
