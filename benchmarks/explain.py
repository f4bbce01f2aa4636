"""Measure whether maps find what an answer depends on: deletion and insertion curves against random maps and a centre.

    python benchmarks/explain.py [--model demo clip:demo] [--images 96]

Of drawings of test, 8 × 8 cells are hidden one after another in the order of a map, the strongest first (deletion), or
shown one after another in an image that is hidden (insertion); Petsiuk et al. 2018. The area under the probability of
the answered emotion should be small for deletion and large for insertion. A map that finds nothing does as a random
order; a centre prior knows where people stand in pictures, and nothing of the model. Hidden cells are blurred, which no
map is made by. Differences are paired by image, with 95 % intervals of their bootstrap. Writes
`results/explain.{json,md}`.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from uniemox.config.zero_shot import ZeroShotConfig
from uniemox.demo.drawn import unpack
from uniemox.files.images import read_image
from uniemox.inference.maps import make_map
from uniemox.inference.predictor import Predictor
from uniemox.manifests.table import read_manifest
from uniemox.train.run_folder import describe_environment

RESULTS = Path(__file__).parent / "results"
METHODS = ("occlusion", "layercam", "gradcam")
PRIORS = ("random", "centre")
CELLS, STEPS = 8, 16  # Along a side; points of a curve


def area(predictor: Predictor, start: Image.Image, end: Image.Image, heat: np.ndarray, place: int) -> float:
    """Compute the area under the number of an output while cells of one image are put into another, in a map's order.

    Args:
        predictor: Of a model of scenes.
        start: The image at first.
        end: What it becomes.
        heat: Map (h, w); the largest values come first.
        place: Of the output.
    """
    cells = np.asarray(Image.fromarray(heat.astype(np.float32)).resize((CELLS, CELLS), Image.Resampling.BOX))
    canvas, prepared = start.copy(), [predictor.facts.views.of(start, None)]
    for done, cell in enumerate(np.argsort(-cells.ravel(), kind="stable"), start=1):
        row, column = divmod(int(cell), CELLS)
        edges = ((column, canvas.width), (row, canvas.height), (column + 1, canvas.width), (row + 1, canvas.height))
        box = tuple(round(edge * side / CELLS) for edge, side in edges)
        canvas.paste(end.crop(box), box)
        if done % (CELLS**2 // STEPS) == 0:
            prepared.append(predictor.facts.views.of(canvas, None))
    return float(np.trapezoid(predictor.target.numbers(predictor.logits(prepared))[:, place], dx=1 / STEPS))


def measure(predictor: Predictor, images: list[Image.Image]) -> dict[str, np.ndarray]:
    """Measure insertion minus deletion (N, 3: that, deletion, insertion) of each kind of map."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:CELLS, :CELLS] - (CELLS - 1) / 2
    found: dict[str, list[tuple[float, float, float]]] = {}
    for image in images:
        numbers = predictor.target.numbers(predictor.logits([predictor.facts.views.of(image, None)]))[0]
        place = int(numbers.argmax())
        maps = {method: make_map(predictor, image, None, place, method)[0] for method in METHODS}
        maps |= {"random": generator.random((CELLS, CELLS)), "centre": -(rows**2 + columns**2)}
        hidden = image.filter(ImageFilter.GaussianBlur(max(image.size) / 8))
        for name, heat in maps.items():
            deletion = area(predictor, image, hidden, heat, place)
            insertion = area(predictor, hidden, image, heat, place)
            found.setdefault(name, []).append((insertion - deletion, deletion, insertion))
    return {name: np.array(values) for name, values in found.items()}


def compare(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Compute the mean paired difference of N images, with the 95 % interval of its bootstrap."""
    differences = first[:, 0] - second[:, 0]
    generator = np.random.default_rng(0)
    means = differences[generator.integers(0, len(differences), (10_000, len(differences)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return {"mean": float(differences.mean()), "low": float(low), "high": float(high)}


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", nargs="+", default=["demo", "clip:demo"])
    parser.add_argument("--images", type=int, default=96)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        manifest = read_manifest(unpack(Path(folder)).seen)
        images = [read_image(row.path) for row in manifest.select(["test"]).spread(asked.images)]
    models = {}
    for model in asked.model:
        words = ZeroShotConfig(classes=manifest.facts.classes) if model.startswith("clip:") else None
        found = measure(Predictor.load(model, device="cpu", zero_shot=words), images)
        models[model] = {
            name: {
                **dict(zip(("difference", "deletion", "insertion"), values.mean(0).tolist(), strict=True)),
                **{f"over_{prior}": compare(values, found[prior]) for prior in PRIORS if name in METHODS},
            }
            for name, values in found.items()
        }
    path = RESULTS / "explain.json"
    earlier = json.loads(path.read_text()) if path.exists() else {"images": 0}
    if earlier["images"] == len(images):  # other models of the same images
        models = earlier["models"] | models
    write({"images": len(images), "models": models, "environment": describe_environment()})


def write(results: dict) -> None:
    """Write what was measured, and whether each method beats both priors."""
    (RESULTS / "explain.json").write_text(json.dumps(results, indent=2) + "\n")
    lines = [
        "# Whether maps find what an answer depends on",
        "",
        f"Made by `python benchmarks/explain.py` with {results['images']} drawings of test. Area under the",
        "probability of the answered emotion while cells are hidden (deletion: less is better) or shown (insertion:",
        "more is better) in the order of a map, and paired differences of insertion − deletion from a random order",
        "and from a centre prior, with 95 % intervals.",
        "",
        "| model | map | deletion | insertion | insertion − deletion | over random | over the centre | beats both |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model, found in results["models"].items():
        for name, one in found.items():
            over = [one.get(f"over_{prior}") for prior in PRIORS]
            shown = [f"{o['mean']:+.3f} ({o['low']:+.3f} to {o['high']:+.3f})" if o else "–" for o in over]
            beats = "–" if None in over else "yes" if all(o["low"] > 0 for o in over) else "no"
            numbers = [f"{one[key]:.3f}" for key in ("deletion", "insertion", "difference")]
            lines.append(f"| {' | '.join([model, name, *numbers, *shown, beats])} |")
    lines += ["", *(f"- {name}: {value}" for name, value in results["environment"].items())]
    (RESULTS / "explain.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
