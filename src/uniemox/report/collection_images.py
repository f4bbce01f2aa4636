"""The images that show a collection best: the most typical, the most doubtful and the least familiar."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from uniemox.files.images import Unreadable, read_image
from uniemox.files.video import is_video_name, read_frame
from uniemox.inference.collection import Population, Shown, Summary
from uniemox.report import charts
from uniemox.report.collection_figures import clock
from uniemox.report.page import Section, Table, Tile, TileGroup, TileGroups
from uniemox.wording import shorten

_TYPICAL: Final = 3  # Images of each emotion
_GROUPS: Final = 12  # Emotions with typical images, the most frequent
_RANKED: Final = 12  # Images that are doubtful, or unfamiliar
_SIDE: Final = 240  # Pixels of a small image


class Images:
    """Reads the images of rows, and counts those that are found."""

    def __init__(self, root: Path | None) -> None:
        self._root = root or Path()
        self.asked = self.found = 0

    def show(self, row: Shown) -> charts.Pixels | None:
        """Read the image of a row, small; None where it cannot be read."""
        self.asked += 1
        path = self._root / row.path
        if row.time is not None and is_video_name(row.path):
            pixels = read_frame(path, row.time) if path.is_file() and shutil.which("ffmpeg") else None
            self.found += isinstance(pixels, np.ndarray)
            return None if isinstance(pixels, Unreadable) else pixels
        image = read_image(path, shrink_to=None if row.box else _SIDE) if row.path else Unreadable("no name")
        if isinstance(image, Unreadable):
            return None
        self.found += 1
        if row.box is not None and np.isfinite(row.box).all():
            x0, y0, x1, y1 = np.clip(row.box, 0, [image.width, image.height] * 2).tolist()
            image = charts.frame(image, (x0, y0, x1, y1)) if x0 < x1 and y0 < y1 else image
        image.thumbnail((_SIDE, _SIDE))
        return np.asarray(image)

    def describe(self) -> str:
        """Say how many of the files were found."""
        if self.found == self.asked:
            return f"all {self.asked} found"
        return f"{self.found} of {self.asked} found: relative paths start from the working directory, or from --root"


def section_title(summary: Summary, text: str) -> str:
    """Name a section, with the kind of answer where a table has several."""
    part = summary.reading.part.strip("_").replace("_", " ")
    return f"{text} ({part})" if part else text


def show_examples(summary: Summary, images: Images) -> Iterator[Section]:
    """Show the images that are typical of each emotion, and those whose answers are doubtful."""
    reading = summary.reading
    mean = summary.whole.mix(are_shares=False).mean[0]
    weights = dict(zip(reading.names, mean, strict=True)) if reading.is_mix else {}
    names = sorted(summary.typical, key=lambda name: -weights.get(name, 0))[:_GROUPS]
    kept = [name for name in summary.typical if name in names]  # in the order of the labels
    if reading.is_mix:
        kept.sort(key=reading.names.index)
    groups = [
        _group(name, summary.typical[name].rows[:_TYPICAL], images, _score if reading.is_mix else _sure)
        for name in kept
    ]
    if groups:
        more = len(summary.typical) - len(groups)
        caption = f"The {len(groups)} most frequent of {len(summary.typical)} emotions." if more else ""
        title = "Most typical" if reading.is_mix else "Extremes"
        yield Section(section_title(summary, title), reading.has_typical, [_block(groups, caption)])
    if summary.doubtful.rows:
        group = _group("", summary.doubtful.rows[:_RANKED], images, _sure)
        yield Section(section_title(summary, "Most ambiguous"), reading.has_doubt, [_block([group])])


def show_strange(population: Population, images: Images) -> Iterator[Section]:
    """Show the images that are farthest from those that the model learned from."""
    rows = population.strange.rows
    if rows:
        text = (
            f"Farthest from the training images, by the distance of their features. {population.unfamiliar:,} of "
            f"{population.measured:,} answers are to images beyond the cutoff of the model: do not rely on them."
        )
        group = _group("", rows[:_RANKED], images, lambda row: f"distance {row.score:.2f}")
        yield Section("Least familiar", text, [_block([group])])


def _sure(row: Shown) -> str:
    return "" if row.confidence is None else f"{100 * row.confidence:.0f} %"


def _score(row: Shown) -> str:
    return f"{100 * row.score:.0f} %"


def _group(title: str, rows: Sequence[Shown], images: Images, describe: Callable[[Shown], str]) -> TileGroup:
    tiles = []
    for row in rows:
        name = row.path if row.time is None else f"{row.path} at {clock(row.time)}"
        badge, text = (describe(row), "") if title and describe(row) else (shorten(row.answer), describe(row))
        tiles.append(Tile(images.show(row), name, badge, text))
    return TileGroup(title, tiles)


def _block(groups: Sequence[TileGroup], caption: str = "") -> TileGroups | Table:
    """Show images side by side, or list their names where none is found."""
    if any(tile.image is not None for group in groups for tile in group.tiles):
        return TileGroups(groups, caption)
    rows = [
        (tile.name, group.title or tile.badge, tile.text if not group.title else tile.badge)
        for group in groups
        for tile in group.tiles
    ]
    return Table(("file", "answer", ""), rows, f"No image file was found here to be shown. {caption}".strip())
