"""Views stored before a pretraining, on painted images with a tiny CLIP."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import uniemox.train.reinforce as reinforce_module
from uniemox.config.people import PersonConfig
from uniemox.config.reinforce import ReinforceConfig
from uniemox.config.training import TeacherConfig, ViewsConfig
from uniemox.data import stored_views
from uniemox.data.dataset import Place, PretrainDataset
from uniemox.data.stored_views import open_stored_views, read_facts, shard_path
from uniemox.errors import CheckpointError, DataError, Interrupted
from uniemox.files.locking import locked
from uniemox.manifests.table import read_manifest, write_manifest
from uniemox.models.teacher import Teacher, load_teacher
from uniemox.train.events import Message, Progress
from uniemox.train.pretrain import pretrain
from uniemox.train.reinforce import reinforce
from uniemox.train.tasks import PretrainTask

VIEWS = 3


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    for module in (stored_views, reinforce_module):
        monkeypatch.setattr(module, "ROWS_A_SHARD", 10)


@pytest.fixture
def reinforce_config(painted, tiny_clip, tmp_path):
    def make(**changes):
        teacher = TeacherConfig(model=str(tiny_clip), pretrained=None, precision="fp32")
        settings = {"manifest": painted.path, "out": tmp_path / "views", "views": VIEWS, "image_size": 32}
        compute = {"device": "cpu", "workers": 0, "batch_size": 8}
        return ReinforceConfig(**settings | compute | {"teacher": teacher} | changes)

    return make


def texts(heard):
    return [event.text for event in heard if isinstance(event, Message)]


def dataset_of(manifest, *, seed=0, stored=None):
    return PretrainDataset(
        manifest,
        np.zeros(len(manifest), dtype=np.int64),
        views=ViewsConfig(),
        person=PersonConfig(),
        size=32,
        num_patches=16,
        seed=seed,
        stored=stored,
    )


def test_a_stored_view_is_what_a_pretraining_draws_and_its_feature_what_the_teacher_says(reinforce_config, painted):
    """The oracle is the sample without anything stored, and the teacher asked for it."""
    config = reinforce_config()
    views = open_stored_views(reinforce(config))
    manifest = read_manifest(painted.path).select(["train"])
    teacher = load_teacher(config.teacher, device=torch.device("cpu"))
    live, stored = dataset_of(manifest), dataset_of(manifest, stored=views)
    for row in range(len(manifest)):
        drawn = [live[Place(epoch, row)] for epoch in range(VIEWS)]
        for epoch in range(VIEWS):
            sample = stored[Place(epoch, row)]
            (same,) = [
                each
                for each in drawn
                if torch.equal(each.scene, sample.scene) and torch.equal(each.person, sample.person)
            ]
            feature = teacher.encode_images(same.scene[None].float() / 255)
            torch.testing.assert_close(sample.feature[None].float(), F.normalize(feature), atol=1e-3, rtol=1e-3)


def test_masks_are_drawn_anew_in_every_epoch(reinforce_config, painted):
    views = open_stored_views(reinforce(reinforce_config(views=1)))
    dataset = dataset_of(read_manifest(painted.path).select(["train"]), stored=views)
    first, second = dataset[Place(0, 3)], dataset[Place(1, 3)]
    assert torch.equal(first.scene, second.scene)
    assert not torch.equal(first.scene_noise, second.scene_noise)


def test_a_step_with_stored_features_has_the_losses_of_one_that_asks_the_teacher(
    reinforce_config, pretrain_config, tmp_path, monkeypatch
):
    folder = reinforce(reinforce_config())
    kept = []
    monkeypatch.setattr(Teacher, "release_image_tower", lambda self: kept.append(self))

    def first_step(out):
        heard = []
        pretrain(pretrain_config(tmp_path / out, max_steps=1, stored_views=folder), heard.append)
        return next(event.scalars for event in heard if isinstance(event, Progress))

    stored = first_step("stored")
    ask = PretrainTask._read_teacher

    def ask_the_teacher(self, batch):
        return ask(replace(self, teacher=kept[-1]), batch._replace(features=None))

    monkeypatch.setattr(
        PretrainTask,
        "_read_teacher",
        lambda self, batch: ask(replace(self, teacher=kept[-1]), batch._replace(features=None)),
    )
    assert stored == pytest.approx(first_step("live"), rel=2e-3)


def test_the_image_tower_is_not_asked_in_training(reinforce_config, pretrain_config, tmp_path, monkeypatch):
    folder = reinforce(reinforce_config())
    released = []
    release = Teacher.release_image_tower

    def watch(self):
        release(self)
        released.append(self.tower)

    monkeypatch.setattr(Teacher, "release_image_tower", watch)
    pretrain(pretrain_config(tmp_path / "run", stored_views=folder, max_steps=1))
    (tower,) = released
    assert not list(tower.parameters())  # an answer of it would be the image itself


def test_workers_change_nothing(reinforce_config, tmp_path):
    folders = [
        reinforce(reinforce_config(out=tmp_path / f"{workers}-{batch}", workers=workers, batch_size=batch))
        for workers, batch in ((0, 8), (2, 8), (0, 64))
    ]
    alone, others, larger = (open_stored_views(folder) for folder in folders)
    assert alone.facts == others.facts
    for row in range(alone.facts.rows):
        for epoch in range(VIEWS):
            (crop, feature), (wide_crop, wide) = alone.view(row, epoch), larger.view(row, epoch)
            assert crop == wide_crop
            torch.testing.assert_close(feature, wide, atol=1e-3, rtol=1e-3)


def test_what_was_interrupted_goes_on_where_it_was(reinforce_config, tmp_path):
    whole = reinforce(reinforce_config(out=tmp_path / "whole"))
    heard = []

    def stop(event):
        heard.append(event)
        if isinstance(event, Progress) and event.step > 10 and len(read_facts(config.folder).shards) == 1:
            raise KeyboardInterrupt

    config = reinforce_config()
    with pytest.raises(KeyboardInterrupt):
        reinforce(config, stop)
    with pytest.raises(DataError, match="unfinished"):
        open_stored_views(config.folder)
    kept = shard_path(config.folder, 0).stat().st_mtime_ns
    again = []
    reinforce(config, again.append)
    assert shard_path(config.folder, 0).stat().st_mtime_ns == kept
    assert "of which 1 are there" in texts(again)[0]
    assert open_stored_views(config.folder).facts == open_stored_views(whole).facts
    assert {path.name for path in config.folder.iterdir()} == {path.name for path in whole.iterdir()}
    finished = []
    reinforce(config, finished.append)
    assert not any(isinstance(event, Progress) for event in finished)


def test_a_shard_that_was_deleted_is_made_again_with_those_after_it(reinforce_config):
    config = reinforce_config()
    facts = open_stored_views(reinforce(config)).facts
    shard_path(config.folder, 1).unlink()
    reinforce(config)
    assert open_stored_views(config.folder).facts == facts


def test_a_shard_that_was_cut_is_named(reinforce_config):
    config = reinforce_config()
    reinforce(config)
    path = shard_path(config.folder, 1)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=f"{path} cannot be read: delete it and repeat"):
        reinforce(config)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"views": 2}, "views 3, not 2"), ({"seed": 1}, "seed 0, not 1"), ({"image_size": 24}, "image_size 32, not 24")],
)
def test_a_folder_of_other_settings_is_not_continued(reinforce_config, changes, named):
    reinforce(reinforce_config())
    with pytest.raises(DataError, match=f"holds views with {named}: choose another `out`, or delete the folder"):
        reinforce(reinforce_config(**changes))


def test_a_folder_of_something_else_is_left_alone(reinforce_config, tmp_path):
    (tmp_path / "views").mkdir()
    (tmp_path / "views" / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="exists and holds no stored views: choose another `out`"):
        reinforce(reinforce_config())
    assert [path.name for path in (tmp_path / "views").iterdir()] == ["letter.txt"]


def test_a_folder_in_use_is_not_shared(reinforce_config, tmp_path):
    with locked(tmp_path / "views" / "lock"), pytest.raises(DataError, match=r"views cannot be written: .*"):
        reinforce(reinforce_config())


def test_the_room_is_stated_beforehand_and_must_be_there(reinforce_config, monkeypatch):
    heard = []
    config = reinforce_config()
    reinforce(config, heard.append)
    assert isinstance(heard[0], Message)
    rows = open_stored_views(config.folder).facts.rows
    assert heard[0].text.startswith(f"{rows} images × 3 views × ")
    assert f"MB in {-(-rows // 10)} shards of {config.folder}" in heard[0].text
    shutil.rmtree(config.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 100))
    with pytest.raises(DataError, match=r"but only 0\.0 MB are free: free space, lower `views`, or choose `out`"):
        reinforce(config)


def test_an_image_that_cannot_be_read_is_named_and_skipped_in_training(
    reinforce_config, pretrain_config, painted, tmp_path
):
    root = tmp_path / "copy"
    shutil.copytree(painted.path.parent, root)
    manifest = read_manifest(root / painted.path.name)
    manifest = replace(manifest, facts=replace(manifest.facts, root=root))
    moved = root / "moved.parquet"
    write_manifest(manifest, moved)
    broken = read_manifest(moved).select(["train"]).row(2).path
    before = broken.read_bytes()
    broken.write_text("not an image")
    heard = []
    folder = reinforce(reinforce_config(manifest=moved), heard.append)
    assert [text for text in texts(heard) if text.startswith(f"skipped {broken}: ")]
    broken.write_bytes(before)
    heard.clear()
    pretrain(pretrain_config(tmp_path / "run", data=moved, stored_views=folder), heard.append)
    assert any(f"skipped {broken}: it was unreadable when its views were stored" in text for text in texts(heard))


def test_a_manifest_of_unreadable_images_is_refused(reinforce_config, monkeypatch):
    monkeypatch.setattr(reinforce_module, "read_image", lambda path: reinforce_module.Unreadable("broken"))
    with pytest.raises(DataError, match=r"none of the .* images below .* can be read"):
        reinforce(reinforce_config())


def test_features_that_are_not_finite_are_refused(reinforce_config, monkeypatch):
    monkeypatch.setattr(Teacher, "encode_images", lambda self, pixels: torch.full((len(pixels), self.width), torch.nan))
    with pytest.raises(CheckpointError, match="gives features that are not finite"):
        reinforce(reinforce_config())


def test_a_resumed_run_takes_moved_stored_views_and_refuses_others_and_none(
    reinforce_config, pretrain_config, tmp_path, stop_at
):
    first = reinforce(reinforce_config())
    other = reinforce(reinforce_config(out=tmp_path / "other", seed=5))
    config = pretrain_config(tmp_path / "run", stored_views=first, max_steps=4, save_every=1)
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        pretrain(config, stop_at(2))
    for views in (other, None):
        with pytest.raises(CheckpointError, match="stored views"):
            pretrain(replace(config, stored_views=views, resume=True))
    moved = tmp_path / "moved"
    first.rename(moved)
    pretrain(replace(config, stored_views=moved, resume=True))
