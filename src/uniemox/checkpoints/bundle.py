"""Model folders: what a run leaves for others to use.

A folder is a timm model directory: `model.safetensors` and `config.json`, with the names of the labels, the
preprocessing and a section `uniemox`, and a model card, `README.md`. So timm and transformers read it, from the disk or
from the hub. The folder of a pretrained model is the same for its encoder, plus `pretrain.safetensors` (decoder and
fusion, by MAE's names).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from timm.models import save_for_hf

from uniemox.checkpoints.card import write_card
from uniemox.checkpoints.compat import mae_name, own_name
from uniemox.checkpoints.facts import (
    OLD_SUFFIX,
    SECTION,
    ModelFacts,
    member,
    read_config,
    read_facts,
)
from uniemox.checkpoints.weights import Fit, as_floats, compare, fill, hash_file, read_weights
from uniemox.config import ENCODER_SHAPES, ModelConfig
from uniemox.data.pixels import CROP_SHARE, MEAN, STD
from uniemox.errors import CheckpointError, ConfigError
from uniemox.models.classify import TwoViewClassifier, build_classifier
from uniemox.models.encoder import grid_size, patch_size
from uniemox.models.pretrain import UniEmoX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from timm.models.vision_transformer import VisionTransformer
    from torch import Tensor


@dataclass(frozen=True)
class Classifier:
    """A classifier with what is known of it."""

    model: VisionTransformer | TwoViewClassifier
    facts: ModelFacts


@dataclass(frozen=True)
class Pretrained:
    """A pretrained model with what is known of it."""

    model: UniEmoX
    facts: ModelFacts


def save_classifier(
    model: VisionTransformer | TwoViewClassifier, folder: Path, facts: ModelFacts
) -> None:
    """Write a classifier's folder, replacing one that is there.

    Raises:
        CheckpointError: The folder cannot be written; an older one is left whole.
    """
    with replacing(folder) as beside:
        if isinstance(model, TwoViewClassifier):
            _save_two_views(model, beside, facts)
        else:
            _save_timm(model, beside, facts)
        write_card(beside, facts)


def save_pretraining(model: UniEmoX, folder: Path, facts: ModelFacts) -> None:
    """Write a pretrained model's folder, replacing one that is there.

    Raises:
        CheckpointError: The folder cannot be written; an older one is left whole.
    """
    with replacing(folder) as beside:
        _save_timm(model.encoder, beside, facts)
        rest = {
            mae_name(name): tensor.contiguous()
            for name, tensor in model.state_dict().items()
            if not name.startswith("encoder.")
        }
        save_file(rest, beside / "pretrain.safetensors", metadata={"format": "pt"})
        write_card(beside, facts)


def restate(folder: Path, facts: ModelFacts) -> None:
    """Change what a folder says of its weights, such as metrics that were measured after it was written.

    Raises:
        CheckpointError: The folder cannot be read or written; the old one is left whole.
    """
    config = {**read_config(folder), SECTION: facts.to_dict()}
    with replacing(folder) as beside:
        for path in folder.glob("*.safetensors"):
            shutil.copyfile(path, beside / path.name)
        text = json.dumps(config, indent=2)
        (beside / "config.json").write_text(text, encoding="utf-8")
        write_card(beside, facts)


def pretraining_facts(model: UniEmoX, **more: Any) -> ModelFacts:
    """Describe a pretrained model; `more` are the remaining fields of `ModelFacts`."""
    config = model.config
    projection = model.projection
    width = config.decoder_width if projection is None else projection.out_features
    return ModelFacts(
        kind="pretraining",
        size=config.size,
        patch_size=config.patch_size,
        image_size=config.image_size,
        pretraining={
            "decoder_width": config.decoder_width,
            "decoder_depth": config.decoder_depth,
            "decoder_heads": config.decoder_heads,
            "fusion": config.fusion,
            "embedding_width": width if model.embeds else None,
            "reconstructs": model.decoder is not None,
        },
        **more,
    )


def load_classifier(folder: Path, *, device: torch.device | None = None) -> Classifier:
    """Load a classifier from its folder, ready to predict.

    Raises:
        CheckpointError: The folder is missing, damaged, of another kind or of a newer version.
    """
    facts = read_facts(folder)
    if facts.kind != "classifier":
        raise CheckpointError(
            f"{folder} holds a pretrained model without a classifier: train one with `uniemox finetune --init {folder}`"
        )
    path = weights_file(folder, facts)
    return Classifier(make_classifier(facts, read_weights(path), path).to(device).eval(), facts)


def make_classifier(
    facts: ModelFacts, weights: Mapping[str, Tensor], source: Path
) -> VisionTransformer | TwoViewClassifier:
    """Build a classifier of these weights; nothing is allocated before they are known to fit.

    Raises:
        CheckpointError: They do not fit, or are not finite.
    """
    model = _empty_classifier(facts)
    fill(model, weights, source)
    return model


def compare_folder(folder: Path, facts: ModelFacts) -> Fit:
    """Compare a folder's weights with the model that it says they are; no number is read.

    Raises:
        CheckpointError: The files are damaged, or the facts are no model.
    """
    if facts.kind == "pretraining":
        return compare(_empty_pretraining(facts, folder), _pretrained_weights(folder))
    return compare(_empty_classifier(facts), read_weights(weights_file(folder, facts)))


def _empty_classifier(facts: ModelFacts) -> VisionTransformer | TwoViewClassifier:
    with torch.device("meta"):
        model: VisionTransformer | TwoViewClassifier = build_classifier(
            facts.size,
            patch_size=facts.patch_size,
            image_size=facts.image_size,
            num_classes=len(facts.classes),
        )
        if facts.fusion != "none":
            model = TwoViewClassifier(model, facts.fusion)
    return model


def load_pretraining(folder: Path) -> Pretrained:
    """Load a pretrained model with its decoder and fusion, on the CPU.

    Raises:
        CheckpointError: The folder is missing, damaged, of another kind or of a newer version.
    """
    facts = read_facts(folder)
    if facts.kind != "pretraining":
        raise CheckpointError(f"{folder} holds a classifier, but a pretrained model was asked for")
    return Pretrained(make_pretraining(facts, _pretrained_weights(folder), folder), facts)


def _pretrained_weights(folder: Path) -> dict[str, Tensor]:
    """Read both files of a pretrained model, by our names; the tensors are mapped to them."""
    path, beside = member(folder, "model.safetensors"), member(folder, "pretrain.safetensors")
    weights = {f"encoder.{name}": tensor for name, tensor in read_weights(path).items()}
    return weights | {own_name(name): tensor for name, tensor in read_weights(beside).items()}


def make_pretraining(facts: ModelFacts, weights: Mapping[str, Tensor], source: Path) -> UniEmoX:
    """Build a pretrained model of these weights; nothing is allocated before they are known to fit.

    Raises:
        CheckpointError: They do not fit, are not finite, or the facts are no model.
    """
    model = _empty_pretraining(facts, source)
    fill(model, weights, source)
    return model


def _empty_pretraining(facts: ModelFacts, source: Path) -> UniEmoX:
    shape = dict(facts.pretraining)
    embedding_width, reconstructs = shape.pop("embedding_width"), shape.pop("reconstructs")
    try:
        config = ModelConfig(
            size=facts.size, patch_size=facts.patch_size, image_size=facts.image_size, **shape
        )
    except (TypeError, ConfigError) as error:
        raise CheckpointError(
            f"{source}/config.json: the section `uniemox.pretraining` is not valid ({error})"
        ) from error
    with torch.device("meta"):
        return UniEmoX(config, embedding_width=embedding_width, reconstructs=reconstructs)


def load_encoder(folder: Path) -> tuple[dict[str, Tensor], ModelFacts]:
    """Read the weights to start a classifier from: a pretrained encoder, or another classifier without its head."""
    facts = read_facts(folder)
    path = weights_file(folder, facts)
    compare_folder(folder, facts).check(folder)
    weights: Mapping[str, Tensor] = read_weights(path)
    if facts.view == "both":
        ours = {k: v for k, v in weights.items() if k.startswith("encoder.")}
        weights = {k.removeprefix("encoder."): v for k, v in ours.items()}
    encoder = {k: v for k, v in weights.items() if not k.startswith(("head.", "fc_norm."))}
    return as_floats(encoder, path), facts


def weights_file(folder: Path, facts: ModelFacts) -> Path:
    """Give the file of a folder's weights; that of two views has another name (DECISIONS 58).

    Raises:
        CheckpointError: It is a link that leaves the folder, or the folder is an export.
    """
    if (folder / "model.onnx").is_file():
        raise CheckpointError(
            f"{folder} is an export, which predicts and is evaluated but has no weights for torch: give the folder "
            "that it was made from"
        )
    return member(folder, "two_views.safetensors" if facts.view == "both" else "model.safetensors")


def _save_two_views(model: TwoViewClassifier, folder: Path, facts: ModelFacts) -> None:
    """Write the two files of a classifier of two views, which is no timm model and says so by its architecture."""
    config = {
        "architecture": "uniemox_two_views",
        "num_classes": len(facts.classes),
        "label_names": list(facts.classes),
        SECTION: facts.to_dict(),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, weights_file(folder, facts), metadata={"format": "pt"})


def _save_timm(model: VisionTransformer, folder: Path, facts: ModelFacts) -> None:
    """Write the two files of a timm model directory."""
    shape = ENCODER_SHAPES[facts.size]
    side = grid_size(model) * patch_size(model)
    config: dict[str, Any] = {
        SECTION: facts.to_dict(),
        # timm would pass on the name and the licence of its own weights of this architecture
        "pretrained_cfg": {
            "tag": f"uniemox_{facts.dataset}",
            "license": facts.licence or "unstated",
        },
    }
    if facts.classes:
        config["label_names"] = list(facts.classes)
    if facts.target == "multi_label":
        config["problem_type"] = "multi_label_classification"  # transformers then takes the sigmoid
    save_for_hf(
        model,
        str(folder),
        model_config=config,
        model_args={
            "img_size": side,
            "patch_size": patch_size(model),
            "embed_dim": shape.width,
            "depth": shape.depth,
            "num_heads": shape.num_heads,
            "global_pool": "avg" if facts.classes else "token",
        },
        safe_serialization=True,
        data_config={
            "input_size": (3, side, side),
            "mean": MEAN,
            "std": STD,
            "crop_pct": CROP_SHARE,
            "interpolation": "bicubic",
        }
        | _crop_of_person(facts),
    )
    _drop_num_classes(folder / "config.json")


def _crop_of_person(facts: ModelFacts) -> dict[str, Any]:
    """Say in timm's words that a person's crop is taken whole: squeezed, or padded with the mean colour."""
    if facts.view != "person":
        return {}
    mode = "squash" if facts.person.shape == "squeeze" else "border"
    return {"crop_pct": 1.0, "crop_mode": mode}


def _drop_num_classes(path: Path) -> None:
    """Take num_classes out of model_args: transformers passes it itself and refuses it twice."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for name in ("num_classes", "drop_path_rate"):  # training's business, not the folder's
        config["model_args"].pop(name, None)
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Write a folder beside its place, then put it there; the old one stays until the new one is whole."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            yield beside
            _put(beside, folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder} cannot be written ({error}): free space or choose another folder"
        ) from error


def _put(beside: Path, folder: Path) -> None:
    """Put a finished folder in its place; if that fails, the old one is there again."""
    for path in beside.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.chmod(0o644)  # safetensors' and mkdtemp's are private, but a model is for others
    beside.chmod(0o755)
    old = beside.with_name(f"{beside.name}{OLD_SUFFIX}")
    try:
        if folder.exists():
            folder.rename(old)
        beside.rename(folder)
    finally:  # also where Ctrl-C comes between the two
        if old.exists() and not folder.exists():
            old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def hash_weights(folder: Path) -> str:
    """SHA-256 of the file of a folder's weights, to name a start in the provenance of what follows from it."""
    return hash_file(weights_file(folder, read_facts(folder)))
