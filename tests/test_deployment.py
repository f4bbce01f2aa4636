"""What is published for containers and for other servers: read by their schemas, and installed where that can be."""

import asyncio
import importlib.util
import json
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILES = sorted(ROOT.glob("docker/*.Dockerfile"))
REQUIREMENTS = (ROOT / "docker" / "requirements-cpu.txt").read_text()


def load_example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def instructions(file):
    """List a Dockerfile's instructions with their arguments."""
    text = re.sub(r"\\\n", " ", file.read_text())
    return [line.split(" ", 1) for line in text.splitlines() if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_container_runs_as_nobody_checks_its_health_and_stops_by_sigterm(file):
    found = instructions(file)
    words = [word for word, _ in found]
    assert words[0] == "FROM"
    assert set(words) <= {
        "FROM",
        "COPY",
        "RUN",
        "USER",
        "ENV",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
    }
    assert dict(found)["USER"].isdigit()
    assert words.index("USER") > max(place for place, word in enumerate(words) if word == "RUN")
    assert dict(found)["STOPSIGNAL"] == "SIGTERM"
    compile(json.loads(dict(found)["HEALTHCHECK"].partition("CMD ")[2])[2], "health check", "exec")
    assert json.loads(dict(found)["ENTRYPOINT"])[:2] == ["uniemox", "serve"]
    for word, rest in found:
        if word == "COPY":
            assert all((ROOT / source).exists() for source in rest.split()[:-1])


def test_the_requirements_of_the_small_image_are_the_projects_without_torch():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    asked = [line for line in REQUIREMENTS.splitlines() if not line.startswith("#")]
    assert set(asked) <= set(known)
    assert not any("torch" in line or "timm" in line for line in asked)


@pytest.mark.soak
def test_the_pip_lines_of_the_small_image_install_a_service_without_torch(exported, tmp_path):
    """The engine of Docker is not needed: its lines run in a fresh environment."""
    venv.create(tmp_path / "venv", with_pip=True)
    (lines,) = [[rest for word, rest in instructions(file) if word == "RUN"] for file in FILES if "cpu" in file.name]
    commands = [part.strip() for line in lines for part in line.split("&&") if part.strip().startswith("pip install")]
    assert len(commands) == 2
    python = tmp_path / "venv" / "bin" / "python"
    for command in commands:
        words = command.replace("/build/requirements-cpu.txt", f"{ROOT}/docker/requirements-cpu.txt")
        words = words.replace("/build/uniemox", str(ROOT))
        subprocess.run([python, "-m", *shlex.split(words)], check=True, capture_output=True)
    code = "import importlib.util as u; print([n for n in ('torch', 'timm', 'scipy') if u.find_spec(n)])"
    assert subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
    command = [python, "-m", "uniemox", "serve", str(exported), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            ask = f"""
import json, urllib.request as r
url = {process.stdout.readline().strip()!r}
for path in ("/v1/predict", "/v1/explain"):
    body = json.dumps({{"images": [{picture()!r}], "boxes": [[[0, 0, 9, 9]]]}}).encode()
    asked = r.Request(url + path, body, {{"Content-Type": "application/json"}})
    print(r.urlopen(asked, timeout=60).status)
"""
            done = subprocess.run([sys.executable, "-c", ask], check=True, capture_output=True, text=True)
            assert done.stdout.split() == ["200", "200"]
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()


def picture():
    from base64 import b64encode
    from io import BytesIO

    from PIL import Image

    file = BytesIO()
    Image.new("RGB", (24, 24), (200, 30, 30)).save(file, "PNG")
    return b64encode(file.getvalue()).decode()


def triton_messages():
    """Build the part of Triton's schema that is used (triton-inference-server/common, protobuf/model_config.proto)."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    types = file.enum_type.add(name="DataType")
    types.value.add(name="TYPE_INVALID", number=0)
    types.value.add(name="TYPE_FP32", number=11)
    fields = {
        "ModelInput": [("name", 1, "STRING"), ("data_type", 2, "DataType"), ("dims", 4, "INT64*")],
        "ModelOutput": [
            *(("name", 1, "STRING"), ("data_type", 2, "DataType"), ("dims", 3, "INT64*")),
            ("label_filename", 4, "STRING"),
        ],
        "ModelDynamicBatching": [("preferred_batch_size", 1, "INT32*"), ("max_queue_delay_microseconds", 2, "UINT64")],
        "ModelConfig": [
            *(("name", 1, "STRING"), ("backend", 17, "STRING"), ("max_batch_size", 4, "INT32")),
            *(("input", 5, "ModelInput*"), ("output", 6, "ModelOutput*")),
            ("dynamic_batching", 11, "ModelDynamicBatching"),
        ],
    }
    for message, members in fields.items():
        made = file.message_type.add(name=message)
        for name, number, kind in members:
            field = made.field.add(name=name, number=number)
            field.label = kinds.LABEL_REPEATED if kind.endswith("*") else kinds.LABEL_OPTIONAL
            kind = kind.rstrip("*")
            if kind.isupper():
                field.type = kinds.Type.Value(f"TYPE_{kind}")
            else:
                field.type = kinds.TYPE_ENUM if kind == "DataType" else kinds.TYPE_MESSAGE
                field.type_name = f".inference.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


def test_the_repository_for_triton_fits_its_schema_and_the_graph(exported, tmp_path):
    import onnx
    from google.protobuf import text_format

    triton = load_example("triton")
    triton.write_repository(exported, tmp_path, "emotions")
    config = text_format.Parse((tmp_path / "emotions" / "config.pbtxt").read_text(), triton_messages()())
    graph = onnx.load(tmp_path / "emotions" / "1" / "model.onnx").graph
    for entry, ends in ((config.input, graph.input), (config.output, graph.output[:1])):
        found = {end.name: [size.dim_value for size in end.type.tensor_type.shape.dim[1:]] for end in ends}
        assert {each.name: list(each.dims) for each in entry} == found
    assert config.name == "emotions"
    assert config.dynamic_batching.max_queue_delay_microseconds > 0
    labels = (tmp_path / "emotions" / config.output[0].label_filename).read_text().split()
    assert len(labels) == config.output[0].dims[0]


def test_the_service_for_kserve_names_the_repository():
    values = yaml.safe_load(load_example("triton").inference_service("emotions", "s3://models/repository"))
    assert (values["apiVersion"], values["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    model = values["spec"]["predictor"]["model"]
    assert model == {"modelFormat": {"name": "triton"}, "protocolVersion": "v2", "storageUri": "s3://models/repository"}


def test_a_replica_of_ray_answers_as_the_service_does(exported):
    from starlette.requests import Request

    replica = load_example("ray_serve").Emotions(str(exported))
    body = json.dumps({"images": [picture()]}).encode()

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def ask():
        scope = {"type": "http", "method": "POST", "path": "/v1/predict", "query_string": b"", "root_path": ""}
        headers = [(b"content-type", b"application/json")]
        response = await replica(Request({**scope, "headers": headers}, receive))
        await replica.running.__aexit__(None, None, None)
        return response

    response = asyncio.run(ask())
    assert response.status_code == 200
    (row,) = json.loads(response.body)["predictions"]
    assert np.isclose(sum(row["probabilities"].values()), 1)


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of ray itself
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the pipes of its processes
def test_ray_serves_the_example(exported, monkeypatch):
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'uniemox[ray]'")
    import urllib.request

    from ray import serve

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")  # asks nobody, and sends nothing
    monkeypatch.setenv("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "120")  # of a machine that is busy
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    example = load_example("ray_serve")
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as place:  # whose sockets need short paths
        monkeypatch.setenv("HOME", place)  # where it keeps the token of its cluster
        try:
            ray.init(num_cpus=2, include_dashboard=False, _temp_dir=place)
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            serve.run(example.app({"model": str(exported), "replicas": "2"}))
            body = json.dumps({"images": [picture()]}).encode()
            kind = {"Content-Type": "application/json"}
            asked = urllib.request.Request(f"http://127.0.0.1:{port}/v1/predict", body, kind)
            for _ in range(20):
                assert urllib.request.urlopen(asked, timeout=60).status == 200
        finally:
            serve.shutdown()
            ray.shutdown()
    left = subprocess.run(["ps", "-eo", "args"], check=True, capture_output=True, text=True).stdout
    assert place not in left  # every process of ray names its folder
