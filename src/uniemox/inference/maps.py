"""Maps of the places that an answer depends on, over the whole image.

Values above 0 speak for an emotion, those below against it. Occlusion hides one window after another and asks the model
as a black box (Zeiler and Fergus 2014, section 2.1).
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

    from uniemox.data.pixels import Area, EvaluationViews
    from uniemox.inference.predictor import Predictor
    from uniemox.manifests.table import Box
    from uniemox.people.regions import Region

Heat = npt.NDArray[np.float64]
_CELLS: Final = 8  # Along the longer side of the image
_FINE: Final = 32  # The same, of what comes from activations
_WINDOW: Final = 2  # Cells along the side of what is hidden at once; windows are a cell apart
_SPARE: Final = 2  # Times what an image is resized to: so much of it is kept at least


def make_map(
    predictor: Predictor, image: Image.Image, box: Box | None, place: int, method: Method
) -> tuple[Heat, Literal["occlusion", "gradcam", "layercam"]]:
    """Make a map (h, w) over an image of what speaks for an output, and name the method that made it.

    Args:
        predictor: Of any model.
        image: Upright RGB image.
        box: The person that the model reads, which has a part inside the image; None for the image as a whole.
        place: Of the output.
        method: auto is occlusion.

    Raises:
        ConfigError: The method does not fit the model, or needs a package.
    """
    if method == "auto" or method == "occlusion":
        return occlude(predictor, image, box, place), "occlusion"
    views = predictor.facts.views
    pixels = views.of(image, box)
    assert pixels is not None
    found = predictor.backend.activation_maps(pixels, place, method)
    return _lay_out(found, views.areas(image.width, image.height, box), image), method


def _lay_out(maps: Heat, areas: Sequence[Area], image: Image.Image) -> Heat:
    """Lay the maps of views (V, h, w) over the image, 0 where none of them reaches, and add them up."""
    across, down = _divide(image, _FINE)
    found = np.zeros((down, across))
    for heat, (left, top, right, bottom) in zip(maps, areas, strict=True):
        rows, columns = heat.shape
        wide, high = columns / (right - left), rows / (bottom - top)
        into = (wide * image.width / across, 0, -left * wide, 0, high * image.height / down, -top * high)
        view = Image.fromarray(heat.astype(np.float32))
        found += np.asarray(
            view.transform((across, down), Image.Transform.AFFINE, into, resample=Image.Resampling.BILINEAR)
        )
    return found


def _divide(image: Image.Image, cells: int) -> tuple[int, int]:
    """Return the cells along both sides of an image, by those along the longer one."""
    across, down = (max(_WINDOW, round(cells * side / max(image.size))) for side in image.size)
    return across, down


def occlude(predictor: Predictor, image: Image.Image, box: Box | None, place: int) -> Heat:
    """Measure how much an emotion's number drops where a window of the image is filled with the model's mean colour.

    A window has a quarter of the image's longer side, the next one starts half of its side further, and the value of a
    cell is the mean over the windows that cover it.
    """
    views = predictor.facts.views
    if box is None:  # a large image only costs time; of a person, all pixels may be needed
        image = image.reduce(max(1, min(image.size) // (_SPARE * views.resized_side)))
    across, down = _divide(image, _CELLS)
    columns, rows = (_edges(side, count) for side, count in zip(image.size, (across, down), strict=True))
    places = [(row, column) for row in range(down - _WINDOW + 1) for column in range(across - _WINDOW + 1)]
    areas = [(columns[column], rows[row], columns[column + _WINDOW], rows[row + _WINDOW]) for row, column in places]
    mean = MEAN if views.preparation is None else views.preparation.mean
    colour = (round(255 * mean[0]), round(255 * mean[1]), round(255 * mean[2]))
    logits = predictor.logits(_occluded(views, image, box, areas, colour))
    before, *after = predictor.target.numbers(logits)[:, place].tolist()
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
