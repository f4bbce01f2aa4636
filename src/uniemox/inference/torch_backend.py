"""Runs a model folder's classifier in torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import torch

from uniemox.checkpoints.folder import Classifier
from uniemox.checkpoints.load import load_model
from uniemox.checkpoints.notice import announce
from uniemox.checkpoints.open import Opened
from uniemox.compute.devices import choose_device, choose_precision, computing_in
from uniemox.config.checks import Precision
from uniemox.config.inference import AskedPrecision
from uniemox.config.zero_shot import ZeroShotConfig
from uniemox.errors import CheckpointError, ConfigError
from uniemox.inference.zero_shot import calibrate
from uniemox.models.classify import read_features
from uniemox.models.zero_shot import ClipClassifier

if TYPE_CHECKING:
    from uniemox.config.explain import CamMethod

_SHAPING: Final = (
    *("classes", "target", "thresholds", "numbers", "architecture", "image_size"),
    *("view", "fusion", "pool", "preparation", "person"),
)
"""Facts that answers depend on beside the weights."""


class TorchBackend:
    """A classifier in torch; its model must be on the device."""

    def __init__(self, classifier: Classifier, device: torch.device, *, precision: Precision) -> None:
        self.model, self.facts, self.domain = classifier.model, classifier.facts, classifier.domain
        self.device, self.precision = device, precision

    def in_fp32(self) -> TorchBackend:
        """Return the same model in fp32, which is what its facts then record."""
        facts = dataclasses.replace(self.facts, precision="fp32")
        return TorchBackend(Classifier(self.model, facts, self.domain), self.device, precision="fp32")

    def digest(self) -> str:
        """SHA-256 of the weights as they are used, their names and shapes, and of the facts that shape answers."""
        facts = dataclasses.asdict(self.facts)
        shaping = {name: facts[name] for name in _SHAPING if name in facts}
        digest = hashlib.sha256(json.dumps(shaping, sort_keys=True).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        if self.domain is not None:
            digest.update(self.domain.features.tobytes())
        return digest.hexdigest()

    @torch.inference_mode()
    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Run the classifier: (N, V, 3, S, S) to (N, C); `CheckpointError` if a number is not finite."""
        views = torch.from_numpy(pixels).to(self.device).unbind(dim=1)
        with computing_in(self.precision, self.device):
            answer = self.model(*views)
        return _finite(_to_numpy(answer))

    def outputs(
        self, pixels: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """Run the classifier: (N, V, 3, S, S) to logits (N, C), as `logits`, and with a domain features (N, D)."""
        return (self.logits(pixels), None) if self.domain is None else self.embed(pixels)

    @torch.inference_mode()
    def embed(self, pixels: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Run the classifier: (N, V, 3, S, S) to logits (N, C), as `logits`, and features (N, D)."""
        views = torch.from_numpy(pixels).to(self.device).unbind(dim=1)
        with computing_in(self.precision, self.device):
            logits, features = read_features(self.model, *views)
        return _finite(_to_numpy(logits)), _to_numpy(features)

    def activation_maps(
        self, pixels: npt.NDArray[np.float32], place: int, method: CamMethod
    ) -> npt.NDArray[np.float64]:
        """Map what in each view of an image (V, 3, S, S) speaks for an output, by a layer: (V, h, w)."""
        from uniemox.inference.activations import activation_maps

        views = torch.from_numpy(pixels)[:, None].to(self.device).unbind()
        with computing_in(self.precision, self.device):
            return activation_maps(self.model, views, place, method)


def _to_numpy(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    values: npt.NDArray[np.float32] = tensor.float().cpu().numpy()
    return values


def _finite(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if not np.isfinite(logits).all():
        raise CheckpointError("the model gave no finite number for a class: its weights may be damaged; make it again")
    return logits


def load_torch(
    model: str | Path | Opened,
    *,
    device: str,
    dataset: str | None = None,
    precision: AskedPrecision = "auto",
    zero_shot: ZeroShotConfig | None = None,
) -> TorchBackend:
    """Load a classifier as `load_model` does, calibrated if asked; precision auto is what the folder records.

    Raises `ConfigError` for a CLIP that is asked for bf16, beside the errors of `load_model`.
    """
    where = choose_device(device)
    classifier = load_model(model, dataset=dataset, device=where, zero_shot=zero_shot)
    if precision == "bf16" and isinstance(classifier.model, ClipClassifier):  # it leaves autocast, which is slow for it
        raise ConfigError(f"precision is bf16, but {classifier.facts.architecture} computes in fp32: omit `precision`")
    announce(classifier.facts)
    chosen = choose_precision(precision, classifier.facts.precision, where)
    backend = TorchBackend(classifier, where, precision=chosen)
    if zero_shot is None or zero_shot.calibrate is None:
        return backend
    classifier = calibrate(classifier, backend.logits, zero_shot.calibrate)
    return TorchBackend(classifier, where, precision=chosen)
