"""The commands about weights."""

import json

import huggingface_hub
import pytest
import torch

from uniemox.console import cli


@pytest.fixture
def released(tmp_path):
    """A classifier's file as others write it: the embedded one's weights, bare, with a norm that is not used."""
    from uniemox import load_model

    state = load_model("demo").model.state_dict()
    state |= {"norm.weight": torch.ones(128), "norm.bias": torch.zeros(128)}
    torch.save(state, tmp_path / "six.pth")
    return tmp_path / "six.pth"


def test_weights_are_inspected_as_a_table_or_as_json(run, released):
    code, out, _ = run("checkpoint", "inspect", released)
    assert code == cli.SUCCESS
    assert "size mini, width 128, depth 6, num_heads 4, patch_size 8, image_size 64" in out
    assert "norm.bias, norm.weight" in out
    assert "not for commercial use" in out
    code, out, _ = run("checkpoint", "inspect", released, "--json")
    assert code == cli.SUCCESS
    found = json.loads(out)
    assert found["architecture"]["num_classes"] == 6
    assert len(found["sha256"]["six.pth"]) == 64


@pytest.mark.parametrize("model", ["demo", "demo-pretrained"])
def test_model_folders_are_inspected(run, model):
    code, out, _ = run("checkpoint", "inspect", model)
    assert code == cli.SUCCESS
    assert "uniemox, model folder" in out
    assert "drawn6" in out


def test_weights_are_converted_and_then_predict(run, released, tmp_path, painted):
    code, out, err = run("checkpoint", "convert", released, "--out", tmp_path / "model")
    assert (code, out) == (cli.FAILURE, "")
    assert "distinguishes 6 classes and does not name them: give the data set" in err
    code, out, _ = run("checkpoint", "convert", released, "--dataset", "drawn6", "--out", tmp_path / "model")
    assert (code, out) == (cli.SUCCESS, f"{tmp_path / 'model'}\n")
    picture = next(painted.root.rglob("*.png"))
    flags = ("--json", "--workers", "0", "--device", "cpu")
    _, converted, _ = run("predict", tmp_path / "model", picture, *flags)
    _, embedded, _ = run("predict", "demo", picture, *flags)
    _, direct, _ = run("predict", released, picture, "--dataset", "drawn6", *flags)
    assert json.loads(converted) == json.loads(embedded) == json.loads(direct)


def test_a_file_is_evaluated_on_data_of_its_classes(run, released, tmp_path, painted):
    code, _, err = run("evaluate", released, "--data", painted.path, "--dataset", "drawn6")
    assert code == cli.FAILURE
    assert "the manifest of painted has awe, joy, which the model lacks" in err


def test_a_file_that_could_run_code_is_refused_in_one_line(run, tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("it ran",)

    torch.save({"model": Evil()}, tmp_path / "a.pth")
    for words in (
        ("checkpoint", "inspect", tmp_path / "a.pth"),
        ("checkpoint", "convert", tmp_path / "a.pth", "--out", tmp_path / "m"),
        ("predict", tmp_path / "a.pth", tmp_path / "a.pth"),
    ):
        code, out, err = run(*words)
        assert (code, out) == (cli.FAILURE, "")
        assert "could run code" in err
        assert err.count("\n") == 1


def test_a_folder_is_sent_to_the_hub(run, finetuned, monkeypatch, tmp_path):
    class Api:
        def create_repo(self, repo, **more):
            return f"https://hub.example/{repo}"

        def upload_folder(self, **more):
            pass

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    code, out, _ = run("checkpoint", "push", finetuned.model, "hf-hub:org/name")
    assert (code, out) == (cli.SUCCESS, "https://hub.example/org/name\n")
    code, _, err = run("checkpoint", "push", tmp_path, "hf-hub:org/name")
    assert code == cli.FAILURE
    assert "is neither a model folder" in err


@pytest.mark.parametrize("words", [(), ("--help",)])
def test_the_group_lists_its_commands(run, words):
    code, out, err = run("checkpoint", *words)
    assert code == (cli.SUCCESS if words else cli.WRONG_USE)
    assert all(name in out + err for name in ("inspect", "convert", "push"))
