"""Labels that the features of a frozen backbone contradict: a ranking of the rows of a manifest, and no verdict.

Rows are divided into folds. A logistic regression on the features of the other folds answers each row, so nothing that
answers a row has seen it, a row of its group, or an image like it. Rows are ranked by the probability of their label
in these answers, the least first (self-confidence; confident learning: Northcutt, Jiang and Chuang 2021, JAIR 70).

Letters of shapes: `N` rows, `D` width of the features, `C` outputs of the target.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from uniemox.audit.audit import Audit
from uniemox.audit.copies import Copies
from uniemox.audit.findings import Group
from uniemox.errors import DataError
from uniemox.files.progress import Track, untracked
from uniemox.files.whole import write_whole
from uniemox.inference.predictor import Prediction
from uniemox.inference.tables import Form
from uniemox.manifests.splits import fold_rows, paths_below
from uniemox.manifests.table import Manifest
from uniemox.targets.columns import Column
from uniemox.targets.intervals import groups_of
from uniemox.targets.scores import Scores
from uniemox.targets.target import Target
from uniemox.train.features import FeatureMaker, Features
from uniemox.train.heads import Split, regress
from uniemox.wording import counted, listed

NUM_FOLDS: Final = 5
_SEED: Final = 0
_ROWS_AT_ONCE: Final = 4096  # Rows whose features are kept together, so that an interrupt loses no more

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Labelled:
    """The rows of a manifest whose labels can be in doubt."""

    name: str  # Of the manifest
    manifest: Manifest
    target: Target
    labels: npt.NDArray[Any]  # (N,) or (N, C), as the target reads them
    unlabelled: int  # Rows of the manifest without a label


@dataclass(frozen=True, kw_only=True)
class Doubts:
    """What the folds answer to the labelled rows of a manifest that can be read."""

    of: Labelled
    logits: Floats  # (N, C), each row by a regression that did not see it
    confidence: Floats  # (N, C), as `Target.self_confidence`; infinite for a class that the folds cannot judge
    strength: float  # C of the regressions, with the least loss of all folds together
    unreadable: int  # Labelled rows that are not among the N
    notes: tuple[str, ...]  # What is not ranked, and why

    @property
    def order(self) -> npt.NDArray[np.int64]:
        """Places of the ranked rows (M,), the least confidence in their label first."""
        least = self.confidence.min(axis=1)
        order: npt.NDArray[np.int64] = np.argsort(least, kind="stable")[: np.isfinite(least).sum()]
        return order

    @property
    def doubted(self) -> npt.NDArray[np.int64]:
        """Those of `order` for which the folds prefer another answer to the label."""
        is_right = self.of.target.right(self.of.target.numbers(self.logits), self.of.labels)
        assert is_right is not None
        order = self.order
        return order[~is_right[order]]

    @property
    def scores(self) -> Scores:
        """What the answers of the folds are worth, if the labels are right; without intervals."""
        return self.of.target.score(self.logits, self.of.labels, num_resamples=0)

    def rows(self, places: npt.NDArray[np.int64]) -> Iterator[dict[str, Any]]:
        """Describe rows by their places: path, row, split, truth and answer as the target says them, and the doubt.

        `doubted` names the class of the least confidence, `self_confidence` is that.
        """
        target, manifest = self.of.target, self.of.manifest
        for start in range(0, len(places), _ROWS_AT_ONCE):
            block = places[start : start + _ROWS_AT_ONCE]
            truths, answers = target.truths(self.of.labels[block]), target.answers(self.logits[block])
            for place, truth, answer in zip(block.tolist(), truths, answers, strict=True):
                at = int(self.confidence[place].argmin())
                found = {"self_confidence": float(self.confidence[place, at]), "doubted": target.classes[at]}
                where = {name: manifest.table[name][place].as_py() for name in ("path", "split")}
                yield {**where, "row": int(manifest.places[place]), **truth, **found, **answer}

    def summary(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        scores, order = self.scores, self.order
        return {
            "manifest": self.of.name,
            "folds": NUM_FOLDS,
            "C": self.strength,
            "ranked": len(order),
            "doubted": len(self.doubted),
            "unlabelled": self.of.unlabelled,
            "unreadable": self.unreadable,
            "scores": scores.kept,
            "pairs": [{"label": label, "answer": answer, "rows": rows} for (label, answer), rows in self.pairs()],
            "notes": list(self.notes),
        }

    def pairs(self) -> list[tuple[tuple[str, str], int]]:
        """Count the doubted rows by their label and the answer of the folds, in words, the most frequent first."""
        rows = self.rows(self.doubted)
        return Counter(self.of.target.in_words(row)[::-1] for row in rows).most_common()


def read_labelled(name: str, manifest: Manifest, kind: Target) -> Labelled:
    """Take the rows of a manifest that have a label.

    Raises:
        ConfigError: Labels of this kind are not right or wrong.
        DataError: No row has a label, one has another kind of label, or all have the same.
    """
    has_label = manifest.table["label"].is_valid().to_numpy() | manifest.table["label_set"].is_valid().to_numpy()
    rows = manifest.where(has_label)
    if not len(rows):
        raise DataError(f"{name} has no labelled row, so no label can be in doubt: omit `model`")
    target = kind.bind_to(rows)
    labels = target.read_labels(rows)
    target.self_confidence(np.zeros((1, target.num_outputs)), labels[:1])
    if (labels == labels[0]).all():
        text = ", ".join(name for name, count in rows.class_counts().items() if count)
        raise DataError(f"all labelled rows of {name} are {text}, so nothing can contradict a label: omit `model`")
    return Labelled(name, rows, target, labels, len(manifest) - len(rows))


def find_doubts(
    labelled: Sequence[Labelled], audited: Audit, maker: FeatureMaker, *, track: Track = untracked
) -> list[Doubts]:
    """Answer the labelled rows of every audited manifest by folds, and rank them by their doubt.

    Args:
        labelled: Of each manifest of the audit, in its order.
        audited: Names the images that are alike.
        maker: Computes the features, and keeps them.
        track: Shows the progress of the folds.

    Raises:
        CheckpointError: The backbone cannot be loaded, or gives no finite features.
        DataError: No image can be read, or too few are unlike each other.
    """
    unreadable = {finding.copy for finding in audited.findings if finding.kind == "unreadable"}
    found = []
    for of, of_row in zip(labelled, audited.copies.of_rows, strict=True):
        copies = of_row[of.manifest.places]
        is_readable = ~np.isin(copies, list(unreadable))
        if not is_readable.any():
            raise DataError(f"no labelled image of {of.name} can be read")
        features, rows = _features(maker, of, np.flatnonzero(is_readable))
        tied = _tie(of.manifest, copies, audited.groups, audited.copies)[rows]
        read = np.zeros(len(of.manifest), bool)
        read[rows] = True
        own = replace(of, manifest=of.manifest.where(read), labels=of.labels[rows])
        found.append(_answer(own, features, tied, unreadable=int((~read).sum()), track=track))
    return found


def _features(
    maker: FeatureMaker, of: Labelled, places: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Compute the features (M, D) of rows by their places, and the places (M,) of those that could be read."""
    made: list[tuple[Features, npt.NDArray[np.int64]]] = []
    for start in range(0, len(places), _ROWS_AT_ONCE):
        block = np.zeros(len(of.manifest), bool)
        block[places[start : start + _ROWS_AT_ONCE]] = True
        made.append((maker.features(of.manifest.where(block), what=of.name), np.flatnonzero(block)))
    values = np.concatenate([features.values for features, _ in made])
    return values, np.concatenate([block[features.rows] for features, block in made])


def _tie(
    manifest: Manifest, copies: npt.NDArray[np.int64], groups: Sequence[Group], every: Copies
) -> npt.NDArray[np.int64]:
    """Number what belongs together (N,): rows of an image, of a group of the manifest, and of images that are alike."""
    own = groups_of(manifest)
    codes = np.arange(len(manifest)) if own is None else own.codes
    # A row ties the copy that it belongs to and its group; a group of copies ties each to the next.
    first = np.concatenate([copies, *(group.copies[:-1] for group in groups)]).astype(np.int64)
    second = np.concatenate([len(every) + codes, *(group.copies[1:] for group in groups)]).astype(np.int64)
    size = len(every) + int(codes.max()) + 1
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(size, size))
    tied: npt.NDArray[np.int64] = connected_components(graph, directed=False)[1][copies]
    return tied


def _answer(
    of: Labelled, features: npt.NDArray[np.float32], tied: npt.NDArray[np.int64], *, unreadable: int, track: Track
) -> Doubts:
    """Divide rows into folds that keep together what is tied (N,), and answer each fold by the others."""
    folds = _divide(of, tied)
    target, labels = of.target, of.labels
    found: list[dict[float, Floats]] = [{} for _ in range(NUM_FOLDS)]
    for fold in track(range(NUM_FOLDS), total=NUM_FOLDS, what="folds answered"):
        held, losses = folds == fold, list[float]()
        for strength, layer, _ in regress(Split(features[~held], labels[~held]), target.num_outputs):
            found[fold][strength] = layer(features[held])
            losses.append(_loss(target, found[fold][strength], labels[held]))
            if losses[-1] > min(losses):  # of weaker regularisation it only grows
                break
    joined: dict[float, Floats] = {}
    for strength in sorted(set.intersection(*map(set, found))):
        joined[strength] = np.empty((len(labels), target.num_outputs))
        for fold in range(NUM_FOLDS):
            joined[strength][folds == fold] = found[fold][strength]
    best = min(joined, key=lambda strength: _loss(target, joined[strength], labels))
    logits = joined[best]
    confidence, notes = _judge(of, target.self_confidence(target.numbers(logits), labels), folds)
    if of.unlabelled:
        notes.append(f"{of.name}: {counted(of.unlabelled, 'row')} without a label are not ranked")
    if unreadable:
        notes.append(f"{of.name}: {counted(unreadable, 'labelled row')} with an image that cannot be read")
    return Doubts(of=of, logits=logits, confidence=confidence, strength=best, unreadable=unreadable, notes=tuple(notes))


def _divide(of: Labelled, tied: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    count = len(np.unique(tied))
    if count < NUM_FOLDS:
        what = f"the labelled images of {of.name} are of {counted(count, 'group')} that belong together or are alike"
        raise DataError(f"{what}, fewer than the {NUM_FOLDS} folds of `model`: omit it, or raise `like`")
    strata = of.labels.tolist() if of.labels.ndim == 1 else list(map(tuple, of.labels.tolist()))
    paths = paths_below(of.manifest.table["path"].to_pylist())
    groups = list(map(str, tied.tolist()))
    return np.array(fold_rows(paths, strata, num_folds=NUM_FOLDS, seed=_SEED, groups=groups))


def _loss(target: Target, logits: Floats, labels: npt.NDArray[Any]) -> float:
    return float(target.loss(torch.from_numpy(logits), target.soften(torch.from_numpy(labels), 0.0)))


def _judge(of: Labelled, confidence: Floats, folds: npt.NDArray[np.int64]) -> tuple[Floats, list[str]]:
    """Take no doubt from folds that could learn a class from too little: one that is not in every fold."""
    has_class = of.labels if of.labels.ndim == 2 else of.labels[:, None] == np.arange(of.target.num_outputs)
    in_folds = np.array([has_class[folds == fold].any(axis=0) for fold in range(NUM_FOLDS)]).sum(axis=0)
    rare = (in_folds > 0) & (in_folds < NUM_FOLDS)
    names = [
        f"{name} ({counted(int(rows), 'row')})"
        for name, rows in zip(np.array(of.target.classes)[rare], has_class.sum(axis=0)[rare], strict=True)
    ]
    if not names:
        return confidence, []
    text = f"{of.name}: labels {listed(names)} are not ranked: not in each of the {NUM_FOLDS} folds"
    return np.where(in_folds < NUM_FOLDS, np.inf, confidence), [text]


def write_rankings(found: Sequence[Doubts], folder: Path) -> list[dict[str, Any]]:
    """Write the ranked rows of each manifest, the most doubtful first, to NAME.csv and NAME.parquet in a folder.

    Returns:
        What was found of each manifest as plain values, with the names of its files.

    Raises:
        DataError: The folder cannot be written.
    """
    described = []
    for one in found:
        target = one.of.target
        places = (Column("rank", "whole"), Column("path", "text"), Column("row", "whole"), Column("split", "text"))
        doubt = (Column("doubted", "text"), Column("self_confidence", "share"))
        columns = (*places, *target.truth, *doubt, *target.columns)
        paths = [folder / f"{one.of.name}{suffix}" for suffix in (".csv", ".parquet")]
        for path in paths:
            with write_whole(path, DataError, elsewhere="choose another `out`") as beside:
                Form(path.suffix, columns).write(_ranked(one), beside)
        described.append({**one.summary(), "files": [str(path) for path in paths]})
    return described


def _ranked(doubts: Doubts) -> Iterator[Prediction]:
    for rank, row in enumerate(doubts.rows(doubts.order), 1):
        yield Prediction(Path(row.pop("path")), {"rank": rank, **row})
