"""Settings of the two kinds of run, as frozen dataclasses.

A run is described by one value: `PretrainConfig` or `FinetuneConfig`. The command line makes its flags
from these fields, presets are whole values of them in YAML, and a run folder keeps its own as `config.yaml`. No path
has a default.
Numbers called *released* are the defaults of the code that the authors of UniEmoX published (arXiv 2409.18877).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from uniemox.errors import ConfigError

EncoderSize = Literal["mini", "tiny", "small", "base", "large", "huge"]
FusedBy = Literal["sum", "scaled_sum", "multihead_sum", "attention", "gated_mlp", "bilinear"]
Fusion = Literal["none", FusedBy]
PersonView = Literal["crop", "scene", "none"]
PersonChoice = Literal["largest", "confident", "central", "union"]
CropShape = Literal["squeeze", "pad"]
View = Literal["scene", "person", "both"]
Precision = Literal["fp32", "bf16"]
Target = Literal["single_label", "multi_label"]
"""What a classifier says of a picture: one label, or for each label whether it applies."""
SingleLabelMetric = Literal["top1", "top3", "balanced_accuracy", "macro_f1", "weighted_f1"]
MultiLabelMetric = Literal["mean_average_precision", "macro_f1", "micro_f1"]
SelectionMetric = Literal[SingleLabelMetric, MultiLabelMetric]
Stratum = Literal["class", "folder", "all"]
"""What a split cuts by itself: the rows of a class (or of a set of classes), those of a folder, or all rows at once."""
Together = Literal["group", "folder", "picture"]
"""What a split keeps together: a group that the manifest names, what lies in one folder, or the rows of one picture."""
Rounding = Literal["largest_remainder", "truncate"]
"""How shares of a split become whole numbers.

`largest_remainder` is as near to the shares as whole numbers can be. `truncate` is what published code does: the whole
part of n times the share for train and for val, in floating point, and the rest for test.
"""
Unmapped = Literal["refuse", "drop", "keep"]
"""What becomes of rows whose label has no counterpart: an error, left out, or kept without a label."""


class EncoderShape(NamedTuple):
    """Width of a token, number of blocks and attention heads of a vision transformer."""

    width: int
    depth: int
    num_heads: int


# Dosovitskiy et al. 2021, table 1 (base, large, huge); Touvron et al. 2021, table 1 (tiny, small); mini is the demo's.
ENCODER_SHAPES: dict[EncoderSize, EncoderShape] = {
    "mini": EncoderShape(128, 6, 4),
    "tiny": EncoderShape(192, 12, 3),
    "small": EncoderShape(384, 12, 6),
    "base": EncoderShape(768, 12, 12),
    "large": EncoderShape(1024, 24, 16),
    "huge": EncoderShape(1280, 32, 16),
}


MAX_MARGIN = 2
"""Most of a person's width and height that a crop may add on every side."""
_MAX_SIDE = 4096  # pixels of a picture
_MAX_GRID = 256  # patches along a side; attention over more is no model but a mistake
_MAX_SEED = 2**63 - 1  # of torch's generators
_RAND_AUGMENT = re.compile(r"rand(-(m|n|p|w|mstd|mmax|inc|t)\d{1,3}(\.\d{1,3})?)*")


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    _check(low <= value <= high, f"{name} is {value}, but must be between {low} and {high}")


def _check_positive(name: str, value: float) -> None:
    _check(value > 0, f"{name} is {value}, but must be greater than 0")


def check_grid(image_size: int, patch_size: int, *, prefix: str = "") -> None:
    """Refuse a picture that is no whole number of patches, or of too many.

    Raises:
        ConfigError: Names both sides.
    """
    picture, patch = f"{prefix}image_size {image_size}", f"{prefix}patch_size {patch_size}"
    _check(image_size % patch_size == 0, f"{picture} is not a multiple of {patch}")
    _check(image_size <= _MAX_SIDE, f"{picture} is more than {_MAX_SIDE} pixels")
    _check(
        image_size // patch_size <= _MAX_GRID,
        f"{picture} is more than {_MAX_GRID} times {patch}",
    )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the encoder and, for pretraining, of the decoder and the fusion."""

    size: EncoderSize = "base"
    """Width, depth and heads of the encoder."""
    patch_size: int = 16
    """Side of a patch in pixels."""
    image_size: int = 224
    """Side of the square picture in pixels; a multiple of the patch."""
    decoder_width: int = 512
    """Width of the decoder, and of the view embeddings."""
    decoder_depth: int = 8
    """Blocks of the decoder."""
    decoder_heads: int = 16
    """Attention heads of the decoder."""
    fusion: Fusion = "sum"
    """How scene and person become one embedding: none, sum (released), scaled_sum (the paper's figure), or another."""

    def __post_init__(self) -> None:
        for name in ("patch_size", "image_size", "decoder_width", "decoder_depth", "decoder_heads"):
            _check_positive(f"model.{name}", getattr(self, name))
        check_grid(self.image_size, self.patch_size, prefix="model.")
        _check(
            self.decoder_width % self.decoder_heads == 0 and self.decoder_width % 4 == 0,
            f"model.decoder_width {self.decoder_width} must be a multiple of 4 and of model.decoder_heads "
            f"{self.decoder_heads}",
        )

    @property
    def num_patches(self) -> int:
        """Patches of one picture."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """How a picture becomes a scene view and a person view, and what the encoder sees of them."""

    person: PersonView = "crop"
    """crop: the person's box; scene: the scene again under another mask; none: no second view."""
    scene_scale: tuple[float, float] = (0.2, 1.0)
    """Share of the picture's area that the scene's random crop covers, least and most (released)."""
    flip: float = 0.5
    """Probability that scene and person are mirrored, together."""
    mask_ratio: float = 0.9
    """Share of the patches that the encoder does not see (released; MAE uses 0.75)."""

    def __post_init__(self) -> None:
        _check_range("views.flip", self.flip, 0, 1)
        low, high = self.scene_scale
        _check(
            0 < low <= high <= 1,
            f"views.scene_scale is {low}, {high}, but needs 0 < least <= most <= 1",
        )
        _check(
            0 <= self.mask_ratio < 1,
            f"views.mask_ratio is {self.mask_ratio}, but must be at least 0 and below 1",
        )


@dataclass(frozen=True, kw_only=True)
class PersonConfig:
    """Which person of a picture the person view shows, and how it is cut out."""

    choice: PersonChoice = "largest"
    """Box of largest area, of highest score (confident), nearest the centre (central), or one around all (union)."""
    margin: float = 0.1
    """Share of the box's width and height that is added on every side of it."""
    shape: CropShape = "squeeze"
    """How it becomes a square: squeeze resizes it, whatever its aspect (as in the paper); pad keeps the aspect and
    shows more of the picture and, where that ends, the mean colour."""

    def __post_init__(self) -> None:
        _check_range("person.margin", self.margin, 0, MAX_MARGIN)


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """The frozen CLIP model that pretraining distils."""

    model: str = "ViT-B-16-quickgelu"
    """An open_clip architecture, the folder of a model in open_clip's own layout, or demo for the embedded one."""
    pretrained: str | None = "openai"
    """A tag that open_clip knows for the architecture, or a weight file; null for a folder and for demo."""
    emotion_sentence: bool = True
    """Whether the description names the emotion; false makes pretraining free of labels."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the image tower; auto takes the fastest that the device does well."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weight of each term of the objective; a term of weight 0 is not computed and builds no module."""

    contrast: float = 1.0
    """Weight of L1, the likeness of student and teacher in their similarity to every text of the batch."""
    similarity: float = 1.0
    """Weight of L2, the cosine distance between the fused embedding and CLIP's image feature."""
    reconstruction: float = 1.0
    """Weight of L3, the masked autoencoder's error on hidden patches of the scene."""
    normalized_target: bool = False
    """Whether each target patch is brought to mean 0 and variance 1 first (He et al. 2022; released: false)."""

    def __post_init__(self) -> None:
        for name in ("contrast", "similarity", "reconstruction"):
            _check(
                getattr(self, name) >= 0,
                f"loss.{name} is {getattr(self, name)}, but must not be negative",
            )
        _check(
            self.contrast + self.similarity + self.reconstruction > 0,
            "every weight of loss is 0: nothing to learn",
        )

    @property
    def needs_teacher(self) -> bool:
        """Whether CLIP takes part."""
        return self.contrast > 0 or self.similarity > 0


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW, its schedule, and the size of a step."""

    epochs: int = 100
    """Passes over the training split."""
    warmup_epochs: float = 5.0
    """Epochs of linear rise of the learning rate."""
    batch_size: int = 64
    """Samples in one forward pass of one process."""
    accumulate: int = 1
    """Forward passes in one step of the optimiser."""
    base_lr: float = 1e-3
    """Learning rate for 256 samples a step; it grows in proportion to the samples a step of all processes."""
    min_lr: float = 0.0
    """Learning rate at the end of the cosine."""
    weight_decay: float = 0.05
    """Decoupled weight decay, none on biases and norms."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of AdamW's two moments."""
    layer_decay: float = 1.0
    """Factor of the learning rate from each block to the one below it; 1 switches it off."""
    clip_norm: float | None = None
    """Largest norm of the gradient over all trainable parts; none switches clipping off."""
    ema_decay: float = 0.0
    """Decay of the moving average of the weights, which the run then saves and evaluates; 0 switches it off.

    It warms up: after step t it is at most 1 − t^(−2/3)."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "base_lr"):
            _check_positive(f"optim.{name}", getattr(self, name))
        for name in ("warmup_epochs", "min_lr", "weight_decay"):
            _check(
                getattr(self, name) >= 0,
                f"optim.{name} is {getattr(self, name)}, but must not be negative",
            )
        _check(
            0 < self.layer_decay <= 1,
            f"optim.layer_decay is {self.layer_decay}, but must be in (0, 1]",
        )
        _check(
            0 <= self.ema_decay < 1, f"optim.ema_decay is {self.ema_decay}, but must be in [0, 1)"
        )
        _check(
            all(0 <= beta < 1 for beta in self.betas),
            f"optim.betas are {self.betas}, but must be in [0, 1)",
        )
        _check(
            self.clip_norm is None or self.clip_norm > 0,
            f"optim.clip_norm is {self.clip_norm}, but must be greater than 0, or null",
        )


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of fine-tuning, by timm."""

    scale: tuple[float, float] = (0.08, 1.0)
    """Share of the picture's area that the random crop covers, least and most."""
    flip: float = 0.5
    """Probability of mirroring."""
    rand_augment: str | None = "rand-m9-mstd0.5-inc1"
    """RandAugment in timm's words, or null."""
    erase: float = 0.25
    """Probability of random erasing, with noise per pixel."""
    mixup: float = 0.8
    """Alpha of mixup; 0 switches it off."""
    cutmix: float = 1.0
    """Alpha of cutmix; 0 switches it off."""
    switch: float = 0.5
    """Probability of cutmix where both are on."""
    smoothing: float = 0.1
    """Label smoothing."""

    def __post_init__(self) -> None:
        low, high = self.scale
        _check(
            0 < low <= high <= 1,
            f"augment.scale is {low}, {high}, but needs 0 < least <= most <= 1",
        )
        for name in ("flip", "erase", "switch"):
            _check_range(f"augment.{name}", getattr(self, name), 0, 1)
        _check(
            self.rand_augment is None or _RAND_AUGMENT.fullmatch(self.rand_augment) is not None,
            f"augment.rand_augment is {self.rand_augment}, but must be like rand-m9-mstd0.5-inc1, or null",
        )
        for name in ("mixup", "cutmix"):
            _check(
                getattr(self, name) >= 0,
                f"augment.{name} is {getattr(self, name)}, but must not be negative",
            )
        _check(
            0 <= self.smoothing < 1, f"augment.smoothing is {self.smoothing}, but must be in [0, 1)"
        )

    @property
    def mixes(self) -> bool:
        """Whether pictures of a batch are mixed with each other."""
        return self.mixup > 0 or self.cutmix > 0


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where and how a run computes, the same for every kind of run."""

    data: Path
    """Manifest of the pictures, a Parquet file made by `uniemox data prepare`."""
    out: Path
    """Folder of the run; it must be empty or absent, unless the run is resumed."""
    resume: bool = False
    """Go on from the last saved state in `out`."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: Precision = "fp32"
    """Arithmetic of the model's forward pass; weights and optimiser stay in fp32."""
    seed: int = 0
    """Seed of weights, order, masks and augmentation."""
    num_workers: int = 2
    """Processes that decode pictures; 0 decodes in the training process."""
    max_steps: int | None = None
    """Stop after this many steps of the optimiser, the schedule being fitted to them; null runs all epochs."""
    save_every: int | None = None
    """Steps between saved states, besides the one at the end of each epoch."""
    log_every: int = 10
    """Steps between lines of `metrics.jsonl`."""

    def __post_init__(self) -> None:
        _check(
            self.num_workers >= 0, f"num_workers is {self.num_workers}, but must not be negative"
        )
        _check_range("seed", self.seed, 0, _MAX_SEED)
        _check_positive("log_every", self.log_every)
        for name in ("max_steps", "save_every"):
            value = getattr(self, name)
            _check(
                value is None or value > 0,
                f"{name} is {value}, but must be greater than 0, or null",
            )


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(RunConfig):
    """One pretraining run: masked reconstruction of scene and person, distilled from CLIP."""

    splits: Sequence[str] = ("train",)
    """Splits of the manifest to train on. Naming val makes it unfit as a held-out set (the released code does so)."""
    init: str | None = None
    """A pretrained model to start from: a folder, a file of MAE's or the released form, demo-pretrained, or
    hf-hub:org/name; null starts from random weights."""
    model: ModelConfig = field(default_factory=ModelConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    person: PersonConfig = field(default_factory=PersonConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(len(self.splits) > 0, "splits is empty: name at least one split of the manifest")
        _check(
            (self.views.person == "none") == (self.model.fusion == "none"),
            f"views.person is {self.views.person} and model.fusion is {self.model.fusion}: without a "
            "person view there is nothing to fuse, so both are none or neither is",
        )
        _check(
            self.loss.contrast == 0 or self.optim.batch_size >= 2,
            "loss.contrast compares the texts of a batch, so optim.batch_size must be at least 2",
        )
        _check(
            self.loss.reconstruction == 0 or self.views.mask_ratio > 0,
            "loss.reconstruction needs hidden patches, so views.mask_ratio must be greater than 0",
        )
        _check(
            int(self.model.num_patches * (1 - self.views.mask_ratio)) > 0,
            f"views.mask_ratio {self.views.mask_ratio} hides all of the {self.model.num_patches} patches",
        )


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(RunConfig):
    """One fine-tuning run: a classifier of scene, person or both, from a pretrained encoder or from random weights."""

    init: str | None = None
    """A model to start from: a folder, a file of MAE's, timm's or the released form, demo-pretrained, or
    hf-hub:org/name; null starts from random weights."""
    train_split: str = "train"
    """Split of the manifest to train on."""
    val_split: str = "val"
    """Split that chooses the best epoch."""
    test_split: str | None = "test"
    """Split that the chosen weights are evaluated on, once, at the end; null leaves it untouched."""
    target: Target = "single_label"
    """One label for each row (single_label), or any number of them (multi_label, as EMOTIC has them)."""
    select_by: SelectionMetric | None = None
    """Metric of the val split that chooses the epoch; null takes top1 (released), or mean_average_precision for
    several labels."""
    view: View = "scene"
    """What is classified: the whole picture (scene, released), the crop of a person, or both, fused."""
    fusion: FusedBy = "sum"
    """How both views become one embedding, where view is both."""
    size: EncoderSize | None = None
    """Size of the encoder; null takes that of `init`, and base without one."""
    patch_size: int | None = None
    """Side of a patch in pixels; null takes that of `init`, and 16 without one."""
    image_size: int | None = None
    """Side of the picture in pixels; null takes that of `init`, and 224 without one. Positions are resampled."""
    drop_path: float = 0.2
    """Probability of skipping the last block in training; it falls linearly towards the first (released)."""
    head_std: float = 2e-5
    """Standard deviation of the head's first weights (released)."""
    person: PersonConfig = field(default_factory=PersonConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(0 <= self.drop_path < 1, f"drop_path is {self.drop_path}, but must be in [0, 1)")
        _check_positive("head_std", self.head_std)
        kind = SingleLabelMetric if self.target == "single_label" else MultiLabelMetric
        _check(
            self.select_by in (None, *get_args(kind)),
            f"select_by is {self.select_by}, but for target {self.target} must be one of {', '.join(get_args(kind))}",
        )
        for name in ("patch_size", "image_size"):
            value = getattr(self, name)
            _check(
                value is None or value > 0,
                f"{name} is {value}, but must be greater than 0, or null",
            )
        _check(
            not self.augment.mixes or self.optim.batch_size % 2 == 0,
            f"mixup and cutmix pair the pictures of a batch, so optim.batch_size {self.optim.batch_size} must be even",
        )
