"""Print the first losses of each kind of training, to compare two versions of the code bit for bit.

    python benchmarks/replay.py > before.txt
    python benchmarks/replay.py > after.txt && cmp before.txt after.txt

Every run starts the command line, as a user does, on painted images with a fixed seed: pretraining with the embedded
teacher, fine-tuning with one label on both views, and with several labels on the scene, each with all of its
augmentation. Losses are printed as hexadecimal floating-point numbers, so equal text is equal bits. They depend on the
machine and on the versions of libraries: compare only what ran on the same machine.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

STEPS = 20
CLASSES = ("awe", "fear", "joy")
SIDE = 80
COUNTS = {"train": 48, "val": 12, "test": 12}
SHAPE = ("--size", "mini", "--patch-size", "8", "--image-size", "64", "--optim.batch-size", "8")
COMMON = ("--device", "cpu", "--log-every", "1", "--max-steps", str(STEPS), "--optim.epochs", "4")
RUNS = {
    "pretrain": ("pretrain", "--preset", "demo", "--optim.batch-size", "8", "--precision", "fp32"),
    "finetune, one label, both views": ("finetune", *SHAPE, "--view", "both"),
    "finetune, several labels, scene": ("finetune", *SHAPE, "--target", "multi_label"),
}


def paint(folder: Path) -> None:
    """Paint noisy scenes with a rectangle for a person, and list labels, sets of labels and boxes."""
    generator = np.random.default_rng(0)
    (folder / "images").mkdir()
    with (
        (folder / "single.csv").open("w", newline="") as single,
        (folder / "several.csv").open("w", newline="") as several,
        (folder / "people.csv").open("w", newline="") as people,
    ):
        tables = [csv.writer(file) for file in (single, several, people)]
        tables[0].writerow(("path", "label", "split"))
        tables[1].writerow(("path", "labels", "split"))
        tables[2].writerow(("path", "x0", "y0", "x1", "y1"))
        for split, count in COUNTS.items():
            for index in range(count):
                label = index % len(CLASSES)
                pixels = generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
                left, top = generator.integers(4, 36, 2).tolist()
                pixels[top : top + 40, left : left + 32] = 80 * label
                path = f"{split}-{index:02d}.png"
                Image.fromarray(pixels).save(folder / "images" / path)
                labels = sorted({CLASSES[label], CLASSES[index * 7 % 5 % 3]})
                tables[0].writerow((path, CLASSES[label], split))
                tables[1].writerow((path, "|".join(labels), split))
                tables[2].writerow((path, left, top, left + 32, top + 40))


def uniemox(*words: object) -> None:
    """Run a command; its output goes to stderr."""
    command = [sys.executable, "-m", "uniemox", *map(str, words)]
    subprocess.run(command, check=True, stdout=sys.stderr)


def main() -> None:
    """Run each kind of training and print its losses."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paint(folder)
        for table in ("single", "several"):
            uniemox(
                *("data", "prepare", "table", "--root", folder / "images"),
                *("--table", folder / f"{table}.csv"),
                *("--boxes", folder / "people.csv", "--classes", ",".join(CLASSES)),
                *("--out", folder / f"{table}.parquet"),
            )
        for number, (run, words) in enumerate(RUNS.items()):
            data = folder / f"{'several' if 'multi_label' in words else 'single'}.parquet"
            out = folder / f"run-{number}"
            uniemox(*words, *COMMON, "--data", data, "--out", out)
            lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
            losses = [float(line["loss"]).hex() for line in lines if line["kind"] == "train"]
            assert len(losses) == STEPS
            print(run, *losses, sep="\n")


if __name__ == "__main__":
    main()
