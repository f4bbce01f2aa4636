"""Boxes of rows: giving, parting, counting."""

import pytest

from uniemox.errors import DataError
from uniemox.manifests.merge import merge_manifests
from uniemox.manifests.population import (
    FOUND,
    Found,
    Population,
    all_pictures,
    assign_people,
    check_replaceable,
    count_people,
    one_row_per_person,
    pictures_without_boxes,
    to_table,
)
from uniemox.manifests.table import Box, Facts, manifest_from_columns, read_manifest, write_manifest

A, B, C = Box(0, 0, 4, 8, 0.9), Box(1, 2, 3, 4, 0.5), Box(5, 5, 9, 9)
PATHS = ["p", "q", "p", "r", "s"]


def rows(tmp_path, people, paths=PATHS, **columns):
    facts = Facts(
        name="x", title="X", classes=("a", "b"), emotion=None, root=tmp_path, people_source=columns.pop("source", "")
    )
    count = len(paths)
    return manifest_from_columns(
        facts, paths=paths, splits=["train"] * count, labels=[i % 2 for i in range(count)], people=people, **columns
    )


def boxes_of(manifest):
    return [manifest.row(i).boxes for i in range(len(manifest))]


def column(manifest, name):
    return manifest.table[name].to_pylist()


def assign(manifest, found, *, replace_boxes=False):
    import pyarrow as pa

    paths = pa.array(list(found), pa.string())
    return assign_people(manifest, paths, found=to_table(found.values()), source="eye", replace_boxes=replace_boxes)


def test_every_row_gets_the_people_of_its_picture(tmp_path):
    manifest = rows(tmp_path, None)
    given = assign(manifest, {"p": Found((A, B), width=9, height=8), "r": Found((C,)), "s": Found()})
    assert boxes_of(given) == [(A, B), (), (A, B), (C,), ()]
    assert column(given, "people")[1] is None
    assert column(given, "people")[4] == []
    assert column(given, "width") == [9, None, 9, None, None]
    assert column(given, "height") == [8, None, 8, None, None]
    assert given.facts.people_source == "eye"
    assert boxes_of(manifest) == [()] * 5


def test_pictures_that_a_file_of_boxes_does_not_name_are_not_empty_but_unasked(tmp_path):
    # An import gives empty lists to all; once a source is named they would count as searched.
    given = assign(rows(tmp_path, [()] * 5), {"p": Found((A,)), "q": Found()})
    assert column(given, "people")[1:] == [[], column(given, "people")[0], None, None]
    counts = count_people(given)
    assert (counts.with_people, counts.without, counts.unasked) == (1, 1, 2)
    more = assign(given, {"r": Found()})
    assert count_people(more).unasked == 1


def test_everything_else_of_a_row_stays_and_survives_writing(tmp_path):
    manifest = rows(tmp_path, None, widths=[1, 2, 3, 4, 5], groups=list("abcde"))
    given = assign(manifest, {"p": Found((A,), width=9), "q": Found()})
    write_manifest(given, tmp_path / "m.parquet")
    again = read_manifest(tmp_path / "m.parquet")
    assert boxes_of(again) == boxes_of(given) == [(A,), (), (A,), (), ()]
    assert column(again, "width") == [9, 2, 9, 4, 5]
    for name in ("path", "split", "label", "group", "hash", "vad"):
        assert column(again, name) == column(manifest, name)
    assert again.facts == given.facts


def test_rows_that_share_a_picture_keep_their_own_annotated_boxes(tmp_path):
    manifest = rows(tmp_path, [(A,), (), (B,), (), ()], source="annotated")
    given = assign(manifest, {path: Found((C,)) for path in "pqrs"})
    assert boxes_of(given) == [(A,), (C,), (B,), (C,), (C,)]
    assert given.facts.people_source == "annotated; elsewhere eye"


def test_annotated_boxes_go_if_that_was_asked_for(tmp_path):
    manifest = rows(tmp_path, [(A,), (), (B,), (), ()], source="annotated")
    given = assign(manifest, {path: Found((C,)) for path in "pqrs"}, replace_boxes=True)
    assert boxes_of(given) == [(C,)] * 5
    assert given.facts.people_source == "eye"


def test_boxes_of_rows_that_nobody_looked_at_are_told_too(tmp_path):
    manifest = rows(tmp_path, [(A,), (), (), (), ()])
    given = assign(manifest, {"s": Found((C,))}, replace_boxes=True)
    assert boxes_of(given) == [(A,), (), (), (), (C,)]
    assert given.facts.people_source == "given; elsewhere eye"


def test_where_every_row_keeps_its_boxes_nobody_has_looked(tmp_path):
    manifest = rows(tmp_path, [(A,)] * 5, source="annotated")
    assert assign(manifest, {"p": Found((C,))}) is manifest
    assert assign(manifest, {}) is manifest


def test_a_picture_that_could_not_be_read_is_a_row_with_its_reason_and_no_box(tmp_path):
    given = assign(rows(tmp_path, None), {"q": Found(reason="empty file")})
    assert column(given, "people_reason") == [None, "empty file", None, None, None]
    assert column(given, "people")[1] is None


def test_a_picture_that_can_be_read_again_loses_its_reason(tmp_path):
    first = assign(rows(tmp_path, None), {"q": Found(reason="empty file")})
    again = assign(first, {"q": Found((A,))})
    assert column(again, "people_reason") == [None] * 5
    assert boxes_of(again)[1] == (A,)


def test_pictures_are_named_once_in_the_order_of_the_table(tmp_path):
    manifest = rows(tmp_path, [(A,), (), (), (B,), ()])
    assert all_pictures(manifest).to_pylist() == ["p", "q", "r", "s"]
    assert pictures_without_boxes(manifest).to_pylist() == ["q", "p", "s"]
    assert pictures_without_boxes(rows(tmp_path, None)).to_pylist() == ["p", "q", "r", "s"]


def test_a_selection_of_a_manifest_is_given_people_as_well(tmp_path):
    manifest = rows(tmp_path, [(A,), (), (B,), (), (C,)])
    part = type(manifest)(manifest.table.slice(1, 3), manifest.facts)
    assert boxes_of(assign(part, {"q": Found((A,)), "r": Found((C, B))})) == [(A,), (B,), (C, B)]
    assert boxes_of(one_row_per_person(part)) == [(), (B,), ()]


def test_there_is_a_row_of_every_person_and_one_of_every_picture_without(tmp_path):
    manifest = rows(tmp_path, [(A, B), (), (C,), (C, B, A), ()])
    parted = one_row_per_person(manifest)
    assert boxes_of(parted) == [(A,), (B,), (), (C,), (C,), (B,), (A,), ()]
    assert column(parted, "path") == ["p", "p", "q", "p", "r", "r", "r", "s"]
    assert parted.labels.tolist() == [0, 0, 1, 0, 1, 1, 1, 0]
    assert boxes_of(one_row_per_person(parted)) == boxes_of(parted)


def test_persons_of_one_picture_are_a_group_that_no_split_tears_apart(tmp_path):
    manifest = rows(tmp_path, [(A, B), (), (), (), ()], groups=[None, "g", None, None, None])
    assert column(one_row_per_person(manifest), "group") == ["p", "p", "g", "p", "r", "s"]


def test_a_row_that_nobody_looked_at_stays_so_when_rows_are_parted(tmp_path):
    parted = one_row_per_person(rows(tmp_path, None))
    assert column(parted, "people") == [None] * 5
    write_manifest(parted, tmp_path / "m.parquet")
    assert len(read_manifest(tmp_path / "m.parquet")) == 5


def test_pictures_are_counted_once_and_boxes_each(tmp_path):
    manifest = rows(tmp_path, None)
    assert count_people(manifest) == Population(4, 0, 0, 0, 4, 0, 5, 2)
    given = assign(manifest, {"p": Found((A, B)), "q": Found(), "r": Found(reason="damaged")})
    assert count_people(given) == Population(
        pictures=4, with_people=1, without=1, unread=1, unasked=1, boxes=4, rows=5, shared=2
    )


def test_the_empty_lists_of_an_import_are_not_a_search(tmp_path):
    nobody = [()] * 5
    assert count_people(rows(tmp_path, nobody)).unasked == 4
    assert count_people(rows(tmp_path, nobody, source="eye")).without == 4
    assert count_people(rows(tmp_path, [(A,), *nobody[1:]])).without == 3


@pytest.mark.parametrize("found", [[], [Found()], [Found((A, C), width=3)]])
def test_a_table_has_the_columns_of_a_manifest(found):
    table = to_table(found)
    assert table.schema == FOUND
    assert len(table) == len(found)


def test_persons_of_one_picture_survive_the_join_of_two_sets(tmp_path):
    parted = one_row_per_person(rows(tmp_path / "a", [(A, B), (), (C,), (), ()]))
    unread = assign(rows(tmp_path / "b", None), {"q": Found(reason="damaged"), "s": Found((C,))})
    merged, _ = merge_manifests([parted, unread])
    write_manifest(merged, tmp_path / "m.parquet")
    again = read_manifest(tmp_path / "m.parquet", check_root=False)
    assert boxes_of(again) == [*boxes_of(parted), *boxes_of(unread)]
    assert column(again, "people_reason") == [None] * 6 + column(unread, "people_reason")


@pytest.mark.parametrize("source", ["annotated", "annotated, clipped to the image; elsewhere x"])
def test_annotated_boxes_are_not_to_be_replaced_also_where_a_picture_has_one(tmp_path, source):
    people = [[], [A], [], [B], [C]]
    with pytest.raises(DataError, match=r"that of q among them, and mark the person.*`replace`"):
        check_replaceable(rows(tmp_path, people, source=source))
    check_replaceable(rows(tmp_path, people, source="a detector"))
    check_replaceable(rows(tmp_path, [[]] * 5, source=source))


def test_boxes_that_say_whose_label_a_row_has_are_not_to_be_replaced(tmp_path):
    own = rows(tmp_path, [[A], [B], [C], [], None])
    with pytest.raises(DataError, match=r"the rows of p have boxes of their own.*omit `replace`"):
        check_replaceable(own)


@pytest.mark.parametrize(
    "people", [[[A], [B], [A], [], None], [[A, B], [], [A, B], [C], [C]], [[A], [B], [], [C], None]]
)
def test_boxes_that_rows_of_a_picture_share_may_be_replaced(tmp_path, people):
    check_replaceable(rows(tmp_path, people))
