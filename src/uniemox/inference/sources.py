"""What can be compared, read from its folder: a run, a probe, an evaluation, or a model that is evaluated for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from uniemox.errors import ConfigError, DataError, UniEmoXError
from uniemox.files.journal import read_journal
from uniemox.files.yaml_file import read_mapping
from uniemox.settings import RUN_CONFIG, RUNNING
from uniemox.targets.kinds import DEFAULT, find_target, target_of
from uniemox.targets.scores import Metric, Scores
from uniemox.targets.several import JOIN
from uniemox.targets.target import Target
from uniemox.wording import reason_of

REPORT: Final = "report.json"
PREDICTIONS: Final = "predictions.parquet"


@dataclass(frozen=True)
class Tested:
    """The evaluation that a source has."""

    target: Target
    scores: Scores
    folder: Path

    def table(self) -> pa.Table:
        """Read the predictions with their truths, in the order of the rows of the manifest; `DataError` if absent."""
        try:
            return pq.read_table(self.folder / PREDICTIONS).sort_by("row")
        except (OSError, pa.ArrowException, KeyError) as error:
            raise DataError(f"{self.folder / PREDICTIONS} cannot be read ({reason_of(error)})") from error


@dataclass(frozen=True)
class Source:
    """A run, a probe, an evaluation or a model."""

    name: str  # As the user gave it
    tested: Tested | None = None
    reason: str = ""  # Why there is none
    settings: Mapping[str, str] = field(default_factory=dict)  # That shape what is learned, but for the seed
    seed: str = ""
    lines: Sequence[Mapping[str, Any]] = ()  # Of the journal

    @property
    def chosen(self) -> Mapping[str, Any] | None:
        """The line of the epoch that val chose: the best, the earlier of equals; None where that is not known."""
        metric, best = self._selecting(), None
        if metric is None:
            return None
        for line in self.lines:
            value = line.get(metric.name) if line["kind"] == "val" and "epoch" in line else None
            if isinstance(value, float) and metric.improves(value, None if best is None else best[metric.name]):
                best = line
        return best

    def _selecting(self) -> Metric | None:
        kinds = self.settings.get("target", DEFAULT).replace(", ", JOIN)
        target = self.tested.target if self.tested is not None else find_target(kinds, ())
        asked = self.settings.get("select_by", "null")
        try:
            return None if target is None else target.selection(None if asked == "null" else asked)
        except ConfigError:
            return None


def read_source(name: str, folder: Path, *, target: Target | None = None) -> Source | None:
    """Read a run, a probe or an evaluation; None if the folder is none of these.

    Args:
        name: What it is called.
        folder: Of the run, or that `uniemox evaluate --out` wrote.
        target: What it was trained with, where that is a kind of the caller's own.
    """
    config = folder / RUN_CONFIG
    if not config.is_file():
        if not (folder / REPORT).is_file():
            return None
        return Source(name, **_tested(folder, target))
    settings: dict[str, str] = {}
    for key, value in read_mapping(config, source=str(config)).items():
        group = value if isinstance(value, dict) else {"": value}
        settings |= {f"{key}.{leaf}".rstrip("."): _show(one) for leaf, one in group.items()}
    seed = settings.pop("seed", "")
    settings = {key: value for key, value in settings.items() if key not in RUNNING | {"max_pixels"}}
    lines = tuple(read_journal(folder / "metrics.jsonl"))
    if (folder / "test" / REPORT).is_file():
        found = _tested(folder / "test", target)
    else:
        found = {"reason": _why_untested(lines, settings)}
    return Source(name, settings=settings, seed=seed, lines=lines, **found)


def _show(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_show, value))
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _why_untested(lines: Sequence[Mapping[str, Any]], settings: Mapping[str, str]) -> str:
    if settings.get("test_split") == "null":
        return "no test: test_split is null"
    if "test_split" not in settings:
        return "no test: a pretraining has none"
    if not lines:
        return "no test: the run stopped before its first step"
    done = sum(line["kind"] == "val" for line in lines)
    last = max(line["step"] for line in lines)
    return f"no test: the run stopped after step {last}, with {done} of {settings.get('optim.epochs')} epochs done"


def _tested(folder: Path, target: Target | None) -> dict[str, Any]:
    try:
        saved = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        found = target_of(saved, given=target)
        return {"tested": Tested(found, found.scores_from_dict(saved), folder)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UniEmoXError) as error:
        return {"reason": f"{folder / REPORT} cannot be read: {reason_of(error)}"}


def why_different(first: pa.Table, second: pa.Table, truth: Sequence[str]) -> str:
    """Say how the samples of two evaluations differ, in rows, images or truths; empty where they are the same."""
    if len(first) != len(second):
        return f"{len(second):,} rows against {len(first):,}"
    for name in ("row", "path"):
        if not first[name].equals(second[name]):
            return "other images"
    for name in truth:
        if name not in second.column_names or not _equal(first[name], second[name]):
            return "other labels"
    return ""


def _equal(first: pa.ChunkedArray, second: pa.ChunkedArray) -> bool:
    if pa.types.is_floating(first.type):
        return bool(np.allclose(first.to_numpy(), second.to_numpy(), atol=1e-6, equal_nan=True))
    if pa.types.is_list(first.type):  # in the order of each model's classes
        pairs = zip(first.to_pylist(), second.to_pylist(), strict=True)
        return all(sorted(one or ()) == sorted(two or ()) for one, two in pairs)
    return bool(first.equals(second))
