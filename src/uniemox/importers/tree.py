"""The files below a root, listed once per folder; links that lead out of the root are not followed."""

import errno
import os
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

from uniemox.errors import DataError
from uniemox.files.cells import is_text
from uniemox.files.images import explain_ending, is_image_name
from uniemox.files.paths import alike, clean_path
from uniemox.files.walk import is_clutter
from uniemox.manifests.findings import Findings
from uniemox.wording import reason_of

_PROBED: Final = 200  # Images that are looked for to find the folder that they are in
_ABSENT: Final = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)

Kind = Literal["file", "folder", "outside", "other"]


class Tree:
    """The files below a root. Each folder is listed once, instead of asking for each of 118,102 images."""

    def __init__(self, root: Path, findings: Findings) -> None:
        self.root = root
        self.findings = findings
        self._real = os.path.realpath(root)
        self._listings: dict[str, dict[str, Kind] | None] = {}
        self._indices: dict[str, dict[str, list[str]]] = {}

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
        found = self._written_otherwise(path)
        return found[0] if found and self.kind(found[0]) == kind else None

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
                case "file" if is_image_name(name):
                    if self._is_read(path):
                        yield path
                case "outside":
                    self.findings.add("link that leaves the root", path)
                case _:
                    self.findings.add("file that is no image", path)

    def find_base(self, listed: Sequence[str]) -> str:
        """Find the folder that listed paths are relative to: the root, or one up to two levels below it."""
        probes = listed[:: max(1, len(listed) // _PROBED)]
        candidates = ["", *self.folders("")]
        candidates += [posixpath.join(name, below) for name in candidates[1:] for below in self.folders(name)]
        return max(
            candidates,
            key=lambda base: sum(
                self.kind(posixpath.normpath(posixpath.join(base, path))) == "file" for path in probes
            ),
        )

    def relative(self, path: str) -> str:
        """Make a path of a table relative to the root, if it is below."""
        for root in (os.path.abspath(self.root), self._real):  # noqa: PTH100 - no link may be followed
            if path.startswith(f"{root}/"):
                return path[len(root) + 1 :]
        return path

    def listed_image(self, path: str, *, where: str) -> str | None:
        """Return the path of the image that a list names, as it is below the root; None, and counted, if it is none.

        It may be written otherwise, as `files.paths` describes, if it can mean no second file.
        """
        normal = posixpath.normpath(path)
        if self.kind(normal) in (None, "outside"):
            found = self._written_otherwise(clean_path(self.relative(clean_path(path))))
            if len(found) > 1:
                self.findings.add("path that several files are written like", f"{path} in {where}")
                return None
            if found:
                self.findings.note("path written in another way", f"{path} is {found[0]}")
            normal = found[0] if found else normal
        match self.kind(normal):
            case "file" if is_image_name(normal):
                return normal if self._is_read(normal) else None
            case "outside":
                self.findings.add("path that leaves the root", f"{path} in {where}")
            case None:
                self.findings.add("listed image that does not exist", normal)
            case _:
                self.findings.add("file that is no image", normal)
        return None

    def _written_otherwise(self, path: str) -> list[str]:
        """List the paths that a path may mean, part by part: the part itself if it is one, else those alike."""
        found = [""]
        for part in path.split("/"):
            below: list[str] = []
            for folder in found:
                names = self.names(folder) or {}
                if part not in names:
                    below += [posixpath.join(folder, name) for name in self._alike(folder).get(alike(part), ())]
                else:
                    below.append(posixpath.join(folder, part))
            found = below
        return found

    def _alike(self, folder: str) -> dict[str, list[str]]:
        """Index the names in a folder by what users see as one."""
        if folder not in self._indices:
            index: dict[str, list[str]] = {}
            for name in self.names(folder) or {}:
                index.setdefault(alike(name), []).append(name)
            self._indices[folder] = index
        return self._indices[folder]

    def _is_read(self, path: str) -> bool:
        """Whether images named so can be read here; counted if not."""
        why = explain_ending(path)
        if why is not None:
            self.findings.add("image of a format that is not read here", f"{path}: {why}")
        return why is None

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
            if is_clutter(name):
                if kind == "folder" or is_image_name(name):
                    self.findings.note("skipped, since a system or a program keeps it", posixpath.join(folder, name))
                continue
            if not is_text(name):
                self.findings.add("file name that is not UTF-8", posixpath.join(folder, name))
                continue
            names[name] = kind
            # One and the same on systems that ignore case or forms of accents.
            first = seen.setdefault(alike(name), name)
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
