"""What Emotion6 knows beside its folders: `ground_truth.txt`, the raters' valence, arousal and seven shares.

The folder of a picture is the keyword that it was searched with, not what its raters chose. So there are three tasks:

- `folder`: six classes, the keyword. The distribution holds the raters' six shares as published; they add up to 1 less
  the share of neutral, which so stays visible.
- `majority`: seven classes, neutral being the last; the label is the largest share. Pictures whose largest share is
  shared by several classes have no majority, and are left out.
- `distribution`: the same seven classes, and every picture; the label is the largest share, among equals the keyword,
  or else the first class of them.
"""

from __future__ import annotations

import posixpath
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple, assert_never

from uniemox.data.layouts.roots import source
from uniemox.data.layouts.samples import number
from uniemox.data.layouts.tables import read_text
from uniemox.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from uniemox.data.layouts.samples import Sample, Samples
    from uniemox.data.layouts.tree import Tree
    from uniemox.data.specs import DatasetSpec, Labelling

_FILE: Final = "ground_truth.txt"
_NEUTRAL: Final = "neutral"
_SCALE: Final = (1.0, 9.0)
_LABELLED_BY: Final[dict[Labelling, str]] = {
    "folder": "the keyword that pictures were searched with",
    "majority": "the largest share of raters, neutral being one of seven classes",
    "distribution": "the shares of raters, neutral being one of seven classes; the label is the largest",
}


class _Truth(NamedTuple):
    valence: float
    arousal: float
    shares: tuple[float, ...]
    """Of the six classes in label order, then of neutral; together 1."""


def add_ground_truth(
    spec: DatasetSpec, tree: Tree, found: Samples, *, labelling: Labelling
) -> Samples:
    """Give each picture its shares, valence and arousal, and the label that is asked for."""
    path = tree.find(_FILE, "file")
    if path is None:
        if labelling != "folder":
            raise DataError(
                f"{tree.root} has no {_FILE}, which holds the labels by {labelling}: "
                f"leave out --labels, or unpack it beside the pictures{source(spec)}"
            )
        tree.findings.remark(f"there is no {_FILE}: pictures have no valence, arousal and shares")
        return replace(found, labelled_by=_LABELLED_BY["folder"])
    truths = _read_truths(spec, tree, path)
    classes = found.classes if labelling == "folder" else (*found.classes, _NEUTRAL)
    samples = []
    for sample in found.samples:
        # The folders of splits are no part of the names in the list, and basenames repeat across classes.
        truth = truths.get("/".join(sample.path.casefold().split("/")[-2:]))
        if truth is None:
            tree.findings.add(f"missing line of {_FILE}", sample.path)
        told = _with_truth(sample, truth, tree, labelling=labelling)
        if told is not None:
            samples.append(told)
    if not samples:
        raise DataError(f"{tree.root / path} names none of the pictures: is it another set's?")
    return replace(
        found,
        classes=classes,
        samples=samples,
        labelled_by=_LABELLED_BY[labelling],
        vad_range=_SCALE,
    )


def _with_truth(
    sample: Sample, truth: _Truth | None, tree: Tree, *, labelling: Labelling
) -> Sample | None:
    # The published recipe cuts by folder, whatever the label.
    sample = sample._replace(stratum=str(sample.label))
    if truth is None:
        return sample if labelling == "folder" else None
    vad = (truth.valence, truth.arousal, None)
    largest = [i for i, share in enumerate(truth.shares) if share == max(truth.shares)]
    match labelling:
        case "folder":
            return sample._replace(distribution=truth.shares[:-1], vad=vad)
        case "majority":
            if len(largest) > 1:
                tree.findings.note("picture without a majority, left out", sample.path)
                return None
            return sample._replace(label=largest[0], distribution=truth.shares, vad=vad)
        case "distribution":
            label = sample.label if sample.label in largest else largest[0]
            return sample._replace(label=label, distribution=truth.shares, vad=vad)
        case _:
            assert_never(labelling)


def _read_truths(spec: DatasetSpec, tree: Tree, path: str) -> Mapping[str, _Truth]:
    """Read the lines of the file by picture, `class/number.jpg` in lower case."""
    header, *lines = read_text(tree.root / path).splitlines() or [""]
    columns = [
        column.strip().strip("[]").removeprefix("prob.").strip() for column in header.split("\t")
    ]
    wanted = ("image_filename", "valence", "arousal", *spec.classes, _NEUTRAL)
    if not set(wanted) <= set(columns):
        missing = ", ".join(name for name in wanted if name not in columns)
        raise DataError(
            f"{tree.root / path} has no column {missing} in its first line: unpack the set again"
        )
    places = [columns.index(name) for name in wanted]
    truths: dict[str, _Truth] = {}
    for count, line in enumerate(lines, start=2):
        cells = line.split("\t")
        if not line.strip():
            continue
        where = f"line {count} of {_FILE}"
        values = [cells[place].strip() if place < len(cells) else "" for place in places]
        name, truth = posixpath.normpath(values[0]).casefold(), _parse_truth(values[1:])
        if truth is None:
            tree.findings.add("line of unknown form", where)
        elif name in truths:
            tree.findings.add("picture listed twice", f"{values[0]} in {where}")
        else:
            truths[name] = truth
    return truths


def _parse_truth(values: list[str]) -> _Truth | None:
    numbers = [found for found in map(number, values) if found is not None]
    if len(numbers) < len(values):
        return None
    valence, arousal, *shares = numbers
    total = sum(shares)
    if min(shares) < 0 or not 0.9 < total < 1.1:  # published with six digits
        return None
    return _Truth(valence, arousal, tuple(share / total for share in shares))
