"""Images in tar archives, each read as one slice of the archive's file.

A path that ends in `NAME.tar/OFFSET+SIZE/MEMBER` means the SIZE bytes from OFFSET of the file NAME.tar, if the header
before them is that of MEMBER and gives this size. So an image is found at a known place, without an index, and nothing
but a regular member of that name and size is read.
"""

import re
from pathlib import Path
from typing import IO, Final, NamedTuple

SUFFIX: Final = ".tar"
_PLACE: Final = re.compile(r"(\d{1,15})\+(\d{1,15})", re.ASCII)
_HEADER: Final = 512  # bytes; POSIX.1-1988, ustar


class Slice(NamedTuple):
    """Place of a file in an archive."""

    archive: Path
    offset: int  # Of its first byte
    size: int  # In bytes
    name: str  # Of the member, without folders


def slice_path(archive: str, offset: int, size: int, name: str) -> str:
    """Write the path that `slice_of` understands."""
    return f"{archive}/{offset}+{size}/{name}"


def slice_of(path: Path) -> Slice | None:
    """Parse a path into an archive; None for any other, also where a folder has such a name."""
    archive, place = path.parent.parent, _PLACE.fullmatch(path.parent.name)
    if place is None or not archive.name.endswith(SUFFIX) or archive.is_dir():
        return None
    return Slice(archive, int(place[1]), int(place[2]), path.name)


def file_behind(path: Path) -> Path:
    """Return the file that a path is read from: the archive, or the path itself."""
    part = slice_of(path)
    return path if part is None else part.archive


def read_slice(file: IO[bytes], part: Slice) -> bytes:
    """Read a member of an open archive; `OSError` if it cannot be read, or is not there as described."""
    import tarfile  # not needed for prediction

    file.seek(max(part.offset - _HEADER, 0))
    try:
        member = tarfile.TarInfo.frombuf(file.read(_HEADER), "utf-8", "surrogateescape")
        is_this = member.isreg() and (member.name, member.size) == (part.name, part.size)
    except tarfile.HeaderError:
        is_this = False
    if not is_this or part.offset < _HEADER:
        raise OSError("the archive has something else at this place")
    data = file.read(part.size)
    if len(data) < part.size:
        raise OSError("the archive ends before the image does")
    return data
