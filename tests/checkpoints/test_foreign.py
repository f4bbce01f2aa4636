"""Weights that others wrote give the answers of independent models."""

import argparse
import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import load_state_dict, save_for_hf

from uniemox.checkpoints.foreign import likely_datasets, open_source
from uniemox.checkpoints.inspection import inspect
from uniemox.checkpoints.load import load_model, load_pretraining, load_start
from uniemox.config.training import ENCODER_SHAPES
from uniemox.errors import DataError
from uniemox.importers.specs import SPECS

SIZES = ("base", "large", "huge")
FI = SPECS["fi"].classes


def ddp(state):
    return under("module.", state)


def under(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def spoilt(state):
    return {name: tensor + 1 for name, tensor in state.items()}


WRAPPERS = {
    "bare": lambda state, args: state,
    "model": lambda state, args: {"model": state, "epoch": 99, "args": args, "scaler": {}},
    "ddp": lambda state, args: {"model": ddp(state), "epoch": 99, "args": args},
    "timm": lambda state, args: {"state_dict": state, "epoch": 3, "args": args},
    "compiled": lambda state, args: ddp(under("_orig_mod.", state)),
    "averaged": lambda state, args: {"n_averaged": torch.tensor(3), **ddp(state)},
    "average first": lambda state, args: {"model": spoilt(state), "model_ema": state},
    "lightning": lambda state, args: {"state_dict": under("model.", state), "pytorch-lightning_version": "2.5"},
    "lightning with a loss": lambda state, args: {
        "state_dict": {**under("net.", state), "loss.weight": torch.ones(3), "top1.correct": torch.tensor(4)}
    },
    "a part": lambda state, args: {**under("encoder.backbone.", state), "text.weight": torch.ones(2)},
}


@pytest.mark.parametrize(
    ("size", "wrapper"), [*(("base", wrapper) for wrapper in WRAPPERS), ("large", "bare"), ("huge", "ddp")]
)
def test_a_classifier_of_any_wrapper_gives_the_logits_of_timm(plain, run_args, tmp_path, size, wrapper):
    weights = plain(size)
    state = weights.classifier(8)
    torch.save(WRAPPERS[wrapper](state, run_args), tmp_path / "a.pth")
    loaded = load_model(tmp_path / "a.pth", dataset="fi")
    with torch.no_grad():
        expected = weights.timm(8, state)(weights.pictures())
        found = loaded.model(weights.pictures())
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert loaded.facts.classes == FI
    assert loaded.facts.size == size
    assert not loaded.model.training


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "width", "depth", "heads", "patch"),
    [
        ("base", 768, 12, 12, 16),
        pytest.param("large", 1024, 24, 16, 16, marks=pytest.mark.soak),
        pytest.param("huge", 1280, 32, 16, 14, marks=pytest.mark.soak),
    ],
)
def test_classifiers_of_full_size_give_the_logits_of_timm(plain, tmp_path, size, width, depth, heads, patch):
    weights = type(plain("mini"))(width, depth, heads, patch, 224)
    state = weights.classifier(8)
    torch.save(state, tmp_path / "a.pth")
    loaded = load_model(tmp_path / "a.pth", dataset="fi")
    with torch.no_grad():
        expected = weights.timm(8, state)(weights.pictures(1))
        found = loaded.model(weights.pictures(1))
    (tmp_path / "a.pth").unlink()  # gigabytes
    assert loaded.facts.size == size
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".old"])
def test_every_format_gives_the_same(plain, tmp_path, suffix):
    weights = plain("mini")
    state, path = weights.classifier(8), tmp_path / f"a{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=suffix == ".pth")
    assert open_source(path).format == {
        ".safetensors": "safetensors", ".pth": "torch", ".old": "torch before 1.6"
    }[suffix]  # fmt: skip
    loaded = load_model(path, dataset="fi").model.state_dict()
    for name, tensor in state.items():
        if not name.startswith("norm."):
            assert torch.equal(loaded[name], tensor)


def test_what_is_skipped_is_logged_when_a_file_is_loaded(plain, tmp_path, caplog):
    torch.save(plain("mini").classifier(8), tmp_path / "a.pth")
    with caplog.at_level("INFO"):
        load_model(tmp_path / "a.pth", dataset="fi")
    assert "norm.bias, norm.weight: not used by the model, skipped" in caplog.text
    assert "CC-BY-NC-4.0" in caplog.text


def test_half_precision_is_read_as_full(plain, tmp_path):
    state = {k: v.half() for k, v in plain("mini").classifier(8).items()}
    torch.save(state, tmp_path / "a.pth")
    loaded = load_model(tmp_path / "a.pth", dataset="fi").model.state_dict()
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}
    assert torch.equal(loaded["head.bias"], state["head.bias"].float())


def test_the_norm_that_released_classifiers_do_not_use_is_noted(plain, tmp_path):
    torch.save(plain("mini").classifier(8), tmp_path / "a.pth")
    notes = open_source(tmp_path / "a.pth").notes()
    assert notes[0] == "norm.bias, norm.weight: not used by the model, skipped"
    assert "CC-BY-NC-4.0" in notes[1]
    torch.save({"model": plain("mini").mae_encoder(), "optimizer": {}}, tmp_path / "b.pth")
    notes = open_source(tmp_path / "b.pth").notes()
    assert notes[0] == "optimizer: beside the weights, skipped"


# Pretraining


@pytest.mark.parametrize("size", SIZES)
def test_a_mae_file_predicts_the_pixels_of_an_independent_mae(plain, mae, tmp_path, size):
    weights = plain(size)
    state = weights.pretraining(decoder_depth=2)
    torch.save({"model": state}, tmp_path / "mae.pth")
    loaded = load_pretraining(tmp_path / "mae.pth")
    noise = torch.rand(2, weights.grid**2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output = loaded.model.eval()(weights.pictures(), None, noise, None, 0.5)
        _, expected = mae(state, weights, weights.pictures(), noise, 0.5)
    assert output.embedding is None
    torch.testing.assert_close(output.prediction, expected, atol=1e-5, rtol=0)
    assert loaded.facts.pretraining["fusion"] == "none"


def test_a_released_run_embeds_and_predicts_as_its_formula(plain, mae, fuse, run_args, tmp_path):
    weights = plain("large")
    state, fusion = weights.pretraining(), weights.fusion()
    saved = {"model": ddp(state), "att_fusion": ddp(fusion), "args": run_args, "epoch": 199}
    torch.save(saved, tmp_path / "run.pth")
    loaded = load_pretraining(tmp_path / "run.pth")
    scene, person = weights.pictures(seed=1), weights.pictures(seed=2)
    noises = [torch.rand(2, 9, generator=torch.Generator().manual_seed(n)) for n in (3, 4)]
    with torch.no_grad():
        output = loaded.model.eval()(scene, person, *noises, 0.5)
        alpha, pixels = mae(state, weights, scene, noises[0], 0.5)
        beta, _ = mae(state, weights, person, noises[1], 0.5)
    torch.testing.assert_close(output.prediction, pixels, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.embedding, fuse(fusion, alpha, beta), atol=1e-5, rtol=0)
    assert loaded.facts.pretraining["embedding_width"] == 512
    settings = json.loads(loaded.facts.provenance["settings"])
    assert settings["epochs"] == "200"
    assert "data_path" not in settings  # a stranger's paths mean nothing here


def test_the_noise_decides_which_patches_are_hidden(plain, tmp_path):
    weights = plain("base")
    torch.save({"model": weights.pretraining()}, tmp_path / "mae.pth")
    model = load_pretraining(tmp_path / "mae.pth").model.eval()
    noise = torch.arange(9.0).flip(0).repeat(2, 1)
    with torch.no_grad():
        one, two = (model(weights.pictures(), None, noise, None, 0.5) for _ in range(2))
    assert torch.equal(one.prediction, two.prediction)
    assert one.hiding.hidden[0].tolist() == [True] * 5 + [False] * 4


@pytest.mark.parametrize("kind", ["encoder", "classifier"])
def test_what_has_no_decoder_is_no_pretrained_model(plain, tmp_path, kind, refusal):
    weights = plain("mini")
    state = weights.mae_encoder() if kind == "encoder" else weights.classifier(8)
    torch.save({"model": state}, tmp_path / "a.pth")
    said = refusal(lambda: load_pretraining(tmp_path / "a.pth"))
    assert "holds no decoder: start a run from it" in said


def test_a_decoder_with_an_unknown_number_of_heads_is_refused(plain, tmp_path, refusal):
    state = plain("mini").pretraining()
    thin = {
        "mask_token": torch.zeros(1, 1, 24),
        "decoder_pos_embed": torch.zeros(1, 17, 24),
        "decoder_embed.weight": torch.zeros(24, 128),
        "decoder_embed.bias": torch.zeros(24),
        "decoder_norm.weight": torch.zeros(24),
        "decoder_norm.bias": torch.zeros(24),
        "decoder_pred.weight": torch.zeros(192, 24),
    }
    width = len(state["decoder_norm.weight"])
    thin |= {
        name: torch.zeros([side * 24 // width for side in tensor.shape])
        for name, tensor in state.items()
        if name.startswith("decoder_blocks.")
    }
    torch.save({"model": state | thin}, tmp_path / "a.pth")
    said = refusal(lambda: load_pretraining(tmp_path / "a.pth"))
    assert "a decoder 24 wide; no tensor shows its number of heads" in said


# Classes


def test_a_head_without_names_asks_for_its_data_set(plain, tmp_path, refusal):
    torch.save(plain("mini").classifier(8), tmp_path / "a.pth")
    said = refusal(load_model, tmp_path / "a.pth")
    assert "distinguishes 8 classes and does not name them: give the data set" in said
    assert "drawn6" not in refusal(lambda: _load_of(plain, tmp_path, 6))
    assert "(a manifest)" in refusal(lambda: _load_of(plain, tmp_path, 97))


def _load_of(plain, folder, num_classes):
    torch.save(plain("mini").classifier(num_classes), folder / "b.pth")
    return load_model(folder / "b.pth")


def test_a_data_set_with_another_number_of_classes_is_refused(plain, tmp_path, refusal):
    torch.save(plain("mini").classifier(3), tmp_path / "a.pth")
    file = tmp_path / "a.pth"
    said = refusal(load_model, file, dataset="fi")
    assert "distinguishes 3 classes, but fi has 8" in said
    assert "give their manifest" in refusal(load_model, file, dataset="folders")
    with pytest.raises(DataError, match="no data set is called nowhere"):
        load_model(file, dataset="nowhere")


def test_a_manifest_names_the_classes(plain, painted, tmp_path):
    torch.save(plain("mini").classifier(3), tmp_path / "a.pth")
    loaded = load_model(tmp_path / "a.pth", dataset=str(painted.path))
    assert loaded.facts.classes == ("awe", "fear", "joy")
    assert (loaded.facts.dataset, loaded.facts.emotion) == ("painted", "evoked")


@pytest.mark.parametrize("num_classes", range(1, 30))
def test_likely_data_sets_are_those_of_as_many_classes(num_classes):
    expected = [name for name, spec in SPECS.items() if len(spec.classes) == num_classes and name != "drawn6"]
    assert list(likely_datasets(num_classes)) == expected


# Folders of timm


@pytest.fixture
def timm_folder(plain, tmp_path, edit):
    """Save a classifier as timm does; `data` changes its preprocessing."""

    def make(labels=("a", "b", "c"), pool="avg", **data):
        weights = plain("mini")
        torch.manual_seed(3)
        model = timm.create_model(
            "vit_tiny_patch16_224",
            img_size=32,
            patch_size=8,
            embed_dim=128,
            depth=6,
            num_heads=4,
            num_classes=3,
            global_pool=pool,
        ).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        usual = {"input_size": (3, 32, 32), "crop_pct": 0.875, "interpolation": "bicubic"}
        folder = tmp_path / "timm"
        save_for_hf(
            model, str(folder), model_config={"label_names": list(labels)} if labels else {}, safe_serialization=True
        )
        preprocessing = usual | {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)} | data
        edit(folder, lambda config: config["pretrained_cfg"].update(preprocessing))
        return folder, model, weights

    return make


def test_a_folder_of_timm_is_a_classifier_by_its_labels(timm_folder):
    folder, model, weights = timm_folder()
    loaded = load_model(folder)
    with torch.no_grad():
        expected = model(weights.pictures())
        torch.testing.assert_close(loaded.model(weights.pictures()), expected, atol=1e-6, rtol=0)
    assert loaded.facts.classes == ("a", "b", "c")
    assert loaded.facts.dataset == "unknown"


def test_other_colours_are_folded_into_the_patch_projection(timm_folder):
    folder, model, _ = timm_folder(mean=(0.5, 0.4, 0.3), std=(0.5, 0.6, 0.25))
    assert "folded into the patch projection" in open_source(folder).notes()[0]
    loaded = load_model(folder)
    raw = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def normalised(mean, std):
        return (raw - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    with torch.no_grad():
        expected = model(normalised((0.5, 0.4, 0.3), (0.5, 0.6, 0.25)))
        found = loaded.model(normalised((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"crop_pct": 0.9}, "pretrained_cfg.crop_pct 0.9, and images are prepared with 0.875"),
        ({"interpolation": "bilinear"}, "pretrained_cfg.interpolation bilinear"),
        ({"interpolation": "x" * 10**5}, "pretrained_cfg.interpolation xxx"),
        ({"crop_mode": "squash"}, "pretrained_cfg.crop_mode squash"),
    ],
)
def test_a_classifier_that_sees_images_otherwise_is_refused(timm_folder, data, said, refusal):
    folder, _, _ = timm_folder(**data)
    assert said in refusal(lambda: load_model(folder))


def test_a_head_on_the_class_token_is_noted_and_refused(timm_folder, refusal):
    folder, _, _ = timm_folder(pool="token")
    assert open_source(folder).foreign.unused == ("head.bias", "head.weight")
    said = refusal(load_model, folder)
    assert "its head.bias, head.weight are a head on the class token, not one on the mean of the patches" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_args": {"num_heads": 8}}, "num_heads of this model is 8, which no tensor shows"),
        ({"model_args": {"act_layer": "relu"}}, "act_layer of this model is relu"),
        ({"model_args": {"norm_layer": "layernorm"}}, "which is not known here: use it with timm"),
        ({"model_args": {"global_pool": "max"}}, "global_pool of this model is max"),
        ({"global_pool": "avgmax", "model_args": {}}, "global_pool of this model is avgmax"),
        ({"model_args": ["num_heads"]}, "model_args must be a table"),
    ],
)
def test_a_model_that_computes_otherwise_than_its_tensors_show_is_refused(timm_folder, change, said, edit, refusal):
    folder, _, _ = timm_folder()
    edit(folder, lambda config: config.update(change))
    assert said in refusal(open_source, folder)


def test_what_tensors_show_may_be_said_too(timm_folder, edit):
    folder, _, _ = timm_folder()
    arguments = {"img_size": 32, "depth": 6, "num_heads": 4, "global_pool": "avg", "drop_rate": 0.1}
    edit(folder, lambda config: config.update(model_args=arguments))
    assert open_source(folder).foreign.num_classes == 3
    folder, _, _ = timm_folder(pool="token")
    edit(folder, lambda config: config.update(model_args={"global_pool": "token"}))
    assert open_source(folder).foreign.kind == "encoder"


def test_labels_that_contradict_the_data_set_are_refused(timm_folder, painted, refusal):
    folder, _, _ = timm_folder(labels=("awe", "joy", "love"))
    said = refusal(load_model, folder, dataset=str(painted.path))
    assert "does not have the classes of painted: it has love, which painted lacks, and painted has fear" in said


def test_a_folders_own_labels_stay_in_their_order(timm_folder, painted):
    names = ("Joy", "awe", "fear")
    folder, _, _ = timm_folder(labels=names)
    facts = load_model(folder, dataset=str(painted.path)).facts
    assert (facts.classes, facts.dataset, facts.emotion) == (names, "painted", "evoked")


def test_outputs_without_names_are_in_the_order_of_the_data_set(timm_folder, painted):
    folder, _, _ = timm_folder(labels=())
    facts = load_model(folder, dataset=str(painted.path)).facts
    assert facts.classes == painted.manifest.facts.classes


@pytest.mark.parametrize("problem", ["single_label", "multi_label"])
def test_a_problem_type_says_what_the_outputs_mean(timm_folder, problem, edit):
    folder, _, _ = timm_folder()
    edit(folder, lambda config: config.update(problem_type=f"{problem}_classification"))
    assert load_model(folder).facts.target == problem


def test_a_problem_type_that_contradicts_the_data_set_is_refused(timm_folder, painted, edit, refusal):
    folder, _, _ = timm_folder(labels=("awe", "fear", "joy"))
    edit(folder, lambda config: config.update(problem_type="multi_label_classification"))
    said = refusal(load_model, folder, dataset=str(painted.path))
    assert "multi_label" in said
    assert "is single_label" in said


@pytest.mark.parametrize("names", [["a", "b"], ["a", "a", "b"], {"0": "a"}, [1, 2, 3], "abc", ["a", "b", "c", "d"]])
def test_labels_that_name_no_three_classes_are_refused(timm_folder, names, edit, refusal):
    folder, _, _ = timm_folder()
    edit(folder, lambda config: config.update(label_names=names))
    assert "label_names must be 3 distinct names" in refusal(open_source, folder)


@pytest.mark.parametrize("mean", [[0.5], "x", [0.5, 0.5, None], [0.5, 0.5, 1e9], None])
def test_colours_that_are_no_numbers_are_refused(timm_folder, mean, edit, refusal):
    folder, _, _ = timm_folder()
    edit(folder, lambda config: config["pretrained_cfg"].update(mean=mean))
    assert "pretrained_cfg.mean" in refusal(load_model, folder)
    edit(folder, lambda config: config["pretrained_cfg"].update(mean=[0.1] * 3, std=[0, 1, 1]))
    assert "pretrained_cfg.std.0 is 0, but must be greater than 0" in refusal(load_model, folder)


@pytest.mark.parametrize("name", ["file", "state_dict"])
def test_a_configuration_that_points_elsewhere_is_refused(timm_folder, name, edit, refusal):
    folder, _, _ = timm_folder()
    edit(folder, lambda config: config["pretrained_cfg"].update({name: "/etc/passwd"}))
    assert f"pretrained_cfg.{name}" in refusal(open_source, folder)
    edit(folder, lambda config: config.update(pretrained_cfg=[]))
    assert "pretrained_cfg must be a table" in refusal(open_source, folder)


def test_a_folder_with_a_pickle_alone_names_it(timm_folder, refusal):
    folder, _, _ = timm_folder()
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    assert refusal(open_source, folder).endswith("has no model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    assert "pytorch_model.bin can be given by itself" in refusal(open_source, folder)


def test_the_licence_of_mae_goes_with_its_encoders(plain, tmp_path):
    weights, file = plain("mini"), tmp_path / "a.pth"
    encoder = weights.mae_encoder()
    for tree in ({"model": encoder}, {"model": encoder, "args": argparse.Namespace(lr=1.0)}):
        torch.save(tree, file)
        assert "CC-BY-NC-4.0" in open_source(file).licence
    head = {"head.weight": torch.ones(3, 128), "head.bias": torch.ones(3)}
    for tree in (encoder, encoder | head, {"model": encoder | head}):  # anybody's, such as DeiT's
        torch.save(tree, file)
        assert open_source(file).licence == ""


def test_a_licence_that_a_folder_states_is_kept(timm_folder, edit):
    folder, _, _ = timm_folder()
    edit(folder, lambda config: config["pretrained_cfg"].update(license="cc-by-nc-4.0"))
    assert open_source(folder).licence == "cc-by-nc-4.0"
    assert open_source(folder).notes() == ("licence: cc-by-nc-4.0",)


def test_more_classes_than_a_folder_may_name_are_refused(timm_folder, tmp_path, painted, edit, refusal):
    folder, model, _ = timm_folder(labels=())
    state = {name: tensor for name, tensor in model.state_dict().items() if "head" not in name}
    head = {"head.weight": torch.zeros(10_001, 128), "head.bias": torch.zeros(10_001)}
    save_file(state | head, folder / "model.safetensors")
    edit(folder, lambda config: config.update(label_names=[str(n) for n in range(10_001)]))
    said = refusal(lambda: load_model(folder))
    assert "uniemox.classes is " in said
    assert "but must be a shorter list" in said


def test_the_sizes_of_the_tests_are_those_of_the_package():
    assert ENCODER_SHAPES["base"] == (768, 12, 12)
    assert ENCODER_SHAPES["large"] == (1024, 24, 16)
    assert ENCODER_SHAPES["huge"] == (1280, 32, 16)


# Names


def test_what_is_beside_a_part_and_what_was_removed_are_noted(plain, tmp_path):
    state = {**under("net.", plain("base").classifier(8)), "loss.weight": torch.ones(3)}
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    notes = open_source(tmp_path / "a.ckpt").notes()
    assert "net.: removed from the names" in notes
    assert "loss.weight: beside the weights, skipped" in notes


def test_the_average_that_is_used_and_what_is_not_are_noted(plain, tmp_path):
    state = plain("base").classifier(8)
    torch.save({"model": spoilt(state), "model_ema": state}, tmp_path / "a.pth")
    assert "the average over steps is used instead of model, as in timm" in open_source(tmp_path / "a.pth").notes()
    state = load_state_dict(str(tmp_path / "a.pth"))  # timm's own
    assert torch.equal(state["cls_token"], load_model(tmp_path / "a.pth", dataset="fi").model.cls_token)


def test_several_models_in_one_file_are_refused_by_their_names(plain, tmp_path, refusal):
    state = plain("base").classifier(8)
    torch.save({"state_dict": {**under("model.", state), **under("ema_model.", spoilt(state))}}, tmp_path / "a.ckpt")
    said = refusal(open_source, tmp_path / "a.ckpt")
    assert "holds 2 vision transformers (ema_model., model.): save the `state_dict()` of the one" in said


def renamed(state, name):
    return {key.replace("head.", f"{name}.", 1) if key.startswith("head.") else key: t for key, t in state.items()}


def with_two_layers(state):
    rest = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    return (
        rest
        | {f"head.{n}.weight": torch.ones(128, 128) for n in (0, 2)}
        | {"head.1.num_batches_tracked": torch.ones(())}
    )


HEADS = {
    **{
        name: lambda state, name=name: renamed(state, name)
        for name in ("head.fc", "head.0", "head.1", "classifier", "fc")
    },
    "head_dist": lambda state: state | {"head_dist.weight": state["head.weight"], "head_dist.bias": state["head.bias"]},
    "two layers": with_two_layers,
}


@pytest.mark.parametrize("pool", ["avg", "token"])
@pytest.mark.parametrize("head", HEADS)
def test_a_head_by_another_name_is_called_a_head_and_the_encoder_is_read(timm_folder, tmp_path, pool, head, refusal):
    _, model, _ = timm_folder(pool=pool)
    if pool == "avg":  # with the norm of pretraining, which an encoder needs
        model.norm, model.fc_norm = model.fc_norm, torch.nn.Identity()
    torch.save(HEADS[head](model.state_dict()), tmp_path / "a.pth")
    start = load_start(str(tmp_path / "a.pth"))
    assert any("a head under another name than timm's" in note for note in start.notes)
    assert torch.equal(start.encoder["blocks.5.mlp.fc2.weight"], model.state_dict()["blocks.5.mlp.fc2.weight"])
    assert not any(name.startswith(("head", "classifier", "fc.")) for name in start.encoder)
    assert "are a head under another name than timm's" in refusal(load_model, tmp_path / "a.pth", dataset="emotion6")


def test_a_head_that_the_configuration_names_is_a_head(timm_folder, refusal):
    folder, _, _ = timm_folder(pool="token", classifier=["left", "right.fc"])
    state = load_file(folder / "model.safetensors")
    state |= {"left.weight": state.pop("head.weight"), "right.fc.bias": state.pop("head.bias")}
    save_file(state, folder / "model.safetensors")
    assert open_source(folder).foreign.unused == ("left.weight", "right.fc.bias")
    load_start(str(folder))


@pytest.mark.parametrize("named", [None, 3, {"a": 1}, [["head"], 3, ""], ""])
def test_a_head_that_is_named_by_no_word_is_none(timm_folder, named):
    folder, _, _ = timm_folder(classifier=named)
    assert open_source(folder).foreign.kind == "classifier"


# Folders in parts


@pytest.fixture
def in_parts(timm_folder):
    """A timm folder whose weights are in two parts."""
    folder, model, _ = timm_folder()
    path = folder / "model.safetensors"
    state = load_file(path)
    path.unlink()
    table = {}
    for part in (1, 2):
        names = sorted(state)[part - 1 :: 2]
        save_file({name: state[name] for name in names}, folder / f"model-0000{part}-of-00002.safetensors")
        table |= dict.fromkeys(names, f"model-0000{part}-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return folder, model


def test_a_folder_in_parts_gives_the_logits_of_the_whole(in_parts):
    folder, model = in_parts
    (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + (folder / "config.json").read_bytes())
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(load_model(folder).model(images), model(images), atol=1e-5, rtol=0)
    assert len(inspect(str(folder)).sha256) == 2


def test_the_name_of_weights_in_parts_depends_on_each(in_parts):
    folder, _ = in_parts
    before = open_source(folder).title
    path = folder / "model-00002-of-00002.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path)
    assert open_source(folder).title != before


@pytest.mark.parametrize(
    "table",
    [{}, [], None, {"a": "../b.safetensors"}, {"a": "/etc/passwd"}, {"a": ["b"]}, {"a": "pytorch_model.bin"},
     {"a": None}, {str(n): f"part-{n}.safetensors" for n in range(65)}],
    ids=lambda table: str(table)[:30],
)  # fmt: skip
def test_an_index_of_anything_but_files_beside_it_is_refused(in_parts, table, refusal):
    (in_parts[0] / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    assert "must name 1 to 64 safetensors files beside it" in refusal(open_source, in_parts[0])


def test_a_part_that_is_missing_or_repeats_another_is_refused(in_parts, refusal):
    folder, _ = in_parts
    first, second = (folder / f"model-0000{part}-of-00002.safetensors" for part in (1, 2))
    second.write_bytes(first.read_bytes())
    assert "again, as a part before it does" in refusal(open_source, folder)
    second.unlink()
    assert "it does not exist" in refusal(open_source, folder)
