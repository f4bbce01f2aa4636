"""Tables as users have them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uniemox.errors import DataError
from uniemox.importers.tables import batch_records, read_table
from uniemox.manifests.findings import Findings

ROWS = [{"path": "a.jpg", "label": "joy"}, {"path": "b, c.jpg", "label": "fear, of it"}]


def read(path):
    findings = Findings()
    table = read_table(path, findings)
    records = list(table.records)
    return table, records, {problem.kind: problem.count for problem in findings.problems()}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", 'path,label\na.jpg,joy\n"b, c.jpg","fear, of it"\n'),
        ("t.csv", '\ufeffpath,label\r\na.jpg,joy\r\n\r\n"b, c.jpg","fear, of it"'),
        ("t.CSV", "path;label\na.jpg;joy\nb, c.jpg;fear, of it\n"),
        ("t.tsv", "path\tlabel\na.jpg\tjoy\nb, c.jpg\tfear, of it\n"),
        ("t.txt", " path \t label \na.jpg\tjoy\nb, c.jpg\tfear, of it\n"),
        ("t.jsonl", "\n".join(map(json.dumps, ROWS)) + "\n\n"),
        ("t.ndjson", "\ufeff" + "\r\n".join(map(json.dumps, ROWS))),
        ("t.json", json.dumps(ROWS, indent=1)),
    ],
)
def test_every_kind_of_text_gives_the_same_records(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    table, records, problems = read(tmp_path / name)
    assert table.headings == ("path", "label")
    assert [record.cells for record in records] == ROWS
    assert all(name in record.where for record in records)
    assert problems == {}


def test_parquet_gives_records_with_types(tmp_path):
    pq.write_table(pa.Table.from_pylist([{"path": "a.jpg", "n": i} for i in range(150)]), tmp_path / "t.parquet")
    table, records, _ = read(tmp_path / "t.parquet")
    assert table.headings == ("path", "n")
    assert [record.cells["n"] for record in records] == list(range(150))
    assert records[149].where == "row 149 of t.parquet"


@pytest.mark.parametrize(
    ("name", "text", "rows"),
    [
        ("t.csv", "a,b\n1,2\n1\n1,2,3\n", 1),
        ("t.jsonl", '{"a": 1}\n{"a": \n[1]\n', 1),
        ("t.jsonl", '{"a": 1}\nnull\n' + "[" * 100_000, 1),
        ("t.json", '[{"a": 1}, 3, null]', 1),
    ],
)
def test_rows_that_are_none_are_counted(tmp_path, name, text, rows):
    (tmp_path / name).write_text(text)
    _, records, problems = read(tmp_path / name)
    assert len(records) == rows
    assert problems == {"row of unknown form": 2}


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("t.xlsx", b"PK", r"is no table that can be read: give \.csv, \.tsv"),
        ("t.csv", b"", "has no headings"),
        ("t.csv", b"a,b,a\n", "has two columns called a: rename one"),
        ("t.csv", b",,\n", "has no headings"),
        ("t.csv", b"a\n\xff\n", "is not UTF-8 at byte 2: save it as UTF-8"),
        ("t.jsonl", b"", "has no headings"),
        ("t.json", b"{", "is no list of rows"),
        ("t.parquet", b"PAR1", "cannot read .*get the file again"),
        ("t.parquet", b"", "cannot read .*get the file again"),
    ],
)
def test_a_table_that_is_none_is_one_line(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=words) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_missing_table_and_a_folder_are_told(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*absent\.csv: no such file"):
        read(tmp_path / "absent.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=r"folder\.csv is not a file"):
        read(tmp_path / "folder.csv")


def test_a_batch_that_contradicts_itself_is_refused():
    ends = pa.array([0, 2], pa.int32()).buffers()[1]
    text = pa.Array.from_buffers(pa.string(), 1, [None, ends, pa.py_buffer(b"\xff\xff")])
    batch = pa.RecordBatch.from_arrays([text], ["path"])
    with pytest.raises(DataError, match=r"cannot read x\.arrow: .*get the file again"):
        list(batch_records([batch], "x.arrow"))


@pytest.mark.parametrize("name", ["path", "note"])
def test_a_text_that_a_few_bytes_repeat_a_thousand_times_is_refused_in_time(tmp_path, name):
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 5000, pa.int32()), pa.array(["x" * 50_000_000]))
    columns = {"path": pa.array(["a.jpg"] * 5000), "note": pa.array(["b"] * 5000), name: texts}
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns), path, compression="zstd")
    assert path.stat().st_size < 10_000
    with pytest.raises(DataError, match=rf"t\.parquet has a text of 50,000,000 bytes in its column {name}: drop it"):
        read(path)


def test_images_in_a_table_may_be_long_and_repeat(tmp_path):
    images = pa.DictionaryArray.from_arrays(pa.array([0] * 40, pa.int32()), pa.array([b"x" * 10_000_000], pa.binary()))
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": images}), path, compression="zstd")
    assert [len(record.cells["image"]) for record in read_table(path, Findings()).records] == [10_000_000] * 40
