"""Any detector in ONNX, run by onnxruntime as its format describes it. No torch is needed.

Shapes: `B` pictures, `N` candidates of each, `K` numbers of a candidate.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple, assert_never

import numpy as np
from PIL import Image

from uniemox.data.detectors.detector import fingerprint, select_people
from uniemox.data.findings import printable
from uniemox.errors import ConfigError, DataError
from uniemox.flags import shorten

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from uniemox.data.detectors.detector import Limits
    from uniemox.data.detectors.formats import Activation, Fit, Format, Output
    from uniemox.data.manifest import Box

log = logging.getLogger(__name__)

_TYPES: Final = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
_SIZE_TYPES: Final = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(float)": np.float32,
}
_MAX_SIDE: Final = 8192
"""Pixels of an input's side, and pictures at once; a graph that wants more is a mistake or an attack."""
_MAX_BATCH: Final = 1024
_ROUNDING: Final = 1e-3
_PEOPLE: Final = ("person", "people", "persons", "human", "pedestrian")
"""What models call the class."""
_LONGEST_NAMES: Final = 100_000


class Place(NamedTuple):
    """Where a picture lies in the input, in pixels of the input."""

    left: int
    top: int
    width: int
    height: int


class OnnxDetector:
    """A detector in ONNX.

    Args:
        path: The model.
        form: What goes in and what comes out.
        limits: What counts as a person.
        device: auto, cpu or cuda.

    Raises:
        ConfigError: onnxruntime is missing, or the device is.
        DataError: The file is no model, or not one that the format describes.
    """

    def __init__(self, path: Path, form: Format, *, limits: Limits, device: str = "auto") -> None:
        self._path = path
        self._form = form
        self._limits = limits
        mark = fingerprint(path)
        self._session, version = _open(path, device)
        self._refusals = _refusals()
        self._input = self._find_input()
        self._names = [self._find_output(output) for output in form.outputs]
        self._batch, self._size = self._read_shape()
        self._check_picture_size()
        self._doubt_class()
        self.source = (
            f"{path.name} (SHA-256 {mark}…) as {form.name}, onnxruntime {version}; {limits}"
        )

    def detect(self, images: Sequence[Image.Image]) -> list[tuple[Box, ...]]:
        """Find the people of each picture."""
        step = self._batch or max(1, len(images))
        found: list[tuple[Box, ...]] = []
        for start in range(0, len(images), step):
            found += self._detect_at_once(images[start : start + step])
        return found

    def _detect_at_once(self, images: Sequence[Image.Image]) -> list[tuple[Box, ...]]:
        places = [fit(image.size, self._size, self._form.input.fit) for image in images]
        pixels = [self._to_input(*pair) for pair in zip(images, places, strict=True)]
        # A graph of a fixed batch wants it full.
        pixels += [pixels[-1]] * ((self._batch or 0) - len(pixels))
        feed = {self._input.name: np.stack(pixels)}
        if self._form.input.picture_size is not None:
            sizes = [image.size for image in images]
            sizes += [sizes[-1]] * (len(pixels) - len(sizes))
            kind = _SIZE_TYPES[self._inputs()[self._form.input.picture_size].type]
            feed[self._form.input.picture_size] = np.array(sizes, kind)
        try:
            tensors = self._session.run(self._names, feed)
        except self._refusals as error:
            raise DataError(
                f"{self._path} does not compute what {self._form.name} says goes in "
                f"({_brief(error)}): correct the format"
            ) from error
        columns = self._read_columns(tensors, len(pixels))
        return [
            self._to_people(columns, index, image, place)
            for index, (image, place) in enumerate(zip(images, places, strict=True))
        ]

    # The input

    def _to_input(self, image: Image.Image, place: Place) -> np.ndarray:
        how = self._form.input
        resized = image.resize((place.width, place.height), Image.Resampling.BILINEAR)
        if (place.width, place.height) != self._size:
            grey = Image.new("RGB", self._size, (how.fill,) * 3)
            grey.paste(resized, (place.left, place.top))
            resized = grey
        values = np.asarray(resized)
        if how.colours == "bgr":
            values = values[..., ::-1]
        kind = _TYPES[self._input.type]
        if kind is not np.uint8:
            black, white = how.range
            values = black + values.astype(np.float32) * ((white - black) / 255)
            values = (values - np.array(how.mean)) / np.array(how.deviation)
        values = values.astype(kind, copy=False)
        return values if how.layout == "nhwc" else values.transpose(2, 0, 1)

    def _inputs(self) -> dict[str, Any]:
        return {each.name: each for each in self._session.get_inputs()}

    def _find_input(self) -> Any:
        how, there = self._form.input, self._inputs()
        wanted = [name for name in there if name != how.picture_size]
        if how.name is None and len(wanted) != 1:
            raise self._misfit(f"input.name is not given, but it has the inputs {_list(there)}")
        found = there.get(wanted[0] if how.name is None else how.name)
        if found is None:
            raise self._misfit(f"it has no input {how.name}, but {_list(there)}")
        others = set(there) - {found.name, how.picture_size}
        if others:
            raise self._misfit(f"nothing is said about the input {_list(sorted(others))}")
        if found.type not in _TYPES:
            raise self._misfit(
                f"its input {found.name} is a {found.type}, but pictures are numbers"
            )
        return found

    def _check_picture_size(self) -> None:
        name = self._form.input.picture_size
        if name is None:
            return
        there = self._inputs()
        if name not in there:
            raise self._misfit(f"it has no input {name}, but {_list(there)}")
        if there[name].type not in _SIZE_TYPES:
            raise self._misfit(f"its input {name} is a {there[name].type}, but sizes are numbers")

    def _doubt_class(self) -> None:
        """Warn if the model itself, as exports of YOLO do, calls the class of people something else."""
        names = self._session.get_modelmeta().custom_metadata_map.get("names", "")
        number = self._form.person
        found = re.search(rf"[{{,]\s*{number}:\s*['\"]([^'\"]*)", names[:_LONGEST_NAMES])
        if found and found[1].casefold() not in _PEOPLE:
            log.warning(
                "%s calls class %d %s: those are now the people; person in a format takes another class",
                self._path,
                number,
                printable(shorten(found[1])),
            )

    def _read_shape(self) -> tuple[int | None, tuple[int, int]]:
        """Tell the number of pictures at once (None for any) and the width and height of the input."""
        shape, how = list(self._input.shape), self._form.input
        wanted = (None, 3, None, None) if how.layout == "nchw" else (None, None, None, 3)
        fits = len(shape) == 4 and all(
            not isinstance(there, int) or (there > 0 and need in (None, there))
            for there, need in zip(shape, wanted, strict=False)
        )
        if not fits:
            raise self._misfit(
                f"its input {self._input.name} has the shape {_show(shape)}, not that of {how.layout} pictures"
            )
        sides = shape[2:] if how.layout == "nchw" else shape[1:3]
        height, width = (side if isinstance(side, int) else None for side in sides)
        size = how.size or (width, height)
        # What the graph fixes counts more than the size that a family mostly has.
        size = (width or size[0], height or size[1])
        if size[0] is None or size[1] is None:
            raise self._misfit(
                f"its input {self._input.name} leaves width and height open: give input.size"
            )
        batch = shape[0] if isinstance(shape[0], int) else None
        if max(size[0], size[1]) > _MAX_SIDE or (batch or 1) > _MAX_BATCH:
            raise self._misfit(f"its input {self._input.name} of {_show(shape)} is too large")
        return batch, (size[0], size[1])

    # The outputs

    def _find_output(self, output: Output) -> str:
        there = [each.name for each in self._session.get_outputs()]
        if output.name is None:
            if len(self._form.outputs) > 1 or len(there) > 1:
                raise self._misfit(f"an output has no name, but there are {_list(there)}")
            return str(there[0])
        if output.name not in there:
            raise self._misfit(f"it has no output {output.name}, but {_list(there)}")
        return output.name

    def _read_columns(self, tensors: Sequence[np.ndarray], count: int) -> dict[str, np.ndarray]:
        """Give the numbers under each word: (B, N), scores (B, N, C); with a `batch` column, B is 1."""
        columns: dict[str, np.ndarray] = {}
        shapes = []
        for output, name, tensor in zip(self._form.outputs, self._names, tensors, strict=True):
            values = self._to_candidates(output, name, np.asarray(tensor), count)
            shapes.append((name, values.shape))
            for index, word in enumerate(output.columns):
                columns[word] = values[..., index:] if word == "scores" else values[..., index]
        first, shape = shapes[0]
        for name, other in shapes[1:]:
            if other[:2] != shape[:2]:
                raise self._misfit(
                    f"its output {name} has {other[1]} candidates for {other[0]} pictures, but {first} has "
                    f"{shape[1]} for {shape[0]}"
                )
        return self._to_pixels(columns) if self._form.is_by_centre else columns

    def _to_pixels(self, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Make boxes of what the cells of grids say, or refuse what only they can have said."""
        sides = {word: columns[word].astype(np.float64) for word in ("w", "h")}
        if self._form.strides is None:
            least = min((side.min(initial=0) for side in sides.values()), default=0)
            if least < -_ROUNDING:
                raise self._misfit(
                    f"it has boxes of width or height {least:g}: other columns, or offsets of cells, which need "
                    "strides, such as [8, 16, 32]"
                )
            return columns
        cells = _cells(self._size, self._form.strides)
        count = columns["w"].shape[1]
        if count != len(cells):
            raise self._misfit(
                f"it has {count} candidates, but grids of {', '.join(map(str, self._form.strides))} pixels have "
                f"{len(cells)} cells in {self._size[0]} × {self._size[1]}"
            )
        left, top, stride = cells.T
        with np.errstate(over="ignore"):  # what is endless is nobody later
            made = {word: np.exp(side) * stride for word, side in sides.items()}
        made["cx"] = (columns["cx"] + left) * stride
        made["cy"] = (columns["cy"] + top) * stride
        return columns | made

    def _to_candidates(
        self, output: Output, name: str, tensor: np.ndarray, count: int
    ) -> np.ndarray:
        """Bring an output to (B, N, K) and check it."""
        is_joint = "batch" in self._form.columns
        is_single = len(output.columns) == 1 and not output.has_all_scores
        values = tensor[..., None] if is_single and tensor.ndim < 3 else tensor
        if values.ndim == 2 and (count == 1 or is_joint):
            values = values[None]
        if output.transposed and values.ndim == 3:
            values = values.transpose(0, 2, 1)
        needed = len(output.columns) + self._form.person * output.has_all_scores
        width = values.shape[-1] if values.ndim else 0
        fits = width == needed or (width > needed and output.has_all_scores)
        if values.ndim != 3 or values.shape[0] != (1 if is_joint else count) or not fits:
            least = "at least " if output.has_all_scores else ""
            where = "second" if output.transposed else "last"
            raise self._misfit(
                f"its output {name} has the shape {_show(tensor.shape)}, but the columns {', '.join(output.columns)} "
                f"of {count} {'picture' if count == 1 else 'pictures'} need {least}{needed} in the {where} axis"
            )
        if not np.issubdtype(values.dtype, np.number):
            raise self._misfit(f"its output {name} holds {values.dtype}, not numbers")
        return values if output.scores is None else self._activate(values, output, name)

    def _activate(self, values: np.ndarray, output: Output, name: str) -> np.ndarray:
        """Make probabilities of scores, and refuse what then is none."""
        values = values.astype(np.float32)
        seen = _activated(values[..., output.scores], output.activation)
        values[..., output.scores] = seen
        # Some graphs round; NaN compares false, and is nobody later.
        wrong = seen[(seen < -_ROUNDING) | (seen > 1 + _ROUNDING)]
        if wrong.size:
            raise self._misfit(
                f"its output {name} of the shape {_show(values.shape)} has the score {wrong[0]:g}, which is not from 0 "
                "to 1: another column, or activation: sigmoid"
            )
        return values

    def _to_people(
        self, columns: dict[str, np.ndarray], index: int, image: Image.Image, place: Place
    ) -> tuple[Box, ...]:
        if "batch" in columns:
            is_mine = columns["batch"][0] == index
            mine = {word: values[0, is_mine] for word, values in columns.items()}
        else:
            mine = {word: values[index] for word, values in columns.items()}
        scores = mine["scores"][:, self._form.person] if "scores" in mine else mine["score"]
        if "objectness" in mine:
            scores = scores * mine["objectness"]
        corners = _corners(mine, is_by_centre=self._form.is_by_centre)
        if "class" in mine:
            is_person = np.rint(mine["class"]) == self._form.person
            scores, corners = scores[is_person], corners[is_person]
        return select_people(
            self._to_picture(corners, image, place),
            scores,
            limits=self._limits,
            width=image.width,
            height=image.height,
            nms=self._form.duplicates,
        )

    def _to_picture(self, corners: np.ndarray, image: Image.Image, place: Place) -> np.ndarray:
        """Bring corners to pixels of the picture, (N, 4)."""
        unit = self._form.unit
        if unit == "picture":
            return corners
        if unit == "share":
            corners = corners * np.tile(self._size, 2)
        elif unit != "input":
            assert_never(unit)
        start = np.tile((place.left, place.top), 2)
        scale = np.tile((image.width / place.width, image.height / place.height), 2)
        result: np.ndarray = (corners - start) * scale
        return result

    def _misfit(self, what: str) -> DataError:
        return DataError(
            f"the detector {self._path} does not fit its format {self._form.name}: {what}"
        )


def fit(size: tuple[int, int], into: tuple[int, int], how: Fit) -> Place:
    """Place a picture in the input.

    Args:
        size: Width and height of the picture.
        into: Width and height of the input.
        how: stretch fills it; letterbox and corner keep the aspect, in the middle or at the left and top.
    """
    if how == "stretch":
        return Place(0, 0, *into)
    scale = min(into[0] / size[0], into[1] / size[1])
    width, height = (
        min(end, max(1, round(side * scale))) for side, end in zip(size, into, strict=True)
    )
    if how == "corner":
        return Place(0, 0, width, height)
    return Place((into[0] - width) // 2, (into[1] - height) // 2, width, height)


def _cells(size: tuple[int, int], strides: Sequence[int]) -> np.ndarray:
    """List column, row and stride of the cells of all grids, row by row, (N, 3)."""
    width, height = size
    grids = []
    for stride in strides:
        row, column = np.mgrid[: height // stride, : width // stride].reshape(2, -1)
        grids.append(np.stack([column, row, np.full_like(row, stride)], axis=1))
    return np.concatenate(grids)


def _corners(columns: dict[str, np.ndarray], *, is_by_centre: bool) -> np.ndarray:
    words = ("cx", "cy", "w", "h") if is_by_centre else ("x0", "y0", "x1", "y1")
    boxes = np.stack([columns[word] for word in words], axis=-1).astype(np.float64)
    if not is_by_centre:
        return boxes
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def _activated(values: np.ndarray, activation: Activation) -> np.ndarray:
    match activation:
        case "none":
            return values
        case "sigmoid":
            # tanh does not overflow, exp does.
            return 0.5 * (1 + np.tanh(0.5 * values))
        case "softmax":
            powers = np.exp(values - values.max(axis=-1, keepdims=True))
            result: np.ndarray = powers / powers.sum(axis=-1, keepdims=True)
            return result
        case _:
            assert_never(activation)


def _open(path: Path, device: str) -> tuple[Any, str]:
    """Open a session; give it and onnxruntime's version."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            "a detector in ONNX needs onnxruntime: pip install 'uniemox[people]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong is told by the exception
    # Threads that wait by spinning take the cores from those that decode pictures.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = _providers(device, onnxruntime.get_available_providers())
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except _refusals() as error:
        raise DataError(f"{path} is no model that onnxruntime runs: {_brief(error)}") from error
    return session, onnxruntime.__version__


def _providers(device: str, there: Sequence[str]) -> list[str]:
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device is {device}, but a detector in ONNX runs on auto, cpu or cuda")
    has_cuda = "CUDAExecutionProvider" in there
    if device == "cuda" and not has_cuda:
        raise ConfigError(
            f"--device is cuda, but onnxruntime has {', '.join(there)} here: install onnxruntime-gpu, or use cpu"
        )
    cuda = ["CUDAExecutionProvider"] if has_cuda and device != "cpu" else []
    return [*cuda, "CPUExecutionProvider"]


def _refusals() -> tuple[type[BaseException], ...]:
    """Give the exceptions of onnxruntime, which have no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = (
        "EPFail",
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NoModel",
        "NoSuchFile",
        "NotImplemented",
        "RuntimeException",
    )
    # RuntimeError and ValueError: what the binding itself raises, for example on a wrong rank.
    return (*(getattr(state, name) for name in names), RuntimeError, ValueError)


def _show(shape: Sequence[object]) -> str:
    return f"({', '.join('?' if side is None else str(side) for side in shape)})"


def _list(names: Any) -> str:
    return ", ".join(names) or "none"


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
