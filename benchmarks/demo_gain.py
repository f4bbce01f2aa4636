"""Measure what UniEmoX-mini's pretraining brings on the demo's data, against random weights at equal budget.

    python benchmarks/demo_gain.py

Fine-tunes with `--preset demo` from the embedded UniEmoX-mini and from random weights, three seeds each, and scores
every classifier on unseen pairs of character and pose and on unseen characters. Writes `results/demo_gain.{json,md}`.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from uniemox.demo.drawn import unpack
from uniemox.demo.run import finetune_config
from uniemox.inference.evaluate import evaluate
from uniemox.train.finetune import finetune
from uniemox.train.run_folder import describe_environment

SEEDS = (0, 1, 2)
STARTS = {"UniEmoX-mini": "demo-pretrained", "random weights": None}
TESTS = ("unseen pairs", "unseen characters")
NEEDED = 15  # points of balanced accuracy on unseen pairs
RESULTS = Path(__file__).parent / "results"


def measure(folder: Path) -> list[dict[str, float | int | str]]:
    """Fine-tune and score; one row for each start and seed."""
    data = unpack(folder / "data")
    rows: list[dict[str, float | int | str]] = []
    for seed in SEEDS:
        for number, (start, init) in enumerate(STARTS.items()):
            out = folder / f"run-{number}-{seed}"
            began = time.monotonic()
            model = finetune(finetune_config(data, out, init, "cpu", seed))
            seconds = time.monotonic() - began
            scores = {
                test: evaluate(str(model), data=manifest, device="cpu").balanced_accuracy
                for test, manifest in zip(TESTS, data, strict=True)
            }
            rows.append({"start": start, "seed": seed, "seconds": round(seconds), **scores})
            print(rows[-1], flush=True)
    return rows


def summarise(rows: list[dict[str, float | int | str]]) -> dict[str, dict[str, tuple[float, float]]]:
    """Mean and standard deviation over the seeds of each start on each test."""
    return {
        start: {
            test: (statistics.mean(values), statistics.stdev(values))
            for test in TESTS
            if (values := [float(row[test]) for row in rows if row["start"] == start])
        }
        for start in STARTS
    }


def to_markdown(rows: list[dict[str, float | int | str]], facts: dict[str, object]) -> str:
    """Write the result as a page."""
    summary = summarise(rows)
    lines = [
        "# What UniEmoX-mini's pretraining brings on the demo's data",
        "",
        "Made by `python benchmarks/demo_gain.py`. Balanced accuracy after fine-tuning with `--preset demo`,",
        f"mean ± standard deviation over seeds {', '.join(map(str, SEEDS))}; guessing gives 0.167.",
        "",
        f"| start | {' | '.join(TESTS)} |",
        "|---|---|---|",
    ]
    for start, scores in summary.items():
        cells = " | ".join(f"{mean:.3f} ± {spread:.3f}" for mean, spread in scores.values())
        lines.append(f"| {start} | {cells} |")
    lines += ["", "| start | seed | unseen pairs | unseen characters | seconds |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['start']} | {row['seed']} | {row[TESTS[0]]:.3f} | {row[TESTS[1]]:.3f} | {row['seconds']} |"
        for row in rows
    ]
    lines += ["", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    return "\n".join(lines)


def main() -> None:
    """Measure, write, and fail where the gain is too small."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    facts = {"commit": commit.stdout.strip() or "unknown", **describe_environment()}
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "demo_gain.json").write_text(json.dumps({"facts": facts, "rows": rows}, indent=2) + "\n")
    page = to_markdown(rows, facts)
    (RESULTS / "demo_gain.md").write_text(page)
    print(page)
    summary = summarise(rows)
    gain = 100 * (summary["UniEmoX-mini"][TESTS[0]][0] - summary["random weights"][TESTS[0]][0])
    if gain < NEEDED:
        sys.exit(f"the gain is {gain:.1f} points, but must be at least {NEEDED}")
    print(f"gain on {TESTS[0]}: {gain:.1f} points")


if __name__ == "__main__":
    main()
