"""An image with the map of an explanation over it, the boxes of its people, and a caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from uniemox.wording import printable

if TYPE_CHECKING:
    from uniemox.inference.effects import Explanation
    from uniemox.manifests.table import Box

    Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

_LARGEST: Final = 1024  # Pixels along the longer side of the image; the caption comes below it
_SMALLEST: Final = 640  # To which a smaller image is enlarged, so that the caption can be read
_FOR: Final = (232, 89, 12)  # Orange: speaks for the emotion
_AGAINST: Final = (28, 100, 210)  # Blue: speaks against it; colour-blind readers distinguish the pair too
_STRENGTH: Final = 0.75  # Share of the colour at the strongest place
_PALE: Final = 0.65  # Share of grey in the image below, so that its colours are not taken for the map's
_INK, _MUTED, _PAPER = (24, 28, 36), (92, 100, 114), (255, 255, 255)


def overlay(image: Image.Image, explanation: Explanation) -> Image.Image:
    """Draw what an explanation found over its image, upright and RGB; at most 1,024 pixels wide or high."""
    longest = max(image.size)
    scale = max(min(_LARGEST, longest), _SMALLEST) / longest
    width, height = (max(1, round(side * scale)) for side in image.size)
    shown = image.resize((width, height), Image.Resampling.LANCZOS)
    if explanation.map is not None:
        shown = _heat(shown, explanation.map)
    outline(shown, explanation.people, explanation.box, scale)
    caption = _caption(explanation, max(width, _SMALLEST // 2))
    page = Image.new("RGB", (caption.width, height + caption.height), _PAPER)
    page.paste(shown, ((page.width - width) // 2, 0))
    page.paste(caption, (0, height))
    return page


def _heat(image: Image.Image, heat: np.ndarray) -> Image.Image:
    """Colour the image by the map: the stronger, the more."""
    grey = ImageOps.grayscale(image).convert("RGB")
    below = np.asarray(Image.blend(image, grey, _PALE), np.float32)
    shares = heat / (np.abs(heat).max() or 1.0)
    smooth = Image.fromarray(shares.astype(np.float32)).resize(image.size, Image.Resampling.BICUBIC)
    share = np.asarray(smooth)[..., None].clip(-1, 1)
    colour = np.where(share > 0, np.array(_FOR), np.array(_AGAINST))
    weight = _STRENGTH * np.abs(share)
    return Image.fromarray((below * (1 - weight) + colour * weight).round().astype(np.uint8))


def outline(
    image: Image.Image, people: Sequence[Box], chosen: Box | None, scale: float, *, colour: str = "white"
) -> None:
    """Outline people, white in a dark edge, and the one that a model reads thicker, perhaps in another colour.

    Their boxes are in pixels of an image that was scaled to this one.
    """
    draw, line = ImageDraw.Draw(image), max(2, max(image.size) // 320)
    for box in (*people, *([chosen] if chosen is not None else [])):
        x0, y0 = (max(0, round(low * scale)) for low in (box.x0, box.y0))
        x1, y1 = (min(side, round(high * scale)) - 1 for side, high in zip(image.size, (box.x1, box.y1), strict=True))
        if x1 <= x0 or y1 <= y0:
            continue
        inner, ink = (2 * line, colour) if box is chosen else (line, "white")
        draw.rectangle((x0, y0, x1, y1), outline=_INK, width=inner + 2)
        draw.rectangle((x0 + 1, y0 + 1, max(x0 + 1, x1 - 1), max(y0 + 1, y1 - 1)), outline=ink, width=inner)


def _caption(explanation: Explanation, width: int) -> Image.Image:
    """Write the emotion with its number, what was measured, and what the colours mean."""
    size = max(14, width // 44)
    large, small = ImageFont.load_default(round(1.5 * size)), ImageFont.load_default(size)
    number = explanation.numbers.get(explanation.emotion)
    title = explanation.emotion if number is None else f"{explanation.emotion}  {number:.2f}"
    lines: list[tuple[str, Font, tuple[int, int, int]]] = [(title, large, _INK)]
    text = explanation.sentence or explanation.reason or ""
    lines += [(line, small, _INK) for line in _wrap(text[:1].upper() + text[1:], small, width - 2 * size)]
    if explanation.map is not None:
        legend = f"Orange speaks for {explanation.emotion}, blue against it ({explanation.method})"
        lines += [(line, small, _MUTED) for line in _wrap(legend, small, width - 2 * size)]
    heights = [round(1.35 * (font.getbbox("Ag")[3])) for _, font, _ in lines]
    card = Image.new("RGB", (width, sum(heights) + size), _PAPER)
    draw, top = ImageDraw.Draw(card), size // 2
    for (line, font, colour), height in zip(lines, heights, strict=True):
        draw.text((size, top), line, fill=colour, font=font)
        top += height
    return card


def _wrap(text: str, font: Font, width: int) -> list[str]:
    """Break a text into lines no wider than so many pixels, between its words where that is possible."""
    lines = [""]
    for word in printable(text).split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return [line for line in lines if line]
