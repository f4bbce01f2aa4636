"""Runs an exported classifier in onnxruntime, on the CPU. Brings no torch."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from uniemox.config import ENCODER_SHAPES
from uniemox.data.pixels import EvaluationViews
from uniemox.errors import CheckpointError, ConfigError
from uniemox.runtime.onnx_file import OUTPUT_NAME, OnnxFile, read_onnx_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt
    from onnxruntime import InferenceSession
    from PIL import Image

    from uniemox.data.manifest import Box

_MEMORY = 3 * 2**29
"""Bytes that all sessions together may take between input and output, so that no file can take all memory."""
_MOST_AT_ONCE = 32
"""Pictures in one run; more are no faster on a CPU."""
_MOST_ATTENTION = 2**24
"""Numbers in the attention of one layer in one run."""


class OnnxBackend:
    """A classifier in onnxruntime.

    Args:
        session: The loaded file.
        file: What it says of itself.
    """

    def __init__(self, session: InferenceSession, file: OnnxFile) -> None:
        self.session = session
        self.facts = file.facts
        self._file = file
        self._prepare = EvaluationViews(
            size=self.facts.image_size, view=self.facts.view, person=self.facts.person
        )

    def prepare(self, image: Image.Image, boxes: Sequence[Box] = ()) -> npt.NDArray[np.float32]:
        """Bring an RGB picture to (V, 3, S, S), normalised, V being 1 view or 2."""
        return self._prepare(image, boxes)

    def logits(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Run the classifier: (N, V, 3, S, S) to (N, C).

        Raises:
            CheckpointError: The file does not give a finite number for each class.
        """
        most = self._most_at_once
        return np.concatenate(
            [self._run(pixels[start : start + most]) for start in range(0, len(pixels), most)]
        )

    @property
    def _most_at_once(self) -> int:
        tokens = (self.facts.image_size // self.facts.patch_size) ** 2 + 1
        attention = ENCODER_SHAPES[self.facts.size].num_heads * tokens**2
        return max(1, min(_MOST_AT_ONCE, _MOST_ATTENTION // attention))

    def _run(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        views = {name: pixels[:, index] for index, name in enumerate(self._file.input_names)}
        logits: npt.NDArray[np.float32]
        try:
            (logits,) = self.session.run([OUTPUT_NAME], views)
        except _errors() as error:
            raise CheckpointError(
                f"{self._file.path} cannot be run ({_reason(error)}): export the model again"
            ) from error
        if logits.shape != (len(pixels), len(self.facts.classes)) or not np.isfinite(logits).all():
            raise CheckpointError(
                f"{self._file.path} gave no finite number for each of its {len(self.facts.classes)} classes: "
                "export the model again"
            )
        return logits


def load_onnx(path: Path, *, device: str, dataset: str | None = None) -> OnnxBackend:
    """Load a classifier from its file.

    Args:
        path: The file.
        device: auto or cpu.
        dataset: Must be None, since the file names its classes.

    Raises:
        CheckpointError: The file is damaged or refused.
        ConfigError: onnxruntime is missing, or another device or other classes are asked for.
    """
    if dataset is not None:
        raise ConfigError(f"{path} names its classes itself: leave --dataset {dataset} out")
    if device not in ("auto", "cpu"):
        raise ConfigError(
            f"device is {device}, but an exported model runs on the cpu: use --device auto or cpu"
        )
    file = read_onnx_file(path)
    session = _open(file)
    _check_ends(session, file)
    return OnnxBackend(session, file)


def import_onnxruntime() -> Any:
    """Import onnxruntime.

    Raises:
        ConfigError: It is not installed; says how to.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            f"exported models need onnxruntime ({error}): pip install 'uniemox[export]'"
        ) from error
    return onnxruntime


def _open(file: OnnxFile) -> InferenceSession:
    runtime = import_onnxruntime()
    _limit_memory()
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised, too
    # Threads that wait by spinning take the cores from those that decode pictures.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    try:
        return runtime.InferenceSession(
            str(file.path),
            options,
            providers=["CPUExecutionProvider"],
            # An export has nothing left to fold, and what a stranger's file folds is not under the limit of memory.
            disabled_optimizers=["ConstantFolding"],
        )
    except _errors() as error:
        raise CheckpointError(
            f"{file.path} cannot be loaded ({_reason(error)}): copy it or export the model again"
        ) from error


@functools.cache
def _limit_memory() -> None:
    """Give onnxruntime the one allocator that the sessions of this process share."""
    runtime = import_onnxruntime()
    runtime.create_and_register_allocator(
        runtime.OrtMemoryInfo(
            "Cpu",
            runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR,
            0,
            runtime.OrtMemType.DEFAULT,
        ),
        # 1: grow by what is asked for, not by powers of two
        runtime.OrtArenaCfg({"max_mem": _MEMORY, "arena_extend_strategy": 1}),
    )


def _check_ends(session: InferenceSession, file: OnnxFile) -> None:
    side, classes = file.facts.image_size, len(file.facts.classes)
    asked = [(name, "tensor(float)", [3, side, side]) for name in file.input_names]
    answered = [(OUTPUT_NAME, "tensor(float)", [classes])]
    for ends, expected in ((session.get_inputs(), asked), (session.get_outputs(), answered)):
        found = [(end.name, end.type, end.shape[1:]) for end in ends]
        if found != expected or any(isinstance(end.shape[0], int) for end in ends):
            raise CheckpointError(
                f"{file.path} has {_describe(found)} where {_describe(expected)} should be, for any number of "
                "pictures: export the model again"
            )


def _describe(ends: list[tuple[str, str, list[Any]]]) -> str:
    return (
        " and ".join(f"{name} {kind} {shape}"[:80] for name, kind, shape in ends[:3]) or "nothing"
    )


def _errors() -> tuple[type[BaseException], ...]:
    """The errors of onnxruntime, which have no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (
        state.EPFail,
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
    )


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
