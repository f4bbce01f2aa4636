"""State dicts as others save them: tensors by name, under the names of whatever was around the model."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from uniemox.errors import CheckpointError
from uniemox.files.weights import read_file

log = logging.getLogger(__name__)

_AVERAGES: Final = ("state_dict_ema", "model_ema")
_KEYS: Final = (*_AVERAGES, "state_dict", "model", "model_state_dict", "net", "module")
"""Where scripts keep a model; averages first, as in timm."""
_PREFIXES: Final = ("module.", "model.", "_orig_mod.")  # Of DDP, averaging, Lightning and torch.compile
_INSIDE: Final = re.compile(r"(?:(?<=\.)|^)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, FSDP and checkpointing put into names, wherever the part of the model is."""
_COUNT: Final = "n_averaged"  # Beside the weights of `torch.optim.swa_utils.AveragedModel`


@dataclass(frozen=True)
class StateDict:
    """The weights of a model, as they were found in a file."""

    tensors: Mapping[str, Tensor]
    key: str  # Key of the innermost table that they were in; empty where the file is that table
    wrappers: tuple[str, ...]  # What was removed from the names
    beside: tuple[str, ...]  # Other keys of the tables around them

    @property
    def is_average(self) -> bool:
        """Whether it is an average over steps."""
        return self.key in _AVERAGES or _COUNT in self.wrappers

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know."""
        notes = [f"{', '.join(self.wrappers)}: removed from the names"] if self.wrappers else []
        if self.is_average:
            others = [name for name in _KEYS if name in self.beside]
            rather = f" instead of {', '.join(others)}, as in timm" if others else ""
            notes.append(f"the average over steps is used{rather}")
        return tuple(notes)


def find_state(tree: Mapping[str, Any]) -> StateDict | None:
    """Find the weights of a model in what a file holds, and free their names of every wrapper, however nested.

    Returns:
        None without a table of tensors alone.
    """
    key, beside = "", set[str]()
    for _ in range(4):  # tables within tables
        found = next((name for name in _KEYS if isinstance(tree.get(name), dict) and tree[name]), None)
        if found is None:
            break
        beside |= tree.keys() - {found}
        key, tree = found, tree[found]
    if not tree or not all(isinstance(value, Tensor) for value in tree.values()):
        return None
    tensors, wrappers = unwrap(tree)
    return StateDict(tensors, key, wrappers, tuple(sorted(beside)))


def unwrap(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Free names of wrappers; return the tensors by what is left, and what was removed."""
    taken = {match[1] + "." for name in state for match in _INSIDE.finditer(name)}
    tensors = {_INSIDE.sub("", name): tensor for name, tensor in state.items()}
    if len(tensors) < len(state):  # two names would be one
        tensors, taken = dict(state), set()
    while True:
        if tensors.keys() > {_COUNT}:
            del tensors[_COUNT]
            taken.add(_COUNT)
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in tensors)), None)
        if prefix is None or not tensors:
            return tensors, tuple(sorted(taken))
        taken.add(prefix)
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a model's weights from a file of any format, or raise `CheckpointError`; log once what was chosen."""
    found = find_state(read_file(path).tree)
    if found is None:
        raise CheckpointError(f"{path} holds no weights by name: save the `state_dict()` of the model")
    for note in found.notes:
        log.info("%s: %s", path, note)
    return dict(found.tensors)
