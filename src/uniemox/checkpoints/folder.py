"""Model folders, which a run leaves for others to use.

A folder is a timm model directory: `model.safetensors` and `config.json`, with the names of the labels, the
preprocessing and a section `uniemox`, and a model card, `README.md`. So timm and transformers read it, from the disk or
from the hub. The folder of a pretrained model is the same for its encoder, plus `pretrain.safetensors` (decoder and
fusion, by MAE's names).
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from timm.models import save_for_hf
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from uniemox.checkpoints.card import build_card, stores_half, write_card
from uniemox.checkpoints.domain import write_features
from uniemox.checkpoints.facts import SECTION, ModelFacts, member, read_config, read_facts
from uniemox.checkpoints.hub import HUB_PREFIX
from uniemox.checkpoints.language import Language, write_language
from uniemox.checkpoints.layouts import empty_fused, empty_pretraining, empty_vit, mae_name, own_name
from uniemox.checkpoints.open import EMBEDDED, open_model
from uniemox.checkpoints.timm_models import build_timm, empty_timm, timm_config
from uniemox.config.training import ENCODER_SHAPES
from uniemox.data.pixels import CROP_SHARE, MEAN, STD
from uniemox.errors import CheckpointError
from uniemox.files.weights import Fit, compare, fill, load_copy, read_weights
from uniemox.files.whole import replace_folder, write_whole
from uniemox.models.classify import AnyClassifier, TwoViewClassifier, encoder_of
from uniemox.models.encoder import grid_size, patch_size
from uniemox.models.pretrain import UniEmoX
from uniemox.targets.domain import Domain
from uniemox.targets.kinds import DEFAULT, find_target
from uniemox.targets.robustness import Robustness
from uniemox.wording import shorten


@dataclass(frozen=True)
class Classifier:
    """A classifier with its facts."""

    model: AnyClassifier  # Or timm's own model, where the facts name one
    facts: ModelFacts
    domain: Domain | None = None  # The images that it knows


@dataclass(frozen=True)
class Pretrained:
    """A pretrained model with its facts."""

    model: UniEmoX
    facts: ModelFacts


def save_model(
    model: UniEmoX | AnyClassifier | nn.Module,
    folder: Path,
    facts: ModelFacts,
    language: Language | None = None,
    domain: Domain | None = None,
) -> None:
    """Write a model's folder, replacing an older one, which is left whole where `CheckpointError` is raised.

    `language` is what a pretrained model keeps of its teacher's, `domain` the images that a classifier knows, as its
    facts have them.
    """
    with replacing(folder) as beside:
        if architecture := own_architecture(facts):  # which is no timm model, and declares that
            config = {"architecture": f"uniemox_{architecture}", "num_classes": len(facts.classes)}
            _write_config(beside, {**config, "label_names": facts.classes, SECTION: facts.to_dict()})
            _save_tensors(model.state_dict(), weight_files(beside, facts)[0])
        elif facts.size is None:
            _write_config(beside, {**timm_config(model, facts), **_stated(facts)})
            _save_tensors(model.state_dict(), weight_files(beside, facts)[0])
        elif isinstance(model, UniEmoX):
            _save_timm(model.encoder, beside, facts)
            rest = {mae_name(k): tensor for k, tensor in model.state_dict().items() if not k.startswith("encoder.")}
            _save_tensors(rest, weight_files(beside, facts)[1])
        else:
            _save_timm(encoder_of(model), beside, facts)
        if language is not None:
            write_language(beside, language)
        if domain is not None:
            write_features(beside, domain)
        write_card(beside, facts)


def restate(folder: Path, facts: ModelFacts) -> None:
    """Replace the facts of a folder, such as when metrics are measured after it was written, as `save_model` does."""
    config = {**read_config(folder), SECTION: facts.to_dict()}
    with replacing(folder) as beside:
        for path in folder.glob("*.safetensors"):
            shutil.copyfile(path, beside / path.name)
        _write_config(beside, config)
        write_card(beside, facts)


def own_folder(model: str) -> Path:
    """Find the folder of a classifier whose card may be written again; `CheckpointError` where it is not the user's."""
    opened = open_model(model)
    is_ours = model in EMBEDDED or model.startswith(HUB_PREFIX)
    if opened.role != "folder" or is_ours or read_facts(opened.path).kind != "classifier":
        raise CheckpointError(
            f"{model} has no card to write robustness into: give a classifier's folder, or omit `card`"
        )
    return opened.path


def record_robustness(folder: Path, found: Robustness) -> None:
    """Add to the facts and the card of a folder what changes of the images do, or raise `CheckpointError`."""
    config = read_config(folder)
    config[SECTION] = {**config[SECTION], "robustness": found.to_dict()}
    with write_whole(folder / "config.json", CheckpointError) as beside:
        beside.write_text(json.dumps(config, indent=2), encoding="utf-8")
    with write_whole(folder / "README.md", CheckpointError) as beside:
        beside.write_text(build_card(read_facts(folder), half=stores_half(folder)), encoding="utf-8")


def pretraining_facts(model: UniEmoX, **more: Any) -> ModelFacts:
    """Describe a pretrained model; `more` are the remaining fields of `ModelFacts`."""
    config, projection = model.config, model.projection
    width = config.decoder_width if projection is None else projection.out_features
    shape = dataclasses.asdict(config)
    encoder = {name: shape.pop(name) for name in ("size", "patch_size", "image_size")}
    del shape["decode_share"]  # of a step of training, no part of the shape
    shape |= {"embedding_width": width if model.embeds else None, "reconstructs": model.decoder is not None}
    return ModelFacts(kind="pretraining", **encoder, pretraining=shape, **more)


def make_model(facts: ModelFacts, weights: Mapping[str, Tensor], source: Path) -> Any:
    """Build the model of weights by MAE's names, or raise `CheckpointError` before anything is allocated."""
    model, own = _empty_model(facts, weights, source)
    if facts.size is None:  # timm's models compute numbers of their own when they are built, which no file holds
        compare(model.state_dict(), own).check(source)
        model = build_timm(facts, source)
        load_copy(model, own, source)
        return model
    fill(model, own, source)
    return model


def compare_folder(folder: Path, facts: ModelFacts, weights: Mapping[str, Tensor]) -> Fit:
    """Compare a folder's weights with the model of its facts; no number is read."""
    model, own = _empty_model(facts, weights, folder)
    return compare(model.state_dict(), own)


def _empty_model(
    facts: ModelFacts, weights: Mapping[str, Tensor], source: Path
) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """Build the model of the facts without memory; return its weights by its own names too."""
    if facts.size is None:
        return empty_timm(facts, source), weights
    if facts.kind == "pretraining":
        own = {own_name(name): tensor for name, tensor in weights.items()}
        return empty_pretraining(facts, facts.pretraining, source), own
    if facts.pool == "fused":
        return empty_fused(facts, source), weights
    vit = empty_vit(facts, len(facts.classes), facts.pool)
    with torch.device("meta"):
        return vit if facts.fusion == "none" else TwoViewClassifier(vit, facts.fusion), weights


def own_architecture(facts: ModelFacts) -> str:
    """Name the architecture of a classifier that is no model of timm; empty for one that is.

    Its weights have another name than timm's, so that timm does not read a part of them (DECISIONS 58).
    """
    if facts.pool == "fused":
        return "fused"
    if facts.view == "both":
        return "two_views"
    return "class_and_mean" if facts.pool == "cls_mean" else ""


def weight_files(folder: Path, facts: ModelFacts) -> list[Path]:
    """List the files of a folder's weights, the encoder's first.

    Raises `CheckpointError` for an architecture that is not ours, nor timm's, of which there are exports alone.
    """
    if facts.size is None and not facts.is_timm:
        what = f"{folder} is an export of {shorten(facts.architecture)}, but has no model.onnx"
        raise CheckpointError(f"{what}: copy the folder whole, or export it again")
    names = [f"{own_architecture(facts) or 'model'}.safetensors"]
    names += ["pretrain.safetensors"] if facts.kind == "pretraining" else []
    return [member(folder, name) for name in names]


def read_folder(folder: Path, facts: ModelFacts) -> dict[str, Tensor]:
    """Read a folder's weights, those of a pretrained model by MAE's names; the tensors are mapped to the files."""
    return {name: tensor for path in weight_files(folder, facts) for name, tensor in read_weights(path).items()}


def _save_timm(model: VisionTransformer, folder: Path, facts: ModelFacts) -> None:
    """Write the two files of a timm model directory."""
    assert facts.size is not None
    shape, side = ENCODER_SHAPES[facts.size], grid_size(model) * patch_size(model)
    arguments = {  # of timm's constructor; transformers passes num_classes itself
        "img_size": [side, side],
        "patch_size": patch_size(model),
        "embed_dim": shape.width,
        "depth": shape.depth,
        "num_heads": shape.num_heads,
        "global_pool": "avg" if facts.classes and facts.pool == "mean" else "token",
        "in_chans": 3,
    }
    crop_share, crop_mode = CROP_SHARE, "center"
    if facts.view == "person":  # whose crop is taken whole: squeezed, or padded with the mean colour
        crop_share, crop_mode = 1.0, "squash" if facts.person.shape == "squeeze" else "border"
    preprocessing = {
        "tag": f"uniemox_{facts.dataset}",
        "custom_load": False,
        "input_size": [3, side, side],
        "fixed_input_size": True,
        "interpolation": "bicubic",
        "crop_pct": crop_share,
        "crop_mode": crop_mode,
        "mean": MEAN,
        "std": STD,
        "num_classes": len(facts.classes),
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "license": facts.licence or "unstated",
    }
    save_for_hf(model, str(folder), model_config=_stated(facts), model_args=arguments, safe_serialization=True)
    # What timm writes into these two depends on its version, and describes its own weights of this architecture.
    _write_config(folder, read_config(folder) | {"model_args": arguments, "pretrained_cfg": preprocessing})


def _stated(facts: ModelFacts) -> dict[str, Any]:
    """List what the configuration of any model of timm says besides: our facts, and what transformers reads."""
    # Without a type, transformers would compute in whatever the file is stored in.
    config: dict[str, Any] = {SECTION: facts.to_dict(), "torch_dtype": "float32"}
    if facts.classes:
        config["label_names"] = facts.classes
    if facts.target != DEFAULT:  # for several labels, transformers then takes the sigmoid
        target = find_target(facts.target, facts.classes, facts.kept)
        config["problem_type"] = None if target is None else target.problem_type
    return config


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def _write_config(folder: Path, config: Mapping[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def replacing(folder: Path) -> AbstractContextManager[Path]:
    """Return a context that fills a model folder; the old one stays until the new one is whole."""
    failures = (OSError, SafetensorError)
    return replace_folder(folder, CheckpointError, elsewhere="choose another folder", failures=failures)
