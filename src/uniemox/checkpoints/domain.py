"""The features of training images that a classifier's folder keeps, for distances from them. Does not import torch."""

from pathlib import Path
from typing import Final

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from uniemox.checkpoints.facts import ModelFacts, member
from uniemox.errors import CheckpointError, DataError
from uniemox.targets.domain import MAX_FEATURES, NUMBER, Domain, read_domain
from uniemox.wording import reason_of

FEATURES_NAME: Final = "features.safetensors"
_KEY: Final = "features"
_MAX_HEADER: Final = 2**12  # Bytes before the numbers of a file of one tensor
_AGAIN: Final = "copy the folder whole, or make it again"


def write_features(folder: Path, domain: Domain) -> None:
    """Write the features into a folder whose facts have the numbers of the domain."""
    save_file({_KEY: domain.features}, folder / FEATURES_NAME)


def read_features(folder: Path, facts: ModelFacts, *, width: int) -> Domain | None:
    """Read the domain of a classifier whose features have a width; None where its facts or its files know of none.

    Whoever hands a model on may keep the file to themselves. Raises `CheckpointError` for one that is damaged, larger
    than any that is written, or of another model.
    """
    path = member(folder, FEATURES_NAME)
    if NUMBER not in facts.numbers or not path.exists():
        return None
    if not path.is_file():
        raise CheckpointError(f"{path} is no regular file: {_AGAIN}")
    most = 2 * MAX_FEATURES * width + _MAX_HEADER
    if path.stat().st_size > most:
        raise CheckpointError(f"{path} has more than {most} bytes: it is refused")
    try:
        with safe_open(path, framework="numpy") as file:
            held = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            features = file.get_tensor(_KEY) if held == {_KEY: "F16"} else np.empty((0, 0), np.float16)
        return read_domain(features, facts.numbers, width=width)
    except (OSError, SafetensorError, DataError) as error:
        raise CheckpointError(f"{path} cannot be used ({reason_of(error)}): {_AGAIN}") from error
