"""Pictures in tar archives, each read as one slice of the archive's file.

A path that ends in `NAME.tar/OFFSET+SIZE/MEMBER` means the SIZE bytes from OFFSET on of the file NAME.tar, if the
header before them says that MEMBER begins there with this size. So a picture is one read at a known place: no index is
built or kept, and what was not put there by `data shard` is not read.
"""

from __future__ import annotations

import re
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

SUFFIX: Final = ".tar"
_PLACE: Final = re.compile(r"(\d{1,15})\+(\d{1,15})", re.ASCII)
_HEADER: Final = 512  # bytes; POSIX.1-1988, ustar


class Slice(NamedTuple):
    """Where in an archive a file stands."""

    archive: Path
    offset: int
    """Of its first byte."""
    size: int
    """In bytes."""
    name: str
    """Of the member, without folders."""


def slice_path(archive: str, offset: int, size: int, name: str) -> str:
    """Give the path that `slice_of` understands."""
    return f"{archive}/{offset}+{size}/{name}"


def slice_of(path: Path) -> Slice | None:
    """Understand a path into an archive; None for every other, also where a folder has such a name."""
    archive = path.parent.parent
    if not archive.name.endswith(SUFFIX):
        return None
    place = _PLACE.fullmatch(path.parent.name)
    if place is None or archive.is_dir():
        return None
    return Slice(archive, int(place[1]), int(place[2]), path.name)


def file_behind(path: Path) -> Path:
    """Give the file that a path is read from: the archive, or the path itself."""
    part = slice_of(path)
    return path if part is None else part.archive


def read_slice(part: Slice, *, max_bytes: int) -> bytes | str:
    """Read a file in an archive, or tell why it is not to be had.

    Raises:
        OSError: The archive cannot be read.
    """
    if not stat.S_ISREG(part.archive.stat().st_mode):
        return "not a file"
    if part.size > max_bytes:
        return f"{part.size} bytes, over the limit of {max_bytes}"
    if part.offset < _HEADER:
        return _WRONG
    with part.archive.open("rb", buffering=0) as file:
        file.seek(part.offset - _HEADER)
        data = file.read(_HEADER + part.size)
    if not _begins(data[:_HEADER], part):
        return _WRONG
    if len(data) < _HEADER + part.size:
        return "the archive ends before the picture does"
    return data[_HEADER:]


_WRONG: Final = "the archive has something else at this place"


def _begins(header: bytes, part: Slice) -> bool:
    """Whether a header is that of the member."""
    import tarfile  # read where it is needed, since prediction has no need of it

    try:
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return member.isreg() and (member.name, member.size) == (part.name, part.size)
