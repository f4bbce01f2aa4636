"""Draw the embedded demo data set: people of comicgen in painted scenes, in EmoSet's format.

Sources, both free of copyright:

- comicgen 1.9.9 (``npm pack comicgen@1.9.9``, unpacked): artist-drawn characters, CC0.
- openclipart 0.18 (Debian package ``openclipart-png``, ``dpkg -x``): objects, public domain.

    python tools/make_demo_data.py --comicgen package \
        --openclipart usr/share/openclipart/png --out src/uniemox/demo/assets/drawn6.zip

The archive holds two trees: ``drawn6`` (train, val, test: no character's pose is in two splits)
and ``drawn6-unseen`` (only a test split: characters that are nowhere in ``drawn6``). Beside
EmoSet's files each has a ``people.csv`` with the exact box of the drawn person. Scene, object,
framing, place and flip are drawn independently of the emotion; the pose too, within a character.

With ``--more N`` it writes another archive, of the training split's drawings alone in other scenes
and framings: the images that UniEmoX-mini was pretrained on beside ``drawn6``'s own.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import re
import zipfile
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image, ImageDraw, ImageFilter

SIDE = 160
WEBP_QUALITY = 80
EMOTIONS = ("anger", "fear", "sadness", "amusement", "contentment", "excitement")
SPLIT_SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
PER_CLASS = {"train": 327, "val": 47, "test": 94}
UNSEEN_PER_CLASS = 56

# Face drawing -> (emotion, EmoSet's facial expression).
FACES = {
    "afraid": ("fear", "fear"),
    "worried": ("fear", "fear"),
    "scared": ("fear", "fear"),
    "shocked": ("fear", "surprise"),
    "angry": ("anger", "angry"),
    "annoyed": ("anger", "angry"),
    "irritated": ("anger", "angry"),
    "shout": ("anger", "angry"),
    "sad": ("sadness", "sad"),
    "cry": ("sadness", "sad"),
    "cryingloudly": ("sadness", "sad"),
    "loudcry": ("sadness", "sad"),
    "disappointed": ("sadness", "sad"),
    "excited": ("excitement", "happy"),
    "starstruck": ("excitement", "happy"),
    "laugh": ("amusement", "happy"),
    "rofl": ("amusement", "happy"),
    "smile": ("contentment", "happy"),
    "happy": ("contentment", "happy"),
}

# Redraws of one character share a family: they stay on the same side of every split.
FAMILIES = {
    "aryan": "aryan",
    "bill": "bill",
    "dee": "dee",
    "deenuova": "dee",
    "dey": "dey",
    "deynuovo": "dey",
    "ethan": "ethan",
    "priya": "priya",
    "priyanuova": "priya",
    "ringo": "ringo",
    "ringonuovo": "ringo",
    "sophie": "sophie",
}
UNSEEN_CHARACTERS = ("bill", "priya", "priyanuova")
FACE_OVER_POSE = ("bill", "sophie")  # as their index.svg says; elsewhere the collar covers the neck

AAVATAR_STYLES = ("sketchy", "strokes")  # "thinlines" cannot be read at this size
AAVATAR_SHARE = 4  # aavatar has 27 heads: it counts as this many characters
# Not formalsuit (bill's body), uniform (priyanuova's body), stickfigure (no outline).
AAVATAR_ATTIRES = ("bodycon", "casualfullsleevetee", "casualtee", "formal", "fullsleeveshirt", "saree", "tuckedinshirt")

ACTIONS = {
    "angry": "standing with arms down",
    "dance": "dancing",
    "handonhip": "hand on hip",
    "hi": "waving",
    "leftturn": "turning left",
    "leftturnhandsfolded": "turning left with hands folded",
    "normal": "standing",
    "pointing45degree": "pointing up sideways",
    "pointingrightat45degrees": "pointing up right",
    "explaining45degrees": "explaining",
    "explaining45degreesdown": "explaining",
    "explaining45degreesup": "explaining",
    "rightturn": "turning right",
    "ridingbike": "riding scooter",
    "run": "running",
    "shrug": "shrugging",
    "shy": "standing shyly",
    "super": "making an ok sign",
    "superman": "flying like superman",
    "thumbsup": "showing thumbs up",
    "walk": "walking",
    "wonderwoman": "posing like a heroine",
    "yuhoo": "jumping with a raised arm",
}
ACTION_WORDS = re.compile(
    "explaining|touching|pointing|shrug|clasped|holding|leaning|reading|sitting|spread|laptop|bicycle|"
    "umbrella|beanbag|mobile|coffee|folded|pocket|thinking|riding|paper|board|stick|floor|hands|"
    "right|hand|back|bike|book|both|chin|desk|head|held|left|with|bag|car|hip|the|at|in|on|up"
)

# Name told in the annotation -> image of openclipart (without .png).
OBJECTS = {
    "Tree": ("plants/trees/cartoon_tree_01", "plants/trees/tree_whit_fruits_01"),
    "Flower": ("plants/flowers/tulips_ganson", "plants/flowers/daisy_jonathan_dietrich_01"),
    "Flowerpot": ("plants/flowers/flowerandpot_daniel_ste_r",),
    "Chair": ("buildings/furniture/sedia_in_legno_architett_01",),
    "Television": ("buildings/furniture/television_peterm_",),
    "Barrel": ("buildings/furniture/wooden_barrel_petri_lumm_01",),
    "Chicken": ("animals/birds/hen_01",),
    "Cat": ("animals/mammals/cartoon_cat_gerald_g._01",),
    "Dog": ("animals/mammals/dog_01_drawn_with_strai_01",),
    "Sheep": ("animals/mammals/sheep-md-v0.1",),
    "Ball": ("recreation/toys/beach_ball_01", "recreation/toys/ball"),
    "Football": ("recreation/toys/soccer_ball_ganson",),
    "Teddy bear": ("recreation/toys/stylized_teddy_bear_gera_01",),
    "Banana": ("food/fruit/banana",),
    "Pineapple": ("food/fruit/pineapple",),
    "Apple": ("food/fruit/an_apple_01",),
    "Cake": ("food/desserts/birthday_cake",),
    "Ice cream": ("food/desserts/cone2_ganson",),
    "Car": ("transportation/vehicles/car",),
    "Bicycle": ("transportation/vehicles/bicycle_01",),
    "Guitar": ("recreation/music/guitar_ganson",),
    "Drum": ("recreation/music/drums_jarno_vasamaa_",),
    "Computer monitor": ("office/lcd_monitor_shandy_brown_",),
    "Book": ("education/books/stack_of_books_01", "education/books/book_01"),
    "Box": ("containers/closed_box_juliane_krug_",),
    "Rubber duck": ("recreation/toys/rubber_duck1_ganson",),
}


@dataclass(frozen=True)
class Drawing:
    """One person to draw: the layers from back to front and what they show.

    ``head`` is the layer whose extent is the head; ``group`` is the unit of the split.
    """

    layers: tuple[Path, ...]
    head: Path
    emotion: str
    face: str
    pose: str
    character: str
    group: str


@dataclass(frozen=True)
class Job:
    """One image: what to draw, where it goes and the seed of everything random in it."""

    drawing: Drawing
    image_id: str
    seed: str


# --- the characters -------------------------------------------------------------------------


def list_drawings(svg_dir: Path) -> list[Drawing]:
    """List every usable face over every pose of its character and angle."""
    drawings = []
    for character, family in FAMILIES.items():
        for face_dir in sorted((svg_dir / character).rglob("emotion")):
            angle = face_dir.parent.relative_to(svg_dir / character).as_posix()
            for face in sorted(face_dir.glob("*.svg")):
                for pose in sorted((face_dir.parent / "pose").glob("*.svg")):
                    over = character in FACE_OVER_POSE
                    layers = (pose, face) if over else (face, pose)
                    group = f"{family}/{angle}/{pose.stem}"
                    drawings += make_drawing(layers, face, face.stem, pose.stem, character, group)
    aavatar = svg_dir / "aavatar"
    for head in sorted((aavatar / "gender").rglob("*.svg")):
        for style in AAVATAR_STYLES:
            for face in sorted((aavatar / "expression" / style).glob("*.svg")):
                for attire in AAVATAR_ATTIRES:
                    for pose in sorted((aavatar / "pose" / attire).glob("*.svg")):
                        layers = (head, face, pose)
                        group = f"aavatar/{attire}/{pose.stem}"
                        drawings += make_drawing(layers, head, face.stem, pose.stem, "aavatar", group)
    return drawings


def make_drawing(
    layers: tuple[Path, ...], head: Path, face: str, pose: str, character: str, group: str
) -> list[Drawing]:
    """Make the drawing, or none where the face shows no emotion of ours."""
    if face not in FACES:
        return []
    return [Drawing(layers, head, FACES[face][0], face, pose, character, group)]


def split_groups(groups: list[str], rng: random.Random) -> dict[str, str]:
    """Give each group a split, by the shares within each character and angle."""
    angles: dict[str, list[str]] = defaultdict(list)
    for group in sorted(groups):
        angles[group.rpartition("/")[0]].append(group)
    split_of = {}
    for members in angles.values():
        rng.shuffle(members)
        num_test = max(1, round(SPLIT_SHARES["test"] * len(members)))
        num_val = max(1, round(SPLIT_SHARES["val"] * len(members))) if len(members) > 3 else 0
        for i, group in enumerate(members):
            split_of[group] = "test" if i < num_test else "val" if i < num_test + num_val else "train"
    return split_of


def choose(drawings: list[Drawing], num: int, rng: random.Random) -> list[Drawing]:
    """Choose ``num`` drawings, even over characters, then faces, then poses; repeats come last."""
    tree: dict[str, dict[str, list[Drawing]]] = defaultdict(lambda: defaultdict(list))
    for drawing in drawings:
        tree[drawing.character][drawing.face].append(drawing)
    characters = [c for c in tree for _ in range(AAVATAR_SHARE if c == "aavatar" else 1)]
    used: dict[Drawing, int] = defaultdict(int)
    chosen = []
    for i in range(num):
        if i % len(characters) == 0:
            rng.shuffle(characters)
        faces = tree[characters[i % len(characters)]]
        face = min(faces, key=lambda f: (sum(used[d] for d in faces[f]), rng.random()))
        drawing = min(faces[face], key=lambda d: (used[d], rng.random()))
        used[drawing] += 1
        chosen.append(drawing)
    return chosen


@cache
def render_layer(path: Path, width: int) -> Image.Image:
    """Render one SVG to ``width`` pixels, RGBA."""
    png = resvg_py.svg_to_bytes(svg_string=path.read_text(encoding="utf-8"), width=width, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


@cache
def head_extent(path: Path) -> tuple[float, float, float, float, float]:
    """Measure a head's box in widths of the canvas, and the canvas's height/width."""
    layer = render_layer(path, 250)
    x0, y0, x1, y1 = layer.getbbox()
    width = layer.width
    return x0 / width, y0 / width, x1 / width, y1 / width, layer.height / width


def render_person(drawing: Drawing, width: int) -> Image.Image:
    """Render and stack the layers of a person on a transparent canvas ``width`` wide."""
    layers = [render_layer.__wrapped__(path, width) for path in drawing.layers]
    height = round(width * head_extent(drawing.head)[4])
    canvas = Image.new("RGBA", (width, height))
    for layer in layers:
        canvas.alpha_composite(layer.resize((width, height)) if layer.size != canvas.size else layer)
    return canvas


def describe_action(pose: str) -> str:
    """Turn a pose's file name into words."""
    words = " ".join(ACTION_WORDS.findall(pose))
    return ACTIONS.get(pose) or words.replace("shrug", "shrugging")


# --- the scenes -----------------------------------------------------------------------------

Colour = tuple[int, int, int]


def vary(colour: Colour, rng: random.Random, *, by: int = 18) -> Colour:
    """Shift a colour at random."""
    light = rng.randint(-by, by)
    r, g, b = (min(255, max(0, c + light + rng.randint(-by // 2, by // 2))) for c in colour)
    return r, g, b


def paint_gradient(top: Colour, bottom: Colour, size: int) -> Image.Image:
    """Paint a vertical gradient."""
    t = np.linspace(0.0, 1.0, size)[:, None, None]
    rows = (1 - t) * np.array(top) + t * np.array(bottom)
    return Image.fromarray(np.broadcast_to(rows, (size, size, 3)).round().astype(np.uint8))


def paint_clouds(image: Image.Image, below: int, rng: random.Random) -> None:
    """Paint a few soft clouds above row ``below``."""
    layer = Image.new("L", image.size)
    draw = ImageDraw.Draw(layer)
    for _ in range(rng.randint(2, 4)):
        x, y = rng.randint(0, image.width), rng.randint(0, max(1, below))
        for _ in range(5):
            cx, cy, r = x + rng.randint(-36, 36), y + rng.randint(-7, 7), rng.randint(10, 22)
            draw.ellipse((cx - r * 1.5, cy - r * 0.7, cx + r * 1.5, cy + r * 0.7), fill=190)
    image.paste((255, 255, 255), mask=layer.filter(ImageFilter.GaussianBlur(4)))


def paint_hills(draw: ImageDraw.ImageDraw, base: float, height: float, colour: Colour, rng: random.Random) -> None:
    """Paint a rolling line of hills from row ``base`` down."""
    phase, waves, size = rng.random() * 7, rng.uniform(1.0, 2.2), draw.im.size[0]
    points = [
        (x, base - height * (0.5 + 0.5 * math.sin(phase + waves * 2 * math.pi * x / size)))
        for x in range(0, size + 8, 8)
    ]
    draw.polygon([*points, (size, size), (0, size)], fill=colour)


def paint_scene(rng: random.Random) -> tuple[Image.Image, str | None, float]:
    """Paint a calm background; return it, its scene (or none) and the ground's row / side."""
    size = 2 * SIDE
    sky = (vary((120, 180, 235), rng), vary((205, 228, 245), rng))
    ground = rng.uniform(0.6, 0.8)
    row = int(ground * size)
    scene = rng.choice(
        [
            "sky",
            "beach",
            "field",
            "mountain",
            "snowfield",
            "desert",
            "street",
            "living_room",
            "bedroom",
            "office",
            "sunset",
            "plain",
        ]
    )
    image = paint_gradient(*sky, size)
    draw = ImageDraw.Draw(image)
    match scene:
        case "plain":
            hue = vary(
                rng.choice(
                    [
                        (215, 205, 190),
                        (180, 205, 210),
                        (205, 190, 215),
                        (190, 215, 185),
                        (225, 215, 170),
                        (200, 200, 205),
                    ]
                ),
                rng,
            )
            return paint_gradient(hue, vary(hue, rng), size).resize((SIDE, SIDE)), None, ground
        case "sky":
            paint_clouds(image, size, rng)
            ground = 1.0
        case "sunset":
            image = paint_gradient(vary((120, 120, 190), rng), vary((250, 185, 130), rng), size)
            draw = ImageDraw.Draw(image)
            x = rng.randint(20, size - 20)
            draw.ellipse((x - 24, row - 30, x + 24, row + 18), fill=(255, 235, 170))
            draw.rectangle((0, row, size, size), fill=vary((95, 95, 110), rng))
        case "beach":
            draw.rectangle((0, row - 60, size, row), fill=vary((70, 150, 190), rng))
            draw.rectangle((0, row, size, size), fill=vary((235, 215, 165), rng))
            paint_clouds(image, row - 90, rng)
        case "field":
            paint_clouds(image, row - 60, rng)
            paint_hills(draw, row, 40, vary((130, 185, 110), rng), rng)
            paint_hills(draw, row + 25, 20, vary((105, 165, 85), rng), rng)
        case "mountain":
            for shade in ((150, 160, 180), (120, 135, 155)):
                x, wide = rng.randint(0, size), rng.randint(110, 190)
                top = rng.randint(40, 120)
                draw.polygon([(x - wide, row), (x, top), (x + wide, row)], fill=vary(shade, rng))
                draw.polygon(
                    [(x - wide * 0.2, top + (row - top) * 0.2), (x, top), (x + wide * 0.2, top + (row - top) * 0.2)],
                    fill=(245, 248, 250),
                )
            draw.rectangle((0, row, size, size), fill=vary((140, 165, 120), rng))
        case "snowfield":
            paint_hills(draw, row, 30, vary((228, 236, 244), rng, by=8), rng)
            for _ in range(40):
                x, y, r = rng.randint(0, size), rng.randint(0, size), rng.randint(1, 3)
                draw.ellipse((x - r, y - r, x + r, y + r), fill=(250, 252, 255))
        case "desert":
            paint_hills(draw, row, 45, vary((232, 200, 140), rng), rng)
            paint_hills(draw, row + 40, 30, vary((222, 182, 120), rng), rng)
        case "street":
            x = -rng.randint(0, 40)
            while x < size:
                wide, top = rng.randint(45, 80), rng.randint(40, 150)
                draw.rectangle((x, top, x + wide, row), fill=vary((190, 170, 160), rng, by=30))
                for wx in range(x + 8, x + wide - 12, 18):
                    for wy in range(top + 10, row - 14, 24):
                        draw.rectangle((wx, wy, wx + 9, wy + 12), fill=(225, 235, 240))
                x += wide
            draw.rectangle((0, row, size, size), fill=vary((150, 150, 155), rng))
        case _:
            paint_room(draw, scene, row, rng)
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), scene, ground


def paint_room(draw: ImageDraw.ImageDraw, scene: str, row: int, rng: random.Random) -> None:
    """Paint a living room, a bedroom or an office: wall, floor and what tells them apart."""
    size = draw.im.size[0]
    wall = vary(rng.choice([(230, 220, 200), (205, 220, 215), (215, 210, 225), (225, 205, 195)]), rng)
    draw.rectangle((0, 0, size, row), fill=wall)
    draw.rectangle((0, row, size, size), fill=vary((175, 140, 110), rng))
    draw.rectangle((0, row - 6, size, row), fill=(245, 242, 238))
    x, y = rng.choice([rng.randint(5, 40), size - rng.randint(100, 130)]), rng.randint(20, 50)
    match scene:
        case "living_room":  # an image and a sofa
            draw.rectangle((x, y, x + 80, y + 60), fill=(120, 90, 70))
            draw.rectangle((x + 6, y + 6, x + 74, y + 54), fill=vary((160, 190, 200), rng))
            sofa = vary((150, 110, 120), rng, by=40)
            x = rng.randint(-60, size - 120)
            draw.rounded_rectangle((x, row - 60, x + 180, row + 25), 18, fill=sofa)
            draw.rounded_rectangle((x - 12, row - 30, x + 192, row + 28), 14, fill=vary(sofa, rng))
        case "bedroom":  # a window with curtains and a bed
            draw.rectangle((x, y, x + 90, y + 90), fill=(250, 250, 250))
            draw.rectangle((x + 6, y + 6, x + 84, y + 84), fill=vary((175, 210, 240), rng))
            draw.line((x + 45, y, x + 45, y + 90), fill=(250, 250, 250), width=5)
            curtain = vary((190, 150, 170), rng, by=30)
            draw.rectangle((x - 14, y - 8, x + 8, y + 100), fill=curtain)
            draw.rectangle((x + 82, y - 8, x + 104, y + 100), fill=curtain)
            x = rng.choice([-40, size - 150])
            draw.rounded_rectangle((x, row - 25, x + 190, row + 35), 10, fill=vary((235, 235, 245), rng))
            draw.rounded_rectangle((x, row - 5, x + 190, row + 35), 6, fill=vary((130, 150, 190), rng))
        case _:  # shelves with folders
            for shelf in range(y, row - 30, 55):
                for fx in range(x, x + 95, 11):
                    top = shelf + rng.randint(0, 10)
                    draw.rectangle((fx, top, fx + 9, shelf + 40), fill=vary((140, 150, 165), rng, by=50))
                draw.rectangle((x - 6, shelf + 40, x + 104, shelf + 46), fill=(130, 105, 85))


@cache
def load_object(path: Path) -> Image.Image:
    """Load an object's image, cut to its extent."""
    image = Image.open(path).convert("RGBA")
    return image.crop(image.getchannel("A").point(lambda a: 255 * (a > 16)).getbbox())


# --- one image ----------------------------------------------------------------------------


def place_person(drawing: Drawing, rng: random.Random) -> tuple[Image.Image, tuple[int, int, int, int], str]:
    """Draw the person on a transparent image; return it, its box and the framing."""
    framing = rng.choices(["close-up", "bust", "half", "full"], [50, 28, 15, 7])[0]
    low, high = {"close-up": (0.60, 0.86), "bust": (0.44, 0.60), "half": (0.33, 0.44), "full": (0.2, 0.33)}[framing]
    x0, y0, x1, y1, _aspect = head_extent(drawing.head)
    side = max(y1 - y0, 0.9 * (x1 - x0))
    width = round(rng.uniform(low, high) * SIDE / side)
    person = render_person(drawing, width)
    if rng.random() < 0.5:
        person = person.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        x0, x1 = 1 - x1, 1 - x0
    head_width, head_height = (x1 - x0) * width, (y1 - y0) * width
    if framing == "full":  # the whole figure, as large as fits, feet near the bottom
        bx0, by0, bx1, by1 = person.getbbox()
        scale = min(rng.uniform(0.86, 0.97) * SIDE / max(by1 - by0, bx1 - bx0), 1.6)
        person = person.crop((bx0, by0, bx1, by1)).resize(
            (max(1, round((bx1 - bx0) * scale)), max(1, round((by1 - by0) * scale))), Image.Resampling.LANCZOS
        )
        left = rng.uniform(0, SIDE - person.width)
        top = (SIDE - person.height) * rng.uniform(0.6, 0.95)
    else:
        left = rng.uniform(0.36, 0.64) * SIDE - (x0 + x1) / 2 * width
        left = min(max(left, 3 - x0 * width), SIDE - 3 - head_width - x0 * width)
        top = (SIDE - head_height) * rng.uniform(0.1, 0.55) - y0 * width
    canvas = Image.new("RGBA", (SIDE, SIDE))
    canvas.paste(person, (round(left), round(top)))
    return canvas, canvas.getchannel("A").point(lambda a: 255 * (a > 32)).getbbox(), framing


def place_objects(
    background: Image.Image, person: Image.Image, ground: float, openclipart: Path, rng: random.Random
) -> list[str]:
    """Paint up to two objects behind the person; return the names of those well visible."""
    covered = np.asarray(person.getchannel("A")) > 128
    names = []
    for name in rng.sample(sorted(OBJECTS), rng.choices([0, 1, 2], [35, 45, 20])[0]):
        picture = load_object(openclipart / f"{rng.choice(OBJECTS[name])}.png").copy()
        side = rng.randint(34, 62)
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        foot = min(SIDE - 2, int(rng.uniform(ground, 1.0) * SIDE) + 12)
        for _ in range(8):  # the place where most of it is seen
            left = rng.randint(0, SIDE - picture.width)
            top = max(0, foot - picture.height)
            alpha = np.asarray(picture.getchannel("A")) > 128
            window = covered[top : top + picture.height, left : left + picture.width]
            if (alpha & ~window).sum() > 0.6 * alpha.sum():
                background.paste(picture, (left, top), picture)
                names.append(name)
                break
    return sorted(names)


def measure(image: Image.Image) -> tuple[float, float]:
    """Measure brightness (mean luma) and colourfulness (Hasler and Suesstrunk 2003) in 0.0-1.0."""
    pixels = np.asarray(image, dtype=np.float64)
    r, g, b = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    rg, yb = r - g, (r + g) / 2 - b
    colourful = math.hypot(rg.std(), yb.std()) + 0.3 * math.hypot(rg.mean(), yb.mean())
    luma = np.asarray(image.convert("L")).mean() / 255
    return round(float(luma), 1), round(min(1.0, colourful / 100), 1)


def draw_picture(job: Job, *, openclipart: Path) -> tuple[Job, bytes, dict[str, object], tuple[int, int, int, int]]:
    """Draw one image; return it as WebP with its annotation and the person's box."""
    rng = random.Random(job.seed)
    background, scene, ground = paint_scene(rng)
    person, box, framing = place_person(job.drawing, rng)
    objects = place_objects(background, person, ground, openclipart, rng)
    background.paste(person, (0, 0), person)
    buffer = io.BytesIO()
    background.save(buffer, "WEBP", quality=WEBP_QUALITY, method=6)
    brightness, colorfulness = measure(background)
    annotation: dict[str, object] = {
        "image_id": job.image_id,
        "emotion": job.drawing.emotion,
        "brightness": brightness,
        "colorfulness": colorfulness,
    }
    if scene:
        annotation["scene"] = scene
    annotation["facial_expression"] = FACES[job.drawing.face][1]
    if framing != "close-up":  # a close-up does not show the hands
        annotation["human_action"] = describe_action(job.drawing.pose)
    if objects:
        annotation["object"] = objects
    return job, buffer.getvalue(), annotation, box


# --- the trees ------------------------------------------------------------------------------


def plan_tree(
    drawings_of: dict[str, list[Drawing]], per_class: dict[str, int], name: str, seed: int
) -> dict[str, list[Job]]:
    """Choose the drawings of each split and number them."""
    rng = random.Random(f"{seed}/{name}/plan")
    counts: dict[str, int] = defaultdict(int)
    jobs: dict[str, list[Job]] = {}
    for split, drawings in drawings_of.items():
        chosen = []
        for emotion in EMOTIONS:
            mine = [d for d in drawings if d.emotion == emotion]
            chosen += choose(mine, per_class[split], rng)
        rng.shuffle(chosen)
        jobs[split] = []
        for drawing in chosen:
            counts[drawing.emotion] += 1
            image_id = f"{drawing.emotion}_{counts[drawing.emotion]:05d}"
            jobs[split].append(Job(drawing, image_id, f"{seed}/{name}/{image_id}"))
    return jobs


def write_tree(archive: zipfile.ZipFile, name: str, jobs: dict[str, list[Job]], openclipart: Path) -> None:
    """Draw a tree's images and write them in EmoSet's layout."""

    def write(path: str, content: bytes | str) -> None:
        info = zipfile.ZipInfo(f"{name}/{path}", (1980, 1, 1, 0, 0, 0))
        info.external_attr = 0o644 << 16
        archive.writestr(info, content)

    label2idx = {emotion: i for i, emotion in enumerate(EMOTIONS)}
    idx2label = {str(i): emotion for emotion, i in label2idx.items()}
    write("info.json", json.dumps({"label2idx": label2idx, "idx2label": idx2label}, indent=1))
    people = ["path,x0,y0,x1,y1"]
    draw = partial(draw_picture, openclipart=openclipart)
    with ProcessPoolExecutor() as pool:
        for split, split_jobs in jobs.items():
            rows = []
            for job, webp, annotation, box in pool.map(draw, split_jobs, chunksize=16):
                stem = f"{job.drawing.emotion}/{job.image_id}"
                rows.append([job.drawing.emotion, f"image/{stem}.webp", f"annotation/{stem}.json"])
                write(f"image/{stem}.webp", webp)
                write(f"annotation/{stem}.json", json.dumps(annotation))
                people.append(f"image/{stem}.webp," + ",".join(map(str, box)))
            write(f"{split}.json", json.dumps(rows))
            print(f"{name}/{split}: {len(rows)} images")
    write("people.csv", "\n".join(people) + "\n")


def main() -> None:
    """Parse the arguments and write the archive."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comicgen", type=Path, required=True, help="unpacked npm package")
    parser.add_argument("--openclipart", type=Path, required=True, help="its png folder")
    parser.add_argument("--out", type=Path, required=True, help="the archive to write")
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument(
        "--more",
        type=int,
        metavar="N",
        help="write instead N other images of each emotion with the training split's drawings",
    )
    args = parser.parse_args()

    drawings = list_drawings(args.comicgen / "svg")
    unseen = [d for d in drawings if d.character in UNSEEN_CHARACTERS]
    seen = [d for d in drawings if d.character not in UNSEEN_CHARACTERS]
    split_of = split_groups(list({d.group for d in seen}), random.Random(f"{args.seed}/split"))
    seen_of: dict[str, list[Drawing]] = {split: [] for split in SPLIT_SHARES}
    for drawing in seen:
        seen_of[split_of[drawing.group]].append(drawing)

    args.out.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(args.out, "w", zipfile.ZIP_STORED) as archive:
        if args.more:
            jobs = plan_tree({"train": seen_of["train"]}, {"train": args.more}, "drawn6-more", args.seed)
            write_tree(archive, "drawn6-more", jobs, args.openclipart)
            return
        jobs = plan_tree(seen_of, PER_CLASS, "drawn6", args.seed)
        write_tree(archive, "drawn6", jobs, args.openclipart)
        jobs = plan_tree({"test": unseen}, {"test": UNSEEN_PER_CLASS}, "drawn6-unseen", args.seed)
        write_tree(archive, "drawn6-unseen", jobs, args.openclipart)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
