"""The accuracy of the surest answers, against a count by hand."""

import numpy as np
import pytest

from uniemox.targets.coverage import cover
from uniemox.targets.single_label import SingleLabel


def test_a_curve_is_the_accuracy_of_the_surest():
    confidence = np.array([0.9, 0.5, 0.8, 0.6])
    right = np.array([True, False, False, True])  # by confidence: right, wrong, right, wrong
    assert cover(confidence, right) == ((0.25, 1.0), (0.5, 0.5), (0.75, pytest.approx(2 / 3)), (1.0, 0.5))


def test_all_shares_of_many_samples_are_kept_and_the_last_is_the_accuracy():
    generator = np.random.default_rng(0)
    confidence, right = generator.random(1003), generator.random(1003) < 0.7
    curve = cover(confidence, right)
    assert len(curve) == 20
    assert curve[-1] == (1.0, pytest.approx(right.mean()))
    for step, (share, accuracy) in enumerate(curve, 1):
        answered = int(np.ceil(1003 * step / 20))
        assert share == answered / 1003
        assert accuracy == pytest.approx(right[np.argsort(-confidence)[:answered]].mean())


def test_equal_confidences_count_by_their_mean_in_whatever_order_they_come():
    generator = np.random.default_rng(1)
    confidence, right = generator.integers(1, 4, 60) / 3, generator.random(60) < 0.5
    drawn = np.zeros(20)
    for _ in range(3000):  # what random order among equals gives on average
        order = generator.permutation(60)
        ranked = right[order][np.argsort(-confidence[order], kind="stable")]
        drawn += (ranked.cumsum() / np.arange(1, 61))[2::3]
    np.testing.assert_allclose([one.accuracy for one in cover(confidence, right)], drawn / 3000, atol=0.01)
    order = generator.permutation(60)
    assert cover(confidence[order], right[order]) == cover(confidence, right)


def test_confidence_that_says_nothing_gives_a_level_line():
    curve = cover(np.full(40, 0.5), np.arange(40) % 4 > 0)
    assert [one.accuracy for one in curve] == pytest.approx([0.75] * 20)


def test_a_classifier_of_one_label_has_a_curve_that_is_shown_and_survives_json():
    target = SingleLabel(("a", "b"))
    scores = target.score_numbers(np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]]), np.array([0, 0, 1]))
    assert scores.coverage == ((pytest.approx(1 / 3), 1.0), (pytest.approx(2 / 3), 1.0), (1.0, pytest.approx(2 / 3)))
    curve, grid = scores.covered
    assert curve.points == scores.coverage
    assert curve.level == scores.top1
    assert grid.rows[0] == ("100 %", scores.top1)
    shown = [part for _, parts in scores.display.panels for part in parts]
    assert shown[-2:] == [curve, grid]
    assert target.scores_from_dict(scores.to_dict()).coverage == scores.coverage
