"""Images that a caller gives, opened: large JPEGs at a part of their size where prediction asks for it, else whole.

What may be given is tested through the predictor, in `test_predictor`.
"""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from uniemox.data.pixels import Preparation
from uniemox.files.images import Unreadable
from uniemox.files.room import ROOM
from uniemox.inference.opening import Named, open_image
from uniemox.inference.predictor import Predictor
from uniemox.manifests.table import Box

PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "hubble_deep_field.jpg",
)
SIDE = 320
RESIZED = int(64 / (224 / 256))  # What the embedded classifier resizes the short side to


def photograph(name):
    return Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")


def encode(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photographs():
    """JPEGs of square parts of photographs, enlarged as a camera would have taken them."""
    generator, found = np.random.default_rng(0), []
    for number in range(150):
        image = photograph(PHOTOGRAPHS[number % len(PHOTOGRAPHS)])
        side = int(min(image.size) * generator.uniform(0.5, 1))
        left, top = (int(generator.integers(0, whole - side + 1)) for whole in image.size)
        large = image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        noise = np.rint(generator.normal(0, 3, (SIDE, SIDE, 3))).astype(int)
        found.append(encode(Image.fromarray(np.clip(np.asarray(large) + noise, 0, 255).astype(np.uint8)), quality=90))
    return found


@pytest.fixture(scope="module")
def auto():
    return Predictor.load("demo", device="cpu")


@pytest.fixture(scope="module")
def exact():
    return Predictor.load("demo", device="cpu", decoding="exact")


def shares(predictor, images, **options):
    return np.array([list(found.probabilities.values()) for found in predictor.predict(images, **options)])


@pytest.mark.parametrize("short", [8, 63, 64, 127, 128, 255, 256, 511, 512, 513, 1100])
@pytest.mark.parametrize("orientation", [1, 6])
def test_an_image_keeps_the_side_that_suffices_and_no_size_is_reduced_needlessly(short, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.new("RGB", (short * 3 // 2, short)), exif=exif)
    for enough in (1, 64, 128, 500):
        _, image = open_image(data, 0, shrink_to=enough)
        least = min(image.size)
        assert least >= min(short, enough)
        assert least == short or least >= enough
        assert least <= 2 * enough or least == -(-short // 8)
        assert (image.height > image.width) == (orientation == 6)


def test_what_is_no_large_jpeg_is_the_same_pixel_for_pixel(tmp_path):
    image = photograph("astronaut.png")
    (tmp_path / "a.jpg").write_bytes(encode(image))
    given = [image, np.asarray(image), encode(image, "PNG"), encode(image, "WebP"), tmp_path / "a.jpg"]
    for source in given:
        _, plain = open_image(source, 0)
        _, found = open_image(source, 0, shrink_to=257)  # of which half of 512 is less
        assert np.array_equal(np.asarray(plain), np.asarray(found))


def test_every_way_to_give_a_file_is_reduced_alike(tmp_path):
    data = encode(photograph("astronaut.png"))
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    given = [
        path,
        str(path),
        data,
        io.BytesIO(data),
        Named(Path("in.zip"), data),
        Named(path),
        Named(path, lambda: data),
    ]
    found = [open_image(source, 0, shrink_to=128)[1] for source in given]
    assert {image.size for image in found} == {(128, 128)}
    assert len({image.tobytes() for image in found}) == 1


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_file_that_is_cut_short_is_a_reason_at_any_size(share):
    data = encode(photograph("astronaut.png"))
    data = data[: int(share * len(data))]
    reasons = [open_image(data, 0, shrink_to=enough)[1] for enough in (None, 64)]
    assert all(isinstance(reason, Unreadable) for reason in reasons)
    assert reasons[0] == reasons[1]


def test_the_limit_of_pixels_is_that_of_the_whole_image():
    from uniemox.files.images import admitting

    data = encode(Image.new("RGB", (800, 800)))
    with admitting(800 * 800 - 1):
        _, found = open_image(data, 0, shrink_to=64)
    assert found == Unreadable(f"800 x 800 pixels, over the limit of {800 * 800 - 1} (max_pixels)")


def test_a_progressive_jpeg_takes_room_for_the_whole_image_and_a_plain_one_for_its_part(monkeypatch):
    held = []
    hold = type(ROOM).hold
    monkeypatch.setattr(type(ROOM), "hold", lambda room, size: (held.append(size), hold(room, size))[1])
    for progressive in (False, True):
        open_image(encode(Image.new("RGB", (1600, 1600)), progressive=progressive), 0, shrink_to=200)
    assert held == [200 * 200 * 8, 1600 * 1600 * 6 + 200 * 200 * 4]


def test_exact_decoding_gives_the_bits_of_all_pixels(exact, photographs):
    prepare = Preparation(64)
    for data in photographs[:8]:
        pixels = prepare(Image.open(io.BytesIO(data)).convert("RGB"))
        (expected,) = exact.target.answers(exact.backend.logits(pixels[None, None]))
        (found,) = exact.predict(data)
        assert found.answer["probabilities"] == expected["probabilities"]


def test_answers_agree_with_those_of_all_pixels_on_photographs(auto, exact, photographs):
    fast, whole = shares(auto, photographs), shares(exact, photographs)
    assert not np.array_equal(fast, whole)
    assert (fast.argmax(1) == whole.argmax(1)).mean() >= 0.99
    assert np.abs(fast - whole).max() < 0.05
    few = np.array([list(found.values()) for found in auto.predict_images(photographs[:4])])
    assert few == pytest.approx(fast[:4], abs=1e-6)


def test_people_are_cut_out_of_all_pixels(auto, exact, photographs):
    people, named = {}, []
    for number, data in enumerate(photographs[:6]):
        named.append(Named(Path(f"{number}.jpg"), data))
        people[Path(f"{number}.jpg")] = [Box(230, 60, 310, 300)] if number % 2 else []
    assert np.array_equal(shares(auto, named, people=people), shares(exact, named, people=people))
    boxes = [None, Box(230, 60, 310, 300)]
    assert auto.predict_images(photographs[:2], boxes=boxes) == exact.predict_images(photographs[:2], boxes=boxes)


def test_a_model_that_reads_small_images_needs_less_of_them_than_one_of_large(auto):
    sides = []
    for size in (64, 128):
        facts = replace(auto.facts, image_size=size)
        backend = type("Backend", (), {"facts": facts, "domain": None})()
        sides.append(Predictor(backend)._enough)
    assert sides == [2 * RESIZED, 2 * int(128 / (224 / 256))]
