"""How models are opened and run; what hostile ones do is in integration/test_hostile_onnx."""

import sys
import threading
import time

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from uniemox.errors import CheckpointError, ConfigError
from uniemox.files import onnx
from uniemox.files.onnx import Exceeded, import_onnxruntime, open_session, run_session
from uniemox.files.onnx_walk import Rules, walk

RULES = Rules(what="detector", then="export it again", operations=frozenset(("Neg",)))


@pytest.fixture
def walked(tmp_path):
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"])] for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "graph", *ends)
    path = tmp_path / "m.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    )
    return walk(path, RULES)


def test_a_model_runs_and_no_thread_is_left(walked):
    session = open_session(walked, then="export it again")
    before = threading.active_count()
    (answer,) = run_session(session, ["y"], {"x": np.array([1, 2], np.float32)})
    assert answer.tolist() == [-1, -2]
    assert threading.active_count() == before


def test_what_onnxruntime_raises_is_raised_here(walked):
    session = open_session(walked, then="export it again")
    with pytest.raises(onnx.session_errors(), match="INVALID_ARGUMENT"):
        run_session(session, ["y"], {"x": np.zeros((1, 1), np.float32)})


def test_opening_that_does_not_come_to_an_end_is_told_and_left_alone(walked, monkeypatch):
    freed = threading.Event()
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: freed.wait(60))
    monkeypatch.setattr(onnx, "SECONDS", 0.1)
    monkeypatch.setattr(onnx, "_GRACE", 0.1)
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=r"m\.onnx needs more than 0\.1 s to be opened: export it again"):
        open_session(walked, then="export it again")
    assert time.monotonic() - began < 5
    freed.set()


def test_a_run_is_told_to_stop_when_its_time_is_over(monkeypatch):
    class Session:
        def run(self, names, feed, options):
            while not options.terminate:
                time.sleep(0.01)
            stopped.set()
            raise RuntimeError("stopped")

    stopped = threading.Event()
    monkeypatch.setattr(onnx, "SECONDS", 0.1)
    with pytest.raises(Exceeded, match=r"needs more than 0\.1 s"):
        run_session(Session(), ["y"], {})
    assert stopped.is_set()
    with pytest.raises(Exceeded, match=r"needs more than 0\.3 s"):
        run_session(Session(), ["y"], {}, patience=3)


def test_a_missing_onnxruntime_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'uniemox\[people\]'"):
        import_onnxruntime("people")


def test_work_whose_start_is_interrupted_never_begins(monkeypatch):
    begun, held = [], []
    start = threading.Thread.start

    def interrupted(thread):
        run, gate = thread.run, threading.Event()
        thread.run = lambda: (gate.wait(), run())
        held.append((gate, thread))
        start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        onnx._wait_for(lambda: begun.append(1), lambda: None, room=1 << 30, seconds=9)
    ((gate, thread),) = held
    gate.set()
    thread.join()
    assert begun == []
