"""Measure how fast people are found, and how many of the demo's drawn people a detector finds.

    python benchmarks/people.py [--onnx FILE --format NAME]

Speed: images a second through the whole search (reading, detecting, keeping), with reading beside the detector and
before it. torchvision's detectors have seeded weights, which cost as much as trained ones up to their lists of
findings.
Recall: the share of the exact boxes of the demo's test images that the ONNX model finds. Writes
`results/people.{json,md}`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torchvision.models import get_model

from uniemox.config.people import Limits
from uniemox.demo.drawn import unpack
from uniemox.manifests.population import all_pictures, assign_people, to_table
from uniemox.manifests.table import read_manifest
from uniemox.people.agreement import compare_people
from uniemox.people.detectors.choice import NICKNAMES, build_detector
from uniemox.people.search import Search
from uniemox.train.run_folder import describe_environment

if TYPE_CHECKING:
    from uniemox.people.detectors.detector import Detector

SIZE = (1024, 768)
PICTURES = 24
BATCH = 8
SCORES = (0.3, 0.5)
ON_ONE_THREAD = "ssdlite"
RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]


def paint(folder: Path) -> pa.Array:
    """Write JPEG images of clouds, with grain, as costly to decode as photographs."""
    generator = np.random.default_rng(0)
    names = [f"{index}.jpg" for index in range(PICTURES)]
    for name in names:
        clouds = Image.fromarray(generator.integers(0, 256, (12, 16, 3), np.uint8))
        pixels = np.asarray(clouds.resize(SIZE, Image.Resampling.BICUBIC)).astype(int)
        pixels += generator.integers(-12, 13, pixels.shape)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name, quality=90)
    return pa.array(names)


def seed_weights(name: str, folder: Path) -> str:
    """Save seeded weights of one of torchvision's detectors."""
    torch.manual_seed(0)
    path = folder / f"{name}.pth"
    model = get_model(name, weights=None, weights_backbone=None)
    torch.save(model.state_dict(), path)
    return str(path)


def pictures_a_second(detector: Detector, root: Path, paths: pa.Array, folder: Path, *, num_workers: int) -> float:
    """Search all images, and say how fast it went."""
    search = Search(root, paths, source=detector.source, folder=folder)
    began = time.perf_counter()
    for _ in search.run(detector, batch_size=BATCH, num_workers=num_workers):
        pass
    seconds = time.perf_counter() - began
    search.clear()
    return len(search) / seconds


def measure_speed(detectors: dict[str, Detector], folder: Path) -> list[Row]:
    """Time every detector, the best of two passes."""
    root = folder / "pictures"
    root.mkdir()
    paths = paint(root)
    whole = torch.get_num_threads()
    # A detector that computes on every core leaves none to read on; with one thread, as on another device, it does.
    runs = [(name, detector, whole) for name, detector in detectors.items()]
    runs.append((f"{ON_ONE_THREAD}, on one thread", detectors[ON_ONE_THREAD], 1))
    rows: list[Row] = []
    for name, detector, threads in runs:
        torch.set_num_threads(threads)
        detector.detect([Image.new("RGB", SIZE)])  # the first call allocates
        speeds = [
            max(pictures_a_second(detector, root, paths, folder / "parts", num_workers=workers) for _ in range(2))
            for workers in (2, 0)
        ]
        rows.append({"detector": name, "beside": round(speeds[0], 2), "before": round(speeds[1], 2)})
        print(rows[-1], flush=True)
    torch.set_num_threads(whole)
    return rows


def measure_recall(onnx: Path, form: str, folder: Path) -> list[Row]:
    """Find the drawn people, and compare them with the exact boxes."""
    data = unpack(folder / "data")
    detector = build_detector(str(onnx), Limits(score=min(SCORES)), form=form, device="cpu")
    rows: list[Row] = []
    for what, path in (("unseen pairs", data.seen), ("unseen characters", data.unseen)):
        truth = read_manifest(path).select(["test"])
        paths = all_pictures(truth)
        search = Search(truth.facts.root, paths, source=detector.source, folder=folder / "parts")
        all_found = list(search.run(detector, batch_size=BATCH))
        search.clear()
        for score in SCORES:
            # Boxes of a lower score never displace one of a higher, so this is what a search from it finds.
            found = [
                replace(one, boxes=tuple(box for box in one.boxes if (box.score or 0) >= score)) for one in all_found
            ]
            seen = assign_people(truth, paths, found=to_table(found), source=detector.source, replace_boxes=True)
            rows.append({"set": what, "score": score, **compare_people(seen, truth).to_dict()})
            print(rows[-1], flush=True)
    return rows


def to_markdown(speed: list[Row], recall: list[Row], facts: Row) -> str:
    """Write the results as a page."""
    lines = [
        "# How fast people are found, and how many of the drawn ones",
        "",
        f"Made by `python benchmarks/people.py`: {PICTURES} JPEG images of {SIZE[0]} × {SIZE[1]} pixels through the "
        f"whole search, in batches of {BATCH}, the better of two passes. torchvision's detectors have seeded weights.",
        "",
        "| detector | images a second, read beside the detector | read before it |",
        "|---|---|---|",
        *(f"| {row['detector']} | {row['beside']:.2f} | {row['before']:.2f} |" for row in speed),
        "",
        "Reading beside the detector saves at most what reading takes, which is little beside a slow one, and here the "
        "cores are shared.",
    ]
    if recall:
        lines += [
            "",
            "Drawn people of the demo's test images, found by the ONNX model, which was trained on photographs; a "
            "box is found if it overlaps the exact one by 0.5 or more.",
            "",
            "| images | score from | exact boxes | found | recall | found boxes that are right | mean overlap |",
            "|---|---|---|---|---|---|---|",
            *(
                f"| {row['set']} | {row['score']:g} | {row['second_boxes']} | {row['matched']} | "
                f"{row['second_found']:.3f} | {row['first_confirmed'] or 0:.3f} | {row['mean_iou'] or 0:.3f} |"
                for row in recall
            ),
        ]
    lines += ["", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    return "\n".join(lines)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--onnx", type=Path)
    parser.add_argument("--format", default="centernet")
    given = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    facts = {"commit": commit.stdout.strip() or "unknown", **describe_environment()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        detectors = {
            short: build_detector(short, Limits(), weights=seed_weights(full, folder), device="cpu")
            for short, full in NICKNAMES.items()
        }
        recall: list[Row] = []
        if given.onnx is not None:
            detector = build_detector(str(given.onnx), Limits(), form=given.format, device="cpu")
            detectors[f"{given.onnx.name} ({given.format})"] = detector
            facts["onnx"] = detector.source
            recall = measure_recall(given.onnx, given.format, folder)
        before = os.getloadavg()[0]
        speed = measure_speed(detectors, folder)
        facts["load"] = f"{before:.1f} processes before the speeds, {os.getloadavg()[0]:.1f} after"
    RESULTS.mkdir(exist_ok=True)
    told = {"facts": facts, "speed": speed, "recall": recall}
    (RESULTS / "people.json").write_text(json.dumps(told, indent=2) + "\n")
    page = to_markdown(speed, recall, facts)
    (RESULTS / "people.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
