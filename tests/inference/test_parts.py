"""Parts of a table: what is kept, what is refused, what is made again, and that nobody else writes it meanwhile."""

import errno
import json
import os
import re
import subprocess
import sys
from collections import deque
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import uniemox
from uniemox.errors import ConfigError, DataError
from uniemox.files.whole import is_unfinished
from uniemox.inference.parts import Portion, Work, check_out, choose_part_size, open_parts
from uniemox.inference.predictor import Prediction
from uniemox.inference.tables import SUFFIXES, count_rows, form_of
from uniemox.targets.single_label import SingleLabel

CLASSES = ("awe", "fear")
COUNT, SIZE = 23, 5  # the last part is smaller
IDENTITY = {"model": "SHA-256 aa", "list of inputs": "23 images, SHA-256 bb"}


SIZELESS = json.dumps({"format": 2, "identity": IDENTITY, "num_inputs": COUNT, "part_size": 0, "parts": {}})


def row(index):
    """What is said of an image; every seventh cannot be read."""
    path = Path(f"{index}.png")
    if index % 7 == 6:
        return Prediction(path, None, "empty file")
    share = 0.5 + index / 1000
    shares = {"awe": share, "fear": 1 - share}
    answer = {"predicted": "awe", "confidence": share, "probabilities": shares}
    return Prediction(path, answer)


def work(**identity):
    return Work(identity={**IDENTITY, **identity}, num_inputs=COUNT, part_size=SIZE)


def opened(out, *, identity=None, **options):
    form = form_of(out, SingleLabel(CLASSES))
    return open_parts(out, work() if identity is None else work(**identity), form, **options)


def make(parts, numbers=None, *, count=COUNT):
    """Make some of the parts that are missing, or all; gives their numbers."""
    made = []
    for portion in parts.cut(range(count)):
        if numbers is None or portion.number in numbers:
            parts.keep(portion, map(row, portion))
            made.append(portion.number)
        else:
            deque(portion, maxlen=0)
    return made


def interrupt(out, numbers=(0, 1), **options):
    """A run that ends after some parts."""

    def run():
        with opened(out, **options) as parts:
            make(parts, numbers)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    return out.with_name(f"{out.name}.parts")


def finish(out, **options):
    """A run that goes on to the end; gives the numbers of the parts that it made."""
    with opened(out, **options) as parts:
        numbers = make(parts)
        parts.join()
    return numbers


@pytest.fixture(params=SUFFIXES)
def out(request, tmp_path):
    return tmp_path / f"t{request.param}"


@pytest.fixture
def unbroken(out, tmp_path):
    """The bytes of a run without an interrupt."""
    (tmp_path / "unbroken").mkdir()
    finish(tmp_path / "unbroken" / out.name)
    return (tmp_path / "unbroken" / out.name).read_bytes()


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_table_is_all_that_is_left_of_a_run(out, tmp_path):
    with opened(out) as parts:
        assert make(parts) == [0, 1, 2, 3, 4]
        assert (parts.rows, parts.unreadable, parts.done) == (COUNT, 3, COUNT)
        assert not parts.is_joined
        parts.join()
        assert parts.is_joined
    assert files(tmp_path) == [out.name]


def test_joined_rows_are_all_rows_in_order(out):
    finish(out)
    match out.suffix:
        case ".csv":
            paths = [line.split(",")[0] for line in out.read_text().splitlines()[1:]]
        case ".jsonl":
            paths = [json.loads(line)["path"] for line in out.read_text().splitlines()]
        case _:
            paths = pq.read_table(out)["path"].to_pylist()
    assert paths == [f"{index}.png" for index in range(COUNT)]


@pytest.mark.parametrize("numbers", [(0,), (0, 1), (0, 1, 2, 3), (0, 1, 2, 3, 4)])
def test_a_run_that_continues_gives_the_same_bytes_as_an_unbroken_one(out, unbroken, numbers):
    folder = interrupt(out, numbers)
    assert not out.exists()
    assert files(folder) == ["lock", *(f"part-{number:05d}{out.suffix}" for number in numbers), "progress.json"]
    assert finish(out, resume=True) == [number for number in range(5) if number not in numbers]
    assert out.read_bytes() == unbroken
    assert not folder.exists()


def test_a_run_may_be_interrupted_again_and_again(out, unbroken):
    for number in range(5):
        interrupt(out, [number], resume=number > 0)
    assert finish(out, resume=True) == []
    assert out.read_bytes() == unbroken


def test_what_was_counted_before_an_interrupt_counts(out):
    interrupt(out, (0, 1))
    with opened(out, resume=True) as parts:
        assert (parts.done, parts.rows, parts.unreadable) == (10, 10, 1)
        make(parts)
        assert (parts.rows, parts.unreadable) == (COUNT, 3)
        parts.join()


def test_a_part_that_was_not_finished_is_not_kept(out):
    def broken():
        yield row(5)
        raise KeyboardInterrupt

    def run():
        with opened(out) as parts:
            make(parts, [0])
            parts.keep(Portion(1, range(5)), broken())

    with pytest.raises(KeyboardInterrupt):
        run()
    folder = out.with_name(f"{out.name}.parts")
    assert files(folder) == ["lock", f"part-00000{out.suffix}", "progress.json"]


def test_where_no_part_was_finished_nothing_is_left(out, tmp_path):
    interrupt(out, [])
    assert files(tmp_path) == []


# What was damaged

DAMAGES = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "empty": lambda path: path.write_bytes(b""),
    "a bit flipped": lambda path: path.write_bytes(
        path.read_bytes()[:20] + bytes([path.read_bytes()[20] ^ 1]) + path.read_bytes()[21:]
    ),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "removed": Path.unlink,
    "another part": lambda path: path.write_bytes(path.with_name(f"part-00000{path.suffix}").read_bytes()),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("number", [1, 2])
def test_a_damaged_part_is_made_again_and_that_is_told(out, unbroken, damage, number, caplog):
    folder = interrupt(out, (0, 1, 2))
    DAMAGES[damage](folder / f"part-{number:05d}{out.suffix}")
    assert finish(out, resume=True) == [number, 3, 4]
    assert "1 of 3 parts in" in caplog.text
    assert out.read_bytes() == unbroken


def test_a_part_that_nobody_wrote_down_is_made_again(out, unbroken):
    folder = interrupt(out, (0, 1))
    (folder / f"part-00002{out.suffix}").write_text("a killed run's")
    (folder / f"part-00003{out.suffix}.writing").write_text("a killed run's")
    (folder / "joined").write_text("a killed run's")
    (folder / "progress.json.writing").write_text("a killed run's")
    (folder / ".progress.json.0a1b2c3d.writing").write_text("a killed run's")
    assert finish(out, resume=True) == [2, 3, 4]
    assert out.read_bytes() == unbroken
    assert not folder.exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"format": 2}', '{"format": 2, "parts": []}', "[" * 100_000, "\xff", SIZELESS]
)
def test_damaged_notes_are_one_line_with_the_way_out(out, text):
    folder = interrupt(out)
    (folder / "progress.json").write_text(text)
    for options in ({}, {"resume": True}, {"resume": True, "overwrite": True}):
        with pytest.raises(ConfigError, match=r"progress\.json is damaged .*`overwrite`") as told:
            check_out(out, **{"resume": False, "overwrite": False} | options)
        assert "\n" not in str(told.value)
    finish(out, overwrite=True)


def test_notes_of_another_version_are_refused(out):
    folder = interrupt(out)
    notes = json.loads((folder / "progress.json").read_text())
    (folder / "progress.json").write_text(json.dumps(notes | {"format": 1}))
    with pytest.raises(ConfigError, match="another version of uniemox: start again"):
        finish(out, resume=True)


# What is refused


def test_parts_of_other_work_are_refused_by_the_name_of_what_differs(out):
    folder = interrupt(out, identity={"detector": "yolo"})
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for identity, told in (
        ({"model": "SHA-256 cc", "detector": "yolo"}, "another model (SHA-256 aa then, SHA-256 cc"),
        ({"detector": "ssd"}, "another detector (yolo then, ssd now): repeat its command"),
        ({}, "another detector (yolo then, none now)"),
        ({"detector": "yolo", "file of boxes": "x"}, "another file of boxes (none then, x now)"),
        (
            {"model": "m", "detector": "d" * 200},
            "another model (SHA-256 aa then, m now) and another detector (yolo then, ",
        ),
    ):
        with pytest.raises(ConfigError, match=re.escape(told)) as error:
            finish(out, identity=identity, resume=True)
        assert str(error.value).startswith(f"{folder} is of a run with another ")
        assert str(error.value).endswith("with `resume`, or start again with `overwrite`")
        assert "\n" not in str(error.value)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_parts_stop_a_run_that_neither_continues_nor_replaces_them(out):
    folder = interrupt(out)
    told = f"{folder} holds parts of an interrupted run: continue it with `resume`, or start again"
    for call in (lambda: check_out(out, resume=False, overwrite=False), lambda: finish(out)):
        with pytest.raises(ConfigError, match=re.escape(told)):
            call()
    assert finish(out, overwrite=True, identity={"model": "another"}) == [0, 1, 2, 3, 4]


def test_without_parts_a_resumed_run_begins(out, unbroken):
    assert finish(out, resume=True) == [0, 1, 2, 3, 4]
    assert out.read_bytes() == unbroken


def test_a_table_is_replaced_by_those_who_may(out, unbroken):
    out.write_text("old")
    for options in ({}, {"resume": True}):
        with pytest.raises(ConfigError, match=re.escape(f"{out} exists; `overwrite` replaces it")):
            finish(out, **options)
    interrupt(out, overwrite=True)
    assert out.read_text() == "old"
    finish(out, resume=True)  # as the run that it continues
    assert out.read_bytes() == unbroken


def test_both_flags_continue_where_there_are_parts_and_begin_where_there_are_none(out, unbroken):
    interrupt(out)
    assert finish(out, resume=True, overwrite=True) == [2, 3, 4]
    assert finish(out, resume=True, overwrite=True) == [0, 1, 2, 3, 4]
    assert out.read_bytes() == unbroken


def test_a_continued_run_keeps_the_size_of_the_parts(out, unbroken):
    interrupt(out)
    larger = Work(identity=IDENTITY, num_inputs=COUNT, part_size=10)
    with open_parts(out, larger, form_of(out, SingleLabel(CLASSES)), resume=True) as parts:
        assert make(parts) == [2, 3, 4]
        parts.join()
    assert out.read_bytes() == unbroken


# Streams, of which nobody knows how many images they have


def stream_opened(out, **options):
    work = Work(identity=IDENTITY, num_inputs=None, part_size=SIZE)
    return open_parts(out, work, form_of(out, SingleLabel(CLASSES)), **options)


def break_off(out, numbers=None):
    """Make some parts of a stream, and end before they are joined."""

    def run():
        with stream_opened(out) as parts:
            make(parts, numbers)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()


@pytest.mark.parametrize("count", [1, 5, 10, COUNT])
def test_a_stream_is_cut_to_its_end_into_parts_of_which_none_is_empty(out, tmp_path, count):
    with stream_opened(out) as parts:
        assert make(parts, count=count) == list(range(-(-count // SIZE)))
        assert (parts.done, parts.rows) == (count, count)
        parts.join()
    assert files(tmp_path) == [out.name]
    assert count_rows(out)[0] == count


@pytest.mark.parametrize("numbers", [(0,), (1, 3), (0, 1, 2, 3), (0, 1, 2, 3, 4)])
def test_a_stream_is_read_again_and_what_is_finished_is_passed_over(out, unbroken, numbers):
    break_off(out, numbers)
    with stream_opened(out, resume=True) as parts:
        assert parts.done == SIZE * len(numbers) - 2 * (4 in numbers)
        assert make(parts) == [number for number in range(5) if number not in numbers]
        parts.join()
    assert out.read_bytes() == unbroken


def test_a_stream_that_has_become_shorter_has_no_rows_of_its_former_end(out):
    break_off(out)
    with stream_opened(out, resume=True) as parts:
        assert make(parts, count=10) == []
        parts.join()
    assert count_rows(out)[0] == 10


def test_an_image_is_taken_when_its_row_is_made(out):
    taken = []

    def stream():
        for index in range(COUNT):
            taken.append(index)
            yield index

    with stream_opened(out) as parts:
        first = next(iter(parts.cut(stream())))
        assert taken == [0]
        parts.keep(first, map(row, first))
        assert taken == [0, 1, 2, 3, 4]


# A finished table


def test_a_finished_table_has_nothing_to_continue(out):
    assert not check_out(out, resume=True, overwrite=False)
    finish(out)
    assert check_out(out, resume=True, overwrite=False)
    assert not check_out(out, resume=True, overwrite=True)
    interrupt(out, overwrite=True)
    assert not check_out(out, resume=True, overwrite=False)


@pytest.mark.parametrize("name", ["search.json", "notes.txt", "part-1.csv", "part-00000.csv.bak"])
def test_a_folder_of_somebody_else_is_left_alone(out, name):
    folder = out.with_name(f"{out.name}.parts")
    folder.mkdir()
    (folder / name).write_text("mine")
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(ConfigError, match=rf"but holds {re.escape(name)}: choose another"):
            finish(out, **options)
    assert files(folder) == [name]


def test_a_file_in_the_place_of_the_folder_is_left_alone(out):
    out.with_name(f"{out.name}.parts").write_text("mine")
    with pytest.raises(ConfigError, match="but it is a file: choose another `out`"):
        finish(out, overwrite=True)


def test_a_folder_in_the_place_of_the_table_is_refused_at_once(out):
    out.mkdir()
    with pytest.raises(ConfigError, match="must be a file and not a folder"):
        check_out(out, resume=False, overwrite=True)


def test_the_folder_of_the_table_is_made(out):
    below = out.parent / "none" / "below" / out.name
    finish(below)
    assert files(below.parent) == [below.name]


# What fails


@pytest.mark.parametrize("where", ["write", "join"])
def test_a_full_disk_keeps_the_finished_parts_and_says_how_to_continue(out, unbroken, monkeypatch, where):
    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with opened(out) as parts:
        make(parts, [0, 1] if where == "write" else range(5))
        with monkeypatch.context() as patch:
            patch.setattr(type(parts._form), where, fail)
            call = parts.join if where == "join" else lambda: make(parts, [2])
            with pytest.raises(DataError, match=r"no space is left .* continue with `resume`"):
                call()
            assert not [path for path in parts.folder.iterdir() if is_unfinished(path)]
    assert not out.exists()
    finish(out, resume=True)
    assert out.read_bytes() == unbroken


@pytest.mark.parametrize("instant", ["before", "after"])
def test_an_interrupt_around_the_last_rename_leaves_the_table_or_the_parts(out, unbroken, monkeypatch, instant):
    replace = Path.replace

    def interrupt_at(self, target):
        if target == out and instant == "before":
            raise KeyboardInterrupt
        replace(self, target)
        if target == out:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupt_at)
        with pytest.raises(KeyboardInterrupt):
            finish(out)
    assert out.exists() == (instant == "after")
    assert finish(out, resume=True) == []
    assert out.read_bytes() == unbroken


def test_an_interrupt_after_the_join_leaves_the_table_alone(out, unbroken):
    def run():
        with opened(out) as parts:
            make(parts)
            parts.join()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert out.read_bytes() == unbroken
    assert not out.with_name(f"{out.name}.parts").exists()


def test_without_the_list_of_parts_the_rest_binds_nobody(out, unbroken):
    """The list is removed first, so this is what a run leaves that was killed while it cleaned up."""
    folder = interrupt(out, range(5))
    (folder / "progress.json").unlink()
    out.write_bytes(unbroken)
    with pytest.raises(ConfigError, match="exists; `overwrite` replaces it"):
        finish(out, resume=True)
    finish(out, overwrite=True)
    assert not folder.exists()


# Locks

HOLDER = """
import sys
from pathlib import Path
from uniemox.inference.parts import Work, open_parts
from uniemox.inference.tables import form_of
from uniemox.targets.single_label import SingleLabel

out = Path(sys.argv[1])
work = Work(identity={}, num_inputs=1, part_size=1)
with open_parts(out, work, form_of(out, SingleLabel(("awe",)))):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_two_runs_do_not_write_one_table(tmp_path):
    out = tmp_path / "t.csv"
    environment = os.environ | {"PYTHONPATH": str(Path(uniemox.__file__).parents[1])}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    with holder:
        assert holder.stdout.readline() == b"held\n"
        for options in ({}, {"resume": True}, {"overwrite": True}):
            flags = {"resume": False, "overwrite": False} | options
            for call in (lambda f=flags: check_out(out, **f), lambda f=flags: finish(out, **f)):
                with pytest.raises(DataError, match=r"t\.csv\.parts is in use by another run"):
                    call()
        holder.kill()
    finish(out, resume=True)  # a killed process holds nothing
    assert files(tmp_path) == ["t.csv"]


def test_a_place_that_cannot_be_written_to_is_told_for_its_reason(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file is a file, not a folder\. Choose another `out`"):
        finish(tmp_path / "file" / "t.csv")


# Sizes


@pytest.mark.parametrize("batch_size", [1, 7, 32, 256, 5000])
@pytest.mark.parametrize("num_inputs", [1, 63, 5_000, 70_001, 10**7])
def test_parts_are_of_whole_batches_and_not_too_many(num_inputs, batch_size):
    size = choose_part_size(num_inputs, batch_size)
    assert size % batch_size == 0
    assert size >= 4 * batch_size
    assert size >= 64
    assert num_inputs / size <= 1001
    assert size <= max(64, 4 * batch_size, num_inputs / 1000) + batch_size


@pytest.mark.parametrize("batch_size", [1, 7, 32, 5000])
def test_parts_of_a_stream_are_of_some_hundred_images(batch_size):
    size = choose_part_size(None, batch_size)
    assert size % batch_size == 0
    assert max(512, 4 * batch_size) <= size < max(512, 4 * batch_size) + batch_size
