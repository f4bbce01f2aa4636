"""Changes that images meet on their way to a model, at fixed strengths. Pillow and NumPy alone, no torch.

Brightness, blur and JPEG are after Hendrycks and Dietterich 2019 (arXiv:1903.12261), whose strengths are for images of
224 pixels. What is drawn at random is a function of the seed and the row.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from uniemox.files.images import Unreadable, decode_image

if TYPE_CHECKING:
    from uniemox.manifests.table import Box

Boxes: TypeAlias = "tuple[Box, ...]"
Changed: TypeAlias = "tuple[Image.Image, Boxes]"

TEXT: Final = "example.org"  # A name that is nobody's (RFC 2606), and no emotion's
_SIDE: Final = 224  # Pixels of the side that the deviations of a blur are for
_LONGEST_JPEG: Final = 65_500  # Pixels of a side (libjpeg's JPEG_MAX_DIMENSION)
DESCRIPTION: Final = (
    "Each image is changed before the model's views are cut, and the boxes of people move with it: no colour "
    "(greyscale); red × 1.25 and blue × 0.8 (a warm cast) or the reverse (cool); 0.3 less or more of HSV's value "
    "(brightness, severity 3 of Hendrycks and Dietterich 2019); Gaussian blur with a σ of 1, 3 or 6 pixels where the "
    "short side has 224 (their severities 1, 3 and 5); JPEG at quality 50, 25 or 10, at the image's own size; a crop "
    "of 80 % or 60 % of each side; a black border of 5 % or 15 % of the short side; a line of white text with a black "
    "edge, 6 % or 15 % of the short side high; left and right exchanged (flip). Places of crops and texts are drawn "
    "for each row."
)


@dataclass(frozen=True)
class Corruption:
    """One change of one strength."""

    name: str
    strength: str  # In a few words; empty where there is but one
    change: Callable[[Image.Image, Boxes, float, np.random.Generator], Changed]
    amount: float = 0.0

    def __call__(self, image: Image.Image, boxes: Sequence[Box] = (), *, seed: int = 0, row: int = 0) -> Changed:
        """Change an upright RGB image and move the boxes in it, which may end outside of it."""
        return self.change(image, tuple(boxes), self.amount, np.random.default_rng((seed, row)))

    @property
    def title(self) -> str:
        """The change and its strength."""
        return f"{self.name}, {self.strength}" if self.strength else self.name


def _grey(image: Image.Image, boxes: Boxes, _: float, __: np.random.Generator) -> Changed:
    return image.convert("L").convert("RGB"), boxes


def _cast(image: Image.Image, boxes: Boxes, red: float, _: np.random.Generator) -> Changed:
    gains = (red, 1.0, 1 / red)
    return image.point([min(255, round(gain * level)) for gain in gains for level in range(256)]), boxes


def _brighten(image: Image.Image, boxes: Boxes, more: float, _: np.random.Generator) -> Changed:
    hue, saturation, value = image.convert("HSV").split()
    value = value.point([min(255, max(0, round(level + 255 * more))) for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB"), boxes


def _blur(image: Image.Image, boxes: Boxes, deviation: float, _: np.random.Generator) -> Changed:
    return image.filter(ImageFilter.GaussianBlur(deviation * min(image.size) / _SIDE)), boxes


def _compress(image: Image.Image, boxes: Boxes, quality: float, _: np.random.Generator) -> Changed:
    if max(image.size) > _LONGEST_JPEG:  # which no JPEG can be
        return image, boxes
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=int(quality))
    decoded = decode_image(buffer.getvalue())
    return image if isinstance(decoded, Unreadable) else decoded, boxes


def _crop(image: Image.Image, boxes: Boxes, share: float, draw: np.random.Generator) -> Changed:
    width, height = (max(1, round(share * side)) for side in image.size)
    left, top = (round(place) for place in draw.random(2) * (image.width - width, image.height - height))
    return image.crop((left, top, left + width, top + height)), _moved(boxes, -left, -top)


def _frame(image: Image.Image, boxes: Boxes, share: float, _: np.random.Generator) -> Changed:
    width = max(1, round(share * min(image.size)))
    return ImageOps.expand(image, width, fill=0), _moved(boxes, width, width)


def _write(image: Image.Image, boxes: Boxes, share: float, draw: np.random.Generator) -> Changed:
    size = max(6, round(share * min(image.size)))
    written = image.copy()
    canvas, edge = ImageDraw.Draw(written), max(1, size // 12)
    left, top, right, bottom = canvas.textbbox((0, 0), TEXT, font=_font(size), stroke_width=edge)
    spare = max(0, image.width - (right - left)), max(0, image.height - (bottom - top))
    x, y = draw.random(2) * spare
    canvas.text((x - left, y - top), TEXT, "white", _font(size), stroke_width=edge, stroke_fill="black")
    return written, boxes


@lru_cache(maxsize=4)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # Aileron, CC0, which is part of Pillow


def _flip(image: Image.Image, boxes: Boxes, _: float, __: np.random.Generator) -> Changed:
    width = image.width
    return ImageOps.mirror(image), tuple(replace(box, x0=width - box.x1, x1=width - box.x0) for box in boxes)


def _moved(boxes: Boxes, right: float, down: float) -> Boxes:
    return tuple(
        replace(box, x0=box.x0 + right, y0=box.y0 + down, x1=box.x1 + right, y1=box.y1 + down) for box in boxes
    )


CORRUPTIONS: Final = (
    Corruption("greyscale", "", _grey),
    Corruption("colour cast", "warm", _cast, 1.25),
    Corruption("colour cast", "cool", _cast, 0.8),
    Corruption("brightness", "0.3 less", _brighten, -0.3),
    Corruption("brightness", "0.3 more", _brighten, 0.3),
    Corruption("blur", "σ 1 of 224", _blur, 1),
    Corruption("blur", "σ 3 of 224", _blur, 3),
    Corruption("blur", "σ 6 of 224", _blur, 6),
    Corruption("JPEG", "quality 50", _compress, 50),
    Corruption("JPEG", "quality 25", _compress, 25),
    Corruption("JPEG", "quality 10", _compress, 10),
    Corruption("crop", "80 % of each side", _crop, 0.8),
    Corruption("crop", "60 % of each side", _crop, 0.6),
    Corruption("border", "5 % wide", _frame, 0.05),
    Corruption("border", "15 % wide", _frame, 0.15),
    Corruption("text", "6 % high", _write, 0.06),
    Corruption("text", "15 % high", _write, 0.15),
    Corruption("flip", "", _flip),
)
