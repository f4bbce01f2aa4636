"""Measure what a sample of training costs, how that grows with the manifest, and how long training waits for data.

    python benchmarks/loading.py

Samples are of 640 x 480 JPEGs with a box each, in one process with one thread, and the arms take turns sample by
sample, so that what else the machine does hits all alike; of each sample the best of all rounds counts. The plain
pretraining sample, written here, is as a recipe has it: all three generators seeded, Pillow's resize. The growth is
measured on manifests with the same few files behind them, so their paths take next to nothing on disk, and the
workers' memory is what no other process shares.
Writes `results/loading.{json,md}`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import RandomResizedCrop
from torchvision.transforms.v2.functional import pil_to_tensor

from data import RESULTS, make_pictures, packaged_photos
from uniemox.config.people import PersonConfig
from uniemox.config.training import AugmentConfig, ViewsConfig
from uniemox.data.batch import TrainingOrder, collate_pretrain
from uniemox.data.dataset import AugmentedDataset, Place, PretrainDataset
from uniemox.data.pixels import cut_region
from uniemox.data.transforms import PretrainTransform, seed_of, seeded, torch_seeded
from uniemox.files.images import decode_image, read_file, read_image
from uniemox.manifests.table import (
    Attributes,
    Box,
    Facts,
    Manifest,
    manifest_from_columns,
    read_manifest,
    write_manifest,
)
from uniemox.people.regions import person_region
from uniemox.targets.single_label import SingleLabel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FILES, SIDE, PATCHES = 100, 224, 196
ROWS = (1_000, 100_000, 1_000_000)
SAMPLES, ROUNDS = 40, 8  # of each arm: different samples, and how often each is drawn
LOOKED_UP = 2_000  # Rows, at random places
GOALS = {"a second": 350, "wait": 0.05}
PERSON, VIEWS = PersonConfig(), ViewsConfig()


def make_manifest(folder: Path, rows: int) -> Path:
    """Write a manifest of so many rows on the few files of a folder, each with a box and attributes."""
    corners = np.random.default_rng(0).integers(0, 250, (rows, 2)).tolist()
    known = Attributes(brightness=0.5, colorfulness=0.4, scene="park", objects=("Tree", "Dog"))
    facts = Facts(name="x", title="X", classes=("awe", "fear"), emotion=None, root=folder / "pictures")
    manifest = manifest_from_columns(
        facts,
        paths=[f"{row % FILES:05d}.jpg" for row in range(rows)],
        splits=["train"] * rows,
        labels=np.arange(rows) % 2,
        people=[[Box(x, y, x + 200, y + 220, 0.9)] for x, y in corners],
        attributes=[known] * rows,
    )
    path = folder / f"{rows}.parquet"
    write_manifest(manifest, path)
    return path


def pretraining(manifest: Manifest) -> PretrainDataset:
    """Build the samples of pretraining, all with one description."""
    texts = np.zeros(len(manifest), np.int64)
    return PretrainDataset(manifest, texts, views=VIEWS, person=PERSON, size=SIDE, num_patches=PATCHES, seed=0)


def finetuning(manifest: Manifest) -> AugmentedDataset:
    """Build the samples of fine-tuning on both views."""
    return AugmentedDataset(
        manifest, AugmentConfig(), size=SIDE, seed=0, view="both", person=PERSON, target=SingleLabel()
    )


def plain_sample(manifest: Manifest, place: Place) -> tuple[torch.Tensor, ...]:
    """Draw and cut a sample of pretraining as a recipe does, from the same bytes."""
    row = manifest.row(place.row)
    image = read_image(row.path)
    assert isinstance(image, Image.Image)
    region = person_region(row.boxes, PERSON, width=image.width, height=image.height)
    with seeded(seed_of(0, place.epoch, place.row)):
        crop = RandomResizedCrop(SIDE, scale=VIEWS.scene_scale, ratio=(3 / 4, 4 / 3)).make_params([image])
        is_mirrored = torch.rand(()).item() < VIEWS.flip
        left, top = crop["left"], crop["top"]
        corners = (left, top, left + crop["width"], top + crop["height"])
        views = [cut_region(image, corners, size=SIDE, shape="squeeze")]
        if region is not None:
            views.append(cut_region(image, region, size=SIDE, shape=PERSON.shape))
        if is_mirrored:
            views = [ImageOps.mirror(view) for view in views]
        return (*map(pil_to_tensor, views), torch.rand(2, PATCHES))


def best_of(arms: dict[str, Callable[[int], object]], *, samples: int, rounds: int) -> dict[str, float]:
    """Run each arm on samples in turn; microseconds of a sample, the mean over samples of the best round of each."""
    best = {name: [float("inf")] * samples for name in arms}
    for _ in range(rounds):
        for sample in range(samples):
            for name, arm in arms.items():
                start = time.perf_counter_ns()
                arm(sample)
                best[name][sample] = min(best[name][sample], (time.perf_counter_ns() - start) / 1000)
    return {name: round(sum(times) / samples, 1) for name, times in best.items()}


def measure_samples(manifest: Manifest) -> dict[str, float]:
    """Time whole samples: of pretraining, plain and ours, and of fine-tuning."""
    ours, labelled = pretraining(manifest), finetuning(manifest)
    arms: dict[str, Callable[[int], object]] = {
        "pretraining, plain": lambda row: plain_sample(manifest, Place(0, row)),
        "pretraining": lambda row: ours[Place(0, row)],
        "fine-tuning, both views": lambda row: labelled[Place(0, row)],
    }
    return best_of(arms, samples=SAMPLES, rounds=ROUNDS)


def measure_parts(manifest: Manifest) -> dict[str, float]:
    """Time the parts of a sample of pretraining one by one."""
    transform = PretrainTransform(VIEWS, SIDE, shape=PERSON.shape)
    rows = [manifest.row(row) for row in range(SAMPLES)]
    data = [read_file(row.path) for row in rows]
    images = [decode_image(each) for each in data]  # type: ignore[arg-type]
    regions = [person_region(row.boxes, PERSON, width=640, height=480) for row in rows]
    crops = []
    for row, image in enumerate(images):
        with torch_seeded(row):
            crops.append(transform.draw(image))  # type: ignore[arg-type]

    def seed(row: int) -> None:
        with torch_seeded(seed_of(0, 0, row)):
            torch.rand(2, PATCHES)

    arms: dict[str, Callable[[int], object]] = {
        "find the row": manifest.row,
        "read the file": lambda row: read_file(rows[row].path),
        "decode": lambda row: decode_image(data[row]),  # type: ignore[arg-type]
        "find the person": lambda row: person_region(rows[row].boxes, PERSON, width=640, height=480),
        "seed, draw noise, restore": seed,
        "draw the crop": lambda row: transform.draw(images[row]),  # type: ignore[arg-type]
        "cut, resize and mirror both views": lambda row: transform.cut(images[row], regions[row], crops[row]),  # type: ignore[arg-type]
    }
    return best_of(arms, samples=SAMPLES, rounds=ROUNDS)


def measure_growth(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Time rows and samples at random places of manifests, in turn, and say what a row takes."""
    manifests = [read_manifest(path) for path in paths]
    places = [np.random.default_rng(1).integers(0, len(each), LOOKED_UP).tolist() for each in manifests]
    datasets = [pretraining(each) for each in manifests]
    arms: dict[str, Callable[[int], object]] = {}
    for number, (manifest, dataset, chosen) in enumerate(zip(manifests, datasets, places, strict=True)):
        # Different places in each round, so that no cache of the processor keeps the rows.
        queue = iter(chosen * ROUNDS)
        arms[f"row {number}"] = lambda _, manifest=manifest, queue=queue: manifest.row(next(queue))
        arms[f"sample {number}"] = lambda place, dataset=dataset, chosen=chosen: dataset[Place(0, chosen[place])]
    times = best_of(arms, samples=SAMPLES, rounds=ROUNDS)
    found = []
    for number, (path, manifest) in enumerate(zip(paths, manifests, strict=True)):
        start = time.perf_counter()
        read_manifest(path)
        opened = time.perf_counter() - start
        order = TrainingOrder(num_rows=len(manifest), batch_size=16, accumulate=1, seed=0)
        start = time.perf_counter()
        batches = order.batches(0, order.steps_an_epoch)
        next(batches)
        first = time.perf_counter() - start
        start = time.perf_counter()
        rest = sum(1 for _ in islice(batches, 50))
        found.append(
            {
                "rows": len(manifest),
                "row_us": times[f"row {number}"],
                "sample_us": times[f"sample {number}"],
                "open_s": round(opened, 3),
                "disk_bytes_a_row": round(path.stat().st_size / len(manifest), 1),
                "memory_bytes_a_row": round(manifest.table.nbytes / len(manifest), 1),
                "permutation_ms_an_epoch": round(1000 * first, 2),
                "batch_of_places_us": round(1e6 * (time.perf_counter() - start) / rest, 1),
            }
        )
    return found


def own_megabytes(process: int | str) -> float:
    """Say how much memory of a process no other process shares."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


class Probe(PretrainDataset):
    """Samples that bring their worker's own memory with them, as the index of the description."""

    def __getitem__(self, place: Place) -> Any:
        """Draw a sample."""
        return super().__getitem__(place)._replace(text=round(1024 * own_megabytes("self")))


def run_workers(path: Path, method: str) -> dict[str, float]:
    """Start two workers by a method, draw samples at random rows, and print when they began and what they hold."""
    manifest = read_manifest(path)
    texts = np.zeros(len(manifest), np.int64)
    dataset = Probe(manifest, texts, views=VIEWS, person=PERSON, size=SIDE, num_patches=PATCHES, seed=0)
    places = np.random.default_rng(1).integers(0, len(manifest), (80, 8)).tolist()
    sampler = [[Place(0, row) for row in batch] for batch in places]
    start = time.perf_counter()
    loader = DataLoader(
        dataset, batch_sampler=sampler, num_workers=2, multiprocessing_context=method, collate_fn=collate_pretrain
    )
    batches = iter(loader)
    first = next(batches)
    began = time.perf_counter() - start
    last = [batch.text for batch in batches][-2:]
    assert len(first.skipped) == 0
    own = float(torch.cat(last).max()) / 1024
    return {"rows": len(manifest), "first_batch_s": round(began, 2), "own_mb": round(own, 1)}


def measure_workers(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Start workers in a fresh process, by each way and for each manifest."""
    found = []
    for method in ("fork", "spawn"):
        for path in (paths[0], paths[-1]):
            words = [sys.executable, __file__, "--workers", method, "--manifest", str(path)]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            found.append({"method": method, **json.loads(done.stdout.splitlines()[-1])})
            print(found[-1], flush=True)
    return found


BASE = (
    *("--model.size", "base", "--model.patch-size", "16", "--model.image-size", "224", "--views.mask-ratio", "0.9"),
    *("--model.decoder-width", "512", "--model.decoder-depth", "8", "--model.decoder-heads", "16"),
    *("--optim.batch-size", "16", "--max-steps", "3"),
)
RUNS = {
    "ViT-B/16, 224 px, batch 16, of 640 x 480 JPEGs": (BASE, "1000.parquet"),
    "UniEmoX-mini, 64 px, batch 128, of the embedded drawings": (("--max-steps", "10"), "drawn"),
}


def measure_waits(folder: Path) -> list[dict[str, Any]]:
    """Pretrain for a few steps with a worker, and read from the journal how long steps waited after the first."""
    from uniemox.demo import drawn

    found = []
    for number, (name, (words, data)) in enumerate(RUNS.items()):
        path = drawn.unpack(folder / "drawn").seen if data == "drawn" else folder / data
        out = folder / f"run{number}"
        command = [
            *(sys.executable, "-m", "uniemox", "pretrain", "--preset", "demo", "--data", str(path), "--out", str(out)),
            *("--device", "cpu", "--workers", "1", "--log-every", "1", "--optim.epochs", "4", *words),
        ]
        subprocess.run(command, check=True, capture_output=True)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        steps = [line for line in lines if line["kind"] == "train"][1:]
        seconds = [1 / line["images_per_second"] for line in steps]
        wait = sum(line["data_wait"] * each for line, each in zip(steps, seconds, strict=True)) / sum(seconds)
        speed = len(steps) / sum(seconds)
        found.append({"run": name, "steps": len(steps), "images_a_second": round(speed, 1), "wait": round(wait, 4)})
        print(found[-1], flush=True)
    return found


def describe() -> dict[str, object]:
    """List versions and hardware."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    packages = ("uniemox", "torch", "numpy", "pyarrow", "pillow", "timm")
    return {
        "commit": commit.stdout.strip() or "unknown",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "load at the end": round(os.getloadavg()[0], 1),
    }


def to_markdown(found: dict[str, Any], facts: dict[str, object]) -> str:
    """Write the result as a page."""
    samples = found["samples"]
    ratio = samples["pretraining, plain"] / samples["pretraining"]
    lines = [
        "# Loading: what a sample costs, how it grows, and how long training waits",
        "",
        f"Made by `python benchmarks/loading.py`. Views of {SIDE} px from 640 x 480 JPEGs, one process, one thread; "
        f"arms take turns, the best of {ROUNDS} rounds of each of {SAMPLES} samples.",
        "",
        "| sample | µs | a second a core |",
        "|---|---|---|",
        *(f"| {name} | {us:,.0f} | {1e6 / us:.0f} |" for name, us in samples.items()),
        "",
        f"Pretraining: {ratio:.1f} × plain; the target is {GOALS['a second']} a second.",
        "",
        "| part of a pretraining sample | µs |",
        "|---|---|",
        *(f"| {name} | {us:,.0f} |" for name, us in found["parts"].items()),
        "",
        "| rows | µs a row | µs a sample | bytes a row on disk | in memory | s to open | ms a permutation | "
        "µs a batch of 16 places |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for grown in found["growth"]:
        cells = (grown["disk_bytes_a_row"], grown["memory_bytes_a_row"], grown["open_s"])
        rest = (*cells, grown["permutation_ms_an_epoch"], grown["batch_of_places_us"])
        row = (f"{grown['rows']:,}", grown["row_us"], f"{grown['sample_us']:,.0f}", *rest)
        lines.append(f"| {' | '.join(map(str, row))} |")
    lines += ["", "| two workers | rows | s to the first batch | MB of a worker's own |", "|---|---|---|---|"]
    for each in found["workers"]:
        lines.append(f"| {each['method']} | {each['rows']:,} | {each['first_batch_s']} | {each['own_mb']:.0f} |")
    lines += ["", "| run with one worker | images a second | time that steps wait for data |", "|---|---|---|"]
    for each in found["waits"]:
        lines.append(f"| {each['run']} | {each['images_a_second']} | {each['wait']:.2%} |")
    lines += ["", f"The target is {GOALS['wait']:.0%}.", ""]
    return "\n".join([*lines, *(f"- {name}: {value}" for name, value in facts.items()), ""])


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", help=argparse.SUPPRESS)
    parser.add_argument("--manifest", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.workers:
        print(json.dumps(run_workers(given.manifest, given.workers)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pictures(folder, packaged_photos(), FILES)
        paths = [make_manifest(folder, rows) for rows in ROWS]
        smallest = read_manifest(paths[0])
        found: dict[str, Any] = {"samples": measure_samples(smallest), "parts": measure_parts(smallest)}
        print(found, flush=True)
        found["growth"] = measure_growth(paths)
        print(found["growth"], flush=True)
        found["workers"] = measure_workers(paths)
        found["waits"] = measure_waits(folder)
    facts = describe()
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "loading.json").write_text(json.dumps({"facts": facts, **found}, indent=2) + "\n")
    page = to_markdown(found, facts)
    (RESULTS / "loading.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
