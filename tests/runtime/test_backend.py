import pytest

from uniemox.errors import CheckpointError, ConfigError
from uniemox.runtime.backend import find_onnx, load_backend
from uniemox.runtime.torch_backend import TorchBackend


def test_a_model_folder_runs_in_torch(finetuned):
    backend = load_backend(finetuned.model, device="cpu")
    assert isinstance(backend, TorchBackend)
    assert backend.facts.classes == ("awe", "fear", "joy")


def test_a_model_or_device_that_is_not_there_is_told(finetuned, tmp_path):
    with pytest.raises(CheckpointError, match="there is no model folder"):
        load_backend(tmp_path / "none", device="cpu")
    with pytest.raises(ConfigError, match="device is abacus"):
        load_backend(finetuned.model, device="abacus")


def test_an_exported_model_is_known_by_its_file(finetuned, exported, tmp_path):
    assert find_onnx(exported) == exported / "model.onnx"
    assert find_onnx(tmp_path / "none.onnx") == tmp_path / "none.onnx"
    assert find_onnx(finetuned.model) is None
    assert find_onnx("demo") is None
    with pytest.raises(CheckpointError, match=r"none\.onnx cannot be read"):
        load_backend(tmp_path / "none.onnx")
    with pytest.raises(ConfigError, match="names its classes itself: leave --dataset fi out"):
        load_backend(exported, dataset="fi")


def test_a_folder_whose_model_is_a_link_out_of_it_is_refused(exported, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.onnx").symlink_to(exported / "model.onnx")
    with pytest.raises(CheckpointError, match="a link that leaves its folder"):
        load_backend(tmp_path / "folder")
