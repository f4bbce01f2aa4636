"""The private state of a run: everything that going on needs, and nothing that a user should rely on.

`state/step-00000120/` holds the weights (safetensors), the optimiser (tensors only, read without executing anything)
and a small JSON. A state is written beside, then renamed, so a folder of that name is whole and never written again;
older ones are then removed.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from uniemox.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

_PREFIX = "step-"
# What json and torch raise on damaged files.
_DAMAGED = (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError)


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What a run needs to go on after a step. Randomness is a function of the step, so it is not here."""

    step: int
    """Steps of the optimiser that are done."""
    weights: Mapping[str, Mapping[str, Tensor]]
    """State of each model of the run by its name, such as `module`, `ema`, `best`."""
    optimizer: Mapping[str, Any]
    """State of the optimiser."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What the kind of run wants to remember; plain JSON."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """What must be the same when the run goes on, such as the number of rows a step; plain JSON."""


def save_state(folder: Path, state: RunState) -> Path:
    """Write a state into the run's state folder and remove older ones.

    A state of the same step is left as it is: what a run has after a step depends on nothing else, and replacing it
    would leave a moment without any state.

    Raises:
        CheckpointError: The disk is full or the folder cannot be written; older states are left as they were.
    """
    target = folder / f"{_PREFIX}{state.step:08d}"
    if target.is_dir():
        return target
    beside = folder / f".{target.name}.writing"
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        for name, tensors in state.weights.items():
            save_file(
                {key: tensor.contiguous() for key, tensor in tensors.items()},
                beside / f"{name}.safetensors",
            )
        torch.save(dict(state.optimizer), beside / "optimizer.pt")
        saved = {
            "step": state.step,
            "notes": dict(state.notes),
            "identity": dict(state.identity),
        }
        text = json.dumps(saved)
        (beside / "state.json").write_text(text)
        _flush(beside)
        beside.rename(target)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        advice = (
            "go on with --resume from the last state, which is still whole"
            if _states(folder)
            else f"delete {folder.parent} and start again"
        )
        raise CheckpointError(
            f"the state after step {state.step} could not be written to {folder} ({error}): free space, then {advice}"
        ) from error
    for older in _states(folder)[:-1]:
        shutil.rmtree(older, ignore_errors=True)
    return target


def load_state(folder: Path) -> RunState:
    """Read the newest state of a run.

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    states = _states(folder)
    if not states:
        raise CheckpointError(
            f"no saved state in {folder}, since the run ended before its first one: delete {folder.parent} and start "
            "without --resume"
        )
    newest = states[-1]
    try:
        saved = json.loads((newest / "state.json").read_text())
        weights = {path.stem: load_file(path) for path in sorted(newest.glob("*.safetensors"))}
        optimizer = torch.load(newest / "optimizer.pt", map_location="cpu", weights_only=True)
        return RunState(
            step=saved["step"],
            weights=weights,
            optimizer=optimizer,
            notes=saved["notes"],
            identity=saved.get("identity", {}),
        )
    except (*_DAMAGED, pickle.UnpicklingError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        what = "delete it to go on from an older one" if states[1:] else "start the run anew"
        raise CheckpointError(f"the saved state {newest} is damaged ({reason}): {what}") from error


def _states(folder: Path) -> list[Path]:
    """Folders of whole states, oldest first."""
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir())


def _flush(folder: Path) -> None:
    """Ask the system to put the files on the disk, so that a rename never outlives its contents."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
