"""Looking for people in the pictures of a manifest, once, in parts on disk: a killed search goes on where it was.

Pictures are read by threads while the detector is at work; nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.parquet as pq

from uniemox.data.images import Unreadable, read_image
from uniemox.data.lookahead import read_ahead
from uniemox.data.population import FOUND, Found, to_table
from uniemox.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from pathlib import Path

    from PIL import Image

    from uniemox.data.detectors.detector import Detector

_VERSION: Final = 1
_BATCH_PIXELS: Final = 2**26
"""Pixels after which a batch is full, whatever its number of pictures: 800 MB as floats."""


class Search:
    """A search for people, which keeps what it found in a folder until it is told to clear it.

    Args:
        root: Folder that paths are relative to.
        paths: The pictures.
        source: What the detector says of itself.
        folder: Where parts are kept; made if absent.

    Raises:
        DataError: The folder is of another search, or cannot be written.
    """

    def __init__(self, root: Path, paths: pa.Array, *, source: str, folder: Path) -> None:
        self._root = root
        self._paths = paths
        self._folder = folder
        self._start(source)
        self._parts, self.done = self._read_parts()

    def __len__(self) -> int:
        """Pictures in all."""
        return len(self._paths)

    def run(
        self,
        detector: Detector,
        *,
        batch_size: int = 8,
        num_workers: int = 2,
        seconds_between_parts: float = 20.0,
    ) -> Generator[Found, None, None]:
        """Look at the pictures that are left, in order; what was yielded is kept, even if the caller stops.

        Args:
            detector: Who looks.
            batch_size: Pictures that it gets at once.
            num_workers: Threads that read pictures; 0 reads between batches.
            seconds_between_parts: Seconds of work that a killed process may lose.

        Raises:
            DataError: A part cannot be written, or the detector gives what its format does not say.
        """
        fresh: list[Found] = []
        last = time.monotonic()
        pictures = self._read(num_workers, ahead=batch_size + num_workers)
        try:
            for batch in _in_batches(pictures, batch_size):
                for found in _look(detector, batch):
                    fresh.append(found)
                    yield found
                if time.monotonic() - last >= seconds_between_parts:
                    self._keep(fresh)
                    fresh, last = [], time.monotonic()
        finally:
            if fresh:
                self._keep(fresh)

    def result(self) -> pa.Table:
        """Give what was found in each picture, in the columns of `FOUND`."""
        assert self.done == len(self)
        return pa.concat_tables([FOUND.empty_table(), *self._parts])

    def clear(self) -> None:
        """Delete the parts."""
        shutil.rmtree(self._folder)

    def _start(self, source: str) -> None:
        digest = hashlib.sha256()
        for path in self._paths:
            digest.update(f"{path.as_py()}\n".encode())
        plan = {"version": _VERSION, "source": source, "pictures": digest.hexdigest()}
        file = self._folder / "search.json"
        try:
            self._folder.mkdir(exist_ok=True)
            # A search that found nothing yet binds nobody; what is not ours is not to be cleared.
            if all(
                path.name == file.name or path.suffix == ".tmp" for path in self._folder.iterdir()
            ):
                file.write_text(json.dumps(plan, indent=2), encoding="utf-8")
            there = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        except OSError as error:
            raise DataError(
                f"cannot keep a search in {self._folder}: {error.strerror}; choose another place"
            ) from error
        except (ValueError, RecursionError):
            there = None
        if there != plan:
            raise DataError(
                f"{self._folder} holds a search with other pictures or another detector, or something else: delete it "
                "to begin anew, or repeat the command that began it"
            )

    def _read_parts(self) -> tuple[list[pa.Table], int]:
        """Read what is there; a part is named by the place of its first picture, so a gap ends it."""
        parts: list[pa.Table] = []
        done = 0
        while (file := self._file(done)).exists():
            try:
                part = pq.read_table(file)
            except (OSError, pa.ArrowException):
                break
            if part.schema != FOUND or not 0 < len(part) <= len(self) - done:
                break
            parts.append(part)
            done += len(part)
        return parts, done

    def _keep(self, found: Iterable[Found]) -> None:
        table = to_table(found)
        file = self._file(self.done)
        whole = file.with_suffix(".tmp")
        try:
            pq.write_table(table, whole)
            whole.replace(file)
        except OSError as error:
            raise DataError(
                f"cannot write {file}: {error.strerror}; make room and repeat the command"
            ) from error
        self._parts.append(table)
        self.done += len(table)

    def _file(self, start: int) -> Path:
        return self._folder / f"{start:010d}.parquet"

    def _read(self, num_workers: int, *, ahead: int) -> Iterator[Image.Image | Unreadable]:
        return read_ahead(
            read_image,
            (self._root / path.as_py() for path in self._paths[self.done :]),
            num_workers=num_workers,
            ahead=ahead,
            size=_num_pixels,
            room=_BATCH_PIXELS,  # the next batch, while the detector looks at this one
        )


def _in_batches(
    pictures: Iterable[Image.Image | Unreadable], size: int
) -> Iterator[list[Image.Image | Unreadable]]:
    batch: list[Image.Image | Unreadable] = []
    pixels = 0
    for picture in pictures:
        batch.append(picture)
        pixels += _num_pixels(picture)
        if len(batch) == size or pixels >= _BATCH_PIXELS:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


def _num_pixels(picture: Image.Image | Unreadable) -> int:
    return 0 if isinstance(picture, Unreadable) else picture.width * picture.height


def _look(detector: Detector, batch: list[Image.Image | Unreadable]) -> Iterator[Found]:
    images = [picture for picture in batch if not isinstance(picture, Unreadable)]
    boxes = iter(detector.detect(images) if images else [])
    for picture in batch:
        if isinstance(picture, Unreadable):
            yield Found(reason=picture.reason)
        else:
            yield Found(next(boxes), width=picture.width, height=picture.height)
