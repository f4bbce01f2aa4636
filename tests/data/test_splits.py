"""Split recipes."""

import math
import random
import unicodedata
from collections import Counter

import pytest

from uniemox.data.splits import SPLITS, split_by_class
from uniemox.errors import ConfigError

FI = (0.80, 0.05, 0.15)


def cut(counts, ratios=FI, seed=0):
    paths = [f"{label}/{i}.jpg" for label, n in enumerate(counts) for i in range(n)]
    labels = [label for label, n in enumerate(counts) for _ in range(n)]
    return paths, labels, split_by_class(paths, labels, ratios=ratios, seed=seed)


@pytest.mark.parametrize("ratios", [FI, (0.7, 0.1, 0.2), (1, 1, 1), (80, 5, 15), (0.5, 0, 0.5)])
@pytest.mark.parametrize("count", [40, 99, 100, 330, 1001])
def test_every_class_is_cut_in_proportion(ratios, count):
    _, labels, splits = cut([count, count + 7], ratios)
    for label, total in enumerate((count, count + 7)):
        found = Counter(s for s, own in zip(splits, labels, strict=True) if own == label)
        for split, ratio in zip(SPLITS, ratios, strict=True):
            assert abs(found[split] - total * ratio / sum(ratios)) < 1
        assert found.total() == total


def test_a_hundred_pictures_are_80_5_15():
    assert Counter(cut([100])[2]) == {"train": 80, "val": 5, "test": 15}


def test_the_order_of_the_listing_does_not_matter():
    paths, labels, splits = cut([30, 50, 20])
    expected = dict(zip(paths, splits, strict=True))
    order = list(range(len(paths)))
    for _ in range(3):
        random.shuffle(order)
        again = split_by_class(
            [paths[i] for i in order], [labels[i] for i in order], ratios=FI, seed=0
        )
        assert dict(zip((paths[i] for i in order), again, strict=True)) == expected


def test_the_cut_is_the_same_on_every_machine():
    # Written down once; a change of it would move every published split.
    splits = cut([20], (0.5, 0.25, 0.25), seed=3)[2]
    assert [i for i, split in enumerate(splits) if split == "val"] == [3, 10, 16, 17, 19]
    assert [i for i, split in enumerate(splits) if split == "test"] == [0, 2, 5, 6, 11]


def test_another_seed_is_another_cut():
    assert cut([200], seed=0)[2] != cut([200], seed=1)[2]


def test_how_an_accent_is_stored_does_not_matter():
    paths = [f"awe/é{i}.jpg" for i in range(50)]
    decomposed = [unicodedata.normalize("NFD", path) for path in paths]
    assert decomposed != paths
    labels = [0] * 50
    assert split_by_class(paths, labels, ratios=FI, seed=0) == split_by_class(
        decomposed, labels, ratios=FI, seed=0
    )


@pytest.mark.parametrize("count", [3, 4, 5, 7, 12])
def test_a_small_class_is_in_every_split_if_it_can_be(count):
    assert set(cut([count])[2]) == set(SPLITS)


def test_a_class_of_one_picture_is_for_training():
    assert cut([1])[2] == ["train"]


def test_a_share_of_zero_gets_nothing():
    assert "val" not in cut([3, 100], (0.9, 0, 0.1))[2]


def test_pictures_without_a_label_are_cut_like_a_class():
    splits = split_by_class([f"{i}.jpg" for i in range(100)], [None] * 100, ratios=FI, seed=0)
    assert Counter(splits) == {"train": 80, "val": 5, "test": 15}


def test_no_picture_no_split():
    assert cut([])[2] == []


@pytest.mark.parametrize(
    "ratios", [(-0.1, 0.5, 0.6), (0, 0, 0), (math.nan, 0.5, 0.5), (math.inf, 1, 1)]
)
def test_impossible_ratios_are_refused(ratios):
    with pytest.raises(ConfigError, match="ratios are"):
        cut([10], ratios)
