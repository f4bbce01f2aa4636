"""From the words of a user to a detector."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from uniemox.config.people import Limits
from uniemox.errors import ConfigError
from uniemox.people.detectors.formats import format_names, load_format
from uniemox.wording import nearest, shorten

if TYPE_CHECKING:
    from uniemox.people.detectors.detector import Detector

NICKNAMES: Final = {
    "ssdlite": "ssdlite320_mobilenet_v3_large",
    "fasterrcnn": "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn-320": "fasterrcnn_mobilenet_v3_large_320_fpn",
}  # Short names of torchvision's detectors; their long ones are taken as well


def build_detector(
    name: str, limits: Limits, *, weights: str | None = None, form: str | None = None, device: str = "auto"
) -> Detector:
    """Make a detector.

    Args:
        name: A detector of torchvision, or the path of a model in ONNX.
        limits: What counts as a person.
        weights: For torchvision's: `default` to download them, or the path of a file.
        form: For a model in ONNX: a ready format or a YAML file; None takes the YAML file beside the model.
        device: auto, cpu or cuda, and mps for torchvision's.

    Raises:
        ConfigError: The words do not go together, or a library or a device is missing.
        CheckpointError: The file of the model or of its weights is refused or damaged.
        DataError: The model does not fit its format, or its weights are not on this machine.
    """
    path = Path(name)
    if path.suffix.lower() == ".onnx":
        if weights is not None:
            raise ConfigError(f"`detector_weights` is for detectors of torchvision; {name} holds its own")
        beside = path.with_suffix(".yaml")
        if form is None and not beside.is_file():
            raise ConfigError(
                f"`detector_format` must name what {path.name} takes and gives: one of {', '.join(format_names())}, or "
                f"a YAML file (see docs/people.md), which may also be beside the model as {beside.name}"
            )
        from uniemox.people.detectors.onnx_detector import OnnxDetector

        return OnnxDetector(path, load_format(form or str(beside)), limits=limits, device=device)
    full = NICKNAMES.get(name, name)
    if full not in NICKNAMES.values():
        known = (*NICKNAMES, *NICKNAMES.values())
        raise ConfigError(
            f"unknown detector {shorten(name)}{nearest(name, known)}; known are {', '.join(NICKNAMES)}, or give "
            "an .onnx file"
        )
    if form is not None:
        raise ConfigError(f"`detector_format` is for models in ONNX; {name} needs none")
    from uniemox.people.detectors.torchvision_detector import TorchvisionDetector

    return TorchvisionDetector(full, weights, limits=limits, device=device)
