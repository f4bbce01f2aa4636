"""Settings of `evaluate` and `predict`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from uniemox.config.checks import (
    TABLES,
    JsonConfig,
    Natural,
    Precision,
    Range,
    ReadsImages,
    Workers,
    check,
    check_ending,
)
from uniemox.config.people import DetectorConfig
from uniemox.config.zero_shot import ZeroShotConfig

AskedPrecision = Literal["auto", Precision]
"""auto takes the one that a model folder records."""
Decoding = Literal["auto", "exact"]
"""auto decodes large JPEGs at a part of their size; exact decodes all pixels."""


@dataclass(frozen=True, kw_only=True)
class RunsModel(ZeroShotConfig, ReadsImages, JsonConfig):
    """Which classifier runs, and where."""

    model: str = field(kw_only=False)
    """A classifier: its folder or its run's, an export, a file of weights, demo, or hf-hub:org/name; or a model that
    needs no training: clip:ARCH/TAG, clip:demo, or the folder of a pretrained model."""
    dataset: str | None = None
    """Data set or manifest that names the classes of a file of weights."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: AskedPrecision = "auto"
    """Arithmetic of the model; auto takes what its folder records."""


@dataclass(frozen=True, kw_only=True)
class ComputeConfig(RunsModel):
    """Which classifier runs, where and how fast."""

    batch_size: Natural = 32
    """Images in one forward pass."""
    workers: Workers = 2
    """Workers that decode images while the model computes; 0 decodes in between."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(ComputeConfig):
    """Scoring a classifier on a split of a manifest."""

    data: Path
    """Manifest made by `uniemox data prepare`."""
    split: str = "test"
    """Split of the manifest."""
    out: Path | None = None
    """Folder for the report and its images."""
    baselines: bool = True
    """Score cheap baselines beside the model: majority and colour statistics, from the split train, and the teacher
    that it was distilled from, where its weights are at hand and it is small or on a GPU."""
    bridge: bool = False
    """Where model and data have other classes, map both to those of the data, of the model, or to polarity, wherever
    most have a counterpart; the scores state what is dropped."""
    robustness: bool = False
    """Answer every image again in 18 changed forms (greyscale, colour cast, brightness, blur, JPEG, crop, border, text,
    flip), and report scores, paired differences and flipped answers; takes 18 times as long."""
    by: Sequence[str] = ()
    """Columns to score the images by, such as scene,people: of the manifest, of its attributes, or one of your own that
    its file has besides."""
    card: bool = False
    """Write the card of MODEL, a folder of yours, again with its robustness."""
    overwrite: bool = False
    """Write into the folder even if it is not empty, and replace the report in it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.robustness or not self.card, "`card` is about `robustness`: give both")


@dataclass(frozen=True, kw_only=True)
class PredictConfig(ComputeConfig, DetectorConfig):
    """Predicting the emotions of images, or of the people in them."""

    paths: Sequence[Path] = field(default=(), kw_only=False)
    """Images, folders to search for images, archives (.zip, .tar, .tar.gz), videos, tables with a column of paths,
    patterns in quotes such as 'photos/**/*.jpg', or - for an image on stdin."""
    list: Path | None = field(default=None, metadata={"metavar": "FILE|-"})
    """File with a path in each line, or each ended by NUL; - reads them from stdin."""
    column: str | None = None
    """Column of the paths in tables; null finds it."""
    root: Path | None = None
    """Folder that the paths of tables and of the list are relative to; null takes the folder of the table, and for the
    list the working directory."""
    fps: Annotated[float, Range("between 0.001 and 1000", lambda value: 0.001 <= value <= 1000)] = 1.0
    """Frames of a video that are predicted for each second of it."""
    out: Path | None = None
    """Table to write: .csv, .jsonl or .parquet, with the probabilities of all classes."""
    resume: bool = False
    """Continue a table after an interruption; start it if nothing has been written yet."""
    overwrite: bool = False
    """Replace the table if it exists, or start it again."""
    decoding: Decoding = "auto"
    """auto decodes a JPEG at a half, a quarter or an eighth of its size, where that is at least twice what the model
    reads: several times faster, with almost the same answers. exact decodes all pixels, as `evaluate` does; people
    are always cut out of all pixels."""
    mask_people: bool = False
    """Hide the people that boxes or a detector give, by filling them from what surrounds them, before anything is
    predicted; an image then has one row."""
    explain: bool = False
    """Add how the number behind the answer changes where the people, and where the scene is hidden (hiding_people,
    hiding_scene), and whether three ways of hiding agree on the directions (hiding_agrees)."""
    top_k: Natural = 3
    """Number of classes that the printed table shows."""
    json: bool = False
    """Print a line of JSON for each image instead of a table."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(bool(self.paths) or self.list is not None, "`paths` must be given")
        check(self.column is None or bool(self.paths), "`column` is about a table of paths: give one")
        check(self.out is not None or not self.resume, "`resume` continues a table: name it with `out`")
        check_ending("out", self.out, TABLES)
        asks_people = self.boxes is not None or self.detector is not None
        for name in ("mask_people", "explain"):
            check(asks_people or not getattr(self, name), f"`{name}` hides people: give `boxes` or `detector`")
        check(not (self.mask_people and self.explain), "`explain` hides people in turn: omit `mask_people`")
