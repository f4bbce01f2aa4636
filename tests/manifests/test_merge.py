"""Several manifests as one."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from uniemox.emotions import MIKELS, MIKELS_ALPHABETICAL, TAXONOMIES, match_classes
from uniemox.errors import DataError
from uniemox.manifests.merge import merge_manifests, renumber
from uniemox.manifests.population import count_people
from uniemox.manifests.table import Attributes, Box, Facts, manifest_from_columns, read_manifest, write_manifest

EMOTION6 = TAXONOMIES["emotion6"].classes
EMOTIC = TAXONOMIES["emotic"].classes
TO_MIKELS = {"target": TAXONOMIES["mikels"]}


def facts(root, name="fi", classes=MIKELS_ALPHABETICAL, **changes):
    known = {"title": name.upper(), "emotion": "evoked", "licence": "free"} | changes
    return Facts(name=name, classes=classes, root=root, **known)


def make(own, labels, *, splits=None, **columns):
    paths = columns.pop("paths", [f"{i}.jpg" for i in range(len(labels))])
    return manifest_from_columns(own, paths=paths, labels=labels, splits=splits or ["train"] * len(labels), **columns)


def labels_of(manifest):
    """Path to name of the label, or None."""
    return {
        path: manifest.facts.classes[label] if label >= 0 else None
        for path, label in zip(manifest.table["path"].to_pylist(), manifest.labels.tolist(), strict=True)
    }


# Rows


def test_paths_are_rebased_to_the_common_root(tmp_path):
    first = make(facts(tmp_path / "sets" / "fi"), [0, 1])
    second = make(facts(tmp_path / "sets" / "more" / "emo8", "emo8"), [2])
    merged, problems = merge_manifests([first, second])
    assert merged.facts.root == tmp_path / "sets"
    assert merged.table["path"].to_pylist() == ["fi/0.jpg", "fi/1.jpg", "more/emo8/0.jpg"]
    assert problems == ()
    assert [merged.row(i).path for i in range(3)] == [first.row(0).path, first.row(1).path, second.row(0).path]


def test_a_root_inside_of_another_is_rebased_too(tmp_path):
    first = make(facts(tmp_path), [0])
    second = make(facts(tmp_path / "sub" / ".." / "emo8", "emo8"), [0])
    merged, _ = merge_manifests([first, second])
    assert merged.facts.root == tmp_path
    assert merged.table["path"].to_pylist() == ["0.jpg", "emo8/0.jpg"]


def test_splits_stand_together_in_their_order_and_rows_know_their_set(tmp_path):
    splits = ["test", "train", "val", "train", "extra"]
    manifests = [make(facts(tmp_path / name, name), [0] * 5, splits=splits) for name in "ab"]
    merged, _ = merge_manifests(manifests)
    assert merged.table["split"].to_pylist() == (["train"] * 4 + ["val"] * 2 + ["test"] * 2 + ["extra"] * 2)
    assert merged.table["source"].to_pylist() == ["a", "a", "b", "b", *"ababab"]
    assert merged.source_counts() == {"a": 5, "b": 5}


def test_pictures_that_nobody_searched_are_not_empty_beside_those_that_were(tmp_path):
    searched = make(facts(tmp_path / "a", "a", people_source="eye"), [0, 1], people=[(), ()])
    other = make(facts(tmp_path / "b", "b"), [0], people=[()])
    merged, _ = merge_manifests([searched, other])
    counts = count_people(merged)
    assert (counts.without, counts.unasked) == (2, 1)


def test_everything_known_about_a_row_survives(tmp_path):
    columns = {
        "attributes": [Attributes(brightness=0.5, objects=("Alarm clock",)), None],
        "people": [(Box(1, 2, 3, 4, 0.5), Box(0, 0, 9, 9)), ()],
        "people_reasons": [None, "cannot read"],
        "widths": [640, None],
        "heights": [480, None],
        "hashes": ["abc", None],
        "vad": [(2.5, None, 3.0), None],
        "distributions": [[0.5] + [0.0] * 6 + [0.5], None],
        "label_sets": [[0, 3], None],
    }
    first = make(facts(tmp_path / "a", "a", vad_range=(1, 9)), [0, None], **columns)
    second = make(facts(tmp_path / "b", "b", vad_range=(1, 9)), [1, None], **columns)
    merged, _ = merge_manifests([first, second])
    write_manifest(merged, tmp_path / "m.parquet")
    (tmp_path / "a").mkdir()
    back = read_manifest(tmp_path / "m.parquet")
    assert back.table.equals(merged.table)
    assert back.facts == merged.facts
    for name in columns | {"label": None}:
        column = {
            "people_reasons": "people_reason",
            "widths": "width",
            "heights": "height",
            "hashes": "hash",
            "distributions": "distribution",
            "label_sets": "label_set",
        }.get(name, name)
        both = first.table[column].to_pylist() + second.table[column].to_pylist()
        assert merged.table[column].to_pylist() == both, name


def test_groups_of_one_name_in_two_sets_are_two(tmp_path):
    manifests = [make(facts(tmp_path / name, name), [0, 0, 0], groups=["1", "1", None]) for name in "ab"]
    merged, _ = merge_manifests(manifests)
    assert merged.table["group"].to_pylist() == ["a/1", "a/1", None, "b/1", "b/1", None]


def test_groups_of_one_set_in_two_manifests_stay_one(tmp_path):
    halves = [make(facts(tmp_path, "caer"), [0], paths=[path], groups=["clip"]) for path in ("a", "b")]
    merged, _ = merge_manifests(halves)
    assert merged.table["group"].to_pylist() == ["caer/clip", "caer/clip"]
    assert merged.facts.name == "caer"


def test_two_sets_of_one_name_are_numbered(tmp_path):
    manifests = [make(facts(tmp_path / name, "pictures"), [0], groups=["g"]) for name in ("a", "b", "a")]
    merged, problems = merge_manifests(manifests)
    assert merged.table["source"].to_pylist() == ["pictures", "pictures 2"]
    assert merged.table["group"].to_pylist() == ["pictures/g", "pictures 2/g"]
    assert [problem.count for problem in problems] == [1]


def test_no_two_sets_get_the_same_name(tmp_path):
    names = ["a", "a", "a 2", "x/y", "x-y"]
    manifests = [make(facts(tmp_path / str(i), name), [0], groups=["g"]) for i, name in enumerate(names)]
    merged, _ = merge_manifests(manifests)
    assert merged.table["source"].to_pylist() == ["a", "a 2", "a 2 2", "x-y", "x-y 2"]
    assert len(set(merged.table["group"].to_pylist())) == 5


def test_a_merge_of_a_merge_remembers_the_first_sets(tmp_path):
    a, b, c = (make(facts(tmp_path / name, name), [0]) for name in "abc")
    merged, _ = merge_manifests([merge_manifests([a, b])[0], c])
    assert merged.source_counts() == {"a": 1, "b": 1, "c": 1}
    assert merged.table["path"].to_pylist() == ["a/0.jpg", "b/0.jpg", "c/0.jpg"]


def test_a_picture_that_two_manifests_list_is_told_and_taken_from_the_first(tmp_path):
    first = make(facts(tmp_path), [0, 0], paths=["x/1.jpg", "x/1.jpg"])
    second = make(
        facts(tmp_path / "x", "x"), [1, 2, 3], paths=["0.jpg", "1.jpg", "2.jpg"], splits=["train", "test", "test"]
    )
    merged, problems = merge_manifests([first, second])
    assert merged.table["path"].to_pylist() == ["x/1.jpg", "x/1.jpg", "x/0.jpg", "x/2.jpg"]
    (problem,) = problems
    assert problem.kind == "row of x whose image an earlier manifest lists; skipped"
    assert (problem.count, problem.example) == (1, "x/1.jpg")


def test_a_folder_whose_name_is_not_utf_8_is_told(tmp_path):
    odd = make(facts(tmp_path / "\udcff", "odd"), [0])
    with pytest.raises(DataError, match="not UTF-8, which a manifest cannot hold"):
        merge_manifests([make(facts(tmp_path), [0]), odd])


# Labels


def test_the_same_classes_in_another_order_are_relabelled(tmp_path):
    first = make(facts(tmp_path / "e", "emoset", MIKELS), list(range(8)))
    second = make(facts(tmp_path / "f"), [*range(8), None])
    merged, _ = merge_manifests([first, second])
    assert merged.facts.classes == MIKELS
    assert labels_of(merged) == {
        **{f"e/{i}.jpg": name for i, name in enumerate(MIKELS)},
        **{f"f/{i}.jpg": name for i, name in enumerate(MIKELS_ALPHABETICAL)},
        "f/8.jpg": None,
    }


def test_shares_of_raters_and_sets_of_labels_are_relabelled_with_the_classes(tmp_path):
    first = make(facts(tmp_path / "a", "a", ("joy", "fear", "awe")), [0])
    second = make(
        facts(tmp_path / "b", "b", ("Fear", "Awe", "Happy")),
        [0, None],
        distributions=[[0.2, 0.3, 0.5], None],
        label_sets=[None, [0, 2]],
    )
    merged, _ = merge_manifests([first, second])
    assert labels_of(merged) == {"a/0.jpg": "joy", "b/0.jpg": "fear", "b/1.jpg": None}
    assert merged.table["distribution"].to_pylist()[1] == pytest.approx([0.5, 0.2, 0.3])
    assert merged.table["label_set"].to_pylist() == [None, None, [0, 1]]


@pytest.mark.parametrize("classes", [EMOTION6, MIKELS[:6], (*MIKELS, "joy"), ("happy", "joy", *MIKELS[:6])])
def test_other_classes_are_refused_with_advice(tmp_path, classes):
    second = make(facts(tmp_path / "b", "b", classes), [0])
    with pytest.raises(DataError, match="lead both to one `taxonomy`, for example mikels"):
        merge_manifests([make(facts(tmp_path / "a", "a", MIKELS), [0]), second])


def test_a_set_without_classes_joins_any(tmp_path):
    plain = make(facts(tmp_path / "a", "a", ()), [None])
    for order in (1, -1):
        pair = [plain, make(facts(tmp_path / "b", "b", MIKELS), [4])][::order]
        merged, _ = merge_manifests(pair)
        assert labels_of(merged) == {"a/0.jpg": None, "b/0.jpg": "anger"}


def emotion6_and_fi(root):
    return [make(facts(root / "f"), [0, 1]), make(facts(root / "e", "emotion6", EMOTION6), [0, 3, 5, 3, None])]


def test_labels_without_a_counterpart_are_refused_unless_said(tmp_path):
    with pytest.raises(
        DataError, match=r"joy \(2\) could be amusement or .*; surprise \(1\) has no counterpart .* `unmapped` drop"
    ):
        merge_manifests(emotion6_and_fi(tmp_path), **TO_MIKELS)


@pytest.mark.parametrize("unmapped", ["drop", "keep"])
def test_labels_without_a_counterpart_are_counted(tmp_path, unmapped):
    merged, problems = merge_manifests(emotion6_and_fi(tmp_path), **TO_MIKELS, unmapped=unmapped)
    expected = {"f/0.jpg": "amusement", "f/1.jpg": "anger", "e/0.jpg": "anger", "e/4.jpg": None}
    lost = {"e/1.jpg": None, "e/2.jpg": None, "e/3.jpg": None}
    assert labels_of(merged) == expected | (lost if unmapped == "keep" else {})
    assert [(problem.count, problem.example) for problem in problems] == [
        (2, "e/1.jpg"),
        (1, "e/2.jpg"),
        (3, "e/1.jpg"),
    ]
    assert problems[-1].kind.endswith("skipped" if unmapped == "drop" else "kept")


def test_sets_of_labels_keep_what_can_be_mapped_once(tmp_path):
    names = [["anger", "annoyance", "anticipation"], ["yearning"], [], None, ["happiness"]]
    sets = [own and [EMOTIC.index(name) for name in own] for own in names]
    emotic = make(facts(tmp_path / "e", "emotic", EMOTIC), [None] * 5, label_sets=sets)
    plain = make(facts(tmp_path / "f", "emotion6", EMOTION6), [0])
    merged, problems = merge_manifests([emotic, plain], target=TAXONOMIES["emotion6"], unmapped="drop")
    assert merged.table["path"].to_pylist() == [*("e/0.jpg", "e/2.jpg", "e/3.jpg", "e/4.jpg", "f/0.jpg")]
    assert merged.table["label_set"].to_pylist() == [[0], [], None, [3], None]
    assert Counter(problem.count for problem in problems) == {1: 3}
    kept, _ = merge_manifests([emotic, plain], target=TAXONOMIES["emotion6"], unmapped="keep")
    assert kept.table["label_set"].to_pylist() == [[0], [], [], None, [3], None]


def test_a_null_among_shares_is_no_share(tmp_path):
    # No importer writes them, but a Parquet file may hold them.
    odd = make(facts(tmp_path / "e", "emoset", MIKELS), [None], label_sets=[[4]], distributions=[[None] * 8])
    other = make(facts(tmp_path / "f"), [0])
    merged, problems = merge_manifests([other, odd])
    assert merged.table["label_set"].to_pylist() == [None, [1]]
    assert merged.table["distribution"].to_pylist() == [None, None]
    assert problems == ()


def test_a_label_becomes_a_set_of_one_in_a_taxonomy_of_several(tmp_path):
    emotic = make(facts(tmp_path / "e", "emotic", EMOTIC), [None] * 2, label_sets=[[1, 2], None])
    heco = make(facts(tmp_path / "h", "heco", TAXONOMIES["heco"].classes), [0, None, 4])
    merged, _ = merge_manifests([emotic, heco], target=TAXONOMIES["emotic"])
    happiness = EMOTIC.index("happiness")
    assert merged.table["label_set"].to_pylist() == [[1, 2], None, [1], None, [happiness]]
    assert merged.table["label"].null_count == 5


def test_shares_of_lost_classes_are_shared_out_by_the_others(tmp_path):
    shares = [[0.2, 0.1, 0.1, 0.4, 0.2, 0.0], [0, 0, 0, 0.5, 0, 0.5]]
    source = make(facts(tmp_path / "e", "emotion6", EMOTION6), [0, 0, 0], distributions=[*shares, None])
    merged, problems = merge_manifests([source, make(facts(tmp_path / "f"), [0])], **TO_MIKELS)
    found = merged.table["distribution"].to_pylist()
    assert found[0] == pytest.approx([0, 0, 0, 0, 2 / 6, 1 / 6, 1 / 6, 2 / 6])
    assert found[1:] == [None] * 3
    assert problems == ()


def test_shares_add_up_where_classes_become_one(tmp_path):
    shares = [[0.25, 0.0, 0.25, 0.125, 0.125, 0.25, 0, 0]]
    first = make(facts(tmp_path / "e", "emoset", MIKELS), [0], distributions=shares)
    second = make(facts(tmp_path / "f"), [0])
    merged, _ = merge_manifests([first, second], target=TAXONOMIES["polarity"])
    assert merged.table["distribution"].to_pylist()[0] == [0.625, 0.375]
    assert labels_of(merged) == {"e/0.jpg": "positive", "f/0.jpg": "positive"}


def test_labels_agree_with_a_plain_loop_over_rows(tmp_path):
    generator = np.random.default_rng(0)
    labels = generator.integers(-1, 6, 500)
    source = make(facts(tmp_path / "e", "emotion6", EMOTION6), labels)
    other = make(facts(tmp_path / "f"), [0])
    merged, _ = merge_manifests([source, other], **TO_MIKELS, unmapped="keep")
    allowed = {"anger", "disgust", "fear", "sadness"}
    expected = {
        f"e/{i}.jpg": EMOTION6[label] if label >= 0 and EMOTION6[label] in allowed else None
        for i, label in enumerate(labels)
    }
    assert labels_of(merged) == expected | {"f/0.jpg": "amusement"}


# Facts


def test_facts_are_joined_and_told_apart_where_they_differ(tmp_path):
    first = facts(tmp_path / "a", "a", url="https://a.example", citation="A 2020", split_recipe="given")
    second = facts(tmp_path / "b", "b", url="https://b.example", split_recipe="given")
    joined = merge_manifests([make(first, [0]), make(second, [0])])[0].facts
    assert (joined.name, joined.title, joined.layout) == ("a+b", "A + B", "merged")
    assert joined.licence == "free"
    assert joined.url == "a: https://a.example; b: https://b.example"
    assert joined.citation == "a: A 2020"
    assert joined.split_recipe == "given"
    assert joined.emotion == "evoked"


def test_evoked_and_felt_emotions_are_mixed_only_if_said(tmp_path):
    pair = [make(facts(tmp_path / "a", "a"), [0]), make(facts(tmp_path / "b", "b", emotion="felt"), [0])]
    with pytest.raises(DataError, match=r"\(a: evoked; b: felt\): give `mixed_emotions`"):
        merge_manifests(pair)
    assert merge_manifests(pair, mixed_emotions=True)[0].facts.emotion is None


def test_what_is_not_known_of_one_set_is_not_known_of_the_whole(tmp_path):
    pair = [make(facts(tmp_path / "a", "a"), [0]), make(facts(tmp_path / "b", "b", emotion=None), [0])]
    assert merge_manifests(pair)[0].facts.emotion is None


def test_ratings_are_brought_to_the_first_scale(tmp_path):
    first = make(facts(tmp_path / "a", "a", vad_range=(1, 9)), [0], vad=[(1, 5, 9)])
    second = make(facts(tmp_path / "b", "b", vad_range=(1, 10)), [0, 0, 0], vad=[(1, 5.5, 10), None, (10, None, 1)])
    third = make(facts(tmp_path / "c", "c"), [0])
    merged, _ = merge_manifests([first, second, third])
    assert merged.facts.vad_range == (1, 9)
    assert [own and tuple(own.values()) for own in merged.table["vad"].to_pylist()] == [
        (1, 5, 9),
        (1, 5, 9),
        None,
        (9, None, 1),
        None,
    ]
    assert merge_manifests([third, second])[0].facts.vad_range == (1, 10)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_ratings_on_a_scale_that_is_not_known_are_left_out_and_counted(tmp_path, order):
    known = make(facts(tmp_path / "a", "a", vad_range=(1, 9)), [0], vad=[(1, 5, 9)])
    unknown = make(facts(tmp_path / "b", "b"), [0, 0], vad=[None, (2, 3, 4)])
    merged, problems = merge_manifests([(known, unknown)[i] for i in order])
    assert merged.facts.vad_range == (1, 9)
    assert merged.table["vad"].null_count == 2
    (problem,) = problems
    assert (problem.kind.split(";")[1], problem.count) == (" skipped", 1)
    assert "of b on a scale that is not known" in problem.kind
    alone, problems = merge_manifests([unknown, make(facts(tmp_path / "c", "c"), [0])])
    assert alone.facts.vad_range is None
    assert alone.table["vad"].null_count == 2
    assert problems == ()


def test_one_manifest_is_no_merge(tmp_path):
    with pytest.raises(DataError, match="two manifests or more"):
        merge_manifests([make(facts(tmp_path), [0])])


def test_the_sources_are_left_as_they_were(tmp_path):
    pair = emotion6_and_fi(tmp_path)
    before = [(own.table.slice(0), replace(own.facts)) for own in pair]
    merge_manifests(pair, **TO_MIKELS, unmapped="drop")
    for own, (table, known) in zip(pair, before, strict=True):
        assert own.table.equals(table)
        assert own.facts == known


def test_a_slice_is_merged_like_a_whole_manifest(tmp_path):
    # A selection is a slice of larger buffers; lists in it begin somewhere in the middle.
    sets = [[EMOTIC.index("anger")], [EMOTIC.index("fear"), EMOTIC.index("pain")], None, []]
    shares = [list(np.eye(26)[i]) if i % 3 else None for i in range(4)]
    own = facts(tmp_path / "e", "emotic", EMOTIC)
    whole = make(
        own,
        [None] * 4,
        splits=["train", "val", "val", "val"],
        label_sets=sets,
        distributions=shares,
        vad=[(1, 1, 1), None, (3, 3, 3), None],
    )
    part = whole.select(["val"])
    copy = pa.Table.from_pylist(part.table.to_pylist(), schema=part.table.schema)
    other = make(facts(tmp_path / "f", "emotion6", EMOTION6), [0])
    options = {"target": TAXONOMIES["emotion6"], "unmapped": "keep"}
    from_slice = merge_manifests([part, other], **options)[0]
    from_copy = merge_manifests([replace(part, table=copy), other], **options)[0]
    assert from_slice.table.to_pylist() == from_copy.table.to_pylist()
    assert from_slice.table["label_set"].to_pylist() == [None, [2], None, []]


def test_roots_are_told_apart_as_folders_not_as_text(tmp_path):
    first = make(facts(tmp_path / "set"), [0])
    second = make(facts(tmp_path / "set2", "b"), [0])
    merged, _ = merge_manifests([first, second])
    assert merged.facts.root == tmp_path
    assert Path(merged.table["path"][1].as_py()) == Path("set2/0.jpg")


@pytest.mark.parametrize("target", [None, "mikels", "emotic"])
def test_an_empty_manifest_adds_nothing(tmp_path, target):
    empty = make(facts(tmp_path / "a", "a"), [])
    other = make(facts(tmp_path / "b", "b", MIKELS), [0], label_sets=[[0, 1]])
    options = {"target": target and TAXONOMIES[target], "unmapped": "drop"}
    merged, _ = merge_manifests([empty, other], **options)
    assert merged.table["path"].to_pylist() == ["b/0.jpg"]
    assert len(merge_manifests([empty, empty], **options)[0]) == 0


# Other numbers for the same names


def test_renumbered_labels_have_the_same_names(tmp_path):
    generator = np.random.default_rng(0)
    shares = generator.dirichlet(np.ones(8), 20)
    sets = [None if i % 3 else sorted(generator.permutation(8)[: i % 5].tolist()) for i in range(20)]
    labels = [None if own is not None else int(generator.integers(8)) for own in sets]
    before = make(facts(tmp_path), labels, label_sets=sets, distributions=shares.tolist(), splits=["test"] * 20)
    classes = tuple("Angry" if name == "anger" else name for name in MIKELS)
    mapped = match_classes(classes, MIKELS_ALPHABETICAL).mapped
    after = renumber(before, classes, mapped)
    assert after.facts == replace(before.facts, classes=classes)
    for name in ("path", "split", "people"):
        assert after.table[name] == before.table[name]
    assert labels_of(after) == {
        path: None if name is None else mapped[name] for path, name in labels_of(before).items()
    }
    places = [classes.index(mapped[name]) for name in MIKELS_ALPHABETICAL]
    assert (after.label_sets[:, places] == before.label_sets).all()
    found = np.array(after.table["distribution"].to_pylist())
    np.testing.assert_allclose(found[:, places], shares, rtol=1e-6)
    assert renumber(after, MIKELS_ALPHABETICAL, {v: k for k, v in mapped.items()}).table.equals(before.table)


def test_a_split_is_renumbered_as_the_whole_is(tmp_path):
    whole = make(facts(tmp_path), [0, 7, 3, 1], splits=["train", "train", "test", "test"])
    mapped = match_classes(MIKELS, MIKELS_ALPHABETICAL).mapped
    one = renumber(whole.select(["test"]), MIKELS, mapped)
    other = renumber(whole, MIKELS, mapped).select(["test"])
    assert labels_of(one) == labels_of(other) == {"2.jpg": "contentment", "3.jpg": "anger"}
