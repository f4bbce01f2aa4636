"""Models from wherever they come."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from uniemox.checkpoints.facts import read_facts
from uniemox.checkpoints.folder import save_model
from uniemox.checkpoints.load import convert, load_model, load_pretraining, load_start
from uniemox.checkpoints.open import EMBEDDED
from uniemox.importers.specs import SPECS
from uniemox.inference.predictor import Predictor
from uniemox.manifests.table import write_manifest
from uniemox.models.encoder import resample_positions


@pytest.fixture
def released(plain, tmp_path):
    """A file as the released classifiers are, with its weights."""
    state = plain("mini").classifier(8)
    torch.save(state, tmp_path / "fi.pth")
    return tmp_path / "fi.pth", state


def test_a_classifier_is_loaded_from_a_folder_a_name_or_a_file(finetuned, released, refusal):
    assert load_model(finetuned.model).facts == read_facts(finetuned.model)
    assert load_model(str(finetuned.model), dataset=None).facts.dataset == "painted"
    assert load_model("demo").facts == read_facts(EMBEDDED["demo"])
    path, state = released
    loaded = load_model(path, dataset="fi")
    assert loaded.facts.classes == SPECS["fi"].classes
    assert torch.equal(loaded.model.head.bias, state["head.bias"])
    assert "as `dataset`" in refusal(load_model, path)


def test_a_data_set_that_contradicts_a_folder_is_refused(finetuned, painted, refusal):
    load_model(finetuned.model, dataset=str(painted.path))
    text = refusal(load_model, finetuned.model, dataset="fi")
    assert "does not have the classes of fi: it has joy, which fi lacks, and fi has amuse" in text
    assert "omit `dataset`" in text


def test_the_names_of_a_folder_stay_whatever_the_order_of_the_data_set(finetuned, painted, tmp_path):
    own = painted.manifest
    other = dataclasses.replace(own.facts, classes=("Joy", "awe", "Fearful"))
    write_manifest(type(own)(own.table, other), tmp_path / "other.parquet")
    loaded = load_model(finetuned.model, dataset=str(tmp_path / "other.parquet"))
    assert loaded.facts.classes == ("awe", "fear", "joy")


def test_a_pretrained_model_is_loaded_from_a_folder_a_name_or_a_file(pretrained, plain, tmp_path):
    assert load_pretraining(pretrained.model).facts.dataset == "painted"
    assert load_pretraining("demo-pretrained").facts.dataset == "drawn6"
    torch.save({"model": plain("base").pretraining()}, tmp_path / "mae.pth")
    assert load_pretraining(tmp_path / "mae.pth").facts.size == "base"


# Starts


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_every_reader_takes_half_precision_as_full(plain, tmp_path, suffix):
    def store(name, weights):
        half = {key: tensor.half() for key, tensor in weights.items()}
        path = tmp_path / f"{name}.{suffix}"
        if suffix == "pth":
            torch.save(half, path)
        else:
            save_file(half, path)
        return str(path)

    released = store("fi", plain("mini").classifier(8))
    mae = store("mae", plain("base").pretraining())
    starts = [load_start(each) for each in (released, mae, *EMBEDDED)]
    tensors = [tensor for start in starts for tensor in (*start.encoder.values(), *start.beside.values())]
    models = [
        load_model(released, dataset="fi").model,
        load_model("demo").model,
        load_pretraining(mae).model,
        load_pretraining("demo-pretrained").model,
        Predictor.load(released, device="cpu", dataset="fi").backend.model,
        Predictor.load("demo", device="cpu").backend.model,
    ]
    convert(released, tmp_path / "converted", dataset="fi")
    tensors += load_file(tmp_path / "converted" / "model.safetensors").values()
    tensors += [tensor for model in models for tensor in model.state_dict().values()]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


def test_a_start_of_a_folder_is_its_encoder_and_what_is_beside(pretrained, finetuned):
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
        "decoder_depth": 2, "decoder_heads": 16, "fusion": "none", "embedding_width": None, "reconstructs": True,
    }  # fmt: skip


def test_a_start_that_is_not_finite_is_refused(plain, tmp_path, refusal):
    state = plain("mini").classifier(8)
    state["blocks.1.norm1.bias"][3] = float("nan")
    torch.save(state, tmp_path / "a.pth")
    assert "not finite in blocks.1.norm1.bias" in refusal(load_start, str(tmp_path / "a.pth"))
    said = refusal(load_model, tmp_path / "a.pth", dataset="fi")
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
    one, two = (load_pretraining(tmp_path / name).model.state_dict() for name in ("run.pth", "model"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("side", [48, 16])
def test_positions_are_resampled_for_another_size_of_image(released, tmp_path, side):
    path, state = released
    convert(str(path), tmp_path / "model", dataset="fi", image_size=side)
    loaded = load_model(tmp_path / "model")
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
def test_an_impossible_size_of_image_is_refused(released, tmp_path, side, refusal):
    said = refusal(convert, str(released[0]), tmp_path / "m", dataset="fi", image_size=side)
    assert f"image_size is {side}, but must be a multiple of 8, up to 1024" in said
    assert not (tmp_path / "m").exists()


def test_what_needs_no_conversion_or_has_no_form_is_refused(finetuned, plain, released, tmp_path, refusal):
    out = tmp_path / "out"
    assert "is a model folder of this software already" in refusal(convert, str(finetuned.model), out)
    torch.save({"model": plain("base").mae_encoder()}, tmp_path / "mae.pth")
    assert "uniemox finetune --init" in refusal(convert, str(tmp_path / "mae.pth"), out)
    out.mkdir()
    (out / "thesis.txt").touch()
    assert "exists and is not empty" in refusal(convert, str(released[0]), out, dataset="fi")


def test_a_chain_of_licences_continues(released, tmp_path):
    path, _ = released
    convert(str(path), tmp_path / "model", dataset="fi")
    assert "CC-BY-NC-4.0" in load_start(str(tmp_path / "model")).licence


def test_a_folder_whose_decoder_is_larger_than_its_file_is_refused_before_it_is_built(pretrained, tmp_path, refusal):
    import shutil

    folder = shutil.copytree(pretrained.model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["uniemox"]["pretraining"] |= {"decoder_width": 4096, "decoder_depth": 64}
    (folder / "config.json").write_text(json.dumps(config))
    assert "does not fit the model: missing decoder" in refusal(load_pretraining, folder)  # 51 GB


def test_facts_are_replaced_without_touching_the_weights(released, tmp_path):
    from uniemox.checkpoints.folder import restate

    path, _ = released
    loaded = load_model(path, dataset="fi")
    save_model(loaded.model, tmp_path / "model", loaded.facts)
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    restate(tmp_path / "model", dataclasses.replace(loaded.facts, metrics={"test_top1": 0.5}))
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    assert read_facts(tmp_path / "model").metrics == {"test_top1": 0.5}
    assert "| test_top1 | 0.5000 |" in (tmp_path / "model" / "README.md").read_text()
