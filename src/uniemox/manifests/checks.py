"""What the rows of a manifest may hold; checked once, when it is read or made, so that nothing that works on it asks.

A type alone lets much through: a null within a list, a label without a class, a text that is no path.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from uniemox.errors import DataError
from uniemox.manifests.facts import Facts
from uniemox.wording import shorten

_MAX_SPLITS: Final = 256  # Each is counted and selected by itself; train, val, test and folds are far fewer
_MAX_NAME: Final = 255  # Characters of a split's name, which is part of the names of files
_MAX_LIST: Final = 10_000  # Values of one row's list; a row becomes Python objects when it is asked for
_LISTS: Final = {"label_set": "set of labels", "people": "list of people", "distribution": "distribution"}


def check_values(table: pa.Table, facts: Facts, *, where: str) -> None:
    """Refuse rows that contradict the facts or themselves, by a `DataError` that says which."""
    if fault := next(_faults(table, facts), None):
        raise DataError(f"{where} has {fault}: prepare it again")


def _faults(table: pa.Table, facts: Facts) -> Iterator[str]:
    for name in ("path", "split"):
        if table[name].null_count:
            yield f"a row without {name}"
    yield from _split_faults(table["split"])
    yield from _list_faults(table, facts)
    yield from _label_faults(table, facts)
    for name in ("width", "height"):
        low = pc.min(table[name]).as_py()
        if low is not None and low < 0:
            yield f"an image with a {name} of {low} pixels"
    yield from _path_faults(table["path"])


def _split_faults(splits: pa.ChunkedArray) -> Iterator[str]:
    names = splits.cast(pa.string()).unique()
    if len(names) > _MAX_SPLITS:
        yield f"{len(names):,} splits, more than {_MAX_SPLITS}"
        return
    for name in names.to_pylist():
        if not name:
            yield "a row without split"
        elif len(name) > _MAX_NAME:
            yield f"the split {shorten(name)} of {len(name):,} characters, more than {_MAX_NAME}"


def _list_faults(table: pa.Table, facts: Facts) -> Iterator[str]:
    objects = pc.struct_field(table["attributes"], "objects")
    for what, column in (*((what, table[name]) for name, what in _LISTS.items()), ("list of objects", objects)):
        longest = pc.max(pc.list_value_length(column)).as_py() or 0
        if longest > _MAX_LIST:
            yield f"a {what} of {longest:,}, more than {_MAX_LIST:,}"
    for what, column in (("set of labels", table["label_set"]), ("list of objects", objects)):
        if pc.list_flatten(column).null_count:
            yield f"a {what} with nothing in a place"
    lengths = pc.min_max(pc.list_value_length(table["distribution"])).as_py()
    for length in lengths.values():
        if length is not None and length != len(facts.classes):
            yield f"a distribution over {length} classes, but {facts.name} has {len(facts.classes)}"


def _label_faults(table: pa.Table, facts: Facts) -> Iterator[str]:
    for labels in (table["label"], pc.list_flatten(table["label_set"])):
        low, high = pc.min_max(labels).as_py().values()
        if low is not None and not 0 <= low <= high < len(facts.classes):
            yield (
                f"the label {low if low < 0 else high}, but {facts.name} has {len(facts.classes)} classes, labelled "
                "from 0"
            )


def _path_faults(paths: pa.ChunkedArray) -> Iterator[str]:
    # Plain searches pass nearly every table; the exact test runs on the few rows that they leave.
    suspects = paths.filter(pc.or_(pc.match_substring(paths, ".."), pc.starts_with(paths, "/")))
    for suspect in map(PurePosixPath, suspects.to_pylist()):
        if suspect.is_absolute() or ".." in suspect.parts:
            yield f"the path {suspect}, which leaves the root"
    if pc.any(pc.match_substring(paths, "\0")).as_py():
        yield "a path with a zero byte"
