import shutil
from dataclasses import replace

import pytest

from uniemox.checkpoints.open import open_model
from uniemox.inference.origins import Origins
from uniemox.manifests.table import write_manifest


def traced(name, dataset="unknown", known=()):
    origins = Origins()
    origins.trace(open_model(str(name)), dataset, known)
    return origins


def test_a_run_names_its_data_and_those_of_the_run_that_it_started_from(finetuned, pretrained, painted):
    origins = traced(finetuned.config.out)
    splits = {splits: len(manifest) for (path, splits), manifest in origins.trained.items()}
    assert {path for path, _ in origins.trained} == {painted.path.resolve()}
    assert splits == {("train", "val"): 33, tuple(pretrained.config.splits): 24}
    assert origins.unknown == []


def test_the_model_in_a_run_is_traced_as_the_run_is(finetuned):
    assert traced(finetuned.model).trained.keys() == traced(finetuned.config.out).trained.keys()


def test_a_model_without_its_run_is_known_by_the_name_of_its_data_set_or_not_at_all(painted, tmp_path):
    manifest = painted.manifest
    write_manifest(replace(manifest, facts=replace(manifest.facts, name="drawn6")), tmp_path / "drawn6.parquet")
    own = replace(manifest, facts=replace(manifest.facts, name="drawn6"))
    for name in ("demo", "clip:demo"):
        origins = traced(name, "drawn6", [(tmp_path / "drawn6.parquet", own), (painted.path, manifest)])
        assert [splits for _, splits in origins.trained] == [("train", "val")]
        assert origins.unknown == []
        assert traced(name, "drawn6", [(painted.path, manifest)]).unknown == [f"training data of {name} not at hand"]


def test_an_export_does_not_say_where_it_is_from(exported):
    assert traced(exported).unknown == [f"training data of {exported} not at hand"]


@pytest.mark.parametrize("gone", ["data", "init"])
def test_what_is_gone_is_named(gone, finetuned, tmp_path, painted):
    run = tmp_path / "run"
    shutil.copytree(finetuned.config.out, run)
    config = run / "config.yaml"
    old = str(painted.path) if gone == "data" else finetuned.config.init
    config.write_text(config.read_text().replace(old, str(tmp_path / "gone")))
    origins = traced(run)
    assert len(origins.trained) == (0 if gone == "data" else 1)
    (text,) = origins.unknown
    assert str(tmp_path / "gone") in text
    assert "not at hand" in text
