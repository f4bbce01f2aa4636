"""Looking for people in the images of a manifest, once, in parts on disk: a killed search continues where it was.

Images are read by threads while the detector is at work; nothing here needs torch.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from uniemox.errors import DataError
from uniemox.files.images import Unreadable, read_image
from uniemox.files.read_ahead import read_ahead
from uniemox.files.whole import is_unfinished, write_whole
from uniemox.files.writing import explained
from uniemox.manifests.population import FOUND, Found, to_table
from uniemox.people.detectors.detector import Detector

_VERSION: Final = 1
_BATCH_PIXELS: Final = 2**26  # Pixels after which a batch is full, whatever its number of images: 800 MB as floats


class Search:
    """A search for people, which keeps what it found in a folder until `clear`.

    Args:
        root: Folder that paths are relative to.
        paths: The images.
        source: The detector's description of itself.
        folder: Where parts are kept; made if absent.

    Raises:
        DataError: The folder is of another search, or cannot be written.
    """

    def __init__(self, root: Path, paths: pa.Array, *, source: str, folder: Path) -> None:
        self._root = root
        self._paths = paths
        self._folder = folder
        self._start(source)
        self._parts: list[pa.Table] = []
        self.done = 0
        # A part is named by the place of its first image, so a gap ends them.
        while (part := self._read_part()) is not None:
            self._parts.append(part)
            self.done += len(part)

    def __len__(self) -> int:
        """Images in all."""
        return len(self._paths)

    def run(
        self, detector: Detector, *, batch_size: int = 8, num_workers: int = 2, seconds_between_parts: float = 20.0
    ) -> Generator[Found, None, None]:
        """Look at the images that are left, in order; what was yielded is kept, even if the caller stops.

        The detector gets `batch_size` images at once; `num_workers` threads read them (0: between batches). A killed
        process loses no more than `seconds_between_parts` seconds of work.

        Raises:
            DataError: A part cannot be written, or the detector's answer does not fit its format.
        """
        fresh: list[Found] = []
        last = time.monotonic()
        images = read_ahead(
            read_image,
            (self._root / path.as_py() for path in self._paths[self.done :]),
            num_workers=num_workers,
            ahead=batch_size + num_workers,
            size=_num_pixels,
            room=_BATCH_PIXELS,  # the next batch, while the detector looks at this one
        )
        try:
            for batch in _in_batches(images, batch_size):
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
        """Return what was found in each image, in the columns of `FOUND`."""
        assert self.done == len(self)
        return pa.concat_tables([FOUND.empty_table(), *self._parts])

    def clear(self) -> None:
        """Delete the parts."""
        shutil.rmtree(self._folder)

    def _start(self, source: str) -> None:
        digest = hashlib.sha256()
        for path in self._paths:
            digest.update(f"{path.as_py()}\n".encode())
        plan = json.dumps({"version": _VERSION, "source": source, "pictures": digest.hexdigest()}, indent=2)
        file = self._folder / "search.json"
        with explained(self._folder, DataError):
            self._folder.mkdir(parents=True, exist_ok=True)
            # A search that found nothing yet binds nobody; what is not ours is not to be cleared.
            others = [path for path in self._folder.iterdir() if path != file and path.suffix != ".tmp"]
            if all(map(is_unfinished, others)):
                with write_whole(file, DataError) as beside:
                    beside.write_text(plan, encoding="utf-8")
            begun = file.read_text(encoding="utf-8", errors="replace") if file.exists() else None
        if begun != plan:
            raise DataError(
                f"{self._folder} holds a search with other images or another detector, or something else: delete it "
                "to start over, or repeat the command that began it"
            )

    def _file(self) -> Path:
        """Name the file of the next part."""
        return self._folder / f"{self.done:010d}.parquet"

    def _read_part(self) -> pa.Table | None:
        try:
            part = pq.read_table(self._file())
        except (OSError, pa.ArrowException):
            return None
        return part if part.schema == FOUND and 0 < len(part) <= len(self) - self.done else None

    def _keep(self, found: Sequence[Found]) -> None:
        table = to_table(found)
        with write_whole(self._file(), DataError, then="repeat the command") as beside:
            pq.write_table(table, beside)
        self._parts.append(table)
        self.done += len(table)


def _in_batches(images: Iterable[Image.Image | Unreadable], size: int) -> Iterator[list[Image.Image | Unreadable]]:
    batch: list[Image.Image | Unreadable] = []
    for image in images:
        batch.append(image)
        if len(batch) == size or sum(map(_num_pixels, batch)) >= _BATCH_PIXELS:
            yield batch
            batch = []
    if batch:
        yield batch


def _num_pixels(image: Image.Image | Unreadable) -> int:
    return 0 if isinstance(image, Unreadable) else image.width * image.height


def _look(detector: Detector, batch: list[Image.Image | Unreadable]) -> Iterator[Found]:
    images = [image for image in batch if not isinstance(image, Unreadable)]
    boxes = iter(detector.detect(images) if images else [])
    for image in batch:
        if isinstance(image, Unreadable):
            yield Found(reason=image.reason)
        else:
            yield Found(next(boxes), width=image.width, height=image.height)
