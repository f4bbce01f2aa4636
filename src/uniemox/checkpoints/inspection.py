"""What can be said of weights without building a model of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from uniemox.checkpoints.bundle import compare_folder, weights_file
from uniemox.checkpoints.facts import locate, member, read_facts
from uniemox.checkpoints.foreign import likely_datasets, open_source
from uniemox.checkpoints.sources import is_own
from uniemox.checkpoints.weights import hash_file, is_finite, read_weights
from uniemox.config import ENCODER_SHAPES
from uniemox.data.specs import SPECS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from torch import Tensor

    from uniemox.checkpoints.facts import ModelFacts
    from uniemox.checkpoints.foreign import Source


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found in a file or a folder."""

    path: str
    format: str
    layout: str
    kind: str
    """pretraining, classifier or encoder."""
    architecture: Mapping[str, Any]
    """Inferred from the tensors: size, width, depth, heads, patch, picture, classes, decoder, fusion."""
    parameters: int
    sha256: Mapping[str, str]
    """Of each file of weights, by its name."""
    classes: tuple[str, ...] = ()
    """Names in label order, where they are told."""
    likely_datasets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Where they are not: data sets with this number of classes, and their label order."""
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    """Known names that the model does not use."""
    beside: tuple[str, ...] = ()
    """What else the file holds, such as an optimiser."""
    not_finite: tuple[str, ...] = ()
    arguments: Mapping[str, str] = field(default_factory=dict)
    """Settings saved beside the weights."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What a folder of this software says of itself."""
    licence: str = ""
    notes: tuple[str, ...] = ()
    """What a user should know."""

    def to_dict(self) -> dict[str, Any]:
        """Give plain values for JSON."""
        return asdict(self)


def inspect(model: str) -> Inspection:
    """Say what weights are, executing nothing of them.

    Args:
        model: File, folder, name of an embedded model or on the hub.

    Raises:
        CheckpointError: They cannot be read, or are none that is known.
    """
    place = locate(model)
    return _inspect_own(place) if is_own(place) else _inspect_foreign(open_source(place))


def _inspect_own(folder: Path) -> Inspection:
    facts = read_facts(folder)
    paths = [weights_file(folder, facts)]
    if facts.kind == "pretraining":
        paths.append(member(folder, "pretrain.safetensors"))
    state = {name: tensor for path in paths for name, tensor in read_weights(path).items()}
    shape, fit = ENCODER_SHAPES[facts.size], compare_folder(folder, facts)
    return Inspection(
        path=str(folder),
        format="safetensors",
        layout="uniemox, model folder",
        kind=facts.kind,
        architecture={
            "size": facts.size,
            **shape._asdict(),
            "patch_size": facts.patch_size,
            "image_size": facts.image_size,
            **(_answers(facts) if facts.kind == "classifier" else {}),
            **({"fusion": facts.fusion} if facts.view == "both" else {}),
            **(facts.pretraining if facts.kind == "pretraining" else {}),
        },
        parameters=_count(state.values()),
        sha256={path.name: hash_file(path) for path in paths},
        classes=facts.classes,
        missing=fit.missing,
        extra=fit.extra,
        misshapen=fit.misshapen,
        not_finite=_not_finite(state),
        facts=_told(facts),
        licence=facts.licence,
        notes=_licence_note(facts.licence),
    )


def _answers(facts: ModelFacts) -> dict[str, Any]:
    return {"num_classes": len(facts.classes), "target": facts.target, "view": facts.view}


def _told(facts: ModelFacts) -> dict[str, Any]:
    names = ("dataset", "emotion", "temperature", "metrics", "provenance", "format_version")
    return {name: getattr(facts, name) for name in names}


def _inspect_foreign(source: Source) -> Inspection:
    found = source.foreign
    likely = () if source.classes or not found.num_classes else likely_datasets(found.num_classes)
    architecture: dict[str, Any] = {
        "size": found.size,
        "width": found.width,
        "depth": found.depth,
        "num_heads": found.num_heads,
        "patch_size": found.patch_size,
        "image_size": found.image_size,
    }
    if found.num_classes:
        architecture["num_classes"] = found.num_classes
    if found.decoder is not None:
        width, depth, num_heads = found.decoder
        architecture |= {"decoder_width": width, "decoder_depth": depth, "decoder_heads": num_heads}
        architecture["fusion"] = "sum" if found.fuses else "none"
    return Inspection(
        path=str(source.place),
        format=source.format,
        layout=found.layout,
        kind=found.kind,
        architecture=architecture,
        parameters=_count(found.state.values()),
        sha256={source.path.name: hash_file(source.path)},
        classes=source.classes,
        likely_datasets={name: SPECS[name].classes for name in likely},
        missing=found.missing,
        extra=found.extra,
        misshapen=found.misshapen,
        unused=found.unused,
        beside=found.beside,
        not_finite=_not_finite(found.state),
        arguments=found.arguments,
        licence=source.licence,
        notes=(*_label_notes(likely), *_licence_note(source.licence), *_use_notes(source)),
    )


def _label_notes(likely: tuple[str, ...]) -> tuple[str, ...]:
    if len(likely) < 2:
        return ()
    orders = {SPECS[name].classes for name in likely}
    differ = ", whose label orders differ" if len(orders) > 1 else ", all in one label order"
    return (
        f"the number of classes does not tell the data set: {' or '.join(likely)}{differ}; the released heads are in "
        "the alphabetical order of the folders",
    )


def _licence_note(licence: str) -> tuple[str, ...]:
    commercial = "by-nc" not in licence.casefold()
    return (
        ()
        if commercial
        else ("not for commercial use: the weights follow from non-commercial ones",)
    )


def _use_notes(source: Source) -> tuple[str, ...]:
    if source.foreign.kind == "classifier" or not source.foreign.unused:
        return ()
    return (
        f"{', '.join(source.foreign.unused)}: a head on the class token, which is not read here",
    )


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _not_finite(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    floats = ((name, tensor) for name, tensor in state.items() if tensor.is_floating_point())
    return tuple(name for name, tensor in floats if not is_finite(tensor))
