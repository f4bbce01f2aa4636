"""Hostile ONNX files as a user meets them: a detector, and an exported classifier, at the command line.

Each ends in one line, within 4 GB and 60 s. Where only the time ends a run, the limit is 2 s here, for the tests' sake;
one test waits for the real one.
"""

import functools
import itertools
import os
import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from uniemox.checkpoints.open import ONNX_NAME

pytestmark = pytest.mark.slow
PICTURE = ("b", 3, 64, 64)


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def weights_of(**values):
    return [numpy_helper.from_array(np.asarray(each), name) for name, each in values.items()]


def model_of(nodes, weights=(), *, shape=PICTURE, functions=()):
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(f.domain, 1) for f in functions)]
    graph = helper.make_graph(nodes, "g", [value("x", shape)], [value("o", None)], weights)
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)


def node(operation, *ends, **attributes):
    """Make a node of its inputs and, at last, its output."""
    return helper.make_node(operation, ends[:-1], ends[-1:], **attributes)


BOXES = node("Identity", "c", "o")
NOBODY = np.zeros((1, 1, 6), np.float32)
HUGE = np.array([1, 3 * 10**8, 5])


def chain(count, side, *, between=(), rows=None):
    """Products on one weight, of which nothing depends on the picture."""
    first = np.full((rows or side, side), 1 / side, np.float32)
    nodes, last = [], "first"
    for index in range(count):
        name = "w"
        for step, operation in enumerate(between):
            nodes.append(node(operation, name, f"w{index}_{step}"))
            name = f"w{index}_{step}"
        nodes.append(node("MatMul", last, name, f"p{index}"))
        last = f"p{index}"
    nodes += [node("ReduceMean", last, "m"), node("Add", "m", "c", "o")]
    return model_of(nodes, weights_of(first=first, w=first[:side], c=NOBODY))


def loop(*, collects, depth=1):
    """A loop that never ends, within others; it may keep something of every round."""
    kept = [value("kept", [1])] if collects else []
    body = helper.make_graph(
        [node("Identity", "go", "on"), node("Add", "v", "one", "more"), *(node("Neg", "v", "kept") for _ in kept)],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("v", [1])],
        [value("on", [], TensorProto.BOOL), value("more", [1]), *kept],
    )
    names = ["l", *("all" for _ in kept)]
    nodes = [helper.make_node("Loop", ["n", "yes", "one"], names, body=body), node("Add", names[-1], "c", "o")]
    return model_of(nodes, weights_of(n=np.array(2**62), yes=np.array(True), one=np.ones(1, np.float32), c=NOBODY))


def functions(depth):
    """Each calls the one before ten times."""
    made, opsets = [], [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    for level in range(depth):
        domain, operation = ("", "Neg") if level == 0 else ("f", f"F{level - 1}")
        steps = [node(operation, "a" if i == 0 else f"a{i}", f"a{i + 1}", domain=domain) for i in range(10)]
        made.append(helper.make_function("f", f"F{level}", ["a"], ["a10"], steps, opsets))
    return model_of([node(f"F{depth - 1}", "c", "o", domain="f")], weights_of(c=NOBODY), functions=made)


def texts():
    constant = node("Constant", "t", value_string="x" * 10**6)
    nodes = [constant, node("Expand", "t", "s", "e"), node("Shape", "e", "n"), node("ReduceSum", "n", "m"), BOXES]
    return model_of(nodes, weights_of(s=np.array([10**6]), c=NOBODY))


def large_product():
    """10,000 × 12,000 × 10,000 multiplications in one operation, made of nothing."""
    nodes = [node("ConstantOfShape", "s", "a"), node("ConstantOfShape", "z", "b"), node("MatMul", "a", "b", "p")]
    nodes += [node("ReduceMean", "p", "m", keepdims=0), node("Add", "m", "c", "o")]
    return model_of(nodes, weights_of(s=np.array([10_000, 12_000]), z=np.array([12_000, 10_000]), c=NOBODY))


def wide_filter():
    """The mean around each of millions of pixels of millions of others."""
    nodes = [node("ConstantOfShape", "s", "a"), node("AveragePool", "a", "p", kernel_shape=[1500] * 2, pads=[749] * 4)]
    nodes += [node("ReduceMean", "p", "m", keepdims=0), node("Add", "m", "c", "o")]
    return model_of(nodes, weights_of(s=np.array([1, 1, 3000, 3000]), c=NOBODY))


def counted(nodes, last, **weights):
    nodes = [*nodes, node("Size", last, "n"), node("Cast", "n", "f", to=1), node("Add", "f", "c", "o")]
    return model_of(nodes, weights_of(c=NOBODY, **weights))


def places():
    """Numbers for each of many places, in memory of no allocator."""
    yes = numpy_helper.from_array(np.array([True]), "yes")
    nodes = [node("ConstantOfShape", "s", "a", value=yes), node("NonZero", "a", "z")]
    return counted(nodes, "z", s=np.array([7 * 10**8]))


def unlike():
    """A tree of so many numbers, in memory of no allocator."""
    nodes = [node("Range", "a", "b", "s", "r"), node("Unique", "r", "u")]
    return counted(nodes, "u", a=np.array(0), b=np.array(6 * 10**7), s=np.array(1))


def regions():
    """So many samples of each region that there is no memory for their places."""
    sides = {"s": [1, 1, 64, 64], "r": [100, 4], "i": [100]}
    zero = numpy_helper.from_array(np.array([0]), "zero")
    nodes = [node("ConstantOfShape", "s", "a"), node("ConstantOfShape", "r", "b")]
    nodes.append(node("ConstantOfShape", "i", "p", value=zero))
    nodes.append(node("RoiAlign", "a", "b", "p", "z", sampling_ratio=30_000, output_height=7, output_width=7))
    return counted(nodes, "z", **{name: np.array(side) for name, side in sides.items()})


# Models, and what is said of them.
AT_ONCE = {
    "expand": (
        lambda: model_of([node("Expand", "c", "s", "o")], weights_of(c=np.ones((1, 1, 5), np.float32), s=HUGE)),
        "memory",
    ),
    "tile": (
        lambda: model_of([node("Tile", "c", "s", "o")], weights_of(c=np.ones((1, 1, 5), np.float32), s=HUGE)),
        "more than 4294967296 bytes|memory",
    ),
    "constant of shape": (lambda: model_of([node("ConstantOfShape", "s", "o")], weights_of(s=HUGE)), "memory"),
    "range": (
        lambda: model_of(
            [node("Range", "a", "b", "s", "r"), node("Cast", "r", "o", to=1)],
            weights_of(a=np.array(0), b=np.array(2**40), s=np.array(1)),
        ),
        "memory",
    ),
    "outer product": (
        lambda: model_of(
            [node("MatMul", "a", "b", "p"), node("ReduceMean", "p", "m", keepdims=0), node("Add", "m", "c", "o")],
            weights_of(a=np.ones((60_000, 1), np.float32), b=np.ones((1, 60_000), np.float32), c=NOBODY),
        ),
        "memory",
    ),
    "a large input": (lambda: model_of([BOXES], weights_of(c=NOBODY), shape=(1, 3, 8192, 8192)), "is too large"),
    "a large batch": (lambda: model_of([BOXES], weights_of(c=NOBODY), shape=(1024, 3, 640, 640)), "is too large"),
    "a batch of small ones": (lambda: model_of([BOXES], weights_of(c=NOBODY), shape=(1024, 3, 8, 8)), "is too large"),
    "functions": (lambda: functions(40), r"functions or training|the operation 'f\.F39'"),
    "products": (lambda: chain(3000, 1500), "of which operations read"),
    "products on copies": (lambda: chain(3000, 1500, between=("Identity",)), "of which operations read"),
    "products on turned copies": (
        lambda: chain(3000, 1500, between=("Transpose", "Transpose")),
        "of which operations read",
    ),
    "texts": (texts, "it holds texts"),
    "places": (places, "3 GiB of memory|2 s"),
    "unlike numbers": (unlike, "3 GiB of memory|2 s"),
    "regions": (regions, "of memory"),
    "a loop that keeps all": (lambda: loop(collects=True), "memory|2 s"),
}
IN_TIME = {
    "a loop": lambda: loop(collects=False),
    "products on a small weight": lambda: chain(12_000, 128, rows=4000),
    "one large product": large_product,
    "one wide filter": wide_filter,
}
OFTEN = ("expand", "a large input", "a large batch", "functions", "products", "a loop")  # Not only in the soak


def each(models):
    return [name if name in OFTEN else pytest.param(name, marks=pytest.mark.soak) for name in models]


HERE = "import sys, uniemox.files.onnx as o; from uniemox.console.cli import main; {}; sys.exit(main({}))"
SHORT = "o.SECONDS = 2.0"
SHORT_RUN = (
    "import uniemox.inference.onnx_backend as b; run = b.run_session; "
    "b.run_session = lambda *given, **more: (setattr(o, 'SECONDS', 2.0), run(*given, **more))[1]"
)  # Opening may take longer on a busy machine
TOLD = (
    "import uniemox.people.detectors.onnx_detector as d; run = d.run_session; "
    "d.run_session = lambda *given: (print('now', flush=True), run(*given))[1]"
)  # Says that a run begins


@pytest.fixture
def words(painted, tmp_path):
    """The words that look for people with a detector."""

    def of(detector):
        file = detector
        if not isinstance(detector, os.PathLike):
            file = tmp_path / "detector.onnx"
            file.write_bytes(detector.SerializeToString())
        form = ("--detector-format", "yolo-nms", "--device", "cpu")
        given = ("data", "people", painted.path, "--detector", file, *form, "--out", tmp_path / "p.parquet")
        return [str(word) for word in given]

    return of


def one_line(ended, said):
    assert ended.returncode == 1, ended
    assert ended.err.startswith("uniemox: error: ")
    assert ended.err.count("\n") == 1
    assert re.search(said, ended.err), ended.err


def test_a_harmless_model_of_this_kind_finds_nobody(run_hostile, words):
    """Otherwise the others could be refused for how they are made."""
    assert run_hostile(words(model_of([BOXES], weights_of(c=NOBODY), shape=(1, 3, 64, 64)))).returncode == 0


@pytest.mark.parametrize("name", each(AT_ONCE))
def test_a_hostile_detector_ends_in_one_line(run_hostile, words, name):
    make, said = AT_ONCE[name]
    one_line(run_hostile(HERE.format(SHORT, words(make()))), said)


@pytest.mark.parametrize("name", each(IN_TIME))
def test_a_detector_that_does_not_come_to_an_end_is_ended(run_hostile, words, name):
    one_line(run_hostile(HERE.format(SHORT, words(IN_TIME[name]())), seconds=30), "needs more than 2 s")


@pytest.mark.soak
@pytest.mark.parametrize(
    "make",
    [pytest.param(functools.partial(loop, collects=kept), id=f"loop {kept}") for kept in (False, True)]
    + [places, unlike],
)
def test_what_does_not_end_ends_at_the_true_limits(run_hostile, words, make):
    one_line(run_hostile(words(make())), r"needs more than (40 s|(1\.5|3) GiB of memory) for 8 images")


@pytest.mark.parametrize("name", each(IN_TIME))
def test_ctrl_c_ends_a_run_whatever_it_does(run_hostile, words, name):
    ended = run_hostile(HERE.format(TOLD, words(IN_TIME[name]())), interrupt="now", seconds=30)
    assert ended.returncode == 130
    assert ended.err.count("\n") == 1
    assert "interrupted" in ended.err


def put_pipe(path):
    os.mkfifo(path)


def put_zeros(path):
    path.symlink_to("/dev/zero")


def put_null(path):
    path.symlink_to("/dev/null")


def put_folder(path):
    path.mkdir()


KINDS = [put_pipe, *(pytest.param(put, marks=pytest.mark.soak) for put in (put_zeros, put_null, put_folder))]


@pytest.mark.parametrize("put", KINDS)
def test_a_detector_that_is_no_plain_file_is_one_line(run_hostile, words, tmp_path, put):
    put(tmp_path / "d.onnx")
    one_line(run_hostile(words(tmp_path / "d.onnx")), r"d\.onnx is not a file")


@pytest.mark.parametrize("put", KINDS)
def test_weights_beside_a_detector_that_are_no_plain_file_are_one_line(run_hostile, words, tmp_path, put):
    put(tmp_path / "data")
    one_line(run_hostile(words(beside())), "which is no file")


def beside(count=1, **more):
    """Weights of a file beside the model, each under so many names."""
    weights = []
    for index in range(count):
        tensor = TensorProto(name=f"c{index}", data_type=TensorProto.FLOAT, dims=[1, 1, 6])
        tensor.data_location = TensorProto.EXTERNAL
        for key, text in {"location": "data", "length": 24, **more}.items():
            tensor.external_data.add(key=key, value=str(text))
        weights.append(tensor)
    return model_of([node("Sum", *(weight.name for weight in weights), "o")], weights)


def test_weights_beside_a_detector_that_are_empty_terabytes_are_one_line(run_hostile, words, tmp_path):
    with (tmp_path / "data").open("wb") as file:
        file.truncate(2**40)
    one_line(run_hostile(words(beside())), "more than 2147483647")


def test_weights_beside_a_detector_under_many_names_are_one_line(run_hostile, words, tmp_path):
    with (tmp_path / "data").open("wb") as file:
        file.truncate(2**25)
    one_line(run_hostile(words(beside(1000, length=2**25))), "of which operations read")


# An exported classifier


@pytest.fixture
def predicts(exported, painted, tmp_path):
    """The words that predict a picture with a graph of our own under the metadata of the exported model."""
    facts = onnx.load(exported / ONNX_NAME, load_external_data=False).metadata_props
    picture = next((painted.root / "test").rglob("*.png"))

    def of(nodes, weights):
        nodes = [
            *nodes,
            node("ReduceMean", "pixels", "means", axes=[2, 3], keepdims=0),
            node("Add", "means", "m", "logits"),
        ]
        ends = [value("pixels", ("N", 3, 32, 32))], [value("logits", ("N", 3))]
        model = helper.make_model(
            helper.make_graph(nodes, "g", *ends, weights), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
        )
        model.metadata_props.extend(facts)
        path = tmp_path / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return ["predict", str(path), str(picture)]

    return of


def products(count, rows, side):
    first = np.full((rows, side), 1 / side, np.float32)
    ends = ["first", *(f"p{index}" for index in range(count))]
    nodes = [node("MatMul", before, "w", after) for before, after in itertools.pairwise(ends)]
    return [*nodes, node("ReduceMean", ends[-1], "m", keepdims=0)], weights_of(first=first, w=np.eye(side, dtype="f"))


def test_a_harmless_classifier_of_this_kind_predicts(run_hostile, predicts):
    assert run_hostile(predicts(*products(3, 2, 2))).returncode == 0


def test_a_classifier_of_thousands_of_products_on_one_weight_is_one_line(run_hostile, predicts):
    one_line(run_hostile(predicts(*products(8000, 1, 3000))), "of which operations read 2880")


def test_a_classifier_that_does_not_come_to_an_end_is_ended(run_hostile, predicts):
    ended = run_hostile(HERE.format(SHORT_RUN, predicts(*products(12_000, 4000, 128))), seconds=30)
    one_line(ended, "needs more than 2 s for 1 image")


def test_a_classifier_that_takes_all_memory_is_one_line(run_hostile, predicts):
    nodes = [node("Expand", "c", "s", "e"), node("ReduceMean", "e", "m", keepdims=0)]
    weights = weights_of(c=np.ones((1, 1, 5), np.float32), s=HUGE)
    one_line(run_hostile(predicts(nodes, weights)), "needs more than 1.5 GiB of memory for 1 image")
