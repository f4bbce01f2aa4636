"""What a prediction is given, as a stream of images: files, folders, globs, lists, tables, archives, videos, stdin.

What is known beforehand is listed, so that it can be counted, and people be found by paths. The frames of a video and
the images of a compressed tar archive are known only while they are read: they are a `Stream`.
"""

from __future__ import annotations

import codecs
import glob
import hashlib
import io
import logging
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np

from uniemox.errors import ConfigError, DataError
from uniemox.files.cells import is_missing
from uniemox.files.images import MAX_BYTES, Unreadable, is_image_name, read_size
from uniemox.files.packed import is_archive_name, is_streamed, read_members
from uniemox.files.paths import PATH_HEADINGS, is_file, is_folder, is_there
from uniemox.files.video import Frame, find_ffmpeg, is_video_name, read_frames
from uniemox.files.walk import is_clutter
from uniemox.inference.opening import URL, Named
from uniemox.inference.predictor import find_images
from uniemox.manifests.facts import METADATA_KEY, facts_from_metadata
from uniemox.manifests.findings import Findings
from uniemox.wording import counted, name_first, nearest, reason_of

if TYPE_CHECKING:
    from uniemox.importers.tables import Record, Table

log = logging.getLogger(__name__)

STDIN: Final = Path("-")
TABLE_SUFFIXES: Final = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson", ".json", ".arrow")
_SAMPLE: Final = 1000  # Rows by which the column of paths is found
_CHUNK: Final = 2**16  # Bytes of a list that are taken at once, or as many as have arrived
_LONGEST_LINE: Final = 2**20  # Characters; no system has paths of more than 2**15
_SHOWN: Final = 12  # Headings that a message names


@dataclass(frozen=True)
class Stream:
    """Images that are known only while they are read."""

    path: Path
    read: Callable[[], Generator[Named, None, None]]
    fps: float | None = None  # Of a video


Source = Path | Named | Stream


@dataclass(frozen=True)
class Inputs:
    """Images in their order, which may be gone through several times."""

    sources: Sequence[Source]

    def __iter__(self) -> Iterator[Path | Named]:
        for source in self.sources:
            if isinstance(source, Stream):
                with closing(source.read()) as images:
                    yield from images
            else:
                yield source

    @property
    def total(self) -> int | None:
        """How many images there are; None where that shows only at the end."""
        return None if any(isinstance(source, Stream) for source in self.sources) else len(self.sources)

    @property
    def has_times(self) -> bool:
        """Whether some are frames of a video."""
        return any(isinstance(source, Stream) and source.fps is not None for source in self.sources)

    @property
    def has_rows(self) -> bool:
        """Whether some come from rows of a table."""
        return any(isinstance(source, Named) and source.row is not None for source in self.sources)

    def paths(self) -> list[Path]:
        """List the paths of all images, or raise `ConfigError` where they are not known beforehand."""
        for source in self.sources:
            if isinstance(source, Stream):
                then = "give `detector`" if source.fps is not None else "give `detector`, or pack it as zip or tar"
                raise ConfigError(f"`boxes` is about paths that are known before {source.path} is read: {then}")
        return [source if isinstance(source, Path) else source.path for source in self.sources]

    def sizes(self) -> Callable[[Path], tuple[int, int] | Unreadable]:
        """Return what reads width and height of one of `paths`, from where prediction reads the image."""
        contents = {source.path: source.content for source in self.sources if isinstance(source, Named)}

        def size_of(path: Path) -> tuple[int, int] | Unreadable:
            found = contents.get(path)
            content = found() if callable(found) else found
            if isinstance(content, Unreadable):
                return content
            if isinstance(content, np.ndarray):
                return content.shape[1], content.shape[0]
            return read_size(path if content is None else content)

        return size_of

    def identity(self) -> str:
        """Name the inputs by their count and a hash: of all paths, and of the sizes of videos and archives."""
        digest = hashlib.sha256()
        for source in self.sources:
            path, more = (source, b"") if isinstance(source, Path) else (source.path, _identify(source))
            digest.update(os.fsencode(path) + b"\0" + more)
        noun = "image" if self.total is not None else "input"
        return f"{counted(len(self.sources), noun)}, SHA-256 {digest.hexdigest()[:16]}"


def _identify(source: Named | Stream) -> bytes:
    if isinstance(source, Stream):
        return f"{source.path.stat().st_size} {source.fps}\0".encode()
    return hashlib.sha256(source.content).digest() if isinstance(source.content, bytes) else b""


@dataclass(frozen=True, kw_only=True)
class InputReader:
    """Finds the images that words of a command line stand for.

    Args:
        column: Of the paths in tables; None finds it.
        root: Folder that the paths of tables and lists are relative to; None takes the table's own, and for lists the
            working directory.
        fps: Frames of a video a second.
        stdin: What `-` is read from.
    """

    column: str | None = None
    root: Path | None = None
    fps: float = 1.0
    stdin: BinaryIO | None = None

    def find(self, paths: Iterable[Path], listed: Path | None = None) -> Inputs:
        """List images.

        Args:
            paths: Images; folders, as `find_images` searches them; tables, archives and videos, by the endings of
                their names; patterns such as `photos/**/*.jpg`, where no file has that name; or `-` for one image.
            listed: A file of paths, as `read_list` takes it, or `-`. What a line names need not exist.

        Raises:
            DataError: A path does not exist, a table has no column of paths, or ffmpeg is not installed.
            ConfigError: A setting is about something that is not given, or stdin is asked for twice.
        """
        given = list(paths)
        if [*given, listed].count(STDIN) > 1:
            raise ConfigError("`-` can be given once: what is read from stdin is read once")
        sources = [source for path in given for source in self._find(path)]
        tables = [path for path in given if _is_table(path)]
        if self.column is not None and not tables:
            raise ConfigError("`column` is about a table of paths: give one, such as photos.csv")
        if self.root is not None and not tables and listed is None:
            raise ConfigError("`root` is about the paths of a table or a list: give one")
        if listed is not None:
            for inputs in self.read_list(listed):
                sources += inputs.sources
        if not sources:
            raise DataError(f"{listed or name_first(list(map(str, given)))} names no image")
        return Inputs(sources)

    def read_list(self, listed: Path) -> Iterator[Inputs]:
        """Read what a file or stdin (`-`) lists, as it arrives: a path in each line, or ended by NUL each.

        A path is an image, a folder, an archive or a video; a blank line is skipped.

        Raises:
            DataError: The list cannot be read, or is none.
        """
        opened = nullcontext(self._stdin()) if listed == STDIN else _open_list(listed)
        return self._read_list(opened, listed)

    def _read_list(self, opened: AbstractContextManager[BinaryIO], listed: Path) -> Iterator[Inputs]:
        with opened as file:
            for paths in _split_list(file, listed):
                yield Inputs([source for path in paths for source in self._find_listed(path)])

    def _find(self, path: Path) -> Iterable[Source]:
        """List what a word of the command line stands for."""
        if path == STDIN:
            data = self._stdin().read(MAX_BYTES + 1)
            return [Named(path, data if len(data) <= MAX_BYTES else Unreadable(f"more than {MAX_BYTES} bytes"))]
        if _is_table(path):
            return self._find_in_table(path)
        if glob.has_magic(str(path)) and not is_there(path):
            return [source for found in _match(path) for source in self._open(found)]
        return self._open(path) if is_file(path) else find_images([path])

    def _find_listed(self, text: str) -> Iterable[Source]:
        """List what a line stands for, which is a row with its reason where nothing is there."""
        path = Path(text) if self.root is None or URL.match(text) else self.root / text
        try:
            return find_images([path]) if is_folder(path) else self._open(path) if is_file(path) else [Named(path)]
        except DataError as error:
            return [Named(path, Unreadable(str(error)))]

    def _open(self, path: Path) -> Iterable[Source]:
        """List the images of a file."""
        if is_video_name(path.name):
            find_ffmpeg()
            return [Stream(path, partial(_frames, path, self.fps), float(self.fps))]
        if not is_archive_name(path.name):
            return [path]
        return [Stream(path, partial(_members, path))] if is_streamed(path) else _members(path)

    def _stdin(self) -> BinaryIO:
        if self.stdin is None or self.stdin.isatty():
            raise ConfigError(f"{STDIN} reads stdin, but nothing is piped into it: add < FILE, or COMMAND |")
        return self.stdin

    def _find_in_table(self, path: Path) -> list[Named]:
        from uniemox.importers.tables import read_table  # brings Arrow

        findings = Findings()
        table = read_table(path, findings)
        column, records = _find_column(table, self.column, path)
        root = self.root or _root_of(table, path)
        found = [_from_row(record, row, column, root, path) for row, record in enumerate(records)]
        for problem in findings.problems():
            log.warning("%s: %s; the column row counts the rows that were read", path, problem)
        if not found:
            raise DataError(f"{path} has no rows")
        return found


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in TABLE_SUFFIXES and is_file(path)


def _members(path: Path) -> Generator[Named, None, None]:
    """Yield the images of an archive under its path, and warn of what was passed over."""
    findings = Findings()
    for name, content in read_members(path, findings.note):
        yield Named(path / name, content)
    for note in findings.notes():
        log.warning("%s: skipped %s", path, note)


def _frames(path: Path, fps: float) -> Generator[Named, None, None]:
    with closing(read_frames(path, fps=fps)) as frames:
        for frame in frames:
            yield Named(path, frame.pixels, frame.time) if isinstance(frame, Frame) else Named(path, frame)


def _match(pattern: Path) -> list[Path]:
    """List the files that a pattern matches and that are read, by name."""
    names = glob.glob(str(pattern), recursive=True)  # noqa: PTH207 - Path.glob takes hidden files, unlike a shell
    found = [Path(name) for name in sorted(names)]
    kinds = (is_image_name, is_archive_name, is_video_name)
    read = [path for path in found if path.is_file() and any(is_read(path.name) for is_read in kinds)]
    own = [path for path in read if not any(is_clutter(part) for part in path.parts if part not in pattern.parts)]
    if not own:
        what = f"matches no image, but {name_first(list(map(str, found)))}" if found else "is no file, and matches none"
        raise DataError(f"{pattern} {what}: * stands for a part of a name, ** for folders")
    return own


# Tables


def _find_column(table: Table, asked: str | None, path: Path) -> tuple[str, Iterator[Record]]:
    """Find the column of paths: the one that is asked for, or has a usual heading, or alone has names of images."""
    records = iter(table.records)
    first = list(islice(records, _SAMPLE))
    shown = name_first([str(name) for name in table.headings], most=_SHOWN)
    if asked is not None and asked not in table.headings:
        raise DataError(f"{path} has no column {asked}{nearest(asked, table.headings)}; it has {shown}")
    by_name = {name.strip().casefold(): name for name in reversed(table.headings)}
    usual = [by_name[name] for name in PATH_HEADINGS if name in by_name]
    found = [asked] if asked is not None else [name for name in usual if _has_texts(first, name)][:1]
    found = found or [name for name in table.headings if _has_texts(first, name, is_image_name)]
    if len(found) != 1:
        what = f"several columns of images, {name_first(found)}" if found else f"no column of paths; it has {shown}"
        raise DataError(f"{path} has {what}: name the column with `column`")
    return found[0], chain(first, records)


def _has_texts(records: Iterable[Record], column: str, holds: Callable[[str], bool] = bool) -> bool:
    """Whether all cells of a column that are not empty, of which there are some, are texts of a kind."""
    cells = [cell for record in records if not is_missing(cell := record.cells.get(column))]
    return bool(cells) and all(isinstance(cell, str) and holds(cell.strip()) for cell in cells)


def _root_of(table: Table, path: Path) -> Path:
    """Return the folder that paths of a table are relative to: that of a manifest, else the table's own."""
    metadata = table.schema.metadata if table.schema is not None else None
    if METADATA_KEY in (metadata or {}):
        return facts_from_metadata(metadata, path).root
    return path.parent


def _from_row(record: Record, row: int, column: str, root: Path, path: Path) -> Named:
    """Return the image of a row; a row without one has its reason, under the path of the table."""
    cell: Any = record.cells.get(column)
    if is_missing(cell):
        return Named(path, Unreadable(f"no path in {record.where}"), row=row)
    if not isinstance(cell, str):
        return Named(path, Unreadable(f"the column {column} holds no path in {record.where}"), row=row)
    text = cell.strip()
    if URL.match(text):
        return Named(Path(text), row=row)
    if "\\" in text and not is_there(root / text):  # written on Windows
        text = text.replace("\\", "/")
    return Named(root / text, row=row)


# Lists


def _open_list(path: Path) -> BinaryIO:
    try:
        return path.open("rb")  # a pipe has a name as well, as of `<(find …)`
    except OSError as error:
        raise DataError(f"cannot read {path}: {reason_of(error)}") from error


def _split_list(file: BinaryIO, listed: Path) -> Iterator[list[str]]:
    """Yield the paths of a list as they arrive; NUL separates them where there is one, else lines do."""
    decoder, separator, rest = None, "", ""
    while data := _read_some(file, listed):
        decoder = decoder or _decoder_of(data)
        rest += decoder.decode(data)
        separator = separator or ("\0" if "\0" in rest else "\n" if "\n" in rest else "")
        if separator:
            *lines, rest = rest.split(separator)
            if found := _paths_in(lines):
                yield found
        if len(rest) > _LONGEST_LINE:
            raise DataError(f"{listed} is no list of paths: one of its lines has more than {_LONGEST_LINE} characters")
    if decoder is not None and (found := _paths_in([rest + decoder.decode(b"", final=True)])):
        yield found


def _read_some(file: BinaryIO, listed: Path) -> bytes:
    """Read what has arrived, at least a byte; none at the end."""
    try:
        return file.read1(_CHUNK) if isinstance(file, io.BufferedReader | io.BytesIO) else file.read(_CHUNK)
    except OSError as error:
        raise DataError(f"cannot read {listed}: {reason_of(error)}") from error


def _decoder_of(start: bytes) -> codecs.IncrementalDecoder:
    """Choose by the mark at the start: UTF-16, as PowerShell writes files, else UTF-8 with whatever names may hold."""
    is_wide = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return codecs.getincrementaldecoder("utf-16" if is_wide else "utf-8-sig")("surrogateescape")


def _paths_in(lines: Iterable[str]) -> list[str]:
    return [line.removesuffix("\r") for line in lines if line.strip()]
