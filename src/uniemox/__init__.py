"""The emotion of images: pretraining, fine-tuning, evaluation, prediction and explanation with UniEmoX.

The names below are loaded when they are first used, so `import uniemox` is fast and brings no torch.
"""

import importlib
from typing import TYPE_CHECKING

from uniemox.version import __version__ as __version__

if TYPE_CHECKING:
    from uniemox.checkpoints.load import load_model as load_model
    from uniemox.checkpoints.load import load_pretraining as load_pretraining
    from uniemox.config.people import PersonConfig as PersonConfig
    from uniemox.config.probe import ProbeConfig as ProbeConfig
    from uniemox.config.reinforce import ReinforceConfig as ReinforceConfig
    from uniemox.config.training import AugmentConfig as AugmentConfig
    from uniemox.config.training import ConfidenceConfig as ConfidenceConfig
    from uniemox.config.training import FinetuneConfig as FinetuneConfig
    from uniemox.config.training import LossConfig as LossConfig
    from uniemox.config.training import ModelConfig as ModelConfig
    from uniemox.config.training import OptimConfig as OptimConfig
    from uniemox.config.training import PretrainConfig as PretrainConfig
    from uniemox.config.training import TeacherConfig as TeacherConfig
    from uniemox.config.training import ViewsConfig as ViewsConfig
    from uniemox.config.zero_shot import ZeroShotConfig as ZeroShotConfig
    from uniemox.errors import CheckpointError as CheckpointError
    from uniemox.errors import ConfigError as ConfigError
    from uniemox.errors import DataError as DataError
    from uniemox.errors import TrainingError as TrainingError
    from uniemox.errors import UniEmoXError as UniEmoXError
    from uniemox.importers.importing import import_dataset as import_dataset
    from uniemox.inference.compare import Comparison as Comparison
    from uniemox.inference.compare import compare as compare
    from uniemox.inference.evaluate import evaluate as evaluate
    from uniemox.inference.explain import Explanation as Explanation
    from uniemox.inference.explain import explain as explain
    from uniemox.inference.explain import explain_image as explain_image
    from uniemox.inference.predictor import Prediction as Prediction
    from uniemox.inference.predictor import Predictor as Predictor
    from uniemox.manifests.table import Box as Box
    from uniemox.manifests.table import Manifest as Manifest
    from uniemox.manifests.table import read_manifest as read_manifest
    from uniemox.manifests.table import write_manifest as write_manifest
    from uniemox.settings import load_config as load_config
    from uniemox.settings import save_config as save_config
    from uniemox.train.finetune import finetune as finetune
    from uniemox.train.pretrain import pretrain as pretrain
    from uniemox.train.probe import probe as probe
    from uniemox.train.reinforce import reinforce as reinforce

_MODULES = {
    "checkpoints.load": "load_model load_pretraining",
    "config.people": "PersonConfig",
    "config.probe": "ProbeConfig",
    "config.reinforce": "ReinforceConfig",
    "config.training": "AugmentConfig ConfidenceConfig FinetuneConfig LossConfig ModelConfig OptimConfig "
    "PretrainConfig TeacherConfig ViewsConfig",
    "config.zero_shot": "ZeroShotConfig",
    "errors": "CheckpointError ConfigError DataError TrainingError UniEmoXError",
    "importers.importing": "import_dataset",
    "inference.compare": "Comparison compare",
    "inference.evaluate": "evaluate",
    "inference.explain": "Explanation explain explain_image",
    "inference.predictor": "Prediction Predictor",
    "manifests.table": "Box Manifest read_manifest write_manifest",
    "settings": "load_config save_config",
    "train.finetune": "finetune",
    "train.pretrain": "pretrain",
    "train.probe": "probe",
    "train.reinforce": "reinforce",
}
_HOMES = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names.split()}
__all__ = sorted(["__version__", *_HOMES])


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
