"""The errors a user can meet.

UniEmoXError
├── ConfigError       a setting, a flag or a preset is wrong
├── DataError         a picture, a table or a folder is wrong
├── CheckpointError   a model folder or a saved state is wrong
└── TrainingError     a run cannot go on

Each message says what was wrong, where, and what to do. The command line prints it in one line and exits with 1
(2 for a `ConfigError`).
"""

from __future__ import annotations


class UniEmoXError(Exception):
    """Base of every error that is meant for the user."""


class ConfigError(UniEmoXError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(UniEmoXError):
    """A picture, a table or a folder cannot be used as asked."""


class CheckpointError(UniEmoXError):
    """A model folder or a saved state cannot be read, written or matched."""


class TrainingError(UniEmoXError):
    """A run stopped because going on would be wrong, for example on a loss that is not finite."""
