"""What prediction asks of whatever runs a classifier, and which of them runs a given model. Brings no torch."""

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from uniemox.checkpoints.facts import ModelFacts
from uniemox.checkpoints.open import open_model
from uniemox.config.explain import CamMethod
from uniemox.config.inference import AskedPrecision
from uniemox.config.zero_shot import ZeroShotConfig, refuse_zero_shot
from uniemox.targets.domain import Domain


class Backend(Protocol):
    """A classifier that is ready to answer."""

    @property
    def facts(self) -> ModelFacts:
        """Of the classifier."""

    @property
    def precision(self) -> str:
        """Arithmetic that the model computes in: fp32 or bf16, or `as exported`."""

    @property
    def domain(self) -> Domain | None:
        """The images that the classifier knows, where it keeps them."""

    def digest(self) -> str:
        """SHA-256 of all that its answers depend on: weights, classes, and what is done to an image."""

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Run the classifier: (N, V, 3, S, S), images prepared by `facts.views`, to (N, C) logits in label order."""

    def outputs(
        self, pixels: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """Run the classifier as `logits` does, and return the features (N, D) too that a `domain` measures."""

    def embed(self, pixels: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """Run the classifier as `logits` does, and return what its head reads (N, D) too, where that can be had."""

    def activation_maps(
        self, pixels: npt.NDArray[np.float32], place: int, method: CamMethod
    ) -> npt.NDArray[np.float64]:
        """Map what in each view of an image (V, 3, S, S) speaks for an output, by a layer: (V, h, w).

        Raises:
            ConfigError: It has no layer that can be read.
        """


def load_backend(
    model: str | Path,
    *,
    device: str = "auto",
    dataset: str | None = None,
    precision: AskedPrecision = "auto",
    zero_shot: ZeroShotConfig | None = None,
) -> Backend:
    """Load a classifier; arguments and errors are those of `Predictor.load`."""
    opened = open_model(model)
    if opened.role == "export":
        from uniemox.inference.onnx_backend import load_onnx

        refuse_zero_shot(opened.name, zero_shot)
        return load_onnx(opened.path, device=device, dataset=dataset, precision=precision)
    from uniemox.compute.imports import import_timm

    import_timm()
    from uniemox.inference.torch_backend import load_torch

    return load_torch(opened, device=device, dataset=dataset, precision=precision, zero_shot=zero_shot)
