"""From the words of a user to a detector."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from uniemox.data.detectors.formats import format_names, load_format
from uniemox.errors import ConfigError
from uniemox.flags import nearest, shorten

if TYPE_CHECKING:
    from uniemox.data.detectors.detector import Detector, Limits

NICKNAMES: Final = {
    "ssdlite": "ssdlite320_mobilenet_v3_large",
    "fasterrcnn": "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn-320": "fasterrcnn_mobilenet_v3_large_320_fpn",
}
"""Short names of torchvision's detectors; their long ones are taken as well."""


def build_detector(
    name: str,
    limits: Limits,
    *,
    weights: str | None = None,
    form: str | None = None,
    device: str = "auto",
) -> Detector:
    """Make a detector.

    Args:
        name: A detector of torchvision, or the path of a model in ONNX.
        limits: What counts as a person.
        weights: For torchvision's: `default` to download them, or the path of a file.
        form: For a model in ONNX: a ready format or a YAML file; None takes the YAML file beside the model.
        device: auto, cpu or cuda.

    Raises:
        ConfigError: The words do not go together, or a library or a device is missing.
        DataError: The file of the model or of its weights cannot be used.
    """
    if Path(name).suffix.lower() == ".onnx":
        if weights is not None:
            raise ConfigError(f"--weights is for detectors of torchvision; {name} holds its own")
        return _build_onnx(Path(name), limits, form, device)
    full = NICKNAMES.get(name, name)
    if full not in NICKNAMES.values():
        known = (*NICKNAMES, *NICKNAMES.values())
        raise ConfigError(
            f"there is no detector {shorten(name)}{nearest(name, known)}; known are {', '.join(NICKNAMES)}, or give "
            "an .onnx file"
        )
    if form is not None:
        raise ConfigError(f"--format is for models in ONNX; {name} needs none")
    from uniemox.data.detectors.torchvision_detector import TorchvisionDetector

    return TorchvisionDetector(full, weights, limits=limits, device=device)


def _build_onnx(path: Path, limits: Limits, form: str | None, device: str) -> Detector:
    beside = path.with_suffix(".yaml")
    if form is None and not beside.is_file():
        raise ConfigError(
            f"--format must say what {path.name} takes and gives: one of {', '.join(format_names())}, or a YAML file "
            f"(see docs/people.md), which may also lie beside the model as {beside.name}"
        )
    from uniemox.data.detectors.onnx_detector import OnnxDetector

    return OnnxDetector(path, load_format(form or str(beside)), limits=limits, device=device)
