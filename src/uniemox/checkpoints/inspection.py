"""What weights are, without building a model of them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from uniemox.checkpoints.card import caution
from uniemox.checkpoints.facts import ModelFacts
from uniemox.checkpoints.folder import compare_folder, read_folder, weight_files
from uniemox.checkpoints.foreign import Source, find_weights, likely_datasets
from uniemox.checkpoints.language import read_language
from uniemox.config.training import ENCODER_SHAPES
from uniemox.errors import CheckpointError
from uniemox.files.digest import hash_file
from uniemox.files.weights import Fit, is_finite
from uniemox.importers.specs import SPECS
from uniemox.wording import counted, name_first, shorten


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found in a file or a folder."""

    path: str
    format: str
    layout: str
    kind: str  # pretraining, classifier or encoder
    architecture: Mapping[str, Any]  # By the tensors: size, width, depth, heads, patch, image, classes, decoder, fusion
    parameters: int
    sha256: Mapping[str, str]  # Of each file of weights, by its name
    classes: tuple[str, ...] = ()  # Names in label order, where they are known
    likely_datasets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Where they are unknown: data sets with this number of classes, and their label order."""
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()  # Known names that the model does not use
    beside: tuple[str, ...] = ()  # What else the file holds, such as an optimiser
    not_finite: tuple[str, ...] = ()
    arguments: Mapping[str, str] = field(default_factory=dict)  # Settings saved beside the weights
    facts: Mapping[str, Any] = field(default_factory=dict)  # Of our own folders: how it was trained and measured
    licence: str = ""
    notes: tuple[str, ...] = ()  # What a user should know

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def inspect(model: str) -> Inspection:
    """Inspect weights, executing nothing of them, or raise `CheckpointError` for those of no known layout."""
    place, found = find_weights(model)
    return _inspect_foreign(found) if isinstance(found, Source) else _inspect_own(place, found)


def _inspect_own(folder: Path, facts: ModelFacts) -> Inspection:
    weights, spec = read_folder(folder, facts), SPECS.get(facts.dataset)
    architecture: dict[str, Any] = {"name": facts.architecture}
    if facts.size is not None:
        shape = ENCODER_SHAPES[facts.size]._asdict()
        architecture = {"size": facts.size, **shape, "patch_size": facts.patch_size}
    architecture["image_size"] = facts.image_size
    if facts.kind == "pretraining":
        architecture |= facts.pretraining
    else:
        answers = ("target", "view") if facts.size is None else ("target", "view", "pool")
        named_facts = {name: getattr(facts, name) for name in answers}
        architecture |= {"num_classes": len(facts.classes), **named_facts, **facts.pretraining}
    if facts.view == "both" and facts.pool != "fused":
        architecture["fusion"] = facts.fusion
    named = ("emotion", "temperature", "precision", "metrics", "provenance", "format_version")
    return Inspection(
        path=str(folder),
        format="safetensors",
        layout="uniemox, model folder",
        kind=facts.kind,
        architecture=architecture,
        sha256={path.name: hash_file(path) for path in weight_files(folder, facts)},
        classes=facts.classes,
        facts={
            "dataset": facts.dataset,
            "title": "" if spec is None else spec.title,
            **{name: getattr(facts, name) for name in named},
        },
        licence=facts.licence,
        notes=(
            *_licence_notes(facts.licence),
            *([f"it {limit}"] if (limit := caution(facts)) else []),
            *_language_notes(folder, facts),
        ),
        **_measured(weights, compare_folder(folder, facts, weights)),
    )


def _inspect_foreign(source: Source) -> Inspection:
    found = source.foreign
    shown = ("size", "width", "depth", "num_heads", "patch_size", "image_size")
    architecture = {name: getattr(found, name) for name in shown} | dict(found.decoder)
    if found.num_classes:
        architecture["num_classes"] = found.num_classes
    names = () if source.classes or not found.num_classes else likely_datasets(found.num_classes)
    likely = {name: SPECS[name].classes for name in names}
    notes = _licence_notes(source.licence)
    if len(likely) > 1:
        differ = ", with different label orders" if len({*likely.values()}) > 1 else ", all in one label order"
        sets = f"the number of classes does not identify the data set: {' or '.join(likely)}{differ}"
        notes.insert(0, f"{sets}; the released heads are in the alphabetical order of the folders")
    if found.unused and found.kind != "classifier":
        notes.append(f"{name_first(found.unused)}: {found.unused_as}; it is not read here")
    return Inspection(
        path=str(source.place),
        format=source.format,
        layout=found.layout,
        kind=found.kind,
        architecture=architecture,
        sha256={path.name: hash_file(path) for path in source.paths},
        classes=source.classes,
        likely_datasets=likely,
        unused=found.unused,
        beside=found.beside,
        arguments=found.arguments,
        licence=source.licence,
        notes=tuple(notes),
        **_measured(found.state, found.fit),
    )


def _licence_notes(licence: str) -> list[str]:
    commercial = "by-nc" not in licence.casefold()
    return [] if commercial else ["not for commercial use: the weights follow from non-commercial ones"]


def _language_notes(folder: Path, facts: ModelFacts) -> list[str]:
    """Say what a pretrained model keeps of its teacher's language, or why that cannot be used."""
    try:
        language = read_language(folder, facts)
    except CheckpointError as error:
        return [str(error)]
    if language is None:
        return []
    known = counted(len(language.facts.words), "word")
    return [f"it keeps what {shorten(language.facts.teacher)} says of {known}, so it classifies without training"]


def _measured(weights: Mapping[str, Tensor], fit: Fit) -> dict[str, Any]:
    floats = {name: tensor for name, tensor in weights.items() if tensor.is_floating_point()}
    return {
        "parameters": sum(tensor.numel() for tensor in weights.values()),
        "not_finite": tuple(name for name, tensor in floats.items() if not is_finite(tensor)),
        **asdict(fit),
    }
