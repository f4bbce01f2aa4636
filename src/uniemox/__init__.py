"""The emotion of images: pretraining, fine-tuning, evaluation and prediction with UniEmoX.

The names below are loaded when they are first used, so `import uniemox` is fast and brings no torch. The function
`evaluate` is not among them, because its module has that name: `from uniemox.evaluate import evaluate`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from uniemox.version import __version__

if TYPE_CHECKING:
    from uniemox.checkpoints.sources import load_model, load_pretraining
    from uniemox.config import (
        AugmentConfig,
        FinetuneConfig,
        LossConfig,
        ModelConfig,
        OptimConfig,
        PersonConfig,
        PretrainConfig,
        TeacherConfig,
        ViewsConfig,
    )
    from uniemox.data.layouts import import_dataset
    from uniemox.data.manifest import Box, Manifest, read_manifest, write_manifest
    from uniemox.errors import CheckpointError, ConfigError, DataError, TrainingError, UniEmoXError
    from uniemox.predict import Prediction, Predictor
    from uniemox.settings import load_config, save_config
    from uniemox.train.run import finetune, pretrain

__all__ = [
    "AugmentConfig",
    "Box",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "FinetuneConfig",
    "LossConfig",
    "Manifest",
    "ModelConfig",
    "OptimConfig",
    "PersonConfig",
    "Prediction",
    "Predictor",
    "PretrainConfig",
    "TeacherConfig",
    "TrainingError",
    "UniEmoXError",
    "ViewsConfig",
    "__version__",
    "finetune",
    "import_dataset",
    "load_config",
    "load_model",
    "load_pretraining",
    "pretrain",
    "read_manifest",
    "save_config",
    "write_manifest",
]

_CONFIG, _ERRORS, _MANIFEST = "uniemox.config", "uniemox.errors", "uniemox.data.manifest"
_HOMES = {
    "AugmentConfig": _CONFIG,
    "Box": _MANIFEST,
    "CheckpointError": _ERRORS,
    "ConfigError": _ERRORS,
    "DataError": _ERRORS,
    "FinetuneConfig": _CONFIG,
    "LossConfig": _CONFIG,
    "Manifest": _MANIFEST,
    "ModelConfig": _CONFIG,
    "OptimConfig": _CONFIG,
    "PersonConfig": _CONFIG,
    "Prediction": "uniemox.predict",
    "Predictor": "uniemox.predict",
    "PretrainConfig": _CONFIG,
    "TeacherConfig": _CONFIG,
    "TrainingError": _ERRORS,
    "UniEmoXError": _ERRORS,
    "ViewsConfig": _CONFIG,
    "finetune": "uniemox.train.run",
    "import_dataset": "uniemox.data.layouts",
    "load_config": "uniemox.settings",
    "load_model": "uniemox.checkpoints.sources",
    "load_pretraining": "uniemox.checkpoints.sources",
    "pretrain": "uniemox.train.run",
    "read_manifest": _MANIFEST,
    "save_config": "uniemox.settings",
    "write_manifest": _MANIFEST,
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
