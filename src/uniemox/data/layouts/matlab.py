"""A reader of MATLAB files of version 5 for what annotations are made of: numbers, texts, cells and structs.

SciPy's reader makes room for as many cells as a file says it has, and goes as deep as it says, past the end of the
stack: a hostile file ends the process (DECISIONS importers-1). This one is bounded in size and depth, and believes no
number that the bytes do not bear out. Functions and objects are left out, sparse arrays as well.

Format: "MAT-File Format", The MathWorks, level 5.
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

MAX_BYTES: Final = 256 * 1024**2
"""Most bytes of a file."""
MAX_UNPACKED: Final = 1024**3
"""Most bytes of what is in it, unpacked; EMOTIC's need a fraction."""
_MAX_DEPTH: Final = 16
"""Structs in cells in structs …; EMOTIC has six."""

_HEADER: Final = 128
_MATRIX, _PACKED = 14, 15
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
    parts = list(_elements(matrix.data, matrix.start, matrix.end))
    name = _text(parts[2]) if len(parts) > 2 else ""
    return name, _value(matrix, 0) if name in names else None


def _value(matrix: _Element, depth: int) -> Any:
    """Read a matrix."""
    if matrix.kind != _MATRIX or depth > _MAX_DEPTH:
        raise ValueError("it is damaged, or nested too deeply")
    parts = list(_elements(matrix.data, matrix.start, matrix.end))
    if not parts:  # an empty one
        return ()
    if len(parts) < 3:
        raise ValueError("it is damaged: an array without a size")
    flags, dimensions, _, *content = parts
    kind = matrix.data[flags.start]
    count = math.prod(_numbers(dimensions))
    if kind == _CELL:
        return [_value(part, depth + 1) for part in _exactly(content, count)]
    if kind == _STRUCT:
        return _structs(content, count, depth)
    if kind == _TEXT:
        return _text(content[0]) if content else ""
    if _FIRST_NUMBER <= kind <= _LAST_NUMBER:
        return _numbers(content[0]) if content else ()
    return None


def _structs(content: list[_Element], count: int, depth: int) -> Any:
    if len(content) < 2:
        raise ValueError("it is damaged: a struct without fields")
    lengths, names, *values = content
    (length,) = _numbers(lengths) or (0,)
    table = names.data[names.start : names.end]
    if length < 1 or len(table) % length:
        raise ValueError("it is damaged: a struct without fields")
    fields = [
        table[at : at + length].partition(b"\0")[0].decode("ascii", "replace")
        for at in range(0, len(table), length)
    ]
    read = [_value(part, depth + 1) for part in _exactly(values, count * len(fields))]
    structs = [
        dict(zip(fields, read[at : at + len(fields)], strict=True))
        for at in range(0, len(read), max(len(fields), 1))
    ]
    return structs[0] if count == 1 and structs else structs


def _exactly(parts: list[_Element], count: int) -> list[_Element]:
    if len(parts) != count:
        raise ValueError(f"it is damaged: {len(parts)} values where it says {count}")
    return parts


def _numbers(element: _Element) -> tuple[Any, ...]:
    code = _NUMBERS.get(element.kind)
    if code is None:
        raise ValueError(f"it is damaged: numbers of type {element.kind}")
    count = (element.end - element.start) // struct.calcsize(code)
    return struct.unpack_from(f"<{count}{code}", element.data, element.start)


def _text(element: _Element) -> str:
    code = _TEXTS.get(element.kind)
    if code is None:
        raise ValueError(f"it is damaged: a text of type {element.kind}")
    return element.data[element.start : element.end].decode(code)
