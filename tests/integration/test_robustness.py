"""What a hostile or careless user can bring, through more than one module."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from uniemox.checkpoints.inspection import inspect
from uniemox.checkpoints.load import load_model, load_start
from uniemox.config.people import PersonConfig
from uniemox.config.training import AugmentConfig, FinetuneConfig, ModelConfig, ViewsConfig
from uniemox.console import cli
from uniemox.data.dataset import Place, PretrainDataset
from uniemox.errors import CheckpointError, ConfigError, DataError
from uniemox.inference.predictor import Predictor, find_images
from uniemox.manifests.table import Box, digest, manifest_from_columns, read_manifest, write_manifest
from uniemox.models.teacher import load_teacher
from uniemox.people.regions import clip_box, crop_region, person_region
from uniemox.settings import save_config
from uniemox.train.finetune import finetune


def swap_classes(painted):
    """Write the manifest again with its first two classes exchanged in name."""
    manifest = painted.manifest
    first, second, *rest = manifest.facts.classes
    facts = replace(manifest.facts, classes=(second, first, *rest))
    rows = [manifest.row(index) for index in range(len(manifest))]
    changed = manifest_from_columns(
        facts,
        paths=[row.path.relative_to(manifest.facts.root).as_posix() for row in rows],
        labels=[row.label for row in rows],
        splits=[row.split for row in rows],
        attributes=[row.attributes for row in rows],
        people=[row.boxes for row in rows],
    )
    write_manifest(changed, painted.path)


def test_a_run_is_not_resumed_on_other_data(own_painted, finetune_config, tmp_path):
    config = finetune_config(tmp_path / "run", data=own_painted.path, max_steps=2)
    finetune(config)
    swap_classes(own_painted)
    with pytest.raises(CheckpointError, match="started with other data of train"):
        finetune(replace(config, resume=True))


def test_a_run_may_go_on_where_the_data_was_moved_to(own_painted, finetune_config, tmp_path):
    config = finetune_config(tmp_path / "run", data=own_painted.path, max_steps=2)
    finetune(config)
    moved = tmp_path / "elsewhere"
    own_painted.path.parent.rename(moved)
    finetune(replace(config, data=moved / own_painted.path.name, resume=True))


def test_the_digest_is_of_the_rows_and_not_of_how_they_lie(painted, tmp_path):
    manifest = painted.manifest
    part = manifest.select(["val"])
    write_manifest(part, tmp_path / "part.parquet")
    again = read_manifest(tmp_path / "part.parquet", root=manifest.facts.root)
    columns = ["path", "split", "label", "label_set", "attributes", "people"]
    assert digest(part, columns) == digest(again, columns)
    assert digest(part, columns) != digest(manifest.select(["test"]), columns)
    assert len({digest(part, columns[:count]) for count in range(len(columns) + 1)}) == 7


def test_a_box_outside_the_picture_does_not_hide_one_inside():
    boxes = (Box(1000, 1000, 2000, 2000), Box(5, 5, 20, 30))
    region = person_region(boxes, PersonConfig(margin=0), width=48, height=40)
    assert region == (5, 5, 20, 30)
    assert clip_box(boxes[0], width=48, height=40) is None


def test_boxes_that_lie_outside_are_told_and_the_scene_stands_in(own_painted):
    manifest = own_painted.manifest.select(["train"])
    row = manifest.row(0)
    outside = manifest_from_columns(
        manifest.facts,
        paths=[row.path.relative_to(manifest.facts.root).as_posix()],
        labels=[0],
        splits=["train"],
        people=[(Box(1000, 1000, 2000, 2000),)],
    )
    data = PretrainDataset(
        outside,
        np.zeros(1, dtype=np.int64),
        views=ViewsConfig(),
        person=PersonConfig(),
        size=32,
        num_patches=16,
        seed=0,
    )
    sample = data[Place(0, 0)]
    assert torch.equal(sample.scene, sample.person)
    (skipped,) = sample.skipped
    assert str(row.path) in skipped.path
    assert "outside the image" in skipped.reason


def test_an_enormous_box_is_clipped():
    box = Box(0, 0, 1e300, 1)
    assert crop_region(box, width=48, height=40, margin=0.1) == (0, 0, 48, 2)


@pytest.mark.parametrize(
    "words",
    ["foo", "rand-mX", "rand-m99999", "v0", "augmix-m3", "rand-w0", "rand-t1", "rand-m9.5", "rand-n0.5", "rand-9"],
)
def test_words_that_timm_would_misread_are_refused(words):
    with pytest.raises(ConfigError, match="rand_augment is"):
        AugmentConfig(rand_augment=words)


@pytest.mark.parametrize(("image", "patch"), [(8192, 4096), (2048, 1), (33, 8)])
def test_a_picture_of_too_many_patches_is_refused(image, patch):
    with pytest.raises(ConfigError, match=f"model.image_size {image}"):
        ModelConfig(image_size=image, patch_size=patch)


def test_a_seed_that_no_generator_takes_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="seed is"):
        FinetuneConfig(data=tmp_path, out=tmp_path, seed=2**63)


def test_a_least_rate_above_the_peak_is_refused(finetune_config, tmp_path):
    config = finetune_config(tmp_path / "run", optim={"min_lr": 1.0})
    with pytest.raises(ConfigError, match=r"min_lr 1\.0 is more than"):
        finetune(config)


@pytest.mark.slow
def test_an_error_of_a_worker_process_is_one_line(own_painted, finetune_config, tmp_path):
    for path in own_painted.root.rglob("*.png"):
        if "train" in path.parts:
            path.write_bytes(b"")
    config = finetune_config(tmp_path / "run", data=own_painted.path, workers=1)
    with pytest.raises(DataError, match="images in sequence cannot be read") as caught:
        finetune(config)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    "facts",
    [
        '{"version": Infinity}',
        "[" * 200_000,
        {"url": [1]},
        {"classes": "ab"},
        {"classes": ["a", "\ud800"]},
        {"name": 5},
    ],
)
def test_hostile_facts_of_a_manifest_are_one_line(painted, tmp_path, facts):
    import pyarrow.parquet as pq

    table = pq.read_table(painted.path)
    (key,) = [key for key in table.schema.metadata if b"uniemox" in key]
    if isinstance(facts, dict):
        facts = json.dumps(json.loads(table.schema.metadata[key]) | facts)
    path = tmp_path / "m.parquet"
    pq.write_table(table.replace_schema_metadata({key: facts.encode()}), path)
    with pytest.raises(DataError, match="damaged facts") as caught:
        read_manifest(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("preprocess", [{"mean": "x"}, {"mean": [1]}, {"std": [0, 0, 0]}, 5])
def test_a_teacher_with_a_wrong_preprocessing_is_refused(tiny_clip, tmp_path, preprocess):
    import shutil

    from uniemox.config.training import TeacherConfig

    folder = tmp_path / "clip"
    shutil.copytree(tiny_clip, folder)
    path = folder / "open_clip_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"preprocess_cfg": preprocess}))
    with pytest.raises(CheckpointError, match="preprocess_cfg"):
        load_teacher(TeacherConfig(model=str(folder), pretrained=None), device=torch.device("cpu"))


def test_want_of_memory_is_one_line(monkeypatch, capsys):
    def starve(words):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 GB\nmore")

    monkeypatch.setattr(cli, "_run", starve)
    assert cli.main(["predict"]) == cli.FAILURE
    assert capsys.readouterr().err.count("\n") == 1


def test_another_defect_keeps_its_traceback(monkeypatch):
    def fail(words):
        raise RuntimeError("a defect")

    monkeypatch.setattr(cli, "_run", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        cli.main(["predict"])


RUN_TAKERS = {
    "predict": ["RUN", "PICTURE"],
    "evaluate": ["RUN", "--data", "DATA"],
    "export": ["RUN", "--out", "OUT"],
    "checkpoint inspect": ["RUN"],
    "checkpoint push": ["RUN", "hf-hub:org/name"],
    "finetune": ["--init", "RUN", "--data", "DATA", "--out", "OUT", "--max-steps", "1"],
    "pretrain": ["--init", "RUN", "--data", "DATA", "--out", "OUT", "--max-steps", "1"],
}


@pytest.mark.parametrize("command", RUN_TAKERS)
def test_a_run_without_a_model_is_told_by_every_command_that_takes_one(
    painted, tmp_path, capsys, command, pretrain_config
):
    run = tmp_path / "run"
    run.mkdir()
    save_config(pretrain_config(run), run / "config.yaml")
    names = {"RUN": run, "PICTURE": next(painted.root.rglob("*.png")), "DATA": painted.path, "OUT": tmp_path / "out"}
    words = [str(names.get(word, word)) for word in RUN_TAKERS[command]]
    teacher = ["--loss.similarity", "0", "--loss.contrast", "0"] if command == "pretrain" else []
    code = cli.main([*command.split(), *words, *teacher])
    assert code == cli.FAILURE
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"{run} is a run that has not finished, so it has no model yet" in told


@pytest.mark.parametrize("take", [load_model, load_start, inspect, Predictor.load])
def test_a_run_is_taken_for_its_model(finetuned, take):
    assert finetuned.model.parent.joinpath("config.yaml").exists()
    assert take(str(finetuned.model.parent))


def test_a_folder_that_cannot_be_listed_is_told(monkeypatch, tmp_path):
    def walk(path, onerror):
        onerror(PermissionError(13, "Permission denied", str(path / "locked")))
        return []

    monkeypatch.setattr("uniemox.inference.predictor.os.walk", walk)
    with pytest.raises(DataError, match="locked cannot be listed"):
        find_images([tmp_path])


def test_a_path_that_looks_like_markup_is_only_a_path(painted, capsys):
    assert cli.main(["evaluate", "m[/x]", "--data", str(painted.path)]) == cli.FAILURE
    assert "m[/x]" in capsys.readouterr().err


def test_the_provenance_of_a_pretraining_says_what_it_saw(pretrained):
    facts = json.loads((pretrained.model / "config.json").read_text())["uniemox"]
    settings = json.loads(facts["provenance"]["settings"])
    assert settings["splits"] == list(pretrained.config.splits)
    assert settings["teacher"] == {"emotion_sentence": pretrained.config.teacher.emotion_sentence}
    assert facts["provenance"]["init"] == "random weights"
    assert str(pretrained.config.data) not in json.dumps(facts)
    assert np.isfinite(facts["temperature"])
