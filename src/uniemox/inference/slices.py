"""Scores of parts of what was evaluated, by a column of its manifest. Letters: N samples."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from uniemox.targets.intervals import Bootstrap, Codes, count_units, enclose, find_middle, typical_size
from uniemox.targets.scores import NUM_RESAMPLES, Flags, Floats, Metric, Scores
from uniemox.targets.slices import Gap, Slice, Slices
from uniemox.targets.target import Logits, Target

if TYPE_CHECKING:
    from uniemox.inference.outputs import Outputs

_DOUBT: Final = 0.05  # Of all pairs together


def score_by(outputs: Outputs, sliced: Mapping[str, Mapping[str, Flags]]) -> tuple[Slices, ...]:
    """Score the slices of each column, which are of rows of the manifest that was answered."""
    target, logits, labels, groups = outputs.target, outputs.logits, outputs.labels, outputs.group_codes
    return tuple(
        score_slices(
            target, logits, labels, {name: own[outputs.rows] for name, own in slices.items()}, groups, column=column
        )
        for column, slices in sliced.items()
    )


def score_slices(
    target: Target,
    logits: Logits,
    labels: Any,
    members: Mapping[str, Flags],
    groups: Codes | None = None,
    *,
    column: str,
    num_resamples: int = NUM_RESAMPLES,
) -> Slices:
    """Score each slice of N samples.

    Args:
        target: What is answered.
        logits: (N, C).
        labels: (N, …), as from `Target.read_labels`.
        members: Which samples (N,) each slice has, by its name; those without a sample are omitted.
        groups: A number (N,) that samples which are alike share, to be resampled together.
        column: What the slices are by.
        num_resamples: Of the bootstrap.
    """
    members = {name: own for name, own in members.items() if own.any()}

    def score(own: Flags | slice, rounds: int) -> Scores:
        some = None if groups is None else groups[own]
        return target.score(logits[own], labels[own], groups=some, num_resamples=rounds)

    whole = score(slice(None), 0)
    headline = whole.headline
    slices = []
    for name, own in members.items():
        found = score(own, num_resamples)
        units = count_units(None if groups is None else groups[own], int(own.sum()))
        slices.append(
            Slice(
                name=name,
                num_samples=int(own.sum()),
                num_units=units,
                values={**found.kept, **{one.name: found.values[one.name] for one in headline}},
                intervals={one.name: found.intervals[one.name] for one in headline if one.name in found.intervals},
            )
        )
    large = {one.name: members[one.name] for one in slices if not one.is_small}
    first = headline[0]
    gap = None
    if len(large) > 1 and first.is_bootstrapped:
        gap = _largest_gap(first, target, target.numbers(logits), labels, large, groups, num_resamples)
    return Slices(
        column=column,
        overlaps=bool(np.sum(list(members.values()), axis=0).max() > 1),
        metrics=tuple((one.name, one.title) for one in headline),
        is_share=first.is_share,
        whole=whole.values[first.name],
        slices=tuple(slices),
        gap=gap,
    )


def _largest_gap(
    metric: Metric,
    target: Target,
    numbers: Floats,
    labels: Any,
    members: Mapping[str, Flags],
    groups: Codes | None,
    num_resamples: int,
) -> Gap:
    """Find the pair of slices that are farthest apart, and the interval of their difference over resampled groups."""
    from scipy.special import stdtrit

    names, owned = list(members), list(members.values())
    measures = [target.resampler(numbers[own], labels[own]) for own in owned]
    once = [
        float(measure(np.ones((1, own.sum()), np.float32))[metric.name][0])
        for measure, own in zip(measures, owned, strict=True)
    ]
    pairs = list(combinations(range(len(names)), 2))
    farthest = max(pairs, key=lambda pair: abs(once[pair[0]] - once[pair[1]]))
    bottom, top = sorted(farthest, key=once.__getitem__)
    value = once[top] - once[bottom]
    drawn = np.concatenate(
        [
            measures[top](weights[:, owned[top]])[metric.name]
            - measures[bottom](weights[:, owned[bottom]])[metric.name]
            for weights in Bootstrap(len(labels), groups, 0, num_resamples).weights()
        ]
    )
    some = [None if groups is None else groups[owned[place]] for place in (bottom, top)]
    units = [count_units(own, int(owned[place].sum())) for own, place in zip(some, (bottom, top), strict=True)]
    # Where all answers in a slice are right, resamples do not vary: one wrong answer more is allowed for.
    sizes = [owned[place].sum() / typical_size(own) for own, place in zip(some, (bottom, top), strict=True)]
    variance = float(drawn.var()) + metric.is_share * sum(1 / (size + 2) ** 2 for size in sizes)
    half = float(stdtrit(sum(units) - 2, 1 - _DOUBT / (2 * len(pairs)))) * variance**0.5
    interval = enclose(value, find_middle(drawn, value, metric), half, metric, is_difference=True)
    return Gap(low=names[bottom], high=names[top], value=value, interval=interval, pairs=len(pairs))
