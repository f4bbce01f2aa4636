"""How a classifier stands changes of the images that it answers: greyscale, blur, crops and others (`CORRUPTIONS`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from uniemox.data.corruptions import CORRUPTIONS, DESCRIPTION
from uniemox.errors import DataError
from uniemox.files.progress import Track, untracked
from uniemox.targets.clusters import Clusters
from uniemox.targets.intervals import Codes
from uniemox.targets.pairs import difference, draw_together
from uniemox.targets.robustness import UNCHANGED, Robustness, Shift
from uniemox.targets.scores import NUM_RESAMPLES, Floats, Interval, Scores
from uniemox.targets.target import Logits, Target

if TYPE_CHECKING:
    from uniemox.inference.outputs import Outputs
    from uniemox.manifests.table import Manifest


def answer_changed(
    answer: Callable[..., Outputs], manifest: Manifest, clean: Outputs, *, track: Track = untracked
) -> list[Outputs]:
    """Answer the images that could be read again, changed: one set of answers for each of `CORRUPTIONS`.

    Each image is decoded once, unless it is large; the model runs as often as there are corruptions. `DataError` is
    raised where an image cannot be read any more. `answer` is `Evaluator.outputs`.
    """
    readable = np.zeros(len(manifest), dtype=bool)
    readable[clean.rows] = True
    outputs = answer(manifest.where(readable), clean.target, corruptions=CORRUPTIONS, track=track)
    if outputs.unreadable:
        raise DataError(f"images changed while they were evaluated: {outputs.describe_unreadable()}")
    return outputs.apart(len(CORRUPTIONS))


def score_changed(clean: Outputs, changed: Sequence[Outputs], *, measured_on: str) -> Robustness:
    """Compare the answers of `answer_changed` with those to the images as they are, which `measured_on` names."""
    named = [(one.name, one.strength, own.logits) for one, own in zip(CORRUPTIONS, changed, strict=True)]
    found = measure_robustness(
        clean.target, clean.logits, named, clean.labels, clean.group_codes, description=DESCRIPTION
    )
    return replace(found, measured_on=measured_on)


def measure_robustness(
    target: Target,
    clean: Logits,
    changed: Sequence[tuple[str, str, Logits]],
    labels: Any,
    groups: Codes | None = None,
    *,
    description: str = "",
    num_resamples: int = NUM_RESAMPLES,
) -> Robustness:
    """Compare the answers to changed images with those to the same images as they are.

    Args:
        target: What is answered.
        clean: Logits for the unchanged images (N, C).
        changed: Of each change its name, its strength and the logits (N, C), at least one.
        labels: (N, …), as from `Target.read_labels`.
        groups: A number (N,) that samples which are alike share, to be resampled together.
        description: The changes in words.
        num_resamples: Of the bootstrap.
    """

    def score(logits: Logits) -> Scores:
        return target.score(logits, labels, groups=groups, num_resamples=num_resamples)

    unchanged = score(clean)
    headline = unchanged.headline[0]
    name = headline.name
    pairs = [(target, target.numbers(logits), labels) for logits in (clean, *(one for *_, one in changed))]
    first, *others = draw_together(pairs, groups, num_resamples=num_resamples)
    values = {**unchanged.kept, name: unchanged.values[name]}
    shifts = [Shift(change=UNCHANGED, strength="", values=values, interval=unchanged.intervals.get(name))]
    for (change, strength, logits), drawn in zip(changed, others, strict=True):
        own = score(logits)
        # A metric without an interval is compared all the same.
        moved = difference([first], [drawn], name) if name in drawn.metrics else None
        flipped, flipped_interval = _share(target.flips(clean, logits), groups)
        shift = Shift(
            change=change,
            strength=strength,
            values={**own.kept, name: own.values[name]},
            interval=own.intervals.get(name),
            difference=own.values[name] - unchanged.values[name],
            difference_interval=moved and moved.interval,
            flipped=flipped,
            flipped_interval=flipped_interval,
        )
        shifts.append(shift)
    return Robustness(
        metric=name,
        title=headline.title,
        is_share=headline.is_share,
        flips=target.flip_words,
        description=description,
        shifts=tuple(shifts),
    )


def _share(flips: Floats, groups: Codes | None) -> tuple[float, Interval | None]:
    """Compute the mean of shares (N,) with its interval over groups."""
    codes = np.arange(len(flips)) if groups is None else groups
    order, clusters = np.argsort(codes, kind="stable"), Clusters(1)
    clusters.add(codes[order], np.zeros(len(flips), np.int64), flips[order, None])
    mix = clusters.mix(are_shares=True)
    mean, low, high = (float(values[0, 0]) for values in (mix.mean, mix.low, mix.high))
    return mean, None if np.isnan(low) else Interval(low, high)
