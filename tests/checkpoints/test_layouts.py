"""Layouts follow from names and shapes alone; each has its list of keys among the fixtures."""

import argparse
import re
from pathlib import Path

import pytest
import torch

from uniemox.checkpoints.layouts import is_beside_encoder, mae_name, own_name, recognise
from uniemox.config.training import ModelConfig
from uniemox.files.weights import Fit
from uniemox.models.pretrain import UniEmoX

KEYS = Path(__file__).parent / "fixtures" / "keys"
RANGE = re.compile(r"\{0\.\.(\d+)\}")


def read_keys(name):
    """A tree of tensors without memory, of the names and shapes in a fixture."""
    tree = {}
    for line in (KEYS / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        key, shape = line.split(" ")
        *parts, key = key.split("/")
        table = tree
        for part in parts:
            table = table.setdefault(part, {})
        last = RANGE.search(key)
        for index in range(int(last[1]) + 1 if last else 1):
            size = tuple(int(number) for number in shape.split("×"))
            table[RANGE.sub(str(index), key)] = torch.empty(size, device="meta")
    return tree


def found(name, **changes):
    return recognise(read_keys(name) | changes, Path("x"))


LARGE, BASE, HUGE = (1024, 24, 16), (768, 12, 12), (1280, 32, 16)


@pytest.mark.parametrize(
    ("name", "layout", "kind", "size", "shape", "patch", "classes", "decoder", "unused"),
    [
        ("released_classifier_large", "bare state dict", "classifier", "large", LARGE, 16, 8, (),
         ("norm.bias", "norm.weight")),
        ("released_run_large", "UniEmoX, released pretraining run", "pretraining", "large", LARGE,
         16, 0, (512, 8, 16, "sum", 512, True), ()),
        ("mae_encoder_base", "run of MAE's form", "encoder", "base", BASE, 16, 0, (), ()),
        ("mae_huge", "run of MAE's form", "pretraining", "huge", HUGE, 14, 0, (512, 8, 16, "none", None, True), ()),
        ("timm_vit_base", "bare state dict", "encoder", "base", BASE, 16, 0, (),
         ("head.bias", "head.weight")),
        ("transformers_timm_wrapper_base", "timm, wrapped by transformers", "classifier", "base",
         BASE, 16, 8, (), ()),
    ],
)  # fmt: skip
def test_a_layout_follows_from_its_keys(name, layout, kind, size, shape, patch, classes, decoder, unused):
    foreign = found(name)
    assert (foreign.layout, foreign.kind, foreign.size) == (layout, kind, size)
    assert (foreign.width, foreign.depth, foreign.num_heads) == shape
    assert (foreign.patch_size, foreign.image_size, foreign.num_classes) == (patch, 224, classes)
    names = ("decoder_width", "decoder_depth", "decoder_heads", "fusion", "embedding_width", "reconstructs")
    assert foreign.decoder == dict(zip(names, decoder, strict=False))
    assert foreign.unused == unused
    assert foreign.fit == Fit()
    foreign.check(Path("x"))


def test_every_list_of_keys_is_tried():
    assert len(list(KEYS.iterdir())) == 6


def test_the_average_of_a_run_of_timm_goes_first_and_the_other_is_listed(plain):
    steps, average = plain("mini").classifier(3), plain("mini").classifier(3, seed=1)
    tree = {"state_dict": steps, "state_dict_ema": average, "arch": "vit"}
    foreign = recognise(tree, Path("x"))
    assert foreign.layout == "timm, training checkpoint, average over steps"
    assert foreign.state["head.weight"] is average["head.weight"]
    assert foreign.beside == ("arch", "state_dict")
    foreign = recognise({"state_dict": steps, "arch": "vit"}, Path("x"))
    assert (foreign.layout, foreign.beside) == ("timm, training checkpoint", ("arch",))


def test_the_released_fusion_goes_into_ours():
    foreign = found("released_run_large")
    with torch.device("meta"):
        ours = UniEmoX(ModelConfig(size="large"), embedding_width=512).state_dict()
    names = {own_name(name): tensor.shape for name, tensor in foreign.state.items()}
    assert names == {name: tensor.shape for name, tensor in ours.items()}


def test_names_of_mae_and_ours_go_both_ways():
    with torch.device("meta"):
        ours = UniEmoX(ModelConfig(size="mini"), embedding_width=16).state_dict()
    assert [own_name(mae_name(name)) for name in ours] == list(ours)
    assert mae_name("decoder.blocks.3.attn.qkv.weight") == "decoder_blocks.3.attn.qkv.weight"
    assert mae_name("decoder.mask_token") == "mask_token"
    assert mae_name("decoder_embed.weight") == "decoder_embed.weight"
    assert all(is_beside_encoder(mae_name(name)) != name.startswith("encoder.") for name in ours)


def test_a_fusion_with_the_prefix_of_ddp_is_the_same():
    tree = read_keys("released_run_large")
    fusion = {f"module.{name}": tensor for name, tensor in tree["att_fusion"].items()}
    assert found("released_run_large", att_fusion=fusion).decoder["fusion"] == "sum"


def test_what_is_missing_left_over_and_misshapen_is_named(refusal):
    tree = read_keys("mae_encoder_base")["model"]
    del tree["blocks.3.norm1.bias"]
    tree["blocks.0.ls1.gamma"] = torch.empty(768)
    tree["norm.weight"] = torch.empty(3)
    foreign = recognise({"model": tree}, Path("x"))
    assert foreign.fit.missing == ("blocks.3.norm1.bias",)
    assert foreign.fit.extra == ("blocks.0.ls1.gamma",)
    assert foreign.fit.misshapen == ("norm.weight has shape (3,), the model has (768,)",)
    said = refusal(lambda: foreign.check(Path("x")))
    assert "missing blocks.3.norm1.bias, left over blocks.0.ls1.gamma" in said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("blocks.0.ls1.gamma", "missing none, left over blocks.0.ls1.gamma"),
        ("norm_pre.weight", "norm_pre.weight"),
        ("dist_token", "dist_token"),
        ("fusion.gate", "missing fusion.linear.bias, fusion.linear.weight"),
    ],
)
def test_other_transformers_are_refused(name, said, refusal):
    tree = read_keys("mae_huge" if name.startswith("fusion") else "timm_vit_base")
    tree = tree.get("model", tree)
    tree[name] = torch.empty(768)
    assert said in refusal(lambda: recognise(tree, Path("x")).check(Path("x")))


def test_a_block_that_is_absent_is_missed(refusal):
    tree = read_keys("timm_vit_base")
    kept = {name: tensor for name, tensor in tree.items() if not name.startswith("blocks.5.")}
    said = refusal(lambda: recognise(kept, Path("x")).check(Path("x")))
    assert "missing blocks.5.attn.proj.bias, " in said


def test_a_prefix_that_not_all_names_have_stays():
    tree = read_keys("timm_vit_base")
    tree["module.norm.weight"] = torch.empty(768)
    assert recognise(tree, Path("x")).fit.extra == ("module.norm.weight",)


def test_another_depth_is_no_size_here(refusal):
    tree = {k: v for k, v in read_keys("timm_vit_base").items() if not k.startswith("blocks.11.")}
    foreign = recognise(tree, Path("x"))
    assert (foreign.size, foreign.depth) == (None, 11)
    assert "is 768 wide and 11 deep, which is no size here" in refusal(lambda: foreign.check(Path("x")))


def test_an_encoder_with_the_norm_of_a_classifier_needs_no_other():
    tree = read_keys("transformers_timm_wrapper_base")
    kept = {k: v for k, v in tree.items() if not k.startswith("timm_model.head.")}
    foreign = recognise(kept, Path("x"))
    assert (foreign.kind, foreign.fit.missing) == ("encoder", ())
    assert foreign.unused == ("fc_norm.bias", "fc_norm.weight")


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("pos_embed", (1, 198, 768), "no positions of a class token and a square image"),
        ("pos_embed", (197, 768), "no positions of a class token and a square image"),
        ("pos_embed", (1, 0, 768), "no positions of a class token and a square image"),
        ("pos_embed", (1, 1, 768), "no positions of a class token and a square image"),
        ("patch_embed.proj.weight", (768, 1, 16, 16), "square patches of three colours"),
        ("patch_embed.proj.weight", (768, 3, 16, 8), "square patches of three colours"),
        ("patch_embed.proj.weight", (768, 3, 0, 0), "square patches of three colours"),
        ("patch_embed.proj.weight", (), "square patches of three colours"),
    ],
)
def test_shapes_that_are_no_image_are_refused(name, shape, said, refusal):
    tree = read_keys("timm_vit_base") | {name: torch.empty(shape, device="meta")}
    assert said in refusal(lambda: recognise(tree, Path("x")))


def test_a_wrapped_state_without_its_embedding_is_refused(refusal):
    tree = {f"timm_model.{name}": torch.empty(1) for name in ("norm.weight", "norm.bias")}
    assert "without cls_token, patch_embed.proj.weight, pos_embed" in refusal(lambda: recognise(tree, Path("x")))


@pytest.mark.parametrize("name", ["decoder_embed.weight", "head.weight", "norm.weight"])
def test_a_number_in_the_place_of_a_table_is_refused(name, refusal):
    tree = read_keys("mae_huge")["model"] | {"fc_norm.weight": torch.empty(1280)}
    tree |= {"head.weight": torch.empty(8, 1280), name: torch.empty(())}
    refusal(lambda: recognise(tree, Path("x")).check(Path("x")))


@pytest.mark.parametrize(
    "tree",
    [{}, {"model": {}}, {"model": 3}, {"a": torch.empty(1)}, {"model": {"a": torch.empty(1)}},
     {"state_dict": {"cls_token": 3}}],
)  # fmt: skip
def test_other_weights_are_no_transformer(tree, refusal):
    assert "is no vision transformer by MAE's and timm's names" in refusal(lambda: recognise(tree, Path("x")))


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}])
def test_a_clip_is_named_and_sent_to_its_place(wrap, refusal):
    state = {"visual.conv1.weight": torch.empty(1), "text_projection": torch.empty(1)}
    assert "is a CLIP, which is the teacher" in refusal(lambda: recognise(wrap(state), Path("x")))


def endless():
    inner = []
    for _ in range(60):
        inner = [inner, inner]
    return inner


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (3, "3"),
        (None, "None"),
        (1e-3, "0.001"),
        (True, "True"),
        ("two\nlines", "two lines"),
        ("x" * 300, "x" * 200 + "…"),
        ("x" * 10**6, "x" * 200 + "…"),
        pytest.param(10**5000, "a number of many digits", id="digits"),
        ([1, 0.5], "1, 0.5"),
        (list(range(100)), "list"),
        (endless(), "…, …"),
        ({"a": 1}, "dict"),
    ],
)
def test_saved_settings_are_shown_in_a_line_whatever_they_are(value, shown):
    tree = read_keys("mae_encoder_base") | {"args": argparse.Namespace(name=value)}
    assert recognise(tree, Path("x")).arguments == {"name": shown}


def test_settings_that_are_no_namespace_are_left():
    tree = read_keys("mae_encoder_base") | {"args": {"a": 1}, "epoch": 7}
    assert recognise(tree, Path("x")).arguments == {"epoch": "7"}
