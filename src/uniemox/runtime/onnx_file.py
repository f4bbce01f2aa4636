"""Reads what an ONNX file says of itself, and refuses one that could do more than classify. Needs no onnx.

An ONNX file is a protocol buffer (onnx.proto, IR version 10). Before onnxruntime sees it, its messages are walked
without their weights: every operation must be one that an exported classifier has, and every weight must stand in the
file. So no other file is read, no custom code is looked for, and nothing is looped over.
"""

from __future__ import annotations

import json
import math
import mmap
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from uniemox.checkpoints.facts import ModelFacts, facts_from_dict
from uniemox.data.pixels import CROP_SHARE, MEAN, STD
from uniemox.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from uniemox.config import View

METADATA_KEY: Final = "uniemox"
"""Key of the ONNX metadata that holds our facts as JSON: `classifier`, the section `uniemox` of a model folder, and
`preparation`, what is done to a picture, for readers who have no uniemox."""
PREPARATION: Final[dict[str, Any]] = {
    "colours": "RGB",
    "crop_share": CROP_SHARE,
    "interpolation": "bicubic",
    "mean": list(MEAN),
    "std": list(STD),
}
"""The same for all of our classifiers: resize the short side to size / crop_share, cut the centre, divide by 255, take
the mean off, divide by the deviation. A person's crop is resized whole."""
OUTPUT_NAME: Final = "logits"
# fmt: off
OPERATIONS: Final = frozenset({
    "Add", "Cast", "Concat", "Constant", "Conv", "DequantizeLinear", "Div", "Elu", "Erf", "Expand", "Gather",
    "Gelu", "Gemm", "Identity", "LayerNormalization", "MatMul", "Mul", "Pad", "Pow", "QuantizeLinear",
    "ReduceMean", "ReduceSum", "Reshape", "Shape", "Sigmoid", "Slice", "Softmax", "Split", "Sqrt", "Squeeze",
    "Sub", "Transpose", "Unsqueeze",
})
# fmt: on
"""What a vision transformer and a fusion are made of, whichever operator set they are exported in."""
MAX_BYTES: Final = 2**31 - 1
"""Largest file: more a protocol buffer cannot hold."""
_MAX_FIELDS = (
    100_000  # 6 blocks in int8 have 5,027, so the 32 of the largest encoder less than a third of it
)
_MAX_METADATA = 4 * 2**20  # bytes
# Numbers of fields in onnx.proto
_MODEL_GRAPH, _MODEL_METADATA, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 14, 20, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_OPERATION, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSOR = 5
_ATTRIBUTE_OTHERS = frozenset((6, 10, 11, 22, 23))  # graphs, sparse tensors, lists of tensors
_TENSOR_DIMS, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 13, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


@dataclass(frozen=True)
class OnnxFile:
    """A classifier's ONNX file that may be run."""

    path: Path
    facts: ModelFacts

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of what the graph reads: one view, or scene and person."""
        return input_names(self.facts.view)


@dataclass(frozen=True)
class _Span:
    """Where the bytes of a field lie."""

    start: int
    end: int


def input_names(view: View) -> tuple[str, ...]:
    """Names of a graph's inputs, (N, 3, S, S) each, by what its classifier reads."""
    return ("scene", "person") if view == "both" else ("pixels",)


def read_onnx_file(path: Path) -> OnnxFile:
    """Read what a file says of itself, without its weights.

    Raises:
        CheckpointError: It is no ONNX file of ours, it is damaged, or it holds what a classifier does not need.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path} is not a file")
        if not 0 < status.st_size <= MAX_BYTES:
            raise CheckpointError(
                f"{path} has {status.st_size} bytes, but an ONNX file has 1 to {MAX_BYTES}: export the model again"
            )
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            text = _Walk(data, path).metadata_of_model()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error
    return _parse_metadata(text, path)


class _Walk:
    """Walks the messages of one file; reads every byte but the weights at most once."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data = data
        self.path = path
        self.fields_left = _MAX_FIELDS

    def metadata_of_model(self) -> bytes:
        """Check the whole model and give our entry of its metadata."""
        found: list[bytes] = []
        has_graph = False
        for number, value in self._fields(_Span(0, len(self.data))):
            match number:
                case n if n == _MODEL_GRAPH:
                    has_graph = True
                    self._check_graph(self._span(value))
                case n if n == _MODEL_METADATA:
                    found += self._entry(self._span(value))
                case n if n in (_MODEL_TRAINING, _MODEL_FUNCTIONS):
                    raise self._refused("functions or training steps")
        if not has_graph:
            raise self._damaged()
        if len(found) != 1:
            raise CheckpointError(
                f"{self.path} does not say once what it is (metadata `{METADATA_KEY}`): make it with `uniemox export`"
            )
        return found[0]

    def _entry(self, span: _Span) -> Iterator[bytes]:
        fields = {number: self._span(value) for number, value in self._fields(span)}
        key, value = fields.get(_ENTRY_KEY), fields.get(_ENTRY_VALUE)
        if key and value and self._bytes(key, 64) == METADATA_KEY.encode():
            yield self._bytes(value, _MAX_METADATA)

    def _check_graph(self, span: _Span) -> None:
        for number, value in self._fields(span):
            match number:
                case n if n == _GRAPH_NODE:
                    self._check_node(self._span(value))
                case n if n == _GRAPH_INITIALIZER:
                    self._check_tensor(self._span(value))
                case n if n == _GRAPH_SPARSE:
                    raise self._refused("sparse weights")

    def _check_node(self, span: _Span) -> None:
        operation = domain = b""
        for number, value in self._fields(span):
            match number:
                case n if n == _NODE_OPERATION:
                    operation = self._bytes(self._span(value), 64)
                case n if n == _NODE_DOMAIN:
                    domain = self._bytes(self._span(value), 64)
                case n if n == _NODE_ATTRIBUTE:
                    self._check_attribute(self._span(value))
        if domain or operation.decode("utf-8", "replace") not in OPERATIONS:
            name = b".".join(part for part in (domain, operation) if part)
            raise self._refused(f"the operation {name.decode('utf-8', 'replace')!r}")

    def _check_attribute(self, span: _Span) -> None:
        for number, value in self._fields(span):
            if number == _ATTRIBUTE_TENSOR:
                self._check_tensor(self._span(value))
            elif number in _ATTRIBUTE_OTHERS:
                raise self._refused("an operation within an operation")

    def _check_tensor(self, span: _Span) -> None:
        numbers = 1
        for number, value in self._fields(span):
            if number == _TENSOR_DIMS:
                numbers *= math.prod(self._dims(value))
            elif number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value):
                raise self._refused("weights in another file (external data)")
        if numbers > len(self.data):
            raise self._refused(f"a tensor of {numbers} numbers in {len(self.data)} bytes")

    def _dims(self, value: int | _Span) -> Iterator[int]:
        """Give sides of a tensor, which are written one by one or together."""
        if isinstance(value, int):
            yield value
            return
        position = value.start
        while position < value.end:
            side, position = self._varint(position, value.end)
            yield side

    def _fields(self, span: _Span) -> Iterator[tuple[int, int | _Span]]:
        """Give number and value of each field of a message: a whole number, or where its bytes are."""
        position = span.start
        while position < span.end:
            self.fields_left -= 1
            if self.fields_left < 0:
                raise self._refused(f"more than {_MAX_FIELDS} fields")
            tag, position = self._varint(position, span.end)
            value: int | _Span
            match tag & 7:
                case n if n == _VARINT:
                    value, position = self._varint(position, span.end)
                case n if n == _BYTES:
                    length, position = self._varint(position, span.end)
                    value = _Span(position, position + length)
                    position = value.end
                case n if n in (_FIXED64, _FIXED32):
                    value = _Span(position, position + (8 if n == _FIXED64 else 4))
                    position = value.end
                case _:
                    raise self._damaged()
            if position > span.end:
                raise self._damaged()
            yield tag >> 3, value

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        """Read a whole number of seven bits a byte; give it and where it ends."""
        if position < end and (byte := self.data[position]) < 0x80:  # nearly all of them
            return byte, position + 1
        value = 0
        for index in range(10):
            if position + index >= end:
                break
            byte = self.data[position + index]
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                return value, position + index + 1
        raise self._damaged()

    def _span(self, value: int | _Span) -> _Span:
        if isinstance(value, int):
            raise self._damaged()
        return value

    def _bytes(self, span: _Span, most: int) -> bytes:
        return self.data[span.start : min(span.end, span.start + most + 1)]

    def _damaged(self) -> CheckpointError:
        return CheckpointError(
            f"{self.path} is no ONNX file, or a damaged one: copy it or export the model again"
        )

    def _refused(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path} is refused: it holds {what}, which no exported classifier does; make it with `uniemox export`"
        )


def _parse_metadata(text: bytes, path: Path) -> OnnxFile:
    try:
        if len(text) > _MAX_METADATA:
            raise CheckpointError(f"the metadata of {path} have more than {_MAX_METADATA} bytes")
        values = json.loads(text)
        section, preparation = values["classifier"], values["preparation"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"the metadata `{METADATA_KEY}` of {path} cannot be read ({type(error).__name__}): export the model again"
        ) from error
    if not isinstance(section, dict) or section.get("kind") != "classifier":
        raise CheckpointError(f"{path} is not a classifier: export a fine-tuned model")
    if preparation != PREPARATION:
        raise CheckpointError(
            f"{path} wants its pictures prepared in a way that this version does not know: export the model again"
        )
    return OnnxFile(path, facts_from_dict(section, path))
