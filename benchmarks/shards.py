"""Measure shards: how fast they are written, and how fast images are read from them, beside files.

    python benchmarks/shards.py

Images are random bytes of a JPEG's size, since nothing is decoded. They are read in a drawn order, as training does,
from files and from shards in turn. All lies in the page cache of a local disk, the best case for files; on network
file systems, which shards are for, each file costs more. Writes `results/shards.{json,md}`.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from uniemox.files.images import read_file
from uniemox.manifests.shards import write_shards
from uniemox.manifests.table import Facts, Manifest, manifest_from_columns, read_manifest
from uniemox.train.run_folder import describe_environment

PICTURES = 10_000
SIZES = (20_000, 60_000)  # bytes
CLASSES = 8
SHARD_BYTES = 10**8
REPEATS = 5
RESULTS = Path(__file__).parent / "results"


def make(root: Path) -> Manifest:
    """Write the files, and make their manifest."""
    generator = np.random.default_rng(0)
    paths = [f"{number % CLASSES}/{number}.jpg" for number in range(PICTURES)]
    for number in range(CLASSES):
        (root / str(number)).mkdir(parents=True)
    for path in paths:
        (root / path).write_bytes(b"\xff\xd8\xff" + generator.bytes(generator.integers(*SIZES)))
    names = tuple(str(number) for number in range(CLASSES))
    return manifest_from_columns(
        Facts(name="made", title="Made", classes=names, emotion=None, root=root),
        paths=paths,
        splits=["train"] * PICTURES,
        labels=[number % CLASSES for number in range(PICTURES)],
    )


def microseconds(manifest: Manifest) -> float:
    """Read every image in a drawn order; give the time of one."""
    order = np.random.default_rng(1).permutation(PICTURES).tolist()
    began = time.perf_counter()
    for row in order:
        assert isinstance(read_file(manifest.row(row).path), bytes)
    return 1e6 * (time.perf_counter() - began) / PICTURES


def measure(folder: Path) -> dict[str, Any]:
    """Write shards, then read from both in turn."""
    files = make(folder / "files")
    began = time.perf_counter()
    written = write_shards(files, folder / "shards", shard_bytes=SHARD_BYTES)
    seconds = time.perf_counter() - began
    shards = read_manifest(written.manifest)
    times = [(microseconds(files), microseconds(shards)) for _ in range(REPEATS)]
    return {
        "pictures": PICTURES,
        "megabytes": round(written.num_bytes / 1e6),
        "shards": written.shards,
        "seconds_to_write": round(seconds, 2),
        "microseconds_from_files": round(statistics.median(one for one, _ in times), 1),
        "microseconds_from_shards": round(statistics.median(two for _, two in times), 1),
        "ratio": round(statistics.median(two / one for one, two in times), 2),
    }


def to_markdown(found: dict[str, Any], facts: dict[str, Any]) -> str:
    """Write the results as a page."""
    lines = [
        "# Shards beside files",
        "",
        f"Made by `python benchmarks/shards.py`: {found['pictures']} images, {found['megabytes']} MB, on a local "
        f"disk and in its cache; medians of {REPEATS} readings in turn.",
        "",
        "| what | value |",
        "|---|---|",
        f"| write {found['shards']} shards | {found['seconds_to_write']} s |",
        f"| read an image's bytes from its file | {found['microseconds_from_files']} µs |",
        f"| read them from a shard | {found['microseconds_from_shards']} µs |",
        f"| shard / file | {found['ratio']} |",
        "",
    ]
    return "\n".join([*lines, *(f"- {name}: {value}" for name, value in facts.items()), ""])


def main() -> None:
    """Measure and write."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    facts = {"commit": commit.stdout.strip() or "unknown", **describe_environment()}
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "shards.json").write_text(json.dumps({"facts": facts, **found}, indent=2) + "\n")
    page = to_markdown(found, facts)
    (RESULTS / "shards.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
