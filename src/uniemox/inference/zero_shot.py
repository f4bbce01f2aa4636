"""What zero-shot classifiers are for beside prediction: a temperature from labelled images, and a baseline."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from uniemox.checkpoints.folder import Classifier
from uniemox.checkpoints.load import load_model
from uniemox.config.clip_name import reword, teacher_of
from uniemox.config.zero_shot import ZeroShotConfig
from uniemox.errors import CheckpointError, ConfigError, DataError
from uniemox.files.images import Unreadable, read_image
from uniemox.files.read_ahead import read_ahead
from uniemox.inference.baselines import MAX_ANSWERED, Answer, Question
from uniemox.manifests.table import Manifest, evenly, read_manifest
from uniemox.models.classify import head_of
from uniemox.targets.kinds import resolve_target
from uniemox.targets.target import Logits
from uniemox.wording import counted

log = logging.getLogger(__name__)
_MOST: Final = 2000
"""Images that a temperature is fitted on; its standard error is then a few hundredths."""
_FEW: Final = 50
"""Images with which a temperature says little; of one, it makes the model certain or clueless."""
_BATCH: Final = 32
_LARGEST_ON_CPU: Final = 200_000_000  # Bytes of the weights of a CLIP, both towers: 50 million numbers in fp32


def calibrate(classifier: Classifier, logits_of: Callable[[npt.NDArray[np.float32]], Any], data: Path) -> Classifier:
    """Return the classifier with a temperature in its head, fitted on split val of a manifest, or else on all of it.

    The temperature is what maximises the likelihood of the labels (Guo et al. 2017, section 4.2). `logits_of` runs the
    classifier on prepared images (N, V, 3, S, S).

    Raises `DataError` for a manifest that cannot be read, has other classes, or no readable image.
    """
    facts = classifier.facts
    target = resolve_target(facts.target, facts.classes, facts.kept)
    target, manifest = target.align(read_manifest(data))
    if "val" in manifest.split_counts():
        manifest = manifest.select(["val"])
    labels = target.read_labels(manifest)
    logits, kept = _answer(classifier, logits_of, manifest, _MOST, num_workers=2)
    if not kept:
        raise DataError(f"no image of {data} can be read: the temperature needs some")
    _warn_of_gaps(data, len(kept), min(len(manifest), _MOST))
    temperature = target.fit_temperature(logits, labels[kept])
    with torch.no_grad():
        for parameter in head_of(classifier.model).parameters():
            parameter.div_(temperature)
    provenance = {
        **facts.provenance,
        "temperature": f"fitted on {counted(len(kept), 'image')} of {manifest.facts.name}",
    }
    return Classifier(classifier.model, replace(facts, temperature=temperature, provenance=provenance))


def _warn_of_gaps(data: Path, num_read: int, num_rows: int) -> None:
    if num_read < num_rows:
        text = "%d of %d images of %s cannot be read: the others give the temperature"
        log.warning(text, num_rows - num_read, num_rows, data)
    if num_read < _FEW:
        few = counted(num_read, "image")
        log.warning("the temperature is fitted on %s of %s, and unsure: give some hundred", few, data)


def answer_zero_shot(teacher: str, question: Question) -> Answer | str:
    """Answer an evaluation by the zero-shot classification of a CLIP, as a baseline; or say why not.

    Its weights must be at hand, since an evaluation does not ask for a download, and on a CPU they must be few. The
    name may be a stranger's, for a model folder holds it: nothing but a CLIP is opened.
    """
    from uniemox.models.teacher import offline  # open_clip takes seconds to import

    if not question.target.is_zero_shot:
        return f"a zero-shot model gives one label, and this model's target is {question.target.name}"
    facts, device = question.test.facts, torch.device(question.device)
    if obstacle := find_obstacle(teacher, device.type):
        return obstacle
    asked = ZeroShotConfig(classes=facts.classes, wording=facts.emotion or "auto")
    try:
        with offline():
            classifier = load_model(teacher, zero_shot=asked)
    except (CheckpointError, ConfigError) as error:
        return _describe_absence(error)
    try:
        model = classifier.model.to(device)

        @torch.inference_mode()
        def logits_of(views: npt.NDArray[np.float32]) -> Any:
            return model(torch.from_numpy(views[:, 0]).to(device)).float().cpu().numpy()

        workers = question.num_workers
        logits, kept = _answer(classifier, logits_of, question.test, MAX_ANSWERED, num_workers=workers)
    except torch.OutOfMemoryError:
        return "it does not fit into the memory of the GPU beside the model"
    if not kept:
        return "no image can be read"
    note = f"prompts for {len(facts.classes)} classes, no training, on {len(kept):,} images"
    return Answer(logits, np.array(kept), question.target, note)


def find_obstacle(teacher: str, device: str) -> str:
    """Say why a CLIP that nobody asked for is not to answer: it is not at hand, or slow on a CPU; empty if it may."""
    from uniemox.models.teacher import find_source, offline  # open_clip takes seconds to import

    try:
        with offline():
            size = find_source(teacher_of(teacher)).weights.stat().st_size
    except (CheckpointError, ConfigError) as error:
        return _describe_absence(error)
    slow = device == "cpu" and size > _LARGEST_ON_CPU
    return f"it takes long on a CPU: `uniemox evaluate {teacher} --data …` scores it" if slow else ""


def _describe_absence(error: Exception) -> str:
    return f"its weights are not at hand ({reword(str(error))})"


def _answer(
    classifier: Classifier, logits_of: Callable[..., Any], manifest: Manifest, most: int, *, num_workers: int
) -> tuple[Logits, list[int]]:
    """Answer up to so many rows, evenly chosen; return logits (N, C) and the places of those that can be read."""
    prepare = classifier.facts.views

    def read(place: int) -> tuple[int, Any]:
        row = manifest.row(place)
        image = read_image(row.path)
        return place, None if isinstance(image, Unreadable) else prepare(image, row.boxes)

    places = evenly(len(manifest), most)
    reading = read_ahead(read, places, num_workers=num_workers, ahead=2 * _BATCH, size=lambda _: 1, room=2 * _BATCH)
    readable = ((place, views) for place, views in reading if views is not None)
    logits, kept = [np.empty((0, len(classifier.facts.classes)), np.float32)], []
    while batch := list(islice(readable, _BATCH)):
        kept += [place for place, _ in batch]
        logits.append(logits_of(np.stack([views for _, views in batch])))
    return np.concatenate(logits), kept
