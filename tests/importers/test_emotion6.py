"""Emotion6: the folder, what most raters chose, and their shares."""

from collections import Counter

import pytest

from uniemox.errors import DataError
from uniemox.importers.importing import import_dataset
from uniemox.importers.specs import get_spec

CLASSES = get_spec("emotion6").classes
SEVEN = (*CLASSES, "neutral")


def splits_of(manifest, look):
    return {path: row.split for path, row in look.by_path(manifest).items()}


def test_the_full_set_has_the_published_split(trees, tmp_path):
    result = import_dataset("emotion6", trees.emotion6(tmp_path, 330))
    assert result.problems == result.notes == ()
    assert result.manifest.split_counts() == {"train": 1380, "val": 198, "test": 402}
    counts = result.manifest.select(["train"]).class_counts()
    assert counts == dict.fromkeys(CLASSES, 230)
    assert result.manifest.facts.split_recipe == "70/10/20 per class, truncated, seed 0"


def test_the_folder_is_the_label_and_neutral_is_what_the_shares_lack_to_1(trees, look, tmp_path):
    manifest = import_dataset("emotion6", trees.emotion6(tmp_path)).manifest
    assert manifest.facts.classes == CLASSES
    assert manifest.facts.vad_range == (1, 9)
    assert "keyword" in manifest.facts.labelled_by
    for row, shares, vad in zip(
        look.rows(manifest), look.cells(manifest, "distribution"), look.cells(manifest, "vad"), strict=True
    ):
        assert CLASSES[row.label] == row.path.parent.name
        neutral = 0.7 if row.path.name == "1.jpg" else 0.0
        assert 1 - sum(shares) == pytest.approx(neutral, abs=1e-5)
        assert vad == {"valence": 2.5, "arousal": pytest.approx(3.8), "dominance": None}


def test_the_majority_may_be_neutral(trees, look, tmp_path):
    manifest = import_dataset("emotion6", trees.emotion6(tmp_path), labels="majority").manifest
    assert manifest.facts.classes == SEVEN
    for row in look.rows(manifest):
        assert SEVEN[row.label] == ("neutral" if row.path.name == "1.jpg" else "joy")
    assert all(sum(s) == pytest.approx(1) for s in look.cells(manifest, "distribution"))


def test_all_three_tasks_share_one_split(trees, look, tmp_path):
    trees.emotion6(tmp_path)
    splits = [
        splits_of(import_dataset("emotion6", tmp_path, labels=labels).manifest, look)
        for labels in ("folder", "majority", "distribution", None)
    ]
    assert splits[0] == splits[1] == splits[2] == splits[3]


@pytest.mark.parametrize(("labels", "label"), [("folder", "disgust"), ("majority", None), ("distribution", "disgust")])
def test_equal_shares_are_no_majority(trees, look, tmp_path, labels, label):
    trees.emotion6(tmp_path)
    lines = (tmp_path / "ground_truth.txt").read_text().splitlines()
    lines = [
        "disgust/3.jpg\t2\t3\t.4\t.4\t0\t0\t0\t0\t.2" if line.startswith("disgust/3.jpg") else line for line in lines
    ]
    (tmp_path / "ground_truth.txt").write_text("\n".join(lines))
    result = import_dataset("emotion6", tmp_path, labels=labels)
    row = look.by_path(result.manifest).get("images/disgust/3.jpg")
    assert (None if row is None else result.manifest.facts.classes[row.label]) == label
    told = "1 x image without a majority, skipped (images/disgust/3.jpg)"
    assert (told in result.notes) == (labels == "majority")


def test_the_authors_cut_is_read_as_it_is_with_the_raters_answers(trees, look, tmp_path):
    manifest = import_dataset("emotion6", trees.emotion6(tmp_path, 9, cut=True)).manifest
    assert manifest.split_counts() == {"train": 18, "val": 18, "test": 18}
    assert manifest.facts.split_recipe == "given"
    assert None not in look.cells(manifest, "distribution")


def test_without_the_raters_answers_there_are_folders_alone(trees, look, tmp_path):
    trees.emotion6(tmp_path)
    (tmp_path / "ground_truth.txt").unlink()
    result = import_dataset("emotion6", tmp_path)
    assert result.problems == ()
    assert any("ground_truth.txt not found" in note for note in result.notes)
    assert set(look.cells(result.manifest, "distribution")) == {None}
    with pytest.raises(DataError, match=r"has no ground_truth\.txt, which holds the labels by maj"):
        import_dataset("emotion6", tmp_path, labels="majority")


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("anger/1.jpg\t2\t3\t1\t0\t0\t0\t0\t0", "line of unknown form"),
        ("anger/1.jpg\t2\t3\t1\t0\t0\t0\t0\t0\tx", "line of unknown form"),
        ("anger/1.jpg\t2\t3\t-1\t2\t0\t0\t0\t0\t0", "line of unknown form"),
        ("anger/1.jpg\t2\t3\t9\t0\t0\t0\t0\t0\t0", "line of unknown form"),
        ("anger/1.jpg\t2\tnan\t1\t0\t0\t0\t0\t0\t0", "line of unknown form"),
        ("Anger/1.JPG\t2\t3\t1\t0\t0\t0\t0\t0\t0", "image listed twice"),
    ],
)
def test_a_wrong_line_is_counted(trees, look, tmp_path, line, kind):
    trees.emotion6(tmp_path)
    with (tmp_path / "ground_truth.txt").open("a") as file:
        file.write(f"{line}\n\n")
    result = import_dataset("emotion6", tmp_path)
    assert look.problems(result) == {kind: 1}
    assert result.problems[0].example.endswith("line 62 of ground_truth.txt")


def test_a_picture_without_a_line_has_its_folder_alone(trees, look, tmp_path):
    trees.emotion6(tmp_path)
    trees.touch(tmp_path / "images" / "joy" / "new.jpg")
    result = import_dataset("emotion6", tmp_path)
    assert look.problems(result) == {"missing line of ground_truth.txt": 1}
    assert Counter(d is None for d in look.cells(result.manifest, "distribution"))[True] == 1
    assert len(import_dataset("emotion6", tmp_path, labels="majority").manifest) == 60


def test_other_columns_are_another_file(trees, tmp_path):
    trees.emotion6(tmp_path)
    (tmp_path / "ground_truth.txt").write_text("a\tb\n1\t2\n")
    with pytest.raises(DataError, match="has no column image_filename, valence, arousal, anger"):
        import_dataset("emotion6", tmp_path)
