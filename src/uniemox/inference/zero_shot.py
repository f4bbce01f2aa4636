"""The temperature of a zero-shot classifier, fitted on labelled images, so that its scores are honest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from uniemox.checkpoints.folder import Classifier
from uniemox.errors import DataError
from uniemox.files.images import Unreadable, read_image
from uniemox.files.read_ahead import read_ahead
from uniemox.manifests.merge import number_as
from uniemox.manifests.table import evenly, read_manifest
from uniemox.models.classify import head_of
from uniemox.targets.kinds import resolve_target

_MOST: Final = 2000
"""Images that a temperature is fitted on; its standard error is then a few hundredths."""
_BATCH: Final = 32


def calibrate(classifier: Classifier, logits_of: Callable[[npt.NDArray[np.float32]], Any], data: Path) -> Classifier:
    """Return the classifier with a temperature in its head, fitted on split val of a manifest, or else on all of it.

    The temperature is what maximises the likelihood of the labels (Guo et al. 2017, section 4.2). `logits_of` runs the
    classifier on prepared images (N, V, 3, S, S).

    Raises `DataError` for a manifest that cannot be read, has other classes, or no readable image.
    """
    facts = classifier.facts
    manifest = number_as(facts.classes, read_manifest(data))
    if "val" in manifest.split_counts():
        manifest = manifest.select(["val"])
    target = resolve_target(facts.target, facts.classes, facts.thresholds)
    labels = target.read_labels(manifest)
    places = evenly(len(manifest), _MOST)

    def read(place: int) -> tuple[int, Any]:
        row = manifest.row(place)
        image = read_image(row.path)
        return place, None if isinstance(image, Unreadable) else facts.views(image, row.boxes)

    logits, kept = [], []
    reading = read_ahead(read, places, num_workers=2, ahead=2 * _BATCH, size=lambda _: 1, room=2 * _BATCH)
    readable = ((place, views) for place, views in reading if views is not None)
    while batch := list(islice(readable, _BATCH)):
        kept += [place for place, _ in batch]
        logits.append(logits_of(np.stack([views for _, views in batch])))
    if not kept:
        raise DataError(f"none of the {len(places)} images of {data} can be read: the temperature needs some")
    temperature = target.fit_temperature(np.concatenate(logits), labels[kept])
    with torch.no_grad():
        for parameter in head_of(classifier.model).parameters():
            parameter.div_(temperature)
    provenance = {**facts.provenance, "temperature": f"fitted on {len(kept)} images of {manifest.facts.name}"}
    return Classifier(classifier.model, replace(facts, temperature=temperature, provenance=provenance))
