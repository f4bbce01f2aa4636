from types import SimpleNamespace

import numpy as np
import pytest

from uniemox.audit.leaks import Leak
from uniemox.inference.transfer import Cell, Transfer
from uniemox.report.page import render
from uniemox.report.sheets import to_latex, to_markdown
from uniemox.report.transfer import list_remarks, make_sheet, transfer_page
from uniemox.targets.bridges import Bridged
from uniemox.targets.distribution import Distribution
from uniemox.targets.scores import Baseline
from uniemox.targets.single_label import SingleLabel

CLASSES = ("awe", "fear")
LEAKS = (
    Leak("a.png", "b.png", 1.0, "the same bytes"),
    Leak("c.png", "b.png", 0.86, "likeness 0.86"),
    Leak("d.png", "b.png", 0.91, "likeness 0.91, mirrored"),
)


def scored(right, **changes):
    """Scores of ten answers, of which so many are right."""
    numbers = np.where(np.arange(10)[:, None] < right, [0.9, 0.1], [0.1, 0.9])
    scores = SingleLabel(CLASSES).score_numbers(numbers, np.zeros(10, int))
    return type(scores)(**vars(scores) | changes)


@pytest.fixture
def found():
    bridged = Bridged("data", CLASSES, {"awe": "awe"}, {"Awe": "awe"}, {"joy": "is lost"}, {"sad": "is lost"}, "a", "b")
    bridged = bridged.__class__(**vars(bridged) | {"rows_of": {"sad": 3}, "num_dropped": 3, "num_rows": 13})
    worth = Baseline("majority", {"top1": 0.5}, "a note")
    cells = (
        Cell("demo", "own", scored(8)),
        Cell("demo", "other", scored(6, bridged=bridged, baselines=(worth,)), leaks=LEAKS),
        Cell("clip:demo", "own", scored(7), unknown=("training data of clip:demo not at hand",)),
        Cell("clip:demo", "other", reason="it has no classes"),
    )
    return Transfer("test", None, {"own": SimpleNamespace(), "other": SimpleNamespace()}, cells, ("A note of all.",))


def test_the_matrix_has_a_row_for_each_model_and_a_column_for_each_data_set(found):
    matrix = make_sheet(found)
    assert matrix.title == "Transfer: top-1 %"
    assert matrix.heads == ["", "own", "other"]
    assert [[cell.text for cell in row] for row in matrix.rows] == [
        ["demo", "80.0", "60.0*"],
        ["clip:demo", "70.0", "–*"],
    ]
    interval = found.cells[0].scores.intervals["top1"]
    assert matrix.rows[0][1].note == f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"
    assert "A note of all." in matrix.note
    assert "Not searched for leaks: training data of clip:demo not at hand." in matrix.note


def test_remarks_name_what_was_dropped_leaked_and_what_majority_is_worth_there(found):
    *_, bridged, gap = list_remarks(found)
    for text in ("sad (3) is lost", "3 of 13 rows are not scored", "joy is lost", "a.png of b.png (the same bytes)"):
        assert text in bridged
    assert "On the same rows and classes: majority top-1 0.5000" in bridged
    assert "1 image of the test is a copy of training images, such as a.png" in bridged
    assert "2 images look like training images, be it edited copies or others (likeness 0.86 to 0.91)" in bridged
    assert "most alike are d.png and b.png (likeness 0.91, mirrored)" in bridged
    assert bridged.startswith("* demo on other, 10 images: Bridged")
    assert gap == "* clip:demo on other: it has no classes."


def test_another_metric_is_shown_where_it_exists(found):
    asked = Transfer("test", "macro_f1", found.data, found.cells)
    assert make_sheet(asked).title == "Transfer: macro F1 %"
    unknown = Transfer("test", "kl", found.data, found.cells)
    assert {cell.text for row in make_sheet(unknown).rows for cell in row[1:]} == {"–", "–*"}


def test_cells_name_their_metric_where_models_differ_in_it(found):
    shares = np.array([[0.7, 0.3], [0.4, 0.6]])
    cells = (found.cells[0], Cell("shares", "own", Distribution(CLASSES).score_numbers(shares, shares[::-1])))
    matrix = make_sheet(Transfer("test", None, {"own": SimpleNamespace()}, cells))
    assert matrix.title == "Transfer"
    assert [row[1].note.partition(",")[0] for row in matrix.rows] == ["top-1 %", "KL divergence ↓"]


def test_every_form_has_all_numbers_and_the_remarks(found):
    sheets = [make_sheet(found)]
    for text in (to_markdown(sheets, title="T"), to_latex(sheets), render(transfer_page(found, title="T"))):
        for part in ("80.0", "60.0", "are not scored", "A note of all."):
            assert part in text
