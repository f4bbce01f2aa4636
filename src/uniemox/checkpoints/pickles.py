"""What a pickle would make, told without making it.

torch's reader executes nothing but functions of its own list. Some of them take all memory or hours all the same:
`bytearray` of a chosen length, encodings, tables whose keys were chosen to have one hash. So a pickle is walked over
beforehand, with the kinds of what its operations would leave on the stack.
"""

from __future__ import annotations

import io
import pickletools
import re
from typing import IO, TYPE_CHECKING, Any

from uniemox.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

_MAX_PICKLE = 2**20  # bytes; ViT-H with its optimiser needs 142 thousand
_LONGEST_NUMBER = 64  # bits
_ORDERED = "collections OrderedDict"
_FUNCTIONS = re.compile(
    rf"{_ORDERED}|argparse Namespace|torch (Size|device|(bool|u?int|b?float|complex)\w*)|"
    r"torch(\.cuda|\.storage)? \w+Storage|torch\.(serialization _get_layout|nn\.parameter Parameter)|"
    r"torch\._utils _rebuild_(tensor(_v[23])?|parameter(_with_state)?|sparse_tensor|qtensor)"
)
"""What weights and the settings beside them are made of."""
_KEYS = re.compile(r"(SHORT_)?BIN(UNICODE8?|STRING|INT[12]?|FLOAT)|LONG1|NONE|NEW(TRUE|FALSE)")
"""Kinds of keys that cannot be chosen to have one hash by the thousand, as tuples can."""


def check_pickle(file: IO[bytes], path: Path) -> None:
    """Walk over the next pickle of a file, executing nothing of it.

    Raises:
        CheckpointError: It does not end soon, or holds what weights have no need of.
    """
    start, walk = file.tell(), _Walk(path)
    part = io.BytesIO(file.read(_MAX_PICKLE))
    try:
        for operation, argument, _ in pickletools.genops(part):
            # Numbers of many digits can be chosen so that tables of them take minutes.
            if isinstance(argument, int) and argument.bit_length() > _LONGEST_NUMBER:
                raise walk.refused("holds a number of many digits")
            walk.step(operation, argument)
    except ValueError as error:
        if len(part.getvalue()) == _MAX_PICKLE:
            raise walk.refused(f"has a pickle of more than {_MAX_PICKLE} bytes") from error
        raise
    file.seek(start + part.tell())


class _Walk:
    """Kinds of what is on the stack: names of operations, and of functions."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack: list[str] = []
        self._memo: dict[Any, str] = {}

    def step(self, operation: pickletools.OpcodeInfo, argument: Any) -> None:
        below, above = self._take(operation.stack_before) if operation.stack_before else ([], [])
        kind = operation.name
        match kind:
            case "GLOBAL":
                self._check_function(argument)
                kind = argument
            case "GET" | "BINGET" | "LONG_BINGET":
                kind = self._memo.get(argument, "unknown")
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._stack[-1]
            case "SETITEM":
                self._check_keys(below[1:2])
            case "SETITEMS":
                self._check_keys(above[::2])
            case "REDUCE":
                self._check_call(*below)
        self._stack.extend([kind] * len(operation.stack_after))

    def refused(self, why: str) -> CheckpointError:
        return CheckpointError(f"{self._path} {why}: it is refused")

    def _take(self, before: list[pickletools.StackObject]) -> tuple[list[str], list[str]]:
        """Take off the stack what an operation takes: what lies below the last mark, and what lies above."""
        number, above = len(before), list[str]()
        if pickletools.markobject in before:
            number = before.index(pickletools.markobject)
            while (kind := self._stack.pop()) != "MARK":
                above.append(kind)
        below = [self._stack.pop() for _ in range(number)]
        return below[::-1], above[::-1]

    def _check_function(self, name: str) -> None:
        if not _FUNCTIONS.fullmatch(name):
            raise CheckpointError(
                f"{self._path} asks for {name.replace(' ', '.')[:80]}, which could run code or take all memory, so it "
                "is not read: give a safetensors file, or save tensors alone"
            )

    def _check_keys(self, keys: list[str]) -> None:
        if not all(_KEYS.fullmatch(key) for key in keys):
            raise self.refused("has a table whose keys are neither words nor numbers")

    def _check_call(self, function: str, arguments: str) -> None:
        if function == _ORDERED and arguments != "EMPTY_TUPLE":
            raise self.refused("has a table that is made of a list")
