"""Prediction over files and folders, and tables of what came out. Brings torch only for a model that needs it."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from uniemox.calibration import to_probabilities
from uniemox.data.images import EXTENSIONS, Unreadable, read_image
from uniemox.data.lookahead import read_ahead
from uniemox.data.pixels import CROP_SHARE, cut_region
from uniemox.errors import DataError
from uniemox.runtime.backend import load_backend

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import TypeAlias

    import numpy.typing as npt
    from PIL import Image

    from uniemox.checkpoints.facts import ModelFacts
    from uniemox.config import Target
    from uniemox.data.detectors.detector import Detector
    from uniemox.data.manifest import Box
    from uniemox.runtime.backend import Backend

    Pixels = npt.NDArray[np.float32]
    People: TypeAlias = Mapping[Path, Sequence[Box]] | Detector

log = logging.getLogger(__name__)

BOX_COLUMNS: Final = ("x0", "y0", "x1", "y1", "box_score")
"""Of a person, in the tables of predictions."""
_MOST_PEOPLE = 256
"""In one picture: more is no picture of people but a mistake, and would take all memory."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of one picture or one of its people; either a label or a reason why there is none."""

    path: Path
    label: str | None
    """Name of the likeliest emotion."""
    confidence: float | None
    """Probability of that emotion."""
    probabilities: Mapping[str, float] | None
    """Probability of each emotion, in label order; they sum to 1 unless the model gives several labels."""
    reason: str | None = None
    """Why the file could not be read, or the person not cut."""
    box: Box | None = None
    """The person that is meant; None means the picture as a whole."""
    labels: tuple[str, ...] | None = None
    """Names of all emotions that apply, the likeliest first; None for a model that gives one label."""

    def top(self, count: int) -> list[tuple[str, float]]:
        """Give the likeliest emotions with their probabilities, the likeliest first; none for an unreadable file."""
        ranked = sorted((self.probabilities or {}).items(), key=lambda item: -item[1])
        return ranked[:count]

    def to_dict(self) -> dict[str, Any]:
        """Give plain values for JSON."""
        return {
            "path": str(self.path),
            "label": self.label,
            **({} if self.labels is None else {"labels": list(self.labels)}),
            "confidence": self.confidence,
            "probabilities": None if self.probabilities is None else dict(self.probabilities),
            "reason": self.reason,
            "box": None if self.box is None else asdict(self.box),
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
            model: A classifier: its folder, an export (its folder or its file), a file that others wrote, `demo`, or a
                name on the hub (`hf-hub:org/name`).
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
        self,
        paths: Iterable[Path],
        *,
        people: People | None = None,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> Iterator[Prediction]:
        """Predict file after file, in their order; a file that cannot be read gives a reason.

        With `people` there is a row for the picture and one for each person in it. A model of both views reads the
        person in the scene, one of scenes reads the person's crop as if that were the picture, and one of persons says
        nothing of a picture as a whole in which somebody is. Where a model that reads persons gets none, the scene
        stands in, and a warning says how often.

        Args:
            paths: Picture files; they are taken as they are needed.
            people: Boxes of the people in each file, or a detector that finds them.
            batch_size: Pictures in one forward pass.
            num_workers: Threads that decode ahead while the model computes; 0 decodes here.
        """
        reader = _Reader(self.backend, people)
        read = read_ahead(
            reader,
            paths,
            num_workers=num_workers,
            ahead=2 * batch_size if people is None else num_workers + 1,
            size=len,
            room=2 * batch_size,
        )
        samples = chain.from_iterable(read)
        while batch := list(islice(samples, batch_size)):
            yield from self._predict_batch(batch)
        if reader.num_alone and self.facts.view != "scene":
            log.warning(
                "the model reads a person, and where there is no box the scene stands in (pictures: %d)",
                reader.num_alone,
            )

    def predict_images(
        self, images: Sequence[Image.Image], *, boxes: Sequence[Box | None] | None = None
    ) -> list[dict[str, float]]:
        """Predict pictures that are in memory; give the probability of each emotion, in label order.

        Args:
            images: Upright pictures.
            boxes: The person that is meant in each of them; None means the picture as a whole.

        Raises:
            DataError: A box lies outside its picture.
        """
        meant = [None] * len(images) if boxes is None else boxes
        pixels = []
        for image, box in zip(images, meant, strict=True):
            prepared = _prepare_sample(self.backend, image.convert("RGB"), box)
            if isinstance(prepared, str):
                raise DataError(
                    f"{prepared}: {box}, the picture has {image.width} × {image.height}"
                )
            pixels.append(prepared)
        return self._probabilities(pixels)

    def _predict_batch(self, batch: Sequence[_Sample]) -> Iterator[Prediction]:
        readable = [sample.pixels for sample in batch if not isinstance(sample.pixels, str)]
        found = iter(self._probabilities(readable) if readable else [])
        for path, box, pixels in batch:
            if isinstance(pixels, str):
                yield Prediction(path, None, None, None, pixels, box)
                continue
            probabilities = next(found)
            label = max(probabilities, key=probabilities.__getitem__)
            labels = self._labels(probabilities)
            yield Prediction(path, label, probabilities[label], probabilities, None, box, labels)

    def _labels(self, probabilities: Mapping[str, float]) -> tuple[str, ...] | None:
        """Name the emotions that reach their thresholds, the likeliest first."""
        if self.facts.target == "single_label":
            return None
        thresholds = dict(zip(self.facts.classes, self.facts.thresholds, strict=True))
        given = [name for name, share in probabilities.items() if share >= thresholds[name]]
        return tuple(sorted(given, key=lambda name: -probabilities[name]))

    def _probabilities(self, pixels: Sequence[Pixels]) -> list[dict[str, float]]:
        logits = self.backend.logits(np.stack(pixels))
        rows = to_probabilities(logits, self.facts.target).tolist()
        return [dict(zip(self.facts.classes, row, strict=True)) for row in rows]


class _Sample(NamedTuple):
    """What becomes a prediction."""

    path: Path
    box: Box | None
    pixels: Pixels | str
    """Ready for the model, or the reason why not."""


class _Reader:
    """Reads a file, finds its people, and prepares what the model says something of; called from several threads."""

    def __init__(self, backend: Backend, people: People | None) -> None:
        self.backend = backend
        self.people = people
        self.num_alone = 0
        """Pictures without a person so far."""
        self._turn = Lock()

    def __call__(self, path: Path) -> list[_Sample]:
        image = read_image(path)
        if isinstance(image, Unreadable):
            return [_Sample(path, None, image.reason)]
        boxes = self._find(path, image)
        if len(boxes) > _MOST_PEOPLE:
            return [_Sample(path, None, f"{len(boxes)} people are more than {_MOST_PEOPLE}")]
        meant: list[Box | None] = [*boxes]
        if not boxes or self.backend.facts.view != "person":
            meant.insert(0, None)
        return [_Sample(path, box, _prepare_sample(self.backend, image, box)) for box in meant]

    def _find(self, path: Path, image: Image.Image) -> Sequence[Box]:
        with self._turn:  # a detector need not be safe in threads (DECISIONS 59)
            match self.people:
                case None:
                    boxes: Sequence[Box] = ()
                case Mapping():
                    boxes = self.people.get(path, ())
                case detector:
                    boxes = detector.detect([image])[0]
            self.num_alone += not boxes
        return boxes


def _prepare_sample(backend: Backend, image: Image.Image, box: Box | None) -> Pixels | str:
    """Prepare a picture or one of its people, or say why the person cannot be cut."""
    facts = backend.facts
    if box is None:
        return backend.prepare(image)
    from uniemox.data.people import person_region  # brings Arrow

    region = person_region([box], facts.person, width=image.width, height=image.height)
    if region is None:
        return "the box lies outside the picture"
    if facts.view != "scene":
        return backend.prepare(image, [box])
    # Preparation keeps the centre: as much as a crop with the usual margin can spare.
    side = int(facts.image_size / CROP_SHARE)
    return backend.prepare(cut_region(image, region, size=side, shape=facts.person.shape))


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


def write_predictions(
    predictions: Iterable[Prediction],
    out: Path,
    classes: Sequence[str],
    *,
    people: bool = False,
    target: Target = "single_label",
) -> int:
    """Write a table with a row for each prediction: path, label, confidence, a column for each class, reason.

    Args:
        predictions: Rows; they are written as they come, except for Parquet.
        out: File whose ending, .csv, .jsonl or .parquet, says the format; it is there only when it is whole.
        classes: Names in label order.
        people: Whether there are columns for the box of the person, x0, y0, x1, y1 and box_score.
        target: For several labels there is a column of them, as JSON in CSV and Parquet.

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
        return writer(predictions, beside, _columns(classes, people=people, target=target))


def _columns(classes: Sequence[str], *, people: bool, target: Target) -> dict[str, type]:
    """Name the columns of a table and what they hold."""
    box = BOX_COLUMNS if people else ()
    numbers = ("confidence", *(f"p_{name}" for name in classes))
    return {
        "path": str,
        **dict.fromkeys(box, float),
        "label": str,
        **({"labels": str} if target == "multi_label" else {}),
        **dict.fromkeys(numbers, float),
        "reason": str,
    }


def _flat(prediction: Prediction) -> dict[str, Any]:
    row = prediction.to_dict()
    box = row.pop("box") or {}
    probabilities = row.pop("probabilities") or {}
    box["box_score"] = box.pop("score", None)
    if prediction.labels is not None:
        row["labels"] = json.dumps(prediction.labels, ensure_ascii=False)
    return row | box | {f"p_{name}": share for name, share in probabilities.items()}


def _write_csv(predictions: Iterable[Prediction], path: Path, columns: Mapping[str, type]) -> int:
    count = 0
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.DictWriter(file, list(columns), extrasaction="ignore")
        table.writeheader()
        for count, prediction in enumerate(predictions, 1):  # noqa: B007
            table.writerow(_flat(prediction))
    return count


def _write_jsonl(predictions: Iterable[Prediction], path: Path, columns: Mapping[str, type]) -> int:
    del columns  # each line names its own
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for count, prediction in enumerate(predictions, 1):  # noqa: B007
            file.write(json.dumps(prediction.to_dict()) + "\n")
    return count


def _write_parquet(
    predictions: Iterable[Prediction], path: Path, columns: Mapping[str, type]
) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {str: pa.string(), float: pa.float64()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
    rows = [_flat(prediction) for prediction in predictions]
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
