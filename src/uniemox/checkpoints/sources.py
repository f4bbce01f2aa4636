"""Models from wherever they come: folders, files that others wrote, the hub. All that takes a model reads it here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from uniemox.checkpoints import bundle, foreign
from uniemox.checkpoints.compat import is_beside_encoder, own_name
from uniemox.checkpoints.facts import MAX_GRID, SECTION, ModelFacts, locate, member, read_config
from uniemox.checkpoints.weights import as_floats, read_weights
from uniemox.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from torch import Tensor

    from uniemox.checkpoints.bundle import Classifier, Pretrained
    from uniemox.checkpoints.foreign import Source


@dataclass(frozen=True, kw_only=True)
class Start:
    """Weights that a run begins with."""

    name: str
    """For the provenance: what it was and its hash."""
    licence: str
    size: str
    patch_size: int
    image_size: int
    encoder: Mapping[str, Tensor]
    """By timm's names, without any head."""
    beside: Mapping[str, Tensor]
    """Decoder and fusion, by our names; none for a classifier."""
    decoder: Mapping[str, Any]
    """Shape of the decoder and the fusion, by the names of `ModelConfig`."""
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> dict[str, Any]:
        """The settings of a model that has these parts."""
        names = ("size", "patch_size", "image_size")
        return {name: getattr(self, name) for name in names} | dict(self.decoder)


def is_own(place: Path) -> bool:
    """Whether a folder was written by this software.

    Raises:
        CheckpointError: It is no model folder.
    """
    return place.is_dir() and SECTION in read_config(place)


def load_model(
    model: str | Path, *, dataset: str | None = None, device: torch.device | None = None
) -> Classifier:
    """Load a classifier, ready to predict.

    Args:
        model: A folder of this software, of timm or of transformers' wrapper of it; a file of weights, such as
            UniEmoX's released ones; `demo`; or a name on the hub, `hf-hub:org/name`.
        dataset: For weights that do not name their classes: a data set, such as fi, or a manifest.
        device: Where it computes; None is the CPU.

    Returns:
        The model, which maps normalised pictures (B, 3, S, S) to logits (B, C), and its facts. With the view
        `both` it takes scenes and persons.

    Raises:
        CheckpointError: The weights cannot be read, or hold no classifier, or their classes are not told.
        DataError: There is no such data set.
    """
    place = locate(str(model))
    if is_own(place):
        classifier = bundle.load_classifier(place, device=device)
        if dataset is not None:
            _check_same_classes(classifier.facts.classes, dataset, place)
        return classifier
    return foreign.load_classifier(foreign.open_source(place), dataset=dataset, device=device)


def load_pretraining(model: str | Path) -> Pretrained:
    """Load a pretrained model with its decoder and fusion, on the CPU.

    Which patches are hidden follows from the noise that is passed in, so a masked forward pass can be repeated:
    `model(scene, person, scene_noise, person_noise, mask_ratio)` with noise (B, N) hides the patches of the largest.

    Args:
        model: A folder of this software; a file of MAE or of UniEmoX's released runs; `demo-pretrained`; or a name on
            the hub.

    Raises:
        CheckpointError: The weights cannot be read, or hold no decoder.
    """
    place = locate(str(model))
    if is_own(place):
        return bundle.load_pretraining(place)
    return foreign.load_pretraining(foreign.open_source(place))


def load_start(model: str) -> Start:
    """Read the weights to begin a run with.

    Raises:
        CheckpointError: They cannot be read.
    """
    place = locate(model)
    if not is_own(place):
        return _foreign_start(foreign.open_source(place))
    encoder, facts = bundle.load_encoder(place)
    beside: dict[str, Tensor] = {}
    if facts.kind == "pretraining":
        path = member(place, "pretrain.safetensors")
        beside = {own_name(k): v for k, v in as_floats(read_weights(path), path).items()}
    return Start(
        name=f"{facts.kind} on {facts.dataset}, sha256 {bundle.hash_weights(place)}",
        licence=facts.licence,
        size=facts.size,
        patch_size=facts.patch_size,
        image_size=facts.image_size,
        encoder=encoder,
        beside=beside,
        decoder=facts.pretraining,
    )


def _foreign_start(source: Source) -> Start:
    found = source.foreign
    found.check(source.place)
    assert found.size is not None
    state = foreign.read_state(source, found.image_size)
    left = ("head.", "fc_norm.")
    return Start(
        name=source.title,
        licence=source.licence,
        size=found.size,
        patch_size=found.patch_size,
        image_size=found.image_size,
        encoder={
            name: tensor
            for name, tensor in state.items()
            if not is_beside_encoder(name) and not name.startswith(left)
        },
        beside={own_name(k): v for k, v in state.items() if is_beside_encoder(k)},
        decoder={} if found.decoder is None else foreign.decoder_settings(found),
        notes=source.notes(),
    )


def convert(
    model: str, out: Path, *, dataset: str | None = None, image_size: int | None = None
) -> ModelFacts:
    """Write weights that others made as a model folder.

    Args:
        model: File, folder or name on the hub.
        out: Folder to write; it must be empty or absent.
        dataset: Data set or manifest that names a classifier's classes.
        image_size: Side of the pictures in pixels; None keeps the weights' own.

    Returns:
        What the folder says of itself.

    Raises:
        CheckpointError: The weights cannot be read, fit no model folder, or the folder cannot be written.
        DataError: There is no such data set.
    """
    place = locate(model)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise CheckpointError(f"{out} is there already: choose another --out, or delete it")
    if is_own(place):
        raise CheckpointError(f"{place} is a model folder of this software already")
    source = foreign.open_source(place)
    _check_side(source, image_size)
    if source.foreign.kind == "pretraining":
        pretrained = foreign.load_pretraining(source, image_size=image_size)
        bundle.save_pretraining(pretrained.model, out, pretrained.facts)
        return pretrained.facts
    classifier = foreign.load_classifier(source, dataset=dataset, image_size=image_size)
    bundle.save_classifier(classifier.model, out, classifier.facts)
    return classifier.facts


def _check_side(source: Source, image_size: int | None) -> None:
    patch = source.foreign.patch_size
    side = source.foreign.image_size if image_size is None else image_size
    if side < patch or side % patch or side > patch * MAX_GRID:
        raise CheckpointError(
            f"--image-size is {side}, but must be a multiple of the patch, {patch} pixels, up to {patch * MAX_GRID}"
        )


def _check_same_classes(classes: tuple[str, ...], dataset: str, place: Path) -> None:
    name, _, others = foreign.named_classes(dataset)
    if classes != others:
        raise CheckpointError(
            f"{place} names its classes {', '.join(classes)}, which are not those of {name} in their order: leave "
            "--dataset out"
        )
