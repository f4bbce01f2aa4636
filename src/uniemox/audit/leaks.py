"""Images of a test that are, or look like, those of a training."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from uniemox.audit.copies import Copies
from uniemox.audit.findings import Judge
from uniemox.audit.fingerprints import take_fingerprints
from uniemox.config.audit import AuditRules
from uniemox.errors import DataError
from uniemox.files.progress import Track, untracked
from uniemox.files.whole import write_whole
from uniemox.manifests.table import Manifest


class Leak(NamedTuple):
    """An image of a test, and the one of the training that is most like it."""

    path: str  # As in the manifest of the test
    trained: str  # As in that of the training
    likeness: float  # 1 where the file or its pixels are the same
    text: str  # What is the same

    @property
    def is_copy(self) -> bool:
        """Whether the file or its pixels are the same; else the two look alike, and may well be different images."""
        return self.text.startswith("the same")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**self._asdict(), "is_copy": self.is_copy}


@dataclass(frozen=True)
class Leaks:
    """Images of a test that are in a training, or look like one of it."""

    images: tuple[Leak, ...]
    rows: np.ndarray  # (N,) bool, true for the rows of the test that show these


def find_leaks(
    train: Manifest,
    tests: Mapping[str, Manifest],
    *,
    folder: Path,
    rules: AuditRules,
    workers: int = 1,
    track: Track = untracked,
) -> dict[str, Leaks]:
    """Find the images of tests whose file, pixels or looks are those of a training image, as an audit does.

    Args:
        train: Rows that a model was trained on.
        tests: By any names.
        folder: Keeps the fingerprints (`take_fingerprints`) and what was found, so that nothing is done twice.
        rules: What counts as the same, and what holds no image to be compared.
        workers: Processes that read images.
        track: Shows the progress.
    """
    copies = Copies([*tests.values(), train])
    prints = take_fingerprints(copies.files, folder=folder, workers=workers, track=track)
    pairs = _find_pairs(copies, prints, folder, rules, track)
    found = {}
    for number, name in enumerate(tests):
        of_rows = copies.of_rows[number]
        own = [pair for pair in pairs if copies.manifest[pair.copy] == number]
        paths = copies.path
        leaks = tuple(Leak(paths[pair.copy], paths[pair.twin], pair.likeness, pair.text) for pair in own)
        found[name] = Leaks(leaks, np.isin(of_rows, [pair.copy for pair in own]))
    return found


class _Pair(NamedTuple):
    copy: int
    twin: int
    likeness: float
    text: str


def _find_pairs(copies: Copies, prints: pa.Table, folder: Path, rules: AuditRules, track: Track) -> list[_Pair]:
    """Find the copy in the last manifest that each other is most like, or read what an earlier search found."""
    hasher = hashlib.sha256(json.dumps([rules.like, copies.manifest.tolist(), copies.file.tolist()]).encode())
    for name in ("sha256", "pixels"):
        hasher.update(repr(prints[name].to_pylist()).encode())
    kept = folder / f"leaks-{hasher.hexdigest()[:16]}.json"
    try:
        return [_Pair(*pair) for pair in json.loads(kept.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, RecursionError):
        pass
    judge, last = Judge(copies, prints, rules, track), int(copies.manifest.max())
    twins = ((copy, judge.twin(copy, among=last)) for copy in np.flatnonzero(copies.manifest < last).tolist())
    pairs = [_Pair(copy, *twin) for copy, twin in twins if twin is not None]
    with write_whole(kept, DataError) as beside:
        beside.write_text(json.dumps(pairs), encoding="utf-8")
    return pairs
