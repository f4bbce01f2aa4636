"""How far two sets of people's boxes agree: two detectors', or a detector's and exact ones."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from uniemox.errors import DataError
from uniemox.manifests.population import was_searched
from uniemox.manifests.table import Box, Manifest
from uniemox.people.detectors.detector import overlaps


@dataclass(frozen=True)
class Agreement:
    """Two sets of boxes on the same images; a pair of boxes matches if they overlap by at least `iou`."""

    pictures: int  # In both sets, and looked at in both; the next four sum to it
    both: int  # With people in both
    first_only: int
    second_only: int
    neither: int
    left_out: int  # Images of the first that are not in the second, or that one of the two did not look at
    first_boxes: int
    second_boxes: int
    matched: int  # Pairs of boxes
    mean_iou: float | None  # Over the matched pairs
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
        """Return plain values for JSON."""
        return {**vars(self), "first_confirmed": self.first_confirmed, "second_found": self.second_found}


def compare_people(first: Manifest, second: Manifest, *, iou: float = 0.5) -> Agreement:
    """Compare the boxes of two manifests on the images that both have, by their relative paths.

    A matched pair overlaps by at least `iou`, intersection over union.

    Raises:
        DataError: No image was looked at in both.
    """
    ours, theirs = _boxes_of(first), _boxes_of(second)
    pairs = [(boxes, theirs[path]) for path, boxes in ours.items() if path in theirs]
    if not pairs:
        raise DataError(
            f"no image of {first.facts.name} has been looked at in both manifests: compare two of the same images, "
            "with people in both"
        )
    counts = Counter((bool(one), bool(other)) for one, other in pairs)
    matched = [share for one, other in pairs for share in match_boxes(one, other, iou=iou)]
    return Agreement(
        pictures=len(pairs),
        both=counts[True, True],
        first_only=counts[True, False],
        second_only=counts[False, True],
        neither=counts[False, False],
        left_out=len(pc.unique(first.table["path"])) - len(pairs),
        first_boxes=sum(len(one) for one, _ in pairs),
        second_boxes=sum(len(other) for _, other in pairs),
        matched=len(matched),
        mean_iou=statistics.fmean(matched) if matched else None,
        median_iou=statistics.median(matched) if matched else None,
        iou=iou,
    )


def match_boxes(first: Sequence[Box], second: Sequence[Box], *, iou: float) -> list[float]:
    """Pair boxes, the pair that overlaps most first; return the overlaps of the pairs that reach `iou`."""
    if not first or not second:
        return []
    ours, theirs = (np.array([(box.x0, box.y0, box.x1, box.y1) for box in boxes]) for boxes in (first, second))
    shares = overlaps(ours, theirs)
    pairs = []
    while shares.max() >= iou:
        best = np.unravel_index(shares.argmax(), shares.shape)
        pairs.append(float(shares[best]))
        shares[best[0]] = -1
        shares[:, best[1]] = -1
    return pairs


def _boxes_of(manifest: Manifest) -> dict[str, tuple[Box, ...]]:
    """Collect the boxes of each image that was looked at; rows that share one have their boxes together."""
    found: dict[str, tuple[Box, ...]] = {}
    searched = was_searched(manifest).to_pylist()
    for index, path in enumerate(manifest.table["path"].to_pylist()):
        if searched[index]:
            # A table may hold anything; what has no area overlaps nothing.
            boxes = [box for box in manifest.row(index).boxes if box.x1 > box.x0 and box.y1 > box.y0]
            found[path] = tuple(dict.fromkeys((*found.get(path, ()), *boxes)))
    return found
