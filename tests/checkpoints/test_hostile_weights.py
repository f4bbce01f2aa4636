"""Hostile weights and folders, given to every reader of them in one process of bounded memory and time."""

import json
import os
import shutil
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from timm import create_model
from timm.models import save_for_hf

from uniemox.checkpoints.facts import ModelFacts
from uniemox.checkpoints.folder import pretraining_facts, save_model
from uniemox.config.training import ModelConfig
from uniemox.models.encoder import build_vit
from uniemox.models.pretrain import UniEmoX

CHILD = """
import json, socket, sys
from pathlib import Path
import torch
from uniemox.checkpoints.inspection import inspect
from uniemox.checkpoints.load import load_model, load_pretraining, load_start
from uniemox.config.people import Limits
from uniemox.config.training import TeacherConfig
from uniemox.errors import UniEmoXError
from uniemox.models.teacher import load_teacher
from uniemox.people.detectors.torchvision_detector import TorchvisionDetector
from uniemox.train.state import load_state

def refuse(*_args, **_more):
    raise SystemExit("the network was asked")

def teach(path):
    return load_teacher(TeacherConfig(model="ViT-B-16", pretrained=path), device=torch.device("cpu"))

def detect(path):
    return TorchvisionDetector("ssdlite320_mobilenet_v3_large", path, limits=Limits())

def resume(path):
    return load_state(Path(path))

socket.getaddrinfo = refuse
FILES = (load_model, load_start, load_pretraining, inspect, teach, detect)
FOLDERS = (load_model, load_start, load_pretraining)
said = {}
for kind, calls in (("files", FILES), ("folders", FOLDERS), ("states", (resume,))):
    for path in sorted(Path(%r, kind).iterdir()):
        for call in calls:
            try:
                call(str(path))
                text = "read"
            except UniEmoXError as error:
                text = str(error)
            said[f"{path.name}: {call.__name__}"] = text
print(json.dumps(said))
"""
BOMB = b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\0\0\0\xc0\0\x85R."  # 3 GB


def with_member(name):
    """An archive of torch with one more member."""

    def write(path):
        torch.save({"a": torch.zeros(1)}, path)
        with zipfile.ZipFile(path) as file:
            members = [(member, file.read(member)) for member in file.namelist()]
        folder = members[0][0].partition("/")[0]
        with zipfile.ZipFile(path, "w") as file:
            for member, content in [*members, (name.format(folder), BOMB)]:
                file.writestr(member, content)

    return write


FILES = {
    "a second pickle in capitals": with_member("{}/DATA.PKL"),
    "a second pickle in a folder": with_member("other/data.pkl"),
    "a pipe": os.mkfifo,
    "zeros without end": lambda p: p.symlink_to("/dev/zero"),
    "words": lambda p: p.write_text("These are no weights.\n" * 99),
    "a giant shape": lambda p: torch.save({"a": torch.zeros(1).expand(10**11)}, p),
    "a folder": lambda p: p.mkdir(),
}
FOLDERS = {}  # Of whom, what is changed in its configuration
SIDES = [(11_776, 128), (16_384, 128), (1536, 128), (10**9, 8), (-32, 8), (32.0, 8), (float("nan"), 8), (10**400, 8)]
for side, patch in [*SIDES, (32, 0), ("32", 8), (None, 8), ([32], 8), (True, 1)]:
    change = {"image_size": side, "patch_size": patch}
    FOLDERS[f"own, image {str(side)[:20]} patch {patch}"] = ("own", lambda c, new=change: c["uniemox"].update(new))
OWN = {
    "classes": [str(number) for number in range(10**5)],
    "size": ["mini"],
    "format_version": 10**30,
    "metrics": {"a": {"b": 1}},
    "temperature": float("inf"),
}
for name, value in OWN.items():
    FOLDERS[f"own, {name} {str(value)[:20]}"] = ("own", lambda c, new={name: value}: c["uniemox"].update(new))
for name, value in [("decoder_width", 10**9), ("decoder_width", 4096), ("decoder_depth", 10**6), ("decoder_heads", 0),
                    ("decoder_heads", 10**9), ("embedding_width", 10**9), ("fusion", "nope")]:  # fmt: skip
    change = {name: value}
    FOLDERS[f"run, {name} {value}"] = ("run", lambda c, new=change: c["uniemox"]["pretraining"].update(new))
for name, value in [("act_layer", [[[1]]]), ("num_heads", 10**9), ("num_heads", float("nan"))]:
    FOLDERS[f"timm, {name} {value}"] = ("timm", lambda c, new={name: value}: c["model_args"].update(new))
for name, value in [("mean", [float("nan")] * 3), ("std", [0, 0, 0]), ("mean", [1e300] * 3), ("file", "/etc/passwd")]:
    FOLDERS[f"timm, {name} {value}".replace("/", "_")] = (
        "timm", lambda c, new={name: value}: c["pretrained_cfg"].update(new)
    )  # fmt: skip
FOLDERS["timm, labels"] = ("timm", lambda c: c.update(label_names=[["a"], None, 3]))
FOLDERS["timm, arguments"] = ("timm", lambda c: c.update(model_args=[1]))


def replaced(name, make):
    def change(folder):
        (folder / name).unlink()
        make(folder / name)

    return change


def sparse(path):
    path.touch()
    os.truncate(path, 2**40)


PARTS = {
    "a configuration of brackets": replaced("config.json", lambda p: p.write_text("[" * 100_000)),
    "a configuration in a pipe": replaced("config.json", os.mkfifo),
    "a configuration of zeros": replaced("config.json", lambda p: p.symlink_to("/dev/zero")),
    "weights in a pipe": replaced("model.safetensors", os.mkfifo),
    "weights of zeros": replaced("model.safetensors", lambda p: p.symlink_to("/dev/zero")),
    "weights of a terabyte": replaced("model.safetensors", sparse),
    "an index in a pipe": replaced("model.safetensors", lambda p: os.mkfifo(f"{p}.index.json")),
    "an index of brackets": replaced(
        "model.safetensors", lambda p: p.with_name(f"{p.name}.index.json").write_text("[" * 10**5)
    ),
}


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A classifier, a pretrained model and a folder of timm, by name."""
    place = tmp_path_factory.mktemp("honest")
    facts = ModelFacts(
        kind="classifier", size="mini", patch_size=8, image_size=32, dataset="painted", emotion=None,
        classes=("a", "b", "c"),
    )  # fmt: skip
    save_model(build_vit("mini", patch_size=8, image_size=32, num_classes=3), place / "own", facts)
    shape = {"size": "mini", "patch_size": 8, "image_size": 32, "fusion": "none"}
    config = ModelConfig(**shape, decoder_width=64, decoder_depth=1, decoder_heads=4)
    model = UniEmoX(config, embedding_width=None, reconstructs=True)
    save_model(model, place / "run", pretraining_facts(model, dataset="painted", emotion=None))
    vit = create_model("vit_tiny_patch16_224", img_size=32, num_classes=3, global_pool="avg")
    save_for_hf(vit, str(place / "timm"), model_config={"label_names": ["a", "b", "c"]}, safe_serialization=True)
    return place


@pytest.fixture(scope="module")
def hostile(honest, tmp_path_factory):
    place = tmp_path_factory.mktemp("hostile")
    for kind in ("files", "folders", "states"):
        (place / kind).mkdir()
    for name, write in FILES.items():
        write(place / "files" / name)
    for name, (whose, change) in FOLDERS.items():
        folder = shutil.copytree(honest / whose, place / "folders" / name)
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))
    for name, change in PARTS.items():
        change(shutil.copytree(honest / "own", place / "folders" / name))
    for name, write in FILES.items():
        state = place / "states" / name
        state.mkdir()
        save_file({"a": torch.zeros(1)}, state / "module.safetensors")
        values = {"step": 1, "total_steps": 2, "notes": [], "identity": {}, "origin": {}, "scored": True}
        (state / "state.json").write_text(json.dumps(values))
        write(state / "optimizer.pt")
    return place


@pytest.mark.slow
def test_every_reader_refuses_every_hostile_file_in_one_line(hostile, run_hostile):
    ended = run_hostile(CHILD % str(hostile), seconds=120)
    assert ended.returncode == 0, ended.err
    said = json.loads(ended.out.splitlines()[-1])
    assert len(said) == 6 * len(FILES) + 3 * (len(FOLDERS) + len(PARTS)) + len(FILES)
    for name, text in said.items():
        assert text != "read", name
        assert "\n" not in text, name
        assert len(text) < 1000, name
    for name in ("a second pickle in capitals", "a second pickle in a folder"):
        assert "has two entries of one name" in said[f"{name}: detect"] or "not torch's" in said[f"{name}: detect"]


def test_the_folders_are_read_before_they_are_spoilt(honest):
    from uniemox.checkpoints.load import load_model, load_pretraining, load_start

    load_model(honest / "own")
    load_pretraining(honest / "run")
    load_start(str(honest / "timm"))
