"""Measure the memory that decoding large images takes, over threads and over processes.

    python benchmarks/memory.py

Every measurement runs in processes of its own; a peak is the most that all of them held at once, looked at every 10
milliseconds. Images are made in a temporary folder. Writes `results/memory.{json,md}`.
"""

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

RESULTS = Path(__file__).parent / "results"
SIDE = 9400  # Of a square image: 88 megapixels

READ = """
import sys, threading
from pathlib import Path
from uniemox.data.pixels import Preparation
from uniemox.files.images import decode_image
from uniemox.files.room import ROOM, Room

path, threads, shares = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "shared"
if not shares:  # as if everybody were alone
    Room._take = lambda self, count: []
data = path.read_bytes()

@ROOM.use()
def work():
    Preparation(224)(decode_image(data, max_pixels=10**9))

running = [threading.Thread(target=work) for _ in range(threads)]
for thread in running:
    thread.start()
for thread in running:
    thread.join()
"""


def make(folder: Path) -> dict[str, Path]:
    """Write images that compress well and decode to much."""
    ramp = Image.linear_gradient("L").resize((SIDE, SIDE))
    images = {
        "RGBA in PNG, 88 megapixels": ("a.png", Image.merge("RGBA", (ramp,) * 4)),
        "RGB in JPEG, 88 megapixels": ("b.jpg", Image.merge("RGB", (ramp,) * 3)),
        "grey of 16 bits in PNG, 88 megapixels": ("c.png", ramp.convert("I;16")),
        "RGB in PNG, 108 megapixels (`--max-pixels`)": ("d.png", Image.new("RGB", (12_000, 9_000))),
    }
    for name, image in images.values():
        image.save(folder / name)
    return {title: folder / name for title, (name, _) in images.items()}


def measure(path: Path, *, processes: int, threads: int, shares: bool) -> dict[str, Any]:
    """Decode an image in each thread of each process at once; megabytes of all, and seconds."""
    words = [sys.executable, "-c", READ, str(path), str(threads), "shared" if shares else "alone"]
    began = time.perf_counter()
    running = [subprocess.Popen(words) for _ in range(processes)]
    peak = 0.0
    while any(process.poll() is None for process in running):
        peak = max(peak, sum(map(resident, running)))
        time.sleep(0.01)
    if any(process.returncode for process in running):
        raise SystemExit(f"{path} could not be decoded")
    seconds = time.perf_counter() - began
    return {"processes": processes, "threads": threads, "shares": shares, "peak_mb": peak, "seconds": seconds}


def resident(process: subprocess.Popen[bytes]) -> float:
    """Read the resident memory of a process in MB; 0 of one that has ended."""
    try:
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) / 1000 if found else 0


def main() -> None:
    """Measure everything, and write it."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for title, path in make(Path(folder)).items():
            for processes, threads in ((1, 1), (1, 4), (4, 1)):
                for shares in (True, False):
                    row = {"image": title, **measure(path, processes=processes, threads=threads, shares=shares)}
                    rows.append(row)
                    print(row, flush=True)
    where = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "memory.json").write_text(json.dumps({"where": where, "rows": rows}, indent=2) + "\n")
    (RESULTS / "memory.md").write_text("\n".join(report(where, rows)) + "\n")


def report(where: str, rows: list[dict[str, Any]]) -> list[str]:
    """Write a table in Markdown."""
    lines = [
        "# Memory of large images",
        "",
        f"`python benchmarks/memory.py`, {where}. Each thread of each process decodes the image and prepares it for a",
        "model, all at once; the figures are the most that all together held. Without the room, nobody waits.",
        "",
        "| image | processes × threads | room of 1 GB: MB | seconds | without: MB | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for shared, alone in zip(rows[::2], rows[1::2], strict=True):
        figures = (f"{row['peak_mb']:,.0f} | {row['seconds']:.0f}" for row in (shared, alone))
        lines.append(f"| {shared['image']} | {shared['processes']} × {shared['threads']} | {' | '.join(figures)} |")
    return lines


if __name__ == "__main__":
    main()
