"""The rules that every detector's findings go through."""

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou, nms

from uniemox.config.people import Limits
from uniemox.errors import DataError
from uniemox.manifests.table import Box
from uniemox.people.detectors.detector import fingerprint, overlaps, select_people, suppress

ALL = Limits(score=0, nms_iou=1)


def random_boxes(count, seed=0):
    generator = np.random.default_rng(seed)
    low = generator.uniform(0, 80, (count, 2))
    return np.concatenate([low, low + generator.uniform(1, 40, (count, 2))], axis=1)


def select(corners, scores, limits=ALL, **changes):
    where = {"width": 100, "height": 100} | changes
    return select_people(np.array(corners, float), np.array(scores, float), limits=limits, **where)


def test_overlaps_are_those_of_torchvision():
    first, second = random_boxes(40), random_boxes(30, seed=1)
    expected = box_iou(torch.tensor(first), torch.tensor(second)).numpy()
    np.testing.assert_allclose(overlaps(first, second), expected, atol=1e-12)


@pytest.mark.parametrize("iou", [0, 0.2, 0.5, 1])
def test_duplicates_go_as_they_do_in_torchvision(iou):
    boxes = random_boxes(200)
    scores = torch.linspace(1, 0, 200, dtype=torch.float64)
    expected = nms(torch.tensor(boxes), scores, iou).tolist()
    assert suppress(boxes, iou, most=200) == expected
    assert suppress(boxes, iou, most=7) == expected[:7]


def test_the_surest_comes_first_and_equals_keep_their_order():
    boxes = [(0, 0, 5, 5), (10, 0, 15, 5), (20, 0, 25, 5), (30, 0, 35, 5)]
    found = select(boxes, [0.5, 0.9, 0.5, 0.7])
    assert [box.x0 for box in found] == [10, 30, 0, 20]
    assert found[0] == Box(10, 0, 15, 5, 0.9)


def test_a_score_on_the_limit_counts_and_one_below_does_not():
    boxes = [(0, 0, 5, 5), (10, 0, 15, 5)]
    assert len(select(boxes, [0.5, 0.499], Limits(score=0.5))) == 1


def test_both_sides_of_a_person_must_reach_the_least_size():
    boxes = [(0, 0, 10, 10), (20, 0, 29, 50), (40, 0, 90, 9)]
    assert len(select(boxes, [1, 1, 1], Limits(min_size=10))) == 1


def test_the_least_size_is_of_what_lies_in_the_picture():
    assert select([(95, 0, 200, 50)], [1], Limits(min_size=6)) == ()


def test_no_more_people_than_asked_for_are_given():
    boxes = [(10 * i, 0, 10 * i + 5, 5) for i in range(9)]
    scores = np.linspace(0.1, 0.9, 9)
    for has_nms in (True, False):
        found = select(boxes, scores, Limits(score=0, max_people=2), nms=has_nms)
        assert [box.x0 for box in found] == [80, 70]


def test_duplicates_stay_where_the_graph_has_seen_to_them():
    boxes = [(0, 0, 10, 10), (0, 0, 10, 9.5)]
    assert len(select(boxes, [0.9, 0.8], Limits())) == 1
    assert len(select(boxes, [0.9, 0.8], Limits(), nms=False)) == 2


def test_boxes_are_clipped_to_the_picture_and_those_outside_go():
    boxes = [(-5, -5, 200, 300), (100, 0, 120, 50), (-9, 0, 0, 50), (5, 5, 5, 9), (9, 9, 1, 1)]
    found = select(boxes, [1] * 5, width=100, height=80)
    assert found == (Box(0, 0, 100, 80, 1),)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_no_person(bad):
    assert select([(0, 0, bad, 5), (0, 0, 5, 5)], [1, 0.5]) == (Box(0, 0, 5, 5, 0.5),)
    assert select([(0, 0, 5, 5)], [np.nan]) == ()


def test_nobody_among_nothing():
    assert select(np.zeros((0, 4)), []) == ()


def test_a_file_is_told_from_another_by_its_fingerprint(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert fingerprint(tmp_path / "a") == "ba7816bf8f01"  # FIPS 180-2, appendix B.1
    with pytest.raises(DataError, match=r"cannot read .*b: no such file"):
        fingerprint(tmp_path / "b")
