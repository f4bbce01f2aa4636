"""The images in zip and tar archives, read where they are: nothing is unpacked to a disk.

An archive may be anybody's. A name in it only ever becomes a part of a path that is shown, and what leads out of the
archive (an absolute name, `..`, a link) is passed over all the same. An image that unfolds to far more than is stored,
and a compressed archive as a whole, are refused before they fill the memory or take hours.
"""

import gzip
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, NamedTuple

from uniemox.errors import DAMAGED
from uniemox.files.images import MAX_BYTES, Unreadable, is_image_name
from uniemox.files.walk import is_clutter
from uniemox.wording import reason_of

ARCHIVE_SUFFIXES: Final = (".zip", ".tar", ".tar.gz", ".tgz")  # In lower case
MAX_STREAMED: Final = 32 * 1024**2
"""Bytes of an image in a compressed tar archive: such images wait in memory, as nothing is read twice."""
_MOST_FOLDED: Final = 64 * 1024**2  # Bytes of an image that may be folded more closely than
_MAX_RATIO: Final = 200  # times; photographs are stored as they are, bitmaps to a fiftieth
_SPARE: Final = 1024**3  # Bytes that a compressed tar archive may unfold to beyond that
_LONGEST_HEADER: Final = 1024**2  # Bytes of a tar header, which may hold a long name
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # The memory that others need is up to the archive
_DAMAGED: Final = (*DAMAGED, zipfile.BadZipFile, tarfile.TarError, zlib.error)

Note = Callable[[str, str], None]  # Counts what is passed over by its kind, with an example


class Member(NamedTuple):
    """An image in an archive."""

    name: str  # With slashes, relative; empty where the reason is about the archive as a whole
    content: bytes | Unreadable | Callable[[], bytes | Unreadable]  # Or what reads it, in any thread and order


def is_archive_name(name: str) -> bool:
    """Whether the name of a file ends like that of an archive that is read."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def is_streamed(path: Path) -> bool:
    """Whether an archive has to be read from its start to its end, so that it is not known what it holds before."""
    return path.name.lower().endswith((".tar.gz", ".tgz"))


def read_members(path: Path, note: Note) -> Generator[Member, None, None]:
    """Yield what is named like an image in an archive, in the archive's order.

    What is damaged has a reason for its content; so has an archive without an image, or one that breaks off.
    """
    count = 0
    try:
        for member in _zip_members(path, note) if path.suffix.lower() == ".zip" else _tar_members(path, note):
            yield member
            count += 1
    except _DAMAGED as error:
        where = f" after {count} images" if count else ""
        yield Member("", Unreadable(f"the archive is damaged{where}: {reason_of(error)}"))
        return
    if not count:
        yield Member("", Unreadable("the archive has no image"))


def _zip_members(path: Path, note: Note) -> Iterator[Member]:
    # Not closed here: its members are read later. The last of them closes it.
    archive = zipfile.ZipFile(path)
    for entry in archive.infolist():
        name = entry.filename.replace("\\", "/")
        kind = stat.S_IFMT(entry.external_attr >> 16)  # of Unix; 0 elsewhere
        if entry.is_dir() or not _is_taken(name, note):
            continue
        if kind not in (0, stat.S_IFREG):
            note("link or device", name)
            continue
        yield Member(name, partial(_read_entry, archive, entry))


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes | Unreadable:
    if entry.flag_bits & 1:
        return Unreadable("encrypted in its archive")
    if entry.compress_type not in _METHODS:
        return Unreadable("compressed by another method than deflate: pack it again")
    if entry.file_size > MAX_BYTES:
        return Unreadable(f"{entry.file_size} bytes, over the limit of {MAX_BYTES}")
    if entry.file_size > max(_MOST_FOLDED, _MAX_RATIO * entry.compress_size):
        return Unreadable(f"unfolds from {entry.compress_size} to {entry.file_size} bytes")
    try:
        with archive.open(entry) as file:  # gives no more bytes than are declared
            return file.read()
    except _DAMAGED as error:
        return Unreadable(f"damaged in its archive: {reason_of(error)}")


class _Headers:
    """What the reader of tar archives reads headers from: none of them is a bomb, nor is what lies between them."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile, *, end: int | None) -> None:
        self._file, self._end = file, end
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LONGEST_HEADER:
            raise OSError(f"a header of {size} bytes")
        return self._file.read(size)

    def seek(self, place: int) -> int:
        if self._end is not None and place > self._end:
            raise OSError(f"it unfolds to more than {self._end} bytes")
        return self._file.seek(place)


def _tar_members(path: Path, note: Note) -> Iterator[Member]:
    is_packed = is_streamed(path)
    end = _MAX_RATIO * path.stat().st_size + _SPARE if is_packed else None
    with gzip.open(path) if is_packed else path.open("rb") as file:
        headers: Any = _Headers(file, end=end)
        with tarfile.open(fileobj=headers, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # else all headers stay in memory
                if member.isdir() or not _is_taken(member.name, note):
                    continue
                if not member.isreg() or member.issparse():
                    note("link or device", member.name)
                elif not is_packed:
                    yield Member(member.name, partial(_read_part, path, member.offset_data, member.size))
                elif member.size > MAX_STREAMED:
                    why = f"{member.size} bytes in a compressed archive, over the limit of {MAX_STREAMED}: unpack it"
                    yield Member(member.name, Unreadable(why))
                else:
                    data = file.read(member.size)
                    if len(data) < member.size:
                        raise OSError("it ends before its last image does")
                    yield Member(member.name, data)


def _read_part(path: Path, offset: int, size: int) -> bytes | Unreadable:
    if size > MAX_BYTES:
        return Unreadable(f"{size} bytes, over the limit of {MAX_BYTES}")
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
    except OSError as error:
        return Unreadable(reason_of(error))
    return data if len(data) == size else Unreadable("the archive ends before the image does")


def _is_taken(name: str, note: Note) -> bool:
    """Whether a name is that of an image inside the archive; what is passed over though it ends like one is noted."""
    parts = PurePosixPath(name).parts
    if not is_image_name(name) or not parts:
        return False
    if name.startswith("/") or ".." in parts or ":" in parts[0]:
        note("name that leads out of the archive", name)
    elif any(map(is_clutter, parts)):
        note("file that a system or a program keeps", name)
    else:
        return True
    return False
