"""The table of images: what is written is read, and nothing else."""

import os
import pickle
import resource
import signal
import subprocess
import sys
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uniemox.errors import DataError
from uniemox.manifests.facts import VERSION
from uniemox.manifests.table import (
    SCHEMA,
    Attributes,
    Manifest,
    Row,
    is_manifest,
    manifest_from_columns,
    manifest_from_table,
    read_manifest,
    write_manifest,
)


def test_every_row_is_what_was_put_in(tmp_path, toy):
    manifest = toy.make(tmp_path)
    for i in range(50):
        assert manifest.row(i) == toy.expected(tmp_path, i)


def test_what_is_written_is_read(tmp_path, toy):
    manifest = toy.make(tmp_path)
    write_manifest(manifest, tmp_path / "m.parquet")
    again = read_manifest(tmp_path / "m.parquet")
    assert again.facts == manifest.facts
    assert again.table.equals(manifest.table)
    assert [again.row(i) for i in range(50)] == [manifest.row(i) for i in range(50)]


def test_a_manifest_of_paths_and_splits_alone_is_ordinary(tmp_path, toy):
    manifest = manifest_from_columns(toy.facts_at(tmp_path), paths=["x.png"], splits=["train"])
    write_manifest(manifest, tmp_path / "m.parquet")
    row = read_manifest(tmp_path / "m.parquet").row(0)
    assert row == Row(0, tmp_path / "x.png", None, "train", Attributes(), ())


def test_an_empty_manifest_is_a_manifest(tmp_path, toy):
    manifest = manifest_from_columns(toy.facts_at(tmp_path), paths=[], splits=[])
    write_manifest(manifest, tmp_path / "m.parquet")
    again = read_manifest(tmp_path / "m.parquet")
    assert len(again) == 0
    assert again.labels.shape == (0,)
    assert again.split_counts() == {}
    assert again.class_counts() == {"awe": 0, "fear": 0, "joy": 0}
    with pytest.raises(DataError, match="no row in split train; it has no row"):
        again.select(["train"])


def test_rows_count_from_the_end_too_and_end_somewhere(tmp_path, toy):
    manifest = toy.make(tmp_path, 5)
    assert manifest.row(-1) == manifest.row(4)
    for wrong in (5, -6):
        with pytest.raises(IndexError, match=f"row {wrong} of a manifest of 5"):
            manifest.row(wrong)


def test_labels_are_an_array_with_minus_one_for_none_that_cannot_be_changed(tmp_path, toy):
    labels = toy.make(tmp_path).labels
    assert labels.dtype == np.int64
    assert labels.tolist() == [-1 if toy.label_of(i) is None else toy.label_of(i) for i in range(50)]
    with pytest.raises(ValueError, match="read-only"):
        labels[0] = 1


def test_splits_and_classes_are_counted(tmp_path, toy):
    manifest = toy.make(tmp_path)
    assert manifest.split_counts() == Counter(toy.split_of(i) for i in range(50))
    assert list(manifest.split_counts()) == ["train", "val", "test", "extra"]
    labels = Counter(toy.label_of(i) for i in range(50) if toy.label_of(i) is not None)
    assert manifest.class_counts() == {name: labels[i] for i, name in enumerate(toy.classes)}


def test_a_row_with_a_set_of_labels_counts_for_each_of_them(tmp_path, toy):
    manifest = manifest_from_columns(
        toy.facts_at(tmp_path),
        paths=["a", "b", "c", "d"],
        splits=["train"] * 3 + ["test"],
        labels=[None, 2, None, None],
        label_sets=[[0, 2], [0], None, [1]],  # one that has both counts for its label
    )
    assert manifest.class_counts() == {"awe": 1, "fear": 1, "joy": 2}
    assert manifest.counts() == {
        "train": {"awe": 1, "fear": 0, "joy": 2, "": 1},
        "test": {"awe": 0, "fear": 1, "joy": 0},
    }


@pytest.mark.parametrize("splits", [["train"], ["val", "extra"], ["test", "train"], "val"])
def test_a_selection_holds_the_rows_of_its_splits_in_order(tmp_path, splits, toy):
    selection = toy.make(tmp_path).select(splits)
    wanted = [i for i in range(50) if toy.split_of(i) in ([splits] if splits == "val" else splits)]
    assert len(selection) == len(wanted)
    for index, i in enumerate(wanted):
        assert selection.row(index) == toy.expected(tmp_path, i, index)
    assert selection.labels.tolist() == [-1 if toy.label_of(i) is None else toy.label_of(i) for i in wanted]
    assert set(selection.split_counts()) == {toy.split_of(i) for i in wanted}


@pytest.mark.parametrize("order", ["as imported", "scattered"])
def test_a_selection_knows_where_its_rows_stand_in_the_manifest_that_was_read(tmp_path, order, toy):
    places = sorted(range(50), key=toy.split_of) if order == "as imported" else range(50)
    manifest = toy.make(tmp_path, paths=[f"a/{i:03d}.jpg" for i in places], splits=[toy.split_of(i) for i in places])
    assert manifest.places.tolist() == list(range(50))
    two = manifest.select(["val", "test"])
    for selection in (two, two.select(["test"]), pickle.loads(pickle.dumps(two))):
        paths = [selection.row(index).path for index in range(len(selection))]
        assert [manifest.row(place).path for place in selection.places.tolist()] == paths


def test_a_selection_of_neighbouring_rows_equals_one_of_scattered_rows(tmp_path, toy):
    order = sorted(range(50), key=toy.split_of)
    manifest = toy.make(
        tmp_path,
        paths=[f"a/{i:03d}.jpg" for i in order],
        splits=[toy.split_of(i) for i in order],
        labels=[toy.label_of(i) for i in order],
        attributes=[toy.attributes_of(i) if i % 6 else None for i in order],
        people=[toy.boxes_of(i) for i in order],
    )
    for name in ("train", "val", "test", "extra"):
        block, scattered = manifest.select([name]), toy.make(tmp_path).select([name])
        assert [block.row(i) for i in range(len(block))] == [scattered.row(i) for i in range(len(scattered))]
        twin = pickle.loads(pickle.dumps(block))
        assert [twin.row(i) for i in range(len(twin))] == [block.row(i) for i in range(len(block))]


def test_all_splits_are_the_manifest_itself(tmp_path, toy):
    manifest = toy.make(tmp_path)
    assert manifest.select(["extra", "test", "val", "train"]) is manifest


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        (["dev"], "no row in split dev; it has train"),
        (["train", "a", "b"], "no row in split a, b"),
        ([], "no split was named; it has train"),
    ],
)
def test_an_unknown_split_is_refused_with_those_that_exist(tmp_path, splits, words, toy):
    with pytest.raises(DataError, match=words) as caught:
        toy.make(tmp_path).select(splits)
    assert "extra (" in str(caught.value)


def test_a_missing_root_is_said_at_once_and_can_be_replaced(tmp_path, toy):
    write_manifest(toy.make(tmp_path / "gone"), tmp_path / "m.parquet")
    with pytest.raises(DataError, match=r"names the folder .*gone, which does not exist: put a link"):
        read_manifest(tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet", check_root=False).facts.root == tmp_path / "gone"
    moved = read_manifest(tmp_path / "m.parquet", tmp_path)
    assert moved.row(0).path == tmp_path / "a/000.jpg"


def test_a_missing_manifest_says_how_to_make_one(tmp_path):
    for path, what in ((tmp_path / "none.parquet", "no manifest at "), (tmp_path, "is a folder: ")):
        with pytest.raises(DataError, match=rf"{what}.*uniemox data prepare"):
            read_manifest(path)


def test_a_damaged_file_is_refused_in_one_line(tmp_path, toy):
    path = tmp_path / "m.parquet"
    write_manifest(toy.make(tmp_path), path)
    whole = path.read_bytes()
    for damaged in (b"", b"hello", whole[: len(whole) // 2], whole[:40] + bytes(60) + whole[100:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="as a manifest") as caught:
            read_manifest(path)
        assert "\n" not in str(caught.value)


def test_another_parquet_file_is_no_manifest(tmp_path):
    pq.write_table(pa.table({"path": ["x"]}), tmp_path / "m.parquet")
    with pytest.raises(DataError, match="is a Parquet file but not a manifest"):
        read_manifest(tmp_path / "m.parquet")


def test_a_manifest_of_version_1_is_still_read(tmp_path, toy):
    path = tmp_path / "m.parquet"
    write_manifest(toy.make(tmp_path), path)
    table = pq.read_table(path).drop_columns(["label_set", "people_reason", "source"])
    pq.write_table(table, path)

    def age(entries):
        entries["version"] = 1
        for name in ("labelled_by", "split_recipe", "people_source", "vad_range"):
            del entries[name]

    toy.change_facts(path, age)
    manifest = read_manifest(path)
    assert [manifest.row(i) for i in range(50)] == [toy.expected(tmp_path, i) for i in range(50)]
    assert manifest.table["label_set"].null_count == 50
    assert manifest.facts.version == 1
    write_manifest(manifest, path)
    assert read_manifest(path).facts.version == VERSION


def test_sets_of_labels_and_reasons_survive_writing_and_reading(tmp_path, toy):
    sets, reasons = [[0, 2], [], None], [None, "empty file", None]
    manifest = manifest_from_columns(
        replace(toy.facts_at(tmp_path), vad_range=(1.0, 10.0), labelled_by="raters"),
        paths=["a.png", "b.png", "c.png"],
        splits=["train"] * 3,
        label_sets=sets,
        people_reasons=reasons,
    )
    write_manifest(manifest, tmp_path / "m.parquet")
    read = read_manifest(tmp_path / "m.parquet")
    assert read.table["label_set"].to_pylist() == sets
    assert read.table["people_reason"].to_pylist() == reasons
    assert (read.facts.vad_range, read.facts.labelled_by) == ((1.0, 10.0), "raters")


def test_sets_of_labels_are_a_matrix_in_which_a_set_goes_before_a_single_label(tmp_path, toy):
    manifest = manifest_from_columns(
        toy.facts_at(tmp_path),
        paths=[f"{index}.png" for index in range(6)],
        splits=["train", "val", "train", "val", "train", "val"],
        labels=[0, None, 1, None, 2, 1],
        label_sets=[None, [0, 2], [2], [], None, None],
    )
    whole = [[1, 0, 0], [1, 0, 1], [0, 0, 1], [0, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert manifest.label_sets.dtype == bool
    assert manifest.label_sets.tolist() == np.array(whole, bool).tolist()
    assert manifest.select(["val"]).label_sets.tolist() == np.array(whole, bool)[1::2].tolist()
    sliced = Manifest(manifest.table.slice(2, 3), manifest.facts)
    assert sliced.label_sets.tolist() == np.array(whole, bool)[2:5].tolist()
    assert Manifest(manifest.table.slice(0, 0), manifest.facts).label_sets.shape == (0, 3)
    with pytest.raises(ValueError, match="read-only"):
        manifest.label_sets[0, 0] = True


def test_a_label_of_a_set_that_is_not_in_the_table_of_classes_is_refused(tmp_path, toy):
    with pytest.raises(DataError, match=r"has the label 3, but .* has 3 classes"):
        manifest_from_columns(toy.facts_at(tmp_path), paths=["a.png"], splits=["train"], label_sets=[[0, 3]])


def test_a_missing_column_and_one_of_another_type_are_named(tmp_path, toy):
    path = tmp_path / "m.parquet"
    write_manifest(toy.make(tmp_path), path)
    table = pq.read_table(path)
    pq.write_table(table.drop_columns("people"), path)
    with pytest.raises(DataError, match="has no column people"):
        read_manifest(path)
    index = table.schema.get_field_index("width")
    pq.write_table(table.set_column(index, "width", table["path"]), path)
    with pytest.raises(DataError, match="holds string in column width, not int32"):
        read_manifest(path)


def test_columns_may_stand_in_any_order_and_beside_others(tmp_path, toy):
    path = tmp_path / "m.parquet"
    manifest = toy.make(tmp_path)
    write_manifest(manifest, path)
    table = pq.read_table(path)
    table = table.select(sorted(table.column_names)).append_column("mine", table["path"])
    pq.write_table(table, path)
    assert read_manifest(path).table.equals(manifest.table)


@pytest.mark.parametrize("wrong", [3, -1, 300])
def test_a_label_outside_of_the_table_of_classes_is_refused(tmp_path, wrong, toy):
    with pytest.raises(DataError, match=f"label {wrong}, but toy has 3 classes"):
        toy.make(tmp_path, 2, labels=[0, wrong])
    path = tmp_path / "m.parquet"
    write_manifest(toy.make(tmp_path), path)
    toy.change_facts(path, lambda entries: entries.update(classes=["awe"]))
    with pytest.raises(DataError, match="label 2, but toy has 1 classes"):
        read_manifest(path)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x.jpg", "a/../../x.jpg", ".."])
def test_a_path_that_leaves_the_root_is_refused(tmp_path, path, toy):
    with pytest.raises(DataError, match="leaves the root"):
        toy.make(tmp_path, 2, paths=["fine.jpg", path])


def test_dots_in_a_name_are_no_way_out(tmp_path, toy):
    assert toy.make(tmp_path, 1, paths=["a..b/c...jpg"]).row(0).path == tmp_path / "a..b/c...jpg"


@pytest.mark.parametrize("name", ["path", "split"])
def test_a_row_without_path_or_split_is_refused(tmp_path, name, toy):
    values = {"paths": ["a.jpg", "b.jpg"], "splits": ["train", "val"], name + "s": ["x", None]}
    with pytest.raises(DataError, match=f"a row without {name}"):
        manifest_from_columns(toy.facts_at(tmp_path), **values)


def test_columns_of_unequal_length_are_refused(tmp_path, toy):
    with pytest.raises(DataError, match="column people has 1 entries for 2 paths"):
        toy.make(tmp_path, 2, people=[()])


def test_nothing_is_left_beside_a_manifest(tmp_path, toy):
    write_manifest(toy.make(tmp_path), tmp_path / "m.parquet")
    write_manifest(toy.make(tmp_path), tmp_path / "m.parquet")
    assert [file.name for file in tmp_path.iterdir()] == ["m.parquet"]


def test_a_manifest_is_known_by_its_metadata_and_nothing_else_is_one(tmp_path, toy):
    write_manifest(toy.make(tmp_path), tmp_path / "m.parquet")
    assert is_manifest(tmp_path / "m.parquet")
    pq.write_table(pq.read_table(tmp_path / "m.parquet").replace_schema_metadata(), tmp_path / "t")
    (tmp_path / "text").write_text("PAR1 no table")
    (tmp_path / "empty").touch()
    assert not any(is_manifest(tmp_path / name) for name in ("t", "text", "empty", "none", "."))


def test_a_missing_folder_to_write_to_is_made(tmp_path, toy):
    path = tmp_path / "none" / "below" / "m.parquet"
    write_manifest(toy.make(tmp_path), path)
    assert len(read_manifest(path)) == len(toy.make(tmp_path))


def test_a_file_in_the_place_of_a_folder_to_write_to_is_an_error_of_one_line(tmp_path, toy):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be written: .*file is a file, not a folder"):
        write_manifest(toy.make(tmp_path), tmp_path / "file" / "m.parquet")


def test_a_full_disk_leaves_the_old_manifest_whole(tmp_path, toy):
    path = tmp_path / "m.parquet"
    write_manifest(toy.make(tmp_path, 5), path)
    old = path.read_bytes()
    large = toy.make(tmp_path, 2000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # The kernel refuses to grow a file, as it does on a full disk, but with another errno.
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises(DataError, match=r"cannot be written: file too large\. Choose"):
            write_manifest(large, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == ["m.parquet"]
    assert len(read_manifest(path)) == 5


def test_a_pickled_manifest_is_the_same_and_smaller_than_its_table(tmp_path, toy):
    manifest = toy.make(tmp_path, 2000)
    manifest.row(0)  # fills the caches, which must not travel
    selection = manifest.select(["val"])
    data = pickle.dumps(selection)
    assert len(data) < selection.table.nbytes / 3
    again = pickle.loads(data)
    assert again.facts == selection.facts
    assert [again.row(i) for i in range(0, len(again), 17)] == [selection.row(i) for i in range(0, len(selection), 17)]


def test_reading_rows_makes_nothing_as_long_as_the_table(tmp_path, toy):
    """Workers share the table's memory; what a row made for all rows would be each worker's own."""
    manifest = toy.make(tmp_path, 20_000)
    tracemalloc.start()
    manifest.row(0)  # makes what is kept for later rows
    allocated = pa.total_allocated_bytes()
    rows = [manifest.row(place) for place in range(0, 20_000, 1000)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [row.label for row in rows] == [manifest.table["label"][row.index].as_py() for row in rows]
    assert peak < 60_000  # three bytes a row; labels alone take eight
    assert pa.total_allocated_bytes() == allocated


def test_a_manifest_of_several_chunks_reads_like_one(tmp_path, toy):
    parts = [toy.make(tmp_path, 50), toy.make(tmp_path, 30)]
    joined = Manifest(pa.concat_tables([part.table for part in parts]), toy.facts_at(tmp_path))
    write_manifest(joined, tmp_path / "m.parquet")
    for manifest in (joined, read_manifest(tmp_path / "m.parquet")):
        for i in range(80):
            assert manifest.row(i) == toy.expected(tmp_path, i % 50, i)


def test_splits_of_several_chunks_with_their_own_dictionaries_read_like_one(tmp_path, toy):
    first = toy.make(tmp_path, 2, splits=["b", "a"])
    second = toy.make(tmp_path, 2, splits=["c", "b"])
    joined = Manifest(pa.concat_tables([first.table, second.table]), toy.facts_at(tmp_path))
    write_manifest(joined, tmp_path / "m.parquet")
    for manifest in (joined, read_manifest(tmp_path / "m.parquet")):
        assert [manifest.row(i).split for i in range(4)] == ["b", "a", "c", "b"]
        assert manifest.split_counts() == {"a": 1, "b": 2, "c": 1}
        assert [row.path.name for row in map(manifest.select(["b"]).row, range(2))] == ["000.jpg", "001.jpg"]


def test_whole_table_work_makes_no_object_per_row(tmp_path, toy):
    path = tmp_path / "m.parquet"
    write_manifest(toy.make(tmp_path, 20_000), path)
    read_manifest(path).select(["val"])  # imports and first-time caches
    tracemalloc.start()
    try:
        manifest = read_manifest(path).select(["val"])
        assert len(manifest) > 1000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000  # Arrow's memory is not Python's; one object a row would be over 1 MB


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_three_million_rows_open_and_filter_in_seconds_and_less_than_two_gigabytes(tmp_path, toy):
    part = toy.make(tmp_path, 50_000, hashes=[f"{i:064x}" for i in range(50_000)])
    table = pa.concat_tables([part.table] * 60)
    write_manifest(Manifest(table, part.facts), tmp_path / "m.parquet")
    # Seconds of the processor, all threads together; on the wall it is about half of them.
    code = (
        "import re, sys, time; from pathlib import Path; "
        "from uniemox.manifests.table import read_manifest; start = time.process_time(); "
        "m = read_manifest(Path(sys.argv[1])).select(['train']); m.row(7); "
        # Not ru_maxrss: a process starts with that of the one it was forked from, which is this one with torch in it.
        "peak = re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1]; "
        "print(time.process_time() - start, int(peak) / 1e6, len(m))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m.parquet")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    seconds, gigabytes, count = map(float, run.stdout.split())
    assert count == part.split_counts()["train"] * 60
    assert seconds < 5  # 2.3 when this was written
    assert gigabytes < 2


def test_rows_without_people_are_counted_also_in_a_selection(painted):
    manifest = painted.manifest
    for part in (manifest, manifest.select(["val"])):
        counted = sum(not part.row(index).boxes for index in range(len(part)))
        assert part.num_without_people == counted > 0
    bare = manifest_from_columns(manifest.facts, paths=["a.png"], splits=["train"])
    assert bare.num_without_people == 1


# Tables


def test_a_manifest_of_a_table_has_its_rows_in_the_order_of_splits(tmp_path, toy):
    splits = ["test", "extra", "train", "val", "train"]
    parts = [
        manifest_from_columns(
            toy.facts_at(tmp_path),
            paths=[f"{part}{i}" for i in range(5)],
            splits=splits if part == "a" else splits[::-1],
        ).table
        for part in "ab"
    ]
    manifest = manifest_from_table(toy.facts_at(tmp_path), pa.concat_tables(parts))
    assert manifest.table["path"].to_pylist() == [*("a2", "a4", "b0", "b2", "a3", "b1", "a0", "b4", "a1", "b3")]
    assert manifest.table["split"].to_pylist() == (["train"] * 4 + ["val"] * 2 + ["test"] * 2 + ["extra"] * 2)
    assert all(column.num_chunks == 1 for column in manifest.table.columns)
    assert manifest.table.schema.equals(SCHEMA)


def test_a_table_with_a_wrong_label_is_no_manifest(tmp_path, toy):
    table = manifest_from_columns(toy.facts_at(tmp_path), paths=["a"], splits=["train"], labels=[0]).table
    with pytest.raises(DataError, match="the label 0, but"):
        manifest_from_table(replace(toy.facts_at(tmp_path), classes=()), table)


def test_rows_are_counted_by_split_and_class_and_those_without_a_label_too(tmp_path, toy):
    own = replace(toy.facts_at(tmp_path), classes=("awe", "fear"))
    manifest = manifest_from_columns(
        own, paths=list("abcd"), splits=["val", "train", "train", "val"], labels=[1, 0, 0, None]
    )
    assert manifest.counts() == {"train": {"awe": 2, "fear": 0}, "val": {"awe": 0, "fear": 1, "": 1}}


def test_a_manifest_of_one_set_names_no_sources(tmp_path, toy):
    assert toy.make(tmp_path).source_counts() == {}


def test_a_null_inside_a_set_of_labels_is_refused(tmp_path, toy):
    path = tmp_path / "m.parquet"
    write_manifest(toy.make(tmp_path), path)
    table = pq.read_table(path)
    place = table.schema.get_field_index("label_set")
    sets = pa.array([[0, None]] * len(table), table.schema.field(place).type)
    pq.write_table(table.set_column(place, table.schema.field(place), sets), path)
    with pytest.raises(DataError, match="a set of labels with nothing in a place"):
        read_manifest(path)
