"""Measure what the distance to the training images finds: strange images against the drawings of test.

    python benchmarks/domain.py

The model is the embedded classifier, the index its features of the drawings that it learned from. Writes
`results/domain.{json,md}`.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from sklearn.metrics import roc_auc_score

from uniemox.demo.drawn import unpack
from uniemox.demo.run import PHOTOGRAPH
from uniemox.files.images import read_image
from uniemox.inference.torch_backend import TorchBackend, load_torch
from uniemox.manifests.table import read_manifest
from uniemox.models.classify import read_features
from uniemox.targets.domain import Domain
from uniemox.train.run_folder import describe_environment

RESULTS = Path(__file__).parent / "results"
SHARE = 0.95  # Of val, within the cutoff
MADE = 200  # Images of noise, and of one colour


def features(backend: TorchBackend, images: list[Image.Image]) -> np.ndarray:
    """Read what the head reads, (N, D)."""
    found = []
    for start in range(0, len(images), 32):
        pixels = np.stack([backend.facts.views(image, ()) for image in images[start : start + 32]])
        with torch.inference_mode():
            _, read = read_features(backend.model, *torch.from_numpy(pixels).unbind(dim=1))
        found.append(read.float().numpy())
    return np.concatenate(found)


def main() -> None:
    """Measure, and write the results."""
    backend = load_torch("demo", device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        manifest = read_manifest(unpack(Path(folder)).seen)
        drawn = {
            split: [read_image(row.path) for row in manifest.select([split]).spread(10**6)]
            for split in ("train", "val", "test")
        }
    domain = Domain.of(features(backend, drawn["train"]))
    domain = domain.fit(domain.distances(features(backend, drawn["val"])), SHARE)
    generator, side = np.random.default_rng(0), drawn["test"][0].size
    colours = generator.integers(0, 256, (MADE, 3)).tolist()
    noise = generator.integers(0, 256, (MADE, side[1], side[0], 3), dtype=np.uint8)
    sets = {
        "the drawings of test": drawn["test"],
        "a photograph": [Image.open(PHOTOGRAPH).convert("RGB")],
        "of one colour": [Image.new("RGB", side, tuple(colour)) for colour in colours],
        "the drawings of test, inverted": [ImageOps.invert(image) for image in drawn["test"]],
        "the drawings of test, upside down": [image.rotate(180) for image in drawn["test"]],
        "noise": [Image.fromarray(pixels) for pixels in noise],
    }
    distances = {name: domain.distances(features(backend, images)) for name, images in sets.items()}
    own, rows = distances["the drawings of test"], {}
    for name, found in distances.items():
        strange = np.repeat([0, 1], [len(own), len(found)])
        auroc = None if found is own else float(roc_auc_score(strange, np.concatenate([own, found])))
        rows[name] = {"images": len(found), "unfamiliar": float((found > domain.cutoff).mean()), "auroc": auroc}
    facts = describe_environment()
    (RESULTS / "domain.json").write_text(json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n")
    lines = [
        "# What the distance to the training images finds",
        "",
        "Made by `python benchmarks/domain.py`. The embedded classifier, the drawings of train, and a cutoff within",
        f"which {100 * SHARE:.0f} % of val lie. AUROC is how often the strange image is the farther one.",
        "",
        "| images | number | unfamiliar | AUROC |",
        "|---|---|---|---|",
    ]
    for name, row in rows.items():
        auroc = "–" if row["auroc"] is None else f"{row['auroc']:.2f}"
        lines.append(f"| {name} | {row['images']} | {100 * row['unfamiliar']:.0f} % | {auroc} |")
    lines += ["", *(f"- {name}: {value}" for name, value in facts.items())]
    (RESULTS / "domain.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
