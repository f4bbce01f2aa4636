"""EmoSet in both of its forms."""

import json
import shutil

import pytest

from uniemox.errors import DataError
from uniemox.importers.importing import import_dataset
from uniemox.importers.specs import SPECS, get_spec
from uniemox.manifests.table import Attributes

EMOSET = get_spec("emoset").classes


@pytest.mark.parametrize("form", [3, 4])
def test_both_forms_of_emoset_give_the_listed_rows(trees, look, tmp_path, form):
    result = import_dataset("emoset", trees.emoset(tmp_path, form=form))
    assert result.problems == ()
    rows = iter(look.rows(result.manifest))
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


@pytest.mark.parametrize("counts", [(4, 0, 0), (0, 3, 0), (0, 0, 5), (4, 0, 3)])
def test_lists_may_be_absent_but_not_all(trees, tmp_path, counts):
    manifest = import_dataset("emoset", trees.emoset(tmp_path, per_split=counts)).manifest
    expected = dict(zip(("train", "val", "test"), counts, strict=True))
    assert manifest.split_counts() == {name: n for name, n in expected.items() if n}


def test_a_set_without_any_annotation_folder_has_no_attributes(trees, look, tmp_path):
    trees.emoset(tmp_path)
    shutil.rmtree(tmp_path / "annotation")
    result = import_dataset("emoset", tmp_path)
    assert look.problems(result) == {"missing annotation": 11}
    assert {row.attributes for row in look.rows(result.manifest)} == {Attributes()}


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
        ('{"colorfulness": "x"}', "colorfulness of unknown form"),
        ('{"scene": 7}', "scene of unknown form"),
        ('{"scene": "\\ud800"}', "scene of unknown form"),
        ('{"human_action": ["a"]}', "human_action of unknown form"),
        ('{"facial_expression": {"a": 1}}', "facial_expression of unknown form"),
        ('{"object": "Tree"}', "object of unknown form"),
        ('{"object": ["Tree", 3]}', "object of unknown form"),
    ],
)
def test_a_broken_annotation_costs_its_attributes_and_is_counted(trees, look, tmp_path, content, kind):
    trees.emoset(tmp_path)
    listed = json.loads((tmp_path / "train.json").read_text())[2]
    (tmp_path / listed[2]).write_text(content)
    result = import_dataset("emoset", tmp_path)
    assert [(p.kind, p.count, p.example) for p in result.problems] == [(kind, 1, listed[2])]
    assert len(result.manifest) == 11
    assert look.by_path(result.manifest)[listed[1]].attributes == Attributes()


def test_what_is_right_in_an_annotation_stays_beside_what_is_wrong(trees, tmp_path):
    trees.emoset(tmp_path, attributes={**trees.full, "scene": 3, "brightness": 0})
    attributes = import_dataset("emoset", tmp_path).manifest.row(1).attributes
    assert attributes.scene is None
    assert attributes.brightness == 0.0
    assert attributes.objects == ("Alarm clock", "Tree")


@pytest.mark.parametrize("empty", [None, "", [], "  "])
def test_an_empty_attribute_is_an_absent_one(trees, tmp_path, empty):
    trees.emoset(tmp_path, attributes={"object": [] if empty == "  " else empty, "scene": empty or None})
    result = import_dataset("emoset", tmp_path)
    assert result.manifest.row(1).attributes == Attributes()


def test_words_are_brought_to_one_line(trees, tmp_path):
    trees.emoset(tmp_path, attributes={"scene": " a\nb ", "object": ["  Alarm \t clock "]})
    attributes = import_dataset("emoset", tmp_path).manifest.row(1).attributes
    assert (attributes.scene, attributes.objects) == ("a b", ("Alarm clock",))


def test_a_byte_order_mark_is_no_problem(trees, tmp_path):
    trees.emoset(tmp_path)
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
        (["awe", "image/awe/none.jpg", "x"], "listed image that does not exist"),
        (["awe", "nowhere/none.jpg", "x"], "listed image that does not exist"),
        (["awe", "", "x"], "listed image that does not exist"),
        (["awe", "image/awe/\ud800.jpg", "x"], "listed image that does not exist"),
        (["awe", "im\0age/a.jpg", "x"], "listed image that does not exist"),
        (["awe", "x" * 300 + "/a.jpg", "x"], "listed image that does not exist"),
        (["awe", "/etc/passwd", "x"], "path that leaves the root"),
        (["awe", "../x.jpg", "x"], "path that leaves the root"),
        (["awe", "image/../../x.jpg", "x"], "path that leaves the root"),
        (["awe", "info.json", "x"], "file that is no image"),
        (["awe", "image/awe", "x"], "file that is no image"),
        (["awe", "info.json/a.jpg", "x"], "listed image that does not exist"),
    ],
)
def test_a_wrong_row_is_left_out_and_counted(trees, look, tmp_path, row, kind):
    trees.emoset(tmp_path)
    trees.edit(tmp_path / "val.json", lambda rows: [row, row, *rows])
    result = import_dataset("emoset", tmp_path)
    assert look.problems(result) == {kind: 2}
    assert len(result.manifest) == 11
    result.problems[0].example.encode()  # can be printed
    assert result.problems[0].example.isprintable()


def test_a_picture_is_taken_once(trees, look, tmp_path):
    trees.emoset(tmp_path)
    train = json.loads((tmp_path / "train.json").read_text())
    trees.edit(tmp_path / "train.json", lambda rows: [*rows, rows[0]])
    trees.edit(tmp_path / "test.json", lambda rows: [*rows, train[1]])
    respelt = [train[2][0], "./image//" + train[2][1].removeprefix("image/"), train[2][2]]
    trees.edit(tmp_path / "val.json", lambda rows: [*rows, respelt])
    result = import_dataset("emoset", tmp_path)
    assert look.problems(result) == {"image listed twice": 1, "image listed in two splits": 2}
    assert look.by_path(result.manifest)[train[1][1]].split == "train"
    assert len(result.manifest) == 11


def test_a_row_may_name_no_annotation(trees, look, tmp_path):
    trees.emoset(tmp_path)
    trees.edit(tmp_path / "val.json", lambda rows: [[rows[0][0], rows[0][1], None], [*rows[1][:2], ""]])
    assert look.problems(import_dataset("emoset", tmp_path)) == {"missing annotation": 2}


def test_links_inside_the_root_are_followed_and_others_are_not(trees, look, tmp_path):
    root = trees.emoset(tmp_path / "set")
    train = json.loads((root / "train.json").read_text())
    outside = tmp_path / "outside"
    trees.touch(outside / "secret.jpg")
    (outside / "secret.json").write_text('{"scene": "secret"}')
    inside = root / "elsewhere.jpg"
    shutil.move(root / train[0][1], inside)
    (root / train[0][1]).symlink_to(inside)
    (root / train[1][1]).unlink()
    (root / train[1][1]).symlink_to(outside / "secret.jpg")
    (root / train[3][2]).unlink()
    (root / train[3][2]).symlink_to(outside / "secret.json")
    (root / "linked").symlink_to(outside)
    trees.edit(root / "val.json", lambda rows: [*rows, ["awe", "linked/secret.jpg", "x"]])
    result = import_dataset("emoset", root)
    assert look.problems(result) == {"path that leaves the root": 3}
    found = look.by_path(result.manifest)
    assert train[0][1] in found
    assert train[1][1] not in found
    assert found[train[3][1]].attributes == Attributes()


def test_other_numbers_than_the_table_s_are_refused(trees, tmp_path):
    trees.emoset(tmp_path, classes=tuple(reversed(EMOSET)))
    with pytest.raises(DataError, match=r"numbers the classes sadness, .* but EmoSet-118K has amus"):
        import_dataset("emoset", tmp_path)


def test_one_set_s_folder_is_not_another_s(trees, tmp_path):
    trees.emoset(tmp_path)
    with pytest.raises(DataError, match=r"Drawn people .* is it another set"):
        import_dataset("drawn6", tmp_path)


@pytest.mark.parametrize("content", ['{"a": 1}', "[]", '{"label2idx": 3}', '{"emotion": null}'])
def test_an_info_file_without_labels_is_refused(trees, tmp_path, content):
    trees.emoset(tmp_path)
    (tmp_path / "info.json").write_text(content)
    with pytest.raises(DataError, match=r"info\.json has no label2idx"):
        import_dataset("emoset", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train.json", "[[", "cannot read .*train.json"),
        ("info.json", "{", "cannot read .*info.json"),
        ("val.json", "{}", r"val\.json is not a list of images"),
    ],
)
def test_a_list_that_cannot_be_read_ends_the_import(trees, tmp_path, name, content, words):
    trees.emoset(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=words) as caught:
        import_dataset("emoset", tmp_path)
    assert "\n" not in str(caught.value)


def test_an_empty_and_a_missing_folder_are_told_apart(tmp_path):
    with pytest.raises(DataError, match="found nothing"):
        import_dataset("emoset", tmp_path)
    with pytest.raises(DataError, match=r"no folder at .*absent: give the folder of EmoSet-118K; see "):
        import_dataset("emoset", tmp_path / "absent")


def test_lists_whose_pictures_are_all_gone_are_an_error_that_says_why(trees, tmp_path):
    trees.emoset(tmp_path)
    shutil.rmtree(tmp_path / "image")
    with pytest.raises(DataError, match=r"images that its lists name, .*11 x listed image that"):
        import_dataset("emoset", tmp_path)


@pytest.mark.parametrize("gone", ["val", "test"])
def test_a_list_that_is_not_there_is_a_problem(tmp_path, trees, gone):
    root = trees.emoset(tmp_path)
    (root / f"{gone}.json").unlink()
    result = import_dataset("emoset", root)
    assert gone not in result.manifest.split_counts()
    (problem,) = [p for p in result.problems if p.kind == "list of a split that does not exist"]
    assert (problem.count, problem.example) == (1, f"{gone}.json")
    with pytest.raises(DataError, match=rf"list of a split that does not exist \({gone}\.json\)"):
        import_dataset("emoset", root, strict=True)


def test_a_set_without_published_splits_may_have_any_of_them(tmp_path, trees):
    root = trees.emoset(tmp_path, classes=SPECS["drawn6"].classes)
    for split in ("train", "val"):
        (root / f"{split}.json").unlink()
    result = import_dataset("drawn6", root)
    assert result.manifest.split_counts().keys() == {"test"}
    assert not [problem for problem in result.problems if "split" in problem.kind]
