"""Names of CLIP models."""

import subprocess
import sys
from pathlib import Path

import pytest

from uniemox.config.clip_name import is_clip_name, reword, teacher_of
from uniemox.config.training import TeacherConfig
from uniemox.errors import ConfigError


def test_the_embedded_model_has_a_name():
    assert teacher_of("clip:demo") == TeacherConfig(model="demo", pretrained=None)


@pytest.mark.parametrize(
    ("name", "model", "tag"),
    [
        ("clip:ViT-B-16-quickgelu/openai", "ViT-B-16-quickgelu", "openai"),
        ("clip:ViT-B/16/laion2b_s34b_b88k", "ViT-B/16", "laion2b_s34b_b88k"),
        ("clip:coca_ViT-B-32/laion2b_s13b_b90k", "coca_ViT-B-32", "laion2b_s13b_b90k"),
    ],
)
def test_an_architecture_and_a_tag_are_what_open_clip_calls_them(name, model, tag):
    assert teacher_of(name) == TeacherConfig(model=model, pretrained=tag)


def test_every_tag_of_open_clip_can_be_named():
    import open_clip

    for model, tag in open_clip.list_pretrained():
        assert teacher_of(f"clip:{model}/{tag}") == TeacherConfig(model=model, pretrained=tag)


def test_a_file_may_have_slashes_and_equals_signs(tmp_path):
    file = tmp_path / "a=b" / "weights.safetensors"
    file.parent.mkdir()
    file.touch()
    assert teacher_of(f"clip:ViT-B-16={file}") == TeacherConfig(model="ViT-B-16", pretrained=str(file))


def test_a_folder_is_known_by_being_there(tmp_path, monkeypatch):
    (tmp_path / "ViT-B-16" / "openai").mkdir(parents=True)
    assert teacher_of(f"clip:{tmp_path}") == TeacherConfig(model=str(tmp_path), pretrained=None)
    assert teacher_of("clip:ViT-B-16/openai").pretrained == "openai"
    monkeypatch.chdir(tmp_path)
    assert teacher_of("clip:ViT-B-16/openai") == TeacherConfig(model="ViT-B-16/openai", pretrained=None)


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "clip").mkdir()
    (tmp_path / "w.pt").touch()
    assert Path(teacher_of("clip:~/clip").model) == tmp_path / "clip"
    assert Path(teacher_of("clip:ViT-B-16=~/w.pt").pretrained) == tmp_path / "w.pt"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B-16/openai", "is no name of a CLIP: give clip:ARCH/TAG"),
        ("clip:", "does not name both architecture and weights"),
        ("clip:ViT-B-16", "such as clip:ViT-B-16-quickgelu/openai"),
        ("clip:/openai-that-is-absent", "no folder at /openai-that-is-absent; a file is clip:ARCH=FILE"),
        ("clip:ViT-B-16/", "does not name both"),
        ("clip:ViT B 16/openai", "does not name both"),
        ("clip:=w.pt", "does not name both"),
        ("clip:ViT-B-16=", "does not name both"),
        ("clip:ViT-B-16=absent.pt", "no file at absent.pt"),
        ("clip:./absent", "no folder at absent"),
        ("clip:~nobody-of-this-name/clip", "no folder at ~nobody-of-this-name/clip"),
        (f"clip:{'x' * 300}", "does not name both"),
        (f"clip:ViT-B-16={'x' * 300}", "no file at "),
        ("clip:\n/openai", "does not name both"),
    ],
)
def test_a_bad_name_is_one_clear_line(name, message):
    with pytest.raises(ConfigError) as error:
        teacher_of(name)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_names_of_other_models_are_none_of_clip():
    assert is_clip_name("clip:demo")
    assert not is_clip_name("timm:resnet50")
    assert not is_clip_name("clip")


def test_errors_of_the_teacher_speak_of_the_name():
    import torch

    from uniemox.errors import UniEmoXError
    from uniemox.models.teacher import load_teacher

    for name in ("clip:ViT-B-17/openai", "clip:ViT-B-16/opanai", "clip:ViT-B-16/openai"):
        with pytest.raises(UniEmoXError) as error:
            load_teacher(teacher_of(name), device=torch.device("cpu"))
        assert "teacher" not in reword(str(error.value))


@pytest.mark.parametrize("name", ["clip:ViT-B-16/openai", "clip:ViT-B-16-quickgelu/openai"])
def test_an_error_that_follows_a_name_does_not_say_it_again(name, monkeypatch):
    from huggingface_hub import constants

    from uniemox.checkpoints.backbones import find_backbone
    from uniemox.checkpoints.load import load_model
    from uniemox.config.zero_shot import ZeroShotConfig
    from uniemox.errors import CheckpointError

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = ZeroShotConfig(classes=("awe", "fear"))
    for load in (find_backbone, lambda name: load_model(name, zero_shot=asked)):
        with pytest.raises(CheckpointError, match=f"^{name}: found no open_clip_model.safetensors"):
            load(name)


def test_reading_a_name_brings_no_torch():
    code = "import sys; import uniemox.config.clip_name; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
