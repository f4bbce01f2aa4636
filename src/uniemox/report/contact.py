"""Contact sheets: images with the boxes of their people, each beside the crop that a model would see; or found ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from uniemox.config.people import PersonConfig
from uniemox.data.pixels import Preparation, cut_region
from uniemox.errors import DataError
from uniemox.files.images import Unreadable, read_image
from uniemox.files.whole import write_whole
from uniemox.inference.overlay import outline
from uniemox.manifests.population import count_people
from uniemox.manifests.table import Manifest, Row
from uniemox.people.regions import choose_box, clip_box, person_region
from uniemox.report.charts import BLUE, INK, MUTED, encode
from uniemox.report.page import Figure, Notice, Page, Section, Tile, TileGroup, TileGroups, write_page
from uniemox.wording import counted, printable

SIDE: Final = 224  # Side of a crop in pixels; a scene is as high
_SCENE_WIDTH: Final = 336
_GAP: Final = 12
_LINE: Final = 18


class Card(NamedTuple):
    """One image on the sheet."""

    image: Image.Image  # Of a manifest's row the scene with boxes, and the crop to its right
    name: str  # Path of the image; of a row relative to the root
    caption: str  # What is to be seen


def write_sheet(manifest: Manifest, path: Path, *, person: PersonConfig, count: int) -> None:
    """Write `count` rows, evenly chosen from all, to a page (`.html`) or one image (`.png`).

    Raises:
        DataError: The manifest has no row, or the file cannot be written.
    """
    cards = make_cards(manifest, person, count=count)
    if path.suffix.lower() == ".html":
        write_page(_to_page(manifest, cards, person), path)
        return
    with write_whole(path, DataError) as beside:
        _to_image(cards).save(beside, "png")


def make_cards(manifest: Manifest, person: PersonConfig, *, count: int) -> list[Card]:
    """Draw `count` rows, evenly chosen from all; `DataError` if there are none."""
    if not len(manifest):
        raise DataError(f"the manifest of {manifest.facts.name} has no row to show")
    return [_draw(row, manifest.facts.root, person) for row in manifest.spread(count)]


class Found(NamedTuple):
    """An image that a search found."""

    path: Path
    score: str
    caption: str  # What is known of it


def write_found(found: Sequence[Found], path: Path, *, title: str, summary: str, notice: str | None = None) -> None:
    """Write found images in their order to a page (`.html`), with the notice of their model, or one image.

    Such an image is a `.jpg` or `.png`. Raises `DataError` if nothing was found, or the file cannot be written.
    """
    if not found:
        raise DataError(f"nothing was found to show in {path}")
    images = [_fit(one.path) for one in found]
    if path.suffix.lower() == ".html":
        tiles = [
            Tile(None if image is None else np.asarray(image), str(one.path), one.score, one.caption)
            for one, image in zip(found, images, strict=True)
        ]
        warnings = () if notice is None else (Notice(notice, "warning"),)
        section = Section("Found", "The best match first.", (*warnings, TileGroups((TileGroup("", tiles),))))
        write_page(Page(title, summary, (section,)), path)
        return
    cards = []
    for one, image in zip(found, images, strict=True):
        card = Image.new("RGB", (SIDE, SIDE), "#f6f8fb")
        if image is not None:
            card.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
        cards.append(Card(card, str(one.path), f"{one.score}  {one.caption}"))
    with write_whole(path, DataError) as beside:
        _to_image(cards, columns=4).save(beside, "jpeg" if path.suffix.lower() == ".jpg" else "png")


def _fit(path: Path) -> Image.Image | None:
    """Read an image, small; None where it cannot be read any more."""
    image = read_image(path, shrink_to=SIDE)
    if isinstance(image, Unreadable):
        return None
    image.thumbnail((SIDE, SIDE))
    return image


def _draw(row: Row, root: Path, person: PersonConfig) -> Card:
    name = row.path.relative_to(root).as_posix()
    image = read_image(row.path)
    card = Image.new("RGB", (_SCENE_WIDTH + _GAP + SIDE, SIDE), "#f6f8fb")
    if isinstance(image, Unreadable):
        return Card(card, name, f"not read: {image.reason}")
    width, height = image.size
    boxes = [clipped for box in row.boxes if (clipped := clip_box(box, width=width, height=height)) is not None]
    chosen = choose_box(boxes, person.choice, width=width, height=height)
    region = person_region(boxes, person, width=width, height=height)
    scale = min(_SCENE_WIDTH / image.width, SIDE / image.height)
    shown = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    scene = image.resize(shown, Image.Resampling.LANCZOS)
    outline(scene, boxes, chosen, scale, colour=BLUE)
    card.paste(scene, ((_SCENE_WIDTH - scene.width) // 2, (SIDE - scene.height) // 2))
    # Where nobody is, the scene as evaluation cuts it.
    crop = cut_region(image, region, size=SIDE, shape=person.shape) if region else Preparation(SIDE).cut(image)
    card.paste(crop, (_SCENE_WIDTH + _GAP, 0))
    if chosen is None:
        nobody = "only boxes outside the image" if row.boxes else "nobody"
        return Card(card, name, f"{nobody}; the scene is used instead")
    score = "" if chosen.score is None else f", score {chosen.score:.2f}"
    size = f"{chosen.x1 - chosen.x0:.0f} by {chosen.y1 - chosen.y0:.0f} pixels"
    return Card(card, name, f"{counted(len(boxes), 'person', several='people')}{score}, {size}")


def _to_page(manifest: Manifest, cards: list[Card], person: PersonConfig) -> Page:
    people, facts = count_people(manifest), manifest.facts
    captions = [f"{card.name}: {card.caption}" for card in cards]
    figures = [
        Figure(encode(card.image, quality=85), caption, caption, "half")
        for card, caption in zip(cards, captions, strict=True)
    ]
    source = f" Boxes by {facts.people_source}." if facts.people_source else ""
    text = (
        f"{counted(len(cards), 'row')}, evenly chosen. Left: the scene with its boxes, the chosen one in blue. Right: "
        f"the person as a model sees it ({person.choice}, margin {person.margin:g}, {person.shape}), or the "
        f"scene where nobody was found.{source}"
    )
    return Page(
        f"People in {facts.title}",
        f"{people.with_people} of {people.pictures} images show people, with "
        f"{counted(people.boxes, 'box', several='boxes')} in {counted(people.rows, 'row')}.",
        (Section("Scenes and crops", text, figures),),
    )


def _to_image(cards: list[Card], *, columns: int = 2) -> Image.Image:
    font = ImageFont.load_default(13)
    width, height = cards[0].image.size
    cell = (width + 2 * _GAP, height + 2 * _LINE + 2 * _GAP)
    columns = min(columns, len(cards))
    sheet = Image.new("RGB", (columns * cell[0], -(-len(cards) // columns) * cell[1]), "white")
    draw = ImageDraw.Draw(sheet)
    for index, card in enumerate(cards):
        left, top = index % columns * cell[0] + _GAP, index // columns * cell[1] + _GAP
        sheet.paste(card.image, (left, top))
        for line, (text, colour) in enumerate(((card.name, INK), (card.caption, MUTED))):
            place = (left, top + height + 2 + line * _LINE)
            draw.text(place, _fitting(text, font, width), fill=colour, font=font)
    return sheet


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Shorten a text at its start, since the end of a path matters more, until it is no wider than `width`."""
    shown = printable(text)
    if font.getlength(shown) <= width:
        return shown
    while shown and font.getlength(f"…{shown}") > width:
        shown = shown[max(1, len(shown) // 20) :]
    return f"…{shown}"
