"""EmoSet as published: lists of images per split, and one JSON annotation for each image."""

import posixpath
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from uniemox.errors import DataError
from uniemox.importers.cells import ATTRIBUTES, attributes, take, word_list
from uniemox.importers.roots import source, wrong_root
from uniemox.importers.samples import ClassNames, Sample, Samples, drop_repeats
from uniemox.importers.specs import DatasetSpec
from uniemox.importers.tables import load_json
from uniemox.importers.tree import Tree
from uniemox.manifests.findings import Findings
from uniemox.manifests.splits import SPLITS
from uniemox.manifests.table import Attributes

_READERS: Final = 8  # Threads that read annotations; most of their time is waiting for the disk
_PER_TASK: Final = 256  # Annotations that a thread reads before it asks for more
_KINDS: Final = {**ATTRIBUTES, "object": word_list}


def read_emoset(spec: DatasetSpec, tree: Tree) -> Samples:
    """Read EmoSet's lists, in both of their forms.

    `info.json`, and at least one of `train.json`, `val.json`, `test.json` with rows `[emotion, image, annotation]`
    (the distributed archive) or `[emotion, name, image, annotation]` (the authors' repository).
    """
    lists = [split for split in SPLITS if tree.kind(f"{split}.json") == "file"]
    if not lists or tree.kind("info.json") != "file":
        raise wrong_root(spec, tree, "info.json and one of train.json, val.json, test.json")
    for split in spec.counts:
        if split not in lists:
            tree.findings.add("list of a split that does not exist", f"{split}.json")
    _check_info(spec, tree.root / "info.json")
    annotations: dict[str, str | None] = {}
    names = ClassNames(spec.classes, tree.findings)
    rows = (row for split in lists for row in _listed(tree, split, names, annotations))
    samples = drop_repeats(rows, tree.findings)
    paths = [_annotation_path(tree, annotations[sample.path]) for sample in samples]
    emotions = [spec.classes[sample.label or 0] for sample in samples]
    known = list(zip(paths, emotions, strict=True))
    tasks = [known[start : start + _PER_TASK] for start in range(0, len(known), _PER_TASK)]
    found: list[Attributes | None] = []
    with ThreadPoolExecutor(_READERS) as pool:
        for of_task, findings in pool.map(partial(_read_annotations, tree.root), tasks):
            found += of_task
            tree.findings.include(findings.problems())
    return Samples(samples=[sample._replace(attributes=of) for sample, of in zip(samples, found, strict=True)])


def _check_info(spec: DatasetSpec, path: Path) -> None:
    info = load_json(path)
    try:
        # One mapping for the emotions alone, or one for each attribute.
        numbers = info.get("emotion", info)["label2idx"]
        found = {str(name): int(index) for name, index in numbers.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} has no label2idx for emotions: it is not {spec.title}'s{source(spec)}") from error
    if found != {name: label for label, name in enumerate(spec.classes)}:
        have = ", ".join(sorted(found, key=lambda name: (found[name], name)))
        raise DataError(
            f"{path} numbers the classes {have}, but {spec.title} has {', '.join(spec.classes)}: is it another set?"
        )


def _listed(
    tree: Tree, split: str, names: ClassNames, annotations: dict[str, str | None]
) -> Iterator[tuple[Sample, str]]:
    """Yield the rows of a list, and note the annotation of each path; what is invalid is counted."""
    rows = load_json(tree.root / f"{split}.json")
    if not isinstance(rows, list):
        raise DataError(f"{tree.root / split}.json is not a list of images: unpack the data set again")
    for number, row in enumerate(rows):
        where = f"row {number} of {split}.json"
        match row:
            case [str(emotion), str(image), str() | None as annotation]:
                pass
            case [str(emotion), str(), str(image), str() | None as annotation]:
                pass
            case _:
                tree.findings.add("row of unknown form", where)
                continue
        label = names.listed(emotion, where)
        path = None if label is None else tree.listed_image(image, where=where)
        if path is not None:
            annotations.setdefault(path, annotation)
            yield Sample(path, label, split), where


def _annotation_path(tree: Tree, annotation: str | None) -> str | None:
    path = posixpath.normpath(annotation) if annotation else ""
    match tree.kind(path) if path else None:
        case "file":
            return path
        case "outside":
            tree.findings.add("path that leaves the root", annotation or "")
        case _:
            tree.findings.add("missing annotation", path or "a row that names none")
    return None


def _read_annotations(root: Path, files: Sequence[tuple[str | None, str]]) -> tuple[list[Attributes | None], Findings]:
    """Read annotations, each by its path and the emotion of its image; what is invalid is counted."""
    found: list[Attributes | None] = []
    findings = Findings()
    for path, emotion in files:
        known = None
        if path is not None:
            try:
                entry = load_json(root / path)
            except DataError:
                entry = None
            if isinstance(entry, dict):
                known = attributes(take(entry, _KINDS, findings, path), objects="object")
                if entry.get("emotion") not in (None, emotion):
                    findings.add("annotation of another emotion", path)
            else:
                findings.add("broken annotation", path)
        found.append(known)
    return found, findings
