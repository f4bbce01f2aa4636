"""From bytes to an upright RGB picture, or to the reason why there is none. The only decoder of images.

JPEG, PNG, WebP, GIF, BMP and TIFF are read. The rules:

- the EXIF orientation is applied, and all metadata is dropped, so that nobody turns the picture again;
- transparent pixels are laid over white;
- of several frames or pages, the first;
- grey of 16 bits is scaled from its full range; grey of 32 bits and of floats from the smallest of the ranges
  [0, 1] (floats only), [0, 255], [0, 65535] and [0, 2³² - 1] that holds its largest value, all below 0 being black;
- colour profiles are not applied; CMYK becomes RGB by Pillow's rule.

Nothing here raises or warns about a bad file, and no global setting of Pillow is touched.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import threading
import warnings
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from uniemox.data.archives import read_slice, slice_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_PIXELS: Final = 1024**3 // 4 // 3
"""Most pixels of a picture: 89,478,485, a quarter of a GiB as RGB (the number above which Pillow warns)."""
MAX_BYTES: Final = 256 * 1024**2
"""Most bytes of a file that is read."""
EXTENSIONS: Final = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff")
)
"""Endings of the files that data set readers take for pictures, in lower case."""

_SUPPORTED = "JPEG, PNG, WebP, GIF, BMP and TIFF"

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (8, b"WEBP", "WebP"),
    (0, b"GIF8", "GIF"),
    # "BM" alone begins many a text; the header's size, which follows at byte 14, is one of six small numbers.
    *((14, struct.pack("<I", size), "BMP") for size in (12, 40, 52, 56, 64, 108, 124)),
    (0, b"II\x2a\x00", "TIFF"),
    (0, b"MM\x00\x2a", "TIFF"),
    (0, b"II\x2b\x00", "TIFF"),
    (0, b"MM\x00\x2b", "TIFF"),
)
_SIGNATURE_STARTS = {"WebP": b"RIFF", "BMP": b"BM"}

_FOREIGN_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    *((4, b"ftyp" + brand, "AVIF") for brand in (b"avif", b"avis")),
    *((4, b"ftyp" + brand, "HEIC") for brand in (b"hei", b"hev", b"mif1", b"msf1")),
    (4, b"ftyp", "MP4"),
    (0, b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\x00\x00\x01\x00", "icon"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript"),
    (0, b"%PDF", "PDF"),
    (0, b"qoif", "QOI"),
    (0, b"DDS ", "DDS"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    *((0, b"P%d" % number + space, "PNM") for number in range(1, 8) for space in (b"\n", b" ")),
    (0, b"PK\x03\x04", "zip"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"RIFF", "RIFF (sound or video)"),
    (0, b"version https://git-lfs", "Git LFS pointer"),
)

# What Pillow's readers let through on damaged files, by reading and by fuzzing them. It is nearly everything, so only
# the decoding stands inside the try.
_DAMAGE: Final = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

_ORIENTATION_TAG: Final = 0x0112  # EXIF 2.3, 4.6.4 A
_TIFF_BITS: Final = 258  # TIFF 6.0, section 8
_TIFF_PHOTOMETRIC: Final = 262
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS: Final = frozenset((5, 6, 7, 8))
"""Orientations that exchange width and height."""


@dataclass(frozen=True)
class Unreadable:
    """A file that is no picture we can use, and why, in a few words without the file's name."""

    reason: str


class Decoded(NamedTuple):
    """A picture as `decode_picture` found it."""

    image: Image.Image
    """Upright, RGB, without metadata; reduced where that was asked for."""
    width: int
    """Of the whole upright picture, in pixels."""
    height: int


def read_image(
    path: Path,
    *,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    shrink_to: int | None = None,
) -> Image.Image | Unreadable:
    """Read a picture file.

    Args:
        path: The file. Only regular files are opened, so that a pipe or a device cannot hang the reader.
        max_pixels: Largest width × height; a larger picture is refused before it is decoded.
        max_bytes: Largest file; a larger one is refused before it is read.
        shrink_to: Side in pixels that suffices: see `decode_image`.

    Returns:
        The upright picture, mode RGB, or the reason why there is none.
    """
    data = read_file(path, max_bytes=max_bytes)
    if isinstance(data, Unreadable):
        return data
    return decode_image(data, max_pixels=max_pixels, shrink_to=shrink_to)


def read_file(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes | Unreadable:
    """Read the bytes of a regular file of bounded size, or of one in an archive, or tell why there are none."""
    try:
        part = slice_of(path)
        if part is not None:
            data = read_slice(part, max_bytes=max_bytes)
            return Unreadable(data) if isinstance(data, str) else data
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return Unreadable("not a file")
        if status.st_size > max_bytes:
            return Unreadable(f"{status.st_size} bytes, over the limit of {max_bytes}")
        with path.open("rb") as file:
            return file.read(max_bytes)
    except OSError as error:
        return Unreadable(_plain(error))
    except ValueError:  # a NUL in the name
        return Unreadable("not a file name")


def decode_image(
    data: bytes, *, max_pixels: int = MAX_PIXELS, shrink_to: int | None = None
) -> Image.Image | Unreadable:
    """Decode a picture from the bytes of its file.

    Args:
        data: The whole file.
        max_pixels: Largest width × height; a larger picture is refused before it is decoded.
        shrink_to: Side in pixels that suffices. A JPEG is then decoded at a half, a quarter or an eighth of its size
            where its short side stays at least this long. That is several times faster, but pixels differ by a few
            grey levels from those of the whole picture shrunk, and boxes must be scaled by the caller.

    Returns:
        The upright picture, mode RGB, without metadata, or the reason why there is none.
    """
    decoded = decode_picture(data, max_pixels=max_pixels, shrink_to=shrink_to)
    return decoded if isinstance(decoded, Unreadable) else decoded.image


def decode_picture(
    data: bytes, *, max_pixels: int = MAX_PIXELS, shrink_to: int | None = None
) -> Decoded | Unreadable:
    """Decode like `decode_image`, and tell the size of the whole picture, which `shrink_to` hides."""
    name = identify(data)
    if isinstance(name, Unreadable):
        return name
    with _quiet_pillow():
        try:
            with Image.open(io.BytesIO(data), formats=(name.upper(),)) as image:
                width, height = image.size
                if width * height > max_pixels:
                    return Unreadable(f"{width} x {height} pixels, over the limit of {max_pixels}")
                if shrink_to is not None:
                    image.draft(None, (shrink_to, shrink_to))
                image.load()
                orientation = _orientation(image)
                upright = _turn(_to_rgb(image), orientation)
        except _DAMAGE as error:
            return Unreadable(f"damaged {name}: {_plain(error)}")
    upright.info.clear()
    if orientation in _SIDEWAYS:
        width, height = height, width
    return Decoded(upright, width, height)


def identify(data: bytes) -> str | Unreadable:
    """Name the format of a picture file by its first bytes, or say why it is none that is read."""
    if not data:
        return Unreadable("empty file")
    for offset, signature, name in _SIGNATURES:
        start = _SIGNATURE_STARTS.get(name, b"")
        if data.startswith(start) and data.startswith(signature, offset):
            return name
    for offset, signature, name in _FOREIGN_SIGNATURES:
        if data.startswith(signature, offset):
            return Unreadable(f"{name}, but only {_SUPPORTED} are read")
    head = data[:1024].lower()
    if b"<svg" in head:
        return Unreadable(f"SVG, but only {_SUPPORTED} are read")
    if b"<html" in head or b"<!doctype html" in head:
        return Unreadable(f"web page, but only {_SUPPORTED} are read")
    return Unreadable("not a picture")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return _scale_grey(image)
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", colours.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, colours).convert("RGB")
    return image.convert("RGB")


def _scale_grey(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0, posinf=np.inf, neginf=0.0)
    white = _white_level(image, values)
    grey = np.rint(np.clip(values / white, 0, 1) * 255).astype(np.uint8)
    if (
        _tiff_tag(image, _TIFF_PHOTOMETRIC, default=1) == 0
    ):  # white is zero; Pillow sees to it up to 8 bits only
        grey = 255 - grey
    key = image.info.get("transparency")
    if key is not None:
        grey[values == key] = 255
    return Image.fromarray(grey).convert("RGB")


def _white_level(image: Image.Image, values: np.ndarray) -> float:
    """Tell which value of a grey picture of more than 8 bits is white."""
    if image.mode.startswith("I;"):
        return 2.0 ** _tiff_tag(image, _TIFF_BITS, default=16) - 1
    finite = values[np.isfinite(values)]
    largest = float(finite.max(initial=0))
    ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    return next((top for top in ranges if largest <= top), max(largest, 2.0**32 - 1))


def _tiff_tag(image: Image.Image, tag: int, *, default: int) -> int:
    value = image.tag_v2.get(tag, default) if isinstance(image, TiffImageFile) else default
    return int(value[0] if isinstance(value, tuple) else value)


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation, 1 where there is none; damaged metadata does not make a picture unreadable."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except _DAMAGE:
        return 1
    return value if isinstance(value, int) else 1


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _plain(error: BaseException) -> str:
    """Say what an exception says, on one line and without the names of files."""
    if isinstance(error, UnidentifiedImageError):
        return "its header cannot be read"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return " ".join(str(error).split()) or type(error).__name__


_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_filters: warnings.catch_warnings[None] | None = None


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Silence the warnings of Pillow's modules while any thread decodes.

    Filters of warnings belong to the process, and `catch_warnings` restores what it found: two threads that overlap
    would leave one another's filters behind. So the first one in sets them and the last one out restores them.
    """
    global _quiet_depth, _quiet_filters
    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_filters = warnings.catch_warnings()
            _quiet_filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0 and _quiet_filters is not None:
                _quiet_filters.__exit__(None, None, None)
