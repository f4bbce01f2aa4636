"""The files below a root, listed once per folder; links that lead out of the root are not followed."""

import errno
import os
import posixpath
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from uniemox.errors import DataError
from uniemox.files.images import EXTENSIONS
from uniemox.importers.cells import is_text
from uniemox.manifests.findings import Findings
from uniemox.wording import reason_of

_CLUTTER: Final = frozenset(("Thumbs.db", "desktop.ini", "__MACOSX"))
_ABSENT: Final = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)

Kind = Literal["file", "folder", "outside", "other"]


class Tree:
    """The files below a root. Each folder is listed once, instead of asking for each of 118,102 images."""

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
        """Return what a relative path in normal form is; None where nothing is."""
        if posixpath.isabs(path) or path.split("/", 1)[0] == "..":
            return "outside"
        folder, name = posixpath.split(path)
        names = self.names(folder)
        return "outside" if names is None else names.get(name)

    def folders(self, folder: str) -> list[str]:
        """Name the folders in a folder."""
        return [name for name, kind in (self.names(folder) or {}).items() if kind == "folder"]

    def find(self, path: str, kind: Kind) -> str | None:
        """Find a path in any case of its letters, the given one first; None where no such thing is."""
        found = ""
        for part in path.split("/"):
            alike = [name for name in self.names(found) or {} if name.casefold() == part.casefold()]
            if not alike:
                return None
            found = posixpath.join(found, part if part in alike else alike[0])
        return found if self.kind(found) == kind else None

    def images(self, folder: str, above: tuple[str, ...] = ()) -> Iterator[str]:
        """Yield the paths of all images below a folder, in order, and count what else lies there."""
        real = os.path.realpath(self.root / folder)
        if real in (self._real, *above):
            self.findings.add("link in a circle", folder)
            return
        for name, kind in (self.names(folder) or {}).items():
            path = posixpath.join(folder, name)
            match kind:
                case "folder":
                    yield from self.images(path, (*above, real))
                case "file" if is_image(name):
                    yield path
                case "outside":
                    self.findings.add("link that leaves the root", path)
                case _:
                    self.findings.add("file that is no image", path)

    def relative(self, path: str) -> str:
        """Make a path of a table relative to the root, if it is below; POSIX, on whatever system it was written."""
        if "\\" in path and self.kind(posixpath.normpath(path)) is None:
            path = path.replace("\\", "/")
        for root in (os.path.abspath(self.root), self._real):  # noqa: PTH100 - no link may be followed
            if path.startswith(f"{root}/"):
                return path[len(root) + 1 :]
        return path

    def listed_image(self, path: str, *, where: str) -> str | None:
        """Return the normal form of the path of an image that a list names; None, and counted, if it is none."""
        normal = posixpath.normpath(path)
        match self.kind(normal):
            case "file" if is_image(normal):
                return normal
            case "outside":
                self.findings.add("path that leaves the root", f"{path} in {where}")
            case None:
                self.findings.add("listed image that does not exist", normal)
            case _:
                self.findings.add("file that is no image", normal)
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
            raise DataError(f"cannot list {path}: {reason_of(error)}") from error
        names: dict[str, Kind] = {}
        seen: dict[str, str] = {}
        for name, kind in found:
            if name.startswith(".") or name in _CLUTTER:
                continue
            if not is_text(name):
                self.findings.add("file name that is not UTF-8", posixpath.join(folder, name))
                continue
            names[name] = kind
            # One and the same on systems that ignore case or forms of accents.
            first = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
            if first is not name:
                self.findings.add("names that differ only in case", f"{posixpath.join(folder, first)} and {name}")
        return names

    def _kind_of(self, entry: os.DirEntry[str]) -> Kind:
        if entry.is_symlink() and not self._holds(os.path.realpath(entry.path)):
            return "outside"
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_file() else "other"

    def _holds(self, real: str) -> bool:
        return os.path.commonpath((self._real, real)) == self._real


def is_image(name: str) -> bool:
    """Whether the name of a file ends like an image's."""
    return posixpath.splitext(name)[1].lower() in EXTENSIONS
