"""Shares and means of rows that are alike in clusters, such as the frames of a video, from sums that a stream fills.

The estimate is the mean over rows, a ratio of two sums over clusters; its variance is that of the linearised ratio
(Cochran 1977, section 6.3; Särndal, Swensson and Wretman 1992, section 5.6). With clusters of one row it is that of
independent rows. Letters: G clusters, K categories, C names, M rows of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from uniemox.targets.pairs import holm
from uniemox.targets.scores import Counts, Floats, share

_SURE = 0.975  # Upper quantile of a two-sided 95 % interval


class Mix(NamedTuple):
    """What the rows of K categories are like, for each of C names; NaN where nothing can be said."""

    rows: Floats  # (K,)
    clusters: Floats  # (K,), G of each category
    mean: Floats  # (K, C): shares, or means of ratings
    low: Floats  # (K, C), of 95 % intervals; NaN with fewer than 2 clusters
    high: Floats
    size: Floats  # (K, C), independent rows that would be known as well; NaN for ratings
    error: Floats  # (K, C), standard errors


@dataclass
class _Open:
    """The cluster that the next batch may continue."""

    key: int
    category: int
    rows: float
    sums: Floats  # (C,)


class Clusters:
    """Sums over clusters, from which means and intervals follow."""

    def __init__(self, names: int) -> None:
        self._rows = np.zeros((0, 3))  # Of each category: rows, clusters, squares of the rows of a cluster
        self._sums = np.zeros((0, 3, names))  # Sums of values, of sums times rows, and of squared sums of a cluster
        self._open: _Open | None = None

    def add(self, keys: Counts, categories: Counts, values: Floats) -> None:
        """Add rows in the order of their table.

        Args:
            keys: (M,), equal in rows of the same cluster, which follow one another; other clusters have other keys.
            categories: (M,), from 0.
            values: (M, C), finite: 0 or 1 for shares.
        """
        if not len(keys):
            return
        starts = np.flatnonzero(np.diff(keys, prepend=keys[0] - 1) | np.diff(categories, prepend=categories[0] - 1))
        sums, rows = np.add.reduceat(values, starts), np.diff(starts, append=len(keys)).astype(np.float64)
        keys, categories = keys[starts], categories[starts]
        last = self._open
        if last is not None and (last.key, last.category) == (keys[0], categories[0]):
            sums[0] += last.sums
            rows[0] += last.rows
        else:
            self._close()
        self._keep(categories[:-1], rows[:-1], sums[:-1])
        self._open = _Open(int(keys[-1]), int(categories[-1]), float(rows[-1]), sums[-1])

    def _close(self) -> None:
        last, self._open = self._open, None
        if last is not None:
            self._keep(np.array([last.category]), np.array([last.rows]), last.sums[None])

    def _keep(self, categories: Counts, rows: Floats, sums: Floats) -> None:
        if not len(categories):
            return
        more = int(categories.max()) + 1 - len(self._rows)
        if more > 0:
            self._rows = np.concatenate([self._rows, np.zeros((more, 3))])
            self._sums = np.concatenate([self._sums, np.zeros((more, *self._sums.shape[1:]))])
        np.add.at(self._rows, categories, np.stack([rows, np.ones_like(rows), rows**2], 1))
        np.add.at(self._sums, categories, np.stack([sums, sums * rows[:, None], sums**2], 1))

    def merged(self, groups: Iterable[Iterable[int]]) -> Self:
        """Return the sums of categories taken together; those that have no row yet count as empty."""
        self._close()
        found, count = type(self)(self._sums.shape[2]), len(self._rows)
        listed = [[place for place in group if place < count] for group in groups]
        found._rows = np.stack([self._rows[places].sum(0) for places in listed])
        found._sums = np.stack([self._sums[places].sum(0) for places in listed])
        return found

    def beside(self, other: Self) -> Self:
        """Return the sums of its categories and those of another, which follow."""
        self._close()
        other._close()
        found = type(self)(self._sums.shape[2])
        found._rows, found._sums = (
            np.concatenate(pair) for pair in ((self._rows, other._rows), (self._sums, other._sums))
        )
        return found

    @property
    def rows(self) -> Floats:
        """Rows of each category (K,)."""
        self._close()
        return self._rows[:, 0]

    def mix(self, *, are_shares: bool) -> Mix:
        """Compute means with 95 % intervals: Wilson's (1927) at the effective size for shares, Student's for means."""
        from scipy.special import stdtrit

        self._close()
        count, clusters, squares = (column[:, None] for column in self._rows.T)
        sums, crossed, squared = np.moveaxis(self._sums, 1, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(count > 0, sums / count, np.nan)
            error = _error(count, clusters, squares, sums, crossed, squared)
            t = np.where(clusters > 1, stdtrit(np.maximum(clusters - 1, 1), _SURE), np.nan)
            if not are_shares:
                bounds = mean - t * error, mean + t * error
                return Mix(count[:, 0], clusters[:, 0], mean, *bounds, np.full(sums.shape, np.nan), error)
            # Few clusters may all be of one kind by chance, which shows no variance. So two of hits alone and two of
            # none, of the size that a row's cluster has on average, are added before it is estimated.
            typical = squares / count
            count_, sums_ = count + 4 * typical, sums + 2 * typical
            more = 2 * typical**2
            widened = _error(count_, clusters + 4, squares + 2 * more, sums_, crossed + more, squared + more)
            inflation = widened**2 / (sums_ / count_ * (1 - sums_ / count_) / count_)
            size = count / np.maximum(inflation, 1)
            middle, wide = mean + t**2 / (2 * size), 1 + t**2 / size
            half = t * np.sqrt(mean * (1 - mean) / size + (t / (2 * size)) ** 2)
            low, high = ((middle - half) / wide).clip(0, 1), ((middle + half) / wide).clip(0, 1)
        return Mix(count[:, 0], clusters[:, 0], mean, low, high, size, error)


def _error(count: Floats, clusters: Floats, squares: Floats, sums: Floats, crossed: Floats, squared: Floats) -> Floats:
    """Compute the standard error of the ratio of two sums over clusters; NaN for fewer than 2."""
    mean = sums / count
    spread = (squared - 2 * mean * crossed + mean**2 * squares).clip(0) / count**2
    return np.sqrt(np.where(clusters > 1, spread * clusters / (clusters - 1), np.nan))


def _apart(first: Floats, second: Floats, correlation: Floats) -> Floats:
    """Compute the standard deviation of a difference from those of its parts."""
    variance: Floats = (first**2 + second**2 - 2 * correlation * first * second).clip(0)
    return np.sqrt(variance)


class Difference(NamedTuple):
    """How far the second category is from the first, for each of C names; NaN where nothing can be said."""

    value: Floats
    low: Floats
    high: Floats
    p: Floats  # Of no difference, two-sided, corrected for C questions (Holm 1979)


def compare(mix: Mix, *, are_shares: bool, correlation: Floats | None = None) -> Difference:
    """Compare two categories.

    Shares have Newcombe's interval, of the bounds of both (1998, method 10, here and in his paper on paired data), and
    the score test of a pooled share; means have Welch's. Degrees of freedom are those of the clusters, less one for
    each category; of correlated categories, those of the smaller one alone.

    Args:
        mix: Of two categories.
        are_shares: As `Clusters.mix` was asked.
        correlation: Between both means (C,), where they have clusters in common; None for different clusters.
    """
    from scipy.special import stdtr, stdtrit

    (first, second), (a, b) = mix.mean, mix.clusters
    value, r = second - first, np.zeros(len(first)) if correlation is None else correlation
    freedom = max(float(a + b - 2 if correlation is None else min(a, b) - 1), 1.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        if are_shares:
            low = value - _apart(second - mix.low[1], mix.high[0] - first, r)
            high = value + _apart(mix.high[1] - second, first - mix.low[0], r)
            pooled = share(mix.mean.T @ mix.rows, np.array(mix.rows.sum()))
            error = np.sqrt(pooled * (1 - pooled)) * _apart(mix.size[0] ** -0.5, mix.size[1] ** -0.5, r)
        else:
            error = _apart(mix.error[0], mix.error[1], r)
            half = stdtrit(freedom, _SURE) * error
            low, high = value - half, value + half
        p = np.where(value == 0, 1.0, 2 * stdtr(freedom, -np.abs(value / error)))
    p = np.where(np.isnan(low), np.nan, p)
    return Difference(value, low, high, holm(p))
