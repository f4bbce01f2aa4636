"""Runs an exported classifier in onnxruntime, on the CPU. Brings no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from uniemox.checkpoints.domain import read_features
from uniemox.checkpoints.facts import ModelFacts
from uniemox.checkpoints.notice import announce
from uniemox.config.inference import AskedPrecision
from uniemox.config.training import ENCODER_SHAPES
from uniemox.errors import CheckpointError, ConfigError
from uniemox.files.digest import hash_file
from uniemox.files.onnx import Exceeded, import_onnxruntime, open_session, run_session, session_errors
from uniemox.inference.onnx_file import FEATURES_OUTPUT, OUTPUT_NAME, input_names, read_onnx_file
from uniemox.targets.domain import Domain
from uniemox.wording import counted, reason_of

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from uniemox.config.explain import CamMethod

_MAX_IMAGES = 32  # Images in one run; more are no faster on a CPU
_MAX_ATTENTION = 2**24  # Numbers in the attention of one layer in one run
_MAX_PRODUCTS = 2**37  # Multiplications of numbers in one run: 8 s on two busy cores, of the 40 that it may take
_MOST_PATIENCE = 5.0  # Times the usual limit, for a model of which one image needs more than these
_MAX_FEATURE = 16_384  # Numbers of a feature, as of an embedding
_AGAIN = "export the model again"


class OnnxBackend:
    """A classifier in onnxruntime, with the images that it knows where its graph has features."""

    def __init__(
        self,
        session: InferenceSession,
        path: Path,
        facts: ModelFacts,
        domain: Domain | None = None,
        *,
        width: int | None = None,  # D of its features; None where its graph has none
    ) -> None:
        self.session, self.path, self.facts, self.domain, self._width = session, path, facts, domain, width
        self.precision = "as exported"
        products, most = _MAX_PRODUCTS, 1  # of an architecture that is not ours nothing is known
        if facts.size is not None:
            shape, tokens = ENCODER_SHAPES[facts.size], (facts.image_size // facts.patch_size) ** 2 + 1
            products = shape.depth * tokens * shape.width * (12 * shape.width + 2 * tokens)
            most = min(_MAX_ATTENTION // (shape.num_heads * tokens**2), _MAX_PRODUCTS // products)
        self._at_once = max(1, min(_MAX_IMAGES, most))
        self._patience = min(max(1.0, products / _MAX_PRODUCTS), _MOST_PATIENCE)

    def digest(self) -> str:
        """SHA-256 of the file, which holds everything but the features of images that the model knows."""
        known = b"" if self.domain is None else self.domain.features.tobytes()
        whole = hash_file(self.path)
        return hashlib.sha256(whole.encode() + known).hexdigest() if known else whole

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Run the classifier, or raise `CheckpointError` if it gives no finite number for a class."""
        return self._run(pixels, {OUTPUT_NAME: len(self.facts.classes)})[0]

    def outputs(
        self, pixels: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """Run the classifier as `logits` does, and return features (N, D) too, with a domain."""
        return (self.logits(pixels), None) if self.domain is None else self.embed(pixels)

    def embed(self, pixels: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """Run the classifier as `logits` does, and return features (N, D) too, where its graph has them."""
        if self._width is None:
            return self.logits(pixels), None
        widths = {OUTPUT_NAME: len(self.facts.classes), FEATURES_OUTPUT: self._width}
        logits, features = self._run(pixels, widths)
        return logits, features

    def activation_maps(
        self, pixels: npt.NDArray[np.float32], place: int, method: CamMethod
    ) -> npt.NDArray[np.float64]:
        """Refuse: a graph keeps its layers to itself."""
        del pixels, place
        raise ConfigError(f"{self.path} is an export, whose layers `method` {method} cannot read: use occlusion")

    def _run(self, pixels: npt.NDArray[np.float32], widths: dict[str, int]) -> list[npt.NDArray[np.float32]]:
        """Run the graph part by part; return its outputs of these names and widths."""
        starts = range(0, len(pixels), self._at_once)
        parts = [self._run_part(pixels[start : start + self._at_once], widths) for start in starts]
        return [np.concatenate(output) for output in zip(*parts, strict=True)]

    def _run_part(self, pixels: npt.NDArray[np.float32], widths: dict[str, int]) -> list[npt.NDArray[np.float32]]:
        path, classes = self.path, len(self.facts.classes)
        views = {name: pixels[:, index] for index, name in enumerate(input_names(self.facts.view))}
        found: list[npt.NDArray[np.float32]]
        try:
            found = run_session(self.session, list(widths), views, patience=self._patience)
        except Exceeded as error:
            raise CheckpointError(f"{path} {error} for {counted(len(pixels), 'image')}: {_AGAIN}") from error
        except session_errors() as error:
            raise CheckpointError(f"{path} cannot be run ({reason_of(error)}): {_AGAIN}") from error
        for (name, width), values in zip(widths.items(), found, strict=True):
            if values.shape != (len(pixels), width) or not np.isfinite(values).all():
                what = f"{classes} classes" if name == OUTPUT_NAME else f"{width} {name}"
                raise CheckpointError(f"{path} gave no finite number for each of its {what}: {_AGAIN}")
        return found


def load_onnx(
    path: Path, *, device: str, dataset: str | None = None, precision: AskedPrecision = "auto"
) -> OnnxBackend:
    """Load a classifier from its file, which names its classes and computes on the CPU as it was exported.

    The images that it knows are read from beside the file; without them it answers without distances. Asking for
    another device, other classes or a precision raises `ConfigError`.
    """
    if dataset is not None:
        raise ConfigError(f"{path} names its classes itself: omit `dataset` {dataset}")
    if precision != "auto":
        raise ConfigError(f"{path} computes as it was exported: omit `precision` {precision}, or give its model folder")
    if device not in ("auto", "cpu"):
        raise ConfigError(f"device is {device}, but an exported model runs on the cpu: use `device` auto or cpu")
    walked, facts = read_onnx_file(path)
    import_onnxruntime("export")
    session = open_session(walked, then="copy it or export the model again")
    side, classes = facts.image_size, len(facts.classes)
    asked = [(name, "tensor(float)", [3, side, side]) for name in input_names(facts.view)]
    answered = [(OUTPUT_NAME, "tensor(float)", [classes])]
    width = _width_of_features(session)
    if width is not None:
        answered += [(FEATURES_OUTPUT, "tensor(float)", [width])]
    for ends, expected in ((session.get_inputs(), asked), (session.get_outputs(), answered)):
        found = [(end.name, end.type, end.shape[1:]) for end in ends]
        if found != expected or any(isinstance(end.shape[0], int) for end in ends):
            wanted = f"{_describe(expected)} should be, for any number of images"
            raise CheckpointError(f"{path} has {_describe(found)} where {wanted}: {_AGAIN}")
    domain = None if width is None else read_features(path.parent, facts, width=width)
    announce(facts)
    return OnnxBackend(session, path, facts, domain, width=width)


def _width_of_features(session: InferenceSession) -> int | None:
    """Return D of the output `features` (N, D); None where the graph has none of a width that any encoder has."""
    for end in session.get_outputs()[1:]:
        if end.name == FEATURES_OUTPUT and isinstance(end.shape[-1], int) and 0 < end.shape[-1] <= _MAX_FEATURE:
            return int(end.shape[-1])
    return None


def _describe(ends: list[tuple[str, str, list[Any]]]) -> str:
    return " and ".join(f"{name} {kind} {shape}"[:80] for name, kind, shape in ends[:3]) or "nothing"
