"""Fakes for all tests, generated and seeded: painted images, a tiny CLIP, and settings small enough for a CPU."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

# A test's arithmetic is small: threads that wait for each other by spinning would make it many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A job in the background or under nohup ignores these, and so would the processes that tests start and signal.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

SIDE = 48  # of a painted image, in pixels
CLASSES = ("awe", "fear", "joy")
COLOURS = {"awe": (210, 40, 40), "fear": (40, 200, 60), "joy": (50, 60, 220)}
COUNTS = {"train": 24, "val": 9, "test": 7}  # no multiple of 2 in what is evaluated


@dataclass(frozen=True)
class Painted:
    """A data set on disk: a person of the class's colour stands in a noisy grey scene."""

    root: Path
    path: Path
    """The manifest."""
    people: Path
    """The boxes as a CSV file, which the importers read."""
    colours: tuple = tuple(COLOURS.values())
    """Of the people of each label."""

    @property
    def manifest(self):
        from uniemox.manifests.table import read_manifest

        return read_manifest(self.path)


def paint(label, box, generator):
    """A grey noisy scene with a rectangle of the class's colour."""
    pixels = generator.integers(90, 166, (SIDE, SIDE, 1)).repeat(3, axis=2).astype(np.uint8)
    if box is not None:
        left, top, right, bottom = box
        pixels[top:bottom, left:right] = COLOURS[CLASSES[label]]
    return Image.fromarray(pixels)


def paint_data_set(root, *, seed=0):
    """Paint images into split and class folders; every fourth shows nobody."""
    from uniemox.manifests.table import Attributes, Box, Facts, manifest_from_columns, write_manifest

    generator = np.random.default_rng(seed)
    paths, splits, labels, attributes, people = [], [], [], [], []
    for split, count in COUNTS.items():
        for index in range(count):
            label = index % len(CLASSES)
            left, top = (int(number) for number in generator.integers(2, 20, 2))
            box = None if index % 4 == 3 else (left, top, left + 24, top + 24)
            path = f"{split}/{CLASSES[label]}/{index:02d}.png"
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            paint(label, box, generator).save(root / path)
            paths.append(path)
            splits.append(split)
            labels.append(label)
            attributes.append(Attributes(brightness=0.5, scene=("room", "field")[index % 2]))
            people.append(() if box is None else (Box(*box),))
    facts = Facts(name="painted", title="Painted", classes=CLASSES, emotion="evoked", root=root)
    manifest = manifest_from_columns(
        facts, paths=paths, splits=splits, labels=labels, attributes=attributes, people=people
    )
    painted = Painted(root, root / "painted.parquet", root / "people.csv")
    write_manifest(manifest, painted.path)
    rows = [
        f"{path},{box.x0},{box.y0},{box.x1},{box.y1}"
        for path, boxes in zip(paths, people, strict=True)
        for box in boxes
    ]
    painted.people.write_text("\n".join(["path,x0,y0,x1,y1", *rows]) + "\n")
    return painted


@pytest.fixture(scope="session")
def painted(tmp_path_factory):
    """The painted data set; nobody may write to it."""
    return paint_data_set(tmp_path_factory.mktemp("painted"))


@pytest.fixture
def own_painted(tmp_path):
    """A painted data set that the test may spoil."""
    return paint_data_set(tmp_path / "painted")


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory):
    """The folder of an open_clip model with seeded random weights; its embedding is 24 wide."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("clip") / "tiny_clip"
    folder.mkdir()
    vision = {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 1}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    preprocess = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}
    facts = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(facts))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        weights = open_clip.CLIP(**config).state_dict()
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="session")
def pretrain_config(painted, tiny_clip):
    """Make the settings of a pretraining run in a folder; a group of them is changed by a dict."""
    from uniemox.config.training import LossConfig, ModelConfig, OptimConfig, PretrainConfig, TeacherConfig, ViewsConfig

    def make(out, *, model=None, views=None, teacher=None, loss=None, optim=None, **changes):
        shape = {"decoder_width": 24, "decoder_depth": 1, "decoder_heads": 4}
        clip = {"model": str(tiny_clip), "pretrained": None, "precision": "fp32"}
        steps = {"epochs": 2, "warmup_epochs": 1.0, "batch_size": 8, "base_lr": 1e-2}
        run = {"data": painted.path, "out": out, "device": "cpu", "workers": 0, "log_every": 1}
        return PretrainConfig(
            **run | changes,
            model=ModelConfig(**{"size": "mini", "patch_size": 8, "image_size": 32} | shape | (model or {})),
            views=ViewsConfig(**{"mask_ratio": 0.5} | (views or {})),
            teacher=TeacherConfig(**clip | (teacher or {})),
            loss=LossConfig(**loss or {}),
            optim=OptimConfig(**steps | (optim or {})),
        )

    return make


@pytest.fixture(scope="session")
def finetune_config(painted):
    """Make the settings of a fine-tuning run in a folder; a group of them is changed by a dict."""
    from uniemox.config.training import AugmentConfig, FinetuneConfig, OptimConfig

    def make(out, *, augment=None, optim=None, **changes):
        run = {"data": painted.path, "out": out, "device": "cpu", "workers": 0, "log_every": 1}
        shape = {"size": "mini", "patch_size": 8, "image_size": 32, "drop_path": 0.1}
        steps = {"epochs": 2, "warmup_epochs": 1.0, "batch_size": 8, "base_lr": 1e-2}
        return FinetuneConfig(
            **run | shape | changes, augment=AugmentConfig(**augment or {}), optim=OptimConfig(**steps | (optim or {}))
        )

    return make


class Heard(list):
    """An observer that remembers what it heard."""

    def __call__(self, event):
        self.append(event)

    @property
    def texts(self):
        return [event.text for event in self if hasattr(event, "text")]

    @property
    def losses(self):
        return [event.scalars["loss"] for event in self if hasattr(event, "scalars")]


@pytest.fixture
def heard():
    return Heard()


@dataclass(frozen=True)
class Run:
    """A run that is over."""

    config: Any
    model: Path
    heard: Heard


@pytest.fixture(scope="session")
def pretrained(pretrain_config, tmp_path_factory):
    """A pretraining run of two epochs; nobody may write to it."""
    from uniemox.train.pretrain import pretrain

    config, heard = pretrain_config(tmp_path_factory.mktemp("runs") / "pretrained"), Heard()
    return Run(config, pretrain(config, heard), heard)


@pytest.fixture(scope="session")
def finetuned(finetune_config, pretrained, tmp_path_factory):
    """A fine-tuning run of two epochs from the pretrained one; nobody may write to it."""
    from uniemox.train.finetune import finetune

    out, heard = tmp_path_factory.mktemp("runs") / "finetuned", Heard()
    taken = {"size": None, "patch_size": None, "image_size": None}
    config = finetune_config(out, init=str(pretrained.model), **taken)
    return Run(config, finetune(config, heard), heard)


# What was evaluated, without a model


@pytest.fixture
def store(tmp_path):
    """Write an evaluation, or with settings a fine-tuning run and its test, of answers (N, C) to labels (N, …).

    By default they are of three classes, and `right` says which answers are. The folder is named relative to tmp_path.
    """
    from uniemox.config.training import FinetuneConfig
    from uniemox.inference.predictor import Prediction
    from uniemox.inference.tables import write_predictions
    from uniemox.settings import save_config
    from uniemox.targets.single_label import SingleLabel

    def make(name, right=None, *, target=None, logits=None, labels=None, groups=None, settings=None, lines=()):
        folder = tmp_path / name
        if right is not None:
            right = np.asarray(right, bool)
            target = SingleLabel().bind(CLASSES)
            labels = np.arange(len(right)) % 3
            logits = 2 * np.eye(3)[np.where(right, labels, (labels + 1) % 3)]
        tested = folder if settings is None else folder / "test"
        if settings is not None:
            folder.mkdir(parents=True)
            save_config(
                FinetuneConfig(**{"data": Path("data.parquet"), "out": folder, **settings}), folder / "config.yaml"
            )
            (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        if logits is not None:
            tested.mkdir(parents=True)
            scores = target.score(logits, labels, num_resamples=100, groups=groups)
            kept = target.to_facts()
            numbers = {"thresholds": kept["thresholds"], **kept.get("numbers", {})}
            report = {**scores.to_dict(), "numbers": numbers, "unreadable": []}
            (tested / "report.json").write_text(json.dumps(report))
            places = [
                {"row": row} if groups is None else {"row": row, "group": int(groups[row])}
                for row in range(len(labels))
            ]
            cells = zip(places, target.truths(labels), target.answers(logits), strict=True)
            rows = [Prediction(Path(f"{one['row']}.png"), {**one, **truth, **answer}) for one, truth, answer in cells]
            options = {"is_evaluation": True, "groups": groups is not None}
            write_predictions(rows, tested / "predictions.parquet", target, **options)
        return str(folder)

    return make


# Detectors of people


@pytest.fixture
def onnx_model(tmp_path):
    """Write a model that gives constants; with `watch`, the score in column 4 is that number of the flat input."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def make(outputs, *, shape=(1, 3, 64, 64), kind=TensorProto.FLOAT, sizes=None, watch=None):
        nodes, constants, results = [], [], []
        inputs = [helper.make_tensor_value_info("images", kind, shape)]
        if sizes is not None:
            inputs.append(helper.make_tensor_value_info(sizes, TensorProto.INT64, ["B", 2]))
        for name, values in outputs.items():
            constant = numpy_helper.from_array(np.asarray(values, np.float32), f"{name}_constant")
            constants.append(constant)
            results.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
            if watch is None:
                nodes.append(helper.make_node("Identity", [constant.name], [name]))
                continue
            for part, numbers in (("flat", [-1]), ("place", [watch]), ("one", [1, 1, 1])):
                constants.append(numpy_helper.from_array(np.array(numbers, np.int64), part))
            zero = [1, 1, 1, 1, 0, 1]
            constants.append(numpy_helper.from_array(np.array(zero, np.float32), "others"))
            unit = [0, 0, 0, 0, 1, 0]
            constants.append(numpy_helper.from_array(np.array(unit, np.float32), "unit"))
            nodes += [
                helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
                helper.make_node("Reshape", ["float", "flat"], ["numbers"]),
                helper.make_node("Gather", ["numbers", "place"], ["seen"]),
                helper.make_node("Reshape", ["seen", "one"], ["score"]),
                helper.make_node("Mul", [constant.name, "others"], ["rest"]),
                helper.make_node("Mul", ["score", "unit"], ["column"]),
                helper.make_node("Add", ["rest", "column"], [name]),
            ]
        graph = helper.make_graph(nodes, "constant", inputs, results, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        path = tmp_path / "detector.onnx"
        onnx.save(model, path)
        return path

    return make


@pytest.fixture(scope="session")
def person_detector():
    """A real detector in ONNX that is no part of the project."""
    beside = Path(__file__).parents[2] / "shared" / "assets" / "person_detector.onnx"
    path = Path(os.environ.get("UNIEMOX_PERSON_DETECTOR", beside))
    if not path.is_file():
        pytest.skip(f"no detector at {path}: UNIEMOX_PERSON_DETECTOR names one")
    return path


@pytest.fixture(scope="session")
def exported(finetuned, tmp_path_factory):
    """The fine-tuned model as an ONNX folder in fp32; nobody may write to it."""
    from uniemox.export.run import export_onnx

    return export_onnx(str(finetuned.model), tmp_path_factory.mktemp("exported") / "fp32").out


# Hostile files


class Ended(NamedTuple):
    """A process that is over."""

    returncode: int  # Negative: the number of the signal that ended it
    out: str
    err: str
    peak: int
    """Most bytes resident, of it and its children together."""
    seconds: float


class Watched:
    """A process in a session of its own, whose memory is looked at every 50 ms; Linux alone tells it of others."""

    LIMIT = 4 * 2**30  # bytes

    def __init__(self, words, folder):
        self._files = {name: folder / f"{name}.txt" for name in ("out", "err")}
        self._began, self.peak = time.monotonic(), 0
        with self._files["out"].open("wb") as out, self._files["err"].open("wb") as err:
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=folder, start_new_session=True
            )

    @property
    def seconds(self):
        return time.monotonic() - self._began

    def tells(self, text):
        return any(text in file.read_text(errors="replace") for file in self._files.values())

    def interrupt(self):
        os.kill(self._process.pid, signal.SIGINT)

    def step(self):
        """Wait and look; say whether it is over."""
        time.sleep(0.05)
        self.peak = max(self.peak, sum(map(self._resident, self._members())))
        return self._process.poll() is not None

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its children too
        code = self._process.wait()
        texts = [file.read_text(errors="replace") for file in self._files.values()]
        return Ended(code, *texts, self.peak, self.seconds)

    def _members(self):
        for status in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                # Behind the name, which may hold anything: state, parent, group, session.
                if int(status.read_text().rpartition(")")[2].split()[3]) == self._process.pid:
                    yield status.parent

    @staticmethod
    def _resident(folder):
        with contextlib.suppress(OSError):
            for line in (folder / "status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return 0


@pytest.fixture
def run_hostile(tmp_path_factory):
    """Run a Python script, or `uniemox` with a list of words, in a process of its own with 4 GB and 60 s.

    More than these, or a traceback, fail the test. With `interrupt`, it is sent SIGINT half a second after it has
    written that text.
    """
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc here tells the memory of a process")

    def call(what, *, seconds=60.0, interrupt=None, limit=Watched.LIMIT):
        words = ["-c", what] if isinstance(what, str) else ["-m", "uniemox", *map(str, what)]
        child = Watched([sys.executable, *words], tmp_path_factory.mktemp("hostile"))
        told = None
        try:
            while not child.step() and child.peak < limit and child.seconds < seconds:
                if interrupt is not None and told is None and child.tells(interrupt):
                    told = child.seconds
                elif told is not None and child.seconds > told + 0.5:
                    child.interrupt()
                    interrupt = told = None
        finally:
            ended = child.end()
        assert ended.peak < limit, f"took {ended.peak / 2**30:.1f} GiB: {ended}"
        assert ended.seconds < seconds, f"ran for {ended.seconds:.0f} s: {ended}"
        assert not any(line.startswith("Traceback") for line in ended.err.splitlines()), ended.err
        assert interrupt is None, f"ended before it could be interrupted: {ended}"
        return ended

    return call


# Several processes

PAIRS = """
import json, os, socket, sys
from contextlib import closing

import uniemox.inference.evaluate, uniemox.report.run  # once: what these bring takes seconds
import uniemox.train.finetune, uniemox.train.pretrain
from uniemox.console.cli import main

def free_port():
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])

def start(rank, port, words, out):
    process = os.fork()
    if process:
        return process
    code = 99
    try:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"})
        for number, name in ((1, f"{out}.{rank}.out"), (2, f"{out}.{rank}.err")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        code = main(words)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

for line in sys.stdin:
    words, out = json.loads(line)
    port = free_port()
    started = [start(rank, port, words, out) for rank in (0, 1)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in started]
    print(json.dumps(codes), flush=True)
"""


@pytest.fixture(scope="session")
def _pairs():
    """A process without a GPU that has imported what training needs, and starts pairs of processes by forking."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", PAIRS], env=environment, **pipes) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def on_two_processes(_pairs, tmp_path):
    """Run a command as one of two processes each, as srun starts them; give what the first of them printed."""

    def call(*words):
        out = tmp_path / f"pair-{time.monotonic_ns()}"
        _pairs.stdin.write(json.dumps([list(map(str, words)), str(out)]) + "\n")
        _pairs.stdin.flush()
        codes = json.loads(_pairs.stdout.readline())
        assert codes == [0, 0], [Path(f"{out}.{rank}.err").read_text() for rank in (0, 1)]
        return Path(f"{out}.0.out").read_text()

    return call


# The command line


def pytest_collection_modifyitems(config, items):
    """Measure no coverage in slow tests: it adds half to their time, and quick ones reach nearly all of their lines."""
    if config.pluginmanager.hasplugin("_cov"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker("no_cover")


@pytest.fixture(autouse=True)
def _one_process(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(capsys):
    def call(*words):
        from uniemox.console import cli

        code = cli.main([str(word) for word in words])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.fixture
def fake(monkeypatch):
    """Put a module of the given names in the place of one that needs torch."""

    def put(name, **values):
        module = types.ModuleType(f"uniemox.{name}")
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, f"uniemox.{name}", module)

    return put


@pytest.fixture
def pages(fake):
    """Stands for the writers of pages; keeps what they were asked for."""
    asked = []

    def write_run_report(folder):
        asked.append(folder)

    def write_evaluation_report(folder, *, model, data, split, command=""):
        asked.append((folder, model, data, split))

    fake("report")
    fake("report.run", write_run_report=write_run_report, write_evaluation_report=write_evaluation_report)
    return asked
