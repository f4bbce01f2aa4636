"""From the name of a data set and its root folder to a manifest: read by its layout, cut by its recipe."""

import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, assert_never

from uniemox.config.data import Labelling, Ratios, Scale
from uniemox.config.people import BoxUnits
from uniemox.errors import ConfigError, DataError
from uniemox.importers.emoset import read_emoset
from uniemox.importers.emotic import read_emotic
from uniemox.importers.emotion6 import add_ground_truth
from uniemox.importers.findingemo import read_findingemo
from uniemox.importers.folders import read_folders
from uniemox.importers.heco import read_heco
from uniemox.importers.hub import read_hub
from uniemox.importers.ratings import put_on_scale
from uniemox.importers.records import Collector, Columns, Source, bind_columns, find_labels, find_more
from uniemox.importers.roots import called, source, wrong_root
from uniemox.importers.samples import Sample, Samples
from uniemox.importers.specs import SPECS, DatasetSpec, Layout, Recipe, get_spec
from uniemox.importers.tables import Record, Table, read_table
from uniemox.importers.tree import Tree
from uniemox.manifests.findings import Findings, Problem
from uniemox.manifests.recut import describe_list, keep_fraction, misfits
from uniemox.manifests.splits import assign_splits, describe_split, paths_below, read_split_list, split_rows
from uniemox.manifests.table import Facts, Manifest, manifest_from_columns, manifest_from_table
from uniemox.people.boxes import are_shares, find_person_column, is_person, read_boxes, scale_boxes
from uniemox.wording import counted, name_first

_LAYOUTS: Final[dict[str, tuple[Layout, ...]]] = {
    "labels": ("emotion6",),
    "table": ("table",),
    "columns": ("table", "hub"),
    "scale": ("table", "hub", "heco"),
    "pictures": ("hub",),
}  # Arguments that are for some layouts alone


@dataclass(frozen=True)
class Import:
    """A manifest, and the problems of the data set that it was made of."""

    manifest: Manifest
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()  # What is worth knowing though it is no problem, each in one line


def import_dataset(
    name: str,
    root: Path,
    *,
    people: Path | None = None,
    box_units: BoxUnits = "auto",
    ratios: Ratios | None = None,
    seed: int = 0,
    fraction: float | None = None,
    split_list: Path | None = None,
    labels: Labelling | None = None,
    table: Path | None = None,
    columns: Mapping[str, str] | None = None,
    scale: Scale | None = None,
    classes: Sequence[str] = (),
    pictures: Path | None = None,
    strict: bool = False,
) -> Import:
    """Read a data set from disk.

    Args:
        name: Name of the data set in the table of `specs`; `folders`, `split-folders`, `table` and `hf` read any data.
        root: Folder of the data set; paths of the manifest are relative to it.
        people: File of person boxes, in pixels of upright images, in the forms of `boxes.read_boxes`: CSV or TSV
            with the header `path,x0,y0,x1,y1[,score]` and one line per person, or COCO's JSON.
        box_units: What the numbers of these boxes, and of those in the table of `table` or `hf`, are: pixels, or shares
            of the image's sides; `auto` takes them for shares if none reaches beyond 1.5.
        ratios: Shares of train, val and test, for a set that is not split. None takes the published ones.
        seed: Seed of that split, and of the fraction.
        fraction: Share of train to keep, per class; a smaller one is part of every larger one of the same seed.
        split_list: File or folder with the split of each image, in the forms of `splits.read_split_list`, instead of
            the set's own splits.
        labels: What Emotion6's labels are: the folder, the majority of raters, or their distribution.
        table: The table of `table`: CSV, TSV, JSON lines or Parquet.
        columns: Role to heading, for columns of `table` or `hf` without a usual heading.
        scale: Ends of the scale of valence, arousal and dominance of `table`, `hf` or `heco`; without it they are kept
            but cannot be trained on. Ratings beyond a set's scale are counted and skipped.
        classes: Names of the labels, in order, of data that is in no table of `specs`.
        pictures: Folder to write images to that lie in the tables of `hf`; it becomes the manifest's root.
        strict: Whether any problem is an error.

    Returns:
        The manifest, rows of train before val before test, the problems by kind, and notes.

    Raises:
        DataError: The root does not hold the data set, a list or the boxes cannot be read, or `strict` met a problem.
        ConfigError: Ratios are missing, invalid, or given for a set that is split already; or an argument is about
            another layout.
    """
    spec = get_spec(name)
    options = {"labels": labels, "table": table, "columns": columns, "scale": scale, "pictures": pictures}
    _check_options(spec, [option for option, value in options.items() if value], classes)
    if not root.is_dir():
        raise DataError(f"no folder at {root}: give the folder of {called(spec)}{source(spec)}")
    findings = Findings()
    tree = Tree(root, findings)
    found = _read(
        replace(spec, classes=spec.classes or tuple(classes)),
        tree,
        labels=labels,
        table=table,
        columns=columns or {},
        images=pictures,
    )
    if not found.samples:
        raise wrong_root(spec, tree, f"the images that {'its lists name' if table is None else f'{table} names'}")
    found = replace(found, classes=found.classes or spec.classes, layout=found.layout or spec.layout)
    if spec.layout in ("table", "hub"):
        found = _in_pixels(found, found.root or root, box_units, findings)
    found = put_on_scale(found, scale, findings)
    if split_list is None:
        found, recipe = _cut(spec, tree, found, ratios=ratios, seed=seed)
    elif ratios is not None:
        raise ConfigError("a list of splits leaves nothing to cut: omit `ratios` or `split_list`")
    else:
        found, recipe = _split_by_list(tree, found, split_list)
    if people is not None:
        found = _add_people(found, people, findings, root=found.root or root, units=box_units)
    _compare_with_published(spec, found, findings)
    _count_empty_classes(found, findings)
    problems = findings.problems()
    if strict and problems:
        raise DataError(f"{root} has problems: {'; '.join(map(str, problems))}; fix them, or omit `strict`")
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
        layout=found.layout or "",
        labelled_by=found.labelled_by or spec.labelled_by,
        split_recipe=recipe,
        people_source=found.people_source,
        vad_range=found.vad_range,
    )
    manifest = _to_manifest(facts, found.samples)
    if fraction is not None:
        manifest = keep_fraction(manifest, fraction=fraction, seed=seed)
    return Import(manifest, problems, findings.notes())


def _to_manifest(facts: Facts, samples: Sequence[Sample]) -> Manifest:
    """Make rows of samples, those of train before those of val and test."""
    manifest = manifest_from_columns(
        facts,
        paths=[sample.path for sample in samples],
        splits=[sample.split or "" for sample in samples],
        labels=[sample.label for sample in samples],
        label_sets=[sample.label_set for sample in samples],
        attributes=[sample.attributes for sample in samples],
        people=[sample.boxes for sample in samples],
        groups=[sample.group for sample in samples],
        distributions=[sample.distribution for sample in samples],
        vad=[sample.vad for sample in samples],
    )
    return manifest_from_table(facts, manifest.table)


def _check_options(spec: DatasetSpec, given: Sequence[str], classes: Sequence[str]) -> None:
    """Refuse arguments that this layout has no use for, instead of ignoring them."""
    for name in given:
        layouts = _LAYOUTS[name]
        if spec.layout not in layouts:
            takers = " or ".join(other.name for other in SPECS.values() if other.layout in layouts)
            raise ConfigError(f"`{name}` goes with {takers} data, not with {spec.name}")
    if classes and spec.classes:
        raise ConfigError(f"{spec.title} has classes of its own, {', '.join(spec.classes)}: omit `classes`")
    if len(set(classes)) < len(classes):
        raise ConfigError(f"`classes` names one twice: {', '.join(classes)}")
    if spec.layout == "table" and "table" not in given:
        raise ConfigError("name the table: `table` FILE (CSV, TSV, JSON lines or Parquet)")


def _read(
    spec: DatasetSpec,
    tree: Tree,
    *,
    labels: Labelling | None,
    table: Path | None,
    columns: Mapping[str, str],
    images: Path | None,
) -> Samples:
    match spec.layout:
        case "emoset":
            return read_emoset(spec, tree)
        case "class_folders" | "object_folders" | "split_folders":
            return read_folders(spec, tree)
        case "emotion6":
            return add_ground_truth(spec, tree, read_folders(spec, tree), labelling=labels or "folder")
        case "heco":
            return read_heco(spec, tree)
        case "emotic":
            return read_emotic(spec, tree)
        case "findingemo":
            return read_findingemo(spec, tree)
        case "table":
            assert table is not None
            return _read_table(spec, tree, table, columns)
        case "hub":
            return read_hub(spec, tree, columns=columns, images=images)
        case _:
            assert_never(spec.layout)


def _read_table(spec: DatasetSpec, tree: Tree, path: Path, given: Mapping[str, str]) -> Samples:
    table = read_table(path, tree.findings)

    def find_image(cell: object, where: str) -> str | None:
        if isinstance(cell, str):
            return tree.listed_image(tree.relative(cell), where=where)
        tree.findings.add("row without an image", where)
        return None

    columns = bind_columns(table.headings, given, where=str(path))
    find_labels(table, columns, tree.findings, noted=(), where=str(path))
    find_more(table, columns, tree.findings)
    rows = Source(columns, has_decimal_comma=table.has_decimal_comma)
    collector = Collector(tree.findings, find_image=find_image)
    for record in _people_of(table, columns, tree.findings):
        collector.add(record, rows)
    return collector.finish(spec.classes)


def _people_of(table: Table, columns: Columns, findings: Findings) -> Iterable[Record]:
    """Keep the rows of persons where the rows are boxes and a column says what a detector found; else all."""
    if "x0" not in columns:
        return table.records
    records = list(table.records)
    named = find_person_column(table.headings, (record.cells for record in records))
    if named is None:
        return records
    people = [record for record in records if is_person(str(record.cells.get(named)))]
    if others := len(records) - len(people):
        findings.remark(f"{counted(others, 'row')} skipped: no person by the column {named}")
    return people


def _split_by_list(tree: Tree, found: Samples, path: Path) -> tuple[Samples, str]:
    """Give the samples the splits of a list; returns the recipe as well."""
    listed = read_split_list(path)
    paths = [sample.path for sample in found.samples]
    assigned = assign_splits(paths, listed)
    if found.base and len(assigned.unlisted) == len(paths):
        # The list may name images below the folder that holds all of them.
        assigned = assign_splits([posixpath.relpath(path, found.base) for path in paths], listed)
    tree.findings.include(misfits(assigned))
    rows = zip(found.samples, assigned.splits, strict=True)
    samples = [sample._replace(split=split) for sample, split in rows if split is not None]
    if not samples:
        raise DataError(f"the split list {path} names no image of {tree.root}")
    return replace(found, samples=samples), describe_list(listed, path)


def _cut(spec: DatasetSpec, tree: Tree, found: Samples, *, ratios: Ratios | None, seed: int) -> tuple[Samples, str]:
    """Cut the samples that have no split; returns the recipe as well."""
    uncut = [sample for sample in found.samples if sample.split is None]
    if ratios is not None and len(uncut) < len(found.samples):
        raise ConfigError(
            f"{tree.root} is split already: omit `ratios`, or cut the manifest again with `uniemox data split`"
        )
    if not uncut:
        return found, "given"
    recipe = spec.recipe if ratios is None else Recipe(ratios)
    if recipe is None:
        raise ConfigError(f"{tree.root} comes without splits: give `ratios`, for example 80/5/15")
    # One entry per image: people in one image are not torn apart, and each image counts once.
    people: dict[str, list[Sample]] = {}
    for sample in uncut:
        people.setdefault(sample.path, []).append(sample)
    every = sorted({sample.path for sample in found.samples})
    below = dict(zip(every, paths_below(every), strict=True))
    groups = [of_image[0].group for of_image in people.values()]
    grouped = recipe.cuts == "all" and any(groups)  # the official cut of a test split ignores groups
    splits = split_rows(
        [below[path] for path in people],
        [_stratum(of_image) for of_image in people.values()],
        ratios=recipe.ratios,
        seed=seed,
        groups=groups if grouped else None,
        rounding=recipe.rounding,
    )
    split_of = dict(zip(people, splits, strict=True))
    samples = [sample if sample.split else sample._replace(split=split_of[sample.path]) for sample in found.samples]
    by = "class of most people" if len(people) < len(uncut) else "class"
    cut = describe_split(
        ratios=recipe.ratios,
        by="class and object" if found.layout == "object_folders" else by,
        seed=seed,
        grouped_by="group" if grouped else "",
        rounding=recipe.rounding,
    )
    return replace(found, samples=samples), f"given train; test cut {cut}" if recipe.cuts == "test" else cut


def _stratum(people: Sequence[Sample]) -> str:
    """Return what an image is cut with: its class or set of classes, or that of most people in it."""
    counts = Counter(sample.stratum or f"{sample.label} {sample.label_set}" for sample in people)
    return min(counts, key=lambda name: (-counts[name], name))


def _in_pixels(found: Samples, root: Path, units: BoxUnits, findings: Findings) -> Samples:
    """Turn boxes that a table gives in shares of the image's sides into pixels."""
    if not are_shares((box for sample in found.samples for box in sample.boxes or ()), units, findings):
        return found
    samples = [
        sample._replace(boxes=scale_boxes(root / sample.path, sample.boxes, findings) or ()) if sample.boxes else sample
        for sample in found.samples
    ]
    return replace(found, samples=samples)


def _add_people(found: Samples, path: Path, findings: Findings, *, root: Path, units: BoxUnits) -> Samples:
    """Give the boxes of a file to the samples that have none of their own: those of HECO and EMOTIC are people."""
    paths = (sample.path for sample in found.samples if not sample.boxes)
    assigned = read_boxes(path).assign(paths, root=root, units=units)
    findings.include(assigned.problems)
    for note in assigned.notes:
        findings.remark(note)
    boxes = {name: one.boxes for name, one in zip(assigned.paths, assigned.found, strict=True)}
    samples = [sample if sample.boxes else sample._replace(boxes=boxes.get(sample.path)) for sample in found.samples]
    people_source = f"{found.people_source}; others from {path.name}" if found.people_source else path.name
    return replace(found, samples=samples, people_source=people_source)


def _compare_with_published(spec: DatasetSpec, found: Samples, findings: Findings) -> None:
    """Note where a set has other numbers of images than were published."""
    images = len({sample.path for sample in found.samples})
    if spec.pictures is not None and images != spec.pictures:
        findings.remark(f"{counted(images, 'image')}, where {spec.pictures:,} are published")
    counts = Counter((sample.split, sample.label) for sample in found.samples)
    for split, published in spec.counts.items():
        other = [
            f"{name} {counts[split, label]:,} of {count:,}"
            for label, (name, count) in enumerate(zip(spec.classes, published, strict=True))
            if counts[split, label] != count
        ]
        if other and len(other) < len(published):  # else the number of images says it
            findings.remark(f"{split} differs from what is published: {name_first(other)}")


def _count_empty_classes(found: Samples, findings: Findings) -> None:
    """Count classes that no sample has; readers of folders have counted theirs."""
    of_folders = found.layout in ("class_folders", "object_folders", "split_folders", "emotion6")
    if not of_folders and not any(sample.distribution for sample in found.samples):
        used = {label for sample in found.samples for label in (sample.label, *(sample.label_set or ()))}
        for label, name in enumerate(found.classes):
            if label not in used:
                findings.add("class without an image", name)
    if len(found.classes) == 1:  # mostly the root is a level too high
        findings.remark(f"all are of one class, {found.classes[0]}: check `root`, or the table of labels")
