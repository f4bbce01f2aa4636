"""Any detector in ONNX, run by onnxruntime as its format describes it. No torch is needed.

Shapes: `B` images, `N` candidates of each, `K` numbers of a candidate.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, assert_never

import numpy as np
from PIL import Image

from uniemox.config.people import Limits
from uniemox.errors import ConfigError, DataError
from uniemox.files.onnx import Exceeded, import_onnxruntime, open_session, run_session, session_errors
from uniemox.files.onnx_walk import Rules, walk
from uniemox.manifests.table import Box
from uniemox.people.boxes import is_person
from uniemox.people.detectors.detector import fingerprint, select_people
from uniemox.people.detectors.formats import CENTRE, CORNERS
from uniemox.wording import counted, printable, reason_of, shorten

if TYPE_CHECKING:
    from uniemox.people.detectors.formats import Fit, Format, Output

log = logging.getLogger(__name__)

_TYPES: Final = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
_SIZE_TYPES: Final = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32}
_MAX_SIDE: Final = 4096  # Pixels of an input's side
_MAX_BATCH: Final = 128  # Images at once
_MAX_PIXELS: Final = 2**24  # of all images at once: one of the largest; more is a mistake or an attack
_PIXELS_AT_ONCE: Final = 2**20  # Where the model takes any number on the CPU; more are no faster there
_CPU: Final = "CPUExecutionProvider"
_ROUNDING: Final = 1e-3
_LONGEST_NAMES: Final = 100_000

_STANDARD: Final = """
Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization
BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu CenterCropPad Clip Compress Concat
ConcatFromSequence Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumSum DeformConv DepthToSpace
DequantizeLinear Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather
GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
GroupNormalization HardSigmoid HardSwish Hardmax Identity If InstanceNormalization IsInf IsNaN LRN
LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul MatMulInteger Max
MaxPool MaxRoiPool MaxUnpool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression NonZero Not
OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear RMSNormalization Range Reciprocal ReduceL1 ReduceL2
ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
ReverseSequence RoiAlign Round Scan Scatter ScatterElements ScatterND Selu SequenceAt SequenceConstruct
SequenceEmpty SequenceErase SequenceInsert SequenceLength Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax
Softplus Softsign SpaceToDepth Split SplitToSequence Sqrt Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Tile TopK
Transpose Trilu Unique Unsqueeze Upsample Where Xor
"""
_FUSED: Final = """
Attention BiasGelu BiasSoftmax DequantizeLinear DynamicQuantizeMatMul FastGelu FusedConv FusedGemm FusedMatMul Gelu
GemmFastGelu GridSample GroupNorm MatMulInteger16 MatMulIntegerToFloat MatMulNBits MultiHeadAttention NhwcConv
NhwcFusedConv NhwcMaxPool QAttention QGemm QLinearAdd QLinearAveragePool QLinearConcat QLinearGlobalAveragePool
QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid QLinearSoftmax QLinearWhere QuantizeLinear QuickGelu
SkipGroupNorm SkipLayerNormalization
"""

RULES: Final = Rules(
    what="detector",
    then="export the model again, with its functions inlined and its weights in one file",
    operations=frozenset(_STANDARD.split()) | {f"com.microsoft.{name}" for name in _FUSED.split()},
    holding=frozenset(("If", "Loop", "Scan")),
    external=True,
    max_fields=1_000_000,
)  # What is allowed before onnxruntime sees a model


class Place(NamedTuple):
    """Where an image lies in the input, in pixels of the input."""

    left: int
    top: int
    width: int
    height: int


class OnnxDetector:
    """A detector in ONNX, on the device auto, cpu or cuda.

    Raises:
        ConfigError: onnxruntime is missing, or the device is.
        CheckpointError: The file is no model, or is refused.
        DataError: It is not one that the format describes.
    """

    def __init__(self, path: Path, form: Format, *, limits: Limits, device: str = "auto") -> None:
        self._path = path
        self._form = form
        self._limits = limits
        runtime = import_onnxruntime("people")
        file = walk(path, RULES)
        mark = fingerprint(path, *file.beside)
        providers = _providers(device, runtime.get_available_providers())
        self._session = open_session(file, providers=providers, then=RULES.then)
        self._inputs = {each.name: each for each in self._session.get_inputs()}
        self._input = self._find_input()
        self._names = self._find_outputs()
        self._batch, self._size = self._read_shape()
        pixels = _PIXELS_AT_ONCE if providers == [_CPU] else _MAX_PIXELS
        self._at_once = max(1, pixels // (self._size[0] * self._size[1]))
        self._doubt_class()
        self.source = f"{path.name} (SHA-256 {mark}…) as {form.name}, onnxruntime {runtime.__version__}; {limits}"

    def detect(self, images: Sequence[Image.Image]) -> list[tuple[Box, ...]]:
        """Find the people of each image."""
        step = self._batch or self._at_once
        found: list[tuple[Box, ...]] = []
        for start in range(0, len(images), step):
            found += self._detect_at_once(images[start : start + step])
        return found

    def _detect_at_once(self, images: Sequence[Image.Image]) -> list[tuple[Box, ...]]:
        places = [fit(image.size, self._size, self._form.input.fit) for image in images]
        pixels = list(map(self._to_input, images, places))
        missing = (self._batch or 0) - len(images)  # a graph of a fixed batch wants it full
        feed = {self._input.name: np.stack(pixels + pixels[-1:] * missing)}
        size_input = self._form.input.picture_size
        if size_input is not None:
            sizes = [image.size for image in images]
            feed[size_input] = np.array(sizes + sizes[-1:] * missing, _SIZE_TYPES[self._inputs[size_input].type])
        try:
            tensors = run_session(self._session, self._names, feed)
        except Exceeded as error:
            raise DataError(
                f"{self._path} {error} for {counted(len(images), 'image')}: give it fewer at once (`batch_size`), or "
                "take another detector"
            ) from error
        except session_errors() as error:
            raise DataError(
                f"{self._path} cannot compute the inputs of the format {self._form.name} ({reason_of(error)}): "
                "correct the format"
            ) from error
        columns = self._read_columns(tensors, max(len(images), self._batch or 0))
        return [
            self._to_people(columns, i, image, place)
            for i, (image, place) in enumerate(zip(images, places, strict=True))
        ]

    # The input

    def _to_input(self, image: Image.Image, place: Place) -> np.ndarray:
        how = self._form.input
        resized = image.resize((place.width, place.height), Image.Resampling.BILINEAR)
        if resized.size != self._size:
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

    def _find_input(self) -> Any:
        """Find the input of the image, and check that of its size."""
        how = self._form.input
        wanted = [name for name in self._inputs if name != how.picture_size]
        if how.name is None and len(wanted) != 1:
            raise self._misfit(f"input.name is not given, but it has the inputs {_list(self._inputs)}")
        name = how.name or wanted[0]
        for used, types, what in ((name, _TYPES, "images"), (how.picture_size, _SIZE_TYPES, "sizes")):
            if used is not None and used not in self._inputs:
                raise self._misfit(f"it has no input {used}, but {_list(self._inputs)}")
            if used is not None and self._inputs[used].type not in types:
                raise self._misfit(f"its input {used} is a {self._inputs[used].type}, but {what} are numbers")
        others = set(self._inputs) - {name, how.picture_size}
        if others:
            raise self._misfit(f"the format does not mention its input {_list(sorted(others))}")
        return self._inputs[name]

    def _doubt_class(self) -> None:
        """Warn if the model itself, as exports of YOLO do, calls the class of people something else."""
        names = self._session.get_modelmeta().custom_metadata_map.get("names", "")
        number = self._form.person
        found = re.search(rf"[{{,]\s*{number}:\s*['\"]([^'\"]*)", names[:_LONGEST_NAMES])
        if found and not is_person(found[1]):
            log.warning(
                "%s calls class %d %s: those are now the people; person in a format takes another class",
                self._path,
                number,
                printable(shorten(found[1])),
            )

    def _read_shape(self) -> tuple[int | None, tuple[int, int]]:
        """Return the number of images at once (None for any) and the width and height of the input."""
        shape, how, name = self._input.shape, self._form.input, self._input.name
        sides = dict(zip(how.layout, (side if isinstance(side, int) else None for side in shape), strict=False))
        fixed = [side for side in sides.values() if side is not None]
        if len(shape) != 4 or sides["c"] not in (3, None) or min(fixed, default=1) < 1:
            raise self._misfit(f"its input {name} has the shape {_show(shape)}, not that of {how.layout} images")
        # What the graph fixes counts more than the usual size of a family.
        width, height = (sides[axis] or side for axis, side in zip("wh", how.size or (None, None), strict=True))
        if width is None or height is None:
            raise self._misfit(f"its input {name} leaves width and height open: give input.size")
        batch = sides["n"] or 1
        if max(width, height) > _MAX_SIDE or batch > _MAX_BATCH or batch * width * height > _MAX_PIXELS:
            raise self._misfit(f"its input {name} of {_show(shape)} is too large")
        return sides["n"], (width, height)

    # The outputs

    def _find_outputs(self) -> list[str]:
        found = [each.name for each in self._session.get_outputs()]
        outputs = self._form.outputs
        for output in outputs:
            if output.name is None and (len(outputs) > 1 or len(found) > 1):
                raise self._misfit(f"an output has no name, but there are {_list(found)}")
            if output.name not in (None, *found):
                raise self._misfit(f"it has no output {output.name}, but {_list(found)}")
        return [output.name or found[0] for output in outputs]

    def _read_columns(self, tensors: Sequence[np.ndarray], count: int) -> dict[str, np.ndarray]:
        """Return the numbers under each word: (B, N), scores (B, N, C); with a `batch` column, B is 1."""
        columns: dict[str, np.ndarray] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for output, name, tensor in zip(self._form.outputs, self._names, tensors, strict=True):
            values = self._to_candidates(output, name, np.asarray(tensor), count)
            shapes[name] = values.shape[:2]
            first = self._names[0]
            if shapes[name] != shapes[first]:
                raise self._misfit(
                    f"its output {name} has {shapes[name][1]} candidates for {shapes[name][0]} images, but {first} has "
                    f"{shapes[first][1]} for {shapes[first][0]}"
                )
            for index, word in enumerate(output.columns):
                columns[word] = values[..., index:] if word == "scores" else values[..., index]
        return self._to_pixels(columns) if self._form.is_by_centre else columns

    def _to_pixels(self, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Make boxes of the offsets in cells of grids, and refuse offsets where boxes are expected."""
        sides = {word: columns[word].astype(np.float64) for word in ("w", "h")}
        strides = self._form.strides
        if strides is None:
            least = min(side.min(initial=0) for side in sides.values())
            if least < -_ROUNDING:
                raise self._misfit(
                    f"it has boxes of width or height {least:g}: other columns, or offsets of cells, which need "
                    "strides, such as [8, 16, 32]"
                )
            return columns
        width, height = self._size
        # Row and column of the cells of each grid, row by row.
        grids = [np.mgrid[: height // stride, : width // stride].reshape(2, -1) for stride in strides]
        top, left = np.concatenate(grids, axis=1)
        stride = np.repeat(strides, [grid.shape[1] for grid in grids])
        if columns["w"].shape[1] != len(stride):
            raise self._misfit(
                f"it has {columns['w'].shape[1]} candidates, but grids of {', '.join(map(str, strides))} pixels have "
                f"{len(stride)} cells in {width} × {height}"
            )
        with np.errstate(over="ignore"):  # a box of infinite side is dropped later
            made = {word: np.exp(side) * stride for word, side in sides.items()}
        made["cx"] = (columns["cx"] + left) * stride
        made["cy"] = (columns["cy"] + top) * stride
        return columns | made

    def _to_candidates(self, output: Output, name: str, tensor: np.ndarray, count: int) -> np.ndarray:
        """Bring an output to (B, N, K), its scores to probabilities, and check it."""
        is_joint = "batch" in self._form.columns
        has_classes = "scores" in output.columns
        values = tensor[..., None] if len(output.columns) == 1 and not has_classes and tensor.ndim < 3 else tensor
        if values.ndim == 2 and (count == 1 or is_joint):
            values = values[None]
        if output.transposed and values.ndim == 3:
            values = values.transpose(0, 2, 1)
        needed = len(output.columns) + self._form.person * has_classes
        width = values.shape[-1] if values.ndim else 0
        fits = width == needed or (width > needed and has_classes)
        if values.ndim != 3 or values.shape[0] != (1 if is_joint else count) or not fits:
            least = "at least " if has_classes else ""
            where = "second" if output.transposed else "last"
            raise self._misfit(
                f"its output {name} has the shape {_show(tensor.shape)}, but the columns {', '.join(output.columns)} "
                f"of {counted(count, 'image')} need {least}{needed} in the {where} axis"
            )
        if not np.issubdtype(values.dtype, np.number):
            raise self._misfit(f"its output {name} holds {values.dtype}, not numbers")
        places = [place for place, word in enumerate(output.columns) if word in ("score", "scores")]
        if not places:
            return values
        values = values.astype(np.float32)
        own = slice(places[0], None if has_classes else places[0] + 1)
        scores = values[..., own] = _activated(values[..., own], output)
        # Some graphs round; NaN compares false, and its box is dropped later.
        invalid = scores[(scores < -_ROUNDING) | (scores > 1 + _ROUNDING)]
        if invalid.size:
            raise self._misfit(
                f"its output {name} of the shape {_show(values.shape)} has the score {invalid[0]:g}, which is not from "
                "0 to 1: another column, or activation: sigmoid"
            )
        return values

    def _to_people(
        self, columns: Mapping[str, np.ndarray], index: int, image: Image.Image, place: Place
    ) -> tuple[Box, ...]:
        """Choose the people of one image."""
        form = self._form
        if "batch" in columns:
            is_mine = columns["batch"][0] == index
            mine = {word: values[0, is_mine] for word, values in columns.items()}
        else:
            mine = {word: values[index] for word, values in columns.items()}
        scores = mine["scores"][:, form.person] if "scores" in mine else mine["score"]
        if "objectness" in mine:
            scores = scores * mine["objectness"]
        words = CENTRE if form.is_by_centre else CORNERS
        corners = np.stack([mine[word] for word in words], axis=-1).astype(np.float64)
        if form.is_by_centre:
            centre, half = corners[:, :2], corners[:, 2:] / 2
            corners = np.concatenate([centre - half, centre + half], axis=1)
        if "class" in mine:
            is_person = np.rint(mine["class"]) == form.person
            scores, corners = scores[is_person], corners[is_person]
        if form.unit == "share":
            corners = corners * np.tile(self._size, 2)
        if form.unit != "picture":
            scale = np.tile((image.width / place.width, image.height / place.height), 2)
            corners = (corners - np.tile((place.left, place.top), 2)) * scale
        width, height = image.size
        return select_people(corners, scores, limits=self._limits, width=width, height=height, nms=form.duplicates)

    def _misfit(self, what: str) -> DataError:
        return DataError(f"the detector {self._path} does not fit its format {self._form.name}: {what}")


def fit(size: tuple[int, int], into: tuple[int, int], how: Fit) -> Place:
    """Place an image of some width and height in an input: stretch fills it, letterbox and corner keep the aspect."""
    if how == "stretch":
        return Place(0, 0, *into)
    scale = min(into[0] / size[0], into[1] / size[1])
    width, height = (min(end, max(1, round(side * scale))) for side, end in zip(size, into, strict=True))
    if how == "corner":
        return Place(0, 0, width, height)
    return Place((into[0] - width) // 2, (into[1] - height) // 2, width, height)


def _activated(values: np.ndarray, output: Output) -> np.ndarray:
    match output.activation:
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
            assert_never(output.activation)


def _providers(device: str, available: Sequence[str]) -> list[str]:
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device is {device}, but a detector in ONNX runs on auto, cpu or cuda")
    wanted = [_CPU] if device == "cpu" else ["CUDAExecutionProvider", _CPU]
    if device == "cuda" and wanted[0] not in available:
        raise ConfigError(
            f"device is cuda, but onnxruntime has {', '.join(available)} here: install onnxruntime-gpu, or use cpu"
        )
    return [provider for provider in wanted if provider in available]


def _show(shape: Sequence[object]) -> str:
    return f"({', '.join('?' if side is None else str(side) for side in shape)})"


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
