"""What a fresh process imports before it answers: counts and names, since seconds depend on the machine."""

import json
import subprocess
import sys

import pytest
from PIL import Image

CODE = """
import json, sys
from uniemox.console import cli
code = cli.main(sys.argv[1:])
print("\\n" + json.dumps([code, sorted(sys.modules)]), file=sys.stderr)
"""
HEAVY = {"torch", "timm", "torchvision", "open_clip", "transformers", "accelerate", "scipy", "sklearn", "matplotlib"}


def modules_of(*words):
    done = subprocess.run([sys.executable, "-c", CODE, *map(str, words)], capture_output=True, text=True, check=False)
    code, modules = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, done.stderr
    return set(modules)


@pytest.fixture
def photo(tmp_path):
    Image.new("RGB", (80, 60), (200, 30, 30)).save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


@pytest.mark.parametrize("words", [["--help"], ["predict", "--help"], ["finetune", "--help"]])
def test_a_help_imports_neither_numbers_nor_images(words):
    modules = modules_of(*words)
    assert not modules & (HEAVY | {"numpy", "PIL", "pydantic", "pyarrow"})
    assert len(modules) < 300


def test_a_prediction_of_an_export_imports_onnxruntime_and_little_else(exported, photo):
    modules = modules_of("predict", exported, photo)
    assert "onnxruntime" in modules
    assert not modules & (HEAVY | {"onnx", "pandas", "huggingface_hub"})
    assert len(modules) < 650


@pytest.mark.slow
def test_a_prediction_in_torch_imports_no_compiler_and_no_library_of_training(photo):
    modules = modules_of("predict", "demo", photo)
    assert "timm" in modules
    unused = {"torch._dynamo", "sympy", "torch.distributed.fsdp", "open_clip", "transformers"}
    assert not modules & (unused | {"scipy", "sklearn", "matplotlib", "tensorboard", "onnxruntime"})
    assert len(modules) < 2400
