import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.numpy import load_file, save_file

import uniemox
from uniemox.checkpoints.open import ONNX_NAME
from uniemox.errors import CheckpointError, ConfigError
from uniemox.inference.backend import load_backend
from uniemox.inference.onnx_backend import OnnxBackend, load_onnx
from uniemox.inference.onnx_file import METADATA_KEY
from uniemox.inference.predictor import Predictor
from uniemox.inference.torch_backend import load_torch


def noise(count, seed=0):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((count, 1, 3, 32, 32)).astype(np.float32)


@pytest.fixture
def write(exported, tmp_path):
    """Write a graph of our own under the metadata of the exported model."""
    (metadata,) = onnx.load(exported / ONNX_NAME).metadata_props

    def put(nodes, weights=(), *, asked=("N", 3, 32, 32), kind=TensorProto.FLOAT, output="logits"):
        graph = helper.make_graph(
            nodes,
            "graph",
            [helper.make_tensor_value_info("pixels", kind, asked)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ("N", 3))],
            [numpy_helper.from_array(value, name) for name, value in dict(weights).items()],
        )
        opset = [helper.make_opsetid("", 20)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=10)
        model.metadata_props.add(key=METADATA_KEY, value=metadata.value)
        path = tmp_path / "own.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return put


MEANS = helper.make_node("ReduceMean", ["pixels", "axes"], ["logits"], keepdims=0)
AXES = {"axes": np.array([2, 3])}


def test_an_exported_folder_and_its_file_run_in_onnxruntime(exported):
    for model in (exported, exported / ONNX_NAME, str(exported / ONNX_NAME)):
        assert isinstance(load_backend(model), OnnxBackend)


def test_logits_are_those_of_torch_for_any_number_of_pictures(exported, finetuned):
    ours, torch = (load_onnx(exported / ONNX_NAME, device="cpu"), load_torch(finetuned.model, device="cpu"))
    for count in (1, 2, 33, 70):
        pixels = noise(count)
        logits = ours.logits(pixels)
        assert logits.dtype == np.float32
        assert np.abs(logits - torch.logits(pixels)).max() < 1e-5  # measured: 2e-7


def test_distances_are_those_of_torch(exported, finetuned, painted):
    paths = sorted((painted.root / "test").rglob("*.png"))
    answers = [
        [row.answer["out_of_domain"] for row in Predictor.load(model, device="cpu").predict(paths)]
        for model in (exported, finetuned.model)
    ]
    assert answers[0] == pytest.approx(answers[1], abs=1e-4)
    assert len(set(answers[0])) == len(paths)


def test_a_file_alone_answers_without_distances(exported, tmp_path):
    path = shutil.copy(exported / ONNX_NAME, tmp_path)
    whole, alone = (load_backend(model) for model in (exported, path))
    assert alone.domain is None
    assert (alone.outputs(noise(3))[0] == whole.outputs(noise(3))[0]).all()
    assert whole.digest() != alone.digest()


def test_features_of_another_model_are_refused(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "copy")
    features = load_file(folder / "features.safetensors")["features"]
    save_file({"features": features[:, 1:].copy()}, folder / "features.safetensors")
    with pytest.raises(CheckpointError, match=r"must be 10 to 4096 features of 128 numbers"):
        load_backend(folder)


def test_a_picture_has_the_same_answer_whatever_stands_beside_it(exported):
    backend = load_onnx(exported / ONNX_NAME, device="cpu")
    pixels = noise(5)
    alone = np.concatenate([backend.logits(pixels[index : index + 1]) for index in range(5)])
    assert np.abs(backend.logits(pixels) - alone).max() < 1e-6


def test_files_are_predicted_as_torch_predicts_them(exported, finetuned, painted):
    paths = [*sorted((painted.root / "test").rglob("*.png")), Path("none.png")]
    onnx_, torch = (Predictor.load(model, device="cpu") for model in (exported, finetuned.model))
    both = zip(onnx_.predict(paths, batch_size=3, num_workers=2), torch.predict(paths), strict=True)
    for ours, theirs in both:
        assert (ours.path, ours.predicted, ours.reason) == (theirs.path, theirs.predicted, theirs.reason)
        if ours.probabilities is not None:
            assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-4)


def start(code, *words, **environment):
    places = {"PYTHONPATH": str(Path(uniemox.__file__).parents[1]), "PATH": os.environ["PATH"]}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        env=places | environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_command_line_predicts_without_torch_and_without_onnx(exported, painted):
    code = (
        "import sys; from uniemox.console.cli import main; code = main(sys.argv[1:]); "
        "print(code, {'torch', 'onnx', 'timm', 'scipy', 'pyarrow'} & set(sys.modules))"
    )
    picture = next((painted.root / "test").rglob("*.png"))
    done = start(code, "predict", exported, picture, "--json")
    first, last = done.stdout.splitlines()
    assert '"predicted"' in first
    assert last == "0 set()"
    assert done.stderr == ""


def test_a_missing_onnxruntime_says_what_to_install(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'uniemox\[export\]'"):
        load_onnx(exported / ONNX_NAME, device="auto")


def test_another_device_is_refused(exported):
    with pytest.raises(ConfigError, match="device is cuda, but an exported model runs on the cpu"):
        load_onnx(exported / ONNX_NAME, device="cuda")


def test_a_graph_of_ours_by_hand_runs(write):
    backend = load_onnx(write([MEANS], AXES), device="cpu")
    pixels = noise(2)
    assert backend.logits(pixels) == pytest.approx(pixels.mean((1, 3, 4)), abs=1e-6)
    prepared = backend.facts.views(Image.new("RGB", (40, 40)))
    assert prepared.shape == (1, 3, 32, 32)


@pytest.mark.parametrize(
    "changes",
    [
        {"asked": ("N", 3, 64, 64)},
        {"asked": (1, 3, 32, 32)},
        {"asked": ("N", "C", 32, 32)},
        {"kind": TensorProto.DOUBLE},
    ],
    ids=str,
)
def test_other_inputs_are_told(write, changes):
    with pytest.raises(CheckpointError, match=r"should be, for any number of images|is no model that"):
        load_onnx(write([MEANS], AXES, **changes), device="cpu")


def test_another_output_is_told(write):
    node = helper.make_node("ReduceMean", ["pixels", "axes"], ["other"], keepdims=0)
    with pytest.raises(CheckpointError, match=r"has other .* where logits .* should be"):
        load_onnx(write([node], AXES, output="other"), device="cpu")


def test_a_graph_that_does_not_hold_together_is_told(write):
    node = helper.make_node("Add", ["pixels", "nothing"], ["logits"])
    with pytest.raises(CheckpointError, match=r"own\.onnx is no model that onnxruntime runs") as told:
        load_onnx(write([node]), device="cpu")
    assert "\n" not in str(told.value)


def test_answers_of_another_shape_or_that_are_not_finite_are_told(write):
    nodes = [
        helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
        helper.make_node("Concat", ["means", "means"], ["logits"], axis=0),
    ]
    backend = load_onnx(write(nodes, AXES), device="cpu")
    with pytest.raises(CheckpointError, match="gave no finite number for each of its 3 classes"):
        backend.logits(noise(1))
    nodes = [
        helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
        helper.make_node("Div", ["means", "zero"], ["logits"]),
    ]
    backend = load_onnx(write(nodes, {**AXES, "zero": np.zeros(1, np.float32)}), device="cpu")
    with pytest.raises(CheckpointError, match="gave no finite number"):
        backend.logits(noise(1))


def test_a_small_file_cannot_take_all_memory(write):
    """The product of two small weights has 14 GB; and so it would be when the graph is loaded."""
    side = 60_000
    weights = {"column": np.ones((side, 1), np.float32), "row": np.ones((1, side), np.float32), **AXES}
    bomb = [
        helper.make_node("MatMul", ["column", "row"], ["product"]),
        helper.make_node("ReduceMean", ["product"], ["mean"], keepdims=0),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
        helper.make_node("Add", ["means", "mean"], ["logits"]),
    ]
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    backend = load_onnx(write(bomb, weights), device="cpu")
    with pytest.raises(CheckpointError, match=r"own\.onnx needs more than 1\.5 GiB of memory for 1 image") as told:
        backend.logits(noise(1))
    assert "\n" not in str(told.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 * 2**20  # KiB
    assert time.process_time() - began < 10
