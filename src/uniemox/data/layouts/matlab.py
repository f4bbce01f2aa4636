"""A reader of MATLAB files of version 5 for what annotations are made of: numbers, texts, cells and structs.

SciPy's reader makes room for as many cells as a file says it has, and goes as deep as it says, past the end of the
stack: a hostile file ends the process (DECISIONS 28). This one is bounded in size and depth, and believes no
number that the bytes do not bear out. Functions and objects are left out, sparse arrays as well.

Format: "MAT-File Format", The MathWorks, level 5.
"""

from __future__ import annotations

import math
import struct
import zlib
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

MAX_BYTES: Final = 256 * 1024**2
"""Most bytes of a file."""
MAX_UNPACKED: Final = 256 * 1024**2
"""Most bytes of what is in it, unpacked; EMOTIC's need a fraction."""
_MAX_DEPTH: Final = 16
"""Structs in cells in structs …; EMOTIC has six."""

_HEADER: Final = 128
_INT32, _MATRIX, _PACKED = 5, 14, 15
_NUMBERS: Final = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_TEXTS: Final = {
    **dict.fromkeys((1, 2, 16), "utf-8"),
    **dict.fromkeys((4, 17), "utf-16-le"),
    18: "utf-32-le",
}
_CELL, _STRUCT, _TEXT = 1, 2, 4
_FIRST_NUMBER, _LAST_NUMBER = 6, 15


def read_matlab(path: Path, names: Collection[str]) -> dict[str, Any]:
    """Read variables of a file.

    Args:
        path: The file.
        names: Variables to read, where they are there.

    Returns:
        Name to value. Numbers are a tuple of them, a text is one, a cell is a list of its values, a struct is a dict,
        and an array of structs is a list of dicts, all in MATLAB's order and without their dimensions; None is what is
        left out.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is damaged, too large, or of another version.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES} bytes")
    data = path.read_bytes()
    if data[126:128] != b"IM":
        raise ValueError("it is no little-endian MATLAB file of version 5 to 7 (save -v7)")
    found: dict[str, Any] = {}
    left = MAX_UNPACKED
    for element in _elements(data, _HEADER):
        content = element
        if element.kind == _PACKED:
            unpacked = _unpack(data[element.start : element.end], left)
            left -= len(unpacked)
            content = next(_elements(unpacked, 0), element)
        if content.kind == _MATRIX:
            name, value = _variable(content, names)
            if name in names:
                found[name] = value
    return found


class _Element(NamedTuple):
    """Bytes with a meaning."""

    data: bytes
    kind: int
    start: int
    end: int


def _unpack(packed: bytes, limit: int) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(packed, max(limit, 1))  # 0 would be no limit
    except zlib.error as error:
        raise ValueError(f"it is damaged: {error}") from error
    if unpacker.unconsumed_tail:
        raise ValueError(f"it unpacks to more than {MAX_UNPACKED} bytes")
    return content


def _elements(data: bytes, start: int, end: int | None = None) -> Iterator[_Element]:
    """Yield the elements that follow each other."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        kind, size = struct.unpack_from("<II", data, start)
        if kind >> 16:  # up to four bytes stand in the place of the size
            element = _Element(data, kind & 0xFFFF, start + 4, start + 4 + (kind >> 16))
            after = start + 8
        else:
            element = _Element(data, kind, start + 8, start + 8 + size)
            after = element.end if kind == _PACKED else element.end + -element.end % 8
        if element.end > min(after, end):
            raise ValueError("it is damaged: a part is larger than the whole")
        yield element
        start = after


def _variable(matrix: _Element, names: Collection[str]) -> tuple[str, Any]:
    """Read the name of a matrix, and its value if that is wanted."""
    head = list(islice(_elements(matrix.data, matrix.start, matrix.end), 3))
    name = _text(head[2]) if len(head) > 2 else ""
    return name, _value(matrix, 0) if name in names else None


def _value(matrix: _Element, depth: int) -> Any:
    """Read a matrix."""
    if matrix.kind != _MATRIX or depth > _MAX_DEPTH:
        raise ValueError("it is damaged, or nested too deeply")
    # One at a time: a list of elements takes many times the room of an unpacked run of empty ones.
    parts = _elements(matrix.data, matrix.start, matrix.end)
    head = list(islice(parts, 3))
    if not head:  # an empty one
        return ()
    kind, count = _kind_and_count(head)
    if kind == _CELL:
        return _values(parts, count, depth)
    if kind == _STRUCT:
        return _structs(parts, count, depth)
    if kind == _TEXT:
        return "".join(map(_text, islice(parts, 1)))
    if _FIRST_NUMBER <= kind <= _LAST_NUMBER:
        return next(map(_numbers, parts), ())
    return None


def _kind_and_count(head: list[_Element]) -> tuple[int, int]:
    """Read the type of a matrix and how many entries it says it has; then comes its name."""
    if len(head) < 3 or head[0].start == head[0].end:
        raise ValueError("it is damaged: an array without a type or a size")
    flags, dimensions, _ = head
    return flags.data[flags.start], math.prod(_integers(dimensions))


def _structs(parts: Iterator[_Element], count: int, depth: int) -> Any:
    lengths, names = next(parts, None), next(parts, None)
    length = 0 if lengths is None else max(_integers(lengths), default=0)
    table = b"" if names is None else names.data[names.start : names.end]
    if length < 1 or not table or len(table) % length:
        raise ValueError("it is damaged: a struct without fields")
    fields = [
        table[at : at + length].partition(b"\0")[0].decode("ascii", "replace")
        for at in range(0, len(table), length)
    ]
    read = _values(parts, count * len(fields), depth)
    structs = [
        dict(zip(fields, read[at : at + len(fields)], strict=True))
        for at in range(0, len(read), len(fields))
    ]
    return structs[0] if count == 1 else structs


def _values(parts: Iterator[_Element], count: int, depth: int) -> list[Any]:
    """Read as many matrices as are said to follow."""
    read = [_value(part, depth + 1) for part in islice(parts, max(count, 0))]
    if len(read) != count or next(parts, None) is not None:
        raise ValueError(f"it is damaged: not the {count} values that it says")
    return read


def _numbers(element: _Element) -> tuple[Any, ...]:
    code = _NUMBERS.get(element.kind)
    if code is None:
        raise ValueError(f"it is damaged: numbers of type {element.kind}")
    count = (element.end - element.start) // struct.calcsize(code)
    return struct.unpack_from(f"<{count}{code}", element.data, element.start)


def _integers(element: _Element) -> tuple[int, ...]:
    if element.kind != _INT32:
        raise ValueError(f"it is damaged: sizes of type {element.kind}")
    return _numbers(element)


def _text(element: _Element) -> str:
    code = _TEXTS.get(element.kind)
    if code is None:
        raise ValueError(f"it is damaged: a text of type {element.kind}")
    return element.data[element.start : element.end].decode(code)
