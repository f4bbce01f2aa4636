"""Measure what a report of a large table takes: seconds, memory, and the size of the page.

    python benchmarks/collection.py [--rows 1000000] [--jsonl]

Tables of a made-up model of eight emotions, in every format that `predict` writes; each report is a process of its own.
Writes `results/collection.{json,md}`.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from uniemox.emotions import MIKELS

RESULTS = Path(__file__).parent / "results"
BLOCK = 50_000  # Rows that are made at once
FOLDER = 2000  # Images of a folder
REPORT = """
import sys, time
from uniemox.console.cli import main
assert main(["report", *sys.argv[1:]]) == 0
print(time.process_time(), next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""  # The peak of this process alone, on Linux
UNREADABLE = 1000  # One row of so many has no answer


def batches(rows: int) -> Iterator[pa.Table]:
    """Yield tables of random answers, as `predict` would write them of images with people."""
    lot = np.random.default_rng(0)
    for start in range(0, rows, BLOCK):
        count = min(BLOCK, rows - start)
        shares = lot.dirichlet(np.full(len(MIKELS), 0.4), size=count)
        numbers = np.arange(start, start + count)
        failed = numbers % UNREADABLE == 0
        yield pa.table(
            {
                "path": [f"archive/{number // FOLDER:04d}/image-{number:08d}.jpg" for number in numbers],
                "predicted": pa.array(np.array(MIKELS)[shares.argmax(1)], mask=failed),
                "confidence": pa.array(shares.max(1), mask=failed),
                **{f"p_{name}": pa.array(shares[:, place], mask=failed) for place, name in enumerate(MIKELS)},
                "out_of_domain": pa.array(lot.random(count), mask=failed),
                "is_unfamiliar": pa.array(lot.random(count) < 0.05, mask=failed),
                "reason": pa.array(["not an image"] * count, mask=~failed),
            }
        )


def write(path: Path, rows: int) -> None:
    """Write a table in the format of its ending."""
    if path.suffix == ".parquet":
        writer = None
        for table in batches(rows):
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
        writer.close()
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        cells = csv.writer(file)
        for number, table in enumerate(batches(rows)):
            columns = table.to_pydict()
            if path.suffix == ".csv":
                cells.writerows([] if number else [columns])
                cells.writerows(zip(*columns.values(), strict=True))
                continue
            for row in zip(*columns.values(), strict=True):
                named = dict(zip(columns, row, strict=True))
                shares = {name: named.pop(f"p_{name}") for name in MIKELS}
                named["probabilities"] = shares if named["predicted"] else None
                file.write(json.dumps(named) + "\n")


def measure(table: Path) -> dict[str, float]:
    """Report a table in a process of its own."""
    page = table.with_suffix(".html")
    start = time.perf_counter()
    words = [sys.executable, "-c", REPORT, str(table), "--out", str(page), "--overwrite"]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    return {
        "table_mb": table.stat().st_size / 1e6,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": float(said[-2]),
        "peak_mb": int(said[-1]) / 1024,
        "page_mb": page.stat().st_size / 1e6,
    }


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in (rows // 10, rows):
            for ending in ("parquet", "csv", "jsonl"):
                table = Path(folder) / f"table.{ending}"
                write(table, count)
                found[f"{count:,} rows, {ending}"] = measure(table)
                table.unlink()
    from uniemox.train.run_folder import describe_environment  # torch, which takes memory that is measured

    facts = describe_environment()
    (RESULTS / "collection.json").write_text(json.dumps({"facts": facts, "rows": found}, indent=1) + "\n")
    lines = [
        "# What a report of a large table takes",
        "",
        "Made by `python benchmarks/collection.py`: eight emotions, made-up answers, no image files. Memory is the",
        "peak of the whole process.",
        "",
        "| table | MB | seconds | of the processor | peak memory, MB | page, MB |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {one['table_mb']:.0f} | {one['seconds']:.1f} | {one['cpu_seconds']:.1f} | "
            f"{one['peak_mb']:.0f} | {one['page_mb']:.2f} |"
            for name, one in found.items()
        ),
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
    ]
    (RESULTS / "collection.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
