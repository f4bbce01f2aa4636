"""What the fast path of pretraining costs in accuracy, on the demo's data.

    python benchmarks/fast_cost.py --folder DIR [--runs 1]

Two arms at equal epochs: exact (new views in every epoch, the teacher asked in every step, every hidden patch
predicted) and fast (8 stored views of each image with the teacher's features, a quarter of the hidden patches
predicted). Both start from the encoder of the embedded UniEmoX-mini, with a new fusion, projection and decoder for each
seed, so that what a fine-tuned model reads has to be distilled again; both are then fine-tuned with `--preset demo`.
A finished run leaves its answers in DIR, so that a stopped comparison goes on, and `--runs` does so many of the missing
ones and stops; rows of the last page count as finished. Writes `results/fast_cost.{json,md}` of seeds with both arms.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ladder import RESAMPLES, RESULTS, TESTS, answers, commit_of, row_file, score
from scipy import stats

from uniemox.checkpoints.folder import save_model
from uniemox.checkpoints.load import load_pretraining
from uniemox.config.reinforce import ReinforceConfig
from uniemox.config.training import PretrainConfig, TeacherConfig
from uniemox.demo.drawn import DrawnData, unpack
from uniemox.demo.run import finetune_config
from uniemox.models.pretrain import UniEmoX
from uniemox.settings import build, load_preset
from uniemox.train.finetune import finetune
from uniemox.train.pretrain import pretrain
from uniemox.train.reinforce import reinforce
from uniemox.train.run_folder import describe_environment

SEEDS = (0, 1, 2, 3, 4)
ARMS = ("exact", "fast")
EPOCHS, VIEWS, DECODE_SHARE = 16, 8, 0.25
SCORES = ("pretrained", "fine-tuned")


def start_of(folder: Path, seed: int) -> Path:
    """Write a start: the encoder of the embedded model, and all else from random weights."""
    if not folder.exists():
        loaded = load_pretraining("demo-pretrained")
        learned = loaded.model
        torch.manual_seed(seed)
        projection = learned.projection
        width = learned.config.decoder_width if projection is None else projection.out_features
        model = UniEmoX(learned.config, embedding_width=width)
        model.encoder.load_state_dict(learned.encoder.state_dict())
        save_model(model, folder, dataclasses.replace(loaded.facts, language=None))
    return folder


def stored_views(data: DrawnData, folder: Path) -> Path:
    """Store the views of the fast arm; all seeds share them."""
    preset = build(PretrainConfig, load_preset(PretrainConfig, "demo") | {"data": data.seen, "out": folder})
    return reinforce(
        ReinforceConfig(
            manifest=data.seen,
            out=folder,
            views=VIEWS,
            image_size=preset.model.image_size,
            scene_scale=preset.views.scene_scale,
            flip=preset.views.flip,
            teacher=TeacherConfig(model="demo", pretrained=None),
            batch_size=128,
            device="cpu",
        )
    )


def measure(folder: Path, arm: str, seed: int) -> dict[str, Any]:
    """Pretrain and fine-tune one arm with one seed, and score both models."""
    kept = folder / "data.json"
    if not kept.exists():
        kept.write_text(json.dumps([str(path) for path in unpack(folder / "data")]))
    data, out = DrawnData(*map(Path, json.loads(kept.read_text()))), folder / f"run-{arm}-{seed}"
    settings = {"data": data.seen, "device": "cpu", "seed": seed, "precision": "bf16", "optim.epochs": EPOCHS}
    settings |= {"init": str(start_of(folder / f"start-{seed}", seed)), "out": out / "pretrain"}
    if arm == "fast":
        settings |= {"stored_views": stored_views(data, folder / "views"), "model.decode_share": DECODE_SHARE}
    shutil.rmtree(out, ignore_errors=True)  # of a run that was stopped
    began = time.monotonic()
    pretrained = pretrain(build(PretrainConfig, load_preset(PretrainConfig, "demo") | settings))
    seconds = round(time.monotonic() - began)
    models = {"pretrained": pretrained}
    models["fine-tuned"] = finetune(finetune_config(data, out / "finetune", str(pretrained), "cpu", seed))
    right = {name: answers(str(model), data, out / name) for name, model in models.items()}
    return {"rung": arm, "seed": seed, "seconds": seconds, "commit": commit_of(), "right": right}


def difference(rows: list[dict[str, Any]], model: str, test: str) -> dict[str, Any]:
    """Points of fast over exact: for each seed, with the intervals over seeds (t) and over images (bootstrap)."""
    right = {
        arm: np.array([row["right"][model][test] for row in rows if row["rung"] == arm], dtype=float) for arm in ARMS
    }
    points = 100 * (right["fast"] - right["exact"])  # (seeds, images)
    each = points.mean(axis=1)
    low, high = stats.t.interval(0.95, len(each) - 1, loc=each.mean(), scale=stats.sem(each))
    images = points.mean(axis=0)
    generator = np.random.default_rng(0)
    means = images[generator.integers(len(images), size=(RESAMPLES, len(images)))].mean(axis=1)
    return {
        "each": each.tolist(),
        "mean": float(each.mean()),
        "seeds": (float(low), float(high)),
        "images": tuple(float(value) for value in np.percentile(means, [2.5, 97.5])),
    }


def to_markdown(rows: list[dict[str, Any]], facts: dict[str, object]) -> str:
    """Write the result as a page."""
    seeds = sorted({row["seed"] for row in rows})
    left = "" if len(seeds) == len(SEEDS) else f" of {len(SEEDS)}: the others are not done yet"
    lines = [
        "# What the fast path of pretraining costs",
        "",
        f"Made by `python benchmarks/fast_cost.py`. Balanced accuracy in percent, {len(seeds)} seeds{left}; "
        f"{EPOCHS} epochs of the demo's images from its encoder, all else new, then `finetune --preset demo`. Fast: "
        f"{VIEWS} stored views, {DECODE_SHARE:.0%} of the hidden patches predicted.",
        "",
        "| model | test | exact | fast | fast over exact | interval over seeds | interval over images |",
        "|---|---|---|---|---|---|---|",
    ]
    for model in SCORES:
        for test in TESTS:
            cells = []
            for arm in ARMS:
                scores = [score(row["right"][model][test]) for row in rows if row["rung"] == arm]
                cells.append(f"{np.mean(scores):.1f} ({min(scores):.1f} to {max(scores):.1f})")
            found = difference(rows, model, test)
            cells.append(f"{found['mean']:+.1f}")
            cells += [f"{low:+.1f} to {high:+.1f}" for low, high in (found["seeds"], found["images"])]
            lines.append(f"| {model} | {test} | {' | '.join(cells)} |")
    lines += ["", "The interval over seeds is that of paired differences (t), the one over images a paired bootstrap."]
    seconds = {arm: [row["seconds"] for row in rows if row["rung"] == arm] for arm in ARMS}
    told = ", ".join(f"{arm} {np.median(seconds[arm]):.0f} s" for arm in ARMS)
    lines += [f"Median time of a pretraining on a shared machine, which is no benchmark: {told}.", ""]
    return "\n".join([*lines, *(f"- {name}: {value}" for name, value in facts.items()), ""])


def main() -> None:
    """Do some of the missing runs; write the page where none is missing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="where runs and rows are kept")
    parser.add_argument("--runs", type=int, help="how many missing runs to do; all, if not given")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    results = RESULTS / "fast_cost.json"
    for row in json.loads(results.read_text())["rows"] if results.exists() else ():
        row_file(given.folder, row["rung"], row["seed"]).write_text(json.dumps(row))
    wanted = [(arm, seed) for seed in SEEDS for arm in ARMS]
    missing = [run for run in wanted if not row_file(given.folder, *run).exists()]
    for arm, seed in missing[: given.runs]:
        row = measure(given.folder, arm, seed)
        row_file(given.folder, arm, seed).write_text(json.dumps(row))
        told = (f"{model} {score(row['right'][model][test]):.1f}" for model in SCORES for test in TESTS)
        print(arm, seed, f"{row['seconds']} s", *told, flush=True)
    done = [seed for seed in SEEDS if all(row_file(given.folder, arm, seed).exists() for arm in ARMS)]
    rows = [json.loads(row_file(given.folder, arm, seed).read_text()) for seed in done for arm in ARMS]
    facts = {"commits": sorted({row["commit"] for row in rows}), **describe_environment()}
    results.write_text(json.dumps({"facts": facts, "rows": rows}) + "\n")
    page = to_markdown(rows, facts)
    (RESULTS / "fast_cost.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
