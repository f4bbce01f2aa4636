import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn import metrics as oracle

import uniemox.evaluate as module
from uniemox.checkpoints.bundle import save_classifier
from uniemox.checkpoints.facts import ModelFacts
from uniemox.config import PersonConfig
from uniemox.data.manifest import Box, manifest_from_columns, write_manifest
from uniemox.data.pixels import EvaluationViews
from uniemox.devices import build_accelerator
from uniemox.errors import CheckpointError, DataError
from uniemox.evaluate import check_classes, compute_outputs, evaluate
from uniemox.metrics import Report
from uniemox.models.classify import TwoViewClassifier, build_classifier
from uniemox.predict import BOX_COLUMNS, Predictor

CLASSES = ("awe", "fear", "joy")


def score(model, painted, out=None, **changes):
    settings = {"split": "test", "device": "cpu", "batch_size": 4, "num_workers": 0} | changes
    return evaluate(str(model), data=painted.path, out=out, **settings)


@pytest.fixture(scope="module")
def evaluated(finetuned, painted, tmp_path_factory):
    """Report and folder of the whole data set, so that there is something to count."""
    out = tmp_path_factory.mktemp("evaluated") / "new" / "test"
    manifest = painted.manifest
    everything = out.parents[1] / "all.parquet"
    table = manifest.table.set_column(
        1, manifest.table.schema.field("split"), _all_in("test", len(manifest))
    )
    write_manifest(type(manifest)(table, manifest.facts), everything)
    report = evaluate(
        str(finetuned.model), data=everything, split="test", out=out, device="cpu", num_workers=0
    )
    return report, out


def _all_in(split, count):
    return pa.array([split] * count).dictionary_encode()


def test_the_report_is_what_scikit_learn_says_of_the_predictions(evaluated):
    report, out = evaluated
    table = pq.read_table(out / "predictions.parquet")
    label, predicted = (table[name].to_pylist() for name in ("label", "predicted"))
    assert len(label) == report.num_samples == 40
    assert report.top1 == pytest.approx(oracle.accuracy_score(label, predicted))
    assert report.balanced_accuracy == pytest.approx(
        oracle.balanced_accuracy_score(label, predicted)
    )
    for average in ("macro", "weighted"):
        expected = oracle.f1_score(label, predicted, average=average)
        assert getattr(report, f"{average}_f1") == pytest.approx(expected)
    assert (report.confusion == oracle.confusion_matrix(label, predicted, labels=CLASSES)).all()
    probabilities = np.stack([table[f"p_{name}"].to_numpy() for name in CLASSES], axis=1)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert report.nll == pytest.approx(oracle.log_loss(label, probabilities, labels=CLASSES))
    assert report.top3 == 1  # of three classes


def test_each_prediction_is_that_of_the_predictor_for_its_path(evaluated, finetuned, painted):
    table = pq.read_table(evaluated[1] / "predictions.parquet").to_pylist()
    predictor = Predictor.load(finetuned.model, device="cpu")
    paths = [painted.root / row["path"] for row in table]
    for row, prediction in zip(table, predictor.predict(paths, batch_size=7), strict=True):
        assert row["predicted"] == prediction.label
        assert row["label"] == prediction.path.parent.name
        for name in CLASSES:
            assert row[f"p_{name}"] == pytest.approx(prediction.probabilities[name], abs=1e-5)


def test_an_exported_model_is_evaluated_as_its_original_is(exported, finetuned, painted, tmp_path):
    tables = []
    for name, model in (("exported", exported), ("original", finetuned.model)):
        score(model, painted, out=tmp_path / name)
        tables.append(pq.read_table(tmp_path / name / "predictions.parquet").to_pydict())
    ours, theirs = tables
    assert ours["path"] == theirs["path"]
    for name in CLASSES:
        assert ours[f"p_{name}"] == pytest.approx(theirs[f"p_{name}"], abs=1e-4)


def test_the_report_is_written_as_it_is_returned(evaluated):
    report, out = evaluated
    assert {path.name for path in out.iterdir()} == {"report.json", "predictions.parquet"}
    saved = json.loads((out / "report.json").read_text())
    assert Report.from_dict(saved) == report
    assert saved["unreadable"] == []


def test_fine_tuning_reported_the_same_test(finetuned, painted):
    report = score(finetuned.model, painted)
    saved = json.loads((finetuned.config.out / "test" / "report.json").read_text())
    tested = Report.from_dict(saved)
    assert tested.counts == report.counts
    assert tested.nll == pytest.approx(report.nll, rel=1e-5)


def test_neither_the_batch_nor_the_workers_change_the_report(finetuned, painted):
    reports = [
        score(finetuned.model, painted, batch_size=batch_size, num_workers=workers)
        for batch_size, workers in ((1, 0), (3, 0), (64, 0), (3, 2))
    ]
    assert len({report.counts for report in reports}) == 1
    assert [report.nll for report in reports] == pytest.approx([reports[0].nll] * 4, rel=1e-5)


def test_nothing_is_written_unless_asked_for(finetuned, painted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert score(finetuned.model, painted).num_samples == 7
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_picture_is_left_out_counted_and_named(
    finetuned, own_painted, tmp_path, caplog
):
    broken = own_painted.manifest.select(["test"]).row(2).path
    broken.write_bytes(b"")
    report = score(finetuned.model, own_painted, tmp_path / "out")
    assert report.num_samples == 6
    saved = json.loads((tmp_path / "out" / "report.json").read_text())
    assert saved["unreadable"] == [f"{broken}: empty file"]
    table = pq.read_table(tmp_path / "out" / "predictions.parquet")
    assert table.num_rows == 6
    assert str(broken.relative_to(own_painted.root)) not in table["path"].to_pylist()
    (record,) = caplog.records
    assert record.getMessage().startswith("left out 1 of 7 pictures")
    assert str(broken) in record.getMessage()


def test_a_picture_that_heals_meanwhile_is_said_to(finetuned, own_painted, tmp_path, monkeypatch):
    row = own_painted.manifest.select(["test"]).row(2)
    whole = row.path.read_bytes()
    row.path.write_bytes(b"")

    reasons = module._reasons

    def heal(*arguments):
        row.path.write_bytes(whole)
        return reasons(*arguments)

    monkeypatch.setattr(module, "_reasons", heal)
    score(finetuned.model, own_painted, tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "report.json").read_text())
    assert saved["unreadable"] == [f"{row.path}: read the second time"]


def test_a_split_of_unreadable_pictures_is_told(finetuned, own_painted):
    for path in (own_painted.root / "test").rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"none of the 7 pictures below .* no such file") as told:
        score(finetuned.model, own_painted)
    assert "\n" not in str(told.value)


def test_labels_of_another_order_are_refused_with_both(painted):
    with pytest.raises(DataError, match="the model knows joy, awe, fear, in this order, but"):
        check_classes(("joy", "awe", "fear"), painted.manifest)
    check_classes(CLASSES, painted.manifest)


def test_data_with_other_classes_are_refused_before_any_picture_is_read(
    finetuned, own_painted, monkeypatch
):
    manifest = own_painted.manifest
    other = replace(manifest.facts, classes=("awe", "fear", "anger"))
    write_manifest(type(manifest)(manifest.table, other), own_painted.path)
    monkeypatch.setattr("uniemox.data.dataset.read_image", pytest.fail)
    with pytest.raises(DataError, match="awe, fear, anger: evaluate on data with the same classes"):
        score(finetuned.model, own_painted)


@pytest.mark.parametrize("split", ["val2", ""])
def test_a_split_that_is_not_there_is_told_with_those_that_are(finetuned, painted, split):
    with pytest.raises(DataError, match=r"train \(24\), val \(9\), test \(7\)"):
        score(finetuned.model, painted, split=split)


def test_a_model_or_manifest_that_is_not_there_is_told(finetuned, painted, tmp_path):
    with pytest.raises(CheckpointError, match="there is no model folder"):
        score(tmp_path / "none", painted)
    with pytest.raises(DataError, match="no manifest at"):
        evaluate(str(finetuned.model), data=tmp_path / "none.parquet", device="cpu")


def test_a_pretrained_model_cannot_be_evaluated(pretrained, painted):
    with pytest.raises(CheckpointError, match="uniemox finetune --init"):
        score(pretrained.model, painted)


def test_a_report_that_cannot_be_written_is_told(finetuned, painted, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DataError, match=r"the report cannot be written to .*out"):
        score(finetuned.model, painted, tmp_path / "out")


def test_the_model_is_run_as_in_use_and_without_gradients(painted):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(1, 3)
            self.seen = []

        def forward(self, pixels):
            self.seen.append((self.training, torch.is_grad_enabled(), pixels.shape[0]))
            return self.head(pixels.mean((1, 2, 3))[:, None])

    model = Model().train()
    manifest = painted.manifest.select(["test"])
    outputs = compute_outputs(
        model,
        manifest,
        views=EvaluationViews(size=32, view="scene", person=PersonConfig()),
        accelerator=build_accelerator("cpu"),
        batch_size=4,
        num_workers=0,
        target="single_label",
    )
    assert model.seen == [(False, False, 4), (False, False, 3)]
    assert outputs.rows.tolist() == list(range(7))
    assert (outputs.labels == manifest.labels).all()
    assert outputs.logits.shape == (7, 3)
    np.testing.assert_allclose(outputs.probabilities.sum(1), 1, rtol=1e-12)


def torchrun(count, *words):
    """Run the command line in several processes on the CPU."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "uniemox", *map(str, words)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [2, 16])
def test_two_processes_report_what_one_does(finetuned, painted, tmp_path, batch_size):
    alone = score(finetuned.model, painted, tmp_path / "one", split="val", batch_size=batch_size)
    assert alone.num_samples == 9  # no multiple of two
    words = [
        "evaluate",
        finetuned.model,
        "--data",
        painted.path,
        "--split",
        "val",
        "--device",
        "cpu",
    ]
    words += ["--batch-size", batch_size, "--num-workers", "0", "--json"]
    done = torchrun(2, *words, "--out", tmp_path / "two")
    together = Report.from_dict(json.loads(done.stdout))
    assert together.num_samples == 9
    assert together.counts == alone.counts
    assert together.nll == pytest.approx(alone.nll, rel=1e-6)
    one, two = (
        pq.read_table(tmp_path / name / "predictions.parquet").to_pylist()
        for name in ("one", "two")
    )
    assert [row["path"] for row in one] == [row["path"] for row in two]
    for here, there in zip(one, two, strict=True):
        assert here["p_awe"] == pytest.approx(there["p_awe"], abs=1e-6)


# Views


@pytest.fixture(params=["person", "both"])
def reader_of_persons(request, tmp_path):
    """An untrained classifier whose head is far from 0, and its folder."""
    torch.manual_seed(0)
    shape = {"size": "mini", "patch_size": 8, "image_size": 32}
    plain = build_classifier(
        "mini", patch_size=8, image_size=32, num_classes=3, head_std=0.5
    ).eval()
    both = request.param == "both"
    model = TwoViewClassifier(plain, "scaled_sum").eval() if both else plain
    facts = ModelFacts(
        kind="classifier",
        **shape,
        dataset="painted",
        emotion=None,
        classes=CLASSES,
        view=request.param,
        fusion="scaled_sum" if both else "none",
        person=PersonConfig(margin=0.3),
    )
    save_classifier(model, tmp_path / "model", facts)
    return model, facts, tmp_path / "model"


def test_a_classifier_of_persons_is_scored_on_the_rows_own_persons(
    painted, reader_of_persons, tmp_path, caplog
):
    model, facts, folder = reader_of_persons
    score(folder, painted, out=tmp_path / "scores", split="train", batch_size=5)
    assert "6 of 24 pictures have no person box: the scene stands in" in caplog.text
    found = pq.read_table(tmp_path / "scores" / "predictions.parquet").to_pylist()
    train = painted.manifest.select(["train"])
    prepare = EvaluationViews(size=32, view=facts.view, person=facts.person)
    for index, row in enumerate(found):
        views = torch.from_numpy(prepare(Image.open(train.row(index).path), train.row(index).boxes))
        with torch.no_grad():
            expected = model(*views.unsqueeze(1)).double().softmax(1)[0].tolist()
        assert [row[f"p_{name}"] for name in CLASSES] == pytest.approx(expected, abs=1e-5)


def test_a_row_of_the_predictions_is_found_in_the_manifest(evaluated, finetuned, painted, tmp_path):
    score(finetuned.model, painted, tmp_path / "val", split="val")
    columns = ["path", "row", "label", "predicted", *(f"p_{name}" for name in CLASSES)]
    for folder, first, count in ((evaluated[1], 0, 40), (tmp_path / "val", 24, 9)):
        table = pq.read_table(folder / "predictions.parquet")
        assert table.column_names == columns
        assert table["row"].to_pylist() == list(range(first, first + count))
        paths = painted.manifest.table["path"].take(table["row"])
        assert paths.to_pylist() == table["path"].to_pylist()


@pytest.mark.parametrize("are_sizes_known", [True, False])
def test_the_predictions_of_persons_tell_whose_they_are(
    own_painted, reader_of_persons, tmp_path, are_sizes_known
):
    _, _, folder = reader_of_persons
    inside, narrow = Box(0, 0, 40, 40, 0.5), Box(0, 0, 30, 30)
    beyond = Box(20, 0, 900, 30, 0.9)  # the largest, if the picture did not end at 48
    people = [(beyond, inside, narrow), (narrow,), (inside,), ()]
    path = own_painted.manifest.row(0).path.relative_to(own_painted.root).as_posix()
    sizes = [48] * 4 if are_sizes_known else None
    manifest = manifest_from_columns(
        own_painted.manifest.facts,
        paths=[path] * 4,
        splits=["test"] * 4,
        labels=[0] * 4,
        people=people,
        widths=sizes,
        heights=sizes,
    )
    write_manifest(manifest, own_painted.path)
    score(folder, own_painted, tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "predictions.parquet")
    assert table.column_names[2:7] == list(BOX_COLUMNS)
    found = table.select(["row", *BOX_COLUMNS]).to_pylist()
    assert [list(row.values()) for row in found] == [
        [0, 0, 0, 40, 40, 0.5],
        [1, 0, 0, 30, 30, None],
        [2, 0, 0, 40, 40, 0.5],
        [3, *[None] * 5],
    ]


@pytest.mark.slow
def test_two_processes_report_of_persons_what_one_does(painted, reader_of_persons, tmp_path):
    _, _, folder = reader_of_persons
    alone = score(folder, painted, split="train")
    words = ["evaluate", folder, "--data", painted.path, "--split", "train", "--json"]
    words += ["--batch-size", 4, "--num-workers", 0, "--device", "cpu"]
    together = Report.from_dict(json.loads(torchrun(2, *words).stdout))
    assert together.counts == alone.counts
