"""Prediction over files and folders, and tables of what came out."""

from __future__ import annotations

import csv
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset

from uniemox.checkpoints.bundle import load_classifier
from uniemox.checkpoints.facts import locate
from uniemox.data.images import EXTENSIONS, Unreadable, read_image
from uniemox.data.transforms import evaluation
from uniemox.devices import build_accelerator
from uniemox.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from PIL import Image
    from torch import Tensor

    from uniemox.checkpoints.bundle import Classifier


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
        classifier: Model with its facts.
        device: Where it computes.
    """

    def __init__(self, classifier: Classifier, device: torch.device) -> None:
        self.model = classifier.model
        self.facts = classifier.facts
        self.device = device

    @classmethod
    def load(cls, model: str | Path, *, device: str = "auto") -> Predictor:
        """Load a model.

        Args:
            model: Folder of a classifier, or `demo` for the embedded one.
            device: auto, cpu, cuda or mps.

        Raises:
            CheckpointError: The model cannot be read.
            ConfigError: The device is not there.
        """
        place = build_accelerator(device).device
        return cls(load_classifier(locate(str(model)), device=place), place)

    def predict(
        self, paths: Iterable[Path], *, batch_size: int = 32, num_workers: int = 0
    ) -> Iterator[Prediction]:
        """Predict file after file, in their order; a file that cannot be read gives a reason.

        Args:
            paths: Picture files.
            batch_size: Pictures in one forward pass.
            num_workers: Processes that decode; 0 decodes here.
        """
        files = _Files(tuple(paths), evaluation(self.facts.image_size))
        loader = DataLoader(
            files, batch_size=batch_size, num_workers=num_workers, collate_fn=_as_it_is
        )
        for batch in loader:
            yield from self._predict_batch(batch)

    def predict_images(self, images: Sequence[Image.Image]) -> list[dict[str, float]]:
        """Predict pictures that are in memory; give the probability of each emotion, in label order."""
        transform = evaluation(self.facts.image_size)
        pixels = torch.stack([transform(image.convert("RGB")) for image in images])
        return self._probabilities(pixels)

    def _predict_batch(self, batch: Sequence[tuple[Path, Tensor | str]]) -> Iterator[Prediction]:
        readable = [pixels for _, pixels in batch if isinstance(pixels, torch.Tensor)]
        found = iter(self._probabilities(torch.stack(readable)) if readable else [])
        for path, pixels in batch:
            if isinstance(pixels, str):
                yield Prediction(path, None, None, None, pixels)
                continue
            probabilities = next(found)
            label = max(probabilities, key=probabilities.__getitem__)
            yield Prediction(path, label, probabilities[label], probabilities)

    @torch.inference_mode()
    def _probabilities(self, pixels: Tensor) -> list[dict[str, float]]:
        logits = self.model(pixels.to(self.device))
        rows = logits.double().softmax(dim=1).cpu().tolist()
        return [dict(zip(self.facts.classes, row, strict=True)) for row in rows]


class _Files(Dataset[tuple[Path, "Tensor | str"]]):
    """Pictures ready for the model, or the reason why one cannot be read."""

    def __init__(self, paths: tuple[Path, ...], transform: Callable[[Image.Image], Tensor]) -> None:
        self.paths = paths
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Path, Tensor | str]:
        path = self.paths[index]
        image = read_image(path)
        if isinstance(image, Unreadable):
            return path, image.reason
        return path, self.transform(image)


def _as_it_is(batch: list[Any]) -> list[Any]:
    return batch


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
