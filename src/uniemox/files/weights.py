"""Reading a file of weights that a stranger may have made. Nothing in it is executed.

A file is recognised by its first bytes, not by its name. What it declares is checked against its size before anything
is allocated, and tensors stay mapped to the file until somebody needs their values.
"""

import argparse
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from uniemox.errors import DAMAGED, CheckpointError
from uniemox.files.json_file import read_json
from uniemox.files.pickles import check_pickle
from uniemox.wording import name_first, reason_of

# What a file may be before it is opened: more is no model of this kind.
_MAX_FILE = 64 * 2**30  # bytes
_MAX_HEADER = 2 * 2**20  # bytes of JSON before the numbers of safetensors; ViT-H needs 60 thousand
_MAX_ENTRIES = 20_000  # of a zip archive
_MAX_PARTS = 64  # of a state
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch's magic number, before 1.6
_NOT_WEIGHTS = {
    rb"version https://git-lfs": "is a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`",
    rb"\x1f\x8b": "is compressed: unpack it and give the file within",
    rb"7z\xbc\xaf|.{257}ustar": "is an archive: unpack it and give the file within",
    rb"\x89HDF": "is an HDF5 file of another library: only torch's and safetensors' files are read",
    rb"\x80": "is a plain pickle, which could run code when it is read, so it is not opened: give a safetensors file",
    rb"": "is no file of weights: only torch's and safetensors' are read",
}  # What other files are, by how they start


@dataclass(frozen=True)
class Contents:
    """What a file holds."""

    format: str  # safetensors, torch, or torch before 1.6
    tree: Mapping[str, Any]  # Tensors by name, or the dictionary around them; mapped to the file where possible


def read_file(path: Path) -> Contents:
    """Read weights of any format, and nothing that could run code.

    Raises:
        CheckpointError: The file is missing, damaged, too large, or of another kind; says which.
    """
    size = _size_of(path)
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PK\x03\x04"):
        return Contents("torch", _read_pickled(path, size, is_old=False))
    if head.startswith(_OLD_TORCH):
        return Contents("torch before 1.6", _read_pickled(path, size, is_old=True))
    if head[8:9] == b"{":
        return Contents("safetensors", read_weights(path))
    reason = next(reason for start, reason in _NOT_WEIGHTS.items() if re.match(start, head, re.DOTALL))
    raise CheckpointError(f"{path} {reason}")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; the tensors are mapped to it. `CheckpointError` if it is missing or damaged."""
    size = _size_of(path)
    with path.open("rb") as file:
        declared = file.read(8)
    header = int.from_bytes(declared, "little")
    if _MAX_HEADER < header <= size - 8:
        raise CheckpointError(f"{path} has a header of more than {_MAX_HEADER} bytes: it is refused")
    if header > size - 8:
        is_turned = int.from_bytes(declared, "big") <= size - 8
        why = "its bytes are in big-endian order" if is_turned else "it was cut off or is damaged"
        raise _unreadable(path, f"a header of {header} bytes in a file of {size}: {why}")
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def read_parts(paths: Sequence[Path]) -> dict[str, Tensor]:
    """Read safetensors files that are one state together; `CheckpointError` if two of them hold the same name."""
    weights: dict[str, Tensor] = {}
    for path in paths:
        part = read_weights(path)
        if both := sorted(weights.keys() & part.keys()):
            raise CheckpointError(f"{path} holds {name_first(both)} again, as a part before it does: it is refused")
        weights |= part
    return weights


def part_names(index: Path) -> list[str]:
    """Read the names of a state's parts from `model.safetensors.index.json`, or raise `CheckpointError`."""
    table = read_json(index, max_bytes=_MAX_HEADER).get("weight_map")
    names = sorted(set(map(str, table.values()))) if isinstance(table, dict) else []
    if not 1 <= len(names) <= _MAX_PARTS or not all(re.fullmatch(r"[\w-]+\.safetensors", name) for name in names):
        raise CheckpointError(f"{index} must name 1 to {_MAX_PARTS} safetensors files beside it: copy the folder again")
    return names


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite, looking at a piece at a time, since a file may be larger than memory."""
    return all(_is_finite(piece.float()) for piece in torch.split(tensor.detach().reshape(-1), 2**24))


def _is_finite(piece: Tensor) -> bool:
    # A number that is not finite makes the sum so, which is several times faster to compute; large ones may too.
    return bool(piece.sum().isfinite()) or bool(piece.isfinite().all())


def as_floats(weights: Mapping[str, Tensor], source: Path | str) -> dict[str, Tensor]:
    """Copy weights as fp32; a `CheckpointError` names the first that is not finite, or no floating-point numbers."""
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            raise CheckpointError(f"the weights {source} hold {tensor.dtype} in {name}, not floats")
    copies = {name: tensor.detach().to(torch.float32, copy=True) for name, tensor in weights.items()}
    _check_finite(copies, source)
    return copies


def _check_finite(weights: Mapping[str, Tensor], source: Path | str) -> None:
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not is_finite(tensor):
            raise CheckpointError(f"the weights {source} are not finite in {name}: copy or make the folder again")


@dataclass(frozen=True)
class Fit:
    """How weights fit a model."""

    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()  # Names with both shapes

    def check(self, source: Path | str) -> None:
        """Raise a `CheckpointError` that names what is missing, left over, or of another shape."""
        if self.missing or self.extra:
            found = f"missing {name_first(self.missing)}, left over {name_first(self.extra)}"
        elif self.misshapen:
            found = name_first(self.misshapen, longest=200)
        else:
            return
        raise CheckpointError(f"{source} does not fit the model: {found}; give the weights of this model")


def compare(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Fit:
    """Compare names and shapes of weights with those of a model's own; no number is read."""
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
        model: Model to fill; it may be on the meta device, without memory of its own.
        weights: By the names of the model.
        source: What error messages call the weights.

    Raises:
        CheckpointError: A name is missing or left over, a shape differs, or a value is not finite; names the first.
    """
    compare(model.state_dict(), weights).check(source)
    model.load_state_dict(as_floats(weights, source), assign=True)


def load_copy(model: nn.Module, weights: Mapping[str, Tensor], source: Path | str) -> None:
    """Copy weights into a model that has memory and types of its own, strictly; errors are those of `fill`."""
    compare(model.state_dict(), weights).check(source)
    _check_finite(weights, source)
    model.load_state_dict(weights)


def _size_of(path: Path) -> int:
    """Return the size of a regular file: anything else may block or never end."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, not a file of weights")
    if not path.is_file():
        raise _unreadable(path, "it is no regular file" if path.exists() else "it does not exist")
    size = path.stat().st_size
    if size < 9:
        raise _unreadable(path, f"it has {size} bytes")
    if size > _MAX_FILE:
        raise CheckpointError(f"{path} has more than {_MAX_FILE} bytes: it is refused")
    return size


def _unreadable(path: Path, why: str | BaseException) -> CheckpointError:
    if isinstance(why, BaseException):  # "not resizable" are torch's words for it
        why = "a tensor is declared larger than what is stored of it" if "not resizable" in str(why) else reason_of(why)
    return CheckpointError(f"the weights {path} cannot be read ({why}): copy or make the file again")


def _read_pickled(path: Path, size: int, *, is_old: bool) -> dict[str, Any]:
    """Read a file that torch wrote, as it does now or did before 1.6."""
    try:
        if is_old:
            with path.open("rb") as file:
                file.seek(len(_OLD_TORCH))
                for _ in range(4):  # version, byte order, what is saved, and its storages
                    check_pickle(file, path)
        else:
            _check_zip(path, size)
        # The arguments that the released runs and MAE's keep beside their weights.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of what it then refuses
            tree = torch.load(path, map_location="cpu", weights_only=True, mmap=not is_old)
        if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
            raise CheckpointError(f"{path} holds no weights by name: save the `state_dict()` of the model")
        _check_tensors(tree, path, size)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is damaged or holds more than tensors, which could run code, so it is refused: give a safetensors "
            "file, or save tensors alone"
        ) from error
    except (*DAMAGED, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error
    return tree


def _check_zip(path: Path, size: int) -> None:
    """Refuse what torch never writes, before it is opened by torch."""
    if not _is_listed_at_end(path, size):
        raise _unreadable(path, "it was cut off, or its list of entries is not at its end, where torch writes it")
    with zipfile.ZipFile(path) as archive:
        listed = archive.infolist()
        entries = {entry.filename.lower(): entry for entry in listed}  # torch's reader ignores case
        pickles = [entry for name, entry in entries.items() if name.endswith("/data.pkl")]
        for is_refused, reason in (
            (len(listed) > _MAX_ENTRIES, f"has more than {_MAX_ENTRIES} entries: it is refused"),
            (len(entries) < len(listed), "has two entries of one name, which torch never writes: it is refused"),
            (
                any(name.endswith("/constants.pkl") for name in entries),
                "is a TorchScript archive, as OpenAI's own files of CLIP are: it holds code, so it is not opened. CLIP "
                "is the teacher: `--teacher.model ViT-B-16-quickgelu --teacher.pretrained openai` takes it from the "
                "hub as safetensors, or `--teacher.pretrained FILE` from such a file",
            ),
            (
                any(entry.compress_type != zipfile.ZIP_STORED for entry in listed),
                "has compressed entries, which torch never writes: if it is an archive of a model, unpack it",
            ),
            (sum(entry.file_size for entry in listed) > size, "declares more bytes than it has: it is refused"),
            (len(pickles) != 1, "is a zip archive, but not torch's: unpack it and give the file within"),
        ):
            if is_refused:
                raise CheckpointError(f"{path} {reason}")
        with archive.open(pickles[0]) as file:
            check_pickle(file, path)
        if any(archive.read(entry) != b"little" for name, entry in entries.items() if name.endswith("/byteorder")):
            raise CheckpointError(f"{path} is of a machine of the other byte order: save it again on a common one")


def _is_listed_at_end(path: Path, size: int) -> bool:
    """Whether an archive's list of entries ends where its description starts, and nothing follows that.

    Elsewhere torch and Python would look in two places (APPNOTE.TXT of PKWARE, 4.3.14-16).
    """
    with path.open("rb") as file:
        file.seek(max(0, size - 98))
        wide, pointer, end = struct.unpack("<56s20s22s", file.read().rjust(98, b"\0"))
    length, start = struct.unpack_from("<II", end, 12)
    described = size - 22
    if pointer.startswith(b"PK\x06\x07"):
        described = size - 98
        if not wide.startswith(b"PK\x06\x06") or struct.unpack_from("<Q", pointer, 8) != (described,):
            return False
        length, start = struct.unpack_from("<QQ", wide, 40)
    return end.startswith(b"PK\x05\x06") and bool(start + length == described)


def _check_tensors(tree: Mapping[str, Any], path: Path, size: int) -> None:
    """Refuse tensors that are more than the file: views that repeat numbers, and shapes without any."""
    total = 0
    for name, tensor in _tensors_in(tree):
        is_plain = tensor.layout is torch.strided and tensor.device.type == "cpu"
        if not is_plain or tensor.is_quantized or tensor.is_nested:
            raise CheckpointError(f"{path} holds {name[:80]} in a form that is not read: save it dense")
        num_bytes = tensor.numel() * tensor.element_size()
        total += num_bytes
        if num_bytes > tensor.untyped_storage().nbytes() or total > 2 * size:
            raise CheckpointError(
                f"{path} declares {name[:80]} with the shape {tuple(tensor.shape)}, more than it holds: it is refused"
            )


def _tensors_in(tree: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of nested dictionaries; each is entered once, since they may hold each other many times."""
    seen, waiting = set[int](), [tree]
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
