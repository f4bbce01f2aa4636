"""Runs a model folder's classifier in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from uniemox.checkpoints.sources import load_model
from uniemox.data.pixels import EvaluationViews
from uniemox.devices import build_accelerator

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from PIL import Image

    from uniemox.checkpoints.bundle import Classifier
    from uniemox.data.manifest import Box


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
        self._prepare = EvaluationViews(
            size=self.facts.image_size, view=self.facts.view, person=self.facts.person
        )

    def prepare(self, image: Image.Image, boxes: Sequence[Box] = ()) -> npt.NDArray[np.float32]:
        """Bring an RGB picture to (V, 3, S, S), normalised, V being 1 view or 2."""
        return self._prepare(image, boxes)

    @torch.inference_mode()
    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Run the classifier: (N, V, 3, S, S) to (N, C)."""
        views = torch.from_numpy(pixels).to(self.device).unbind(dim=1)
        logits: npt.NDArray[np.float32] = self.model(*views).float().cpu().numpy()
        return logits


def load_torch(place: Path, *, device: str, dataset: str | None = None) -> TorchBackend:
    """Load a classifier from its folder, or from a file or folder that others wrote.

    Raises:
        CheckpointError: It is damaged, of another kind or of a newer version, or its classes are not told.
        ConfigError: The device is not there.
    """
    where = build_accelerator(device).device
    return TorchBackend(load_model(place, dataset=dataset, device=where), where)
