"""Who is in the rows of a manifest: give boxes to rows, part rows by person, count.

Whole columns stay in Arrow, so that three million rows are a matter of seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from uniemox.data.manifest import SCHEMA, Box, Manifest
from uniemox.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable

FOUND: Final = pa.schema(
    [SCHEMA.field(name) for name in ("people", "people_reason", "width", "height")]
)
"""What is known of a picture after somebody looked for people in it."""


@dataclass(frozen=True)
class Found:
    """What looking for people in one picture came to."""

    boxes: tuple[Box, ...] = ()
    reason: str | None = None
    """Why nobody could look."""
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class Population:
    """How many pictures show people."""

    pictures: int
    """Different files; the next four sum to it."""
    with_people: int
    without: int
    unread: int
    """Nobody could look for people in them."""
    unasked: int
    """Nobody looked."""
    boxes: int
    """Of all rows."""
    rows: int
    shared: int
    """Rows whose picture is that of another row too."""


def to_table(found: Iterable[Found]) -> pa.Table:
    """Make a table in the columns of `FOUND`; where nobody could look, `people` is null."""
    rows: list[dict[str, Any]] = [
        {
            "people": None if one.reason is not None else [vars(box) for box in one.boxes],
            "people_reason": one.reason,
            "width": one.width,
            "height": one.height,
        }
        for one in found
    ]
    return pa.Table.from_pylist(rows, schema=FOUND)


def has_boxes(manifest: Manifest) -> pa.ChunkedArray:
    """Tell of each row whether it has a box."""
    return pc.greater(pc.fill_null(pc.list_value_length(manifest.table["people"]), 0), 0)


def was_searched(manifest: Manifest) -> pa.ChunkedArray:
    """Tell of each row whether somebody looked for people in its picture, and could.

    A manifest that names nobody who looked, and has no box, was not searched: its empty lists are those of an import.
    """
    table = manifest.table
    if _was_never_searched(manifest):
        return pa.chunked_array([np.zeros(len(table), bool)])
    return pc.and_(pc.is_valid(table["people"]), pc.is_null(table["people_reason"]))


def _was_never_searched(manifest: Manifest) -> bool:
    return not manifest.facts.people_source and not pc.any(has_boxes(manifest)).as_py()


def mark_unasked(manifest: Manifest) -> pa.Table:
    """Give the table, in which people are null if nobody ever looked for them.

    Once the facts name somebody who looked, the empty lists of an import would say that nobody was seen.
    """
    table = manifest.table
    if not _was_never_searched(manifest):
        return table
    column = SCHEMA.field("people")
    nothing = pa.nulls(len(table), column.type)
    return table.set_column(table.schema.get_field_index("people"), column, nothing)


def pictures_without_boxes(manifest: Manifest) -> pa.Array:
    """Paths of the rows that have no box, each once, in the order of the table."""
    return pc.unique(manifest.table["path"].filter(pc.invert(has_boxes(manifest))))


def all_pictures(manifest: Manifest) -> pa.Array:
    """Paths of all rows, each once, in the order of the table."""
    return pc.unique(manifest.table["path"])


def assign_people(
    manifest: Manifest, paths: pa.Array, *, found: pa.Table, source: str, replace_boxes: bool
) -> Manifest:
    """Give every row the people that were found in its picture.

    Args:
        manifest: Rows; several may share a picture.
        paths: Pictures that were looked at.
        found: What came out of each, in the columns of `FOUND`.
        source: Who looked.
        replace_boxes: Whether rows that have boxes already get the new ones; else they keep theirs.

    Returns:
        The manifest with boxes, reasons and, where they were not known, sizes; its facts name the source. Rows of a
        manifest that nobody searched before have null for people where nobody looked now either.
    """
    table = mark_unasked(manifest)
    places = pc.index_in(table["path"], value_set=paths)
    if not replace_boxes:
        places = pc.if_else(has_boxes(manifest), pa.scalar(None, pa.int32()), places)
    places = places.combine_chunks()
    is_new = places.is_valid().to_numpy(zero_copy_only=False)
    rows = np.arange(len(table))
    rows[is_new] = len(table) + places.drop_null().to_numpy(zero_copy_only=False)
    for name in FOUND.names:
        both = pa.chunked_array([*table[name].chunks, *found[name].chunks], SCHEMA.field(name).type)
        taken = both.combine_chunks().take(pa.array(rows))
        if name in ("width", "height"):
            taken = pc.coalesce(taken, table[name].combine_chunks())
        table = table.set_column(table.schema.get_field_index(name), SCHEMA.field(name), taken)
    if not is_new.any():
        return manifest
    others = Manifest(manifest.table.filter(pa.array(~is_new)), manifest.facts)
    if pc.any(has_boxes(others)).as_py():
        source = f"{manifest.facts.people_source or 'given'}; elsewhere {source}"
    return Manifest(table, replace(manifest.facts, people_source=source))


def check_replaceable(manifest: Manifest) -> None:
    """Refuse new boxes where a box says which person of a picture a row means.

    Raises:
        DataError: Boxes are annotated, also of the only one in a picture; or rows of one picture have boxes of their
            own. Names the first such picture.
    """
    rows = manifest.table.select(["path", "people"]).filter(has_boxes(manifest))
    if len(rows) and "annotated" in manifest.facts.people_source:
        raise DataError(
            f"boxes are annotated, that of {rows['path'][0].as_py()} among them, and say whose label each row has; new "
            "ones would be of whom a detector sees: leave --replace out"
        )
    if len(rows) == len(rows["path"].unique()):
        return
    known: dict[str, Any] = {}
    for path, boxes in zip(rows["path"].to_pylist(), rows["people"].to_pylist(), strict=True):
        if known.setdefault(path, boxes) != boxes:
            raise DataError(
                f"the rows of {path} have boxes of their own, which say whose label each row has; new ones would be "
                "the same in all of them: leave --replace out"
            )


def one_row_per_person(manifest: Manifest) -> Manifest:
    """Make a row of every box, in order; a row without a box stays as it is.

    Rows of one picture get its path as their group where they had none, so that no later split tears them apart.
    """
    table = manifest.table
    people = table["people"].combine_chunks()
    counts = pc.fill_null(pc.list_value_length(people), 0).to_numpy(zero_copy_only=False)
    rows = np.repeat(np.arange(len(table)), np.maximum(counts, 1))
    ends = np.zeros(len(rows) + 1, np.int32)
    np.cumsum(counts[rows] > 0, out=ends[1:])
    alone = pa.ListArray.from_arrays(
        pa.array(ends),
        people.flatten(),
        type=people.type,
        mask=people.is_null().take(pa.array(rows)),
    )
    parted = table.take(pa.array(rows))
    columns = {
        "people": alone,
        "group": pc.coalesce(parted["group"], parted["path"]).combine_chunks(),
    }
    for name, column in columns.items():
        parted = parted.set_column(parted.schema.get_field_index(name), SCHEMA.field(name), column)
    return Manifest(parted.combine_chunks(), manifest.facts)


def count_people(manifest: Manifest) -> Population:
    """Count pictures and boxes."""
    table = manifest.table
    marks = pa.table(
        {
            "path": table["path"],
            "people": has_boxes(manifest),
            "reason": pc.is_valid(table["people_reason"]),
            "searched": was_searched(manifest),
        }
    )
    each = marks.group_by("path").aggregate(
        [("people", "any"), ("reason", "any"), ("searched", "any"), ("path", "count")]
    )
    people, reason, searched, rows = (
        each[name].to_numpy() for name in ("people_any", "reason_any", "searched_any", "path_count")
    )
    return Population(
        pictures=len(people),
        with_people=int(people.sum()),
        without=int((searched & ~people).sum()),
        unread=int((reason & ~searched & ~people).sum()),
        unasked=int((~searched & ~reason & ~people).sum()),
        boxes=pc.sum(pc.list_value_length(table["people"])).as_py() or 0,
        rows=len(table),
        shared=int(rows[rows > 1].sum()),
    )
