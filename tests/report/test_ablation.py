import json

import numpy as np
import pytest
import yaml

from uniemox.config.ablate import AblateConfig
from uniemox.errors import DataError
from uniemox.report.ablation import grid_page, grid_to_dict, list_grid_sheets
from uniemox.report.page import render
from uniemox.train.ablate import compare_grid, run_grid
from uniemox.train.grid import read_grid

SHARES = {"plain": 0.5, "good": 0.8, "same": 0.5}
TREE = {
    "seeds": [0, 1],
    "probe": {"backbone": "clip:demo"},
    "finetune": {"preset": "demo", "pool": "mean", "head": "random"},
    "tests": {"unseen": "unseen.parquet"},
    "arms": {
        "plain": {},
        "good": {"finetune": {"drop_path": 0.5}},
        "same": {"finetune": {"drop_path": 0.2}, "probe": False},
    },
}


@pytest.fixture
def grid(tmp_path):
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(TREE, sort_keys=False))
    given = {"grid": str(tmp_path / "grid.yaml"), "out": tmp_path / "runs", "data": tmp_path / "own.parquet"}
    return read_grid(AblateConfig(**given))


@pytest.fixture
def done(grid, store, heard, tmp_path):
    """Do the grid by writing answers, of which a share is right that is the arm's; the last probe fails."""

    def execute(step):
        out = step.config.out
        arm, seed = out.parent.parent.name, int(out.parent.name)
        if step.command == "probe" and (arm, seed) == ("good", 1):
            raise DataError("no such image")
        right = np.random.default_rng(seed).random(60) < SHARES[arm]
        made = {"settings": {"seed": seed, "drop_path": step.config.drop_path}} if step.name == "finetune" else {}
        store(str(out.relative_to(tmp_path)), right, **made)

    run_grid(grid.runs, execute, heard)
    return grid


def table(sheet):
    return {str(row[0]): dict(zip(sheet.heads[1:], row[1:], strict=True)) for row in sheet.rows}


def test_the_overview_has_a_row_for_each_arm_and_a_column_for_each_test(done):
    overview = table(list_grid_sheets(compare_grid(done))[0])
    assert list(overview) == ["plain", "good", "same"]
    assert list(overview["plain"]) == [
        f"{step}, {test}: top-1 %" for step in ("probe", "finetune") for test in ("test", "unseen")
    ]
    assert overview["plain"]["finetune, test: top-1 %"].note == ""
    assert overview["good"]["finetune, unseen: top-1 %"].note.startswith("+")
    assert str(overview["same"]["probe, test: top-1 %"]) == "–"


def test_the_scores_are_the_means_over_seeds(done):
    overview = table(list_grid_sheets(compare_grid(done))[0])
    for arm, share in SHARES.items():
        mean = np.mean([np.random.default_rng(seed).random(60) < share for seed in (0, 1)])
        assert overview[arm]["finetune, test: top-1 %"].text.startswith(f"{100 * mean:.1f} ±")


def test_equal_answers_differ_by_nothing(done):
    found = compare_grid(done).comparisons["finetune, test"]
    (same,) = (arm for arm in found.compared if arm.name == "same")
    assert same.differences["top1"].value == 0


def test_what_failed_is_a_row_with_its_reason_and_counts_nothing(done):
    found = compare_grid(done)
    runs = {(str(row[0]), str(row[1])): [str(cell) for cell in row[2:]] for row in list_grid_sheets(found)[1].rows}
    assert runs["good", "1"] == ["failed: probe", "finetune 0 s, finetune-unseen 0 s"]
    assert list_grid_sheets(found)[1].note.endswith(" good, seed 1, probe: no such image.")
    assert runs["plain", "0"][0] == "done"
    good = next(arm for arm in found.comparisons["probe, test"].arms if arm.name == "good")
    assert len(good.tested) == 1


def test_each_test_has_the_tables_of_a_comparison(done):
    titles = [sheet.title for sheet in list_grid_sheets(compare_grid(done))]
    assert titles[:2] == ["Overview", "Runs"]
    assert "finetune, unseen: differences from plain" in titles


def test_json_holds_every_comparison_and_every_run(done):
    data = json.loads(json.dumps(grid_to_dict(compare_grid(done)), allow_nan=False))
    assert list(data["tests"]) == ["probe, test", "probe, unseen", "finetune, test", "finetune, unseen"]
    assert [(run["arm"], run["seed"]) for run in data["runs"]][:3] == [("plain", 0), ("good", 0), ("same", 0)]
    assert data["runs"][4]["failures"] == {"probe": "no such image"}


def test_the_page_has_all_tables(done):
    page = render(grid_page(compare_grid(done), title="Grid of drop path"))
    assert all(text in page for text in ("Grid of drop path", "Overview", "no such image", "finetune, unseen: scores"))


def test_a_grid_without_a_finished_step_is_refused(grid):
    with pytest.raises(DataError, match="nothing is finished of grid grid: run it, or"):
        compare_grid(grid)


def test_where_the_base_is_not_finished_nothing_is_said_to_differ_from_it(grid, store, heard, tmp_path):
    def execute(step):
        if step.config.out.parent.parent.name == "plain":
            raise DataError("no such image")
        store(str(step.config.out.relative_to(tmp_path)), np.arange(60) % 2 == 0)

    run_grid(grid.runs, execute, heard)
    overview = table(list_grid_sheets(compare_grid(grid))[0])
    assert [str(cell) for cell in overview["plain"].values()] == ["–"] * 4
    assert all(cell.note == "" for row in overview.values() for cell in row.values())


def test_reports_that_cannot_be_read_are_no_column_of_the_overview(done):
    for path in done.runs[0].folder.parents[1].glob("*/*/probe/report.json"):
        path.write_text("{}")
    overview, *others = list_grid_sheets(compare_grid(done))
    assert [head for head in overview.heads if head.startswith("probe")] == ["probe, unseen: top-1 %"]
    (compared,) = (sheet for sheet in others if sheet.title == "probe, test: compared")
    assert all("cannot be read" in str(cell) for _, *_, cell in compared.rows)
