"""What `torchrun`, which starts several processes, says in the environment of each. Brings no torch."""

import hashlib
import os
import time
from pathlib import Path

from uniemox.errors import ConfigError

_PATIENCE = 2.0  # Seconds that another process leaves to the first one of its machine to report the same error


def num_processes() -> int:
    """Count the processes of this run by WORLD_SIZE (1 without); `ConfigError` if it is not a whole number from 1."""
    return _count("WORLD_SIZE")


def num_local_processes() -> int:
    """Count those of them on this machine: LOCAL_WORLD_SIZE, else as `num_processes`."""
    return _count("LOCAL_WORLD_SIZE")


def _count(name: str) -> int:
    text = os.environ.get(name, "1")
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ConfigError(
            f"the variable {name} is {text[:40]!r}, but must be a whole number from 1: unset it, or start with torchrun"
        )
    return int(text)


def check_alone(command: str) -> None:
    """Refuse, by a `ConfigError`, to do in several processes of torchrun what one process does."""
    # WORLD_SIZE alone does not count: a cluster may set it for its whole job.
    if "LOCAL_RANK" in os.environ and num_processes() > 1:
        raise ConfigError(
            f"{command} runs in one process, and torchrun started {num_processes()}: start it without torchrun"
        )


def is_first_to_report(text: str) -> bool:
    """Whether an error is this process's to report, since all processes may have met the same one.

    torchrun names a file for the error of each process, all of one machine in one folder: whoever leaves a mark for the
    text there first reports it. Without such a folder, each process reports.
    """
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not file or os.environ.get("WORLD_SIZE", "1") == "1":
        return True
    mark = Path(file).parents[1] / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.reported"
    if os.environ.get("LOCAL_RANK", "0") != "0":  # a line of rank 0 is the plainer one
        deadline = time.monotonic() + _PATIENCE
        while not mark.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    try:
        mark.open("x").close()
    except FileExistsError:
        return False
    except OSError:  # better twice than never
        pass
    return True
