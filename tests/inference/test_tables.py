"""Tables of predictions, in every format, in one go and from parts."""

import csv
import dataclasses
import errno
import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uniemox.checkpoints.facts import ModelFacts
from uniemox.checkpoints.notice import use_notice
from uniemox.errors import DataError
from uniemox.inference import tables
from uniemox.inference.predictor import Prediction
from uniemox.inference.tables import SUFFIXES, about_model, count_rows, form_of, write_predictions
from uniemox.manifests.table import Box
from uniemox.people.boxes import read_boxes
from uniemox.targets.multi_label import MultiLabel
from uniemox.targets.single_label import SingleLabel

CLASSES = ("awe", "fear", "joy")
TARGET = SingleLabel(CLASSES)
BOXES = (Box(4, 6, 20, 38, 0.9), Box(25, 0, 48, 40))
HOSTILE = [
    "plain.png",
    'quo"te.png',
    "com,ma;.png",
    "line\nbreak\r.png",
    "=cmd|' .png",
    "ünïcödé 漢字.png",
    os.fsdecode(b"latin1-\xe9\xff.png"),
]
every_ending = pytest.mark.parametrize("ending", SUFFIXES)


def said(path, generator, box=None):
    """A prediction with random probabilities."""
    shares = generator.dirichlet(np.ones(len(CLASSES))).tolist()
    label = CLASSES[int(np.argmax(shares))]
    found = dict(zip(CLASSES, shares, strict=True))
    answer = {"predicted": label, "confidence": max(shares), "probabilities": found}
    return Prediction(path, answer, box=box)


def failed(path):
    return Prediction(path, None, "empty file")


@pytest.fixture
def hostile():
    """Predictions of files with every kind of name, one of which is no image."""
    generator = np.random.default_rng(0)
    rows = [said(Path("folder") / name, generator) for name in HOSTILE]
    return [*rows, failed(Path("folder/bad.png"))]


def test_a_table_of_commas_keeps_every_name(hostile, tmp_path):
    out = tmp_path / "table.csv"
    assert write_predictions(hostile, out, TARGET) == len(hostile)
    with out.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "predicted", "confidence", "p_awe", "p_fear", "p_joy", "reason"]
    assert [row["path"] for row in rows] == [str(prediction.path) for prediction in hostile]
    for row, prediction in zip(rows[:-1], hostile, strict=False):
        assert row["predicted"] == prediction.predicted
        assert float(row["p_fear"]) == prediction.probabilities["fear"]
        assert row["reason"] == ""
    assert list(rows[-1].values())[1:] == ["", "", "", "", "", "empty file"]


def test_lines_of_json_keep_every_name(hostile, tmp_path):
    out = tmp_path / "table.JSONL"
    assert write_predictions(hostile, out, TARGET) == len(hostile)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows == [prediction.to_dict() for prediction in hostile]
    assert rows[-1] == {
        "path": str(hostile[-1].path),
        "predicted": None,
        "confidence": None,
        "probabilities": None,
        "reason": "empty file",
        "box": None,
    }


def test_parquet_keeps_types_and_every_name_that_is_text(hostile, tmp_path):
    out = tmp_path / "table.parquet"
    assert write_predictions(iter(hostile), out, TARGET) == len(hostile)
    table = pq.read_table(out)
    assert [str(field.type) for field in table.schema] == ["string"] * 2 + ["double"] * 4 + ["string"]
    paths = table["path"].to_pylist()
    assert paths[:6] == [str(prediction.path) for prediction in hostile[:6]]
    assert paths[6].endswith("latin1-\ufffd\ufffd.png")
    assert table["confidence"].to_pylist() == [prediction.confidence for prediction in hostile]


@pytest.mark.parametrize("target", [TARGET, MultiLabel(CLASSES)])
@pytest.mark.parametrize("people", [False, True])
def test_a_column_keeps_its_type_where_every_row_lacks_it(tmp_path, people, target):
    out = tmp_path / "table.parquet"
    write_predictions([failed(Path("a")), failed(None)], out, target, people=people)
    found = pq.read_table(out)
    write_predictions([], tmp_path / "empty.parquet", target, people=people)
    assert found.schema == pq.read_schema(tmp_path / "empty.parquet")
    assert pa.null() not in found.schema.types
    assert found["confidence"].null_count == 2


@every_ending
def test_an_image_without_a_path_has_an_empty_cell(tmp_path, ending):
    out = tmp_path / f"table{ending}"
    generator = np.random.default_rng(0)
    write_predictions([said(None, generator), said(Path("a"), generator)], out, TARGET)
    match ending:
        case ".csv":
            with out.open(newline="") as file:
                assert [row["path"] for row in csv.DictReader(file)] == ["", "a"]
        case ".jsonl":
            rows = [json.loads(line) for line in out.read_text().splitlines()]
            assert [row["path"] for row in rows] == [None, "a"]
        case _:
            assert pq.read_table(out)["path"].to_pylist() == [None, "a"]


@every_ending
def test_an_empty_table_has_its_columns(tmp_path, ending):
    out = tmp_path / f"table{ending}"
    assert write_predictions([], out, TARGET) == 0
    if ending == ".csv":
        assert out.read_text().strip() == "path,predicted,confidence,p_awe,p_fear,p_joy,reason"
    if ending == ".parquet":
        assert pq.read_table(out).num_columns == 7


@every_ending
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_table_is_whole_or_not_there(hostile, tmp_path, ending, error):
    out = tmp_path / f"table{ending}"
    out.write_text("the old table")

    def broken():
        yield hostile[0]
        raise error

    expected = DataError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as told:
        write_predictions(broken(), out, TARGET)
    if expected is DataError:
        assert str(told.value) == (
            f"{out} cannot be written: no space is left on the device. Free space or choose another `out`"
        )
    assert out.read_text() == "the old table"
    assert {path.name for path in tmp_path.iterdir()} == {out.name}


def test_another_ending_is_refused(tmp_path):
    for name, told in (("table.xlsx", r"ends in \.xlsx"), ("table", "ends in nothing")):
        with pytest.raises(DataError, match=rf"{told}, but must end in \.csv, \.jsonl or \.parquet"):
            write_predictions([], tmp_path / name, TARGET)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_made(hostile, tmp_path):
    out = tmp_path / "none" / "below" / "table.csv"
    assert write_predictions(hostile, out, TARGET) == len(hostile)
    assert out.exists()


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file is a file, not a folder\. Choose another `out`"):
        write_predictions([], tmp_path / "file" / "table.csv", TARGET)


def test_a_folder_that_may_not_be_written_to_is_no_matter_of_space(tmp_path, monkeypatch):
    def refuse(self, *args, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match="permission denied in the folder") as told:
        write_predictions([], tmp_path / "table.csv", TARGET)
    assert "space" not in str(told.value)


# People


@every_ending
def test_tables_carry_the_boxes(tmp_path, ending):
    generator = np.random.default_rng(0)
    path = Path("a.png")
    rows = [said(path, generator, box) for box in (*BOXES, None)]
    out = tmp_path / f"table{ending}"
    write_predictions(rows, out, TARGET, people=True)
    if ending == ".jsonl":
        found = [json.loads(line)["box"] for line in out.read_text().splitlines()]
        assert found[0] == {"x0": 4, "y0": 6, "x1": 20, "y1": 38, "score": 0.9}
        assert found[1]["score"] is None
        assert found[2] is None
        return
    names = ["x0", "y0", "x1", "y1", "box_score"]
    if ending == ".parquet":
        found = pq.read_table(out).to_pylist()
    else:
        with out.open(newline="") as file:
            read = list(csv.DictReader(file))
        found = [{k: float(row[k]) if row[k] else None for k in names} for row in read]
    assert [found[0][name] for name in names] == [4, 6, 20, 38, 0.9]
    assert [found[1][name] for name in names] == [25, 0, 48, 40, None]
    assert [found[2][name] for name in names] == [None] * 5


def test_a_table_of_people_is_a_file_of_their_boxes(tmp_path):
    generator = np.random.default_rng(0)
    a, b, c = map(Path, ("a.png", "b.png", "c.png"))
    rows = [said(a, generator), *(said(a, generator, box) for box in BOXES)]
    out = tmp_path / "table.csv"
    write_predictions([*rows, said(b, generator), failed(c)], out, TARGET, people=True)
    read = read_boxes(out)
    assert read.people == {"a.png": [*BOXES], "b.png": []}
    assert [problem.kind for problem in read.problems] == ["image that could not be read"]


# Parts


def many(count, seed=0):
    """Rows of people in images with names of every kind, some of which are unreadable."""
    generator = np.random.default_rng(seed)
    for index in range(count):
        path = Path(f"{index}-{HOSTILE[index % len(HOSTILE)]}")
        if index % 5 == 4:
            yield failed(path)
        else:
            yield said(path, generator, BOXES[0] if index % 3 else None)


@every_ending
@pytest.mark.parametrize("people", [False, True])
@pytest.mark.parametrize("cuts", [(), (1,), (0, 7, 7, 40), tuple(range(97))])
def test_joined_parts_are_the_table_of_one_go(tmp_path, monkeypatch, ending, people, cuts):
    monkeypatch.setattr(tables, "_ROWS_IN_PYTHON", 5)
    monkeypatch.setattr(tables, "_ROWS_IN_GROUP", 16)
    form = form_of(Path(f"t{ending}"), TARGET, people=people)
    rows = list(many(97))
    assert form.write(rows, tmp_path / "whole") == 97
    parts = []
    for start, stop in zip((0, *cuts), (*cuts, 97), strict=True):
        parts.append(tmp_path / f"part-{len(parts)}")
        assert form.write(rows[start:stop], parts[-1]) == stop - start
    form.join(parts, tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == (tmp_path / "whole").read_bytes()


def test_small_parts_do_not_make_small_row_groups(tmp_path):
    form = form_of(Path("t.parquet"), TARGET)
    rows, part = list(many(1000)), tmp_path / "part"
    form.write(rows, part)
    form.join([part] * 100, tmp_path / "joined")
    file = pq.ParquetFile(tmp_path / "joined")
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert sizes == [65_536, 34_464]


@every_ending
def test_memory_stays_flat_however_long_the_table(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(tables, "_ROWS_IN_PYTHON", 50)
    monkeypatch.setattr(tables, "_ROWS_IN_GROUP", 200)
    write_predictions(many(300), tmp_path / f"warm{ending}", TARGET)
    peaks = []
    for count in (400, 3000):
        before = pa.total_allocated_bytes()
        tries = []
        for _ in range(3):  # since Python's table of interned texts, as parts of paths are, grows now and then by 2 MB
            tracemalloc.start()
            write_predictions(many(count), tmp_path / f"t{ending}", TARGET)
            tries.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        peaks.append(min(tries))
        assert pa.total_allocated_bytes() <= before + 2**20
    assert peaks[1] < 1.5 * peaks[0] + 2**18


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_table_says_where_a_frame_and_a_row_come_from(tmp_path, suffix):
    answer = {"predicted": "awe", "confidence": 0.75, "probabilities": {"awe": 0.75, "fear": 0.25}}
    rows = [
        Prediction(Path("x.mp4"), answer, time=1.5),
        Prediction(Path("a.png"), None, "empty file", row=3),
        Prediction(Path("b.png"), answer),
    ]
    out, target = tmp_path / f"t{suffix}", SingleLabel(("awe", "fear"))
    form = form_of(out, target, times=True, rows=True)
    assert [column.name for column in form.columns][:3] == ["path", "row", "time"]
    assert form.write(rows, out) == 3
    match suffix:
        case ".csv":
            found = [line.split(",")[:3] for line in out.read_text().splitlines()[1:]]
            assert found == [["x.mp4", "", "1.5"], ["a.png", "3", ""], ["b.png", "", ""]]
        case ".jsonl":
            found = [json.loads(line) for line in out.read_text().splitlines()]
            assert [(row.get("row"), row.get("time")) for row in found] == [(None, 1.5), (3, None), (None, None)]
        case _:
            table = pq.read_table(out)
            assert (table["row"].to_pylist(), table["time"].to_pylist()) == ([None, 3, None], [1.5, None, None])
    assert count_rows(out) == (3, 1)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("data", [b"a,b\n1,2\n", b"[]\n", b"\xff\x00", b'{"reason": '])
def test_what_is_no_table_of_predictions_is_not_counted(tmp_path, suffix, data):
    out = tmp_path / f"t{suffix}"
    out.write_bytes(data)
    with pytest.raises(DataError, match=r"exists, but is no table of predictions \(.*`overwrite` replaces it") as error:
        count_rows(out)
    assert "\n" not in str(error.value)


@every_ending
def test_only_parquet_says_which_model_made_it_and_says_so_of_joined_parts_too(tmp_path, ending):
    facts = ModelFacts(
        kind="classifier", size="mini", patch_size=8, image_size=32, dataset="x", emotion="felt", classes=CLASSES
    )
    about = about_model("runs/mine", facts, digest="ab12")
    form = form_of(Path(f"t{ending}"), TARGET, about=about)
    form.write(many(3), tmp_path / "part")
    form.join([tmp_path / "part"], tmp_path / "joined")
    if ending == ".parquet":
        kept = pq.read_schema(tmp_path / "joined").metadata
        assert kept[b"uniemox.notice"].decode() == use_notice(facts)
        assert (kept[b"uniemox.model"], kept[b"uniemox.digest"]) == (b"runs/mine", b"ab12")
        assert kept[b"uniemox.emotion"] == b"felt"
    else:
        form_of(Path(f"t{ending}"), TARGET).write(many(3), tmp_path / "plain")
        assert (tmp_path / "joined").read_bytes() == (tmp_path / "plain").read_bytes()
    assert "notice" not in about_model("m", dataclasses.replace(facts, emotion="evoked"), digest="")
