"""FindingEmo: a row for each image, valence and arousal on two scales."""

import pytest

from uniemox.errors import DataError
from uniemox.importers.importing import import_dataset
from uniemox.importers.specs import get_spec
from uniemox.targets.valence_arousal import ValenceArousal

CLASSES = get_spec("findingemo").classes
ROW = {"image_path": "/Run_1/x/new.jpg", "reject": "Keep", "emotion": "Joy", "valence": 1, "arousal": 2}


@pytest.fixture
def imported(trees, tmp_path):
    """Import a FindingEmo with these rows beside the regular ones, all of one image that is there."""

    def make(*rows):
        trees.touch(tmp_path / "images/Run_1/x/new.jpg")
        return import_dataset("findingemo", trees.findingemo(tmp_path, rows=[ROW | row for row in rows]))

    return make


def test_there_are_plutchiks_eight_emotions_in_three_degrees():
    eight = {"joy", "trust", "fear", "surprise", "sadness", "disgust", "anger", "anticipation"}
    assert len(CLASSES) == 3 * len(eight)
    assert eight <= set(CLASSES)


def test_each_image_has_an_emotion_and_both_ratings_on_one_scale(trees, look, tmp_path):
    result = import_dataset("findingemo", trees.findingemo(tmp_path))
    assert result.problems == ()
    assert result.notes == ("240 images, where 25,869 are published",)
    manifest = result.manifest
    assert manifest.facts.classes == CLASSES
    assert manifest.facts.vad_range == (-3, 3)
    assert (manifest.facts.emotion, manifest.facts.layout) == ("felt", "findingemo")
    assert "arousal, rated 0 to 6, is 3 lower here" in manifest.facts.labelled_by
    assert manifest.facts.split_recipe == "70/10/20 per class, seed 0"
    assert manifest.split_counts() == {"train": 168, "val": 24, "test": 48}
    found = look.by_path(manifest)
    for number in range(10):
        path = f"images/Run_{1 + number % 2}/Terror adults, work/terror {number}.jpg"
        assert found[path].label == CLASSES.index("terror")
    ratings = look.cells(manifest, "vad")
    assert {tuple(own.values()) for own in ratings} == {(step, step, None) for step in range(-3, 4)}
    assert ValenceArousal().bind_to(manifest).classes == ("valence", "arousal")


@pytest.mark.parametrize(
    ("place", "folder"), [("", ""), ("", "images"), ("data", ""), ("data", "data/images"), ("", "a/b")]
)
def test_the_images_may_be_some_folders_below_the_root_or_beside_the_list(trees, tmp_path, place, folder):
    result = import_dataset("findingemo", trees.findingemo(tmp_path, place=place, folder=folder))
    assert result.problems == ()
    assert len(result.manifest) == 240


def test_splits_do_not_depend_on_the_folder_of_the_images(trees, tmp_path):
    roots = [trees.findingemo(tmp_path / folder, folder=folder) for folder in ("images", "elsewhere")]
    manifests = [import_dataset("findingemo", root).manifest for root in roots]
    first, second = (
        {path.split("/", 1)[1]: split for path, split in zip(own["path"], own["split"], strict=True)}
        for own in [manifest.table.select(["path", "split"]).to_pydict() for manifest in manifests]
    )
    assert first == second


def test_images_that_could_not_be_downloaded_are_counted(trees, look, tmp_path):
    trees.findingemo(tmp_path)
    for number in range(4):
        (tmp_path / f"images/Run_{1 + number % 2}/Joy adults, work/joy {number}.jpg").unlink()
    result = import_dataset("findingemo", tmp_path)
    assert look.problems(result) == {"listed image that does not exist": 4}
    assert len(result.manifest) == 236


def test_an_image_that_its_annotator_rejected_is_skipped(imported):
    result = imported({"reject": "Reject", "emotion": "", "valence": ""})
    assert result.problems == ()
    assert "1 x image that its annotator rejected, skipped (line 242 of annotations_single.ann)" in result.notes
    assert len(result.manifest) == 240


@pytest.mark.parametrize(
    ("cells", "kind", "rating"),
    [
        ({"valence": 4}, "valence beyond its scale of -3 to 3, skipped", (None, -1, None)),
        ({"arousal": -1}, "arousal beyond its scale of 0 to 6, skipped", (1, None, None)),
        ({"arousal": 7}, "arousal beyond its scale of 0 to 6, skipped", (1, None, None)),
        ({"valence": "high"}, "valence of unknown form", (None, -1, None)),
    ],
)
def test_a_rating_that_is_none_is_counted_with_its_line(imported, look, cells, kind, rating):
    result = imported(cells)
    (problem,) = result.problems
    assert (problem.kind, problem.count) == (kind, 1)
    assert "line 242 of annotations_single.ann" in problem.example
    rows = zip(look.cells(result.manifest, "path"), look.cells(result.manifest, "vad"), strict=True)
    assert tuple(dict(rows)["images/Run_1/x/new.jpg"].values()) == rating


def test_an_unknown_emotion_and_an_image_listed_twice_are_counted(imported, look):
    result = imported({"emotion": "Hangry"}, {}, {})
    assert look.problems(result) == {"unknown class": 1, "image listed twice": 1}
    assert len(result.manifest) == 241


def test_a_missing_column_is_told(trees, tmp_path):
    trees.findingemo(tmp_path, header="user,image_path,emotion")
    with pytest.raises(DataError, match="has no column valence, arousal, only user, image_path, emotion"):
        import_dataset("findingemo", tmp_path)


def test_the_folder_below_is_suggested_and_the_source_is_named(trees, tmp_path):
    trees.findingemo(tmp_path / "inner")
    with pytest.raises(DataError, match=r"looked for annotations_single.ann or data.*gitlab.com.*mean .*inner\?"):
        import_dataset("findingemo", tmp_path)
