import contextlib
import json
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from uniemox.checkpoints.open import ONNX_NAME
from uniemox.errors import CheckpointError
from uniemox.inference.backend import load_backend
from uniemox.inference.onnx_file import METADATA_KEY, input_names, read_onnx_file


@pytest.fixture
def model(exported):
    """The exported model, to be spoilt."""
    return onnx.load(exported / ONNX_NAME)


@pytest.fixture
def write(tmp_path):
    def put(model):
        path = tmp_path / "spoilt.onnx"
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        return path

    return put


def refused(path, match):
    began = time.process_time()
    for read in (read_onnx_file, load_backend):
        with pytest.raises(CheckpointError, match=match) as told:
            read(path)
        assert str(path) in str(told.value)
        assert "\n" not in str(told.value)
    assert time.process_time() - began < 5


def test_a_file_says_what_it_is(exported, finetuned):
    walked, facts = read_onnx_file(exported / ONNX_NAME)
    assert walked.path == exported / ONNX_NAME
    assert facts.classes == ("awe", "fear", "joy")
    assert facts.image_size == 32


def test_two_views_are_two_inputs():
    assert input_names("person") == ("pixels",)
    assert input_names("both") == ("scene", "person")


def test_weights_in_another_file_are_refused_and_not_read(model, write, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(10**6))
    weight = max(model.graph.initializer, key=lambda weight: len(weight.raw_data))
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "../secret"), ("offset", "0"), ("length", "100")):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    refused(write(model), "external data")
    weight.data_location = TensorProto.DEFAULT  # a reader may look at the entries alone
    refused(write(model), "external data")
    weight.ClearField("external_data")
    weight.data_location = TensorProto.EXTERNAL
    refused(write(model), "external data")


def test_external_data_in_a_constant_is_refused_too(model, write):
    tensor = TensorProto(name="t", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    model.graph.node.append(helper.make_node("Constant", [], ["t"], value=tensor))
    refused(write(model), "external data")


def branch():
    return helper.make_graph([], "branch", [], [])


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (helper.make_node("Evil", [], ["x"], domain="evil.ops"), r"the operation 'evil\.ops\.Evil'"),
        (helper.make_node("Add", [], ["x"], domain="com.microsoft"), "com.microsoft.Add"),
        (helper.make_node("Loop", [], ["x"]), "the operation 'Loop'"),
        (helper.make_node("ConstantOfShape", [], ["x"]), "the operation 'ConstantOfShape'"),
        (helper.make_node("Add", [], ["x"], body=branch()), "a graph in the operation 'Add'"),
        (helper.make_node("Add", [], ["x"], bodies=[branch()]), "a graph in the operation 'Add'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_operation_that_no_classifier_has_is_refused(model, write, node, said):
    model.graph.node.append(node)
    refused(write(model), said)


def test_functions_training_and_sparse_weights_are_refused(model, write):
    spoilt = onnx.ModelProto.FromString(model.SerializeToString())
    spoilt.functions.add(name="Add", domain="ours")
    refused(write(spoilt), "functions or training")
    spoilt.ClearField("functions")
    spoilt.training_info.add()
    refused(write(spoilt), "functions or training")
    model.graph.sparse_initializer.add()
    refused(write(model), "sparse weights")


@pytest.mark.parametrize("dims", [[2**40], [2**21, 2**21], [2**63 - 1], [-1]])
def test_a_tensor_that_is_larger_than_its_file_is_refused(model, write, dims):
    model.graph.initializer.append(TensorProto(name="t", data_type=1, dims=dims, raw_data=b"1234"))
    refused(write(model), "a tensor of")


def test_a_second_graph_is_looked_at_as_well(model, write):
    evil = onnx.ModelProto()
    evil.graph.node.append(helper.make_node("Loop", [], ["x"]))
    refused(write(model.SerializeToString() + evil.SerializeToString()), "the operation 'Loop'")


def test_no_file_at_all_is_told(tmp_path, write):
    refused(tmp_path / "none.onnx", "no model folder at|cannot be read .no such file")
    refused(write(b""), "has 0 bytes")
    refused(write(b"hello, this is no protocol buffer"), "no ONNX file, or a damaged one")
    refused(write(b"\xff" * 100), "no ONNX file, or a damaged one")
    folder = tmp_path / "folder.onnx"
    folder.mkdir()
    with pytest.raises(CheckpointError, match="is not a file"):
        read_onnx_file(folder)


def test_a_cut_file_is_told_wherever_it_is_cut(exported, write):
    whole = (exported / ONNX_NAME).read_bytes()
    for share in np.linspace(0.001, 0.999, 23):
        path = write(whole[: int(share * len(whole))])
        with pytest.raises(CheckpointError, match=r"damaged|does not say once"):
            read_onnx_file(path)


def test_a_file_of_too_many_parts_is_refused_in_time(write):
    refused(write(b"\x3a\x00" * 310_000), "more than 100000 fields")


def test_a_spoilt_byte_is_an_error_for_users_or_none(exported, write):
    whole = bytearray((exported / ONNX_NAME).read_bytes())
    generator = np.random.default_rng(0)
    for _ in range(150):
        place = int(generator.integers(0, len(whole)))
        kept, whole[place] = whole[place], int(generator.integers(0, 256))
        with contextlib.suppress(CheckpointError):
            read_onnx_file(write(bytes(whole)))
        whole[place] = kept


def spoil(model, change):
    """Change our entry of the metadata."""
    (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    values = json.loads(entry.value)
    change(values)
    entry.value = json.dumps(values)
    return model


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda values: values.pop("classifier"), r"cannot be read \(KeyError\)"),
        (lambda values: values["classifier"].update(kind="pretraining"), "is not a classifier"),
        (lambda values: values["classifier"].update(classes="awe"), "but must be a list"),
        (lambda values: values["classifier"].update(format_version=99), "upgrade uniemox"),
        (lambda values: values["classifier"].update(image_size=10**9), "image_size is"),
        (lambda values: values.update(classifier=[]), "is not a classifier"),
        (lambda values: values["preparation"].update(mean=[0, 0, 0]), "does not know"),
        (lambda values: values.update(preparation=None), "does not know"),
    ],
)
def test_metadata_that_are_wrong_are_told(model, write, change, said):
    refused(write(spoil(model, change)), said)


def test_metadata_that_are_missing_twofold_or_no_json_are_told(model, write):
    (entry,) = model.metadata_props
    entry.value = "[" * 100_000
    refused(write(model), r"cannot be read \(RecursionError\)")
    model.metadata_props.add(key=METADATA_KEY, value="{}")
    refused(write(model), "does not say exactly once what it is")
    del model.metadata_props[:]
    refused(write(model), "make it with `uniemox export`")
    model.metadata_props.add(key=METADATA_KEY, value="x" * (4 * 2**20 + 1))
    refused(write(model), "have more than 4194304 bytes")


def test_a_weight_of_another_type_is_left_to_onnxruntime(model, write):
    (first, *_) = model.graph.initializer
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float64), "unused"))
    assert first.name
    assert read_onnx_file(write(model))[1].classes == ("awe", "fear", "joy")
