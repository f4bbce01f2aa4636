"""Faults of copies of images, from their files, their likeness and their boxes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from uniemox.audit.copies import Copies
from uniemox.audit.fingerprints import thumbs_of
from uniemox.audit.likeness import find_links, group
from uniemox.config.audit import AuditRules, Kind
from uniemox.files.progress import Track
from uniemox.manifests.table import Manifest

Same = Literal["file", "pixels", "look"]  # What the copies of a group have in common

_BLANK_SPREAD: Final = 2.0  # grey levels of standard deviation; JPEG's noise on one colour stays below
_TINY_BOX: Final = 8  # pixels
_MOST_BOXES: Final = 100
_ROOM: Final = 1.0  # pixels by which a box may reach over the edge: rounding


@dataclass(frozen=True)
class Finding:
    """A fault of a copy."""

    kind: Kind
    copy: int
    text: str
    other: int | None = None  # The copy that it repeats, contradicts or gives away
    removed: bool = False


@dataclass(frozen=True)
class Group:
    """Copies that show the same."""

    copies: tuple[int, ...]
    same: Same
    likeness: float  # Of the pair that is least alike of those compared; 1 for equal pixels


class Judge:
    """Finds the faults of the copies of images.

    Files of equal pixels are one image (a number; -1 for a file that is none), and links join images.
    """

    def __init__(self, copies: Copies, fingerprints: pa.Table, config: AuditRules, track: Track) -> None:
        self._copies, self._config = copies, config
        self._sha256 = fingerprints["sha256"].combine_chunks()
        self._reasons = fingerprints["reason"].combine_chunks()
        sides = [fingerprints[name].fill_null(0).to_numpy() for name in ("width", "height")]
        self._size = np.stack(sides, axis=1)  # of each file, 0 if unknown
        digests = fingerprints["pixels"].combine_chunks().dictionary_encode().indices
        of_file = digests.fill_null(-1).to_numpy().astype(np.int64)
        self._image = of_file[copies.file]
        self._num_files = np.bincount(of_file[of_file >= 0])
        count = len(self._num_files)
        first_file = np.unique(of_file, return_index=True)[1]
        first_file = first_file[len(first_file) - count :]  # without -1's
        self._is_blank = fingerprints["spread"].fill_null(np.inf).to_numpy()[first_file] < _BLANK_SPREAD
        self._is_placeholder = ~self._is_blank & (self._num_files >= config.placeholder_copies)
        # What holds no image cannot leak, and would be linked with everything like it.
        is_compared = ~self._is_blank & ~self._is_placeholder
        self._by_image: dict[int, list[int]] = {}
        for copy, image in enumerate(self._image.tolist()):
            if image >= 0 and is_compared[image]:
                self._by_image.setdefault(image, []).append(copy)
        compared = np.flatnonzero(is_compared)
        links = find_links(thumbs_of(fingerprints)[first_file[compared]], like=config.like, track=track)
        self._links = links._replace(first=compared[links.first], second=compared[links.second])
        self._linked: dict[int, list[tuple[int, float, bool]]] = {}
        for first, second, likeness, mirrored in zip(*map(np.ndarray.tolist, self._links), strict=True):
            self._linked.setdefault(first, []).append((second, likeness, mirrored))
            self._linked.setdefault(second, []).append((first, likeness, mirrored))

    def of_images(self) -> Iterator[Finding]:
        """Find the faults of a copy by itself."""
        for copy, (file, image) in enumerate(zip(self._copies.file.tolist(), self._image.tolist(), strict=True)):
            if image < 0:
                yield Finding("unreadable", copy, self._reasons[file].as_py())
                continue
            width, height = self._size[file]
            if min(width, height) < self._config.min_side:
                yield Finding("tiny", copy, f"{width} x {height} pixels")
            if self._is_blank[image]:
                yield Finding("blank", copy, "one colour")
            elif self._is_placeholder[image]:
                yield Finding("placeholder", copy, f"the same pixels in {self._num_files[image]} files")

    def of_likeness(self) -> Iterator[Finding]:
        """Find the faults of a copy beside others that show the same, each beside the most alike."""
        for copy in range(len(self._copies)):
            if self._copies.torn[copy]:
                yield Finding("conflict", copy, "listed several times with other labels")
            found: dict[Kind, Finding] = {}
            for other, _, text in self._others(copy):
                for kind in self._faults(copy, other):
                    found.setdefault(kind, Finding(kind, copy, text, other))
            yield from found.values()

    def of_boxes(self, manifests: Sequence[Manifest]) -> Iterator[Finding]:
        """Find copies with invalid boxes: the first such box of each, and how many there are."""
        for of_row, manifest in zip(self._copies.of_rows, manifests, strict=True):
            people = manifest.table["people"].combine_chunks()
            counts = pc.list_value_length(people).fill_null(0).to_numpy()
            boxes = np.stack([leaf.fill_null(np.nan).to_numpy() for leaf in people.flatten().flatten()[:4]], axis=1)
            of_box = np.repeat(of_row, counts)
            size = self._size[self._copies.file[of_box]]
            problem = _box_problems(boxes, size)
            invalid = np.flatnonzero(problem != "")
            of_copies, first, numbers = np.unique(of_box[invalid], return_index=True, return_counts=True)
            for copy, box, number in zip(of_copies.tolist(), invalid[first], numbers.tolist(), strict=True):
                edges = ", ".join(f"{edge:g}" for edge in boxes[box])
                more = f" (and {number - 1} more)" if number > 1 else ""
                yield Finding("box", copy, f"{problem[box]}: {edges} in {size[box][0]} x {size[box][1]} pixels{more}")
            for row in np.flatnonzero(counts > _MOST_BOXES):
                yield Finding("box", int(of_row[row]), f"{counts[row]} boxes in a row")

    def groups(self) -> Iterator[Group]:
        """Gather the copies that show the same, linked images first."""
        linked = group(self._links)
        alone = set(self._by_image).difference(*linked)
        for images in [*linked, *([image] for image in sorted(alone))]:
            copies = [copy for image in images for copy in self._by_image.get(image, ())]
            if len(copies) > 1:
                inside = set(images)
                links = (link for image in images for link in self._linked.get(image, ()))
                likeness = min((likeness for other, likeness, _ in links if other in inside), default=1.0)
                files = {self._sha256[self._copies.file[copy]].as_py() for copy in copies}
                same: Same = "look" if len(images) > 1 else "pixels" if len(files) > 1 else "file"
                yield Group(tuple(sorted(copies)), same, likeness)

    def twin(self, copy: int, *, among: int) -> tuple[int, float, str] | None:
        """Find the copy in a manifest that is most like a copy in another: with the likeness, and what is the same."""
        return next((one for one in self._others(copy) if self._copies.manifest[one[0]] == among), None)

    def _others(self, copy: int) -> list[tuple[int, float, str]]:
        """List the other copies that show the same, the most alike first: with the likeness, and what is the same."""
        image, file = int(self._image[copy]), self._copies.file
        others = []
        for other in self._by_image.get(image, ()):
            ours, theirs = file[copy], file[other]
            what = "file" if ours == theirs else "bytes" if self._sha256[ours] == self._sha256[theirs] else "pixels"
            if other != copy:
                others.append((other, 1.0, f"the same {what}"))
        for linked, likeness, mirrored in self._linked.get(image, ()):
            text = f"likeness {likeness:.2f}{', mirrored' if mirrored else ''}"
            others += [(other, likeness, text) for other in self._by_image[linked]]
        return sorted(others, key=lambda other: -other[1])

    def _faults(self, copy: int, other: int) -> Iterator[Kind]:
        """Name the faults of a copy beside another that shows the same."""
        of = self._copies
        if of.rank[copy] < of.rank[other]:
            yield "leak"
        has_labels = of.classes[copy] == of.classes[other] and min(of.label[copy], of.label[other]) >= 0
        # One file may have a row for each of its people.
        if has_labels and of.label[copy] != of.label[other] and of.file[copy] != of.file[other]:
            yield "conflict"
        if copy > other and of.manifest[copy] == of.manifest[other] and of.split[copy] == of.split[other]:
            yield "repeat"
        elif copy > other and of.rank[copy] == of.rank[other]:
            yield "overlap"


def _box_problems(boxes: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Name the fault of each box (M, 4) in images of some size (M, 2): (M,) words, empty for none."""
    low, high = boxes[:, :2], boxes[:, 2:]
    with np.errstate(invalid="ignore"):  # of infinities; they are named first
        side = (high - low).min(axis=1)
        fits = ((low >= -_ROOM) & (high <= size + _ROOM)).all(axis=1)
        fits_turned = ((low >= -_ROOM) & (high <= size[:, ::-1] + _ROOM)).all(axis=1)
        is_outside = ((high <= 0) | (low >= size)).any(axis=1)
    is_known = size.min(axis=1) > 0  # else no image to be outside of
    problems = {
        "not numbers": ~np.isfinite(boxes).all(axis=1),
        "empty": side <= 0,
        "for the image turned by a quarter": is_known & ~fits & fits_turned,
        "outside the image": is_known & is_outside,
        "over the edge": is_known & ~fits,
        "tiny": side < _TINY_BOX,
    }
    return np.select(list(problems.values()), list(problems), default="")
