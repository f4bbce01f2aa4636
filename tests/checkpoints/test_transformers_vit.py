"""Weights of transformers give the answers of transformers."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification, ViTMAEConfig, ViTMAEForPreTraining, ViTMAEModel

from uniemox.checkpoints.foreign import open_source
from uniemox.checkpoints.inspection import inspect
from uniemox.checkpoints.load import load_model, load_pretraining, load_start
from uniemox.models.encoder import build_vit

SHAPE = {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 512}
SQUARE = {"image_size": 32, "patch_size": 8}
DECODER = {
    "decoder_hidden_size": 64,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 256,
}
PIXELS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def drawn(model):
    """The model with all its numbers drawn, so that none is 0 or 1 by itself."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model.eval()


@pytest.fixture(scope="module")
def mae():
    return drawn(ViTMAEForPreTraining(ViTMAEConfig(**SHAPE, **SQUARE, **DECODER)))


@pytest.fixture(scope="module")
def classifier():
    return drawn(ViTForImageClassification(ViTConfig(**SHAPE, **SQUARE, num_labels=3)))


def images(count=2):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def rename(state, pattern, name):
    return {re.sub(pattern, name, key): tensor for key, tensor in state.items()}


def whole(mae, folder):
    mae.save_pretrained(folder)
    return folder


def in_parts(mae, folder):
    mae.save_pretrained(folder, max_shard_size="500KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    assert not (folder / "model.safetensors").exists()
    return folder


def with_the_names_of_the_hub(mae, folder):
    """As facebook/vit-mae-base has them."""
    mae.save_pretrained(folder)
    path = folder / "model.safetensors"
    state = rename(load_file(path), r"decoder\.decoder_encoder\.layer\.", "decoder.decoder_layers.")
    save_file(state, path, metadata={"format": "pt"})
    return folder


def with_a_mark(mae, folder):
    mae.save_pretrained(folder)
    path = folder / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    return folder


@pytest.mark.parametrize("save", [whole, in_parts, with_the_names_of_the_hub, with_a_mark])
def test_a_folder_of_vit_mae_predicts_the_pixels_that_transformers_does(mae, tmp_path, save):
    noise = torch.rand(2, 16, generator=torch.Generator().manual_seed(1))
    loaded = load_pretraining(save(mae, tmp_path / "mae"))
    with torch.no_grad():
        found = loaded.model.eval()(images(), None, noise, None, 0.75)
        expected = mae(images(), noise=noise)
    torch.testing.assert_close(found.prediction, expected.logits, atol=1e-3, rtol=0)
    assert loaded.facts.pretraining["decoder_heads"] == 4
    assert "CC-BY-NC" in loaded.facts.licence


def encoder_of(start):
    """timm's model with the weights of a start."""
    vit = build_vit("mini", patch_size=8, image_size=32)
    vit.load_state_dict(dict(start.encoder))
    return vit.eval()


def modules_names(model, folder):
    """A state saved by torch, by the names that the modules have since transformers 5, or had before."""
    torch.save(model.state_dict(), folder / "state.pth")
    return folder / "state.pth"


def saved(model, folder):
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    return folder


def within_lightning(model, folder):
    state = {f"net.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state | {"loss.weight": torch.ones(3)}}, folder / "last.ckpt")
    return folder / "last.ckpt"


@pytest.mark.parametrize("save", [saved, modules_names, within_lightning])
def test_a_start_from_a_classifier_has_the_features_of_transformers(classifier, tmp_path, save):
    place = save(classifier, tmp_path)
    start = load_start(str(place))
    with torch.no_grad():
        expected = classifier.vit(images()).last_hidden_state
        found = encoder_of(start).forward_features(images())
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert any("classifier.bias, classifier.weight: a head under another name" in note for note in start.notes)


def test_a_start_from_an_encoder_of_vit_mae_has_its_features(tmp_path):
    model = drawn(ViTMAEModel(ViTMAEConfig(**SHAPE, **SQUARE, mask_ratio=0.0)))
    model.save_pretrained(tmp_path)
    noise = torch.arange(16.0).repeat(2, 1)  # which leaves the patches in their order
    with torch.no_grad():
        expected = model(images(), noise=noise).last_hidden_state
        found = encoder_of(load_start(str(tmp_path))).forward_features(images())
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_pixels_of_another_mean_are_folded_in(classifier, tmp_path):
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    saved(classifier, tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(half))
    unit = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    mean, std = (torch.tensor(PIXELS[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
    with torch.no_grad():
        expected = classifier.vit(unit * 2 - 1).last_hidden_state
        found = encoder_of(load_start(str(tmp_path))).forward_features((unit - mean) / std)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_a_head_on_the_class_token_of_transformers_is_no_classifier_here(classifier, tmp_path, refusal):
    said = refusal(load_model, saved(classifier, tmp_path))
    assert "classifier.bias, classifier.weight are a head under another name than timm's" in said
    assert inspect(str(tmp_path)).layout == "transformers"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_attention_heads": 8}, "num_attention_heads of this model is 8, .* which is 4 here"),
        ({"hidden_act": "relu"}, "hidden_act of this model is relu"),
        ({"hidden_act": ["gelu"]}, "hidden_act of this model is"),
        ({"layer_norm_eps": 1e-3}, "layer_norm_eps of this model is 0.001, .* at most 1e-06 here"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps of this model is nan"),
        ({"qkv_bias": False}, "qkv_bias of this model is False"),
        ({"decoder_num_attention_heads": 5}, "decoder_num_attention_heads is 5, but must be a divisor of .* 64"),
        ({"decoder_num_attention_heads": 10**9}, "decoder_num_attention_heads is 1000000000"),
        ({"decoder_num_attention_heads": float("nan")}, "decoder_num_attention_heads is nan"),
        ({"model_type": "deit"}, "model_type is deit, and of transformers' models vit and vit_mae alone"),
        ({"model_type": ["vit"]}, "model_type is"),
    ],
)
def test_a_configuration_that_says_what_no_tensor_shows_is_refused(mae, tmp_path, change, said, edit, refusal):
    mae.save_pretrained(tmp_path)
    edit(tmp_path, lambda config: config.update(change))
    assert re.search(said, refusal(open_source, tmp_path))


def test_a_classifier_whose_pixels_are_not_stated_is_refused(classifier, tmp_path, refusal):
    classifier.save_pretrained(tmp_path)
    assert "has no preprocessor_config.json" in refusal(open_source, tmp_path)


@pytest.mark.parametrize("text", ['{"image_mean": [[1], 2, 3]}', '{"image_std": 0}', '{"image_mean": [NaN, 0, 0]}'])
def test_pixels_that_are_no_numbers_are_refused(mae, tmp_path, text, refusal):
    mae.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(text)
    assert "preprocessor_config.json: image_" in refusal(load_start, str(tmp_path))


QUERY, KEY = (f"vit.encoder.layer.0.attention.attention.{part}.weight" for part in ("query", "key"))


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        (KEY, torch.zeros(128, 5), "differ in shape"),
        (KEY, torch.zeros(()), "differ in shape"),
        (KEY, torch.zeros(128, 128, dtype=torch.int8), "differ in shape"),
        (KEY, None, "differ in shape"),
        (QUERY, None, "missing blocks.0.attn.qkv.weight"),
        ("vit.layers.0.attention.k_proj.weight", torch.zeros(128, 128), "names a tensor twice"),
        ("blocks.0.attn.qkv.weight", torch.zeros(384, 128), "names a tensor twice"),
        ("vit.encoder.layer.0.attention.gate.weight", torch.zeros(1), "left over"),
    ],
)
def test_tensors_that_do_not_go_together_are_refused(mae, tmp_path, name, tensor, said, refusal):
    mae.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state.pop(name, None)
    if tensor is not None:
        state[name] = tensor
    save_file(state, tmp_path / "model.safetensors")
    assert said in refusal(load_start, str(tmp_path))
