"""torchvision's detectors trained on COCO, with its weights or those of a file.

Nothing is downloaded unless the weights were asked for by `default`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
import torchvision
from PIL import Image
from torchvision.models import get_model, get_model_weights
from torchvision.transforms.v2.functional import pil_to_tensor

from uniemox.compute.devices import build_accelerator
from uniemox.config.people import Limits
from uniemox.errors import DataError
from uniemox.files.state_dicts import read_state
from uniemox.files.weights import load_copy
from uniemox.manifests.table import Box
from uniemox.people.detectors.detector import fingerprint, select_people
from uniemox.wording import reason_of

PERSON: Final = 1  # Number of the class in COCO as torchvision counts it: 0 is the background


class TorchvisionDetector:
    """A detector of torchvision; its NMS is run at our limit, class by class.

    Args:
        name: One of `choice.NICKNAMES`, in full.
        weights: `default`, the path of a file, or None for torchvision's own if they are on this machine.
        limits: What counts as a person.
        device: auto, cpu, cuda or mps.

    Raises:
        DataError: The weights are not on this machine, or cannot be downloaded.
        CheckpointError: The file is refused, damaged, or holds other weights.
        ConfigError: The device is missing.
    """

    def __init__(self, name: str, weights: str | None, *, limits: Limits, device: str = "auto") -> None:
        self._limits = limits
        self._device = build_accelerator(device).device
        # Faster R-CNN pads the images of a batch to one size; SSD squeezes each to its own.
        self._pads = name.startswith("fasterrcnn")
        prefix = "box_" if self._pads else ""
        thresholds = {f"{prefix}score_thresh": limits.score, f"{prefix}nms_thresh": limits.nms_iou}
        path = _find_weights(name, weights)
        model = get_model(name, weights=None, weights_backbone=None, **thresholds)
        load_copy(model, read_state(path), path)
        self._model = model.eval().to(self._device)
        file = f"{path.name}, SHA-256 {fingerprint(path)}…"
        self.source = f"{name} ({file}), torchvision {torchvision.__version__}; {limits}"

    @torch.inference_mode()
    def detect(self, images: Sequence[Image.Image]) -> list[tuple[Box, ...]]:
        """Find the people of each image.

        Padding leaks into what Faster R-CNN finds, so it gets images of one size at once: what is in an image does not
        depend on its neighbours.
        """
        places_of: dict[tuple[int, int] | None, list[int]] = {}
        for place, image in enumerate(images):
            places_of.setdefault(image.size if self._pads else None, []).append(place)
        people: dict[int, tuple[Box, ...]] = {}
        for places in places_of.values():
            pixels = [pil_to_tensor(images[i]).to(self._device).float() / 255 for i in places]
            for i, found in zip(places, self._model(pixels), strict=True):
                is_person = found["labels"] == PERSON
                corners, scores = (found[key][is_person].cpu().numpy() for key in ("boxes", "scores"))
                width, height = images[i].size
                people[i] = select_people(corners, scores, limits=self._limits, width=width, height=height, nms=False)
        return [people[i] for i in range(len(images))]


def _find_weights(name: str, weights: str | None) -> Path:
    """Return the path of a file, or of torchvision's own weights, downloaded where `default` asks for them."""
    if weights not in (None, "default"):
        return Path(str(weights))
    known = get_model_weights(name)["COCO_V1"]
    path = Path(torch.hub.get_dir(), "checkpoints", Path(known.url).name)
    if path.is_file():
        return path
    megabytes = known.meta["_file_size"]
    if weights is None:
        raise DataError(
            f"the weights of {name} are not on this machine: `detector_weights` default downloads {megabytes:.0f} MB "
            f"to {path}, `detector_weights` FILE takes a file that you fetched yourself from {known.url}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # torchvision names its files by the first digits of their hash.
        mark = path.stem.rpartition("-")[2]
        torch.hub.download_url_to_file(known.url, str(path), hash_prefix=mark, progress=False)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"the weights of {name} cannot be downloaded ({reason_of(error)}): fetch {known.url} by other means, and "
            "give the file as `detector_weights`"
        ) from error
    return path
