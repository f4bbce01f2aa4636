"""Models from wherever they come."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from uniemox.checkpoints.bundle import load_classifier, save_classifier
from uniemox.checkpoints.facts import EMBEDDED, read_facts
from uniemox.checkpoints.sources import (
    convert,
    is_own,
    load_model,
    load_pretraining,
    load_start,
)
from uniemox.data.specs import SPECS
from uniemox.errors import CheckpointError
from uniemox.models.encoder import resample_positions


def told_by(call, *args, **more):
    with pytest.raises(CheckpointError) as told:
        call(*args, **more)
    assert "\n" not in str(told.value)
    return str(told.value)


@pytest.fixture
def released(plain, tmp_path):
    """A file as the released classifiers are, with its weights."""
    state = plain("mini").classifier(8)
    torch.save(state, tmp_path / "fi.pth")
    return tmp_path / "fi.pth", state


def test_our_own_folders_are_told_from_others(finetuned, tmp_path):
    assert is_own(finetuned.model)
    (tmp_path / "config.json").write_text("{}")
    assert not is_own(tmp_path)
    assert not is_own(tmp_path / "config.json")
    assert "it has no config.json" in told_by(is_own, tmp_path.parent)


def test_a_classifier_is_loaded_from_a_folder_a_name_or_a_file(finetuned, released):
    assert load_model(finetuned.model).facts == read_facts(finetuned.model)
    assert load_model(str(finetuned.model), dataset=None).facts.dataset == "painted"
    assert load_model("demo").facts == read_facts(EMBEDDED["demo"])
    path, state = released
    loaded = load_model(path, dataset="fi")
    assert loaded.facts.classes == SPECS["fi"].classes
    assert torch.equal(loaded.model.head.bias, state["head.bias"])
    assert "say --dataset" in told_by(load_model, path)


def test_a_data_set_that_contradicts_a_folder_is_refused(finetuned, painted):
    load_model(finetuned.model, dataset=str(painted.path))
    assert "are not those of fi" in told_by(load_model, finetuned.model, dataset="fi")


def test_a_pretrained_model_is_loaded_from_a_folder_a_name_or_a_file(pretrained, plain, tmp_path):
    assert load_pretraining(pretrained.model).facts.dataset == "painted"
    assert load_pretraining("demo-pretrained").facts.dataset == "drawn6"
    torch.save({"model": plain("base").pretraining()}, tmp_path / "mae.pth")
    assert load_pretraining(tmp_path / "mae.pth").facts.size == "base"


# Starts


def test_a_start_of_a_folder_is_its_encoder_and_what_stands_beside(pretrained, finetuned):
    start = load_start(str(pretrained.model))
    assert start.name.startswith("pretraining on painted, sha256 ")
    expected = load_pretraining(pretrained.model).model.state_dict()
    found = {f"encoder.{name}": tensor for name, tensor in start.encoder.items()} | start.beside
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert start.shape["decoder_width"] == 24
    classifier = load_start(str(finetuned.model))
    assert classifier.beside == {}
    assert not [name for name in classifier.encoder if name.startswith(("head.", "fc_norm."))]


def test_a_start_of_a_classifiers_file_is_its_encoder(released):
    path, state = released
    start = load_start(str(path))
    assert not [name for name in start.encoder if name.startswith(("head.", "fc_norm.", "norm."))]
    assert torch.equal(start.encoder["cls_token"], state["cls_token"])
    assert start.name.startswith("bare state dict, sha256 ")
    assert "CC-BY-NC-4.0" in start.licence
    assert len(start.notes) == 2


def test_a_start_of_a_mae_file_brings_its_decoder(plain, tmp_path):
    torch.save({"model": plain("base").pretraining(decoder_depth=2)}, tmp_path / "mae.pth")
    start = load_start(str(tmp_path / "mae.pth"))
    assert {name.split(".")[0] for name in start.beside} == {"decoder", "decoder_embed"}
    assert start.shape == {
        "size": "base", "patch_size": 16, "image_size": 48, "decoder_width": 512,
        "decoder_depth": 2, "decoder_heads": 16, "fusion": "none",
    }  # fmt: skip


def test_a_start_that_is_not_finite_is_refused(plain, tmp_path):
    state = plain("mini").classifier(8)
    state["blocks.1.norm1.bias"][3] = float("nan")
    torch.save(state, tmp_path / "a.pth")
    assert "not finite in blocks.1.norm1.bias" in told_by(load_start, str(tmp_path / "a.pth"))
    said = told_by(load_model, tmp_path / "a.pth", dataset="fi")
    assert "not finite in blocks.1.norm1.bias" in said


# Conversion


def test_a_converted_classifier_is_a_model_folder_of_the_same_numbers(released, tmp_path):
    path, state = released
    facts = convert(str(path), tmp_path / "model", dataset="fi")
    assert read_facts(tmp_path / "model") == facts
    weights = load_file(tmp_path / "model" / "model.safetensors")
    assert weights.keys() == {name for name in state if not name.startswith("norm.")}
    assert all(torch.equal(weights[name], state[name]) for name in weights)
    assert facts.provenance["source"].startswith("bare state dict, sha256 ")
    assert "cc-by-nc-4.0" in (tmp_path / "model" / "README.md").read_text()


def test_a_converted_run_is_a_pretraining_folder_of_the_same_numbers(plain, tmp_path, run_args):
    weights = plain("base")
    state = {f"module.{name}": tensor for name, tensor in weights.pretraining().items()}
    saved = {"model": state, "att_fusion": weights.fusion(), "args": run_args}
    torch.save(saved, tmp_path / "run.pth")
    facts = convert(str(tmp_path / "run.pth"), tmp_path / "model")
    assert facts.kind == "pretraining"
    one, two = (
        load_pretraining(tmp_path / name).model.state_dict() for name in ("run.pth", "model")
    )
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("side", [48, 16])
def test_positions_are_resampled_for_another_size_of_picture(released, tmp_path, side):
    path, state = released
    convert(str(path), tmp_path / "model", dataset="fi", image_size=side)
    loaded = load_classifier(tmp_path / "model")
    assert loaded.facts.image_size == side
    expected = resample_positions(state["pos_embed"], grid=side // 8)
    assert torch.equal(loaded.model.pos_embed, expected)
    with torch.no_grad():
        assert loaded.model(torch.zeros(1, 3, side, side)).shape == (1, 8)


def test_positions_of_a_decoder_are_resampled_too(plain, tmp_path):
    torch.save({"model": plain("base").pretraining()}, tmp_path / "mae.pth")
    convert(str(tmp_path / "mae.pth"), tmp_path / "model", image_size=64)
    model = load_pretraining(tmp_path / "model").model
    assert model.encoder.pos_embed.shape == (1, 17, 768)
    assert model.decoder.pos_embed.shape == (1, 17, 512)


@pytest.mark.parametrize("side", [0, -8, 33, 7, 8 * 129])
def test_an_impossible_size_of_picture_is_refused(released, tmp_path, side):
    said = told_by(convert, str(released[0]), tmp_path / "m", dataset="fi", image_size=side)
    assert f"--image-size is {side}, but must be a multiple of the patch, 8 pixels" in said
    assert not (tmp_path / "m").exists()


def test_what_needs_no_conversion_or_has_no_form_is_told(finetuned, plain, released, tmp_path):
    out = tmp_path / "out"
    assert "is a model folder of this software already" in told_by(
        convert, str(finetuned.model), out
    )
    torch.save({"model": plain("base").mae_encoder()}, tmp_path / "mae.pth")
    assert "uniemox finetune --init" in told_by(convert, str(tmp_path / "mae.pth"), out)
    out.mkdir()
    (out / "thesis.txt").touch()
    assert "is there already" in told_by(convert, str(released[0]), out, dataset="fi")


def test_a_chain_of_licences_goes_on(released, tmp_path):
    path, _ = released
    convert(str(path), tmp_path / "model", dataset="fi")
    assert "CC-BY-NC-4.0" in load_start(str(tmp_path / "model")).licence


def test_a_folder_whose_decoder_is_larger_than_its_file_is_refused_before_it_is_built(
    pretrained, tmp_path
):
    import shutil

    folder = shutil.copytree(pretrained.model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["uniemox"]["pretraining"] |= {"decoder_width": 4096, "decoder_depth": 64}
    (folder / "config.json").write_text(json.dumps(config))
    assert "does not fit the model: missing decoder" in told_by(load_pretraining, folder)  # 51 GB


def test_facts_are_restated_without_touching_the_weights(released, tmp_path):
    from uniemox.checkpoints.bundle import restate

    path, _ = released
    loaded = load_model(path, dataset="fi")
    save_classifier(loaded.model, tmp_path / "model", loaded.facts)
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    restate(tmp_path / "model", dataclasses.replace(loaded.facts, metrics={"test_top1": 0.5}))
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    assert read_facts(tmp_path / "model").metrics == {"test_top1": 0.5}
    assert "| test_top1 | 0.5000 |" in (tmp_path / "model" / "README.md").read_text()
