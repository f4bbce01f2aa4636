import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image, ImageOps

from uniemox.commands import audit as command
from uniemox.data.audit import (
    REMOVED,
    AuditConfig,
    Copies,
    audit,
    check_folder,
    count_classes,
    write_audit,
)
from uniemox.data.fingerprints import take_fingerprints
from uniemox.data.manifest import Box, Facts, manifest_from_columns, read_manifest
from uniemox.data.merge import merge_manifests
from uniemox.errors import ConfigError, DataError

CLASSES = ("awe", "fear")


@pytest.fixture(scope="session")
def photos():
    """Six real pictures that are nothing alike, small."""
    folder = Path(skimage.__file__).parent / "data"
    names = ("astronaut.png", "chelsea.png", "coffee.png", "coins.png", "rocket.jpg", "camera.png")
    return [ImageOps.fit(Image.open(folder / name).convert("RGB"), (200, 150)) for name in names]


@pytest.fixture
def make(tmp_path):
    """Write pictures and their manifest: path -> (picture or bytes, split, label, boxes)."""

    def make_set(name, entries, *, classes=CLASSES):
        root = tmp_path / name
        paths, splits, labels, people = [], [], [], []
        for path, (content, split, label, *boxes) in entries:
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                file.write_bytes(content)
            elif content is not None:
                content.save(file)
            paths.append(path)
            splits.append(split)
            labels.append(label)
            people.append(tuple(Box(*box) for box in boxes))
        facts = Facts(name=name, title=name, classes=classes, emotion="evoked", root=root)
        return manifest_from_columns(
            facts, paths=paths, splits=splits, labels=labels, people=people
        )

    return make_set


@pytest.fixture
def judge(tmp_path):
    def run(*manifests, **config):
        named = {manifest.facts.name: manifest for manifest in manifests}
        files = Copies(list(named.values())).files
        fingerprints = take_fingerprints(files, folder=tmp_path / "fingerprints")
        return audit(named, fingerprints, config=AuditConfig(**config))

    return run


def found(result, kind=None):
    """Findings as (kind, manifest, path, split, path beside, removed)."""
    rows = set()
    for finding in result.findings:
        if kind not in (None, finding.kind):
            continue
        copy = result.copies[finding.copy]
        other = None if finding.other is None else result.copies[finding.other].path
        name = result.names[copy.manifest]
        rows.add((finding.kind, name, copy.path, copy.split, other, finding.removed))
    return rows


def kept(result, number=0):
    return result.cleaned[number].table["path"].to_pylist()


def test_clean_data_has_no_findings_and_stays_as_it_is(make, judge, photos):
    entries = [(f"{n}.png", (photo, "train", n % 2)) for n, photo in enumerate(photos)]
    result = judge(make("a", entries))
    assert result.findings == ()
    assert result.groups == ()
    assert kept(result) == [path for path, _ in entries]


def test_what_is_no_picture_or_shows_nothing_is_removed_from_every_split(make, judge, photos):
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


def test_the_held_out_copy_stays(make, judge, photos):
    first, second = photos[:2]
    result = judge(
        make(
            "a",
            [
                ("1.png", (first, "train", 0)),
                ("2.png", (first, "val", 0)),
                ("3.png", (ImageOps.mirror(first), "test", 0)),
                ("4.png", (second, "train", 1)),
                ("5.png", (second, "elsewhere", 1)),
            ],
        )
    )
    assert found(result, "leak") == {
        ("leak", "a", "1.png", "train", "2.png", True)
        if ("leak", "a", "1.png", "train", "2.png", True) in found(result)
        else ("leak", "a", "1.png", "train", "3.png", True),
        ("leak", "a", "2.png", "val", "3.png", True),
        ("leak", "a", "4.png", "train", "5.png", True),
    }
    assert kept(result) == ["3.png", "5.png"]


def test_pictures_of_one_data_set_are_found_in_the_test_of_another(make, judge, photos):
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


def test_copies_with_other_labels_go_from_train_alone(make, judge, photos):
    result = judge(
        make(
            "a",
            [
                ("1.png", (photos[0], "train", 0)),
                ("2.jpg", (photos[0], "train", 1)),
                ("3.png", (photos[1], "test", 0)),
                ("4.png", (photos[1], "test", 1)),
                ("5.png", (photos[2], "train", None)),
                ("6.png", (photos[2], "train", 1)),
            ],
        )
    )
    assert found(result, "conflict") == {
        ("conflict", "a", "1.png", "train", "2.jpg", True),
        ("conflict", "a", "2.jpg", "train", "1.png", True),
        ("conflict", "a", "3.png", "test", "4.png", False),
        ("conflict", "a", "4.png", "test", "3.png", False),
    }
    assert kept(result) == ["3.png", "4.png", "5.png", "6.png"]


def test_labels_of_other_classes_are_no_conflict(make, judge, photos):
    one = make("one", [("1.png", (photos[0], "train", 0))])
    same = make("same", [("2.png", (photos[0], "train", 0))], classes=("Fear", "Awe"))
    other = make("other", [("3.png", (photos[0], "train", 0))], classes=("joy", "awe"))
    assert found(judge(one, other), "conflict") == set()
    assert {row[1] for row in found(judge(one, same), "conflict")} == {"one", "same"}


def test_repetition_in_one_split_is_told_and_stays_unless_it_is_to_go(make, judge, photos):
    entries = [(f"{n}.png", (photos[0], "train", 0)) for n in range(3)]
    manifest = make("a", entries)
    result = judge(manifest)
    assert found(result) == {
        ("repeat", "a", "1.png", "train", "0.png", False),
        ("repeat", "a", "2.png", "train", "0.png", False),
    }
    assert len(kept(result)) == 3
    assert kept(judge(manifest, remove=("repeat",))) == ["0.png"]


def test_what_equally_held_out_splits_share_is_told_and_stays_unless_it_is_to_go(
    make, judge, photos
):
    one = make("one", [("a.png", (photos[0], "train", 0)), ("b.png", (photos[1], "test", 0))])
    smaller = photos[0].resize((100, 75))
    entries = [
        ("c.png", (smaller, "train", 0)),
        ("d.png", (photos[2], "test", 0)),
        ("e.png", (photos[2], "unseen", 0)),
    ]
    two = make("two", entries)
    result = judge(one, two)
    assert found(result) == {
        ("overlap", "two", "c.png", "train", "a.png", False),
        ("overlap", "two", "e.png", "unseen", "d.png", False),
    }
    assert len(kept(result, 1)) == 3
    assert kept(judge(one, two, remove=("overlap",)), 1) == ["d.png"]


def test_a_picture_under_many_names_is_a_placeholder(make, judge, photos):
    entries = [(f"{n}.png", (photos[0], "test", n % 2)) for n in range(5)]
    manifest = make("a", [*entries, ("good.png", (photos[1], "test", 0))])
    result = judge(manifest)
    assert {row[0] for row in found(result)} == {"placeholder"}
    assert result.findings[0].text == "the same pixels in 5 files"
    assert kept(result) == ["good.png"]
    assert found(judge(manifest, placeholder_copies=6), "placeholder") == set()


def test_rows_of_several_people_are_one_picture(make, judge, photos):
    rows = [
        ("1.png", (photos[0], "train", 0, (0, 0, 50, 90))),
        ("1.png", (photos[0], "train", 1, (60, 0, 120, 90))),
        ("2.png", (photos[1], "train", 1, (60, 0, 120, 90))),
    ]
    result = judge(make("a", rows))
    assert result.findings == ()
    assert len(result.copies) == 2
    assert result.copies[0].rows == (0, 1)
    assert result.copies[0].label == "awe + fear"


def test_people_of_one_picture_in_two_splits_leak(make, judge, photos):
    rows = [
        ("1.png", (photos[0], "train", 0, (0, 0, 50, 90))),
        ("1.png", (photos[0], "test", 1, (60, 0, 120, 90))),
    ]
    result = judge(make("a", rows))
    assert found(result) == {("leak", "a", "1.png", "train", "1.png", True)}
    assert result.findings[0].text == "the same file"
    assert result.cleaned[0].table["split"].to_pylist() == ["test"]


def test_one_file_listed_twice_with_other_labels_is_a_conflict(make, judge, photos):
    rows = [("1.png", (photos[0], "train", 0)), ("1.png", (photos[0], "train", 1))]
    assert found(judge(make("a", rows))) == {("conflict", "a", "1.png", "train", None, True)}


@pytest.mark.parametrize(
    ("box", "problem"),
    [
        ((float("nan"), 0, 10, 10), "not numbers"),
        ((0, 0, float("inf"), 10), "not numbers"),
        ((30, 30, 20, 60), "empty"),
        ((250, 10, 300, 90), "outside the picture"),
        ((150, 10, 230, 90), "over the edge"),
        ((20, 100, 120, 190), "for the picture turned by a quarter"),
        ((20, 20, 25, 60), "tiny"),
        ((0, 0, 200.5, 150), None),
    ],
)
def test_boxes_that_cannot_be_right_are_told_and_stay(make, judge, photos, box, problem):
    good = (10, 10, 60, 60)
    result = judge(make("a", [("1.png", (photos[0], "train", 0, good, box))]))
    texts = [finding.text for finding in result.findings]
    assert len(texts) == (problem is not None)
    if problem is not None:
        assert texts[0].startswith(problem)
        assert "in 200 x 150 pixels" in texts[0]
    assert len(kept(result)) == 1
    assert len(kept(judge(result.manifests[0], remove=("box",)))) == (problem is None)


def test_more_people_than_a_picture_holds_are_told(make, judge, photos):
    boxes = [(x, 0, x + 40, 90) for x in range(101)]
    (finding,) = judge(make("a", [("1.png", (photos[0], "train", 0, *boxes))])).findings
    assert finding.text == "101 boxes in a row"


def test_a_box_of_a_picture_that_cannot_be_read_is_judged_by_itself(make, judge):
    rows = [("1.png", (b"broken", "train", 0, (900, 900, 950, 990), (5, 5, 5, 9)))]
    texts = [finding.text for finding in judge(make("a", rows)).findings if finding.kind == "box"]
    assert len(texts) == 1
    assert texts[0].startswith("empty")


def test_sizes_and_hashes_are_filled_in(make, judge, photos):
    (row,) = judge(make("a", [("1.png", (photos[0], "train", 0))])).cleaned[0].table.to_pylist()
    assert (row["width"], row["height"]) == photos[0].size
    assert len(row["hash"]) == 64


def test_nothing_is_removed_where_nothing_is_to_be(make, judge, photos):
    result = judge(
        make("a", [("1.png", (b"", "train", 0)), ("2.png", (photos[0], "train", 0))]), remove=()
    )
    assert len(result.findings) == 1
    assert kept(result) == ["1.png", "2.png"]


def test_a_chain_of_likeness_leaks_only_where_two_are_alike(make, judge, photos):
    """Each crop is like the next; what is like the test picture goes, and what is not stays."""
    big = photos[0].resize((400, 300))

    def window(shift):
        return big.crop((shift, 0, shift + 240, 300))

    entries = [(f"{n}.png", (window(8 * n), "train", 0)) for n in range(12)]
    entries.append(("test.png", (window(0), "test", 0)))
    leaks = {row[2] for row in found(judge(make("a", entries)), "leak")}
    assert "0.png" in leaks
    assert "11.png" not in leaks


def test_a_label_set_is_a_label(tmp_path, judge, photos):
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
        "a",
        [
            ("1.png", (photos[0], "train", 0)),
            ("2.jpg", (photos[0], "test", 0)),
            ("bad.png", (b"", "val", 1)),
        ],
    )
    manifest = replace(manifest, facts=replace(manifest.facts, split_recipe="given"))
    result = judge(manifest)
    (path,) = write_audit(result, tmp_path / "out")
    cleaned = read_manifest(path)
    assert cleaned.table["path"].to_pylist() == ["2.jpg"]
    assert cleaned.facts.split_recipe == "given; audited: 2 rows left out"
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
    with pytest.raises(DataError, match="cannot write to"):
        write_audit(result, tmp_path / "file" / "out")


def test_nothing_is_written_among_the_pictures(make, photos, tmp_path):
    manifest = make("a", [("1.png", (photos[0], "train", 0))])
    root = manifest.facts.root
    (tmp_path / "link").symlink_to(root)
    for folder in (root, root / "audit", tmp_path / "link" / "audit"):
        with pytest.raises(ConfigError, match="among the pictures"):
            check_folder(folder, [manifest], resume=True)


def test_a_merged_audit_may_be_written_beside_the_sets(make, photos, tmp_path):
    sets = [make(name, [("x/1.png", (photos[0], "train", 0))]) for name in ("one", "two")]
    merged = merge_manifests(sets).manifest
    assert merged.facts.root == tmp_path
    check_folder(tmp_path / "audit", [merged], resume=False)
    with pytest.raises(ConfigError, match=r"lies among the pictures in .*/two/x"):
        check_folder(tmp_path / "two" / "x" / "audit", [merged], resume=False)


def test_a_folder_that_is_not_empty_is_for_resuming_alone(tmp_path):
    folder = tmp_path / "out"
    check_folder(folder, [], resume=False)
    folder.mkdir()
    (folder / "x").touch()
    check_folder(folder, [], resume=True)
    with pytest.raises(ConfigError, match="not empty"):
        check_folder(folder, [], resume=False)
    with pytest.raises(ConfigError, match="a file"):
        check_folder(folder / "x", [], resume=False)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"remove": ("leaks",)}, "--remove names leaks"),
        ({"min_side": 0}, "--min-side is 0"),
        ({"placeholder_copies": 1}, "--placeholder-copies is 1"),
        ({"like": 0.2}, "--like is 0.2"),
        ({"like": float("nan")}, "--like is nan"),
    ],
)
def test_impossible_settings_are_refused(setting, complaint):
    with pytest.raises(ConfigError, match=complaint):
        AuditConfig(**setting)


def test_the_flags_have_the_defaults_of_the_settings():
    from uniemox.flags import Parser

    parser = Parser("data audit", "")
    command.COMMANDS["data audit"].add_flags(parser)
    given = parser.parse(["m.parquet", "--out", "x"])
    config = AuditConfig()
    assert tuple(given.remove) == REMOVED == config.remove
    assert (given.like, given.min_side) == (config.like, config.min_side)
    assert given.placeholder_copies == config.placeholder_copies


def test_the_order_of_rows_changes_no_leak(make, judge, photos):
    entries = [
        ("1.png", (photos[0], "train", 0)),
        ("2.jpg", (photos[0], "test", 0)),
        ("3.png", (photos[1], "train", 0)),
        ("4.jpg", (photos[1], "val", 0)),
    ]
    order = np.random.default_rng(0).permutation(4)
    shuffled = make("a", [entries[index] for index in order])
    assert found(judge(shuffled), "leak") == found(judge(make("a", entries)), "leak")
