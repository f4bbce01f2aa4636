"""The private state of a run: everything that continuing needs, and nothing that a user should rely on.

`state/step-00000120/` holds the weights (safetensors), the optimiser (tensors only, read without executing anything), a
small JSON, and `SHA256SUMS` of these files, which `sha256sum --check` reads too. A state is written beside, then
renamed, so a folder of that name is whole and never written again. The last two are kept, so that one remains where the
other was damaged. `step-00000120-unscored` is a state whose epoch is done but not yet scored.
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from uniemox.data.batch import describe_dead_worker
from uniemox.errors import CheckpointError, ConfigError
from uniemox.files.digest import hash_file
from uniemox.files.weights import read_file, read_weights
from uniemox.files.whole import replace_folder
from uniemox.validation import validate
from uniemox.wording import reason_of, shorten

_KEPT: Final = 2  # States that a run keeps
_SUMS: Final = "SHA256SUMS"
_UNSCORED: Final = "-unscored"
_NAME: Final = re.compile(rf"step-(\d{{8,}})({_UNSCORED})?")
_LINE: Final = re.compile(r"([0-9a-f]{64})  ([\w.]+)")


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What a run needs to continue after a step. Randomness is a function of the step, so it is not here."""

    step: int  # Steps of the optimiser that are done
    total_steps: int  # Steps that the run meant to do, to which its schedule was fitted
    weights: Mapping[str, Mapping[str, Tensor]]  # State of each model by its name: `module`, perhaps `ema` and `best`
    optimizer: Mapping[str, Any]
    notes: Mapping[str, Any] = field(default_factory=dict)  # What the kind of run remembers; plain JSON
    identity: Mapping[str, Any] = field(default_factory=dict)  # What must be the same when it continues
    origin: Mapping[str, Any] = field(default_factory=dict)  # What the run started from, for its provenance
    scored: bool = True  # Whether what follows the end of an epoch is done, where the step ends one
    layout: str = ""  # How the rows of a step were shared out, in words; empty where an older run did not say


@dataclass(frozen=True, kw_only=True)
class _Notes:
    """Types of what a run remembers, if it does."""

    epoch: int = 0  # The best one
    score: float = 0.0
    missing: list[int] = field(default_factory=list)  # Rows of val that could not be scored


@dataclass(frozen=True, kw_only=True)
class _Origin:
    """Types of what a run started from."""

    init: str = ""
    licence: str = ""
    teacher: str = ""
    shape: dict[str, Any] = field(default_factory=dict)
    fused: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Saved:
    """Types of `state.json`: the part of `RunState` that is no tensor."""

    step: int
    total_steps: int
    notes: _Notes
    identity: dict[str, Any]
    origin: _Origin
    scored: bool
    layout: str = ""

    def __post_init__(self) -> None:
        if not (0 <= self.step < 2**63 and 1 <= self.total_steps < 2**63):
            raise ConfigError(f"step {shorten(self.step)} of {shorten(self.total_steps)} is none")


class SavedState(NamedTuple):
    """A state on disk that is whole."""

    path: Path
    origin: Mapping[str, Any]  # What the run started from
    damaged: tuple[str, ...]  # Newer states that are not whole, and why


def save_state(folder: Path, state: RunState) -> Path:
    """Write a state into the run's state folder and remove all but the last two.

    A state of the same step is left as it is: what a run has after a step depends on nothing else, and replacing it
    would leave a moment without any state. Older states are left as they were where `CheckpointError` is raised.
    """
    target = folder / f"step-{state.step:08d}{'' if state.scored else _UNSCORED}"
    if target.is_dir():
        return target
    for path in folder.glob(".step-*"):  # of a killed process: the run folder's lock keeps others out
        shutil.rmtree(path, ignore_errors=True)
    then = "continue with `resume` from the last state, which is still whole"
    then = then if _states(folder) else "start again with `resume`"
    failures = (OSError, SafetensorError)
    with replace_folder(target, CheckpointError, elsewhere="", then=then, failures=failures) as beside:
        _write(beside, state)
    for older in _states(folder)[:-_KEPT]:
        shutil.rmtree(older, ignore_errors=True)
    return target


def find_state(folder: Path) -> SavedState | None:
    """Find the newest state of a run that is whole; None where nothing was saved yet."""
    damaged: list[str] = []
    for path in reversed(_states(folder)):
        damage = _damage(path)
        if damage is None:
            return SavedState(path, _read_saved(path)["origin"], tuple(damaged))
        damaged.append(f"{path} is damaged ({damage})")
    if damaged:
        step = "Restore one from a backup, or start a new run in another folder"
        raise CheckpointError(f"no saved state of {folder.parent} is whole: {'; '.join(damaged)}. {step}")
    return None


def load_state(path: Path) -> RunState:
    """Read a state that `find_state` found whole."""
    try:
        saved = _read_saved(path)
        weights = {file.stem: read_weights(file) for file in sorted(path.glob("*.safetensors"))}
        return RunState(**saved, weights=weights, optimizer=read_file(path / "optimizer.pt").tree)
    except (OSError, ValueError, ConfigError, CheckpointError) as error:
        what = f"the saved state {path} cannot be read ({reason_of(error)})"
        raise CheckpointError(f"{what}: delete it, and `resume` takes an older one") from error


def remove_newer(folder: Path, path: Path) -> None:
    """Remove the states after one from which the run continues, since it will write them again."""
    states = _states(folder)
    for newer in states[states.index(path) + 1 :]:
        shutil.rmtree(newer, ignore_errors=True)


def _write(beside: Path, state: RunState) -> None:
    for name, tensors in state.weights.items():
        whole = {key: tensor.contiguous() for key, tensor in tensors.items()}
        save_file(whole, beside / f"{name}.safetensors")
    try:
        torch.save(dict(state.optimizer), beside / "optimizer.pt")
    except RuntimeError as error:  # torch's writer has no other
        if describe_dead_worker(error):
            raise  # torch may report it in the middle of anything
        raise OSError(str(error)) from error
    names = ("step", "total_steps", "notes", "identity", "origin", "scored", "layout")
    text = json.dumps({name: getattr(state, name) for name in names})
    (beside / "state.json").write_text(text, encoding="utf-8")
    sums = [f"{hash_file(file)}  {file.name}\n" for file in sorted(beside.iterdir())]
    (beside / _SUMS).write_text("".join(sums), encoding="utf-8")


def _damage(path: Path) -> str | None:
    """Explain why a state is not whole; None where it is."""
    name, missing = _SUMS, {"state.json", "optimizer.pt", "module.safetensors"}
    try:
        *lines, rest = (path / _SUMS).read_text(encoding="ascii").split("\n")
        if rest:
            return f"{_SUMS} is cut short"
        for line in lines:
            written = _LINE.fullmatch(line)
            if written is None:
                return f"{_SUMS} is not readable"
            digest, name = written.groups()
            if hash_file(path / name) != digest:
                return f"{name} is not what was written"
            missing.discard(name)
        if not missing:
            name = "state.json"
            _read_saved(path)
    except (OSError, ValueError, RecursionError, ConfigError) as error:
        return f"{name}: {reason_of(error)}"
    return f"{_SUMS} does not name {min(missing)}" if missing else None


def _read_saved(path: Path) -> dict[str, Any]:
    saved: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
    validate(_Saved, saved, source="")
    return saved


def _states(folder: Path) -> list[Path]:
    """Folders of states, oldest first."""
    found = ((_NAME.fullmatch(path.name), path) for path in folder.glob("step-*") if path.is_dir())
    return [path for *_, path in sorted((int(name[1]), name[2] is None, path) for name, path in found if name)]
