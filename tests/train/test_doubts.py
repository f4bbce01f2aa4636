"""Labels in doubt, against scikit-learn used by itself and labels that are known to be wrong."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from uniemox.audit.audit import Audit
from uniemox.audit.copies import Copies
from uniemox.audit.findings import Finding, Group
from uniemox.config.audit import AuditRules
from uniemox.config.probe import STRENGTHS
from uniemox.errors import ConfigError, DataError
from uniemox.manifests.table import Facts, manifest_from_columns
from uniemox.targets.distribution import Distribution
from uniemox.targets.multi_label import MultiLabel
from uniemox.targets.single_label import SingleLabel
from uniemox.train import doubts as module
from uniemox.train.doubts import NUM_FOLDS, find_doubts, read_labelled, write_rankings
from uniemox.train.features import Features

CLASSES = ("awe", "fear", "joy")


class Drawn:
    """Features of rows by their path; rows of `lost` cannot be read."""

    def __init__(self, values, lost=()):
        self.values, self.lost = values, set(lost)

    def features(self, manifest, *, what):
        every = [int(path.removesuffix(".png")) for path in manifest.table["path"].to_pylist()]
        rows = np.array([place for place, number in enumerate(every) if number not in self.lost])
        reasons = tuple((place, "lost") for place, number in enumerate(every) if number in self.lost)
        values = self.values[[every[place] for place in rows]]
        return Features(values, rows, (None,) * len(rows), reasons)


def draw(count, *, noise=1.0, seed=0):
    """Features around the mean of each class, and the classes."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    centres = np.random.default_rng(9).normal(size=(len(CLASSES), 8)) * 1.5
    return (centres[labels] + noise * generator.normal(size=(count, 8))).astype(np.float32), labels


def flip(labels, share, *, seed=1):
    """Give a share of the labels another class; also return which."""
    generator = np.random.default_rng(seed)
    wrong = generator.choice(len(labels), round(share * len(labels)), replace=False)
    flipped = labels.copy()
    flipped[wrong] = (labels[wrong] + generator.integers(1, len(CLASSES), len(wrong))) % len(CLASSES)
    return flipped, set(wrong.tolist())


def manifest_of(labels, **columns):
    count = len(columns.get("label_sets", labels) if labels is None else labels)
    splits = columns.pop("splits", ["train"] * (count - 4) + ["test"] * 4)
    facts = Facts(name="x", title="X", classes=CLASSES, emotion="felt", root=Path("/nowhere"))
    return manifest_from_columns(
        facts, paths=[f"{row}.png" for row in range(count)], splits=splits, labels=labels, **columns
    )


def audited(*manifests, groups=(), findings=()):
    names = tuple(f"m{place}" for place in range(len(manifests)))
    return Audit(names, manifests, AuditRules(), Copies(manifests), tuple(findings), tuple(groups), manifests)


def doubts_of(manifest, maker, kind=None, **audit):
    (found,) = find_doubts([read_labelled("x", manifest, kind or SingleLabel())], audited(manifest, **audit), maker)
    return found


def folds_of(found):
    return module._divide(found.of, np.arange(len(found.of.labels)))


def test_the_answers_are_those_of_scikit_learn_on_the_same_folds():
    values, labels = draw(120)
    given, _ = flip(labels, 0.1)
    found = doubts_of(manifest_of(given), Drawn(values))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=found.strength, tol=1e-9, max_iter=10_000))
    folds = PredefinedSplit(folds_of(found))
    expected = cross_val_predict(model, values.astype(np.float64), given, cv=folds, method="predict_proba")
    np.testing.assert_allclose(found.of.target.numbers(found.logits), expected, atol=1e-4)
    own = expected[np.arange(len(given)), given]
    assert found.order[:20].tolist() == np.argsort(own, kind="stable")[:20].tolist()
    assert set(found.doubted.tolist()) == set(np.flatnonzero(expected.argmax(axis=1) != given).tolist())
    assert found.scores.top1 == (expected.argmax(axis=1) == given).mean()


def test_wrong_labels_come_first():
    values, labels = draw(300)
    given, wrong = flip(labels, 0.1)
    found = doubts_of(manifest_of(given), Drawn(values))
    first = set(found.order[: len(wrong)].tolist())
    assert len(first & wrong) > 0.8 * len(wrong)  # by chance a tenth


def test_the_strength_has_the_least_loss_of_all_that_were_tried():
    values, labels = draw(120, noise=3.0)
    found = doubts_of(manifest_of(labels), Drawn(values))
    folds = PredefinedSplit(folds_of(found))

    def loss(strength):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, tol=1e-9, max_iter=10_000))
        answers = cross_val_predict(model, values.astype(np.float64), labels, cv=folds, method="predict_proba")
        return -np.log(answers[np.arange(len(labels)), labels]).mean()

    losses = {strength: loss(strength) for strength in STRENGTHS}
    assert losses[found.strength] == pytest.approx(min(losses.values()), rel=1e-3)


def test_what_belongs_together_or_is_alike_never_answers_itself(monkeypatch):
    values, labels = draw(60)
    groups = [None if row % 3 else f"film {row // 12}" for row in range(60)]
    manifest = manifest_of(labels, groups=groups)
    alike = (Group((1, 2, 4), "look", 0.9), Group((4, 5), "look", 0.9), Group((3, 20), "pixels", 1.0))
    together = [{1, 2, 4, 5}, {row for row in range(12) if not row % 3} | {20}]  # 3 is of the first film
    together += [{row for row in range(start, start + 12) if not row % 3} for start in range(12, 60, 12)]
    seen, regress = [], module.regress

    def spy(train, num_outputs):
        seen.append({int(np.flatnonzero((values == row).all(axis=1))[0]) for row in train.features})
        return regress(train, num_outputs)

    monkeypatch.setattr(module, "regress", spy)
    doubts_of(manifest, Drawn(values), groups=alike)
    assert len(seen) == NUM_FOLDS
    for rows in together:
        assert all(rows <= trained or not rows & trained for trained in seen), rows
    assert all(sum(row not in trained for trained in seen) == 1 for row in range(60))


def test_a_class_of_too_few_rows_is_counted_and_not_ranked():
    values, labels = draw(60)
    labels = np.where((labels == 2) & (np.arange(60) > 9), 0, labels)  # rows 2, 5 and 8 are joy
    found = doubts_of(manifest_of(labels), Drawn(values))
    assert not {2, 5, 8} & set(found.order.tolist())
    assert len(found.order) == 57
    assert found.notes == ("x: labels joy (3 rows) are not ranked: not in each of the 5 folds",)


def test_rows_without_a_label_and_images_that_cannot_be_read_are_counted():
    values, labels = draw(60)
    given = [None if row < 4 else int(label) for row, label in enumerate(labels)]
    broken = Finding("unreadable", 7, "empty")  # copies are in the order of their paths
    manifest = manifest_of(given)
    (copy,) = [copy for copy in range(60) if Copies([manifest]).path[copy] == "50.png"]
    found = doubts_of(manifest, Drawn(values, lost=[9]), findings=[replace(broken, copy=copy)])
    rows = {row["row"] for row in found.rows(found.order)}
    assert rows == set(range(4, 60)) - {9, 50}
    assert all(row["path"] == f"{row['row']}.png" for row in found.rows(found.order))
    assert found.notes == (
        "x: 4 rows without a label are not ranked",
        "x: 2 labelled rows with an image that cannot be read",
    )


@pytest.mark.parametrize(
    ("labels", "why"), [([None] * 30, "no labelled row"), ([1] * 30, "all labelled rows of x are fear")]
)
def test_labels_that_nothing_can_contradict_are_refused(labels, why):
    with pytest.raises(DataError, match=why):
        read_labelled("x", manifest_of(labels), SingleLabel())


def test_labels_that_are_neither_right_nor_wrong_are_refused():
    manifest = manifest_of([0, 1] * 5, distributions=[[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]] * 5)
    with pytest.raises(ConfigError, match="target is distribution"):
        read_labelled("x", manifest, Distribution())


def test_rows_of_fewer_groups_than_folds_are_refused():
    manifest = manifest_of(np.arange(30) % 3, groups=[f"film {row % 4}" for row in range(30)])
    with pytest.raises(DataError, match=r"of 4 groups .* fewer than the 5 folds"):
        doubts_of(manifest, Drawn(draw(30)[0]))


def test_images_none_of_which_can_be_read_are_refused():
    manifest = manifest_of(np.arange(30) % 3)
    findings = [Finding("unreadable", copy, "empty") for copy in range(30)]
    with pytest.raises(DataError, match="no labelled image of x can be read"):
        doubts_of(manifest, Drawn(draw(30)[0]), findings=findings)


def test_of_several_labels_each_is_a_question_and_the_worst_ranks_the_row():
    values, labels = draw(200, noise=0.7)
    sets = np.eye(3, dtype=bool)[labels]
    wrong = {10: 0, 40: 1, 75: 2}
    for row, place in wrong.items():
        sets[row, place] ^= True
    manifest = manifest_of(None, label_sets=[np.flatnonzero(row).tolist() for row in sets])
    found = doubts_of(manifest, Drawn(values), MultiLabel())
    assert set(found.order[:3].tolist()) == set(wrong)
    rows = {row["row"]: row["doubted"] for row in found.rows(found.order[:3])}
    assert rows == {row: CLASSES[place] for row, place in wrong.items()}
    model = OneVsRestClassifier(LogisticRegression(C=found.strength, tol=1e-9, max_iter=10_000))
    folds = PredefinedSplit(folds_of(found))
    expected = cross_val_predict(
        make_pipeline(StandardScaler(), model), values.astype(np.float64), sets, cv=folds, method="predict_proba"
    )
    np.testing.assert_allclose(found.of.target.numbers(found.logits), expected, atol=1e-4)
    np.testing.assert_allclose(found.confidence, np.where(sets, expected, 1 - expected), atol=1e-4)
    assert set(found.doubted.tolist()) == set(np.flatnonzero(((expected >= 0.5) != sets).any(axis=1)).tolist())


def test_manifests_are_ranked_each_by_itself():
    values, labels = draw(60)
    manifests = [manifest_of(labels), manifest_of(np.random.default_rng(3).permutation(labels))]
    labelled = [read_labelled(name, one, SingleLabel()) for name, one in zip("ab", manifests, strict=True)]
    found = find_doubts(labelled, audited(*manifests), Drawn(values))
    assert [one.of.name for one in found] == ["a", "b"]
    assert found[0].scores.top1 > 0.8 > found[1].scores.top1 + 0.3


def test_a_ranking_is_two_tables_of_the_same_rows_and_a_summary(tmp_path):
    values, labels = draw(90)
    given, _ = flip(labels, 0.1)
    found = doubts_of(manifest_of(given), Drawn(values))
    (summary,) = write_rankings([found], tmp_path)
    table = pq.read_table(tmp_path / "x.parquet").to_pylist()
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in table] == list(range(1, 91))
    assert [row["row"] for row in table] == found.order.tolist()
    assert [row["path"] for row in rows] == [row["path"] for row in table]
    assert [row["label"] for row in table] == [CLASSES[given[row["row"]]] for row in table]
    assert [row["self_confidence"] for row in table] == sorted(row["self_confidence"] for row in table)
    assert {row["split"] for row in table} == {"train", "test"}
    for row in table:
        assert row["self_confidence"] == row[f"p_{row['label']}"]
        assert row["doubted"] == row["label"]
    assert summary == json.loads(json.dumps(summary))
    assert summary["ranked"] == 90
    assert summary["doubted"] == sum(row["predicted"] != row["label"] for row in table)
    assert sum(pair["rows"] for pair in summary["pairs"]) == summary["doubted"]
    assert summary["files"] == [str(tmp_path / "x.csv"), str(tmp_path / "x.parquet")]
