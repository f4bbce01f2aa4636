"""EmoSet as published: lists of pictures per split, and one JSON annotation for each picture."""

from __future__ import annotations

import json
import posixpath
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from uniemox.data.layouts.roots import source, wrong_root
from uniemox.data.layouts.samples import ClassNames, Sample, Samples, name_list, share, words
from uniemox.data.manifest import Attributes
from uniemox.data.splits import SPLITS
from uniemox.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from uniemox.data.layouts.tree import Tree
    from uniemox.data.specs import DatasetSpec

_READERS: Final = 8
"""Threads that read annotations; most of their time is waiting for the disk."""
_PER_TASK: Final = 256
"""Annotations that a thread reads before it asks for more."""


def read_emoset(spec: DatasetSpec, tree: Tree) -> Samples:
    """Read EmoSet's lists, in both of their forms.

    `info.json`, and at least one of `train.json`, `val.json`, `test.json` with rows `[emotion, picture, annotation]`
    (the distributed archive) or `[emotion, name, picture, annotation]` (the authors' repository).
    """
    lists = _find_lists(spec, tree)
    _check_info(spec, tree.root / "info.json")
    names = ClassNames(spec.classes, tree.findings)
    samples: list[Sample] = []
    annotations: list[str] = []
    seen: dict[str, str] = {}
    for split in lists:
        for number, row in enumerate(_load_list(tree.root / f"{split}.json")):
            listed = _parse_row(row, names, tree, where=f"row {number} of {split}.json")
            if listed is None:
                continue
            if listed.path in seen:
                again = seen[listed.path] == split
                kind = "picture listed twice" if again else "picture listed in two splits"
                tree.findings.add(kind, listed.path)
                continue
            seen[listed.path] = split
            samples.append(Sample(listed.path, listed.label, split))
            annotations.append(listed.annotation)
    if not samples:
        raise wrong_root(spec, tree, "the pictures that its lists name")
    found = _read_annotations(tree, annotations, [spec.classes[s.label or 0] for s in samples])
    return Samples(
        layout="emoset",
        classes=spec.classes,
        samples=[
            sample._replace(attributes=known) for sample, known in zip(samples, found, strict=True)
        ],
        labelled_by=spec.labelled_by,
    )


class _Listed(NamedTuple):
    path: str
    label: int
    annotation: str


def _find_lists(spec: DatasetSpec, tree: Tree) -> list[str]:
    """Name the splits that have a list; those that were published and have none are counted."""
    lists = [split for split in SPLITS if tree.kind(f"{split}.json") == "file"]
    if not lists or tree.kind("info.json") != "file":
        raise wrong_root(spec, tree, "info.json and one of train.json, val.json, test.json")
    for split in spec.counts:
        if split not in lists:
            tree.findings.add("list of a split that is not there", f"{split}.json")
    return lists


def _check_info(spec: DatasetSpec, path: Path) -> None:
    info = _load_json(path)
    try:
        # One mapping for the emotions alone, or one for each attribute.
        numbers = info.get("emotion", info)["label2idx"]
        found = {str(name): int(index) for name, index in numbers.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} has no label2idx for emotions: it is not {spec.title}'s{source(spec)}"
        ) from error
    if found != {name: label for label, name in enumerate(spec.classes)}:
        have = ", ".join(sorted(found, key=lambda name: (found[name], name)))
        raise DataError(
            f"{path} numbers the classes {have}, but {spec.title} has {', '.join(spec.classes)}: is it another set?"
        )


def _load_list(path: Path) -> list[Any]:
    rows = _load_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path} is not a list of pictures: unpack the data set again")
    return rows


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {path}: {error}; unpack the data set again") from error


def _parse_row(row: Any, names: ClassNames, tree: Tree, *, where: str) -> _Listed | None:
    """Check a row of a list; what is wrong with it is counted, and None returned."""
    match row:
        case [str(emotion), str(picture), str() | None as annotation]:
            pass
        case [str(emotion), str(), str(picture), str() | None as annotation]:
            pass
        case _:
            tree.findings.add("row of unknown form", where)
            return None
    label = names.label(emotion)
    if label is None:
        tree.findings.add("unknown class", f"{emotion} in {where}")
        return None
    path = tree.listed_picture(picture, where=where)
    return None if path is None else _Listed(path, label, annotation or "")


def _read_annotations(
    tree: Tree, annotations: Sequence[str], emotions: Sequence[str]
) -> list[Attributes | None]:
    """Read the annotation of each picture; those that are absent or broken are counted, and None."""
    paths = [_annotation_path(tree, annotation) for annotation in annotations]
    known = [i for i, path in enumerate(paths) if path is not None]
    tasks = [known[start : start + _PER_TASK] for start in range(0, len(known), _PER_TASK)]
    result: list[Attributes | None] = [None] * len(paths)
    with ThreadPoolExecutor(_READERS) as pool:
        read = pool.map(
            lambda task: [_read_annotation(tree.root / str(paths[i])) for i in task], tasks
        )
        for task, annotations_read in zip(tasks, read, strict=True):
            for i, annotation in zip(task, annotations_read, strict=True):
                result[i] = annotation.attributes
                for kind in annotation.problems:
                    tree.findings.add(kind, str(paths[i]))
                if annotation.emotion not in (None, emotions[i]):
                    tree.findings.add("annotation of another emotion", str(paths[i]))
    return result


def _annotation_path(tree: Tree, annotation: str) -> str | None:
    path = posixpath.normpath(annotation) if annotation else ""
    match tree.kind(path) if path else None:
        case "file":
            return path
        case "outside":
            tree.findings.add("path that leaves the root", annotation)
        case _:
            tree.findings.add("missing annotation", path or "a row that names none")
    return None


class _Annotation(NamedTuple):
    attributes: Attributes | None
    emotion: Any = None
    problems: tuple[str, ...] = ()


def _read_annotation(path: Path) -> _Annotation:
    try:
        entry = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return _Annotation(None, problems=("broken annotation",))
    if not isinstance(entry, dict):
        return _Annotation(None, problems=("broken annotation",))
    problems = []

    def check(name: str, value: Any) -> Any:
        if value is None and entry.get(name):
            problems.append(f"{name} of unknown form")
        return value

    attributes = Attributes(
        brightness=check("brightness", share(entry.get("brightness"))),
        colorfulness=check("colorfulness", share(entry.get("colorfulness"))),
        scene=check("scene", words(entry.get("scene"))),
        facial_expression=check("facial_expression", words(entry.get("facial_expression"))),
        human_action=check("human_action", words(entry.get("human_action"))),
        objects=check("object", name_list(entry.get("object"))) or (),
    )
    return _Annotation(attributes, entry.get("emotion"), tuple(problems))
