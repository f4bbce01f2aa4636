"""The sheet of images, boxes and crops."""

import numpy as np
import pytest
from PIL import Image

from uniemox.config.people import PersonConfig
from uniemox.errors import DataError
from uniemox.manifests.table import Box, Facts, manifest_from_columns
from uniemox.report.charts import BLUE
from uniemox.report.contact import SIDE, Found, make_cards, write_found, write_sheet

RED, GREEN, GREY, WHITE = (200, 0, 0), (0, 200, 0), (128, 128, 128), (255, 255, 255)
TIGHT = PersonConfig(margin=0)


@pytest.fixture
def manifest(tmp_path):
    """Two people, nobody, nothing to read, and people outside of the image."""
    image = Image.new("RGB", (240, 160), GREY)
    image.paste(RED, (20, 10, 100, 150))
    image.paste(GREEN, (140, 40, 200, 80))
    for name in ("two", "none", "outside"):
        image.save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_text("no image")
    two = (Box(20, 10, 100, 150, 0.5), Box(140, 40, 200, 80, 0.75))
    facts = Facts(name="x", title="<X>", classes=(), emotion=None, root=tmp_path, people_source="an eye")
    return manifest_from_columns(
        facts,
        paths=["two.png", "none.png", "broken.png", "outside.png"],
        splits=["train"] * 4,
        people=[two, (), (), (Box(500, 0, 600, 50),)],
        people_reasons=[None, None, "not an image", None],
    )


def colours(picture):
    return {tuple(pixel) for pixel in np.asarray(picture).reshape(-1, 3).tolist()}


def rgb(word):
    return tuple(int(word[i : i + 2], 16) for i in (1, 3, 5))


@pytest.mark.parametrize(("choice", "colour"), [("largest", RED), ("confident", GREEN)])
def test_a_card_shows_the_boxes_and_the_crop_of_the_chosen_one(manifest, choice, colour):
    card = make_cards(manifest, PersonConfig(margin=0, choice=choice), count=4)[0]
    scene = card.image.crop((0, 0, card.image.width - SIDE, SIDE))
    crop = card.image.crop((card.image.width - SIDE, 0, card.image.width, SIDE))
    assert colours(crop) == {colour}
    assert {rgb(BLUE), WHITE} <= colours(scene)


def test_a_card_says_what_is_to_be_seen(manifest):
    assert [(card.name, card.caption) for card in make_cards(manifest, TIGHT, count=4)] == [
        ("two.png", "2 people, score 0.50, 80 by 140 pixels"),
        ("none.png", "nobody; the scene is used instead"),
        ("broken.png", "not read: not an image"),
        ("outside.png", "only boxes outside the image; the scene is used instead"),
    ]


def test_padding_and_squeezing_are_shown_as_the_model_sees_them(manifest):
    padded = make_cards(manifest, PersonConfig(margin=0, shape="pad"), count=4)[0].image
    crop = padded.crop((padded.width - SIDE, 0, padded.width, SIDE))
    assert GREY in colours(crop)


@pytest.mark.parametrize("shape", ["squeeze", "pad"])
def test_where_nobody_is_the_crop_is_the_scene_as_evaluation_cuts_it(tmp_path, shape):
    image = Image.new("RGB", (400, 200), RED)
    image.paste(GREEN, (100, 0, 300, 200))
    image.save(tmp_path / "a.png")
    facts = Facts(name="x", title="X", classes=(), emotion=None, root=tmp_path)
    manifest = manifest_from_columns(facts, paths=["a.png"], splits=["train"])
    card = make_cards(manifest, PersonConfig(shape=shape), count=1)[0].image
    # The centre of 256 × 512 is green; the whole image, or bars beside it, would show other colours.
    assert colours(card.crop((card.width - SIDE, 0, card.width, SIDE))) == {GREEN}


@pytest.mark.parametrize(("count", "names"), [(1, ["two.png"]), (2, ["two.png", "outside.png"])])
def test_rows_are_chosen_evenly(manifest, count, names):
    assert [card.name for card in make_cards(manifest, TIGHT, count=count)] == names


def test_no_more_rows_are_shown_than_there_are(manifest):
    assert len(make_cards(manifest, TIGHT, count=99)) == 4


def test_a_page_holds_every_card_and_escapes_what_it_is_told(manifest, tmp_path):
    write_sheet(manifest, tmp_path / "sheet.html", person=TIGHT, count=4)
    page = (tmp_path / "sheet.html").read_text()
    assert page.count("data:image/webp") == 4
    assert "&lt;X&gt;" in page
    assert "<X>" not in page
    assert "Boxes by an eye." in page
    assert "1 of 4 images" not in page  # two show people: one of them outside
    assert "2 of 4 images show people, with 3 boxes in 4 rows" in page


def test_a_picture_holds_every_card(manifest, tmp_path):
    write_sheet(manifest, tmp_path / "sheet.png", person=TIGHT, count=4)
    with Image.open(tmp_path / "sheet.png") as sheet:
        card = make_cards(manifest, TIGHT, count=1)[0].image
        assert sheet.width > 2 * card.width
        assert sheet.height > 2 * card.height
        assert {rgb(BLUE), RED} <= colours(sheet.convert("RGB"))


def test_a_name_of_any_letters_and_length_can_be_shown(tmp_path):
    name = "\N{PILE OF POO}\n" + "a" * 200 + ".png"
    Image.new("RGB", (5, 5)).save(tmp_path / name)
    facts = Facts(name="x", title="X", classes=(), emotion=None, root=tmp_path)
    manifest = manifest_from_columns(facts, paths=[name], splits=["train"])
    write_sheet(manifest, tmp_path / "sheet.png", person=TIGHT, count=1)
    assert (tmp_path / "sheet.png").stat().st_size > 100


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1)])
def test_a_strip_can_be_shown(tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "a.png")
    facts = Facts(name="x", title="X", classes=(), emotion=None, root=tmp_path)
    boxes = [(Box(0, 0, *size),)]
    manifest = manifest_from_columns(facts, paths=["a.png"], splits=["train"], people=boxes)
    (card,) = make_cards(manifest, PersonConfig(shape="pad"), count=1)
    assert card.image.height == SIDE


def test_an_empty_manifest_has_nothing_to_show(tmp_path):
    facts = Facts(name="x", title="X", classes=(), emotion=None, root=tmp_path)
    with pytest.raises(DataError, match="has no row to show"):
        make_cards(manifest_from_columns(facts, paths=[], splits=[]), TIGHT, count=3)


@pytest.mark.parametrize("name", ["sheet.png", "sheet.html"])
def test_a_sheet_that_cannot_be_written_is_told_and_leaves_nothing(manifest, tmp_path, name):
    (tmp_path / "out" / name).mkdir(parents=True)
    with pytest.raises(DataError, match="cannot be written"):
        write_sheet(manifest, tmp_path / "out" / name, person=TIGHT, count=1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


@pytest.mark.parametrize("ending", ["html", "jpg", "png"])
def test_found_images_are_shown_in_their_order_with_scores(manifest, tmp_path, ending):
    root = manifest.facts.root
    found = [Found(root / "two.png", "0.912", "awe"), Found(root / "broken.png", "0.500", "<b>fear</b>")]
    write_found(found, tmp_path / f"sheet.{ending}", title="Search: <i>", summary="2 images", notice="Mind the law.")
    if ending != "html":
        with Image.open(tmp_path / f"sheet.{ending}") as sheet:
            assert sheet.format == {"jpg": "JPEG", "png": "PNG"}[ending]
            assert sheet.width > 2 * SIDE
        return
    text = (tmp_path / "sheet.html").read_text()
    assert text.index("Mind the law.") < text.index("0.912") < text.index("0.500")
    assert "<b>fear" not in text
    assert "<i>" not in text


def test_a_sheet_of_nothing_is_refused(tmp_path):
    with pytest.raises(DataError, match="nothing was found"):
        write_found([], tmp_path / "sheet.html", title="", summary="")
