"""Features by content: what is computed, what is found again, and what never is."""

import os
import shutil

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from uniemox.checkpoints.backbones import find_backbone
from uniemox.config.people import PersonConfig
from uniemox.data.pixels import EvaluationViews
from uniemox.errors import CheckpointError, DataError
from uniemox.files.images import admitting
from uniemox.manifests.table import Box, read_manifest
from uniemox.train import features
from uniemox.train.features import FeatureMaker

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A vision transformer of ours with random weights, in a file of timm's names."""
    file = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0)
    save_file(model.state_dict(), file)
    return file


@pytest.fixture
def make(encoder, tmp_path, heard):
    """Make a maker of features; what is not named is small and in a folder of the test."""

    def build(name=encoder, *, pool=None, **changes):
        settings = {
            "view": "scene",
            "person": PersonConfig(),
            "precision": "fp32",
            "device": CPU,
            "workers": 0,
            "folder": tmp_path / "cache",
            "observer": heard,
        }
        return FeatureMaker(backbone=find_backbone(str(name), pool=pool), **settings | changes)

    return build


@pytest.fixture
def unloaded(monkeypatch):
    """Refuse to load any backbone from now on."""

    def refuse():
        monkeypatch.setattr("uniemox.checkpoints.backbones._load_encoder", lambda *_: pytest.fail("it was loaded"))

    return refuse


def reference(encoder, manifest, view):
    """Class tokens of the views that evaluation prepares, by timm alone."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0).eval()
    model.load_state_dict(load_file(encoder))
    prepare = EvaluationViews(size=32, view=view, person=PersonConfig())
    parts = []
    for index in range(len(manifest)):
        row = manifest.row(index)
        with torch.no_grad():
            tokens = model.forward_features(torch.from_numpy(prepare(Image.open(row.path).convert("RGB"), row.boxes)))
        parts.append(tokens[:, 0].reshape(-1))
    return torch.stack(parts).numpy()


@pytest.mark.parametrize("view", ["scene", "person", "both"])
def test_features_are_those_of_the_views_that_evaluation_prepares(make, encoder, painted, view):
    val = painted.manifest.select(["val"])
    found = make(view=view).features(val, what="val")
    np.testing.assert_allclose(found.values, reference(encoder, val, view), atol=1e-5)
    assert found.rows.tolist() == list(range(9))
    assert found.values.dtype == np.float32
    boxes = [None if view == "scene" or not val.row(i).boxes else val.row(i).boxes[0] for i in range(9)]
    assert list(found.boxes) == boxes


def test_workers_change_nothing(make, painted, tmp_path):
    val = painted.manifest.select(["val"])
    alone, together = (
        make(workers=workers, folder=tmp_path / str(workers), view="both").features(val, what="val")
        for workers in (0, 2)
    )
    assert np.array_equal(alone.values, together.values)
    assert alone.boxes == together.boxes


@pytest.mark.parametrize("view", ["scene", "both"])
def test_the_second_time_they_are_found_without_the_backbone(make, painted, unloaded, heard, view):
    val = painted.manifest.select(["val"])
    first = make(view=view).features(val, what="val")
    unloaded()
    second = make(view=view).features(val, what="val")
    assert np.array_equal(first.values, second.values)
    assert np.array_equal(first.rows, second.rows)
    assert (first.boxes, first.reasons) == (second.boxes, second.reasons)
    assert any(text.startswith("val: features of 9 images are those in ") for text in heard.texts)


def test_the_same_images_elsewhere_are_found(make, own_painted, unloaded, tmp_path):
    first = make().features(own_painted.manifest.select(["val"]), what="val")
    shutil.move(own_painted.root, tmp_path / "moved")
    moved = read_manifest(tmp_path / "moved" / own_painted.path.name).select(["val"])
    assert moved.facts.root == tmp_path / "moved"
    unloaded()
    assert np.array_equal(make().features(moved, what="val").values, first.values)


def test_changed_images_are_never_answered_from_before(make, own_painted, encoder):
    val = own_painted.manifest.select(["val"])
    before = make().features(val, what="val")
    path = val.row(4).path
    status = path.stat()
    Image.new("RGB", (48, 48), "red").save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # a date means nothing
    after = make().features(val, what="val")
    np.testing.assert_allclose(after.values, reference(encoder, val, "scene"), atol=1e-5)
    differs = (before.values != after.values).any(axis=1)
    assert differs.tolist() == [row == 4 for row in range(9)]


def test_changed_weights_are_never_answered_from_before(make, encoder, painted, tmp_path):
    val = painted.manifest.select(["val"])
    own = tmp_path / "own.safetensors"
    shutil.copy(encoder, own)
    before = make(own).features(val, what="val").values
    state = load_file(encoder)
    save_file({**state, "norm.bias": state["norm.bias"] + 1}, own)
    np.testing.assert_allclose(make(own).features(val, what="val").values, before + 1, atol=1e-5)


def test_what_features_depend_on_has_a_file_each(make, painted, tmp_path):
    val = painted.manifest.select(["val"])
    people = PersonConfig(margin=0.5)
    makers = (make(), make(pool="mean"), make(precision="bf16"), make(view="person"), make(view="both"))
    makers += (make(view="person", person=people),)
    for count, maker in enumerate(makers, 1):
        maker.features(val, what="val")
        assert len(list((tmp_path / "cache").iterdir())) == count
    make(person=people).features(val, what="val")  # nobody is cut out
    with admitting(48 * 48):
        make().features(val, what="val")
    assert len(list((tmp_path / "cache").iterdir())) == len(makers) + 1
    make().features(painted.manifest.select(["test"]), what="test")
    assert len(list((tmp_path / "cache").iterdir())) == len(makers) + 2


def test_other_boxes_are_other_persons(make, own_painted, rewrite, encoder):
    make(view="person").features(own_painted.manifest.select(["val"]), what="val")
    manifest = own_painted.manifest
    rewrite(own_painted, people=[[Box(0, 0, 20, 20)]] * len(manifest))
    val = own_painted.manifest.select(["val"])
    found = make(view="person").features(val, what="val")
    np.testing.assert_allclose(found.values, reference(encoder, val, "person"), atol=1e-5)


def test_images_that_cannot_be_read_are_skipped_with_a_reason(make, own_painted, unloaded):
    val = own_painted.manifest.select(["val"])
    whole = make().features(val, what="val")
    val.row(0).path.write_bytes(b"no image")
    val.row(3).path.unlink()
    found = make().features(val, what="val")
    assert found.rows.tolist() == [1, 2, 4, 5, 6, 7, 8]
    assert np.array_equal(found.values, whole.values[found.rows])
    assert [row for row, _ in found.reasons] == [0, 3]
    assert found.unreadable(val)[1] == f"{val.row(3).path}: no such file or directory"
    unloaded()
    assert make().features(val, what="val").reasons == found.reasons


def test_no_readable_image_at_all_is_an_error(make, own_painted):
    val = own_painted.manifest.select(["val"])
    for index in range(len(val)):
        val.row(index).path.unlink()
    with pytest.raises(DataError, match="none of the 9 images below .* can be read: .*: no such file"):  # noqa: RUF043
        make().features(val, what="val")


@pytest.mark.parametrize("damage", ["cut", "numbers", "other"])
def test_damaged_files_are_computed_again(make, painted, tmp_path, heard, damage):
    val = painted.manifest.select(["val"])
    first = make().features(val, what="val")
    (file,) = (tmp_path / "cache").iterdir()
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "numbers":
        state = load_file(file)
        save_file({**state, "values": state["values"] * 2}, file)
    else:
        make(pool="mean").features(val, what="val")
        (other,) = (path for path in (tmp_path / "cache").iterdir() if path != file)
        shutil.copy(other, file)
    assert np.array_equal(make().features(val, what="val").values, first.values)
    assert sum("are damaged and are computed again" in text for text in heard.texts) == 1
    heard.clear()
    make().features(val, what="val")
    assert any("are those in" in text for text in heard.texts)


def test_a_folder_that_cannot_be_written_is_named(make, painted, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written: .* is a file, not a folder. Choose another `cache`"):  # noqa: RUF043
        make(folder=tmp_path / "file" / "cache").features(painted.manifest.select(["val"]), what="val")


def test_features_that_are_not_finite_are_refused_and_not_kept(make, encoder, painted, tmp_path):
    state = load_file(encoder)
    large = tmp_path / "large.safetensors"
    save_file({**state, "norm.weight": state["norm.weight"] * 3e38, "norm.bias": state["norm.bias"] + 3e38}, large)
    val = painted.manifest.select(["val"])
    with pytest.raises(CheckpointError, match=r"gives features that are not finite for .*\.png: take another backbone"):
        make(large).features(val, what="val")
    assert not (tmp_path / "cache").exists()


def test_progress_counts_images(make, painted, heard):
    make().features(painted.manifest.select(["val"]), what="val")
    (event,) = (event for event in heard if hasattr(event, "scalars"))
    assert (event.step, event.total_steps) == (9, 9)


def test_a_file_of_an_older_form_is_not_read(make, painted, monkeypatch, tmp_path):
    val = painted.manifest.select(["val"])
    make().features(val, what="val")
    monkeypatch.setattr(features, "_FORMAT", 2)
    make().features(val, what="val")
    assert len(list((tmp_path / "cache").iterdir())) == 2
