"""Whole runs on painted pictures and a tiny CLIP."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file, save_file

import uniemox.data.dataset as dataset_module
import uniemox.models.teacher as teacher_module
import uniemox.train.run as run_module
from uniemox.checkpoints.bundle import load_classifier, load_pretraining
from uniemox.checkpoints.facts import read_facts
from uniemox.checkpoints.resume import load_state
from uniemox.config import FusedBy, PersonConfig, PretrainConfig
from uniemox.data.manifest import Attributes, manifest_from_columns, write_manifest
from uniemox.data.pixels import EvaluationViews
from uniemox.devices import build_accelerator
from uniemox.errors import CheckpointError, ConfigError, DataError, TrainingError
from uniemox.evaluate import Outputs, compute_outputs
from uniemox.metrics import Report, evaluate_predictions
from uniemox.models.encoder import resample_positions
from uniemox.models.teacher import Teacher
from uniemox.settings import load_config, save_config
from uniemox.train.engine import Engine
from uniemox.train.events import Message, Progress
from uniemox.train.journal import read_journal
from uniemox.train.run import finetune, pretrain

ONE_STEP = {"max_steps": 1}
NO_TEACHER = {"contrast": 0.0, "similarity": 0.0}
PLAIN = {"rand_augment": None, "erase": 0.0, "mixup": 0.0, "cutmix": 0.0}


def weights_in(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def without_time(journal):
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in journal]


def stop_at(step, observer=lambda _: None, action=None):
    """An observer that stops the run in the middle of what follows a step."""

    def hear(event):
        observer(event)
        if isinstance(event, Progress) and event.step == step:
            if action is None:
                raise KeyboardInterrupt
            action()

    return hear


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def rewrite(painted, **changes):
    """Write the manifest again with other columns."""
    manifest = painted.manifest
    rows = [manifest.row(index) for index in range(len(manifest))]
    columns = {
        "paths": [row.path.relative_to(painted.root).as_posix() for row in rows],
        "splits": [row.split for row in rows],
        "labels": [row.label for row in rows],
        "attributes": [row.attributes for row in rows],
        "people": [row.boxes for row in rows],
    }
    write_manifest(manifest_from_columns(manifest.facts, **columns | changes), painted.path)


# Pretraining


def test_a_run_folder_tells_its_story(pretrained):
    config = pretrained.config
    assert pretrained.model == config.out / "model"
    assert {path.name for path in config.out.iterdir()} == {
        "config.yaml", "environment.json", "metrics.jsonl", "model", "state", "tensorboard"
    }  # fmt: skip
    assert load_config(PretrainConfig, config.out / "config.yaml") == config
    lines = read_journal(config.out / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for line in lines:
        terms = line["contrast"] + line["similarity"] + line["reconstruction"]
        assert line["loss"] == pytest.approx(terms, rel=1e-5)
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_the_model_says_where_it_comes_from_without_paths(pretrained):
    facts = read_facts(pretrained.model)
    assert (facts.kind, facts.dataset, facts.emotion) == ("pretraining", "painted", "evoked")
    assert facts.provenance["teacher"] == "tiny_clip"
    assert facts.provenance["rows"] == "24"
    assert facts.provenance["steps"] == "6"
    assert json.loads(facts.provenance["settings"])["loss"]["contrast"] == 1.0
    for path in pretrained.model.iterdir():
        assert str(pretrained.config.out).encode() not in path.read_bytes()
        assert str(pretrained.config.data.parent).encode() not in path.read_bytes()


def test_the_teacher_is_in_no_weights_no_optimiser_and_no_checkpoint(pretrained, tiny_clip):
    model = load_pretraining(pretrained.model).model
    names = set(model.state_dict())
    state = load_state(pretrained.config.out / "state")
    assert state.weights.keys() == {"module"}
    assert state.weights["module"].keys() == names
    assert not [
        name
        for name in names
        if any(word in name for word in ("visual", "text", "clip", "teacher"))
    ]
    in_optimizer = sum(len(group["params"]) for group in state.optimizer["param_groups"])
    assert in_optimizer == sum(p.requires_grad for p in model.parameters())
    shapes = [tuple(moments["exp_avg"].shape) for moments in state.optimizer["state"].values()]
    trainable = [tuple(p.shape) for p in model.parameters() if p.requires_grad]
    assert Counter(shapes) == Counter(trainable)
    clip = load_file(tiny_clip / "open_clip_model.safetensors")
    theirs = {tensor.numpy().tobytes() for tensor in clip.values() if tensor.numel() > 16}
    ours = {tensor.numpy().tobytes() for tensor in state.weights["module"].values()}
    assert not theirs & ours
    assert not issubclass(Teacher, torch.nn.Module)


def test_pretraining_is_the_same_on_any_number_of_workers(
    pretrain_config, pretrained, tmp_path, heard
):
    folder = pretrain(pretrain_config(tmp_path / "run", num_workers=2), heard)
    assert heard.losses == pretrained.heard.losses
    assert weights_in(folder) == weights_in(pretrained.model)


def test_another_seed_is_another_run(pretrain_config, pretrained, tmp_path, heard):
    pretrain(pretrain_config(tmp_path / "run", seed=1, **ONE_STEP), heard)
    assert heard.losses[0] != pretrained.heard.losses[0]


@pytest.fixture
def texts_read(monkeypatch):
    """Calls of the teacher's text tower, as lists of texts."""
    calls, encode = [], Teacher.encode_texts

    def spy(self, texts, *more):
        calls.append(list(texts))
        return encode(self, texts, *more)

    monkeypatch.setattr(Teacher, "encode_texts", spy)
    return calls


def test_each_distinct_description_is_encoded_once_and_before_training(
    pretrain_config, tmp_path, texts_read, monkeypatch
):
    released = []
    release = Teacher.release_text_tower
    monkeypatch.setattr(
        Teacher, "release_text_tower", lambda self: (released.append(1), release(self))
    )
    first_step = []
    pretrain(
        pretrain_config(tmp_path / "run"),
        lambda event: first_step.append(len(texts_read)) if isinstance(event, Progress) else None,
    )
    (texts,) = texts_read  # two scenes and three emotions among 24 pictures
    assert len(texts) == len(set(texts)) == 6
    assert set(first_step) == {1}
    assert released == [1]
    assert all("The overall emotion conveyed is" in text for text in texts)


def test_pretraining_without_the_emotion_sentence_never_reads_the_label(
    pretrain_config, tmp_path, texts_read, heard
):
    config = pretrain_config(tmp_path / "run", teacher={"emotion_sentence": False}, **ONE_STEP)
    pretrain(config, heard)
    (texts,) = texts_read
    assert len(texts) == 2
    for text in texts:
        assert "emotion" not in text
        assert not any(name in text for name in ("awe", "fear", "joy"))


def test_without_contrast_no_text_is_encoded(pretrain_config, tmp_path, texts_read, heard):
    pretrain(pretrain_config(tmp_path / "run", loss={"contrast": 0.0}, **ONE_STEP), heard)
    assert texts_read == []
    assert heard[-1].scalars.keys() == {"loss", "similarity", "reconstruction"}


def test_without_the_teachers_terms_no_teacher_is_loaded(
    pretrain_config, tmp_path, monkeypatch, heard
):
    monkeypatch.setattr(teacher_module, "load_teacher", pytest.fail)
    folder = pretrain(pretrain_config(tmp_path / "run", loss=NO_TEACHER, **ONE_STEP), heard)
    assert heard[-1].scalars.keys() == {"loss", "reconstruction"}
    names = load_file(folder / "pretrain.safetensors")
    assert not [name for name in names if name.startswith(("fusion", "projection"))]
    assert "teacher" not in read_facts(folder).provenance


ABLATIONS = {
    "no reconstruction": {"loss": {"reconstruction": 0.0}},
    "similarity alone": {"loss": {"contrast": 0.0, "reconstruction": 0.0}},
    "normalised target": {"loss": {"normalized_target": True}},
    **{f"fusion by {name}": {"model": {"fusion": name}} for name in get_args(FusedBy)},
    "another width": {"model": {"decoder_width": 32}},
    "the scene twice": {"views": {"person": "scene"}},
    "no person": {"views": {"person": "none"}, "model": {"fusion": "none"}},
    "layer decay": {"optim": {"layer_decay": 0.75}},
    "half precision": {"precision": "bf16"},
    "several splits": {"splits": ("train", "val")},
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_trains_and_leaves_a_model_that_loads(
    pretrain_config, tmp_path, heard, name
):
    config = pretrain_config(tmp_path / "run", **ABLATIONS[name], **ONE_STEP)
    folder = pretrain(config, heard)
    assert all(torch.isfinite(torch.tensor(loss)) for loss in heard.losses)
    loaded = load_pretraining(folder).model
    assert all(tensor.dtype == torch.float32 for tensor in loaded.state_dict().values())
    assert read_facts(folder).provenance["rows"] == ("33" if name == "several splits" else "24")


def test_the_moving_average_is_what_pretraining_leaves(pretrain_config, tmp_path):
    folder = pretrain(pretrain_config(tmp_path / "run", optim={"ema_decay": 0.9}))
    state = load_state(tmp_path / "run" / "state")
    left = load_pretraining(folder).model.state_dict()
    assert all(torch.equal(left[name], tensor) for name, tensor in state.weights["ema"].items())
    assert not torch.equal(
        left["decoder_embed.weight"], state.weights["module"]["decoder_embed.weight"]
    )


def test_what_the_data_lack_is_said_once(pretrained):
    assert pretrained.heard.texts == [
        "24 pictures, 6 distinct descriptions",
        "6 of 24 pictures have no person box: the scene stands in",
    ]


def test_pictures_that_all_have_one_description_are_warned_of(
    pretrain_config, own_painted, tmp_path, heard
):
    rewrite(
        own_painted,
        attributes=[Attributes()] * 40,
        people=[(own_painted.manifest.row(0).boxes)] * 40,
    )
    config = pretrain_config(
        tmp_path / "run", data=own_painted.path, teacher={"emotion_sentence": False}, **ONE_STEP
    )
    pretrain(config, heard)
    assert "all pictures have the same description, so loss.contrast teaches nothing" in heard.texts
    assert not any("no person box" in text for text in heard.texts)


def test_rows_without_a_label_can_be_pretrained_on(
    pretrain_config, own_painted, tmp_path, texts_read
):
    rewrite(own_painted, labels=[None] * 40)
    pretrain(pretrain_config(tmp_path / "run", data=own_painted.path, **ONE_STEP))
    assert not any("emotion" in text for text in texts_read[0])


def test_an_unreadable_picture_of_training_is_skipped_named_and_counted(
    pretrain_config, own_painted, tmp_path, heard
):
    broken = own_painted.manifest.row(5).path
    broken.write_bytes(b"")
    pretrain(pretrain_config(tmp_path / "run", data=own_painted.path), heard)
    assert f"skipped {broken}: empty file" in heard.texts
    assert heard.texts[-1] == "1 unusable pictures or boxes were skipped"


def test_pretraining_goes_on_from_a_model(pretrain_config, pretrained, tmp_path, monkeypatch):
    started = []
    run = Engine.run
    monkeypatch.setattr(
        Engine,
        "run",
        lambda self: (
            started.append(
                {name: tensor.clone() for name, tensor in self.bare.state_dict().items()}
            ),
            run(self),
        ),
    )
    config = pretrain_config(tmp_path / "run", init=str(pretrained.model), seed=5, **ONE_STEP)
    pretrain(config)
    expected = load_pretraining(pretrained.model).model.state_dict()
    assert all(torch.equal(started[0][name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"loss": {"reconstruction": 0.0}}, r"missing none, left over decoder\.blocks\.0"),
        ({"model": {"decoder_heads": 6}}, r"its decoder has 4 heads, the model's 6"),
        ({"model": {"decoder_depth": 2}}, r"missing decoder\.blocks\.1.*left over none"),
        (
            {"model": {"patch_size": 16}},
            r"patch_embed\.proj\.weight has shape \(128, 3, 8, 8\), the",
        ),
    ],
)
def test_a_start_with_other_parts_is_told_and_leaves_no_folder(
    pretrain_config, pretrained, tmp_path, change, said
):
    with pytest.raises(CheckpointError, match=said) as told:
        pretrain(pretrain_config(tmp_path / "run", init=str(pretrained.model), **change))
    assert "\n" not in str(told.value)
    assert '"image_size": 32, "decoder_width": 24' in str(told.value)  # what would fit
    assert not (tmp_path / "run").exists()


def started_from(config, monkeypatch, heard):
    """The weights that a pretraining begins with."""
    found = {}

    def look(engine):
        found.update({name: tensor.clone() for name, tensor in engine.bare.state_dict().items()})
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "run", look)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, heard)
    return found


def save_like_mae(pretrained, path, *, decoder=True):
    """Write a pretrained folder's encoder and decoder as MAE writes them."""
    state = dict(load_file(pretrained.model / "model.safetensors"))
    if decoder:
        rest = load_file(pretrained.model / "pretrain.safetensors")
        state |= {k: v for k, v in rest.items() if not k.startswith(("fusion.", "projection."))}
    torch.save({"model": state}, path)
    return state


@pytest.mark.parametrize("decoder", [True, False])
def test_pretraining_starts_from_a_file_of_mae_and_tells_what_begins_fresh(
    pretrain_config, pretrained, tmp_path, monkeypatch, heard, decoder
):
    state = save_like_mae(pretrained, tmp_path / "mae.pth", decoder=decoder)
    config = pretrain_config(tmp_path / "run", init=str(tmp_path / "mae.pth"), seed=5)
    found = started_from(config, monkeypatch, heard)
    assert torch.equal(found["encoder.cls_token"], state["cls_token"])
    if decoder:
        assert torch.equal(found["decoder.pred.weight"], state["decoder_pred.weight"])
    fresh = "fusion" if decoder else "decoder, decoder_embed, fusion"
    assert f"{fresh}: begins fresh, since the start has none" in heard.texts


def test_positions_of_a_start_are_resampled_for_another_picture_size(
    pretrain_config, pretrained, tmp_path, monkeypatch, heard
):
    config = pretrain_config(tmp_path / "run", init=str(pretrained.model), model={"image_size": 64})
    found = started_from(config, monkeypatch, heard)
    before = load_file(pretrained.model / "model.safetensors")["pos_embed"]
    assert torch.equal(found["encoder.pos_embed"], resample_positions(before, grid=8))
    assert found["decoder.pos_embed"].shape == (1, 65, 24)
    assert "encoder.pos_embed is resampled, from pictures of 32 pixels" in heard.texts


def test_the_start_and_its_licence_are_on_record_after_a_resume(
    pretrain_config, pretrained, tmp_path
):
    save_like_mae(pretrained, tmp_path / "mae.pth")
    config = pretrain_config(tmp_path / "run", init=str(tmp_path / "mae.pth"), save_every=2)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, stop_at(3))
    (tmp_path / "mae.pth").unlink()
    facts = read_facts(pretrain(replace(config, resume=True)))
    assert facts.provenance["init"].startswith("run of MAE's form, sha256 ")
    assert "CC-BY-NC-4.0" in facts.licence


def test_fine_tuning_from_a_file_keeps_its_licence_and_tells_what_it_leaves(
    finetune_config, finetuned, tmp_path, heard
):
    state = load_file(finetuned.model / "model.safetensors")
    norms = {"norm.weight": torch.ones(128), "norm.bias": torch.zeros(128)}
    torch.save(state | norms, tmp_path / "a.pth")
    config = finetune_config(tmp_path / "run", init=str(tmp_path / "a.pth"), max_steps=1, **TAKEN)
    facts = read_facts(finetune(config, heard))
    assert "the start, norm.bias, norm.weight: not used by the model, left out" in heard.texts
    assert facts.provenance["init"].startswith("bare state dict, sha256 ")
    assert "CC-BY-NC-4.0" in facts.licence
    assert {"val_top1", "test_top1", "test_macro_f1"} <= facts.metrics.keys()
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "test_top1" in card


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"teacher": {"model": "no-such-clip"}}, ConfigError),
        ({"splits": ("training",)}, DataError),
        ({"init": "nowhere"}, CheckpointError),
        ({"optim": {"batch_size": 32}}, DataError),
        ({"device": "abacus"}, ConfigError),
    ],
)
def test_what_fails_before_the_first_step_leaves_no_folder_in_the_way(
    pretrain_config, tmp_path, change, error
):
    with pytest.raises(error):
        pretrain(pretrain_config(tmp_path / "run", **change))
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_refused_before_anything_is_loaded(
    pretrain_config, tmp_path, monkeypatch
):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").touch()
    monkeypatch.setattr(run_module, "read_manifest", pytest.fail)
    with pytest.raises(ConfigError, match="is not empty"):
        pretrain(pretrain_config(tmp_path / "run"))


def test_a_resumed_pretraining_is_the_unbroken_one_and_needs_its_start_no_more(
    pretrain_config, pretrained, tmp_path, heard
):
    start = shutil.copytree(pretrained.model, tmp_path / "start")
    whole = pretrain_config(tmp_path / "whole", init=str(start), save_every=2)
    broken = replace(whole, out=tmp_path / "broken")
    expected = weights_in(pretrain(whole))
    with pytest.raises(KeyboardInterrupt):
        pretrain(broken, stop_at(5))
    shutil.rmtree(start)
    folder = pretrain(replace(broken, resume=True), heard)
    assert [event.step for event in heard if isinstance(event, Progress)] == [5, 6]
    assert weights_in(folder) == expected
    lines = [read_journal(out / "metrics.jsonl") for out in (whole.out, broken.out)]
    assert without_time(lines[0]) == without_time(lines[1])


def test_a_run_is_not_resumed_with_another_rate(pretrain_config, pretrained):
    other = pretrain_config(pretrained.config.out, optim={"base_lr": 0.5}, resume=True)
    with pytest.raises(ConfigError, match=r"but optim\.base_lr is 0\.5 and was 0\.01"):
        pretrain(other)


def test_a_full_disk_at_the_end_leaves_a_state_to_resume_from(
    pretrain_config, pretrained, tmp_path, monkeypatch
):
    config = pretrain_config(tmp_path / "run")

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("uniemox.checkpoints.bundle.save_for_hf", fail)
        with pytest.raises(CheckpointError, match="model cannot be written"):
            pretrain(config)
    assert not (tmp_path / "run" / "model").exists()
    assert weights_in(pretrain(replace(config, resume=True))) == weights_in(pretrained.model)


# Fine-tuning


def test_fine_tuning_leaves_a_classifier_with_its_story(finetuned, pretrained):
    config, facts = finetuned.config, read_facts(finetuned.model)
    assert {path.name for path in config.out.iterdir()} == {
        "config.yaml", "environment.json", "metrics.jsonl", "model", "state", "tensorboard", "test"
    }  # fmt: skip
    assert facts.kind == "classifier"
    assert facts.classes == ("awe", "fear", "joy")
    assert (facts.size, facts.patch_size, facts.image_size) == ("mini", 8, 32)
    assert facts.provenance["init"].startswith("pretraining on painted, sha256 ")
    kinds = Counter(line["kind"] for line in read_journal(config.out / "metrics.jsonl"))
    assert kinds == {"train": 6, "val": 2, "test": 1}


def start_of(config, monkeypatch):
    """The weights that a run begins with."""
    found = {}

    def look(engine):
        found.update({name: tensor.clone() for name, tensor in engine.bare.state_dict().items()})
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "run", look)
    with pytest.raises(KeyboardInterrupt):
        finetune(config)
    return found


TAKEN = {"size": None, "patch_size": None, "image_size": None}


def test_fine_tuning_starts_from_the_encoder_with_a_fresh_head(
    finetune_config, pretrained, tmp_path, monkeypatch
):
    config = finetune_config(tmp_path / "run", init=str(pretrained.model), **TAKEN)
    started = start_of(config, monkeypatch)
    encoder = load_file(pretrained.model / "model.safetensors")
    for name, tensor in encoder.items():
        if not name.startswith("norm."):
            assert torch.equal(started.pop(name), tensor), name
    assert started.keys() == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    assert started["head.weight"].abs().max() < 1e-3
    assert (started["fc_norm.weight"] == 1).all()


def test_fine_tuning_goes_on_from_a_classifier(finetune_config, finetuned, tmp_path, monkeypatch):
    config = finetune_config(tmp_path / "run", init=str(finetuned.model))
    started = start_of(config, monkeypatch)
    before = load_file(finetuned.model / "model.safetensors")
    assert torch.equal(started["blocks.0.mlp.fc1.weight"], before["blocks.0.mlp.fc1.weight"])
    assert not torch.equal(started["head.weight"], before["head.weight"])


def test_positions_are_resampled_for_another_picture_size(
    finetune_config, pretrained, tmp_path, monkeypatch
):
    settings = {**TAKEN, "image_size": 48}
    config = finetune_config(tmp_path / "run", init=str(pretrained.model), **settings)
    started = start_of(config, monkeypatch)
    before = load_file(pretrained.model / "model.safetensors")["pos_embed"]
    assert torch.equal(started["pos_embed"], resample_positions(before, grid=6))


def test_without_a_start_the_shape_is_base_unless_said(finetune_config, tmp_path, monkeypatch):
    seen = {}

    def build(size, **settings):
        seen.update(settings, size=size)
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "build_classifier", build)
    with pytest.raises(KeyboardInterrupt):
        finetune(finetune_config(tmp_path / "run", **TAKEN))
    assert (seen["size"], seen["patch_size"], seen["image_size"]) == ("base", 16, 224)
    assert (seen["num_classes"], seen["drop_path"], seen["head_std"]) == (3, 0.1, 2e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": "tiny"}, "size is tiny, but init .* has mini: leave size out"),
        ({"patch_size": 16}, "patch_size is 16, but init .* has 8"),
        ({"image_size": 33}, "image_size 33 is not a multiple of patch_size 8"),
    ],
)
def test_a_shape_that_the_start_has_not_is_refused(
    finetune_config, pretrained, tmp_path, change, said
):
    config = finetune_config(tmp_path / "run", init=str(pretrained.model), **TAKEN | change)
    with pytest.raises(ConfigError, match=said):
        finetune(config)
    assert not (tmp_path / "run").exists()


def test_a_start_whose_weights_do_not_fit_is_told_in_one_line(
    finetune_config, pretrained, tmp_path
):
    folder = shutil.copytree(pretrained.model, tmp_path / "start")
    weights = load_file(folder / "model.safetensors")
    weights["blocks.0.mlp.fc1.bias"] = torch.zeros(3)
    save_file(weights, folder / "model.safetensors")
    config = finetune_config(tmp_path / "run", init=str(folder), **TAKEN)
    with pytest.raises(
        CheckpointError, match=r"does not fit the model: .*blocks\.0\.mlp\.fc1\.bias"
    ) as told:
        finetune(config)
    assert "\n" not in str(told.value)


@pytest.fixture(scope="module")
def two_views(finetune_config, pretrained, tmp_path_factory):
    """A fine-tuning on both views, with everything that could remember something."""
    events = []
    config = finetune_config(
        tmp_path_factory.mktemp("views") / "run",
        init=str(pretrained.model),
        view="both",
        fusion="gated_mlp",
        person=PersonConfig(margin=0.2, shape="pad"),
        optim={"ema_decay": 0.8, "layer_decay": 0.75, "clip_norm": 1.0},
        **TAKEN,
    )
    folder = finetune(config, events.append)
    return config, folder, [event.text for event in events if isinstance(event, Message)]


def test_a_run_on_both_views_says_what_it_reads_and_what_stands_in(two_views):
    config, folder, texts = two_views
    facts = read_facts(folder)
    assert (facts.view, facts.fusion, facts.person) == ("both", "gated_mlp", config.person)
    assert texts[0] == "6 of 24 pictures have no person box: the scene stands in"
    assert json.loads(facts.provenance["settings"])["view"] == "both"
    assert facts.temperature != 1.0
    assert (config.out / "test" / "report.json").is_file()


def test_both_views_start_from_the_pretrained_encoder_and_their_mean(
    finetune_config, pretrained, tmp_path, monkeypatch
):
    config = finetune_config(
        tmp_path / "run", init=str(pretrained.model), view="both", fusion="sum", **TAKEN
    )
    started = start_of(config, monkeypatch)
    before = load_file(pretrained.model / "model.safetensors")
    name = "blocks.0.mlp.fc1.weight"
    assert torch.equal(started[f"encoder.{name}"], before[name])
    # Of the encoder's width, not the decoder's, and the mean of both views.
    assert torch.equal(started["fusion.linear.weight"], torch.eye(128) / 2)


def test_a_run_on_both_views_is_the_same_on_any_number_of_workers_and_after_a_break(
    two_views, tmp_path
):
    whole, expected, _ = two_views
    broken = replace(whole, out=tmp_path / "run", num_workers=2, save_every=1)
    with pytest.raises(KeyboardInterrupt):
        finetune(broken, stop_at(4))
    folder = finetune(replace(broken, resume=True, num_workers=0))
    assert weights_in(folder) == weights_in(expected)
    assert read_facts(folder) == read_facts(expected)


@pytest.mark.parametrize("view", ["scene", "person", "both"])
def test_a_classifier_of_two_views_is_a_start_for_any_view(
    finetune_config, two_views, tmp_path, monkeypatch, view
):
    _, folder, _ = two_views
    config = finetune_config(tmp_path / "run", init=str(folder), view=view, **TAKEN)
    started = start_of(config, monkeypatch)
    prefix = "encoder." if view == "both" else ""
    before = load_file(folder / "two_views.safetensors")
    name = "blocks.5.attn.qkv.weight"
    assert torch.equal(started[prefix + name], before["encoder." + name])


def test_a_run_on_persons_leaves_a_plain_model_that_wants_crops(finetune_config, tmp_path, heard):
    folder = finetune(finetune_config(tmp_path / "run", view="person", **ONE_STEP), heard)
    assert read_facts(folder).view == "person"
    assert (folder / "model.safetensors").is_file()
    assert heard.texts[0].startswith("6 of 24 pictures have no person box")


def test_a_run_on_scenes_says_nothing_of_boxes(finetuned):
    assert not [text for text in finetuned.heard.texts if "box" in text]


BREAKS = {"an observer": None, "Ctrl-C": interrupt}


@pytest.fixture(scope="module")
def unbroken(finetune_config, tmp_path_factory):
    """A fine-tuning with everything that could remember something: EMA, mixup, drop path, accumulation, workers."""
    config = finetune_config(
        tmp_path_factory.mktemp("unbroken") / "run",
        optim={
            "ema_decay": 0.8,
            "batch_size": 4,
            "accumulate": 2,
            "layer_decay": 0.75,
            "clip_norm": 1.0,
        },
        save_every=2,
        select_by="balanced_accuracy",
    )
    return config, finetune(config)


@pytest.mark.parametrize("step", [1, 3, 5])
@pytest.mark.parametrize("kind", BREAKS)
def test_a_resumed_fine_tuning_is_bit_by_bit_the_unbroken_one(
    unbroken, tmp_path, heard, kind, step
):
    whole, expected = unbroken
    broken = replace(whole, out=tmp_path / "run", save_every=1 if step == 1 else 2)
    observer = stop_at(2 if (kind, step) == ("an observer", 1) else step, heard, BREAKS[kind])
    with pytest.raises(KeyboardInterrupt):
        finetune(broken, observer)
    assert not (tmp_path / "run" / "model").exists()
    if kind == "Ctrl-C":
        assert heard.texts[-1] == f"stopped after step {step}; go on with --resume"
        assert load_state(tmp_path / "run" / "state").step == step
    folder = finetune(replace(broken, resume=True), heard)
    assert weights_in(folder) == weights_in(expected)
    assert read_facts(folder) == read_facts(expected)
    lines = [read_journal(out / "metrics.jsonl") for out in (whole.out, tmp_path / "run")]
    assert without_time(lines[0]) == without_time(lines[1])


def test_a_finished_run_that_is_resumed_ends_as_it_did(finetuned, tmp_path):
    out = shutil.copytree(finetuned.config.out, tmp_path / "run")
    lines = read_journal(out / "metrics.jsonl")
    folder = finetune(replace(finetuned.config, out=out, resume=True))
    assert weights_in(folder) == weights_in(finetuned.model)
    assert read_journal(out / "metrics.jsonl") == lines


def report_of(**scores):
    return SimpleNamespace(headline=scores, get=scores.__getitem__)


@pytest.mark.parametrize(
    ("select_by", "best"), [("top1", "1"), ("balanced_accuracy", "2"), ("macro_f1", "1")]
)
def test_the_best_epoch_is_chosen_by_the_named_metric_and_the_first_of_equals(
    finetune_config, tmp_path, monkeypatch, heard, select_by, best
):
    scores = [(0.9, 0.3), (0.1, 0.8), (0.2, 0.5)]
    reports = iter(
        [report_of(top1=top1, balanced_accuracy=ba, macro_f1=0.5) for top1, ba in scores]
    )
    monkeypatch.setattr(Outputs, "score", lambda *_, **__: next(reports))
    kept = {}
    after = run_module._Choice.after_epoch

    def keep(self, engine, epoch):
        kept[str(epoch)] = {
            name: t.clone() for name, t in engine.weights_module.state_dict().items()
        }
        after(self, engine, epoch)

    monkeypatch.setattr(run_module._Choice, "after_epoch", keep)
    config = finetune_config(
        tmp_path / "run", select_by=select_by, test_split=None, optim={"epochs": 3}
    )
    folder = finetune(config, heard)
    facts = read_facts(folder)
    assert facts.provenance["best_epoch"] == best
    assert facts.metrics.keys() == {f"val_{select_by}"}
    chosen = load_classifier(folder).model.state_dict()
    for name, tensor in kept[best].items():
        if name.startswith("head."):
            torch.testing.assert_close(chosen[name] * facts.temperature, tensor)
        else:
            assert torch.equal(chosen[name], tensor)
    assert not (tmp_path / "run" / "test").exists()


def test_the_moving_average_is_what_fine_tuning_scores_and_leaves(
    finetune_config, tmp_path, monkeypatch
):
    scored, outputs = [], run_module.compute_outputs

    def spy(model, *args, **settings):
        scored.append(model)
        return outputs(model, *args, **settings)

    monkeypatch.setattr(run_module, "compute_outputs", spy)
    engines, run = [], Engine.run
    monkeypatch.setattr(Engine, "run", lambda self: (engines.append(self), run(self)))
    finetune(finetune_config(tmp_path / "run", optim={"ema_decay": 0.9, "epochs": 1}))
    assert len(scored) == 3  # val after the epoch, val for the temperature, test
    assert all(model is engines[0].ema.module for model in scored)


def test_the_test_split_is_read_once_and_after_all_training(finetune_config, tmp_path, monkeypatch):
    seen, read = [], dataset_module.read_image

    def spy(path, **settings):
        seen.append(path.parts[-3])
        return read(path, **settings)

    monkeypatch.setattr(dataset_module, "read_image", spy)
    finetune(finetune_config(tmp_path / "run"))
    assert seen.count("test") == 7
    assert "test" not in seen[:-7]
    assert seen.count("train") == 48
    assert seen.count("val") == 27  # after each epoch, and for the temperature


def test_the_temperature_is_folded_into_the_head(finetuned):
    facts = read_facts(finetuned.model)
    state = load_state(finetuned.config.out / "state")
    model = load_classifier(finetuned.model).model.state_dict()
    best = state.weights["best"]
    for name in ("head.weight", "head.bias"):
        torch.testing.assert_close(model[name], best[name] / facts.temperature)
    assert facts.temperature != 1.0


def test_the_temperature_lowers_the_loss_on_val_and_changes_no_prediction(finetuned, painted):
    loaded = load_classifier(finetuned.model)
    val = painted.manifest.select(["val"])
    after = compute_outputs(
        loaded.model,
        val,
        views=EvaluationViews(size=32, view="scene", person=PersonConfig()),
        accelerator=build_accelerator("cpu"),
        batch_size=4,
        num_workers=0,
        target="single_label",
    )
    before = replace(after, logits=after.logits * loaded.facts.temperature)
    classes = loaded.facts.classes
    reports = [
        evaluate_predictions(each.probabilities, each.labels, classes) for each in (before, after)
    ]
    assert reports[1].nll <= reports[0].nll + 1e-9
    assert reports[1].counts == reports[0].counts


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_rows_without_a_label_are_refused_before_training(
    finetune_config, own_painted, tmp_path, split
):
    manifest = own_painted.manifest
    rows = [manifest.row(index) for index in range(40)]
    rewrite(own_painted, labels=[None if row.split == split else row.label for row in rows])
    with pytest.raises(DataError, match=r"rows have no label"):
        finetune(finetune_config(tmp_path / "run", data=own_painted.path))
    assert not (tmp_path / "run").exists()


def test_a_class_without_a_training_picture_is_warned_of(
    finetune_config, own_painted, tmp_path, heard
):
    labels = own_painted.manifest.labels
    rewrite(own_painted, labels=[0 if label == 2 else int(label) for label in labels])
    finetune(finetune_config(tmp_path / "run", data=own_painted.path, **ONE_STEP), heard)
    assert heard.texts[0] == "no training picture of joy: they will never be predicted"


def test_unreadable_pictures_of_val_and_test_are_told_once(
    finetune_config, own_painted, tmp_path, heard
):
    manifest = own_painted.manifest
    broken = [manifest.select([split]).row(1).path for split in ("val", "test")]
    for path in broken:
        path.write_bytes(b"")
    finetune(finetune_config(tmp_path / "run", data=own_painted.path), heard)
    told = [text for text in heard.texts if "left out" in text]
    assert told == [
        f"val: left out 1 of 9 pictures, which cannot be read; the first is {broken[0]}: empty file",
        f"test: left out 1 of 7 pictures, which cannot be read; the first is {broken[1]}: empty file",
    ]


def test_a_loss_that_is_not_finite_stops_the_run_in_one_line(finetune_config, tmp_path):
    config = finetune_config(tmp_path / "run", optim={"base_lr": 1e30}, augment=PLAIN)
    with pytest.raises((TrainingError, DataError)) as told:
        finetune(config)
    assert "\n" not in str(told.value)
    assert "not finite" in str(told.value)


# In processes of their own


def start(*words, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, words)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process, code=0):
    out, told = process.communicate(timeout=900)
    assert process.returncode == code, told
    return out, told


def wait_for(what, process, seconds=600):
    deadline = time.monotonic() + seconds
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def saved_step(out):
    return max((int(path.name[5:]) for path in (out / "state").glob("step-*")), default=0)


def run_of(config, folder):
    """The words of a run that takes its settings from a file."""
    folder.mkdir(exist_ok=True)
    kind = "pretrain" if isinstance(config, PretrainConfig) else "finetune"
    save_config(config, folder / f"{kind}.yaml")
    return "uniemox", kind, "--config", folder / f"{kind}.yaml"


@pytest.mark.slow
def test_kill_9_in_the_middle_of_an_epoch_and_a_resume_give_the_same_weights(
    pretrain_config, tmp_path
):
    config = pretrain_config(
        tmp_path / "whole", optim={"epochs": 12, "batch_size": 2}, save_every=5, num_workers=1
    )
    words = run_of(config, tmp_path / "settings")
    finish(start(*words))
    out = tmp_path / "broken"
    process = start(*words, "--out", out)
    wait_for(lambda: saved_step(out) % 12 and saved_step(out) > 12, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    last = read_journal(out / "metrics.jsonl")[-1]["step"]
    assert 12 < last < 144
    assert saved_step(out) % 12
    assert not (out / "model").exists()
    finish(start(*words, "--out", out, "--resume"))
    assert weights_in(out / "model") == weights_in(tmp_path / "whole" / "model")
    lines = [read_journal(folder / "metrics.jsonl") for folder in (tmp_path / "whole", out)]
    assert without_time(lines[0]) == without_time(lines[1])


@pytest.mark.slow
def test_ctrl_c_at_a_terminal_reaches_the_workers_too_and_still_saves(finetune_config, tmp_path):
    config = finetune_config(
        tmp_path / "whole",
        optim={"epochs": 12, "batch_size": 2, "accumulate": 6},
        num_workers=2,
        save_every=1000,
    )
    words = run_of(config, tmp_path / "settings")
    finish(start(*words))
    out = tmp_path / "broken"
    process = start(*words, "--out", out, start_new_session=True)
    wait_for(lambda: (out / "metrics.jsonl").exists(), process)
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, told = finish(process, code=130)
    step = saved_step(out)
    assert 0 < step < 24
    assert f"stopped after step {step}; go on with --resume" in told
    assert "Traceback" not in told
    finish(start(*words, "--out", out, "--resume"))
    assert weights_in(out / "model") == weights_in(tmp_path / "whole" / "model")


def torchrun(count, words):
    launcher = ("torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m")
    return finish(start(*launcher, *words))


@pytest.mark.slow
def test_pretraining_on_two_processes_is_that_on_one_with_batches_twice_as_large(
    pretrain_config, tmp_path, heard
):
    alone = pretrain_config(tmp_path / "alone", optim={"batch_size": 8})
    pretrain(alone, heard)
    settings = {"batch_size": 4}
    config = pretrain_config(tmp_path / "together", optim=settings)
    torchrun(2, run_of(config, tmp_path / "settings"))
    lines = [read_journal(folder / "metrics.jsonl") for folder in (alone.out, config.out)]
    assert [line["step"] for line in lines[1]] == [1, 2, 3, 4, 5, 6]
    for one, two in zip(*lines, strict=True):
        for name in ("loss", "contrast", "similarity", "reconstruction", "lr", "epoch"):
            assert two[name] == pytest.approx(one[name], rel=1e-3), (name, one["step"])
    one, two = (
        load_pretraining(folder / "model").model.state_dict() for folder in (alone.out, config.out)
    )
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=2e-3, rtol=1e-2)


@pytest.mark.slow
def test_fine_tuning_on_two_processes_scores_as_on_one(finetune_config, tmp_path):
    alone = finetune_config(tmp_path / "alone", augment=PLAIN, drop_path=0.0)
    finetune(alone)
    config = finetune_config(
        tmp_path / "together", augment=PLAIN, drop_path=0.0, optim={"batch_size": 4}
    )
    torchrun(2, run_of(config, tmp_path / "settings"))
    lines = [read_journal(folder / "metrics.jsonl") for folder in (alone.out, config.out)]
    for one, two in zip(*lines, strict=True):
        assert one["kind"] == two["kind"]
        for name in ("loss", "nll"):
            assert two.get(name, 0) == pytest.approx(one.get(name, 0), rel=1e-3)
    reports = [
        Report.from_dict(json.loads((folder / "test" / "report.json").read_text()))
        for folder in (alone.out, config.out)
    ]
    assert reports[0].num_samples == reports[1].num_samples == 7
