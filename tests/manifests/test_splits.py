"""Split recipes."""

import hashlib
import itertools
import json
import math
import random
import unicodedata
from collections import Counter

import numpy as np
import pytest

from uniemox.errors import ConfigError, DataError
from uniemox.manifests.splits import (
    SPLITS,
    assign_splits,
    describe_split,
    paths_below,
    read_split_list,
    split_rows,
    take_fraction,
)

FI = (0.80, 0.05, 0.15)
EMOTION6 = (0.70, 0.10, 0.20)
CAER_S = (0.0, 0.34, 0.66)


def cut(counts, ratios=FI, seed=0):
    paths = [f"{label}/{i}.jpg" for label, n in enumerate(counts) for i in range(n)]
    labels = [label for label, n in enumerate(counts) for _ in range(n)]
    return paths, labels, split_rows(paths, labels, ratios=ratios, seed=seed)


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
        again = split_rows([paths[i] for i in order], [labels[i] for i in order], ratios=FI, seed=0)
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
    assert split_rows(paths, labels, ratios=FI, seed=0) == split_rows(decomposed, labels, ratios=FI, seed=0)


@pytest.mark.parametrize("count", [3, 4, 5, 7, 12])
def test_a_small_class_is_in_every_split_if_it_can_be(count):
    assert set(cut([count])[2]) == set(SPLITS)


def test_a_class_of_one_picture_is_for_training():
    assert cut([1])[2] == ["train"]


def test_a_share_of_zero_gets_nothing():
    assert "val" not in cut([3, 100], (0.9, 0, 0.1))[2]


def test_pictures_without_a_label_are_cut_like_a_class():
    splits = split_rows([f"{i}.jpg" for i in range(100)], [None] * 100, ratios=FI, seed=0)
    assert Counter(splits) == {"train": 80, "val": 5, "test": 15}


def test_no_picture_no_split():
    assert cut([])[2] == []


@pytest.mark.parametrize("ratios", [(-0.1, 0.5, 0.6), (0, 0, 0), (math.nan, 0.5, 0.5), (math.inf, 1, 1)])
def test_impossible_ratios_are_refused(ratios):
    with pytest.raises(ConfigError, match="ratios are"):
        cut([10], ratios)


# Truncated shares


def test_emotion6_is_cut_into_the_published_numbers():
    # int(330 * 0.7) is 230, since the product is 230.99999999999997.
    paths = [f"{label}/{i}.jpg" for label in range(6) for i in range(330)]
    labels = [label for label in range(6) for _ in range(330)]
    for ratios in (EMOTION6, (70, 10, 20), tuple(ratio / sum(EMOTION6) for ratio in EMOTION6)):
        splits = split_rows(paths, labels, ratios=ratios, seed=42, rounding="truncate")
        assert Counter(splits) == {"train": 1380, "val": 198, "test": 402}
        assert Counter(splits[:330]) == {"train": 230, "val": 33, "test": 67}


@pytest.mark.parametrize(
    ("count", "ratios", "expected"),
    [
        (50, CAER_S, (0, 17, 33)),
        (101, CAER_S, (0, 34, 67)),
        (10, (0.75, 0.25, 0), (7, 3, 0)),
        (3, (1, 0, 0), (3, 0, 0)),
        (1, EMOTION6, (0, 0, 1)),
    ],
)
def test_what_truncation_leaves_over_goes_to_the_last_split_that_has_a_share(count, ratios, expected):
    splits = split_rows([f"{i}.png" for i in range(count)], [0] * count, ratios=ratios, seed=0, rounding="truncate")
    assert tuple(splits.count(split) for split in SPLITS) == expected


def test_both_roundings_take_the_pictures_in_the_same_order():
    paths, labels, splits = cut([330], EMOTION6)
    truncated = split_rows(paths, labels, ratios=EMOTION6, seed=0, rounding="truncate")
    moved = [pair for pair in zip(splits, truncated, strict=True) if pair[0] != pair[1]]
    assert splits.count("train") == 231
    assert sorted(moved) == [("train", "val"), ("val", "test")]


def test_class_and_object_are_cut_together():
    paths = [f"{c}/{o}/{i}.jpg" for c in "ab" for o in "xyz" for i in range(10)]
    strata = [tuple(path.split("/")[:2]) for path in paths]
    splits = split_rows(paths, strata, ratios=EMOTION6, seed=0)
    assert set(Counter(zip(strata, splits, strict=True)).values()) == {7, 1, 2}


# Groups


def films(generator, *, count=150, classes=7, largest=40):
    """Frames of films of one class each, and some frames of no film."""
    paths, strata, groups = [], [], []
    for film in range(count):
        stratum = generator.randrange(classes)
        for frame in range(generator.randint(1, largest)):
            paths.append(f"{film}/{frame}.png")
            strata.append(stratum)
            groups.append(f"film {film}" if film % 10 else None)
    return paths, strata, groups


@pytest.mark.parametrize("ratios", [FI, EMOTION6, CAER_S, (1, 1, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_a_group_is_never_torn_apart(ratios, seed):
    paths, strata, groups = films(random.Random(seed))
    splits = split_rows(paths, strata, ratios=ratios, seed=seed, groups=groups)
    of_group = {pair for pair in zip(groups, splits, strict=True) if pair[0] is not None}
    assert len(of_group) == len(set(groups) - {None})
    assert {split for split, ratio in zip(SPLITS, ratios, strict=True) if ratio} == set(splits)


@pytest.mark.parametrize("ratios", [FI, EMOTION6, CAER_S, (1, 1, 1)])
@pytest.mark.parametrize("sizes", [(40, 3, 1), (7, 7, 7, 5), (100, 90, 1, 1, 1, 20), (64, 1)])
def test_in_one_stratum_no_split_exceeds_its_share_by_a_whole_group(ratios, sizes):
    groups = [f"{k}.{i}" for k in range(12) for i, size in enumerate(sizes) for _ in range(size)]
    paths = [f"{index}.png" for index in range(len(groups))]
    for seed in range(5):
        splits = split_rows(paths, [0] * len(paths), ratios=ratios, seed=seed, groups=groups)
        for split, ratio in zip(SPLITS, ratios, strict=True):
            assert splits.count(split) < len(paths) * ratio / sum(ratios) + max(sizes)


def test_groups_of_several_classes_are_near_the_shares_in_each():
    generator = random.Random(5)
    groups = [f"{i}" for i in range(2000) for _ in range(generator.choice([1, 1, 2, 3, 8]))]
    paths = [f"{i}.png" for i in range(len(groups))]
    labels = [generator.randrange(8) for _ in groups]
    splits = split_rows(paths, labels, ratios=EMOTION6, seed=0, groups=groups)
    found = Counter(zip(labels, splits, strict=True))
    for label, total in Counter(labels).items():
        for split, ratio in zip(SPLITS, EMOTION6, strict=True):
            assert abs(found[label, split] - total * ratio) < 2


def test_groups_of_one_picture_are_cut_like_pictures():
    paths = [f"{i}.png" for i in range(100)]
    splits = split_rows(paths, [0] * 100, ratios=FI, seed=0, groups=[f"g{i}" for i in range(100)])
    assert Counter(splits) == {"train": 80, "val": 5, "test": 15}
    assert split_rows(paths, [0] * 100, ratios=FI, seed=0, groups=[None] * 100) == split_rows(
        paths, [0] * 100, ratios=FI, seed=0
    )


def test_three_groups_are_three_splits():
    groups = ["a"] * 10 + ["b"] * 10 + ["c"] * 10
    paths = [f"{i}.png" for i in range(30)]
    splits = split_rows(paths, [0] * 30, ratios=FI, seed=0, groups=groups)
    assert Counter(splits) == {"train": 10, "val": 10, "test": 10}
    two = split_rows(paths[:20], [0] * 20, ratios=FI, seed=0, groups=groups[:20])
    assert set(two) == {"train"}


def test_the_people_of_one_picture_stay_together():
    paths = [f"{i // 3}.jpg" for i in range(300)]
    splits = split_rows(paths, [i % 5 for i in range(300)], ratios=EMOTION6, seed=0)
    assert len(set(zip(paths, splits, strict=True))) == 100
    assert Counter(splits) == {"train": 210, "val": 30, "test": 60}


def test_a_group_may_be_called_like_a_picture():
    paths, groups = ["a.png", "b.png", "c.png"], ["b.png", None, "b.png"]
    splits = split_rows(paths, [0, 0, 0], ratios=(1, 1, 0), seed=0, groups=groups)
    assert splits[0] == splits[2] != splits[1]


def test_another_seed_places_other_groups():
    paths, strata, groups = films(random.Random(0))
    first, second = (split_rows(paths, strata, ratios=FI, seed=seed, groups=groups) for seed in (0, 1))
    assert first != second


def test_truncation_of_groups_is_refused():
    with pytest.raises(ConfigError, match="use the largest remainder"):
        split_rows(["a", "a"], [0, 0], ratios=FI, seed=0, rounding="truncate")


# Fractions


def test_a_smaller_fraction_is_part_of_every_larger_one():
    paths, labels, _ = cut([100, 37, 3, 1])
    taken = [
        take_fraction(paths, labels, fraction=fraction, seed=4) for fraction in (0.01, 0.05, 0.1, 0.2, 0.5, 0.99, 1)
    ]
    for smaller, larger in itertools.pairwise(taken):
        assert not (smaller & ~larger).any()
    assert taken[-1].all()


@pytest.mark.parametrize(("fraction", "expected"), [(0.1, [10, 4, 1, 1]), (0.5, [50, 19, 2, 1]), (1e-9, [1, 1, 1, 1])])
def test_a_fraction_is_taken_of_each_class_and_empties_none(fraction, expected):
    paths, labels, _ = cut([100, 37, 3, 1])
    taken = take_fraction(paths, labels, fraction=fraction, seed=0)
    assert taken.dtype == bool
    assert np.bincount(np.array(labels)[taken]).tolist() == expected


def test_the_people_of_one_picture_are_taken_together_whatever_their_order():
    paths = [f"{i // 4}.jpg" for i in range(400)]
    taken = take_fraction(paths, [0] * 400, fraction=0.1, seed=0)
    found = {path for path, own in zip(paths, taken, strict=True) if own}
    assert taken.sum() == 4 * len(found) == 40
    again = take_fraction(paths[::-1], [0] * 400, fraction=0.1, seed=0)
    assert (again[::-1] == taken).all()
    assert take_fraction(["a"] * 5, [0] * 5, fraction=0.1, seed=0).all()


def test_a_fraction_of_a_train_split_is_not_what_a_smaller_train_split_had_been():
    paths, labels, splits = cut([1000], (0.1, 0, 0.9))
    taken = take_fraction(paths, labels, fraction=0.1, seed=0)
    both = sum(own and split == "train" for own, split in zip(taken, splits, strict=True))
    assert 1 <= both <= 25  # 10 are expected by chance


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, math.nan])
def test_an_impossible_fraction_is_refused(fraction):
    with pytest.raises(ConfigError, match="above 0 and at most 1"):
        take_fraction(["a"], [0], fraction=fraction, seed=0)


# What every recipe gives


def recipes():
    """Every recipe on generated paths: name to path to split."""
    plain = [f"{c}/é{i}.jpg" for c in range(6) for i in range(330)]
    classes = [path[0] for path in plain]
    objects = [f"{c}/{o}/{i}.jpg" for c in range(6) for o in range(4) for i in range(25)]
    frames = [f"{clip}/{i}.png" for clip in range(150) for i in range(clip * 37 % 41 + 1)]
    clips = [path.split("/")[0] for path in frames]
    clip_classes = [int(clip) % 7 for clip in clips]
    people = [f"{i // 2}.jpg" for i in range(900)]
    person_classes = [i * i % 8 for i in range(900)]
    yield "fi", plain, classes, {"ratios": FI, "seed": 0}
    yield "emotion6", plain, classes, {"ratios": EMOTION6, "seed": 42, "rounding": "truncate"}
    by_object = [path.rsplit("/", 1)[0] for path in objects]
    yield "ube", objects, by_object, {"ratios": EMOTION6, "seed": 0}
    yield "caer-s test", plain, classes, {"ratios": CAER_S, "seed": 0, "rounding": "truncate"}
    yield "caer-s by clip", frames, clip_classes, {"ratios": FI, "seed": 0, "groups": clips}
    yield "heco", people, person_classes, {"ratios": EMOTION6, "seed": 0}


@pytest.mark.parametrize(
    ("paths", "below"),
    [
        ([], []),
        (["a.jpg"], ["a.jpg"]),
        (["x/b.jpg", "x/a.jpg"], ["b.jpg", "a.jpg"]),
        (["x/y/a.jpg", "x/yz/a.jpg"], ["y/a.jpg", "yz/a.jpg"]),
        (["x/a.jpg", "x/b/c.jpg"], ["a.jpg", "b/c.jpg"]),
        (["x/a.jpg", "b.jpg"], ["x/a.jpg", "b.jpg"]),
    ],
)
def test_paths_are_taken_below_the_folder_that_holds_all(paths, below):
    assert paths_below(paths) == below


# A change of one of these changes data sets that people have trained and published on.
PINS = {
    "fi": "e4313dd3575b70128ecc4188e730386b53715b507634953841baca71ff44596b",
    "emotion6": "70fec9305b58de13b23cde305331cb937a78bea4d66c937d4c526fb96f9b267b",
    "ube": "7ab632f25f9432b8934ecefc513b580c72aa521f52ef8d5d8a728b8680fc9d85",
    "caer-s test": "86744864e3c82200a111e4b84026b036c1c2ba04f0ff92931cf4b18a3b86a626",
    "caer-s by clip": "73630565a8982ff9c39a85c8ab92c4cd9fa7738e87c1542c9ebc5f1f9e738697",
    "heco": "2224e57be00ceead3f3f106507f028279816bda93a12937506c597344067ff17",
    "fraction 0.1": "51887f5d688e3e044ec97f9ff5a603960f183ca89167eba41122314827c8b4eb",
    "fraction 0.2": "1c3df5c68e8db5befc51f0457dd4d44df031632c78dc282d82e355da558d523b",
}


def sha256(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@pytest.mark.parametrize(("name", "paths", "strata", "options"), [pytest.param(*r, id=r[0]) for r in recipes()])
def test_every_recipe_cuts_as_it_always_did_in_whatever_order(name, paths, strata, options):
    order = list(range(len(paths)))
    for _ in range(2):
        splits = split_rows(
            [paths[i] for i in order],
            [strata[i] for i in order],
            **options | ({"groups": [options["groups"][i] for i in order]} if "groups" in options else {}),
        )
        found = sorted({(paths[i], split) for i, split in zip(order, splits, strict=True)})
        assert sha256(found) == PINS[name]
        random.shuffle(order)


@pytest.mark.parametrize("fraction", [0.1, 0.2])
def test_every_fraction_takes_what_it_always_took(fraction):
    paths = [f"{c}/é{i}.jpg" for c in range(6) for i in range(330)]
    random.shuffle(paths)
    taken = take_fraction(paths, [path[0] for path in paths], fraction=fraction, seed=0)
    found = sorted(path for path, own in zip(paths, taken, strict=True) if own)
    assert sha256(found) == PINS[f"fraction {fraction}"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"ratios": (80, 5, 15), "by": "class", "seed": 0}, "80/5/15 per class, seed 0"),
        (
            {"ratios": EMOTION6, "by": "class", "seed": 42, "rounding": "truncate"},
            "70/10/20 per class, truncated, seed 42",
        ),
        (
            {"ratios": (2, 0, 1), "by": "class", "seed": 1, "grouped_by": "films"},
            "66.6667/0/33.3333 per class, films kept whole, seed 1",
        ),
        ({"ratios": (1, 1, 2), "by": "all", "seed": 0}, "25/25/50 of all rows, seed 0"),
    ],
)
def test_a_cut_is_told_in_one_line(options, text):
    assert describe_split(**options) == text


# Lists

LISTED = {"a/1.jpg": "train", "a/2.jpg": "val", "b/é, 3.jpg": "test"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.csv", 'path,split\na/1.jpg,train\na/2.jpg,val\n"b/é, 3.jpg",test\n'),
        ("s.csv", '\ufeffSet,label,Image\r\nTraining,0,./a/1.jpg\r\nvalid,1,a//2.jpg\r\n\r\nTEST,1,"b/é, 3.jpg"\r\n'),
        ("s.tsv", "file\tsubset\na/1.jpg\ttrain\na/2.jpg\tdev\nb/é, 3.jpg\ttesting\n"),
        ("s.json", json.dumps({"train": ["a/1.jpg"], "validation": ["a/2.jpg"], "test": ["b/é, 3.jpg"]})),
    ],
)
def test_a_list_is_read_in_each_of_its_forms(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert read_split_list(tmp_path / name) == LISTED


def test_a_folder_of_lists_is_read(tmp_path):
    (tmp_path / "train.txt").write_text("a/1.jpg\n\n", encoding="utf-8")
    (tmp_path / "val.txt").write_text("a/2.jpg\r\n", encoding="utf-8", newline="")
    (tmp_path / "test.txt").write_text("b/é, 3.jpg", encoding="utf-8")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    assert read_split_list(tmp_path) == LISTED


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("s.csv", b"", "has no headings: its first line must name the columns"),
        ("s.csv", b"a.jpg,train\n", "no column called path .* its first line is 'a.jpg,train'"),
        ("s.csv", b"path,image,split\n", "more than one column called path"),
        ("s.csv", b"path,split\n", "names no image"),
        ("s.csv", b"path,split\na.jpg\n", "line 2 of .* has 1 cells, but the header 2"),
        ("s.csv", b"path,split\na.jpg,7\n", "line 2 of .* has the split '7', not train"),
        ("s.csv", b"path,split\na,train\n./a,test\n", "line 3 of .* into a second split"),
        ("s.csv", b'path,split\n"a.jpg,train\n', "line 2 of .* has 1 cells, but the header 2"),
        ("s.csv", b'path,split\n"a.jpg\nb.jpg",train\n', "line 3 of .* ends a quote that began 1 lines before"),
        ("s.csv", b"path,split\n\xff.jpg,train\n", "is not UTF-8 at byte 11: save it as UTF-8"),
        ("s.csv", b"path,split\na.jpg,\x1b[31m\n", r"'\\x1b\[31m'"),
        ("s.json", b"[" * 100_000, "cannot read .*nested|cannot read .*recursion"),
        ("s.json", b"{", "cannot read .*Expecting property name"),
        ("s.json", b"[]", "one object, split to list of paths"),
        ("s.json", b'{"train": "a.jpg"}', "one object, split to list of paths"),
        ("s.json", b'{"train": [["a.jpg", 0]]}', "entry 0 of 'train' .* is no path"),
        ("s.json", b'{"fold 1": ["a.jpg"]}', "has the split 'fold 1'"),
        ("s.pickle", b"", "is no split list"),
        ("other", None, "no split list at"),
    ],
)
def test_a_list_that_is_none_is_told_in_one_line(tmp_path, name, content, complaint):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=complaint) as caught:
        read_split_list(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_folder_without_lists_or_pictures_in_them_is_told(tmp_path):
    with pytest.raises(DataError, match=r"holds no train\.txt, val\.txt or test\.txt"):
        read_split_list(tmp_path)
    (tmp_path / "val.txt").write_text("\n")
    with pytest.raises(DataError, match="names no image"):
        read_split_list(tmp_path)


def test_paths_get_the_splits_of_a_list_and_what_does_not_fit_is_told():
    decomposed = unicodedata.normalize("NFD", "b/é, 3.jpg")
    found = assign_splits(["a/1.jpg", decomposed, "c.jpg", "a/1.jpg"], LISTED)
    assert found.splits == ["train", "test", None, "train"]
    assert found.unlisted == ["c.jpg"]
    assert found.unknown == ["a/2.jpg"]


@pytest.mark.parametrize("names", [("A.jpg", "a.jpg"), ("a.jpg", "A.jpg")])
def test_two_listed_names_that_differ_in_case_are_two_images(names):
    listed = {name: "val" if name == "a.jpg" else "train" for name in names}
    assigned = assign_splits(["a.jpg"], listed)
    assert assigned.splits == ["val"]
    assert assigned.unknown == ["A.jpg"]


def test_a_folder_of_lists_may_use_any_usual_word(tmp_path):
    for name in ("training", "valid", "testing"):
        (tmp_path / f"{name}.txt").write_text(f"{name}.jpg\n")
    (tmp_path / "readme.txt").write_text("words\n")
    assert read_split_list(tmp_path) == {"training.jpg": "train", "valid.jpg": "val", "testing.jpg": "test"}
