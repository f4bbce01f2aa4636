"""`data reinforce` as it is typed."""

from dataclasses import replace

import pytest

from uniemox.data.stored_views import open_stored_views
from uniemox.manifests.table import read_manifest, write_manifest


@pytest.fixture
def few(painted, tmp_path):
    manifest = read_manifest(painted.path)
    write_manifest(replace(manifest, facts=replace(manifest.facts, root=painted.path.parent)), tmp_path / "few.parquet")
    return tmp_path / "few.parquet"


def words_of(few, clip):
    sizes = ("--views", 2, "--image-size", 32, "--scene-scale", "[0.5, 1.0]")
    teacher = ("--teacher.model", clip, "--teacher.pretrained", "null")
    return ("data", "reinforce", few, *sizes, *teacher, "--device", "cpu", "--workers", 0)


def test_views_are_stored_beside_the_manifest_and_a_pretraining_takes_them(run, few, tiny_clip, tmp_path):
    code, out, err = run(*words_of(few, tiny_clip))
    assert (code, out) == (0, f"{tmp_path / 'few.views'}\n"), err
    assert "images × 2 views ×" in err
    facts = open_stored_views(tmp_path / "few.views").facts
    assert (facts.views, facts.image_size, facts.scene_scale) == (2, 32, (0.5, 1.0))
    words = ("--model.size", "mini", "--model.patch-size", 8, "--model.image-size", 32, "--views.mask-ratio", 0.5)
    words += ("--model.decode-share", 0.5, "--optim.batch-size", 8, "--max-steps", 1, "--device", "cpu", "--workers", 0)
    words += ("--teacher.model", tiny_clip, "--teacher.pretrained", "null", "--stored-views", tmp_path / "few.views")
    pretrain = ("pretrain", "--data", few, *words)
    code, _, err = run(*pretrain, "--out", tmp_path / "run")
    assert code == 1
    assert f"{tmp_path / 'few.views'} holds views with scene_scale (0.5, 1.0), and the run has (0.2, 1.0)" in err
    assert "set --views.scene-scale" in err
    code, out, err = run(*pretrain, "--views.scene-scale", "[0.5, 1.0]", "--out", tmp_path / "run")
    assert code == 0, err


def test_a_second_time_finds_everything_done(run, few, tiny_clip):
    assert run(*words_of(few, tiny_clip))[0] == 0
    code, _, err = run(*words_of(few, tiny_clip))
    assert code == 0
    assert "of which 1 are there" in err
