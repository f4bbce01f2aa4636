"""What a pickle would make, found out without making it.

torch's reader executes nothing but functions of its own list. Some of them take all memory or hours all the same:
`bytearray` of a chosen length, encodings, tables of keys chosen to have one hash. So a pickle is walked over
beforehand, with the kinds of what its operations would leave on the stack: names of operations, and of functions.
"""

import io
import pickletools
import re
from pathlib import Path
from typing import IO, Any

from uniemox.errors import CheckpointError

_MAX_PICKLE = 2**20  # bytes; ViT-H with its optimiser needs 142 thousand
_ORDERED = "collections OrderedDict"
_FUNCTIONS = re.compile(
    rf"{_ORDERED}|argparse Namespace|torch (Size|device|(bool|u?int|b?float|complex)\w*)|"
    r"torch(\.cuda|\.storage)? \w+Storage|torch\.(serialization _get_layout|nn\.parameter Parameter)|"
    r"torch\._utils _rebuild_(tensor(_v[23])?|parameter(_with_state)?|sparse_tensor|qtensor)"
)  # What weights and the settings beside them are made of
_KEYS = re.compile(r"(SHORT_)?BIN(UNICODE8?|STRING|INT[12]?|FLOAT)|LONG1|NONE|NEW(TRUE|FALSE)")
"""Kinds of keys that cannot be chosen to have one hash by the thousand, as tuples can."""


def check_pickle(file: IO[bytes], path: Path) -> None:
    """Walk over the next pickle of a file, executing nothing of it.

    Raises:
        CheckpointError: It is too long, or holds what weights have no need of.
        ValueError: It is damaged, as `pickletools.genops` notices, like what else a walk over nonsense raises.
    """
    start, stack, memo = file.tell(), list[str](), dict[Any, str]()
    part = io.BytesIO(file.read(_MAX_PICKLE))
    try:
        for operation, argument, _ in pickletools.genops(part):
            kind: str = operation.name
            below, above = _take(stack, operation.stack_before)
            if fault := _find_fault(kind, argument, below, above):
                raise CheckpointError(
                    f"{path} {fault}, so it is refused: give a safetensors file, or save tensors alone"
                )
            if kind == "GLOBAL":
                kind = str(argument)
            elif kind in ("GET", "BINGET", "LONG_BINGET"):
                kind = memo.get(argument, "unknown")
            elif kind in ("PUT", "BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            stack.extend([kind] * len(operation.stack_after))
    except ValueError as error:
        if len(part.getvalue()) == _MAX_PICKLE:
            raise CheckpointError(f"{path} has a pickle of more than {_MAX_PICKLE} bytes: it is refused") from error
        raise
    file.seek(start + part.tell())


def _take(stack: list[str], before: list[pickletools.StackObject]) -> tuple[list[str], list[str]]:
    """Take off the stack what an operation takes: what lies below the last mark, and what lies above."""
    number, above = len(before), list[str]()
    if pickletools.markobject in before:
        number = before.index(pickletools.markobject)
        while (kind := stack.pop()) != "MARK":
            above.append(kind)
    below = [stack.pop() for _ in range(number)]
    return below[::-1], above[::-1]


def _find_fault(name: str, argument: Any, below: list[str], above: list[str]) -> str:
    """Say what an operation has that weights have no need of; empty where it has nothing."""
    # Numbers of many digits can be chosen so that tables of them take minutes.
    if isinstance(argument, int) and argument.bit_length() > 64:
        return "holds a number of many digits"
    if name == "GLOBAL" and not _FUNCTIONS.fullmatch(argument):
        return f"asks for {argument.replace(' ', '.')[:80]}, which could run code or take all memory"
    keys = {"SETITEM": below[1:2], "SETITEMS": above[::2]}.get(name, [])
    if not all(_KEYS.fullmatch(key) for key in keys):
        return "has a table whose keys are neither words nor numbers"
    if name == "REDUCE" and below[0] == _ORDERED and below[1] != "EMPTY_TUPLE":
        return "has a table that is made of a list"
    return ""
