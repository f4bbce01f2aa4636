import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uniemox.errors import DataError
from uniemox.manifests.slicing import slice_rows
from uniemox.manifests.table import Attributes, Box, Facts, manifest_from_columns, read_manifest, write_manifest

OWN = {
    "viewer": pa.array(["f", None, "m", "f", "", "m"]),
    "age": pa.array([31, 40, 52, None, 18, 25], pa.int32()),
    "shade": pa.array([0.0, 0.1, 0.2, 0.3, 0.4, float("nan")]),
    "indoors": pa.array([True, False, None, True, True, False]),
    "number": pa.array([f"n{number}" for number in range(6)]),
    "empty": pa.nulls(6),
    "said": pa.array(["m", "not known", None, "f", "not known", "m"]),
    "moment": pa.array([0] * 6, pa.timestamp("s")),
}


@pytest.fixture
def path(tmp_path):
    facts = Facts(name="six", title="Six", classes=("joy", "fear"), emotion="evoked", root=tmp_path)
    people = [None, (), (Box(0, 0, 1, 1),), (Box(0, 0, 1, 1),) * 2, (Box(0, 0, 1, 1),) * 5, ()]
    manifest = manifest_from_columns(
        facts,
        paths=[f"{number}.png" for number in range(6)],
        splits=["train", "train", *["test"] * 4],
        labels=[0, 1, None, 1, 1, 0],
        label_sets=[None, None, [0, 1], None, None, None],
        attributes=[Attributes(scene=("room", "field")[n % 2], objects=("cup", "dog")[: n % 3]) for n in range(6)],
        people=people,
    )
    path = tmp_path / "six.parquet"
    write_manifest(manifest, path)
    table = pq.read_table(path)
    for name, values in OWN.items():
        table = table.append_column(name, values)
    pq.write_table(table, path)
    return path


def rows(path, column, splits=()):
    manifest = read_manifest(path)
    manifest = manifest.select(splits) if splits else manifest
    return {name: np.flatnonzero(own).tolist() for name, own in slice_rows(manifest, column, path).items()}


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("label", {"joy": [0, 2, 5], "fear": [1, 2, 3, 4]}),
        ("people", {"nobody": [1, 5], "1 person": [2], "2 people": [3], "3 or more": [4], "not known": [0]}),
        ("scene", {"field": [1, 3, 5], "room": [0, 2, 4]}),
        ("objects", {"cup": [1, 2, 4, 5], "dog": [2, 5], "not known": [0, 3]}),
        ("split", {"test": [2, 3, 4, 5], "train": [0, 1]}),
        ("viewer", {"f": [0, 3], "m": [2, 5], "not known": [1, 4]}),
        ("age", {"18": [4], "25": [5], "31": [0], "40": [1], "52": [2], "not known": [3]}),
        ("indoors", {"no": [1, 5], "yes": [0, 3, 4], "not known": [2]}),
        ("said", {"f": [3], "m": [0, 5], "not known": [1, 2, 4]}),
        ("shade", {"0 to 0.1": [0, 1], "0.2": [2], "0.3": [3], "0.4": [4], "not known": [5]}),
    ],
)
def test_rows_are_found_by_the_values_of_a_column(path, column, expected):
    found = rows(path, column)
    assert found == expected
    assert list(found) == list(expected)


def test_a_column_of_ones_own_follows_the_rows_that_are_selected(path):
    assert rows(path, "viewer", ["test"]) == {"f": [1], "m": [0, 3], "not known": [2]}


def test_quarters_hold_a_quarter_each(tmp_path):
    facts = Facts(name="many", title="Many", classes=("joy",), emotion="evoked", root=tmp_path)
    generator = np.random.default_rng(0)
    attributes = [Attributes(brightness=value) for value in generator.random(400)]
    manifest = manifest_from_columns(
        facts, paths=[f"{n}.png" for n in range(400)], splits=["test"] * 400, labels=[0] * 400, attributes=attributes
    )
    path = tmp_path / "many.parquet"
    write_manifest(manifest, path)
    assert [own.sum() for own in slice_rows(manifest, "brightness", path).values()] == [100] * 4


@pytest.mark.parametrize(("first", "step"), [(1_700_000_000_000, 1), (2**62, 4096)])
def test_quarters_of_long_numbers_are_not_confused(tmp_path, first, step):
    facts = Facts(name="many", title="Many", classes=("joy",), emotion="evoked", root=tmp_path)
    names = [f"{n}.png" for n in range(40)]
    manifest = manifest_from_columns(facts, paths=names, splits=["test"] * 40, labels=[0] * 40)
    path = tmp_path / "many.parquet"
    write_manifest(manifest, path)
    pq.write_table(pq.read_table(path).append_column("taken", pa.array([first + step * n for n in range(40)])), path)
    assert [own.sum() for own in slice_rows(manifest, "taken", path).values()] == [10] * 4


def test_rows_without_any_attribute_are_not_known(tmp_path):
    facts = Facts(name="two", title="Two", classes=("joy",), emotion="evoked", root=tmp_path)
    manifest = manifest_from_columns(
        facts,
        paths=["0.png", "1.png"],
        splits=["test"] * 2,
        labels=[0, 0],
        attributes=[None, Attributes(scene="room", brightness=0.5)],
    )
    for column, name in (("scene", "room"), ("brightness", "0.5")):
        found = slice_rows(manifest, column, tmp_path / "two.parquet")
        assert {known: own.tolist() for known, own in found.items()} == {
            name: [False, True],
            "not known": [True, False],
        }


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("scenery", "no column scenery; did you mean scene?"),
        ("gender", "It has label, people, .*scene.*viewer, age"),
        ("facial_expression", "column facial_expression has no value in the 6 rows"),
        ("empty", "no value"),
        ("moment", r"column moment holds timestamp\[.*\], which makes no slices"),
        ("distribution", "no value|makes no slices"),
    ],
)
def test_a_column_that_makes_no_slices_is_refused(path, column, message):
    with pytest.raises(DataError, match=message):
        rows(path, column)


def test_too_many_values_are_counted_and_refused(tmp_path):
    facts = Facts(name="many", title="Many", classes=("joy",), emotion="evoked", root=tmp_path)
    names = [f"{n}.png" for n in range(51)]
    path = tmp_path / "many.parquet"
    for count, is_fine in ((50, True), (51, False)):
        manifest = manifest_from_columns(
            facts, paths=names[:count], splits=["test"] * count, labels=[0] * count, groups=names[:count]
        )
        write_manifest(manifest, path)
        if is_fine:
            assert len(slice_rows(manifest, "group", path)) == 50
        else:
            with pytest.raises(DataError, match="column group has 51 values, and more than 50 make no useful table"):
                slice_rows(manifest, "group", path)
