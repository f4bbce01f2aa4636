import pytest

from uniemox.errors import CheckpointError, ConfigError
from uniemox.inference.backend import load_backend
from uniemox.inference.onnx_backend import OnnxBackend
from uniemox.inference.torch_backend import TorchBackend


def test_a_model_folder_runs_in_torch(finetuned):
    backend = load_backend(finetuned.model, device="cpu")
    assert isinstance(backend, TorchBackend)
    assert backend.facts.classes == ("awe", "fear", "joy")


def test_a_model_or_device_that_is_not_there_is_told(finetuned, tmp_path):
    with pytest.raises(CheckpointError, match="no model folder at"):
        load_backend(tmp_path / "none", device="cpu")
    with pytest.raises(ConfigError, match="device is abacus"):
        load_backend(finetuned.model, device="abacus")


def test_an_exported_model_is_known_by_its_file(exported, tmp_path):
    assert isinstance(load_backend(exported), OnnxBackend)
    with pytest.raises(CheckpointError, match=r"no model folder at .*none\.onnx"):
        load_backend(tmp_path / "none.onnx")
    with pytest.raises(ConfigError, match="names its classes itself: omit `dataset` fi"):
        load_backend(exported, dataset="fi")


def test_a_folder_whose_model_is_a_link_out_of_it_is_refused(exported, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.onnx").symlink_to(exported / "model.onnx")
    with pytest.raises(CheckpointError, match="a link that leaves its folder"):
        load_backend(tmp_path / "folder")
