"""Measure search: images indexed a second, what a query costs in time and memory, and what it finds.

    python benchmarks/search.py [--rows 100000 1000000] [--rounds 5]

Indexing is of the embedded drawings, beside prediction of the same images by the same model, in turn. Queries are of
made-up features of 512 numbers, each in a process of its own, so that its peak of memory is its own; scikit-learn holds
all features in float32, as its users do. Writes `results/search.{json,md}`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ladder import RESULTS, commit_of

from uniemox.inference.index import IndexedModel, Stamp, open_index, stamp_files
from uniemox.targets.single_label import SingleLabel

WIDTH, TOP, CLASSES = 512, 20, tuple("abcdefgh")
MODEL = IndexedModel(name="made up", digest="0" * 64, precision="fp32", width=WIDTH)
COLUMNS = SingleLabel(CLASSES).columns
ENGINES = ("uniemox", "scikit-learn")


def peak() -> float:
    """Most MB of this process so far; `getrusage` would count what its parent took."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def files_of(rows: int) -> dict[bytes, Stamp]:
    """Name made-up files."""
    return {f"/photos/{row // 1000:04d}/{row:07d}.jpg".encode(): Stamp(row + 1, row) for row in range(rows)}


def features_of(rows: int) -> Iterator[np.ndarray]:
    """Make features block by block."""
    for start in range(0, rows, 65_536):
        generator = np.random.default_rng(start)
        yield generator.standard_normal((min(65_536, rows - start), WIDTH), np.float32)


def build(folder: Path, rows: int) -> None:
    """Write an index of so many rows."""
    files = list(files_of(rows).items())
    answer = {"predicted": "a", "confidence": 0.3, **{f"p_{name}": 0.1 for name in CLASSES}}
    with open_index(folder, MODEL, COLUMNS) as index:
        place = 0
        for features in features_of(rows):
            own = dict(files[place : place + len(features)])
            index.add(own, [answer] * len(own), features)
            place += len(own)


def query(folder: Path, rows: int, engine: str, rounds: int) -> dict[str, float]:
    """Measure one engine in this process."""
    asked = np.random.default_rng(1).standard_normal(WIDTH).astype(np.float32)
    asked /= np.linalg.norm(asked)
    files, before, seconds = files_of(rows), peak(), []
    if engine == "scikit-learn":
        from sklearn.neighbors import NearestNeighbors

        search = NearestNeighbors(n_neighbors=TOP, algorithm="brute", metric="cosine")
        began = time.perf_counter()
        search.fit(np.concatenate(list(features_of(rows))))
        opened = time.perf_counter() - began
        for _ in range(rounds):
            began = time.perf_counter()
            _, found = search.kneighbors(asked[None])
            seconds.append(time.perf_counter() - began)
        first = int(found[0, 0])
    else:
        began = time.perf_counter()
        with open_index(folder, MODEL, COLUMNS) as index:
            assert not index.refresh(files, [b"/photos"])
            index.choose(files)
            opened = time.perf_counter() - began
            for _ in range(rounds):
                began = time.perf_counter()
                places = index.nearest(asked, TOP)
                found = index.read(places)
                seconds.append(time.perf_counter() - began)
        first = int(Path(os.fsdecode(found[0][0])).stem)
    return {"open": opened, "query": statistics.median(seconds), "memory": peak() - before, "first": first}


def measure_queries(rows: int, rounds: int) -> dict[str, Any]:
    """Measure every engine in a process of its own."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "index"
        build(place, rows)
        size = sum(path.stat().st_size for path in place.iterdir()) / 2**20
        for engine in ENGINES:
            words = [sys.executable, __file__, "--query", str(place), engine, "--rows", str(rows)]
            done = subprocess.run([*words, "--rounds", str(rounds)], check=True, capture_output=True, text=True)
            found[engine] = json.loads(done.stdout.splitlines()[-1])
    assert len({one["first"] for one in found.values()}) == 1
    return {"rows": rows, "disk": size, "engines": found}


def measure_drawings(rounds: int) -> dict[str, Any]:
    """Index the drawings beside predicting them, and look at what texts and emotions find among unseen characters."""
    from uniemox.config.zero_shot import ZeroShotConfig
    from uniemox.data.class_prompts import pretraining_prompts
    from uniemox.demo.drawn import unpack
    from uniemox.inference.predictor import find_images
    from uniemox.inference.search import Searcher
    from uniemox.manifests.table import read_manifest

    with tempfile.TemporaryDirectory() as folder:
        data = unpack(Path(folder))
        paths = find_images([Path(folder) / "drawn6"])[::5]
        unseen = read_manifest(data.unseen)
        classes = unseen.facts.classes
        searcher = Searcher.load("clip:demo", device="cpu", zero_shot=ZeroShotConfig(classes=classes))
        options = {"batch_size": 32, "num_workers": 2}
        speeds: dict[str, list[float]] = {"index": [], "predict": []}
        for number in range(rounds):
            began = time.perf_counter()
            for _ in searcher.predictor.predict(paths, **options):
                searcher._embedding.features.clear()
            speeds["predict"].append(len(paths) / (time.perf_counter() - began))
            began = time.perf_counter()
            with open_index(Path(folder) / f"i{number}", searcher.model, searcher.columns) as index:
                given = ((key, path, stamp) for key, (path, stamp) in stamp_files(paths).items())
                searcher.fill(index, given, total=len(paths), **options)
                index.tidy()
            speeds["index"].append(len(paths) / (time.perf_counter() - began))
        rows = [unseen.row(place) for place in range(len(unseen))]
        labels = {row.path: classes[row.label] for row in rows}
        files = stamp_files([row.path for row in rows])
        hits: dict[str, list[float]] = {"text": [], "emotion": []}
        with open_index(Path(folder) / "unseen", searcher.model, searcher.columns) as index:
            given = ((key, path, stamp) for key, (path, stamp) in files.items())
            searcher.fill(index, given, total=len(files), **options)
            known = {key: path for key, (path, _) in files.items()}
            for name, text in zip(classes, pretraining_prompts(classes), strict=True):
                for kind, asked in (("text", searcher.query_text(text)), ("emotion", name)):
                    best = searcher.search(index, known, asked, count=TOP)
                    hits[kind].append(statistics.mean(labels[hit.path] == name for hit in best))
    return {
        "images": len(paths),
        "speeds": {name: statistics.median(values) for name, values in speeds.items()},
        "unseen": len(rows),
        "precision": {name: statistics.mean(values) for name, values in hits.items()},
        "chance": statistics.mean(sum(label == name for label in labels.values()) / len(labels) for name in classes),
    }


def to_page(results: dict[str, Any]) -> str:
    """Write the page."""
    drawn, speeds = results["drawings"], results["drawings"]["speeds"]
    lines = [
        "# Search",
        "",
        "Made by `python benchmarks/search.py`. On every fifth of the embedded drawings, `clip:demo` indexes "
        f"{speeds['index']:.0f} images a second and predicts {speeds['predict']:.0f} of the same {drawn['images']:,}.",
        "",
        f"Of the {TOP} best of {drawn['unseen']} drawings of unseen characters, the share with the right label, a "
        f"mean of six emotions: {drawn['precision']['text']:.2f} by the sentence of the teacher's training, "
        f"{drawn['precision']['emotion']:.2f} by emotion; by chance {drawn['chance']:.2f}.",
        "",
        f"Queries of features of {WIDTH} numbers, the {TOP} nearest. *Open* is to read paths and times of the index, "
        "and to compare them with those of as many files; *memory* is what is taken beyond that list of files.",
        "",
        "| images | MB on disk | by | open | query | memory |",
        "|---|---|---|---|---|---|",
    ]
    for one in results["queries"]:
        for engine, found in one["engines"].items():
            cells = f"{found['open']:.2f} s | {1000 * found['query']:.0f} ms | {found['memory']:.0f} MB"
            lines.append(f"| {one['rows']:,} | {one['disk']:.0f} | {engine} | {cells} |")
    return "\n".join([*lines, "", *(f"- {name}: {value}" for name, value in results["facts"].items())]) + "\n"


def main() -> None:
    """Measure, and write the results; or one query, for a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--query", nargs=2, metavar=("INDEX", "ENGINE"))
    given = parser.parse_args()
    if given.query:
        print(json.dumps(query(Path(given.query[0]), given.rows[0], given.query[1], given.rounds)))
        return
    from uniemox.train.run_folder import describe_environment

    facts = {**describe_environment(), "commit": commit_of()}
    queries = [measure_queries(rows, given.rounds) for rows in given.rows]
    results = {"facts": facts, "drawings": measure_drawings(min(given.rounds, 3)), "queries": queries}
    (RESULTS / "search.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / "search.md").write_text(to_page(results))
    print(to_page(results))


if __name__ == "__main__":
    main()
