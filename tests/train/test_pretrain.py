"""Pretraining on painted images with a tiny CLIP."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file

import uniemox.models.teacher as teacher_module
import uniemox.train.pretrain as pretrain_module
from uniemox.checkpoints.facts import read_facts
from uniemox.checkpoints.load import load_pretraining
from uniemox.config.training import FusedBy, PretrainConfig
from uniemox.data.class_prompts import all_words, pretraining_prompts
from uniemox.errors import CheckpointError, ConfigError, DataError
from uniemox.manifests.table import Attributes
from uniemox.models.encoder import resample_positions
from uniemox.models.teacher import Teacher
from uniemox.settings import load_config
from uniemox.train.events import Progress
from uniemox.train.finetune import finetune
from uniemox.train.journal import read_journal
from uniemox.train.pretrain import pretrain

ONE_STEP = {"max_steps": 1}
TAKEN = {"size": None, "patch_size": None, "image_size": None}
NO_TEACHER = {"contrast": 0.0, "similarity": 0.0}


def test_a_run_folder_tells_its_story(pretrained):
    config = pretrained.config
    assert pretrained.model == config.out / "model"
    assert {path.name for path in config.out.iterdir()} == {
        ".lock", "config.yaml", "environment.json", "metrics.jsonl", "model", "state", "tensorboard"
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
    assert facts.provenance["teacher"] == "clip:tiny_clip"
    assert facts.provenance["rows"] == "24"
    assert facts.provenance["steps"] == "6"
    assert json.loads(facts.provenance["settings"])["loss"]["contrast"] == 1.0
    for path in pretrained.model.iterdir():
        assert str(pretrained.config.out).encode() not in path.read_bytes()
        assert str(pretrained.config.data.parent).encode() not in path.read_bytes()


def test_the_teacher_is_in_no_weights_no_optimiser_and_no_checkpoint(pretrained, tiny_clip, state_in):
    model = load_pretraining(pretrained.model).model
    names = set(model.state_dict())
    state = state_in(pretrained.config.out)
    assert state.weights.keys() == {"module"}
    assert state.weights["module"].keys() == names
    assert not [name for name in names if any(word in name for word in ("visual", "text", "clip", "teacher"))]
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


def test_pretraining_is_the_same_on_any_number_of_workers(pretrain_config, pretrained, tmp_path, heard, weights_in):
    folder = pretrain(pretrain_config(tmp_path / "run", workers=2), heard)
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
    monkeypatch.setattr(Teacher, "release_text_tower", lambda self: (released.append(1), release(self)))
    first_step = []
    pretrain(
        pretrain_config(tmp_path / "run"),
        lambda event: first_step.append(len(texts_read)) if isinstance(event, Progress) else None,
    )
    texts, words = texts_read  # two scenes and three emotions among 24 images, then what the folder keeps
    assert len(texts) == len(set(texts)) == 6
    assert words == list(pretraining_prompts(all_words()))
    assert set(first_step) == {2}
    assert released == [1]
    assert all("The overall emotion conveyed is" in text for text in texts)


def test_pretraining_without_the_emotion_sentence_never_reads_the_label(pretrain_config, tmp_path, texts_read, heard):
    config = pretrain_config(tmp_path / "run", teacher={"emotion_sentence": False}, **ONE_STEP)
    pretrain(config, heard)
    texts, _ = texts_read
    assert len(texts) == 2
    for text in texts:
        assert "emotion" not in text
        assert not any(name in text for name in ("awe", "fear", "joy"))


def test_without_contrast_no_description_is_encoded(pretrain_config, tmp_path, texts_read, heard):
    pretrain(pretrain_config(tmp_path / "run", loss={"contrast": 0.0}, **ONE_STEP), heard)
    assert texts_read == [list(pretraining_prompts(all_words()))]
    assert heard[-1].scalars.keys() == {"loss", "similarity", "reconstruction"}


def test_without_the_teachers_terms_no_teacher_is_loaded(pretrain_config, tmp_path, monkeypatch, heard):
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
def test_every_ablation_trains_and_leaves_a_model_that_loads(pretrain_config, tmp_path, heard, name):
    config = pretrain_config(tmp_path / "run", **ABLATIONS[name], **ONE_STEP)
    folder = pretrain(config, heard)
    assert all(torch.isfinite(torch.tensor(loss)) for loss in heard.losses)
    loaded = load_pretraining(folder).model
    assert all(tensor.dtype == torch.float32 for tensor in loaded.state_dict().values())
    assert read_facts(folder).provenance["rows"] == ("33" if name == "several splits" else "24")


def test_the_moving_average_is_what_pretraining_leaves(pretrain_config, tmp_path, state_in):
    folder = pretrain(pretrain_config(tmp_path / "run", optim={"ema_decay": 0.9}))
    state = state_in(tmp_path / "run")
    left = load_pretraining(folder).model.state_dict()
    assert all(torch.equal(left[name], tensor) for name, tensor in state.weights["ema"].items())
    assert not torch.equal(left["decoder_embed.weight"], state.weights["module"]["decoder_embed.weight"])


def test_what_the_data_lack_is_said_once(pretrained):
    assert pretrained.heard.texts == [
        "24 images, 6 distinct descriptions",
        "6 of 24 images have no person box: the whole image is used instead",
    ]


def test_pictures_that_all_have_one_description_are_warned_of(pretrain_config, own_painted, tmp_path, heard, rewrite):
    rewrite(own_painted, attributes=[Attributes()] * 40, people=[(own_painted.manifest.row(0).boxes)] * 40)
    config = pretrain_config(tmp_path / "run", data=own_painted.path, teacher={"emotion_sentence": False}, **ONE_STEP)
    pretrain(config, heard)
    assert "all images have the same description, so loss.contrast teaches nothing" in heard.texts
    assert not any("no person box" in text for text in heard.texts)


def test_rows_without_a_label_can_be_pretrained_on(pretrain_config, own_painted, tmp_path, texts_read, rewrite):
    rewrite(own_painted, labels=[None] * 40)
    pretrain(pretrain_config(tmp_path / "run", data=own_painted.path, **ONE_STEP))
    assert not any("emotion" in text for text in texts_read[0])


def test_an_unreadable_picture_of_training_is_skipped_named_and_counted(pretrain_config, own_painted, tmp_path, heard):
    broken = own_painted.manifest.row(5).path
    broken.write_bytes(b"")
    pretrain(pretrain_config(tmp_path / "run", data=own_painted.path), heard)
    assert f"skipped {broken}: empty file" in heard.texts
    assert heard.texts[-1] == "1 unusable images or boxes were skipped"


def test_pretraining_continues_from_a_model(pretrain_config, pretrained, tmp_path, first_weights):
    started = first_weights(pretrain_config(tmp_path / "run", init=str(pretrained.model), seed=5))
    expected = load_pretraining(pretrained.model).model.state_dict()
    assert all(torch.equal(started[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"loss": {"reconstruction": 0.0}}, r"missing none, left over decoder\.blocks\.0"),
        ({"model": {"decoder_heads": 6}}, r"its decoder has 4 heads, the model's 6"),
        ({"model": {"decoder_depth": 2}}, r"missing decoder\.blocks\.1.*left over none"),
        ({"model": {"patch_size": 16}}, r"patch_embed\.proj\.weight has shape \(128, 3, 8, 8\), the"),
    ],
)
def test_a_start_with_other_parts_is_told_and_leaves_no_folder(pretrain_config, pretrained, tmp_path, change, said):
    with pytest.raises(CheckpointError, match=said) as told:
        pretrain(pretrain_config(tmp_path / "run", init=str(pretrained.model), **change))
    assert "\n" not in str(told.value)
    assert '"image_size": 32, "decoder_width": 24' in str(told.value)  # what would fit
    assert not (tmp_path / "run").exists()


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
    pretrain_config, pretrained, tmp_path, heard, decoder, first_weights
):
    state = save_like_mae(pretrained, tmp_path / "mae.pth", decoder=decoder)
    config = pretrain_config(tmp_path / "run", init=str(tmp_path / "mae.pth"), seed=5)
    found = first_weights(config, heard)
    assert torch.equal(found["encoder.cls_token"], state["cls_token"])
    if decoder:
        assert torch.equal(found["decoder.pred.weight"], state["decoder_pred.weight"])
    fresh = "fusion" if decoder else "decoder, decoder_embed, fusion"
    assert f"{fresh}: starts from random weights, since the start has none" in heard.texts


def test_positions_of_a_start_are_resampled_for_another_picture_size(
    pretrain_config, pretrained, tmp_path, heard, first_weights
):
    config = pretrain_config(tmp_path / "run", init=str(pretrained.model), model={"image_size": 64})
    found = first_weights(config, heard)
    before = load_file(pretrained.model / "model.safetensors")["pos_embed"]
    assert torch.equal(found["encoder.pos_embed"], resample_positions(before, grid=8))
    assert found["decoder.pos_embed"].shape == (1, 65, 24)
    assert "encoder.pos_embed is resampled, from images of 32 pixels" in heard.texts


def test_the_start_and_its_licence_are_on_record_after_a_resume(pretrain_config, pretrained, tmp_path, stop_at):
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
    assert "the start, norm.bias, norm.weight: not used by the model, skipped" in heard.texts
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
def test_what_fails_before_the_first_step_leaves_no_folder_in_the_way(pretrain_config, tmp_path, change, error):
    with pytest.raises(error):
        pretrain(pretrain_config(tmp_path / "run", **change))
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_refused_before_anything_is_loaded(pretrain_config, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").touch()
    monkeypatch.setattr(pretrain_module, "read_manifest", pytest.fail)
    with pytest.raises(ConfigError, match="is not empty"):
        pretrain(pretrain_config(tmp_path / "run"))


def test_a_resumed_pretraining_is_the_unbroken_one_and_needs_its_start_no_more(
    pretrain_config, pretrained, tmp_path, heard, weights_in, lines_of, stop_at
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
    assert lines_of(whole.out) == lines_of(broken.out)


def test_a_run_is_not_resumed_with_another_rate(pretrain_config, pretrained):
    other = pretrain_config(pretrained.config.out, optim={"base_lr": 0.5}, resume=True)
    with pytest.raises(ConfigError, match=r"but `optim\.base_lr` is 0\.5 and was 0\.01"):
        pretrain(other)


def test_a_full_disk_at_the_end_leaves_a_state_to_resume_from(
    pretrain_config, pretrained, tmp_path, monkeypatch, weights_in
):
    config = pretrain_config(tmp_path / "run")

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("uniemox.checkpoints.folder.save_for_hf", fail)
        with pytest.raises(CheckpointError, match="model cannot be written"):
            pretrain(config)
    assert not (tmp_path / "run" / "model").exists()
    assert weights_in(pretrain(replace(config, resume=True))) == weights_in(pretrained.model)
