"""Weights that others wrote, as models: a file, or a folder of timm or of transformers' wrapper of it.

Nothing is skipped or changed silently: `Source.notes` lists it, and `Foreign.check` refuses the rest.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Interval
from torch import Tensor

from uniemox.checkpoints import transformers_vit
from uniemox.checkpoints.card import NON_COMMERCIAL
from uniemox.checkpoints.facts import ModelFacts, check_facts, member, read_config, read_facts
from uniemox.checkpoints.layouts import MAE_RUN, TRANSFORMERS, Foreign, recognise
from uniemox.checkpoints.open import Opened, open_weights
from uniemox.data.pixels import CROP_SHARE, MEAN, STD
from uniemox.emotions import match_classes
from uniemox.errors import CheckpointError, ConfigError
from uniemox.files.digest import hash_file
from uniemox.files.json_file import read_json
from uniemox.files.weights import as_floats, part_names, read_file, read_parts
from uniemox.importers.specs import SPECS, DatasetSpec, get_spec
from uniemox.manifests.facts import Facts
from uniemox.manifests.table import read_manifest
from uniemox.models.encoder import resample_positions
from uniemox.targets.kinds import DEFAULT, PROBLEM_TYPES, kind_of_data, resolve_target
from uniemox.validation import validate
from uniemox.version import __version__
from uniemox.wording import name_first, shorten

log = logging.getLogger(__name__)
# timm's arguments that tensors show, or that change nothing where nobody trains
_SHOWN = {
    *("img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth", "mlp_ratio"),
    *("qkv_bias", "proj_bias", "qk_norm", "init_values", "class_token", "reg_tokens", "pos_embed"),
    *("no_embed_class", "pre_norm", "final_norm", "fc_norm", "weight_init", "fix_init"),
    *("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate"),
    *("drop_path_rate", "dynamic_img_size", "strict_img_size"),
}
_STATED = ("config.json", "pretrained_cfg.")  # Where timm's folders say what pixels they expect
_Share = Annotated[float, Interval(ge=0, le=1)]
_Deviation = Annotated[float, Interval(gt=0, le=1)]


@dataclass(frozen=True)
class _Colours:
    """What the weights expect of pixels in [0, 1], by the names of timm's `pretrained_cfg`."""

    mean: tuple[_Share, _Share, _Share] = MEAN
    std: tuple[_Deviation, _Deviation, _Deviation] = STD


@dataclass(frozen=True, kw_only=True)
class Source:
    """Weights that others wrote, recognised and not yet read."""

    place: Path  # What the user named: a file or a folder
    paths: tuple[Path, ...]  # The file of weights, or its parts
    format: str
    foreign: Foreign
    classes: tuple[str, ...] = ()  # Names in label order, where the folder has them
    licence: str = ""
    target: str | None = None  # Kind of its outputs by its configuration; None where that names none, as for a file
    preprocessing: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """timm's `pretrained_cfg`; empty for a file, whose images are prepared as MAE's."""

    @property
    def path(self) -> Path:
        """The file of weights, or the first of its parts."""
        return self.paths[0]

    @property
    def title(self) -> str:
        """Layout and hash, since paths mean nothing elsewhere."""
        return f"{self.foreign.layout}, sha256 {' '.join(map(hash_file, self.paths))}"

    @property
    def colours(self) -> _Colours:
        """Mean and deviation of the pixels that the weights expect, or `CheckpointError`."""
        stated = ("preprocessor_config.json", "image_") if self.foreign.layout == TRANSFORMERS else _STATED
        try:
            return validate(_Colours, self.preprocessing, source=f"{self.place}/{stated[0]}", prefix=stated[1])
        except ConfigError as error:
            raise CheckpointError(str(error)) from error

    def notes(self) -> tuple[str, ...]:
        """List what is skipped or changed on the way."""
        notes = list(self.foreign.taken)
        if self.foreign.unused:
            notes.append(f"{name_first(self.foreign.unused)}: {self.foreign.unused_as}, skipped")
        if self.foreign.beside:
            notes.append(f"{', '.join(self.foreign.beside[:6])}: beside the weights, skipped")
        if (colours := self.colours) != _Colours():
            notes.append(f"pixels of mean {colours.mean} and deviation {colours.std}: folded into the patch projection")
        if "nc" in self.licence.casefold():
            notes.append(f"licence: {self.licence}")
        return tuple(notes)


def find_weights(model: str | Path | Opened) -> tuple[Path, Source | ModelFacts]:
    """Find out where weights are, and what: of others, or a folder of this software by its facts."""
    opened = open_weights(model)
    return opened.path, open_source(opened.path) if opened.role == "foreign" else read_facts(opened.path)


def open_source(place: Path) -> Source:
    """Recognise a file or a folder that others wrote, or raise `CheckpointError`."""
    if place.is_dir():
        return _open_folder(place)
    contents = read_file(place)
    foreign = recognise(contents.tree, place)
    # MAE's form: what is more than an encoder, what MAE's scripts wrote, and encoders without a head, as MAE's own are.
    is_run = foreign.layout.startswith(MAE_RUN) and not foreign.unused
    licence = NON_COMMERCIAL if foreign.kind != "encoder" or foreign.arguments or is_run else ""
    return Source(place=place, paths=(place,), format=contents.format, foreign=foreign, licence=licence)


def _open_folder(folder: Path) -> Source:
    """Recognise a folder of timm or of transformers; only its configuration and its safetensors are read."""
    config = read_config(folder)
    paths = _weight_files(folder)
    weights = read_parts(paths)
    if config.get("model_type") in transformers_vit.MODEL_TYPES:
        return _open_transformers(folder, config, paths, weights)
    preprocessing, arguments = config.get("pretrained_cfg", {}), config.get("model_args") or {}
    for name, table in (("pretrained_cfg", preprocessing), ("model_args", arguments)):
        if not isinstance(table, dict):
            raise CheckpointError(f"{folder}/config.json: {name} must be a table")
    if elsewhere := [name for name in ("file", "state_dict") if preprocessing.get(name)]:
        what = f"pretrained_cfg.{elsewhere[0]} points elsewhere"
        raise CheckpointError(f"{folder}/config.json: {what}: copy the weights here")
    named = preprocessing.get("classifier")
    heads = tuple(name for name in (named if isinstance(named, list) else [named]) if name and isinstance(name, str))
    foreign = recognise(weights, paths[0], heads)
    if foreign.layout == TRANSFORMERS:
        what = f"model_type is {shorten(config.get('model_type'))}"
        known = " and ".join(transformers_vit.MODEL_TYPES)
        raise CheckpointError(f"{folder}/config.json: {what}, and of transformers' models {known} alone are read")
    if foreign.kind == "classifier":
        arguments = {"global_pool": config.get("global_pool", "avg")} | arguments
    _check_arguments(arguments, foreign, folder)
    classes = config.get("label_names") if foreign.num_classes else None
    if classes:
        strings = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
        if not strings or not len(set(classes)) == len(classes) == foreign.num_classes:
            raise CheckpointError(f"{folder}/config.json: label_names must be {foreign.num_classes} distinct names")
    return Source(
        place=folder,
        paths=paths,
        format="safetensors",
        foreign=foreign,
        classes=tuple(classes or ()),
        licence=str(preprocessing.get("license") or ""),
        target=PROBLEM_TYPES.get(str(config.get("problem_type"))),
        preprocessing=preprocessing,
    )


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the file of weights of a folder, or the parts of it that an index names."""
    path = member(folder, "model.safetensors")
    if path.exists():
        return (path,)
    index = member(folder, f"{path.name}.index.json")
    if index.exists():
        names = part_names(index)
        return tuple(member(folder, name) for name in names)
    others = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pth", ".pt"))
    what = f"; {folder / others[0]} can be given by itself" if others else ""
    raise CheckpointError(f"{folder} has no {path.name}{what}")


def _open_transformers(
    folder: Path, config: Mapping[str, Any], paths: tuple[Path, ...], weights: Mapping[str, Tensor]
) -> Source:
    """Recognise a folder of transformers' ViT or ViTMAE, whose images another file of it describes."""
    foreign = recognise(weights, paths[0])
    place = folder / "config.json"
    transformers_vit.check_config(config, foreign.num_heads, place)
    if foreign.decoder:
        width = foreign.decoder["decoder_width"]
        decoder = {**foreign.decoder, "decoder_heads": transformers_vit.decoder_heads(config, width, place)}
        foreign = dataclasses.replace(foreign, decoder=decoder)
    path = member(folder, "preprocessor_config.json")
    found = read_json(path) if path.exists() else {}
    names = {"mean": "image_mean", "std": "image_std"}
    preprocessing = {name: found[theirs] for name, theirs in names.items() if theirs in found}
    is_mae = config["model_type"] == "vit_mae"
    if not is_mae and not preprocessing:
        raise CheckpointError(f"{folder} has no {path.name} to say what pixels the model expects: copy it there")
    return Source(
        place=folder,
        paths=paths,
        format="safetensors",
        foreign=foreign,
        licence=NON_COMMERCIAL if is_mae else "",
        preprocessing=preprocessing,
    )


def _check_arguments(arguments: Mapping[str, Any], foreign: Foreign, folder: Path) -> None:
    """Refuse a timm model that computes something else than its tensors show, such as with more heads."""
    usual = {"num_heads": foreign.num_heads, "global_pool": "avg"}
    ignored = _SHOWN if foreign.kind == "classifier" else {*_SHOWN, "global_pool"}
    for name in arguments.keys() - ignored:
        if arguments[name] != usual.get(name):
            what = f"{name[:80]} of this model is {str(arguments[name])[:40]}, which no tensor shows"
            here = f"and which is {usual.get(name, 'not known')} here: use it with timm"
            raise CheckpointError(f"{folder}/config.json: {what} {here}")


def likely_datasets(num_classes: int) -> tuple[str, ...]:
    """List the data sets with this number of classes; drawn6 only has the models of this package."""
    return tuple(name for name, spec in SPECS.items() if len(spec.classes) == num_classes and name != "drawn6")


def classifier_facts(source: Source, *, dataset: str | None = None, image_size: int | None = None) -> ModelFacts:
    """Return the facts of a classifier that others wrote; the data set, or its manifest, names unnamed classes.

    Raises `CheckpointError` if the weights hold no classifier of this kind, or nothing names their classes.
    """
    foreign = source.foreign
    foreign.check(source.place)
    if foreign.kind != "classifier":
        unused = f"its {name_first(foreign.unused)} are {foreign.unused_as}, not one on the mean of the patches"
        why = unused if foreign.unused else "it has no head"
        step = f"train one with `uniemox finetune --init {source.place}`"
        raise CheckpointError(f"{source.place} ({foreign.layout}) holds no classifier, since {why}: {step}")
    _check_preprocessing(source)
    return _facts(source, image_size, **_answers(source, dataset))


def pretraining_facts(source: Source, *, image_size: int | None = None) -> ModelFacts:
    """Return the facts of a pretrained model that others wrote, or raise `CheckpointError` without a known decoder."""
    pretraining = source.foreign.decoder
    if not pretraining:
        what = f"{source.place} ({source.foreign.layout})"
        raise CheckpointError(f"{what} holds no decoder: start a run from it with `init`")
    if pretraining["decoder_heads"] is None:
        what = f"{source.place} has a decoder {pretraining['decoder_width']} wide"
        raise CheckpointError(f"{what}; no tensor shows its number of heads, and only that of MAE's 512 is known")
    source.foreign.check(source.place)
    return _facts(source, image_size, dataset="unknown", emotion=None, pretraining=pretraining)


def _facts(source: Source, image_size: int | None, **more: Any) -> ModelFacts:
    foreign = source.foreign
    assert foreign.kind != "encoder"
    assert foreign.size is not None
    provenance = {"software": f"converted by uniemox {__version__}", "source": source.title}
    if settings := {k: v for k, v in foreign.arguments.items() if "/" not in v}:
        provenance["settings"] = json.dumps(settings)
    facts = ModelFacts(
        kind=foreign.kind,
        size=foreign.size,
        patch_size=foreign.patch_size,
        image_size=image_size or foreign.image_size,
        provenance=provenance,
        licence=source.licence,
        **more,
    )
    check_facts(facts, source.place)
    for note in source.notes():
        log.info("%s: %s", source.place, note)
    return facts


def adapt_state(source: Source, image_size: int) -> dict[str, Tensor]:
    """Return the weights for images of this size, and for pixels of ImageNet's mean and deviation."""
    state, colours = dict(source.foreign.state), source.colours
    if image_size != source.foreign.image_size:
        positions = {name: tensor for name, tensor in state.items() if name in ("pos_embed", "decoder_pos_embed")}
        for name, tensor in as_floats(positions, source.path).items():
            state[name] = resample_positions(tensor, grid=image_size // source.foreign.patch_size)
    if colours != _Colours():  # exact, as no patch is padded
        projection = ("patch_embed.proj.weight", "patch_embed.proj.bias")
        weight, bias = (t.double() for t in as_floats({k: state[k] for k in projection}, source.path).values())
        theirs_m, theirs_s = torch.tensor([colours.mean, colours.std], dtype=torch.float64)
        ours_m, ours_s = torch.tensor([MEAN, STD], dtype=torch.float64)
        shift = torch.einsum("dcij,c->d", weight, (ours_m - theirs_m) / theirs_s)
        scaled = weight * (ours_s / theirs_s).view(1, 3, 1, 1)
        state |= zip(projection, (scaled.float(), (bias + shift).float()), strict=True)
    return state


def _check_preprocessing(source: Source) -> None:
    """Refuse a classifier of images that are cut or resized in another way, since its answers would differ."""
    side = source.foreign.image_size
    usual = {"crop_pct": CROP_SHARE, "interpolation": "bicubic", "crop_mode": "center", "input_size": [3, side, side]}
    for name, value in usual.items():
        theirs = source.preprocessing.get(name, value)
        if theirs != value:
            what = f"this classifier was made for pretrained_cfg.{name} {str(theirs)[:40]}, and images are prepared"
            step = "fine-tune from it, or use it with timm"
            raise CheckpointError(f"{source.place}/config.json: {what} with {value} here: {step}")


def _answers(source: Source, dataset: str | None) -> dict[str, Any]:
    """Return the facts about the outputs: by the configuration, else by the data that they were trained on."""
    count, step = source.foreign.num_classes, "name the data set that it was trained on"
    if dataset is None:
        if not source.classes:
            known = " or ".join((*likely_datasets(count), "a manifest"))
            step = f"give the data set that it was trained on as `dataset` ({known})"
            raise CheckpointError(f"{source.place} distinguishes {count} classes and does not name them: {step}")
        target = resolve_target(source.target or DEFAULT, source.classes)
        return {"dataset": "unknown", "emotion": None, "classes": source.classes, **target.to_facts()}
    data, kind = describe_dataset(dataset)
    if len(data.classes) != count:
        found = f"{source.place} distinguishes {count} classes"
        raise CheckpointError(f"{found}, but {data.name} has {len(data.classes)}: {step}")
    if source.classes:  # outputs without names are in the order of the data
        check_classes(source.place, source.classes, data, step)
    if source.target not in (None, kind):
        contradiction = f"problem_type is that of {source.target}, but {dataset} is {kind}"
        raise CheckpointError(f"{source.place}/config.json: {contradiction}: {step}")
    classes = source.classes or data.classes
    fitted = resolve_target(kind, classes).to_facts()
    return {"dataset": data.name, "emotion": data.emotion, "classes": classes, **fitted}


def check_classes(place: Path, own: tuple[str, ...], data: Facts | DatasetSpec, step: str) -> None:
    """Raise `CheckpointError` for a model that does not have the classes of the data, in whatever order."""
    match = match_classes(own, data.classes)
    if not match.is_whole:
        lacks = match.describe("it", data.name)
        raise CheckpointError(f"{place} does not have the classes of {data.name}: {lacks}; {step}")


def describe_dataset(dataset: str) -> tuple[Facts | DatasetSpec, str]:
    """Return what is known of a data set or a manifest's, and the kind of its target.

    Raises `CheckpointError` for a data set that has the classes of its folders.
    """
    if dataset.endswith(".parquet"):
        manifest = read_manifest(Path(dataset))
        return manifest.facts, kind_of_data(has_label_sets=manifest.has_label_sets)
    spec = get_spec(dataset)
    if not spec.classes:
        raise CheckpointError(f"{dataset} has the classes of its folders: give their manifest as `dataset`")
    return spec, kind_of_data(has_label_sets=spec.has_label_sets)
