"""The guard of ONNX files, and the one place where onnxruntime opens them. Needs no onnx.

An ONNX file is a protocol buffer (onnx.proto, IR version 10). Before onnxruntime sees it, its messages are walked
without their weights: every operation must be one that the rules allow, every tensor must fit into the bytes that hold
it, and those bytes are in the file itself or, for detectors, in a file beside it. So no other file is read and no
custom code is looked for.
"""

from __future__ import annotations

import math
import mmap
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Final, cast

from uniemox.errors import CheckpointError, ConfigError
from uniemox.wording import reason_of

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

MAX_BYTES: Final = 2**31 - 1  # Largest file: more a protocol buffer cannot hold
MAX_METADATA: Final = 4 * 2**20  # Maximum bytes of an entry of the metadata that are read
_MAX_DEPTH: Final = 8  # graphs within operations within graphs
_MAX_SIDES: Final = 64  # of a tensor, as in NumPy
_DOMAINS: Final = frozenset(("", "ai.onnx", "ai.onnx.ml", "com.microsoft"))  # Operations that onnxruntime brings
_OUTWARD: Final = frozenset(("EPContext",))  # Operations of these that read another file
# Numbers of fields in onnx.proto
_MESSAGES: Final = {
    "model": {7: "graph", 20: "functions or training steps", 25: "functions or training steps"},
    "graph": {1: "node", 5: "tensor", 15: "sparse weights"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 10: "tensor", 6: "graph", 11: "graph", 22: "sparse weights", 23: "sparse weights"},
    "tensor": {},
}  # What the fields of a message hold; what is no message of this table is refused
_MODEL_GRAPH, _MODEL_METADATA = 7, 14
_NODE_OPERATION, _NODE_DOMAIN = 4, 7
_TENSOR_DIMS, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 13, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_VARINT, _BYTES, _WIDTHS = 0, 2, {1: 8, 5: 4}  # wire types, and the bytes of those of fixed width


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a file may hold."""

    what: str  # What such a file is, for messages, such as "exported classifier"
    then: str  # The next step for whoever has another
    operations: frozenset[str] | None = None  # Of the standard domain; None allows all of those that onnxruntime brings
    nests: bool = False  # Whether operations may hold graphs, as conditions and loops do
    external: bool = False  # Whether weights may be in files beside it
    max_fields: int = 100_000
    """6 blocks of a vision transformer in int8 have 5,027, so the 32 of the largest less than a third of this."""


@dataclass(frozen=True)
class Walked:
    """A file that was walked and may be opened."""

    path: Path
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
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({reason_of(error)})") from error
    return Walked(path, tuple(steps.metadata), tuple(sorted(steps.beside)))


def open_session(
    file: Walked,
    *,
    providers: list[str],
    settings: Mapping[str, str] | None = None,
    unused: tuple[str, ...] = (),
    then: str,
) -> InferenceSession:
    """Open a file that `walk` allowed in onnxruntime, which must be installed.

    Args:
        file: The file.
        providers: Of onnxruntime, the first choice first.
        settings: Further entries of the session's configuration.
        unused: Optimisers to switch off.
        then: The next step of the error.

    Raises:
        CheckpointError: onnxruntime refuses it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised as well
    # Threads that wait by spinning take the cores from those that decode images.
    for name, value in {"session.intra_op.allow_spinning": "0", **(settings or {})}.items():
        options.add_session_config_entry(name, value)
    try:
        return onnxruntime.InferenceSession(
            str(file.path), options, providers=providers, disabled_optimizers=list(unused)
        )
    except session_errors() as error:
        raise CheckpointError(f"{file.path} is no model that onnxruntime runs ({reason_of(error)}): {then}") from error


def import_onnxruntime(extra: str) -> Any:
    """Import onnxruntime, or raise a `ConfigError` that names the extra that brings it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"models in ONNX need onnxruntime ({error}): pip install 'uniemox[{extra}]'") from error
    return onnxruntime


def session_errors() -> tuple[type[BaseException], ...]:
    """Return the exceptions of onnxruntime, which have no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = (
        *("EPFail", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel"),
        *("NoSuchFile", "NotImplemented", "RuntimeException"),
    )
    # RuntimeError and ValueError: what the binding itself raises, for example on an invalid rank.
    return (*(getattr(state, name) for name in names), RuntimeError, ValueError)


_Fields = dict[int, list[int | range]]  # Of a message, by number: whole numbers, and places of bytes


class _Walk:
    """Walks the messages of one file; reads every byte but the weights at most once."""

    def __init__(self, data: mmap.mmap, path: Path, rules: Rules) -> None:
        self._data, self._path, self._rules = data, path, rules
        self._num_fields = 0
        self.metadata: list[tuple[str, bytes]] = []
        self.beside = set[Path]()

    def check(self, kind: str, span: range, *, depth: int = 0) -> None:
        """Check a message and those within it; the depth is the number of graphs around it."""
        if kind not in _MESSAGES:
            raise self._refused(kind)
        message = self._read(span)
        match kind:
            case "model":
                if not message[_MODEL_GRAPH]:
                    raise self._damaged()
                self.metadata += self._entries(message, _MODEL_METADATA, MAX_METADATA)
            case "graph":
                self._check_depth(depth)
                depth += 1
            case "node":
                self._check_operation(self._text(message, _NODE_OPERATION), self._text(message, _NODE_DOMAIN))
            case "tensor":
                self._check_tensor(message)
        for number, inner in _MESSAGES[kind].items():
            for part in self._spans(message, number):
                self.check(inner, part, depth=depth)

    def _check_depth(self, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise self._refused(f"graphs nested more than {_MAX_DEPTH} deep")
        if depth > 0 and not self._rules.nests:
            raise self._refused("an operation within an operation")

    def _check_operation(self, name: str, domain: str) -> None:
        known = self._rules.operations
        is_brought = domain in _DOMAINS and name not in _OUTWARD
        if not is_brought or (known is not None and (domain or name not in known)):
            raise self._refused(f"the operation {'.'.join(filter(None, (domain, name)))!r}")

    def _check_tensor(self, tensor: _Fields) -> None:
        sides = list(islice(self._sides(tensor[_TENSOR_DIMS]), _MAX_SIDES + 1))
        if len(sides) > _MAX_SIDES:  # their product could take hours
            raise self._refused(f"a tensor of more than {_MAX_SIDES} sides")
        held = len(self._data)
        if tensor[_TENSOR_EXTERNAL] or any(tensor[_TENSOR_LOCATION]):
            held = self._external_bytes(dict(self._entries(tensor, _TENSOR_EXTERNAL, 255)))
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
