"""Measure the work on data: importing, opening, filtering, auditing, and how well look-alikes are found.

    python benchmarks/data.py [--photos FOLDER]

Every measurement runs in a process of its own, three times, and its peak of memory is that process's (the audit's
readers are told apart). Data are made in a temporary folder. Photographs are those that scikit-image and scikit-learn
bring, and those of a folder that is named. Writes `results/data.{json,md}`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RESULTS = Path(__file__).parent / "results"
EMOSET = {"train": 94_481, "val": 5_905, "test": 17_716}
MILLIONS = 3_000_000
PICTURES = 3_000  # 640 x 480 JPEGs to audit
REPEATS = 3
TARGETS = {
    "import, split and write EmoSet-118K": "60 s, 1 GB",
    "open that manifest": "0.5 s",
    "audit 640 x 480 JPEGs": "150 images a second",
    "open and filter 3 million rows": "3 s, 2 GB",
}

# What is made


def packaged_photos() -> list[Path]:
    """Name the photographs of scikit-image and scikit-learn."""
    import skimage
    import sklearn

    names = (
        "astronaut.png brick.png camera.png chelsea.png coffee.png coins.png grass.png gravel.png "
        "hubble_deep_field.jpg ihc.png moon.png motorcycle_left.png retina.jpg rocket.jpg"
    )
    data = Path(skimage.__file__).parent / "data"
    images = Path(sklearn.__file__).parent / "datasets" / "images"
    return [*(data / name for name in names.split()), images / "china.jpg", images / "flower.jpg"]


def open_photos(paths: list[Path], side: int = 800) -> list[Image.Image]:
    """Open photographs, not larger than is needed."""
    images = (Image.open(path).convert("RGB") for path in paths)
    return [ImageOps.contain(image, (side, side)) for image in images]


def make_emoset(folder: Path) -> None:
    """Write a tree in EmoSet's format: a list for each split, an annotation and an empty image for each entry."""
    from uniemox.emotions import MIKELS

    info = {
        "label2idx": {name: place for place, name in enumerate(MIKELS)},
        "idx2label": {str(place): name for place, name in enumerate(MIKELS)},
    }
    for name in MIKELS:
        for kind in ("image", "annotation"):
            (folder / kind / name).mkdir(parents=True)
    (folder / "info.json").write_text(json.dumps(info))
    number = 0
    for split, count in EMOSET.items():
        rows = []
        for _ in range(count):
            emotion = MIKELS[number % len(MIKELS)]
            stem = f"{emotion}/{emotion}_{number:05d}"
            row = [emotion, f"image/{stem}.jpg", f"annotation/{stem}.json"]
            (folder / row[1]).touch()
            entry = {"emotion": emotion, "brightness": 0.4, "scene": "park", "object": ["Tree"]}
            (folder / row[2]).write_text(json.dumps(entry))
            rows.append(row)
            number += 1
        (folder / f"{split}.json").write_text(json.dumps(rows))


def make_millions(path: Path) -> None:
    """Write a manifest of three million rows."""
    from uniemox.manifests.table import Facts, manifest_from_columns, write_manifest

    numbers = np.arange(MILLIONS)
    splits = np.array(["train", "val", "test"])[np.minimum(numbers % 10 // 8, 1) + (numbers % 10 == 9)]
    facts = Facts(name="x", title="X", classes=("awe", "fear"), emotion=None, root=path.parent)
    manifest = manifest_from_columns(
        facts,
        paths=[f"image/{number % 1000:03d}/{number:07d}.jpg" for number in range(MILLIONS)],
        splits=splits.tolist(),
        labels=numbers % 2,
    )
    write_manifest(manifest, path)


def make_pictures(folder: Path, photos: list[Path], count: int = PICTURES) -> None:
    """Write JPEGs of 640 x 480 and a manifest: crops of photographs with noise, of usual qualities."""
    from uniemox.manifests.table import Facts, manifest_from_columns, write_manifest

    generator = np.random.default_rng(0)
    images = [ImageOps.contain(image, (1400, 1400)) for image in map(_open, photos)]
    root = folder / "pictures"
    root.mkdir()
    for number in range(count):
        image = images[number % len(images)]
        width = int(generator.uniform(0.4, 1) * image.width)
        height = int(generator.uniform(0.4, 1) * image.height)
        left = int(generator.integers(0, image.width - width + 1))
        top = int(generator.integers(0, image.height - height + 1))
        part = image.resize((640, 480), box=(left, top, left + width, top + height))
        noise = generator.normal(0, 4, (480, 640, 1))
        pixels = np.clip(np.asarray(part) + noise, 0, 255).astype(np.uint8)
        quality = int(generator.integers(85, 93))
        Image.fromarray(pixels).save(root / f"{number:05d}.jpg", quality=quality)
    facts = Facts(name="x", title="X", classes=("awe", "fear"), emotion=None, root=root)
    manifest = manifest_from_columns(
        facts,
        paths=[f"{number:05d}.jpg" for number in range(count)],
        splits=["train"] * count,
        labels=[number % 2 for number in range(count)],
    )
    write_manifest(manifest, folder / "pictures.parquet")


def _open(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


# What is measured, each in a process of its own


def import_emoset(folder: Path) -> dict[str, Any]:
    """Import the tree, cut it anew, and write the manifest."""
    from uniemox.importers.importing import import_dataset
    from uniemox.manifests.splits import split_rows
    from uniemox.manifests.table import write_manifest

    began = time.perf_counter()
    manifest = import_dataset("emoset", folder / "emoset").manifest
    paths = manifest.table["path"].to_pylist()
    split_rows(paths, manifest.labels.tolist(), ratios=(0.8, 0.05, 0.15), seed=0)
    write_manifest(manifest, folder / "emoset.parquet")
    return {"seconds": time.perf_counter() - began, "rows": len(manifest)}


def open_emoset(folder: Path) -> dict[str, Any]:
    """Open the manifest of the import."""
    from uniemox.manifests.table import read_manifest

    began = time.perf_counter()
    manifest = read_manifest(folder / "emoset.parquet")
    manifest.row(len(manifest) - 1)
    return {"seconds": time.perf_counter() - began, "rows": len(manifest)}


def open_millions(folder: Path) -> dict[str, Any]:
    """Open three million rows, take a split of them that lies scattered, and a row of it."""
    from uniemox.manifests.table import read_manifest

    began = time.perf_counter()
    manifest = read_manifest(folder / "millions.parquet").select(["train", "val"])
    manifest.row(len(manifest) - 1)
    return {"seconds": time.perf_counter() - began, "rows": len(manifest)}


def audit_pictures(folder: Path) -> dict[str, Any]:
    """Audit the JPEGs with a process for each core: read them, then look for look-alikes."""
    from uniemox.audit.audit import Copies, audit
    from uniemox.audit.fingerprints import take_fingerprints
    from uniemox.manifests.table import read_manifest

    manifest = read_manifest(folder / "pictures.parquet")
    copies = Copies([manifest])
    with tempfile.TemporaryDirectory(dir=folder) as parts:
        began = time.perf_counter()
        table = take_fingerprints(copies.files, folder=Path(parts), workers=os.cpu_count() or 1)
        read = time.perf_counter() - began
        audit({"x": manifest}, table, copies=copies)
        seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "read": read,
        "rows": len(manifest),
        "read_a_second": len(manifest) / read,
        "audited_a_second": len(manifest) / seconds,
    }


# Look-alikes


def _cut(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    width, height = image.size
    box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
    return image.crop(tuple(map(round, box)))


def _stored(image: Image.Image, form: str, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, form, quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def _captioned(image: Image.Image) -> Image.Image:
    image, top = image.copy(), round(0.88 * image.height)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, top, image.width, image.height), fill="black")
    draw.text((20, top + 4), "A caption", fill="white", font_size=image.height // 14)
    return image


def changes() -> dict[str, Callable[[Image.Image], Image.Image]]:
    """Name what may happen to a copy of an image."""
    return {
        **{
            f"resized to {share:g}": lambda image, share=share: ImageOps.scale(image, share)
            for share in (0.25, 0.5, 0.9)
        },
        "squeezed to 3/4 of its height": lambda image: image.resize((image.width, image.height * 3 // 4)),
        **{
            f"JPEG of quality {quality}": lambda image, quality=quality: _stored(image, "JPEG", quality)
            for quality in (30, 60, 90)
        },
        "WebP of quality 50": lambda image: _stored(image, "WEBP", 50),
        **{
            f"{share:.0%} cut off each side": lambda image, share=share: _cut(image, *[share] * 4)
            for share in (0.03, 0.05, 0.1, 0.15)
        },
        "10% cut off one side": lambda image: _cut(image, 0.1, 0, 0, 0),
        "15% cut off two sides that meet": lambda image: _cut(image, 0.15, 0.15, 0, 0),
        "mirrored": ImageOps.mirror,
        "mirrored, 10% cut off each side": lambda image: _cut(ImageOps.mirror(image), *[0.1] * 4),
        "grey": lambda image: ImageOps.grayscale(image).convert("RGB"),
        "brighter by 1.35": lambda image: ImageEnhance.Brightness(image).enhance(1.35),
        "darker by 0.65": lambda image: ImageEnhance.Brightness(image).enhance(0.65),
        "contrast by 1.5": lambda image: ImageEnhance.Contrast(image).enhance(1.5),
        "caption on the lowest 12%": _captioned,
        "white frame of 5%": lambda image: ImageOps.expand(image, image.width // 20, "white"),
        "mirrored, cropped, 200 x 150, JPEG 50": lambda image: _stored(
            _cut(ImageOps.mirror(image), 0.06, 0.04, 0.08, 0.05).resize((200, 150)), "JPEG", 50
        ),
    }


def find_look_alikes(photos: list[Path]) -> dict[str, Any]:
    """Count the changed copies that are linked with their original, and the links of different images."""
    from uniemox.audit.likeness import find_links, shrink

    originals = open_photos(photos)
    count = len(originals)
    names = changes()
    thumbs = [shrink(image) for image in originals]
    thumbs += [shrink(change(image)) for change in names.values() for image in originals]
    links = find_links(np.stack(thumbs))
    source = np.arange(len(thumbs)) % count
    linked = set(zip(links.first.tolist(), links.second.tolist(), strict=True))
    recall = {
        name: sum((place, number * count + place) in linked for place in range(count)) / count
        for number, name in enumerate(names, start=1)
    }
    wrong = int((source[links.first] != source[links.second]).sum())
    return {
        "photos": count,
        "recall": recall,
        "pairs_linked": len(linked),
        "pairs_wrong": wrong,
        **_hard_negatives(originals),
    }


def _hard_negatives(originals: list[Image.Image]) -> dict[str, Any]:
    """Link what must not be linked: neighbouring tiles, and what may: views that are shifted."""
    from uniemox.audit.likeness import find_links, shrink

    size = 4
    tiles = [
        shrink(_cut(image, x / size, y / size, 1 - (x + 1) / size, 1 - (y + 1) / size))
        for image in originals
        for y in range(size)
        for x in range(size)
    ]
    pairs = len(tiles) * (len(tiles) - 1) // 2
    shifted = {}
    for share in (0.05, 0.1, 0.2, 0.3):
        views = [shrink(_cut(image, 0, 0.2, 0.5, 0.2)) for image in originals]
        views += [shrink(_cut(image, share / 2, 0.2, 0.5 - share / 2, 0.2)) for image in originals]
        found = find_links(np.stack(views))
        shifted[f"{share:.0%}"] = int((found.second - found.first == len(originals)).sum()) / len(originals)
    links = find_links(np.stack(tiles))
    return {"tile_pairs": pairs, "tile_pairs_linked": len(links.first), "shifted": shifted}


# The whole


PARTS = {
    "import, split and write EmoSet-118K": import_emoset,
    "open that manifest": open_emoset,
    "audit 640 x 480 JPEGs": audit_pictures,
    "open and filter 3 million rows": open_millions,
}


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Run one part in fresh processes; medians, and the largest peak of memory in MB."""
    words = [sys.executable, __file__, "--part", name, "--folder", str(folder)]
    runs = [
        json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout) for _ in range(REPEATS)
    ]
    result = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    result["peak_mb"] = max(run["peak_mb"] for run in runs)
    print(name, result, flush=True)
    return {"name": name, "target": TARGETS[name], **result}


def run_part(name: str, folder: Path) -> None:
    """Print the measurements of one part, with the peak of memory of this process and of its largest child."""
    result = PARTS[name](folder)
    reader = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(json.dumps(result | {"peak_mb": peak_mb(), "peak_of_reader_mb": reader}))


def peak_mb() -> float:
    """Tell this process's peak of memory; `getrusage` would count that of the process it was forked from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = [line for line in lines if line.startswith("VmHWM")]
    return int(peak.split()[1]) / 1024


def describe() -> dict[str, object]:
    """Tell versions and hardware."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    packages = ("uniemox", "numpy", "scipy", "pyarrow", "pillow", "scikit-image", "scikit-learn")
    return {
        "commit": commit.stdout.strip() or "unknown",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
    }


def to_markdown(parts: list[dict[str, Any]], looks: dict[str, dict[str, Any]], facts: dict[str, object]) -> str:
    """Write the result as a page."""
    lines = [
        "# Work on data, and how well look-alikes are found",
        "",
        f"Made by `python benchmarks/data.py`. Medians of {REPEATS} fresh processes; memory is the largest peak.",
        "",
        "| what | rows | seconds | MB | target |",
        "|---|---|---|---|---|",
    ]
    for part in parts:
        cells = (part["name"], f"{part['rows']:,.0f}", f"{part['seconds']:.2f}")
        lines.append(f"| {' | '.join(cells)} | {part['peak_mb']:.0f} | {part['target']} |")
    audited = next(part for part in parts if "read" in part)
    speed = (
        f"The audit reads {audited['read_a_second']:.0f} images a second with a process for each core, of "
        f"{audited['peak_of_reader_mb']:.0f} MB each, and audits {audited['audited_a_second']:.0f} a second in all."
    )
    lines += ["", speed, "", *_look_alike_lines(looks)]
    lines += ["", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    return "\n".join(lines)


def _look_alike_lines(looks: dict[str, dict[str, Any]]) -> Iterator[str]:
    yield "Share of the changed copies that are linked with their original:"
    yield ""
    yield ("| change | " + " | ".join(f"{name} ({look['photos']})" for name, look in looks.items()) + " |")
    yield "|---|" + "---|" * len(looks)
    for change in changes():
        yield (f"| {change} | " + " | ".join(f"{look['recall'][change]:.2f}" for look in looks.values()) + " |")
    for name, look in looks.items():
        right = look["pairs_linked"] - look["pairs_wrong"]
        yield ""
        yield (
            f"{name}: of {look['pairs_linked']:,} linked pairs {look['pairs_wrong']} are of different photographs "
            f"(precision {right / look['pairs_linked']:.4f}). Of {look['tile_pairs']:,} pairs of tiles "
            f"(16 of each photograph) {look['tile_pairs_linked']} are linked. Views shifted by "
            + ", ".join(f"{share}" for share in look["shifted"])
            + " of their width are linked at rates of "
            + ", ".join(f"{rate:.2f}" for rate in look["shifted"].values())
            + "."
        )


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, help="a folder of other photographs")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        run_part(given.part, given.folder)
        return
    packaged = packaged_photos()
    looks = {"packaged photographs": find_look_alikes(packaged)}
    if given.photos:
        others = sorted(path for path in given.photos.rglob("*") if path.suffix in (".jpg", ".png"))
        looks["other photographs"] = find_look_alikes(others)
    print(looks, flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_emoset(folder / "emoset")
        make_millions(folder / "millions.parquet")
        make_pictures(folder, packaged)
        parts = [measure(name, folder) for name in PARTS]
    facts = describe()
    RESULTS.mkdir(exist_ok=True)
    saved = {"facts": facts, "parts": parts, "look_alikes": looks}
    (RESULTS / "data.json").write_text(json.dumps(saved, indent=2) + "\n")
    page = to_markdown(parts, looks, facts)
    (RESULTS / "data.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
