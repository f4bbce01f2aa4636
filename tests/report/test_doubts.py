"""Labels in doubt on a page, made of painted images."""

from dataclasses import replace

import numpy as np
import pytest

from uniemox.audit.audit import Audit
from uniemox.audit.copies import Copies
from uniemox.config.audit import AuditRules
from uniemox.report.doubts import doubts_section, write_doubts_sheet
from uniemox.report.page import Table, TileGroups
from uniemox.targets.single_label import SingleLabel
from uniemox.train.doubts import find_doubts, read_labelled
from uniemox.train.features import Features


class Colours:
    """Features that are the labels, but for some rows."""

    def __init__(self, labels, wrong):
        self.labels = np.where(np.isin(np.arange(len(labels)), wrong), (labels + 1) % 3, labels)

    def features(self, manifest, *, what):
        values = np.eye(3, dtype=np.float32)[self.labels]
        return Features(values, np.arange(len(values)), (None,) * len(values), ())


@pytest.fixture
def doubts(painted):
    manifest = painted.manifest
    result = Audit(("my set",), (manifest,), AuditRules(), Copies([manifest]), (), (), (manifest,))
    maker = Colours(manifest.labels, wrong=[3, 30])
    (found,) = find_doubts([read_labelled("my set", manifest, SingleLabel())], result, maker)
    return found


def test_the_section_shows_the_first_rows_and_what_they_are_taken_for(doubts):
    section = doubts_section(doubts)
    comparison, pairs, classes = section.blocks
    assert isinstance(comparison, TileGroups)
    first = {tile.name for tile in comparison.groups[0].tiles[:2]}
    paths = doubts.of.manifest.table["path"]
    assert first == {paths[3].as_py(), paths[30].as_py()}
    assert isinstance(pairs, Table)
    assert {tuple(row) for row in pairs.rows} == {("awe", "fear", 2)}
    assert list(classes.rows) == [("awe", 2)]
    assert "not a verdict" in section.text
    assert "2 of 40 rows" in section.text
    assert section.link == ("The first 40 rows", "labels/my%20set.html")


def test_the_sheet_shows_each_row_with_its_image_its_label_and_the_answer_of_the_folds(doubts, tmp_path):
    page = write_doubts_sheet(doubts, tmp_path / "sheet.html", model="clip:<b>").read_text(encoding="utf-8")
    assert page.count("data:image/webp") == 40
    assert page.index("folds say fear; awe") < page.index("folds say awe")
    assert "clip:<b>" not in page
    assert "not a verdict" in page


def test_a_manifest_without_ranked_rows_has_a_section_that_says_why(doubts):
    nothing = replace(doubts, confidence=np.full_like(doubts.confidence, np.inf), notes=("too few <rows>",))
    section = doubts_section(nothing)
    assert not section.blocks
    assert "too few <rows>" in section.text
