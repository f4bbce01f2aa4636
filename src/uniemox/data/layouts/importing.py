"""From the name of a data set and its root folder to a manifest: read by its layout, cut by its recipe."""

from __future__ import annotations

import posixpath
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, assert_never

from uniemox.data.boxes import read_boxes
from uniemox.data.findings import Findings, counted
from uniemox.data.layouts.emoset import read_emoset
from uniemox.data.layouts.emotic import read_emotic
from uniemox.data.layouts.emotion6 import add_ground_truth
from uniemox.data.layouts.folders import (
    find_base,
    find_splits,
    read_class_folders,
    read_split_folders,
)
from uniemox.data.layouts.heco import read_heco
from uniemox.data.layouts.hub import read_hub
from uniemox.data.layouts.records import Collector, bind_columns
from uniemox.data.layouts.roots import called, source, wrong_root
from uniemox.data.layouts.samples import Sample, Samples
from uniemox.data.layouts.tables import read_table
from uniemox.data.layouts.tree import Tree
from uniemox.data.manifest import Facts, Manifest, manifest_from_columns
from uniemox.data.recut import UNKNOWN, UNLISTED, describe_list, keep_fraction
from uniemox.data.specs import SPECS, Recipe, get_spec
from uniemox.data.splits import (
    SPLITS,
    assign_splits,
    describe_split,
    paths_below,
    read_split_list,
    split_rows,
)
from uniemox.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from uniemox.data.findings import Problem
    from uniemox.data.specs import DatasetSpec, Labelling, Layout, Ratios

_SHOWN: Final = 3
"""Classes that a note about published numbers names."""


@dataclass(frozen=True)
class Import:
    """A manifest, and what was wrong with the data set it was made of."""

    manifest: Manifest
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()
    """What is worth knowing though nothing is wrong, each in one line."""


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What the caller asked of the reader of one layout."""

    labels: Labelling | None
    table: Path | None
    columns: Mapping[str, str]
    classes: tuple[str, ...]
    pictures: Path | None


def import_dataset(
    name: str,
    root: Path,
    *,
    people: Path | None = None,
    ratios: Ratios | None = None,
    seed: int = 0,
    fraction: float | None = None,
    split_list: Path | None = None,
    labels: Labelling | None = None,
    table: Path | None = None,
    columns: Mapping[str, str] | None = None,
    classes: Sequence[str] = (),
    pictures: Path | None = None,
    strict: bool = False,
) -> Import:
    """Read a data set from disk.

    Args:
        name: Name of the data set in the table of `specs`; `folders`, `split-folders`, `table` and `hf` read any data.
        root: Folder of the data set; paths of the manifest are relative to it.
        people: File of person boxes, in pixels of upright pictures, in the forms of `boxes.read_boxes`: CSV or TSV
            with the header `path,x0,y0,x1,y1[,score]` and one line per person, or COCO's JSON.
        ratios: Shares of train, val and test, for a set that is not split. None takes the published ones.
        seed: Seed of that split, and of the fraction.
        fraction: Share of train to keep, per class; a smaller one is part of every larger one of the same seed.
        split_list: File or folder that says the split of each picture, in the forms of `splits.read_split_list`; it
            takes the place of the set's own splits.
        labels: What Emotion6's labels are: the folder, the majority of raters, or their distribution.
        table: The table of `table`: CSV, TSV, JSON lines or Parquet.
        columns: Which column of `table` or `hf` has which role, where its heading does not say it.
        classes: Names of the labels, in order, of data that is in no table of `specs`.
        pictures: Folder to write pictures to that lie in the tables of `hf`; it becomes the manifest's root.
        strict: Whether any problem is an error.

    Returns:
        The manifest, rows of train before val before test, the problems by kind, and notes.

    Raises:
        DataError: The root does not hold the data set, a list or the boxes cannot be read, or `strict` met a problem.
        ConfigError: Ratios are missing, wrong, or given for a set that is split already; or something was asked for
            that this layout does not have.
    """
    spec = get_spec(name)
    asked = _Asked(
        labels=labels,
        table=table,
        columns=columns or {},
        classes=tuple(classes),
        pictures=pictures,
    )
    _check_asked(spec, asked)
    if not root.is_dir():
        raise DataError(f"no folder at {root}: give the folder of {called(spec)}{source(spec)}")
    findings = Findings()
    tree = Tree(root, findings)
    found = _read(spec, tree, asked)
    found, recipe = _split(spec, tree, found, ratios=ratios, seed=seed, split_list=split_list)
    if people is not None:
        found = _add_people(found, people, findings)
    _compare_with_published(spec, found, findings)
    _count_empty_classes(found, findings)
    _doubt_single_class(found, findings)
    problems = findings.problems()
    if strict and problems:
        raise DataError(
            f"{root} has problems: {'; '.join(map(str, problems))}; mend them, or import it without --strict"
        )
    # Data that is in no table is called like its folder.
    own = "" if spec.classes else root.resolve().name
    facts = Facts(
        name=own or spec.name,
        title=own or spec.title,
        classes=found.classes,
        emotion=spec.emotion,
        root=found.root or root,
        licence=spec.licence,
        url=spec.url,
        citation=spec.citation,
        layout=found.layout,
        labelled_by=found.labelled_by,
        split_recipe=recipe,
        people_source=found.people_source,
        vad_range=found.vad_range,
    )
    manifest = manifest_from_columns(facts, **_columns(found.samples))
    if fraction is not None:
        manifest = keep_fraction(manifest, fraction=fraction, seed=seed).manifest
    return Import(manifest, problems, findings.notes())


def _columns(samples: Sequence[Sample]) -> dict[str, Any]:
    """Turn samples into the columns of a manifest; those that no sample has are left out."""
    entries: dict[str, list[Any]] = {
        "labels": [sample.label for sample in samples],
        "label_sets": [sample.label_set for sample in samples],
        "attributes": [sample.attributes for sample in samples],
        "people": [sample.boxes for sample in samples],
        "groups": [sample.group for sample in samples],
        "distributions": [sample.distribution for sample in samples],
        "vad": [sample.vad for sample in samples],
    }
    empty = (None, ())
    known = {
        name: column for name, column in entries.items() if any(v not in empty for v in column)
    }
    return {
        "paths": [sample.path for sample in samples],
        "splits": [sample.split for sample in samples],
        "people": entries["people"],
        **known,
    }


# --- Reading ---------------------------------------------------------------------------------------------------------


def _check_asked(spec: DatasetSpec, asked: _Asked) -> None:
    """Refuse what this layout does not have, instead of passing it over."""
    has: dict[str, tuple[bool, Sequence[Layout]]] = {
        "--labels": (asked.labels is not None, ("emotion6",)),
        "--table": (asked.table is not None, ("table",)),
        "--columns": (bool(asked.columns), ("table", "hub")),
        "--pictures": (asked.pictures is not None, ("hub",)),
    }
    for flag, (is_given, layouts) in has.items():
        if is_given and spec.layout not in layouts:
            takers = " or ".join(other.name for other in SPECS.values() if other.layout in layouts)
            raise ConfigError(f"{flag} goes with {takers} data, not with {spec.name}")
    if asked.classes and spec.classes:
        raise ConfigError(
            f"{spec.title} has classes of its own, {', '.join(spec.classes)}: leave out --classes"
        )
    if len(set(asked.classes)) < len(asked.classes):
        raise ConfigError(f"--classes names one twice: {', '.join(asked.classes)}")
    if spec.layout == "table" and asked.table is None:
        raise ConfigError("name the table: --table FILE (CSV, TSV, JSON lines or Parquet)")


def _read(spec: DatasetSpec, tree: Tree, asked: _Asked) -> Samples:
    spec = replace(spec, classes=spec.classes or asked.classes)
    match spec.layout:
        case "emoset":
            return read_emoset(spec, tree)
        case "class_folders" | "object_folders" | "split_folders" | "emotion6":
            return _read_folders(spec, tree, asked)
        case "heco":
            return read_heco(spec, tree)
        case "emotic":
            return read_emotic(spec, tree)
        case "table":
            return _read_table(spec, tree, asked)
        case "hub":
            return read_hub(
                spec, tree, columns=asked.columns, classes=spec.classes, pictures=asked.pictures
            )
        case _:
            assert_never(spec.layout)


def _read_folders(spec: DatasetSpec, tree: Tree, asked: _Asked) -> Samples:
    """Read folders of classes, or of splits: the authors of UniEmoX cut sets that have no splits of their own."""
    base = find_base(spec, tree)
    cut = [place for place in (base, "") if find_splits(tree, place)]
    if spec.layout == "split_folders" or (cut and spec.name != "folders"):
        found = read_split_folders(spec, tree, cut[0] if cut else base)
    else:
        found = read_class_folders(spec, tree, base)
    if spec.layout == "emotion6":
        return add_ground_truth(spec, tree, found, labelling=asked.labels or "folder")
    return found


def _read_table(spec: DatasetSpec, tree: Tree, asked: _Asked) -> Samples:
    assert asked.table is not None
    table = read_table(asked.table, tree.findings)
    columns = bind_columns(table.headings, asked.columns, where=str(asked.table))

    def find_picture(cell: object, where: str) -> str | None:
        if isinstance(cell, str):
            return tree.listed_picture(tree.relative(cell), where=where)
        tree.findings.add("row without a picture", where)
        return None

    collector = Collector(columns, tree.findings, find_picture=find_picture)
    for record in table.records:
        collector.add(record)
    classes, samples = collector.finish(spec.classes)
    if not samples:
        raise wrong_root(spec, tree, f"the pictures that {asked.table} names")
    return Samples(layout="table", classes=classes, samples=samples)


# --- Splits ----------------------------------------------------------------------------------------------------------


def _split(
    spec: DatasetSpec,
    tree: Tree,
    found: Samples,
    *,
    ratios: Ratios | None,
    seed: int,
    split_list: Path | None,
) -> tuple[Samples, str]:
    """Give each sample a split, and say how."""
    if split_list is not None:
        if ratios is not None:
            raise ConfigError(
                "a list of splits leaves nothing to cut: leave out --ratios or --split-list"
            )
        found, told = _split_by_list(tree, found, split_list)
    else:
        found, told = _cut(spec, tree, found, ratios=ratios, seed=seed)
    samples = sorted(found.samples, key=lambda sample: _place(sample.split))
    return replace(found, samples=samples), told


def _place(split: str | None) -> tuple[int, str]:
    """Order splits: train, val, test, then any others by name."""
    return (SPLITS.index(split), "") if split in SPLITS else (len(SPLITS), split or "")


def _split_by_list(tree: Tree, found: Samples, path: Path) -> tuple[Samples, str]:
    listed = read_split_list(path)
    paths = [sample.path for sample in found.samples]
    assigned = assign_splits(paths, listed)
    if found.base and len(assigned.unlisted) == len(paths):
        # The list may name pictures below the folder that holds all of them.
        assigned = assign_splits([_below(path, found.base) for path in paths], listed)
    for unlisted in assigned.unlisted:
        tree.findings.add(UNLISTED, unlisted)
    for unknown in assigned.unknown:
        tree.findings.add(UNKNOWN, unknown)
    samples = [
        sample._replace(split=split)
        for sample, split in zip(found.samples, assigned.splits, strict=True)
        if split is not None
    ]
    if not samples:
        raise DataError(f"the split list {path} names no picture of {tree.root}")
    return replace(found, samples=samples), describe_list(listed, path)


def _cut(
    spec: DatasetSpec, tree: Tree, found: Samples, *, ratios: Ratios | None, seed: int
) -> tuple[Samples, str]:
    """Cut the samples that have no split."""
    open_samples = [sample for sample in found.samples if sample.split is None]
    if ratios is not None and len(open_samples) < len(found.samples):
        raise ConfigError(
            f"{spec.title} in {tree.root} is split already: leave out --ratios, "
            "or cut the manifest anew with `uniemox data split`"
        )
    if not open_samples:
        return found, "given"
    recipe = spec.recipe if ratios is None else Recipe(ratios)
    if recipe is None:
        raise ConfigError(f"{tree.root} comes without splits: give --ratios, for example 80/5/15")
    # One entry per picture: people in one picture are not torn apart, and each picture counts once.
    pictures: dict[str, list[Sample]] = {}
    for sample in open_samples:
        pictures.setdefault(sample.path, []).append(sample)
    every = sorted({sample.path for sample in found.samples})
    below = dict(zip(every, paths_below(every), strict=True))
    splits = split_rows(
        [below[path] for path in pictures],
        [_stratum(people) for people in pictures.values()],
        ratios=recipe.ratios,
        seed=seed,
        groups=_groups(pictures, recipe),
        rounding=recipe.rounding,
    )
    split_of = dict(zip(pictures, splits, strict=True))
    samples = [
        sample if sample.split else sample._replace(split=split_of[sample.path])
        for sample in found.samples
    ]
    grouped = any(sample.group for sample in open_samples) and recipe.cuts == "all"
    told = describe_split(
        ratios=recipe.ratios,
        by=_cut_by(found, several=len(pictures) < len(open_samples)),
        seed=seed,
        grouped_by="group" if grouped else "",
        rounding=recipe.rounding,
    )
    return replace(
        found, samples=samples
    ), f"given train; test cut {told}" if recipe.cuts == "test" else told


def _cut_by(found: Samples, *, several: bool) -> str:
    if found.layout == "object_folders":
        return "class and object"
    return "class of most people" if several else "class"


def _groups(pictures: Mapping[str, list[Sample]], recipe: Recipe) -> list[str | None] | None:
    """Give the group of each picture, where there are any; the official cut of a test split knows of none."""
    groups = [people[0].group for people in pictures.values()]
    return groups if any(groups) and recipe.cuts == "all" else None


def _stratum(people: Sequence[Sample]) -> str:
    """Tell what a picture is cut with: its class or set of classes, or that of most people in it."""
    counts = Counter(
        sample.stratum if sample.stratum is not None else f"{sample.label} {sample.label_set}"
        for sample in people
    )
    most = max(counts.values())
    return min(name for name, count in counts.items() if count == most)


def _below(path: str, base: str) -> str:
    """Make a path relative to the folder of the pictures."""
    return posixpath.relpath(path, base) if base else path


# --- People ----------------------------------------------------------------------------------------------------------


def _add_people(found: Samples, path: Path, findings: Findings) -> Samples:
    """Give the boxes of a file to the samples that have none of their own: those of HECO and EMOTIC are people."""
    assigned = read_boxes(path).assign(sample.path for sample in found.samples if not sample.boxes)
    findings.include(assigned.problems)
    boxes = {name: one.boxes for name, one in zip(assigned.paths, assigned.found, strict=True)}
    samples = [
        sample if sample.boxes else sample._replace(boxes=boxes.get(sample.path))
        for sample in found.samples
    ]
    told = f"{found.people_source}; others from {path.name}" if found.people_source else path.name
    return replace(found, samples=samples, people_source=told)


# --- Notes -----------------------------------------------------------------------------------------------------------


def _compare_with_published(spec: DatasetSpec, found: Samples, findings: Findings) -> None:
    """Note where a set has other numbers of pictures than were published."""
    pictures = len({sample.path for sample in found.samples})
    if spec.pictures is not None and pictures != spec.pictures:
        findings.remark(f"{counted(pictures, 'picture')}, where {spec.pictures:,} are published")
    counts = Counter((sample.split, sample.label) for sample in found.samples)
    for split, published in spec.counts.items():
        other = [
            f"{name} {counts[split, label]:,} of {count:,}"
            for label, (name, count) in enumerate(zip(spec.classes, published, strict=True))
            if counts[split, label] != count
        ]
        if other and len(other) < len(published):  # else the picture count has said it
            more = f" and {len(other) - _SHOWN} more" if len(other) > _SHOWN else ""
            findings.remark(
                f"{split} differs from what is published: {', '.join(other[:_SHOWN])}{more}"
            )


def _doubt_single_class(found: Samples, findings: Findings) -> None:
    """Note data of one class alone: mostly the root is a level too high."""
    if len(found.classes) == 1:
        findings.remark(f"all are of one class, {found.classes[0]}: is --root the right folder?")


def _count_empty_classes(found: Samples, findings: Findings) -> None:
    """Count classes that no sample has; folders have told theirs."""
    if found.layout in ("class_folders", "object_folders", "split_folders", "emotion6"):
        return
    used = {sample.label for sample in found.samples}
    used.update(*(sample.label_set or () for sample in found.samples))
    if found.samples and not any(sample.distribution for sample in found.samples):
        for label, name in enumerate(found.classes):
            if label not in used:
                findings.add("class without a picture", name)
