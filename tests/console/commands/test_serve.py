"""The command `serve`: what keeps it from starting is one line."""

import contextlib
import logging
import signal

import pytest

from uniemox.serve import run as service


@pytest.fixture
def stopped(monkeypatch):
    """Stand for the server, which is asked to stop at once; keeps what it was to serve."""
    asked = []

    def run(served, listener, *, key):
        asked.append((served, listener.getsockname()[1], key))
        logging.getLogger("uniemox.requests").info("%s", '{"a": 1}')
        return signal.SIGTERM

    monkeypatch.setattr(service, "run", run)
    return asked


def test_the_address_is_printed_and_a_stop_is_a_success(run, exported, stopped):
    code, out, err = run("serve", exported, "--port", "0", "--queue", "7")
    ((served, port, key),) = stopped
    assert (code, out) == (0, f"http://127.0.0.1:{port}\n")
    assert served.config.queue == 7
    assert key is None
    assert '{"a": 1}' in err.splitlines()


def test_a_port_in_use_is_one_line(run, exported, stopped):
    with contextlib.closing(service.bind("127.0.0.1", 0)) as taken:
        code, out, err = run("serve", exported, "--port", taken.getsockname()[1])
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "address already in use" in err
    assert "--port" in err
    assert not stopped


def test_a_model_that_does_not_load_does_not_start(run, tmp_path, stopped):
    (tmp_path / "model.onnx").write_bytes(b"broken")
    code, out, err = run("serve", tmp_path / "model.onnx", "--port", "0")
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert not stopped


def test_other_machines_without_a_key_are_a_warning(run, exported, stopped, tmp_path):
    _, _, err = run("serve", exported, "--port", "0", "--host", "0.0.0.0")
    assert "no key is asked for" in err
    (tmp_path / "key").write_text("0123456789abcdef0123")
    _, _, err = run("serve", exported, "--port", "0", "--host", "0.0.0.0", "--key-file", tmp_path / "key")
    assert "no key" not in err
    assert stopped[-1][2] == "0123456789abcdef0123"
    assert "0123456789abcdef0123" not in err


def test_what_is_not_installed_names_the_extra(run, exported, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "uniemox.serve.app", None)
    code, _, err = run("serve", exported)
    assert code == 2
    assert "pip install 'uniemox[serve]'" in err
