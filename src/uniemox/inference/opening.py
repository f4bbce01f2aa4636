"""From whatever a caller gives as an image to an upright RGB image, or to the reason why there is none."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt
from PIL import Image

from uniemox.errors import DataError
from uniemox.files.images import MAX_BYTES, Unreadable, adopt_image, decode_image, read_image
from uniemox.files.paths import is_there
from uniemox.wording import reason_of

if TYPE_CHECKING:
    Binary: TypeAlias = bytes | bytearray | memoryview[Any] | "OpenFile"
    Input: TypeAlias = str | os.PathLike[str] | Binary | Image.Image | npt.NDArray[Any] | "Named"
    """An image: a path, the bytes of a file or an open file of them, or pixels, as `adopt_image` takes them."""

_PIECE: Final = 4 * 1024**2  # Bytes that are read at once of an open file
URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/+")
_loading = Lock()  # Pillow loads an image at its first use, which two threads must not do at once, nor read one file


class OpenFile(Protocol):
    """A file that is open for reading bytes, of any library."""

    def read(self, size: int = -1, /) -> bytes | None:
        """Read up to so many bytes; none at the end."""


@dataclass(frozen=True)
class Named:
    """An image that has a path in tables, but is read from elsewhere: of an archive, a video, a row of a table."""

    path: Path
    content: bytes | npt.NDArray[np.uint8] | Unreadable | Callable[[], bytes | Unreadable] | None = None
    """Bytes of a file, or what reads them in a thread; pixels; a reason why there is none; or None for the path's."""
    time: float | None = None
    row: int | None = None


_ONE: Final = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, Named)
"""What is one image though some of it could be iterated over."""


def list_inputs(inputs: Input | Iterable[Input]) -> Iterable[Input]:
    """List the images, of which there may be one."""
    if isinstance(inputs, _ONE) or (isinstance(inputs, np.ndarray) and inputs.ndim in (0, 2, 3)):
        return [inputs]
    if _is_open_file(inputs):
        return [inputs]
    if isinstance(inputs, Iterable) and not (isinstance(inputs, Mapping | io.TextIOBase) or _is_frame(inputs)):
        return inputs
    raise _unknown(inputs, 0)


def open_image(
    given: Input, index: int, *, shrink_to: int | None = None
) -> tuple[Path | None, Image.Image | Unreadable]:
    """Read an image; return its path too, where it has one.

    Args:
        given: The image.
        index: Its place among what was given, for the error.
        shrink_to: Side in pixels that suffices of what is decoded here, as `decode_image` takes it.

    Raises:
        DataError: It is of a type that no image has.
    """
    match given:
        case Named(path, content):
            content = content() if callable(content) else content
            if content is None:
                return open_image(path, index, shrink_to=shrink_to)
            return path, content if isinstance(content, Unreadable) else open_image(
                content, index, shrink_to=shrink_to
            )[1]
        case str() | os.PathLike():
            path = Path(os.fsdecode(given))  # `os.scandir` of bytes gives names in bytes
            image = read_image(path, shrink_to=shrink_to)
            if isinstance(image, Unreadable) and URL.match(str(path)) and not is_there(path):
                image = Unreadable("a URL, which is not fetched: download it first")
            return path, image
        case bytes() | bytearray() | memoryview():
            return None, decode_image(bytes(given), shrink_to=shrink_to)
        case Image.Image():
            with _loading:
                return None, adopt_image(given)
        case np.ma.MaskedArray():
            return None, Unreadable("a masked array: fill what is masked (`array.filled(value)`)")
        case np.ndarray():
            return None, adopt_image(given)
        case _ if _is_open_file(given):
            with _loading:
                data = _read_open(given, index)
            return None, data if isinstance(data, Unreadable) else decode_image(data, shrink_to=shrink_to)
    raise _unknown(given, index)


def _read_open(file: OpenFile, index: int) -> bytes | Unreadable:
    """Read what is left of an open file, of which one call may give only a piece."""
    data = bytearray()
    try:
        while len(data) <= MAX_BYTES and (piece := file.read(_PIECE)):
            if not isinstance(piece, bytes | bytearray | memoryview):
                raise _unknown(file, index, is_text=isinstance(piece, str))
            data += piece
    except io.UnsupportedOperation:
        return Unreadable("a file that is not open for reading")
    except (TypeError, LookupError) as error:  # another `read`, such as that of an archive or of a camera
        raise _unknown(file, index) from error
    except (OSError, ValueError) as error:  # such as that it is closed
        return Unreadable(reason_of(error))
    return bytes(data) if len(data) <= MAX_BYTES else Unreadable(f"more than {MAX_BYTES} bytes")


def _is_open_file(given: object) -> TypeGuard[OpenFile]:
    """Whether bytes can be read from this, also where it passes on what another file has, as `tempfile` does."""
    return callable(getattr(given, "read", None)) and not isinstance(given, io.TextIOBase | type)


def _is_frame(given: object) -> bool:
    """Whether this is a table of pandas or polars, whose names of columns would be taken for paths."""
    return type(given).__name__ == "DataFrame"


def _unknown(given: object, index: int, *, is_text: bool = False) -> DataError:
    kind = f"input {index} is of type {type(given).__name__}"
    match given:
        case _ if is_text or isinstance(given, io.TextIOBase):
            return DataError(f"{kind}, a file that is opened as text: open it with mode 'rb'")
        case Mapping():
            return DataError(f"{kind}, a mapping: give its paths or its images, such as `list(images.values())`")
        case _ if _is_frame(given):
            return DataError(f"{kind}, a table: give its column of paths")
        case list() | tuple() | set() | frozenset():
            return DataError(f"{kind}, a list in the list of images: give one flat list")
    return DataError(
        f"{kind}, and nothing that an image is read from: give a path, the bytes of a file, an image of Pillow or an "
        "array of uint8 (height, width, 3)"
    )
