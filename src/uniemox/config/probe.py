"""Settings of `probe`: a head on the features of a frozen backbone."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

from uniemox.config.checks import Natural, Positive, Precision, Range, ReadsImages, Workers, check
from uniemox.config.clip_name import is_clip_name
from uniemox.config.people import PersonConfig
from uniemox.config.training import PromiseConfig, Target, View

ProbeHead = Literal["logistic", "knn", "linear"]
ProbePool = Literal["cls", "mean", "cls_mean"]
STRENGTHS: Final = tuple(10.0**power for power in range(-6, 3))
"""Values of C, the inverse of the regularisation of a logistic regression, that val chooses from."""
NEIGHBOURS: Final = (1, 3, 5, 10, 20, 50, 100, 200)
"""Numbers of nearest neighbours that val chooses from."""


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(ReadsImages):
    """One probe: what the frozen features of a backbone tell a simple head."""

    backbone: str
    """What makes the features: timm:NAME with timm's own weights or timm:NAME=FILE; clip:ARCH/TAG, clip:ARCH=FILE,
    clip:FOLDER or clip:demo, an image tower of open_clip; or a model as `finetune --init` takes it: a folder, a file
    of MAE's, timm's or the released form, demo-pretrained, or hf-hub:org/name."""
    data: Path
    """Manifest of the images, a Parquet file made by `uniemox data prepare`."""
    out: Path
    """Folder of the probe; it must be empty or absent."""
    head: ProbeHead = "logistic"
    """Logistic regression on standardised features, its regularisation chosen on val (logistic); a vote of the nearest
    neighbours by cosine, their number chosen on val (knn); or a linear layer trained by Adam, its epoch chosen on val
    (linear, as the baselines of the released code)."""
    train_split: str = "train"
    """Split of the manifest that the head learns from."""
    val_split: str = "val"
    """Split that chooses the head's one free number, its temperature, its thresholds and its label sets."""
    test_split: str | None = "test"
    """Split that the chosen head is evaluated on, once; null evaluates none."""
    baselines: bool = True
    """Score cheap baselines beside it: majority and colour statistics."""
    target: Target = "single_label"
    """One label for each row (single_label), or any number of them (multi_label, as EMOTIC has them)."""
    select_by: str | None = None
    """Metric of the val split that chooses; null takes top1, or mean_average_precision for several labels."""
    view: View = "scene"
    """What the backbone sees: the whole image (scene), the crop of a person, or both, their features side by side."""
    pool: ProbePool | None = None
    """Features of a vision transformer: the class token (cls), the mean of the patches under a norm of its own (mean),
    or both side by side (cls_mean); null takes what the head of a classifier reads, and the class token of a pretrained
    model."""
    epochs: Natural = 100
    """Passes over the training features, for head linear."""
    batch_size: Natural = 256
    """Features in one step, for head linear (released)."""
    base_lr: Positive = 1e-3
    """Learning rate of Adam for 256 features a step, for head linear (released); it grows in proportion to them."""
    seed: Annotated[int, Range("between 0 and 2**63 - 1, as for torch", lambda value: 0 <= value < 2**63)] = 0
    """Seed of the first weights and the order, for head linear; the others draw nothing."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: Precision = "fp32"
    """Arithmetic of the backbone; heads are fitted in fp32 or finer."""
    workers: Workers = 2
    """Processes that decode images; 0 decodes in between."""
    cache: Path | None = None
    """Folder of computed features, which any number of probes may share; null takes `features` in out."""
    person: PersonConfig = field(default_factory=PersonConfig)
    confidence: PromiseConfig = field(default_factory=PromiseConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        splits = {"val_split": self.val_split, "test_split": self.test_split}
        for name, split in splits.items():
            check(split != self.train_split, f"{name} is {split}, which the head learns from: choose another split")
        check(self.val_split != self.test_split, f"test_split is {self.test_split}, which chooses: take another split")
        is_pooled = is_clip_name(self.backbone) and self.pool is not None
        check(not is_pooled, f"pool is {self.pool}, but a clip: backbone pools its tokens itself: omit `pool`")
