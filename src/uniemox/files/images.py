"""From bytes to an upright RGB image, or to the reason why it cannot be read. The only decoder of images.

JPEG (also MPO), PNG, WebP, GIF, BMP and TIFF are read, AVIF where Pillow can, and HEIC and JPEG XL where a plug-in of
Pillow is installed. The rules:

- the EXIF orientation is applied, and all metadata is dropped, so that nobody turns the image again;
- transparent pixels are laid over white;
- of several frames or pages, the first;
- grey of up to 16 bits is scaled from its full range; grey of 32 bits or floats, whose range nobody knows, is refused;
- colour profiles are not applied; CMYK becomes RGB by Pillow's rule;
- whoever decodes a large image takes room for it first (`files.room`).

Nothing here raises or warns about a bad file, and no global setting of Pillow is touched.
"""

import functools
import importlib
import io
import math
import os
import re
import stat
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PurePath
from typing import Final, NamedTuple, TypeVar

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from uniemox.errors import DAMAGED
from uniemox.files.archives import read_slice, slice_of
from uniemox.files.room import ROOM
from uniemox.wording import reason_of

Found = TypeVar("Found")

MAX_PIXELS: Final = 1024**3 // 4 // 3  # 89,478,485: a quarter of a GiB as RGB, above which Pillow warns
MAX_BYTES: Final = 256 * 1024**2  # Maximum bytes of a file
EXTENSIONS: Final = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff")
)  # Endings of images that are always read, in lower case
OTHER_EXTENSIONS: Final = {
    **dict.fromkeys((".avif", ".avifs"), "AVIF"),
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC"),
    ".jxl": "JPEG XL",
    **dict.fromkeys((".jp2", ".j2k", ".jpx"), "JPEG 2000"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PNM"),
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2"), "raw image of a camera"),
    ".psd": "Photoshop",
    ".tga": "TGA",
}  # Endings of images that are read where Pillow or a plug-in can, and their formats

_SUPPORTED: Final = "JPEG, PNG, WebP, GIF, BMP and TIFF"
_PLUG_INS: Final = {
    "AVIF": ("AVIF", "pillow_avif", "pillow-avif-plugin"),
    "HEIC": ("HEIF", "pillow_heif", "pillow-heif"),
    "JPEG XL": ("JXL", "pillow_jxl", "pillow-jxl-plugin"),
}  # What Pillow calls a format, the module that brings it, and the package of that
_MAX_SCANS: Final = 100  # Of a progressive JPEG; encoders write up to 14, and each costs as much as a whole image
_MAX_SCANNED: Final = 2 * 10**9  # Pixels times scans: 20 scans of the largest image
_STRIP: Final = 2**22  # Pixels that are converted at a time, where that needs more than the result
_FORMATS: Final = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WebP": rb"RIFF.{4}WEBP",
    "GIF": rb"GIF8",
    # "BM" alone starts many a text; the header's size, which follows at byte 14, is one of seven small numbers.
    "BMP": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00",
    "TIFF": rb"II[\x2a\x2b]\x00|MM\x00[\x2a\x2b]",
}  # First bytes of the formats that are read
_OTHER_FORMATS: Final = {
    "AVIF": rb".{4}ftyp(avi[fs]|mif1.{4}(.{4}){0,8}?avif)",
    "HEIC": rb".{4}ftyp(hei|hev|mif1|msf1)",
    "MP4": rb".{4}ftyp",
    "JPEG 2000": rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\x00\x00\x00\x0cJXL |\xff\x0a",
    "Photoshop": rb"8BPS",
    "icon": rb"\x00\x00\x01\x00",
    "PostScript": rb"%!PS|\xc5\xd0\xd3\xc6",
    "PDF": rb"%PDF",
    "QOI": rb"qoif",
    "DDS": rb"DDS ",
    "OpenEXR": rb"\x76\x2f\x31\x01",
    "PNM": rb"P[1-7][\n ]",
    "zip": rb"PK\x03\x04",
    "gzip": rb"\x1f\x8b",
    "RIFF (sound or video)": rb"RIFF",
    "Git LFS pointer": rb"version https://git-lfs",
    "SVG": rb"(?i:.*<svg)",
    "web page": rb"(?i:.*(<html|<!doctype html))",
}
_MARKER: Final = re.compile(rb"\xff([^\x00\xff\xd0-\xd8])")
"""Markers of JPEG (ITU T.81, B.1.1.3), but for restarts, and for what is no marker inside of a scan."""
_PROGRESSIVE: Final = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_SCAN, _END = 0xDA, 0xD9
_DAMAGED: Final = (*DAMAGED, zlib.error, Image.DecompressionBombError)
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # What makes an image of an EXIF orientation upright (EXIF 2.3, 4.6.4 A); the last four exchange the sides


@dataclass(frozen=True)
class Unreadable:
    """A file that is no image we can use, and why, in a few words without the file's name."""

    reason: str


class Decoded(NamedTuple):
    """An image as `decode_picture` found it."""

    image: Image.Image  # Upright, RGB, without metadata; reduced where that was asked for
    width: int  # Of the whole upright image, in pixels
    height: int


def read_image(
    path: Path, *, max_pixels: int | None = None, max_bytes: int = MAX_BYTES, shrink_to: int | None = None
) -> Image.Image | Unreadable:
    """Read an image file by `read_file` and `decode_image`."""
    data = read_file(path, max_bytes=max_bytes)
    return data if isinstance(data, Unreadable) else decode_image(data, max_pixels=max_pixels, shrink_to=shrink_to)


def read_file(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes | Unreadable:
    """Read the bytes of a file, which may be in an archive, or say why that is impossible.

    Only regular files are opened, so that a pipe or a device cannot hang the reader; a file of more than `max_bytes` is
    refused before it is read.
    """
    try:
        part = slice_of(path)
        place = path if part is None else part.archive
        status = place.stat()
        if not stat.S_ISREG(status.st_mode):
            return Unreadable("not a file")
        size = status.st_size if part is None else part.size
        if size > max_bytes:
            return Unreadable(f"{size} bytes, over the limit of {max_bytes}")
        with place.open("rb") as file:  # buffered, since a single read over a network may be short
            return file.read(max_bytes) if part is None else read_slice(file, part)
    except OSError as error:
        return Unreadable(reason_of(error))
    except ValueError:  # a NUL in the name
        return Unreadable("not a file name")


def decode_image(
    data: bytes, *, max_pixels: int | None = None, shrink_to: int | None = None
) -> Image.Image | Unreadable:
    """Decode an image from the bytes of its file.

    Args:
        data: The whole file.
        max_pixels: Largest width × height; a larger image is refused before it is decoded. None takes what
            `admitting` allows, by default `MAX_PIXELS`.
        shrink_to: Side in pixels that suffices. A JPEG is then decoded at a half, a quarter or an eighth of its size
            where its short side stays at least this long. That is several times faster, but pixels differ by a few
            grey levels from those of the whole image shrunk, and boxes must be scaled by the caller.

    Returns:
        The upright image, mode RGB, without metadata, or why it cannot be decoded.
    """
    decoded = decode_picture(data, max_pixels=max_pixels, shrink_to=shrink_to)
    return decoded if isinstance(decoded, Unreadable) else decoded.image


def decode_picture(data: bytes, *, max_pixels: int | None = None, shrink_to: int | None = None) -> Decoded | Unreadable:
    """Decode like `decode_image`, and give the size of the whole image, which `shrink_to` hides."""
    return _opened(data, lambda image: _decode(image, max_pixels, shrink_to, scans=_count_scans(data)))


def read_size(file: Path | bytes) -> tuple[int, int] | Unreadable:
    """Read width and height in pixels of an upright image, of a path or the bytes of a file, without decoding it."""
    data = file if isinstance(file, bytes) else read_file(file)
    return data if isinstance(data, Unreadable) else _opened(data, _size_of)


def read_date(path: Path) -> date | None:
    """Read the day on which an image was taken, of EXIF before its pixels (DateTimeOriginal), or return None."""
    data = read_file(path)
    found = data if isinstance(data, Unreadable) else _opened(data, _date_of)
    return None if isinstance(found, Unreadable) else found


def _opened(data: bytes, use: Callable[[Image.Image], Found | Unreadable]) -> Found | Unreadable:
    """Open an image and do something with it; a damaged one is a reason."""
    name = identify(data)
    if isinstance(name, Unreadable):
        return name
    with _quiet_pillow():
        try:
            with Image.open(io.BytesIO(data), formats=(_PLUG_INS.get(name, (name.upper(),))[0],)) as image:
                return use(image)
        except UnidentifiedImageError:
            return Unreadable(f"damaged {name}: its header cannot be read")
        except _DAMAGED as error:
            return Unreadable(f"damaged {name}: {reason_of(error)}")


def adopt_image(image: Image.Image | np.ndarray, *, max_pixels: int | None = None) -> Image.Image | Unreadable:
    """Convert an image in memory by the rules of `decode_image`.

    Args:
        image: Of Pillow, loaded or not, with its EXIF orientation applied if it still has one; or an array of uint8,
            (H, W, 3) RGB, (H, W, 4) RGBA, (H, W) or (H, W, 1) grey. It is not changed.
        max_pixels: Largest width × height; None as in `decode_image`.
    """
    if isinstance(image, np.ndarray):
        channels = image.shape[2:]
        if image.dtype != np.uint8 or image.ndim < 2 or channels not in ((), (1,), (3,), (4,)):
            return Unreadable(
                f"array of {image.dtype} and shape {image.shape}, but only uint8 of (height, width, 3) is read"
            )
        image = Image.fromarray(image.squeeze(2) if channels == (1,) else image)
    if 0 in image.size:
        return Unreadable("empty image")
    with _quiet_pillow():
        try:
            decoded = _decode(image, max_pixels)
        except _DAMAGED as error:
            return Unreadable(f"damaged image: {reason_of(error)}")
    return decoded if isinstance(decoded, Unreadable) else decoded.image


def identify(data: bytes) -> str | Unreadable:
    """Name the format of an image file by its first bytes, or say why it is none that is read."""
    if not data:
        return Unreadable("empty file")
    for name, start in (_FORMATS | _OTHER_FORMATS).items():
        if re.match(start, data[:1024], re.DOTALL):
            return name if name in _FORMATS else _if_plugged(name)
    return Unreadable("not an image")


def is_image_name(name: str) -> bool:
    """Whether the name of a file ends like that of an image, read or not."""
    suffix = PurePath(name).suffix.lower()
    return suffix in EXTENSIONS or suffix in OTHER_EXTENSIONS


def explain_ending(name: str) -> str | None:
    """Explain why an image whose name ends so is not read here; None if it is, or is no image."""
    suffix = PurePath(name).suffix.lower()
    found = _if_plugged(OTHER_EXTENSIONS[suffix]) if suffix in OTHER_EXTENSIONS else None
    return found.reason if isinstance(found, Unreadable) else None


@functools.cache
def _if_plugged(name: str) -> str | Unreadable:
    """Return the name of a format that Pillow or an installed plug-in reads, else why it is not read."""
    if name not in _PLUG_INS:
        return Unreadable(f"{name}, but only {_SUPPORTED} are read")
    called, module, package = _PLUG_INS[name]
    with _quiet_pillow():
        Image.init()
        if called not in Image.OPEN:
            try:
                plug_in = importlib.import_module(module)
                getattr(plug_in, "register_heif_opener", lambda: None)()
            except (ImportError, *DAMAGED):  # the last are those of a broken installation
                return Unreadable(f"{name}, which is read only if {package} is installed: install it, or convert it")
    return name


def _decode(
    image: Image.Image, max_pixels: int | None, shrink_to: int | None = None, *, scans: int = 1
) -> Decoded | Unreadable:
    """Convert an opened image; a damaged one raises one of `_DAMAGED`."""
    width, height = image.size
    most = max_pixels or admitted_pixels()
    if width * height > most:
        return Unreadable(f"{width} x {height} pixels, over the limit of {most} (max_pixels)")
    if scans > _MAX_SCANS or width * height * scans > max(_MAX_SCANNED, width * height):
        return Unreadable(f"a JPEG of {width} x {height} pixels in {scans} scans, which would take minutes")
    if image.mode in ("I", "F"):
        return Unreadable("grey of 32 bits, but only up to 16 bits are read")
    if shrink_to is not None:
        image.draft(None, (shrink_to, shrink_to))
    # Pillow stores a pixel of colours in four bytes; the result is another image, and one that is turned a third.
    may_be_turned = "exif" in image.info or isinstance(image, TiffImageFile)
    room = math.prod(image.size) * (12 if may_be_turned else 8)
    if scans > 1:  # libjpeg holds two bytes of each coefficient of the whole image, at whatever size it is decoded
        room = max(room, 6 * width * height + 4 * math.prod(image.size))
    with ROOM.hold(room):
        image.load()
        upright = _to_rgb(image)
        orientation = _orientation_of(image, lambda loaded: loaded.getexif())  # Pillow turns a TIFF when it loads it
        if orientation in _TURNS:
            upright = upright.transpose(_TURNS[orientation])
            width, height = (height, width) if orientation >= 5 else (width, height)
    upright.info.clear()
    return Decoded(upright, width, height)


def _size_of(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    if isinstance(image, TiffImageFile):  # whose size some versions of Pillow exchange when they open it
        width, height = int(image.tag_v2[256]), int(image.tag_v2[257])
    # Of the base class: that of a PNG would decode it.
    return (height, width) if _orientation_of(image, Image.Image.getexif) >= 5 else (width, height)


def _date_of(image: Image.Image) -> date | None:
    try:
        stated = Image.Image.getexif(image).get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal)
        return date(*map(int, str(stated)[:10].split(":")))  # "2024:05:31 12:00:00"; cameras without a clock write 0
    except _DAMAGED:
        return None


def _orientation_of(image: Image.Image, read: Callable[[Image.Image], Image.Exif]) -> int:
    """Read the EXIF orientation; 0 where there is none that is known."""
    try:
        found = read(image).get(0x0112)
    except _DAMAGED:  # the metadata alone, which does not make an image unreadable
        return 0
    return found if isinstance(found, int) and found in _TURNS else 0


def _count_scans(data: bytes) -> int:
    """Count the scans of a progressive JPEG, up to one more than allowed; 1 for any other file."""
    if not data.startswith(b"\xff\xd8\xff"):
        return 1
    position, scans, is_progressive = 2, 0, False
    # Segments have a length, but what follows the header of a scan ends with the next marker.
    while scans <= _MAX_SCANS and (marker := _MARKER.search(data, position)) is not None:
        kind, position = marker[1][0], marker.end()
        is_progressive |= kind in _PROGRESSIVE
        scans += kind == _SCAN
        if scans and not is_progressive:  # the rest is not searched: a training run reads millions of these
            break
        if kind == _END:
            break
        position += int.from_bytes(data[position : position + 2])
    return scans if is_progressive else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB; strip by strip where that takes several copies of the image."""
    if not (image.mode.startswith("I;") or image.has_transparency_data):
        return image.convert("RGB")
    result = Image.new("RGB", image.size)
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(image.height, top + rows)))
        result.paste(_scale_grey(strip, image) if image.mode.startswith("I;") else _over_white(strip), (0, top))
    return result


def _over_white(image: Image.Image) -> Image.Image:
    colours = image.convert("RGBA")
    white = Image.new("RGBA", colours.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, colours).convert("RGB")


def _scale_grey(strip: Image.Image, image: Image.Image) -> Image.Image:
    """Scale grey of 16 bits, or of as many as a TIFF declares, to 8."""
    values = np.asarray(strip)
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    bits = int(tags.get(258, (16,))[0])  # BitsPerSample of TIFF 6.0
    grey = np.rint(np.clip(values / (2.0**bits - 1), 0, 1) * 255).astype(np.uint8)
    if tags.get(262) == 0:  # white is zero; Pillow handles that up to 8 bits only
        grey = 255 - grey
    key = image.info.get("transparency")
    if key is not None:
        grey[values == key] = 255
    return Image.fromarray(grey).convert("RGB")


_admitted = MAX_PIXELS


def admitted_pixels() -> int:
    """Return the largest width × height that is read where nothing else is said."""
    return _admitted


@contextmanager
def admitting(max_pixels: int | None) -> Iterator[None]:
    """Read images of up to so many pixels while the block runs; None changes nothing."""
    before = _admitted
    admit(max_pixels or before)
    try:
        yield
    finally:
        admit(before)


def admit(max_pixels: int) -> None:
    """Read images of up to so many pixels in all threads of this process from now on.

    It is a limit of the process, as the room that images are decoded in (DECISIONS 112): whoever starts other processes
    passes it on.
    """
    global _admitted
    _admitted = max_pixels


_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_filters = ExitStack()


def _forget_threads() -> None:
    # In a forked process no thread is left that could give the lock back.
    global _quiet_lock, _quiet_depth
    _quiet_lock, _quiet_depth = threading.Lock(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Silence the warnings of Pillow's modules while any thread decodes.

    Filters of warnings belong to the process, and `catch_warnings` restores what it found: two threads that overlap
    would leave one another's filters behind. So the first one in sets them and the last one out restores them.
    """
    global _quiet_depth
    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_filters.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                _quiet_filters.close()
