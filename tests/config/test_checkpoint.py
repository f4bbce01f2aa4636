from pathlib import Path

from uniemox.config.checkpoint import ConvertConfig, ExportConfig, InspectConfig, PushConfig


def test_what_a_command_is_about_is_given_by_place():
    assert InspectConfig("a.pth").weights == "a.pth"
    assert ConvertConfig("a.pth", out=Path("o")).out == Path("o")
    assert PushConfig(Path("run"), "hf-hub:a/b").name == "hf-hub:a/b"
    assert ExportConfig("demo", out=Path("o")).calibration == ()
