"""Rows of a manifest as samples. The randomness of a sample is a function of (seed, epoch, row).

So the number of workers, the number of processes and a resume leave every sample as it was.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from uniemox.config.people import PersonConfig
from uniemox.config.training import AugmentConfig, View, ViewsConfig
from uniemox.data.corruptions import Corruption
from uniemox.data.failures import locating, naming
from uniemox.data.pixels import EvaluationViews
from uniemox.data.stored_views import StoredViews
from uniemox.data.transforms import AugmentedViews, PretrainTransform, seed_of, seeded, torch_seeded
from uniemox.errors import DataError
from uniemox.files.images import Unreadable, read_image
from uniemox.files.room import ROOM
from uniemox.manifests.table import Box, Manifest, Row
from uniemox.people.regions import Region, box_region, choose_box, person_region
from uniemox.targets.target import Target

_KEPT = 2**22  # Pixels of an image that is kept for its next change: one for which nobody waits for room
_TRIES = 100  # Rows that are tried instead of an unreadable one before training gives up


class Place(NamedTuple):
    """A row of the manifest in an epoch: what a training set is indexed with."""

    epoch: int
    row: int


class Skipped(NamedTuple):
    """An image that could not be read, or its boxes that could not be used, and why."""

    path: str
    reason: str


class PretrainSample(NamedTuple):
    """Two views of one image."""

    scene: Tensor  # (3, S, S) uint8
    person: Tensor  # (3, S, S) uint8
    scene_noise: Tensor  # (N,), one number for each patch; the largest are hidden
    person_noise: Tensor  # (N,)
    text: int  # Index of the description
    skipped: tuple[Skipped, ...]  # Images that this one replaces
    feature: Tensor | None = None  # (E,) float16, the teacher's of the scene, where it is stored


class LabelledSample(NamedTuple):
    """An image and its label or labels."""

    pixels: Tensor  # (3, S, S) float, normalised: the only view, or the scene; zeros where the image could not be read
    label: Tensor  # (…), as the target reads it
    row: int
    skipped: tuple[Skipped, ...]
    person: Tensor | None = None  # (3, S, S) float, normalised: the second view, where there are two
    box: Box | None = None  # The person that evaluation cut out


class PretrainDataset(Dataset[PretrainSample]):
    """Samples of pretraining, indexed by `Place`: views of side `size` in pixels, of `num_patches` patches.

    `texts` (rows,) are the indices of the rows' descriptions. With `stored`, crops and the teacher's features are those
    that it holds, in place of new ones.
    """

    def __init__(
        self,
        manifest: Manifest,
        texts: np.ndarray,
        *,
        views: ViewsConfig,
        person: PersonConfig,
        size: int,
        num_patches: int,
        seed: int,
        stored: StoredViews | None = None,
    ) -> None:
        self.manifest, self.texts, self.num_patches, self.seed = manifest, texts, num_patches, seed
        self.stored = stored
        self.person = person if views.person == "crop" else None
        self.transform = PretrainTransform(views, size, shape=person.shape)

    def __len__(self) -> int:
        return len(self.manifest)

    @ROOM.use()
    def __getitem__(self, place: Place) -> PretrainSample:
        """Read, cut and mirror the image of a row; an unreadable one is replaced by the next."""
        row, image, region, skipped = _read(self.manifest, place.row, self.person, self.stored)
        feature = None
        with torch_seeded(seed_of(self.seed, place.epoch, place.row)):
            with locating(row.path), naming("the pretraining views"):
                if self.stored is None:
                    crop = self.transform.draw(image)
                else:
                    crop, feature = self.stored.view(row.index, place.epoch)
                scene, person = self.transform.cut(image, region, crop)
            noise = torch.rand(2, self.num_patches)
        return PretrainSample(scene, person, noise[0], noise[1], int(self.texts[row.index]), skipped, feature)


class AugmentedDataset(Dataset[LabelledSample]):
    """Augmented images of side `size` with the labels of a target, indexed by `Place`, for fine-tuning."""

    def __init__(
        self,
        manifest: Manifest,
        augment: AugmentConfig,
        *,
        size: int,
        seed: int,
        view: View,
        person: PersonConfig,
        target: Target,
    ) -> None:
        self.labels = torch.from_numpy(target.read_labels(manifest))
        self.manifest, self.seed = manifest, seed
        self.person = None if view == "scene" else person
        self.transform = AugmentedViews(augment, size, view=view, shape=person.shape)

    def __len__(self) -> int:
        return len(self.manifest)

    @ROOM.use()
    def __getitem__(self, place: Place) -> LabelledSample:
        """Read and augment the image of a row; an unreadable one is replaced by the next."""
        row, image, region, skipped = _read(self.manifest, place.row, self.person)
        seed = seed_of(self.seed, place.epoch, place.row)
        with locating(row.path), naming("the augmentation"), seeded(seed):
            views = self.transform(image, region)
        second = views[1] if len(views) > 1 else None
        return LabelledSample(views[0], self.labels[row.index], row.index, skipped, second)


class EvaluationDataset(Dataset[LabelledSample]):
    """Images that are resized and cut but not augmented, with labels, indexed by row.

    An unreadable image is a sample of zeros with the reason in `skipped`, which the caller drops. With corruptions, a
    row is as many samples in sequence, one of each, and these are what `row` of a sample counts.
    """

    def __init__(
        self, manifest: Manifest, views: EvaluationViews, target: Target, corruptions: Sequence[Corruption] = ()
    ) -> None:
        self.labels = torch.from_numpy(target.read_labels(manifest))
        self.manifest, self.views, self.corruptions = manifest, views, tuple(corruptions)
        self._places = manifest.places  # so that a selection is changed like the whole
        self._kept: tuple[int, Image.Image] | None = None

    def __len__(self) -> int:
        return len(self.manifest) * max(1, len(self.corruptions))

    @ROOM.use()
    def __getitem__(self, index: int) -> LabelledSample:
        """Read and prepare the image of a row."""
        place, which = divmod(index, max(1, len(self.corruptions)))
        row = self.manifest.row(place)
        image = self._read(row)
        if isinstance(image, Unreadable):
            views, box = torch.zeros(self.views.shape), None
            skipped: tuple[Skipped, ...] = (Skipped(str(row.path), image.reason),)
        else:
            region, box, skipped, boxes = None, None, (), row.boxes
            with locating(row.path), naming("the evaluation views"):
                if self.corruptions:
                    image, boxes = self.corruptions[which](image, boxes, row=int(self._places[place]))
                sides = {"width": image.width, "height": image.height}
                if self.views.view != "scene":
                    box = choose_box(boxes, self.views.person.choice, **sides)
                    region = None if box is None else box_region(box, self.views.person, **sides)
                views = torch.from_numpy(self.views.cut(image, region))
        second = views[1] if len(views) > 1 else None
        return LabelledSample(views[0], self.labels[place], index, skipped, second, box)

    def _read(self, row: Row) -> Image.Image | Unreadable:
        """Read the image of a row, once for all its changes if it is of usual size."""
        if self._kept is not None and self._kept[0] == row.index:
            return self._kept[1]
        image = read_image(row.path)
        self._kept = None
        if not isinstance(image, Unreadable) and len(self.corruptions) > 1 and image.width * image.height <= _KEPT:
            self._kept = row.index, image
        return image


def _read(
    manifest: Manifest, index: int, person: PersonConfig | None, stored: StoredViews | None = None
) -> tuple[Row, Image.Image, Region | None, tuple[Skipped, ...]]:
    """Read the image of a row, and find the region of its person if one is asked for."""
    row, image, skipped = read_or_next(manifest, index, stored)
    if person is None:
        return row, image, None, skipped
    region = person_region(row.boxes, person, width=image.width, height=image.height)
    if region is None and row.boxes:
        why = "they lie outside the image, so the whole image is used instead; fix them and prepare the data again"
        skipped += (Skipped(f"the person boxes of {row.path}", why),)
    return row, image, region, skipped


def read_or_next(
    manifest: Manifest, index: int, stored: StoredViews | None = None
) -> tuple[Row, Image.Image, tuple[Skipped, ...]]:
    """Read the image of a row, or of the first row after it that can be read and, with `stored`, has stored views.

    A batch keeps its size this way, and what it holds does not depend on the order of workers.

    Raises:
        DataError: A hundred rows in sequence cannot be read.
    """
    skipped: list[Skipped] = []
    for step in range(min(_TRIES, len(manifest))):
        row = manifest.row((index + step) % len(manifest))
        image = read_image(row.path)
        reason = image.reason if isinstance(image, Unreadable) else stored and stored.why_not(row.index, image.size)
        if not isinstance(image, Unreadable) and not reason:
            return row, image, tuple(skipped)
        skipped.append(Skipped(str(row.path), str(reason)))
    raise DataError(
        f"{len(skipped)} images in sequence cannot be read, the first being {skipped[0].path} ({skipped[0].reason}): "
        f"check the root of the manifest, {manifest.facts.root}"
    )
