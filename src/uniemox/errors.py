"""The errors a user can meet, and what readers raise on damaged files.

UniEmoXError
├── ConfigError       a setting, a flag or a preset is invalid
├── DataError         an image, a table or a folder is invalid
├── CheckpointError   a model folder or a saved state is invalid
└── TrainingError     a run cannot continue

Each message names what was invalid, where, and what to do. The command line prints it in one line and exits with 1
(2 for a `ConfigError`).

KeyboardInterrupt
└── Interrupted       a signal stopped what was running, once it was saved; exit code 128 + the signal's number
"""

import signal
import struct
from typing import Final

DAMAGED: Final = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(AssertionError, RuntimeError, MemoryError, struct.error),
)
"""What readers written in Python raise on files that were cut off, spoilt or forged: nearly everything, as reading
Pillow, zipfile, pickletools and torch and fuzzing them showed. So only the reading itself is put inside the `try`."""


class UniEmoXError(Exception):
    """Base of every error that is meant for the user."""


class ConfigError(UniEmoXError):
    """A setting is unknown, of an invalid type or out of range."""


class DataError(UniEmoXError):
    """An image, a table or a folder cannot be used as asked."""


class CheckpointError(UniEmoXError):
    """A model folder or a saved state cannot be read, written or matched."""


class TrainingError(UniEmoXError):
    """A run stopped because its results would be invalid, for example on a loss that is not finite."""


class Interrupted(KeyboardInterrupt):
    """A signal asked to stop, and everything worth keeping is saved.

    Args:
        signum: Number of the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def exit_code(stop: KeyboardInterrupt) -> int:
    """Return what a shell expects of a process that a signal ended: 128 + its number, 130 for Ctrl-C."""
    return 128 + (stop.signum if isinstance(stop, Interrupted) else signal.SIGINT)
