"""What is promised of a classifier's answers: label sets that hold the true label, and abstention where it is unsure.

Both are fitted on val and hold for images that are exchangeable with those, over all of them and not for each. Letters:
N samples, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, Self

import numpy as np

from uniemox.config.training import PromiseConfig
from uniemox.errors import DataError
from uniemox.targets.columns import Column
from uniemox.targets.intervals import Codes
from uniemox.targets.scores import Counts, Flags, Floats, Metric
from uniemox.wording import counted

NUM_STEPS: Final = 20  # Shares of val that abstention is tried at: 1/20, 2/20, … 1
DELTA: Final = 0.05  # Probability, over the choice of val, that the error rate of what is answered is above the risk
_TAKE: Final = {name: itemgetter(name) for name in ("set_coverage", "set_size", "abstained", "answered_error")}
_ROUNDING: Final = 1e-9  # So that (9 + 1) · .7 is 7


@dataclass(frozen=True)
class Guarantees:
    """What was fitted for one model; each part is absent if its number is None."""

    level: float | None = None  # Share of the label sets that hold the true label, at least
    threshold: float = 0.0  # Probability from which a class is in the set; the likeliest always is
    risk: float | None = None  # Error rate of what is answered, at most
    cutoff: float = 0.0  # Confidence up to which the model abstains; 1 abstains from all
    samples: int = 0  # Of val, or its groups, that both were fitted on

    @classmethod
    def from_numbers(cls, numbers: Mapping[str, tuple[float, ...]]) -> Self:
        """Rebuild them from `to_numbers`, among others; `DataError` if those cannot be."""
        read: list[tuple[Any, ...]] = []
        for name in ("label_set", "abstention"):
            found: tuple[Any, ...] = numbers.get(name, (None, 0.0, 0))
            is_known = name not in numbers or (len(found) == 3 and 0 < found[0] < 1)
            if not (is_known and 0 <= found[1] <= 1 and 0 <= found[2] < math.inf):
                raise DataError(f"numbers.{name} is {list(found)}, but must be two shares and a number of samples")
            read.append(found)
        (level, threshold, samples), (risk, cutoff, others) = read
        return cls(level, threshold, risk, cutoff, int(max(samples, others)))

    def to_numbers(self) -> dict[str, tuple[float, ...]]:
        """Return what a model folder keeps."""
        parts = {"label_set": (self.level, self.threshold), "abstention": (self.risk, self.cutoff)}
        return {name: (asked, at, float(self.samples)) for name, (asked, at) in parts.items() if asked is not None}

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of `answers`."""
        sets, abstention = Column("label_set", "texts"), Column("abstains", "flag")
        return (*((sets,) if self.level is not None else ()), *((abstention,) if self.risk is not None else ()))

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What `measure` measures."""
        found: list[Metric] = []
        if self.level is not None:
            note = f"at least {100 * self.level:g} % promised"
            found += [
                Metric("set_coverage", "true label in its set", _TAKE["set_coverage"], note=note),
                Metric(
                    "set_size", "labels in a set", _TAKE["set_size"], note="mean", lower_is_better=True, is_share=False
                ),
            ]
        if self.risk is not None:
            note = f"at most {100 * self.risk:g} % promised"
            found += [
                Metric("abstained", "abstained", _TAKE["abstained"], lower_is_better=True),
                Metric(
                    "answered_error", "errors among answered", _TAKE["answered_error"], note=note, lower_is_better=True
                ),
            ]
        return tuple(found)

    @property
    def fitted(self) -> str:
        """What a card reports."""
        texts = []
        if self.level is not None:
            texts.append(
                f"A label set holds the classes with a probability of at least {self.threshold:.4f}, and the "
                f"likeliest: fitted on {counted(self.samples, 'sample')} of val, so that the true label is in the sets "
                f"of at least {100 * self.level:g} % of images like those (split-conformal), over all, not in each "
                "class."
            )
        if self.risk is not None and self.cutoff >= 1:
            texts.append(f"It abstains from every image, as val shows no error rate of at most {100 * self.risk:g} %.")
        elif self.risk is not None:
            texts.append(
                f"It abstains where the confidence is at most {self.cutoff:.4f}: of images like those of val that it "
                f"answers, at most {100 * self.risk:g} % are answered wrongly, with a confidence of "
                f"{100 * (1 - DELTA):g} %."
            )
        return " ".join(texts)

    def sets(self, probabilities: Floats) -> Flags:
        """Decide which classes are in the label sets (N, C); none is empty, which only adds to what is promised."""
        held: Flags = probabilities >= self.threshold
        held[np.arange(len(held)), probabilities.argmax(1)] = True
        return held

    def abstains(self, probabilities: Floats) -> Flags:
        """Decide from which samples the model abstains (N,)."""
        unsure: Flags = probabilities.max(1) <= self.cutoff
        return unsure

    def answers(self, probabilities: Floats, classes: Sequence[str]) -> list[dict[str, Any]]:
        """Return the values of `columns` for each row; sets name the likeliest class first."""
        rows: list[dict[str, Any]] = [{} for _ in probabilities]
        if self.level is not None:
            order = np.argsort(-probabilities, axis=1, kind="stable")
            held = np.take_along_axis(self.sets(probabilities), order, 1)
            for row, places, own in zip(rows, order, held, strict=True):
                row["label_set"] = [classes[place] for place in places[own]]
        if self.risk is not None:
            for row, unsure in zip(rows, self.abstains(probabilities).tolist(), strict=True):
                row["abstains"] = unsure
        return rows

    def measure(self, probabilities: Floats, is_true: Flags) -> dict[str, float]:
        """Compute the metrics from what is true of each sample (N, C); without an answer there is no error rate."""
        found: dict[str, float] = {}
        if self.level is not None:
            held = self.sets(probabilities)
            found["set_coverage"] = float((held & is_true).any(1).mean())
            found["set_size"] = float(held.sum(1).mean())
        if self.risk is not None:
            answered = ~self.abstains(probabilities)
            found["abstained"] = float(1 - answered.mean())
            if answered.any():
                right = np.take_along_axis(is_true, probabilities.argmax(1)[:, None], 1)[:, 0]
                found["answered_error"] = float(1 - right[answered].mean())
        return found


def fit_guarantees(
    probabilities: Floats, is_true: Flags, asked: PromiseConfig, groups: Codes | None = None
) -> tuple[Guarantees, tuple[str, ...]]:
    """Fit what is asked on val.

    Of samples that are alike one is taken, by lot: it is groups, then, that must be exchangeable with new ones.

    Args:
        probabilities: (N, C), calibrated.
        is_true: (N, C), true for the label of a sample; of several any counts as right.
        asked: What to promise.
        groups: A number (N,) that samples which are alike share; None for none.

    Returns:
        What was fitted, and in words what could not be.
    """
    rows = one_of_each(groups, len(probabilities))
    probabilities, is_true = probabilities[rows], is_true[rows]
    notes = describe_too_few(asked, len(rows))
    level, threshold = asked.level, 0.0
    if level is not None:
        found = fit_label_sets(np.where(is_true, probabilities, 0).max(1), level)
        level, threshold = (None, 0.0) if found is None else (level, found)
    cutoff = 0.0
    if asked.risk is not None:
        right = np.take_along_axis(is_true, probabilities.argmax(1)[:, None], 1)[:, 0]
        bound = fit_cutoff(probabilities.max(1), right, asked.risk)
        cutoff = 1.0 if bound is None else bound
        if bound is None:
            notes += (
                "the model abstains from every image: on val no threshold of the confidence keeps the error rate to "
                f"at most {asked.risk:g} with a confidence of {1 - DELTA:g}; raise `confidence.risk`, or enlarge val",
            )
    return Guarantees(level, threshold, asked.risk, cutoff, len(rows)), notes


def describe_too_few(asked: PromiseConfig, samples: int) -> tuple[str, ...]:
    """Say what so many samples of val, or groups of them, are too few for."""
    texts = []
    level, risk = asked.level, asked.risk
    if level is not None and _rank(samples, level) > samples:
        most = math.floor(1000 * samples / (samples + 1)) / 1000
        needed = math.ceil(level / (1 - level) - _ROUNDING)
        texts.append(
            f"no label sets at level {level:g}, which needs {needed} independent samples: val has {samples}, which "
            f"allow a level of at most {most:g}; lower `confidence.level`, or enlarge val"
        )
    if risk is not None and samples < (needed := math.ceil(math.log(DELTA / NUM_STEPS) / math.log1p(-risk))):
        texts.append(
            f"risk {risk:g} needs {needed} independent samples, even if none is answered wrongly: val has {samples}"
        )
    return tuple(texts)


def one_of_each(groups: Codes | None, count: int) -> Counts:
    """Choose a sample of each group by lot, always the same: places in the N samples, all without groups."""
    if groups is None:
        return np.arange(count)
    order = np.random.default_rng(0).permutation(count)
    return np.sort(order[np.unique(groups[order], return_index=True)[1]])


def fit_label_sets(own: Floats, level: float) -> float | None:
    """Find the probability from which a class is in a label set, by split-conformal prediction.

    A new sample's label is in its set with a probability of at least `level`, if it is exchangeable with those given
    (Sadinle, Lei and Wasserman 2019: score 1 − p of the true label, and its ⌈(N + 1) · level⌉-th smallest value).

    Args:
        own: (N,), probability of the true label of each sample.
        level: Between 0 and 1.

    Returns:
        The probability; None where N allows no such level, which is at most N / (N + 1).
    """
    rank = _rank(len(own), level)
    return float(np.sort(own)[len(own) - rank]) if rank <= len(own) else None


def _rank(samples: int, level: float) -> int:
    return math.ceil((samples + 1) * level - _ROUNDING)


def fit_cutoff(confidence: Floats, right: Flags, risk: float) -> float | None:
    """Find the least confidence above which the error rate of new samples is at most `risk`.

    That holds with a probability of at least .95 over the choice of the samples. The bound of the error rate is Clopper
    and Pearson's (1934), as in selection with guaranteed risk (Geifman and El-Yaniv 2017). They search for the
    threshold; here the surest 1/20, 2/20, … of the samples are tried, each at a twentieth of the .05, since a search
    that follows what it finds is not covered by a union bound over its steps. Given the first confidence that is not
    answered, those above are independent draws of samples above it.

    Args:
        confidence: (N,), above 0.
        right: (N,), whether each answer is.
        risk: Between 0 and 1.

    Returns:
        The confidence up to which to abstain, 0 for never; None where no threshold tried has so low a bound.
    """
    from scipy.special import betaincinv

    count, ranked = len(confidence), np.sort(confidence)[::-1]
    for step in range(NUM_STEPS, 0, -1):
        answered = -(-count * step // NUM_STEPS)
        cutoff = 0.0 if answered == count else float(ranked[answered])
        chosen = right[confidence > cutoff]
        errors = int((~chosen).sum())
        if errors < len(chosen) and betaincinv(errors + 1, len(chosen) - errors, 1 - DELTA / NUM_STEPS) <= risk:
            return cutoff
    return None
