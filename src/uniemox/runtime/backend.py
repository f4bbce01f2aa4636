"""What prediction asks of whatever runs a classifier, and which of them runs a given model. Brings no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from uniemox.checkpoints.facts import locate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from PIL import Image

    from uniemox.checkpoints.facts import ModelFacts
    from uniemox.data.manifest import Box


class Backend(Protocol):
    """A classifier that is ready to answer."""

    @property
    def facts(self) -> ModelFacts:
        """What is known of the classifier."""

    def prepare(self, image: Image.Image, boxes: Sequence[Box] = ()) -> npt.NDArray[np.float32]:
        """Bring one RGB picture to what `logits` takes a stack of; called from several threads at once.

        A classifier of persons cuts one of the boxes; where none lies in the picture, the scene stands in.
        """

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Run the classifier: (N, …) prepared pictures to (N, C) calibrated logits, in label order."""


def load_backend(model: str | Path, *, device: str = "auto") -> Backend:
    """Load a classifier.

    Args:
        model: Folder of a classifier, or `demo` for the embedded one.
        device: auto, cpu, cuda or mps.

    Raises:
        CheckpointError: The model cannot be read.
        ConfigError: The device is not there.
    """
    folder = locate(str(model))
    from uniemox.runtime.torch_backend import load_torch

    return load_torch(folder, device=device)
