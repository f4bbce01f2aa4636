"""Two sets of boxes on the same images."""

import math
from dataclasses import replace

import numpy as np
import pytest

from uniemox.errors import DataError
from uniemox.manifests.table import Box, Facts, manifest_from_columns
from uniemox.people.agreement import compare_people, match_boxes

TEN = Box(0, 0, 10, 10)
HALF = Box(0, 0, 10, 5)  # overlaps TEN by 1/2
FAR = Box(50, 50, 60, 60)


def manifest(tmp_path, people, reasons=None):
    """A manifest of images by name; a list of lists is several rows of one image."""
    paths = list(people)
    facts = Facts(name="x", title="X", classes=("a",), emotion=None, root=tmp_path, people_source="an eye")
    return manifest_from_columns(
        facts,
        paths=paths,
        splits=["train"] * len(paths),
        people=list(people.values()),
        people_reasons=None if reasons is None else [reasons.get(path) for path in paths],
    )


def test_a_case_worked_by_hand(tmp_path):
    first = {"a": (TEN, FAR), "b": (TEN,), "c": (), "d": (), "e": (TEN,)}
    second = {"a": (HALF,), "b": (), "c": (FAR,), "d": (), "f": (TEN,)}
    found = compare_people(manifest(tmp_path, first), manifest(tmp_path, second))
    assert (found.pictures, found.left_out) == (4, 1)
    assert (found.both, found.first_only, found.second_only, found.neither) == (1, 1, 1, 1)
    assert (found.first_boxes, found.second_boxes, found.matched) == (3, 2, 1)
    assert (found.mean_iou, found.median_iou) == (0.5, 0.5)
    assert found.first_confirmed == pytest.approx(1 / 3)
    assert found.second_found == pytest.approx(1 / 2)


def test_a_pair_matches_from_the_overlap_on_that_was_asked_for():
    assert match_boxes([TEN], [HALF], iou=0.5) == [0.5]
    assert match_boxes([TEN], [HALF], iou=0.51) == []


def test_every_box_has_one_partner_at_most_and_the_best_pair_goes_first():
    near = Box(0, 0, 10, 9)
    assert match_boxes([HALF, TEN], [near], iou=0.3) == [0.9]
    assert match_boxes([TEN, TEN], [TEN], iou=0.5) == [1.0]
    assert sorted(match_boxes([TEN, HALF], [HALF, TEN], iou=0.1)) == [1.0, 1.0]


def test_the_order_of_the_two_and_of_their_boxes_does_not_matter():
    generator = np.random.default_rng(0)
    for _ in range(50):
        low = generator.uniform(0, 20, (2, 5, 2))
        high = low + generator.uniform(1, 20, (2, 5, 2))
        first, second = (
            [Box(*a, *b) for a, b in zip(low[side].tolist(), high[side].tolist(), strict=True)] for side in (0, 1)
        )
        there = match_boxes(first, second, iou=0.2)
        assert match_boxes(second[::-1], first[::-1], iou=0.2) == pytest.approx(there)


def test_a_set_agrees_with_itself(tmp_path):
    same = manifest(tmp_path, {"a": (TEN, FAR), "b": ()})
    found = compare_people(same, same)
    assert (found.matched, found.mean_iou, found.first_confirmed, found.second_found) == (2, 1, 1, 1)
    assert found.to_dict()["second_found"] == 1


def test_without_boxes_there_is_no_share(tmp_path):
    nobody = manifest(tmp_path, {"a": ()})
    found = compare_people(nobody, nobody)
    assert (found.first_confirmed, found.second_found, found.mean_iou) == (None, None, None)


def test_a_picture_that_one_of_the_two_could_not_read_is_left_out(tmp_path):
    first = manifest(tmp_path, {"a": (), "b": (TEN,)}, reasons={"a": "damaged"})
    second = manifest(tmp_path, {"a": (TEN,), "b": (TEN,)})
    assert (compare_people(first, second).pictures, compare_people(first, second).left_out) == (1, 1)


def test_rows_of_one_picture_are_taken_together(tmp_path):
    facts = Facts(name="x", title="X", classes=("a",), emotion=None, root=tmp_path)
    rows = manifest_from_columns(facts, paths=["a", "a", "a"], splits=["t"] * 3, people=[(TEN,), (FAR,), (TEN,)])
    found = compare_people(rows, manifest(tmp_path, {"a": (TEN, FAR)}))
    assert (found.first_boxes, found.second_boxes, found.matched) == (2, 2, 2)


def test_boxes_without_an_area_are_no_boxes(tmp_path):
    bad = manifest(tmp_path, {"a": (Box(5, 5, 5, 5), Box(math.nan, 0, 1, 1), TEN)})
    found = compare_people(bad, bad)
    assert (found.first_boxes, found.matched) == (1, 1)


def test_a_manifest_that_nobody_searched_is_not_compared(tmp_path):
    searched = manifest(tmp_path, {"a": (TEN,)})
    facts = replace(searched.facts, people_source="")
    fresh = manifest_from_columns(facts, paths=["a"], splits=["train"], people=[()])
    with pytest.raises(DataError, match="no image of x has been looked at in both"):
        compare_people(searched, fresh)


def test_manifests_of_other_pictures_are_refused(tmp_path):
    with pytest.raises(DataError, match="no image of x has been looked at in both"):
        compare_people(manifest(tmp_path, {"a": ()}), manifest(tmp_path, {"b": ()}))
