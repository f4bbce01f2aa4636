"""How far two sets of people's boxes agree: two detectors', or a detector's and exact ones."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from uniemox.data.detectors.detector import overlaps
from uniemox.data.population import was_searched
from uniemox.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from uniemox.data.manifest import Box, Manifest


@dataclass(frozen=True)
class Agreement:
    """Two sets of boxes on the same pictures; a pair of boxes matches if they overlap by at least `iou`."""

    pictures: int
    """In both sets, and looked at in both; the next four sum to it."""
    both: int
    """With people in both."""
    first_only: int
    second_only: int
    neither: int
    left_out: int
    """Pictures of the first that are not in the second, or that one of the two did not look at."""
    first_boxes: int
    second_boxes: int
    matched: int
    """Pairs of boxes."""
    mean_iou: float | None
    """Over the matched pairs."""
    median_iou: float | None
    iou: float

    @property
    def first_confirmed(self) -> float | None:
        """Share of the first's boxes that match one of the second."""
        return self.matched / self.first_boxes if self.first_boxes else None

    @property
    def second_found(self) -> float | None:
        """Share of the second's boxes that match one of the first: its recall, if the second is the truth."""
        return self.matched / self.second_boxes if self.second_boxes else None

    def to_dict(self) -> dict[str, Any]:
        """Give plain values for JSON."""
        shares = {"first_confirmed": self.first_confirmed, "second_found": self.second_found}
        return vars(self) | shares


def compare_people(first: Manifest, second: Manifest, *, iou: float = 0.5) -> Agreement:
    """Compare the boxes of two manifests on the pictures that both have, by their relative paths.

    Args:
        first: One set.
        second: The other.
        iou: Least overlap of a matched pair, intersection over union.

    Raises:
        DataError: No picture was looked at in both.
    """
    sides = (_boxes_of(first), _boxes_of(second))
    shared = [path for path in sides[0] if path in sides[1]]
    if not shared:
        raise DataError(
            f"no picture of {first.facts.name} has been looked at in both manifests: compare two of the same pictures, "
            "with people in both"
        )
    counts = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
    matched: list[float] = []
    boxes = [0, 0]
    for path in shared:
        one, other = (side[path] for side in sides)
        counts[bool(one), bool(other)] += 1
        boxes[0] += len(one)
        boxes[1] += len(other)
        matched += match_boxes(one, other, iou=iou)
    return Agreement(
        pictures=len(shared),
        both=counts[True, True],
        first_only=counts[True, False],
        second_only=counts[False, True],
        neither=counts[False, False],
        left_out=len(pc.unique(first.table["path"])) - len(shared),
        first_boxes=boxes[0],
        second_boxes=boxes[1],
        matched=len(matched),
        mean_iou=statistics.fmean(matched) if matched else None,
        median_iou=statistics.median(matched) if matched else None,
        iou=iou,
    )


def match_boxes(first: Sequence[Box], second: Sequence[Box], *, iou: float) -> list[float]:
    """Pair boxes, the pair that overlaps most first; give the overlaps of the pairs that reach `iou`."""
    if not first or not second:
        return []
    shares = overlaps(_corners(first), _corners(second))
    pairs = []
    while shares.max() >= iou:
        best = np.unravel_index(shares.argmax(), shares.shape)
        pairs.append(float(shares[best]))
        shares[best[0]] = -1
        shares[:, best[1]] = -1
    return pairs


def _boxes_of(manifest: Manifest) -> dict[str, tuple[Box, ...]]:
    """Boxes of each picture that was looked at; rows that share one have their boxes together."""
    table = manifest.table
    paths = table["path"].to_pylist()
    searched = was_searched(manifest).to_pylist()
    found: dict[str, tuple[Box, ...]] = {}
    for index, path in enumerate(paths):
        if searched[index]:
            # A table may hold anything; what has no area overlaps nothing.
            boxes = [
                box for box in manifest.row(index).boxes if box.x1 > box.x0 and box.y1 > box.y0
            ]
            found[path] = tuple(dict.fromkeys((*found.get(path, ()), *boxes)))
    return found


def _corners(boxes: Sequence[Box]) -> np.ndarray:
    return np.array([(box.x0, box.y0, box.x1, box.y1) for box in boxes])
