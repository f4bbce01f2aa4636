import pytest

from uniemox.manifests.ratings import average_ratings, average_shares
from uniemox.manifests.table import Facts, manifest_from_columns


def manifest_of(tmp_path, **columns):
    facts = Facts(name="rated", title="Rated", classes=("awe", "joy"), emotion="evoked", root=tmp_path)
    return manifest_from_columns(facts, paths=["a.png", "b.png", "c.png"], splits=["train"] * 3, **columns)


def test_ratings_are_averaged_over_the_rows_that_have_them(tmp_path):
    found = average_ratings(manifest_of(tmp_path, vad=[(1, 4, None), (3, None, None), None]))
    assert found == {"valence": (2, 1, 2), "arousal": (4, 0, 1)}


def test_shares_are_averaged_over_the_rows_that_have_them(tmp_path):
    found = average_shares(manifest_of(tmp_path, distributions=[[1, 0], None, [0.5, 0.5]]))
    assert found == pytest.approx({"awe": 0.75, "joy": 0.25})


def test_without_raters_there_is_nothing_to_average(tmp_path):
    manifest = manifest_of(tmp_path)
    assert (average_ratings(manifest), average_shares(manifest)) == ({}, {})
