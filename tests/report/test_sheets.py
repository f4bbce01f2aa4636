import json

import pytest

from uniemox.report.page import Page
from uniemox.report.sheets import Cell, Sheet, head_of, show, show_interval, to_latex, to_markdown, write_sheets
from uniemox.targets.scores import Interval, Metric

SHARE = Metric("top1", "top-1", float)
NUMBER = Metric("mae", "error", float, is_share=False, lower_is_better=True)
SHEETS = [Sheet("Scores", ["", "top-1 %"], [[Cell("a|b_c & 50 %"), Cell("61.2", "−1.0 to 2.0")]], "Ranges are *wide*.")]


@pytest.mark.parametrize(
    ("value", "metric", "sign", "shown"),
    [
        (0.6123, SHARE, False, "61.2"),
        (0.02, SHARE, True, "+2.0"),
        (-0.02, SHARE, True, "−2.0"),
        (-0.0001, SHARE, True, "0.0"),
        (0.5, NUMBER, True, "+0.500"),
    ],
)
def test_numbers_are_shown_in_their_units(value, metric, sign, shown):
    assert show(value, metric, sign=sign) == shown


def test_heads_and_intervals_say_their_units():
    assert (head_of(SHARE), head_of(NUMBER)) == ("top-1 %", "error ↓")
    assert show_interval(Interval(-0.01, 0.02), SHARE, sign=True) == "−1.0 to +2.0"


def test_markdown_is_a_table_whose_text_is_text():
    assert to_markdown(SHEETS, title="a_b").splitlines() == [
        r"# a\_b",
        "",
        "## Scores",
        "",
        "|  | top-1 % |",
        "| --- | ---: |",
        r"| a\|b\_c & 50 % | 61.2 (−1.0 to 2.0) |",
        "",
        r"Ranges are \*wide\*.",
    ]


def test_latex_is_a_table_with_rules_whose_text_is_text():
    text = to_latex(SHEETS)
    assert r"a|b\_c \& 50 \% & 61.2 ($-$1.0 to 2.0) \\" in text.splitlines()
    assert [text.count(rule) for rule in ("\\toprule", "\\midrule", "\\bottomrule", "\\begin{table}")] == [1] * 4
    hostile = Sheet("x", ["", "y"], [[Cell(r"\input{secret}~^#$%&_{}"), Cell("1")]])
    assert r"\textbackslash{}input\{secret\}\textasciitilde{}\textasciicircum{}\#\$\%\&\_\{\}" in to_latex([hostile])


def test_a_name_of_several_lines_stays_in_its_cell():
    broken = Sheet("x", ["", "y"], [[Cell("a\nb"), Cell("1")]])
    assert "| a b | 1 |" in to_markdown([broken], title="x")
    assert "a b & 1" in to_latex([broken])


@pytest.mark.parametrize("name", ["[red]", "*"])
def test_a_name_that_begins_a_row_is_no_argument_of_the_end_of_the_row_before(name):
    lines = to_latex([Sheet("x", ["", "y"], [[Cell("a"), Cell("1")], [Cell(name), Cell("2")]])]).splitlines()
    assert lines[lines.index(r"a & 1 \\") + 1].startswith(f"{{{name[0]}}}")


@pytest.mark.parametrize("ending", [".md", ".tex", ".json", ".html"])
def test_the_ending_names_the_form(tmp_path, ending):
    out = tmp_path / f"new/found{ending}"
    write_sheets([out], SHEETS, title="Found", data={"a": 1}, page=lambda: Page("Found", "lead", []))
    text = out.read_text(encoding="utf-8")
    if ending == ".json":
        assert json.loads(text) == {"a": 1}
    else:
        assert {".md": "# Found", ".tex": "booktabs", ".html": "<h1>Found</h1>"}[ending] in text


def test_a_sheet_is_turned_where_that_is_narrower():
    wide = Sheet("x", ["", "a", "b", "c"], [[Cell("one"), Cell("1", "0 to 2"), Cell("2"), Cell("3")]])
    turned = wide.turned()
    assert turned.heads == ["", "one"]
    assert [[str(cell) for cell in row] for row in turned.rows] == [["a", "1 (0 to 2)"], ["b", "2"], ["c", "3"]]
    assert turned.turned() is turned
