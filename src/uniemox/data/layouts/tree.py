"""The files below a root, listed once per folder; links that lead out of the root are not followed."""

from __future__ import annotations

import errno
import os
import posixpath
import unicodedata
from typing import TYPE_CHECKING, Final, Literal

from uniemox.data.images import EXTENSIONS
from uniemox.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from uniemox.data.findings import Findings

_CLUTTER: Final = frozenset(("Thumbs.db", "desktop.ini", "__MACOSX"))
_ABSENT: Final = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)

Kind = Literal["file", "folder", "outside", "other"]


class Tree:
    """The files below a root. Each folder is listed once, instead of asking for each of 118,102 pictures."""

    def __init__(self, root: Path, findings: Findings) -> None:
        self.root = root
        self.findings = findings
        self._real = os.path.realpath(root)
        self._listings: dict[str, dict[str, Kind] | None] = {}

    def names(self, folder: str) -> dict[str, Kind] | None:
        """List a folder (a relative path, "" for the root) by name; empty if absent, None if links lead it outside."""
        if folder not in self._listings:
            self._listings[folder] = self._scan(folder)
        return self._listings[folder]

    def kind(self, path: str) -> Kind | None:
        """Tell what a relative path in normal form is; None where there is nothing."""
        if posixpath.isabs(path) or path.split("/", 1)[0] == "..":
            return "outside"
        folder, name = posixpath.split(path)
        names = self.names(folder)
        return "outside" if names is None else names.get(name)

    def folders(self, folder: str) -> list[str]:
        """Name the folders in a folder."""
        return [name for name, kind in (self.names(folder) or {}).items() if kind == "folder"]

    def find(self, path: str, kind: Kind) -> str | None:
        """Find a path in any case of its letters, the given one first; None where there is no such thing."""
        found = ""
        for part in path.split("/"):
            names = self.names(found) or {}
            alike = [name for name in names if name.casefold() == part.casefold()]
            if not alike:
                return None
            found = posixpath.join(found, part if part in alike else alike[0])
        return found if self.kind(found) == kind else None

    def pictures(self, folder: str, above: tuple[str, ...] = ()) -> Iterator[str]:
        """Yield the paths of all pictures below a folder, in order, and count what else lies there."""
        real = os.path.realpath(self.root / folder)
        if real in (self._real, *above):
            self.findings.add("link in a circle", folder)
            return
        for name, kind in (self.names(folder) or {}).items():
            path = posixpath.join(folder, name)
            match kind:
                case "folder":
                    yield from self.pictures(path, (*above, real))
                case "file" if is_picture(name):
                    yield path
                case "outside":
                    self.findings.add("link that leaves the root", path)
                case _:
                    self.findings.add("file that is no picture", path)

    def relative(self, path: str) -> str:
        """Bring a path of a table to one relative to the root, if it is below; POSIX, whoever wrote it."""
        if "\\" in path and self.kind(posixpath.normpath(path)) is None:
            path = path.replace("\\", "/")
        for root in (os.path.abspath(self.root), self._real):  # noqa: PTH100 - no link may be followed
            if path.startswith(f"{root}/"):
                return path[len(root) + 1 :]
        return path

    def listed_picture(self, path: str, *, where: str) -> str | None:
        """Bring the path of a picture that a list names to its normal form; None, and counted, if there is no such."""
        normal = posixpath.normpath(path)
        match self.kind(normal):
            case "file" if is_picture(normal):
                return normal
            case "outside":
                self.findings.add("path that leaves the root", f"{path} in {where}")
            case None:
                self.findings.add("listed picture that is not there", normal)
            case _:
                self.findings.add("file that is no picture", normal)
        return None

    def _scan(self, folder: str) -> dict[str, Kind] | None:
        path = self.root / folder
        try:
            if not self._holds(os.path.realpath(path)):
                return None
            with os.scandir(path) as entries:
                found = sorted((entry.name, self._kind_of(entry)) for entry in entries)
        except ValueError:  # a NUL or half a character in a name
            return {}
        except OSError as error:
            if error.errno in _ABSENT:
                return {}
            raise DataError(f"cannot list {path}: {error.strerror}") from error
        names = {name: kind for name, kind in found if self._is_wanted(folder, name)}
        self._count_clashes(folder, names)
        return names

    def _kind_of(self, entry: os.DirEntry[str]) -> Kind:
        if entry.is_symlink() and not self._holds(os.path.realpath(entry.path)):
            return "outside"
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_file() else "other"

    def _holds(self, real: str) -> bool:
        return os.path.commonpath((self._real, real)) == self._real

    def _is_wanted(self, folder: str, name: str) -> bool:
        if name.startswith(".") or name in _CLUTTER:
            return False
        if is_text(name):
            return True
        self.findings.add("file name that is not UTF-8", posixpath.join(folder, name))
        return False

    def _count_clashes(self, folder: str, names: Iterable[str]) -> None:
        """Count names that are one and the same on systems that do not tell cases or forms of accents apart."""
        seen: dict[str, str] = {}
        for name in names:
            first = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
            if first is not name:
                self.findings.add(
                    "names that differ only in case",
                    f"{posixpath.join(folder, first)} and {name}",
                )


def is_picture(name: str) -> bool:
    """Tell whether a file's name ends like a picture's."""
    return posixpath.splitext(name)[1].lower() in EXTENSIONS


def is_text(name: str) -> bool:
    """Tell whether a text can be written as UTF-8: names of files and JSON may hold halves of characters."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
