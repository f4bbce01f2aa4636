"""Columns of a manifest, built and read."""

import math
import time

import numpy as np
import pyarrow as pa
import pytest

from uniemox.errors import DataError
from uniemox.manifests.columns import build_column, with_column
from uniemox.manifests.table import SCHEMA, Attributes, Manifest, read_manifest, write_manifest


def test_every_other_column_is_kept_too(tmp_path, toy):
    given = {
        "width": [4, None, 6],
        "height": [7, 8, None],
        "hash": ["aa", None, "bb"],
        "group": ["clip 1", "clip 1", None],
        "distribution": [[0.5, 0.25, 0.25], None, [1, 0, 0]],
    }
    plurals = {"hash": "hashes"}
    others = {plurals.get(name, f"{name}s"): values for name, values in given.items()}
    manifest = toy.make(tmp_path, 3, vad=[(1.0, 2.0, None), None, (3.5, 4.5, 5.5)], **others)
    write_manifest(manifest, tmp_path / "m.parquet")
    table = read_manifest(tmp_path / "m.parquet").table
    assert table.schema.equals(SCHEMA)
    assert {name: table[name].to_pylist() for name in given} == given
    assert table["vad"].to_pylist() == [
        {"valence": 1.0, "arousal": 2.0, "dominance": None},
        None,
        {"valence": 3.5, "arousal": 4.5, "dominance": 5.5},
    ]


def test_what_no_importer_writes_is_read_without_an_error(tmp_path, toy):
    corners = {"x0": 1.0, "y0": None, "x1": 3.0, "y1": 4.0, "score": math.nan}
    known = {"brightness": math.nan, "colorfulness": 0.5, "scene": "", "objects": ["a", None]}
    table = toy.make(tmp_path, 2).table
    for name, entries in {"people": [[corners, None], None], "attributes": [known, None]}.items():
        table = with_column(table, name, pa.array(entries, SCHEMA.field(name).type))
    manifest = Manifest(table, toy.facts_at(tmp_path))
    (first, nothing), none = manifest.row(0).boxes, manifest.row(1).boxes
    assert (first.x0, math.isnan(first.y0), first.x1, first.y1, first.score) == (1, True, 3, 4, None)
    assert all(map(math.isnan, (nothing.x0, nothing.y0, nothing.x1, nothing.y1)))
    assert (nothing.score, none) == (None, ())
    assert manifest.row(0).attributes == Attributes(colorfulness=0.5, scene="", objects=("a", None))
    assert manifest.row(1).attributes == Attributes()


def test_labels_may_be_given_as_an_array(tmp_path, toy):
    labels = np.array([2, -1, 0])
    assert toy.make(tmp_path, 3, labels=labels).labels.tolist() == [2, -1, 0]
    assert toy.make(tmp_path, 3, labels=labels).row(1).label is None


def test_a_row_is_built_without_a_walk_over_the_table(tmp_path, toy):
    manifest = toy.make(tmp_path, 2000)
    manifest.row(0)
    best = min(timed(lambda: [manifest.row(i) for i in range(2000)]) for _ in range(3))
    assert best / 2000 < 500e-6  # about 10 when this was written, 50 where coverage traces each line


def timed(function):
    start = time.process_time()  # not the clock on the wall: others may be at work
    function()
    return time.process_time() - start


@pytest.mark.parametrize(
    ("name", "value"), [("label", 40_000), ("label", "joy"), ("width", 2**40), ("path", 3), ("path", "\ud800")]
)
def test_a_value_that_its_column_cannot_hold_is_an_error_of_the_data(name, value):
    with pytest.raises(DataError, match=f"column {name} cannot hold its values"):
        build_column(name, [value], 1)
