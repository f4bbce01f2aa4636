from dataclasses import replace

import numpy as np
from PIL import ImageOps

from uniemox.audit.leaks import Leak, find_leaks
from uniemox.config.audit import AuditRules


def test_planted_leaks_are_found_named_and_nothing_else(make, photos, tmp_path):
    first, second, third, fourth, fifth, sixth = photos
    train = make(
        "seen", [("a.png", (first, "train", 0)), ("b.png", (second, "val", 1)), ("c.png", (third, "train", 0))]
    )
    planted = [("same.png", (first, "test", 1)), ("new.png", (fourth, "test", 0))]
    planted += [("mirrored.jpg", (ImageOps.mirror(second), "test", 0)), ("other.png", (fifth, "test", 0))]
    tests = {"one": make("unseen", planted), "two": make("clean", [("new.png", (sixth, "test", 0))])}
    found = find_leaks(train, tests, folder=tmp_path / "prints", rules=AuditRules())
    leaks = {leak.path: (leak.trained, leak.text) for leak in found["one"].images}
    assert set(leaks) == {"same.png", "mirrored.jpg"}
    assert leaks["same.png"] == ("a.png", "the same bytes")
    assert leaks["mirrored.jpg"][0] == "b.png"
    assert "mirrored" in leaks["mirrored.jpg"][1]
    assert {leak.path: leak.is_copy for leak in found["one"].images} == {"same.png": True, "mirrored.jpg": False}
    assert all(AuditRules().like <= leak.likeness <= 1 for leak in found["one"].images)
    assert found["one"].rows.tolist() == [True, False, True, False]
    assert found["two"].images == ()
    assert not found["two"].rows.any()


def test_every_row_of_a_leaked_image_is_marked(make, photos, tmp_path):
    train = make("seen", [("a.png", (photos[0], "train", 0))])
    test = make("unseen", [("b.png", (photos[0], "test", 0)), ("c.png", (photos[1], "test", 0))])
    doubled = replace(test, table=test.table.take([0, 1, 0]))
    found = find_leaks(train, {"test": doubled}, folder=tmp_path / "prints", rules=AuditRules())
    np.testing.assert_array_equal(found["test"].rows, [True, False, True])
    assert len(found["test"].images) == 1


def test_one_file_in_both_splits_is_a_leak(make, photos, tmp_path):
    both = make("torn", [("a.png", (photos[0], "train", 0)), ("a.png", (photos[0], "test", 0))])
    found = find_leaks(
        both.select(["train"]), {"test": both.select(["test"])}, folder=tmp_path / "prints", rules=AuditRules()
    )
    assert [tuple(leak) for leak in found["test"].images] == [("a.png", "a.png", 1.0, "the same file")]


def test_files_are_read_once_for_all_models(make, photos, tmp_path):
    train = make("seen", [("a.png", (photos[0], "train", 0))])
    test = make("unseen", [("b.png", (photos[0], "test", 0)), ("c.png", (photos[1], "test", 0))])
    read = []

    def track(items, *, total, what):
        read.append((what, total))
        return items

    found = []
    for _ in range(2):
        found += [find_leaks(train, {"test": test}, folder=tmp_path / "prints", rules=AuditRules(), track=track)]
    assert [total for what, total in read if what == "images read"] == [3, 0]
    assert [what for what, _ in read].count("batches of pairs compared") == 1
    assert found[0]["test"].images == found[1]["test"].images == (Leak("b.png", "a.png", 1.0, "the same bytes"),)
