"""The reader of MATLAB files, against SciPy's writer and hostile bytes."""

import contextlib
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from scipy.io import savemat

from uniemox.data.layouts import matlab
from uniemox.data.layouts.matlab import read_matlab

HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"


@pytest.mark.parametrize("packed", [True, False])
def test_what_scipy_writes_is_read(tmp_path, packed):
    people = np.empty(2, [("box", object), ("names", object)])
    people[0] = (np.array([1.5, -2, 3, 4]), np.array(["a", "über"], dtype=object))
    people[1] = (np.array([7, 8], np.uint16), np.array([], dtype=object))
    content = {
        "person": people,
        "one": {"text": "hello", "empty": "", "deep": {"number": 300}},
        "single": np.array([[1, 2], [3, 4]], np.float32),
        "large": np.array([2**40]),
        "flag": np.array([True]),
    }
    savemat(tmp_path / "a.mat", content, do_compression=packed)
    found = read_matlab(tmp_path / "a.mat", list(content))
    assert found == {
        "person": [
            {"box": (1.5, -2, 3, 4), "names": ["a", "über"]},
            {"box": (7, 8), "names": []},
        ],
        "one": {"text": "hello", "empty": "", "deep": {"number": (300,)}},
        "single": (1, 3, 2, 4),  # MATLAB goes down the columns
        "large": (2**40,),
        "flag": (1,),
    }


def test_only_variables_that_are_asked_for_are_read(tmp_path):
    savemat(tmp_path / "a.mat", {"a": 1, "b": 2})
    assert read_matlab(tmp_path / "a.mat", ["b", "c"]) == {"b": (2,)}


def matrix(kind, dimensions, content=b"", name=b"train"):
    sizes = struct.pack(f"<{len(dimensions)}i", *dimensions)
    parts = [
        struct.pack("<IIII", 6, 8, kind, 0),
        struct.pack("<II", 5, len(sizes)) + sizes.ljust(len(sizes) + -len(sizes) % 8, b"\0"),
        struct.pack("<II", 1, len(name)) + name.ljust(len(name) + -len(name) % 8, b"\0"),
        content,
    ]
    body = b"".join(parts)
    return struct.pack("<II", 14, len(body)) + body


def nested(depth):
    inner = matrix(6, (0, 0), struct.pack("<II", 9, 0), b"")
    for _ in range(depth):
        inner = matrix(1, (1, 1), inner, b"")
    return inner


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (matrix(1, (2**31 - 1, 2**31 - 1)), r"not the \d+ values"),
        (matrix(2, (10**6, 10**6)), "a struct without fields"),
        (matrix(1, (1, 1), nested(5000)), "nested too deeply"),
        (matrix(6, (1, 1), struct.pack("<II", 9, 2**31)), "larger than the whole"),
        (matrix(6, (1, 1), struct.pack("<II", 99, 8) + bytes(8)), "numbers of type 99"),
        (matrix(4, (1, 1), struct.pack("<II", 99, 8) + bytes(8)), "a text of type 99"),
        (matrix(4, (1, 1), struct.pack("<II", 16, 2) + b"\xff\xfe" + bytes(6)), "utf-8"),
        (struct.pack("<II", 14, 2**30), "larger than the whole"),
        (struct.pack("<II", 15, 16) + b"no zlib at all..", "incorrect header check"),
        (matrix(1, (-1, 1)), "not the -1 values"),
    ],
)
def test_hostile_files_are_an_error_and_no_crash(tmp_path, content, words):
    (tmp_path / "a.mat").write_bytes(HEADER + content)
    with pytest.raises(ValueError, match=words):
        read_matlab(tmp_path / "a.mat", ["train"])


def test_damage_anywhere_is_read_or_refused(tmp_path):
    content = {"train": {"a": np.arange(5), "b": ["x", "yz"], "c": {"d": np.array([1.5])}}}
    savemat(tmp_path / "a.mat", content, do_compression=False)
    whole = (tmp_path / "a.mat").read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(600):
        damaged = bytearray(whole)
        for at in generator.integers(len(HEADER), len(whole), 2):
            damaged[at] = generator.choice([0, 1, 5, 7, 9, 14, 15, 16, 127, 255])
        (tmp_path / "b.mat").write_bytes(damaged)
        try:
            read_matlab(tmp_path / "b.mat", ["train"])
        except ValueError:
            refused += 1
    assert refused > 150


def test_every_cut_of_a_file_is_read_or_refused(tmp_path):
    savemat(tmp_path / "a.mat", {"train": {"a": np.arange(5), "b": "text"}}, do_compression=False)
    whole = (tmp_path / "a.mat").read_bytes()
    refused = 0
    for end in range(len(whole)):
        (tmp_path / "b.mat").write_bytes(whole[:end])
        try:
            read_matlab(tmp_path / "b.mat", ["train"])
        except ValueError:
            refused += 1
    assert refused > len(whole) / 2


@pytest.mark.parametrize("kind", [1, 2, 4, 6, 16])
def test_a_bomb_of_empty_elements_takes_little_room(tmp_path, kind):
    packed = zlib.compress(matrix(kind, (10**6, 1), bytes(20_000_000)))
    (tmp_path / "a.mat").write_bytes(HEADER + struct.pack("<II", 15, len(packed)) + packed)
    tracemalloc.start()
    try:
        with contextlib.suppress(ValueError):
            read_matlab(tmp_path / "a.mat", ["train"])
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()


def test_files_that_unpack_to_too_much_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(matlab, "MAX_UNPACKED", 10_000)
    packed = zlib.compress(bytes(1_000_000))
    (tmp_path / "a.mat").write_bytes(HEADER + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(ValueError, match="unpacks to more than 10000 bytes"):
        read_matlab(tmp_path / "a.mat", ["train"])
    monkeypatch.setattr(matlab, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match="larger than 100 bytes"):
        read_matlab(tmp_path / "a.mat", ["train"])


@pytest.mark.parametrize("start", [b"", b"\x89HDF\r\n\x1a\n", HEADER[:126] + b"MI"])
def test_other_versions_are_told(tmp_path, start):
    (tmp_path / "a.mat").write_bytes(start.ljust(200, b"\0"))
    with pytest.raises(ValueError, match="no little-endian MATLAB file of version 5 to 7"):
        read_matlab(tmp_path / "a.mat", ["train"])
