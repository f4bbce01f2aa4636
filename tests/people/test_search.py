"""Searches that are kept on disk."""

import json
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import uniemox.people.search as search_module
from uniemox.errors import DataError
from uniemox.manifests.population import FOUND
from uniemox.manifests.table import Box
from uniemox.people.search import Search

COUNT = 10


class ByColour:
    """Finds in each image a person as wide as the image is red."""

    source = "by colour"

    def __init__(self, *, die_at=None):
        self.batches = []
        self.die_at = die_at

    def detect(self, images):
        self.batches.append(len(images))
        if self.die_at is not None and sum(self.batches) >= self.die_at:
            raise KeyboardInterrupt
        return [(Box(0, 0, image.getpixel((0, 0))[0], 1, 0.5),) for image in images]


@pytest.fixture
def root(tmp_path):
    """Images of which number 3 is none."""
    root = tmp_path / "pictures"
    root.mkdir()
    for index in range(COUNT):
        Image.new("RGB", (20 + index, 30), (index + 1, 0, 0)).save(root / f"{index}.png")
    (root / "3.png").write_text("not an image")
    return root


def search(root, *, source="by colour", count=COUNT):
    paths = pa.array([f"{index}.png" for index in range(count)])
    return Search(root, paths, source=source, folder=root.parent / "parts")


def run(made, detector, **changes):
    return list(made.run(detector, **{"batch_size": 4, "num_workers": 2} | changes))


def widths(found):
    return [one.boxes[0].x1 if one.boxes else one.reason for one in found]


EXPECTED = [1, 2, 3, "not an image", 5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 99])
def test_every_picture_gets_its_own_people_in_order(root, num_workers, batch_size):
    made = search(root)
    found = run(made, ByColour(), num_workers=num_workers, batch_size=batch_size)
    assert widths(found) == EXPECTED
    assert [one.width for one in found] == [20, 21, 22, None, *range(24, 30)]
    table = made.result()
    assert table.schema == FOUND
    assert [row[0]["x1"] if row else None for row in table["people"].to_pylist()] == [
        1, 2, 3, None, 5, 6, 7, 8, 9, 10
    ]  # fmt: skip
    assert table["people_reason"].to_pylist()[3] == "not an image"


def test_the_detector_gets_batches_without_the_pictures_that_cannot_be_read(root):
    detector = ByColour()
    run(search(root), detector)
    assert detector.batches == [3, 4, 2]


def test_a_killed_search_goes_on_where_it_was_and_comes_to_the_same(root):
    made, detector = search(root), ByColour(die_at=7)
    with pytest.raises(KeyboardInterrupt):
        run(made, detector)
    again, second = search(root), ByColour()
    assert again.done == 4
    assert widths(run(again, second)) == EXPECTED[4:]
    assert sum(second.batches) == 6
    assert len(again.result()) == len(again) == COUNT
    again.clear()
    whole = search(root)
    run(whole, ByColour())
    assert whole.result().equals(again.result())


def test_what_was_yielded_is_kept_when_the_caller_stops(root):
    found = search(root).run(ByColour(), batch_size=4)
    for _ in range(6):
        next(found)
    found.close()
    assert search(root).done == 6


def test_a_process_that_is_shot_loses_no_more_than_the_last_part(root):
    found = search(root).run(ByColour(), batch_size=2, seconds_between_parts=0)
    for _ in range(5):
        next(found)
    # Not closed: nothing is cleaned up, as with kill -9.
    assert search(root).done == 4
    found.close()


def test_a_finished_search_has_nothing_left_to_do(root):
    run(search(root), ByColour())
    detector = ByColour()
    assert run(search(root), detector) == []
    assert detector.batches == []


@pytest.mark.parametrize("damage", [b"", b"no parquet", None])
def test_a_damaged_part_is_done_again(root, damage):
    run(search(root), ByColour(), seconds_between_parts=0)
    part = root.parent / "parts" / "0000000004.parquet"
    if damage is None:
        pq.write_table(pa.table({"x": [1]}), part)
    else:
        part.write_bytes(damage)
    again = search(root)
    assert again.done == 4
    assert widths(run(again, ByColour())) == EXPECTED[4:]
    assert len(again.result()) == COUNT


@pytest.mark.parametrize("other", [{"source": "another"}, {"count": 9}])
def test_a_search_does_not_go_on_with_another_one(root, other):
    run(search(root), ByColour())
    with pytest.raises(DataError, match="parts holds a search with other images or another det"):
        search(root, **other)


@pytest.mark.parametrize("text", ["", "[", "[[[[" * 9999, '{"version": 0}'])
def test_a_plan_that_is_none_is_refused_in_one_line(root, text):
    run(search(root), ByColour())
    (root.parent / "parts" / "search.json").write_text(text)
    with pytest.raises(DataError, match="holds a search with other"):
        search(root)


def test_a_search_that_found_nothing_yet_gives_way_to_another(root):
    search(root)  # as where a format does not fit, and the next try has another
    (root.parent / "parts" / "0000000000.tmp").write_bytes(b"half")
    assert run(search(root, source="another"), ByColour())


def test_a_folder_of_other_things_is_neither_used_nor_cleared(root):
    (root.parent / "parts").mkdir()
    (root.parent / "parts" / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="holds a search with other images or another detector"):
        search(root)
    assert [path.name for path in (root.parent / "parts").iterdir()] == ["thesis.txt"]


def test_a_folder_that_cannot_be_made_is_told(root):
    (root.parent / "parts").write_text("a file")
    with pytest.raises(DataError, match=r"parts cannot be written: .*parts is a file"):
        search(root)


def test_a_cleared_search_leaves_nothing(root):
    made = search(root)
    run(made, ByColour())
    made.clear()
    assert sorted(path.name for path in root.parent.iterdir()) == ["pictures"]


def test_nothing_to_search_is_a_result_without_rows(root):
    made = search(root, count=0)
    assert run(made, ByColour()) == []
    assert made.result().schema == FOUND


def test_the_plan_names_the_detector(root):
    search(root)
    plan = json.loads((root.parent / "parts" / "search.json").read_text())
    assert plan["source"] == "by colour"


def test_pictures_are_read_while_the_detector_is_at_work(root, monkeypatch):
    read = threading.Event()
    started = []

    def slow_read(path):
        started.append(path.name)
        if len(started) > 2:
            read.set()
        return Image.new("RGB", (4, 4), (1, 0, 0))

    class Waiting(ByColour):
        def detect(self, images):
            # Only a reader beside the detector can set this; else the wait runs out.
            assert read.wait(60)
            return super().detect(images)

    monkeypatch.setattr("uniemox.people.search.read_image", slow_read)
    began = time.monotonic()
    run(search(root), Waiting(), batch_size=1)
    assert time.monotonic() - began < 60


def test_large_pictures_make_small_batches(root, monkeypatch):
    monkeypatch.setattr("uniemox.people.search._BATCH_PIXELS", 1000)
    detector = ByColour()
    run(search(root), detector, batch_size=99)
    assert max(detector.batches) == 2


def test_large_pictures_do_not_pile_up_while_the_detector_is_at_work(root, monkeypatch):
    read, begun, most = search_module.read_image, [], 0

    def counted(path):
        begun.append(path)
        return read(path)

    class Slow(ByColour):
        def detect(self, images):
            nonlocal most
            time.sleep(0.02)
            most = max(most, len(begun) - sum(self.batches) - len(images))
            return super().detect(images)

    monkeypatch.setattr(search_module, "_BATCH_PIXELS", 1)  # so one image is a batch, and fills what waits
    monkeypatch.setattr(search_module, "read_image", counted)
    run(search(root), Slow(), batch_size=8, num_workers=2)
    assert len(begun) == COUNT
    assert most <= 1 + 2  # the one that cannot be read takes no room
