"""Settings of the runs that train: `pretrain` and `finetune`.

The command line makes its flags from these fields, presets are values of them in YAML, and a run folder keeps its own
as `config.yaml`. No path has a default.
Numbers called *released* are the defaults of the code that the authors of UniEmoX published (arXiv 2409.18877).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from uniemox.config.checks import (
    MAX_DEPTH,
    MAX_HEADS,
    MAX_WIDTH,
    AreaShares,
    BelowOne,
    InnerShare,
    Natural,
    NotNegative,
    Positive,
    Precision,
    Range,
    ReadsImages,
    Settings,
    Share,
    Workers,
    check,
    check_grid,
    up_to,
)
from uniemox.config.people import PersonConfig

EncoderSize = Literal["mini", "tiny", "small", "base", "large", "huge"]
FusedBy = Literal["sum", "scaled_sum", "multihead_sum", "attention", "gated_mlp", "bilinear"]
Fusion = Literal["none", FusedBy]
PersonView = Literal["crop", "scene", "none"]
View = Literal["scene", "person", "both"]
Pool = Literal["mean", "cls", "cls_mean", "fused"]
"""What the head of a classifier reads: the mean of the patches, the class token, both, or pretraining's fused token."""
Head = Literal["random", "language"]
ClassWeights = Literal["none", "balanced", "effective"]
Target = Literal["single_label", "multi_label", "distribution", "valence_arousal"]
"""What a model predicts for an image: one label, all labels that apply, shares of raters, or numbers on a scale."""


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
_Betas = Annotated[tuple[float, float], Range("in [0, 1)", lambda value: all(0 <= beta < 1 for beta in value))]
_Seed = Annotated[int, Range("between 0 and 2**63 - 1, as for torch", lambda value: 0 <= value < 2**63)]
# timm's words: whole numbers and shares. It refuses w, and reads t (a set of operations) as absent unless it is a name.
_RAND_AUGMENT = Range(
    "like rand-m9-mstd0.5-inc1", re.compile(r"rand(-(m|n|mmax|inc)\d{1,3}|-(p|mstd)\d{1,3}(\.\d{1,3})?)*").fullmatch
)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings, group="model"):
    """Shape of the encoder and, for pretraining, of the decoder and the fusion."""

    size: EncoderSize = "base"
    """Width, depth and heads of the encoder."""
    patch_size: Natural = 16
    """Side of a patch in pixels."""
    image_size: Natural = 224
    """Side of the square image in pixels; a multiple of the patch."""
    decoder_width: Annotated[int, up_to(MAX_WIDTH)] = 512
    """Width of the decoder, and of the view embeddings."""
    decoder_depth: Annotated[int, up_to(MAX_DEPTH)] = 8
    """Blocks of the decoder."""
    decoder_heads: Annotated[int, up_to(MAX_HEADS)] = 16
    """Attention heads of the decoder."""
    decode_share: Annotated[float, Range("in (0, 1]", lambda value: 0 < value <= 1)] = 1.0
    """Share of the hidden patches that the decoder predicts in a step, others each time; below 1 a step costs less
    (after Fu et al. 2025, who find a quarter to be enough). 1 predicts all (released)."""
    fusion: Fusion = "sum"
    """How scene and person become one embedding: none, sum (released), scaled_sum (the paper's figure), or another."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_grid(self.image_size, self.patch_size, prefix="model.")
        width, heads = self.decoder_width, self.decoder_heads
        is_whole = width % heads == 0 and width % 4 == 0
        check(is_whole, f"model.decoder_width {width} must be a multiple of 4 and of model.decoder_heads {heads}")

    @property
    def num_patches(self) -> int:
        """Patches of one image."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, kw_only=True)
class ViewsConfig(Settings, group="views"):
    """How an image becomes a scene view and a person view, and what the encoder sees of them."""

    person: PersonView = "crop"
    """crop: the person's box; scene: the scene again under another mask; none: no second view."""
    scene_scale: AreaShares = (0.2, 1.0)
    """Share of the image's area that the scene's random crop covers, minimum and maximum (released)."""
    flip: Share = 0.5
    """Probability that scene and person are mirrored, together."""
    mask_ratio: BelowOne = 0.9
    """Share of the patches that the encoder does not see (released; MAE uses 0.75)."""


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(Settings, group="teacher"):
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
class LossConfig(Settings, group="loss"):
    """Weight of each term of the objective; a term of weight 0 is not computed and builds no module."""

    contrast: NotNegative[float] = 1.0
    """Weight of L1, the likeness of student and teacher in their similarity to every text of the batch."""
    gather_texts: bool = True
    """Whether that batch is the one of all processes; false compares with the texts of each process's own alone."""
    similarity: NotNegative[float] = 1.0
    """Weight of L2, the cosine distance between the fused embedding and CLIP's image feature."""
    reconstruction: NotNegative[float] = 1.0
    """Weight of L3, the masked autoencoder's error on hidden patches of the scene."""
    mean_token: bool = False
    """Whether the mean of the visible patches is distilled as well as the class token, by the same fusion and terms."""
    normalized_target: bool = False
    """Whether each target patch is brought to mean 0 and variance 1 first (He et al. 2022; released: false)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.contrast + self.similarity + self.reconstruction > 0, "every weight of loss is 0: nothing to learn")

    @property
    def needs_teacher(self) -> bool:
        """Whether CLIP takes part."""
        return self.contrast > 0 or self.similarity > 0


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Settings, group="optim"):
    """AdamW, its schedule, and the size of a step."""

    epochs: Natural = 100
    """Passes over the training split."""
    warmup_share: Share = 0.05
    """Share of the run in which the learning rate rises linearly; it stays the same if a run is shortened."""
    warmup_epochs: NotNegative[float] | None = None
    """The same in epochs, whatever their number; null takes warmup_share."""
    batch_size: Natural = 64
    """Samples in one forward pass of one process."""
    accumulate: Natural = 1
    """Forward passes in one step of the optimiser."""
    base_lr: Positive = 1e-3
    """Learning rate for 256 samples a step; it grows in proportion to the samples a step of all processes."""
    min_lr: NotNegative[float] = 0.0
    """Learning rate at the end of the cosine."""
    weight_decay: NotNegative[float] = 0.05
    """Decoupled weight decay, none on biases and norms."""
    betas: _Betas = (0.9, 0.95)
    """Decay rates of AdamW's two moments."""
    layer_decay: Annotated[float, Range("in (0, 1]", lambda value: 0 < value <= 1)] = 1.0
    """Factor of the learning rate from each block to the one below it; 1 switches it off."""
    clip_norm: Positive | None = None
    """Maximum norm of the gradient over all trainable parts; null switches clipping off."""
    ema_decay: BelowOne = 0.0
    """Decay of the moving average of the weights, which the run then saves and evaluates; 0 switches it off.

    It warms up: after step t it is at most 1 − t^(−2/3)."""

    @property
    def warmup(self) -> float:
        """Share of the run in which the rate rises, in [0, 1]; at 1 it never falls."""
        if self.warmup_epochs is None:
            return self.warmup_share
        return min(self.warmup_epochs / self.epochs, 1.0)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Settings, group="augment"):
    """Augmentation of fine-tuning, by timm."""

    scale: AreaShares = (0.08, 1.0)
    """Share of the image's area that the random crop covers, minimum and maximum."""
    flip: Share = 0.5
    """Probability of mirroring."""
    rand_augment: Annotated[str, _RAND_AUGMENT] | None = "rand-m9-mstd0.5-inc1"
    """RandAugment, written as timm writes it; null switches it off."""
    erase: Share = 0.25
    """Probability of random erasing, with noise per pixel."""
    mixup: NotNegative[float] = 0.8
    """Alpha of mixup; 0 switches it off."""
    cutmix: NotNegative[float] = 1.0
    """Alpha of cutmix; 0 switches it off."""
    switch: Share = 0.5
    """Probability of cutmix if both are on."""
    smoothing: BelowOne = 0.1
    """Label smoothing."""

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed with each other."""
        return self.mixup > 0 or self.cutmix > 0


@dataclass(frozen=True, kw_only=True)
class PromiseConfig(Settings, group="confidence"):
    """What is promised of answers, fitted on the split that chooses; for single_label and distribution."""

    level: InnerShare | None = 0.9
    """Share of images whose label set is to hold the true label (split-conformal, LAC); null fits no label sets."""
    risk: InnerShare | None = None
    """Largest error rate among the images that the model answers; it abstains from those of too low a confidence.
    null fits no abstention. .05 needs at least 117 images, or groups of them."""


@dataclass(frozen=True, kw_only=True)
class ConfidenceConfig(PromiseConfig, group="confidence"):
    """How far answers can be relied on, fitted on the split that chooses the epoch.

    Label sets and abstention are for single_label and distribution, distances from train for all.
    """

    domain_share: InnerShare | None = 0.95
    """Share of images whose features lie within the cutoff of `out_of_domain`, the distance to the 10th nearest of up
    to 4096 images of train, whose features the model folder keeps; null measures no distances and keeps none."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(ReadsImages):
    """Where and how a run computes, the same for every kind of run."""

    data: Path
    """Manifest of the images, a Parquet file made by `uniemox data prepare`."""
    out: Path
    """Folder of the run; it must be empty or absent, unless the run is resumed."""
    resume: bool = False
    """Continue the run in `out` from its last saved state, with its own settings unless others are given; start it if
    nothing has been saved yet. epochs and max_steps may grow."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: Precision = "fp32"
    """Arithmetic of the model's forward pass; weights and optimiser stay in fp32."""
    compile: bool = False
    """Compile the model with torch.compile, for quicker steps after some minutes; on the CPU it stays as it is."""
    activation_checkpointing: bool = False
    """Keep only what is between the blocks for the backward pass, and compute the rest again: a third more work in much
    less memory, for sizes large and huge. What is learned stays the same."""
    seed: _Seed = 0
    """Seed of weights, order, masks and augmentation."""
    workers: Workers = 2
    """Processes that decode images; 0 decodes in the training process."""
    max_steps: Natural | None = None
    """Stop after this many steps of the optimiser, the schedule being fitted to them; null runs all epochs."""
    save_every: Natural | None = None
    """Steps between saved states, besides the one at the end of each epoch."""
    save_minutes: Positive | None = 10.0
    """Minutes between saved states, besides those; null saves none by time."""
    log_every: Natural = 10
    """Steps between lines of `metrics.jsonl`."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(RunConfig):
    """One pretraining run: masked reconstruction of scene and person, distilled from CLIP."""

    splits: Sequence[str] = ("train",)
    """Splits of the manifest to train on. Naming val makes it unfit as a held-out set (the released code does so)."""
    init: str | None = None
    """A pretrained model to start from: a folder, a file of MAE's or the released form, demo-pretrained, or
    hf-hub:org/name; null starts from random weights."""
    stored_views: Path | None = None
    """Folder of views and of the teacher's features of them, made by `uniemox data reinforce`; null draws new views in
    every epoch and asks the teacher in every step, which is a third of a step's work."""
    model: ModelConfig = field(default_factory=ModelConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    person: PersonConfig = field(default_factory=PersonConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(len(self.splits) > 0, "splits is empty: name at least one split of the manifest")
        model, views, loss = self.model, self.views, self.loss
        both = f"views.person is {views.person} and model.fusion is {model.fusion}"
        is_fused = (views.person == "none") == (model.fusion == "none")
        check(is_fused, f"{both}: without a person view nothing is fused, so both are none or neither is")
        has_texts = loss.contrast == 0 or self.optim.batch_size >= 2
        check(has_texts, "loss.contrast compares the texts of a batch, so optim.batch_size must be at least 2")
        has_hidden = loss.reconstruction == 0 or views.mask_ratio > 0
        check(has_hidden, "loss.reconstruction needs hidden patches, so views.mask_ratio must be greater than 0")
        has_seen = int(model.num_patches * (1 - views.mask_ratio)) > 0
        is_asked = self.stored_views is None or loss.needs_teacher
        check(is_asked, "stored_views holds features of the teacher, which no term of loss asks: omit `stored_views`")
        check(has_seen, f"views.mask_ratio {views.mask_ratio} hides all of the {model.num_patches} patches")


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
    """Split that the chosen weights are evaluated on, once, at the end; null evaluates none."""
    baselines: bool = True
    """Score cheap baselines beside the model: majority, colour statistics, and the teacher that `init` names, where its
    weights are at hand and it is small or on a GPU; of both views also the same weights without the person."""
    target: Sequence[Target] = ("single_label",)
    """One label for each row (single_label), any number of them (multi_label, as EMOTIC has them), the share of raters
    for each class (distribution), or valence, arousal and, where the data has it, dominance (valence_arousal).
    Several, with blanks between them, share one encoder and have outputs of their own."""
    select_by: str | None = None
    """Metric of the val split that chooses the epoch; null takes the first of the first target: top1 (released),
    mean_average_precision, kl or ccc."""
    patience: Natural | None = None
    """End the run after this many epochs without a better val score; null runs all epochs. The learning rate falls as
    if all were run."""
    class_weights: ClassWeights = "none"
    """How much a class counts in the loss: as often as it occurs (none, released), the same as every other (balanced),
    or by its effective number of samples (effective, Cui et al. 2019). Weighted models name rare classes more often
    than they occur."""
    folds: Annotated[int, Range("3 or more", lambda value: value >= 3)] | None = None
    """Cross-validation: divide the rows of all three splits into so many parts, by group, and fine-tune as many models,
    each tested on one part and chosen on the next; null fine-tunes one model on the splits as they are."""
    view: View = "scene"
    """What is classified: the whole image (scene, released), the crop of a person, or both, fused."""
    fusion: FusedBy = "sum"
    """How both views become one embedding, if view is both; pool fused keeps the fusion of `init`."""
    pool: Pool = "mean"
    """What the head reads: the mean of the patches under a norm of its own (mean, released), the class token (cls) or
    both (cls_mean) under the norm of `init`, or the token that pretraining fused and projected into CLIP's space
    (fused), for which a scene alone stands for both views."""
    head: Head = "random"
    """How the head starts: near 0 (random, released), or as the teacher's text features of the classes (language),
    which is the zero-shot classifier; that needs pool fused."""
    teacher: str | None = None
    """CLIP that reads the names of classes for head language, such as clip:demo or clip:ARCH/TAG; null takes the text
    features that `init` remembers, or else the teacher that it was distilled from."""
    size: EncoderSize | None = None
    """Size of the encoder; null takes that of `init`, and base without one."""
    patch_size: Natural | None = None
    """Side of a patch in pixels; null takes that of `init`, and 16 without one."""
    image_size: Natural | None = None
    """Side of the image in pixels; null takes that of `init`, and 224 without one. Positions are resampled."""
    trained_share: Share = 1.0
    """Share of the trained weights in the weights that are scored and saved; the rest are those of the start, head
    included. Below 1 less is forgotten (Wortsman et al. 2022, who advise 0.5 where nothing else is known)."""
    drop_path: BelowOne = 0.2
    """Probability of skipping the last block in training; it falls linearly to 0 at the first (released)."""
    head_std: Positive = 2e-5
    """Standard deviation of the initial weights of the head, if head is random (released)."""
    person: PersonConfig = field(default_factory=PersonConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    confidence: ConfidenceConfig = field(default_factory=ConfidenceConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.optim.batch_size
        if isinstance(self.target, str):
            object.__setattr__(self, "target", (self.target,))
        check(
            0 < len(self.target) == len(set(self.target)), "target must name one kind of labels, or several once each"
        )
        is_in_space = self.head != "language" or self.pool == "fused"
        why = f"head language is text features, which only pool fused can read, but pool is {self.pool}"
        check(is_in_space, f"{why}: set `head` to random, or `pool` to fused")
        is_read = self.teacher is None or self.head == "language"
        check(is_read, f"teacher is {self.teacher}, which head {self.head} does not ask: omit `teacher`")
        has_pairs = not self.augment.mixes or size % 2 == 0
        check(has_pairs, f"mixup and cutmix pair the images of a batch, so optim.batch_size {size} must be even")
