"""What a model folder says of itself: the section `uniemox` of its `config.json`. Brings no torch."""

from __future__ import annotations

import dataclasses
import glob
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from uniemox.checkpoints.hub import HUB_PREFIX, fetch
from uniemox.config import (
    MAX_MARGIN,
    CropShape,
    EncoderSize,
    FusedBy,
    Fusion,
    PersonChoice,
    PersonConfig,
    Target,
    View,
)
from uniemox.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FORMAT_VERSION = 3
"""The newest format that is read.

Version 2 has views, which a reader of version 1 would not know to cut; version 3 classifiers of several labels, whose
logits a reader of version 2 would bring to a sum of 1.
"""
SECTION = "uniemox"
"""Where a folder's `config.json` holds the facts."""
OLD_SUFFIX = ".old"
"""How the hidden name of a folder ends that is being replaced."""
_ASSETS = Path(__file__).parents[1] / "demo" / "assets"
EMBEDDED = {"demo": _ASSETS / "classifier", "demo-pretrained": _ASSETS / "uniemox_mini"}
"""Folders of the models that come with the package, by the names they are called by."""
# What a stranger's folder may ask for before its weights are read: more would be a bomb, not a model.
_CONFIG_LIMIT = 4 * 2**20  # bytes
_MAX_PATCH = 128  # pixels
MAX_GRID = 128  # patches along a side
_MAX_CLASSES = 10_000
_MAX_DECODER = {"decoder_width": 4096, "decoder_depth": 64, "decoder_heads": 256}
_MAX_EMBEDDING = 16_384
_SINCE = {2: ("view", "fusion", "person"), 3: ("target", "thresholds")}
"""Fields by the version that brought them."""
_LISTS = ("classes", "thresholds")


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """The section `uniemox` of a folder's `config.json`: what the weights are and where they come from."""

    kind: Literal["pretraining", "classifier"]
    size: EncoderSize
    patch_size: int
    image_size: int
    dataset: str
    """Name of the data set of the last training."""
    emotion: str | None
    """Whether labels say the emotion evoked in viewers or felt by a depicted person."""
    classes: tuple[str, ...] = ()
    """Names in label order; none for a pretrained model."""
    temperature: float = 1.0
    """What the logits were divided by, fitted on the val split; the head's weights contain it already."""
    view: View = "scene"
    """What a classifier reads: the whole picture, a person's crop, or both."""
    fusion: Fusion = "none"
    """How a classifier of both views fuses them."""
    person: PersonConfig = field(default_factory=PersonConfig)
    """How the person was chosen and cut out."""
    target: Target = "single_label"
    """Whether a classifier gives one label, or any number of them, each with a probability of its own."""
    thresholds: tuple[float, ...] = ()
    """(C,), the probability from which each of several labels is given, fitted on the val split."""
    pretraining: Mapping[str, Any] = field(default_factory=dict)
    """Shape of decoder and fusion, by the names of `ModelConfig`, and `embedding_width`, `reconstructs`."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """How the weights were made: software, data, settings."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What was measured, by split and score, such as `test_top1`."""
    licence: str = ""
    """Licence of the weights and what it follows from; empty where it was not stated."""

    @property
    def format_version(self) -> int:
        """The oldest format that has what these facts say, so that older readers read all that they can."""
        if self.target == "multi_label":
            return 3
        return 1 if self.view == "scene" else 2

    def to_dict(self) -> dict[str, Any]:
        """Give plain values for JSON; `read_facts` is the inverse."""
        values = dataclasses.asdict(self)
        for name in _newer_than(self.format_version):
            del values[name]
        return {**values, "format_version": self.format_version}


def _newer_than(version: int) -> set[str]:
    """Name the fields that a format does not have."""
    return {name for since, names in _SINCE.items() if since > version for name in names}


def locate(model: str) -> Path:
    """Find the folder or the file of a model by what a user calls it.

    Args:
        model: A folder; a file of weights; the name of an embedded model (`demo` is a classifier, `demo-pretrained`
            UniEmoX-mini); or a name on the hub, `hf-hub:org/name` with an optional `@revision`.

    Raises:
        CheckpointError: There is none.
    """
    if model.startswith(HUB_PREFIX):
        return fetch(model)
    place = EMBEDDED.get(model) or Path(model)
    if not place.exists():
        _tell_what_is_left(place)
        raise CheckpointError(
            f"there is no model folder {place}: give the folder `model` of a run, a file of weights, a name on the hub "
            f"({HUB_PREFIX}org/name), or an embedded model's name ({', '.join(EMBEDDED)})"
        )
    return place


def _tell_what_is_left(place: Path) -> None:
    """Refuse a folder that a run was replacing when it was killed between two renames, and say where it is.

    The former has a hidden name then; the new one, which is whole by that time, has the same without its suffix.
    """
    former = sorted(place.parent.glob(f".{glob.escape(place.name)}.*{OLD_SUFFIX}"))
    if not former:
        return
    old, new = former[-1], former[-1].with_suffix("")
    left = (
        f"the new one as {new} and the former as {old}" if new.is_dir() else f"the former as {old}"
    )
    raise CheckpointError(
        f"there is no model folder {place}, but a run that was killed left {left}: rename "
        f"{'the one you want' if new.is_dir() else 'it'} to {place.name}"
    )


def member(folder: Path, name: str) -> Path:
    """Give the path of a file in a model folder, which need not be there.

    Raises:
        CheckpointError: It is a link that leaves the folder, other than into the hub's own cache.
    """
    path = folder / name
    if path.is_symlink():
        home = folder.resolve()
        homes = [home, *([home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [])]
        if not any(path.resolve().is_relative_to(place) for place in homes):
            raise CheckpointError(
                f"{path} is a link that leaves its folder, which is not followed: copy the file there"
            )
    return path


def read_config(folder: Path) -> dict[str, Any]:
    """Read the `config.json` of a model folder, whoever made it.

    Raises:
        CheckpointError: There is none, or it is no table.
    """
    path = member(folder, "config.json")
    if not path.is_file():
        raise CheckpointError(f"{folder} is not a model folder: it has no config.json")
    try:
        if path.stat().st_size > _CONFIG_LIMIT:
            raise CheckpointError(f"{path} is larger than {_CONFIG_LIMIT} bytes: it is refused")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} cannot be read as JSON (it is no table)")
    return config


def read_facts(folder: Path) -> ModelFacts:
    """Read what a model folder says of itself, without its weights.

    Raises:
        CheckpointError: It is no model folder of ours, or of a newer version.
    """
    path = folder / "config.json"
    section = read_config(folder).get(SECTION)
    if not isinstance(section, dict):
        raise CheckpointError(
            f"{path} has no section `{SECTION}`: the folder was made by another tool"
        )
    return facts_from_dict(section, path)


def check_facts(facts: ModelFacts, source: Path) -> None:
    """Refuse facts that no folder may hold, such as those of weights that others wrote.

    Raises:
        CheckpointError: Says the first thing that is wrong.
    """
    listed = {name: list(getattr(facts, name)) for name in _LISTS}
    for problem in _problems({**facts.to_dict(), **listed}):
        raise CheckpointError(f"{source}: {problem}")


def facts_from_dict(section: dict[str, Any], path: Path) -> ModelFacts:
    """Make facts from plain values that a stranger may have written, the inverse of `ModelFacts.to_dict`.

    Args:
        section: The values.
        path: File that they stand in, for messages.

    Raises:
        CheckpointError: A value is missing, wrong or of a newer version.
    """
    version = section.get("format_version")
    if type(version) is not int or version < 1:
        raise CheckpointError(
            f"{path}: uniemox.format_version is {_short(version)}, but must be a whole number from 1"
        )
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} was written in format {version}, and this version of uniemox reads up to {FORMAT_VERSION}: "
            "upgrade uniemox"
        )
    known = {f.name for f in dataclasses.fields(ModelFacts)} - _newer_than(version)
    values = {name: value for name, value in section.items() if name in known}
    for problem in _problems(values):
        raise CheckpointError(f"{path}: {problem}; make the folder again, or copy it whole")
    person = PersonConfig(**values.get("person", {}))
    lists = {name: tuple(values.get(name, ())) for name in _LISTS}
    return ModelFacts(**{**values, **lists, "person": person})


def _problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Give what is wrong with a section that a stranger may have written; what comes later trusts what came before."""
    yield from _kind_problems(values)
    yield from _record_problems(values)
    yield from _size_problems(values)
    yield from _class_problems(values)
    yield from _view_problems(values)
    yield from _target_problems(values)
    if values["kind"] == "pretraining":
        yield from _pretraining_problems(values.get("pretraining", {}))


def _kind_problems(values: Mapping[str, Any]) -> Iterator[str]:
    if values.get("kind") not in ("pretraining", "classifier"):
        yield f"uniemox.kind is {_short(values.get('kind'))}, but must be pretraining or classifier"
    if values.get("emotion", "") not in (None, "evoked", "felt"):
        yield f"uniemox.emotion is {_short(values.get('emotion'))}, but must be evoked, felt or null"
    kinds = {
        "dataset": str,
        "licence": str,
        "provenance": dict,
        "pretraining": dict,
        "metrics": dict,
    }
    for name, kind in kinds.items():
        if not isinstance(values.get(name, kind()), kind):
            yield f"uniemox.{name} is {_short(values[name])}, but must be a {kind.__name__}"
    if "dataset" not in values:
        yield "uniemox.dataset must be given"
    temperature = values.get("temperature", 1.0)
    if type(temperature) not in (int, float) or not 0 < temperature < float("inf"):
        yield f"uniemox.temperature is {_short(temperature)}, but must be a number greater than 0"


def _record_problems(values: Mapping[str, Any]) -> Iterator[str]:
    if not all(isinstance(text, str) for text in values.get("provenance", {}).values()):
        yield "uniemox.provenance must hold texts"
    metrics = values.get("metrics", {}).values()
    if not all(type(value) in (int, float) and abs(value) < float("inf") for value in metrics):
        yield "uniemox.metrics must hold numbers"


def _size_problems(values: Mapping[str, Any]) -> Iterator[str]:
    if values.get("size") not in get_args(EncoderSize):
        known = ", ".join(get_args(EncoderSize))
        yield f"uniemox.size is {_short(values.get('size'))}, but must be one of {known}"
    yield from _whole_number_problems(
        values, {"patch_size": _MAX_PATCH, "image_size": _MAX_PATCH * MAX_GRID}, "uniemox"
    )
    grid, rest = divmod(values["image_size"], values["patch_size"])
    if rest:
        yield "uniemox.image_size must be a multiple of uniemox.patch_size"
    if grid > MAX_GRID:
        yield f"uniemox.image_size has more than {MAX_GRID} patches a side"


def _class_problems(values: Mapping[str, Any]) -> Iterator[str]:
    classes = values.get("classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        yield "uniemox.classes must be a list of names"
    elif len(set(classes)) < len(classes) or len(classes) > _MAX_CLASSES:
        yield f"uniemox.classes must be distinct and no more than {_MAX_CLASSES}"
    elif values["kind"] == "classifier" and not classes:
        yield "uniemox.classes is empty, but a classifier names its classes"


def _view_problems(values: Mapping[str, Any]) -> Iterator[str]:
    view, fusion = values.get("view", "scene"), values.get("fusion", "none")
    allowed = get_args(View) if values["kind"] == "classifier" else ("scene",)
    if view not in allowed:
        yield f"uniemox.view is {_short(view)}, but must be {' or '.join(allowed)}"
    fusions = get_args(FusedBy) if view == "both" else ("none",)
    if fusion not in fusions:
        yield f"uniemox.fusion is {_short(fusion)}, but must be {' or '.join(fusions)}"
    if view != "scene":
        yield from _person_problems(values.get("person"))


def _target_problems(values: Mapping[str, Any]) -> Iterator[str]:
    target, thresholds = values.get("target", "single_label"), values.get("thresholds", [])
    allowed = get_args(Target) if values["kind"] == "classifier" else ("single_label",)
    if target not in allowed:
        yield f"uniemox.target is {_short(target)}, but must be {' or '.join(allowed)}"
    count = len(values["classes"]) if target == "multi_label" else 0
    if (
        not isinstance(thresholds, list)
        or len(thresholds) != count
        or not all(type(one) in (int, float) and 0 <= one <= 1 for one in thresholds)
    ):
        yield f"uniemox.thresholds is {_short(thresholds)}, but must list {count} numbers from 0 to 1"


def _person_problems(person: Any) -> Iterator[str]:
    words = {"choice": get_args(PersonChoice), "shape": get_args(CropShape)}
    if not isinstance(person, dict) or person.keys() != {*words, "margin"}:
        yield f"uniemox.person is {_short(person)}, but must tell choice, margin and shape, and nothing else"
    for name, known in words.items():
        if person[name] not in known:
            yield f"uniemox.person.{name} is {_short(person[name])}, but must be {' or '.join(known)}"
    margin = person["margin"]
    if type(margin) not in (int, float) or not 0 <= margin <= MAX_MARGIN:
        yield f"uniemox.person.margin is {_short(margin)}, but must be a number from 0 to {MAX_MARGIN}"


def _pretraining_problems(shape: Mapping[str, Any]) -> Iterator[str]:
    names = {*_MAX_DECODER, "fusion", "embedding_width", "reconstructs"}
    if shape.keys() != names:
        yield f"uniemox.pretraining must tell {', '.join(sorted(names))}, and nothing else"
    limits = _MAX_DECODER | (
        {} if shape["embedding_width"] is None else {"embedding_width": _MAX_EMBEDDING}
    )
    yield from _whole_number_problems(shape, limits, "uniemox.pretraining")
    if shape["fusion"] not in get_args(Fusion):
        known = ", ".join(get_args(Fusion))
        yield f"uniemox.pretraining.fusion is {_short(shape['fusion'])}, but must be one of {known}"
    if not isinstance(shape["reconstructs"], bool):
        yield f"uniemox.pretraining.reconstructs is {_short(shape['reconstructs'])}, but must be true or false"


def _whole_number_problems(
    values: Mapping[str, Any], limits: Mapping[str, int], prefix: str
) -> Iterator[str]:
    for name, most in limits.items():
        value = values.get(name)
        if type(value) is not int or not 1 <= value <= most:
            yield f"{prefix}.{name} is {_short(value)}, but must be a whole number from 1 to {most}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
