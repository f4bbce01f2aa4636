"""Reading a file of weights that a stranger may have made. Nothing in it is executed.

A file is told by its first bytes, not by its name. What it declares is checked against its size before anything is
allocated, and tensors stay mapped to the file until somebody needs their values.
"""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
import struct
import warnings
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from uniemox.checkpoints.pickles import check_pickle
from uniemox.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import nn

# What a file may be before it is opened: more is no model of this kind.
_MAX_FILE = 64 * 2**30  # bytes
_MAX_HEADER = 2 * 2**20  # bytes of JSON before the numbers of safetensors; ViT-H needs 60 thousand
_MAX_ENTRIES = 20_000  # of a zip archive
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch's magic number, before 1.6
# What zipfile, pickletools and torch raise on damaged files.
_DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    RuntimeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    struct.error,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)
_ASKED = re.compile(r"(?:GLOBAL|global) ([\w.]+)")
_NOT_WEIGHTS = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`",
    b"\x1f\x8b": "is compressed: unpack it and give the file within",
    b"7z\xbc\xaf": "is an archive: unpack it and give the file within",
    b"\x89HDF": "is an HDF5 file of another library: only torch's and safetensors' files are read",
    b"\x80": "is a plain pickle, which could run code when it is read, so it is not opened: give a safetensors file",
}


@dataclass(frozen=True)
class Contents:
    """What a file holds."""

    format: str
    """safetensors, torch, or torch before 1.6."""
    tree: Mapping[str, Any]
    """Tensors by name, or the dictionary around them; the tensors are mapped to the file where the format allows."""


def read_file(path: Path) -> Contents:
    """Read weights of any format, and nothing that could run code.

    Raises:
        CheckpointError: The file is missing, damaged, too large, or of another kind; says which.
    """
    size = _size_of(path)
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PK\x03\x04"):
        return Contents("torch", _read_zip(path, size))
    if head.startswith(_OLD_TORCH):
        return Contents("torch before 1.6", _read_old(path, size))
    if head[8:9] == b"{":
        return Contents("safetensors", read_weights(path))
    for start, reason in _NOT_WEIGHTS.items():
        if head.startswith(start):
            raise CheckpointError(f"{path} {reason}")
    if head[257:262] == b"ustar":
        raise CheckpointError(f"{path} is an archive: unpack it and give the file within")
    raise CheckpointError(f"{path} is no file of weights: only torch's and safetensors' are read")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; the tensors are mapped to it.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    size = _size_of(path)
    with path.open("rb") as file:
        declared = file.read(8)
    header = int.from_bytes(declared, "little")
    if _MAX_HEADER < header <= size - 8:
        raise CheckpointError(
            f"{path} has a header of more than {_MAX_HEADER} bytes: it is refused"
        )
    if header > size - 8:
        turned = int.from_bytes(declared, "big") <= size - 8
        why = "its bytes are in big-endian order" if turned else "it was cut off or is damaged"
        raise CheckpointError(
            f"the weights {path} cannot be read (a header of {header} bytes in a file of {size}: {why}): copy or make "
            "the file again"
        )
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"the weights {path} cannot be read ({_brief(error)}): copy or make the file again"
        ) from error


def hash_file(path: Path) -> str:
    """Give the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite, looking at a piece at a time, since a file may be larger than memory."""
    numbers, step = tensor.detach().reshape(-1), 2**24
    pieces = (numbers[start : start + step] for start in range(0, len(numbers), step))
    return all(bool(piece.float().isfinite().all()) for piece in pieces)


def as_floats(weights: Mapping[str, Tensor], source: Path | str) -> dict[str, Tensor]:
    """Copy weights as fp32, refusing values that are not finite.

    Raises:
        CheckpointError: Names the first tensor that is not finite, or holds no floating-point numbers.
    """
    copies = {}
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            raise CheckpointError(f"the weights {source} hold {tensor.dtype} in {name}, not floats")
        copies[name] = tensor.detach().to(torch.float32, copy=True)
        if not bool(copies[name].isfinite().all()):
            raise CheckpointError(
                f"the weights {source} are not finite in {name}: copy or make the folder again"
            )
    return copies


@dataclass(frozen=True)
class Fit:
    """How weights fit a model."""

    missing: tuple[str, ...]
    extra: tuple[str, ...]
    misshapen: tuple[str, ...]
    """Names with both shapes."""

    def check(self, source: Path | str) -> None:
        """Refuse weights that do not fit.

        Raises:
            CheckpointError: Names what is missing, left over, or of another shape.
        """
        if self.missing or self.extra:
            missing, extra = name_first(list(self.missing)), name_first(list(self.extra))
            raise CheckpointError(
                f"{source} does not fit the model: missing {missing}, left over {extra}"
            )
        if self.misshapen:
            raise CheckpointError(f"{source} does not fit the model: {self.misshapen[0]}")


def compare(model: nn.Module, weights: Mapping[str, Tensor]) -> Fit:
    """Compare names and shapes of weights with those of a model; no number is read."""
    own = model.state_dict()
    return Fit(
        missing=tuple(sorted(own.keys() - weights.keys())),
        extra=tuple(sorted(weights.keys() - own.keys())),
        misshapen=tuple(
            f"{name} has shape {tuple(tensor.shape)}, the model has {tuple(own[name].shape)}"
            for name, tensor in weights.items()
            if name in own and tensor.shape != own[name].shape
        ),
    )


def fill(model: nn.Module, weights: Mapping[str, Tensor], source: Path | str) -> None:
    """Give a model its weights, strictly; names and shapes are compared before any number is read.

    Args:
        model: Model to fill; it may stand on the meta device, without memory of its own.
        weights: By the names of the model.
        source: What a complaint calls the weights.

    Raises:
        CheckpointError: A name is missing or left over, a shape differs, or a value is not finite; names the first.
    """
    compare(model, weights).check(source)
    model.load_state_dict(as_floats(weights, source), assign=True)


def name_first(names: list[str]) -> str:
    """Name the first three, and count the others."""
    if not names:
        return "none"
    return ", ".join(name[:80] for name in names[:3]) + (
        f" and {len(names) - 3} more" if len(names) > 3 else ""
    )


def _size_of(path: Path) -> int:
    """Give the size of a regular file: anything else may block or never end."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, not a file of weights")
    if not path.is_file():
        reason = "it is no regular file" if path.exists() else "it is not there"
        raise CheckpointError(f"the weights {path} cannot be read ({reason})")
    size = path.stat().st_size
    if size < 9:
        raise CheckpointError(f"the weights {path} cannot be read (it has {size} bytes)")
    if size > _MAX_FILE:
        raise CheckpointError(f"{path} has more than {_MAX_FILE} bytes: it is refused")
    return size


def _read_zip(path: Path, size: int) -> dict[str, Any]:
    try:
        _check_directory(path, size)
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, path, size)
        return _unpickle(path, size, mapped=True)
    except _DAMAGED as error:
        raise CheckpointError(f"{path} cannot be read as weights: {_brief(error)}") from error


def _check_directory(path: Path, size: int) -> None:
    """Refuse an archive whose list of entries is not where it says: torch and Python would look in two places.

    The list ends where its description begins, and nothing follows that (APPNOTE.TXT of PKWARE, 4.3.14-16).
    """
    with path.open("rb") as file:
        file.seek(max(0, size - 98))
        wide, pointer, end = struct.unpack("<56s20s22s", file.read().rjust(98, b"\0"))
    if pointer.startswith(b"PK\x06\x07"):
        (described,) = struct.unpack_from("<Q", pointer, 8)
        begin, sound = size - 98, wide.startswith(b"PK\x06\x06") and described == size - 98
        length, start = struct.unpack_from("<QQ", wide, 40)
    else:
        begin, sound = size - 22, True
        length, start = struct.unpack_from("<II", end, 12)
    if not (sound and end.startswith(b"PK\x05\x06") and start + length == begin):
        raise CheckpointError(
            f"{path} cannot be read as weights: it was cut off, or its list of entries is not at its end, where torch "
            "writes it; copy or make it again"
        )


def _check_archive(archive: zipfile.ZipFile, path: Path, size: int) -> None:
    """Refuse what torch never writes, before it is opened by torch."""
    entries = archive.infolist()
    if len(entries) > _MAX_ENTRIES:
        raise CheckpointError(f"{path} has more than {_MAX_ENTRIES} entries: it is refused")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(
            f"{path} has compressed entries, which torch never writes: if it is an archive of a model, unpack it"
        )
    if sum(entry.file_size for entry in entries) > size:
        raise CheckpointError(f"{path} declares more bytes than it has: it is refused")
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise CheckpointError(
            f"{path} is a TorchScript archive, as OpenAI's own files of CLIP are: it holds code, so it is not opened. "
            "CLIP is the teacher: `--teacher.model ViT-B-16-quickgelu --teacher.pretrained openai` takes it from the "
            "hub as safetensors, or `--teacher.pretrained FILE` from such a file"
        )
    _check_torch_archive(archive, entries, path)


def _check_torch_archive(
    archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo], path: Path
) -> None:
    pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError(
            f"{path} is a zip archive, but not torch's: unpack it and give the file within"
        )
    with archive.open(pickles[0]) as file:
        check_pickle(file, path)
    for entry in entries:
        if entry.filename.endswith("/byteorder") and archive.read(entry) != b"little":
            raise CheckpointError(
                f"{path} was written on a machine of the other byte order: save it again on a common one"
            )


def _read_old(path: Path, size: int) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            file.seek(len(_OLD_TORCH))
            for _ in range(4):  # version, byte order, what is saved, and its storages
                check_pickle(file, path)
        return _unpickle(path, size, mapped=False)
    except _DAMAGED as error:
        raise CheckpointError(f"{path} cannot be read as weights: {_brief(error)}") from error


def _unpickle(path: Path, size: int, *, mapped: bool) -> dict[str, Any]:
    try:
        # The arguments that the released runs and MAE's keep beside their weights.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of what it then refuses
            tree = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        asked = _ASKED.search(str(error))
        what = f"asks for {asked[1]}" if asked else "is damaged or holds more than tensors"
        raise CheckpointError(
            f"{path} {what}, which could run code, so it is not read: give a safetensors file, or save tensors alone"
        ) from error
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise CheckpointError(
            f"{path} holds no weights by name: save the `state_dict()` of the model"
        )
    _check_tensors(tree, path, size)
    return tree


def _check_tensors(tree: Mapping[str, Any], path: Path, size: int) -> None:
    """Refuse tensors that are more than the file: views that repeat numbers, and shapes without any."""
    total = 0
    for name, tensor in _tensors_in(tree):
        plain = tensor.layout is torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.is_quantized or tensor.is_nested:
            raise CheckpointError(
                f"{path} holds {name[:80]} in a form that is not read: save it dense"
            )
        bytes_of = tensor.numel() * tensor.element_size()
        total += bytes_of
        if bytes_of > tensor.untyped_storage().nbytes() or total > 2 * size:
            raise CheckpointError(
                f"{path} declares {name[:80]} with the shape {tuple(tensor.shape)}, more than it holds: it is refused"
            )


def _tensors_in(tree: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Give the tensors of nested dictionaries; each is entered once, since they may hold each other many times."""
    seen: set[int] = set()
    waiting = [tree]
    while waiting:
        table = waiting.pop()
        if id(table) in seen:
            continue
        seen.add(id(table))
        for name, value in table.items():
            if isinstance(value, Tensor):
                yield str(name), value
            elif isinstance(value, dict):
                waiting.append(value)


def _brief(error: BaseException) -> str:
    if "not resizable" in str(error):  # torch's words for it
        return "a tensor is declared larger than what is stored of it"
    return " ".join(str(error).split())[:200] or type(error).__name__
