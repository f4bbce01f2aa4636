import numpy as np
import pytest

from uniemox.targets import intervals
from uniemox.targets.intervals import count_units, resample


def test_samples_of_a_group_share_their_weight_and_others_do_not():
    groups = np.array([7, 3, 7, 3, 9])
    (weights,) = resample(groups, 5, seed=0, num_resamples=40)
    assert weights.shape == (40, 5)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 1] == weights[:, 3]).all()
    assert len(np.unique(weights[0])) == count_units(groups, 5) == 3


def test_weights_are_those_of_the_bayesian_bootstrap():
    (weights,) = resample(None, 10, seed=0, num_resamples=20_000)
    shares = weights / weights.sum(1, keepdims=True)
    assert shares.mean(0) == pytest.approx(np.full(10, 0.1), abs=0.002)
    assert shares.var(0) == pytest.approx(np.full(10, 9 / 100 / 11), rel=0.05)  # of a flat Dirichlet


def test_weights_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch):
    (whole,) = resample(None, 30, seed=3, num_resamples=50)
    monkeypatch.setattr(intervals, "_DRAWS_AT_ONCE", 210)
    parts = list(resample(None, 30, seed=3, num_resamples=50))
    assert [len(part) for part in parts] == [7] * 7 + [1]
    assert (np.concatenate(parts) == whole).all()


@pytest.mark.parametrize(("groups", "count"), [(None, 1), (np.zeros(9, np.int64), 9)])
def test_one_group_has_nothing_to_resample(groups, count):
    assert list(resample(groups, count, seed=0, num_resamples=10)) == []
