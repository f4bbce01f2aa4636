"""A service as a process: how it starts, what it suffers, and how it stops."""

import contextlib
import functools
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import uvicorn

from uniemox.config.serve import KEY_VARIABLE
from uniemox.errors import CheckpointError, ConfigError, DataError
from uniemox.serve import run as module
from uniemox.serve.app import build_app


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


def test_a_key_comes_from_its_file_or_the_environment(tmp_path, key, monkeypatch):
    assert module.read_key(None) is None
    monkeypatch.setenv(KEY_VARIABLE, f"{key} ")
    assert module.read_key(None) == key
    (tmp_path / "key").write_text(f"{key}2\n")
    assert module.read_key(tmp_path / "key") == f"{key}2"


@pytest.mark.parametrize("text", ["", "short", "x" * 2000, "with blanks in between", "ümlautümlautümlaut", "a\nb" * 20])
def test_what_is_no_key_is_refused_and_not_shown(tmp_path, text, monkeypatch):
    (tmp_path / "key").write_text(text)
    with pytest.raises(ConfigError, match="holds no key") as refused:
        module.read_key(tmp_path / "key")
    assert not text or text not in str(refused.value)
    monkeypatch.setenv(KEY_VARIABLE, text)
    with pytest.raises(ConfigError, match=KEY_VARIABLE):
        module.read_key(None)


def test_a_key_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"`key_file`.*none"):
        module.read_key(tmp_path / "none")


def test_a_port_in_use_is_a_line():
    with contextlib.closing(module.bind("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DataError, match=f"port {port}: address already in use; .*another `port`"):
            module.bind("127.0.0.1", port)
    with contextlib.closing(module.bind("127.0.0.1", port)):
        pass


@pytest.mark.parametrize("host", ["203.0.113.1", "x" * 300, "::ffff"])
def test_an_address_that_is_not_of_this_machine_is_a_line(host):
    with pytest.raises(DataError, match="cannot listen on"):
        module.bind(host, 0)


def test_a_model_that_does_not_answer_does_not_listen(make_service, backend):
    service = make_service()
    module.warm_up(service.predictor)
    backend.error = CheckpointError("the model gave no finite number")
    with pytest.raises(CheckpointError):
        module.warm_up(service.predictor)


# A server in a thread


@contextlib.contextmanager
def serving(service, monkeypatch, *, head_seconds, seconds=20.0):
    monkeypatch.setattr(module, "_HEAD_SECONDS", head_seconds)
    listener = module.bind("127.0.0.1", 0)
    patient = functools.partial(module.Patient, seconds=seconds)
    config = uvicorn.Config(build_app(service), http=patient, ws="none", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


def ask(port, red):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/v1/predict", red, {"Content-Type": "image/png"})
    status = connection.getresponse().status
    connection.close()
    return status


def ends_within(connection, seconds):
    connection.settimeout(seconds)
    try:
        return connection.recv(10_000) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_clients_that_are_silent_or_slow_are_closed_and_stop_nobody(make_service, red, monkeypatch):
    with serving(make_service(), monkeypatch, head_seconds=0.4) as port:
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
        dripping = socket.create_connection(("127.0.0.1", port))
        start = time.monotonic()
        for letter in b"GET /health HTTP/1.1\r\n":
            assert ask(port, red) == 200
            with contextlib.suppress(ConnectionError):
                dripping.sendall(bytes([letter]))
            time.sleep(0.05)
        assert ends_within(dripping, 1)
        assert all(ends_within(connection, 1) for connection in idle)
        assert time.monotonic() - start < 5
        for connection in (*idle, dripping):
            connection.close()


def test_a_connection_may_be_used_again_and_is_closed_when_it_is_not(make_service, monkeypatch):
    with serving(make_service(), monkeypatch, head_seconds=0.5) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        for _ in range(4):
            connection.request("GET", "/health")
            assert connection.getresponse().read() == b'{"status":"alive"}'
            time.sleep(0.2)
        assert ends_within(connection.sock, 2)
        connection.close()


def test_a_body_that_does_not_come_is_408(make_service, monkeypatch):
    head = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 99\r\n\r\n"
    with (
        serving(make_service(timeout=1), monkeypatch, head_seconds=5) as port,
        socket.create_connection(("127.0.0.1", port)) as slow,
    ):
        slow.sendall(head + b"x")
        slow.settimeout(5)
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")


def test_a_request_that_never_ends_is_cut_off(make_service, backend, monkeypatch, red):
    with serving(make_service(), monkeypatch, head_seconds=5, seconds=0.3) as port:
        backend.gate.clear()
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            ask(port, red)
        backend.gate.set()


# Processes


@contextlib.contextmanager
def started(*words, **environment):
    """Run `uniemox serve` on a free port; give the process and the port."""
    command = [sys.executable, "-m", "uniemox", "serve", *map(str, words), "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**os.environ, **environment}, **pipes) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("http://127.0.0.1:"), process.stderr.read()
            yield process, int(line.rpartition(":")[2])
        finally:
            process.kill()


@pytest.mark.slow
def test_sigterm_under_load_answers_all_that_was_accepted(exported, make_image):
    image = make_image(size=(400, 300), form="JPEG")
    statuses, cut = [], []

    def load(port):
        with contextlib.suppress(ConnectionRefusedError):
            while True:
                try:
                    statuses.append(ask(port, image))
                except ConnectionRefusedError:
                    raise
                except (http.client.HTTPException, OSError) as error:  # closed in the queue of the system
                    cut.append(error)

    with started(exported) as (process, port):
        threads = [threading.Thread(target=load, args=(port,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
        for thread in threads:
            thread.join(10)
        assert process.returncode == 0, err
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert len(lines) == len(statuses) > 20
    assert set(statuses) == {line["status"] for line in lines} == {200}
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_service_of_an_export_brings_no_torch_and_stops_at_ctrl_c(exported, red, tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('no torch here')")
    with started(exported, PYTHONPATH=str(tmp_path)) as (process, port):
        assert ask(port, red) == 200
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("POST", "/v1/explain", red, {"Content-Type": "image/png"})
        assert connection.getresponse().status == 200
        connection.close()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130, err
