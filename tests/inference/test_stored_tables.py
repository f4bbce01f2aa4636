"""Tables of predictions are read back as they were written, and whatever else is named like one is refused."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uniemox.errors import DataError
from uniemox.inference.predictor import Prediction
from uniemox.inference.stored_tables import open_stored
from uniemox.inference.tables import SUFFIXES, write_predictions
from uniemox.manifests.table import Box
from uniemox.targets.domain import Domain
from uniemox.targets.multi_label import MultiLabel
from uniemox.targets.single_label import SingleLabel

CLASSES = ("awe", "fear", "joy")
NAMES = ["plain.png", "line\nbreak.png", "com,ma;.png", 'quo"te.png', "漢字.png", os.fsdecode(b"latin1-\xe9.png")]
every_ending = pytest.mark.parametrize("ending", SUFFIXES)


def written(path, target, *, domain=None):
    """A table of an answer to each name, of one of them to a person, and of a failure."""
    logits = np.random.default_rng(0).normal(size=(len(NAMES), 3))
    answers = target.answers(logits)
    if domain:
        answers = [answer | {"out_of_domain": 0.5, "is_unfamiliar": True} for answer in answers]
    boxes = [None, Box(1, 2, 3, 4, 0.5), *[None] * 4]
    rows = [Prediction(Path(name), answer, box=box) for name, answer, box in zip(NAMES, answers, boxes, strict=True)]
    write_predictions(
        [*rows, Prediction(Path("bad.png"), None, "empty file")], path, target, people=True, domain=domain
    )
    return answers


@every_ending
@pytest.mark.parametrize("kind", [SingleLabel, MultiLabel])
def test_what_was_written_is_read(tmp_path, ending, kind):
    path = tmp_path / f"table{ending}"
    answers = written(path, kind(CLASSES), domain=Domain(np.eye(10, dtype=np.float16)))
    table = open_stored(path)
    (batch,) = table.batches()
    (reading,) = table.readings
    shown = [os.fsencode(name).decode("utf-8", "replace") for name in NAMES]
    assert batch["path"].to_pylist() == [*shown, "bad.png"]
    assert batch["predicted"].to_pylist() == [*(answer["predicted"] for answer in answers), None]
    assert batch["reason"].to_pylist() == [None] * 6 + ["empty file"]
    assert batch["x0"].to_pylist() == [None, 1, *[None] * 5]
    assert batch["is_unfamiliar"].to_pylist() == [True] * 6 + [None]
    assert batch["out_of_domain"].to_pylist() == [0.5] * 6 + [None]
    assert batch["time"].null_count == 7
    np.testing.assert_allclose(
        reading.shares(batch)[:6], [list(answer["probabilities"].values()) for answer in answers], rtol=1e-12
    )


@every_ending
def test_a_table_of_failures_alone_names_what_it_has(tmp_path, ending):
    path = tmp_path / f"table{ending}"
    write_predictions([Prediction(Path("bad.png"), None, "empty file")], path, SingleLabel(CLASSES))
    if ending == ".jsonl":  # its rows name no class
        with pytest.raises(DataError, match="not a table of predictions"):
            open_stored(path)
    else:
        assert [batch["predicted"].null_count for batch in open_stored(path).batches()] == [1]


def test_any_other_column_is_read_as_text(tmp_path):
    path = tmp_path / "table.parquet"
    columns = {"path": ["a", "b"], "predicted": ["awe", "awe"], "confidence": [1.0, 1.0], "p_awe": [1.0, 1.0]}
    pq.write_table(pa.table(columns | {"year": [1999, 2001]}), path)
    (batch,) = open_stored(path).batches(["year"])
    assert batch["year"].to_pylist() == ["1999", "2001"]


def test_what_made_a_table_is_kept_and_bounded(tmp_path):
    path = tmp_path / "table.parquet"
    about = {"model": "demo", "notice": "x" * 9000}
    write_predictions([], path, SingleLabel(CLASSES), about=about)
    table = open_stored(path)
    assert table.about["model"] == "demo"
    assert len(table.about["notice"]) <= 600


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        ("a.txt", b"", "those end in .csv, .jsonl, .parquet"),
        ("a.csv", b"", "has no headings"),
        ("a.csv", b"a,a\n", "two columns called a"),
        ("a.csv", b"path,label\nx,awe\n", "it must have the columns path, and predicted"),
        ("a.csv", b"path;predicted;confidence;p_awe\nx;awe;1;1\n", "semicolons separate its cells: save"),
        ("a.csv", b"path\tpredicted\n", "tabs separate its cells"),
        ("a.jsonl", b"", "it has none"),
        ("a.jsonl", b"[1]\n", "a line is no object"),
        ("a.jsonl", b"{\n", "cannot read"),
        ("a.jsonl", b'{"path": "x", "probabilities": 7}\n', "probabilities is no object"),
        ("a.jsonl", b"[" * 100_000 + b"\n", "cannot read"),
        ("a.parquet", b"PAR1 or not", "cannot read"),
    ],
)
def test_what_is_no_table_of_predictions_is_refused_in_one_line(tmp_path, name, data, complaint):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError, match=complaint) as found:
        open_stored(path)
    assert "\n" not in str(found.value)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="no file at"):
        open_stored(tmp_path / "absent.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="is a folder: name the `model`"):
        open_stored(tmp_path / "folder.csv")


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("x,awe,high,1", "confidence that does not hold numbers"),
        ("x,awe,95,.95", "confidence that does not hold probabilities from 0 to 1"),
        ("x,awe,1,-inf", "p_awe that does not hold probabilities"),
        ("x,awe,1", "cannot read"),
        ("x,awe,1,1,1", "cannot read"),
    ],
)
def test_rows_that_hold_something_else_are_refused(tmp_path, row, complaint):
    path = tmp_path / "a.csv"
    path.write_text(f"path,predicted,confidence,p_awe\n{row}\n")
    with pytest.raises(DataError, match=complaint):
        list(open_stored(path).batches())


def test_cells_that_are_no_lists_are_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("path,predicted,likeliest,confidence,p_awe\nx,awe,awe,1,1\n")
    with pytest.raises(DataError, match="predicted that does not hold lists of texts"):
        list(open_stored(path).batches())


def test_a_line_without_an_end_is_not_read_whole(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"path": "' + b"x" * 2**23)
    with pytest.raises(DataError, match="a line is longer than"):
        open_stored(path)
