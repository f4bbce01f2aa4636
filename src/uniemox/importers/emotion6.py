"""What Emotion6 knows beside its folders: `ground_truth.txt`, the raters' valence, arousal and seven shares.

The folder of an image is the keyword that it was searched with, not what its raters chose. So there are three tasks:

- `folder`: six classes, the keyword. The distribution holds the raters' six shares as published; they add up to 1 less
  the share of neutral, which so stays visible.
- `majority`: seven classes, neutral being the last; the label is the largest share. Images with several largest shares
  have no majority, and are skipped.
- `distribution`: the same seven classes, and every image; the label is the largest share, among equals the keyword,
  or else the first class of them.
"""

import posixpath
from dataclasses import replace
from typing import Final, assert_never

from uniemox.config.data import Labelling
from uniemox.errors import DataError
from uniemox.files.cells import number
from uniemox.files.delimited import read_text
from uniemox.importers.cells import Vad
from uniemox.importers.roots import source
from uniemox.importers.samples import Sample, Samples
from uniemox.importers.specs import DatasetSpec
from uniemox.importers.tree import Tree

_FILE: Final = "ground_truth.txt"
_NEUTRAL: Final = "neutral"
_SCALE: Final = (1.0, 9.0)
_LABELLED_BY: Final[dict[Labelling, str]] = {
    "folder": "the keyword that images were searched with",
    "majority": "the largest share of raters, neutral being one of seven classes",
    "distribution": "the shares of raters, neutral being one of seven classes; the label is the largest",
}


_Truth = tuple[Vad, tuple[float, ...]]  # Valence, arousal; shares of six classes, then of neutral: sum 1


def add_ground_truth(spec: DatasetSpec, tree: Tree, found: Samples, *, labelling: Labelling) -> Samples:
    """Add to each image its shares, valence and arousal, and the label of a task."""
    path = tree.find(_FILE, "file")
    if path is None:
        if labelling != "folder":
            raise DataError(
                f"{tree.root} has no {_FILE}, which holds the labels by {labelling}: "
                f"omit `labels`, or unpack it beside the images{source(spec)}"
            )
        tree.findings.remark(f"{_FILE} not found: images have no valence, arousal and shares")
        return replace(found, labelled_by=_LABELLED_BY["folder"])
    truths = _read_truths(spec, tree, path)
    samples = []
    for sample in found.samples:
        # The folders of splits are no part of the names in the list, and basenames repeat across classes.
        truth = truths.get("/".join(sample.path.casefold().split("/")[-2:]))
        if truth is None:
            tree.findings.add(f"missing line of {_FILE}", sample.path)
        labelled = _with_truth(sample, truth, tree, labelling=labelling)
        if labelled is not None:
            samples.append(labelled)
    if not samples:
        raise DataError(f"{tree.root / path} names none of the images: is it another set's?")
    classes = found.classes if labelling == "folder" else (*found.classes, _NEUTRAL)
    return replace(found, classes=classes, samples=samples, labelled_by=_LABELLED_BY[labelling], vad_range=_SCALE)


def _with_truth(sample: Sample, truth: _Truth | None, tree: Tree, *, labelling: Labelling) -> Sample | None:
    # The published recipe cuts by folder, whatever the label.
    sample = sample._replace(stratum=str(sample.label))
    if truth is None:
        return sample if labelling == "folder" else None
    vad, shares = truth
    sample = sample._replace(distribution=shares, vad=vad)
    largest = [i for i, share in enumerate(shares) if share == max(shares)]
    match labelling:
        case "folder":
            return sample._replace(distribution=shares[:-1])
        case "majority" if len(largest) > 1:
            tree.findings.note("image without a majority, skipped", sample.path)
            return None
        case "majority" | "distribution":
            return sample if sample.label in largest else sample._replace(label=largest[0])
        case _:
            assert_never(labelling)


def _read_truths(spec: DatasetSpec, tree: Tree, path: str) -> dict[str, _Truth]:
    """Read the lines of the file by image, `class/number.jpg` in lower case."""
    header, *lines = read_text(tree.root / path).splitlines() or [""]
    columns = [column.strip().strip("[]").removeprefix("prob.").strip() for column in header.split("\t")]
    wanted = ("image_filename", "valence", "arousal", *spec.classes, _NEUTRAL)
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise DataError(
            f"{tree.root / path} has no column {', '.join(missing)} in its first line: unpack the set again"
        )
    truths: dict[str, _Truth] = {}
    for count, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        where = f"line {count} of {_FILE}"
        row = dict(zip(columns, map(str.strip, line.split("\t")), strict=False))
        listed, *cells = (row.get(name, "") for name in wanted)
        name, truth = posixpath.normpath(listed).casefold(), _parse_truth(cells)
        if truth is None:
            tree.findings.add("line of unknown form", where)
        elif name in truths:
            tree.findings.add("image listed twice", f"{listed} in {where}")
        else:
            truths[name] = truth
    return truths


def _parse_truth(cells: list[str]) -> _Truth | None:
    numbers = [found for found in map(number, cells) if found is not None]
    if len(numbers) < len(cells):
        return None
    valence, arousal, *shares = numbers
    total = sum(shares)
    if min(shares) < 0 or not 0.9 < total < 1.1:  # published with six digits
        return None
    return (valence, arousal, None), tuple(share / total for share in shares)
