"""Readers of data sets, on small trees made here."""

import csv
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from uniemox.data.layouts import import_dataset
from uniemox.data.manifest import Attributes, Box, read_manifest, write_manifest
from uniemox.data.specs import SPECS, get_spec
from uniemox.errors import ConfigError, DataError

EMOSET = get_spec("emoset").classes
FULL = {
    "brightness": 0.3,
    "colorfulness": 1.0,
    "scene": "amusement_park",
    "facial_expression": "happy",
    "human_action": "baby waking up",
    "object": ["Alarm clock", "Tree"],
}


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")  # an import looks at names only


def mapping(names):
    return {
        "label2idx": {name: i for i, name in enumerate(names)},
        "idx2label": {str(i): name for i, name in enumerate(names)},
    }


def make_emoset(root, *, form=3, per_split=(6, 2, 3), classes=EMOSET, attributes=FULL):
    """An EmoSet in either of its two forms; every second picture has attributes."""
    root.mkdir(parents=True, exist_ok=True)
    info = mapping(classes)
    if form == 4:
        info = {"emotion": info, "scene": mapping(["airfield", "alley"])}
    (root / "info.json").write_text(json.dumps(info))
    number = 0
    for split, count in zip(("train", "val", "test"), per_split, strict=True):
        rows = []
        for i in range(count):
            emotion = classes[number % len(classes)]
            name = f"{emotion}_{number:05d}"
            row = [emotion, f"image/{emotion}/{name}.jpg", f"annotation/{emotion}/{name}.json"]
            touch(root / row[1])
            entry = {"image_id": name, "emotion": emotion, **(attributes if i % 2 else {})}
            path = root / row[2]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(entry))
            rows.append([row[0], name, *row[1:]] if form == 4 else row)
            number += 1
        if count:
            (root / f"{split}.json").write_text(json.dumps(rows))
    return root


def make_folders(root, classes, count=10, suffix=".jpg"):
    for name in classes:
        for i in range(count):
            touch(root / name / f"{name}{i:03d}{suffix}")
    return root


def edit(path, change):
    content = json.loads(path.read_text())
    result = change(content)
    path.write_text(json.dumps(content if result is None else result))


def rows_of(manifest):
    return [manifest.row(i) for i in range(len(manifest))]


def by_path(manifest):
    root = manifest.facts.root
    return {row.path.relative_to(root).as_posix(): row for row in rows_of(manifest)}


def problems_of(result):
    return {problem.kind: problem.count for problem in result.problems}


def snapshot(root):
    return sorted(
        (path.as_posix(), path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in [root, *root.rglob("*")]
    )


# --- EmoSet ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [3, 4])
def test_both_forms_of_emoset_give_the_listed_rows(tmp_path, form):
    result = import_dataset("emoset", make_emoset(tmp_path, form=form))
    assert result.problems == ()
    rows = iter(rows_of(result.manifest))
    for split in ("train", "val", "test"):
        for i, listed in enumerate(json.loads((tmp_path / f"{split}.json").read_text())):
            row = next(rows)
            assert row.path == tmp_path / listed[-2]
            assert row.path.is_file()
            assert row.split == split
            assert EMOSET[row.label] == listed[0]
            assert row.boxes == ()
            assert row.attributes == (
                Attributes(
                    brightness=0.3,
                    colorfulness=1.0,
                    scene="amusement_park",
                    facial_expression="happy",
                    human_action="baby waking up",
                    objects=("Alarm clock", "Tree"),
                )
                if i % 2
                else Attributes()
            )
    assert next(rows, None) is None


def test_the_manifest_says_where_it_comes_from(tmp_path):
    facts = import_dataset("emoset", make_emoset(tmp_path)).manifest.facts
    spec = SPECS["emoset"]
    assert (facts.name, facts.title, facts.classes) == ("emoset", "EmoSet-118K", EMOSET)
    assert (facts.emotion, facts.layout, facts.root) == ("evoked", "emoset", tmp_path)
    assert (facts.licence, facts.url, facts.citation) == (spec.licence, spec.url, spec.citation)


def test_an_import_survives_writing_and_reading(tmp_path):
    manifest = import_dataset("emoset", make_emoset(tmp_path / "set")).manifest
    write_manifest(manifest, tmp_path / "m.parquet")
    assert rows_of(read_manifest(tmp_path / "m.parquet")) == rows_of(manifest)


def test_the_demo_s_set_is_read_by_the_same_reader(tmp_path):
    classes = get_spec("drawn6").classes
    result = import_dataset("drawn6", make_emoset(tmp_path, classes=classes))
    assert result.manifest.facts.classes == classes
    assert result.manifest.facts.emotion == "felt"


@pytest.mark.parametrize("counts", [(4, 0, 0), (0, 3, 0), (0, 0, 5), (4, 0, 3)])
def test_lists_may_be_absent_but_not_all(tmp_path, counts):
    manifest = import_dataset("emoset", make_emoset(tmp_path, per_split=counts)).manifest
    expected = dict(zip(("train", "val", "test"), counts, strict=True))
    assert manifest.split_counts() == {name: n for name, n in expected.items() if n}


def test_a_set_without_any_annotation_folder_has_no_attributes(tmp_path):
    make_emoset(tmp_path)
    shutil.rmtree(tmp_path / "annotation")
    result = import_dataset("emoset", tmp_path)
    assert problems_of(result) == {"missing annotation": 11}
    assert {row.attributes for row in rows_of(result.manifest)} == {Attributes()}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("{", "broken annotation"),
        ("", "broken annotation"),
        ("[1, 2]", "broken annotation"),
        ("[" * 100_000, "broken annotation"),
        ('{"emotion": "nothing"}', "annotation of another emotion"),
        ('{"brightness": "dark"}', "brightness of unknown form"),
        ('{"brightness": true}', "brightness of unknown form"),
        ('{"brightness": 1.5}', "brightness of unknown form"),
        ('{"colorfulness": NaN}', "colorfulness of unknown form"),
        ('{"scene": 7}', "scene of unknown form"),
        ('{"scene": "\\ud800"}', "scene of unknown form"),
        ('{"human_action": ["a"]}', "human_action of unknown form"),
        ('{"facial_expression": {"a": 1}}', "facial_expression of unknown form"),
        ('{"object": "Tree"}', "object of unknown form"),
        ('{"object": ["Tree", 3]}', "object of unknown form"),
    ],
)
def test_a_broken_annotation_costs_its_attributes_and_is_counted(tmp_path, content, kind):
    make_emoset(tmp_path)
    listed = json.loads((tmp_path / "train.json").read_text())[2]
    (tmp_path / listed[2]).write_text(content)
    result = import_dataset("emoset", tmp_path)
    assert [(p.kind, p.count, p.example) for p in result.problems] == [(kind, 1, listed[2])]
    assert len(result.manifest) == 11
    assert by_path(result.manifest)[listed[1]].attributes == Attributes()


def test_what_is_right_in_an_annotation_stays_beside_what_is_wrong(tmp_path):
    make_emoset(tmp_path, attributes={**FULL, "scene": 3, "brightness": 0})
    attributes = import_dataset("emoset", tmp_path).manifest.row(1).attributes
    assert attributes.scene is None
    assert attributes.brightness == 0.0
    assert attributes.objects == ("Alarm clock", "Tree")


@pytest.mark.parametrize("empty", [None, "", [], "  "])
def test_an_empty_attribute_is_an_absent_one(tmp_path, empty):
    make_emoset(
        tmp_path, attributes={"object": [] if empty == "  " else empty, "scene": empty or None}
    )
    result = import_dataset("emoset", tmp_path)
    assert result.manifest.row(1).attributes == Attributes()


def test_words_are_brought_to_one_line(tmp_path):
    make_emoset(tmp_path, attributes={"scene": " a\nb ", "object": ["  Alarm \t clock "]})
    attributes = import_dataset("emoset", tmp_path).manifest.row(1).attributes
    assert (attributes.scene, attributes.objects) == ("a b", ("Alarm clock",))


def test_a_byte_order_mark_is_no_problem(tmp_path):
    make_emoset(tmp_path)
    for path in [*tmp_path.glob("*.json"), *tmp_path.glob("annotation/*/*.json")]:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert import_dataset("emoset", tmp_path).problems == ()


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (["awe"], "row of unknown form"),
        ("awe", "row of unknown form"),
        ({"emotion": "awe"}, "row of unknown form"),
        (["awe", 3, "x"], "row of unknown form"),
        (["awe", "a", "b", "c", "d"], "row of unknown form"),
        (["joy", "image/awe/awe_00001.jpg", "x"], "unknown class"),
        (["awe", "image/awe/none.jpg", "x"], "listed picture that is not there"),
        (["awe", "nowhere/none.jpg", "x"], "listed picture that is not there"),
        (["awe", "", "x"], "listed picture that is not there"),
        (["awe", "image/awe/\ud800.jpg", "x"], "listed picture that is not there"),
        (["awe", "im\0age/a.jpg", "x"], "listed picture that is not there"),
        (["awe", "x" * 300 + "/a.jpg", "x"], "listed picture that is not there"),
        (["awe", "/etc/passwd", "x"], "path that leaves the root"),
        (["awe", "../x.jpg", "x"], "path that leaves the root"),
        (["awe", "image/../../x.jpg", "x"], "path that leaves the root"),
        (["awe", "info.json", "x"], "file that is no picture"),
        (["awe", "image/awe", "x"], "file that is no picture"),
        (["awe", "info.json/a.jpg", "x"], "listed picture that is not there"),
    ],
)
def test_a_wrong_row_is_left_out_and_counted(tmp_path, row, kind):
    make_emoset(tmp_path)
    edit(tmp_path / "val.json", lambda rows: [row, row, *rows])
    result = import_dataset("emoset", tmp_path)
    assert problems_of(result) == {kind: 2}
    assert len(result.manifest) == 11
    result.problems[0].example.encode()  # can be printed
    assert result.problems[0].example.isprintable()


def test_a_picture_is_taken_once(tmp_path):
    make_emoset(tmp_path)
    train = json.loads((tmp_path / "train.json").read_text())
    edit(tmp_path / "train.json", lambda rows: [*rows, rows[0]])
    edit(tmp_path / "test.json", lambda rows: [*rows, train[1]])
    respelt = [train[2][0], "./image//" + train[2][1].removeprefix("image/"), train[2][2]]
    edit(tmp_path / "val.json", lambda rows: [*rows, respelt])
    result = import_dataset("emoset", tmp_path)
    assert problems_of(result) == {"picture listed twice": 1, "picture listed in two splits": 2}
    assert by_path(result.manifest)[train[1][1]].split == "train"
    assert len(result.manifest) == 11


def test_a_row_may_name_no_annotation(tmp_path):
    make_emoset(tmp_path)
    edit(tmp_path / "val.json", lambda rows: [[rows[0][0], rows[0][1], None], [*rows[1][:2], ""]])
    assert problems_of(import_dataset("emoset", tmp_path)) == {"missing annotation": 2}


def test_links_inside_the_root_are_followed_and_others_are_not(tmp_path):
    root = make_emoset(tmp_path / "set")
    train = json.loads((root / "train.json").read_text())
    outside = tmp_path / "outside"
    touch(outside / "secret.jpg")
    (outside / "secret.json").write_text('{"scene": "secret"}')
    inside = root / "elsewhere.jpg"
    shutil.move(root / train[0][1], inside)
    (root / train[0][1]).symlink_to(inside)
    (root / train[1][1]).unlink()
    (root / train[1][1]).symlink_to(outside / "secret.jpg")
    (root / train[3][2]).unlink()
    (root / train[3][2]).symlink_to(outside / "secret.json")
    (root / "linked").symlink_to(outside)
    edit(root / "val.json", lambda rows: [*rows, ["awe", "linked/secret.jpg", "x"]])
    result = import_dataset("emoset", root)
    assert problems_of(result) == {"path that leaves the root": 3}
    found = by_path(result.manifest)
    assert train[0][1] in found
    assert train[1][1] not in found
    assert found[train[3][1]].attributes == Attributes()


def test_other_numbers_than_the_table_s_are_refused(tmp_path):
    make_emoset(tmp_path, classes=tuple(reversed(EMOSET)))
    with pytest.raises(
        DataError, match=r"numbers the classes sadness, .* but EmoSet-118K has amus"
    ):
        import_dataset("emoset", tmp_path)


def test_one_set_s_folder_is_not_another_s(tmp_path):
    make_emoset(tmp_path)
    with pytest.raises(DataError, match=r"Drawn people .* is it another set"):
        import_dataset("drawn6", tmp_path)


@pytest.mark.parametrize("content", ['{"a": 1}', "[]", '{"label2idx": 3}', '{"emotion": null}'])
def test_an_info_file_without_labels_is_refused(tmp_path, content):
    make_emoset(tmp_path)
    (tmp_path / "info.json").write_text(content)
    with pytest.raises(DataError, match=r"info\.json has no label2idx"):
        import_dataset("emoset", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train.json", "[[", "cannot read .*train.json"),
        ("info.json", "{", "cannot read .*info.json"),
        ("val.json", "{}", r"val\.json is not a list of pictures"),
    ],
)
def test_a_list_that_cannot_be_read_ends_the_import(tmp_path, name, content, words):
    make_emoset(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=words) as caught:
        import_dataset("emoset", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_wrong_folder_is_told_from_what_is_in_it(tmp_path):
    make_emoset(tmp_path / "EmoSet-118K")
    for i in range(9):
        touch(tmp_path / f"file{i}.txt")
    with pytest.raises(DataError) as caught:
        import_dataset("emoset", tmp_path)
    text = str(caught.value)
    assert "looked for info.json and one of train.json, val.json, test.json" in text
    assert "found EmoSet-118K, file0.txt" in text
    assert "and 4 more" in text
    assert f"did you mean {tmp_path / 'EmoSet-118K'}?" in text
    assert SPECS["emoset"].url in text


def test_an_empty_and_a_missing_folder_are_told_apart(tmp_path):
    with pytest.raises(DataError, match="found nothing"):
        import_dataset("emoset", tmp_path)
    with pytest.raises(DataError, match=r"no folder at .*absent: give the folder of EmoSet-118K"):
        import_dataset("emoset", tmp_path / "absent")


def test_lists_whose_pictures_are_all_gone_are_an_error_that_says_why(tmp_path):
    make_emoset(tmp_path)
    shutil.rmtree(tmp_path / "image")
    with pytest.raises(
        DataError, match=r"pictures that its lists name, .*11 x listed picture that"
    ):
        import_dataset("emoset", tmp_path)


# --- Class folders ---------------------------------------------------------------------------------------------------

FI = get_spec("fi").classes


def test_class_folders_are_cut_per_class(tmp_path):
    make_folders(tmp_path, FI, 40)
    manifest = import_dataset("fi", tmp_path).manifest
    assert manifest.split_counts() == {"train": 256, "val": 16, "test": 48}
    for row in rows_of(manifest):
        assert FI[row.label] == row.path.parent.name
        assert row.path.is_file()
    counts = Counter((row.label, row.split) for row in rows_of(manifest))
    assert set(counts.values()) == {32, 2, 6}


def test_rows_stand_split_after_split(tmp_path):
    make_folders(tmp_path, FI, 20)
    splits = [row.split for row in rows_of(import_dataset("fi", tmp_path).manifest)]
    assert splits == sorted(splits, key=["train", "val", "test"].index)


def test_the_split_does_not_change_with_the_level_of_the_root(tmp_path):
    make_folders(tmp_path / "emotion_dataset", FI, 20)
    outer = import_dataset("fi", tmp_path).manifest
    inner = import_dataset("fi", tmp_path / "emotion_dataset").manifest
    assert {row.path: row.split for row in rows_of(outer)} == {
        row.path: row.split for row in rows_of(inner)
    }
    assert outer.facts.root == tmp_path


def test_the_seed_and_the_ratios_decide_the_split(tmp_path):
    make_folders(tmp_path, FI, 20)

    def cut(**options):
        manifest = import_dataset("fi", tmp_path, **options).manifest
        return {row.path: row.split for row in rows_of(manifest)}

    assert cut() == cut(seed=0) != cut(seed=1)
    assert Counter(cut(ratios=(0.5, 0.25, 0.25)).values()) == {"train": 80, "val": 40, "test": 40}


def test_any_folders_number_their_classes_by_sorted_name(tmp_path):
    root = make_folders(tmp_path / "moods", ["sad", "Calm", "happy"], 10)
    manifest = import_dataset("folders", root, ratios=(0.8, 0.1, 0.1)).manifest
    assert manifest.facts.classes == ("Calm", "happy", "sad")
    assert (manifest.facts.name, manifest.facts.emotion) == ("moods", None)
    assert all(manifest.facts.classes[r.label] == r.path.parent.name for r in rows_of(manifest))


def test_any_folders_need_ratios(tmp_path):
    make_folders(tmp_path, ["a", "b"])
    with pytest.raises(ConfigError, match="--split, for example 80/5/15"):
        import_dataset("folders", tmp_path)


@pytest.mark.parametrize(
    "suffix", [".jpg", ".JPEG", ".Png", ".webp", ".GIF", ".bmp", ".tif", ".TIFF"]
)
def test_every_format_is_taken_in_any_case(tmp_path, suffix):
    make_folders(tmp_path, ["a", "b"], 3, suffix)
    result = import_dataset("folders", tmp_path, ratios=(1, 0, 0))
    assert len(result.manifest) == 6
    assert result.problems == ()


def test_class_folders_may_be_written_in_another_case(tmp_path):
    make_folders(tmp_path, [name.title() for name in FI], 5)
    manifest = import_dataset("fi", tmp_path).manifest
    assert all(FI[row.label] == row.path.parent.name.lower() for row in rows_of(manifest))


def test_pictures_in_folders_of_a_class_folder_belong_to_it(tmp_path):
    make_folders(tmp_path, ["a", "b"], 2)
    touch(tmp_path / "a" / "deep" / "er" / "x.png")
    found = by_path(import_dataset("folders", tmp_path, ratios=(1, 0, 0)).manifest)
    assert found["a/deep/er/x.png"].label == 0


def test_what_is_odd_in_class_folders_is_counted(tmp_path):
    make_folders(tmp_path, FI[:-2], 10)
    (tmp_path / FI[-2]).mkdir()
    touch(tmp_path / "joy" / "x.jpg")
    touch(tmp_path / "stray.jpg")
    touch(tmp_path / "readme.txt")
    touch(tmp_path / "awe" / "notes.txt")
    touch(tmp_path / "awe" / ".DS_Store")
    touch(tmp_path / "awe" / "Thumbs.db")
    os.mkfifo(tmp_path / "awe" / "pipe.jpg")
    result = import_dataset("fi", tmp_path)
    assert problems_of(result) == {
        "empty class folder": 1,
        "missing class folder": 1,
        "unknown class": 1,
        "picture outside of a class folder": 1,
        "file that is no picture": 2,
    }
    assert len(result.manifest) == 60
    assert result.manifest.facts.classes == FI


def test_an_empty_folder_among_any_folders_is_no_class(tmp_path):
    make_folders(tmp_path, ["b", "c"], 2)
    (tmp_path / "a").mkdir()
    result = import_dataset("folders", tmp_path, ratios=(1, 0, 0))
    assert result.manifest.facts.classes == ("b", "c")
    assert problems_of(result) == {"empty class folder": 1}


def test_a_name_that_is_not_utf8_is_counted(tmp_path):
    make_folders(tmp_path, ["a", "b"], 2)
    Path(os.fsdecode(os.fsencode(tmp_path / "a") + b"/caf\xe9.jpg")).write_bytes(b"")
    result = import_dataset("folders", tmp_path, ratios=(1, 0, 0))
    assert problems_of(result) == {"file name that is not UTF-8": 1}
    assert result.problems[0].example == r"a/caf\udce9.jpg"


def test_links_between_folders_do_not_go_round_nor_out(tmp_path):
    root = make_folders(tmp_path / "set", ["a", "b"], 2)
    make_folders(tmp_path, ["outside"], 2)
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "deep").mkdir()
    (root / "a" / "deep" / "again").symlink_to(root / "a")
    (root / "c").symlink_to(tmp_path / "outside")
    (root / "b" / "out").symlink_to(tmp_path / "outside")
    (root / "b" / "dangling.jpg").symlink_to(root / "absent.jpg")
    (root / "b" / "same.jpg").symlink_to(root / "b" / "b000.jpg")
    result = import_dataset("folders", root, ratios=(1, 0, 0))
    assert set(by_path(result.manifest)) == {
        "a/a000.jpg",
        "a/a001.jpg",
        "b/b000.jpg",
        "b/b001.jpg",
        "b/same.jpg",
    }
    assert problems_of(result) == {
        "link in a circle": 2,
        "link that leaves the root": 2,
        "file that is no picture": 1,
    }


def test_folders_of_another_kind_are_a_wrong_root(tmp_path):
    make_folders(tmp_path, ["cats", "dogs"])
    with pytest.raises(
        DataError, match=r"is not FI .*: looked for folders named amusement, .*cats"
    ):
        import_dataset("fi", tmp_path)
    with pytest.raises(DataError, match="folders named by class, with pictures in them"):
        import_dataset("folders", tmp_path / "cats", ratios=(1, 0, 0))


# --- Split folders ---------------------------------------------------------------------------------------------------


def make_split_folders(root, classes, counts=(4, 2, 3)):
    for split, count in zip(("train", "val", "test"), counts, strict=True):
        if count:
            make_folders(root / split, classes, count)
    return root


@pytest.mark.parametrize("folder", ["", "emo8"])
def test_split_folders_are_read_as_they_are_cut(tmp_path, folder):
    make_split_folders(tmp_path / folder, FI)
    result = import_dataset("emo8", tmp_path)
    assert result.problems == ()
    assert result.manifest.split_counts() == {"train": 32, "val": 16, "test": 24}
    for row in rows_of(result.manifest):
        assert row.path.is_file()
        assert (row.split, FI[row.label]) == (row.path.parts[-3], row.path.parts[-2])


def test_a_set_that_the_authors_cut_is_read_as_cut(tmp_path):
    make_split_folders(tmp_path, FI)
    manifest = import_dataset("fi", tmp_path).manifest
    assert manifest.facts.layout == "split_folders"
    assert manifest.split_counts() == {"train": 32, "val": 16, "test": 24}
    with pytest.raises(ConfigError, match="is split already: leave out --split"):
        import_dataset("fi", tmp_path, ratios=(0.8, 0.1, 0.1))


def test_any_split_folders_take_their_classes_from_all_splits(tmp_path):
    make_split_folders(tmp_path, ["b", "c"], (3, 0, 2))
    touch(tmp_path / "test" / "a" / "x.jpg")
    (tmp_path / "train" / "d").mkdir()
    result = import_dataset("split-folders", tmp_path)
    assert result.manifest.facts.classes == ("a", "b", "c")
    assert result.manifest.split_counts() == {"train": 6, "test": 5}
    assert problems_of(result) == {"empty class folder": 1, "missing class folder": 1}


def test_split_folders_need_one_of_the_three(tmp_path):
    make_folders(tmp_path, ["a", "b"])
    with pytest.raises(DataError, match="looked for folders train, val or test, found a, b"):
        import_dataset("split-folders", tmp_path)


def test_split_folders_are_not_taken_for_classes(tmp_path):
    make_split_folders(tmp_path, ["a", "b"])
    with pytest.raises(DataError, match="holds test, train, val: import it as split-folders"):
        import_dataset("folders", tmp_path, ratios=(0.8, 0.1, 0.1))


# --- People ----------------------------------------------------------------------------------------------------------


def write_people(path, lines, header="path,x0,y0,x1,y1,score"):
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_boxes_go_to_their_pictures(tmp_path):
    root = make_folders(tmp_path / "set", ["a, really", "b"], 2)
    people = tmp_path / "people.csv"
    with people.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "x0", "y0", "x1", "y1", "score"])
        writer.writerow(["b/b001.jpg", 1, 2, 3.5, 4, 0.75])
        writer.writerow(["./a, really/a, really000.jpg", 0, 0, 9, 9, ""])
        writer.writerow(["b/b001.jpg", 0, 0, 5, 5, 1])
    result = import_dataset("folders", root, people=people, ratios=(1, 0, 0))
    assert result.problems == ()
    assert {path: row.boxes for path, row in by_path(result.manifest).items()} == {
        "a, really/a, really000.jpg": (Box(0, 0, 9, 9),),
        "a, really/a, really001.jpg": (),
        "b/b000.jpg": (),
        "b/b001.jpg": (Box(1, 2, 3.5, 4, 0.75), Box(0, 0, 5, 5, 1)),
    }


def test_the_score_may_be_left_out_and_columns_go_by_name(tmp_path):
    make_folders(tmp_path, ["a"], 1)
    people = write_people(tmp_path / "p.csv", ["9,8,1,2,a/a000.jpg"], "x1,y1,x0,y0,path")
    manifest = import_dataset("folders", tmp_path, people=people, ratios=(1, 0, 0)).manifest
    assert manifest.row(0).boxes == (Box(1, 2, 9, 8),)


@pytest.mark.parametrize(
    "line",
    [
        "a/a000.jpg,5,5,5,9,1",
        "a/a000.jpg,5,9,9,5,1",
        "a/a000.jpg,-1,0,9,9,1",
        "a/a000.jpg,0,0,nan,9,1",
        "a/a000.jpg,0,0,inf,9,1",
        "a/a000.jpg,0,0,9,,1",
        "a/a000.jpg,0,0",
        "a/a000.jpg,a,b,c,d,1",
        "a/a000.jpg,0,0,9,9,high",
        "a/a000.jpg,0,0,9,9,nan",
    ],
)
def test_a_box_that_is_no_box_is_counted(tmp_path, line):
    make_folders(tmp_path, ["a"], 1)
    people = write_people(tmp_path / "p.csv", [line, "a/a000.jpg,0,0,9,9,1"])
    result = import_dataset("folders", tmp_path, people=people, ratios=(1, 0, 0))
    assert [str(problem) for problem in result.problems] == [
        "1 x box that is no box (line 2 of p.csv)"
    ]
    assert result.manifest.row(0).boxes == (Box(0, 0, 9, 9, 1),)


@pytest.mark.parametrize("path", ["a/none.jpg", "/etc/passwd", "../a/a000.jpg", ""])
def test_a_box_without_its_picture_is_counted(tmp_path, path):
    make_folders(tmp_path, ["a"], 1)
    people = write_people(tmp_path / "p.csv", [f"{path},0,0,9,9,1"])
    result = import_dataset("folders", tmp_path, people=people, ratios=(1, 0, 0))
    assert problems_of(result) == {"box of a picture that is not in the set": 1}


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("path,x,y,w,h", "begins with path,x,y,w,h, but boxes need the header path,x0,y0,x1,y1"),
        ("path,x0,y0,x1,y1,scores", "begins with path"),
        ("", "begins with nothing"),
    ],
)
def test_another_header_is_refused(tmp_path, header, words):
    make_folders(tmp_path, ["a"], 1)
    people = write_people(tmp_path / "p.csv", [], header)
    with pytest.raises(DataError, match=words):
        import_dataset("folders", tmp_path, people=people, ratios=(1, 0, 0))


def test_boxes_that_cannot_be_read_are_refused_in_one_line(tmp_path):
    make_folders(tmp_path, ["a"], 1)
    (tmp_path / "p.csv").write_bytes(b"path,x0,y0,x1,y1\n\xff\xfe,1,2,3,4\n")
    for name in ("absent.csv", "p.csv"):
        with pytest.raises(DataError, match="cannot read the boxes in"):
            import_dataset("folders", tmp_path, people=tmp_path / name, ratios=(1, 0, 0))


# --- All layouts -----------------------------------------------------------------------------------------------------


def test_strict_makes_any_problem_an_error_that_lists_them_all(tmp_path):
    make_emoset(tmp_path)
    assert len(import_dataset("emoset", tmp_path, strict=True).manifest) == 11
    shutil.rmtree(tmp_path / "annotation" / "awe")
    next(tmp_path.glob("image/fear/*")).unlink()
    with pytest.raises(DataError, match=r"x missing annotation .*; .*--strict|x listed.*--strict"):
        import_dataset("emoset", tmp_path, strict=True)


@pytest.mark.parametrize("ratios", [(1, 0, 0), None])
def test_ratios_belong_to_class_folders(tmp_path, ratios):
    make_emoset(tmp_path)
    if ratios:
        with pytest.raises(ConfigError, match="is split already"):
            import_dataset("emoset", tmp_path, ratios=ratios)
    else:
        import_dataset("emoset", tmp_path)


def test_the_source_is_never_written_to(tmp_path):
    make_emoset(tmp_path / "e")
    make_folders(tmp_path / "f", FI, 3)
    make_split_folders(tmp_path / "s", FI)
    before = snapshot(tmp_path)
    import_dataset("emoset", tmp_path / "e")
    import_dataset("fi", tmp_path / "f")
    import_dataset("emo8", tmp_path / "s")
    assert snapshot(tmp_path) == before


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch):
    make_folders(tmp_path, ["a", "b"])
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("/a"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    # Tests may run as root, whom no permission stops.
    monkeypatch.setattr("uniemox.data.layouts.os.scandir", refuse)
    with pytest.raises(DataError, match=r"cannot list .*/a: Permission denied"):
        import_dataset("folders", tmp_path, ratios=(1, 0, 0))


def test_a_root_that_is_a_link_is_a_root(tmp_path):
    make_folders(tmp_path / "real", ["a", "b"], 2)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    result = import_dataset("folders", tmp_path / "link", ratios=(1, 0, 0))
    assert result.problems == ()
    assert result.manifest.facts.root == tmp_path / "link"
