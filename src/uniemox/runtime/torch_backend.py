"""Runs a model folder's classifier in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from uniemox.checkpoints.bundle import load_classifier
from uniemox.data.pixels import Preparation
from uniemox.devices import build_accelerator

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from PIL import Image

    from uniemox.checkpoints.bundle import Classifier


class TorchBackend:
    """A classifier in torch.

    Args:
        classifier: Model with its facts.
        device: Where the model is.
    """

    def __init__(self, classifier: Classifier, device: torch.device) -> None:
        self.model = classifier.model
        self.facts = classifier.facts
        self.device = device
        self._prepare = Preparation(self.facts.image_size)

    def prepare(self, image: Image.Image) -> npt.NDArray[np.float32]:
        """Bring an RGB picture to (3, S, S), normalised."""
        return self._prepare(image)

    @torch.inference_mode()
    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Run the classifier: (N, 3, S, S) to (N, C)."""
        logits: npt.NDArray[np.float32] = (
            self.model(torch.from_numpy(pixels).to(self.device)).float().cpu().numpy()
        )
        return logits


def load_torch(folder: Path, *, device: str) -> TorchBackend:
    """Load a classifier from its folder.

    Raises:
        CheckpointError: The folder is damaged, of another kind or of a newer version.
        ConfigError: The device is not there.
    """
    place = build_accelerator(device).device
    return TorchBackend(load_classifier(folder, device=place), place)
