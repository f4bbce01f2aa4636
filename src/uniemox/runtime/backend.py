"""What prediction asks of whatever runs a classifier, and which of them runs a given model. Brings no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from uniemox.checkpoints.facts import locate, member
from uniemox.checkpoints.hub import HUB_PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt
    from PIL import Image

    from uniemox.checkpoints.facts import ModelFacts
    from uniemox.data.manifest import Box


ONNX_NAME: Final = "model.onnx"
"""The file of an exported folder that is its model."""


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


def load_backend(model: str | Path, *, device: str = "auto", dataset: str | None = None) -> Backend:
    """Load a classifier.

    Args:
        model: A classifier: its folder, an export, a file that others wrote, `demo`, or a name on the hub.
        device: auto, cpu, cuda or mps.
        dataset: Data set or manifest that names the classes, for weights that do not.

    Raises:
        CheckpointError: The model cannot be read.
        ConfigError: The device is not there.
    """
    file = find_onnx(model)
    if file is not None:
        from uniemox.runtime.onnx_backend import load_onnx

        return load_onnx(file, device=device, dataset=dataset)
    place = locate(str(model))
    from uniemox.runtime.torch_backend import load_torch

    return load_torch(place, device=device, dataset=dataset)


def find_onnx(model: str | Path) -> Path | None:
    """Give the ONNX file of an exported model; None where a model is something else.

    Raises:
        CheckpointError: The file in a folder is a link that leaves it, or a name on the hub cannot be had.
    """
    path = locate(str(model)) if str(model).startswith(HUB_PREFIX) else Path(model)
    if path.suffix.lower() == ".onnx" and not path.is_dir():
        return path
    file = member(path, ONNX_NAME)
    return file if file.is_file() else None
