"""Paths into archives: what they name is read, and nothing else."""

import io
import os
import tarfile

import pytest

from uniemox.files.archives import Slice, file_behind, slice_of, slice_path
from uniemox.files.images import Unreadable, read_file

FILES = {"a.png": b"first", "b.jpg": bytes(range(256)) * 5, "empty.png": b"", "c.png": b"last"}
WRONG = "the archive has something else at this place"


@pytest.fixture
def archive(tmp_path):
    """An archive, and the path of each of its members."""
    path, places = tmp_path / "few.tar", {}
    with tarfile.open(path, "x:", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            places[name] = tmp_path / slice_path("few.tar", tar.offset + 512, len(data), name)
            tar.addfile(member, io.BytesIO(data))
    return path, places


def reason(path, **options):
    found = read_file(path, **options)
    assert isinstance(found, Unreadable)
    return found.reason


def test_a_path_into_an_archive_gives_the_bytes_of_the_member(archive):
    path, places = archive
    assert {name: read_file(place) for name, place in places.items()} == FILES
    for name, place in places.items():
        assert slice_of(place) == Slice(path, int(place.parts[-2].split("+")[0]), len(FILES[name]), name)
        assert file_behind(place) == path


def test_the_standard_library_says_where_members_are(archive):
    path, places = archive
    with tarfile.open(path) as tar:
        for member in tar:
            assert places[member.name].parts[-2] == f"{member.offset_data}+{member.size}"


@pytest.mark.parametrize(
    "name",
    ["a.png", "few.tar", "few.tar/a.png", "few.tar/x/a.png", "few.tar/1+2", "few.zip/1+2/a.png",
     "few.tar/1+2+3/a.png", "few.tar/-1+2/a.png", "few.tar/1+/a.png", "few.tar/١+٢/a.png",
     "few.tar/1+2/b/a.png", f"few.tar/{'9' * 16}+1/a.png"],
)  # fmt: skip
def test_any_other_path_is_ordinary(tmp_path, name):
    assert slice_of(tmp_path / name) is None
    assert file_behind(tmp_path / name) == tmp_path / name
    assert reason(tmp_path / name)


def test_a_folder_may_be_called_like_an_archive(tmp_path):
    path = tmp_path / "few.tar" / "512+5" / "a.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not in an archive")
    assert slice_of(path) is None
    assert read_file(path) == b"not in an archive"


@pytest.mark.parametrize(
    ("place", "name"),
    [("512+5", "b.jpg"), ("512+4", "a.png"), ("512+6", "a.png"), ("513+5", "a.png"), ("0+5", "a.png"),
     ("511+5", "a.png"), ("999999999+5", "a.png"), ("1024+512", "a.png")],
)  # fmt: skip
def test_what_is_not_exactly_that_member_is_not_read(archive, tmp_path, place, name):
    assert reason(tmp_path / "few.tar" / place / name) == WRONG


def test_a_damaged_header_is_not_trusted(archive):
    path, places = archive
    data = bytearray(path.read_bytes())
    data[10] ^= 1  # in the first name, which the checksum covers
    path.write_bytes(data)
    assert reason(places["a.png"]) == WRONG
    assert read_file(places["b.jpg"]) == FILES["b.jpg"]


def test_an_archive_that_was_cut_off_says_so(archive):
    path, places = archive
    with path.open("r+b") as file:
        file.truncate(int(places["b.jpg"].parts[-2].split("+")[0]) + 7)
    assert reason(places["b.jpg"]) == "the archive ends before the image does"
    assert reason(places["c.png"]) == WRONG
    assert read_file(places["a.png"]) == FILES["a.png"]


def test_a_link_in_an_archive_is_not_followed(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    with tarfile.open(tmp_path / "few.tar", "x:", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo("a.png")
        member.type, member.linkname = tarfile.SYMTYPE, "secret"
        tar.addfile(member)
    assert reason(tmp_path / "few.tar" / "512+0" / "a.png") == WRONG


def test_a_member_larger_than_what_is_read_is_refused_before_it_is_read(archive):
    _, places = archive
    assert reason(places["b.jpg"], max_bytes=1279) == "1280 bytes, over the limit of 1279"
    assert read_file(places["b.jpg"], max_bytes=1280) == FILES["b.jpg"]
    huge = places["b.jpg"].parent.with_name(f"512+{10**14}") / "b.jpg"
    assert "over the limit" in reason(huge)


def test_an_archive_that_is_not_there_is_told_as_any_file(tmp_path):
    assert "no such file" in reason(tmp_path / "few.tar" / "512+5" / "a.png")


def test_a_pipe_does_not_hang_the_reader(tmp_path):
    os.mkfifo(tmp_path / "few.tar")
    assert reason(tmp_path / "few.tar" / "512+5" / "a.png") == "not a file"
