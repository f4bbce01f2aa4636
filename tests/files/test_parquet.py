"""Parquet files of strangers: what is read is what was written, and nothing unfolds beyond its bound."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uniemox.errors import DataError
from uniemox.files import parquet
from uniemox.files.parquet import open_parquet, read_columns


def read(path, names=None):
    with open_parquet(path) as file:
        return read_columns(file, names or file.schema_arrow.names, path)


def some_table(rows=3000):
    generator = np.random.default_rng(0)
    words = [f"{i:x}" * (i % 7) for i in range(rows)]
    lists = [words[i : i + i % 4] for i in range(rows)]
    return pa.table(
        {
            "text": pa.array([None if i % 5 == 0 else word for i, word in enumerate(words)]),
            "split": pa.array(words).dictionary_encode(),
            "number": generator.normal(size=rows),
            "list": pa.array([None if i % 6 == 0 else entry for i, entry in enumerate(lists)], pa.list_(pa.string())),
            "struct": pa.array([{"a": i, "b": word, "c": lists[i]} for i, word in enumerate(words)]),
            "boxes": pa.array([[{"x": float(i)}] * (i % 3) for i in range(rows)]),
        }
    )


@pytest.mark.parametrize("group", [10_000, 700])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_what_is_written_is_read_by_either_way(tmp_path, monkeypatch, group, compression):
    table = some_table()
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=group, compression=compression)
    assert read(tmp_path / "t.parquet").to_pylist() == table.to_pylist()
    chosen = ["struct", "text"]
    assert read(tmp_path / "t.parquet", chosen).to_pylist() == table.select(chosen).to_pylist()
    one_long = pa.table(
        {"text": ["x" * 10_000, *"abc" * 3000], "n": range(9001)}
    )  # the bound is far above what it takes
    pq.write_table(one_long, tmp_path / "l.parquet", row_group_size=group)
    monkeypatch.setattr(parquet, "MAX_UNFOLDED", 10**6)
    monkeypatch.setattr(parquet, "_BATCH_BYTES", 2 * 10**6)
    assert read(tmp_path / "l.parquet").equals(one_long)


def repeated(path, column, *, groups=1):
    with pq.ParquetWriter(path, pa.schema([("c", column.type)]), compression="zstd") as writer:
        for _ in range(groups):
            writer.write_table(pa.table({"c": column}), row_group_size=len(column))


def once(value, kind, count):
    return pa.array([value], kind).take(pa.array(np.zeros(count, np.int32)))


FOLDED = {
    "one long text in a dictionary": lambda: pa.DictionaryArray.from_arrays(
        np.zeros(100_000, np.int32), ["x" * 10_000_000]
    ),
    "a long text in lists": lambda: once([["x" * 50_000] * 20], pa.list_(pa.list_(pa.string())), 2000),
    "numbers in lists": lambda: once([0.0] * 100_000, pa.list_(pa.float64()), 2500),
    "a long text in a struct": lambda: once({"a": "x" * 200_000}, pa.struct([("a", pa.string())]), 5500),
    "long texts without a dictionary": lambda: pa.array(["x" * 20_000_000 + str(i) for i in range(6)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDED)
def test_a_small_file_that_unfolds_to_gigabytes_is_refused_before_it_does(tmp_path, name, run_hostile):
    column = FOLDED[name]()
    repeated(tmp_path / "t.parquet", column, groups=18 if "without" in name else 2)
    assert (tmp_path / "t.parquet").stat().st_size < 2**21
    del column
    script = (
        "import sys; from pathlib import Path; from uniemox.errors import DataError\n"
        "from uniemox.files.parquet import open_parquet, read_columns\n"
        f"path = Path({str(tmp_path / 't.parquet')!r})\n"
        "try:\n    with open_parquet(path) as file: read_columns(file, ['c'], path)\n"
        "except DataError as error: print(error)"
    )
    ended = run_hostile(script)
    assert "unfolds to more than 1,792 MB" in ended.out
    assert ended.peak < 2**32 - 2**30


def test_declared_columns_groups_and_rows_are_bounded(tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({str(i): pa.array([1], pa.int8()) for i in range(5000)}), path)
    with pytest.raises(DataError, match="has 5,000 columns, more than 4,096"):
        read(path)
    pq.write_table(pa.table({"a": range(5000)}), path, row_group_size=1)
    with pytest.raises(DataError, match="has 5,000 groups of rows, more than 4,096"):
        read(path)
    repeated(path, pa.nulls(10**6, pa.bool_()), groups=3)
    monkeypatch.setattr(parquet, "MAX_UNFOLDED", 2 * 10**6)
    with pytest.raises(DataError, match="declares 3,000,000 rows, which its size cannot hold"):
        read(path)


def test_texts_that_are_not_utf_8_are_refused(tmp_path):
    bad = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe"))
    for column in (bad, pa.StructArray.from_arrays([bad], ["a"]), pa.ListArray.from_arrays(pa.array([0, 1]), bad)):
        pq.write_table(pa.table({"c": column}), tmp_path / "t.parquet", store_schema=False)
        with pytest.raises(DataError, match=r"cannot read .* as Parquet"):
            read(tmp_path / "t.parquet")


@pytest.mark.parametrize("dictionary", [True, False])
def test_texts_longer_than_any_cell_are_refused_wherever_they_stand(tmp_path, dictionary):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"c": ["x", "y" * (2**22 + 1)]}), path, use_dictionary=dictionary)
    with pytest.raises(DataError, match=r"a text of 4,194,305 bytes in its column c: drop it"):
        list(parquet.stream_batches(path, 128))


def test_texts_that_repeat_their_start_are_refused_with_advice(tmp_path):
    pq.write_table(
        pa.table({"c": ["x" * 1000] * 3}),
        tmp_path / "t.parquet",
        use_dictionary=False,
        column_encoding={"c": "DELTA_BYTE_ARRAY"},
    )
    with pytest.raises(DataError, match="DELTA_BYTE_ARRAY, which is not read: write it with"):
        read(tmp_path / "t.parquet")


def test_what_is_no_parquet_file_is_said_in_one_line(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text").write_text(json.dumps([1]))
    for name, words in (("pipe", "is not a file"), ("none", "no file at"), ("text", "cannot read .* as Parquet")):
        with pytest.raises(DataError, match=words):
            read(tmp_path / name)


@pytest.mark.parametrize("depth", [50, 500, 5000])
def test_deep_types_are_read_or_refused(tmp_path, depth, run_hostile):
    script = (
        "import sys; from pathlib import Path; from uniemox.errors import DataError; import pyarrow as pa\n"
        "import pyarrow.parquet as pq; from uniemox.files.parquet import open_parquet, read_columns\n"
        f"path, array = Path({str(tmp_path / 't.parquet')!r}), pa.array([1])\n"
        f"for _ in range({depth}): array = pa.StructArray.from_arrays([array], ['a'])\n"
        "pq.write_table(pa.table({'c': array}), path)\n"
        "try:\n    with open_parquet(path) as file: print(len(read_columns(file, ['c'], path)))\n"
        "except DataError as error: print(error)"
    )
    ended = run_hostile(script)
    assert ended.returncode == 0, ended.err
    assert len(ended.out.splitlines()) == 1


def test_texts_that_are_folded_too_closely_are_refused_before_a_page_is_unfolded(tmp_path, monkeypatch):
    """A page of them would be unfolded whole; images, which fold little, may be as many as they are."""
    monkeypatch.setattr(parquet, "_MOST_FOLDED", 2**20)
    path = tmp_path / "t.parquet"
    table = pa.table({"path": ["a.jpg"] * 40, "note": ["x" * 100_000] * 40})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **__: pytest.fail("it was unfolded"))
    with pytest.raises(DataError, match=r"t\.parquet unfolds its column note from [\d,]+ to 4,0[\d,]+ bytes: drop it"):
        list(parquet.stream_batches(path, 10))


def test_images_that_hardly_fold_are_read_however_many(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_MOST_FOLDED", 2**20)
    noise = np.random.default_rng(0).integers(0, 256, (40, 100_000), np.uint8)
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": [row.tobytes() for row in noise]}), path, compression="zstd")
    assert sum(batch.num_rows for batch in parquet.stream_batches(path, 10)) == 40
