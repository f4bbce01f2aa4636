"""Features of the images of a manifest by a frozen backbone, computed once and kept by content.

A file of features is named by a hash of all that they depend on: the weights, the preprocessing, the pooling, the view,
the arithmetic, and the bytes of every image in order. So another image, or another model under the same name, is never
answered from an older file, and a folder of features may serve any number of probes.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

from uniemox.checkpoints.backbones import Backbone, Loaded
from uniemox.compute.devices import computing_in
from uniemox.config.checks import Precision
from uniemox.config.people import PersonConfig
from uniemox.config.training import View
from uniemox.data.batch import LabelledBatch, batches_of, dead_workers_named, evaluation_loader
from uniemox.data.dataset import LabelledSample, Skipped
from uniemox.data.failures import locating, naming
from uniemox.data.pixels import Preparation, cut_region
from uniemox.errors import DAMAGED, CheckpointError, DataError
from uniemox.files.images import Unreadable, admitted_pixels, read_file, read_image
from uniemox.files.room import ROOM
from uniemox.files.weights import read_weights
from uniemox.files.whole import write_whole
from uniemox.files.writing import explained
from uniemox.manifests.table import Box, Manifest, digest
from uniemox.people.regions import Region, box_region, choose_box
from uniemox.train.events import Message, Observer, Progress
from uniemox.wording import reason_of, shorten

_FORMAT: Final = 1  # Of the files; another one is never read
_BATCH_SIZE: Final = 32  # Images in one forward pass, as in evaluation
_ROWS_AT_ONCE: Final = 4096  # Images that are hashed between two reports


@dataclass(frozen=True)
class Features:
    """Features of the readable images of a manifest, in its order."""

    values: npt.NDArray[np.float32]  # (N, D)
    rows: npt.NDArray[np.int64]  # (N,), place in the manifest
    boxes: tuple[Box | None, ...]  # (N,), the person that was cut out; None where the whole image was used
    reasons: tuple[tuple[int, str], ...]  # Row of each image that cannot be read, and why

    def unreadable(self, manifest: Manifest) -> tuple[str, ...]:
        """List path and reason of each image that cannot be read."""
        return tuple(f"{manifest.row(row).path}: {reason}" for row, reason in self.reasons)


@dataclass(frozen=True, kw_only=True)
class FeatureMaker:
    """Makes features, or finds those that were made before. The backbone is loaded when the first are missing."""

    backbone: Backbone
    view: View
    person: PersonConfig
    precision: Precision
    device: torch.device
    workers: int
    folder: Path  # Of the files; made if absent
    observer: Observer

    @cached_property
    def _loaded(self) -> Loaded:
        return self.backbone.load(self.device, self.precision)

    def features(self, manifest: Manifest, *, what: str) -> Features:
        """Compute or find the features of all rows.

        Args:
            manifest: Rows; their labels are not read.
            what: What messages call them, such as the name of their split.

        Raises:
            CheckpointError: The backbone cannot be loaded, or gives numbers that are not finite.
            DataError: No image can be read, one cannot be prepared, the features cannot be written, or a process died.
        """
        identity = self._identify(manifest, what)
        key = hashlib.sha256(identity.encode()).hexdigest()
        path = self.folder / f"{key[:32]}.safetensors"
        if path.is_file() and (found := self._read(path, identity, len(manifest))):
            self.observer(Message(f"{what}: features of {len(found.rows)} images are those in {path}"))
            return found
        with dead_workers_named():
            made = self._compute(manifest, what)
        _write(made, path, identity)
        return made

    def _identify(self, manifest: Manifest, what: str) -> str:
        """Name all that the features depend on, as JSON."""
        of_people = {}
        if self.view != "scene":
            of_people = {"person": asdict(self.person), "boxes": digest(manifest, ["people"])}
        facts = {
            "format": _FORMAT,
            "backbone": dict(self.backbone.identity),
            "precision": self.precision,
            "view": self.view,
            **of_people,
            "max_pixels": admitted_pixels(),
            "images": self._hash_images(manifest, what),
        }
        return json.dumps(facts, sort_keys=True)

    def _hash_images(self, manifest: Manifest, what: str) -> str:
        """Hash the bytes of every image, in order."""
        total, hasher, began = len(manifest), hashlib.sha256(), time.monotonic()
        with ThreadPoolExecutor(max(1, self.workers)) as pool:
            for start in range(0, total, _ROWS_AT_ONCE):
                block = range(start, min(start + _ROWS_AT_ONCE, total))
                for name in pool.map(_hash_image, [manifest.row(row).path for row in block]):
                    hasher.update(f"{name}\n".encode())
                if total > _ROWS_AT_ONCE:
                    self._report(f"{what}: hashing", block.stop, total, began)
        return hasher.hexdigest()

    def _compute(self, manifest: Manifest, what: str) -> Features:
        encode, prepare = self._loaded.encode, self._loaded.prepare
        dataset = _Images(manifest, prepare, self.view, self.person)
        loader = evaluation_loader(dataset, batch_size=_BATCH_SIZE, num_workers=self.workers)
        values, rows, boxes, reasons = list[Tensor](), list[int](), list[Box | None](), list[tuple[int, str]]()
        began = time.monotonic()
        batch: LabelledBatch
        for batch in batches_of(loader):
            with torch.no_grad(), computing_in(self.precision, self.device):
                found = torch.cat([encode(view).float() for view in batch.to(self.device).views], dim=1)
            found, readable = found.cpu()[batch.readable], batch.rows[batch.readable].tolist()
            self._check_finite(found, [manifest.row(row).path for row in readable])
            values.append(found)
            rows += readable
            boxes += [box for box, is_read in zip(batch.boxes, batch.readable.tolist(), strict=True) if is_read]
            skipped = (skip.reason for skip in batch.skipped)
            reasons += zip(batch.rows[~batch.readable].tolist(), skipped, strict=True)
            self._report(what, int(batch.rows[-1]) + 1, len(manifest), began)
        if not rows:
            first = f"{manifest.row(0).path}: {reasons[0][1]}"
            raise DataError(f"none of the {len(manifest)} images below {manifest.facts.root} can be read: {first}")
        return Features(torch.cat(values).numpy(), np.array(rows, np.int64), tuple(boxes), tuple(reasons))

    def _check_finite(self, found: Tensor, paths: Sequence[Path]) -> None:
        is_finite = found.isfinite().all(dim=1)
        if not is_finite.all():
            step = "take `precision` fp32, or another backbone" if self.precision != "fp32" else "take another backbone"
            path = paths[int(is_finite.int().argmin())]
            raise CheckpointError(f"{self.backbone.name} gives features that are not finite for {path}: {step}")

    def _report(self, what: str, done: int, total: int, began: float) -> None:
        speed = done / max(time.monotonic() - began, 1e-9)
        self.observer(Progress(done, total, 1, 1, {}, speed, (total - done) / speed))

    def _read(self, path: Path, identity: str, num_rows: int) -> Features | None:
        """Read a file of features; None, and a message, where it is damaged."""
        try:
            tensors = read_weights(path)
            values, rows = tensors["values"].numpy().copy(), tensors["rows"].numpy().copy()
            notes = json.loads(tensors["notes"].numpy().tobytes())
            boxes = tuple(None if box is None else Box(*box) for box in notes["boxes"])
            reasons = tuple((int(row), str(reason)) for row, reason in notes["reasons"])
            is_whole = len(values) == len(rows) == len(boxes) == num_rows - len(reasons)
            if notes["identity"] != identity or notes["sha256"] != _hash_numbers(values, rows) or not is_whole:
                raise ValueError("it is not what was written")
        except (CheckpointError, *DAMAGED) as error:
            self.observer(Message(f"the features in {path} are damaged and are computed again ({reason_of(error)})"))
            return None
        return Features(values, rows, boxes, reasons)


class _Images(Dataset[LabelledSample]):
    """Prepared images by row, one view or two; an unreadable one is a sample of zeros with the reason in `skipped`."""

    def __init__(self, manifest: Manifest, prepare: Preparation, view: View, person: PersonConfig) -> None:
        self.manifest, self.prepare, self.view, self.person = manifest, prepare, view, person
        self.label = torch.zeros(())

    def __len__(self) -> int:
        return len(self.manifest)

    @ROOM.use()
    def __getitem__(self, index: int) -> LabelledSample:
        """Read and prepare the image of a row."""
        row = self.manifest.row(index)
        image, box = read_image(row.path), None
        if isinstance(image, Unreadable):
            blank = torch.zeros(3, self.prepare.size, self.prepare.size)
            second = blank if self.view == "both" else None
            return LabelledSample(blank, self.label, index, (Skipped(str(row.path), image.reason),), second)
        sides = {"width": image.width, "height": image.height}
        if self.view != "scene":
            box = choose_box(row.boxes, self.person.choice, **sides)
        region = None if box is None else box_region(box, self.person, **sides)
        with locating(row.path), naming("the preprocessing"):
            scene = None if self.view == "person" else torch.from_numpy(self.prepare(image))
            person = None if self.view == "scene" else torch.from_numpy(self._cut_person(image, region))
        if scene is None:
            assert person is not None
            scene, person = person, None
        return LabelledSample(scene, self.label, index, (), person, box)

    def _cut_person(self, image: Image.Image, region: Region | None) -> npt.NDArray[np.float32]:
        """Prepare the whole crop of a person, as evaluation does, or the whole image without one."""
        if region is None:
            return self.prepare(image)
        return self.prepare.normalize(cut_region(image, region, size=self.prepare.size, shape=self.person.shape))


def _hash_image(path: Path) -> str:
    data = read_file(path)
    return data.reason if isinstance(data, Unreadable) else hashlib.sha256(data).hexdigest()


def _hash_numbers(values: npt.NDArray[Any], rows: npt.NDArray[Any]) -> str:
    hasher = hashlib.sha256(np.ascontiguousarray(values).data)
    hasher.update(np.ascontiguousarray(rows).data)
    return hasher.hexdigest()


def _write(made: Features, path: Path, identity: str) -> None:
    notes = {
        "identity": identity,
        "sha256": _hash_numbers(made.values, made.rows),
        "boxes": [None if box is None else astuple(box) for box in made.boxes],
        "reasons": made.reasons,
    }
    tensors = {
        "values": torch.from_numpy(made.values),
        "rows": torch.from_numpy(made.rows),
        "notes": torch.frombuffer(bytearray(json.dumps(notes).encode()), dtype=torch.uint8),
    }
    elsewhere = "choose another `cache`"
    with (
        write_whole(path, DataError, elsewhere=elsewhere) as beside,
        explained(path, DataError, elsewhere=elsewhere, failures=(SafetensorError,)),
    ):
        save_file(tensors, beside, metadata={"format": "pt", "made of": shorten(identity)})
