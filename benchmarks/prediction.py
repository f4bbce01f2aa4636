"""Measure prediction over a folder of photographs of 12 megapixels, against transformers' pipeline, and cold starts.

    python benchmarks/prediction.py [--device cuda] [--rounds 3]
    python benchmarks/prediction.py --memory        # the memory of 100,000 images, a run of its own

One ViT-B/16 with random weights, whose head is spread over the images, as our folder in fp32 and in bf16, as an export
in int8, and as a ViT of transformers (`pip install transformers`). Photographs are parts of scikit-image's, enlarged,
with noise. All arms run in one process, a pass over the folder of each in turn, so that what else the machine does hits
all alike. Writes `results/prediction.{json,md}`, or `prediction_DEVICE` for another device.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import skimage
import torch
from ladder import RESULTS, commit_of
from PIL import Image
from torch import nn

from uniemox.checkpoints.facts import ModelFacts
from uniemox.checkpoints.folder import save_model
from uniemox.checkpoints.transformers_vit import to_timm
from uniemox.data.pixels import Preparation
from uniemox.export.run import export_onnx
from uniemox.files.images import Unreadable, read_image
from uniemox.inference.predictor import Predictor
from uniemox.models.classify import build_classifier
from uniemox.train.run_folder import describe_environment

PHOTOGRAPHS = (
    *("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"),
    *("motorcycle_left.png", "retina.jpg", "hubble_deep_field.jpg"),
)
NUM_PHOTOGRAPHS, SIZE, CLASSES = 16, (4000, 3000), 8
NUM_CALIBRATION = 8  # Images of the export in int8, as which the small ones serve
NUM_LINKS, NUM_LINKED = 100_000, 100  # Of the memory run
NUM_STARTS = 5
GOALS = {"ours int8": 4.0, "ours torch bf16": 2.5}
STARTS = {"--help": 0.3, "predict INT8 photo.jpg": 0.8, "predict FP32 photo.jpg": 3.5, "predict BF16 photo.jpg": 3.5}
FIRST = "pipeline, defaults"
Arm = Callable[[], list[str]]


def make_photographs(folder: Path, count: int = NUM_PHOTOGRAPHS, size: tuple[int, int] = SIZE) -> list[Path]:
    """Write JPEGs as large as a camera's: seeded parts of photographs, enlarged, with the noise of a sensor."""
    folder.mkdir()
    generator, source, paths = np.random.default_rng(0), Path(skimage.__file__).parent / "data", []
    for number in range(count):
        with Image.open(source / PHOTOGRAPHS[number % len(PHOTOGRAPHS)]) as image:
            whole = image.convert("RGB")
        width = int(min(whole.width, whole.height * 4 / 3) * generator.uniform(0.6, 1))
        left, top = generator.integers(0, whole.width - width + 1), generator.integers(0, whole.height - width * 3 // 4)
        box = tuple(map(int, (left, top, left + width, top + width * 3 // 4)))
        large = np.asarray(whole.crop(box).resize(size, Image.Resampling.BICUBIC), np.int16)
        noise = np.rint(generator.standard_normal((*large.shape[:2], 1), np.float32) * 5).astype(np.int16)
        paths.append(folder / f"{number:02}.jpg")
        Image.fromarray(np.clip(large + noise, 0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def make_models(folder: Path, paths: list[Path], *, with_export: bool) -> None:
    """Write one ViT-B/16 in all forms: `FP32` and `BF16` of ours, `INT8`, `theirs`."""
    torch.manual_seed(0)
    shape = {"patch_size": 16, "image_size": 224, "num_classes": CLASSES}
    model = build_classifier("base", **shape, pool="cls").eval()
    images = [image for path in paths if not isinstance(image := read_image(path, shrink_to=512), Unreadable)]
    spread_head(model, torch.from_numpy(np.stack([Preparation(224)(image) for image in images])))
    for precision in ("fp32", "bf16"):
        known: dict[str, Any] = {"kind": "classifier", "size": "base", "patch_size": 16, "image_size": 224}
        known |= {"dataset": "none", "emotion": "evoked", "pool": "cls", "precision": precision}
        facts = ModelFacts(**known, classes=tuple(f"class{index}" for index in range(CLASSES)))
        save_model(model, folder / precision.upper(), facts)
    write_theirs(model, folder / "theirs")
    if with_export:
        small = folder / "small"
        small.mkdir()
        for path, image in zip(paths[:NUM_CALIBRATION], images, strict=False):
            image.save(small / path.name)
        export_onnx(str(folder / "FP32"), folder / "INT8", quantize="int8", calibration=[small])


@torch.inference_mode()
def spread_head(model: Any, pixels: torch.Tensor) -> None:
    """Let the head read the directions that features of the images differ most in, so that all classes are answers."""
    features = model.forward_head(model.forward_features(pixels), pre_logits=True)
    centre = features.mean(0)
    _, deviations, directions = torch.linalg.svd(features - centre, full_matrices=False)
    model.head.weight.data = (4 * directions[:CLASSES] / deviations[:CLASSES, None]).contiguous()
    model.head.bias.data = -(model.head.weight @ centre)


@torch.no_grad()
def write_theirs(model: nn.Module, folder: Path) -> None:
    """Write a classifier as a ViT of transformers, with the image processor that such a ViT has by default."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    theirs = ViTForImageClassification(ViTConfig(num_labels=CLASSES, layer_norm_eps=1e-6))
    theirs.config.id2label = {index: f"class{index}" for index in range(CLASSES)}
    state, ours = theirs.state_dict(), model.state_dict()
    shared = to_timm(state, folder)  # the same memory, but for queries, keys and values
    shared |= {f"head.{part}": state[f"classifier.{part}"] for part in ("weight", "bias")}
    for name, tensor in ours.items():
        shared[name].copy_(tensor)
    for name, tensor in state.items():
        if found := re.search(r"\.(\d+)\.attention.*(?:\.(q|k|v)_proj|\.(query|key|value))\.(weight|bias)", name):
            block, short, long, part = found.groups()
            tensor.copy_(ours[f"blocks.{block}.attn.qkv.{part}"].chunk(3)["qkv".index((short or long)[0])])
    theirs.save_pretrained(folder)
    ViTImageProcessor().save_pretrained(folder)


def build_arms(folder: Path, paths: list[Path], device: torch.device) -> dict[str, Arm]:
    """Build what is compared, each of which answers all photographs; the first is the base of ratios."""
    try:
        from transformers import pipeline
    except ImportError:
        sys.exit("this compares with transformers: pip install transformers")
    names = [str(path) for path in paths]

    def theirs(dtype: str, **options: Any) -> Arm:
        run = pipeline("image-classification", model=str(folder / "theirs"), device=device, dtype=dtype)
        return lambda: [found[0]["label"] for found in run(names, **options)]

    def ours(model: str, **options: Any) -> Arm:
        where = "cpu" if model == "INT8" else device.type
        predictor = Predictor.load(folder / model, device=where, **options)
        workers = 2 if device.type == "cpu" else (os.cpu_count() or 2)
        return lambda: [str(found.predicted) for found in predictor.predict(paths, batch_size=8, num_workers=workers)]

    arms = {FIRST: theirs("auto")}
    for size, dtype in ((8, "float32"), (8, "bfloat16"), (16, "bfloat16")):
        arms[f"pipeline, batch {size}, {dtype}"] = theirs(dtype, batch_size=size)
    for title, model in (("torch fp32", "FP32"), ("torch bf16", "BF16"), ("int8", "INT8")):
        if (folder / model).is_dir():
            arms |= {f"ours {title}, exact": ours(model, decoding="exact"), f"ours {title}": ours(model)}
    return arms


def compare(arms: dict[str, Arm], rounds: int) -> list[dict[str, Any]]:
    """Time all arms in turn."""
    answers = {name: arm() for name, arm in arms.items()}  # warms up
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            began = time.perf_counter()
            arm()
            seconds[name].append(time.perf_counter() - began)
    reference = answers["ours torch fp32, exact"]
    return [
        {
            "arm": name,
            "seconds": each,
            "agreement": statistics.fmean(a == b for a, b in zip(answers[name], reference, strict=True)),
        }
        for name, each in seconds.items()
    ]


def measure_starts(folder: Path, photo: Path) -> dict[str, list[float]]:
    """Time commands in fresh processes, in turn; the first of each leaves compiled modules, as an installation has."""
    seconds: dict[str, list[float]] = {}
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(NUM_STARTS):
        for title in STARTS:
            if title.startswith("predict") and not (folder / title.split()[1]).is_dir():
                continue
            words = [sys.executable, "-m", "uniemox", *title.split()]
            if title.startswith("predict"):
                words[-2:] = [str(folder / title.split()[1]), str(photo)]
            began = time.perf_counter()
            subprocess.run(words, check=True, capture_output=True, env=environment)
            seconds.setdefault(title, []).append(time.perf_counter() - began)
    return seconds


def measure_memory(folder: Path) -> dict[str, Any]:
    """Predict links to a few images by the embedded model, and look at the memory that is resident meanwhile."""
    paths = make_photographs(folder / "few", NUM_LINKED, (320, 240))
    predictor = Predictor.load("demo", device="cpu")

    def links() -> Any:
        for number in range(NUM_LINKS):
            link = folder / f"{number}.jpg"
            link.symlink_to(paths[number % NUM_LINKED])
            yield link

    resident, began = [], time.perf_counter()
    for number, prediction in enumerate(predictor.predict(links(), batch_size=32, num_workers=2)):
        assert prediction.answer is not None
        if number % 1000 == 999:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            resident.append(pages * os.sysconf("SC_PAGESIZE") / 1e6)
    return {"images": NUM_LINKS, "resident_mb": resident, "seconds": time.perf_counter() - began}


def to_markdown(found: dict[str, Any], facts: dict[str, object], flag: str) -> str:
    """Write the results as a page."""
    rows = found["rows"]
    base = rows[0]["seconds"]
    lines = [
        "# Prediction over a folder of photographs",
        "",
        f"Made by `python benchmarks/prediction.py{flag}`. {NUM_PHOTOGRAPHS} JPEGs of 12 megapixels, ViT-B/16 of 224 "
        "pixels with the same weights everywhere. Arms take turns in one process, so that the ratios hold on a busy "
        "machine too. Agreement is with ours in torch fp32 with all pixels decoded; transformers resizes images in "
        "another way, to a square. Ours decode large JPEGs at a part of their size, but for `exact`.",
        "",
        "| arm | images a second (best, median) | × pipeline's defaults (best, median) | agreement | goal |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        each, goal = row["seconds"], GOALS.get(row["arm"])
        speeds = f"{NUM_PHOTOGRAPHS / min(each):.2f}, {NUM_PHOTOGRAPHS / statistics.median(each):.2f}"
        ratios = [one / other for one, other in zip(base, each, strict=True)]
        lines.append(
            f"| {row['arm']} | {speeds} | {max(ratios):.2f}, {statistics.median(ratios):.2f} "
            f"| {100 * row['agreement']:.0f} % | {'' if goal is None else f'{goal} ×'} |"
        )
    if found.get("starts"):
        lines += ["", "## Cold starts", "", "| command | best s | median s | goal |", "|---|---|---|---|"]
        for title, each in found["starts"].items():
            times = f"{min(each):.2f} | {statistics.median(each):.2f}"
            lines.append(f"| `uniemox {title}` | {times} | {STARTS[title]} s |")
    if memory := found.get("memory"):
        grown = max(memory["resident_mb"]) - memory["resident_mb"][0]
        lines += [
            "",
            "## Memory",
            "",
            f"{memory['images']} images (links to {NUM_LINKED}) by the embedded model: after ",
        ]
        lines[-1] += (
            f"the first 1,000 the resident memory grew by {grown:.0f} MB in {memory['seconds']:.0f} s (goal: 100)."
        )
    return "\n".join([*lines, "", *(f"- {name}: {value}" for name, value in facts.items()), ""])


def measure(device: torch.device, rounds: int = 3) -> str:
    """Measure prediction and starts, write the page and return it."""
    facts: dict[str, object] = {"commit": commit_of(), "rounds": rounds, **describe_environment()}
    name = "prediction" if device.type == "cpu" else f"prediction_{device.type}"
    before = RESULTS / f"{name}.json"
    memory = json.loads(before.read_text()).get("memory") if before.exists() else None
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        paths = make_photographs(folder / "photographs")
        make_models(folder, paths, with_export=device.type == "cpu")
        found: dict[str, Any] = {"rows": compare(build_arms(folder, paths, device), rounds)}
        if device.type == "cpu":
            found["starts"] = measure_starts(folder, paths[0])
    return write(name, {**found, "memory": memory}, facts)


def write(name: str, found: dict[str, Any], facts: dict[str, object]) -> str:
    """Write both files, and return the page."""
    device = name.partition("_")[2]
    page = to_markdown(found, facts, f" --device {device}" if device else "")
    (RESULTS / f"{name}.json").write_text(json.dumps({"facts": facts, **found}, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(page)
    return page


def main() -> None:
    """Measure what is asked for, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="add the memory run to a page that exists")
    given = parser.parse_args()
    if not given.memory:
        print(measure(torch.device(given.device), given.rounds))
        return
    found = json.loads((RESULTS / "prediction.json").read_text())
    with tempfile.TemporaryDirectory() as place:
        found["memory"] = measure_memory(Path(place))
    print(write("prediction", found, found.pop("facts")))


if __name__ == "__main__":
    main()
