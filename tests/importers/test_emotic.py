"""EMOTIC: people with sets of labels, from a MATLAB file."""

import json
import shutil

import pytest
from PIL import Image

from uniemox.checkpoints.facts import read_facts
from uniemox.console import cli
from uniemox.errors import DataError
from uniemox.importers.importing import import_dataset
from uniemox.importers.specs import get_spec
from uniemox.manifests.table import Box, write_manifest

CLASSES = get_spec("emotic").classes
FOUND = [CLASSES.index(name) for name in ("peace", "doubt/confusion")]


def test_each_person_is_a_row_with_its_labels_box_and_numbers(trees, look, tmp_path):
    result = import_dataset("emotic", trees.emotic(tmp_path))
    manifest = result.manifest
    assert look.problems(result) == {"class without an image": 24}
    assert manifest.split_counts() == {"train": 3, "val": 3, "test": 3}
    assert set(manifest.labels.tolist()) == {-1}
    assert look.cells(manifest, "label_set") == [[FOUND[0]], [FOUND[0]], sorted(FOUND)] * 3
    assert [row.boxes for row in look.rows(manifest)][:3] == [
        (Box(0, 10, 640, 400.5),),
        (Box(0, 10, 640, 400.5),),
        (Box(0, 11, 640, 401.5),),
    ]
    assert [row.path.name for row in look.rows(manifest)][:3] == ["train_0.jpg", "train_1.jpg", "train_1.jpg"]
    valences = [vad["valence"] for vad in look.cells(manifest, "vad")]
    assert valences == [5, 5, 6, *[6.5] * 6]  # val and test: what annotators combine to
    assert manifest.facts.vad_range == (1, 10)
    assert manifest.facts.split_recipe == "given"


@pytest.mark.parametrize("folder", ["emotic", "", "PAMI/emotic", "images"])
def test_pictures_are_found_at_any_level(trees, tmp_path, folder):
    manifest = import_dataset("emotic", trees.emotic(tmp_path, folder=folder)).manifest
    assert len(manifest) == 9
    assert all(manifest.row(i).path.is_file() for i in range(9))


def annotated(trees, **changes):
    """The images of train, a person of which is changed."""
    entries = trees.emotic_pictures("train")
    for name, value in changes.items():
        entries[0]["person"][0][name] = value
    return {"train": entries}


@pytest.mark.parametrize(
    ("changes", "kind", "rows"),
    [
        ({"body_bbox": [1, 2, 3]}, "box that is no box", 3),
        ({"body_bbox": [700, 0, 800, 9]}, "box that is no box", 3),
        ({"body_bbox": [9, 9, 1, 1]}, "box that is no box", 3),
        ({"body_bbox": "here"}, "box that is no box", 3),
        ({"annotations_categories": {"categories": "Hunger"}}, "unknown class", 2),
        ({"annotations_categories": 3}, "person without a class", 2),
    ],
)
def test_what_is_wrong_with_a_person_is_counted(trees, look, tmp_path, changes, kind, rows):
    result = import_dataset("emotic", trees.emotic(tmp_path, annotations=annotated(trees, **changes)))
    assert look.problems(result)[kind] == 1
    assert len(result.manifest) == rows


def test_numbers_that_are_none_are_left_out(trees, look, tmp_path):
    vad = {"valence": float("nan"), "arousal": "x", "dominance": [1, 2]}
    annotations = annotated(trees, annotations_continuous=vad)
    manifest = import_dataset("emotic", trees.emotic(tmp_path, annotations=annotations)).manifest
    assert look.cells(manifest, "vad")[0] is None


def test_entries_of_another_form_are_counted(trees, look, tmp_path):
    trees.emotic(tmp_path)
    annotations = {"train": {"filename": 3}, "val": 7, "test": trees.emotic_pictures("test")}
    trees.emotic(tmp_path, annotations=annotations, pictures=False)
    result = import_dataset("emotic", tmp_path)
    assert look.problems(result)["image of unknown form"] == 2
    assert result.manifest.split_counts() == {"test": 3}


def test_a_picture_of_two_splits_and_a_person_listed_twice_are_counted(trees, look, tmp_path):
    entries = {split: trees.emotic_pictures("train") for split in ("train", "val")}
    entries["train"][1]["person"][1] = entries["train"][1]["person"][0]
    result = import_dataset("emotic", trees.emotic(tmp_path, annotations=entries))
    found = look.problems(result)
    assert found["image listed in two splits"] == 3
    assert found["person listed twice"] == 1
    assert result.manifest.split_counts() == {"train": 2}


def test_absent_pictures_are_counted_and_all_of_them_are_an_error(trees, look, tmp_path):
    trees.emotic(tmp_path)
    next(tmp_path.rglob("val_0.jpg")).unlink()
    result = import_dataset("emotic", tmp_path)
    assert look.problems(result)["listed image that does not exist"] == 1
    shutil.rmtree(tmp_path / "emotic")
    with pytest.raises(DataError, match=r"images that its lists name.*9 x listed"):
        import_dataset("emotic", tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(400),
        lambda data: b"not a file of MATLAB" * 20,
        *(lambda data, share=share: data[: int(share * len(data))] for share in (0.01, 0.3, 0.99)),
        lambda data: data[:200] + bytes([data[200] ^ 0x55]) + data[201:],
    ],
)
def test_a_damaged_file_is_one_line(trees, tmp_path, damage):
    trees.emotic(tmp_path)
    path = tmp_path / "Annotations/Annotations.mat"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"cannot read .*Annotations\.mat: .*unpack") as caught:
        import_dataset("emotic", tmp_path)
    assert "\n" not in str(caught.value)


def test_another_file_of_matlab_is_named(trees, tmp_path):
    trees.emotic(tmp_path)
    path = tmp_path / "Annotations/Annotations.mat"
    from scipy.io import savemat

    savemat(path, {"other": 1})
    with pytest.raises(DataError, match=r"holds no train, val or test: is it EMOTIC's\?"):
        import_dataset("emotic", tmp_path)


# Training


@pytest.fixture
def emotic(trees, tmp_path):
    """EMOTIC's tree with images that can be read, and its manifest."""
    root = trees.emotic(tmp_path / "emotic", pictures=False)
    folder = root / "emotic" / "mscoco" / "images"
    folder.mkdir(parents=True)
    for split in ("train", "val", "test"):
        for index in range(2):
            Image.new("RGB", (640, 480), (80 * index, 90, 20)).save(folder / f"{split}_{index}.jpg")
    manifest = import_dataset("emotic", root).manifest
    write_manifest(manifest, tmp_path / "emotic.parquet")
    return tmp_path / "emotic.parquet"


def test_the_recipe_for_emotic_runs_on_its_own_layout(emotic, tmp_path, capsys):
    words = ["finetune", "--preset", "emotic", "--data", emotic, "--out", tmp_path / "run"]
    small = ["--size", "mini", "--patch-size", "16", "--image-size", "32", "--max-steps", "2"]
    small += ["--optim.batch-size", "2", "--optim.accumulate", "1", "--precision", "fp32"]
    small += ["--device", "cpu", "--workers", "0"]
    assert cli.main([*map(str, words), *small]) == 0
    facts = read_facts(tmp_path / "run" / "model")
    assert (facts.target, facts.view, len(facts.classes)) == ("multi_label", "both", 26)
    assert (facts.dataset, facts.emotion) == ("emotic", "felt")
    saved = json.loads((tmp_path / "run" / "test" / "report.json").read_text())
    present = [row for row in saved["per_class"] if row["average_precision"] is not None]
    assert [row["name"] for row in present] == ["doubt/confusion", "peace"]
    assert saved["num_samples"] == 3


def test_the_recipe_for_emotics_ratings_runs_on_its_own_layout(emotic, tmp_path):
    words = ["finetune", "--preset", "emotic_vad", "--data", emotic, "--out", tmp_path / "run"]
    small = ["--size", "mini", "--patch-size", "16", "--image-size", "32", "--max-steps", "2"]
    small += ["--optim.batch-size", "2", "--optim.accumulate", "1", "--precision", "fp32"]
    small += ["--device", "cpu", "--workers", "0"]
    assert cli.main([*map(str, words), *small]) == 0
    facts = read_facts(tmp_path / "run" / "model")
    assert (facts.target, facts.view, facts.classes) == ("valence_arousal", "both", ("valence", "arousal", "dominance"))
    assert facts.numbers["scale"] == (1.0, 10.0)
    saved = json.loads((tmp_path / "run" / "test" / "report.json").read_text())
    assert saved["rated"] == [[6.5, 3.0, 9.0]] * 3  # the combined ratings of test
