"""Every model on every data set."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from uniemox.config.transfer import TransferConfig
from uniemox.errors import CheckpointError, ConfigError, DataError
from uniemox.inference.evaluate import Evaluator, evaluate
from uniemox.inference.transfer import transfer
from uniemox.manifests.columns import with_column
from uniemox.manifests.table import manifest_from_columns, read_manifest, write_manifest


def renamed(painted, path, classes, labels=(0, 1, 2), **changes):
    """Give the painted images other classes: the places of awe, fear and joy among them."""
    manifest = painted.manifest
    table = with_column(manifest.table, "label", pa.array([labels[label] for label in manifest.labels], pa.int16()))
    write_manifest(type(manifest)(table, replace(manifest.facts, classes=classes, **changes)), path)
    return path


@pytest.fixture(scope="module")
def manifests(painted, tmp_path_factory):
    """The painted data under three names: as they are, in Ekman's words, and by polarity."""
    folder = tmp_path_factory.mktemp("others")
    ekman = renamed(painted, folder / "ekman.parquet", ("fear", "happiness", "surprise"), (2, 0, 1), name="other")
    return painted.path, ekman, renamed(painted, folder / "polar.parquet", ("negative", "positive"), (1, 0, 1))


def run(models, data, **changes):
    settings = {"device": "cpu", "workers": 0, "batch_size": 4, "leaks": False} | changes
    return transfer(TransferConfig(models=[str(model) for model in models], data=data, **settings))


def cell(found, model, data):
    return next(one for one in found.cells if (one.model, one.data) == (str(model), data))


def test_each_cell_is_what_evaluate_gives(finetuned, exported, manifests):
    found = run([finetuned.model, exported, "clip:demo"], manifests)
    assert list(found.rows) == [str(finetuned.model), str(exported), "clip:demo", "majority"]
    for model in (finetuned.model, exported, "clip:demo"):
        for path in manifests:
            expected = evaluate(str(model), data=path, device="cpu", num_workers=0, batch_size=4, bridge=True)
            scores = cell(found, model, path.stem).scores
            assert scores.values == expected.values
            assert scores.intervals == expected.intervals
            assert scores.bridged == expected.bridged


def test_the_same_answer_to_all_is_scored_in_the_classes_of_each_data_set(finetuned, manifests, painted):
    found = run([finetuned.model], manifests)
    test = painted.manifest.select(["test"]).labels
    # of equals the first is the most frequent of train
    assert cell(found, "majority", "painted").scores.top1 == np.mean(test == 0)
    assert cell(found, "majority", "ekman").scores.classes == ("fear", "happiness", "surprise")
    polar = cell(found, "majority", "polar").scores
    assert polar.top1 == np.mean(test != 1)
    assert set(polar.intervals) >= {"top1", "macro_f1"}
    # and beside a bridged cell on its own rows and classes
    (beside,) = cell(found, finetuned.model, "ekman").scores.baselines
    assert beside.values["top1"] == np.mean(test[test != 0] == 1)


def test_what_is_done_is_read_and_what_changed_is_computed(finetuned, painted, manifests, tmp_path, monkeypatch):
    cells = tmp_path / "cells"
    first = run([finetuned.model], manifests, cells=cells)
    asked = []
    compute = Evaluator.outputs

    def outputs(self, manifest, *args, **options):
        asked.append(manifest.facts.name)
        return compute(self, manifest, *args, **options)

    monkeypatch.setattr(Evaluator, "outputs", outputs)
    again = run([finetuned.model], manifests, cells=cells)
    assert asked == []
    assert again.to_dict() == first.to_dict()
    fewer = tmp_path / "ekman.parquet"
    shutil.copy(manifests[1], fewer)
    manifest = read_manifest(fewer)
    write_manifest(manifest.where(np.arange(len(manifest)) != len(manifest) - 2), fewer)
    run([finetuned.model], [manifests[0], fewer, manifests[2]], cells=cells)
    assert asked == ["other"]
    folders = {path.parent.name for path in cells.rglob("report.json")}
    assert folders == {"painted", "ekman", "polar"}


def test_a_gap_has_its_reason_and_the_other_cells_are_computed(finetuned, manifests, painted, tmp_path):
    animals = renamed(painted, tmp_path / "animals.parquet", ("cat", "dog", "horse"))
    found = run([finetuned.model], [animals, manifests[0]])
    gap = cell(found, finetuned.model, "animals")
    assert gap.scores is None
    assert gap.reason.startswith("no bridge: the model (awe, fear, joy)")
    assert cell(found, finetuned.model, "painted").scores.num_samples == 7
    assert "no model has scores" in cell(found, "majority", "animals").reason


def test_the_teacher_that_a_model_was_distilled_from_is_a_row(manifests):
    found = run(["demo"], manifests[:1])
    assert list(found.rows) == ["demo", "clip:demo", "majority"]
    assert list(run(["demo", "clip:demo"], manifests[:1]).rows) == ["demo", "clip:demo", "majority"]


def test_two_manifests_of_one_name_are_told_apart(finetuned, manifests, tmp_path):
    shutil.copy(manifests[1], tmp_path / "painted.parquet")
    found = run([finetuned.model], [manifests[0], tmp_path / "painted.parquet"])
    assert list(found.data) == ["painted-1", "painted-2"]


# What a model was trained on


@pytest.fixture
def leaking(painted, tmp_path):
    """A test of six images of which two are of the painted train, one under another name and one recompressed."""
    from PIL import Image

    rows = [painted.manifest.select(["test"]).row(place) for place in range(4)]
    rows += [painted.manifest.select(["train"]).row(place) for place in (0, 1)]
    root = tmp_path / "leaking"
    root.mkdir()
    for place, row in enumerate(rows):
        Image.open(row.path).save(root / f"{place}.png", compress_level=1)
    facts = replace(painted.manifest.facts, name="leaking", root=root)
    paths, labels = [f"{place}.png" for place in range(len(rows))], [row.label for row in rows]
    manifest = manifest_from_columns(facts, paths=paths, splits=["test"] * len(rows), labels=labels)
    write_manifest(manifest, tmp_path / "leaking.parquet")
    return tmp_path / "leaking.parquet", [row.path.relative_to(painted.root).as_posix() for row in rows[4:]]


def test_images_that_a_model_was_trained_on_are_named_and_on_request_removed(finetuned, leaking, tmp_path):
    path, trained = leaking
    for removed, count in ((False, 6), (True, 4)):
        found = run([finetuned.model], [path], leaks=True, remove_leaks=removed, cells=tmp_path / "cells")
        own = cell(found, finetuned.model, "leaking")
        assert own.scores.num_samples == count
        assert {leak.path: leak.trained for leak in own.leaks} == dict(zip(["4.png", "5.png"], trained, strict=True))
        assert own.are_removed == removed
        assert any("2 images of the test are copies of training images" in note for note in own.notes)
        assert ("The scores are without these." in own.notes) == removed
        assert "4.png" in json.dumps(found.to_dict())


def test_training_data_that_are_not_at_hand_are_named(exported, leaking):
    own = cell(run([exported], [leaking[0]], leaks=True), exported, "leaking")
    assert own.unknown == (f"training data of {exported} not at hand",)
    assert own.leaks == ()


def test_a_test_of_which_every_image_was_trained_on_is_a_gap(finetuned, painted):
    found = run([finetuned.model], [painted.path], split="train", leaks=True, remove_leaks=True)
    assert cell(found, finetuned.model, "painted").reason.startswith("every image of the test is a copy")


# What cannot be


def test_a_model_a_manifest_or_a_split_that_is_absent_ends_it_before_anything_is_computed(finetuned, painted, tmp_path):
    with pytest.raises(CheckpointError, match="no model folder"):
        run([finetuned.model, tmp_path / "none"], [painted.path])
    with pytest.raises(DataError, match="no manifest at"):
        run([finetuned.model], [tmp_path / "none.parquet"])
    with pytest.raises(DataError, match="no row in split dev"):
        run([finetuned.model], [painted.path], split="dev")


def test_an_unknown_metric_is_named_with_the_known_ones(finetuned, painted):
    with pytest.raises(ConfigError, match=r"metric is top2; did you mean top\d\?; known are top1, top3"):
        run([finetuned.model], [painted.path], metric="top2")
