"""The guard of ONNX files: what stands in one is looked at before onnxruntime sees it. Needs no onnx.

An ONNX file is a protocol buffer (onnx.proto, IR version 10). Its messages are walked without their weights: every
operation must be one that the rules allow, every tensor must fit into the bytes that hold it, and those bytes are in
the file itself or, for detectors, in a file beside it. So no other file is read and no custom code is looked for.
onnxruntime makes a copy of a weight for each operation that reads it, so what they read together is bounded as well.
"""

import math
import mmap
import stat
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from typing import Final, cast

from uniemox.errors import CheckpointError
from uniemox.wording import reason_of

MAX_BYTES: Final = 2**31 - 1  # Largest file: more a protocol buffer cannot hold
MAX_METADATA: Final = 4 * 2**20  # Maximum bytes of an entry of the metadata that are read
_MAX_DEPTH: Final = 8  # graphs within operations within graphs
_MAX_SIDES: Final = 64  # of a tensor, as in NumPy
_MAX_COPIED: Final = 2**30
"""Bytes of weights that operations may read again. RetinaNet, whose head reads five maps, has a tenth of this."""
_RENAMING: Final = frozenset(
    ("Cast", "DequantizeLinear", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
)  # Operations in whose place onnxruntime may put the weight itself
_MAX_NAME: Final = 1024  # Bytes of a name that are compared
# Numbers of fields in onnx.proto
_MESSAGES: Final = {
    "model": {7: "graph", 20: "functions or training steps", 25: "functions or training steps"},
    "graph": {1: "node", 5: "tensor", 15: "sparse weights"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 10: "tensor", 6: "graph", 11: "graph", 22: "sparse weights", 23: "sparse weights"},
    "tensor": {},
}  # What the fields of a message hold; what is no message of this table is refused
_MODEL_GRAPH, _MODEL_METADATA = 7, 14
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATION, _NODE_DOMAIN = 1, 2, 4, 7
_ATTRIBUTE_TEXT, _ATTRIBUTE_TEXTS = 4, 9
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 2, 8, 13, 14
_TEXT_TYPE = 8  # of a tensor
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_VARINT, _BYTES, _WIDTHS = 0, 2, {1: 8, 5: 4}  # wire types, and the bytes of those of fixed width


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a file may hold."""

    what: str  # What such a file is, for messages, such as "exported classifier"
    then: str  # The next step for whoever has another
    operations: frozenset[str]  # Those of the standard domain by name, others as domain.name
    holding: frozenset[str] = frozenset()  # Those of them that may hold graphs, as conditions and loops do
    external: bool = False  # Whether weights may be in files beside it
    max_fields: int = 100_000
    """6 blocks of a vision transformer in int8 have 5,027, so the 32 of the largest less than a third of this."""


@dataclass(frozen=True)
class Walked:
    """A file that was walked and may be opened."""

    path: Path
    num_bytes: int  # of it and those beside it
    operations: frozenset[str]  # that it holds
    metadata: tuple[tuple[str, bytes], ...]  # Keys of at most 64 bytes, and their values
    beside: tuple[Path, ...]  # Files of weights beside it


def walk(path: Path, rules: Rules) -> Walked:
    """Check a file by its structure alone; `CheckpointError` if it is damaged or breaks the rules."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path} is not a file")
        if not 0 < status.st_size <= MAX_BYTES:
            raise CheckpointError(
                f"{path} has {status.st_size} bytes, but an ONNX file has 1 to {MAX_BYTES}: {rules.then}"
            )
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            steps = _Walk(data, path, rules)
            steps.check("model", range(len(data)))
            num_bytes = steps.check_uses()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({reason_of(error)})") from error
    return Walked(path, num_bytes, frozenset(steps.operations), tuple(steps.metadata), tuple(sorted(steps.beside)))


_Fields = dict[int, list[int | range]]  # Of a message, by number: whole numbers, and places of bytes


class _Uses:
    """How many bytes of weights the operations of a file read; by names alone, in whichever graph they stand."""

    def __init__(self) -> None:
        self._weights = Counter[bytes]()
        self._readers = Counter[bytes]()
        self._renamed: dict[bytes, list[bytes]] = defaultdict(list)

    def add_weight(self, names: list[bytes], size: int) -> None:
        """Note a weight of that many bytes; it has one name, but a damaged file may give others."""
        self._weights.update(dict.fromkeys(names or [b""], size))

    def add_node(self, read: list[bytes], made: list[bytes], *, renames: bool) -> None:
        """Note an operation; one that renames gives its first input under another name."""
        if renames and read:
            self._renamed[read[0]] += made
            read = read[1:]
        self._readers.update(read)

    def num_bytes(self) -> int:
        """Return how many bytes are read, each weight at least once."""
        total, met = 0, set[bytes]()
        # The largest first: a name that is given twice stands for the larger.
        for weight, size in self._weights.most_common():
            others, readers = [weight], 0
            while others:
                name = others.pop()
                if name not in met:
                    met.add(name)
                    readers += self._readers[name]
                    others += self._renamed.get(name, ())
            total += size * max(1, readers)
        return total


class _Walk:
    """Walks the messages of one file; reads every byte but the weights at most once."""

    def __init__(self, data: mmap.mmap, path: Path, rules: Rules) -> None:
        self._data, self._path, self._rules = data, path, rules
        self._num_fields = 0
        self.metadata: list[tuple[str, bytes]] = []
        self.beside, self.operations = set[Path](), set[str]()
        self._uses = _Uses()

    def check(self, kind: str, span: range, *, node: _Fields | None = None, depth: int = 0) -> None:
        """Check a message and those within it; the node is the one around it, the depth the number of graphs."""
        if kind not in _MESSAGES:
            raise self._refused(kind)
        message = self._read(span)
        match kind:
            case "model":
                if not message[_MODEL_GRAPH]:
                    raise self._damaged()
                self.metadata += self._entries(message, _MODEL_METADATA, MAX_METADATA)
            case "graph":
                self._check_graph(node, depth)
                node, depth = None, depth + 1
            case "node":
                self._check_node(message, span)
                node = message
            case "attribute":
                self._check_attribute(message, node)
            case "tensor":
                self._check_tensor(message, span, node)
        for number, inner in _MESSAGES[kind].items():
            for part in self._spans(message, number):
                self.check(inner, part, node=node, depth=depth)

    def check_uses(self) -> int:
        """Bound what the operations read of the weights, once all were met; return the bytes of the files."""
        held, read = self._num_held(), self._uses.num_bytes()
        if read > held + _MAX_COPIED:
            raise self._refused(f"weights of {held} bytes, of which operations read {read}")
        return held

    def _num_held(self) -> int:
        held = len(self._data) + sum(path.stat().st_size for path in self.beside)
        if held > MAX_BYTES:
            raise self._refused(f"weights of {held} bytes, more than {MAX_BYTES}")
        return held

    def _check_graph(self, node: _Fields | None, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise self._refused(f"graphs nested more than {_MAX_DEPTH} deep")
        if node is not None and self._operation(node) not in self._rules.holding:
            raise self._refused(f"a graph in the operation {self._operation(node)!r}")

    def _check_node(self, node: _Fields, span: range) -> None:
        operation = self._operation(node)
        if operation not in self._rules.operations:
            raise self._refused(f"the operation {operation!r}")
        self.operations.add(operation)
        read, made = self._names(node, _NODE_INPUT), self._names(node, _NODE_OUTPUT)
        self._uses.add_node(read, made, renames=operation in _RENAMING)
        if operation == "Constant":
            self._uses.add_weight(made, len(span))

    def _check_attribute(self, attribute: _Fields, node: _Fields | None) -> None:
        is_made = node is not None and self._operation(node) == "Constant"
        if attribute[_ATTRIBUTE_TEXTS] or (is_made and attribute[_ATTRIBUTE_TEXT]):
            raise self._refused("texts")  # those of a tensor are outside of any allocator

    def _operation(self, node: _Fields) -> str:
        domain = self._text(node, _NODE_DOMAIN)
        return ".".join(filter(None, ("" if domain == "ai.onnx" else domain, self._text(node, _NODE_OPERATION))))

    def _names(self, message: _Fields, number: int) -> list[bytes]:
        return [self._bytes(span, _MAX_NAME) for span in self._spans(message, number)]

    def _check_tensor(self, tensor: _Fields, span: range, node: _Fields | None) -> None:
        sides = list(islice(self._sides(tensor[_TENSOR_DIMS]), _MAX_SIDES + 1))
        if len(sides) > _MAX_SIDES:  # their product could take hours
            raise self._refused(f"a tensor of more than {_MAX_SIDES} sides")
        if _TEXT_TYPE in tensor[_TENSOR_TYPE]:
            raise self._refused("texts")
        names = self._names(tensor, _TENSOR_NAME) if node is None else self._names(node, _NODE_OUTPUT)
        held = len(self._data)
        if tensor[_TENSOR_EXTERNAL] or any(tensor[_TENSOR_LOCATION]):
            held = self._external_bytes(dict(self._entries(tensor, _TENSOR_EXTERNAL, 255)))
            self._uses.add_weight(names, held)
        elif node is None:
            self._uses.add_weight(names, len(span))
        if math.prod(sides) > 2 * held:  # the smallest numbers take four bits
            raise self._refused(f"a tensor of {math.prod(sides)} numbers in {held} bytes")

    def _sides(self, values: list[int | range]) -> Iterator[int]:
        """Yield the sides of a tensor, which are written one by one or together."""
        for value in values:
            if isinstance(value, int):
                yield value
                continue
            position = value.start
            while position < value.stop:
                side, position = self._varint(position, value.stop)
                yield side

    def _external_bytes(self, entries: Mapping[str, bytes]) -> int:
        """Return how many bytes a tensor has in a file beside this one, and remember that file."""
        name = entries.get("location", b"").decode("utf-8", "replace")
        path = self._path.parent / name
        if not self._rules.external or not name or "\0" in name or PurePath(name).name != name:
            raise self._refused(f"weights in another file (external data {name[:80]!r})")
        if path.is_symlink() or not path.is_file():
            raise self._refused(f"weights in {path}, which is no file")
        size = path.stat().st_size
        try:
            first, length = (int(entries.get(key, b"0")) for key in ("offset", "length"))
        except ValueError as error:
            raise self._damaged() from error
        if not (0 <= first <= size and 0 <= length <= size - first):
            raise self._refused(f"weights beyond the {size} bytes of {path}")
        self.beside.add(path)
        return length or size - first

    def _read(self, span: range) -> _Fields:
        fields: _Fields = defaultdict(list)
        position = span.start
        while position < span.stop:
            self._num_fields += 1
            if self._num_fields > self._rules.max_fields:
                raise self._refused(f"more than {self._rules.max_fields} fields")
            tag, position = self._varint(position, span.stop)
            number, kind = tag >> 3, tag & 7
            if kind == _VARINT:
                value, position = self._varint(position, span.stop)
                fields[number].append(value)
                continue
            length = _WIDTHS.get(kind)
            if kind == _BYTES:
                length, position = self._varint(position, span.stop)
            if length is None or length > span.stop - position:
                raise self._damaged()
            fields[number].append(range(position, position + length))
            position += length
        return fields

    def _varint(self, start: int, stop: int) -> tuple[int, int]:
        """Read a whole number of seven bits a byte; return it and where it ends."""
        value = 0
        for position in range(start, min(stop, start + 10)):
            byte = self._data[position]
            value |= (byte & 0x7F) << 7 * (position - start)
            if byte < 0x80:
                return value, position + 1
        raise self._damaged()

    def _spans(self, message: _Fields, number: int) -> list[range]:
        values = message[number]
        if any(isinstance(value, int) for value in values):
            raise self._damaged()
        return cast("list[range]", values)

    def _entries(self, message: _Fields, number: int, max_bytes: int) -> Iterator[tuple[str, bytes]]:
        """Yield keys and values of a table, where both are given; a value is cut one byte beyond the maximum."""
        for entry in map(self._read, self._spans(message, number)):
            values = self._spans(entry, _ENTRY_VALUE)
            if entry[_ENTRY_KEY] and values:
                yield self._text(entry, _ENTRY_KEY), self._bytes(values[-1], max_bytes + 1)

    def _text(self, message: _Fields, number: int) -> str:
        spans = self._spans(message, number)
        return self._bytes(spans[-1], 65).decode("utf-8", "replace") if spans else ""

    def _bytes(self, span: range, count: int) -> bytes:
        return self._data[span.start : span[:count].stop]

    def _damaged(self) -> CheckpointError:
        return CheckpointError(f"{self._path} is no ONNX file, or a damaged one: {self._rules.then}")

    def _refused(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self._path} is refused: it holds {what}, which no {self._rules.what} does; {self._rules.then}"
        )
