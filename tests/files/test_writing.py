"""Why something could not be written: every reason has its own words and its own next step."""

import errno
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from uniemox.files.writing import explain_failure

FULL = "no space is left on the device. Free space or choose another place"


def raised(call):
    with pytest.raises((OSError, SafetensorError)) as caught:
        call()
    return caught.value


def said(path, **options):
    return explain_failure(path, raised(path.touch), **options)


def test_a_missing_folder_is_named_and_space_is_not_blamed(tmp_path):
    folder = tmp_path / "none"
    for path in (folder / "t.csv", folder / "below" / "t.csv"):
        assert said(path) == f"the folder {folder} does not exist. Create it or choose another place"


def test_a_relative_missing_folder_is_named_as_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said(Path("none/t.csv")).startswith("the folder none does not exist. ")


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.mkdir(parents=True, exist_ok=True)])
@pytest.mark.parametrize("below", ["t.csv", "deeper/t.csv"])
def test_a_file_where_a_folder_should_be_is_named(tmp_path, make, below):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / below
    text = explain_failure(path, raised(lambda: make(path)))
    assert text == f"{tmp_path / 'file'} is a file, not a folder. Choose another place"


def test_a_file_in_the_place_of_the_folder_itself_is_named(tmp_path):
    path = tmp_path / "file"
    path.touch()
    text = explain_failure(path, raised(lambda: path.mkdir(exist_ok=True)))
    assert text == f"{path} is a file, not a folder. Choose another place"


def test_a_folder_where_a_file_should_be_is_said(tmp_path):
    text = explain_failure(tmp_path, raised(lambda: tmp_path.write_text("")))
    assert text == f"{tmp_path} is a folder. Choose another place"


def test_a_name_that_is_too_long_is_said(tmp_path):
    assert said(tmp_path / ("x" * 300)).startswith("file name too long. ")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSPC, FULL),
        (errno.EDQUOT, "the disk quota is used up. Free space or choose another place"),
        (errno.EROFS, "read-only file system. Choose another place"),
        (errno.EFBIG, "file too large. Choose another place"),
        (errno.EIO, "input/output error. Choose another place"),
    ],
)
def test_each_reason_of_the_system_has_its_own_words(tmp_path, number, text):
    assert explain_failure(tmp_path / "t.csv", OSError(number, os.strerror(number))) == text


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_folder_that_lets_nobody_in_is_named(tmp_path, number):
    error = OSError(number, os.strerror(number))
    step = "Change its permissions or choose another place"
    for path in (tmp_path, tmp_path / "t.csv", tmp_path / "new" / "t.csv"):
        assert explain_failure(path, error) == (f"permission denied in the folder {tmp_path}. {step}")
    (tmp_path / "t.csv").touch()
    assert explain_failure(tmp_path / "t.csv", error) == f"permission denied. {step}"


def test_the_writers_of_others_tell_the_number_in_their_text(tmp_path):
    path = tmp_path / "none" / "a"
    table, tensors = pa.table({"a": [1]}), {"a": torch.zeros(1)}
    for write in (lambda: pq.write_table(table, path), lambda: save_file(tensors, path)):
        text = explain_failure(path, raised(write))
        assert text.startswith(f"the folder {tmp_path / 'none'} does not exist. ")
    for rust in (
        "I/O error: No space left on device (os error 28)",
        'IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })',
    ):
        assert explain_failure(path, SafetensorError(rust)) == FULL


@pytest.mark.parametrize("free", [0, 10**9])
def test_an_error_without_a_number_is_a_full_disk_only_where_the_disk_is_full(tmp_path, monkeypatch, free):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, free))
    text = explain_failure(tmp_path / "a.pt", RuntimeError("file write\nfailed"))
    assert text == (FULL if free == 0 else "file write failed. Choose another place")


def test_the_callers_words_end_the_line(tmp_path):
    text = explain_failure(
        tmp_path / "a", OSError(errno.ENOSPC, "full"), elsewhere="choose another --out", then="continue with --resume"
    )
    assert text.endswith("Free space or choose another --out, then continue with --resume")
    assert "\n" not in text


def test_where_there_is_no_choice_of_a_place_none_is_offered(tmp_path):
    full, other = OSError(errno.ENOSPC, "full"), OSError(errno.EIO, "i/o")
    options = {"elsewhere": "", "then": "continue with --resume"}
    assert explain_failure(tmp_path, full, **options).endswith("device. Free space, then continue with --resume")
    assert explain_failure(tmp_path, other, **options).endswith("error. Continue with --resume")
