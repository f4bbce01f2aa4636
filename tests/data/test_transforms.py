import pickle
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from uniemox import settings
from uniemox.config.training import AugmentConfig, FinetuneConfig, ViewsConfig
from uniemox.data.pixels import MEAN, STD, Preparation, cut_region
from uniemox.data.transforms import (
    AugmentedViews,
    PretrainTransform,
    augmentation,
    cut_view,
    denormalize,
    evaluation,
    normalize,
    seed_of,
    seeded,
    torch_seeded,
)

RED, BLUE, GREEN, YELLOW = (200, 0, 0), (0, 0, 200), (0, 200, 0), (200, 200, 0)
PLAIN = AugmentConfig(scale=(1, 1), flip=0, rand_augment=None, erase=0, mixup=0, cutmix=0)


def noisy(width=60, height=40, seed=0):
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8))


def halves(side, left, right):
    image = Image.new("RGB", (side, side), left)
    image.paste(right, (side // 2, 0, side, side))
    return image


def global_state():
    numpy = np.random.get_state()[1]  # noqa: NPY002
    return random.getstate(), numpy.tolist(), torch.get_rng_state().tolist()


def draws():
    return random.random(), np.random.random(), torch.rand(()).item()  # noqa: NPY002


def test_a_seed_is_the_same_on_every_machine():
    assert seed_of(0, 1, 2) == 4727102316523150270


def test_seeds_differ_by_each_part_and_by_their_order():
    parts = [(0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1), (11,), (0, 0, 0), (0, 0, 1), (0, 1, 0)]
    seeds = {seed_of(*part) for part in parts}
    assert len(seeds) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_what_is_drawn_under_a_seed_depends_on_the_seed_alone():
    with seeded(7):
        first = draws()
    draws()
    with seeded(7):
        again = draws()
    with seeded(8):
        other = draws()
    assert first == again
    assert not set(first) & set(other)


def test_the_global_generators_are_restored_after_an_error_too():
    before = global_state()
    with seeded(7):
        draws()
    assert global_state() == before
    with pytest.raises(ZeroDivisionError), seeded(7):
        assert draws()[0] / 0
    assert global_state() == before


def test_generators_of_gpus_are_left_alone(monkeypatch):
    """What training draws on them is not a matter of the image that was read last."""
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _: pytest.fail("GPUs were seeded"))
    with seeded(7):
        draws()


def test_torchs_generator_draws_the_same_where_it_is_seeded_alone():
    with seeded(7):
        all_three = torch.rand(5)
    before = global_state()
    with torch_seeded(7):
        alone = torch.rand(5)
    assert torch.equal(alone, all_three)
    assert global_state() == before
    with pytest.raises(ZeroDivisionError), torch_seeded(7):
        assert torch.rand(()) / (1 // 0)
    assert global_state() == before


def soft(width, height):
    """An image with edges and gradients, as photographs have them."""
    return noisy(max(1, width // 8), max(1, height // 8)).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("shape", ["squeeze", "pad"])
@pytest.mark.parametrize(
    ("sides", "size"),
    [
        ((640, 480), 224),
        ((1500, 900), 64),
        ((100, 80), 224),
        ((9, 7), 32),
        ((64, 64), 64),
        ((3, 700), 48),
        ((1, 1), 16),
    ],
)
def test_a_view_is_the_region_as_pillow_cuts_it_but_for_roundings(sides, size, shape):
    image = soft(sides[0] + 11, sides[1] + 5)
    region = (3, 2, 3 + sides[0], 2 + sides[1])
    view = cut_view(np.asarray(image), region, size=size, shape=shape)
    expected = np.asarray(cut_region(image, region, size=size, shape=shape)).astype(int)
    differences = view.permute(1, 2, 0).numpy() - expected
    assert np.abs(differences).max() <= 3
    assert (np.abs(differences) > 1).mean() < 1e-3
    assert abs(differences.mean()) < 0.02  # neither is brighter


@pytest.mark.parametrize("shape", ["squeeze", "pad"])
def test_a_view_of_a_strip_of_a_million_pixels_needs_no_square(shape):
    strip = np.full((1, 2_000_000, 3), 200, np.uint8)
    assert cut_view(strip, (0, 0, 2_000_000, 1), size=16, shape=shape).shape == (3, 16, 16)


def test_both_views_are_bytes_of_the_size_asked_for():
    scene, person = PretrainTransform(ViewsConfig(), 24)(noisy(), (3, 4, 20, 30))
    assert scene.shape == person.shape == (3, 24, 24)
    assert scene.dtype == person.dtype == torch.uint8


def test_the_person_view_of_a_painted_rectangle_has_its_colour_and_nothing_else():
    image = Image.new("RGB", (128, 128), BLUE)
    image.paste(RED, (30, 40, 90, 110))
    person = PretrainTransform(ViewsConfig(), 16)(image, (30, 40, 90, 110))[1]
    assert (person.permute(1, 2, 0) == torch.tensor(RED)).all()


def test_without_a_region_the_scene_stands_in_for_the_person():
    scene, person = PretrainTransform(ViewsConfig(), 24)(noisy(), None)
    assert torch.equal(scene, person)


def test_scene_and_person_are_mirrored_together():
    image = halves(64, RED, BLUE)
    image.paste(halves(16, GREEN, YELLOW), (24, 24))
    transform = PretrainTransform(ViewsConfig(scene_scale=(1, 1)), 16)
    found = set()
    for seed in range(20):
        with seeded(seed):
            scene, person = transform(image, (24, 24, 40, 40))
        scene_mirrored = scene[0, 0, 0] < scene[2, 0, 0]  # blue at the left
        person_mirrored = person[0, 8, 0] > 100  # yellow at the left
        assert scene_mirrored == person_mirrored
        found.add(bool(scene_mirrored))
    assert found == {False, True}


@pytest.mark.parametrize(("flip", "mirrored"), [(0, False), (1, True)])
def test_mirroring_can_be_switched_off_and_always_on(flip, mirrored):
    transform = PretrainTransform(ViewsConfig(scene_scale=(1, 1), flip=flip), 16)
    image = halves(16, RED, BLUE)
    for seed in range(10):
        with seeded(seed):
            scene, _ = transform(image, None)
        assert (scene[2, 0, 0] > 100) == mirrored


def test_the_scenes_crop_covers_a_share_of_the_picture_within_the_limits():
    # Red is the column, green the row; so the range of colours tells the area of the crop.
    ramp = np.zeros((200, 200, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(200), np.arange(200)[:, None]
    transform = PretrainTransform(ViewsConfig(scene_scale=(0.2, 0.5), flip=0), 100)
    for seed in range(30):
        with seeded(seed):
            scene = transform(Image.fromarray(ramp), None)[0].float()
        sides = scene[:2].amax((1, 2)) - scene[:2].amin((1, 2))
        assert 0.16 < sides.prod().item() / 200**2 < 0.52


@pytest.mark.parametrize(("flip", "expected"), [(0, {False}), (1, {True}), (0.5, {False, True})])
def test_both_views_of_a_classifier_are_mirrored_together(flip, expected):
    image = halves(64, RED, BLUE)
    image.paste(YELLOW, (24, 24, 32, 40))
    image.paste(GREEN, (32, 24, 40, 40))
    transform = AugmentedViews(replace(PLAIN, flip=flip), 16, view="both", shape="squeeze")
    found = set()
    for seed in range(12):
        with seeded(seed):
            scene, person = (denormalize(view) for view in transform(image, (24, 24, 40, 40)))
        scene_mirrored = scene[0, 0, 0] < scene[2, 0, 0]  # blue at the left
        person_mirrored = person[0, 8, 0] < 100  # green at the left
        assert scene_mirrored == person_mirrored
        found.add(bool(scene_mirrored))
    assert found == expected


def test_views_of_a_classifier_are_cropped_independently():
    image = noisy(64, 64)
    config = replace(PLAIN, scale=(0.2, 0.9))
    transform = AugmentedViews(config, 16, view="both", shape="squeeze")
    with seeded(0):
        scene, person = transform(image, (0, 0, 64, 64))
    assert not torch.equal(scene, person)


@pytest.mark.parametrize("view", ["scene", "person"])
def test_one_view_is_augmented_as_timm_does(view):
    config = AugmentConfig()
    image = noisy(90, 70)
    region = (10, 5, 50, 65)
    picture = image if view == "scene" else cut_region(image, region, size=36, shape="squeeze")
    with seeded(5):
        expected = augmentation(config, 32)(picture)
    with seeded(5):
        (pixels,) = AugmentedViews(config, 32, view=view, shape="squeeze")(image, region)
    assert torch.equal(pixels, expected)


def test_normalising_is_what_torchvision_does_and_can_be_undone():
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3, 1).view(3, 16, 16)
    expected = v2.functional.normalize(pixels / 255, list(MEAN), list(STD))
    torch.testing.assert_close(normalize(pixels), expected)
    assert torch.equal(denormalize(normalize(pixels)), pixels)
    assert torch.equal(denormalize(normalize(pixels[None])), pixels[None])


def test_values_beyond_the_range_of_colours_are_clipped():
    assert denormalize(torch.full((3, 1, 1), 100.0)).flatten().tolist() == [255] * 3
    assert denormalize(torch.full((3, 1, 1), -100.0)).flatten().tolist() == [0] * 3


def test_the_whole_picture_is_left_where_every_augmentation_is_off():
    image = noisy(32, 32)
    expected = normalize(torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1))
    torch.testing.assert_close(augmentation(PLAIN, 32)(image), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("change", [{"scale": (0.1, 0.9)}, {"flip": 0.5}, {"rand_augment": "rand-m9"}, {"erase": 1.0}])
def test_each_augmentation_changes_the_picture_and_only_by_the_seed(change):
    settings = {"scale": (1, 1), "flip": 0, "rand_augment": None, "erase": 0} | change
    transform = augmentation(AugmentConfig(**settings), 32)

    def augment(seed):
        with seeded(seed):
            return transform(noisy(32, 32))

    seen = [augment(seed) for seed in range(8)]
    assert all(torch.equal(augment(seed), seen[seed]) for seed in range(8))
    assert len({tuple(pixels.flatten().tolist()) for pixels in seen}) > 1


def test_evaluation_gives_the_pixels_of_prediction_as_tensors():
    image = noisy(300, 400)
    pixels = evaluation(224)(image)
    assert pixels.dtype == torch.float32
    assert torch.equal(pixels, torch.from_numpy(Preparation(224)(image)))


def test_evaluation_can_be_sent_to_workers():
    transform = pickle.loads(pickle.dumps(evaluation(32)))
    assert torch.equal(transform(noisy()), evaluation(32)(noisy()))


# What a user gets


def recipes():
    """What a preset, or none, draws from an image; equal ones once, with the names of all."""
    given = {"data": Path("data"), "out": Path("out")}
    found = {}
    for name in (None, *settings.preset_names(FinetuneConfig)):
        preset = {} if name is None else settings.load_preset(FinetuneConfig, name)
        config = settings.build(FinetuneConfig, {**preset, **given})
        # These come later, on the batch.
        augment = replace(config.augment, mixup=0, cutmix=0, switch=0, smoothing=0)
        found.setdefault((augment, config.view, config.person.shape), []).append(name or "none")
    return [pytest.param(*recipe, id="-".join(names)) for recipe, names in found.items()]


@pytest.mark.soak  # its fast relative is the test after it
@pytest.mark.parametrize(("augment", "view", "shape"), recipes())
def test_five_thousand_samples_of_every_preset_can_be_drawn(augment, view, shape):
    transform = AugmentedViews(augment, 24, view=view, shape=shape)
    images = [noisy(width, height, seed=width) for width in (1, 30, 47) for height in (1, 33, 40)]
    images += [image.convert("L").convert("RGB") for image in images]
    for seed in range(5000):
        image = images[seed % len(images)]
        person = (0, 0, (image.width + 1) // 2, (image.height + 1) // 2) if seed % 3 else None
        with seeded(seed):
            views = transform(image, person)
        assert all(pixels.shape == (3, 24, 24) and pixels.isfinite().all() for pixels in views)


@pytest.mark.parametrize(("augment", "view", "shape"), recipes())
def test_a_hundred_samples_of_every_preset_can_be_drawn_where_it_is_likeliest_to_fail(augment, view, shape):
    words = augment.rand_augment and augment.rand_augment.replace("-m9", "-m10-p1-n4")
    transform = AugmentedViews(replace(augment, rand_augment=words), 24, view=view, shape=shape)
    for seed in range(100):
        with seeded(seed):
            assert all(pixels.isfinite().all() for pixels in transform(noisy(), (5, 5, 30, 30)))
