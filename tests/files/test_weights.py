"""Files of weights: formats, limits, and hostile ones, of which none runs anything or takes much time or memory."""

import argparse
import copy
import gzip
import io
import json
import math
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import uniemox
from uniemox.errors import CheckpointError
from uniemox.files import weights as module
from uniemox.files.weights import as_floats, fill, is_finite, read_file, read_weights


def told_by(call, *args):
    with pytest.raises(CheckpointError) as told:
        call(*args)
    text = str(told.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.float16)}


@pytest.mark.parametrize(
    ("form", "save"),
    [
        ("safetensors", lambda path: save_file(TENSORS, path)),
        ("torch", lambda path: torch.save(TENSORS, path)),
        ("torch before 1.6", lambda path: torch.save(TENSORS, path, _use_new_zipfile_serialization=False)),
    ],
)
def test_a_file_is_told_by_its_first_bytes(tmp_path, form, save):
    path = tmp_path / "named.anyhow"
    save(path)
    contents = read_file(path)
    assert contents.format == form
    assert contents.tree.keys() == TENSORS.keys()
    assert all(torch.equal(contents.tree[name], TENSORS[name]) for name in TENSORS)


def test_settings_of_argparse_are_read_beside_the_weights(tmp_path):
    args = argparse.Namespace(lr=0.1, name="x")
    torch.save({"model": TENSORS, "args": args, "epoch": 3}, tmp_path / "a.pth")
    tree = read_file(tmp_path / "a.pth").tree
    assert tree["args"] == args
    assert tree["epoch"] == 3


def test_what_is_allowed_to_one_file_is_not_allowed_to_others(tmp_path):
    torch.save({"args": argparse.Namespace()}, tmp_path / "a.pth")
    read_file(tmp_path / "a.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "a.pth", weights_only=True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it has 0 bytes"),
        (b"{}", "it has 2 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a pointer of Git LFS"),
        (gzip.compress(b"x" * 100, mtime=0), "is compressed: unpack it"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 50, "an HDF5 file"),
        (b"7z\xbc\xaf\x27\x1c" + b"\0" * 50, "is an archive"),
        (b"<!DOCTYPE html><html>", "is no file of weights"),
        (pickle.dumps({"a": 1}, protocol=4), "is a plain pickle, which could run code"),
        (b"PK\x03\x04" + b"\0" * 100, "cannot be read"),
    ],
)
def test_other_files_are_told_for_what_they_are(tmp_path, content, said):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    assert said in told_by(read_file, path)


def test_a_folder_a_pipe_and_nothing_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # to open it would block
    assert "is a folder" in told_by(read_file, tmp_path)
    assert "it is no regular file" in told_by(read_file, tmp_path / "pipe")
    assert "it does not exist" in told_by(read_file, tmp_path / "none")
    assert "it is no regular file" in told_by(read_file, Path("/dev/zero"))


def test_a_file_beyond_all_models_is_not_opened(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"x" * 100)
    monkeypatch.setattr(module, "_MAX_FILE", 99)
    assert "it is refused" in told_by(read_file, tmp_path / "a")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("form", ["zip", "old", "safetensors"])
def test_a_truncated_file_is_told(tmp_path, form, share):
    path, state = tmp_path / "a.pth", {"a": torch.ones(1000)}
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    told_by(read_file, path)


@pytest.mark.parametrize("value", [[1, 2], torch.ones(3), {1: torch.ones(1)}, "text"])
def test_what_has_no_names_is_no_state(tmp_path, value):
    torch.save(value, tmp_path / "a.pth")
    assert "holds no weights by name" in told_by(read_file, tmp_path / "a.pth")


def test_a_header_of_the_other_byte_order_is_told(tmp_path):
    save_file({"a": torch.ones(3)}, tmp_path / "a")
    content = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(content[:8][::-1] + content[8:])
    assert "big-endian" in told_by(read_weights, tmp_path / "a")
    (tmp_path / "a").write_bytes(b"\xff" * 8 + content[8:])
    assert "was cut off or is damaged" in told_by(read_weights, tmp_path / "a")


# A pickle by hand: what torch's own writer would not make


def tensor_pickle(numel, size, stride):
    """The pickle of {"model": {"a": tensor}} with a shape of one's choice over the storage `0`."""

    class Storage:
        pass

    class Shaped:
        def __reduce__(self):
            arguments = (Storage(), 0, size, stride, False, OrderedDict())
            return torch._utils._rebuild_tensor_v2, arguments

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            stands = isinstance(value, Storage)
            return ("storage", torch.FloatStorage, "0", "cpu", numel) if stands else None

    data = io.BytesIO()
    Pickler(data, protocol=2).dump({"model": {"a": Shaped()}})
    return data.getvalue()


def archive(path, data, *, entries=(), compress=zipfile.ZIP_STORED, order=b"little"):
    with zipfile.ZipFile(path, "w", compress) as file:
        file.writestr("archive/data.pkl", data)
        file.writestr("archive/byteorder", order)
        file.writestr("archive/version", b"3\n")
        file.writestr("archive/data/0", struct.pack("<16f", *range(16)))
        for name, content in entries:
            file.writestr(name, content)
    return path


def test_the_archive_by_hand_is_read_where_it_is_honest(tmp_path):
    archive(tmp_path / "a", tensor_pickle(16, (4, 4), (4, 1)))
    found = read_file(tmp_path / "a").tree["model"]["a"]
    assert torch.equal(found, torch.arange(16.0).view(4, 4))


def runs(command):
    class Evil:
        def __reduce__(self):
            return os.system, (command,)

    return Evil()


def nested(depth):
    inner = {}
    for _ in range(depth):
        inner = {str(index): inner for index in range(50)}
    return inner


def write_zip(path):
    with zipfile.ZipFile(path, "w") as file:
        inner = io.BytesIO()
        torch.save({"a": torch.ones(1)}, inner)
        file.writestr("model.pth", inner.getvalue())


def write_tar(path):
    with tarfile.open(path, "w") as file:
        file.add(__file__, "model.pth")


def write_script(path):
    class Two(torch.nn.Module):
        def forward(self, x):
            return 2 * x

    with zipfile.ZipFile(path, "w") as file:  # the names that torch.jit.save writes
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py", "version"):
            file.writestr(f"clip/{name}", b"\x80\x02N.")


def write_safetensors(path, header, body=b""):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def giant_header(path):
    path.write_bytes(struct.pack("<Q", 2**24 + 1) + b"{" + b" " * (2**24 + 9))


def overlapping(path):
    """A thousand entries that are the same megabyte of the file."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data/0", b"\0" * 10**6)
        for index in range(1, 1000):
            entry = copy.copy(file.filelist[0])
            entry.filename = f"archive/data/{index}"
            file.filelist.append(entry)


def repeated(path):
    data = torch.ones(1000)
    torch.save({f"a{index}": data for index in range(1000)}, path)


def long_pickle(path, new):
    if new:
        archive(path, b"\x80\x02" + b"N0" * 2**20 + b"N.")
    else:
        path.write_bytes(module._OLD_TORCH + b"\x80\x02" + b"N0" * 2**23 + b"N.")


def colliding_keys():
    """A table whose keys all have the hash 0: to build it takes minutes."""
    keys = (pickle.encode_long(n * (2**61 - 1)) for n in range(100, 100_000))
    longs = b"".join(b"\x8a" + bytes([len(key)]) + key + b"N" for key in keys)
    return b"\x80\x02}(" + longs + b"u."


def other_directory(path):
    """An archive in which Python finds honest entries, and torch a bomb: one list at the end, one where it says."""
    bomb, honest = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\x80\x02" + b"N0" * 2**24 + b"N.")
        file.writestr("archive/byteorder", b"little")
    with zipfile.ZipFile(honest, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02N.")
        file.writestr("archive/byteorder", b"little")
    start, base = zipfile.ZipFile(bomb).start_dir, len(bomb.getvalue())
    content, split = honest.getvalue(), zipfile.ZipFile(honest).start_dir
    entries, end = bytearray(content[split:-22]), bytearray(content[-22:])
    for entry in (0, entries.rfind(b"PK\x01\x02")):  # offsets that are right once Python has moved them
        (offset,) = struct.unpack_from("<I", entries, entry + 42)
        struct.pack_into("<I", entries, entry + 42, offset + start - split)
    struct.pack_into("<I", end, 16, start)
    path.write_bytes(bomb.getvalue() + content[:split] + entries + end)
    assert base > start


def called(name, argument):
    """The pickle of {"a": name(argument)}."""
    return b"\x80\x02}X\1\0\0\0ac" + name + b"\n(" + argument + b"tRs."


def spoilt_storages(path):
    """A file from before 1.6 whose last pickle, the names of its storages, takes all memory."""
    torch.save({"a": torch.ones(4)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    last = content.rindex(b"\x80\x02]")
    path.write_bytes(content[:last] + called(b"__builtin__\nbytearray", FOUR_BILLION) + content[last:])


FOUR_BILLION = b"\x8a\x05" + (4 * 10**9).to_bytes(5, "little")
HOSTILE = {
    "a command in a torch file": lambda p: torch.save({"a": runs(f"touch {p}.ran")}, p),
    "a command in an old torch file": lambda p: torch.save(
        {"a": runs(f"touch {p}.ran")}, p, _use_new_zipfile_serialization=False
    ),
    "a command in a plain pickle": lambda p: p.write_bytes(pickle.dumps(runs(f"touch {p}.ran"))),
    "a command in settings": lambda p: torch.save(
        {"model": {"a": torch.ones(1)}, "args": argparse.Namespace(a=runs(f"touch {p}.ran"))}, p
    ),
    "an archive in an archive": write_zip,
    "an archive of tar": write_tar,
    "a program of TorchScript": write_script,
    "a giant shape over a small storage": lambda p: archive(
        p, tensor_pickle(16, (10**11,), (1,))
    ),
    "a giant shape of one number": lambda p: archive(p, tensor_pickle(16, (10**11,), (0,))),
    "a giant storage": lambda p: archive(p, tensor_pickle(10**11, (10**11,), (1,))),
    "a giant shape in safetensors": lambda p: write_safetensors(
        p, {"a": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}
    ),
    "a shape that overflows": lambda p: write_safetensors(
        p, {"a": {"dtype": "F32", "shape": [2**62, 8], "data_offsets": [0, 0]}}
    ),
    "offsets before the file": lambda p: write_safetensors(
        p, {"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, b"\0" * 4
    ),
    "a giant header": giant_header,
    "a header of many tensors": lambda p: write_safetensors(
        p, {f"a{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(30_000)}
    ),
    "a bomb of compression": lambda p: archive(
        p, tensor_pickle(16, (4, 4), (4, 1)),
        entries=[("archive/data/1", b"\0" * 2**26)], compress=zipfile.ZIP_DEFLATED,
    ),
    "entries that overlap": overlapping,
    "many entries": lambda p: archive(
        p, b"\x80\x02N.", entries=[(f"archive/data/{n}", b"") for n in range(1, 20_001)]
    ),
    "one tensor a thousand times": repeated,
    "the other byte order": lambda p: archive(p, tensor_pickle(16, (4, 4), (4, 1)), order=b"big"),
    "a pickle without end": lambda p: long_pickle(p, new=True),
    "an old pickle without end": lambda p: long_pickle(p, new=False),
    "numbers of many digits": lambda p: archive(p, colliding_keys()),
    "bytes without end": lambda p: archive(p, called(b"__builtin__\nbytearray", FOUR_BILLION)),
    "bytes without end in an old file": spoilt_storages,
    "a second pickle in capitals": lambda p: archive(
        p, tensor_pickle(16, (4, 4), (4, 1)),
        entries=[("archive/DATA.PKL", called(b"__builtin__\nbytearray", FOUR_BILLION))],
    ),
    "a second order of bytes": lambda p: archive(
        p, tensor_pickle(16, (4, 4), (4, 1)), entries=[("archive/ByteOrder", b"big")]
    ),
    "two lists of entries": other_directory,
    "a sparse tensor": lambda p: torch.save({"a": torch.eye(3).to_sparse()}, p),
    "an empty file": lambda p: p.write_bytes(b""),
    "a file of zeros": lambda p: p.write_bytes(b"\0" * 4096),
}  # fmt: skip

CHILD = """
import json, resource, sys, time
from pathlib import Path
import torch
from uniemox.checkpoints.foreign import open_source
from uniemox.errors import CheckpointError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
told = {}
for path in sorted(Path(sys.argv[1]).glob("hostile-*")):
    start = time.process_time()
    try:
        open_source(path)
        said = ""
    except CheckpointError as error:
        said = str(error)
    told[path.name] = (said, time.process_time() - start)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"told": told, "kilobytes": after - before}))
"""


@pytest.fixture(scope="module")
def told_in_a_child(tmp_path_factory):
    """What a process of its own says of all hostile files, with its time and memory."""
    folder = tmp_path_factory.mktemp("hostile")
    names = {}
    for index, (name, write) in enumerate(HOSTILE.items()):
        names[name] = f"hostile-{index:02d}"
        write(folder / names[name])
    environment = {**os.environ, "PYTHONPATH": str(Path(uniemox.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return {n: found["told"][f] for n, f in names.items()}, found["kilobytes"], folder


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_gets_one_clear_line_in_little_time(told_in_a_child, name):
    said, seconds = told_in_a_child[0][name]
    assert said
    assert "\n" not in said
    assert len(said) < 600
    assert seconds < 10


def test_hostile_files_take_little_memory_and_run_nothing(told_in_a_child):
    _, kilobytes, folder = told_in_a_child
    assert kilobytes < 2 * 2**20  # 2 GB
    assert not list(folder.glob("*.ran"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a command in a torch file", "asks for posix.system, which could run code"),
        ("a command in an old torch file", "asks for posix.system, which could run code"),
        ("a command in settings", "asks for posix.system, which could run code"),
        ("an archive in an archive", "a zip archive, but not torch's"),
        ("an archive of tar", "is an archive: unpack it"),
        ("a program of TorchScript", "CLIP is the teacher: `--teacher.model"),
        ("a giant shape of one number", "declares a with the shape (100000000000,), more than"),
        ("one tensor a thousand times", "more than it holds"),
        ("a bomb of compression", "compressed entries, which torch never writes"),
        ("entries that overlap", "declares more bytes than it has"),
        ("many entries", "more than 20000 entries"),
        ("the other byte order", "a machine of the other byte order"),
        ("a pickle without end", "a pickle of more than 1048576 bytes"),
        ("an old pickle without end", "a pickle of more than 1048576 bytes"),
        ("numbers of many digits", "a number of many digits"),
        ("bytes without end", "asks for __builtin__.bytearray, which could run code or take all memory"),
        ("bytes without end in an old file", "asks for __builtin__.bytearray"),
        ("a second pickle in capitals", "has two entries of one name"),
        ("a second order of bytes", "has two entries of one name"),
        ("two lists of entries", "its list of entries is not at its end"),
        ("a giant storage", "declared larger than what is stored"),
        ("a sparse tensor", "save it dense"),
        ("a giant header", "a header of more than 2097152 bytes"),
        ("a file of zeros", "is no file of weights"),
    ],
)
def test_a_hostile_file_is_named_for_what_it_is(told_in_a_child, name, said):
    assert said in told_in_a_child[0][name][0]


def test_tables_that_hold_each_other_many_times_are_walked_once(tmp_path):
    torch.save(nested(12), tmp_path / "a.pth")  # 50**12 paths
    assert read_file(tmp_path / "a.pth").tree.keys() == {str(index) for index in range(50)}


# Values


def test_values_are_copied_as_full_precision(tmp_path):
    save_file(TENSORS, tmp_path / "a")
    copies = as_floats(read_weights(tmp_path / "a"), tmp_path)
    assert {tensor.dtype for tensor in copies.values()} == {torch.float32}
    copies["a"].zero_()
    assert torch.equal(read_weights(tmp_path / "a")["a"], TENSORS["a"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2])
def test_values_that_are_not_finite_are_named(value, dtype):
    weights = {"a": torch.ones(2), "b": torch.tensor([1.0, value]).to(dtype)}
    assert "not finite in b" in told_by(as_floats, weights, "x")


@pytest.mark.parametrize("place", [0, 2**24 - 1, 2**24])
def test_numbers_that_are_not_finite_are_found_in_any_piece(place):
    weights = torch.zeros(2**24 + 1, dtype=torch.float16)
    assert is_finite(weights.view(1, -1))
    weights[place] = math.nan
    assert not is_finite(weights.view(1, -1))
    assert is_finite(torch.zeros(0))


def test_whole_numbers_are_no_weights():
    assert "torch.int64 in a" in told_by(as_floats, {"a": torch.ones(2, dtype=torch.int64)}, "x")


def test_a_model_without_memory_is_filled():
    with torch.device("meta"):
        model = torch.nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    fill(model, {"weight": torch.eye(2).half(), "bias": torch.zeros(2)}, "x")
    assert torch.equal(model(torch.ones(1, 2)), torch.ones(1, 2))
    assert model.weight.requires_grad
    assert not model.bias.requires_grad


def test_a_filled_model_does_not_share_its_numbers():
    weights = {"weight": torch.eye(2), "bias": torch.zeros(2)}
    model = torch.nn.Linear(2, 2)
    fill(model, weights, "x")
    weights["weight"].zero_()
    assert torch.equal(model.weight, torch.eye(2))


def test_shapes_are_compared_before_numbers_are_read():
    weights = {"weight": torch.full((3, 2), float("nan")), "bias": torch.zeros(2)}
    said = told_by(fill, torch.nn.Linear(2, 2), weights, "x")
    assert "weight has shape (3, 2), the model has (2, 2)" in said
