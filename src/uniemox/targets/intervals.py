"""How far scores would move with other samples of the same kind: 95 % intervals.

What is resampled are groups of samples that are alike, such as the frames of a clip, or else single samples.
Letters: N samples, G groups, C classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from uniemox.targets.scores import Flags, Floats, Interval, Metric
from uniemox.wording import counted

if TYPE_CHECKING:
    from uniemox.manifests.table import Manifest

Codes = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float32]

_DRAWS_AT_ONCE: Final = 2**23  # Numbers in one block of resamples, so that memory does not grow with the set
_PSEUDO_COUNTS: Final = (
    2  # Right and wrong answers each; half the square of the normal quantile (Agresti and Coull 1998)
)


class Groups(NamedTuple):
    """Which samples are alike."""

    codes: Codes  # (N,), the same number for samples of the same group
    word: str  # What a group is


def groups_of(manifest: Manifest) -> Groups | None:
    """Group rows by the column `group` where they have one, else by image; None if every row stands for itself."""
    table = manifest.table
    parts = [table[name].combine_chunks().dictionary_encode() for name in ("group", "path")]
    named, images = (part.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) for part in parts)
    codes = np.where(named < 0, len(parts[0].dictionary) + images, named)
    if len(np.unique(codes)) == len(codes):
        return None
    return Groups(codes, "image" if (named < 0).all() else "group")


def count_units(groups: Codes | None, count: int) -> int:
    """Count what is resampled: the groups, or else the samples."""
    return count if groups is None else len(np.unique(groups))


def describe_units(groups: Codes | None, word: str = "group") -> str:
    """Count the groups in words; empty for samples."""
    return "" if groups is None else counted(count_units(groups, 0), word)


def draw_kinds(frequency: Codes, *, seed: int, num_resamples: int) -> Iterator[Floats]:
    """Draw units with replacement where many are of the same kind, such as a cell of a confusion matrix.

    From the number of units of each kind (U,), yield how many are drawn (≤ R, U), in blocks.
    """
    rng, units = np.random.default_rng(seed), frequency.sum()
    step = max(1, _DRAWS_AT_ONCE // len(frequency))
    for start in range(0, num_resamples, step):
        rows = min(step, num_resamples - start)
        yield rng.multinomial(units, frequency / units, size=rows).astype(np.float64)


def resample(groups: Codes | None, count: int, *, seed: int, num_resamples: int) -> Iterator[Weights]:
    """Draw the groups of samples with replacement, or the samples where there are no groups.

    Args:
        groups: A number (N,) that samples of the same group share; None if each sample stands for itself.
        count: N.
        seed: Of the draws.
        num_resamples: R.

    Yields:
        Blocks of resamples (≤ R, N), together R: how often each sample is drawn. As groups differ in size, a row need
        not sum to N. None where there is one group only, since nothing varies then.
    """
    codes = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1]
    units, rng = int(codes.max()) + 1, np.random.default_rng(seed)
    if units < 2:
        return
    step = max(1, _DRAWS_AT_ONCE // count)
    for start in range(0, num_resamples, step):
        rows = range(min(step, num_resamples - start))
        # Counting draws is five times as fast as drawing counts, by `multinomial`.
        drawn = [np.bincount(rng.integers(units, size=units), minlength=units) for _ in rows]
        yield np.stack(drawn).astype(np.float32)[:, codes]


class Bootstrap(NamedTuple):
    """How the intervals of the scores of N samples are drawn."""

    num_samples: int  # N
    groups: Codes | None  # As `resample` takes them
    seed: int
    num_resamples: int  # R; 0 for no intervals

    def weights(self) -> Iterator[Weights]:
        """Draw as `resample` does: blocks (≤ R, N)."""
        return resample(self.groups, self.num_samples, seed=self.seed, num_resamples=self.num_resamples)

    def bound(
        self, metrics: Sequence[Metric], evidence: Any, resampled: Sequence[Any], *, centre: Any = None
    ) -> dict[str, Any]:
        """Return the fields of `Scores` on what was resampled; the arguments are those of `bound`."""
        units = count_units(self.groups, self.num_samples)
        return {
            "num_samples": self.num_samples,
            "intervals": bound(metrics, evidence, resampled, units=units, centre=centre),
            "resampled": describe_units(self.groups),
        }


def typical_size(groups: Codes | None) -> float:
    """Compute the size of the group that a sample is in on average; N by this is Kish's effective sample size (1965).

    It is that of samples which are all alike in a group, the worst case.
    """
    if groups is None:
        return 1.0
    sizes = np.unique(groups, return_counts=True)[1]
    return float((sizes**2).sum() / sizes.sum())


class PseudoCounts:
    """Right and wrong answers that are added to the tallies of a classifier before an interval is computed.

    Where all answers of a class are right, resamples hold no wrong one, and of few samples they hold too few. Two right
    and two wrong ones, shared by the classes that have samples, make an interval cover what it should, for a share
    (Agresti and Coull 1998) and for a mean of shares (Price and Bonett 2004). Each is as large as a group.
    """

    def __init__(self, support: npt.NDArray[Any], groups: Codes | None, seed: int) -> None:
        present: Flags = support > 0  # (C,)
        self.size = typical_size(groups)
        self.share: Floats = _PSEUDO_COUNTS * present / max(1, present.sum())
        self._rng = np.random.default_rng((seed, 1))

    @property
    def mean(self) -> Floats:
        """What is added to hits, false alarms and misses of each class (3, C)."""
        return self.size * np.stack([self.share] * 3)

    def draw(self, num_resamples: int) -> Floats:
        """Draw what is added in each of R further resamples (3, R, C), without a lump at 0."""
        drawn = self._rng.standard_gamma(self.share, size=(num_resamples, 3, len(self.share)))
        return self.size * np.moveaxis(drawn, 1, 0)


def interval(drawn: Floats, value: float, *, units: int, centre: float | None = None, metric: Metric) -> Interval:
    """Compute the 95 % interval of a score: as many standard deviations of resamples as Student's t asks for.

    Args:
        drawn: The score of each resample (R,).
        value: The score, which the interval always holds.
        units: How many groups or samples were resampled, at least 2.
        centre: The score of what was resampled, if that is not `value`.
        metric: As `find_middle` and `enclose` take it.
    """
    from scipy.special import stdtrit

    middle = find_middle(drawn, value if centre is None else centre, metric)
    half = float(stdtrit(units - 1, 0.975) * drawn.std())
    return enclose(value, middle, half, metric)


def find_middle(drawn: Floats, value: float, metric: Metric) -> float:
    """Take from a value the bias that its resamples (R,) show, where the metric has one.

    Efron and Tibshirani 1993, chapter 10.
    """
    return 2 * value - float(drawn.mean()) if metric.is_biased else value


def enclose(value: float, middle: float, half: float, metric: Metric, *, is_difference: bool = False) -> Interval:
    """Make an interval around its middle that holds the value and ends where a metric, or a difference in it, does."""
    least, most = (0.0, 1.0) if metric.is_share else metric.limits
    if is_difference:
        least, most = least - most, most - least
    return Interval(max(min(middle - half, value), least), min(max(middle + half, value), most))


def bound(
    metrics: Sequence[Metric], evidence: Any, resampled: Sequence[Any], *, units: int, centre: Any = None
) -> dict[str, Interval]:
    """Compute the intervals of the bootstrapped metrics; none without resamples.

    Args:
        metrics: Of the target.
        evidence: What the scores are computed from.
        resampled: Blocks of resamples of it.
        units: How many groups or samples were resampled (`count_units`).
        centre: The evidence that was resampled, if something was added to it.
    """
    found = {}
    for metric in metrics if resampled else ():
        if metric.is_bootstrapped:
            drawn = np.concatenate([metric.compute(block) for block in resampled])
            value, middle = (float(metric.compute(one)) for one in (evidence, evidence if centre is None else centre))
            found[metric.name] = interval(drawn, value, units=units, centre=middle, metric=metric)
    return found
