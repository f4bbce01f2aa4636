"""A contact sheet: pictures with the boxes of their people, each beside the crop that a model would see."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from uniemox.data.findings import counted
from uniemox.data.images import Unreadable, read_image
from uniemox.data.people import choose_box, clip_box, person_region
from uniemox.data.pixels import Preparation, cut_region
from uniemox.data.population import count_people
from uniemox.errors import DataError
from uniemox.report.charts import BLUE, INK, MUTED, RUST
from uniemox.report.page import Figure, Page, Section, write_page

if TYPE_CHECKING:
    from pathlib import Path

    from uniemox.config import PersonConfig
    from uniemox.data.manifest import Box, Manifest, Row
    from uniemox.data.people import Region

SIDE: Final = 224
"""Side of a crop in pixels; a scene is as high."""
_SCENE_WIDTH: Final = 336
_GAP: Final = 12
_LINE: Final = 18
_COLUMNS: Final = 2
_PAPER: Final = "#ffffff"
_WASH: Final = "#f6f8fb"


class Card(NamedTuple):
    """One row of a manifest on the sheet."""

    picture: Image.Image
    """Scene with boxes, and the crop at its right."""
    name: str
    """Path of the picture, relative to the root."""
    told: str
    """What is to be seen."""


def write_sheet(manifest: Manifest, path: Path, *, person: PersonConfig, count: int) -> None:
    """Write a sheet of rows, evenly chosen from all.

    Args:
        manifest: Rows with boxes.
        path: `.html` for a page, `.png` for one picture.
        person: Which person is cut out, and how.
        count: Rows to show.

    Raises:
        DataError: There is no row, or the file cannot be written.
    """
    cards = make_cards(manifest, person, count=count)
    if path.suffix.lower() == ".html":
        write_page(_to_page(manifest, cards, person), path)
        return
    partial = path.with_name(f"{path.name}.partial")
    try:
        _to_picture(cards).save(partial, "png")
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise DataError(f"cannot write the sheet {path}: {error.strerror or error}") from error


def make_cards(manifest: Manifest, person: PersonConfig, *, count: int) -> list[Card]:
    """Draw rows, evenly chosen from all.

    Raises:
        DataError: There is no row.
    """
    if not len(manifest):
        raise DataError(f"the manifest of {manifest.facts.name} has no row to show")
    places = np.unique(np.linspace(0, len(manifest) - 1, count).round().astype(int))
    return [_draw(manifest.row(int(place)), manifest.facts.root, person) for place in places]


def _draw(row: Row, root: Path, person: PersonConfig) -> Card:
    name = row.path.relative_to(root).as_posix()
    image = read_image(row.path)
    card = Image.new("RGB", (_SCENE_WIDTH + _GAP + SIDE, SIDE), _WASH)
    if isinstance(image, Unreadable):
        return Card(card, name, f"not read: {image.reason}")
    width, height = image.size
    boxes = [
        clipped
        for box in row.boxes
        if (clipped := clip_box(box, width=width, height=height)) is not None
    ]
    chosen = choose_box(boxes, person.choice, width=width, height=height)
    region = person_region(boxes, person, width=width, height=height)
    scene = _draw_boxes(image, boxes, chosen)
    card.paste(scene, ((_SCENE_WIDTH - scene.width) // 2, (SIDE - scene.height) // 2))
    card.paste(_cut(image, region, person), (_SCENE_WIDTH + _GAP, 0))
    return Card(card, name, _tell(row, boxes, chosen))


def _cut(image: Image.Image, region: Region | None, person: PersonConfig) -> Image.Image:
    """Cut what a model sees as the person: where nobody is, the scene as evaluation cuts it."""
    if region is None:
        return Preparation(SIDE).cut(image)
    return cut_region(image, region, size=SIDE, shape=person.shape)


def _draw_boxes(image: Image.Image, boxes: list[Box], chosen: Box | None) -> Image.Image:
    scale = min(_SCENE_WIDTH / image.width, SIDE / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    scene = image.resize(size, Image.Resampling.LANCZOS)
    across, down = scene.width / image.width, scene.height / image.height
    draw = ImageDraw.Draw(scene)
    frames = [(box, RUST, 2) for box in boxes if box != chosen]
    frames += [(chosen, BLUE, 3)] if chosen is not None else []
    for box, colour, line in frames:
        left, top = int(box.x0 * across), int(box.y0 * down)
        right, bottom = max(left, int(box.x1 * across) - 1), max(top, int(box.y1 * down) - 1)
        draw.rectangle((left, top, right, bottom), outline=colour, width=line)
    return scene


def _tell(row: Row, boxes: list[Box], chosen: Box | None) -> str:
    if chosen is None:
        nobody = "only boxes outside the picture" if row.boxes else "nobody"
        return f"{nobody}; the scene stands in"
    people = counted(len(boxes), "person", several="people")
    score = "" if chosen.score is None else f", score {chosen.score:.2f}"
    size = f"{chosen.x1 - chosen.x0:.0f} by {chosen.y1 - chosen.y0:.0f} pixels"
    return f"{people}{score}, {size}"


def _to_page(manifest: Manifest, cards: list[Card], person: PersonConfig) -> Page:
    people = count_people(manifest)
    figures = [
        Figure(
            _to_webp(card.picture), f"{card.name}: {card.told}", f"{card.name}: {card.told}", "half"
        )
        for card in cards
    ]
    facts = manifest.facts
    source = f" Boxes by {facts.people_source}." if facts.people_source else ""
    return Page(
        f"People in {facts.title}",
        f"{people.with_people} of {people.pictures} pictures show people, with "
        f"{counted(people.boxes, 'box', several='boxes')} in {counted(people.rows, 'row')}.",
        (
            Section(
                "Scenes and crops",
                f"{counted(len(cards), 'row')}, evenly chosen. Left: the scene with its boxes, the chosen one in "
                f"blue. Right: the person as a model sees it ({person.choice}, margin {person.margin:g}, "
                f"{person.shape}); the scene's centre where nobody was found.{source}",
                figures,
            ),
        ),
    )


def _to_webp(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "webp", quality=85)
    return buffer.getvalue()


def _to_picture(cards: list[Card]) -> Image.Image:
    font = ImageFont.load_default(13)
    width, height = cards[0].picture.size
    cell = (width + 2 * _GAP, height + 2 * _LINE + 2 * _GAP)
    columns = min(_COLUMNS, len(cards))
    rows = -(-len(cards) // columns)
    sheet = Image.new("RGB", (columns * cell[0], rows * cell[1]), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, card in enumerate(cards):
        left = index % columns * cell[0] + _GAP
        top = index // columns * cell[1] + _GAP
        sheet.paste(card.picture, (left, top))
        for line, (text, colour) in enumerate(((card.name, INK), (card.told, MUTED))):
            place = (left, top + height + 2 + line * _LINE)
            draw.text(place, _fitting(text, font, width), fill=colour, font=font)
    return sheet


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Shorten a text at its begin, since the end of a path tells more, until it is no wider than `width`."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    if font.getlength(shown) <= width:
        return shown
    while shown and font.getlength(f"…{shown}") > width:
        shown = shown[max(1, len(shown) // 20) :]
    return f"…{shown}"
