import hashlib
import multiprocessing
import os
import signal
import time
import zlib
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from uniemox.audit import fingerprints
from uniemox.audit.fingerprints import SCHEMA, take_fingerprints, thumbs_of
from uniemox.audit.likeness import SIDE, shrink
from uniemox.errors import DataError
from uniemox.files.images import MAX_PIXELS


def paint(path, *, seed=0, size=(60, 40), **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def paths(tmp_path):
    return [paint(tmp_path / "pictures" / f"{index}.png", seed=index) for index in range(5)]


def test_a_fingerprint_tells_size_digest_and_look(tmp_path, paths):
    table = take_fingerprints(paths, folder=tmp_path / "out")
    assert table.schema.equals(SCHEMA)
    for path, row in zip(paths, table.to_pylist(), strict=True):
        assert row["path"] == os.fsencode(path)
        assert row["bytes"] == path.stat().st_size
        assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (row["width"], row["height"], row["reason"]) == (60, 40, None)
        assert row["thumb"] == shrink(Image.open(path)).tobytes()
        assert 60 < row["spread"] < 90  # uniform noise has 73.9
    assert len(set(table["pixels"].to_pylist())) == len(paths)
    assert thumbs_of(table).shape == (5, SIDE, SIDE)


def test_files_of_equal_pixels_have_equal_digests_of_them(tmp_path):
    one = paint(tmp_path / "one.png")
    other = paint(tmp_path / "other.png", compress_level=0)
    bitmap = paint(tmp_path / "bitmap.bmp")
    rows = take_fingerprints([one, other, bitmap], folder=tmp_path / "out").to_pylist()
    assert len({row["pixels"] for row in rows}) == 1
    assert len({row["sha256"] for row in rows}) == 3


def test_the_size_is_that_of_the_whole_upright_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = paint(tmp_path / "turned.jpg", size=(800, 500), exif=exif)
    (row,) = take_fingerprints([path], folder=tmp_path / "out").to_pylist()
    assert (row["width"], row["height"]) == (500, 800)


def hostile_files(folder):
    """Files that are no images, each with a part of the reason that is told."""
    folder.mkdir()
    good = paint(folder / "good.jpg", size=(200, 200)).read_bytes()
    (folder / "truncated.jpg").write_bytes(good[: len(good) // 2])
    (folder / "empty.png").touch()
    (folder / "page.jpg").write_text("<html>gone</html>")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "loop.jpg").symlink_to("loop.jpg")
    bomb = bytearray(paint(folder / "bomb.png").read_bytes())
    bomb[16:24] = (100_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    (folder / "bomb.png").write_bytes(bomb)
    strange = folder / os.fsdecode(b"caf\xe9.jpg")
    strange.write_bytes(b"no image")
    return {
        folder / "truncated.jpg": "damaged JPEG",
        folder / "empty.png": "empty file",
        folder / "page.jpg": "web page",
        folder / "pipe.jpg": "not a file",
        folder / "folder.jpg": "not a file",
        folder / "loop.jpg": "symbolic links",
        folder / "bomb.png": "exceeds limit",
        folder / "absent.jpg": "no such file",
        strange: "not an image",
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_files_are_rows_with_a_reason(tmp_path, workers):
    reasons = hostile_files(tmp_path / "pictures")
    paths = [*reasons, tmp_path / "pictures" / "good.jpg"]
    *bad, good = take_fingerprints(paths, folder=tmp_path / "out", workers=workers).to_pylist()
    for row, reason in zip(bad, reasons.values(), strict=True):
        assert reason in row["reason"]
        assert row["width"] is row["pixels"] is None
    assert good["reason"] is None


def test_the_number_of_processes_changes_nothing(tmp_path, paths):
    alone = take_fingerprints(paths, folder=tmp_path / "alone")
    together = take_fingerprints(paths, folder=tmp_path / "together", workers=2)
    assert alone.equals(together)


def test_a_second_audit_reads_only_what_is_new_or_changed(tmp_path, paths, monkeypatch):
    folder = tmp_path / "out"
    before = take_fingerprints(paths, folder=folder)
    read = []
    monkeypatch.setattr(fingerprints, "_read", lambda name, inner=fingerprints._read: read.append(name) or inner(name))
    assert take_fingerprints(paths, folder=folder).equals(before)
    assert read == []
    paint(paths[1], seed=99, size=(50, 50))
    fresh = paint(tmp_path / "pictures" / "new.png", seed=7)
    after = take_fingerprints([fresh, *paths], folder=folder)
    assert read == [os.fsencode(fresh), os.fsencode(paths[1])]
    assert after["path"].to_pylist() == [os.fsencode(path) for path in (fresh, *paths)]
    assert after["width"].to_pylist()[2] == 50


def test_a_killed_audit_goes_on_after_its_last_part(tmp_path, paths, monkeypatch):
    monkeypatch.setattr(fingerprints, "_PART", 2)
    folder, read = tmp_path / "out", []

    def stop_at_the_fifth(name, inner=fingerprints._read):
        if len(read) == 4:
            raise KeyboardInterrupt
        read.append(name)
        return inner(name)

    monkeypatch.setattr(fingerprints, "_read", stop_at_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        take_fingerprints(paths, folder=folder)
    assert len(list(folder.glob("*.parquet"))) == 2
    read.clear()
    assert len(take_fingerprints(paths, folder=folder)) == 5
    assert read == [os.fsencode(paths[4])]


def test_what_was_read_of_a_part_outlives_an_interrupt(tmp_path, paths):
    def stop_at_the_third(items, *, total, what):
        for count, item in enumerate(items):
            if count == 2:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        take_fingerprints(paths, folder=tmp_path / "out", track=stop_at_the_third)
    (part,) = (tmp_path / "out").glob("*.parquet")
    assert pq.read_table(part)["path"].to_pylist() == list(map(os.fsencode, paths[:2]))


@pytest.mark.parametrize("damage", [b"", b"PAR1 no more"])
def test_a_damaged_part_is_told_and_read_again(tmp_path, paths, caplog, damage):
    folder = tmp_path / "out"
    before = take_fingerprints(paths, folder=folder)
    (part,) = folder.glob("*.parquet")
    part.write_bytes(damage)
    assert take_fingerprints(paths, folder=folder).equals(before)
    assert "its images are read again" in caplog.text


def test_a_part_of_another_kind_is_passed_over(tmp_path, paths):
    folder = tmp_path / "out"
    folder.mkdir()
    pq.write_table(pa.table({"path": [os.fsencode(paths[0])]}), folder / "x.parquet")
    assert len(take_fingerprints(paths, folder=folder)) == 5


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, paths):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        take_fingerprints(paths, folder=tmp_path / "file" / "out")


def test_there_may_be_no_files(tmp_path):
    table = take_fingerprints([], folder=tmp_path / "out")
    assert len(table) == 0
    assert thumbs_of(table).shape == (0, SIDE, SIDE)


def test_progress_is_shown(tmp_path, paths):
    seen = []

    def track(items, *, total, what):
        for item in items:
            seen.append((total, what))
            yield item

    take_fingerprints(paths, folder=tmp_path / "out", track=track)
    assert seen == [(5, "images read")] * 5


def test_workers_leave_interrupts_to_the_parent(monkeypatch):
    monkeypatch.setattr(fingerprints, "_end_with_parent", lambda: None)
    before = signal.getsignal(signal.SIGINT)
    try:
        fingerprints._belong_to_parent(MAX_PIXELS)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def _read_until_killed(folder):
    """Begin to read in two processes, name them in a file, and wait."""
    with closing(fingerprints._read_all([os.fsencode(folder / "absent.png")] * 64, 2)) as rows:
        next(rows)
        found = multiprocessing.active_children()
        (folder / "part").write_text(" ".join(str(child.pid) for child in found))
        (folder / "part").rename(folder / "workers")
        time.sleep(60)


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    # Not of this process, which would have to bury the workers as well.
    parent = multiprocessing.get_context("spawn").Process(target=_read_until_killed, args=(tmp_path,))
    parent.start()
    until = time.monotonic() + 30
    while not (tmp_path / "workers").exists() and time.monotonic() < until:
        time.sleep(0.05)
    workers = [int(pid) for pid in (tmp_path / "workers").read_text().split()]
    parent.kill()
    parent.join()
    while any(map(is_running, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert workers
    assert not any(map(is_running, workers))


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_reader_that_dies_is_an_error_of_one_line(tmp_path, paths, monkeypatch):
    monkeypatch.setattr(fingerprints, "_belong_to_parent", partial(os._exit, 1))
    with pytest.raises(DataError, match=r"died among the 5 images from .*0\.png on.*`workers`"):
        take_fingerprints(paths, folder=tmp_path / "out", workers=2)
