"""Several manifests as one: a common root, one table of classes, and every row knows which data set it came from.

Whole columns are handled in Arrow and NumPy, so that millions of rows take seconds.
"""

import itertools
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from uniemox.config.data import Unmapped
from uniemox.emotions import Emotion, Taxonomy, build_bridge, match_classes
from uniemox.errors import DataError
from uniemox.manifests.columns import build_column, labels_of, lengths_of, list_array, single, to_numpy, with_column
from uniemox.manifests.findings import Problem
from uniemox.manifests.population import mark_unasked
from uniemox.manifests.table import Facts, Manifest, manifest_from_table

log = logging.getLogger(__name__)

_SHOWN: Final = 6  # Classes without a counterpart that a message names


def merge_manifests(
    manifests: Sequence[Manifest],
    *,
    target: Taxonomy | None = None,
    unmapped: Unmapped = "refuse",
    mixed_emotions: bool = False,
) -> tuple[Manifest, tuple[Problem, ...]]:
    """Join manifests, in their order, train before val before test.

    Paths become relative to the deepest folder that holds all roots. Groups of different data sets stay apart. An image
    that an earlier manifest lists is skipped in the later ones. Valence, arousal and dominance are brought to the first
    scale that is known; those on no known scale are then skipped and counted. Raters' shares follow the labels; where
    classes are lost, the others share out what they had. Where the target gives several labels to a sample, a single
    label becomes a set of one.

    Args:
        manifests: At least two.
        target: Taxonomy that all labels are led to; None where all have the same classes, in any order.
        unmapped: What becomes of rows with a label that has no counterpart there.
        mixed_emotions: Whether labels of evoked and of felt emotions may be mixed.

    Returns:
        The manifest, and what did not fit into it.

    Raises:
        DataError: Classes, emotions or scales do not go together, the roots have no folder in common, or rows cannot be
            mapped and `unmapped` refuses them.
    """
    if len(manifests) < 2:
        raise DataError("a merge takes two manifests or more")
    facts = [manifest.facts for manifest in manifests]
    roots = [own.root.resolve() if ".." in own.root.parts else own.root for own in facts]
    try:
        root = Path(os.path.commonpath(roots))
    except ValueError as error:  # two drives of Windows
        raise DataError(f"the folders {', '.join(map(str, roots))} are on several drives: put them on one") from error
    names = _name_sources(facts, roots)
    joined = replace(
        _join_facts(facts, names),
        emotion=_join_emotions(facts, mixed=mixed_emotions),
        classes=_join_classes(facts, target),
        root=root,
        vad_range=_join_scales(manifests),
    )
    problems: list[Problem] = []
    tables: list[pa.Table] = []
    earlier: list[pa.Array] = []
    for manifest, own_root, name in zip(manifests, roots, names, strict=True):
        source = _Source(name, manifest.facts.classes, mark_unasked(manifest), problems)
        source.move_paths(own_root, root)
        own_paths = source.table["path"].chunks
        source.skip_images(pa.chunked_array(earlier, pa.string()))
        earlier += own_paths
        if target is None:
            match = match_classes(joined.classes, source.classes)
            source.map_labels(joined.classes, match.mapped, {}, unmapped=unmapped)
        else:
            bridge = build_bridge(source.classes, target)
            source.map_labels(joined.classes, bridge.mapped, bridge.dropped, unmapped=unmapped)
            if target.several:
                source.make_sets()
        source.scale_ratings(manifest.facts.vad_range, joined.vad_range)
        source.name_rows()
        tables.append(source.table)
    return manifest_from_table(joined, pa.concat_tables(tables)), tuple(problems)


def number_as(classes: tuple[str, ...], manifest: Manifest) -> Manifest:
    """Number the labels of a manifest as a model does, matching the classes by name, and log what that changes.

    Raises `DataError` for a manifest with other classes, naming what is missing on either side.
    """
    theirs, name = manifest.facts.classes, manifest.facts.name
    if classes == theirs:
        return manifest
    match = match_classes(classes, theirs)
    if not match.is_whole:
        lacks = match.describe("the model", f"the manifest of {name}")
        step = "evaluate on data with the same classes, score what both can express (`bridge`), or fine-tune on these"
        raise DataError(f"{lacks}: {step}")
    spelt = ", ".join(f"{other} is {own}" for other in theirs if other != (own := match.mapped[other]))
    how = f"another order or spelling: they are matched by name{f' ({spelt})' if spelt else ''}"
    log.info("the manifest of %s has the model's classes in %s", name, how)
    return renumber(manifest, classes, match.mapped)


def renumber(manifest: Manifest, classes: tuple[str, ...], mapped: Mapping[str, str]) -> Manifest:
    """Number labels, sets of labels and shares of raters as another list of the same classes does.

    `mapped` leads each class of the manifest to one of these, as `match_classes` finds them.
    """
    source = _Source(manifest.facts.name, manifest.facts.classes, manifest.table, [])
    source.map_labels(classes, mapped, {}, unmapped="refuse")
    return replace(manifest, table=source.table, facts=replace(manifest.facts, classes=classes))


def lead_to(
    manifest: Manifest, classes: tuple[str, ...], mapped: Mapping[str, str], columns: Sequence[str]
) -> Manifest:
    """Lead labels, sets of labels and shares of raters to fewer classes.

    Rows that lose all of what `columns` hold of them are skipped, and raters' shares of what is left are brought to a
    sum of 1.
    """
    source = _Source(manifest.facts.name, manifest.facts.classes, manifest.table, [])
    source.map_labels(classes, mapped, dict.fromkeys(source.classes, "lost"), unmapped="keep")
    led = replace(manifest, table=source.table, facts=replace(manifest.facts, classes=classes))
    return led.where(_are_labelled(led, columns) | ~_are_labelled(manifest, columns))


def _are_labelled(manifest: Manifest, columns: Sequence[str]) -> np.ndarray:
    """Find the rows (N,) that have something in one of some columns; an empty set is nothing."""
    table = manifest.table.select(columns)
    found = [
        to_numpy(column.is_valid()) if name == "label" else lengths_of(column) > 0
        for name, column in zip(columns, table.columns, strict=True)
    ]
    return np.asarray(np.logical_or.reduce(found))


def _join_emotions(facts: Sequence[Facts], *, mixed: bool) -> Emotion | None:
    found = {own.emotion for own in facts}
    if len(found - {None}) > 1 and not mixed:
        names = "; ".join(f"{own.name}: {own.emotion or 'not known'}" for own in facts)
        raise DataError(
            f"labels of evoked and of felt emotions are different things ({names}): give `mixed_emotions` if you "
            "mean it"
        )
    return found.pop() if len(found) == 1 else None


def _name_sources(facts: Sequence[Facts], roots: Sequence[Path]) -> list[str]:
    """Name the data set of each manifest: its short name, numbered where another folder's set has the same."""
    names: dict[tuple[str, Path], str] = {}
    for own, root in zip(facts, roots, strict=True):
        name = own.name.replace("/", "-")  # a slash parts the set from the name of a group
        candidates = itertools.chain([name], (f"{name} {number}" for number in itertools.count(2)))
        if (own.name, root) not in names:
            names[own.name, root] = next(free for free in candidates if free not in names.values())
    return [names[own.name, root] for own, root in zip(facts, roots, strict=True)]


def _join_facts(facts: Sequence[Facts], names: Sequence[str]) -> Facts:
    def join(field: str) -> str:
        texts = [(getattr(own, field), name) for own, name in zip(facts, names, strict=True)]
        known = dict.fromkeys((text, name) for text, name in texts if text)
        distinct = {text for text, _ in known}
        if len(distinct) < 2 and len(known) == len(set(names)):
            return "".join(distinct)
        return "; ".join(f"{name}: {text}" for text, name in known)

    fields = ("licence", "url", "citation", "labelled_by", "split_recipe", "people_source")
    texts: dict[str, Any] = {field: join(field) for field in fields}
    return replace(
        facts[0],
        name="+".join(dict.fromkeys(names)),
        title=" + ".join(dict.fromkeys(own.title for own in facts)),
        layout="merged",
        **texts,
    )


def _join_classes(facts: Sequence[Facts], target: Taxonomy | None) -> tuple[str, ...]:
    if target is not None:
        return target.classes
    first, *others = [own for own in facts if own.classes] or facts[:1]
    for own in others:
        match = match_classes(first.classes, own.classes)
        if not match.is_whole:
            differs = match.describe(first.name, own.name)
            raise DataError(f"{differs}: lead both to one `taxonomy`, for example mikels")
    return first.classes


def _join_scales(manifests: Sequence[Manifest]) -> tuple[float, float] | None:
    rated = (own.facts.vad_range for own in manifests if own.table["vad"].null_count < len(own))
    return next((scale for scale in rated if scale is not None), None)


@dataclass
class _Source:
    """One manifest on its way into the merge; each step changes its table."""

    name: str
    classes: tuple[str, ...]  # Of its labels before they are mapped
    table: pa.Table
    problems: list[Problem]

    def _put(self, column: str, values: pa.Array | pa.ChunkedArray) -> None:
        self.table = with_column(self.table, column, values)

    def _report(self, rows: np.ndarray, kind: str) -> None:
        """Count the rows that an array (N,) marks, if any, with the first as the example."""
        if rows.any():
            example = self.table["path"][int(rows.argmax())].as_py()
            self.problems.append(Problem(kind, int(rows.sum()), example))

    def move_paths(self, root: Path, common: Path) -> None:
        prefix = root.relative_to(common).as_posix()
        if prefix == ".":
            return
        try:
            prefix.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"the name of the folder {str(root)!a} is not UTF-8, which a manifest cannot hold: rename it"
            ) from error
        self._put("path", pc.binary_join_element_wise(prefix, self.table["path"], "/"))

    def skip_images(self, paths: pa.ChunkedArray) -> None:
        """Skip the images of earlier manifests: none may be in two splits (DECISIONS 26)."""
        known = to_numpy(pc.is_in(self.table["path"], value_set=paths))
        self._report(known, f"row of {self.name} whose image an earlier manifest lists; skipped")
        if known.any():
            self.table = self.table.filter(pa.array(~known))

    def map_labels(
        self, classes: Sequence[str], mapped: Mapping[str, str], reasons: Mapping[str, str], *, unmapped: Unmapped
    ) -> None:
        """Lead labels, sets of labels and shares of raters to other classes, as far as they are mapped."""
        numbers = {name: number for number, name in enumerate(classes)}
        new_of = np.array([numbers[mapped[name]] if name in mapped else -1 for name in self.classes], np.int64)
        if np.array_equal(new_of, np.arange(len(classes))):
            return
        labels, sets = labels_of(self.table["label"]), single(self.table["label_set"])
        new_labels = np.append(new_of, -1)[labels]  # -1, no label, stays
        set_rows, set_labels = np.repeat(np.arange(len(sets)), lengths_of(sets)), sets.flatten().to_numpy()
        # A label is a pair of row and class, by itself or in a set.
        rows = np.concatenate([np.flatnonzero(labels >= 0), set_rows])
        old = np.concatenate([labels[labels >= 0], set_labels])
        lost = new_of[old] < 0
        self._report_lost(rows[lost], old[lost], reasons, unmapped=unmapped)
        loses, keeps = (np.bincount(rows[which], minlength=len(sets)) > 0 for which in (lost, ~lost))
        self._put("label", pa.array(new_labels, mask=new_labels < 0))
        self._put("label_set", _make_lists(set_rows, new_of[set_labels], mask=sets.is_null()))
        self._put("distribution", self._map_shares(new_of, len(classes)))
        fate = "skipped" if unmapped == "drop" else "kept"
        self._report(loses & ~keeps, f"row of {self.name} without a label now; {fate}")
        if unmapped == "drop" and not keeps[loses].all():
            self.table = self.table.filter(pa.array(keeps | ~loses))

    def _report_lost(
        self, rows: np.ndarray, labels: np.ndarray, reasons: Mapping[str, str], *, unmapped: Unmapped
    ) -> None:
        """Count the labels of each class that has no counterpart, or refuse them."""
        counts = [(self.classes[label], count, label) for label, count in sorted(Counter(labels.tolist()).items())]
        if counts and unmapped == "refuse":
            shown = "; ".join(f"{name} ({count}) {reasons[name]}" for name, count, _ in counts[:_SHOWN])
            more = f"; and {len(counts) - _SHOWN} more classes" if len(counts) > _SHOWN else ""
            raise DataError(
                f"labels of {self.name} cannot be mapped: {shown}{more}: give `unmapped` drop to skip rows that have "
                "no other label, or `unmapped` keep to keep them without one"
            )
        for name, count, label in counts:
            example = self.table["path"][int(rows[np.argmax(labels == label)])].as_py()
            self.problems.append(Problem(f"label {name} of {self.name} {reasons[name]}", count, example))

    def _map_shares(self, new_of: np.ndarray, num_new: int) -> pa.Array:
        """Add up the raters' shares of what becomes one class, and share out again what is left if classes are lost."""
        array = single(self.table["distribution"])
        fits = to_numpy(array.is_valid())
        old = to_numpy(array.filter(pa.array(fits)).flatten()).reshape(int(fits.sum()), len(new_of))
        shares = np.zeros((len(old), num_new), np.float64)
        for label in np.flatnonzero(new_of >= 0):
            shares[:, new_of[label]] += old[:, label]
        totals = shares.sum(axis=1)
        if (new_of < 0).any():
            np.divide(shares, totals[:, None], out=shares, where=totals[:, None] > 0)
        fits[fits] = totals > 0
        return list_array(pa.array(shares[totals > 0].ravel(), pa.float32()), fits * num_new, mask=pa.array(~fits))

    def make_sets(self) -> None:
        """Make a set of one of each single label, for a taxonomy that gives several to a sample."""
        labels, sets = single(self.table["label"]), single(self.table["label_set"])
        alone = pc.and_(labels.is_valid(), sets.is_null())
        own = list_array(labels.filter(alone), to_numpy(alone), mask=pc.invert(alone))
        self._put("label_set", pc.coalesce(sets, own))
        self._put("label", pc.if_else(alone, pa.scalar(None, labels.type), labels))

    def scale_ratings(self, own: tuple[float, float] | None, scale: tuple[float, float] | None) -> None:
        """Bring valence, arousal and dominance from their own scale to the common one."""
        ratings = single(self.table["vad"])
        rated = to_numpy(ratings.is_valid())
        if own == scale or not rated.any():
            return
        if own is None or scale is None:
            kind = f"valence, arousal and dominance of {self.name} on a scale that is not known; skipped"
            self._report(rated, kind)
            self._put("vad", build_column("vad", None, len(rated)))
            return
        log.info(
            "the ratings of %s are brought from %g to %g to the scale of the first, %g to %g", self.name, *own, *scale
        )
        factor = (scale[1] - scale[0]) / (own[1] - own[0])
        leaves = [
            pc.add(pc.multiply(pc.subtract(leaf.cast(pa.float64()), own[0]), factor), scale[0]).cast(leaf.type)
            for leaf in ratings.flatten()
        ]
        self._put("vad", pa.StructArray.from_arrays(leaves, fields=list(ratings.type), mask=ratings.is_null()))

    def name_rows(self) -> None:
        """Record which data set rows came from, and keep their groups apart from those of other sets."""
        own = pc.fill_null(self.table["source"].cast(pa.string()), self.name)
        self._put("source", own.dictionary_encode())
        self._put("group", pc.binary_join_element_wise(self.name, self.table["group"], "/"))


def _make_lists(rows: np.ndarray, labels: np.ndarray, *, mask: pa.Array) -> pa.Array:
    """Make the set of each row of pairs of row and label; -1 is no label, and none is in a set twice."""
    pairs = np.unique(np.stack([rows, labels], axis=1)[labels >= 0], axis=0)
    lengths = np.bincount(pairs[:, 0], minlength=len(mask))
    return list_array(pa.array(pairs[:, 1], pa.int16()), lengths, mask=mask)
