"""Paths as lists, tables and annotations write them, and the files that they mean.

Written on another system, a path may have backslashes, `./`, blanks around it, letters in another case, or accents
stored in another form. It means a file if that is the only one it can mean; what several could be is none of them.
"""

import posixpath
import unicodedata
from collections.abc import Iterable
from typing import Final

PATH_HEADINGS: Final = ("path", "image", "image_path", "img", "file_name", "filename", "file")
"""What tables call the column of paths, in the order in which it is looked for."""
_Index = dict[str, list[str]]


def clean_path(path: str) -> str:
    """Write a path with slashes, without blanks around it, `./` and doubled slashes."""
    return posixpath.normpath(path.strip().replace("\\", "/"))


def path_key(path: str) -> str:
    """Return what all ways to write a path have in common."""
    return alike(clean_path(path))


def alike(name: str) -> str:
    """Return what all ways to write a name have in common that users see as one: case, accents, blanks around it."""
    # Case can change the normal form of a text, hence twice.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name.strip()).casefold())


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
                self._ends.setdefault(alike(posixpath.basename(known)), []).append(known)
        end = f"/{path_key(path)}"
        among = self._ends.get(posixpath.basename(end), [])
        return [known for known in among if f"/{alike(known)}".endswith(end)]

    def sharing_an_end(self, path: str) -> list[str]:
        """List the paths that have the longest end in common with a path, at least the name of the file."""
        parts = clean_path(path).split("/")
        for first in range(len(parts)):
            found = self.ending_in("/".join(parts[first:]))
            if found:
                return found
        return []
