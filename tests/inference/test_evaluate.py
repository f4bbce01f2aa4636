import inspect
import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn import metrics as oracle

from uniemox.checkpoints.facts import ModelFacts
from uniemox.checkpoints.folder import save_model
from uniemox.compute.devices import computing_on
from uniemox.config.inference import EvaluateConfig
from uniemox.config.people import PersonConfig
from uniemox.data.pixels import EvaluationViews
from uniemox.errors import CheckpointError, DataError
from uniemox.files.images import read_image
from uniemox.inference.evaluate import Evaluator, evaluate
from uniemox.inference.outputs import BATCH_SIZE
from uniemox.inference.predictor import Predictor
from uniemox.inference.tables import BOX_COLUMNS
from uniemox.manifests.columns import with_column
from uniemox.manifests.merge import number_as, renumber
from uniemox.manifests.table import Box, manifest_from_columns, read_manifest, write_manifest
from uniemox.models.classify import TwoViewClassifier, build_classifier
from uniemox.people.regions import person_region
from uniemox.targets.single_label import SingleLabel
from uniemox.train.finetune import finetune

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
    table = manifest.table.set_column(1, manifest.table.schema.field("split"), _all_in("test", len(manifest)))
    write_manifest(type(manifest)(table, manifest.facts), everything)
    report = evaluate(str(finetuned.model), data=everything, split="test", out=out, device="cpu", num_workers=0)
    return report, out


def _all_in(split, count):
    return pa.array([split] * count).dictionary_encode()


def test_the_report_is_what_scikit_learn_says_of_the_predictions(evaluated):
    report, out = evaluated
    table = pq.read_table(out / "predictions.parquet")
    label, predicted = (table[name].to_pylist() for name in ("label", "predicted"))
    assert len(label) == report.num_samples == 40
    assert report.top1 == pytest.approx(oracle.accuracy_score(label, predicted))
    assert report.balanced_accuracy == pytest.approx(oracle.balanced_accuracy_score(label, predicted))
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
        assert row["predicted"] == prediction.predicted
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
    assert SingleLabel().scores_from_dict(saved) == report
    assert saved["unreadable"] == []


def test_the_command_and_the_function_take_the_batches_that_a_run_scores_with():
    assert EvaluateConfig("demo", data=Path("d")).batch_size == BATCH_SIZE
    assert inspect.signature(evaluate).parameters["batch_size"].default == BATCH_SIZE


def test_fine_tuning_reported_the_same_test(finetuned, painted):
    report = score(finetuned.model, painted)
    saved = json.loads((finetuned.config.out / "test" / "report.json").read_text())
    tested = SingleLabel().scores_from_dict(saved)
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


def test_an_unreadable_picture_is_left_out_counted_and_named(finetuned, own_painted, tmp_path, caplog):
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
    assert record.getMessage().startswith("skipped 1 of 7 images")
    assert str(broken) in record.getMessage()


def test_no_picture_is_read_twice(finetuned, own_painted, monkeypatch):
    own_painted.manifest.select(["test"]).row(2).path.write_bytes(b"")
    read = []

    def count(path, **options):
        read.append(path)
        return read_image(path, **options)

    monkeypatch.setattr("uniemox.data.dataset.read_image", count)
    score(finetuned.model, own_painted)
    assert len(read) == len(set(read)) == 7


def test_a_split_of_unreadable_pictures_is_told(finetuned, own_painted):
    for path in (own_painted.root / "test").rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"none of the 7 images below .* no such file") as told:
        score(finetuned.model, own_painted)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("order", "spelt", "told"),
    [
        ((2, 0, 1), CLASSES, "another order or spelling: they are matched by name"),
        ((1, 0, 2), ("Awe", "fearful", "Happiness"), "name (fearful is fear, Awe is awe, Happ"),
        ((0, 1, 2), ("awe", "FEAR", "joy"), "matched by name (FEAR is fear)"),
    ],
)
@pytest.mark.parametrize("target", ["single_label", "multi_label"])
def test_classes_in_another_order_or_spelling_are_matched_by_name(
    classifiers, painted, tmp_path, caplog, target, order, spelt, told
):
    """FI and EmoSet have the same eight, in two orders."""
    caplog.set_level("INFO")
    own = painted.manifest
    mapped = {CLASSES[place]: spelt[place] for place in order}
    other = renumber(own, tuple(mapped.values()), mapped)
    assert other.facts.classes != own.facts.classes
    write_manifest(other, tmp_path / "other.parquet")
    model = classifiers[target]
    expected = score(model, painted, tmp_path / "a", split="train")
    assert "matched by name" not in caplog.text
    found = evaluate(
        str(model),
        data=tmp_path / "other.parquet",
        split="train",
        out=tmp_path / "b",
        device="cpu",
        batch_size=4,
        num_workers=0,
    )
    assert found == expected
    one, two = (pq.read_table(tmp_path / name / "predictions.parquet") for name in "ab")
    assert one.equals(two)
    (line,) = [text for text in caplog.messages if "matched by name" in text]
    assert told in line


@pytest.fixture(scope="module")
def classifiers(finetuned, finetune_config, tmp_path_factory):
    """The folders of a classifier of each target; their scores are neither all right nor all wrong."""
    several = finetune_config(
        tmp_path_factory.mktemp("several") / "run",
        target="multi_label",
        augment={"mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0},
        optim={"epochs": 3},
    )
    return {"single_label": finetuned.model, "multi_label": finetune(several)}


def test_labels_that_name_the_same_classes_are_left_as_they_are(painted):
    manifest = painted.manifest
    assert number_as(CLASSES, manifest) is manifest


def test_data_with_other_classes_are_refused_before_any_picture_is_read(finetuned, own_painted, monkeypatch):
    manifest = own_painted.manifest
    other = replace(manifest.facts, classes=("awe", "fear", "anger"))
    write_manifest(type(manifest)(manifest.table, other), own_painted.path)
    monkeypatch.setattr("uniemox.data.dataset.read_image", pytest.fail)
    told = (
        "the model has joy, which the manifest of painted lacks, and the manifest of painted has anger, which the "
        "model lacks: evaluate on data with the same classes, score what both can express (`bridge`), or fine-tune"
    )
    with pytest.raises(DataError, match=re.escape(told)):
        score(finetuned.model, own_painted)


@pytest.mark.parametrize("split", ["val2", ""])
def test_a_split_that_is_not_there_is_told_with_those_that_are(finetuned, painted, split):
    with pytest.raises(DataError, match=r"train \(24\), val \(9\), test \(7\)"):
        score(finetuned.model, painted, split=split)


def test_a_model_or_manifest_that_is_not_there_is_told(finetuned, painted, tmp_path):
    with pytest.raises(CheckpointError, match="no model folder at"):
        score(tmp_path / "none", painted)
    with pytest.raises(DataError, match="no manifest at"):
        evaluate(str(finetuned.model), data=tmp_path / "none.parquet", device="cpu")


def test_a_pretrained_model_is_evaluated_on_the_classes_of_the_data(pretrained, painted):
    assert score(pretrained.model, painted).classes == read_manifest(painted.path).facts.classes


def test_a_report_that_cannot_be_written_is_told(finetuned, painted, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DataError, match=r"out.* cannot be written"):
        score(finetuned.model, painted, tmp_path / "out")


@pytest.mark.parametrize("model", ["finetuned", "exported"])
def test_a_model_that_is_open_answers_one_manifest_after_another(request, finetuned, painted, model):
    opened = finetuned.model if model == "finetuned" else request.getfixturevalue("exported")
    with computing_on("cpu") as accelerator:
        evaluator = Evaluator.open(str(opened), accelerator=accelerator, device="cpu", batch_size=4, num_workers=0)
        for split in ("test", "val"):
            target, manifest = evaluator.target().align(painted.manifest.select([split]))
            assert evaluator.outputs(manifest, target).score() == replace(
                score(opened, painted, split=split, baselines=False), resampled=""
            )


@pytest.mark.parametrize(("name", "resampled"), [("{0}", "2 groups"), ("one", "1 group")])
def test_an_evaluation_resamples_the_groups_of_its_manifest(finetuned, own_painted, name, resampled):
    manifest = own_painted.manifest
    groups = pa.array([name.format("ab"[row % 2]) for row in range(len(manifest))])
    write_manifest(type(manifest)(with_column(manifest.table, "group", groups), manifest.facts), own_painted.path)
    report = score(finetuned.model, own_painted)
    assert report.resampled == resampled
    assert bool(report.intervals) == (resampled == "2 groups")
    assert resampled in report.ranges


# Views


def build_reader(view, folder):
    """An untrained classifier whose head is far from 0, and its folder."""
    torch.manual_seed(0)
    shape = {"size": "mini", "patch_size": 8, "image_size": 32}
    plain = build_classifier("mini", patch_size=8, image_size=32, num_classes=3, head_std=0.5).eval()
    both = view == "both"
    model = TwoViewClassifier(plain, "scaled_sum").eval() if both else plain
    facts = ModelFacts(
        kind="classifier",
        **shape,
        dataset="painted",
        emotion=None,
        classes=CLASSES,
        view=view,
        fusion="scaled_sum" if both else "none",
        person=PersonConfig(margin=0.3),
    )
    save_model(model, folder, facts)
    return model, facts, folder


@pytest.fixture(params=["person", "both"])
def reader_of_persons(request, tmp_path):
    return build_reader(request.param, tmp_path / "model")


def test_a_classifier_of_persons_is_scored_on_the_rows_own_persons(painted, reader_of_persons, tmp_path, caplog):
    model, facts, folder = reader_of_persons
    score(folder, painted, out=tmp_path / "scores", split="train", batch_size=5)
    assert "6 of 24 images have no person box: the whole image is used instead" in caplog.text
    found = pq.read_table(tmp_path / "scores" / "predictions.parquet").to_pylist()
    train = painted.manifest.select(["train"])
    prepare = EvaluationViews(size=32, view=facts.view, person=facts.person)
    for index, row in enumerate(found):
        image = Image.open(train.row(index).path)
        region = person_region(train.row(index).boxes, facts.person, width=image.width, height=image.height)
        views = torch.from_numpy(prepare.cut(image, region))
        with torch.no_grad():
            expected = model(*views.unsqueeze(1)).double().softmax(1)[0].tolist()
        assert [row[f"p_{name}"] for name in CLASSES] == pytest.approx(expected, abs=1e-5)


def test_a_row_of_the_predictions_is_found_in_the_manifest(evaluated, finetuned, painted, tmp_path):
    score(finetuned.model, painted, tmp_path / "val", split="val")
    shares = (f"p_{name}" for name in CLASSES)
    columns = [
        "path",
        "row",
        "label",
        "predicted",
        "confidence",
        "label_set",
        *shares,
        "out_of_domain",
        "is_unfamiliar",
    ]
    for folder, first, count in ((evaluated[1], 0, 40), (tmp_path / "val", 24, 9)):
        table = pq.read_table(folder / "predictions.parquet")
        assert table.column_names == columns
        assert table["row"].to_pylist() == list(range(first, first + count))
        paths = painted.manifest.table["path"].take(table["row"])
        assert paths.to_pylist() == table["path"].to_pylist()


@pytest.mark.parametrize("are_sizes_known", [True, False])
def test_the_predictions_of_persons_tell_whose_they_are(own_painted, reader_of_persons, tmp_path, are_sizes_known):
    _, _, folder = reader_of_persons
    inside, narrow = Box(0, 0, 40, 40, 0.5), Box(0, 0, 30, 30)
    beyond = Box(20, 0, 900, 30, 0.9)  # the largest, if the image did not end at 48
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


# Several processes


@pytest.mark.slow
def test_two_processes_report_what_one_does(finetuned, painted, tmp_path, on_two_processes):
    persons = {view: build_reader(view, tmp_path / view)[-1] for view in ("person", "both")}
    cases = {  # 9 rows are no multiple of two, and with batches of 16 one process has none of its own
        "small": (finetuned.model, "val", 2),
        "large": (finetuned.model, "val", 16),
        **{view: (folder, "train", 4) for view, folder in persons.items()},
    }
    for name, (model, split, size) in cases.items():
        settings = {
            "data": painted.path,
            "split": split,
            "batch-size": size,
            "workers": 0,
            "out": tmp_path / "two" / name,
        }
        (line,) = on_two_processes(
            "evaluate", model, "--json", *(f"--{key}={value}" for key, value in settings.items())
        ).splitlines()
        alone = score(model, painted, tmp_path / "one" / name, split=split, batch_size=size)
        together = SingleLabel().scores_from_dict(json.loads(line))
        assert together.num_samples == alone.num_samples == {"val": 9, "train": 24}[split]
        assert together.counts == alone.counts
        assert together.nll == pytest.approx(alone.nll, rel=1e-6)
        places = (tmp_path / number / name / "predictions.parquet" for number in ("one", "two"))
        one, two = (pq.read_table(place).to_pylist() for place in places)
        assert [row["path"] for row in one] == [row["path"] for row in two]
        for here, there in zip(one, two, strict=True):
            assert here["p_awe"] == pytest.approx(there["p_awe"], abs=1e-6)


@pytest.mark.slow
def test_a_killed_worker_is_one_line(finetuned, painted, monkeypatch):
    """The second view kills the process that reads it, which is one of the loader's."""
    parent = os.getpid()

    def die(self, image, region):
        assert os.getpid() != parent
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(EvaluationViews, "cut", die)
    with pytest.raises(DataError, match=r"a process that decodes images died: .* Run the command again") as told:
        score(finetuned.model, painted, num_workers=1)
    assert "\n" not in str(told.value)


# Other classes


def renamed(painted, path, classes, labels=(0, 1, 2)):
    """Give the painted images other classes: the places of awe, fear and joy among them."""
    manifest = painted.manifest
    table = with_column(manifest.table, "label", pa.array([labels[label] for label in manifest.labels], pa.int16()))
    write_manifest(type(manifest)(table, replace(manifest.facts, classes=classes)), path)
    return replace(painted, path=path)


def test_data_of_other_classes_are_refused_with_the_bridge_offered(finetuned, painted, tmp_path):
    ekman = renamed(painted, tmp_path / "ekman.parquet", ("fear", "happiness", "surprise"), (2, 0, 1))
    with pytest.raises(DataError, match=r"the model has awe, which .* lacks.*`bridge`"):
        score(finetuned.model, ekman)


@pytest.mark.parametrize("model", ["model", "exported"])
def test_a_bridged_evaluation_scores_what_both_can_express_and_states_the_rest(
    model, finetuned, exported, painted, tmp_path
):
    ekman = renamed(painted, tmp_path / "ekman.parquet", ("awe", "fear", "happiness", "surprise"), (3, 1, 2))
    model = exported if model == "exported" else finetuned.model
    report = score(model, ekman, tmp_path / "out", bridge=True)
    score(model, painted, tmp_path / "plain")
    plain, table = (pq.read_table(tmp_path / name / "predictions.parquet") for name in ("plain", "out"))
    plain, table = plain.filter(pc.not_equal(plain["label"], "awe")).to_pydict(), table.to_pydict()
    np.testing.assert_allclose(table["p_fear"], plain["p_fear"], atol=1e-6)
    np.testing.assert_allclose(table["p_happiness"], plain["p_joy"], atol=1e-6)
    assert [{"happiness": "joy"}.get(label, label) for label in table["label"]] == plain["label"]
    assert table["row"] == plain["row"]
    assert report.classes == ("awe", "fear", "happiness")
    assert report.top1 == pytest.approx(oracle.accuracy_score(table["label"], table["predicted"]))
    lost = int((painted.manifest.select(["test"]).labels == 0).sum())
    assert (report.bridged.num_dropped, report.bridged.rows_of) == (lost, {"surprise": lost})
    assert not report.bridged.model_dropped
    assert {one.name for one in report.baselines if one.values} == {"majority", "colour statistics"}
    assert SingleLabel().scores_from_dict(json.loads((tmp_path / "out" / "report.json").read_text())) == report


def test_a_bridge_to_polarity_adds_up_what_is_pleasant(finetuned, painted, tmp_path):
    polar = renamed(painted, tmp_path / "polar.parquet", ("negative", "positive"), (1, 0, 1))
    report = score(finetuned.model, polar, tmp_path / "out", bridge=True)
    assert report.num_samples == 7
    assert report.bridged.place == "polarity"
    probabilities = pq.read_table(tmp_path / "out" / "predictions.parquet")
    score(finetuned.model, painted, tmp_path / "plain")
    plain = pq.read_table(tmp_path / "plain" / "predictions.parquet")
    np.testing.assert_allclose(probabilities["p_negative"], plain["p_fear"], atol=1e-6)


def test_a_bridge_between_the_same_classes_changes_nothing(finetuned, painted):
    assert score(finetuned.model, painted, bridge=True) == score(finetuned.model, painted)


def test_a_bridge_that_maps_nothing_is_one_line(finetuned, painted, tmp_path):
    animals = renamed(painted, tmp_path / "animals.parquet", ("cat", "dog", "horse"))
    with pytest.raises(DataError, match=r"no bridge: the model \(awe, fear, joy\) and the data \(cat, dog, horse\)"):
        score(finetuned.model, animals, bridge=True)
