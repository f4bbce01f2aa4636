"""What weights are, without building a model."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from uniemox.checkpoints.inspection import inspect
from uniemox.checkpoints.load import load_start
from uniemox.checkpoints.open import EMBEDDED
from uniemox.config.training import ENCODER_SHAPES
from uniemox.errors import CheckpointError
from uniemox.importers.specs import SPECS


def test_a_released_classifier_is_described_in_full(plain, tmp_path):
    state = plain("mini").classifier(8)
    torch.save(state, tmp_path / "fi.pth")
    found = inspect(str(tmp_path / "fi.pth"))
    assert (found.format, found.layout, found.kind) == ("torch", "bare state dict", "classifier")
    assert found.architecture == {
        "size": "mini", "width": 128, "depth": 6, "num_heads": 4, "patch_size": 8,
        "image_size": 32, "num_classes": 8,
    }  # fmt: skip
    used = (tensor for name, tensor in state.items() if not name.startswith("norm."))
    assert found.parameters == sum(tensor.numel() for tensor in used)
    digest = hashlib.sha256((tmp_path / "fi.pth").read_bytes()).hexdigest()
    assert found.sha256 == {"fi.pth": digest}
    assert found.unused == ("norm.bias", "norm.weight")
    assert found.missing == found.extra == found.misshapen == found.not_finite == ()
    assert "CC-BY-NC-4.0" in found.licence
    assert any("not for commercial use" in note for note in found.notes)


def test_the_data_set_that_a_number_of_classes_suggests_is_named_with_its_doubt(plain, tmp_path):
    torch.save(plain("mini").classifier(8), tmp_path / "a.pth")
    found = inspect(str(tmp_path / "a.pth"))
    assert found.classes == ()
    assert found.likely_datasets["fi"] == SPECS["fi"].classes
    assert found.likely_datasets["emoset"] == SPECS["emoset"].classes
    (doubt,) = (note for note in found.notes if "does not identify the data set" in note)
    assert "with different label orders" in doubt
    assert "alphabetical order of the folders" in doubt


def test_a_run_shows_its_decoder_fusion_and_settings(plain, run_args, tmp_path):
    weights = plain("large")
    state = {f"module.{name}": tensor for name, tensor in weights.pretraining().items()}
    saved = {"model": state, "att_fusion": weights.fusion(), "args": run_args, "epoch": 99}
    saved |= {"optimizer": {"state": {}}, "scaler": {}}
    torch.save(saved, tmp_path / "run.pth")
    found = inspect(str(tmp_path / "run.pth"))
    assert found.kind == "pretraining"
    assert found.architecture["decoder_heads"] == 16
    assert found.architecture["fusion"] == "sum"
    assert found.arguments["epochs"] == "200"
    assert found.arguments["epoch"] == "99"
    assert found.beside == ("optimizer", "scaler")
    assert found.likely_datasets == {}


def test_what_does_not_fit_is_reported_and_does_not_stop_an_inspection(plain, tmp_path):
    state = plain("mini").classifier(8)
    del state["blocks.2.norm1.bias"]
    state["blocks.0.ls1.gamma"] = torch.ones(128)
    state["cls_token"] = torch.full((1, 1, 128), float("nan"))
    torch.save(state, tmp_path / "a.pth")
    found = inspect(str(tmp_path / "a.pth"))
    assert found.missing == ("blocks.2.norm1.bias",)
    assert found.extra == ("blocks.0.ls1.gamma",)
    assert found.not_finite == ("cls_token",)


def test_a_head_on_the_class_token_is_noted(plain, tmp_path):
    state = plain("mini").mae_encoder()
    head = {"head.weight": torch.ones(3, 128), "head.bias": torch.ones(3)}
    save_file(state | head, tmp_path / "a.safetensors")
    found = inspect(str(tmp_path / "a.safetensors"))
    assert found.format == "safetensors"
    assert any("a head on the class token" in note for note in found.notes)


@pytest.mark.parametrize("name", ["demo", "demo-pretrained"])
def test_the_embedded_models_are_inspected(name):
    found = inspect(name)
    assert found.layout == "uniemox, model folder"
    assert found.architecture["width"] == ENCODER_SHAPES["mini"].width
    assert found.facts["dataset"] == "drawn6"
    assert found.facts["title"] == SPECS["drawn6"].title
    assert found.facts["emotion"] == "felt"
    assert "it was trained on drawings alone and knows nothing of photographs" in found.notes
    assert "model.safetensors" in found.sha256
    assert found.parameters > 10**6
    assert found.not_finite == ()


def test_an_inspection_is_plain_json(finetuned):
    found = inspect(str(finetuned.model)).to_dict()
    assert json.loads(json.dumps(found))["classes"] == ["awe", "fear", "joy"]


@pytest.mark.parametrize("name", ["demo", "demo-pretrained"])
def test_what_does_not_fit_in_a_folder_of_our_own_is_reported(name, tmp_path):
    import shutil

    folder = shutil.copytree(EMBEDDED[name], tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["more"] = weights.pop("blocks.0.norm1.bias")
    weights["cls_token"] = weights["cls_token"].mean(-1)
    save_file(weights, folder / "model.safetensors")
    found, prefix = inspect(str(folder)), "" if name == "demo" else "encoder."
    assert found.missing == (f"{prefix}blocks.0.norm1.bias",)
    assert found.extra == (f"{prefix}more",)
    assert found.misshapen == (
        f"{prefix}cls_token has shape (1, 1), the model has (1, 1, {found.architecture['width']})",
    )
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_start(str(folder))


def test_weights_of_our_own_that_are_not_finite_are_reported(finetuned, tmp_path):
    import shutil

    folder = shutil.copytree(finetuned.model, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["head.bias"][0] = float("inf")
    save_file(weights, folder / "model.safetensors")
    assert inspect(str(folder)).not_finite == ("head.bias",)


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("hello, this is no model")
    with pytest.raises(CheckpointError, match="is no file of weights"):
        inspect(str(tmp_path / "a.txt"))
