"""Settings about the people in images: which one a crop shows, what counts as a person, and `data people`."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

from uniemox.config.checks import (
    JsonConfig,
    Natural,
    NotNegative,
    Range,
    ReadsImages,
    Settings,
    Share,
    Workers,
    check,
    check_manifest_out,
)

PersonChoice = Literal["largest", "confident", "central", "union"]
CropShape = Literal["squeeze", "pad"]
BoxUnits = Literal["auto", "pixels", "shares"]
"""What the numbers of a box count: pixels of the upright image, or shares of its sides; auto decides by their size."""


@dataclass(frozen=True, kw_only=True)
class PersonConfig(Settings, group="person"):
    """Which person of an image the person view shows, and how it is cut out."""

    choice: PersonChoice = "largest"
    """Box of largest area, of highest score (confident), nearest the centre (central), or one around all (union)."""
    margin: Annotated[float, Range("between 0 and 2", lambda value: 0 <= value <= 2)] = 0.1
    """Share of the box's width and height that is added on every side of it."""
    shape: CropShape = "squeeze"
    """How it becomes a square: squeeze resizes it, whatever its aspect (as in the paper); pad keeps the aspect and
    shows more of the image and, beyond its edge, the mean colour."""


@dataclass(frozen=True, kw_only=True)
class Limits(Settings):
    """Which of a detector's findings count as a person."""

    score: Share = 0.5
    """Minimum score of a person, from 0 to 1."""
    nms_iou: Share = 0.5
    """Overlap (intersection over union) above which the less certain of two boxes is dropped."""
    min_size: NotNegative[float] = 0.0
    """Minimum width and height of a person in pixels of the image."""
    max_people: Natural = 100
    """Maximum number of people in an image; the most certain are kept."""

    def __str__(self) -> str:
        return (
            f"score from {self.score:g}, NMS at IoU {self.nms_iou:g}, from {self.min_size:g} pixels, "
            f"at most {self.max_people} people"
        )


@dataclass(frozen=True, kw_only=True)
class DetectorChoice(Limits):
    """What finds people in images."""

    detector: str | None = field(default=None, metadata={"metavar": "NAME|FILE.onnx"})
    """Detector that finds people: ssdlite, fasterrcnn or fasterrcnn-320 of torchvision, or a model in ONNX."""
    detector_weights: str | None = field(default=None, metadata={"metavar": "default|FILE"})
    """Weights of torchvision's detectors: a file, or default, which downloads them once."""
    detector_format: str | None = field(default=None, metadata={"metavar": "NAME|FILE.yaml"})
    """Inputs and outputs of a model in ONNX: the name of a family, or a YAML file; null takes the one beside it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for each in fields(DetectorChoice):
            is_default = getattr(self, each.name) == each.default
            check(self.detector is not None or is_default, f"`{each.name}` is about a detector: {self._then}")

    @property
    def _then(self) -> str:
        return "give `detector` too"


@dataclass(frozen=True, kw_only=True)
class DetectorConfig(DetectorChoice):
    """Where the boxes of people come from."""

    boxes: Path | None = None
    """File of boxes to use instead of a detector: CSV, TSV or COCO's JSON."""
    box_units: BoxUnits = "auto"
    """What the numbers in the file of boxes are: pixels, or shares of the image's sides; auto takes them for shares if
    none reaches beyond 1.5."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.detector is None or self.boxes is None, "`detector` and `boxes` both give boxes: choose one")
        check(self.boxes is not None or self.box_units == "auto", "`box_units` is about `boxes`: give both")

    @property
    def _then(self) -> str:
        return super()._then if self.boxes is None else "omit it, or give `detector` instead of `boxes`"


@dataclass(frozen=True, kw_only=True)
class PeopleConfig(DetectorConfig, ReadsImages, JsonConfig):
    """Finding, importing or comparing the people of a manifest."""

    manifest: Path = field(kw_only=False)
    """Parquet file made by `uniemox data prepare`."""
    out: Path | None = None
    """Manifest to write; replaced if it exists."""
    replace: bool = False
    """Replace the boxes of rows that have some; otherwise they are kept."""
    each: bool = False
    """Make a row for each person."""
    compare: Path | None = None
    """Manifest of the same images, to compare its boxes with the first's."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    batch_size: Natural = 8
    """Images in one pass of the detector."""
    workers: Workers = 2
    """Threads that read images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        makes = self.detector is not None or self.boxes is not None or self.each
        check(makes or self.compare is not None, "nothing to do: give `detector`, `boxes`, `each` or `compare`")
        check(not makes or self.out is not None, "`out` must be given")
        check(makes or self.out is None, "`compare` alone makes no new manifest: omit `out`")
        if self.out is not None:
            check_manifest_out(self.out)
