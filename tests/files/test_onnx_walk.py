"""What may be in an ONNX file before onnxruntime sees it: detectors' rules here, classifiers' in test_onnx_file."""

import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from uniemox.errors import CheckpointError
from uniemox.files.onnx import open_session, run_session
from uniemox.files.onnx_walk import Rules, walk

OPERATIONS = frozenset(("Add", "Constant", "Identity", "If", "MatMul", "Neg", "Transpose", "com.microsoft.BiasGelu"))
RULES = Rules(what="detector", then="export it again", operations=OPERATIONS, holding=frozenset(("If",)), external=True)


def model_of(*nodes, weights=(), output="y"):
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def inner(*nodes, output="inner"):
    results = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
    return helper.make_graph(nodes, "inner", [], results)


def condition(depth):
    """An if within an if within …; it gives what the innermost does."""
    node = helper.make_node("Identity", ["x"], ["inner0"])
    for level in range(1, depth + 1):
        nested = inner(node, output=f"inner{level - 1}")
        plain = inner(helper.make_node("Neg", ["x"], [f"plain{level}"]), output=f"plain{level}")
        node = helper.make_node("If", ["yes"], [f"inner{level}"], then_branch=nested, else_branch=plain)
    return node


YES = numpy_helper.from_array(np.array(True), "yes")


@pytest.fixture
def write(tmp_path):
    def put(model):
        path = tmp_path / "m.onnx"
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        return path

    return put


def run(path):
    session = open_session(walk(path, RULES), then="export it again")
    (answer,) = run_session(session, [session.get_outputs()[0].name], {"x": np.array([1, 2], np.float32)})
    return answer.tolist()


def refused(path, match):
    began = time.process_time()
    with pytest.raises(CheckpointError, match=match) as told:
        run(path)
    assert str(path) in str(told.value)
    assert "export it again" in str(told.value)
    assert "\n" not in str(told.value)
    assert time.process_time() - began < 5


def test_what_a_detector_is_made_of_runs(write):
    path = write(model_of(condition(3), weights=[YES], output="inner3"))
    assert run(path) == [1, 2]
    fused = helper.make_node("BiasGelu", ["x", "x"], ["y"], domain="com.microsoft")
    walk(write(model_of(fused)), RULES)


@pytest.mark.parametrize("depth", [9, 20])
def test_graphs_that_are_nested_deeply_are_refused(write, depth):
    refused(write(model_of(condition(depth), weights=[YES])), "nested more than 8 deep")


def test_an_endless_nesting_of_bytes_is_refused_in_time(write):
    """Each level is a graph of one node of one attribute of one graph, so a small file nests thousands."""
    content, name = b"", b"\x22\x02If"
    for _ in range(2_000):
        for tag in (6, 5, 1):
            content = bytes([tag << 3 | 2]) + _length(content) + content + name * (tag == 5)
    whole = model_of().SerializeToString()
    refused(write(whole + b"\x3a" + _length(content) + content), "nested more than 8 deep")


def _length(content):
    size, coded = len(content), b""
    while size > 127:
        coded += bytes([size & 127 | 128])
        size >>= 7
    return coded + bytes([size])


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (helper.make_node("Evil", ["x"], ["y"], domain="evil.ops"), r"operation 'evil\.ops\.Evil'"),
        (helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft"), "EPContext"),
        (
            helper.make_node(
                "If",
                ["yes"],
                ["y"],
                then_branch=inner(helper.make_node("Evil", ["x"], ["inner"], domain="evil")),
                else_branch=inner(helper.make_node("Identity", ["x"], ["inner"])),
            ),
            r"operation 'evil\.Evil'",
        ),
    ],
)
def test_operations_that_onnxruntime_does_not_bring_are_refused_wherever_they_are(write, node, said):
    refused(write(model_of(node, weights=[YES])), said)


def test_functions_and_sparse_weights_are_refused(write):
    model = model_of(helper.make_node("Identity", ["x"], ["y"]))
    spoilt = onnx.ModelProto.FromString(model.SerializeToString())
    spoilt.functions.add(name="Bomb", domain="ours")
    refused(write(spoilt), "functions or training")
    model.graph.sparse_initializer.add()
    refused(write(model), "sparse weights")


def external(location, **more):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=str(value))
    return model_of(helper.make_node("Add", ["x", "w"], ["y"]), weights=[tensor])


def test_weights_in_a_file_beside_the_model_are_read_and_named(write, tmp_path):
    beside = tmp_path / "m.onnx.data"
    beside.write_bytes(bytes(8) + np.array([10, 20], np.float32).tobytes())
    path = write(external("m.onnx.data", offset=8, length=8))
    assert run(path) == [11, 22]
    assert walk(path, RULES).beside == (beside,)
    strict = Rules(what="classifier", then="export it again", operations=frozenset({"Add"}))
    with pytest.raises(CheckpointError, match="external data"):
        walk(path, strict)


@pytest.mark.parametrize(
    ("location", "more", "said"),
    [
        ("../secret", {}, "another file"),
        ("/etc/passwd", {}, "another file"),
        ("below/data", {}, "another file"),
        ("..", {}, "which is no file"),
        (".", {}, "another file"),
        ("", {}, "another file"),
        ("a\0b", {}, "another file"),
        ("*/_ORT_MEM_ADDR_/*", {"offset": 2**40, "length": 8}, "another file"),
        ("none", {}, "which is no file"),
        ("link", {}, "which is no file"),
        ("data", {"offset": 12, "length": 8}, "beyond the 16 bytes"),
        ("data", {"offset": -8, "length": 8}, "beyond the 16 bytes"),
        ("data", {"length": 2**63}, "beyond the 16 bytes"),
        ("data", {"length": "many"}, "damaged"),
        ("data", {"offset": 2**70, "length": 8}, "beyond the 16 bytes"),
    ],
)
def test_weights_elsewhere_are_refused_and_not_read(write, tmp_path, location, more, said):
    (tmp_path / "data").write_bytes(bytes(16))
    (tmp_path / "link").symlink_to("/etc/passwd")
    refused(write(external(location, **more)), said)


@pytest.mark.parametrize(
    "dims", [[2**40], [2**21, 2**21], [2**63 - 1], [-1], [2**62] * 50_000], ids=lambda d: str(d[:2])
)
@pytest.mark.parametrize("place", ["weight", "constant", "beside"])
def test_a_tensor_that_is_larger_than_what_holds_it_is_refused(write, tmp_path, dims, place):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"1234")
    if place == "beside":
        (tmp_path / "data").write_bytes(bytes(16))
        model = external("data")
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(dims)
    elif place == "weight":
        model = model_of(helper.make_node("Add", ["x", "w"], ["y"]), weights=[tensor])
    else:
        model = model_of(helper.make_node("Constant", [], ["y"], value=tensor))
    refused(write(model), "a tensor of")


def test_a_file_that_is_cut_or_spoilt_is_an_error_for_users_or_runs(write):
    whole = model_of(condition(2), weights=[YES], output="inner2").SerializeToString()
    generator = np.random.default_rng(0)
    for _ in range(300):
        spoilt = bytearray(whole[: int(generator.integers(1, len(whole) + 1))])
        spoilt[int(generator.integers(0, len(spoilt)))] = int(generator.integers(0, 256))
        path = write(bytes(spoilt))
        try:
            walk(path, RULES)
        except CheckpointError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_a_file_of_too_many_parts_is_refused_in_time(write):
    refused(write(b"\x3a\x00" * 310_000), "more than 100000 fields")


def test_what_onnxruntime_refuses_is_one_line(write):
    refused(write(model_of(helper.make_node("Add", ["x"], ["y"]))), "no model that onnxruntime")


def products(count, *between, scalar=False):
    """Read one weight so often, maybe through operations that give it another name."""
    weight = numpy_helper.from_array(np.zeros(2 if scalar else 2**20, np.float32), "w")
    nodes = []
    for index in range(count):
        ends = ["w", *(f"w{index}_{step}" for step in range(len(between)))]
        for operation, first, second in zip(between, ends, ends[1:], strict=False):
            nodes.append(helper.make_node(operation, [first], [second]))
        nodes.append(helper.make_node("Add", ["x", ends[-1]], [f"y{index}"]))
    return model_of(*nodes, weights=[weight])


@pytest.mark.parametrize("between", [(), ("Identity",), ("Transpose", "Identity")])
def test_a_weight_may_be_read_again_up_to_a_gigabyte(write, between):
    """The weight has 4 MiB and some bytes, so 257 readings are 1 GiB beside the file."""
    walk(write(products(256, *between)), RULES)
    refused(write(products(260, *between)), r"weights of 4\d{6} bytes, of which operations read 109\d{7}")
    walk(write(products(2000, *between, scalar=True)), RULES)


def test_a_constant_counts_as_a_weight(write):
    value = numpy_helper.from_array(np.zeros(2**20, np.float32), "any")
    nodes = [helper.make_node("Add", ["x", "w"], [f"y{index}"]) for index in range(260)]
    refused(write(model_of(helper.make_node("Constant", [], ["w"], value=value), *nodes)), "of which operations read")


@pytest.mark.parametrize("attribute", ["value_string", "value_strings"])
def test_texts_are_refused(write, attribute):
    text = "x" if attribute == "value_string" else ["x"]
    refused(write(model_of(helper.make_node("Constant", [], ["y"], **{attribute: text}))), "it holds texts")
    tensor = helper.make_tensor("w", TensorProto.STRING, [1], [b"x"])
    refused(write(model_of(helper.make_node("Identity", ["w"], ["y"]), weights=[tensor])), "it holds texts")


def test_a_file_says_which_operations_it_holds(write):
    assert walk(write(model_of(condition(1), weights=[YES])), RULES).operations == {"If", "Identity", "Neg"}


def test_metadata_are_given_as_they_stand(write):
    model = model_of(helper.make_node("Identity", ["x"], ["y"]))
    model.metadata_props.add(key="names", value="{0: 'person'}")
    model.metadata_props.add(key="names", value="again")
    assert walk(write(model), RULES).metadata == (("names", b"{0: 'person'}"), ("names", b"again"))
