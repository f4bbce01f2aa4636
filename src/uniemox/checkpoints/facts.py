"""The facts of a model folder: the section `uniemox` of its `config.json`. Does not import torch."""

import dataclasses
from collections.abc import Iterator, Mapping  # pydantic reads annotations when it runs
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from annotated_types import Gt, Interval, Len

from uniemox.config.checks import MAX_CLASSES, MAX_DEPTH, MAX_GRID, MAX_HEADS, MAX_PATCH, MAX_SIDE, MAX_WIDTH, Precision
from uniemox.config.people import PersonConfig
from uniemox.config.training import EncoderSize, FusedBy, Fusion, Pool, View
from uniemox.data.pixels import EvaluationViews, Preparation
from uniemox.emotions import Emotion
from uniemox.errors import CheckpointError, ConfigError, DataError
from uniemox.files.json_file import read_json
from uniemox.targets.kinds import DEFAULT, KNOWN, PROBLEM_TYPES, find_target
from uniemox.targets.robustness import Robustness
from uniemox.targets.several import JOIN
from uniemox.validation import validate
from uniemox.wording import shorten

FORMAT_VERSION = 4
"""The newest format that is read.

Version 2 has views, which a reader of version 1 would not know to cut; version 3 has classifiers of several labels,
whose logits a reader of version 2 would pass through a softmax; version 4 has heads that read another token than the
mean of the patches, and image towers of CLIP, which prepare images in ways of their own. A field that a reader may
ignore, such as `precision`, needs no version: without bf16 a reader computes in fp32, and its answers agree within a
hundredth.
"""
_Colour = Annotated[float, Interval(ge=-10, le=10)]
_Deviation = Annotated[float, Interval(gt=0, le=10)]
_MAX_KIND = 64  # Characters of the name of a kind of target
TIMM_PREFIX = "timm:"  # Before timm's name of an architecture
SECTION = "uniemox"  # Key of the facts in a folder's `config.json`
_SINCE = {  # Versions that brought them; else 1
    **dict.fromkeys(("view", "fusion", "person"), 2),
    **dict.fromkeys(("target", "thresholds"), 3),
    **dict.fromkeys(("pool", "architecture", "preparation"), 4),
}


@dataclass(frozen=True, kw_only=True)
class PretrainingShape:
    """Shape of a pretrained model beside its encoder, by the names of `ModelConfig`."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    decoder_width: Annotated[int, Interval(ge=1, le=MAX_WIDTH)]
    decoder_depth: Annotated[int, Interval(ge=1, le=MAX_DEPTH)]
    decoder_heads: Annotated[int, Interval(ge=1, le=MAX_HEADS)]
    fusion: Fusion
    embedding_width: Annotated[int, Interval(ge=1, le=16_384)] | None  # Of the teacher; None if nothing is embedded
    reconstructs: bool  # Whether it has a decoder


@dataclass(frozen=True, kw_only=True)
class LanguageFacts:
    """The teacher that a pretrained model lies in the space of, and the words whose text features it keeps."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "allow_inf_nan": False}

    teacher: Annotated[str, Len(1, 500)]  # Name of the CLIP, such as clip:demo
    digest: Annotated[str, Len(0, 64)]  # As `Teacher.digest`
    scale: Annotated[float, Interval(gt=0, le=1e4)]  # Factor of the cosine
    words: Annotated[tuple[Annotated[str, Len(1, 200)], ...], Len(1, MAX_CLASSES)]  # In the order of the features


@dataclass(frozen=True, kw_only=True)
class PreparationFacts:
    """How images are prepared where that is not our classifiers' own way, by the names of `Preparation`."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "allow_inf_nan": False}

    crop_share: Annotated[float, Interval(gt=0, le=1)]
    mean: tuple[_Colour, _Colour, _Colour]
    std: tuple[_Deviation, _Deviation, _Deviation]
    interpolation: Literal["bicubic", "bilinear"]
    squash: bool


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """The section `uniemox` of a folder's `config.json`: what the weights are and where they come from."""

    __pydantic_config__: ClassVar = {"allow_inf_nan": False}

    kind: Literal["pretraining", "classifier"]
    size: EncoderSize | None  # None of an architecture that is not ours
    patch_size: Annotated[int, Interval(ge=0, le=MAX_PATCH)]  # 0 of such an architecture
    image_size: Annotated[int, Interval(ge=1, le=MAX_SIDE)]
    dataset: str  # Name of the data set of the last training
    emotion: Emotion | None  # Whether labels name the emotion evoked in viewers or felt by a depicted person
    classes: Annotated[tuple[str, ...], Len(0, MAX_CLASSES)] = ()  # Names in label order; none for a pretrained model
    architecture: str = ""  # Name of an architecture that is not ours, such as that of a CLIP, or timm:resnet50
    preparation: PreparationFacts | None = None  # How images are prepared, if not as for our own classifiers
    temperature: Annotated[float, Gt(0)] = 1.0  # Divisor of the logits, fitted on val; the head contains it already
    view: View = "scene"  # What a classifier reads: the whole image, a person's crop, or both
    fusion: Fusion = "none"  # How a classifier of both views fuses them, unless pretraining's fusion does
    pool: Pool = "mean"  # What a classifier's head reads
    person: PersonConfig = field(default_factory=PersonConfig)  # How the person was chosen and cut out
    target: Annotated[str, Len(1, 200)] = DEFAULT  # Kind of a classifier's answers: one label, several, or another
    thresholds: Annotated[tuple[Annotated[float, Interval(ge=0, le=1)], ...], Len(0, MAX_CLASSES)] = ()
    """The probability from which each of several labels is given, fitted on the val split."""
    numbers: Annotated[
        Mapping[Annotated[str, Len(1, 100)], Annotated[tuple[float, ...], Len(0, MAX_CLASSES)]], Len(0, 64)
    ] = field(default_factory=dict)
    """What else the target keeps, by its own names, such as the ends of a scale; a reader may ignore what it does not
    know."""
    precision: Precision = "fp32"  # Arithmetic that a classifier was calibrated and measured in; its default
    pretraining: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `PretrainingShape`, of a pretrained model or of a classifier that keeps its fusion; none for others."""
    language: LanguageFacts | None = None  # What a pretrained model keeps of its teacher's language
    provenance: Mapping[str, str] = field(default_factory=dict)  # How the weights were made: software, data, settings
    metrics: Mapping[str, float] = field(default_factory=dict)  # Measurements by split and score, such as `test_top1`
    robustness: Robustness | None = None  # What changes of the images do to a classifier's answers, where measured
    licence: str = ""  # Licence of the weights and what it follows from; empty where it was not stated

    @property
    def kept(self) -> Mapping[str, tuple[float, ...]]:
        """What the target keeps, for `resolve_target`."""
        return {"thresholds": self.thresholds, **self.numbers}

    @property
    def views(self) -> EvaluationViews:
        """What prepares images for a classifier."""
        own = None
        if self.preparation is not None:
            own = Preparation(self.image_size, **dataclasses.asdict(self.preparation))
        return EvaluationViews(size=self.image_size, view=self.view, person=self.person, preparation=own)

    @property
    def is_timm(self) -> bool:
        """Whether the model is one of timm's architectures, other than our encoders."""
        return self.architecture.startswith(TIMM_PREFIX)

    @property
    def format_version(self) -> int:
        """The oldest format that can express these facts, so that older readers read all they can."""
        if self.pool != "mean" or self.preparation is not None:
            return _SINCE["pool"]
        if self.target != DEFAULT:
            return _SINCE["target"]
        return 1 if self.view == "scene" else _SINCE["view"]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; `facts_from_dict` is the inverse."""
        version = self.format_version
        values = _known_in(version, dataclasses.asdict(self))
        for name in ("numbers", "robustness"):
            if not getattr(self, name):
                del values[name]
        return {**values, "format_version": version}


def _known_in(version: int, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if _SINCE.get(name, 1) <= version}


def member(folder: Path, name: str) -> Path:
    """Return the path of a file that a model folder may have; refuse a link that leaves it, but for the hub's cache."""
    path = folder / name
    if path.is_symlink():
        home = folder.resolve()
        homes = [home, *([home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [])]
        if not any(path.resolve().is_relative_to(place) for place in homes):
            raise CheckpointError(f"{path} is a link that leaves its folder: copy the file there")
    return path


def read_config(folder: Path) -> dict[str, Any]:
    """Read the `config.json` of a model folder, whoever made it, or raise `CheckpointError`."""
    path = member(folder, "config.json")
    if not path.is_file():
        raise CheckpointError(f"{folder} is neither a model folder nor a run: it has no config.json")
    return read_json(path)


def read_facts(folder: Path) -> ModelFacts:
    """Read the facts of a model folder, or raise `CheckpointError` for another tool's or a newer version's."""
    path = folder / "config.json"
    config = read_config(folder)
    section = config.get(SECTION)
    if not isinstance(section, dict):
        raise CheckpointError(f"{path} has no section `{SECTION}`: the folder was made by another tool")
    facts = facts_from_dict(section, path)
    declared = PROBLEM_TYPES.get(str(config.get("problem_type")))
    if declared not in (None, facts.target):
        contradiction = f"problem_type is that of {declared}, but uniemox.target is {facts.target}"
        raise CheckpointError(f"{path}: {contradiction}: copy the folder whole, or make it again")
    if facts.size is None:
        _check_timm(config, facts, path)
    return facts


def _check_timm(config: Mapping[str, Any], facts: ModelFacts, path: Path) -> None:
    """Refuse a folder from which timm would build another model than the facts name."""
    named = {"architecture": facts.architecture.removeprefix(TIMM_PREFIX).partition(".")[0], "model_args": {}}
    for name, value in named.items():
        if (found := config.get(name, value)) != value:
            what = f"{name} is {shorten(found)}, but uniemox.architecture is {shorten(facts.architecture)}"
            raise CheckpointError(f"{path}: {what}: copy the folder whole, or make it again")


def check_facts(facts: ModelFacts, source: Path) -> None:
    """Raise `CheckpointError` for facts that no folder may hold, such as those of weights that others wrote."""
    _read_section(facts.to_dict(), source)


def facts_from_dict(section: Mapping[str, Any], path: Path) -> ModelFacts:
    """Build facts from plain values that a stranger may have written, the inverse of `ModelFacts.to_dict`.

    Names that the format does not have are ignored; `CheckpointError` names the first value that is missing, invalid
    or of a newer version, and its file, `path`.
    """
    version = section.get("format_version")
    if type(version) is not int or version < 1:
        raise CheckpointError(f"{path}: uniemox.format_version is {shorten(version)}, but must be 1 or more")
    if version > FORMAT_VERSION:
        readable = f"this version of uniemox reads up to {FORMAT_VERSION}"
        raise CheckpointError(f"{path} was written in format {shorten(version)}, and {readable}: upgrade uniemox")
    step = "; make the folder again, or copy it whole"
    target = section.get("target", DEFAULT)
    if version < _SINCE["target"] and target != DEFAULT and target in KNOWN:
        raise CheckpointError(f"{path}: uniemox.target is {target!r}, which format {version} does not have{step}")
    return _read_section(_known_in(version, section), path, step)


def _read_section(values: Mapping[str, Any], source: Path, step: str = "") -> ModelFacts:
    try:
        facts = validate(ModelFacts, values, source="", prefix="uniemox.")
        problem = next(_problems(facts, values), "")
        if (facts.kind == "pretraining" or facts.pool == "fused") and not problem:
            validate(PretrainingShape, facts.pretraining, source="", prefix="uniemox.pretraining.")
    except ConfigError as error:
        raise CheckpointError(f"{source}: {error}{step}") from error
    if problem:
        raise CheckpointError(f"{source}: {problem}{step}")
    return facts


def _problems(facts: ModelFacts, given: Mapping[str, Any]) -> Iterator[str]:
    """Yield what each field allows by itself and the facts together do not."""
    yield from _architecture_problems(facts)
    if len(set(facts.classes)) < len(facts.classes):
        yield "uniemox.classes must be distinct"
    if facts.kind == "classifier" and not facts.classes:
        yield "uniemox.classes is empty, but a classifier names its classes"
    plain = {"precision": "fp32", "view": "scene", "target": DEFAULT, "pool": "mean"}
    for name, value in plain.items() if facts.kind == "pretraining" else ():
        if getattr(facts, name) != value:
            yield f"uniemox.{name} is {getattr(facts, name)!r}, but must be {value} of a pretrained model"
    if facts.kind == "classifier" and facts.pool != "fused" and facts.pretraining:
        yield "uniemox.pretraining must be empty of a classifier, unless uniemox.pool is fused"
    yield from _fusion_problems(facts)
    yield from _target_problems(facts)
    if "person" in given and given["person"].keys() != vars(facts.person).keys():
        yield f"uniemox.person must have {', '.join(vars(facts.person))}, and nothing else"


def _architecture_problems(facts: ModelFacts) -> Iterator[str]:
    if facts.size is None or not facts.patch_size:
        is_described = facts.architecture != "" and facts.preparation is not None
        if facts.size or facts.patch_size or not is_described or facts.kind == "pretraining":
            yield "uniemox.size and uniemox.patch_size must be those of an encoder, unless the architecture is another"
        elif facts.pool != "mean":
            yield f"uniemox.pool is {facts.pool}, but uniemox.size is null, so no encoder of ours is pooled"
        elif facts.view == "both":
            yield "uniemox.view is both, but uniemox.size is null, and encoders of ours alone read two views"
        return
    if facts.architecture or facts.preparation is not None:
        yield "uniemox.architecture and uniemox.preparation are given, but uniemox.size too: it must be null"
    grid, rest = divmod(facts.image_size, facts.patch_size)
    if rest or grid > MAX_GRID:
        wanted = f"a multiple of uniemox.patch_size, up to {MAX_GRID} patches a side"
        yield f"uniemox.image_size is {facts.image_size}, but must be {wanted}"


def _fusion_problems(facts: ModelFacts) -> Iterator[str]:
    fusions = get_args(FusedBy) if facts.view == "both" and facts.pool != "fused" else ("none",)
    if facts.fusion not in fusions:
        yield f"uniemox.fusion is {facts.fusion!r}, but must be {' or '.join(fusions)}"
    if facts.pool == "fused":
        if facts.pretraining.get("embedding_width") is None:
            yield "uniemox.pretraining.embedding_width must be a number, since uniemox.pool is fused"
        if facts.view == "both" and facts.pretraining.get("fusion") == "none":
            yield "uniemox.pretraining.fusion is none, but uniemox.view is both"


def _target_problems(facts: ModelFacts) -> Iterator[str]:
    # A kind that is unknown here may be the user's own; only using it needs its object.
    if not all(kind.isidentifier() and len(kind) <= _MAX_KIND for kind in facts.target.split(JOIN)):
        yield f"uniemox.target is {shorten(repr(facts.target))}, but must be the name of a kind of target"
    try:
        target = find_target(facts.target, facts.classes, facts.kept)
    except DataError as error:
        yield f"uniemox.{error}"
        return
    if target is not None and (count := len(target.to_facts()["thresholds"])) != len(facts.thresholds):
        yield f"uniemox.thresholds must list {count} numbers from 0 to 1"
