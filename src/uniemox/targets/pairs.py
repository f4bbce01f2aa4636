"""How far models are apart on the same samples: intervals of differences, McNemar's test and Holm's correction.

Letters: N samples, R resamples, K runs of an arm, which differ by their seeds alone, Q questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from uniemox.targets.intervals import Bootstrap, Codes, count_units, enclose, find_middle, typical_size
from uniemox.targets.scores import NUM_RESAMPLES, Flags, Floats, Interval, Metric
from uniemox.targets.target import Target

_SURE: Final = 0.975  # Upper quantile of a two-sided 95 % interval


class Difference(NamedTuple):
    """How far a second model is from a first in one metric: second − first."""

    value: float
    interval: Interval | None  # 95 %; None where there is one group of samples
    p: float = float("nan")  # Of no difference, two-sided, by the distribution that the interval comes from


class Drawn(NamedTuple):
    """What a model scores on samples and on resamples of them, which are the same for all that are drawn together."""

    metrics: Mapping[str, Metric]  # By name; those with a title and an interval
    values: Mapping[str, float]
    resampled: Mapping[str, Floats]  # (R,) each
    units: int  # What was resampled: groups, or else samples
    effective: float  # Samples that would be known as well if all of a group were equal (Kish 1965)


def draw_together(
    answers: Sequence[tuple[Target, Floats, npt.NDArray[Any]]],
    groups: Codes | None = None,
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> list[Drawn]:
    """Score several models on the same samples and on the same resamples of these.

    Args:
        answers: Of each model its target, its numbers (N, …) and the labels (N, …) as that target reads them.
        groups: A number (N,) that samples which are alike share; None where each stands for itself.
        seed: Of the draws.
        num_resamples: R.
    """
    count = len(answers[0][2])
    bootstrap = Bootstrap(count, groups, seed, num_resamples)
    metrics = [
        {one.name: one for one in target.about["metrics"] if one.title and one.is_bootstrapped}
        for target, _, _ in answers
    ]
    measures = [target.resampler(numbers, labels) for target, numbers, labels in answers]
    once = [measure(np.ones((1, count), np.float32)) for measure in measures]
    blocks: list[list[Mapping[str, Floats]]] = [[] for _ in answers]
    for weights in bootstrap.weights():
        for own, measure in zip(blocks, measures, strict=True):
            own.append(measure(weights))
    units, effective = count_units(groups, count), count / typical_size(groups)
    return [
        Drawn(
            known,
            {name: float(values[name][0]) for name in known},
            {name: np.concatenate([block[name] for block in own]) for name in (known if own else ())},
            units,
            effective,
        )
        for known, values, own in zip(metrics, once, blocks, strict=True)
    ]


def difference(first: Sequence[Drawn], second: Sequence[Drawn], name: str) -> Difference:
    """Compare two arms in one metric, whose runs were all drawn together.

    The variance is that of the difference of the arms' means over resamples, which pairs what the same samples do to
    both, and where an arm has several runs that over its seeds: that of its scores, less what the runs' own answers to
    these samples explain of it, divided by K. Student's quantile has the degrees of freedom of Satterthwaite (1946).
    A share moves by one sample more than resamples show, as in Agresti and Min (2005), who add two pairs of answers:
    where two models never disagree, resamples have no variance.
    """
    from scipy.special import stdtr, stdtrit

    metric, units = first[0].metrics[name], first[0].units
    value = float(np.mean([run.values[name] for run in second]) - np.mean([run.values[name] for run in first]))
    if not first[0].resampled:
        return Difference(value, None)
    arms = [np.stack([run.resampled[name] for run in arm]) for arm in (first, second)]  # (K, R) each
    drawn = arms[1].mean(0) - arms[0].mean(0)
    over_samples = float(drawn.var()) + metric.is_share / (first[0].effective + 2) ** 2
    variance, doubt = over_samples, over_samples**2 / (units - 1)
    for arm, found in zip((first, second), arms, strict=True):
        if (seeds := len(arm)) > 1:
            spread = float(np.var([run.values[name] for run in arm], ddof=1))
            own = float((found - found.mean(0)).var(1).sum()) / (seeds - 1)
            variance += max(0.0, spread - own) / seeds
            doubt += (spread / seeds) ** 2 / (seeds - 1)
    middle = find_middle(drawn, value, metric)
    if variance == 0:
        return Difference(value, Interval(value, value), float(value == 0))
    error, freedom = variance**0.5, variance**2 / doubt
    half = float(stdtrit(freedom, _SURE)) * error
    interval = enclose(value, middle, half, metric, is_difference=True)
    return Difference(value, interval, float(2 * stdtr(freedom, -abs(middle) / error)))


def paired_differences(
    target: Target,
    first: Floats,
    second: Floats,
    labels: npt.NDArray[Any],
    groups: Codes | None = None,
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, Difference]:
    """Compare two models on the same samples in every metric that has a title and an interval, by its name.

    Args:
        target: What both answer.
        first: Numbers of the first model (N, …), as from `Target.numbers`.
        second: Those of the second; differences are second − first.
        labels: (N, …), as from `Target.read_labels`.
        groups: A number (N,) that samples which are alike share, to be resampled together.
        seed: Of the draws.
        num_resamples: R.
    """
    one, two = draw_together(
        [(target, numbers, labels) for numbers in (first, second)], groups, seed=seed, num_resamples=num_resamples
    )
    return {name: difference([one], [two], name) for name in one.metrics}


class Seeds(NamedTuple):
    """What the runs of an arm score in one metric."""

    mean: float
    deviation: float  # Standard deviation over the seeds, divided by K − 1
    interval: Interval  # 95 % of the mean over seeds, on these samples, by Student's t


def over_seeds(values: Sequence[float]) -> Seeds | None:
    """Describe the scores of runs that differ by their seeds; None for a single one, which says nothing of others."""
    from scipy.special import stdtrit

    count = len(values)
    if count < 2:
        return None
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stdtrit(count - 1, _SURE)) * deviation / count**0.5
    return Seeds(mean, deviation, Interval(mean - half, mean + half))


def mcnemar(first_right: Flags, second_right: Flags, groups: Codes | None = None) -> float:
    """Compute the p of no difference between two models' shares of right answers (McNemar 1947), exactly.

    Samples that one model alone answers rightly are counted, which a binomial of 1/2 divides if there is no difference;
    groups (N,) are counted instead, each for the model with more right answers to it, since samples that are alike do
    not answer independently. 1 where nothing is counted.
    """
    from scipy.stats import binomtest

    gains: Floats = second_right.astype(np.float64) - first_right
    if groups is not None:
        gains = np.bincount(np.unique(groups, return_inverse=True)[1], gains).astype(np.float64)
    better, counted = int((gains > 0).sum()), int((gains != 0).sum())
    return float(binomtest(better, counted).pvalue) if counted else 1.0


def holm(p_values: npt.ArrayLike) -> Floats:
    """Correct the p of several questions (Q,) by Holm's method (1979); NaN asks nothing, and stays."""
    p = np.asarray(p_values, dtype=np.float64)
    asked = np.flatnonzero(~np.isnan(p))
    order = asked[np.argsort(p[asked], kind="stable")]
    corrected = np.full(len(p), np.nan)
    steps = (len(order) - np.arange(len(order))) * p[order]
    corrected[order] = np.maximum.accumulate(steps).clip(max=1) if len(order) else steps
    return corrected
