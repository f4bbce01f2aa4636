import colorsys
import io
import pickle
import re

import numpy as np
import pytest
from PIL import Image, ImageOps

from uniemox.config.inference import EvaluateConfig
from uniemox.data.corruptions import CORRUPTIONS
from uniemox.manifests.table import Box
from uniemox.settings import list_settings

BOX = Box(4, 6, 20, 30, 0.5)
BY_TITLE = {one.title: one for one in CORRUPTIONS}


@pytest.fixture
def image():
    generator = np.random.default_rng(0)
    return Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((64, 48))


def named(name):
    return [one for one in CORRUPTIONS if one.name == name]


def pixels(image):
    return np.asarray(image, np.int64)


@pytest.mark.parametrize("change", CORRUPTIONS, ids=lambda one: one.title)
def test_a_change_is_the_same_for_the_same_row_and_leaves_the_original_alone(change, image):
    image = Image.effect_noise((256, 192), 60).convert("RGB") if change.name == "blur" else image  # with sharp edges
    before = image.tobytes()
    changed, boxes = change(image, [BOX], row=3)
    again, same = pickle.loads(pickle.dumps(change))(image, [BOX], row=3)  # as a worker gets it
    assert (changed.tobytes(), boxes) == (again.tobytes(), same)
    assert changed.mode == "RGB"
    assert changed.tobytes() != before
    assert image.tobytes() == before


@pytest.mark.parametrize("change", CORRUPTIONS, ids=lambda one: one.title)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2)])
def test_the_smallest_images_can_be_changed(change, size):
    changed, boxes = change(Image.new("RGB", size, (9, 99, 199)), [Box(0, 0, 1, 1)])
    assert min(changed.size) >= 1
    assert len(boxes) == 1


def test_titles_are_distinct():
    assert len(BY_TITLE) == len(CORRUPTIONS)


def test_the_help_of_evaluate_counts_and_names_all_changes():
    texts = {setting.name: setting.text for setting in list_settings(EvaluateConfig)}
    assert re.findall(r"\d+", texts["robustness"]) == [str(len(CORRUPTIONS))] * 2
    assert all(change.name in texts["robustness"] for change in CORRUPTIONS)


def test_greyscale_is_the_luma_of_rec_601(image):
    grey, boxes = BY_TITLE["greyscale"](image, [BOX])
    luma = pixels(image) @ (0.299, 0.587, 0.114)
    assert np.abs(pixels(grey) - luma[..., None]).max() <= 1
    assert boxes == (BOX,)


def test_a_cast_scales_red_and_blue_and_clips(image):
    for title, gains in {"colour cast, warm": (1.25, 1, 0.8), "colour cast, cool": (0.8, 1, 1.25)}.items():
        cast, _ = BY_TITLE[title](image)
        assert np.abs(pixels(cast) - (pixels(image) * gains).clip(0, 255)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("change", named("brightness"), ids=lambda one: one.title)
def test_brightness_adds_to_the_value_of_hsv(change, image):
    changed = pixels(change(image)[0])[::7, ::7].reshape(-1, 3)
    for old, new in zip(pixels(image)[::7, ::7].reshape(-1, 3) / 255, changed, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*old)
        expected = 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, np.clip(value + change.amount, 0, 1)))
        assert np.abs(new - expected).max() <= 6  # Pillow keeps hue and saturation in 8 bits


def test_a_blur_is_a_gaussian_that_grows_with_the_image():
    from scipy.ndimage import gaussian_filter

    generator = np.random.default_rng(1)
    grey = generator.integers(0, 256, (224, 300), dtype=np.uint8)
    image = Image.fromarray(grey).convert("RGB")
    for change in named("blur"):
        ours = pixels(change(image)[0])[60:-60, 60:-60, 0]
        assert np.abs(ours - gaussian_filter(grey.astype(float), change.amount)[60:-60, 60:-60]).max() < 4
    sharp = named("blur")[0]
    twice = image.resize((600, 448), Image.Resampling.NEAREST)
    assert pixels(sharp(twice)[0])[100:-100, 100:-100].std() == pytest.approx(
        pixels(sharp(image)[0])[50:-50, 50:-50].std(), rel=0.1
    )


@pytest.mark.parametrize("change", named("JPEG"), ids=lambda one: one.title)
def test_jpeg_is_what_pillow_itself_writes_and_reads(change, image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(change.strength.split()[1]))
    assert change(image)[0].tobytes() == Image.open(buffer).convert("RGB").tobytes()


def test_what_no_jpeg_can_hold_stays_as_it_is():
    wide = Image.new("RGB", (70_000, 1), (1, 2, 3))
    assert named("JPEG")[0](wide)[0].tobytes() == wide.tobytes()


@pytest.mark.parametrize("change", named("crop"), ids=lambda one: one.title)
def test_a_crop_is_a_part_of_the_image_and_boxes_still_show_the_same(change, image):
    places = set()
    for row in range(20):
        part, (box,) = change(image, [BOX], row=row)
        assert part.size == tuple(round(change.amount * side) for side in image.size)
        left, top = BOX.x0 - box.x0, BOX.y0 - box.y0
        assert part.tobytes() == image.crop((left, top, left + part.width, top + part.height)).tobytes()
        assert (box.x1 - box.x0, box.y1 - box.y0, box.score) == (16, 24, 0.5)
        places.add((left, top))
    assert len(places) > 10


@pytest.mark.parametrize("change", named("border"), ids=lambda one: one.title)
def test_a_border_is_black_around_the_whole_image(change, image):
    framed, (box,) = change(image, [BOX])
    width = round(change.amount * 48)
    assert framed.size == (64 + 2 * width, 48 + 2 * width)
    assert framed.crop((width, width, width + 64, width + 48)).tobytes() == image.tobytes()
    assert pixels(framed).sum() == pixels(image).sum()
    assert box == Box(4 + width, 6 + width, 20 + width, 30 + width, 0.5)


def test_text_is_white_with_a_black_edge_and_as_high_as_it_says():
    grey = Image.new("RGB", (400, 300), (128, 128, 128))
    for change in named("text"):
        extents, corners = set(), set()
        for row in range(5):
            written = pixels(change(grey, row=row)[0])
            rows, columns = np.nonzero((written != 128).any(-1))
            extents.add((np.ptp(rows), np.ptp(columns)))
            corners.add((rows.min(), columns.min()))
            assert written.min() == 0
            assert written.max() == 255
        assert len(extents) == 1  # the same text, whole
        assert len(corners) == 5  # elsewhere in each row
        ((height, _),) = extents
        assert 0.6 < height / (change.amount * 300) < 1.4


def test_two_flips_are_none_and_boxes_flip_too(image):
    flip = BY_TITLE["flip"]
    once, boxes = flip(image, [BOX])
    assert once.tobytes() == ImageOps.mirror(image).tobytes()
    assert boxes == (Box(44, 6, 60, 30, 0.5),)
    twice, same = flip(once, boxes)
    assert (twice.tobytes(), same) == (image.tobytes(), (BOX,))
