"""torchvision's detectors trained on COCO, with its weights or those of a file.

Nothing is downloaded unless the weights were asked for by `default`.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torchvision.models import detection
from torchvision.transforms.v2.functional import pil_to_tensor

from uniemox.data.detectors.detector import fingerprint, select_people
from uniemox.devices import build_accelerator
from uniemox.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL import Image
    from torch import Tensor

    from uniemox.data.detectors.detector import Limits
    from uniemox.data.manifest import Box

PERSON: Final = 1
"""Number of the class in COCO as torchvision counts it: 0 is the background."""
DEFAULT: Final = "default"
"""Word for torchvision's own weights, downloaded where they are not on this machine."""


@dataclass(frozen=True)
class Architecture:
    """One of torchvision's detectors."""

    build: Callable[..., Any]
    weights: Any
    prefix: str
    """What its names of thresholds begin with."""
    pads: bool
    """Whether it pads the pictures of a batch to one size; else it squeezes each to its own."""


ARCHITECTURES: Final = {
    "ssdlite320_mobilenet_v3_large": Architecture(
        detection.ssdlite320_mobilenet_v3_large,
        detection.SSDLite320_MobileNet_V3_Large_Weights.COCO_V1,
        "",
        pads=False,
    ),
    "fasterrcnn_mobilenet_v3_large_fpn": Architecture(
        detection.fasterrcnn_mobilenet_v3_large_fpn,
        detection.FasterRCNN_MobileNet_V3_Large_FPN_Weights.COCO_V1,
        "box_",
        pads=True,
    ),
    "fasterrcnn_mobilenet_v3_large_320_fpn": Architecture(
        detection.fasterrcnn_mobilenet_v3_large_320_fpn,
        detection.FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.COCO_V1,
        "box_",
        pads=True,
    ),
}


class TorchvisionDetector:
    """A detector of torchvision; its NMS is run at our limit, class by class.

    Args:
        name: One of `ARCHITECTURES`.
        weights: `default`, the path of a file, or None for torchvision's own if they are on this machine.
        limits: What counts as a person.
        device: auto, cpu, cuda or mps.

    Raises:
        DataError: The weights are not there, cannot be downloaded, or are others.
        ConfigError: The device is not there.
    """

    def __init__(
        self, name: str, weights: str | None, *, limits: Limits, device: str = "auto"
    ) -> None:
        self._limits = limits
        self._device = build_accelerator(device).device
        architecture = ARCHITECTURES[name]
        path = _find_weights(name, architecture, weights)
        thresholds = {
            f"{architecture.prefix}score_thresh": limits.score,
            f"{architecture.prefix}nms_thresh": limits.nms_iou,
        }
        model = architecture.build(weights=None, weights_backbone=None, **thresholds)
        _fill(model, path)
        self._model = model.eval().to(self._device)
        self._pads = architecture.pads
        file = f"{path.name}, SHA-256 {fingerprint(path)}…"
        self.source = f"{name} ({file}), torchvision {torchvision.__version__}; {limits}"

    @torch.inference_mode()
    def detect(self, images: Sequence[Image.Image]) -> list[tuple[Box, ...]]:
        """Find the people of each picture.

        Faster R-CNN pads the pictures of a batch to the largest of them, and the padding leaks into what it finds. So
        it gets pictures of one size at once: what is in a picture does not depend on its neighbours.
        """
        people: dict[int, tuple[Box, ...]] = {}
        for places in _groups(images, by_size=self._pads):
            pixels = [pil_to_tensor(images[i]).to(self._device).float() / 255 for i in places]
            for i, found in zip(places, self._model(pixels), strict=True):
                people[i] = self._to_people(found, images[i].width, images[i].height)
        return [people[i] for i in range(len(images))]

    def _to_people(self, found: dict[str, Tensor], width: int, height: int) -> tuple[Box, ...]:
        is_person = found["labels"] == PERSON
        corners, scores = (found[key][is_person].cpu().numpy() for key in ("boxes", "scores"))
        return select_people(
            corners, scores, limits=self._limits, width=width, height=height, nms=False
        )


def _groups(images: Sequence[Image.Image], *, by_size: bool) -> list[list[int]]:
    """Part pictures into those that go through the model at once; gives their places."""
    groups: dict[tuple[int, int] | None, list[int]] = {}
    for place, image in enumerate(images):
        groups.setdefault(image.size if by_size else None, []).append(place)
    return list(groups.values())


def _find_weights(name: str, architecture: Architecture, weights: str | None) -> Path:
    if weights is not None and weights != DEFAULT:
        return Path(weights)
    known = architecture.weights
    path = Path(torch.hub.get_dir(), "checkpoints", Path(known.url).name)
    if path.is_file():
        return path
    megabytes = known.meta["_file_size"]
    if weights is None:
        raise DataError(
            f"the weights of {name} are not on this machine: --weights default downloads {megabytes:.0f} MB to {path}, "
            f"--weights FILE takes a file that you fetched yourself from {known.url}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # torchvision names its files by the begin of their hash.
        mark = path.stem.rpartition("-")[2]
        torch.hub.download_url_to_file(known.url, str(path), hash_prefix=mark, progress=False)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"the weights of {name} cannot be downloaded ({reason}): fetch {known.url} by other means and give it by "
            "--weights FILE"
        ) from error
    return path


def _fill(model: torch.nn.Module, path: Path) -> None:
    """Load weights into a model, all of them and nothing else."""
    state = _read_weights(path)
    difference = _difference(state, model.state_dict())
    if difference is not None:
        raise DataError(f"{path} holds the weights of another model: {difference}")
    model.load_state_dict(state)


def _difference(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> str | None:
    """Say what tells weights from those of the model; None where they fit."""
    for name, value in wanted.items():
        if name not in state:
            return f"it lacks {name}"
        if state[name].shape != value.shape:
            return f"{name} has the shape {tuple(state[name].shape)}, not {tuple(value.shape)}"
    return next((f"it has {name}" for name in state if name not in wanted), None)


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of pickles that it then refuses
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message advises to switch the protection off.
        raise DataError(
            f"{path} is damaged or holds more than tensors, which could run code: give a .safetensors file"
        ) from error
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        AttributeError,
        RuntimeError,
        zipfile.BadZipFile,
        SafetensorError,
    ) as error:
        raise DataError(
            f"{path} cannot be read as weights: {' '.join(str(error).split())[:200]}"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        raise DataError(f"{path} holds no weights by name: give a state dict")
    return {str(name): value for name, value in state.items()}
