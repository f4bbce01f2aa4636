"""Comparison of runs, probes, evaluations and models: scores, paired differences from one of them, and what differs."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from uniemox.errors import ConfigError, DataError
from uniemox.inference.evaluate import evaluate
from uniemox.inference.outputs import BATCH_SIZE
from uniemox.inference.sources import PREDICTIONS, REPORT, Source, Tested, read_source, why_different
from uniemox.targets.pairs import Difference, Drawn, Seeds, difference, draw_together, holm, mcnemar, over_seeds
from uniemox.targets.scores import NUM_RESAMPLES, Flags, Interval, Metric, Scores
from uniemox.targets.target import Target
from uniemox.wording import counted, listed, nearest, reason_of

_MCNEMAR: Final = "McNemar's exact test"
_ALIKE: Final = 1e-4  # Largest difference of a score that is the same, from a table with float32 labels


@dataclass(frozen=True)
class Arm:
    """Runs that differ by their seeds alone, or one source."""

    name: str
    sources: tuple[Source, ...]
    differs: Mapping[str, str] = field(default_factory=dict)  # Settings in which arms differ, by name
    gap: str = ""  # Why it is not compared with the base; empty where it is, and for the base
    differences: Mapping[str, Difference] = field(default_factory=dict)  # From the base, by metric
    p: float = math.nan  # Of no difference from the base
    corrected: float = math.nan  # The same by Holm's method, over all arms

    @property
    def tested(self) -> list[Tested]:
        """The evaluations of those that have one."""
        return [source.tested for source in self.sources if source.tested is not None]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What is shown of its scores."""
        known = (one.scores for one in self.tested[:1])
        return tuple(one for scores in known for one in scores.metrics if one.title and one.name in scores.values)

    def values(self, name: str) -> list[float]:
        """List what its runs score in a metric."""
        return [one.scores.values[name] for one in self.tested if name in one.scores.values]

    def seeds(self, name: str) -> Seeds | None:
        """Describe what several runs score in a metric; None for one."""
        return over_seeds(self.values(name))

    def interval(self, name: str) -> Interval | None:
        """Return the interval over seeds of several runs, or that over samples of one."""
        seeds = self.seeds(name)
        return self.tested[0].scores.intervals.get(name) if seeds is None else seeds.interval


@dataclass(frozen=True)
class Comparison:
    """What `compare` found."""

    arms: tuple[Arm, ...]
    base: Arm
    samples: str = ""  # What differences are over, such as 200 groups; empty where there are none
    test: str = ""  # What p is from

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of all arms, in the order of the first that has each."""
        found = {(one.name, one.title): one for arm in (self.base, *self.arms) for one in arm.metrics}
        return tuple(found.values())

    @property
    def compared(self) -> list[Arm]:
        """The arms that have differences from the base."""
        return [arm for arm in self.arms if arm.differences]

    @property
    def notes(self) -> list[str]:
        """Sentences on what is missing."""
        found = [f"{arm.name} is not compared with {self.base.name}: {arm.gap}." for arm in self.arms if arm.gap]
        for arm in self.arms:
            lost = [source for source in arm.sources if source.tested is None]
            if lost and len(lost) < len(arm.sources):
                found.append(f"{counted(len(lost), 'run')} of {arm.name} is not counted: {lost[0].reason}.")
        alike = [arm.name for arm in self.arms if len(arm.tested) > 1 and _is_the_same(arm)]
        if alike:
            score = "scores" if len(alike) == 1 else "score"
            why = "so the range over seeds has no width: compare one seed for that over images"
            found.append(f"{listed(alike)} {score} the same with every seed, {why}.")
        single = [arm.name for arm in self.arms if len(arm.tested) == 1 and arm.sources[0].settings]
        if single and self.compared:
            have = "have one seed each" if len(single) > 1 else "has one seed"
            found.append(f"{listed(single)} {have}: how much another seed would change is not known.")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "base": self.base.name,
            "resampled": self.samples,
            "test": self.test,
            "arms": [_arm_to_dict(arm) for arm in self.arms],
            "notes": self.notes,
        }


def _is_the_same(arm: Arm) -> bool:
    return all(len(set(arm.values(metric.name))) == 1 for metric in arm.metrics)


def _arm_to_dict(arm: Arm) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    for metric in arm.metrics:
        values, interval = arm.values(metric.name), arm.interval(metric.name)
        seeds = arm.seeds(metric.name)
        scores[metric.name] = {
            "value": float(np.mean(values)),
            "deviation": None if seeds is None else seeds.deviation,
            "interval": None if interval is None else list(interval),
            "runs": values,
        }
    apart = {
        name: {"value": one.value, "interval": one.interval and list(one.interval), "p": _number(one.p)}
        for name, one in arm.differences.items()
    }
    runs = [
        {
            "name": source.name,
            "seed": int(source.seed) if source.seed.isdecimal() else None,
            "epoch": None if source.chosen is None else source.chosen["epoch"],
            "num_samples": None if source.tested is None else source.tested.scores.num_samples,
            "reason": source.reason,
        }
        for source in arm.sources
    ]
    return {
        "name": arm.name,
        "runs": runs,
        "differs": {**arm.differs},
        "scores": scores,
        "differences": apart,
        "p": _number(arm.p),
        "p_holm": _number(arm.corrected),
        "reason": arm.gap,
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def compare(
    sources: Sequence[str | Path],
    *,
    base: str | None = None,
    arms: Sequence[str] | None = None,
    data: Path | None = None,
    split: str = "test",
    device: str = "auto",
    batch_size: int = BATCH_SIZE,
    num_workers: int = 2,
    num_resamples: int = NUM_RESAMPLES,
    target: Target | None = None,
) -> Comparison:
    """Compare what was evaluated: scores with intervals, and differences from one of them on the same samples.

    Runs whose settings differ by their seeds alone are one arm. Differences are paired, with 95 % intervals over the
    samples, by group, and over the seeds of arms that have several (`targets.pairs.difference`). The p of each is from
    McNemar's exact test where all are single runs whose answers are right or wrong, else from the difference in the
    first metric; Holm's method corrects for the number of arms.

    Args:
        sources: Folders of runs and of probes, and those that `evaluate` wrote; with `data` also models, as `evaluate`
            takes them.
        base: What the others are compared with: the name of a source, or of an arm; by default the first.
        arms: The name of the arm of each source, where it is not for their settings to say.
        data: Manifest that runs and models are evaluated on, in place of the tests that runs have.
        split: Split of `data`.
        device: auto, cpu, cuda or mps; for `data`.
        batch_size: Images in one forward pass; for `data`.
        num_workers: Processes that decode; for `data`.
        num_resamples: Of the bootstrap.
        target: What all were trained with, where that is a kind of the caller's own.

    Raises:
        ConfigError: A source is none of these, or `base` names none of them.
        CheckpointError: A model cannot be read.
        DataError: `data` cannot be used.
    """
    names = list(map(str, sources))
    if not names:
        raise ConfigError("`sources` must be given")
    if len(set(names)) < len(names):
        raise ConfigError(f"{next(name for name in names if names.count(name) > 1)} is given twice: compare it once")
    with ExitStack() as stack:
        found = [read_source(name, Path(name), target=target) for name in names]
        if data is not None:
            kept = Path(stack.enter_context(TemporaryDirectory()))
            options: dict[str, Any] = {"device": device, "batch_size": batch_size, "num_workers": num_workers}
            options |= {"data": data, "split": split, "target": target, "baselines": False}
            for place, (name, source) in enumerate(zip(names, found, strict=True)):
                if source is None or source.settings:  # what is an evaluation stays one
                    evaluate(name, out=kept / str(place), **options)
                    evaluated = read_source(name, kept / str(place), target=target)
                    assert evaluated is not None
                    found[place] = replace(source or evaluated, tested=evaluated.tested, reason=evaluated.reason)
        whole = [_known(name, source) for name, source in zip(names, found, strict=True)]
        return _compare_arms(_find_arms(whole, arms), base, num_resamples)


def _known(name: str, source: Source | None) -> Source:
    if source is None:
        exists = "neither a run nor an evaluation" if Path(name).exists() else "no folder"
        raise ConfigError(f"{name} is {exists}: to compare a model, give the `data` that it is evaluated on")
    return source


def _find_arms(sources: Sequence[Source], given: Sequence[str] | None) -> list[Arm]:
    """Put runs together that differ by their seeds alone, or as they are given, and find what differs between arms."""
    held: dict[Any, list[Source]] = {}
    for place, source in enumerate(sources):
        key: Any = place if given is None else given[place]
        if given is None and source.settings:
            key = frozenset(source.settings.items())
            if any(other.seed == source.seed for other in held.get(key, ())):
                key = place  # the same run once more
        held.setdefault(key, []).append(source)
    names = [str(key) for key in held] if given is not None else _name_arms([*held.values()])
    settings = [_common(members) for members in held.values()]
    known = [own for own in settings if own]
    shared = [name for name in (known[0] if known else ()) if all(name in own for own in known)]
    differing = [name for name in shared if len({own[name] for own in known}) > 1]
    return [
        Arm(name, tuple(members), {each: own[each] for each in differing if each in own})
        for name, members, own in zip(names, held.values(), settings, strict=True)
    ]


def _common(members: Sequence[Source]) -> dict[str, str]:
    """Return the settings that all runs of an arm share; others vary."""
    first, *others = (source.settings for source in members)
    return {
        name: value if all(other.get(name) == value for other in others) else "varies" for name, value in first.items()
    }


def _name_arms(held: Sequence[Sequence[Source]]) -> list[str]:
    """Name arms by what the names of their runs share, without the folders that all names share."""
    start = os.path.commonprefix([source.name for members in held for source in members])  # noqa: RUF071
    shared = start.rfind("/") + 1 if len(held) > 1 else 0
    names = []
    for members in held:
        own = [source.name.rstrip("/")[shared:] for source in members]
        common = os.path.commonprefix(own) if len(own) > 1 else own[0]  # noqa: RUF071, which may end within a name
        names.append(common.removesuffix("seed").rstrip("-_./= ") or own[0])
    return names if len(set(names)) == len(names) else [members[0].name for members in held]


def _compare_arms(arms: Sequence[Arm], asked: str | None, num_resamples: int) -> Comparison:
    base = arms[0]
    if asked is not None:
        known = {name: arm for arm in arms for name in (*(source.name for source in arm.sources), arm.name)}
        if asked not in known:
            raise ConfigError(f"base is {asked}, which is none of those compared{nearest(asked, known)}")
        base = known[asked]
    others = [arm for arm in arms if arm is not base]
    if not others:
        return Comparison(tuple(arms), base)
    found = _Pairs.of(base)
    gaps = {arm.name: found if isinstance(found, str) else found.add(arm) for arm in others}
    if isinstance(found, str) or all(gaps.values()):
        return Comparison(tuple(arm if arm is base else replace(arm, gap=gaps[arm.name]) for arm in arms), base)
    compared = found.compare([arm for arm in others if not gaps[arm.name]], num_resamples)
    corrected = dict(zip(compared, holm([arm.p for arm in compared.values()]).tolist(), strict=True))
    made = {name: replace(arm, corrected=corrected[name]) for name, arm in compared.items()}
    shown = tuple(arm if arm is base else made.get(arm.name) or replace(arm, gap=gaps[arm.name]) for arm in arms)
    scores = base.tested[0].scores
    return Comparison(shown, base, scores.resampled or counted(scores.num_samples, "image"), found.test)


def _check_report(one: Tested, found: Scores) -> None:
    """Refuse a report that is of other answers than the table beside it, as where writing both was stopped halfway."""
    for metric in found.headline:
        if abs(found.values[metric.name] - one.scores.values.get(metric.name, math.nan)) > _ALIKE:
            raise DataError(f"{REPORT} and {PREDICTIONS} in {one.folder} are of different answers: evaluate it again")


class _Pairs:
    """The answers to the samples of the base, which arms are compared on."""

    def __init__(self, base: Arm) -> None:
        self.base, self.first = base, base.tested[0]
        self.rows = self.first.table()
        self.truth = [column.name for column in self.first.target.truth]
        self.answers: dict[str, list[tuple[Target, Any, Any]]] = {}
        self.groups = self.rows["group"].to_numpy() if "group" in self.rows.column_names else None
        self.test = ""

    @classmethod
    def of(cls, base: Arm) -> _Pairs | str:
        """Read those of the base, or say why that cannot be."""
        if not base.tested:
            return f"{base.name} has {base.sources[0].reason}"
        try:
            made = cls(base)
        except DataError as error:
            return str(error)
        if made.first.scores.resampled and made.groups is None:
            return f"{base.name} was evaluated before tables said which rows are alike: evaluate it again"
        return made.add(base) or made

    def add(self, arm: Arm) -> str:
        """Read those of an arm, or say why it cannot be compared."""
        if not arm.tested:
            return arm.sources[0].reason
        try:
            self.answers[arm.name] = [self._read(one) for one in arm.tested]
        except DataError as error:
            return str(error)
        return ""

    def _read(self, one: Tested) -> tuple[Target, Any, Any]:
        ours, theirs = (each.target for each in (self.first, one))
        if ours.name != theirs.name:
            raise DataError(f"it answers with {theirs.name}, and {self.base.name} with {ours.name}")
        if set(ours.classes) != set(theirs.classes):
            raise DataError(
                f"its classes are {listed(theirs.classes)}, those of {self.base.name} {listed(ours.classes)}"
            )
        rows = one.table()
        try:
            if why := why_different(self.rows, rows, self.truth):
                raise DataError(f"it was tested on other samples than {self.base.name} ({why})")
            numbers, labels = theirs.read_answers(rows)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{one.folder} holds no whole table of an evaluation ({reason_of(error)})") from error
        if not np.isfinite(numbers).all():
            raise DataError(f"{one.folder / PREDICTIONS} has answers that are not finite")
        _check_report(one, theirs.score_numbers(numbers, labels, num_resamples=0))
        return theirs, numbers, labels

    def compare(self, arms: Sequence[Arm], num_resamples: int) -> dict[str, Arm]:
        """Draw all that was read together, and compare each arm with the base."""
        listed_ = [(name, answer) for name, answers in self.answers.items() for answer in answers]
        drawn: dict[str, list[Drawn]] = {}
        made = draw_together([answer for _, answer in listed_], self.groups, num_resamples=num_resamples)
        for (name, _), one in zip(listed_, made, strict=True):
            drawn.setdefault(name, []).append(one)
        right = self._right()
        self.test = _MCNEMAR if right else ""
        ours, found = drawn[self.base.name], {}
        for arm in arms:
            apart = {name: difference(ours, drawn[arm.name], name) for name in ours[0].metrics}
            if right:
                p = mcnemar(right[self.base.name], right[arm.name], self.groups)
            else:
                first = next(iter(apart))
                p, self.test = apart[first].p, f"the difference in {ours[0].metrics[first].title}"
            found[arm.name] = replace(arm, differences=apart, p=p)
        return found

    def _right(self) -> dict[str, Flags]:
        """Find which answers are right (N,), where each arm is one run and they can be; else nothing."""
        if any(len(answers) > 1 for answers in self.answers.values()):
            return {}
        found = {name: one.right(numbers, labels) for name, [(one, numbers, labels)] in self.answers.items()}
        return {name: flags for name, flags in found.items() if flags is not None}
