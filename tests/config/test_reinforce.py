from pathlib import Path

import pytest

from uniemox.config.reinforce import ReinforceConfig
from uniemox.config.training import ModelConfig, TeacherConfig, ViewsConfig
from uniemox.errors import ConfigError


def test_views_are_stored_beside_the_manifest_unless_a_folder_is_named():
    assert ReinforceConfig(manifest=Path("a/emoset.parquet")).folder == Path("a/emoset.views")
    assert ReinforceConfig(manifest=Path("a/emoset.parquet"), out=Path("b")).folder == Path("b")


def test_the_defaults_are_those_of_a_pretraining():
    config = ReinforceConfig(manifest=Path("m.parquet"))
    assert (config.scene_scale, config.flip) == (ViewsConfig().scene_scale, ViewsConfig().flip)
    assert config.image_size == ModelConfig().image_size
    assert config.teacher == TeacherConfig()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": 0}, "views is 0, but must be at least 1"),
        ({"splits": ()}, "splits is empty"),
        ({"image_size": 2000}, "image_size 2000 is more than 1536 pixels"),
        ({"scene_scale": (0.5, 0.2)}, "scene_scale is"),
    ],
)
def test_values_out_of_range_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        ReinforceConfig(manifest=Path("m.parquet"), **changes)
