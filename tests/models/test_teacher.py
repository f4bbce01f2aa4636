"""Tests of the teacher on small CLIPs with seeded weights, against open_clip itself."""

import copy
import functools
import json
import logging
import pickle
import shutil
import socket
import warnings
import weakref

import huggingface_hub.constants
import open_clip
import pytest
import torch
from open_clip.pretrained import _PRETRAINED
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cosine_similarity
from torchvision.transforms import v2

from uniemox.config.training import TeacherConfig
from uniemox.errors import CheckpointError, ConfigError
from uniemox.models import teacher as module
from uniemox.models.teacher import load_teacher

CPU = torch.device("cpu")
MEAN, STD = (0.3, 0.4, 0.5), (0.2, 0.3, 0.25)
TEXT = {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "patch_size": 8, "width": 64, "head_width": 16, "layers": 3}
TIMM = {"image_size": 64, "timm_model_name": "tf_efficientnet_lite0", "timm_pool": "avg"}
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32}


def clip_config(vision=VIT, *, quick_gelu=False, **more):
    return {"embed_dim": 24, "quick_gelu": quick_gelu, "vision_cfg": dict(vision), "text_cfg": dict(TEXT), **more}


def build(config):
    """An open_clip model with seeded weights that are large enough for GELUs to differ."""
    return build_words(json.dumps(config))


@functools.cache
def build_words(words):
    config = json.loads(words)
    kind = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = kind(**arguments)
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        for statistic in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            statistic.running_mean.uniform_(-1, 1)
            statistic.running_var.uniform_(0.5, 1.5)
    return model.eval()


def weights_of(config):
    return {name: value.clone() for name, value in build(config).state_dict().items()}


def write_folder(folder, config):
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"model_cfg": config, "preprocess_cfg": {"mean": MEAN, "std": STD}}
    (folder / "open_clip_config.json").write_text(json.dumps(facts))
    save_file(weights_of(config), folder / "open_clip_model.safetensors")
    return folder


def load_folder(folder, precision="fp32"):
    config = TeacherConfig(model=str(folder), pretrained=None, precision=precision)
    return load_teacher(config, device=CPU)


def load_file_of(name, path, precision="fp32"):
    config = TeacherConfig(model=name, pretrained=str(path), precision=precision)
    return load_teacher(config, device=CPU)


def pixels_of(size, count=3):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def normalize(pixels, mean=MEAN, std=STD):
    return v2.functional.normalize(pixels, list(mean), list(std))


def features_of(config, pixels, mean=MEAN, std=STD):
    """open_clip's own features, in float32."""
    with torch.no_grad():
        return build(config).encode_image(normalize(pixels, mean, std))


@pytest.fixture(scope="module", autouse=True)
def _one_tokenizer():
    """Read open_clip's vocabulary once and not in each test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_clip.factory, "SimpleTokenizer", functools.cache(open_clip.SimpleTokenizer))
        yield


@pytest.fixture
def vit_folder(tmp_path):
    return write_folder(tmp_path / "mini_vit", clip_config())


@pytest.fixture
def mini(monkeypatch):
    """Two architectures that open_clip then knows: `mini` and `mini-quickgelu`, with a tag `openai`."""
    known = open_clip.factory._MODEL_CONFIGS
    monkeypatch.setitem(known, "mini", clip_config())
    monkeypatch.setitem(known, "mini-quickgelu", clip_config(quick_gelu=True))
    tag = {"hf_hub": "someone/mini/", "quick_gelu": True, "mean": MEAN, "std": STD}
    monkeypatch.setitem(_PRETRAINED, "mini", {"openai": tag})
    return "mini"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        pytest.fail("the network was asked")  # which nothing that handles errors catches

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def hub_cache(monkeypatch, tmp_path):
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    return folder


def put_into_cache(cache, state):
    repo = cache / "models--someone--mini"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0123")
    (repo / "snapshots" / "0123").mkdir(parents=True)
    save_file(state, repo / "snapshots" / "0123" / "open_clip_model.safetensors")


TOWERS = {
    "vit": clip_config(),
    "vit with quick gelu": clip_config(quick_gelu=True),
    "vit with its text apart": clip_config(custom_text=True),
    "vit that gives tokens": clip_config({**VIT, "output_tokens": True}),
    "timm network": clip_config(TIMM),
    "resnet": clip_config(RESNET),
}


@pytest.mark.parametrize("tower", TOWERS)
def test_image_features_in_float32_are_those_of_open_clip(tower, tmp_path, no_network):
    config = TOWERS[tower]
    teacher = load_folder(write_folder(tmp_path / "clip", config))
    pixels = pixels_of(teacher.image_size)
    expected = features_of(config, pixels)
    expected = expected[0] if isinstance(expected, tuple) else expected
    # Another memory layout adds in another order; the worst of these differs by 1.1e-6.
    torch.testing.assert_close(teacher.encode_images(pixels), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("tower", TOWERS)
def test_image_features_in_bfloat16_point_the_same_way(tower, tmp_path, caplog):
    config = TOWERS[tower]
    with caplog.at_level(logging.INFO):
        teacher = load_folder(write_folder(tmp_path / "clip", config), "bf16")
    assert "float32" not in caplog.text
    pixels = pixels_of(teacher.image_size)
    expected = features_of(config, pixels)
    expected = expected[0] if isinstance(expected, tuple) else expected
    found = teacher.encode_images(pixels)
    assert found.dtype == torch.float32
    assert cosine_similarity(found, expected).min() >= 0.999
    assert not torch.equal(found, expected)  # it did compute in bfloat16


@pytest.mark.slow
def test_a_vision_transformer_of_full_width_keeps_its_direction_in_bfloat16(tmp_path):
    vision = {"image_size": 224, "patch_size": 16, "width": 768, "layers": 2}
    config = clip_config(vision, quick_gelu=True)
    teacher = load_folder(write_folder(tmp_path / "clip", config), "bf16")
    pixels = pixels_of(224, count=2)
    expected = features_of(config, pixels)
    assert cosine_similarity(teacher.encode_images(pixels), expected).min() >= 0.999


@pytest.mark.parametrize("is_fast", [True, False])
def test_auto_is_bfloat16_only_where_the_processor_does_it_well(vit_folder, monkeypatch, is_fast):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: is_fast)
    pixels = pixels_of(32)
    same = load_folder(vit_folder, "bf16" if is_fast else "fp32").encode_images(pixels)
    assert torch.equal(load_folder(vit_folder, "auto").encode_images(pixels), same)


@pytest.mark.parametrize("failure", ["raises", "differs", "is not a number"])
def test_a_tower_not_made_for_bfloat16_stays_in_float32(vit_folder, monkeypatch, caplog, failure):
    def forward(self, pixels, _own=open_clip.transformer.VisionTransformer.forward):
        features = _own(self, pixels)
        if pixels.dtype == torch.float32:
            return features
        if failure == "raises":
            return features @ torch.ones(24, 24)
        return features.flip(-1) if failure == "differs" else features * torch.nan

    monkeypatch.setattr(open_clip.transformer.VisionTransformer, "forward", forward)
    with caplog.at_level(logging.INFO):
        teacher = load_folder(vit_folder, "bf16")
    assert "stays in float32" in caplog.text
    pixels = pixels_of(32)
    expected = features_of(clip_config(), pixels)
    torch.testing.assert_close(teacher.encode_images(pixels), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [20, 32, 45, 224])
def test_any_square_is_resized_like_torchvision_does(vit_folder, size):
    # Black and white squares make the bicubic curve leave [0, 1].
    pixels = pixels_of(size).round()
    resized = v2.functional.resize(pixels, [32, 32], interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    if size == 20:
        assert resized.min() < 0
        assert resized.max() > 1
    expected = features_of(clip_config(), resized.clamp(0, 1))
    found = load_folder(vit_folder).encode_images(pixels)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_a_model_trained_with_bilinear_resizing_gets_it(vit_folder):
    path = vit_folder / "open_clip_config.json"
    facts = json.loads(path.read_text())
    facts["preprocess_cfg"]["interpolation"] = "bilinear"
    path.write_text(json.dumps(facts))
    pixels = pixels_of(50)
    resized = v2.functional.resize(pixels, [32, 32], interpolation=v2.InterpolationMode.BILINEAR, antialias=True)
    expected = features_of(clip_config(), resized)
    found = load_folder(vit_folder).encode_images(pixels)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_a_folder_says_its_name_width_size_and_scale(vit_folder):
    teacher = load_folder(vit_folder)
    assert (teacher.name, teacher.width, teacher.image_size) == ("mini_vit", 24, 32)
    assert teacher.scale == pytest.approx(1 / 0.07, rel=1e-5)


def test_weights_in_half_precision_are_read_as_float32(vit_folder):
    path = vit_folder / "open_clip_model.safetensors"
    before = load_folder(vit_folder)
    save_file({name: value.half() for name, value in load_file(path).items()}, path)
    after = load_folder(vit_folder)
    pixels = pixels_of(32)
    found, expected = after.encode_images(pixels), before.encode_images(pixels)
    assert found.dtype == torch.float32
    assert cosine_similarity(found, expected).min() > 0.9999


# Quick GELU ------------------------------------------------------------------------------------------------------


def test_quick_gelu_is_what_its_architecture_says_and_not_plain_gelu(mini, tmp_path, no_network):
    path = tmp_path / "clip.safetensors"
    save_file(weights_of(clip_config()), path)
    openai = (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    pixels = pixels_of(32)
    quick = load_file_of("mini-quickgelu", path).encode_images(pixels)
    plain = load_file_of("mini", path).encode_images(pixels)
    expected_quick = features_of(clip_config(quick_gelu=True), pixels, *openai)
    torch.testing.assert_close(quick, expected_quick, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(plain, features_of(clip_config(), pixels, *openai), atol=2e-5, rtol=1e-4)
    assert (quick - plain).abs().max() > 1e-3


def write_silent(folder, state):
    save_file(state, folder / "clip.safetensors")
    return folder / "clip.safetensors"


def write_named(folder, state):
    save_file(state, folder / "vit_openai.safetensors")
    return folder / "vit_openai.safetensors"


def write_beside_config(folder, state):
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": {"quick_gelu": True}, "preprocess_cfg": {"mean": [0.5] * 3}})
    )
    return write_silent(folder, state)


def write_converted(folder, state):
    facts = {name: torch.tensor(32) for name in ("input_resolution", "context_length")}
    torch.save({**state, **facts, "vocab_size": torch.tensor(49408)}, folder / "clip.pt")
    return folder / "clip.pt"


@pytest.mark.parametrize("write", [write_named, write_beside_config, write_converted])
def test_a_file_that_tells_of_quick_gelu_gets_it(mini, tmp_path, caplog, write):
    path = write(tmp_path, weights_of(clip_config()))
    with caplog.at_level(logging.INFO):
        teacher = load_file_of("mini", path)
    assert "quick GELU" in caplog.text
    mean = (0.5,) * 3 if write is write_beside_config else open_clip.OPENAI_DATASET_MEAN
    pixels = pixels_of(32)
    expected = features_of(clip_config(quick_gelu=True), pixels, mean, open_clip.OPENAI_DATASET_STD)
    torch.testing.assert_close(teacher.encode_images(pixels), expected, atol=2e-5, rtol=1e-4)


def test_a_file_that_does_not_tell_brings_a_warning_that_names_the_other_architecture(mini, tmp_path, caplog):
    path = write_silent(tmp_path, weights_of(clip_config()))
    load_file_of("mini", path)
    (record,) = (r for r in caplog.records if r.levelno == logging.WARNING)
    assert "mini-quickgelu" in record.getMessage()
    caplog.clear()
    load_file_of("mini-quickgelu", path)
    assert not caplog.records


def test_a_tag_switches_quick_gelu_on_and_says_so(mini, hub_cache, no_network, caplog):
    put_into_cache(hub_cache, weights_of(clip_config()))
    with caplog.at_level(logging.INFO):
        teacher = load_teacher(TeacherConfig(model="mini", precision="fp32"), device=CPU)
    assert "quick GELU" in caplog.text
    assert teacher.name == "mini:openai"
    pixels = pixels_of(32)
    expected = features_of(clip_config(quick_gelu=True), pixels)
    torch.testing.assert_close(teacher.encode_images(pixels), expected, atol=2e-5, rtol=1e-4)


def test_the_tag_of_the_default_teacher_is_one_that_open_clip_knows():
    config = TeacherConfig()
    tag = open_clip.get_pretrained_cfg(config.model, config.pretrained)
    assert tag["quick_gelu"]
    assert open_clip.get_model_config(config.model)["quick_gelu"]


# Texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("custom_text", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 256])
def test_text_features_are_those_of_open_clip_in_any_batch(tmp_path, custom_text, batch_size):
    config = clip_config(custom_text=custom_text)
    folder = write_folder(tmp_path / "clip", config)
    texts = ["a dog", "The overall emotion conveyed is awe.", "rain, and a café at night"]
    with torch.no_grad():
        tokens = open_clip.SimpleTokenizer(context_length=20)(texts)
        expected = build(config).encode_text(tokens)
    found = load_folder(folder).encode_texts(texts, batch_size=batch_size)
    assert (found.dtype, found.device) == (torch.float32, CPU)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_no_texts_have_no_features(vit_folder):
    assert load_folder(vit_folder).encode_texts([]).shape == (0, 24)


@pytest.mark.parametrize(("words", "fits"), [(0, True), (1, True), (18, True), (19, False)])
def test_a_text_fits_up_to_the_context_length_with_its_two_marks(vit_folder, words, fits):
    assert load_folder(vit_folder).fits(" ".join(["dog"] * words)) is fits


def test_a_text_fits_exactly_if_the_tokenizer_cuts_nothing(vit_folder):
    teacher = load_folder(vit_folder)
    tokenizer = open_clip.SimpleTokenizer(context_length=20)
    for num_letters in range(80):
        text = ("naïve Żółw! 42 " * 6)[:num_letters]
        long = tokenizer([text], context_length=200)[0]
        assert teacher.fits(text) is bool((long != 0).sum() <= 20)


def test_the_count_of_a_tokenizer_of_the_hub_errs_on_the_safe_side(vit_folder):
    class Inner:
        def __call__(self, text):
            marks = [0, *range(len(text.split())), 1]
            return type("Encoding", (), {"input_ids": marks})

    class Outer:
        context_length = 20
        tokenizer = Inner()

    teacher = load_folder(vit_folder)
    teacher._tokenizer = Outer()
    assert teacher.fits("dog " * 17)
    assert not teacher.fits("dog " * 18)


def test_releasing_the_text_tower_frees_it_and_leaves_the_pictures(vit_folder):
    teacher = load_folder(vit_folder)
    pixels = pixels_of(32)
    before = teacher.encode_images(pixels)
    tower = weakref.ref(teacher._text.token_embedding)
    teacher.release_text_tower()
    assert tower() is None
    assert torch.equal(teacher.encode_images(pixels), before)
    assert teacher.fits("a dog")
    with pytest.raises(AssertionError, match="released"):
        teacher.encode_texts(["a dog"])


def test_the_tower_in_float32_does_not_stay_beside_its_copy_in_bfloat16(vit_folder, monkeypatch):
    towers = []

    def create(*args, _own=open_clip.create_model, **kwargs):
        model = _own(*args, **kwargs)
        towers.append(weakref.ref(model.visual))
        return model

    monkeypatch.setattr(open_clip, "create_model", create)
    teacher = load_folder(vit_folder, "bf16")
    assert next(teacher._tower.parameters()).dtype == torch.bfloat16
    assert [tower() for tower in towers] == [None, None]  # the one that was compared with the weights, and the other


# Frozen ----------------------------------------------------------------------------------------------------------


def test_features_are_constants_in_the_students_graph(vit_folder):
    teacher = load_folder(vit_folder)
    pixels = pixels_of(40).requires_grad_()
    student = nn.Linear(24, 24)
    target, texts = teacher.encode_images(pixels), teacher.encode_texts(["a", "b", "c"])
    assert not target.requires_grad
    assert not target.is_inference()
    (student(target) * target + texts).square().mean().backward()
    assert student.weight.grad is not None
    assert pixels.grad is None


def test_the_teacher_is_no_part_of_a_module_and_has_nothing_to_train(vit_folder):
    teacher = load_folder(vit_folder)
    student = nn.Module()
    student.teacher = teacher
    assert not list(student.parameters())
    assert not student.state_dict()
    for part in (teacher._tower, teacher._text):
        assert not any(m.training for m in part.modules() if m is not teacher._text.visual)
        assert not any(parameter.requires_grad for parameter in part.parameters())


def test_an_autocast_around_the_student_does_not_reach_the_teacher(vit_folder):
    teacher = load_folder(vit_folder)
    pixels, texts = pixels_of(32), ["a dog"]
    images, sentences = teacher.encode_images(pixels), teacher.encode_texts(texts)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(teacher.encode_images(pixels), images)
        assert torch.equal(teacher.encode_texts(texts), sentences)


def test_loading_leaves_the_global_generator_and_the_root_logger_alone(vit_folder, monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    before = torch.get_rng_state()
    load_folder(vit_folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert root.handlers == []
    assert root.filters == []


def test_loading_twice_gives_the_same_features(vit_folder):
    pixels = pixels_of(32)
    first = load_folder(vit_folder, "auto").encode_images(pixels)
    assert torch.equal(load_folder(vit_folder, "auto").encode_images(pixels), first)


# Weight files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".pth"])
@pytest.mark.parametrize("wrap", ["bare", "training", "parallel"])
def test_files_of_torch_are_read_in_open_clips_forms(mini, tmp_path, suffix, wrap):
    state = weights_of(clip_config())
    if wrap == "parallel":
        state = {f"module.{name}": value for name, value in state.items()}
    path = tmp_path / f"clip{suffix}"
    torch.save(state if wrap == "bare" else {"epoch": 3, "state_dict": state}, path)
    pixels = pixels_of(32)
    expected = features_of(clip_config(), pixels, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    found = load_file_of(mini, path).encode_images(pixels)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_weights_with_their_text_tower_at_the_top_fit_a_model_with_it_apart(vit_folder):
    plain = load_folder(vit_folder).encode_texts(["a dog"])
    path = vit_folder / "open_clip_config.json"
    facts = json.loads(path.read_text())
    facts["model_cfg"]["custom_text"] = True
    path.write_text(json.dumps(facts))
    assert torch.equal(load_folder(vit_folder).encode_texts(["a dog"]), plain)


def test_a_scale_of_one_number_may_have_a_dimension(vit_folder):
    path = vit_folder / "open_clip_model.safetensors"
    save_file({**load_file(path), "logit_scale": torch.tensor([2.0])}, path)
    assert load_folder(vit_folder).scale == pytest.approx(7.389056)


class Payload:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(mini, tmp_path, is_zip):
    path, target = tmp_path / "clip.pt", tmp_path / "owned"
    if is_zip:
        torch.save({"state_dict": {"a": Payload(target)}}, path)
    else:
        path.write_bytes(pickle.dumps(Payload(target)))
    with pytest.raises(CheckpointError, match="safetensors") as caught:
        load_file_of(mini, path)
    assert not target.exists()
    assert "weights_only" not in str(caught.value)


def test_a_torchscript_archive_is_refused_with_the_way_out(mini, tmp_path):
    path = tmp_path / "ViT-B-16.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; OpenAI's files are not going to change
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    with pytest.raises(CheckpointError, match=r"TorchScript.*it is not opened.*safetensors"):
        load_file_of(mini, path)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"PK\x03\x04" + b"\0" * 100, b"\x80\x02}q\x00.", b"hello"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_damaged_file_is_one_line_that_names_it(mini, tmp_path, content, suffix):
    path = tmp_path / f"clip{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_file_of(mini, path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_one_line_that_names_it(vit_folder):
    path = vit_folder / "open_clip_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"safetensors cannot be read"):
        load_folder(vit_folder)


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, [1], {"epoch": 3}])
def test_a_file_without_weights_says_so(mini, tmp_path, content):
    torch.save(content, tmp_path / "clip.pt")
    with pytest.raises(CheckpointError, match="no weights by name"):
        load_file_of(mini, tmp_path / "clip.pt")


def remove(state):
    del state["visual.proj"]


def add(state):
    state["visual.extra"] = torch.zeros(1)


def reshape(state):
    state["visual.proj"] = torch.zeros(64, 25)


def spoil(state):
    state["visual.proj"][3, 4] = torch.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove, r"missing visual\.proj, left over none"),
        (add, r"missing none, left over visual\.extra"),
        (reshape, r"visual\.proj has shape \(64, 25\), the model has \(64, 24\)"),
        (spoil, r"not finite in visual\.proj"),
    ],
)
def test_weights_that_do_not_fit_are_named(vit_folder, change, message):
    path = vit_folder / "open_clip_model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    with pytest.raises(CheckpointError, match=message):
        load_folder(vit_folder)


def test_weights_of_another_model_are_one_line_with_the_first_three_names(vit_folder):
    path = vit_folder / "open_clip_model.safetensors"
    save_file({"conv1.weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=r"missing \S+, \S+, \S+ and \d+ more") as caught:
        load_folder(vit_folder)
    assert "\n" not in str(caught.value)


# What is asked for ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("ViT-B-61", "openai", r"neither a folder nor an architecture .* ViT-B-16"),
        ("nowhere/at/all", None, "neither a folder"),
        ("ViT-B-16", None, "set teacher.pretrained"),
        ("ViT-B-16", "opneai", r"neither a file nor a tag .*\bopenai\b"),
        ("ViT-B-16", "nowhere.safetensors", "neither a file nor a tag"),
        ("nllb-clip-base", "x", "neither a file nor a tag"),
    ],
)
def test_what_open_clip_does_not_know_is_a_setting_error(model, pretrained, message, no_network):
    with pytest.raises(ConfigError, match=message):
        load_teacher(TeacherConfig(model=model, pretrained=pretrained), device=CPU)


def test_a_folder_brings_its_own_weights(vit_folder):
    with pytest.raises(ConfigError, match=r"set `teacher\.pretrained` to null, not 'openai'$"):
        load_teacher(TeacherConfig(model=str(vit_folder)), device=CPU)


def test_demo_with_the_tag_of_a_preset_says_which_setting_to_change_and_no_path_of_ours():
    with pytest.raises(ConfigError) as refused:
        load_teacher(TeacherConfig(model="demo"), device=CPU)
    step = "set `teacher.pretrained` to null, not 'openai'"
    assert str(refused.value) == f"teacher.model demo brings its own weights: {step}"


def test_demo_is_the_embedded_folder_and_needs_no_tag(vit_folder, monkeypatch, no_network):
    monkeypatch.setattr(module, "_EMBEDDED", vit_folder)
    config = TeacherConfig(model="demo", pretrained=None, precision="fp32")
    found = load_teacher(config, device=CPU).encode_images(pixels_of(32))
    assert torch.equal(found, load_folder(vit_folder).encode_images(pixels_of(32)))
    with pytest.raises(ConfigError, match="null"):
        load_teacher(TeacherConfig(model="demo"), device=CPU)


def test_a_folder_without_weights_is_refused_and_not_drawn_at_random(vit_folder):
    (vit_folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_folder(vit_folder)


def test_a_folder_may_hold_open_clips_other_file(vit_folder):
    path = vit_folder / "open_clip_model.safetensors"
    before = load_folder(vit_folder).encode_images(pixels_of(32))
    torch.save(load_file(path), vit_folder / "open_clip_pytorch_model.bin")
    path.unlink()
    assert torch.equal(load_folder(vit_folder).encode_images(pixels_of(32)), before)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        pytest.param("[" * 100_000, "cannot be read", id="nested"),
        ("[]", "must hold a JSON object"),
        ('{"embed_dim": 24}', "model_cfg"),
        ('{"model_cfg": {}, "preprocess_cfg": []}', "mean must be three numbers"),
        ('{"model_cfg": {}, "preprocess_cfg": {"mean": 5}}', "mean must be three numbers"),
        ('{"model_cfg": {}, "preprocess_cfg": {"mean": [0, 0]}}', "mean must be three numbers"),
        ('{"model_cfg": {}, "preprocess_cfg": {"mean": [0, 0, NaN]}}', "mean must be three numbers"),
        ('{"model_cfg": {}, "preprocess_cfg": {"std": [1, 1, 0]}}', "std must be three numbers greater than 0"),
        ('{"model_cfg": {}, "preprocess_cfg": {"std": [1, 1, "1"]}}', "std must be three numbers greater than 0"),
        ('{"model_cfg": {}}', "cannot build"),
        ('{"model_cfg": {"embed_dim": 24, "vision_cfg": {"x": 1}, "text_cfg": {}}}', "cannot build"),
    ],
)
def test_a_folder_with_a_wrong_configuration_is_one_line(vit_folder, facts, message):
    path = vit_folder / "open_clip_config.json"
    path.unlink()
    if facts is not None:
        path.write_text(facts)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_folder(vit_folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["hf_tokenizer_name", "hf_model_name"])
def test_a_file_does_not_look_its_tokenizer_up_on_the_hub(mini, tmp_path, hub_cache, no_network, monkeypatch, name):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    config = clip_config()
    config["text_cfg"][name] = "someone/words"
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "mini", config)
    save_file(weights_of(clip_config()), tmp_path / "clip.safetensors")
    with pytest.raises(
        CheckpointError, match=r"tokenizer someone/words is not in the cache .*`hf download someone/words`"
    ):
        load_file_of(mini, tmp_path / "clip.safetensors")
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False


def test_a_file_in_the_folder_of_another_model_takes_its_preprocessing_alone(mini, tmp_path):
    folder = write_folder(tmp_path / "clip", clip_config())
    facts = json.loads((folder / "open_clip_config.json").read_text())
    facts["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "someone/words"  # whose files are not there
    (folder / "open_clip_config.json").write_text(json.dumps(facts))
    load_file_of(mini, folder / "open_clip_model.safetensors")


# The hub ---------------------------------------------------------------------------------------------------------


def test_offline_without_the_file_in_the_cache_says_what_was_tried_and_the_way_out(
    mini, hub_cache, no_network, monkeypatch
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"someone/mini.*teacher\.pretrained") as caught:
        load_teacher(TeacherConfig(model=mini), device=CPU)
    assert "open_clip_model.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


def answer_of_hub(monkeypatch, answer):
    asked = []

    def download(repo, file):
        asked.append((repo, file))
        return answer(file)

    monkeypatch.setattr(module, "hf_hub_download", download)
    return asked


def test_a_hub_out_of_reach_is_asked_once(mini, hub_cache, monkeypatch):
    def answer(_file):
        raise module.LocalEntryNotFoundError("no\nconnection")

    asked = answer_of_hub(monkeypatch, answer)
    with pytest.raises(CheckpointError, match="the hub is out of reach, or HF_HUB_OFFLINE is set"):
        load_teacher(TeacherConfig(model=mini), device=CPU)
    assert asked == [("someone/mini", "open_clip_model.safetensors")]


def test_a_hub_that_has_neither_file_is_named(mini, hub_cache, monkeypatch):
    def answer(_file):
        raise module.EntryNotFoundError("404")

    asked = answer_of_hub(monkeypatch, answer)
    with pytest.raises(CheckpointError, match=r"someone/mini on the hub \(404\)"):
        load_teacher(TeacherConfig(model=mini), device=CPU)
    assert len(asked) == 2


def test_where_the_hub_has_no_safetensors_the_other_file_is_taken(mini, hub_cache, monkeypatch, tmp_path):
    torch.save(weights_of(clip_config()), tmp_path / "clip.bin")

    def answer(file):
        if file.endswith(".safetensors"):
            raise module.EntryNotFoundError("404")
        return str(tmp_path / "clip.bin")

    asked = answer_of_hub(monkeypatch, answer)
    teacher = load_teacher(TeacherConfig(model=mini), device=CPU)
    assert teacher.width == 24
    assert [file for _, file in asked] == ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]


def test_a_tag_may_name_its_file(mini, hub_cache, monkeypatch, tmp_path):
    shutil.copytree(write_folder(tmp_path / "clip", clip_config()), tmp_path / "copy")
    tag = copy.deepcopy(_PRETRAINED["mini"]["openai"]) | {"hf_hub": "someone/mini/clip.pt"}
    monkeypatch.setitem(_PRETRAINED, "mini", {"openai": tag})
    asked = answer_of_hub(monkeypatch, lambda _: tmp_path / "copy" / "open_clip_model.safetensors")
    load_teacher(TeacherConfig(model=mini), device=CPU)
    assert asked == [("someone/mini", "clip.safetensors")]


def test_a_model_that_needs_a_missing_library_says_so(vit_folder, monkeypatch):
    def fail(*_args, **_kwargs):
        raise ModuleNotFoundError("No module named 'transformers'")

    monkeypatch.setattr(open_clip, "get_tokenizer", fail)
    with pytest.raises(CheckpointError, match="transformers"):
        load_folder(vit_folder)
