import json

import pyarrow as pa
import pytest

from uniemox.targets.columns import Column

VALUES = {"text": "a", "texts": ["ä", "b"], "number": 0.5, "share": 0.25, "whole": 7, "flag": False}


@pytest.mark.parametrize("kind", VALUES)
def test_a_column_holds_what_it_says_or_nothing(kind):
    column = Column("x", kind)
    values = [VALUES[kind], None]
    assert pa.array(values, column.arrow).to_pylist() == values
    assert column.in_csv(None) is None


def test_lists_and_truth_values_are_json_in_a_cell_of_csv_and_nothing_else_is():
    for kind, value in VALUES.items():
        cell = Column("x", kind).in_csv(value)
        assert (json.loads(cell) if kind in ("texts", "flag") else cell) == value
    assert Column("x", "flag").in_csv(True) == "true"
    assert Column("x", "texts").in_csv(["ä"]) == '["ä"]'
