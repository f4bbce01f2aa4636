"""Tables of text, as Excel, databases and scripts write them."""

import csv
import io
import os
import random
import time

import pytest

from uniemox.errors import DataError
from uniemox.files import delimited
from uniemox.files.delimited import find_column, read_bytes, read_delimited, read_text, refuse_pointer, rows_of

ROWS = [["path", "label", "valence"], ["p0.jpg", "joy, or so", "3.5"], ["p 1.jpg", 'a "b"', "-1"], ["p2.jpg", "", "2"]]
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}
BEFORE = {"nothing": "", "sep": "sep={}\r\n", "SEP": "SEP={}\n"}
CODINGS = {"UTF-8": "utf-8", "UTF-8 with a mark": "utf-8-sig", "UTF-16": "utf-16"}


def written(tmp_path, text, name="t.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


def table_of(path):
    found = read_delimited(path)
    return [list(found.headings), *(line.cells for line in found.lines)]


@pytest.mark.parametrize("coding", CODINGS.values(), ids=CODINGS)
@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
@pytest.mark.parametrize("separator", SEPARATORS.values(), ids=SEPARATORS)
def test_one_table_is_the_same_however_it_is_saved(tmp_path, separator, before, coding):
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        text = io.StringIO()
        csv.writer(text, delimiter=separator, quoting=quoting).writerows(ROWS)
        path = written(tmp_path, before.format(separator) + text.getvalue(), encoding=coding)
        assert table_of(path) == ROWS
        assert read_delimited(path).has_decimal_comma == (separator != ",")


def test_blanks_around_cells_and_empty_lines_mean_nothing(tmp_path):
    path = written(tmp_path, "\n path , label \n\n a.jpg,joy \n , \n\tb.jpg\t,fear\n")
    assert table_of(path) == [["path", "label"], ["a.jpg", "joy"], ["b.jpg", "fear"]]
    assert [line.number for line in read_delimited(path).lines] == [4, 6]


def test_in_a_tsv_only_tabs_separate(tmp_path):
    assert table_of(written(tmp_path, "path\tx;y\na, b.jpg\t1\n", "t.tsv")) == [["path", "x;y"], ["a, b.jpg", "1"]]


def test_a_table_of_one_column_is_one(tmp_path):
    assert table_of(written(tmp_path, "path\na.jpg\n")) == [["path"], ["a.jpg"]]
    assert table_of(written(tmp_path, "path\na.jpg\n", "t.txt")) == [["path"], ["a.jpg"]]


def test_separators_in_quoted_headings_do_not_count(tmp_path):
    assert table_of(written(tmp_path, '"a, b, c";d\n1;2\n')) == [["a, b, c", "d"], ["1", "2"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no headings"),
        ("\n\n", "has no headings"),
        ("sep=;\n", "has no headings"),
        ("a,b,a\n", "has two columns called a: rename one"),
        (",,\n", "has no headings"),
        ("a\x1b[31m,a\x1b[31m\n", r"two columns called a\\x1b\[31m"),
    ],
)
def test_headings_that_are_none_are_told(tmp_path, text, words):
    with pytest.raises(DataError, match=words):
        read_delimited(written(tmp_path, text))


def test_many_headings_are_checked_in_time(tmp_path):
    names = [f"column {number}" for number in range(200_000)]
    path = written(tmp_path, ",".join(names) + "\n" + "1," * 199_999 + "1\n")
    start = time.monotonic()
    assert table_of(path)[0] == names
    assert time.monotonic() - start < 10
    names[-1] = names[7]
    with pytest.raises(DataError, match="two columns called column 7"):
        read_delimited(written(tmp_path, ",".join(names)))


def problems_of(path):
    problems = []
    rows = list(rows_of(read_delimited(path), path, lambda kind, where: problems.append((kind, where))))
    return rows, problems


def test_rows_have_cells_by_heading_and_others_are_counted(tmp_path):
    rows, problems = problems_of(written(tmp_path, "a,b\n1,2\n3\n4,5,6\n7,8\n"))
    assert rows == [("line 2 of t.csv", {"a": "1", "b": "2"}), ("line 5 of t.csv", {"a": "7", "b": "8"})]
    assert problems == [("row of unknown form", "line 3 of t.csv"), ("row of unknown form", "line 4 of t.csv")]


def test_a_quote_that_takes_rows_in_is_never_silent(tmp_path):
    """Whichever cell of a table gets a quote that nobody closes, either no row is lost or a problem is counted."""
    generator = random.Random(0)
    for _ in range(300):
        lines = [f"p{number}.jpg,joy,nice" for number in range(6)]
        cells = [line.split(",") for line in lines]
        row, column = generator.randrange(6), generator.randrange(3)
        cells[row][column] = '"' + cells[row][column]
        if generator.random() < 0.5:
            last = generator.randrange(row, 6)
            cells[last][generator.randrange(3)] += '"'
        text = "path,label,note\n" + "\n".join(map(",".join, cells)) + "\n"
        rows, problems = problems_of(written(tmp_path, text))
        paths = {cells["path"].strip('"') for _, cells in rows}
        assert problems or paths == {f"p{number}.jpg" for number in range(6)}, text


def test_quotes_over_several_lines_are_counted_with_their_lines(tmp_path):
    rows, problems = problems_of(written(tmp_path, 'a,b\n1,"x\ny\nz"\n2,w\n'))
    assert rows[0][1] == {"a": "1", "b": "x\ny\nz"}
    assert problems == [("quotes that reach over several lines", "lines 2 to 4 of t.csv")]


def test_a_column_is_found_by_its_names(tmp_path):
    assert find_column(("Image", "x"), ("path", "image"), tmp_path) == "Image"
    with pytest.raises(DataError, match="more than one column called path or image; its first line is 'path,Image'"):
        find_column(("path", "Image"), ("path", "image"), tmp_path)
    with pytest.raises(DataError, match="no column called path"):
        find_column(("x",), ("path",), tmp_path)


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    with pytest.raises(DataError, match=r"t\.csv is a Git LFS pointer, not the file itself: run `git lfs pull`"):
        read_delimited(written(tmp_path, text))
    refuse_pointer(b"path,label\n", tmp_path)


@pytest.mark.parametrize(("data", "byte"), [(b"a\n\xff\n", 2), (b"\xef\xbb\xbf\xc3(", 0)])
def test_a_text_in_another_coding_is_told(tmp_path, data, byte):
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(DataError, match=f"is not UTF-8 at byte {byte}: save it as UTF-8"):
        read_text(tmp_path / "t.csv")


def test_what_is_no_file_is_told_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero", "."):
        with pytest.raises(DataError, match="is not a file"):
            read_text(tmp_path / name)
    with pytest.raises(DataError, match=r"cannot read .*absent: no such file or directory; check the path"):
        read_text(tmp_path / "absent")


def test_a_file_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="larger than 10 bytes: save it as Parquet"):
        read_text(written(tmp_path, "a" * 11))
    assert read_bytes(written(tmp_path, "a" * 11), max_bytes=11, then="") == b"a" * 11


def test_a_cell_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "_LONGEST_CELL", 1000)
    before = csv.field_size_limit()
    with pytest.raises(DataError, match=r"cannot read .*t\.csv, line 2: field larger"):
        table_of(written(tmp_path, "a,b\n" + "x" * 2000 + ",1\n"))
    assert csv.field_size_limit() == before


def test_columns_without_a_heading_are_nobody_s(tmp_path):
    """Spreadsheets write separators for empty columns, and R names of rows without a heading."""
    rows, problems = problems_of(written(tmp_path, ";path;label;;;\n1;a.jpg;joy;;;\n2;b.jpg;fear;;;\n"))
    assert [(cells["path"], cells["label"]) for _, cells in rows] == [("a.jpg", "joy"), ("b.jpg", "fear")]
    assert problems == []


def test_blanks_before_a_quote_are_blanks(tmp_path):
    assert table_of(written(tmp_path, '"path", "label"\n"a.jpg", "joy, or so"\n')) == [
        ["path", "label"],
        ["a.jpg", "joy, or so"],
    ]


def test_a_row_that_a_quote_took_others_into_is_skipped(tmp_path):
    rows, problems = problems_of(written(tmp_path, 'path,label\na.jpg,"joy\nb.jpg,fear\nc.jpg,"\nd.jpg,awe\n'))
    assert [cells["path"] for _, cells in rows] == ["d.jpg"]
    assert problems[0][0] == "quotes that reach over several lines"


@pytest.mark.parametrize("coding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_a_text_without_its_mark_is_told(tmp_path, coding):
    with pytest.raises(DataError, match=r"is not UTF-8.*save it as UTF-8"):
        read_delimited(written(tmp_path, "path,label\na.jpg,joy\n", encoding=coding))
