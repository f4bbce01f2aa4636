import dataclasses
import errno
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_data_config

from uniemox.checkpoints import folder as bundle
from uniemox.checkpoints.facts import ModelFacts, PreparationFacts, read_facts
from uniemox.checkpoints.folder import own_folder, pretraining_facts, record_robustness, restate, save_model
from uniemox.checkpoints.inspection import inspect
from uniemox.checkpoints.load import describe_start, load_model, load_pretraining, load_start
from uniemox.checkpoints.open import open_model
from uniemox.config.people import PersonConfig
from uniemox.config.training import FusedBy, Fusion, ModelConfig
from uniemox.data.pixels import MEAN, STD, EvaluationViews
from uniemox.data.transforms import evaluation
from uniemox.errors import CheckpointError, ConfigError
from uniemox.files.weights import fill
from uniemox.models.classify import TwoViewClassifier, build_classifier
from uniemox.models.fused import FusedClassifier
from uniemox.models.pretrain import UniEmoX
from uniemox.targets.robustness import Robustness, Shift

FACTS = ModelFacts(
    kind="classifier",
    size="mini",
    patch_size=8,
    image_size=32,
    dataset="painted",
    emotion="evoked",
    classes=("awe", "fear", "joy"),
    temperature=1.25,
    provenance={"software": "a test"},
    licence="CC0-1.0",
)


def classifier(seed=0):
    torch.manual_seed(seed)
    return build_classifier("mini", patch_size=8, image_size=32, num_classes=3, head_std=0.5).eval()


def pretraining(seed=0, *, embedding_width=16, reconstructs=True, **more):
    torch.manual_seed(seed)
    shape = {"decoder_width": 24, "decoder_depth": 2, "decoder_heads": 4} | more
    config = ModelConfig(size="mini", patch_size=8, image_size=32, **shape)
    model = UniEmoX(config, embedding_width=embedding_width, reconstructs=reconstructs)
    with torch.no_grad():  # so that equality means something
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    return model


def facts_of(model):
    return pretraining_facts(model, dataset="painted", emotion=None, provenance={"seed": "0"})


@pytest.fixture(scope="module")
def _saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    save_model(classifier(), folder / "classifier", FACTS)
    save_model(pretraining(), folder / "pretraining", facts_of(pretraining()))
    return folder


@pytest.fixture
def folder(_saved, tmp_path):
    """A classifier's folder that the test may spoil."""
    return shutil.copytree(_saved / "classifier", tmp_path / "model")


@pytest.fixture
def pretrained_folder(_saved, tmp_path):
    return shutil.copytree(_saved / "pretraining", tmp_path / "pretrained")


def pixels_of(count=4):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def test_timm_gives_the_same_logits(folder):
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        expected = classifier()(pixels_of())
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(theirs(pixels_of()), expected, atol=1e-6, rtol=0)


def test_timm_gives_the_same_features_of_a_pretrained_encoder(pretrained_folder):
    theirs = timm.create_model(f"local-dir:{pretrained_folder}", pretrained=True).eval()
    with torch.no_grad():
        expected = pretraining().eval().encoder(pixels_of())
        torch.testing.assert_close(theirs(pixels_of()), expected, atol=1e-6, rtol=0)


def test_timm_gives_the_same_logits_of_a_run_from_pretraining(finetuned):
    theirs = timm.create_model(f"local-dir:{finetuned.model}", pretrained=True).eval()
    ours = load_model(finetuned.model).model
    with torch.no_grad():
        torch.testing.assert_close(theirs(pixels_of()), ours(pixels_of()), atol=1e-6, rtol=0)


def test_timm_prepares_pictures_in_the_same_way(folder):
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    transform = create_transform(**resolve_data_config({}, model=model))
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    assert torch.equal(transform(Image.fromarray(noise)), evaluation(32)(Image.fromarray(noise)))


def test_the_configuration_names_labels_and_preprocessing(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["label_names"] == ["awe", "fear", "joy"]
    assert config["num_classes"] == 3
    assert config["pretrained_cfg"]["mean"] == list(MEAN)
    assert config["pretrained_cfg"]["std"] == list(STD)
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]
    assert config["pretrained_cfg"]["crop_pct"] == 0.875
    assert config["pretrained_cfg"]["interpolation"] == "bicubic"
    assert config["pretrained_cfg"]["license"] == "CC0-1.0"
    assert config["uniemox"]["provenance"] == {"software": "a test"}


def test_transformers_gets_no_number_of_classes_twice(folder):
    arguments = json.loads((folder / "config.json").read_text())["model_args"]
    assert "num_classes" not in arguments
    assert "drop_path_rate" not in arguments
    assert arguments["embed_dim"] == 128


def test_a_classifier_comes_back_with_its_facts_ready_to_predict(folder):
    loaded = load_model(folder, device=torch.device("cpu"))
    assert loaded.facts == FACTS
    assert not loaded.model.training
    with torch.no_grad():
        assert torch.equal(loaded.model(pixels_of()), classifier()(pixels_of()))


@pytest.mark.parametrize("fusion", get_args(Fusion))
@pytest.mark.parametrize(
    ("embedding_width", "reconstructs"), [(None, True), (16, True), (16, False), (24, True), (24, False)]
)
def test_a_pretrained_model_comes_back_whole(tmp_path, fusion, embedding_width, reconstructs):
    settings = {"embedding_width": embedding_width, "reconstructs": reconstructs, "fusion": fusion}
    model = pretraining(**settings)
    save_model(model, tmp_path / "model", facts_of(model))
    loaded = load_pretraining(tmp_path / "model")
    assert loaded.facts == facts_of(model)
    own, theirs = model.state_dict(), loaded.model.state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[name], theirs[name]) for name in own)
    assert loaded.model.config == model.config


def test_decoder_and_fusion_have_the_names_of_mae_in_the_file(pretrained_folder):
    names = load_file(pretrained_folder / "pretrain.safetensors").keys()
    mae = {
        "mask_token",
        "decoder_pos_embed",
        *(f"decoder_{name}.{kind}" for name in ("embed", "norm", "pred") for kind in ("weight", "bias")),
        *(
            f"decoder_blocks.{index}.{name}.{kind}"
            for index in range(2)
            for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
            for kind in ("weight", "bias")
        ),
    }
    beside = {name for name in names if name.startswith(("fusion.", "projection."))}
    assert names - beside == mae
    assert beside
    encoder = load_file(pretrained_folder / "model.safetensors").keys()
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.5.attn.qkv.bias"} <= encoder


def test_a_start_is_the_encoder_without_any_head(folder, pretrained_folder):
    weights = load_start(str(folder)).encoder
    assert not [name for name in weights if name.startswith(("head", "fc_norm"))]
    encoder = load_start(str(pretrained_folder)).encoder
    assert encoder.keys() == pretraining().encoder.state_dict().keys()


def test_half_precision_is_read_as_full(folder):
    path = folder / "model.safetensors"
    half = {name: tensor.half() for name, tensor in load_file(path).items()}
    save_file(half, path)
    weights = load_model(folder).model.state_dict()
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert all(torch.equal(weights[name], half[name].float()) for name in half)
    encoder = load_start(str(folder)).encoder
    assert {tensor.dtype for tensor in encoder.values()} == {torch.float32}


@pytest.mark.parametrize("view", ["scene", "both"])
def test_a_folder_that_stores_half_precision_says_so_in_its_card(tmp_path, view):
    both = view == "both"
    facts = dataclasses.replace(FACTS, view=view, fusion="attention" if both else "none")
    model = two_views() if both else classifier()
    save_model(model, tmp_path / "full", facts)
    assert "half precision" not in (tmp_path / "full" / "README.md").read_text()
    save_model(model.half(), tmp_path / "half", facts)
    restate(tmp_path / "half", facts)  # what is written again says it too
    card = (tmp_path / "half" / "README.md").read_text()
    assert "The weights are stored in half precision (fp16), which halves the file." in card
    assert "cast it to fp32 before training: fp16 weights fail under an autocast to bf16" in card
    assert ("transformers, as `config.json` says" in card) == (not both)
    loaded = load_model(tmp_path / "half").model
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_a_pretrained_model_in_half_precision_is_read_as_full(pretrained_folder):
    for path in pretrained_folder.glob("*.safetensors"):
        save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path)
    loaded = load_pretraining(pretrained_folder).model
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_weights_are_named_by_their_hash(folder):
    before = describe_start(str(folder))
    assert re.fullmatch("classifier on painted, sha256 [0-9a-f]{64}", before)
    save_model(classifier(seed=1), folder, FACTS)
    assert describe_start(str(folder)) != before


# Views


def two_views(fusion="attention"):
    torch.manual_seed(0)
    return TwoViewClassifier(classifier(), fusion).eval()


def two_view_facts(fusion="attention", **changes):
    person = PersonConfig(choice="central", margin=0.2, shape="pad")
    return dataclasses.replace(FACTS, view="both", fusion=fusion, person=person, **changes)


@pytest.mark.parametrize("fusion", get_args(FusedBy))
def test_a_classifier_of_two_views_comes_back_whole(tmp_path, fusion):
    model = two_views(fusion)
    save_model(model, tmp_path / "model", two_view_facts(fusion))
    loaded = load_model(tmp_path / "model")
    assert loaded.facts == two_view_facts(fusion)
    scene, person = pixels_of(), pixels_of().flip(3)
    with torch.no_grad():
        assert torch.equal(loaded.model(scene, person), model(scene, person))
    assert not loaded.model.training


def test_a_folder_of_two_views_is_no_timm_model_and_says_so(tmp_path):
    save_model(two_views(), tmp_path / "model", two_view_facts())
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "config.json",
        "two_views.safetensors",
        "README.md",
    }
    with pytest.raises(RuntimeError, match=r"Unknown model .*uniemox_two_views"):
        timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True)


def test_a_folder_of_persons_is_a_timm_model_that_takes_the_whole_crop(tmp_path):
    facts = dataclasses.replace(FACTS, view="person", person=PersonConfig(margin=0.3))
    save_model(classifier(), tmp_path / "model", facts)
    assert load_model(tmp_path / "model").facts == facts
    model = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config({}, model=model))
    noise = np.random.default_rng(0).integers(0, 256, (70, 30, 3), np.uint8)
    views = EvaluationViews(size=32, view="person", person=PersonConfig(margin=0))
    image = Image.fromarray(noise)
    (expected,) = views.cut(image, (0, 0, 30, 70))
    assert np.array_equal(transform(image).numpy(), expected)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels_of()), classifier()(pixels_of()))


def test_a_start_is_the_encoder_of_two_views_without_head_and_fusion(tmp_path):
    save_model(two_views(), tmp_path / "model", two_view_facts())
    start = load_start(str(tmp_path / "model"))
    weights = start.encoder
    own = classifier().state_dict()
    assert weights.keys() == {k for k in own if not k.startswith(("head.", "fc_norm."))}
    assert all(torch.equal(weights[name], own[name]) for name in weights)
    assert start.name == describe_start(str(tmp_path / "model"))


@pytest.mark.parametrize("change", [{"view": "scene"}, {"view": "person"}, {"fusion": "sum"}])
def test_a_folder_whose_facts_are_of_other_views_is_refused(tmp_path, change, edit, refusal):
    save_model(two_views(), tmp_path / "model", two_view_facts())
    facts = {"fusion": "none"} | change if "view" in change else change
    edit(tmp_path / "model", lambda config: config["uniemox"].update(facts))
    assert "safetensors" in refusal(load_model, tmp_path / "model")


def test_a_reader_of_version_1_would_refuse_two_views(tmp_path):
    save_model(two_views(), tmp_path / "model", two_view_facts())
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["uniemox"]["format_version"] == 2
    assert config["label_names"] == list(FACTS.classes)


# Writing


def test_a_folder_is_replaced_as_a_whole_and_readable_by_all(folder):
    (folder / "left-over.txt").write_text("old")
    save_model(classifier(seed=1), folder, FACTS)
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "README.md"}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_folders_on_the_way_are_made(tmp_path):
    save_model(classifier(), tmp_path / "a" / "b" / "model", FACTS)
    assert read_facts(tmp_path / "a" / "b" / "model") == FACTS


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def full_disk_in_rust(*_, **__):
    raise SafetensorError("Error while serializing: IoError(Os { code: 28 })")


@pytest.mark.parametrize(
    ("where", "name", "fail"),
    [
        (bundle, "save_for_hf", full_disk),
        (bundle, "save_for_hf", full_disk_in_rust),
        (bundle, "save_file", full_disk_in_rust),
        (os, "fsync", full_disk),
    ],
)
def test_a_full_disk_leaves_the_old_folder_whole(pretrained_folder, monkeypatch, where, name, fail, refusal):
    before = {path.name: path.read_bytes() for path in pretrained_folder.iterdir()}
    model = pretraining(seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(where, name, fail)
        text = refusal(lambda folder: save_model(model, folder, facts_of(model)), pretrained_folder)
    assert f"{pretrained_folder} cannot be written" in text
    assert {path.name: path.read_bytes() for path in pretrained_folder.iterdir()} == before
    assert [path.name for path in pretrained_folder.parent.iterdir()] == ["pretrained"]


def test_the_old_folder_comes_back_where_the_new_one_cannot_be_put(folder, monkeypatch):
    rename = Path.rename

    def refuse(self, target):
        if Path(target) == folder and not self.name.endswith(".old"):
            full_disk()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_model(classifier(seed=1), folder, FACTS)
    assert read_facts(folder) == FACTS
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_an_interrupt_between_the_old_folder_and_the_new_one_leaves_the_old(folder, monkeypatch):
    rename = Path.rename

    def interrupt(self, target):
        if Path(target) == folder and not self.name.endswith(".old"):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_model(classifier(seed=1), folder, FACTS)
    assert read_facts(folder) == FACTS
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


KILLED = """
import os, signal, sys
from pathlib import Path
from uniemox.errors import CheckpointError, ConfigError
from uniemox.files.whole import replace_folder

rename = Path.rename
def rename_and_die(self, target):
    rename(self, target)
    os.kill(os.getpid(), signal.SIGKILL)

Path.rename = rename_and_die
with replace_folder(Path(sys.argv[1]), CheckpointError) as beside:
    (beside / "config.json").write_text("new")
"""


@pytest.mark.slow
def test_a_kill_between_the_renames_is_reported_with_both_folders(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(CheckpointError) as raised:
        open_model(str(folder))
    named = re.search(r"left the new one as (\S+) and the former as (\S+):", str(raised.value))
    found = [(Path(path) / "config.json").read_text() for path in named.groups()]
    assert found == ["new", "old"]


def test_a_new_folder_that_cannot_be_put_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "rename", full_disk)
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_model(classifier(), tmp_path / "model", FACTS)
    assert list(tmp_path.iterdir()) == []


def test_a_programmers_error_is_no_full_disk(tmp_path):
    with pytest.raises(AttributeError):
        save_model(None, tmp_path / "model", FACTS)
    assert list(tmp_path.iterdir()) == []


# Reading what somebody else wrote


HOSTILE_SHAPES = {
    "decoder_width": [None, 0, 24.5, "24", 10**9, 22, True],
    "decoder_depth": [None, 0, 10**9, "2"],
    "decoder_heads": [None, 0, 5, 10**9],
    "fusion": [None, "product", 3, []],
    "embedding_width": [0, -1, 10**12, "16", 1.5],
    "reconstructs": [None, 1, "yes"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in HOSTILE_SHAPES.items() for value in values]
)
def test_every_invalid_shape_of_a_decoder_is_refused(pretrained_folder, name, value, edit, refusal):
    edit(pretrained_folder, lambda config: config["uniemox"]["pretraining"].update({name: value}))
    text = refusal(load_pretraining, pretrained_folder)
    assert "uniemox.pretraining" in text
    assert name in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda shape: shape.pop("fusion"), "pretraining.fusion must be given"),
        (lambda shape: shape.update(norm="batch"), "unknown setting uniemox.pretraining.norm"),
    ],
)
def test_the_shape_of_a_decoder_is_refused_by_its_field(pretrained_folder, change, said, edit, refusal):
    edit(pretrained_folder, lambda config: change(config["uniemox"]["pretraining"]))
    assert said in refusal(load_pretraining, pretrained_folder)


def test_each_kind_is_loaded_as_what_it_is(folder, pretrained_folder, refusal):
    with pytest.raises(ConfigError, match="has no classes of its own"):
        load_model(pretrained_folder)
    assert "holds a classifier" in refusal(load_pretraining, folder)


@pytest.mark.parametrize("name", ["model.safetensors", "pretrain.safetensors"])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_a_truncated_file_of_weights_is_refused(pretrained_folder, name, share, refusal):
    path = pretrained_folder / name
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    text = refusal(load_pretraining, pretrained_folder)
    assert name in text
    assert "cannot be read" in text


def test_a_missing_file_of_weights_is_refused(folder, refusal):
    (folder / "model.safetensors").unlink()
    assert "model.safetensors cannot be read" in refusal(load_model, folder)


def respoil(path, change):
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_that_are_not_finite_are_refused(folder, value, dtype, refusal):
    def spoil(weights):
        weights["head.bias"] = torch.full_like(weights["head.bias"], value).to(dtype)

    respoil(folder / "model.safetensors", spoil)
    assert "not finite in head.bias" in refusal(load_model, folder)


def test_weights_of_eight_bits_are_read_or_refused_without_a_crash(folder, refusal):
    def spoil(weights):
        weights["head.bias"] = torch.tensor([float("nan")] * 3).to(torch.float8_e4m3fn)

    respoil(folder / "model.safetensors", spoil)
    assert "not finite in head.bias" in refusal(load_model, folder)


def test_weights_of_another_shape_are_refused_with_both(folder, refusal):
    respoil(folder / "model.safetensors", lambda weights: weights.update({"head.bias": torch.zeros(8)}))
    text = refusal(load_model, folder)
    assert "head.bias has shape (8,), the model has (3,)" in text


def test_weights_for_another_image_size_are_refused(folder, edit, refusal):
    edit(folder, lambda config: config["uniemox"].update(image_size=64))
    assert "pos_embed has shape (1, 17, 128), the model has (1, 65, 128)" in refusal(load_model, folder)


def test_missing_and_left_over_weights_are_named_but_not_all(folder, refusal):
    def rename(weights):
        for name in [name for name in weights if name.startswith("blocks.")]:
            weights[f"module.{name}"] = weights.pop(name)

    respoil(folder / "model.safetensors", rename)
    text = refusal(load_model, folder)
    assert "missing blocks.0.attn.proj.bias" in text
    assert "left over module.blocks.0.attn.proj.bias" in text
    assert "and 69 more" in text


def test_one_left_over_weight_is_not_missing_anything(tmp_path):
    model = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="missing none, left over extra"):
        fill(model, model.state_dict() | {"extra": torch.zeros(1)}, tmp_path)


def test_no_pickle_is_read_from_a_folder(folder, refusal):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(folder / "owned"),)

    (folder / "model.safetensors").unlink()
    torch.save({"head.bias": Evil()}, folder / "pytorch_model.bin")
    torch.save({"head.bias": Evil()}, folder / "model.safetensors")
    assert "cannot be read" in refusal(load_model, folder)
    assert not (folder / "owned").exists()


# Pretraining's fusion

FUSED = dataclasses.replace(
    FACTS,
    pool="fused",
    view="both",
    pretraining={
        "decoder_width": 24, "decoder_depth": 1, "decoder_heads": 4, "fusion": "sum", "embedding_width": 16,
        "reconstructs": False,
    },
)  # fmt: skip


@pytest.fixture
def fused_folder(tmp_path):
    shape = {name: FUSED.pretraining[name] for name in ("decoder_width", "decoder_depth", "decoder_heads", "fusion")}
    config = ModelConfig(size="mini", patch_size=8, image_size=32, **shape)
    save_model(FusedClassifier(config, embedding_width=16, num_classes=3), tmp_path / "fused", FUSED)
    return tmp_path / "fused"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"embedding_width": 17}, "projection.weight has shape (16, 24), the model has (17, 24)"),
        ({"embedding_width": 24}, "left over projection.bias"),
        ({"decoder_width": 32}, "decoder_embed.weight has shape (24, 128), the model has (32, 128)"),
        ({"fusion": "attention"}, "does not fit the model: missing fusion."),
        ({"decoder_heads": 5}, "uniemox.pretraining is no model of ours"),
    ],
)
def test_a_fusion_that_is_another_than_the_weights_is_refused(fused_folder, change, said, edit, refusal):
    load_model(fused_folder)
    edit(fused_folder, lambda config: config["uniemox"]["pretraining"].update(change))
    for reader in (load_model, load_start):
        assert said in refusal(reader, str(fused_folder))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"classes": ["a", "b"]}, "head.weight has shape (3, 16), the model has (2, 16)"),
        ({"pool": "cls", "view": "scene", "pretraining": {}}, "model.safetensors cannot be read"),
        ({"pool": "cls_mean", "fusion": "sum", "pretraining": {}}, "two_views.safetensors cannot be read"),
    ],
)
def test_facts_of_another_classifier_than_the_weights_are_refused(fused_folder, change, said, edit, refusal):
    edit(fused_folder, lambda config: config["uniemox"].update(change))
    assert said in refusal(load_model, fused_folder)


def test_the_folder_of_an_export_without_its_graph_is_refused_by_every_reader(fused_folder, edit, refusal):
    preparation = PreparationFacts(
        crop_share=1.0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bicubic", squash=False
    )
    clip = dataclasses.replace(FACTS, size=None, patch_size=0, architecture="RN50/openai", preparation=preparation)
    edit(fused_folder, lambda config: config.update(uniemox=clip.to_dict()))
    edit(fused_folder, lambda config: config.pop("architecture"))
    for reader in (load_model, inspect):
        assert "is an export of RN50/openai, but has no model.onnx" in refusal(reader, str(fused_folder))
    for reader in (load_start, describe_start):
        assert "RN50/openai" in refusal(reader, str(fused_folder))


ROBUST = Robustness(
    metric="top1",
    title="top-1",
    is_share=True,
    flips="images",
    description="Words.",
    shifts=tuple(Shift(change=name, strength="", values={"top1": 0.5}) for name in ("unchanged", "blur")),
)


def test_robustness_is_kept_by_a_folder_and_nothing_else_of_it_changes(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    record_robustness(folder, ROBUST)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name for name in after if after[name] != before.get(name)} == {"config.json", "README.md"}
    assert read_facts(folder).robustness == ROBUST
    assert dataclasses.replace(read_facts(folder), robustness=None) == FACTS
    assert "## Robustness" in (folder / "README.md").read_text()


def test_a_folder_that_cannot_be_written_stays_as_it_was(folder, monkeypatch):
    before = (folder / "config.json").read_bytes()
    monkeypatch.setattr("pathlib.Path.write_text", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        record_robustness(folder, ROBUST)
    assert (folder / "config.json").read_bytes() == before


def test_the_card_of_a_classifiers_own_folder_alone_is_written_again(folder, pretrained_folder):
    assert own_folder(str(folder)) == folder
    for name in ("demo", "clip:demo", str(pretrained_folder)):
        with pytest.raises(CheckpointError, match="has no card to write robustness into"):
            own_folder(name)
