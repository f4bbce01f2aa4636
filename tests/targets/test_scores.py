import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest

from uniemox.targets.multi_label import MultiLabel
from uniemox.targets.scores import (
    NUM_BINS,
    Interval,
    Metric,
    Scores,
    bin_confidences,
    calibration_error,
    measure,
    share,
)
from uniemox.targets.single_label import SingleLabel

SCORES = Scores(kind="x", classes=("a",), metrics=(), num_samples=3, values={"zest": 0.5})


def test_a_metric_is_an_attribute_too():
    assert SCORES.zest == 0.5
    with pytest.raises(AttributeError, match="Scores has no metric zeal"):
        SCORES.zeal  # noqa: B018
    single = SingleLabel(("a", "b")).score_numbers(np.eye(2), np.array([0, 1]))
    several = MultiLabel(("a", "b")).score_numbers(np.eye(2), np.eye(2, dtype=bool))
    for scored in (single, several):
        assert copy.copy(scored) == pickle.loads(pickle.dumps(scored)) == scored


@pytest.mark.parametrize(("lower", "better", "worse"), [(False, 0.7, 0.4), (True, 0.4, 0.7)])
def test_what_is_better_depends_on_the_metric(lower, better, worse):
    metric = Metric("x", "x", abs, lower_is_better=lower)
    assert metric.improves(worse, on=None)
    assert metric.improves(better, on=worse)
    assert not metric.improves(worse, on=better)
    assert not metric.improves(better, on=better)  # the earlier of equals stays
    assert metric.loss(better, worse) == pytest.approx(0.3)
    assert metric.loss(worse, better) == pytest.approx(-0.3)


def test_metrics_are_computed_from_the_evidence():
    metrics = (Metric("mean", "mean", lambda of: of.mean(-1)), Metric("most", "most", lambda of: of.max(-1)))
    assert measure(metrics, np.arange(6.0)) == {"mean": 2.5, "most": 5.0}


def test_ranges_say_what_was_resampled_or_why_there_are_none():
    some = replace(SCORES, intervals={"zest": Interval(0.4, 0.6)})
    assert some.ranges == "Ranges are 95 % bootstrap intervals over the samples."
    assert replace(some, resampled="200 groups").ranges == "Ranges are 95 % bootstrap intervals over 200 groups."
    assert "All samples are of 1 group" in replace(SCORES, resampled="1 group").ranges
    assert SCORES.ranges == replace(SCORES, resampled="200 groups").ranges == ""


def test_a_share_of_nothing_is_0():
    assert share(np.array([1, 0, 3]), np.array([2, 0, 3])).tolist() == [0.5, 0, 1]
    assert share(np.int64(1), np.int64(4)) == 0.25


def test_bins_hold_every_confidence_and_their_gaps_make_the_error():
    bins = bin_confidences(np.array([0.0, 0.2, 0.2, 1.0, 1.0 + 1e-9]), np.array([0, 1, 0, 1, 1], bool))
    assert len(bins) == NUM_BINS
    assert sum(part.samples for part in bins) == 5
    assert bins[2].accuracy == 0.5
    assert calibration_error(bins) == pytest.approx((0 + 2 * 0.3 + 0) / 5)
