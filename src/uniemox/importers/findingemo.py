"""FindingEmo as published: `annotations_single.ann`, a CSV file with a row for each image; images come by URL.

Of its columns `image_path`, `emotion`, `valence`, `arousal` and `reject` are read. Paths are such as
`/Run_2/Loving toddlers sports/haiti-kids.jpg`, below the folder that the authors' program downloads to.

Valence was rated from −3 to 3 and arousal from 0 to 6, seven steps each. A manifest has one scale, so arousal is kept 3
lower: −3 to 3, in the same steps.
"""

import posixpath
from collections.abc import Iterator
from typing import Final

from uniemox.errors import DataError
from uniemox.files.cells import number
from uniemox.importers.cells import take, vad
from uniemox.importers.ratings import rating_on
from uniemox.importers.roots import FINDINGEMO_ANNOTATIONS, wrong_root
from uniemox.importers.samples import ClassNames, Sample, Samples, drop_repeats
from uniemox.importers.specs import DatasetSpec
from uniemox.importers.tables import Record, read_table
from uniemox.importers.tree import Tree

_WANTED: Final = ("image_path", "valence", "arousal", "emotion")
_SCALE: Final = (-3.0, 3.0)
_AROUSAL: Final = (0.0, 6.0)
_LOWERED: Final = 3.0


def read_findingemo(spec: DatasetSpec, tree: Tree) -> Samples:
    """Read one sample for each image, columns by name."""
    found = (tree.find(path, "file") for path in FINDINGEMO_ANNOTATIONS)
    path = next((path for path in found if path is not None), None)
    if path is None:
        raise wrong_root(spec, tree, " or ".join(FINDINGEMO_ANNOTATIONS))
    table = read_table(tree.root / path, tree.findings)
    missing = [name for name in _WANTED if name not in table.headings]
    if missing:
        raise DataError(
            f"{tree.root / path} has no column {', '.join(missing)}, only {', '.join(table.headings)}: get it again"
        )
    kept = [record for record in table.records if _is_kept(record, tree)]
    base = tree.find_base([_relative(record) for record in kept])
    rows = _samples(kept, base, ClassNames(spec.classes, tree.findings), tree)
    return Samples(samples=drop_repeats(rows, tree.findings), base=base, vad_range=_SCALE)


def _is_kept(record: Record, tree: Tree) -> bool:
    is_rejected = record.cells.get("reject", "").strip().casefold() == "reject"
    if is_rejected:
        tree.findings.note("image that its annotator rejected, skipped", record.where)
    return not is_rejected


def _relative(record: Record) -> str:
    listed: str = record.cells["image_path"]
    return listed.lstrip("/")


def _samples(kept: list[Record], base: str, classes: ClassNames, tree: Tree) -> Iterator[tuple[Sample, str]]:
    """Yield the sample of each row, and where it is; what is invalid is counted."""
    for record in kept:
        label = classes.listed(record.cells["emotion"], record.where)
        path = None if label is None else tree.listed_image(posixpath.join(base, _relative(record)), where=record.where)
        if path is None:
            continue
        found = take(record.cells, {"valence": number, "arousal": number}, tree.findings, record.where)
        valence = rating_on(found["valence"], _SCALE, "valence", tree.findings, record.where)
        arousal = rating_on(found["arousal"], _AROUSAL, "arousal", tree.findings, record.where)
        lowered = None if arousal is None else arousal - _LOWERED
        yield Sample(path, label, vad=vad({"valence": valence, "arousal": lowered, "dominance": None})), record.where
