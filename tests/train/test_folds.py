import json

import numpy as np
import pytest
from scipy.stats import t

from uniemox.config.training import FinetuneConfig
from uniemox.errors import ConfigError, DataError
from uniemox.manifests.recut import cut_folds
from uniemox.manifests.table import Facts, manifest_from_columns, read_manifest
from uniemox.targets.scores import Metric
from uniemox.train.folds import SUMMARY, FoldScore, cross_validate

TOP1 = Metric("top1", "top-1", lambda of: of, is_selectable=True)


def manifest_of(tmp_path, labels, groups=None):
    facts = Facts(name="rows", title="Rows", classes=("awe", "fear", "joy"), emotion="evoked", root=tmp_path)
    paths = [f"{place:04d}.png" for place in range(len(labels))]
    return manifest_from_columns(facts, paths=paths, splits=["train"] * len(labels), labels=labels, groups=groups)


def folds_of(parts):
    return [set(part.select(["test"]).table["path"].to_pylist()) for part in parts]


@pytest.mark.parametrize("num_folds", [3, 5, 10])
@pytest.mark.parametrize("grouped", [False, True])
def test_every_row_is_tested_once_and_no_group_is_divided(tmp_path, num_folds, grouped):
    labels = np.random.default_rng(num_folds).choice(3, 200, p=[0.6, 0.3, 0.1])
    groups = [f"clip {place // 4}" for place in range(200)] if grouped else None
    parts = cut_folds(manifest_of(tmp_path, labels, groups), num_folds=num_folds, seed=0)
    folds = folds_of(parts)
    assert sum(map(len, folds)) == len(set.union(*folds)) == 200
    for fold, part in enumerate(parts):
        assert set(part.select(["val"]).table["path"].to_pylist()) == folds[(fold + 1) % num_folds]
        if grouped:
            splits = {name: set(part.select([name]).table["group"].to_pylist()) for name in ("train", "val", "test")}
            assert not splits["train"] & splits["test"]
            assert not splits["train"] & splits["val"]
        counts = part.select(["test"]).class_counts().values()
        slack = 4 if grouped else 1
        expected = np.bincount(labels, minlength=3) / num_folds
        assert np.abs(np.array(list(counts)) - expected).max() <= slack


def test_folds_depend_on_the_seed_and_on_nothing_else(tmp_path):
    labels = [0, 1, 2] * 20
    cuts = [folds_of(cut_folds(manifest_of(tmp_path, labels), num_folds=3, seed=seed)) for seed in (0, 0, 1)]
    assert cuts[0] == cuts[1] != cuts[2]


def test_more_folds_than_groups_are_refused(tmp_path):
    manifest = manifest_of(tmp_path, [0] * 12, [f"clip {place % 2}" for place in range(12)])
    with pytest.raises(DataError, match="3 folds need as many groups, and there are 2: set `folds` to fewer"):
        cut_folds(manifest, num_folds=3, seed=0)


def test_the_interval_is_that_of_nadeau_and_bengio():
    values = (0.5, 0.6, 0.55, 0.7)
    score = FoldScore(TOP1, values, 0.5)
    spread = np.var(values, ddof=1)
    assert score.mean == pytest.approx(0.5875)
    assert score.half == pytest.approx(t.ppf(0.975, 3) * np.sqrt((1 / 4 + 0.5) * spread))


def test_folds_are_at_least_three():
    with pytest.raises(ConfigError, match="folds is 2, but must be 3 or more"):
        FinetuneConfig(data="d", out="o", folds=2)


def test_folds_that_leave_too_few_rows_are_refused_before_the_first_one_starts(finetune_config, tmp_path, heard):
    config = finetune_config(tmp_path / "out", folds=3, optim={"batch_size": 64, "accumulate": 4})
    told = r"^fold \d of 3 trains on too few rows: \d+ rows do not fill one step of 256, .*: lower `optim\."
    with pytest.raises(DataError, match=told):
        cross_validate(config, heard)
    assert heard.texts == []
    assert not (tmp_path / "out").exists()


def test_cross_validation_leaves_a_run_for_each_fold_and_a_summary(finetune_config, tmp_path, heard):
    config = finetune_config(tmp_path / "out", folds=3, optim={"epochs": 1})
    found = cross_validate(config, heard)
    saved = json.loads((tmp_path / "out" / SUMMARY).read_text())
    whole = read_manifest(config.data)
    num_tested = 0
    for number in (1, 2, 3):
        report = json.loads((tmp_path / "out" / f"fold-{number}" / "test" / "report.json").read_text())
        assert saved["top1"]["folds"][number - 1] == report["top1"]
        num_tested += report["num_samples"] + len(report["unreadable"])
    assert num_tested == len(whole)
    top1 = next(score for score in found if score.metric.name == "top1")
    assert saved["top1"]["mean"] == top1.mean == pytest.approx(np.mean(saved["top1"]["folds"]))
    assert any("over 3 folds" in text for text in heard.texts)
    with pytest.raises(ConfigError, match="is not empty"):
        cross_validate(config, heard)
    before = {path: path.read_bytes() for path in (tmp_path / "out").glob("fold-*/model/model.safetensors")}
    cross_validate(finetune_config(tmp_path / "out", folds=3, optim={"epochs": 1}, resume=True), heard)
    assert len(before) == 3
    assert all(path.read_bytes() == data for path, data in before.items())


def test_without_folds_there_is_nothing_to_validate(finetune_config, tmp_path):
    with pytest.raises(ConfigError, match="folds is not set"):
        cross_validate(finetune_config(tmp_path / "out"))
