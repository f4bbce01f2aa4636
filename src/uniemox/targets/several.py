"""Several kinds of labels at once: one encoder, and a head with outputs for each kind, side by side.

Where two parts have the same name for a class, a column or a metric, the first keeps it, and in the others the part's
own name stands before it: `label`, `distribution_label`. The loss is the sum of the parts' losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import numpy.typing as npt

from uniemox.config.training import ClassWeights, PromiseConfig
from uniemox.errors import ConfigError, DataError
from uniemox.targets import scores
from uniemox.targets.bridges import Crossing
from uniemox.targets.columns import SHARE, Column
from uniemox.targets.intervals import Bootstrap, Codes, Weights
from uniemox.targets.scores import Flags, Floats, Metric
from uniemox.targets.target import Logits, Numbers, Target

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor, nn

    from uniemox.manifests.table import Manifest

JOIN: Final = "+"  # Between the names of kinds
_OUTPUTS: Final = "outputs"  # Of each part, in the facts of a model folder


def _distinct(named: Iterable[tuple[str, str]]) -> list[str]:
    """Put the name of the part before a name that an earlier part has: from pairs of part and name."""
    found: list[str] = []
    for part, name in named:
        found.append(f"{part}_{name}" if name in found else name)
    return found


@dataclass(frozen=True, kw_only=True)
class SeveralScores(scores.Scores):
    """Scores of several kinds of answers to the same samples."""

    parts: tuple[scores.Scores, ...]

    @property
    def headline(self) -> list[Metric]:
        """The first two of those of each part."""
        own = iter(self.metrics)  # of the parts in turn, renamed where two would have one name
        named = [dict(zip((one.name for one in part.metrics), own, strict=False)) for part in self.parts]
        pairs = zip(self.parts, named, strict=True)
        return [names[one.name] for part, names in pairs for one in part.headline[:2]]

    @property
    def display(self) -> scores.Display:
        """What a page and the terminal show beside the metrics."""
        # The ranges are explained once, for all, and the baselines say what a part alone would.
        alone = [replace(part, intervals={}, resampled="", baselines=self.baselines) for part in self.parts]
        shown = [(part.kind.replace("_", " ").capitalize(), part.display) for part in alone]
        texts = [f"{name}: {part.explanation}" for name, part in shown if part.explanation]
        return scores.Display(
            samples=f"samples, each answered in {len(self.parts)} ways.",
            explanation="\n\n".join(filter(None, (*texts, self.ranges))),
            warnings=[f"{name}: {text}" for name, part in shown for text in part.warnings],
            baselines=[one for _, part in shown for one in part.baselines],
            panels=[(f"{name}: {head}", parts) for name, part in shown for head, parts in part.panels],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**super().to_dict(), "parts": [part.to_dict() for part in self.parts]}


@dataclass(frozen=True)
class Several(Target):
    """Targets that share an encoder, each of another kind; built in are those of `kinds`."""

    parts: tuple[Target, ...] = ()

    number_word = "number"
    kept_words = "of the answers to {images} stay"

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        if len(set(names)) < len(names):
            raise ConfigError(f"target names {next(name for name in names if names.count(name) > 1)} twice")
        if any(part.labels_kind is None for part in self.parts):
            raise ConfigError("a target of your own cannot be one of several: it does not say its `labels_kind`")

    @property
    def name(self) -> str:  # type: ignore[override]
        """The words of the parts, joined."""
        return JOIN.join(part.name for part in self.parts)

    @property
    def columns_read(self) -> tuple[str, ...]:  # type: ignore[override]
        """The columns of a manifest that a part reads."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.columns_read))

    @property
    def metrics(self) -> tuple[Metric, ...]:  # type: ignore[override]
        """The metrics of all parts; the first that can chooses the epoch."""
        own = [(part.name, metric) for part in self.parts for metric in part.about["metrics"]]
        names = _distinct((name, metric.name) for name, metric in own)
        titles = _titles(own)
        return tuple(
            replace(metric, name=name, title=title) for (_, metric), name, title in zip(own, names, titles, strict=True)
        )

    @property
    def is_judged(self) -> bool:  # type: ignore[override]
        """Whether the answer of the first part is right or wrong."""
        return self.parts[0].is_judged

    # What it is made of

    def _join(self, parts: Iterable[Target]) -> Self:
        bound = tuple(parts)
        names = _distinct((part.name, name) for part in bound for name in part.classes)
        return replace(self, parts=bound, classes=tuple(names))

    def bind(self, classes: tuple[str, ...], numbers: Numbers = MappingProxyType({})) -> Self:
        """Give each part its classes and numbers back; `DataError` if the counts contradict each other."""
        counts = [int(count) for count in numbers.get(_OUTPUTS, ())]
        if not classes and not counts:
            return self._join(part.bind(()) for part in self.parts)
        if len(counts) != len(self.parts) or min(counts) < 0 or sum(counts) != len(classes):
            raise DataError(f"numbers.{_OUTPUTS} is {counts}, but must divide {len(classes)} among {self.name}")
        bound, taken, names = [], set[str](), iter(classes)
        for part, count in zip(self.parts, counts, strict=True):
            given = [next(names) for _ in range(count)]
            own = [name if (bare := name.removeprefix(f"{part.name}_")) not in taken else bare for name in given]
            start = f"{part.name}."
            mine = {name.removeprefix(start): values for name, values in numbers.items() if name.startswith(start)}
            bound.append(part.bind(tuple(own), mine))
            taken.update(own)
        return self._join(bound)

    def bind_to(self, manifest: Manifest) -> Self:
        """Make the target of the labels that a manifest has, which must be of every kind."""
        return self._join(part.bind_to(manifest) for part in self.parts)

    def align(self, manifest: Manifest) -> tuple[Self, Manifest]:
        """Bring the labels of another manifest to those of the model."""
        parts = []
        for part in self.parts:
            own, manifest = part.align(manifest)
            parts.append(own)
        return self._join(parts), manifest

    def crossing(self, manifest: Manifest, *, bridge: bool) -> Crossing[Self]:
        """Bring together the labels and answers of the parts, one after another."""
        crossings = []
        for part in self.parts:
            crossings.append(part.crossing(manifest, bridge=bridge))
            manifest = crossings[-1].manifest

        def lead(logits: Logits) -> Logits:
            pairs = zip(crossings, self._outputs(logits), strict=True)
            return np.concatenate([one.lead(own) for one, own in pairs], axis=1)

        bridged = next((one.bridged for one in crossings if one.bridged is not None), None)
        return Crossing(self._join(one.target for one in crossings), manifest, lead, bridged)

    def rated(self, manifest: Manifest) -> Manifest:
        """Skip the rows that a part skips."""
        for part in self.parts:
            manifest = part.rated(manifest)
        return manifest

    def missing(self, manifest: Manifest) -> list[str]:
        """Name the classes that no row has."""
        return list(dict.fromkeys(name for part in self.parts for name in part.missing(manifest)))

    def to_facts(self) -> dict[str, Any]:
        """Return what a model folder keeps: the numbers of each part behind its name."""
        numbers: dict[str, tuple[float, ...]] = {_OUTPUTS: tuple(float(part.num_outputs) for part in self.parts)}
        for part in self.parts:
            facts = part.to_facts()
            own = {"thresholds": facts["thresholds"], **facts.get("numbers", {})}
            numbers |= {f"{part.name}.{name}": tuple(values) for name, values in own.items() if len(values)}
        return {"target": self.name, "thresholds": (), "numbers": numbers}

    @property
    def emotions(self) -> tuple[str | None, ...]:
        """The emotion that each output stands for."""
        return tuple(name for part in self.parts for name in part.emotions)

    @property
    def summary(self) -> str:
        """What a card calls the model."""
        return ", and ".join(part.summary for part in self.parts)

    @property
    def units(self) -> str:
        """The units of the parts."""
        return "; ".join(part.units for part in self.parts if part.units)

    @property
    def fitted(self) -> str:
        """What a card reports of what was fitted on val."""
        return " ".join(part.fitted for part in self.parts if part.fitted)

    # Labels and learning

    def _outputs(self, logits: Any) -> Iterator[Any]:
        """Cut logits or numbers (N, C) into those of the parts."""
        start = 0
        for part in self.parts:
            yield logits[:, start : start + part.num_outputs]
            start += part.num_outputs

    def _labels(self, labels: Any, cast: Callable[[Any, Any], Any] = np.ndarray.astype) -> Iterator[Any]:
        """Cut labels (N, L) into those of the parts, cast to their own types."""
        start = 0
        for part in self.parts:
            width = part.num_outputs if part.labels_are_wide else 1
            own = cast(labels[:, start : start + width], part.labels_kind)
            yield own if part.labels_are_wide else own[:, 0]
            start += width

    def read_labels(self, manifest: Manifest) -> npt.NDArray[np.float32]:
        """Read (N, L): the labels of the parts, side by side as numbers."""
        found = (part.read_labels(manifest).astype(np.float32) for part in self.parts)
        return np.concatenate([own.reshape(len(manifest), -1) for own in found], axis=1)

    def soften(self, labels: Tensor, smoothing: float) -> Tensor:
        """Soften the labels of each part: (B, C), side by side."""
        import torch

        cut = self._labels(labels, lambda own, kind: own.to(getattr(torch, str(np.dtype(kind)))))
        return torch.cat([part.soften(own, smoothing) for part, own in zip(self.parts, cut, strict=True)], dim=1)

    def loss(self, logits: Tensor, softened: Tensor) -> Tensor:
        """Add up the losses of the parts."""
        import torch

        pairs = zip(self.parts, self._outputs(logits), self._outputs(softened), strict=True)
        return torch.stack([part.loss(own, labels) for part, own, labels in pairs]).sum()

    def weigh(self, how: ClassWeights, labels: npt.NDArray[np.float32]) -> Self:
        """Weigh the classes of the parts that have some, of which there must be one."""
        if not any(self.emotions):
            return super().weigh(how, labels)
        pairs = zip(self.parts, self._labels(labels), strict=True)
        return self._join(part.weigh(how, own) if any(part.emotions) else part for part, own in pairs)

    def start_head(self, head: nn.Linear, labels: npt.NDArray[np.float32]) -> None:
        """Start the outputs of each part as it does."""
        from torch import nn

        start = 0
        for part, own in zip(self.parts, self._labels(labels), strict=True):
            rows = slice(start, start + part.num_outputs)
            view = nn.Linear(head.in_features, part.num_outputs, device=head.weight.device)
            view.weight.data, view.bias.data = head.weight.data[rows], head.bias.data[rows]  # the same memory
            part.start_head(view, own)
            start += part.num_outputs

    def prior(self, labels: npt.NDArray[np.float32]) -> Floats | None:
        """Return the logits of the best constant answers, if every part knows its own."""
        found = [part.prior(own) for part, own in zip(self.parts, self._labels(labels), strict=True)]
        known = [one for one in found if one is not None]
        return np.concatenate(known) if len(known) == len(found) else None

    def fit_temperatures(self, logits: Logits, labels: npt.NDArray[Any]) -> Floats:
        """Find on val what the outputs of each part are divided by."""
        pairs = zip(self.parts, self._outputs(logits), self._labels(labels), strict=True)
        return np.concatenate([part.fit_temperatures(own, truth) for part, own, truth in pairs])

    def fit(self, logits: Logits, labels: npt.NDArray[Any]) -> Self:
        """Fit each part on val."""
        pairs = zip(self.parts, self._outputs(logits), self._labels(labels), strict=True)
        return self._join(part.fit(own, truth) for part, own, truth in pairs)

    @property
    def has_guarantees(self) -> bool:  # type: ignore[override]
        """Whether a part has some."""
        return any(part.has_guarantees for part in self.parts)

    def fit_guarantees(
        self, logits: Logits, labels: npt.NDArray[Any], asked: PromiseConfig, groups: Codes | None = None
    ) -> tuple[Self, tuple[str, ...]]:
        """Fit those of each part."""
        triples = zip(self.parts, self._outputs(logits), self._labels(labels), strict=True)
        found = [part.fit_guarantees(own, truth, asked, groups) for part, own, truth in triples]
        pairs = zip(self.parts, found, strict=True)
        notes = tuple(f"{part.name}: {note}" for part, (_, texts) in pairs for note in texts)
        return self._join(part for part, _ in found), notes

    def without_guarantees(self) -> Self:
        """Return it without what was fitted for one model."""
        return self._join(part.without_guarantees() for part in self.parts)

    # Answers

    def _columns(self, listed: Sequence[Sequence[Column]]) -> list[list[Column]]:
        """Give columns of the parts distinct names."""
        columns = [(part.name, column) for part, own in zip(self.parts, listed, strict=True) for column in own]
        names = iter(_distinct((name, column.name) for name, column in columns))
        return [[column._replace(name=next(names)) for column in own] for own in listed]

    def _side_by_side(
        self, listed: Sequence[Sequence[Column]], found: Sequence[list[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        """Join the rows of the parts, whose columns are listed, under distinct names."""
        rows: list[dict[str, Any]] = [{} for _ in found[0]]
        for columns, renamed, own in zip(listed, self._columns(listed), found, strict=True):
            for row, values in zip(rows, own, strict=True):
                shares = values.pop("probabilities", None)
                if shares is not None and "probabilities" not in row:
                    row["probabilities"] = shares
                elif shares is not None:
                    values |= {f"{SHARE}{name}": share for name, share in shares.items()}
                pairs = zip(columns, renamed, strict=True)
                row |= {new.name: values[old.name] for old, new in pairs if old.name in values}
        return rows

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the parts' answers."""
        return tuple(chain(*self._columns([part.columns for part in self.parts])))

    def answers(self, logits: Logits) -> list[dict[str, Any]]:
        """Answer each row in every way."""
        pairs = zip(self.parts, self._outputs(logits), strict=True)
        return self._side_by_side([part.columns for part in self.parts], [part.answers(own) for part, own in pairs])

    def numbers(self, logits: Logits) -> Floats:
        """Compute the numbers behind the answers, those of the parts side by side: (N, C)."""
        pairs = zip(self.parts, self._outputs(logits), strict=True)
        return np.concatenate([part.numbers(own) for part, own in pairs], axis=1)

    def foremost(self, numbers: Floats) -> int:
        """Return the place that the first part chooses among its own."""
        return self.parts[0].foremost(numbers[: self.parts[0].num_outputs])

    @property
    def truth(self) -> tuple[Column, ...]:
        """The columns of the parts' labels."""
        return tuple(chain(*self._columns([part.truth for part in self.parts])))

    def truths(self, labels: npt.NDArray[Any]) -> list[dict[str, Any]]:
        """Return the labels of every kind."""
        pairs = zip(self.parts, self._labels(labels), strict=True)
        return self._side_by_side([part.truth for part in self.parts], [part.truths(own) for part, own in pairs])

    def read_answers(self, table: pa.Table) -> tuple[Floats, npt.NDArray[np.float32]]:
        """Read the numbers of the parts, side by side, and their labels back."""
        found = []
        listed = ([part.columns for part in self.parts], [part.truth for part in self.parts])
        for part, answers, truth in zip(self.parts, *map(self._columns, listed), strict=True):
            names = {
                own.name: new.name for own, new in zip((*part.columns, *part.truth), (*answers, *truth), strict=True)
            }
            found.append(part.read_answers(table.select(list(names.values())).rename_columns(list(names))))
        labels = [own.astype(np.float32).reshape(len(table), -1) for _, own in found]
        return np.concatenate([numbers for numbers, _ in found], 1), np.concatenate(labels, 1)

    def right(self, numbers: Floats, labels: npt.NDArray[Any]) -> Flags | None:
        """Decide which answers of the first part are right, if they can be."""
        return self.parts[0].right(next(self._outputs(numbers)), next(self._labels(labels)))

    def in_words(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """Describe the answer and the truth of the first part, whose columns keep their names."""
        return self.parts[0].in_words(row)

    def more_in_words(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Describe the answers and the truths of the other parts."""
        found: list[dict[str, Any]] = [{} for _ in self.parts]
        for listed in ([part.columns for part in self.parts], [part.truth for part in self.parts]):
            for own, columns, renamed in zip(found, listed, self._columns(listed), strict=True):
                own |= {old.name: row.get(new.name) for old, new in zip(columns, renamed, strict=True)}
        others = [(part, *part.in_words(own)) for part, own in zip(self.parts[1:], found[1:], strict=True)]
        return tuple(
            f"{answer}; {'labelled' if part.is_judged else 'raters:'} {truth}" for part, answer, truth in others
        )

    def decisions(self, logits: Logits) -> npt.NDArray[np.float64]:
        """Return the decisions of the parts, side by side; use `agreement` to compare them."""
        pairs = zip(self.parts, self._outputs(logits), strict=True)
        found = (part.decisions(own).astype(np.float64).reshape(len(logits), -1) for part, own in pairs)
        return np.concatenate(list(found), axis=1)

    def agreement(self, logits: Logits, others: Logits) -> float:
        """Compute the mean of the parts' agreements."""
        triples = zip(self.parts, self._outputs(logits), self._outputs(others), strict=True)
        return float(np.mean([part.agreement(own, other) for part, own, other in triples]))

    @property
    def flip_words(self) -> str:  # type: ignore[override]
        """The words of the parts."""
        return "the mean of " + "; ".join(f"{part.flip_words} ({part.name})" for part in self.parts)

    def flips(self, logits: Logits, others: Logits) -> Floats:
        """Compute the mean of the parts' flips."""
        triples = zip(self.parts, self._outputs(logits), self._outputs(others), strict=True)
        found: Floats = np.mean([part.flips(own, other) for part, own, other in triples], axis=0)
        return found

    def kept(self, logits: Logits, others: Logits) -> float:
        """Compute the mean of what the parts keep."""
        triples = zip(self.parts, self._outputs(logits), self._outputs(others), strict=True)
        return float(np.mean([part.kept(own, other) for part, own, other in triples]))

    # Scores

    def resampler(self, numbers: Floats, labels: npt.NDArray[Any]) -> Callable[[Weights], Mapping[str, Floats]]:
        """Return what measures resamples in the metrics of each part."""
        triples = zip(self.parts, self._outputs(numbers), self._labels(labels), strict=True)
        measures = [part.resampler(own, truth) for part, own, truth in triples]
        pairs = [(place, one.name) for place, part in enumerate(self.parts) for one in part.about["metrics"]]
        named = dict(zip((metric.name for metric in self.metrics), pairs, strict=True))

        def measure(weights: Weights) -> Mapping[str, Floats]:
            found = [own(weights) for own in measures]
            return {name: found[place][own] for name, (place, own) in named.items() if own in found[place]}

        return measure

    def compute_scores(self, numbers: Floats, labels: npt.NDArray[Any], bootstrap: Bootstrap) -> SeveralScores:
        """Score the answers of each part."""
        triples = zip(self.parts, self._outputs(numbers), self._labels(labels), strict=True)
        parts = [part.compute_scores(own, truth, bootstrap) for part, own, truth in triples]
        pairs = [(part, metric) for part in parts for metric in part.metrics]
        names = _distinct((part.kind, metric.name) for part, metric in pairs)
        named = [(name, part, metric.name) for name, (part, metric) in zip(names, pairs, strict=True)]
        return SeveralScores(
            **self.about,
            num_samples=parts[0].num_samples,
            values={name: part.values[own] for name, part, own in named if own in part.values},
            intervals={name: part.intervals[own] for name, part, own in named if own in part.intervals},
            resampled=parts[0].resampled,
            parts=tuple(parts),
        )

    def _about(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {**self.about, "classes": tuple(values["classes"])}

    def _rebuild(self, values: Mapping[str, Any], common: dict[str, Any]) -> SeveralScores:
        pairs = zip(self.parts, values["parts"], strict=True)
        return SeveralScores(**common, parts=tuple(part.scores_from_dict(saved) for part, saved in pairs))


def _titles(own: Sequence[tuple[str, Metric]]) -> list[str]:
    """Tell metrics apart that have the same title."""
    shown = [metric.title for _, metric in own]
    return [
        f"{metric.title} of {name.replace('_', ' ')}"
        if shown.count(metric.title) > 1 and metric.title
        else metric.title
        for name, metric in own
    ]
