"""Comparison of what was evaluated: which is an arm, what is compared with what, and what cannot be."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from uniemox.errors import ConfigError
from uniemox.inference.compare import compare
from uniemox.targets.kinds import build_target
from uniemox.targets.pairs import mcnemar
from uniemox.targets.valence_arousal import ValenceArousal

COUNT = 90


def answers(share, seed=0, count=COUNT):
    return np.random.default_rng(seed).random(count) < share


def test_evaluations_of_the_same_samples_are_compared_in_pairs(store):
    first, second = answers(0.6), answers(0.6) | answers(0.4, 1)
    found = compare([store("a", first), store("b", second)])
    base, other = found.arms
    assert (base.name, other.name, found.base, found.samples) == ("a", "b", base, "90 images")
    apart = other.differences["top1"]
    assert apart.value == pytest.approx(second.mean() - first.mean())
    assert apart.interval.low <= apart.value <= apart.interval.high
    assert other.p == other.corrected == mcnemar(first, second)
    assert found.test == "McNemar's exact test"
    assert base.interval("top1") == base.tested[0].scores.intervals["top1"]


def test_another_base_turns_the_difference_round(store):
    folders = [store("a", answers(0.5)), store("b", answers(0.7, 1))]
    one, two = compare(folders), compare(folders, base="b")
    assert two.base.name == "b"
    assert two.arms[0].differences["top1"].value == -one.arms[1].differences["top1"].value
    with pytest.raises(ConfigError, match=r"base is c, which is none of those compared"):
        compare(folders, base="c")


def test_p_is_corrected_for_the_number_of_arms(store):
    found = compare(
        [
            store(name, answers(share, place))
            for place, (name, share) in enumerate(zip("abc", (0.5, 0.8, 0.7), strict=True))
        ]
    )
    less, more = sorted(found.compared, key=lambda arm: arm.p)
    assert less.corrected == pytest.approx(2 * less.p)
    assert more.corrected == pytest.approx(max(2 * less.p, more.p))


def test_runs_that_differ_by_their_seeds_alone_are_one_arm(store):
    made = {"ce": (0.5, 0.55, 0.6), "focal": (0.8, 0.85, 0.9)}
    folders = [
        store(f"{name}/{seed}", answers(share, seed), settings={"seed": seed, "drop_path": 0.1 * len(name)})
        for name, shares in made.items()
        for seed, share in enumerate(shares)
    ]
    found = compare(folders)
    base, other = found.arms
    assert [arm.name for arm in found.arms] == ["ce", "focal"]
    assert [source.seed for source in base.sources] == ["0", "1", "2"]
    assert [arm.differs for arm in found.arms] == [{"drop_path": "0.2"}, {"drop_path": "0.5"}]
    values = base.values("top1")
    assert base.interval("top1") == pytest.approx(stats.t.interval(0.95, 2, np.mean(values), stats.sem(values)))
    assert other.differences["top1"].value == pytest.approx(np.mean(other.values("top1")) - np.mean(values))
    assert found.test == "the difference in top-1"
    assert other.p == other.differences["top1"].p < 0.05
    assert not found.notes


def test_one_seed_says_so(store):
    folders = [store(name, answers(0.5, place), settings={"drop_path": place / 10}) for place, name in enumerate("ab")]
    assert compare(folders).notes == ["a and b have one seed each: how much another seed would change is not known."]


def test_seeds_that_change_nothing_are_said_to_give_no_range(store):
    made = {"fixed": (0.5, lambda seed: 0), "drawn": (0.6, int)}
    folders = [
        store(f"{name}/{seed}", answers(share, draw(seed)), settings={"seed": seed, "drop_path": share / 10})
        for name, (share, draw) in made.items()
        for seed in (0, 1)
    ]
    (note,) = compare(folders).notes
    assert note.startswith("fixed scores the same with every seed, so the range over seeds has no width")


def test_the_same_run_twice_is_two_arms(store):
    found = compare([store(name, answers(0.5), settings={}) for name in ("a", "b")])
    assert [len(arm.sources) for arm in found.arms] == [1, 1]
    assert found.arms[1].differences["top1"].value == 0


def test_arms_may_be_given(store):
    folders = [store(name, answers(0.5, place), settings={"init": name}) for place, name in enumerate("abcd")]
    found = compare(folders, arms=["x", "y", "x", "y"])
    assert [(arm.name, len(arm.sources)) for arm in found.arms] == [("x", 2), ("y", 2)]
    assert found.arms[1].differs == {}


def test_other_samples_are_a_gap(store):
    found = compare([store("a", answers(0.5)), store("b", answers(0.5, count=60)), store("c", answers(0.6, 1))])
    assert [arm.name for arm in found.compared] == ["c"]
    assert found.arms[1].gap == "it was tested on other samples than a (60 rows against 90)"
    assert found.notes == [f"b is not compared with a: {found.arms[1].gap}."]
    assert found.arms[1].interval("top1") is not None  # its own scores stand


def test_other_kinds_and_classes_are_a_gap(store):
    ratings = ValenceArousal().bind(("valence", "arousal"), {"scale": (1, 9)})
    generator = np.random.default_rng(0)
    rated = generator.uniform(-1, 1, (COUNT, 2)).astype(np.float32)
    number = store("v", target=ratings, logits=generator.normal(size=(COUNT, 2)), labels=rated)
    two = build_target("single_label").bind(("joy", "fear"))
    fewer = store("f", target=two, logits=generator.normal(size=(COUNT, 2)), labels=np.arange(COUNT) % 2)
    found = compare([store("a", answers(0.5)), number, fewer])
    assert found.arms[1].gap == f"it answers with {ratings.name}, and a with {two.name}"
    assert found.arms[2].gap == "its classes are joy and fear, those of a awe, fear and joy"
    assert not found.compared
    assert {"top-1", "CCC"} <= {metric.title for metric in found.metrics}


def test_ratings_are_compared_without_right_and_wrong(store):
    ratings, generator = ValenceArousal().bind(("valence", "arousal"), {"scale": (1, 9)}), np.random.default_rng(0)
    rated = generator.uniform(-1, 1, (COUNT, 2)).astype(np.float32)
    folders = [
        store(name, target=ratings, logits=rated + generator.normal(0, noise, (COUNT, 2)), labels=rated)
        for name, noise in (("a", 0.8), ("b", 0.2))
    ]
    found = compare(folders)
    assert found.test == "the difference in CCC"
    assert found.arms[1].differences["ccc"].interval.low > 0
    assert found.arms[1].p < 0.001


def test_classes_in_another_order_are_the_same(store):
    target = build_target("single_label").bind(("joy", "awe", "fear"))
    right = answers(0.6)
    labels = (np.arange(COUNT) % 3 + 1) % 3  # awe, fear, joy in this order
    logits = 2 * np.eye(3)[np.where(right, labels, (labels + 1) % 3)]
    found = compare([store("a", right), store("b", target=target, logits=logits, labels=labels)])
    assert found.arms[1].differences["top1"].value == 0


def test_groups_are_resampled_together(store):
    right, groups = np.repeat(answers(0.5, count=30), 3), np.repeat(np.arange(30), 3)
    other = np.repeat(answers(0.7, 1, count=30), 3)
    found = compare([store("a", right, groups=groups), store("b", other, groups=groups)])
    alone = compare([store("c", right), store("d", other)])
    assert found.samples == "30 groups"
    wide, narrow = (one.arms[1].differences["top1"].interval for one in (found, alone))
    assert wide.high - wide.low > 1.4 * (narrow.high - narrow.low)
    assert found.arms[1].p == mcnemar(right[::3], other[::3]) > alone.arms[1].p


def test_groups_that_an_older_table_lacks_are_a_gap(store, tmp_path):
    groups = np.repeat(np.arange(30), 3)
    folders = [store(name, answers(0.5, place), groups=groups) for place, name in enumerate("ab")]
    table = pq.read_table(f"{folders[0]}/predictions.parquet").drop_columns("group")
    pq.write_table(table, f"{folders[0]}/predictions.parquet")
    assert compare(folders).arms[1].gap == "a was evaluated before tables said which rows are alike: evaluate it again"


def test_a_run_that_died_is_a_row_with_the_reason(store):
    lines = [{"kind": "val", "step": 4, "epoch": 2, "top1": 0.5}]
    folders = [store("a", answers(0.5), settings={}), store("b", settings={"drop_path": 0.5}, lines=lines)]
    found = compare(folders)
    assert found.arms[1].gap == "no test: the run stopped after step 4, with 1 of 100 epochs done"
    turned = compare(folders, base="b")
    assert turned.arms[0].gap == f"b has {found.arms[1].gap}"


def test_a_seed_that_died_is_counted(store):
    folders = [
        store("x/0", answers(0.5), settings={"seed": 0}),
        store("x/1", settings={"seed": 1}),
        store("y/0", answers(0.6, 1), settings={"seed": 0, "drop_path": 0.5}),
    ]
    found = compare(folders)
    assert len(found.arms[0].tested) == 1
    assert "1 run of x is not counted: no test: the run stopped before its first step." in found.notes


def test_a_missing_or_damaged_table_is_a_gap(store, tmp_path):
    folders = [store("a", answers(0.5)), store("b", answers(0.6)), store("c", answers(0.6, 1))]
    (tmp_path / "b" / "predictions.parquet").unlink()
    table = pq.read_table(tmp_path / "c" / "predictions.parquet").drop_columns("p_joy")
    pq.write_table(table, tmp_path / "c" / "predictions.parquet")
    found = compare(folders)
    assert "predictions.parquet cannot be read" in found.arms[1].gap
    assert "no whole table of an evaluation" in found.arms[2].gap


def test_a_table_without_paths_or_finite_answers_is_a_gap(store, tmp_path):
    folders = [store("a", answers(0.5)), store("b", answers(0.6)), store("c", answers(0.6, 1))]
    for name, change in (
        ("b", lambda table: table.drop_columns("path")),
        ("c", lambda table: table.set_column(table.column_names.index("p_joy"), "p_joy", pa.array([np.nan] * COUNT))),
    ):
        file = tmp_path / name / "predictions.parquet"
        pq.write_table(change(pq.read_table(file)), file)
    found = compare(folders)
    assert "holds no whole table of an evaluation" in found.arms[1].gap
    assert "has answers that are not finite" in found.arms[2].gap
    assert "path" in compare(folders, base="b").arms[0].gap


def test_a_report_of_other_answers_than_its_table_is_a_gap(store, tmp_path):
    folders = [store("a", answers(0.5)), store("b", answers(0.6)), store("later", answers(0.8, 1))]
    (tmp_path / "later" / "report.json").rename(tmp_path / "b" / "report.json")
    found = compare(folders[:2])
    assert "report.json and predictions.parquet in" in found.arms[1].gap
    assert "are of different answers: evaluate it again" in found.arms[1].gap


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: [], "`sources` must be given"),
        (lambda path: [path / "absent"], "absent is no folder: to compare a model, give the `data`"),
        (lambda path: [path], "is neither a run nor an evaluation: to compare a model, give the `data`"),
        (lambda path: ["demo", "demo"], "demo is given twice"),
    ],
)
def test_what_is_nothing_to_compare_is_refused_in_one_line(tmp_path, make, told):
    with pytest.raises(ConfigError) as refused:
        compare(make(tmp_path))
    assert told in str(refused.value)


def test_models_and_runs_are_evaluated_on_data(finetuned, painted, store):
    """A run is scored on the data, as its own test was; an evaluation of the same rows stays as it is."""
    run = finetuned.config.out
    options = {"device": "cpu", "num_workers": 0, "num_resamples": 50}
    found = compare([run, run / "test", "clip:demo"], data=painted.path, **options)
    again, stored, zero = found.arms
    assert again.sources[0].settings["view"] == "scene"
    assert again.values("top1") == stored.values("top1")
    assert stored.differences["top1"].value == 0
    assert zero.differences.keys() >= {"top1", "macro_f1"}


def test_every_kind_of_answer_can_be_compared(store):
    generator = np.random.default_rng(0)
    classes = ("awe", "fear", "joy")
    for kind, labels in {
        "multi_label": generator.random((COUNT, 3)) < 0.5,
        "distribution": generator.dirichlet(np.ones(3), COUNT).astype(np.float32),
    }.items():
        target = build_target(kind).bind(classes)
        folders = [
            store(f"{kind}-{place}", target=target.fit(logits, labels), logits=logits, labels=labels)
            for place, logits in enumerate(generator.normal(size=(2, COUNT, 3)).astype(np.float32))
        ]
        (_, other) = compare(folders, num_resamples=50).arms
        for name, apart in other.differences.items():
            scores = [arm.tested[0].scores.values[name] for arm in compare(folders, num_resamples=2).arms]
            assert apart.value == pytest.approx(scores[1] - scores[0], abs=1e-6), name


def test_json_holds_plain_values(store):
    found = compare([store("a", answers(0.5), settings={}), store("b", settings={"drop_path": 0.5})])
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["base"] == "a"
    assert plain["arms"][0]["scores"]["top1"]["runs"] == found.arms[0].values("top1")
    assert plain["arms"][1]["runs"][0]["reason"] == "no test: the run stopped before its first step"
    assert plain["arms"][1]["p"] is None
