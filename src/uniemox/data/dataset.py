"""Rows of a manifest as samples. The randomness of a sample is a function of (seed, epoch, row).

So the number of workers, the number of processes and a resume leave every sample as it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.utils.data import Dataset

from uniemox.data.images import Unreadable, read_image
from uniemox.data.people import person_region
from uniemox.data.transforms import AugmentedViews, PretrainTransform, seed_of, seeded
from uniemox.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor

    from uniemox.config import AugmentConfig, PersonConfig, Target, View, ViewsConfig
    from uniemox.data.manifest import Manifest, Row
    from uniemox.data.people import Region
    from uniemox.data.pixels import EvaluationViews

_TRIES = 100
"""Rows that are tried in the place of an unreadable one before training gives up."""


class Place(NamedTuple):
    """A row of the manifest in an epoch: what a training set is indexed with."""

    epoch: int
    row: int


class Skipped(NamedTuple):
    """A picture that could not be read, or its boxes that could not be used, and why."""

    path: str
    reason: str


class PretrainSample(NamedTuple):
    """Two views of one picture."""

    scene: Tensor
    """(3, S, S) uint8."""
    person: Tensor
    """(3, S, S) uint8."""
    scene_noise: Tensor
    """(N,), one number for each patch; the largest are hidden."""
    person_noise: Tensor
    """(N,)."""
    text: int
    """Index of the description."""
    skipped: tuple[Skipped, ...]
    """Pictures in whose place this one stands."""


class LabelledSample(NamedTuple):
    """A picture and its label or labels."""

    pixels: Tensor
    """(3, S, S) float, normalised: the only view, or the scene; zeros where the picture could not be read."""
    label: Tensor
    """() int64; for several labels (C,) bool, true for those that apply."""
    row: int
    skipped: tuple[Skipped, ...]
    person: Tensor | None = None
    """(3, S, S) float, normalised: the second view, where there are two."""


class PretrainDataset(Dataset[PretrainSample]):
    """Samples of pretraining, indexed by `Place`.

    Args:
        manifest: Pictures and boxes.
        texts: (rows,), the index of each row's description.
        views: How the scene is cut, and what the second view is.
        person: How the person is chosen and cut.
        size: Side S of the views in pixels.
        num_patches: N, the patches of a view.
        seed: Seed of the run.
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
    ) -> None:
        self.manifest = manifest
        self.texts = texts
        self.views = views
        self.person = person
        self.num_patches = num_patches
        self.seed = seed
        self.transform = PretrainTransform(views, size, shape=person.shape)

    def __len__(self) -> int:
        """Rows of the manifest."""
        return len(self.manifest)

    def __getitem__(self, place: Place) -> PretrainSample:
        """Read, cut and mirror the picture of a row; an unreadable one is replaced by the next."""
        row, image, skipped = read_or_next(self.manifest, place.row)
        region = None
        if self.views.person == "crop":
            region, told = find_person(row, image, self.person)
            skipped += told
        with seeded(seed_of(self.seed, place.epoch, place.row)):
            views = self.transform(image, region)
            noise = torch.rand(2, self.num_patches)
        text = int(self.texts[row.index])
        return PretrainSample(views.scene, views.person, noise[0], noise[1], text, skipped)


class AugmentedDataset(Dataset[LabelledSample]):
    """Augmented pictures with labels, indexed by `Place`, for fine-tuning.

    Args:
        manifest: Pictures, labels and boxes.
        augment: Settings of the augmentation.
        size: Side S of a view in pixels.
        seed: Seed of the run.
        view: What the classifier reads.
        person: How the person is chosen and cut.
        target: Whether a row has one label or several.
    """

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
        self.labels = labels_of(manifest, target)
        self.manifest = manifest
        self.seed = seed
        self.person = person
        self.transform = AugmentedViews(augment, size, view=view, shape=person.shape)

    def __len__(self) -> int:
        """Rows of the manifest."""
        return len(self.manifest)

    def __getitem__(self, place: Place) -> LabelledSample:
        """Read and augment the picture of a row; an unreadable one is replaced by the next."""
        row, image, skipped = read_or_next(self.manifest, place.row)
        region = None
        if self.transform.view != "scene":
            region, told = find_person(row, image, self.person)
            skipped += told
        with seeded(seed_of(self.seed, place.epoch, place.row)):
            pixels, *person = self.transform(image, region)
        return LabelledSample(pixels, self.labels[row.index], row.index, skipped, *person)


class EvaluationDataset(Dataset[LabelledSample]):
    """Pictures as they are, resized and cut, with labels, indexed by row.

    An unreadable picture is a sample of zeros that says so in `skipped`: it is for the caller to leave it out.
    """

    def __init__(self, manifest: Manifest, views: EvaluationViews, target: Target) -> None:
        self.labels = labels_of(manifest, target)
        self.manifest = manifest
        self.views = views

    def __len__(self) -> int:
        """Rows of the manifest."""
        return len(self.manifest)

    def __getitem__(self, index: int) -> LabelledSample:
        """Read and prepare the picture of a row."""
        row = self.manifest.row(index)
        image = read_image(row.path)
        skipped: tuple[Skipped, ...] = ()
        if isinstance(image, Unreadable):
            skipped = (Skipped(str(row.path), image.reason),)
            views = torch.zeros(self.views.shape)
        else:
            views = torch.from_numpy(self.views(image, row.boxes))
        pixels, *person = views
        return LabelledSample(pixels, self.labels[index], index, skipped, *person)


def labels_of(manifest: Manifest, target: Target) -> Tensor:
    """Give the labels of a manifest: (N,) int64, or for several labels (N, C) bool.

    Raises:
        DataError: As `check_labels`.
    """
    check_labels(manifest, target)
    match target:
        case "single_label":
            return torch.from_numpy(manifest.labels.copy())
        case "multi_label":
            return torch.from_numpy(manifest.label_sets.copy())


def check_labels(manifest: Manifest, target: Target) -> None:
    """Refuse a manifest in which a row has no label, or several where one is wanted.

    Raises:
        DataError: Names the first such row.
    """
    missing = manifest.labels < 0
    has_set = manifest.table["label_set"].is_valid().to_numpy()
    if target == "single_label" and (missing & has_set).any():
        raise DataError(
            f"{manifest.facts.name} gives several labels to one row (label_set): train with --target multi_label, or "
            "prepare the data with one label for each row"
        )
    unlabelled = (missing & ~has_set).nonzero()[0]
    if len(unlabelled):
        raise DataError(
            f"{len(unlabelled)} of {len(manifest)} rows have no label, the first being "
            f"{manifest.row(int(unlabelled[0])).path}: choose splits whose rows are all labelled"
        )


def find_person(
    row: Row, image: Image.Image, person: PersonConfig
) -> tuple[Region | None, tuple[Skipped, ...]]:
    """Find the region of a row's person; where its boxes lie outside the picture, say so."""
    region = person_region(row.boxes, person, width=image.width, height=image.height)
    if region is not None or not row.boxes:
        return region, ()
    what = f"the person boxes of {row.path}"
    why = (
        "they lie outside the picture, so the scene stands in; mend them and prepare the data again"
    )
    return None, (Skipped(what, why),)


def read_or_next(manifest: Manifest, index: int) -> tuple[Row, Image.Image, tuple[Skipped, ...]]:
    """Read the picture of a row, or of the first row after it that can be read.

    A batch keeps its size this way, and what it holds does not depend on the order of workers.

    Raises:
        DataError: A hundred rows in sequence cannot be read.
    """
    skipped: list[Skipped] = []
    for step in range(min(_TRIES, len(manifest))):
        row = manifest.row((index + step) % len(manifest))
        image = read_image(row.path)
        if not isinstance(image, Unreadable):
            return row, image, tuple(skipped)
        skipped.append(Skipped(str(row.path), image.reason))
    first = skipped[0]
    raise DataError(
        f"{len(skipped)} pictures in sequence cannot be read, the first being {first.path} "
        f"({first.reason}): check the root of the manifest, {manifest.facts.root}"
    )
