from pathlib import Path

import pytest

from uniemox.config.inference import PredictConfig
from uniemox.config.zero_shot import ZeroShotConfig, refuse_zero_shot
from uniemox.errors import ConfigError


def test_classes_and_a_taxonomy_are_one_too_many():
    with pytest.raises(ConfigError, match="`classes` a, b and `taxonomy` mikels both name the classes"):
        ZeroShotConfig(classes=("a", "b"), taxonomy="mikels")


def test_what_was_asked_for_is_named():
    assert ZeroShotConfig().asked == ()
    assert ZeroShotConfig(taxonomy="mikels", wording="felt").asked == ("taxonomy", "wording")
    assert ZeroShotConfig(classes=["a"], prompts=Path("p"), calibrate=Path("m")).asked == (
        *("classes", "prompts", "calibrate"),
    )


def test_a_command_gives_its_zero_shot_settings_alone():
    config = PredictConfig(model="m", paths=[Path("a.jpg")], taxonomy="ekman", top_k=2)
    assert config.zero_shot == ZeroShotConfig(taxonomy="ekman")


def test_a_model_with_classes_of_its_own_takes_none_of_them():
    refuse_zero_shot("demo", None)
    refuse_zero_shot("demo", ZeroShotConfig())
    with pytest.raises(ConfigError, match="demo has classes and a head of its own: omit `prompts`"):
        refuse_zero_shot("demo", ZeroShotConfig(prompts=Path("p.yaml")))
