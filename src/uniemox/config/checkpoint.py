"""Settings of the commands about weights: `checkpoint inspect`, `convert` and `push`, and `export`; and of `demo`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from uniemox.config.checks import JsonConfig, ReadsImages, Settings
from uniemox.config.zero_shot import ZeroShotConfig


@dataclass(frozen=True, kw_only=True)
class InspectConfig(JsonConfig):
    """Showing what a file of weights holds."""

    weights: str = field(kw_only=False)
    """A file of weights, the folder of a model or of a run, or hf-hub:org/name."""


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(Settings):
    """Making a model folder from foreign weights."""

    weights: str = field(kw_only=False)
    """A file of weights, the folder of a model or of a run, or hf-hub:org/name."""
    out: Path
    """Model folder to write; empty or absent."""
    dataset: str | None = None
    """Data set or manifest that names a classifier's classes."""
    image_size: int | None = None
    """Side of the images in pixels, for which positions are resampled."""


@dataclass(frozen=True, kw_only=True)
class PushConfig(Settings):
    """Uploading a model folder to the hub."""

    folder: Path = field(kw_only=False)
    """Model folder, or the folder of a run."""
    name: str = field(kw_only=False)
    """Where it goes: hf-hub:org/name."""
    private: bool = False
    """Make a new repository visible to its owner only."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig(ZeroShotConfig, ReadsImages, JsonConfig):
    """Writing a classifier as ONNX."""

    model: str = field(kw_only=False)
    """A classifier: its folder or its run's, a file of weights, demo, or hf-hub:org/name; or a model that needs no
    training: clip:ARCH/TAG, clip:demo, or the folder of a pretrained model."""
    out: Path
    """Folder to write: a model that runs without torch."""
    format: Literal["onnx"] = "onnx"
    """Format of the model."""
    quantize: Literal["int8"] | None = None
    """Store and compute in 8-bit integers: smaller, faster."""
    calibration: Sequence[Path] = ()
    """Images like those that the model will see: a file, a folder or a manifest; repeatable. demo has its own."""
    opset: int = 20
    """Version of ONNX's operators."""
    dataset: str | None = None
    """Data set or manifest that names the classes of a file of weights."""
