"""Slices of a manifest by a column: which rows have each of its values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from uniemox.errors import DataError
from uniemox.files.parquet import open_parquet, read_columns
from uniemox.manifests.columns import SCHEMA, lengths_of, single, to_numpy
from uniemox.manifests.table import Manifest
from uniemox.wording import listed, nearest, shorten

MAX_SLICES: Final = 50
UNKNOWN: Final = "not known"  # Rows without a value
_QUARTERS: Final = (0.25, 0.5, 0.75)
_FEW: Final = 10  # Whole numbers up to which each is a slice of its own

Flags = npt.NDArray[np.bool]


def slice_rows(manifest: Manifest, column: str, path: Path) -> dict[str, Flags]:
    """Find the rows (N,) of each value of a column, in the order of the values; rows without one come last.

    Texts, truth values and up to ten whole numbers make a slice each, lists one for each value that they hold; other
    numbers are cut in quarters. `label` slices by class, `people` by the number of boxes.

    Args:
        manifest: Rows of the one that was read.
        column: Name of a column of the manifest, of a part of `attributes` or `vad`, or of a column that its file has
            besides.
        path: The file.

    Raises:
        DataError: There is no such column, it holds no value here, too many, or such as make no slices.
    """
    if column == "label":
        found = dict(zip(manifest.facts.classes, manifest.label_sets.T, strict=True))
    elif column == "people":
        found = _by_people(manifest)
    else:
        found = _by_value(_read(manifest, column, path), column)
    found = {name: own for name, own in found.items() if own.any()}
    if not found:
        raise DataError(f"column {column} has no value in the {len(manifest)} rows that are evaluated")
    if len(found) > MAX_SLICES:
        step = f"more than {MAX_SLICES} make no useful table: choose another column, or merge values"
        raise DataError(f"column {column} has {len(found)} values, and {step}")
    rest = ~np.any(list(found.values()), axis=0) | found.pop(UNKNOWN, False)  # some data have it as a text
    return {**found, **({UNKNOWN: rest} if rest.any() else {})}


def _by_people(manifest: Manifest) -> dict[str, Flags]:
    people, counts = manifest.table["people"], lengths_of(manifest.table["people"])
    sought = to_numpy(people.is_valid())
    found = {"nobody": counts == 0, "1 person": counts == 1, "2 people": counts == 2, "3 or more": counts > 2}
    return {name: own & sought for name, own in found.items()}


def _read(manifest: Manifest, column: str, path: Path) -> pa.Array:
    """Read the values of the rows (N,)."""
    parts = {
        part.name: field.name for field in SCHEMA if pa.types.is_struct(field.type) for part in field.type
    }  # such as scene, of attributes
    if column in parts:
        return pc.struct_field(single(manifest.table[parts[column]]), column)
    if column in SCHEMA.names:
        return single(manifest.table[column])
    with open_parquet(path) as file:
        names = file.schema_arrow.names
        if column not in names:
            own = [name for name in names if name not in SCHEMA.names]
            known = ["label", "people", "source", "group", "width", "height", *parts, *own]
            missing = f"{path} has no column {shorten(column)}{nearest(column, known) or '.'}"
            raise DataError(f"{missing} It has {listed(known)}")
        return single(read_columns(file, [column], path)[column]).take(pa.array(manifest.places))


def _by_value(values: pa.Array, column: str) -> dict[str, Flags]:
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    kind = values.type
    if pa.types.is_null(kind):
        return {}
    if pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
        owners, flat = to_numpy(pc.list_parent_indices(values)), pc.list_flatten(values)
        return dict(_each(flat, owners, len(values)))
    if pa.types.is_boolean(kind):
        values = pc.if_else(values, "yes", "no")
    elif pa.types.is_integer(kind) and len(pc.unique(values.drop_null())) <= _FEW:
        order = sorted(pc.unique(values.drop_null()).to_pylist())
        return {str(value): to_numpy(pc.equal(values, value).fill_null(False)) for value in order}
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _by_quarter(to_numpy(values.cast(pa.float64(), safe=False)))
    elif not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise DataError(f"column {column} holds {kind}, which makes no slices: choose texts, numbers or lists of texts")
    return dict(_each(values, np.arange(len(values)), len(values)))


def _each(values: pa.Array, owners: npt.NDArray[Any], count: int) -> Iterator[tuple[str, Flags]]:
    """Yield each text with the rows (N,) that own it, by name; the empty text is none."""
    codes = values.dictionary_encode()
    names: Mapping[int, str] = dict(enumerate(codes.dictionary.to_pylist()))
    places = to_numpy(codes.indices.fill_null(-1))
    for place, name in sorted(names.items(), key=lambda pair: pair[1]):
        if name:
            own = np.zeros(count, dtype=bool)
            own[owners[places == place]] = True
            yield name, own


def _by_quarter(numbers: npt.NDArray[np.float64]) -> dict[str, Flags]:
    known = numbers[np.isfinite(numbers)]
    if not len(known):
        return {}
    edges = np.unique(np.quantile(known, _QUARTERS))
    places = np.where(np.isfinite(numbers), np.searchsorted(edges, numbers), -1)  # an edge is of the lower slice
    quarters = [own for place in range(len(edges) + 1) if (own := places == place).any()]
    for digits in (4, 8, 17):  # times and identifiers differ in their last ones
        ends = [[f"{end:.{digits}g}" for end in (numbers[own].min(), numbers[own].max())] for own in quarters]
        names = [" to ".join(dict.fromkeys(both)) for both in ends]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, quarters, strict=True))
