"""Settings of `report`."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from uniemox.config.checks import JsonConfig, Natural, ReadsImages, Workers, check, check_ending
from uniemox.config.inference import PredictConfig
from uniemox.config.zero_shot import ZeroShotConfig


@dataclass(frozen=True, kw_only=True)
class ReportConfig(ZeroShotConfig, ReadsImages, JsonConfig):
    """A page about tables of predictions."""

    paths: Sequence[Path] = field(kw_only=False)
    """Tables that `uniemox predict --out` wrote; or with `model` what that takes: images, folders, archives, videos."""
    out: Path | None = None
    """Page to write, which ends in .html; null puts it beside the table, or for a folder into the working directory."""
    by: Sequence[str] = ("folder",)
    """What to break answers down by: folder, date (of EXIF, read from each image), table, or columns of the tables."""
    compare: str | None = None
    """Table to compare with; or folder, table or a column that has two values."""
    root: Path | None = None
    """Folder that relative paths of images start from; null is the working directory."""
    overwrite: bool = False
    """Replace the page, and with `model` its table, if they exist."""
    model: str | None = None
    """Classifier that predicts first, into a table beside the page, as `uniemox predict` takes it."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    batch_size: Natural = 32
    """Images in one forward pass."""
    workers: Workers = 2
    """Workers that decode images while the model computes; 0 decodes in between."""
    resume: bool = False
    """Continue the predictions of `model` after an interruption."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(bool(self.paths), "`paths` must be given")
        check_ending("out", self.out, (".html",))
        check(self.model is not None or not self.resume, "`resume` continues predictions: name the `model`")
        asked = ", ".join(f"`{name}`" for name in self.asked)
        check(self.model is not None or not asked, f"{asked} are about predictions: name the `model`")

    @property
    def page(self) -> Path:
        """The page to write."""
        first = self.paths[0]
        if self.out is not None:
            return self.out
        return Path(f"{first.resolve().name or 'report'}.html") if self.model else first.parent / f"{first.stem}.html"

    @property
    def prediction(self) -> PredictConfig:
        """The predictions that `model` is asked for, into a table beside the page."""
        assert self.model is not None
        return PredictConfig(
            model=self.model,
            paths=self.paths,
            root=self.root,
            out=self.page.with_suffix(".parquet"),
            device=self.device,
            batch_size=self.batch_size,
            workers=self.workers,
            resume=self.resume,
            overwrite=self.overwrite,
            **{each.name: getattr(self, each.name) for each in fields(ZeroShotConfig)},
        )
