import numpy as np

from uniemox.inference.compare import compare
from uniemox.report.comparison import comparison_page, list_sheets
from uniemox.report.page import render

LINES = [
    *({"kind": "train", "step": step, "epoch": 1, "loss": 1 / step} for step in range(1, 5)),
    {"kind": "val", "step": 2, "epoch": 1, "top1": 0.5, "nll": 1.0},
    {"kind": "val", "step": 4, "epoch": 2, "top1": 0.6, "nll": 0.9},
]


def right(share, seed=0):
    return np.random.default_rng(seed).random(60) < share


def test_the_tables_say_what_differs_what_is_scored_and_what_is_apart(store):
    folders = [
        store(f"{name}/{seed}", right(share, seed), settings={"seed": seed, "drop_path": drop}, lines=LINES)
        for name, drop, share in (("low", 0.1, 0.5), ("high", 0.5, 0.8))
        for seed in (0, 1)
    ]
    compared, scores, apart = list_sheets(compare(folders))
    assert [[str(cell) for cell in row] for row in compared.rows] == [
        ["low (base)", "drop_path 0.1", "0, 1", "2, 2", "60"],
        ["high", "drop_path 0.5", "0, 1", "2, 2", "60"],
    ]
    top1 = [row[scores.heads.index("top-1 %")] for row in scores.rows]
    assert all("±" in cell.text and " to " in cell.note for cell in top1)
    assert "Student's t" in scores.note
    assert apart.title == "Differences from low"
    assert apart.heads[-1] == "p"
    assert [str(row[0]) for row in apart.rows] == ["high"]
    assert apart.rows[0][1].text.startswith("+")
    assert "over 60 images and over seeds" in apart.note


def test_p_is_shown_corrected_where_there_are_several(store):
    apart = list_sheets(compare([store(name, right(0.5, place)) for place, name in enumerate("abc")]))[-1]
    assert apart.heads[-2:] == ["p", "p by Holm"]
    assert all(len(row) == len(apart.heads) for row in apart.rows)


def test_one_source_alone_has_no_differences(store):
    found = compare([store("a", right(0.5))])
    assert [sheet.title for sheet in list_sheets(found)] == ["Compared", "Scores"]
    assert "Differences" not in render(comparison_page(found, title="x"))


def test_a_page_shows_the_curves_of_runs_that_died_too(store):
    found = compare([store("a", right(0.5)), store("<b>", settings={}, lines=LINES)])
    page = render(comparison_page(found, title="One & another"))
    assert "One &amp; another" in page
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert "no test: the run stopped after step 4" in page
    assert "a dot marks the epoch that val chose" in page


def test_without_runs_there_are_no_curves(store):
    assert "Curves" not in render(comparison_page(compare([store("a", right(0.5))]), title="x"))
