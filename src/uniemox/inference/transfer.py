"""Every model on every data set: evaluations across sets of classes, with what a model was trained on named."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from accelerate import Accelerator

from uniemox.audit.leaks import Leak, Leaks, find_leaks
from uniemox.checkpoints.open import Opened, open_model
from uniemox.checkpoints.zero_shot import is_zero_shot
from uniemox.compute.devices import computing_on
from uniemox.config.audit import AuditRules
from uniemox.config.transfer import TransferConfig
from uniemox.errors import ConfigError, DataError, UniEmoXError
from uniemox.files.progress import Track, untracked
from uniemox.files.whole import write_whole
from uniemox.inference.baselines import Question, Training, answer_majority, learn_from
from uniemox.inference.evaluate import Evaluator, write_evaluation
from uniemox.inference.origins import Origins
from uniemox.inference.sources import read_source
from uniemox.inference.tables import about_model
from uniemox.inference.zero_shot import find_obstacle
from uniemox.manifests.table import Manifest, digest, read_manifest
from uniemox.targets.bridges import Bridged, Crossing
from uniemox.targets.intervals import describe_units, groups_of
from uniemox.targets.kinds import find_target
from uniemox.targets.scores import Baseline, Metric, Scores
from uniemox.targets.target import Target
from uniemox.version import __version__
from uniemox.wording import counted, nearest

log = logging.getLogger(__name__)
_MADE: Final = "cell.json"  # What an evaluation was made of, in its folder


@dataclass(frozen=True)
class Cell:
    """One model on one data set."""

    model: str
    data: str
    scores: Scores | None = None  # With what the same answer to all these samples is worth as a baseline
    reason: str = ""  # Why there are none
    leaks: tuple[Leak, ...] = ()  # Images of the test that are in the model's training, or look like one of it
    are_removed: bool = False  # Whether the scores are without these
    unknown: tuple[str, ...] = ()  # Training data that were not searched

    @property
    def notes(self) -> list[str]:
        """Sentences on what the scores are of."""
        texts = [f"{self.reason}."] if self.reason else []
        if self.scores is not None:
            texts += self.scores.bridge_notes
            if self.scores.bridged is not None:
                worth = (one.describe(self.scores.headline) for one in self.scores.baselines)
                texts += [f"On the same rows and classes: {text}." for text in worth]
        if self.leaks:
            texts.append(_describe_leaks(self.leaks))
            texts += ["The scores are without these."] if self.are_removed else []
        return texts

    def describe(self) -> str:
        """Put its first scores in a line, or the reason why there are none."""
        if self.scores is None:
            return self.reason
        shown = (f"{one.title} {self.scores.values[one.name]:z.4f}" for one in self.scores.headline)
        return f"{', '.join(shown)} of {counted(self.scores.num_samples, 'image')}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "model": self.model,
            "data": self.data,
            "scores": None if self.scores is None else self.scores.to_dict(),
            "reason": self.reason,
            "leaks": [leak.to_dict() for leak in self.leaks],
            "leaks_removed": self.are_removed,
            "not_searched": list(self.unknown),
            "notes": self.notes,
        }


def _describe_leaks(leaks: Sequence[Leak]) -> str:
    """Say how many images are copies of training images, and how many only look like one, from which likeness on."""
    copies = [leak for leak in leaks if leak.is_copy]
    alike = sorted((leak for leak in leaks if not leak.is_copy), key=lambda leak: -leak.likeness)
    text = "No image of the test is a copy of a training image."
    if copies:
        first, verb = copies[0], "is a copy" if len(copies) == 1 else "are copies"
        images = counted(len(copies), "image")
        such = f"such as {first.path} of {first.trained} ({first.text})"
        text = f"{images} of the test {verb} of training images, {such}."
    if alike:
        first, spread = alike[0], f"{alike[-1].likeness:.2f} to {alike[0].likeness:.2f}"
        images, verb = counted(len(alike), "image"), "looks" if len(alike) == 1 else "look"
        most = f"most alike are {first.path} and {first.trained} ({first.text})"
        text += f" {images} {verb} like training images, be it edited copies or others (likeness {spread}): {most}."
    return text


@dataclass(frozen=True)
class Transfer:
    """The matrix."""

    split: str
    metric: str | None  # As asked for; None for the first of each cell
    data: Mapping[str, Manifest]  # Columns, by name
    cells: tuple[Cell, ...]  # Row by row
    notes: tuple[str, ...] = ()  # Of no cell alone

    @property
    def rows(self) -> dict[str, list[Cell]]:
        """The cells of each model, in the order of the data."""
        rows: dict[str, list[Cell]] = {}
        for cell in self.cells:
            rows.setdefault(cell.model, []).append(cell)
        return rows

    @property
    def remarks(self) -> list[str]:
        """Sentences on what is true of rows and columns, and of leaks that could not be searched for."""
        unknown = dict.fromkeys(text for cell in self.cells for text in cell.unknown)
        return [*self.notes, *([f"Not searched for leaks: {'; '.join(unknown)}."] if unknown else [])]

    def metric_of(self, scores: Scores) -> Metric | None:
        """Find the metric that is shown of a cell; None where it has no such metric."""
        found = [one for one in scores.metrics if one.name == self.metric and one.name in scores.values]
        return next(iter(scores.headline if self.metric is None else found), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        data = [
            {
                "name": name,
                "title": one.facts.title,
                "rows": len(one.select([self.split])),
                "classes": one.facts.classes,
            }
            for name, one in self.data.items()
        ]
        cells = [cell.to_dict() for cell in self.cells]
        return {"split": self.split, "metric": self.metric, "data": data, "cells": cells, "notes": self.remarks}


def transfer(config: TransferConfig, *, track: Track = untracked) -> Transfer:
    """Score every model on every data set.

    Classes that differ are bridged (`cross`). What one cell cannot score is its reason, and the others are computed.

    Raises:
        CheckpointError: A model does not exist.
        ConfigError: The device does not exist, or no cell has the metric.
        DataError: A manifest cannot be read or has no such split, or a folder cannot be written.
    """
    names = _name_apart([path.stem for path in config.data])
    sets = dict(zip(names, map(read_manifest, config.data), strict=True))
    for manifest in sets.values():
        manifest.select([config.split])
    opened = [open_model(name) for name in config.models]
    with ExitStack() as stack:
        folder = config.cells or Path(stack.enter_context(TemporaryDirectory(prefix="uniemox-")))
        work = _Work(config, sets, folder, stack.enter_context(computing_on(config.device)), track)
        cells = [cell for one in opened for cell in work.row(one)]
        cells += work.teachers({cell.model for cell in cells})
        cells += work.constants(cells)
    found = Transfer(config.split, config.metric, sets, tuple(cells), tuple(work.notes))
    known = {one.name: one for cell in cells if cell.scores is not None for one in cell.scores.metrics}
    if config.metric is not None and known and config.metric not in known:
        raise ConfigError(f"metric is {config.metric}{nearest(config.metric, known)}; known are {', '.join(known)}")
    return found


def _name_apart(names: list[str]) -> list[str]:
    """Number names that stand for several things."""
    return [name if names.count(name) == 1 else f"{name}-{place}" for place, name in enumerate(names, 1)]


@dataclass
class _Work:
    config: TransferConfig
    sets: Mapping[str, Manifest]
    folder: Path
    accelerator: Accelerator
    track: Track
    notes: list[str] = field(default_factory=list)
    _teachers: dict[str, None] = field(default_factory=dict)
    _folders: dict[str, str] = field(default_factory=dict)
    _found: dict[Any, dict[str, Leaks]] = field(default_factory=dict)

    @cached_property
    def _tests(self) -> dict[str, Manifest]:
        return {name: manifest.select([self.config.split]) for name, manifest in self.sets.items()}

    def row(self, model: Opened) -> Iterator[Cell]:
        """Score a model on each data set; it is opened once, unless it takes its classes from the data."""
        evaluator = None
        for path, name in zip(self.config.data, self.sets, strict=True):
            try:
                if evaluator is None or is_zero_shot(model):
                    evaluator = self._open(model, path)
                cell = self._cell(model, evaluator, name)
            except UniEmoXError as error:
                cell = Cell(model.name, name, reason=str(error))
            log.info("%s on %s: %s", model.name, name, cell.describe())
            yield cell

    def _open(self, model: Opened, data: Path) -> Evaluator:
        config = self.config
        evaluator = Evaluator.open(
            model.name,
            accelerator=self.accelerator,
            device=config.device,
            precision=config.precision,
            data=data,
            batch_size=config.batch_size,
            num_workers=config.workers,
        )
        if teacher := evaluator.facts.provenance.get("teacher"):
            self._teachers[teacher] = None
        return evaluator

    def _cell(self, model: Opened, evaluator: Evaluator, name: str) -> Cell:
        manifest = self.sets[name]
        crossing = evaluator.target().crossing(manifest, bridge=True)
        rows, bridged = crossing.select(self.config.split, manifest)
        rows = crossing.target.rated(rows)
        leaks, unknown = self._search(model, evaluator.facts.dataset, name) if self.config.leaks else (None, ())
        if leaks is not None and self.config.remove_leaks:
            rows = rows.where(~np.isin(rows.places, self._tests[name].places[leaks.rows]))
            if not len(rows):
                raise DataError("every image of the test is a copy of a training image or looks like one")
        return Cell(
            model.name,
            name,
            self._score(replace(evaluator, crossing=crossing), rows, bridged, name),
            leaks=() if leaks is None else leaks.images,
            are_removed=self.config.remove_leaks,
            unknown=unknown,
        )

    def _score(self, evaluator: Evaluator, rows: Manifest, bridged: Bridged | None, data: str) -> Scores:
        """Evaluate, or read an earlier evaluation of the same model on the same rows."""
        crossing = evaluator.crossing
        assert crossing is not None
        target = crossing.target
        columns = ["path", *target.columns_read, "group", *(["people"] if evaluator.reads_people else [])]
        made = {
            "model": evaluator.backend.digest(),
            "rows": digest(rows, columns),
            "root": str(rows.facts.root),
            "precision": evaluator.precision,
            "software": __version__,
        }
        folder = self.folder / self._folder_of(evaluator.name) / data
        if _read_made(folder / _MADE) == made and (source := read_source(data, folder)) and source.tested:
            return source.tested.scores
        outputs = evaluator.outputs(rows, target)
        answered = rows.where(np.isin(np.arange(len(rows)), outputs.rows))
        worth, note = self._constant(target, answered, crossing)
        baselines = (Baseline(target.constant, worth.values, note),)
        scores = replace(outputs.score(), baselines=baselines, bridged=bridged)
        about = about_model(evaluator.name, evaluator.facts, digest=made["model"])
        write_evaluation(folder, scores, outputs, rows, people=evaluator.reads_people, about=about)
        with write_whole(folder / _MADE, DataError) as beside:
            beside.write_text(json.dumps(made, indent=2), encoding="utf-8")
        return scores

    def _folder_of(self, model: str) -> str:
        """Name the folder of a model: its name without what a folder's cannot have, numbered where another has that."""
        plain = re.sub(r"[^\w.+-]+", "-", model).strip("-.") or "model"
        taken = {folder for name, folder in self._folders.items() if name != model}
        names = (plain, *(f"{plain}-{number}" for number in range(2, len(taken) + 3)))
        return self._folders.setdefault(model, next(name for name in names if name not in taken))

    def _constant(self, target: Target, rows: Manifest, crossing: Crossing[Target]) -> tuple[Scores, str]:
        """Score the best answer that is the same for all images, from train where there is one."""
        target, labels = target.without_guarantees(), target.read_labels(rows)
        has_train = "train" in crossing.manifest.split_counts()
        train = learn_from(crossing.manifest.select(["train"]) if has_train else None, target)
        known = Training(rows, labels) if isinstance(train, str) else train
        answer = answer_majority(Question(target, known, rows, num_workers=0))
        if isinstance(answer, str):
            raise DataError(answer)
        groups = groups_of(rows)
        codes = None if groups is None else groups.codes
        scores = answer.target.score(answer.logits, labels, groups=codes)
        scores = replace(scores, resampled="" if groups is None else describe_units(codes, groups.word))
        return scores, answer.note if known is train else f"{answer.note.removesuffix('of train')}of the test itself"

    def teachers(self, models: set[str]) -> Iterator[Cell]:
        """Score the zero-shot answers of teachers that are no row yet."""
        asked = self.config.teacher
        for name in [asked] if asked is not None else [name for name in self._teachers if name not in models]:
            obstacle = "" if name == asked else find_obstacle(name, self.accelerator.device.type)
            if obstacle:
                self.notes.append(f"The zero-shot teacher {name} is omitted: {obstacle}.")
            elif name not in models:
                yield from self.row(open_model(name))

    def constants(self, cells: list[Cell]) -> Iterator[Cell]:
        """Score the same answer to all images, in the classes of each data set and the kind of its first scores."""
        kinds = {cell.data: cell.scores.kind for cell in reversed(cells) if cell.scores is not None}
        targets = {name: find_target(kind, ()) for name, kind in kinds.items()}
        words = {target.constant for target in targets.values() if target is not None}
        row = words.pop() if len(words) == 1 else "the same answer"
        for name, manifest in self.sets.items():
            target = targets.get(name)
            try:
                if target is None:
                    raise DataError("no model has scores to compare with")
                target = target.bind_to(manifest)
                scores, note = self._constant(target, target.rated(self._tests[name]), Crossing(target, manifest))
                self.notes.append(f"{row.capitalize()} on {name}: {note}.")
                yield Cell(row, name, scores)
            except UniEmoXError as error:
                yield Cell(row, name, reason=str(error))

    def _search(self, model: Opened, dataset: str, name: str) -> tuple[Leaks | None, tuple[str, ...]]:
        """Find the images of a test that are like those of the training, and name training data not at hand."""
        origins = Origins()
        origins.trace(model, dataset, list(zip(self.config.data, self.sets.values(), strict=True)))
        found = []
        for trained, manifest in origins.trained.items():
            if trained not in self._found:
                self._found[trained] = find_leaks(
                    manifest,
                    self._tests,
                    folder=self.folder / "fingerprints",
                    rules=AuditRules(like=self.config.like),
                    workers=max(1, self.config.workers),
                    track=self.track,
                )
            found.append(self._found[trained][name])
        if not found:
            return None, tuple(origins.unknown)
        alike = (leak for leaks in found for leak in leaks.images)
        images = {leak.path: leak for leak in sorted(alike, key=lambda leak: (leak.is_copy, leak.likeness))}
        rows = np.logical_or.reduce([leaks.rows for leaks in found])
        return Leaks(tuple(images.values()), rows), tuple(origins.unknown)


def _read_made(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
