"""Paths as lists, tables and annotations write them, and the files that they mean.

Written on another system, a path may have backslashes, `./`, blanks around it, letters in another case, or accents
stored in another form. It means a file if that is the only one it can mean; what several could be is none of them.
"""

import os
import posixpath
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final

from uniemox.files.cells import visible

PATH_HEADINGS: Final = ("path", "image", "image_path", "img", "file_name", "filename", "file")
"""What tables call the column of paths, in the order in which it is looked for."""
_Index = dict[str, list[str]]
_DEEPEST: Final = 64  # Names of a path that are compared from its end


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a path is that of a folder; not if it can be none, such as a name that is too long."""
    return os.path.isdir(path)  # noqa: PTH112 - Path's raises then, before Python 3.14


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether a path is that of a file, as `is_folder` asks it."""
    return os.path.isfile(path)  # noqa: PTH113


def is_there(path: str | os.PathLike[str]) -> bool:
    """Whether something has a path, as `is_folder` asks it."""
    return os.path.exists(path)  # noqa: PTH110


def clean_path(path: str) -> str:
    """Write a path with slashes, without blanks around it, `./` and doubled slashes."""
    return posixpath.normpath(path.strip().replace("\\", "/"))


def path_key(path: str) -> str:
    """Return what all ways to write a path have in common."""
    return alike(clean_path(path))


def alike(name: str) -> str:
    """Return what all ways to write a name have in common that users see as one: case, accents, blanks around it."""
    # Case can change the normal form of a text, hence twice.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", visible(name).strip()).casefold())


class PathIndex:
    """Paths that are looked for in other ways to write them.

    Args:
        paths: POSIX, relative to one folder, each as it really is.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = dict.fromkeys(paths)
        self._keys: _Index = {}
        self._ends: _Index = {}

    def find(self, path: str) -> list[str]:
        """List the paths that a path may mean: itself if it is one, else those that are written like it."""
        if path in self.paths:
            return [path]
        clean = clean_path(path)
        if clean in self.paths:
            return [clean]
        if not self._keys:
            for known in self.paths:
                self._keys.setdefault(path_key(known), []).append(known)
        return self._keys.get(alike(clean), [])

    def ending_in(self, path: str) -> list[str]:
        """List the paths that end in a path, whole names for whole names."""
        if not self._ends:
            for known in self.paths:
                for end in _ends(known):
                    self._ends.setdefault(end, []).append(known)
        return self._ends.get(path_key(path), [])

    def sharing_an_end(self, path: str) -> list[str]:
        """List the paths that have the longest end in common with a path, at least the name of the file."""
        found: list[str] = []
        for end in _ends(path):
            longer = self.ending_in(end)
            if not longer:
                break
            found = longer
        return found


def _ends(path: str) -> Iterator[str]:
    """Yield the ends of a path as keys, the name of its file first; not all of a path that is deeper than any is."""
    parts = path_key(path).split("/")
    for first in reversed(range(max(0, len(parts) - _DEEPEST), len(parts))):
        yield "/".join(parts[first:])
