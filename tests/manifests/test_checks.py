"""What rows may hold: each column with nulls, numbers that are none, and lists of every wrong length."""

import math
import shutil
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uniemox.errors import DataError
from uniemox.files import parquet
from uniemox.manifests.columns import SCHEMA
from uniemox.manifests.merge import merge_manifests
from uniemox.manifests.shards import write_shards
from uniemox.manifests.table import Manifest, manifest_from_columns, manifest_from_table, read_manifest, write_manifest

BOX = {"x0": 1.0, "y0": 1.0, "x1": 3.0, "y1": 4.0, "score": 0.5}
ATTRIBUTES = {
    "brightness": 0.5,
    "colorfulness": 0.5,
    "scene": "s",
    "facial_expression": "f",
    "human_action": "h",
    "objects": ["a", "b"],
}
VAD = {"valence": 1.0, "arousal": 2.0, "dominance": 3.0}
ODD = (None, math.nan, math.inf, -math.inf, -1.0, 1e308)


def with_each(whole, values, names=None):
    return [whole | {name: value} for name in names or whole for value in values]


REFUSED = {
    "path": [None, "/etc/passwd", "../x", "a/../../b", "a\0b"],
    "split": [None, "", "x" * 256],
    "label": [-1, 3, 32767],
    "label_set": [[None], [0, None], [3], [-1, 0], [0] * 10_001],
    "width": [-1, -(2**31)],
    "height": [-1],
    "attributes": [*with_each(ATTRIBUTES, [["a", None], ["a"] * 10_001], ["objects"])],
    "people": [[BOX] * 10_001],
    "distribution": [[], [0.5, 0.5], [0.25] * 4],
}
UNDERSTOOD = {
    "path": ["a\\b", "a\nb", "..a", "a..b/c", "", "\u202ex"],
    "split": ["x" * 255, "tr\nain", "\u202ex"],
    "label": [None, 0, 2],
    "label_set": [None, [], [0, 1, 2], [0, 0]],
    "width": [None, 0, 2**31 - 1],
    "height": [None, 0, 2**31 - 1],
    "hash": [None, "", "x" * 10_000],
    "group": [None, "", "a/b", "x" * 10_000],
    "attributes": [
        *(None, dict.fromkeys(ATTRIBUTES), ATTRIBUTES | {"objects": []}),
        *with_each(ATTRIBUTES, [None, ""], ["scene", "facial_expression", "human_action"]),
        *with_each(ATTRIBUTES, ODD, ["brightness", "colorfulness"]),
    ],
    "people": [None, [], [None], [dict.fromkeys(BOX)], [BOX] * 50, *([box] for box in with_each(BOX, ODD))],
    "people_reason": [None, "", "x" * 10_000],
    "distribution": [None, [0.0] * 3, *([odd, 0.5, 0.5] for odd in ODD if odd != 1e308)],
    "vad": [None, *with_each(VAD, ODD[:-1])],
    "source": [None, "", "a/b"],
}


def file_of(tmp_path, toy, name, value):
    """A manifest of three rows, of which the second has a value in a column, whatever its writer checks."""
    whole = toy.make(tmp_path, 3)
    field = SCHEMA.field(name)
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    others = whole.table[name].to_pylist()
    values = pa.array([others[0], value, others[2]], kind).cast(field.type)
    table = whole.table.set_column(SCHEMA.get_field_index(name), pa.field(name, field.type), values)
    write_manifest(Manifest(table, whole.facts), tmp_path / "m.parquet")
    return tmp_path / "m.parquet"


@pytest.mark.parametrize(("name", "number"), [(name, n) for name in REFUSED for n in range(len(REFUSED[name]))])
def test_a_value_that_passes_the_type_of_its_column_alone_is_refused_in_one_line(tmp_path, toy, name, number):
    path = file_of(tmp_path, toy, name, REFUSED[name][number])
    with pytest.raises(DataError, match=r"m\.parquet has (a|an|the) .*: prepare it again") as caught:
        read_manifest(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(path))


@pytest.mark.parametrize(("name", "number"), [(name, n) for name in UNDERSTOOD for n in range(len(UNDERSTOOD[name]))])
def test_everything_that_is_done_with_rows_works_with_values_at_the_edge(tmp_path, toy, name, number):
    value = UNDERSTOOD[name][number]
    manifest = read_manifest(file_of(tmp_path, toy, name, value))
    row = manifest.row(1)
    for light in (row.attributes.brightness, row.attributes.colorfulness):
        assert light is None or math.isfinite(light)
    for box in row.boxes:
        corners = (box.x0, box.y0, box.x1, box.y1)
        assert all(math.isfinite(corner) or math.isnan(corner) for corner in corners)
        assert box.score is None or math.isfinite(box.score)
    assert manifest.label_sets.shape == (3, 3)
    assert sum(manifest.split_counts().values()) == 3
    assert manifest.counts()
    other = toy.make(tmp_path / "other", 2)
    merge_manifests([manifest, Manifest(other.table, other.facts)])
    for image in ("000", "001", "002"):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / f"a/{image}.jpg").write_bytes(b"\xff\xd8\xff" + bytes(100))
    with suppress(DataError):  # images that are not there
        write_shards(manifest, tmp_path / "shards")


def test_many_splits_are_refused(tmp_path, toy):
    def cut(count):
        paths, splits = [f"{i}.jpg" for i in range(count)], [f"fold {i}" for i in range(count)]
        return manifest_from_columns(toy.facts_at(tmp_path), paths=paths, splits=splits)

    assert len(cut(256).split_counts()) == 256
    with pytest.raises(DataError, match="the table has 257 splits, more than 256"):
        cut(257)


def test_a_null_within_the_names_of_splits_is_a_row_without_one(tmp_path, toy):
    table = toy.make(tmp_path, 2).table
    splits = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int32()), pa.array(["train", None]))
    field = pa.field("split", splits.type)
    with pytest.raises(DataError, match="a row without split"):
        manifest_from_table(toy.facts_at(tmp_path), table.set_column(1, field, splits))


def test_more_sets_of_labels_than_fit_into_memory_are_refused(tmp_path, toy):
    facts = toy.facts_at(tmp_path, classes=tuple(map(str, range(4096))))
    count = 2**31 // 4096 + 1
    few = manifest_from_columns(facts, paths=["a.jpg"], splits=["train"], label_sets=[[5]])
    many = Manifest(few.table.take(pa.array(np.zeros(count, np.int64))), facts)
    assert few.label_sets.sum() == 1
    with pytest.raises(DataError, match=r"524,289 rows with 4,096 classes are too many for sets of labels"):
        _ = many.label_sets


def test_a_manifest_that_unfolds_beyond_the_bound_is_refused(tmp_path, toy, monkeypatch):
    monkeypatch.setattr(parquet, "MAX_UNFOLDED", 3 * 10**6)
    one = toy.make(tmp_path, 1)
    for count, is_refused in ((1_000, False), (50_000, True)):
        rows = Manifest(one.table.take(pa.array(np.zeros(count, np.int32))), one.facts)
        write_manifest(rows, tmp_path / "m.parquet")
        assert (tmp_path / "m.parquet").stat().st_size < 100_000
        if is_refused:
            with pytest.raises(DataError, match=r"m\.parquet unfolds to more than 3 MB"):
                read_manifest(tmp_path / "m.parquet")
        else:
            assert len(read_manifest(tmp_path / "m.parquet")) == count


@pytest.mark.soak  # its fast relative is the test before it
def test_a_manifest_of_one_megabyte_that_holds_five_million_rows_is_refused_in_bounded_memory(
    tmp_path, toy, run_hostile
):
    row = manifest_from_columns(
        toy.facts_at(tmp_path),
        paths=["a/000.jpg"],
        splits=["train"],
        people=[toy.boxes_of(2) * 8],
        hashes=["0" * 64],
        distributions=[[0.5, 0.25, 0.25]],
    )
    part = Manifest(row.table.take(pa.array(np.zeros(50_000, np.int32))), row.facts)
    path = tmp_path / "m.parquet"
    write_manifest(part, path)
    schema = pq.read_schema(path)
    with pq.ParquetWriter(path, schema, compression="zstd", compression_level=19) as writer:
        for _ in range(100):
            writer.write_table(part.table.replace_schema_metadata(schema.metadata), row_group_size=50_000)
    assert path.stat().st_size < 2 * 10**6
    ended = run_hostile(["data", "show", path])
    assert ended.returncode == 1
    assert "unfolds to more than 1,792 MB, which no list of images of its size does" in ended.err
    assert ended.peak < 2**31
    shutil.rmtree(tmp_path)
