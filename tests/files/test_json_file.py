import json
import os

import pytest

from uniemox.errors import CheckpointError
from uniemox.files.json_file import read_json


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_an_object_is_read_with_a_byte_order_mark_and_without(tmp_path, mark):
    (tmp_path / "a.json").write_bytes(mark + '{"a": "é"}'.encode())
    assert read_json(tmp_path / "a.json") == {"a": "é"}


def fifo(path):
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda p: None, "it does not exist"),
        (fifo, "it is no regular file"),
        (lambda p: p.symlink_to("/dev/zero"), "it is no regular file"),
        (lambda p: p.mkdir(), "it is no regular file"),
        (lambda p: p.write_text("[" * 100_000), "recursion"),
        (lambda p: p.write_text('{"a": ' * 100_000), "recursion"),
        (lambda p: p.write_text('{"a": 1' + "0" * 5000 + "}"), "cannot be read as JSON"),
        (lambda p: p.write_bytes(b'{"a": "\xff"}'), "cannot be read as JSON"),
        (lambda p: p.write_text(json.dumps({"a": "b" * 100})), "is larger than 100 bytes"),
        (lambda p: p.write_text("[1]"), "must hold a JSON object"),
    ],
)
def test_what_is_no_object_is_refused_in_one_line(tmp_path, write, said):
    write(tmp_path / "a.json")
    most = 100 if "100" in said else 2**20
    with pytest.raises(CheckpointError, match=said) as caught:
        read_json(tmp_path / "a.json", max_bytes=most)
    assert str(tmp_path / "a.json") in str(caught.value)
    assert "\n" not in str(caught.value)
