"""Shares and means of clusters: against closed forms, and how often intervals hold the truth."""

import numpy as np
import pytest
from scipy import stats

from uniemox.targets.clusters import Clusters, compare


def filled(values, keys=None, categories=None, *, batches=1):
    """Clusters of these rows, in so many batches."""
    values = np.asarray(values, dtype=float)
    values = values[:, None] if values.ndim == 1 else values
    keys = np.arange(len(values)) if keys is None else np.asarray(keys)
    categories = np.zeros(len(values), dtype=int) if categories is None else np.asarray(categories)
    clusters = Clusters(values.shape[1])
    for part in np.array_split(np.arange(len(values)), batches):
        clusters.add(keys[part], categories[part], values[part])
    return clusters


@pytest.mark.parametrize(("hits", "count"), [(0, 4000), (7, 4000), (2000, 4000), (4000, 4000)])
def test_the_interval_of_independent_rows_is_wilsons(hits, count):
    mix = filled([1] * hits + [0] * (count - hits)).mix(are_shares=True)
    wilson = stats.binomtest(hits, count).proportion_ci(method="wilson")
    assert mix.mean[0, 0] == hits / count
    assert (mix.low[0, 0], mix.high[0, 0]) == pytest.approx((wilson.low, wilson.high), abs=2e-5)  # t for z


def test_the_interval_of_the_mean_of_independent_rows_is_students():
    values = np.random.default_rng(0).normal(3, 2, 25)
    mix = filled(values).mix(are_shares=False)
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert (mix.low[0, 0], mix.high[0, 0]) == pytest.approx((expected.low, expected.high))
    assert mix.error[0, 0] == pytest.approx(stats.sem(values))


def test_rows_that_repeat_tell_nothing_new():
    """Clusters of ten equal rows know as much as one row of each, but for what so few clusters may hide."""
    once = np.random.default_rng(1).integers(0, 2, 300)
    alone = filled(once).mix(are_shares=True)
    tenfold = filled(np.repeat(once, 10), np.repeat(np.arange(300), 10)).mix(are_shares=True)
    assert tenfold.low == pytest.approx(alone.low, rel=0.01)
    assert tenfold.high == pytest.approx(alone.high, rel=0.01)
    assert tenfold.size == pytest.approx(alone.size, rel=0.01)
    assert (tenfold.rows[0], tenfold.clusters[0]) == (3000, 300)


@pytest.mark.parametrize("batches", [2, 7, 50])
def test_batches_change_nothing_wherever_they_cut(batches):
    lot = np.random.default_rng(2)
    keys = np.repeat(np.arange(40), lot.integers(1, 9, 40))
    values = lot.integers(0, 2, (len(keys), 3))
    categories = keys % 3
    whole, cut = (filled(values, keys, categories, batches=count).mix(are_shares=True) for count in (1, batches))
    for one, other in zip(whole, cut, strict=True):
        np.testing.assert_allclose(one, other)


def test_one_cluster_has_no_interval():
    mix = filled([1, 0, 1], [5, 5, 5]).mix(are_shares=True)
    assert mix.mean[0, 0] == pytest.approx(2 / 3)
    assert np.isnan([mix.low[0, 0], mix.high[0, 0]]).all()


def test_categories_are_merged_and_put_beside_each_other():
    clusters = filled([1, 0, 1, 1], categories=[0, 1, 2, 2])
    merged = clusters.merged([[0, 1], [2], [9]]).mix(are_shares=True)
    assert merged.rows.tolist() == [2, 2, 0]
    assert merged.mean[:2, 0].tolist() == [0.5, 1]
    assert np.isnan(merged.mean[2, 0])
    beside = filled([1, 1]).beside(filled([0])).mix(are_shares=True)
    assert beside.mean[:, 0].tolist() == [1, 0]


def draw(lot, clusters, share):
    """Rows of clusters that are much alike: each repeats its first answer four times out of five."""
    sizes = lot.integers(1, 8, clusters)
    first = np.repeat(lot.random(clusters) < share, sizes)
    again = np.where(lot.random(sizes.sum()) < 0.8, first, lot.random(sizes.sum()) < share)
    return again.astype(float), np.repeat(np.arange(clusters), sizes)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.4])
def test_intervals_of_rows_that_are_alike_hold_the_truth_as_often_as_they_say(share):
    lot = np.random.default_rng(3)
    held = []
    for _ in range(400):
        values, keys = draw(lot, 150, share)
        mix = filled(values, keys).mix(are_shares=True)
        held.append(mix.low[0, 0] <= share <= mix.high[0, 0])
    assert 0.93 <= np.mean(held) <= 0.995


def test_differences_of_independent_shares_are_newcombes():
    """Newcombe 1998, table II, row (a): 56/70 against 48/80 has .0524 to .3339 by method 10."""
    values = [1] * 48 + [0] * 32 + [1] * 56 + [0] * 14
    apart = compare(filled(values, categories=[0] * 80 + [1] * 70).mix(are_shares=True), are_shares=True)
    assert apart.value[0] == pytest.approx(0.2)
    assert (apart.low[0], apart.high[0]) == pytest.approx((0.0524, 0.3339), abs=4e-3)  # t for z
    table = [[56, 14], [48, 32]]
    assert apart.p[0] == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue, rel=0.2)


def test_differences_of_means_are_those_of_a_t_test():
    lot = np.random.default_rng(4)
    first, second = lot.normal(0, 1, 200), lot.normal(0.3, 1, 200)
    mix = filled([*first, *second], categories=[0] * 200 + [1] * 200).mix(are_shares=False)
    apart = compare(mix, are_shares=False)
    expected = stats.ttest_ind(second, first)
    assert apart.p[0] == pytest.approx(expected.pvalue, rel=1e-6)
    assert (apart.low[0], apart.high[0]) == pytest.approx(tuple(expected.confidence_interval()))


def test_where_nothing_differs_few_differences_are_called_so():
    lot, called = np.random.default_rng(5), 0
    for _ in range(200):
        parts = [draw(lot, 30, 0.3) for _ in range(2)]
        clusters = filled(*parts[0]).beside(filled(*parts[1]))
        called += compare(clusters.mix(are_shares=True), are_shares=True).p[0] < 0.05
    assert called <= 22


def test_paired_ratings_are_compared_by_students_test_of_pairs():
    lot = np.random.default_rng(3)
    first = lot.normal(3, 1, 40)
    second = first + lot.normal(0.2, 0.3, 40)
    mix = filled(first).beside(filled(second)).mix(are_shares=False)
    apart = compare(mix, are_shares=False, correlation=np.corrcoef(first, second)[:1, 1])
    expected = stats.ttest_rel(second, first)
    assert apart.p[0] == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (apart.low[0], apart.high[0]) == pytest.approx((interval.low, interval.high))


def test_paired_shares_have_newcombes_interval_with_the_correlation_of_the_pairs():
    lot = np.random.default_rng(4)
    first = lot.random(4000) < 0.3
    second = np.where(lot.random(4000) < 0.9, first, lot.random(4000) < 0.5)
    (p, q), phi = (first.mean(), second.mean()), np.corrcoef(first, second)[0, 1]
    one, two = (stats.binomtest(int(hits.sum()), 4000).proportion_ci(method="wilson") for hits in (first, second))

    def root(a, b):
        return np.sqrt(a**2 - 2 * phi * a * b + b**2)

    mix = filled(first).beside(filled(second)).mix(are_shares=True)
    apart = compare(mix, are_shares=True, correlation=np.array([phi]))
    expected = (q - p - root(q - two.low, one.high - p), q - p + root(two.high - q, p - one.low))
    assert (apart.low[0], apart.high[0]) == pytest.approx(expected, abs=1e-4)
    gains, losses = (second & ~first).sum(), (first & ~second).sum()
    mcnemar = stats.chi2.sf((gains - losses) ** 2 / (gains + losses), 1)
    assert apart.p[0] == pytest.approx(mcnemar, rel=0.2)


def test_what_has_one_cluster_is_not_compared():
    apart = compare(filled([1, 0, 0], [0, 0, 1], [0, 0, 1]).mix(are_shares=True), are_shares=True)
    assert np.isnan(apart.p).all()
