"""What is local stays local: every command runs in processes that write down whom they would call, and call nobody."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import uniemox
from uniemox.console.cli import COMMANDS

GUARD = """
import os, socket

def note(what):
    with open(os.environ["CALLS"], "a") as file:
        file.write(f"{what}\\n")
    raise OSError(f"no network in this test: {what}")

def look_up(host, *_, **__):
    note(host)

def connect(self, address, really=socket.socket.connect):
    return really(self, address) if self.family == socket.AF_UNIX else note(address)

socket.getaddrinfo = socket.gethostbyname = socket.gethostbyname_ex = look_up
socket.socket.connect = socket.socket.connect_ex = connect
"""
RUN = """
import json, os, signal, sys, threading
from uniemox.console.cli import main
from uniemox.demo import run
from uniemox.serve import run as service
from uniemox.manifests.table import Manifest, read_manifest, write_manifest

def unpack_some(folder, unpack=run.unpack):
    data = unpack(folder)
    for path in data:
        manifest = read_manifest(path)
        write_manifest(Manifest(manifest.table.take(list(range(0, len(manifest), 8))), manifest.facts), path)
    return data

def shorter(kind, values, build=run.build):
    return build(kind, values | {"max_steps": 2, "workers": 0, "optim.batch_size": 16})

def serve_shortly(*words, serve=service.run, **more):
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    return serve(*words, **more)

run.unpack, run.build = unpack_some, shorter  # what the demo does is real, only shorter
service.run = serve_shortly
for words in json.load(sys.stdin):
    code = main(words)
    print("code", code, *words[:2], flush=True)
"""
SHAPE = ["--model.size", "mini", "--model.patch-size", "8", "--model.image-size", "32"]
DECODER = ["--model.decoder-width", "24", "--model.decoder-depth", "1", "--model.decoder-heads", "4"]
STEPS = ["--optim.epochs", "1", "--optim.batch-size", "8", "--optim.warmup-epochs", "0"]


@pytest.fixture
def call(tmp_path):
    """Run commands one after the other in a process that is watched, as are its children; give codes and calls."""
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    calls = tmp_path / "calls.txt"
    places = (tmp_path / "guard", Path(uniemox.__file__).parents[1])
    surroundings = {name: value for name, value in os.environ.items() if "OFFLINE" not in name}
    surroundings |= {"PYTHONPATH": os.pathsep.join(map(str, places)), "CALLS": str(calls)}
    surroundings |= {"HF_HOME": str(tmp_path / "hub"), "TORCH_HOME": str(tmp_path / "torch")}

    def run(*commands):
        words = json.dumps([[str(word) for word in command] for command in commands])
        options = {"input": words, "capture_output": True, "text": True, "env": surroundings, "cwd": tmp_path}
        ended = subprocess.run([sys.executable, "-c", RUN], timeout=800, **options)
        codes = [line.split()[1:] for line in ended.stdout.splitlines() if line.startswith("code ")]
        assert len(codes) == len(commands), ended.stderr
        return codes, calls.read_text().splitlines() if calls.exists() else [], ended.stderr

    return run


def test_a_call_would_be_noticed(call):
    codes, calls, _ = call(["checkpoint", "inspect", "hf-hub:nobody/nothing"])
    assert codes[0][0] == "1"
    assert "huggingface.co" in calls


@pytest.mark.slow
def test_no_command_reaches_for_the_network_where_all_it_is_given_is_local(
    call, painted, tiny_clip, pretrained, finetuned, exported, onnx_model, tmp_path
):
    data, clip = tmp_path / "data.parquet", ["--teacher.model", tiny_clip, "--teacher.pretrained", "null"]
    nms = ["--detector-format", "yolo-nms"]
    language = ["--pool", "fused", "--head", "language", "--view", "both"]
    detector = onnx_model({"boxes": [[[1, 1, 9, 9, 0.9, 0]]]})
    foreign = shutil.copyfile(finetuned.model / "model.safetensors", tmp_path / "foreign.safetensors")
    compute = ["--device", "cpu", "--workers", "2"]
    grid = tmp_path / "grid.yaml"
    grid.write_text("arms: {zero-shot: {evaluate: {}}, neighbours: {probe: {head: knn}}}")
    commands = [
        ["data", "datasets"],
        ["data", "prepare", "split-folders", "--root", painted.root, "--boxes", painted.people, "--out", data],
        ["data", "show", data, "--people", "--out", tmp_path / "sheet.html"],
        ["data", "split", data, "--ratios", "70/10/20", "--out", tmp_path / "split.parquet"],
        ["data", "merge", data, painted.path, "--mixed-emotions", "--out", tmp_path / "merged.parquet"],
        ["data", "shard", data, "--out", tmp_path / "shards"],
        ["data", "people", data, "--boxes", painted.people, "--out", tmp_path / "people.parquet"],
        ["data", "people", data, "--detector", detector, *nms, "--out", tmp_path / "found.parquet"],
        ["data", "audit", data, "--out", tmp_path / "audit", "--workers", "2", "--model", pretrained.model],
        ["data", "reinforce", data, "--views", "2", "--image-size", "32", *clip, *compute],
        ["pretrain", "--data", data, "--out", tmp_path / "p", *clip, *SHAPE, *DECODER, *STEPS, *compute],
        ["finetune", "--init", pretrained.model, "--data", data, "--out", tmp_path / "f", *STEPS, *compute],
        ["finetune", "--init", pretrained.model, "--data", data, "--out", tmp_path / "g", *language, *STEPS, *compute],
        ["probe", "--backbone", tmp_path / "g", "--data", data, "--out", tmp_path / "probe", *compute],
        ["ablate", grid, "--data", data, "--start", pretrained.model, "--out", tmp_path / "ablate", *compute],
        ["evaluate", finetuned.model, "--data", data, "--out", tmp_path / "e", *compute],
        ["transfer", "--models", finetuned.model, "clip:demo", "--data", data, *compute],
        ["compare", tmp_path / "f", tmp_path / "g", tmp_path / "e", "--out", tmp_path / "compared.html"],
        ["predict", finetuned.model, painted.root / "test", "--out", tmp_path / "table.csv", *compute],
        ["explain", exported, painted.root / "test", "--boxes", painted.people, "--overlays", tmp_path / "maps"],
        ["report", tmp_path / "table.csv"],
        ["search", finetuned.model, painted.root / "test", "--emotion", "joy", "--index", tmp_path / "index", *compute],
        ["predict", exported, painted.root / "test", "--workers", "2"],
        ["predict", "clip:demo", painted.root / "test", "--taxonomy", "mikels", *compute],
        ["predict", pretrained.model, painted.root / "test", "--taxonomy", "polarity", *compute],
        ["checkpoint", "inspect", pretrained.model],
        ["checkpoint", "convert", foreign, "--dataset", data, "--out", tmp_path / "converted"],
        ["export", finetuned.model, "--out", tmp_path / "exported"],
        ["serve", exported, "--port", "0"],
        ["demo", "--out", tmp_path / "demo", "--device", "cpu"],
    ]
    named = {" ".join(map(str, words[: 1 + (words[0] in ("data", "checkpoint"))])) for words in commands}
    assert named == COMMANDS.keys() - {"checkpoint push"}  # which is there to call the hub
    codes, calls, err = call(*commands)
    assert calls == []
    assert [code for code in codes if code[0] != "0"] == [], err
