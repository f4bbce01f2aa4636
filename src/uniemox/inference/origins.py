"""The rows that a model was trained on, as far as they are at hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uniemox.checkpoints.facts import read_facts
from uniemox.checkpoints.open import Opened, open_model
from uniemox.errors import CheckpointError, ConfigError, DataError
from uniemox.files.yaml_file import read_mapping
from uniemox.manifests.table import Manifest, read_manifest
from uniemox.settings import RUN_CONFIG


@dataclass
class Origins:
    """Manifests with the splits that a model and its starts learned from or were chosen on."""

    trained: dict[tuple[Path, tuple[str, ...]], Manifest] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)  # What else there was, in words

    def trace(self, model: Opened, dataset: str, known: Iterable[tuple[Path, Manifest]]) -> None:
        """Follow a model through the runs that made it.

        Args:
            model: With its run around it, or else known by the name of its data set.
            dataset: That name.
            known: Manifests that may be of this data set.
        """
        run = model.path.parent / RUN_CONFIG
        if model.role == "folder" and run.is_file():
            self._read_run(run, known)
            return
        found = [(path, one) for path, one in known if one.facts.name == dataset and "train" in one.split_counts()]
        for path, manifest in found:
            self._add(path, manifest, ["train", "val"])
        if not found:
            self.unknown.append(f"training data of {model.name} not at hand")

    def _add(self, path: Path, manifest: Manifest, splits: Iterable[Any]) -> None:
        held = tuple(name for name in splits if name in manifest.split_counts())
        if held:
            self.trained[path.resolve(), held] = manifest.select(held)

    def _read_run(self, run: Path, known: Iterable[tuple[Path, Manifest]]) -> None:
        try:
            settings = read_mapping(run, source=str(run))
            path = Path(str(settings.get("data")))
            splits = settings.get("splits") or [settings.get("train_split", "train"), settings.get("val_split", "val")]
            self._add(path, read_manifest(path), splits)
        except (ConfigError, DataError) as error:
            self.unknown.append(f"training data of {run.parent} not at hand ({error})")
            return
        start = settings.get("init") or settings.get("backbone")
        if start is None:
            return
        try:
            opened = open_model(str(start))
            dataset = read_facts(opened.path).dataset if opened.role == "folder" else ""
        except (CheckpointError, ConfigError):
            self.unknown.append(f"training data of {start} not at hand")
            return
        self.trace(opened, dataset, known)
