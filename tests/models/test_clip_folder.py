"""What a stranger may put into the folder of a teacher: all cases are tried in a process of bounded memory and time."""

import json
import os
import shutil
import socket
import time

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from uniemox.config.training import TeacherConfig
from uniemox.errors import CheckpointError
from uniemox.models.clip_folder import CONFIG_FILE, WEIGHT_FILES, read_clip_config, shown_to_open_clip
from uniemox.models.teacher import load_teacher

PREPROCESS = {"mean": [0.5] * 3, "std": [0.5] * 3}


def model_of(folder):
    return json.loads((folder / CONFIG_FILE).read_text())["model_cfg"]


def write(folder, model):
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": model, "preprocess_cfg": PREPROCESS}))


def vision(**more):
    return lambda model: model["vision_cfg"].update(more)


def text(**more):
    return lambda model: model["text_cfg"].update(more)


def whole(**more):
    return lambda model: model.update(more)


# What is refused before anything is built
REFUSED = {
    "a million layers of text": (text(layers=10**6), "text_cfg.layers is 1000000, but must be a whole number"),
    "a million layers of vision": (vision(layers=10**6), "vision_cfg.layers is 1000000"),
    "a million layers of a resnet": (vision(layers=[1, 1, 1, 10**6]), "vision_cfg.layers is 1000000"),
    "a thousand stages": (vision(layers=[1] * 1000), "vision_cfg.layers is longer or deeper"),
    "a giant image": (vision(image_size=11_776, patch_size=128), "vision_cfg.image_size is 11776"),
    "a giant image in two sides": (vision(image_size=[32, 10**30]), "vision_cfg.image_size is 1000000000"),
    "a giant grid": (vision(image_size=1024, patch_size=1), "more than 128 times patch_size 1"),
    "a side below 0": (vision(image_size=-32), "vision_cfg.image_size is -32"),
    "half a pixel": (vision(image_size=32.5), "vision_cfg.image_size is 32.5"),
    "a side that is no number": (vision(image_size=float("nan")), "vision_cfg.image_size is nan"),
    "a patch of nothing": (vision(patch_size=0), "vision_cfg.patch_size is 0"),
    "no heads": (text(heads=0), "text_cfg.heads is 0"),
    "a giant context": (text(context_length=10**5), "text_cfg.context_length is 100000"),
    "a giant vocabulary": (text(vocab_size=10**8), "text_cfg.vocab_size is 100000000, but must be a number up to"),
    "a giant embedding": (whole(embed_dim=10**9), "model_cfg.embed_dim is 1000000000"),
    "giant pooling": (vision(attentional_pool=True, attn_pooler_queries=10**9), "attn_pooler_queries is"),
    "an infinite ratio": (text(mlp_ratio=float("inf")), "text_cfg.mlp_ratio is inf"),
    "a scale that is no number": (whole(init_logit_scale=float("nan")), "init_logit_scale is nan"),
    "a million layers of a decoder": (
        whole(custom_text=True, multimodal_cfg={"layers": 10**6}), "multimodal_cfg.layers is 1000000"
    ),
    "tables in tables": (whole(more=[[[[[[[[]]]]]]]]), "is longer or deeper"),
    "a list in place of a table": (whole(text_cfg=[1]), "model_cfg.text_cfg must be a table"),
    "a word in place of a table": (whole(vision_cfg="x"), "model_cfg.vision_cfg must be a table"),
    "a text tower of the hub": (
        text(hf_model_name="roberta-base", hf_tokenizer_name="roberta-base"), "is looked up on the hub"
    ),
    "a tokenizer of the hub": (text(hf_tokenizer_name="roberta-base"), "is not in the folder, and the hub is"),
    "a tower of the hub": (vision(timm_model_name="hf-hub:timm/resnet18.a1_in1k"), "is looked up elsewhere"),
    "a tower in another folder": (vision(timm_model_name="local-dir:/tmp"), "is looked up elsewhere"),
    "a tower of a list": (vision(timm_model_name=["resnet18"]), "is looked up elsewhere"),
    "a vocabulary elsewhere": (text(tokenizer_kwargs={"bpe_path": "/dev/zero"}), "clean and strip_sep_token alone"),
    "a mask that downloads": (text(tokenizer_kwargs={"reduction_mask": "syntax"}), "clean and strip_sep_token alone"),
}  # fmt: skip
# What is built without memory, and compared with the weights or tried
TRIED = {
    "a wide tower": (vision(width=64_000), "does not fit the model"),
    "a large vocabulary": (text(vocab_size=2 * 10**6), "does not fit the model"),
    "a giant of timm": (vision(timm_model_name="vit_gigantic_patch14_224"), "does not fit the model"),
    "no tower of timm": (vision(timm_model_name="nope"), "cannot build the model: Unknown model"),
    "a head of nothing": (vision(head_width=0), "cannot build the model"),
    "a side of words": (vision(image_size="224"), "cannot build the model"),
    "an embedding of words": (whole(embed_dim="24"), "cannot build the model"),
    "a type of ours": (whole(cast_dtype="float16"), "cannot build the model"),
    "an epsilon of words": (vision(norm_kwargs={"eps": "x"}), "fails on an image or a text"),
    "an unknown GELU": (vision(act_kwargs={"approximate": "x"}), "fails on an image or a text"),
    "two sides": (vision(image_size=[32, 64]), "does not fit the model"),
}


def replace(name, make):
    def change(folder):
        (folder / name).unlink()
        make(folder / name)

    return change


FILES = {
    "brackets": (replace(CONFIG_FILE, lambda p: p.write_text("[" * 100_000)), "recursion"),
    "a pipe": (replace(CONFIG_FILE, os.mkfifo), "it is no regular file"),
    "zeros without end": (replace(CONFIG_FILE, lambda p: p.symlink_to("/dev/zero")), "it is no regular file"),
    "numbers without end": (replace(CONFIG_FILE, lambda p: p.write_text("[" + "1," * 3 * 10**6)), "is larger than"),
    "weights in a pipe": (replace(WEIGHT_FILES[0], os.mkfifo), "holds no weights"),
    "weights of zeros": (replace(WEIGHT_FILES[0], lambda p: p.symlink_to("/dev/zero")), "holds no weights"),
    "weights of words": (replace(WEIGHT_FILES[0], lambda p: p.write_text("hello " * 99)), "is no file of weights"),
}
CHILD = """
import json, socket, sys
from pathlib import Path
import torch
from uniemox.config.training import TeacherConfig
from uniemox.errors import CheckpointError
from uniemox.models.teacher import load_teacher

def refuse(*_args, **_more):
    raise SystemExit("the network was asked")

socket.getaddrinfo = refuse
said = {}
for folder in sorted(Path(%r).iterdir()):
    try:
        load_teacher(TeacherConfig(model=str(folder), pretrained=None, precision="fp32"), device=torch.device("cpu"))
        said[folder.name] = ""
    except CheckpointError as error:
        said[folder.name] = str(error)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def hostile(tiny_clip, tmp_path_factory):
    """A folder for each case."""
    place = tmp_path_factory.mktemp("folders")
    for name, (change, _) in {**REFUSED, **TRIED, **FILES}.items():
        shutil.copytree(tiny_clip, place / name)
        if name in FILES:
            change(place / name)
        else:
            model = model_of(place / name)
            change(model)
            write(place / name, model)
    return place


@pytest.mark.slow
def test_every_hostile_folder_is_one_line_in_little_memory_and_time(hostile, run_hostile):
    ended = run_hostile(CHILD % str(hostile), seconds=120)
    assert ended.returncode == 0, ended.err
    said = json.loads(ended.out.splitlines()[-1])
    for name, (_, words) in {**REFUSED, **TRIED, **FILES}.items():
        assert words in said[name], name
        assert "\n" not in said[name]
        assert len(said[name]) < 700


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_model_has_is_refused_before_it_is_built(hostile, name):
    began = time.process_time()
    with pytest.raises(CheckpointError, match=CONFIG_FILE):
        read_clip_config(hostile / name)
    assert time.process_time() - began < 1


# What is understood


@pytest.fixture
def folder(tiny_clip, tmp_path):
    shutil.copytree(tiny_clip, tmp_path / "clip")
    return tmp_path / "clip"


def features(folder):
    config = TeacherConfig(model=str(folder), pretrained=None, precision="fp32")
    return load_teacher(config, device=torch.device("cpu")).encode_images(torch.full((1, 3, 32, 32), 0.3))


def test_a_byte_order_mark_changes_nothing(folder):
    expected = features(folder)
    path = folder / CONFIG_FILE
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert torch.equal(features(folder), expected)


@pytest.mark.parametrize("name", open_clip.list_models())
def test_no_bound_refuses_an_architecture_of_open_clip(name, tmp_path):
    model = open_clip.get_model_config(name)
    for key in ("hf_model_name", "hf_tokenizer_name"):
        model["text_cfg"].pop(key, None)
    write(tmp_path, model)
    if model["text_cfg"].get("tokenizer_kwargs", {}).keys() <= {"clean", "strip_sep_token"}:
        assert read_clip_config(tmp_path)["model_cfg"] == model


def make_tokenizer(folder):
    """A tokenizer of two words, in the files of transformers."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[PAD]": 0, "an": 1, "image": 2, "[UNK]": 3}, "[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder)


def test_a_tokenizer_in_the_folder_is_used_without_the_network(folder, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_more: pytest.fail("the network was asked"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    make_tokenizer(folder)
    model = model_of(folder)
    model["text_cfg"]["hf_tokenizer_name"] = "someone/else"
    write(folder, model)
    config = TeacherConfig(model=str(folder), pretrained=None, precision="fp32")
    teacher = load_teacher(config, device=torch.device("cpu"))
    assert teacher._tokenizer(["an image"])[0, :3].tolist() == [1, 2, 0]


def test_a_tokenizer_with_code_of_its_own_is_refused(folder):
    make_tokenizer(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["a--b.c", None]}}))
    model = model_of(folder)
    model["text_cfg"]["hf_tokenizer_name"] = "x"
    write(folder, model)
    with pytest.raises(CheckpointError, match="asks for code of its own"):
        read_clip_config(folder)


def test_open_clip_sees_the_configuration_and_the_tokenizer_alone(folder):
    make_tokenizer(folder)
    (folder / "config.json").write_text('{"auto_map": {}}')
    model = model_of(folder)
    for name, others in (("", set()), ("x", {"tokenizer.json", "tokenizer_config.json"})):
        model["text_cfg"]["hf_tokenizer_name"] = name
        with shown_to_open_clip(folder, {"model_cfg": model}) as place:
            seen = {path.name for path in os.scandir(place.removeprefix("local-dir:"))}
        assert seen - {"special_tokens_map.json"} == {CONFIG_FILE} | others


def test_features_that_are_no_row_of_the_declared_width_are_refused(folder):
    model = model_of(folder)
    model["vision_cfg"]["pool_type"] = "none"  # a row for each patch
    write(folder, model)
    with pytest.raises(CheckpointError, match=r"gives features of 1 × 5 × 24 and 1 × 24 numbers, not 1 × 24"):
        features(folder)


def test_texts_of_another_width_than_images_are_refused(folder):
    model = model_of(folder)
    model["text_cfg"]["proj_type"] = "none"
    write(folder, model)
    state = load_file(folder / WEIGHT_FILES[0])
    del state["text_projection"]
    save_file(state, folder / WEIGHT_FILES[0])
    with pytest.raises(CheckpointError, match=r"gives features of 1 × 24 and 1 × 16 numbers, not 1 × 24"):
        features(folder)
