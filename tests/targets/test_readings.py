"""What the columns of a table answer: of every kind of target, and of several together."""

from itertools import combinations, permutations
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest

from uniemox.config.training import Target as Kind
from uniemox.errors import DataError
from uniemox.targets.kinds import build_target
from uniemox.targets.readings import Named, Rated, find_readings, given

CLASSES = ("awe", "fear", "joy")
DIMENSIONS = ("valence", "arousal")
KINDS = [kinds for count in (1, 2, 3) for kinds in permutations(get_args(Kind), count)]


def bound(kinds):
    """A target of these kinds, with classes, as a model folder would give it."""
    target = build_target(list(kinds))
    names = [DIMENSIONS if kind == "valence_arousal" else CLASSES for kind in kinds]
    if len(kinds) == 1:
        return target.bind(names[0])
    return target._join(part.bind(own) for part, own in zip(target.parts, names, strict=True))


def table_of(target, rows):
    """The batch that a table of predictions holds; the last row has no answer."""
    answers = target.answers(np.random.default_rng(0).normal(size=(rows, target.num_outputs)))
    for answer in answers:
        answer |= {f"p_{name}": share for name, share in answer.pop("probabilities", {}).items()}
    schema = pa.schema([(column.name, column.arrow) for column in target.columns])
    return answers, pa.RecordBatch.from_pylist([*answers, {}], schema=schema)


@pytest.mark.parametrize("kinds", KINDS, ids="+".join)
def test_the_columns_of_every_kind_of_model_are_read_as_it_answered(kinds):
    target = bound(kinds)
    answers, batch = table_of(target, 7)
    readings = find_readings(batch.schema.names)
    assert len(readings) == len(kinds)
    read = {column.name: column.kind for reading in readings for column in reading.columns}
    assert read.items() <= {column.name: column.kind for column in target.columns}.items()
    for reading in readings:
        values = reading.values(batch)
        assert np.isnan(values[-1]).all()
        for answer, row in zip(answers, values[:-1], strict=True):
            if isinstance(reading, Rated):
                assert row.tolist() == [answer[name] for name in reading.names]
                continue
            predicted = answer[f"{reading.part}predicted"]
            named = set(predicted) if isinstance(predicted, list) else {predicted}
            assert {name for name, value in zip(reading.names, row, strict=True) if value} == named
            assert reading.has_sets is isinstance(predicted, list)


def test_other_tables_answer_nothing():
    assert find_readings(["path", "label", "confidence"]) == ()
    assert find_readings(["path", "predicted", "confidence"]) == ()  # of nobody knows which emotions
    assert find_readings([]) == ()


def batch_of(**columns):
    return pa.RecordBatch.from_pydict(columns)


@pytest.fixture
def three():
    return batch_of(
        predicted=["awe", "joy", "awe"], confidence=[0.5, 0.9, 0.7], p_awe=[0.5, 0.05, 0.7], p_joy=[0.5, 0.95, 0.3]
    )


def test_doubt_is_how_close_the_first_two_are(three):
    (reading,) = find_readings(three.schema.names)
    assert reading.doubt(three) == pytest.approx([1, 0.1, 0.6])


def test_of_lists_doubt_is_what_the_likeliest_lacks():
    batch = batch_of(
        predicted=[["awe"], []], likeliest=["awe", "joy"], confidence=[0.8, 0.3], p_awe=[0.8, 0.1], p_joy=[0.2, 0.3]
    )
    (reading,) = find_readings(batch.schema.names)
    assert reading.doubt(batch) == pytest.approx([0.2, 0.7])
    assert not reading.adds_up


def test_typical_rows_are_those_that_name_the_emotion(three):
    (reading,) = find_readings(three.schema.names)
    found = dict(reading.typical(three, reading.values(three)))
    np.testing.assert_array_equal(found["awe"], [0.5, np.nan, 0.7])
    np.testing.assert_array_equal(found["joy"], [np.nan, 0.95, np.nan])


def test_an_answer_without_a_column_is_refused(three):
    (reading,) = find_readings(["predicted", "confidence", "p_joy"])
    with pytest.raises(DataError, match="predicted is awe, but no column is called p_awe"):
        reading.values(three)


def test_ratings_that_are_not_finite_are_no_answer():
    reading = Rated("", ("valence", "arousal"))
    batch = batch_of(valence=[1.0, float("nan"), 2.0], arousal=[0.5, 1.0, float("inf")])
    assert np.isnan(reading.values(batch)).all(1).tolist() == [False, True, True]
    assert reading.in_words({"valence": 1.0, "arousal": -0.001}) == "valence 1.00, arousal 0.00"


def test_answers_are_put_in_words():
    assert Named("", ("awe",)).in_words({"predicted": "awe"}) == "awe"
    assert Named("", ("awe",), has_sets=True).in_words({"predicted": []}) == "none"


def test_flags_that_are_missing_are_not_up():
    assert given(batch_of(up=[True, None, False]), "up").tolist() == [True, False, False]


def test_the_kinds_are_all_combined():
    assert {frozenset(kinds) for kinds in KINDS} >= {frozenset(pair) for pair in combinations(get_args(Kind), 2)}
