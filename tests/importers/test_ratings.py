"""The scale of valence, arousal and dominance."""

import pytest

from uniemox.errors import ConfigError
from uniemox.importers.importing import import_dataset
from uniemox.manifests.merge import merge_manifests
from uniemox.targets.valence_arousal import ValenceArousal


@pytest.fixture
def rated(trees, tmp_path):
    """Import images a.jpg, b.jpg, … of these rows of ratings."""

    def make(rows, header="valence,arousal", name="ratings", **options):
        lines = [f"path,{header}"]
        for letter, row in zip("abcdefgh", rows, strict=False):
            trees.touch(tmp_path / name / f"{letter}.jpg")
            lines.append(f"{letter}.jpg,{row}")
        (tmp_path / f"{name}.csv").write_text("\n".join(lines))
        table = tmp_path / f"{name}.csv"
        return import_dataset("table", tmp_path / name, table=table, ratios=(1, 0, 0), **options)

    return make


def values(look, result):
    return [own and tuple(own.values()) for own in look.cells(result.manifest, "vad")]


def test_a_stated_scale_is_a_fact_of_the_manifest_and_a_model_can_learn_it(rated, look):
    result = rated(["1,9", "5,5.5", "9,1"], scale=(1, 9))
    assert (result.problems, result.notes) == ((), ())
    assert result.manifest.facts.vad_range == (1, 9)
    assert values(look, result) == [(1, 9, None), (5, 5.5, None), (9, 1, None)]
    target = ValenceArousal().bind_to(result.manifest)
    assert (target.classes, target.scale) == (("valence", "arousal"), (1, 9))
    assert target.read_labels(result.manifest).tolist() == [[-1, 1], [0, 0.125], [1, -1]]


def test_ratings_on_a_scale_that_is_not_stated_are_kept_and_a_note_says_what_to_state(rated, look):
    result = rated(["1,9", ",5"])
    assert result.problems == ()
    assert result.manifest.facts.vad_range is None
    assert values(look, result) == [(1, 9, None), (None, 5, None)]
    (note,) = result.notes
    assert "the scale of valence and arousal is not known" in note
    assert "--scale" in note


def test_a_rating_beyond_the_scale_is_counted_with_an_example_and_left_out_alone(rated, look):
    result = rated(["12,5", "0,5", "3,4", "-1,10", "9.000001,1"], scale=(1, 9))
    found = {problem.kind.split(" beyond")[0]: (problem.count, problem.example) for problem in result.problems}
    assert found == {"valence": (3, "12 of a.jpg"), "arousal": (1, "10 of d.jpg")}
    assert all("scale of 1 to 9" in problem.kind for problem in result.problems)
    kept = values(look, result)
    assert kept[:4] == [(None, 5, None), (None, 5, None), (3, 4, None), None]
    assert kept[4] == pytest.approx((9, 1, None), abs=1e-5)  # rounded, not beyond


def test_a_scale_of_ratings_that_no_row_has_is_told(rated):
    result = rated(["joy"], "label", scale=(1, 9))
    assert result.manifest.facts.vad_range is None
    assert "name their columns" in result.notes[0]


@pytest.mark.parametrize("name", ["emotic", "emotion6"])
def test_a_set_with_a_scale_of_its_own_takes_no_other(trees, tmp_path, name):
    trees.any(name, tmp_path)
    with pytest.raises(ConfigError, match="`scale` goes with heco or table or hf data"):
        import_dataset(name, tmp_path, scale=(1, 5))


def test_whoever_knows_the_scale_of_heco_can_state_it(trees, tmp_path):
    notes = import_dataset("heco", trees.heco(tmp_path)).notes
    assert any("the scale of valence, arousal and dominance is not known" in note for note in notes)
    assert import_dataset("heco", tmp_path, scale=(0, 10)).manifest.facts.vad_range == (0, 10)


def test_published_ratings_beyond_the_scale_of_their_set_are_counted(trees, look, tmp_path):
    trees.emotion6(tmp_path)
    path = tmp_path / "ground_truth.txt"
    path.write_text(path.read_text().replace("\t2.5\t", "\t0.5\t", 1))
    result = import_dataset("emotion6", tmp_path)
    assert look.problems(result) == {"valence beyond its scale of 1 to 9, skipped": 1}
    assert result.problems[0].example == "0.5 of images/anger/1.jpg"


def test_sets_of_different_scales_are_merged_on_the_first(rated, look):
    first, second = rated(["1,9"], name="a", scale=(1, 9)), rated(["-3,0"], name="b", scale=(-3, 3))
    merged, problems = merge_manifests([first.manifest, second.manifest])
    assert merged.facts.vad_range == (1, 9)
    assert [tuple(own.values()) for own in look.cells(merged, "vad")] == [(1, 9, None), (1, 5, None)]
    assert problems == ()
