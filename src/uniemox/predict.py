"""Prediction over files and folders, and tables of what came out. Brings torch only for a model that needs it."""

from __future__ import annotations

import csv
import json
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from uniemox.data.images import EXTENSIONS, Unreadable, read_image
from uniemox.errors import DataError
from uniemox.runtime.backend import load_backend

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt
    from PIL import Image

    from uniemox.checkpoints.facts import ModelFacts
    from uniemox.runtime.backend import Backend

    Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """What a model says of one file; either a label or a reason why there is none."""

    path: Path
    label: str | None
    """Name of the likeliest emotion."""
    confidence: float | None
    """Probability of that emotion."""
    probabilities: Mapping[str, float] | None
    """Probability of each emotion, in label order; they sum to 1."""
    reason: str | None = None
    """Why the file could not be read."""

    def top(self, count: int) -> list[tuple[str, float]]:
        """Give the likeliest emotions with their probabilities, the likeliest first; none for an unreadable file."""
        ranked = sorted((self.probabilities or {}).items(), key=lambda item: -item[1])
        return ranked[:count]

    def to_dict(self) -> dict[str, Any]:
        """Give plain values for JSON."""
        return {
            "path": str(self.path),
            "label": self.label,
            "confidence": self.confidence,
            "probabilities": None if self.probabilities is None else dict(self.probabilities),
            "reason": self.reason,
        }


class Predictor:
    """Says which emotion pictures evoke or show.

    Args:
        backend: What runs the classifier.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @classmethod
    def load(
        cls, model: str | Path, *, device: str = "auto", dataset: str | None = None
    ) -> Predictor:
        """Load a model.

        Args:
            model: A classifier: its folder, a file that others wrote, `demo`, or a name on the hub (`hf-hub:org/name`).
            device: auto, cpu, cuda or mps.
            dataset: Data set or manifest that names the classes, for weights that do not.

        Raises:
            CheckpointError: The model cannot be read.
            ConfigError: The device is not there.
        """
        return cls(load_backend(model, device=device, dataset=dataset))

    @property
    def facts(self) -> ModelFacts:
        """What is known of the model."""
        return self.backend.facts

    def predict(
        self, paths: Iterable[Path], *, batch_size: int = 32, num_workers: int = 0
    ) -> Iterator[Prediction]:
        """Predict file after file, in their order; a file that cannot be read gives a reason.

        Args:
            paths: Picture files; they are taken as they are needed.
            batch_size: Pictures in one forward pass.
            num_workers: Threads that decode ahead while the model computes; 0 decodes here.
        """
        samples = self._read_all(paths, batch_size, num_workers)
        while batch := list(islice(samples, batch_size)):
            yield from self._predict_batch(batch)

    def predict_images(self, images: Sequence[Image.Image]) -> list[dict[str, float]]:
        """Predict pictures that are in memory; give the probability of each emotion, in label order."""
        return self._probabilities([self.backend.prepare(image.convert("RGB")) for image in images])

    def _read(self, path: Path) -> tuple[Path, Pixels | str]:
        """Prepare a picture, or say why it cannot be read."""
        image = read_image(path)
        if isinstance(image, Unreadable):
            return path, image.reason
        return path, self.backend.prepare(image)

    def _read_all(
        self, paths: Iterable[Path], batch_size: int, num_workers: int
    ) -> Iterator[tuple[Path, Pixels | str]]:
        """Prepare pictures in their order; threads are two batches ahead, and no more (DECISIONS export-1)."""
        if num_workers == 0:
            yield from map(self._read, paths)
            return
        queue = iter(paths)
        with ThreadPoolExecutor(num_workers, thread_name_prefix="decode") as pool:
            ahead: deque[Future[tuple[Path, Pixels | str]]] = deque()
            try:
                while True:
                    wanted = 2 * batch_size - len(ahead)
                    ahead.extend(pool.submit(self._read, path) for path in islice(queue, wanted))
                    if not ahead:
                        return
                    yield ahead.popleft().result()
            finally:  # whoever took the predictions may have had enough
                pool.shutdown(wait=False, cancel_futures=True)

    def _predict_batch(self, batch: Sequence[tuple[Path, Pixels | str]]) -> Iterator[Prediction]:
        readable = [pixels for _, pixels in batch if not isinstance(pixels, str)]
        found = iter(self._probabilities(readable) if readable else [])
        for path, pixels in batch:
            if isinstance(pixels, str):
                yield Prediction(path, None, None, None, pixels)
                continue
            probabilities = next(found)
            label = max(probabilities, key=probabilities.__getitem__)
            yield Prediction(path, label, probabilities[label], probabilities)

    def _probabilities(self, pixels: Sequence[Pixels]) -> list[dict[str, float]]:
        rows = _softmax(self.backend.logits(np.stack(pixels))).tolist()
        return [dict(zip(self.facts.classes, row, strict=True)) for row in rows]


def _softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Bring (N, C) logits to rows of probabilities."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    shares = np.exp(shifted)
    probabilities: npt.NDArray[np.float64] = shares / shares.sum(axis=1, keepdims=True)
    return probabilities


def find_pictures(paths: Sequence[Path]) -> list[Path]:
    """List files, and the pictures below folders in the order of their names; links to folders are not followed.

    Raises:
        DataError: A path is not there, or a folder has no picture or cannot be listed.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            if not path.exists():
                raise DataError(f"there is no file or folder {path}")
            found.append(path)
            continue
        below = sorted(
            Path(folder) / name
            for folder, _, names in os.walk(path, onerror=_refuse)
            for name in names
            if Path(name).suffix.lower() in EXTENSIONS
        )
        if not below:
            raise DataError(
                f"the folder {path} has no picture below it (looked for {', '.join(sorted(EXTENSIONS))})"
            )
        found += below
    return found


def _refuse(error: OSError) -> None:
    raise DataError(f"the folder {error.filename} cannot be listed ({error.strerror})") from error


def write_predictions(predictions: Iterable[Prediction], out: Path, classes: Sequence[str]) -> int:
    """Write a table with a row for each prediction: path, label, confidence, a column for each class, reason.

    Args:
        predictions: Rows; they are written as they come, except for Parquet.
        out: File whose ending, .csv, .jsonl or .parquet, says the format; it is there only when it is whole.
        classes: Names in label order.

    Returns:
        The number of rows.

    Raises:
        DataError: The ending is another, or the file cannot be written.
    """
    writers = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}
    writer = writers.get(out.suffix.lower())
    if writer is None:
        raise DataError(
            f"{out} ends in {out.suffix or 'nothing'}, but must end in .csv, .jsonl or .parquet"
        )
    with _whole_or_not(out) as beside:
        return writer(predictions, beside, classes)


def _flat(prediction: Prediction, classes: Sequence[str]) -> dict[str, Any]:
    probabilities = prediction.probabilities or {}
    return {
        "path": str(prediction.path),
        "label": prediction.label,
        "confidence": prediction.confidence,
        **{f"p_{name}": probabilities.get(name) for name in classes},
        "reason": prediction.reason,
    }


def _write_csv(predictions: Iterable[Prediction], path: Path, classes: Sequence[str]) -> int:
    count = 0
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        names = ["path", "label", "confidence", *(f"p_{name}" for name in classes), "reason"]
        table = csv.DictWriter(file, names)
        table.writeheader()
        for count, prediction in enumerate(predictions, 1):  # noqa: B007
            table.writerow(_flat(prediction, classes))
    return count


def _write_jsonl(predictions: Iterable[Prediction], path: Path, classes: Sequence[str]) -> int:
    del classes  # each line names its own
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for count, prediction in enumerate(predictions, 1):  # noqa: B007
            file.write(json.dumps(prediction.to_dict()) + "\n")
    return count


def _write_parquet(predictions: Iterable[Prediction], path: Path, classes: Sequence[str]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = ["confidence", *(f"p_{name}" for name in classes)]
    schema = pa.schema(
        [
            ("path", pa.string()),
            ("label", pa.string()),
            *((name, pa.float64()) for name in numbers),
            ("reason", pa.string()),
        ]
    )
    rows = [_flat(prediction, classes) for prediction in predictions]
    for row in rows:  # Parquet holds UTF-8 alone
        row["path"] = row["path"].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return len(rows)


@contextmanager
def _whole_or_not(out: Path) -> Iterator[Path]:
    beside = out.with_name(f".{out.name}.{os.getpid()}.writing")
    try:
        yield beside
        beside.replace(out)
    except OSError as error:
        raise DataError(
            f"{out} cannot be written ({error}): free space or choose another --out"
        ) from error
    finally:
        beside.unlink(missing_ok=True)
