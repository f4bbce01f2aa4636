import numpy as np
import pytest
import torch

from uniemox.config.training import ConfidenceConfig
from uniemox.errors import ConfigError, DataError
from uniemox.manifests.table import Facts, manifest_from_columns
from uniemox.targets.distribution import Distribution
from uniemox.targets.kinds import build_target, find_target, resolve_target
from uniemox.targets.multi_label import MultiLabel
from uniemox.targets.several import Several
from uniemox.targets.single_label import SingleLabel
from uniemox.targets.target import Target

CLASSES = ("awe", "fear", "joy")
KINDS = ("single_label", "distribution", "multi_label", "valence_arousal")


@pytest.fixture
def manifest(tmp_path):
    generator = np.random.default_rng(0)
    facts = Facts(name="all", title="All", classes=CLASSES, emotion="evoked", root=tmp_path, vad_range=(1.0, 9.0))
    labels = [0, 1, 2, 0, 1, 2, 0, 1]
    return manifest_from_columns(
        facts,
        paths=[f"{place}.png" for place in range(8)],
        splits=["train"] * 8,
        labels=labels,
        label_sets=[[label] if label else [0, 2] for label in labels],
        distributions=generator.dirichlet(np.ones(3), 8).tolist(),
        vad=[(*pair, None) for pair in generator.uniform(1, 9, (8, 2)).tolist()],
    )


@pytest.fixture
def target(manifest):
    return build_target(KINDS).bind_to(manifest)


def logits_of(count=8, seed=1):
    return np.random.default_rng(seed).normal(size=(count, 11))


def test_each_part_has_outputs_of_its_own(target):
    assert target.name == "single_label+distribution+multi_label+valence_arousal"
    assert target.num_outputs == 11
    assert target.classes == (
        *CLASSES,
        *(f"distribution_{name}" for name in CLASSES),
        *(f"multi_label_{name}" for name in CLASSES),
        *("valence", "arousal"),
    )
    assert target.emotions == (*CLASSES * 3, None, None)


def test_what_a_folder_keeps_makes_it_again(target):
    facts = target.to_facts()
    again = resolve_target(facts["target"], target.classes, {"thresholds": facts["thresholds"], **facts["numbers"]})
    assert again.to_facts() == facts
    assert again.classes == target.classes
    assert [part.classes for part in again.parts] == [part.classes for part in target.parts]


def test_the_loss_is_the_sum_of_the_parts(target, manifest):
    labels, logits = torch.from_numpy(target.read_labels(manifest)), torch.from_numpy(logits_of()).float()
    total = target.loss(logits, target.soften(labels, 0.1))
    own, start = [], 0
    for part in target.parts:
        rows = logits[:, start : start + part.num_outputs]
        own.append(part.loss(rows, part.soften(torch.from_numpy(part.read_labels(manifest)), 0.1)))
        start += part.num_outputs
    assert len(own) == 4
    assert total.item() == pytest.approx(sum(own).item(), rel=1e-6)


def test_answers_truths_and_scores_are_those_of_the_parts(target, manifest):
    labels, logits = target.read_labels(manifest), logits_of()
    answers, truths = target.answers(logits), target.truths(labels)
    scores = target.score(logits, labels, num_resamples=10)
    alone = SingleLabel(CLASSES)
    first = alone.answers(logits[:, :3])
    assert [{name: row[name] for name in first[0]} for row in answers] == first
    assert [row["label"] for row in truths] == [CLASSES[label] for label in manifest.labels]
    assert scores.top1 == alone.score(logits[:, :3], manifest.labels).top1
    assert scores.distribution_top1 == scores.parts[1].top1
    assert scores.ccc == scores.parts[3].ccc
    assert scores.intervals["ccc"] == scores.parts[3].intervals["ccc"]
    assert target.scores_from_dict(scores.to_dict()) == scores
    assert build_target(KINDS).scores_from_dict(scores.to_dict()) == scores


def test_columns_are_distinct_and_every_answer_fills_them(target, manifest):
    names = [column.name for column in target.columns]
    assert len(set(names)) == len(names)
    assert {"predicted", "distribution_predicted", "multi_label_predicted", "valence"} <= set(names)
    for answer in target.answers(logits_of()):
        cells = {**answer, **{f"p_{name}": share for name, share in answer["probabilities"].items()}}
        assert cells.keys() - {"probabilities"} == set(names)
    truths = [column.name for column in target.truth]
    assert len(set(truths)) == len(truths)
    for truth in target.truths(target.read_labels(manifest)):
        assert list(truth) == truths


def test_metrics_are_distinct_and_the_first_chooses(target):
    names = [metric.name for metric in target.metrics]
    titles = [metric.title for metric in target.metrics if metric.title]
    assert len(set(names)) == len(names)
    assert len(set(titles)) == len(titles)
    assert target.selection(None).name == "top1"
    assert target.selection("ccc").name == "ccc"


def test_the_head_starts_as_each_part_does(target, manifest):
    head = torch.nn.Linear(4, 11)
    before = head.bias.detach().clone()
    target.start_head(head, target.read_labels(manifest))
    expected = MultiLabel(CLASSES).prior(manifest.label_sets)
    assert head.bias[6:9].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert head.bias[9:].tolist() == pytest.approx(
        target.parts[3].prior(target.parts[3].read_labels(manifest)).tolist()
    )
    assert torch.equal(head.bias[:6], before[:6])


def test_each_part_is_fitted_by_itself(target, manifest):
    labels, logits = target.read_labels(manifest), logits_of()
    divisors = target.fit_temperatures(logits, labels)
    single = SingleLabel(CLASSES).fit_temperature(logits[:, :3], manifest.labels)
    assert divisors[:3].tolist() == [single] * 3
    assert divisors[9:].tolist() == [1, 1]
    fitted = target.fit(logits, labels)
    assert fitted.parts[2].thresholds == MultiLabel(CLASSES).fit(logits[:, 6:9], manifest.label_sets).thresholds


def test_a_prior_is_known_if_that_of_every_part_is(target, manifest):
    labels = target.read_labels(manifest)
    assert target.prior(labels).shape == (11,)


def test_a_kind_cannot_be_named_twice():
    with pytest.raises(ConfigError, match="target names single_label twice"):
        Several(parts=(SingleLabel(), SingleLabel()))
    assert find_target("single_label+single_label", ()) is None
    assert find_target("single_label+ordinal", ()) is None


def test_a_part_must_say_what_its_labels_are():
    class Own(Distribution):
        name = "own"
        labels_kind = None

    with pytest.raises(ConfigError, match="does not say its `labels_kind`"):
        Several(parts=(SingleLabel(), Own()))
    assert Target.labels_kind is None


@pytest.mark.parametrize("outputs", [(3.0,), (3.0, 4.0), (4.0, -1.0), ()])
def test_outputs_that_contradict_the_classes_are_refused(outputs):
    with pytest.raises(DataError, match="must divide 3 among single_label"):
        build_target(("single_label", "valence_arousal")).bind(CLASSES, {"outputs": outputs})


def test_other_data_are_read_by_every_part(target, manifest):
    aligned, same = target.align(manifest)
    assert aligned.to_facts() == target.to_facts()
    assert np.array_equal(aligned.read_labels(same), target.read_labels(manifest))
    assert target.missing(manifest) == []
    assert target.columns_read == ("label", "distribution", "label_set", "vad")


def test_parts_promise_by_themselves(target, manifest):
    labels = np.concatenate([target.read_labels(manifest)] * 5)
    logits = logits_of(40)
    fitted, notes = target.fit_guarantees(logits, labels, ConfidenceConfig(level=0.9, risk=0.05))
    assert target.has_guarantees
    assert [note.split(":")[0] for note in notes] == ["single_label"] * 2 + ["distribution"] * 2
    facts = fitted.to_facts()
    assert {"single_label.label_set", "distribution.label_set", "distribution.abstention"} <= facts["numbers"].keys()
    again = resolve_target(facts["target"], fitted.classes, {"thresholds": facts["thresholds"], **facts["numbers"]})
    assert again.to_facts() == facts
    (answer, *_), (first, second) = again.answers(logits), again.parts[:2]
    assert answer["label_set"] == first.answers(logits[:, :3])[0]["label_set"]
    assert answer["distribution_label_set"] == second.answers(logits[:, 3:6])[0]["label_set"]
    assert answer["abstains"] is answer["distribution_abstains"] is True
    assert {"label_set", "distribution_abstains"} <= {column.name for column in again.columns}
    scores = again.score(logits, labels, num_resamples=0)
    assert 0 < scores.values["distribution_set_coverage"] <= 1
    assert again.scores_from_dict(scores.to_dict()) == scores
    bare = fitted.without_guarantees()
    assert {column.name for column in bare.columns} == {column.name for column in target.columns}
    assert not build_target(["multi_label", "valence_arousal"]).has_guarantees


def test_baselines_are_compared_in_metrics_of_every_part(target, manifest):
    scores = target.score(logits_of(), target.read_labels(manifest), num_resamples=20)
    names = [metric.name for metric in scores.headline]
    assert names == [
        *("top1", "balanced_accuracy"),
        *("kl", "distribution_top1"),
        *("mean_average_precision", "multi_label_macro_f1"),
        *("ccc", "pearson"),
    ]
    assert set(names) <= set(scores.values)


def test_every_part_is_told_in_words_by_its_own_columns(target, manifest):
    labels, logits = target.read_labels(manifest), logits_of()
    row = {**target.answers(logits)[0], **target.truths(labels)[0]}
    row |= {f"p_{name}": share for name, share in row.pop("probabilities").items()}
    assert target.in_words(row) == (row["predicted"], row["label"])
    distribution, multi, rated = target.more_in_words(row)
    shares = {name: row[f"share_{name}"] for name in CLASSES}
    first = max(shares, key=shares.get)
    assert distribution.startswith(f"{row['distribution_predicted']}; raters: {first} {100 * shares[first]:.0f} %")
    # A set of labels is listed in the order of the classes, and row 0 has label 0, so its set is {0, 2}.
    assert multi.endswith("; labelled awe, joy")
    assert rated == (
        f"valence {row['valence']:.2f}, arousal {row['arousal']:.2f}; "
        f"raters: valence {row['label_valence']:.2f}, arousal {row['label_arousal']:.2f}"
    )
    assert SingleLabel(CLASSES).more_in_words({}) == ()


def test_a_page_explains_the_ranges_once_and_names_parts_in_words(target, manifest):
    display = target.score(logits_of(), target.read_labels(manifest), num_resamples=20).display
    assert display.explanation.count("bootstrap") == 1
    assert [head.partition(":")[0] for head, _ in display.panels] == [
        *("Single label", "Single label", "Distribution", "Multi label", "Multi label", "Valence arousal")
    ]
