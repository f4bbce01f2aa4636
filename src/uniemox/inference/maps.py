"""Maps of the places that an answer depends on, over the whole image.

Occlusion hides one window after another and asks the model as a black box (Zeiler and Fergus 2014, section 2.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from uniemox.config.explain import Method
from uniemox.data.pixels import MEAN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from uniemox.data.pixels import EvaluationViews
    from uniemox.inference.predictor import Predictor
    from uniemox.manifests.table import Box
    from uniemox.people.regions import Region

Heat = npt.NDArray[np.float64]
_CELLS: Final = 12  # Along the longer side of the image
_WINDOW: Final = 2  # Cells along the side of what is hidden at once; windows are a cell apart
_SPARE: Final = 2  # Times what an image is resized to: so much of it is kept at least


def make_map(
    predictor: Predictor, image: Image.Image, box: Box | None, place: int, method: Method
) -> tuple[Heat, Literal["occlusion", "gradcam", "layercam"]]:
    """Make a map (h, w) of the places that speak for an output, and name the method that made it."""
    return occlude(predictor, image, box, place), "occlusion"


def occlude(predictor: Predictor, image: Image.Image, box: Box | None, place: int) -> Heat:
    """Measure how much an output's logit drops where a window of the image is filled with the model's mean colour.

    The value of a cell is the mean over the windows that cover it.
    """
    views = predictor.facts.views
    if box is None:  # a large image only costs time; of a person, all pixels may be needed
        image = image.reduce(max(1, min(image.size) // (_SPARE * views.resized_side)))
    across, down = (max(_WINDOW, round(_CELLS * side / max(image.size))) for side in image.size)
    columns, rows = (_edges(side, count) for side, count in zip(image.size, (across, down), strict=True))
    places = [(row, column) for row in range(down - _WINDOW + 1) for column in range(across - _WINDOW + 1)]
    areas = [(columns[column], rows[row], columns[column + _WINDOW], rows[row + _WINDOW]) for row, column in places]
    mean = MEAN if views.preparation is None else views.preparation.mean
    colour = (round(255 * mean[0]), round(255 * mean[1]), round(255 * mean[2]))
    before, *after = predictor.logits(_occluded(views, image, box, areas, colour))[:, place]
    drops, counts = np.zeros((down, across)), np.zeros((down, across))
    for (row, column), value in zip(places, after, strict=True):
        cells = np.s_[row : row + _WINDOW, column : column + _WINDOW]
        drops[cells] += before - value
        counts[cells] += 1
    return drops / counts


def _edges(side: int, count: int) -> list[int]:
    """Divide a side into cells of whole pixels, none of them empty where it has as many pixels."""
    return [round(place * side / count) for place in range(count + 1)]


def _occluded(
    views: EvaluationViews, image: Image.Image, box: Box | None, areas: Sequence[Region], colour: tuple[int, int, int]
) -> Iterator[npt.NDArray[np.float32]]:
    """Prepare the image as it is, then with each area in turn filled with a colour."""
    canvas = image.copy()
    for area in [(0, 0, 0, 0), *areas]:
        canvas.paste(colour, area)
        pixels = views.of(canvas, box)
        assert pixels is not None  # a box that could be cut before
        yield pixels
        canvas.paste(image.crop(area), area)
