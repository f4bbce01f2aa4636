"""Images in archives, of which some are made to do harm."""

import gzip
import io
import stat
import tarfile
import threading
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from uniemox.files import packed
from uniemox.files.images import Unreadable
from uniemox.files.packed import is_archive_name, is_streamed, read_members

NAMES = ("b.png", "in/a.JPG", "é.webp")
FORMS = ("a.zip", "a.tar", "a.tar.gz", "a.tgz")
every_form = pytest.mark.parametrize("form", FORMS)


def write_zip(path, files, *, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path, files, members=()):
    with tarfile.open(path, "w:gz" if is_streamed(path) else "w:") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for member in members:
            archive.addfile(member)
    return path


def write(path, files):
    return write_zip(path, files) if path.suffix == ".zip" else write_tar(path, files)


def read(path):
    """What an archive holds, each by its name, and what was passed over."""
    noted = []
    found = {}
    for name, content in list(read_members(path, lambda *what: noted.append(what))):
        found[name] = content() if callable(content) else content
    return found, noted


@every_form
def test_images_are_read_in_the_order_of_the_archive_and_other_files_are_not(tmp_path, form):
    files = {name: name.encode() * (index + 1) * 100 for index, name in enumerate(NAMES)}
    files["empty.png"] = b""
    files["of a block.png"] = b"x" * 512
    found, noted = read(write(tmp_path / form, {"labels.csv": b"a" * 1000, **files, "in/notes.txt": b"b"}))
    assert found == files
    assert list(found) == list(files)
    assert noted == []


@every_form
def test_what_systems_keep_and_what_leads_out_is_passed_over_and_noted(tmp_path, form):
    kept = ("__MACOSX/a.png", "in/._a.png", "@eaDir/a.png")
    out = ("../a.png", "in/../../b.png", "/etc/c.png", "C:/d.png")
    files = dict.fromkeys((*kept, *out, "good.png"), b"data")
    found, noted = read(write(tmp_path / form, files))
    assert found == {"good.png": b"data"}
    assert noted == [
        *(("file that a system or a program keeps", name) for name in kept),
        *(("name that leads out of the archive", name) for name in out),
    ]


@pytest.mark.parametrize("form", ["a.tar", "a.tar.gz"])
def test_links_and_devices_in_tar_archives_are_passed_over(tmp_path, form):
    kinds = {"s.png": tarfile.SYMTYPE, "h.png": tarfile.LNKTYPE, "c.png": tarfile.CHRTYPE, "f.png": tarfile.FIFOTYPE}
    members = []
    for name, kind in kinds.items():
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        members.append(member)
    found, noted = read(write_tar(tmp_path / form, {"good.png": b"data"}, members))
    assert found == {"good.png": b"data"}
    assert noted == [("link or device", name) for name in kinds]


def test_links_in_zip_archives_are_passed_over(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        entry = zipfile.ZipInfo("s.png")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    found, noted = read(tmp_path / "a.zip")
    assert list(found) == [""]
    assert noted == [("link or device", "s.png")]


def test_backslashes_part_folders_as_windows_writes_them(tmp_path):
    found, _ = read(write_zip(tmp_path / "a.zip", {"in\\a.png": b"data"}))
    assert list(found) == ["in/a.png"]


def test_members_of_a_zip_may_be_read_by_several_threads_and_late(tmp_path):
    files = {f"{index}.png": bytes([index]) * 100_000 for index in range(40)}
    members = list(read_members(write_zip(tmp_path / "a.zip", files), lambda *_: None))
    found = {}
    threads = [
        threading.Thread(target=lambda some=members[part::4]: found.update({m.name: m.content() for m in some}))
        for part in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == files


@every_form
@pytest.mark.parametrize("files", [{}, {"notes.txt": b"text"}])
def test_an_archive_without_an_image_has_a_reason(tmp_path, form, files):
    assert read(write(tmp_path / form, files))[0] == {"": Unreadable("the archive has no image")}


@every_form
def test_an_archive_that_breaks_off_gives_what_it_has_and_then_the_reason(tmp_path, form):
    files = {f"{index}.png": bytes(range(256)) * 400 for index in range(3)}
    path = write(tmp_path / form, files)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    found, _ = read(path)
    whole = [name for name, content in found.items() if content == files.get(name)]
    assert whole == list(files)[: len(whole)]
    last = list(found.values())[-1]
    assert isinstance(last, Unreadable)
    assert last.reason


@every_form
@pytest.mark.parametrize("data", [b"", b"no archive at all", b"PK\x03\x04", bytes(100)])
def test_what_is_no_archive_is_one_reason(tmp_path, form, data):
    (tmp_path / form).write_bytes(data)
    (reason,) = read(tmp_path / form)[0].values()
    assert reason.reason.startswith("the archive ")


@every_form
def test_an_archive_that_is_gone_is_one_reason(tmp_path, form):
    (reason,) = read(tmp_path / form)[0].values()
    assert reason == Unreadable("the archive is damaged: no such file or directory")


# Bombs


def test_an_entry_that_unfolds_to_far_more_than_is_stored_is_not_unfolded(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "a.zip", {"bomb.png": bytes(80 * 2**20), "good.png": b"data"})
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    found, _ = read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found["bomb.png"].reason.startswith("unfolds from ")
    assert found["good.png"] == b"data"
    assert peak < 2**20
    monkeypatch.setattr(packed, "MAX_BYTES", 3)
    assert read(path)[0]["good.png"] == Unreadable("4 bytes, over the limit of 3")


def test_an_entry_that_lies_about_its_size_gives_no_more_than_it_declares(tmp_path):
    data = write_zip(tmp_path / "a.zip", {"bomb.png": bytes(10**6)}).read_bytes()
    (tmp_path / "a.zip").write_bytes(data.replace((10**6).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    content = read(tmp_path / "a.zip")[0]["bomb.png"]
    assert isinstance(content, Unreadable)
    assert content.reason.startswith("damaged in its archive: ")


def test_methods_whose_memory_is_up_to_the_archive_are_refused(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"a.png": b"data" * 100}, method=zipfile.ZIP_LZMA)
    assert "another method than deflate" in read(path)[0]["a.png"].reason


def test_an_encrypted_entry_says_so(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"a.png": b"data"})
    data = bytearray(path.read_bytes())
    data[6] |= 1  # flags of the local header, and of the central one
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert read(path)[0]["a.png"] == Unreadable("encrypted in its archive")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
@pytest.mark.parametrize("form", ["a.tar", "a.tar.gz"])
def test_a_long_header_is_not_read(tmp_path, form, kind):
    member = tarfile.TarInfo("long")
    member.type, member.size = kind, 64 * 2**20
    with tarfile.open(tmp_path / form, "w:gz" if form.endswith("gz") else "w:") as archive:
        archive.fileobj.write(member.tobuf(tarfile.USTAR_FORMAT) + bytes(member.size))
    tracemalloc.start()
    found, _ = read(tmp_path / form)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "a header of 67108864 bytes" in found[""].reason
    assert peak < 2**20


def test_a_compressed_archive_is_given_up_where_it_unfolds_to_far_more_than_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "_SPARE", 2**20)
    path = write_tar(tmp_path / "a.tar.gz", {"a.png": b"data", "bomb.txt": bytes(20 * 2**20), "b.png": b"data"})
    found, _ = read(path)
    assert list(found) == ["a.png", ""]
    assert "unfolds to more than" in found[""].reason


def test_an_image_of_a_compressed_archive_that_would_fill_the_memory_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "MAX_STREAMED", 10)
    found, _ = read(write_tar(tmp_path / "a.tgz", {"a.png": b"x" * 11, "b.png": b"x" * 10}))
    assert found["a.png"].reason == "11 bytes in a compressed archive, over the limit of 10: unpack it"
    assert found["b.png"] == b"x" * 10
    monkeypatch.setattr(packed, "MAX_BYTES", 5)
    assert "over the limit of 5" in read(write_tar(tmp_path / "a.tar", {"a.png": b"x" * 11}))[0]["a.png"].reason


def test_a_compressed_archive_is_unfolded_once(tmp_path, monkeypatch):
    """To seek backwards in it would start again at its first byte, for each image."""

    rewinds = []
    rewind = gzip._GzipReader._rewind
    monkeypatch.setattr(gzip._GzipReader, "_rewind", lambda self: (rewinds.append(self), rewind(self)))
    files = {f"{index}.png": bytes(512 * (index % 3) + index % 2) for index in range(50)}
    files["notes.txt"] = bytes(10**6)
    files["last.png"] = b"data"
    found, _ = read(write_tar(tmp_path / "a.tar.gz", files))
    del files["notes.txt"]
    assert found == files
    assert rewinds == []


def test_archives_are_known_by_their_names():
    assert all(map(is_archive_name, ("A.ZIP", "a.tar", "a.tar.GZ", "in/a.tgz")))
    assert not any(map(is_archive_name, ("a.gz", "zip", "a.zip.txt", "a.png", "a.tar.xz")))
    assert [is_streamed(Path(form)) for form in FORMS] == [False, False, True, True]
