"""Settings of `explain`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from uniemox.config.checks import TABLES, Range, check, check_ending
from uniemox.config.inference import RunsModel
from uniemox.config.people import DetectorConfig

CamMethod = Literal["gradcam", "layercam"]
Method = Literal["auto", "occlusion", CamMethod]
"""How a map is made; auto takes the one that beats random maps and a centre prior (benchmarks/results/explain.md)."""


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(RunsModel, DetectorConfig):
    """Explaining what in an image a model's answer depends on."""

    paths: Sequence[Path] = field(kw_only=False)
    """Images, folders to search for images, archives (.zip, .tar, .tar.gz), videos, tables with a column of paths,
    patterns in quotes such as 'photos/**/*.jpg', or - for an image on stdin."""
    column: str | None = None
    """Column of the paths in tables; null finds it."""
    root: Path | None = None
    """Folder that the paths of tables are relative to; null takes the folder of the table."""
    fps: Annotated[float, Range("between 0.001 and 1000", lambda value: 0.001 <= value <= 1000)] = 1.0
    """Frames of a video that are explained for each second of it."""
    emotion: str | None = None
    """Emotion to explain; null takes the predicted one."""
    method: Method = "auto"
    """How the map is made: occlusion hides one place after another and runs on any model; gradcam and layercam read
    one layer of a model in torch, in one pass (extra explain); auto is occlusion."""
    map: bool = True
    """Make a map of the places that the answer depends on."""
    overlays: Path | None = None
    """Folder for an image of each input with its map, the boxes of its people and its emotion."""
    out: Path | None = None
    """Table to write: .csv, .jsonl or .parquet, a row for each emotion and for each part that was hidden."""
    overwrite: bool = False
    """Replace the table if it exists, and overlays of the same names."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(bool(self.paths), "`paths` must be given")
        check_ending("out", self.out, TABLES)
        check(self.map or self.overlays is None, "`overlays` show maps: omit `map` false")
        asks_people = self.boxes is not None or self.detector is not None
        show = "give `overlays` for maps, and `boxes` or `detector` to ask whether people or scene count"
        check(asks_people or self.shows_maps, f"nothing to show: {show}")

    @property
    def shows_maps(self) -> bool:
        """Whether maps are made: where they are asked for and shown."""
        return self.map and (self.overlays is not None or self.json)
