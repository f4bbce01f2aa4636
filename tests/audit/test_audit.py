import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from uniemox.audit.audit import check_folder, count_classes, write_audit
from uniemox.errors import ConfigError, DataError
from uniemox.manifests.merge import merge_manifests
from uniemox.manifests.table import Facts, manifest_from_columns, read_manifest

CLASSES = ("awe", "fear")


def test_clean_data_has_no_findings_and_stays_as_it_is(make, judge, photos, kept):
    entries = [(f"{n}.png", (photo, "train", n % 2)) for n, photo in enumerate(photos)]
    result = judge(make("a", entries))
    assert result.findings == ()
    assert result.groups == ()
    assert kept(result) == [path for path, _ in entries]


def test_what_is_no_picture_or_shows_nothing_is_removed_from_every_split(make, judge, photos, found, kept):
    grey = Image.new("RGB", (60, 60), (90, 90, 90))
    manifest = make(
        "a",
        [
            ("good.png", (photos[0], "train", 0)),
            ("broken.png", (b"\x89PNG\r\n\x1a\n broken", "test", 0)),
            ("absent.png", (None, "train", 0)),
            ("tiny.png", (photos[1].resize((20, 90)), "val", 1)),
            ("grey.jpg", (grey, "test", 1)),
        ],
    )
    result = judge(manifest)
    assert found(result) == {
        ("unreadable", "a", "broken.png", "test", None, True),
        ("unreadable", "a", "absent.png", "train", None, True),
        ("tiny", "a", "tiny.png", "val", None, True),
        ("blank", "a", "grey.jpg", "test", None, True),
    }
    texts = {finding.text for finding in result.findings}
    assert {"no such file or directory", "20 x 90 pixels", "one colour"} <= texts
    assert kept(result) == ["good.png"]


def test_pictures_of_one_data_set_are_found_in_the_test_of_another(make, judge, photos, found, kept):
    emoset = make("emoset", [(f"{n}.png", (p, "train", 0)) for n, p in enumerate(photos)])
    width, height = photos[2].size
    part = photos[2].crop((10, 8, width - 12, height - 9)).resize((120, 90))
    fi = make("fi", [("x.jpg", (part, "test", 1)), ("y.png", (photos[4], "test", 0))])
    result = judge(emoset, fi)
    assert found(result, "leak") == {
        ("leak", "emoset", "2.png", "train", "x.jpg", True),
        ("leak", "emoset", "4.png", "train", "y.png", True),
    }
    assert kept(result, 1) == ["x.jpg", "y.png"]
    assert len(kept(result)) == 4


def test_repetition_in_one_split_is_told_and_stays_unless_it_is_to_go(make, judge, photos, found, kept):
    entries = [(f"{n}.png", (photos[0], "train", 0)) for n in range(3)]
    manifest = make("a", entries)
    result = judge(manifest)
    assert found(result) == {
        ("repeat", "a", "1.png", "train", "0.png", False),
        ("repeat", "a", "2.png", "train", "0.png", False),
    }
    assert len(kept(result)) == 3
    assert kept(judge(manifest, remove=("repeat",))) == ["0.png"]


def test_what_equally_held_out_splits_share_is_told_and_stays_unless_it_is_to_go(make, judge, photos, found, kept):
    one = make("one", [("a.png", (photos[0], "train", 0)), ("b.png", (photos[1], "test", 0))])
    smaller = photos[0].resize((100, 75))
    entries = [("c.png", (smaller, "train", 0)), ("d.png", (photos[2], "test", 0)), ("e.png", (photos[2], "unseen", 0))]
    two = make("two", entries)
    result = judge(one, two)
    assert found(result) == {
        ("overlap", "two", "c.png", "train", "a.png", False),
        ("overlap", "two", "e.png", "unseen", "d.png", False),
    }
    assert len(kept(result, 1)) == 3
    assert kept(judge(one, two, remove=("overlap",)), 1) == ["d.png"]


def test_a_picture_under_many_names_is_a_placeholder(make, judge, photos, found, kept):
    entries = [(f"{n}.png", (photos[0], "test", n % 2)) for n in range(5)]
    manifest = make("a", [*entries, ("good.png", (photos[1], "test", 0))])
    result = judge(manifest)
    assert {row[0] for row in found(result)} == {"placeholder"}
    assert result.findings[0].text == "the same pixels in 5 files"
    assert kept(result) == ["good.png"]
    assert found(judge(manifest, placeholder_copies=6), "placeholder") == set()


def test_sizes_and_hashes_are_filled_in(make, judge, photos):
    (row,) = judge(make("a", [("1.png", (photos[0], "train", 0))])).cleaned[0].table.to_pylist()
    assert (row["width"], row["height"]) == photos[0].size
    assert len(row["hash"]) == 64


def test_nothing_is_removed_where_nothing_is_to_be(make, judge, photos, kept):
    result = judge(make("a", [("1.png", (b"", "train", 0)), ("2.png", (photos[0], "train", 0))]), remove=())
    assert len(result.findings) == 1
    assert kept(result) == ["1.png", "2.png"]


def test_a_label_set_is_a_label(tmp_path, judge, photos, found):
    root = tmp_path / "sets"
    root.mkdir()
    for name in ("1.png", "2.png"):
        photos[0].save(root / name)
    facts = Facts(name="sets", title="", classes=CLASSES, emotion="felt", root=root)
    manifest = manifest_from_columns(
        facts, paths=["1.png", "2.png"], splits=["train", "train"], label_sets=[[0, 1], [1]]
    )
    assert len(found(judge(manifest), "conflict")) == 2


def test_an_audit_is_written_and_cleaned_manifests_can_be_read(make, judge, photos, tmp_path):
    manifest = make(
        "a", [("1.png", (photos[0], "train", 0)), ("2.jpg", (photos[0], "test", 0)), ("bad.png", (b"", "val", 1))]
    )
    manifest = replace(manifest, facts=replace(manifest.facts, split_recipe="given"))
    result = judge(manifest)
    (path,) = write_audit(result, tmp_path / "out")
    cleaned = read_manifest(path)
    assert cleaned.table["path"].to_pylist() == ["2.jpg"]
    assert cleaned.facts.split_recipe == "given; audited: 2 rows removed"
    assert cleaned.facts.root == manifest.facts.root
    saved = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert saved["counts"]["leak"] == {"found": 1, "removed": 1}
    (leak,) = [finding for finding in saved["findings"] if finding["kind"] == "leak"]
    assert (leak["path"], leak["rows"], leak["label"]) == ("1.png", [0], "awe")
    assert leak["beside"]["path"] == "2.jpg"
    assert leak["text"].startswith("likeness")
    (same,) = saved["groups"]
    assert same["same"] == "look"
    assert saved["manifests"][0]["classes_kept"] == {"test": {"awe": 1, "fear": 0}}
    assert not list((tmp_path / "out").glob("*.partial"))


def test_everything_may_be_removed(make, judge, tmp_path):
    result = judge(make("a", [("1.png", (b"", "train", 0))]))
    (path,) = write_audit(result, tmp_path / "out")
    assert len(read_manifest(path)) == 0
    assert count_classes(result.cleaned[0]) == {}


def test_a_folder_that_cannot_be_written_is_one_line(make, judge, tmp_path):
    result = judge(make("a", [("1.png", (b"", "train", 0))]))
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_audit(result, tmp_path / "file" / "out")


def test_nothing_is_written_among_the_pictures(make, photos, tmp_path):
    manifest = make("a", [("1.png", (photos[0], "train", 0))])
    root = manifest.facts.root
    (tmp_path / "link").symlink_to(root)
    for folder in (root, root / "audit", tmp_path / "link" / "audit"):
        with pytest.raises(ConfigError, match="among the images"):
            check_folder(folder, [manifest], resume=True)


def test_a_merged_audit_may_be_written_beside_the_sets(make, photos, tmp_path):
    sets = [make(name, [("x/1.png", (photos[0], "train", 0))]) for name in ("one", "two")]
    merged, _ = merge_manifests(sets)
    assert merged.facts.root == tmp_path
    check_folder(tmp_path / "audit", [merged], resume=False)
    with pytest.raises(ConfigError, match=r"lies among the images in .*/two/x"):
        check_folder(tmp_path / "two" / "x" / "audit", [merged], resume=False)


def test_a_folder_that_is_not_empty_is_for_resuming_alone(tmp_path):
    folder = tmp_path / "out"
    check_folder(folder, [], resume=False)
    folder.mkdir()
    (folder / "x").touch()
    check_folder(folder, [], resume=True)
    with pytest.raises(ConfigError, match="not empty"):
        check_folder(folder, [], resume=False)
    for resume in (False, True):
        with pytest.raises(ConfigError, match="is a file"):
            check_folder(folder / "x", [], resume=resume)


def test_the_order_of_rows_changes_no_leak(make, judge, photos, found):
    entries = [
        ("1.png", (photos[0], "train", 0)),
        ("2.jpg", (photos[0], "test", 0)),
        ("3.png", (photos[1], "train", 0)),
        ("4.jpg", (photos[1], "val", 0)),
    ]
    order = np.random.default_rng(0).permutation(4)
    shuffled = make("a", [entries[index] for index in order])
    assert found(judge(shuffled), "leak") == found(judge(make("a", entries)), "leak")
