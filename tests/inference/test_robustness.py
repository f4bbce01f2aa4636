import json
from dataclasses import replace

import numpy as np
import pytest

from uniemox.data.corruptions import CORRUPTIONS
from uniemox.errors import DataError
from uniemox.files.images import read_image
from uniemox.inference.evaluate import evaluate
from uniemox.inference.predictor import Predictor
from uniemox.inference.robustness import measure_robustness
from uniemox.targets.distribution import Distribution
from uniemox.targets.kinds import build_target
from uniemox.targets.multi_label import MultiLabel
from uniemox.targets.single_label import SingleLabel
from uniemox.targets.valence_arousal import ValenceArousal

CLASSES = tuple("abcd")


def logits_of(count, *, seed=0):
    return np.random.default_rng(seed).normal(0, 2, (count, 4)).astype(np.float32)


def shift_of(target, clean, changed, labels, groups=None):
    found = measure_robustness(target, clean, [("blur", "much", changed)], labels, groups, num_resamples=400)
    return found.shifts[1]


def test_scores_and_flips_are_those_of_a_count_by_hand():
    labels = np.tile(np.arange(4), 25)
    clean = 5 * np.eye(4, dtype=np.float32)[labels]
    changed = clean.copy()
    changed[:20] = np.roll(changed[:20], 1, axis=1)  # twenty answers become wrong, five of each class
    shift = shift_of(SingleLabel(CLASSES), clean, changed, labels)
    assert shift.values["top1"] == pytest.approx(0.8)
    assert shift.difference == pytest.approx(-0.2)
    assert shift.difference_interval.low < -0.2 < shift.difference_interval.high < 0
    assert shift.flipped == pytest.approx(0.2)
    # Wilson's interval of 20 in 100, with Student's quantile in place of the normal.
    assert shift.flipped_interval == pytest.approx((0.133, 0.289), abs=0.004)


def test_what_changes_nothing_has_no_difference_and_no_flip():
    clean, labels = logits_of(80), np.arange(80) % 4
    shift = shift_of(SingleLabel(CLASSES), clean, clean, labels)
    assert (shift.difference, shift.flipped) == (0, 0)
    assert shift.flipped_interval.low == 0 < shift.flipped_interval.high < 0.1
    assert shift.difference_interval.low <= 0 <= shift.difference_interval.high


def test_rows_of_a_group_flip_together_so_the_interval_is_wider():
    clean, labels = logits_of(200), np.arange(200) % 4
    changed, groups = clean.copy(), np.arange(200) // 10
    changed[:50] = np.roll(changed[:50], 1, axis=1)  # five groups of twenty
    alone, together = (shift_of(SingleLabel(CLASSES), clean, changed, labels, own) for own in (None, groups))
    assert alone.flipped == together.flipped == 0.25
    widths = [np.ptp(one.flipped_interval) for one in (alone, together)]
    assert widths[1] > 2 * widths[0]
    lone = shift_of(SingleLabel(CLASSES), clean, changed, labels, np.zeros(200, np.int64))
    assert (lone.interval, lone.difference_interval, lone.flipped_interval) == (None, None, None)


@pytest.mark.slow
def test_the_interval_of_flips_holds_the_truth_as_often_as_it_says():
    generator, held, rounds = np.random.default_rng(0), 0, 400
    target, labels = SingleLabel(CLASSES), np.arange(60) % 4
    clean = 5 * np.eye(4, dtype=np.float32)[labels]
    for _ in range(rounds):
        flips = generator.random(60) < 0.05
        changed = np.where(flips[:, None], np.roll(clean, 1, axis=1), clean)
        found = measure_robustness(target, clean, [("blur", "", changed)], labels, num_resamples=0)
        low, high = found.shifts[1].flipped_interval
        held += low <= 0.05 <= high
    assert held / rounds >= 0.93


def test_every_kind_says_what_flips_and_by_how_much():
    clean, other = np.array([[3, -3, 2, -2]], np.float32), np.array([[3, -3, -2, 2]], np.float32)
    multi = MultiLabel(CLASSES, thresholds=(0.5,) * 4)
    assert multi.flips(clean, other).tolist() == [pytest.approx(2 / 3)]  # of a, c and d, two are there only once
    assert multi.flips(-5 * np.ones((1, 4)), -5 * np.ones((1, 4))).tolist() == [0]
    assert Distribution(CLASSES).flips(clean, other).tolist() == [0]
    assert Distribution(CLASSES).flips(clean, -clean).tolist() == [1]
    ratings = ValenceArousal(("valence", "arousal"))
    moved = ratings.flips(np.array([[0.0, 0.0], [0.5, 0.5]]), np.array([[0.3, 0.1], [0.5, 0.5]]))
    assert moved.tolist() == [0.5, 0]
    for target in (multi, Distribution(CLASSES), ratings, SingleLabel(CLASSES)):
        assert target.flip_words


def test_several_kinds_flip_on_average():
    target = build_target(("single_label", "distribution"))
    target = target._join([target.parts[0].bind(("a", "b")), target.parts[1].bind(("a", "b"))])
    clean, other = np.array([[1, 0, 1, 0]], np.float32), np.array([[1, 0, 0, 1]], np.float32)
    assert target.flips(clean, other).tolist() == [0.5]
    assert "single_label" in target.flip_words
    assert "distribution" in target.flip_words


@pytest.mark.parametrize(
    ("target", "labels"),
    [
        (MultiLabel(CLASSES, thresholds=(0.5,) * 4), np.arange(160).reshape(40, 4) % 3 == 0),
        (Distribution(CLASSES), np.random.default_rng(0).dirichlet(np.ones(4), 40).astype(np.float32)),
        (ValenceArousal(("a", "b", "c", "d")), np.random.default_rng(0).uniform(-1, 1, (40, 4)).astype(np.float32)),
    ],
    ids=lambda one: getattr(one, "name", ""),
)
def test_every_kind_is_compared_in_its_own_headline_metric(target, labels):
    clean = logits_of(40)
    found = measure_robustness(target, clean, [("blur", "", logits_of(40, seed=1))], labels, num_resamples=200)
    scores = target.score(clean, labels, num_resamples=0)
    assert found.metric == scores.headline[0].name
    assert found.shifts[0].values[found.metric] == scores.values[found.metric]
    shift = found.shifts[1]
    assert shift.difference_interval.low <= shift.difference <= shift.difference_interval.high
    assert 0 < shift.flipped <= 1
    again = target.scores_from_dict(json.loads(json.dumps(replace(scores, robustness=found).to_dict())))
    assert again.robustness == found


@pytest.fixture(scope="module")
def evaluated(finetuned, painted, tmp_path_factory):
    out, heard = tmp_path_factory.mktemp("robust") / "out", []

    def track(items, *, total, what):
        heard.append((total, what))
        yield from items

    settings = {"device": "cpu", "num_workers": 0, "baselines": False, "track": track}
    report = evaluate(str(finetuned.model), data=painted.path, out=out, robustness=True, **settings)
    return report, out, heard


def test_the_answers_to_changed_images_are_those_of_the_predictor(evaluated, finetuned, painted, tmp_path):
    report, _, _ = evaluated
    predictor = Predictor.load(finetuned.model, device="cpu")
    manifest = painted.manifest.select(["test"])
    for change, shift in zip(CORRUPTIONS, report.robustness.shifts[1:], strict=True):
        assert (shift.change, shift.strength) == (change.name, change.strength)
        paths, truths, flips = [], [], 0
        for index in range(len(manifest)):
            row = manifest.row(index)
            image, _ = change(read_image(row.path), row=int(manifest.places[index]))
            paths.append(tmp_path / f"{index}.png")
            image.save(paths[-1])
            truths.append(row.path.parent.name)
        answers = [one.predicted for one in predictor.predict(paths)]
        plain = [one.predicted for one in predictor.predict([manifest.row(i).path for i in range(len(manifest))])]
        assert shift.values["top1"] == pytest.approx(np.mean(np.array(answers) == truths))
        flips = np.mean(np.array(answers) != plain)
        assert shift.flipped == pytest.approx(flips)


def test_the_report_is_written_as_it_is_returned_and_progress_is_heard(evaluated):
    report, out, heard = evaluated
    saved = json.loads((out / "report.json").read_text())
    assert SingleLabel().scores_from_dict(saved).robustness == report.robustness
    assert report.robustness.measured_on == "Painted, test: 7 images"
    assert report.robustness.shifts[0].values["top1"] == report.top1
    assert heard == [(1, "batches"), (4, "batches")]  # 7 images, and 18 of each


def test_neither_batches_nor_workers_change_the_robustness(evaluated, finetuned, painted):
    settings = {"device": "cpu", "num_workers": 2, "batch_size": 5, "baselines": False}
    again = evaluate(str(finetuned.model), data=painted.path, robustness=True, **settings)
    ours, theirs = (report.robustness for report in (evaluated[0], again))
    assert [one.flipped for one in ours.shifts] == [one.flipped for one in theirs.shifts]
    assert [one.values["top1"] for one in ours.shifts] == [one.values["top1"] for one in theirs.shifts]


@pytest.mark.slow
def test_two_processes_find_what_one_finds(evaluated, finetuned, painted, on_two_processes):
    words = ("--robustness", "--by", "scene", "--baselines", "false", "--device", "cpu", "--workers", "0", "--json")
    printed = json.loads(on_two_processes("evaluate", finetuned.model, "--data", painted.path, *words))
    robust = printed["robustness"]["shifts"]
    assert [one["flipped"] for one in robust] == [one.flipped for one in evaluated[0].robustness.shifts]
    assert [one["values"]["top1"] for one in robust] == [one.values["top1"] for one in evaluated[0].robustness.shifts]
    assert [one["name"] for one in printed["slices"][0]["slices"]] == ["field", "room"]


def test_an_export_is_as_robust_as_its_original(evaluated, exported, painted):
    settings = {"device": "cpu", "num_workers": 0, "baselines": False}
    report = evaluate(str(exported), data=painted.path, robustness=True, **settings)
    pairs = zip(report.robustness.shifts, evaluated[0].robustness.shifts, strict=True)
    assert all(ours.values["nll"] == pytest.approx(theirs.values["nll"], abs=1e-3) for ours, theirs in pairs)


def test_an_unreadable_image_is_left_out_of_all_changes(finetuned, own_painted):
    own_painted.manifest.select(["test"]).row(2).path.write_bytes(b"")
    settings = {"device": "cpu", "num_workers": 0, "baselines": False}
    report = evaluate(str(finetuned.model), data=own_painted.path, robustness=True, **settings)
    assert report.robustness.measured_on.endswith("6 images")
    assert len(report.robustness.shifts) == 1 + len(CORRUPTIONS)


def test_an_image_that_goes_while_it_is_evaluated_is_named(finetuned, own_painted):
    path = own_painted.manifest.select(["test"]).row(2).path

    def track(items, *, total, what):
        yield from items
        path.unlink(missing_ok=True)

    settings = {"device": "cpu", "num_workers": 0, "baselines": False, "track": track}
    with pytest.raises(DataError, match=rf"images changed while they were evaluated: skipped .*{path.name}"):
        evaluate(str(finetuned.model), data=own_painted.path, robustness=True, **settings)
