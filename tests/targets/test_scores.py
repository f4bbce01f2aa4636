import copy
import pickle

import numpy as np
import pytest

from uniemox.targets.multi_label import MultiLabel
from uniemox.targets.scores import (
    NUM_BINS,
    Interval,
    Metric,
    Scores,
    bin_confidences,
    bound,
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


def test_only_bootstrapped_metrics_have_intervals_over_all_blocks():
    metrics = (
        Metric("mean", "mean", lambda of: of.mean(-1), is_bootstrapped=True),
        Metric("most", "most", lambda of: of.max(-1)),
    )
    evidence = np.arange(6.0)
    assert measure(metrics, evidence) == {"mean": 2.5, "most": 5.0}
    blocks = [np.random.default_rng(seed).choice(evidence, (200, 6)) for seed in range(2)]
    expected = np.percentile(np.concatenate(blocks).mean(1), [2.5, 97.5])
    assert bound(metrics, blocks) == {"mean": Interval(*expected)}
    assert bound(metrics, []) == {}


def test_a_share_of_nothing_is_0():
    assert share(np.array([1, 0, 3]), np.array([2, 0, 3])).tolist() == [0.5, 0, 1]
    assert share(np.int64(1), np.int64(4)) == 0.25


def test_bins_hold_every_confidence_and_their_gaps_make_the_error():
    bins = bin_confidences(np.array([0.0, 0.2, 0.2, 1.0, 1.0 + 1e-9]), np.array([0, 1, 0, 1, 1], bool))
    assert len(bins) == NUM_BINS
    assert sum(part.samples for part in bins) == 5
    assert bins[2].accuracy == 0.5
    assert calibration_error(bins) == pytest.approx((0 + 2 * 0.3 + 0) / 5)
