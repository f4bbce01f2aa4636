import pickle
import random
import re

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from timm.data import create_transform
from timm.data.auto_augment import RandAugment, rand_augment_transform

from uniemox.config.training import AugmentConfig
from uniemox.data.pixels import MEAN, STD
from uniemox.data.rand_augment import guard
from uniemox.data.transforms import augmentation, seeded
from uniemox.errors import ConfigError, DataError

SIZE = 24


def picture(kind="noise", width=SIZE, height=SIZE):
    generator = np.random.default_rng(len(kind))
    match kind:
        case "noise":
            pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
        case "grey":
            pixels = generator.integers(0, 256, (height, width), np.uint8)
        case "ramp":
            row = np.linspace(0, 255, width).astype(np.uint8)
            pixels = np.stack([row, row[::-1], row // 2], axis=-1)[None].repeat(height, 0)
        case "black" | "white":
            pixels = np.full((height, width, 3), 255 * (kind == "white"), np.uint8)
    return Image.fromarray(pixels).convert("RGB")


KINDS = {
    "noise": picture("noise"),
    "ramp": picture("ramp"),
    "grey": picture("grey"),
    "black": picture("black"),
    "white": picture("white"),
    "column": picture("noise", width=1, height=200),
    "row": picture("noise", width=200, height=1),
    "grey column": picture("grey", width=1, height=3),
    "one pixel": picture("noise", width=1, height=1),
}


def guarded(words, hparams=None):
    """RandAugment alone, as timm makes it, and guarded."""
    made = rand_augment_transform(words, hparams or {})
    guard(made, words)
    return made


def timms_own(words, config):
    """What `augmentation` made before there was a guard."""
    return create_transform(
        SIZE,
        is_training=True,
        scale=config.scale,
        hflip=config.flip,
        color_jitter=0.0,
        auto_augment=words,
        interpolation="bicubic",
        mean=MEAN,
        std=STD,
        re_prob=config.erase,
        re_mode="pixel",
    )


FIXED = (
    "rand",
    "rand-m0",
    "rand-m0-inc1",
    "rand-m0-p1-n5",
    "rand-m2-p1",
    "rand-m9-mstd0.5-inc1",
    "rand-m10-inc1-p1",
    "rand-m10-mstd100-inc1",
    "rand-m9-mstd101-inc1",
    "rand-m100-inc1-p1",
    "rand-m100-mmax100-inc1-p1",
    "rand-m100-mmax100-p1",
    "rand-m999-mmax999-inc1-p1-n9",
    "rand-m999-mmax999-p999-n9",
    "rand-m5-mstd999.999-mmax999-inc1",
    "rand-m5-mstd100-mmax999-p1",
    "rand-p0",
    "rand-n0",
    "rand-n40-p1-m3-mstd4",
)


def drawn_words(count, seed=0):
    """Random settings of our grammar, with numbers at and between their bounds."""
    generator = random.Random(seed)
    whole = ("0", "1", "2", "3", "9", "10", "11", "20", "100", "999", "007")
    share = (*whole, "0.5", "2.5", "0.001", "100.0", "999.999")
    choices = {"m": whole, "mmax": whole, "inc": ("0", "1", "2"), "p": share, "mstd": share}
    choices["n"] = ("0", "1", "2", "3", "7", "12")
    for _ in range(count):
        sections = generator.choices(sorted(choices), k=generator.randrange(1, 7))
        yield "-".join(["rand", *(name + generator.choice(choices[name]) for name in sections)])


def assert_drawn_as_by_timm(words, *, draws):
    """Compare with timm's own transform, but where that fails since its library takes no 0 bits."""
    config = AugmentConfig(rand_augment=words, erase=0.1)
    ours, theirs = augmentation(config, SIZE), timms_own(words, config)
    compared = 0
    for seed in range(draws):
        image = list(KINDS.values())[seed % len(KINDS)]
        with seeded(seed):
            pixels = ours(image)
            after = random.random(), torch.rand(())
        assert pixels.shape == (3, SIZE, SIZE)
        assert pixels.isfinite().all()
        with seeded(seed):
            try:
                expected = theirs(image)
            except ValueError as error:  # Pillow 13
                assert "bits must be" in str(error)  # noqa: PT017
                continue
            assert (random.random(), torch.rand(())) == after
        assert torch.equal(pixels, expected)
        compared += 1
    assert compared > 0 or "m0" in words


@pytest.mark.parametrize("words", FIXED)
def test_a_setting_draws_for_any_image_what_timm_draws_where_timm_can(words):
    assert_drawn_as_by_timm(words, draws=36)


@pytest.mark.soak  # its fast relative is the test before it
@pytest.mark.parametrize("words", [*FIXED, *drawn_words(30)])
def test_any_setting_of_our_grammar_draws_what_timm_draws(words):
    assert_drawn_as_by_timm(words, draws=300)


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        *(("Posterize", bits) for bits in (*range(10), 399)),
        *(("PosterizeIncreasing", bits) for bits in (4, 3, 2, 1, 0, -1, -2, -100, -395)),
    ],
)
def test_posterize_keeps_the_highest_bits_and_black_where_it_keeps_none(name, bits):
    increasing = name == "PosterizeIncreasing"
    made = guarded("rand-p1-mmax999" + "-inc1" * increasing)
    (operation,) = (one for one in made.ops if one.op.name == name)
    operation.op.magnitude = 2.5 * (4 - bits if increasing else bits)
    kept = sum(1 << (7 - place) for place in range(min(bits, 8)))
    image = picture("noise")
    assert np.array_equal(np.asarray(operation(image)), np.asarray(image) & kept)


@pytest.mark.parametrize("increasing", ["", "-inc1"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_operation_takes_every_magnitude(kind, increasing):
    image = KINDS[kind]
    for operation in guarded(f"rand-p1-mmax999{increasing}").ops:
        for magnitude in (0, 1e-9, 2.4, 2.5, 5, 9.99, 10, 10.01, 100, 512.3, 999):
            operation.op.magnitude = magnitude
            for seed in (0, 1):  # some draw a sign
                with seeded(seed):
                    made = operation(image)
                assert (made.mode, made.size) == ("RGB", image.size)


def test_timm_itself_stays_as_it_was():
    before = {name: vars(ImageOps)[name] for name in ("posterize", "solarize")}
    own = [(op.name, op.aug_fn, op.level_fn) for op in rand_augment_transform("rand", {}).ops]
    guarded("rand-inc1")
    guarded("rand")
    after = [(op.name, op.aug_fn, op.level_fn) for op in rand_augment_transform("rand", {}).ops]
    assert after == own
    assert {name: vars(ImageOps)[name] for name in before} == before


@pytest.mark.parametrize("words", ["rand-w0", "rand-m9.5", "rand-n0.5", "rand-inc0.5", "foo"])
def test_words_that_timm_refuses_are_a_wrong_setting_when_the_transform_is_built(words):
    config = AugmentConfig()
    object.__setattr__(config, "rand_augment", words)  # ours refuses them too, and earlier
    with pytest.raises(ConfigError, match=re.escape(f"rand_augment is {words}, which timm ")):
        augmentation(config, SIZE)


@pytest.mark.parametrize(
    ("words", "increasing"),
    [
        ("rand", False),
        ("rand-m9-mstd0.5-inc1", True),
        ("rand-inc0-m9", False),
        ("rand-inc000", False),
        ("rand-inc7-m9", True),
        ("rand-inc1-m9-inc0", False),
        ("rand-inc0-m9-inc1", True),
    ],
)
def test_increasing_severity_is_read_as_a_number_and_the_last_counts(words, increasing):
    transform = augmentation(AugmentConfig(rand_augment=words), SIZE)
    (made,) = (step for step in transform.transforms if isinstance(step, RandAugment))
    names = {operation.op.name for operation in made.ops}
    assert ("SolarizeIncreasing" in names) == increasing
    assert ("Solarize" in names) != increasing


def test_an_operation_that_fails_says_its_name_and_the_setting_and_what_to_do():
    words = "rand-m9-mstd0.5-inc1"
    made = guarded(words)
    for operation in made.ops:
        operation.op.prob = 1.0

        def fail(image, *arguments, **others):
            raise ValueError("bits must be 1 to 8")

        operation.op.aug_fn = fail
        with pytest.raises(DataError) as caught:
            operation(picture())
        assert str(caught.value) == (
            f"the augmentation ({words}, {operation.op.name}) failed: bits must be 1 to 8 (ValueError); "
            "`augment.rand_augment` null trains without RandAugment"
        )
        assert isinstance(caught.value.__cause__, ValueError)


def test_a_guarded_transform_can_be_sent_to_workers_that_are_not_forked():
    transform = augmentation(AugmentConfig(rand_augment="rand-m0-p1"), SIZE)
    again = pickle.loads(pickle.dumps(transform))
    for seed in range(20):
        with seeded(seed):
            expected = transform(picture())
        with seeded(seed):
            assert torch.equal(again(picture()), expected)
