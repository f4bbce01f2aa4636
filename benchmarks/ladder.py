"""What each part of UniEmoX brings on the demo's data: from the majority to fine-tuning on scene and person.

    python benchmarks/ladder.py --folder DIR [--runs 1]

Trained rungs are fine-tuned with `--preset demo` from the embedded UniEmoX-mini, three seeds each, at equal epochs, and
scored on unseen pairs of character and pose and on unseen characters; the others need no training. A finished rung
leaves its answers in DIR, so that a stopped comparison goes on, and `--runs` does so many of the missing ones and
stops. When none is missing, writes `results/ladder.{json,md}`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from uniemox.checkpoints.load import load_model
from uniemox.config.probe import ProbeConfig
from uniemox.data.pixels import Preparation
from uniemox.demo.drawn import DrawnData, unpack
from uniemox.demo.run import WITHOUT_START, finetune_config
from uniemox.files.images import read_image
from uniemox.inference.evaluate import evaluate
from uniemox.manifests.table import Manifest, read_manifest, write_manifest
from uniemox.train.finetune import finetune
from uniemox.train.probe import probe
from uniemox.train.run_folder import describe_environment

SEEDS = (0, 1, 2)
TESTS = ("unseen pairs", "unseen characters")
RESULTS = Path(__file__).parent / "results"
ASSET = Path(__file__).parents[1] / "src/uniemox/demo/assets/ladder.json"  # What the demo shows of it
RESAMPLES = 10_000
MEAN = {"pool": "mean", "head": "random", "trained_share": 1.0}
OLD_RATE = {"base_lr": WITHOUT_START["optim.base_lr"]}


@dataclass(frozen=True)
class Rung:
    """What is compared: all else is equal."""

    told: str
    model: str = ""  # What is scored as it is, or the backbone of a probe; empty for what is trained
    changes: dict[str, Any] = field(default_factory=dict)  # Of the settings of the demo's fine-tuning
    optim: dict[str, Any] = field(default_factory=dict)
    init: str | None = "demo-pretrained"
    is_single: bool = False  # Whether one seed has to do, where nothing is compared with it

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of its runs."""
        return (0,) if self.model or self.is_single else SEEDS


RUNGS = {
    "random": Rung(
        "random weights, fine-tuned on the scene, one seed",
        changes={"view": "scene", **MEAN},
        optim=OLD_RATE,
        init=None,
        is_single=True,
    ),
    "probe": Rung("probe: logistic regression on the frozen class token", model="probe"),
    "zero-shot-scene": Rung("zero-shot, the scene alone", model="scene"),
    "zero-shot": Rung("zero-shot, scene and person", model="demo-pretrained"),
    "mean": Rung(
        "fine-tuned on the scene, a new head on the mean of the patches",
        changes={"view": "scene", **MEAN},
        optim=OLD_RATE,
    ),
    "cls_mean": Rung(
        "fine-tuned on the scene, a new head on class token and mean, one seed",
        changes={"view": "scene", **MEAN, "pool": "cls_mean"},
        optim=OLD_RATE,
        is_single=True,
    ),
    "mean-both": Rung(
        "fine-tuned on scene and person, a new fusion and head on the means, one seed",
        changes=MEAN,
        optim=OLD_RATE,
        is_single=True,
    ),
    "language-scene": Rung("fine-tuned on the scene, twice in the fusion, from language", changes={"view": "scene"}),
    "language": Rung("fine-tuned on scene and person, from language (`--preset demo`)"),
    "teacher-64": Rung("zero-shot of the teacher on the 64 pixels that the student sees", model="64 pixels"),
    "teacher": Rung("zero-shot of the teacher, the embedded CLIP at 96 pixels", model="clip:demo"),
}
COMPARED = (
    ("zero-shot", "zero-shot-scene"),
    ("language-scene", "zero-shot-scene"),
    ("language", "zero-shot"),
    ("language", "language-scene"),
    ("language", "mean"),
)


def row_file(folder: Path, name: str, seed: int) -> Path:
    """Give the place of a finished rung's row."""
    return folder / f"{name}-{seed}.json"


def take_boxes(path: Path) -> Path:
    """Write a manifest again without its boxes, and give its place."""
    manifest = read_manifest(path)
    index = manifest.table.schema.get_field_index("people")
    people = manifest.table.schema.field(index)
    table = manifest.table.set_column(index, people, pa.nulls(len(manifest), people.type))
    bare = path.with_name(f"{path.stem}-without-boxes.parquet")
    write_manifest(Manifest(table, manifest.facts), bare)
    return bare


def answers(model: str, data: DrawnData, out: Path) -> dict[str, list[bool]]:
    """Evaluate a model on both tests; tell for each image, in the order of the manifest, whether it is right."""
    right = {}
    for test, manifest in zip(TESTS, data, strict=True):
        folder = out / test.replace(" ", "-")
        evaluate(model, data=manifest, out=folder, device="cpu", baselines=False)
        right[test] = read_answers(folder)
    return right


def read_answers(folder: Path) -> list[bool]:
    """Read whether each answer of an evaluation is right."""
    table = pq.read_table(folder / "predictions.parquet").sort_by("row")
    return [row["label"] == row["predicted"] for row in table.select(["label", "predicted"]).to_pylist()]


def measure(folder: Path, name: str, seed: int) -> dict[str, Any]:
    """Make one rung with one seed, and score it."""
    kept = folder / "data.json"
    if not kept.exists():
        kept.write_text(json.dumps([str(path) for path in unpack(folder / "data")]))
    data, rung, out = DrawnData(*map(Path, json.loads(kept.read_text()))), RUNGS[name], folder / f"run-{name}-{seed}"
    shutil.rmtree(out, ignore_errors=True)  # of a run that was stopped
    began = time.monotonic()
    if rung.model == "probe":
        model = "demo-pretrained"
        probe(ProbeConfig(backbone=model, data=data.seen, out=out, head="logistic", pool="cls", baselines=False))
        right = answers(str(out), data, out)
    elif rung.model == "scene":
        right = answers("demo-pretrained", DrawnData(*map(take_boxes, data)), out)
    elif rung.model == "64 pixels":
        right = {test: answer_small(manifest, 64) for test, manifest in zip(TESTS, data, strict=True)}
    elif rung.model:
        right = answers(rung.model, data, out)
    else:
        config = finetune_config(data, out, rung.init, "cpu", seed)
        config = dataclasses.replace(config, **rung.changes, optim=dataclasses.replace(config.optim, **rung.optim))
        right = answers(str(finetune(config)), data, out)
    return {"rung": name, "seed": seed, "seconds": round(time.monotonic() - began), "right": right}


@torch.inference_mode()
def answer_small(manifest: Path, side: int) -> list[bool]:
    """Answer by the teacher on images that were first cut to squares of so many pixels, as the student's are."""
    teacher, cut, right = load_model("clip:demo", dataset=str(manifest)), Preparation(side).cut, []
    test = read_manifest(manifest).select(["test"])
    for row in map(test.row, range(len(test))):
        image = read_image(row.path)
        assert isinstance(image, Image.Image)
        right.append(
            int(teacher.model(torch.from_numpy(teacher.facts.views(cut(image))[0, None])).argmax()) == row.label
        )
    return right


def score(right: list[list[bool]]) -> float:
    """Share of right answers in percent, over seeds and images; all classes are equally frequent in both tests."""
    return 100 * float(np.mean(right))


def difference(rows: list[dict[str, Any]], test: str, rung: str, other: str) -> tuple[float, float, float]:
    """Points of one rung over another, with a 95 % interval: images are resampled in pairs, seeds averaged.

    The interval is about other images of this kind, given these seeds (Efron and Tibshirani 1993, chapter 13).
    """
    ours, theirs = (
        np.mean([row["right"][test] for row in rows if row["rung"] == name], axis=0) for name in (rung, other)
    )
    points = 100 * (ours - theirs)
    generator = np.random.default_rng(0)
    means = points[generator.integers(len(points), size=(RESAMPLES, len(points)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(points.mean()), float(low), float(high)


def to_asset(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Give what the demo shows: balanced accuracy of each rung on both tests, mean over its seeds."""
    right = {name: [row["right"] for row in rows if row["rung"] == name] for name in RUNGS}
    return {
        name: {
            "told": rung.told,
            "scores": {test: round(score([each[test] for each in right[name]]) / 100, 4) for test in TESTS},
        }
        for name, rung in RUNGS.items()
    }


def to_markdown(rows: list[dict[str, Any]], facts: dict[str, object]) -> str:
    """Write the result as a page."""
    count = {test: len(rows[0]["right"][test]) for test in TESTS}
    lines = [
        "# What each part brings",
        "",
        "Made by `python benchmarks/ladder.py`. Balanced accuracy in percent on drawn images, "
        + " and ".join(f"{count[test]} {test}" for test in TESTS)
        + "; the majority gives 16.7.",
        f"Fine-tuned rungs: `--preset demo` but for what is said, seeds {', '.join(map(str, SEEDS))}, mean and range.",
        "",
        f"| rung | {' | '.join(TESTS)} |",
        "|---|---|---|",
    ]
    for name, rung in RUNGS.items():
        cells = []
        for test in TESTS:
            scores = [score(row["right"][test]) for row in rows if row["rung"] == name]
            spread = f" ({min(scores):.1f} to {max(scores):.1f})" if len(scores) > 1 else ""
            cells.append(f"{np.mean(scores):.1f}{spread}")
        lines.append(f"| {rung.told} | {' | '.join(cells)} |")
    lines += ["", "Points of one rung over another, with the 95 % interval of a paired bootstrap over images:", ""]
    lines += [f"| | {' | '.join(TESTS)} |", "|---|---|---|"]
    for rung, other in COMPARED:
        found = (difference(rows, test, rung, other) for test in TESTS)
        cells = " | ".join(f"{mean:+.1f} ({low:+.1f} to {high:+.1f})" for mean, low, high in found)
        lines.append(f"| {RUNGS[rung].told} *over* {RUNGS[other].told} | {cells} |")
    lines += ["", "| rung | seed | seconds |", "|---|---|---|"]
    lines += [f"| {row['rung']} | {row['seed']} | {row['seconds']} |" for row in rows]
    lines += ["", "The machine was shared, so the seconds are no benchmark.", ""]
    lines += [*(f"- {name}: {value}" for name, value in facts.items()), ""]
    return "\n".join(lines)


def commit_of() -> str:
    """Name the commit that is measured."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def main() -> None:
    """Do some of the missing rungs; write the page where none is missing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="where runs and rows are kept")
    parser.add_argument("--runs", type=int, help="how many missing rungs to do; all, if not given")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    wanted = [(name, seed) for seed in SEEDS for name, rung in RUNGS.items() if seed in rung.seeds]
    missing = [run for run in wanted if not row_file(given.folder, *run).exists()]
    for name, seed in missing[: given.runs]:
        row = measure(given.folder, name, seed)
        row_file(given.folder, name, seed).write_text(json.dumps(row))
        print(name, seed, *(f"{score(row['right'][test]):.1f}" for test in TESTS), flush=True)
    if given.runs is not None and given.runs < len(missing):
        print(f"{len(missing) - given.runs} rungs are missing")
        return
    facts = {"commit": commit_of(), **describe_environment()}
    rows = [json.loads(row_file(given.folder, *run).read_text()) for run in wanted]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "ladder.json").write_text(json.dumps({"facts": facts, "rows": rows}) + "\n")
    ASSET.write_text(json.dumps(to_asset(rows), indent=1) + "\n")
    page = to_markdown(rows, facts)
    (RESULTS / "ladder.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
