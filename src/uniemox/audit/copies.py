"""The image files of one or several manifests, each split of each manifest by itself, with their rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from uniemox.manifests.table import Manifest

_RANKS: Final = {"train": 0, "val": 1}  # All other splits are held out further


@dataclass(frozen=True)
class Copy:
    """An image file in one split of one manifest."""

    manifest: int  # Number of the manifest
    file: Path
    path: str  # As in the manifest
    split: str
    label: str  # Names of its labels, joined; empty if it has none
    rows: tuple[int, ...]


class Copies:
    """All copies, as columns; indexing makes a `Copy`."""

    def __init__(self, manifests: Sequence[Manifest]) -> None:
        files: dict[Path, int] = {}
        labels: dict[tuple[int, str], int] = {}
        sets: dict[frozenset[str], int] = {}
        manifest, file, torn, classes, label = [], [], [], [], []
        self.path: list[str] = []
        self.split: list[str] = []
        self.label_names: list[str] = []
        self.of_rows: list[np.ndarray] = []
        """For each manifest, the copy of each row."""
        for number, one in enumerate(manifests):
            paths, splits, of_row = _find_copies(one)
            names, contradicting = _label_copies(one, of_row, len(paths))
            self.of_rows.append(of_row + len(self.path))
            self.path += paths
            self.split += splits
            self.label_names += names
            of_set = sets.setdefault(frozenset(name.lower() for name in one.facts.classes), len(sets))
            manifest += [number] * len(paths)
            classes += [of_set] * len(paths)
            torn.append(contradicting)
            file += [files.setdefault(one.facts.root / path, len(files)) for path in paths]
            label += [labels.setdefault((of_set, name.lower()), len(labels)) if name else -1 for name in names]
        self.files = tuple(files)
        """Paths of the files, each once."""
        self.manifest = np.array(manifest, np.int64)
        """(N,) number of the manifest."""
        self.file = np.array(file, np.int64)
        """(N,) place in `files`."""
        self.rank = np.array([_RANKS.get(split, 2) for split in self.split], np.int64)
        """(N,) how far the split is held out."""
        self.classes = np.array(classes, np.int64)
        """(N,) number of the set of class names; labels are compared within one."""
        self.label = np.array(label, np.int64)
        """(N,) number of the label, -1 for none."""
        self.torn = np.concatenate([np.zeros(0, bool), *torn])
        """(N,) whether rows without boxes give the one image several labels."""

    @cached_property
    def _rows(self) -> list[np.ndarray]:
        rows = []
        for of_row in self.of_rows:
            ends = np.cumsum(np.unique(of_row, return_counts=True)[1])
            rows += np.split(np.argsort(of_row, kind="stable"), ends)[:-1]
        return rows

    def __len__(self) -> int:
        return len(self.file)

    def __getitem__(self, index: int) -> Copy:
        return Copy(
            manifest=int(self.manifest[index]),
            file=self.files[self.file[index]],
            path=self.path[index],
            split=self.split[index],
            label=self.label_names[index],
            rows=tuple(self._rows[index].tolist()),
        )


def _find_copies(manifest: Manifest) -> tuple[list[str], list[str], np.ndarray]:
    """Find the path and the split of each copy (N,), and the copy of each row."""
    table = manifest.table.select(["path", "split"]).combine_chunks()
    paths = table["path"].combine_chunks().dictionary_encode()
    splits = pc.cast(table["split"], pa.string()).combine_chunks().dictionary_encode()
    count = max(len(splits.dictionary), 1)
    keys = paths.indices.to_numpy().astype(np.int64) * count + splits.indices.to_numpy()
    unique, of_row = np.unique(keys, return_inverse=True)
    path, split = (pa.array(column) for column in np.divmod(unique, count))
    return paths.dictionary.take(path).to_pylist(), splits.dictionary.take(split).to_pylist(), of_row


def _label_copies(manifest: Manifest, of_row: np.ndarray, count: int) -> tuple[list[str], np.ndarray]:
    """Name the labels of each copy, and find the copies with rows without boxes that contradict one another."""
    names = (*manifest.facts.classes, "")
    of_row_names = [{names[label]} - {""} for label in manifest.labels]
    label_sets = manifest.table["label_set"]
    if label_sets.null_count < len(label_sets):
        for row, labels in enumerate(label_sets.to_pylist()):
            of_row_names[row] |= {names[label] for label in labels or ()}
    has_box = pc.list_value_length(manifest.table["people"]).fill_null(0).to_numpy() > 0
    first: list[set[str] | None] = [None] * count
    together: list[set[str]] = [set() for _ in range(count)]
    torn = np.zeros(count, bool)
    for copy, labels, boxed in zip(of_row.tolist(), of_row_names, has_box.tolist(), strict=True):
        before = first[copy]
        first[copy] = labels if before is None else before
        torn[copy] |= not boxed and before is not None and before != labels
        together[copy] |= labels
    return [" + ".join(sorted(labels)) for labels in together], torn
