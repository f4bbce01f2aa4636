"""Settings of `data reinforce`: views that are drawn, and seen by the teacher, before a pretraining."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from uniemox.config.checks import MAX_SIDE, AreaShares, Natural, NotNegative, ReadsImages, Share, Workers, check
from uniemox.config.training import TeacherConfig


@dataclass(frozen=True, kw_only=True)
class ReinforceConfig(ReadsImages):
    """Drawing views of every image and storing the teacher's features of them, for `pretrain --stored-views`."""

    manifest: Path = field(kw_only=False)
    """Parquet file made by `uniemox data prepare`."""
    out: Path | None = None
    """Folder to write; null takes the manifest's name with .views in place of its ending. An unfinished folder of the
    same settings is continued."""
    splits: Sequence[str] = ("train",)
    """Splits of the manifest whose images are seen: those that the pretraining is on, in the same order."""
    views: Natural = 8
    """Views of each image. A pretraining shows them in turn, so of as many epochs each sees new ones."""
    image_size: Natural = 224
    """Side of a view in pixels, as of `model.image_size` of the pretraining."""
    scene_scale: AreaShares = (0.2, 1.0)
    """Share of the image's area that a crop covers, as of its `views.scene_scale`."""
    flip: Share = 0.5
    """Probability that a view is mirrored, as of its `views.flip`."""
    seed: NotNegative[int] = 0
    """Seed of the crops."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    batch_size: Natural = 64
    """Views that the teacher sees at once."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    workers: Workers = 2
    """Processes that decode images; 0 decodes in between."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(len(self.splits) > 0, "splits is empty: name at least one split of the manifest")
        check(self.image_size <= MAX_SIDE, f"image_size {self.image_size} is more than {MAX_SIDE} pixels")

    @property
    def folder(self) -> Path:
        """Where the views are stored."""
        return self.out or self.manifest.with_suffix(".views")
