"""The columns of a manifest: their Arrow types, how they are built from Python values, and how they are read."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from uniemox.errors import DataError
from uniemox.wording import reason_of

_WORDS: Final = ("scene", "facial_expression", "human_action")
_LIGHT: Final = ("brightness", "colorfulness")
_BOX: Final = ("x0", "y0", "x1", "y1", "score")
VAD: Final = ("valence", "arousal", "dominance")

SCHEMA: Final = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("split", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("label", pa.int16()),
        pa.field("label_set", pa.list_(pa.int16())),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("hash", pa.string()),
        pa.field("group", pa.string()),
        pa.field(
            "attributes",
            pa.struct(
                [
                    *(pa.field(name, pa.float64()) for name in _LIGHT),
                    *(pa.field(name, pa.string()) for name in _WORDS),
                    pa.field("objects", pa.list_(pa.string())),
                ]
            ),
        ),
        pa.field("people", pa.list_(pa.struct([pa.field(name, pa.float64()) for name in _BOX]))),
        pa.field("people_reason", pa.string()),
        pa.field("distribution", pa.list_(pa.float32())),
        pa.field("vad", pa.struct([pa.field(name, pa.float32()) for name in VAD])),
        pa.field("source", pa.dictionary(pa.int32(), pa.string())),
    ]
)  # Names and types of the columns, in order


@dataclass(frozen=True)
class Box:
    """Where a person is, in pixels of the upright image; x1 and y1 lie outside."""

    x0: float
    y0: float
    x1: float
    y1: float
    score: float | None = None


@dataclass(frozen=True)
class Attributes:
    """What a data set records about an image besides its emotion (EmoSet's six attributes)."""

    brightness: float | None = None  # 0 (dark) to 1
    colorfulness: float | None = None  # 0 (grey) to 1
    scene: str | None = None
    facial_expression: str | None = None
    human_action: str | None = None
    objects: tuple[str, ...] = ()


def build_column(name: str, values: Sequence[Any] | np.ndarray | None, count: int) -> pa.Array:
    """Make a column of values, or of nulls; an array's label of -1 is null. What does not fit raises `DataError`."""
    kind = SCHEMA.field(name).type
    if values is None:
        return pa.nulls(count, kind)
    if name == "label" and isinstance(values, np.ndarray):
        return pa.array(values, mask=values < 0).cast(kind)
    if name in _PLAIN:
        values = [None if value is None else _PLAIN[name](value) for value in values]
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, OverflowError, UnicodeError) as error:
        raise DataError(f"column {name} cannot hold its values: {reason_of(error)}") from error


def _plain_attributes(known: Attributes) -> dict[str, Any] | None:
    entries = vars(known)
    absent = {name: entries[name] or None for name in (*_WORDS, "objects")}
    return None if known == Attributes() else entries | absent


_PLAIN: Final[Mapping[str, Callable[[Any], Any]]] = {
    "attributes": _plain_attributes,
    "people": lambda boxes: [vars(box) for box in boxes],
    "vad": lambda ratings: dict(zip(VAD, ratings, strict=True)),
}  # What Arrow takes in the place of a value


def attributes_of(entry: Mapping[str, Any] | None) -> Attributes:
    """Read the attributes of a row; a number that is not finite is not known."""

    def is_known(value: Any) -> bool:
        return value is not None and not (isinstance(value, float) and not math.isfinite(value))

    known = {name: value for name, value in (entry or {}).items() if is_known(value)}
    return Attributes(**known | {"objects": tuple(known.get("objects", ()))})


def boxes_of(entries: Sequence[Mapping[str, float | None] | None] | None) -> tuple[Box, ...]:
    """Read the boxes of a row; a corner that is null or infinite is NaN, which lies in no image."""
    boxes = []
    for entry in entries or ():
        *corners, score = ((entry or {}).get(name) for name in _BOX)
        x0, y0, x1, y1 = (math.nan if end is None or not math.isfinite(end) else end for end in corners)
        boxes.append(Box(x0, y0, x1, y1, None if score is None or not math.isfinite(score) else score))
    return tuple(boxes)


def labels_of(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Read labels as int64, -1 for none."""
    return to_numpy(column.cast(pa.int64()).fill_null(-1))


def lengths_of(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Count the values of each list, (N,); 0 where it is null."""
    return to_numpy(pc.list_value_length(column).fill_null(0))


def to_numpy(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Convert numbers or truth values."""
    return cast("np.ndarray", single(column).to_numpy(zero_copy_only=False))


def single(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Make one array of a column; free where it is one chunk already."""
    if isinstance(column, pa.Array):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def with_column(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Replace a column by values, one for each row."""
    place = SCHEMA.get_field_index(name)
    return table.set_column(place, SCHEMA.field(place), values.cast(SCHEMA.field(place).type))


def list_array(values: pa.Array, lengths: np.ndarray, *, mask: pa.Array | None = None) -> pa.Array:
    """Make lists of the next values each, (N,) lengths of them; null where the mask is true."""
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), values, mask=mask)
