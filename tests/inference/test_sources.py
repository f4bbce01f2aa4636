import json

import pyarrow.parquet as pq
import pytest

from uniemox.inference.sources import read_source, why_different


def val(step, epoch, **scores):
    return {"kind": "val", "step": step, "epoch": epoch, **scores}


LINES = [
    {"kind": "train", "step": 1, "epoch": 1, "loss": 1.0},
    val(5, 1, top1=0.5, macro_f1=0.6),
    val(10, 2, top1=0.75, macro_f1=0.4),
    val(15, 3, top1=0.75, macro_f1=0.5),
]


def test_a_run_is_read_with_its_settings_its_test_and_its_curves(store, tmp_path):
    found = read_source("a", tmp_path / store("a", [1, 1, 0], settings={"seed": 3, "view": "both"}, lines=LINES))
    assert found.seed == "3"
    assert (found.settings["view"], found.settings["optim.epochs"]) == ("both", "100")
    assert not {"seed", "out", "workers"} & found.settings.keys()
    assert found.tested.scores.top1 == pytest.approx(2 / 3)
    assert [line["step"] for line in found.lines] == [1, 5, 10, 15]


@pytest.mark.parametrize(("select_by", "epoch"), [(None, 2), ("macro_f1", 1)])
def test_the_chosen_epoch_is_the_first_of_the_best(store, tmp_path, select_by, epoch):
    folder = store("a", settings={"select_by": select_by}, lines=LINES)
    assert read_source("a", tmp_path / folder).chosen["epoch"] == epoch


def test_no_epoch_is_chosen_where_val_was_never_scored(store, tmp_path):
    assert read_source("a", tmp_path / store("a", settings={}, lines=LINES[:1])).chosen is None


@pytest.mark.parametrize(
    ("settings", "lines", "reason"),
    [
        ({}, [], "the run stopped before its first step"),
        ({}, LINES[:3], "the run stopped after step 10, with 2 of 100 epochs done"),
        ({"test_split": None}, LINES, "test_split is null"),
    ],
)
def test_a_run_without_a_test_says_why(store, tmp_path, settings, lines, reason):
    found = read_source("a", tmp_path / store("a", settings=settings, lines=lines))
    assert found.tested is None
    assert found.reason == f"no test: {reason}"


def test_an_evaluation_has_no_settings(store, tmp_path):
    found = read_source("a", tmp_path / store("a", [1, 0]))
    assert (found.settings, found.seed, found.tested.scores.num_samples) == ({}, "", 2)


def test_other_folders_are_no_source(tmp_path):
    assert read_source("a", tmp_path) is None
    assert read_source("a", tmp_path / "absent") is None


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"classes": ["a"], "target": "unknown"})])
def test_a_damaged_report_is_a_reason(store, tmp_path, text):
    folder = tmp_path / store("a", [1, 0])
    (folder / "report.json").write_text(text)
    found = read_source("a", folder)
    assert found.tested is None
    assert "report.json cannot be read" in found.reason


def test_samples_are_the_same_if_rows_images_and_truths_are(store, tmp_path):
    def table(name, right):
        return pq.read_table(tmp_path / store(name, right) / "predictions.parquet")

    first, second, shorter = table("a", [1, 0, 1]), table("b", [0, 0, 1]), table("c", [1, 0])
    assert why_different(first, second, ["label"]) == ""
    assert why_different(first, shorter, ["label"]) == "2 rows against 3"
    moved = second.set_column(0, "path", second["path"].take([1, 0, 2]))
    assert why_different(first, moved, ["label"]) == "other images"
    relabelled = second.set_column(second.column_names.index("label"), "label", second["label"].take([1, 0, 2]))
    assert why_different(first, relabelled, ["label"]) == "other labels"
    assert why_different(first, second.drop_columns("label"), ["label"]) == "other labels"
