"""What a prediction is given: which images it means, in which order, and what is refused."""

import io
import json
import os
import shutil
import stat
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uniemox.errors import ConfigError, DataError
from uniemox.files.images import Unreadable
from uniemox.inference.inputs import STDIN, InputReader, Inputs, Stream
from uniemox.inference.predictor import Named


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of empty files that are named like images, from whose parent the test runs."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.jpg", "a.png", "sub/c.JPG", "sub/deep/d.webp", "notes.txt", ".hidden.jpg", "@eaDir/a.jpg"):
        path = Path("photos", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return Path("photos")


def piped(data):
    return InputReader(stdin=io.BytesIO(data))


def paths_of(inputs):
    return [str(source if isinstance(source, Path) else source.path) for source in inputs]


def find(*paths, listed=None, **options):
    return paths_of(InputReader(**options).find(list(map(Path, paths)), listed))


def content_of(named):
    return named.content() if callable(named.content) else named.content


# Files and folders


def test_files_and_folders_are_taken_in_their_order(photos):
    assert find("photos/b.jpg", "photos", "photos/notes.txt") == [
        "photos/b.jpg",
        "photos/a.png",
        "photos/b.jpg",
        "photos/sub/c.JPG",
        "photos/sub/deep/d.webp",
        "photos/notes.txt",
    ]
    inputs = InputReader().find([photos])
    assert (inputs.total, inputs.has_times, inputs.has_rows) == (4, False, False)
    assert list(inputs) == list(inputs) == inputs.paths()


@pytest.mark.parametrize("name", ["none.jpg", "none.csv", "none.zip", "none.mp4", "none/"])
def test_what_is_not_there_is_an_error(photos, name):
    with pytest.raises(DataError, match=f"no file or folder at {name.strip('/')}"):
        find("photos/b.jpg", name)


def test_a_url_is_an_error(photos):
    with pytest.raises(DataError, match="is a URL, which is not fetched"):
        find("https://example.com/*.jpg".replace("*", "a"))


def test_the_identity_is_that_of_the_paths_in_their_order(photos):
    def identity(*names):
        return InputReader().find([photos / name for name in names]).identity()

    assert identity("b.jpg", "a.png") == identity("b.jpg", "a.png")
    assert identity("b.jpg", "a.png").startswith("2 images, SHA-256 ")
    assert len({identity("b.jpg", "a.png"), identity("a.png", "b.jpg"), identity("a.png"), identity("")}) == 4


# Globs


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("photos/*", ["photos/a.png", "photos/b.jpg"]),
        ("photos/*.jpg", ["photos/b.jpg"]),
        ("photos/**/*.[jJ]*", ["photos/b.jpg", "photos/sub/c.JPG"]),
        ("photos/**", ["photos/a.png", "photos/b.jpg", "photos/sub/c.JPG", "photos/sub/deep/d.webp"]),
        ("*/sub/?.JPG", ["photos/sub/c.JPG"]),
        ("photos/@eaDir/*.jpg", ["photos/@eaDir/a.jpg"]),
    ],
)
def test_a_pattern_means_the_images_that_it_matches(photos, pattern, found):
    assert find(pattern) == found
    absolute = str(Path.cwd() / pattern)
    assert find(absolute) == [str(Path.cwd() / path) for path in found]


def test_a_file_that_is_named_like_a_pattern_is_that_file(photos):
    Path("photos/[ab].jpg").touch()
    assert find("photos/[ab].jpg") == ["photos/[ab].jpg"]


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("photos/*.gif", "photos/*.gif is no file, and matches none: * stands for a part of a name, ** for folders"),
        ("photos/*.txt", "photos/*.txt matches no image, but photos/notes.txt: "),
    ],
)
def test_a_pattern_that_matches_no_image_is_an_error(photos, pattern, told):
    with pytest.raises(DataError) as error:
        find(pattern)
    assert str(error.value).startswith(told)


# Stdin


def test_stdin_is_one_image():
    (named,) = piped(b"data").find([STDIN])
    assert named == Named(STDIN, b"data")
    assert piped(b"data").find([STDIN]).identity() != piped(b"other").find([STDIN]).identity()


def test_an_endless_stdin_is_given_up(monkeypatch):
    monkeypatch.setattr("uniemox.inference.inputs.MAX_BYTES", 10)
    (named,) = piped(b"x" * 11).find([STDIN])
    assert named.content == Unreadable("more than 10 bytes")


@pytest.mark.parametrize("stdin", [None, type("Terminal", (io.BytesIO,), {"isatty": lambda self: True})()])
def test_a_terminal_is_not_read_from(stdin):
    reader = InputReader(stdin=stdin)
    for call in (lambda: reader.find([STDIN]), lambda: reader.read_list(STDIN), lambda: reader.find([], STDIN)):
        with pytest.raises(ConfigError, match="- reads stdin, but nothing is piped into it"):
            call()


def test_stdin_is_asked_for_once(photos):
    for paths, listed in (([STDIN, STDIN], None), ([STDIN], STDIN)):
        with pytest.raises(ConfigError, match="`-` can be given once"):
            piped(b"").find(paths, listed)


# Lists


@pytest.mark.parametrize(
    "data",
    [
        b"photos/b.jpg\n\n  \nnone.jpg\nphotos/a.png\n",
        b"photos/b.jpg\r\n\r\nnone.jpg\r\nphotos/a.png",
        b"photos/b.jpg\0none.jpg\0photos/a.png\0",
        b"\xef\xbb\xbfphotos/b.jpg\nnone.jpg\nphotos/a.png\n",
        "photos/b.jpg\r\nnone.jpg\r\nphotos/a.png\r\n".encode("utf-16"),
    ],
)
def test_a_list_has_a_path_in_each_line(photos, data):
    found = ["photos/b.jpg", "none.jpg", "photos/a.png"]
    assert paths_of(piped(data).find([], STDIN)) == found
    Path("list.txt").write_bytes(data)
    assert find(listed=Path("list.txt")) == found
    assert find("photos/sub/c.JPG", listed=Path("list.txt")) == ["photos/sub/c.JPG", *found]


def test_names_that_are_no_text_and_names_of_two_lines_can_be_listed(photos):
    strange = os.fsdecode(b"m\xff.png")
    assert paths_of(piped(b"m\xff.png\n").find([], STDIN)) == [strange]
    assert paths_of(piped(b"two\nlines.png\0b.png\0").find([], STDIN)) == ["two\nlines.png", "b.png"]


def test_a_line_may_be_a_folder_or_an_archive_and_what_is_neither_is_a_row(photos):
    Path("empty").mkdir()
    write_zip("a.zip", ["x.png"])
    inputs = piped(b"photos/sub\na.zip\nempty\nhttps://x.y/a.jpg\n").find([], STDIN)
    assert paths_of(inputs) == [
        "photos/sub/c.JPG",
        "photos/sub/deep/d.webp",
        "a.zip/x.png",
        "empty",
        "https:/x.y/a.jpg",
    ]
    assert "has no image below it" in inputs.sources[3].content.reason


def test_a_name_that_is_too_long_is_a_row_among_others_and_alone_an_error_of_one_line(photos):
    long = 300 * "a" + ".png"
    assert paths_of(piped(f"{long}\nphotos/b.jpg\n".encode()).find([], STDIN)) == [long, "photos/b.jpg"]
    Path("long.csv").write_text(f"path\nin\\{long}\nb.jpg\n")
    assert [path.name for path in InputReader(root=photos).find([Path("long.csv")]).paths()] == [long, "b.jpg"]
    with pytest.raises(DataError, match="no file or folder at aaa"):
        find(long)
    with pytest.raises(DataError, match="is no file, and matches none"):
        find(f"*{long}")


def test_a_list_is_relative_to_the_root_if_there_is_one(photos):
    reader = InputReader(root=photos, stdin=io.BytesIO(b"b.jpg\nsub\nhttps://x.y/a.jpg\n"))
    assert paths_of(reader.find([], STDIN)) == [
        "photos/b.jpg",
        "photos/sub/c.JPG",
        "photos/sub/deep/d.webp",
        "https:/x.y/a.jpg",
    ]


def test_what_a_list_names_comes_as_its_lines_arrive(photos):
    end, start = os.pipe()
    with os.fdopen(end, "rb") as stdin, os.fdopen(start, "wb", buffering=0) as writer:
        lists = InputReader(stdin=stdin).read_list(STDIN)
        writer.write(b"photos/b.jpg\nphotos/a")
        assert paths_of(next(lists)) == ["photos/b.jpg"]
        writer.write(b".png\nlast.png")
        assert paths_of(next(lists)) == ["photos/a.png"]
        writer.close()
        assert paths_of(next(lists)) == ["last.png"]
        assert list(lists) == []


def test_a_list_may_be_a_pipe_with_a_name(photos):
    os.mkfifo("list")
    writer = threading.Thread(target=lambda: Path("list").write_bytes(b"photos/b.jpg\n"))
    writer.start()
    assert find(listed=Path("list")) == ["photos/b.jpg"]
    writer.join()


@pytest.mark.parametrize("listed", ["none.txt", "photos"])
def test_a_list_that_cannot_be_read_is_an_error(photos, listed):
    with pytest.raises(DataError, match=f"cannot read {listed}: "):
        find(listed=Path(listed))


def test_a_list_that_is_none_is_an_error(photos):
    Path("list.txt").write_bytes(b"x" * 2**21)
    with pytest.raises(DataError, match=r"list\.txt is no list of paths: one of its lines has more than 1048576 char"):
        find(listed=Path("list.txt"))
    Path("list.txt").write_bytes(b"\n\n")
    with pytest.raises(DataError, match=r"list\.txt names no image"):
        find(listed=Path("list.txt"))


# Tables

ROWS = [
    {"id": 7, "shot": "b.jpg", "thumb": "t/b.jpg"},
    {"id": 8, "shot": None, "thumb": "t/b.jpg"},
    {"id": 9, "shot": "none.jpg", "thumb": None},
    {"id": 9, "shot": "sub\\c.JPG", "thumb": None},
]


def write_table(path, rows=ROWS):
    match path.suffix:
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case ".csv" | ".tsv":
            separator = "," if path.suffix == ".csv" else "\t"
            lines = [separator.join("" if cell is None else str(cell) for cell in row.values()) for row in rows]
            path.write_text("\n".join([separator.join(rows[0]), *lines]) + "\n")
        case ".json":
            path.write_text(json.dumps(rows))
        case _:
            path.write_text("\n".join(map(json.dumps, rows)))
    return path


every_table = pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.parquet", "t.jsonl", "t.ndjson", "t.json"])


@every_table
def test_a_table_gives_an_image_for_each_row_relative_to_its_folder(photos, name):
    inputs = InputReader(column="shot").find([write_table(photos / name)])
    assert paths_of(inputs) == ["photos/b.jpg", f"photos/{name}", "photos/none.jpg", "photos/sub/c.JPG"]
    assert [named.row for named in inputs] == [0, 1, 2, 3]
    assert [named.content for named in inputs][::2] == [None, None]
    assert inputs.sources[1].content.reason.startswith("no path in ")
    assert (inputs.total, inputs.has_rows) == (4, True)
    assert inputs.identity().startswith("4 images")


@every_table
def test_a_table_is_relative_to_the_root_if_there_is_one(photos, name):
    table = write_table(Path(name), ROWS[:1])
    assert find(table, column="shot", root=photos) == ["photos/b.jpg"]
    absolute = write_table(Path(name), [{"id": 1, "shot": str(Path.cwd() / "photos/b.jpg")}])
    assert find(absolute, root=Path("elsewhere")) == [str(Path.cwd() / "photos/b.jpg")]


@pytest.mark.parametrize(
    ("headings", "found"),
    [
        (("path", "shot"), "path"),
        (("Image", "shot"), "Image"),
        (("filename", "image"), "image"),
        (("id", "shot"), "shot"),
        (("note", "shot"), "shot"),
    ],
)
def test_the_column_of_paths_is_found(photos, headings, found):
    row = dict.fromkeys(headings, "x") | {headings[0]: "1", found: "b.jpg"}
    assert find(write_table(photos / "t.csv", [row])) == ["photos/b.jpg"]


def test_a_column_of_something_else_is_not_taken_for_its_name(photos):
    rows = [{"image": {"bytes": "x"}, "shot": "b.jpg"}]
    assert find(write_table(photos / "t.jsonl", rows)) == ["photos/b.jpg"]
    inputs = InputReader(column="image").find([photos / "t.jsonl"])
    assert inputs.sources[0].content == Unreadable("the column image holds no path in line 1 of t.jsonl")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "t.csv has several columns of images, shot, thumb: name the column with `column`"),
        ({"column": "shoot"}, "t.csv has no column shoot; did you mean shot?; it has id, shot, thumb"),
    ],
)
def test_which_column_is_meant_is_asked_for(photos, options, told):
    with pytest.raises(DataError) as error:
        find(write_table(Path("t.csv")), **options)
    assert str(error.value) == told


def test_a_table_without_paths_is_an_error(photos):
    with pytest.raises(DataError, match="has no column of paths; it has a, b: name the column with `column`"):
        find(write_table(Path("t.csv"), [{"a": "1", "b": "text"}]))
    Path("t.csv").write_text("path\n")
    with pytest.raises(DataError, match=r"t\.csv has no rows"):
        find("t.csv", column="path")
    Path("t.csv").write_text("")
    with pytest.raises(DataError, match=r"t\.csv has no headings"):
        find("t.csv")


def test_rows_of_unknown_form_are_counted(photos, caplog):
    (photos / "t.csv").write_text("path,label\nb.jpg,1\nb.jpg\na.png,2\n")
    assert find(photos / "t.csv") == ["photos/b.jpg", "photos/a.png"]
    assert "1 x row of unknown form (line 3 of t.csv); the column row counts the rows that were read" in caplog.text


def test_a_manifest_is_relative_to_its_root(painted):
    inputs = InputReader().find([painted.path])
    assert inputs.total == len(painted.manifest)
    assert all(path.is_relative_to(painted.root) and path.exists() for path in inputs.paths())


def test_a_setting_about_tables_needs_one(photos):
    with pytest.raises(ConfigError, match="`column` is about a table of paths"):
        find("photos", column="path")
    with pytest.raises(ConfigError, match="`root` is about the paths of a table or a list"):
        find("photos", root=photos)


# Archives


def write_zip(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name)
    return Path(path)


def write_tar(path, names):
    with tarfile.open(path, "w:gz" if str(path).endswith("gz") else "w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    return Path(path)


@pytest.mark.parametrize("form", ["in/a.zip", "in/a.tar", "in/a.tar.gz"])
def test_images_of_an_archive_have_its_path_before_theirs(photos, form, caplog):
    Path("in").mkdir()
    write = write_zip if form.endswith("zip") else write_tar
    inputs = InputReader().find([write(form, ["x/b.png", "a.png", "__MACOSX/a.png", "../c.png", "notes.txt"])])
    named = list(inputs)
    assert paths_of(named) == [f"{form}/x/b.png", f"{form}/a.png"]
    assert [content_of(each) for each in named] == [b"x/b.png", b"a.png"]
    assert f"{form}: skipped 1 x file that a system or a program keeps (__MACOSX/a.png)" in caplog.text
    assert f"{form}: skipped 1 x name that leads out of the archive (../c.png)" in caplog.text
    assert inputs.total == (None if form.endswith("gz") else 2)


def test_a_damaged_archive_is_a_row_with_its_reason(photos):
    Path("a.zip").write_bytes(b"no archive")
    (named,) = InputReader().find([Path("a.zip")])
    assert named.path == Path("a.zip")
    assert named.content.reason.startswith("the archive is damaged: ")


def test_a_stream_is_distinguished_by_its_size_and_has_no_paths_beforehand(photos):
    first = InputReader().find([write_tar("a.tar.gz", ["a.png"])])
    identity = first.identity()
    assert identity.startswith("1 input, SHA-256 ")
    write_tar("a.tar.gz", [f"{index}.png" for index in range(50)])
    assert first.identity() != identity
    with pytest.raises(
        ConfigError, match=r"known before a\.tar\.gz is read: give `detector`, or pack it as zip or tar"
    ):
        first.paths()


# Videos


@pytest.fixture
def endless(photos, monkeypatch):
    """A program in the place of ffmpeg that gives images until it is ended, and leaves its number in a file."""
    folder = Path.cwd() / "bin"
    folder.mkdir()
    lines = (
        f"#!{sys.executable}",
        "import os, sys",
        f"open({str(folder / 'pid')!r}, 'w').write(str(os.getpid()))",
        "while True:",
        "    sys.stdout.buffer.write(b'P6\\n3 2\\n255\\n' + bytes(range(18)))",
    )
    program = folder / "ffmpeg"
    program.write_text("\n".join(lines))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    Path("a.mp4").touch()
    return folder / "pid"


def test_a_video_is_a_stream_of_its_frames_with_their_times(endless):
    inputs = InputReader(fps=2).find([Path("a.mp4"), Path("photos/b.jpg")])
    assert (inputs.total, inputs.has_times) == (None, True)
    frames = iter(inputs)
    first, second = next(frames), next(frames)
    assert (first.path, first.time, second.time) == (Path("a.mp4"), 0, 0.5)
    np.testing.assert_array_equal(first.content, np.arange(18).reshape(2, 3, 3))
    process = int(endless.read_text())
    frames.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    with pytest.raises(ConfigError, match=r"known before a\.mp4 is read: give `detector`$"):
        inputs.paths()


def test_frames_of_another_rate_are_other_inputs(endless):
    identities = {InputReader(fps=fps).find([Path("a.mp4")]).identity() for fps in (1, 1.0, 2)}
    assert len(identities) == 2


def test_without_ffmpeg_a_video_is_an_error_before_anything_is_predicted(photos, monkeypatch):
    Path("a.mp4").touch()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataError, match="ffmpeg, which is not installed"):
        find("a.mp4")
    (named,) = piped(b"a.mp4\n").find([], STDIN)
    assert "ffmpeg, which is not installed" in named.content.reason


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="there is no ffmpeg on this machine")
def test_a_video_that_is_none_is_a_row_with_its_reason(photos):
    Path("a.mp4").write_text("no video")
    (named,) = InputReader().find([Path("a.mp4")])
    assert (named.path, named.time) == (Path("a.mp4"), None)
    assert named.content.reason.startswith("no video that is read: ")


def test_a_stream_is_closed_where_the_reader_has_enough():
    closed = []

    def read():
        try:
            for index in range(10):
                yield Named(Path(f"{index}.png"))
        finally:
            closed.append(True)

    images = iter(Inputs([Stream(Path("a.mp4"), read)]))
    next(images)
    images.close()
    assert closed == [True]
