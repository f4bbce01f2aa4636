"""New splits for a manifest."""

import posixpath
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from uniemox.errors import ConfigError, DataError
from uniemox.manifests.recut import cut_again, follow_list, keep_fraction
from uniemox.manifests.splits import SPLITS, split_rows
from uniemox.manifests.table import Facts, manifest_from_columns

FI = (80, 5, 15)


def make(root, *, count=200, **columns):
    """Images of two classes in four folders, all of them in train."""
    facts = Facts(name="x", title="X", classes=("awe", "fear"), emotion="evoked", root=root)
    paths = columns.pop("paths", [f"{'ab'[i % 2]}/{'xy'[i // 2 % 2]}/{i}.jpg" for i in range(count)])
    labels = columns.pop("labels", [i % 2 for i in range(count)])
    splits = columns.pop("splits", ["train"] * count)
    return manifest_from_columns(facts, paths=paths, labels=labels, splits=splits, **columns)


def split_of(manifest):
    paths = manifest.table["path"].to_pylist()
    return dict(zip(paths, manifest.table["split"].to_pylist(), strict=True))


def test_a_manifest_is_cut_as_its_importer_would_have_cut_it(tmp_path):
    manifest = make(tmp_path)
    cut = cut_again(manifest, ratios=FI, seed=3)
    paths = manifest.table["path"].to_pylist()
    expected = split_rows(paths, manifest.labels.tolist(), ratios=FI, seed=3)
    assert split_of(cut) == dict(zip(paths, expected, strict=True))
    assert cut.facts.split_recipe == "80/5/15 per class, seed 3"
    assert cut_again(cut, ratios=FI, seed=3).table.equals(cut.table)


@pytest.mark.parametrize("depth", ["", "set", "set/images"])
def test_cuts_and_fractions_do_not_change_with_the_level_given_as_root(tmp_path, depth):
    paths = [f"{name}/{i}.jpg" for name in ("awe", "fear") for i in range(40)]
    labels = [0] * 40 + [1] * 40

    def drawn(folder):
        rows = make(
            tmp_path, paths=[posixpath.join(folder, path) for path in paths], labels=labels, splits=["train"] * 80
        )
        cut = cut_again(rows, ratios=FI, seed=3)
        kept = keep_fraction(rows, fraction=0.2, seed=3)
        return [
            {posixpath.relpath(path, folder or "."): split for path, split in split_of(own).items()}
            for own in (cut, kept)
        ]

    assert drawn(depth) == drawn("")


def test_rows_stand_in_the_order_of_splits_and_keep_what_is_known_about_them(tmp_path):
    manifest = make(tmp_path, groups=None, widths=range(200))
    cut = cut_again(manifest, ratios=(1, 1, 1), seed=0)
    splits = cut.table["split"].to_pylist()
    assert splits == sorted(splits, key=SPLITS.index)
    for i in range(len(cut)):
        row = cut.row(i)
        assert row.path.name == f"{cut.table['width'][i]}.jpg"
        assert row.label == int(row.path.stem) % 2


@pytest.mark.parametrize(("by", "expected"), [("class", 2), ("folder", 4), ("all", 1)])
def test_what_is_cut_by_itself_has_its_exact_share(tmp_path, by, expected):
    cut = cut_again(make(tmp_path, count=400), ratios=(1, 1, 2), seed=0, by=by)
    keys = {
        "class": cut.labels.tolist(),
        "folder": [path.rsplit("/", 1)[0] for path in cut.table["path"].to_pylist()],
        "all": [0] * 400,
    }[by]
    counts = Counter(zip(keys, cut.table["split"].to_pylist(), strict=True))
    assert len(counts) == 3 * expected
    assert {split: counts[keys[0], split] * expected for split in SPLITS} == {"train": 100, "val": 100, "test": 200}


def test_groups_that_the_manifest_names_are_kept_whole_unless_said(tmp_path):
    groups = [f"film {i // 10}" for i in range(200)]
    manifest = make(tmp_path, groups=groups)
    cut = cut_again(manifest, ratios=FI, seed=0)
    pairs = set(zip(cut.table["group"].to_pylist(), cut.table["split"].to_pylist(), strict=True))
    assert len(pairs) == 20
    assert cut.facts.split_recipe == "80/5/15 per class, groups kept whole, seed 0"
    torn = cut_again(manifest, ratios=FI, seed=0, group_by="image")
    assert torn.facts.split_recipe == "80/5/15 per class, seed 0"
    assert len(set(zip(torn.table["group"].to_pylist(), torn.labels.tolist(), strict=True))) == 40


def test_folders_can_be_kept_whole(tmp_path):
    paths = [f"{i // 10}/{i}.jpg" for i in range(200)]
    cut = cut_again(make(tmp_path, paths=paths), ratios=FI, seed=0, group_by="folder")
    assert len({(path.split("/")[0], split) for path, split in split_of(cut).items()}) == 20


def test_groups_that_are_not_there_cannot_be_kept_whole(tmp_path):
    with pytest.raises(DataError, match="names no groups"):
        cut_again(make(tmp_path), ratios=FI, seed=0, group_by="group")


def test_sets_of_labels_are_cut_like_classes(tmp_path):
    sets = [[[0], [1, 0], [0, 1], []][i % 4] for i in range(400)]
    manifest = make(tmp_path, count=400, labels=[None] * 400, label_sets=sets)
    cut = cut_again(manifest, ratios=(1, 0, 1), seed=0)
    found = Counter(
        (frozenset(own), split)
        for own, split in zip(cut.table["label_set"].to_pylist(), cut.table["split"].to_pylist(), strict=True)
    )
    assert set(found.values()) == {50, 100}


def test_a_list_gives_splits_and_what_does_not_fit_is_told(tmp_path):
    manifest = make(tmp_path, count=4)
    paths = manifest.table["path"].to_pylist()
    listed = {paths[0]: "test", paths[1]: "train", paths[3]: "val", "zzz.jpg": "val"}
    cut, problems = follow_list(manifest, listed, source=tmp_path / "official.csv")
    assert split_of(cut) == {path: listed[path] for path in paths if path in listed}
    assert [(problem.count, problem.example) for problem in problems] == [(1, paths[2]), (1, "zzz.jpg")]
    assert cut.facts.split_recipe.startswith("the list official.csv (sha256 of its")
    _, problems = follow_list(manifest, dict.fromkeys(paths, "test"), source=tmp_path / "o")
    assert problems == ()


def test_the_recipe_of_a_list_depends_on_its_entries_alone(tmp_path):
    manifest = make(tmp_path, count=2)
    first, second = manifest.table["path"].to_pylist()
    recipes = {
        follow_list(manifest, listed, source=tmp_path / "l.csv")[0].facts.split_recipe
        for listed in ({first: "val", second: "test"}, {second: "test", first: "val"})
    }
    assert len(recipes) == 1
    other = follow_list(manifest, {first: "val"}, source=tmp_path / "l.csv")[0].facts
    assert other.split_recipe not in recipes


def test_a_list_of_other_pictures_is_refused_with_an_example_of_both(tmp_path):
    with pytest.raises(DataError, match=r"it has images/0\.jpg, the manifest a/x/0\.jpg"):
        follow_list(make(tmp_path), {"images/0.jpg": "val"}, source=tmp_path / "l.csv")


def test_a_fraction_of_train_is_kept_and_other_splits_stay_whole(tmp_path):
    manifest = cut_again(make(tmp_path, count=1000), ratios=FI, seed=0)
    small, large = (keep_fraction(manifest, fraction=fraction, seed=5) for fraction in (0.1, 0.2))
    assert small.counts() == {
        "train": {"awe": 40, "fear": 40},
        "val": {"awe": 25, "fear": 25},
        "test": {"awe": 75, "fear": 75},
    }
    assert set(split_of(small).items()) < set(split_of(large).items()) < set(split_of(manifest).items())
    assert small.facts.split_recipe == ("80/5/15 per class, seed 0; 10 % of train per class, seed 5")


def test_a_fraction_finds_train_rows_wherever_they_stand(tmp_path):
    manifest = make(tmp_path, splits=["val", "train"] * 100)
    kept = keep_fraction(manifest, fraction=0.5, seed=0)
    assert kept.split_counts() == {"train": 50, "val": 100}
    assert np.unique(kept.select(["train"]).labels).tolist() == [1]
    assert kept.facts.split_recipe == "50 % of train per class, seed 0"


def test_a_fraction_of_no_train_split_is_refused(tmp_path):
    with pytest.raises(DataError, match="no row in split train"):
        keep_fraction(make(tmp_path, splits=["val"] * 200), fraction=0.5, seed=0)


def test_truncation_is_for_single_rows(tmp_path):
    manifest = make(tmp_path, count=330, labels=[0] * 330)
    cut = cut_again(manifest, ratios=(70, 10, 20), seed=42, rounding="truncate")
    assert cut.split_counts() == {"train": 230, "val": 33, "test": 67}
    with pytest.raises(ConfigError, match="largest remainder"):
        cut_again(manifest, ratios=(70, 10, 20), seed=42, rounding="truncate", group_by="folder")


def test_an_empty_manifest_stays_empty(tmp_path):
    manifest = make(tmp_path, count=0)
    assert len(cut_again(manifest, ratios=FI, seed=0)) == 0
    with pytest.raises(DataError, match="the manifest nothing"):
        follow_list(manifest, {"a.jpg": "val"}, source=tmp_path / "l.csv")


def test_other_facts_stay(tmp_path):
    manifest = make(tmp_path)
    cut = cut_again(manifest, ratios=FI, seed=0)
    assert replace(cut.facts, split_recipe="") == manifest.facts
