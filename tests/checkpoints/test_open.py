"""What a name of a model means."""

import json

import pytest

from uniemox.checkpoints.inspection import inspect
from uniemox.checkpoints.load import convert, load_model, load_pretraining, load_start
from uniemox.checkpoints.open import EMBEDDED, open_model
from uniemox.errors import CheckpointError


@pytest.fixture
def folder(tmp_path):
    """A folder of ours without weights, which nobody here reads."""
    (tmp_path / "config.json").write_text(json.dumps({"uniemox": {}}))
    return tmp_path


def test_a_name_has_one_role(finetuned, exported, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "a.pth").touch()
    expected = {
        finetuned.model: ("folder", finetuned.model),
        "demo": ("folder", EMBEDDED["demo"]),
        "demo-pretrained": ("folder", EMBEDDED["demo-pretrained"]),
        exported: ("export", exported / "model.onnx"),
        exported / "model.onnx": ("export", exported / "model.onnx"),
        tmp_path: ("foreign", tmp_path),
        tmp_path / "a.pth": ("foreign", tmp_path / "a.pth"),
    }
    for name, (role, path) in expected.items():
        opened = open_model(name)
        assert (opened.name, opened.role, opened.path) == (str(name), role, path)
        assert open_model(opened) is opened


def test_a_folder_of_no_model_is_refused(tmp_path, refusal):
    (tmp_path / "folder").mkdir()
    assert "it has no config.json" in refusal(open_model, tmp_path / "folder")


@pytest.mark.parametrize("use", [load_model, load_pretraining, load_start, inspect])
def test_an_export_has_no_weights_for_torch(exported, use, tmp_path):
    for call in (use, lambda model: convert(model, tmp_path / "out")):
        with pytest.raises(CheckpointError, match="is an export without weights"):
            call(str(exported))


def test_a_model_is_found_by_its_folder_or_by_its_embedded_name(folder, monkeypatch, refusal):
    assert open_model(str(folder)).path == folder
    monkeypatch.setitem(EMBEDDED, "demo", folder)
    assert open_model("demo").path == folder
    assert "no model folder at nowhere" in refusal(open_model, "nowhere")
    assert "demo-pretrained" in refusal(open_model, "nowhere")


def test_a_folder_that_a_killed_run_left_under_a_hidden_name_is_named(tmp_path, refusal):
    old = tmp_path / ".model [1].x1y2.old"
    old.mkdir()
    place = tmp_path / "model [1]"
    text = refusal(open_model, str(place))
    assert f"left the former as {old}: rename it to model [1]" in text
    assert str(old) not in refusal(open_model, str(tmp_path / "model"))
    new = tmp_path / ".model [1].x1y2"
    new.mkdir()
    text = refusal(open_model, str(place))
    assert f"left the new one as {new} and the former as {old}: rename the one you want to" in text
    old.rename(place)
    (place / "config.json").write_text("{}")
    assert open_model(str(place)).path == place


@pytest.fixture
def run_folder(folder, tmp_path_factory):
    """The folder of a run that has a model."""
    place = tmp_path_factory.mktemp("runs") / "f"
    place.mkdir()
    (place / "config.yaml").write_text("epochs: 2\n")
    folder.rename(place / "model")
    return place


def test_the_folder_of_a_run_is_that_of_its_model(run_folder):
    for given in (run_folder, f"{run_folder}/", run_folder / "model"):
        assert open_model(str(given)).path == run_folder / "model"


def test_a_run_without_a_model_has_not_finished(run_folder, refusal):
    (run_folder / "model").rename(run_folder / "elsewhere")
    text = refusal(open_model, str(run_folder))
    assert text.startswith(f"{run_folder} is a run that has not finished, so it has no model yet: ")
    assert "resume it" in text
    hidden = run_folder / ".model.x1.old"
    (run_folder / "elsewhere").rename(hidden)
    assert f"left the former as {hidden}: rename it to model" in refusal(open_model, str(run_folder))


def test_a_probe_that_left_no_model_is_not_called_unfinished(run_folder, refusal):
    (run_folder / "probe.json").write_text('{"no_model": "head knn is no layer of a model"}')
    assert open_model(str(run_folder)).path == run_folder / "model"
    (run_folder / "model").rename(run_folder / "elsewhere")
    text = refusal(open_model, str(run_folder))
    assert f"{run_folder} is a probe that left no model, since head knn is no layer of a model: " in text
    (run_folder / "probe.json").write_text('{"no_model": ""}')
    assert "since its folder `model` was taken away" in refusal(open_model, str(run_folder))
    (run_folder / "probe.json").write_text("{")
    assert "probe.json" in refusal(open_model, str(run_folder))


def test_a_model_folder_is_no_run_whatever_else_lies_in_it(folder):
    (folder / "config.yaml").touch()
    (folder / "model").mkdir()
    assert open_model(str(folder)).path == folder
