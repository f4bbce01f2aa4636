import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform

import uniemox
from uniemox.config.people import PersonConfig
from uniemox.data.pixels import CROP_SHARE, MEAN, STD, EvaluationViews, Preparation, cut_region
from uniemox.data.transforms import normalize
from uniemox.manifests.table import Box
from uniemox.people.regions import person_region

RED, BLUE = (200, 0, 0), (0, 0, 200)


def noisy(width=60, height=40, seed=0):
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8))


def by_timm(size, **changes):
    facts = {"mean": MEAN, "std": STD, "crop_pct": CROP_SHARE, "interpolation": "bicubic"}
    return create_transform(size, is_training=False, **facts | changes)


SIZES = [(1, 1), (2, 1), (1, 16), (3, 5), (37, 36), (36, 37), (255, 257), (33, 500), (500, 33)]
SIZES += [(10, 160), (641, 479), (1023, 771)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("side", [32, 56, 224])
def test_pixels_are_bit_for_bit_those_of_timm(size, side):
    image = noisy(*size)
    pixels = Preparation(side)(image)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    assert np.array_equal(pixels, by_timm(side)(image).numpy())


def test_the_mean_and_deviation_are_those_of_imagenet():
    assert (MEAN, STD) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


@pytest.mark.parametrize("interpolation", ["bilinear", "lanczos", "nearest"])
def test_another_models_preprocessing_can_be_asked_for(interpolation):
    mean, std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    prepare = Preparation(64, crop_share=1.0, mean=mean, std=std, interpolation=interpolation)
    timms = by_timm(64, crop_pct=1.0, mean=mean, std=std, interpolation=interpolation)
    assert np.array_equal(prepare(noisy(90, 70)), timms(noisy(90, 70)).numpy())


@pytest.mark.parametrize("crop_share", [0.875, 0.9, 1.0])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_both_sides_are_squashed_as_timm_squashes_them(size, crop_share):
    prepare = Preparation(64, crop_share=crop_share, squash=True)
    timms = by_timm(64, crop_pct=crop_share, crop_mode="squash")
    assert np.array_equal(prepare(noisy(*size)), timms(noisy(*size)).numpy())


@pytest.mark.parametrize("across", [True, False])
def test_a_strip_of_a_million_pixels_is_cut_before_it_is_blown_up(across):
    length = 2_000_000  # 36 × 72,000,000 pixels when its short side is 36
    strip = Image.new("RGB", (length, 1) if across else (1, length), BLUE)
    middle = length // 2
    region = (middle - 5, 0, middle + 5, 1) if across else (0, middle - 5, 1, middle + 5)
    strip.paste(RED, region)
    means = Preparation(32)(strip).mean(axis=(1, 2)) * STD + MEAN
    assert (means * 255).tolist() == pytest.approx(RED, abs=1)


def test_preparing_brings_no_torch():
    code = (
        "import sys; from PIL import Image; from uniemox.data.pixels import Preparation; "
        "Preparation(32)(Image.new('RGB', (40, 40))); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(Path(uniemox.__file__).parents[1])},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "False\n"


# Persons


def test_squeezing_brings_any_region_to_a_square():
    image = Image.new("RGB", (60, 40), BLUE)
    image.paste(RED, (10, 0, 30, 40))
    cut = np.asarray(cut_region(image, (10, 0, 30, 40), size=16, shape="squeeze"))
    assert cut.shape == (16, 16, 3)
    assert (cut == RED).all()


@pytest.mark.parametrize(("region", "inside"), [((10, 0, 30, 40), np.s_[:, 4:12]), ((0, 10, 60, 25), np.s_[6:10, :])])
def test_padding_keeps_the_aspect_and_fills_both_ends_with_what_is_zero_to_the_encoder(region, inside):
    cut = np.asarray(cut_region(Image.new("RGB", (60, 40), RED), region, size=16, shape="pad"))
    assert (cut[inside] == RED).all()
    is_filled = np.ones((16, 16), bool)
    is_filled[inside] = False
    filled = torch.from_numpy(cut[is_filled].T.copy())[..., None]
    assert normalize(filled).abs().max() < 0.01


def test_a_square_region_needs_no_padding():
    image = noisy()
    cuts = [cut_region(image, (3, 3, 33, 33), size=16, shape=s) for s in ("pad", "squeeze")]
    assert cuts[0].tobytes() == cuts[1].tobytes()


@pytest.mark.parametrize("shape", ["pad", "squeeze"])
def test_a_strip_of_a_million_pixels_is_cut_without_its_square(shape):
    strip = Image.new("RGB", (2_000_000, 1), RED)
    assert cut_region(strip, (0, 0, 2_000_000, 1), size=16, shape=shape).size == (16, 16)


def views_of(view, image, boxes, **person):
    person = PersonConfig(**person)
    region = person_region(boxes, person, width=image.width, height=image.height)
    views = EvaluationViews(size=32, view=view, person=person)
    found = views.cut(image, region)
    assert found.shape == views.shape
    return found


@pytest.mark.parametrize("size", [(60, 40), (33, 90), (200, 201)])
@pytest.mark.parametrize("shape", ["squeeze", "pad"])
def test_a_persons_crop_is_prepared_as_timm_prepares_the_crop_taken_whole(size, shape):
    image = noisy(*size)
    box = Box(5, 8, 31, 30)
    (pixels,) = views_of("person", image, [box], margin=0, shape=shape)
    mode = "squash" if shape == "squeeze" else "border"
    region = person_region([box], PersonConfig(margin=0, shape=shape), width=size[0], height=size[1])
    expected = by_timm(32, crop_pct=1.0, crop_mode=mode)(image.crop(region)).numpy()
    assert np.array_equal(pixels, expected)


@pytest.mark.parametrize("boxes", [[], [Box(100, 0, 130, 10)], [Box(0, 0, float("nan"), 5)]])
def test_the_scene_stands_in_where_nobody_is_in_the_picture(boxes):
    image = noisy()
    scene = Preparation(32)(image)
    for view in ("scene", "person", "both"):
        assert all(np.array_equal(pixels, scene) for pixels in views_of(view, image, boxes))


def test_the_scene_comes_first_and_is_whole():
    image = noisy()
    boxes = [Box(5, 5, 20, 30), Box(10, 0, 15, 5)]
    scene, person = views_of("both", image, boxes)
    assert np.array_equal(scene, Preparation(32)(image))
    assert np.array_equal(person, views_of("person", image, boxes)[0])
    assert np.array_equal(person, views_of("person", image, boxes[:1])[0])  # the largest
    assert not np.array_equal(scene, person)


def test_a_scene_alone_brings_no_arrow():
    code = (
        "import sys; from PIL import Image; from uniemox.config.people import PersonConfig\n"
        "from uniemox.data.pixels import EvaluationViews\n"
        "views = EvaluationViews(size=8, view='scene', person=PersonConfig())\n"
        "views.cut(Image.new('RGB', (9, 9)), None); assert 'pyarrow' not in sys.modules, 'pyarrow'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Where views lie in an image


def test_the_areas_of_views_are_those_worked_by_hand():
    views = EvaluationViews(
        size=32, view="both", person=PersonConfig(margin=0), preparation=Preparation(32, crop_share=0.5)
    )
    # The short side of 100 becomes 64, of which 32 are kept: 50 pixels of both sides.
    scene = (75, 25, 125, 75)
    assert views.areas(200, 100, Box(10, 20, 30, 60)) == [scene, (10, 20, 30, 60)]
    assert views.areas(200, 100, None) == [scene, scene]
    squashed = replace(views, preparation=Preparation(32, crop_share=0.5, squash=True), view="scene")
    assert squashed.areas(200, 100, None) == [(50, 25, 150, 75)]
    padded = replace(views, person=PersonConfig(margin=0, shape="pad"), view="person")
    (left, top, right, bottom) = padded.areas(30, 100, Box(0, 0, 30, 100))[0]
    assert (left, top, right, bottom) == (-35, 0, 65, 100)  # a square of which the image fills the middle


def test_what_lies_outside_of_an_area_does_not_change_a_view():
    views = EvaluationViews(size=16, view="scene", person=PersonConfig())
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))
    ((left, top, right, bottom),) = views.areas(90, 60, None)
    spare = 60 / 16 * 2  # reach of the bicubic filter
    other = Image.new("RGB", image.size)
    inside = tuple(map(round, (left - spare, max(0, top - spare), right + spare, min(60, bottom + spare))))
    other.paste(image.crop(inside), inside)
    assert (views.of(other, None) == views.of(image, None)).all()


def test_a_person_of_a_model_of_scenes_is_read_as_an_image_of_its_own():
    image = Image.new("RGB", (60, 60))
    image.paste((200, 10, 10), (20, 20, 40, 40))
    views = EvaluationViews(size=16, view="scene", person=PersonConfig(margin=0))
    pixels = views.of(image, Box(20, 20, 40, 40))
    assert (pixels == pixels[:, :, :1, :1]).all()
    assert views.of(image, Box(90, 90, 99, 99)) is None
