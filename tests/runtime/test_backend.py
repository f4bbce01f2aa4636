import pytest

from uniemox.errors import CheckpointError, ConfigError
from uniemox.runtime.backend import load_backend
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
