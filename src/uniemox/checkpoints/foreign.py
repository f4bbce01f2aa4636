"""Weights that others wrote, as models: a file, or a folder of timm or of transformers' wrapper of it.

Nothing is left out or changed without a word: `Source.notes` says what, and `Foreign.check` refuses the rest.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from uniemox.checkpoints.bundle import Classifier, Pretrained, make_classifier, make_pretraining
from uniemox.checkpoints.card import NON_COMMERCIAL
from uniemox.checkpoints.compat import MAE_RUN, Foreign, is_beside_encoder, own_name, recognise
from uniemox.checkpoints.facts import ModelFacts, check_facts, member, read_config
from uniemox.checkpoints.weights import (
    as_floats,
    hash_file,
    name_first,
    read_file,
    read_weights,
)
from uniemox.data.manifest import read_manifest
from uniemox.data.pixels import CROP_SHARE, MEAN, STD
from uniemox.data.specs import SPECS, get_spec
from uniemox.errors import CheckpointError
from uniemox.models.encoder import resample_positions
from uniemox.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from uniemox.config import Target

log = logging.getLogger(__name__)
_EMBEDDED_SETS = {"drawn6"}  # its models come with the package
_POSITIONS = ("pos_embed", "decoder_pos_embed")
_WEIGHTS = "model.safetensors"
_PROBLEMS: dict[str, Target] = {"multi_label_classification": "multi_label"}
"""What transformers calls the kinds of classifiers, where it is not one label."""
# timm's arguments that tensors show, or that change nothing where nobody trains
_SHOWN = {
    *("img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth", "mlp_ratio"),
    *("qkv_bias", "proj_bias", "qk_norm", "init_values", "class_token", "reg_tokens", "pos_embed"),
    *("no_embed_class", "pre_norm", "final_norm", "fc_norm", "weight_init", "fix_init"),
    *("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate"),
    *("drop_path_rate", "dynamic_img_size", "strict_img_size"),
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """Weights that others wrote, recognised and not yet read."""

    place: Path
    """What the user named: a file or a folder."""
    path: Path
    """The file of weights."""
    format: str
    foreign: Foreign
    classes: tuple[str, ...] = ()
    """Names in label order, where the folder tells them."""
    licence: str = ""
    target: Target = "single_label"
    """What its configuration says of its outputs; a file says nothing."""
    preprocessing: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """timm's `pretrained_cfg`; empty for a file, whose pictures are prepared as MAE's."""

    @property
    def title(self) -> str:
        """Layout and hash, since paths mean nothing elsewhere."""
        return f"{self.foreign.layout}, sha256 {hash_file(self.path)}"

    def notes(self) -> tuple[str, ...]:
        """Say what is left behind or changed on the way, so that nothing is in silence."""
        notes = []
        if self.foreign.unused:
            notes.append(f"{', '.join(self.foreign.unused)}: not used by the model, left out")
        if self.foreign.beside:
            notes.append(f"{', '.join(self.foreign.beside[:6])}: beside the weights, left out")
        mean, std = _colours(self)
        if (mean, std) != (MEAN, STD):
            notes.append(
                f"pixels of mean {mean} and deviation {std}: folded into the patch projection"
            )
        if "nc" in self.licence.casefold():
            notes.append(f"licence: {self.licence}")
        return tuple(notes)


def open_source(place: Path) -> Source:
    """Recognise a file or a folder that others wrote.

    Raises:
        CheckpointError: It cannot be read, or is none of the layouts.
    """
    if place.is_dir():
        return _open_folder(place)
    contents = read_file(place)
    foreign = recognise(contents.tree, place)
    return Source(
        place=place,
        path=place,
        format=contents.format,
        foreign=foreign,
        licence=NON_COMMERCIAL if _follows_from_mae(foreign) else "",
    )


def _follows_from_mae(foreign: Foreign) -> bool:
    """Whether weights have the form of MAE's: others than encoders do, and encoders that MAE's scripts wrote."""
    if foreign.kind != "encoder" or foreign.arguments:
        return True
    return foreign.layout == MAE_RUN and not foreign.unused  # MAE's encoders come without a head


def _open_folder(folder: Path) -> Source:
    """Recognise a folder of timm or of transformers; only its configuration and its safetensors are read."""
    config = read_config(folder)
    path = member(folder, _WEIGHTS)
    if not path.exists():
        others = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pth", ".pt"))
        what = f"; {folder / others[0]} can be given by itself" if others else ""
        raise CheckpointError(f"{folder} has no {_WEIGHTS}{what}")
    preprocessing = config.get("pretrained_cfg", {})
    if not isinstance(preprocessing, dict):
        raise CheckpointError(f"{folder}/config.json: pretrained_cfg must be a table")
    for name in ("file", "state_dict"):
        if preprocessing.get(name):
            raise CheckpointError(
                f"{folder}/config.json points to weights elsewhere (pretrained_cfg.{name}), which is not followed"
            )
    foreign = recognise(read_weights(path), path)
    _check_arguments(config, foreign, folder)
    return Source(
        place=folder,
        path=path,
        format="safetensors",
        foreign=foreign,
        classes=_label_names(config, foreign.num_classes, folder),
        licence=str(preprocessing.get("license") or ""),
        target=_PROBLEMS.get(str(config.get("problem_type")), "single_label"),
        preprocessing=preprocessing,
    )


def _check_arguments(config: Mapping[str, Any], foreign: Foreign, folder: Path) -> None:
    """Refuse a model of timm that computes otherwise than its tensors show, such as with more heads."""
    arguments = config.get("model_args") or {}
    if not isinstance(arguments, dict):
        raise CheckpointError(f"{folder}/config.json: model_args must be a table")
    told, usual = dict(arguments), {"num_heads": foreign.num_heads, "global_pool": "avg"}
    if foreign.kind == "classifier":
        told.setdefault("global_pool", config.get("global_pool", "avg"))
    else:
        told.pop("global_pool", None)
    for name in told.keys() - _SHOWN:
        if told[name] != usual.get(name):
            raise CheckpointError(
                f"{folder}/config.json: {name[:80]} of this model is {str(told[name])[:40]}, which no tensor shows and "
                f"which is {usual.get(name, 'not known')} here: use it with timm"
            )


def _label_names(config: Mapping[str, Any], num_classes: int, folder: Path) -> tuple[str, ...]:
    names = config.get("label_names") or []
    if not num_classes or not names:
        return ()
    strings = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not strings or len(set(names)) != num_classes or len(names) != num_classes:
        raise CheckpointError(
            f"{folder}/config.json: label_names must be {num_classes} distinct names, one for each output"
        )
    return tuple(names)


def likely_datasets(num_classes: int) -> tuple[str, ...]:
    """Name the data sets with this number of classes."""
    return tuple(
        name
        for name, spec in SPECS.items()
        if len(spec.classes) == num_classes and name not in _EMBEDDED_SETS
    )


def load_classifier(
    source: Source,
    *,
    dataset: str | None = None,
    image_size: int | None = None,
    device: torch.device | None = None,
) -> Classifier:
    """Load a classifier that others wrote.

    Args:
        source: From `open_source`.
        dataset: Data set or manifest that names its classes, where the folder does not.
        image_size: Side of the pictures in pixels; positions are resampled for another one than the weights'.
        device: Where it computes; None is the CPU.

    Raises:
        CheckpointError: The weights hold no classifier of this kind, or their classes are not told.
        DataError: There is no such data set.
    """
    foreign = source.foreign
    foreign.check(source.place)
    if foreign.kind != "classifier":
        why = (
            f"its {', '.join(foreign.unused)} read the class token, not the mean of the patches"
            if foreign.unused
            else "it has no head"
        )
        raise CheckpointError(
            f"{source.place} ({foreign.layout}) holds no classifier that is read here, since {why}: "
            f"train one with `uniemox finetune --init {source.place}`"
        )
    _check_preprocessing(source)
    name, emotion, classes = _labels(source, dataset)
    assert foreign.size is not None
    side = image_size or foreign.image_size
    target = _target(source, name)
    facts = ModelFacts(
        kind="classifier",
        size=foreign.size,
        patch_size=foreign.patch_size,
        image_size=side,
        dataset=name,
        emotion=emotion,
        classes=classes,
        target=target,
        # Of what was not calibrated here, an even chance is all that can be asked for.
        thresholds=(0.5,) * len(classes) if target == "multi_label" else (),
        provenance=_provenance(source),
        licence=source.licence,
    )
    check_facts(facts, source.place)
    _tell(source)
    model = make_classifier(facts, read_state(source, side), source.path)
    return Classifier(model.to(device).eval(), facts)


def load_pretraining(source: Source, *, image_size: int | None = None) -> Pretrained:
    """Load a pretrained model that others wrote.

    Args:
        source: From `open_source`.
        image_size: Side of the pictures in pixels; positions are resampled for another one than the weights'.

    Raises:
        CheckpointError: The weights hold no decoder, or one whose number of heads cannot be told.
    """
    foreign = source.foreign
    foreign.check(source.place)
    if foreign.decoder is None:
        raise CheckpointError(
            f"{source.place} ({foreign.layout}) holds no decoder: begin a run with it, --init {source.place}"
        )
    shape = decoder_settings(foreign)
    if shape["decoder_heads"] is None:
        raise CheckpointError(
            f"{source.place} has a decoder {shape['decoder_width']} wide, whose number of heads no tensor shows: only "
            "MAE's 512 is known"
        )
    assert foreign.size is not None
    side = image_size or foreign.image_size
    facts = ModelFacts(
        kind="pretraining",
        size=foreign.size,
        patch_size=foreign.patch_size,
        image_size=side,
        dataset="unknown",
        emotion=None,
        pretraining={
            **shape,
            "embedding_width": shape["decoder_width"] if foreign.fuses else None,
            "reconstructs": True,
        },
        provenance=_provenance(source),
        licence=source.licence,
    )
    check_facts(facts, source.place)
    _tell(source)
    weights = {
        own_name(name) if is_beside_encoder(name) else f"encoder.{name}": tensor
        for name, tensor in read_state(source, side).items()
    }
    return Pretrained(make_pretraining(facts, weights, source.path), facts)


def _tell(source: Source) -> None:
    for note in source.notes():
        log.info("%s: %s", source.place, note)


def decoder_settings(foreign: Foreign) -> dict[str, Any]:
    """Give the shape of a decoder and of the fusion, by the names of `ModelConfig`."""
    assert foreign.decoder is not None
    names = ("decoder_width", "decoder_depth", "decoder_heads")
    shape = dict(zip(names, foreign.decoder, strict=True))
    return shape | {"fusion": "sum" if foreign.fuses else "none"}


def read_state(source: Source, image_size: int) -> dict[str, Tensor]:
    """Read the numbers as fp32; positions for this size of picture, for pixels of ImageNet's mean and deviation."""
    foreign = source.foreign
    state = as_floats(foreign.state, source.path)
    grid = image_size // foreign.patch_size
    if image_size != foreign.image_size:
        for name in (name for name in _POSITIONS if name in state):
            state[name] = resample_positions(state[name], grid=grid)
    _fold_colours(state, *_colours(source))
    return state


def _colours(source: Source) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Give the mean and the deviation that the weights expect of pixels in [0, 1]."""
    found = []
    for name, usual in (("mean", MEAN), ("std", STD)):
        values = source.preprocessing.get(name, list(usual))
        good = isinstance(values, list) and len(values) == 3
        if not good or not all(isinstance(v, int | float) and 0 <= v <= 1 for v in values):
            raise CheckpointError(
                f"{source.place}/config.json: pretrained_cfg.{name} must be three numbers from 0 to 1"
            )
        found.append(tuple(float(value) for value in values))
    mean, std = found
    if min(std) <= 0:
        raise CheckpointError(f"{source.place}/config.json: pretrained_cfg.std must be above 0")
    return mean, std


def _fold_colours(
    state: dict[str, Tensor], mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    """Change the patch projection so that it expects ImageNet's mean and deviation: exact, as no patch is padded."""
    if (mean, std) == (MEAN, STD):
        return
    weight = state["patch_embed.proj.weight"].double()  # (D, 3, p, p)
    theirs_m, theirs_s = torch.tensor([mean, std], dtype=torch.float64)
    ours_m, ours_s = torch.tensor([MEAN, STD], dtype=torch.float64)
    shift = torch.einsum("dcij,c->d", weight, (ours_m - theirs_m) / theirs_s)
    scaled = weight * (ours_s / theirs_s).view(1, 3, 1, 1)
    state["patch_embed.proj.weight"] = scaled.float()
    state["patch_embed.proj.bias"] = (state["patch_embed.proj.bias"].double() + shift).float()


def _check_preprocessing(source: Source) -> None:
    """Refuse a classifier whose pictures are cut or resized in another way, since its answers would be others."""
    config = source.preprocessing
    side = source.foreign.image_size
    usual = {
        "crop_pct": CROP_SHARE,
        "interpolation": "bicubic",
        "crop_mode": "center",
        "input_size": [3, side, side],
    }
    for name, value in usual.items():
        if config.get(name, value) != value:
            theirs = str(config[name])[:40]
            raise CheckpointError(
                f"{source.place}/config.json: this classifier was made for pretrained_cfg.{name} {theirs}, and "
                f"pictures are prepared with {value} here: fine-tune from it with --init, or use it with timm"
            )


def _labels(source: Source, dataset: str | None) -> tuple[str, str | None, tuple[str, ...]]:
    """Give data set, whose emotion, and names of the classes."""
    count = source.foreign.num_classes
    if dataset is None:
        if source.classes:
            return "unknown", None, source.classes
        likely = likely_datasets(count)
        what = (
            f"--dataset {' or '.join(likely)}, as the one it was trained on"
            if likely
            else "--dataset with a manifest of the data it was trained on"
        )
        raise CheckpointError(
            f"{source.place} tells {count} classes apart and does not name them: say {what}"
        )
    name, emotion, classes = named_classes(dataset)
    if len(classes) != count:
        raise CheckpointError(
            f"{source.place} tells {count} classes apart, but {name} has {len(classes)}: name the data set that it was "
            "trained on"
        )
    if source.classes and classes != source.classes:
        own = name_first(list(source.classes))
        raise CheckpointError(
            f"{source.place} names its classes {own}, which are not {name}'s in their order"
        )
    return name, emotion, classes


def named_classes(dataset: str) -> tuple[str, str | None, tuple[str, ...]]:
    """Give name, whose emotion, and classes of a data set or of a manifest's.

    Raises:
        CheckpointError: The data set has the classes of its folders.
        DataError: There is none.
    """
    if dataset.endswith(".parquet"):
        facts = read_manifest(Path(dataset)).facts
        return facts.name, facts.emotion, facts.classes
    spec = get_spec(dataset)
    if not spec.classes:
        raise CheckpointError(
            f"{dataset} has the classes of its folders: give the manifest that was made from them as --dataset"
        )
    return spec.name, spec.emotion, spec.classes


def _target(source: Source, dataset: str) -> Target:
    """Say what the outputs mean: by the configuration, or by the set that they were trained on."""
    spec = SPECS.get(dataset)
    return "multi_label" if spec is not None and spec.has_label_sets else source.target


def _provenance(source: Source) -> dict[str, str]:
    told = {"software": f"converted by uniemox {__version__}", "source": source.title}
    arguments = {k: v for k, v in source.foreign.arguments.items() if "/" not in v}
    return told | ({"settings": json.dumps(arguments)} if arguments else {})
