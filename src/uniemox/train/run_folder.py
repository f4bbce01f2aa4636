"""The folder of a run: `config.yaml`, `environment.json`, `metrics.jsonl`, `tensorboard/`, `state/`, `model/`."""

import dataclasses
import json
import os
import platform
import sys
from contextlib import ExitStack
from importlib.metadata import version
from typing import Any

import torch

from uniemox.config.training import FinetuneConfig, PretrainConfig
from uniemox.errors import CheckpointError, ConfigError
from uniemox.files.locking import locked
from uniemox.files.writing import explained
from uniemox.settings import RUN_CONFIG, RUNNING, list_values, load_config, save_config
from uniemox.version import __version__

# What a resumed run may change. Of data and stored views the contents are compared, by the engine's identity.
_FREE = RUNNING | {"data", "stored_views"}
_GROWING = {"max_steps", "optim.epochs", "patience"}  # May grow on resume; the engine compares the resulting steps
# How the rows of a step are shared out, which processes join in; the engine compares the number of rows.
_LAYOUT = {"optim.batch_size", "optim.accumulate"}
_PACKAGES = ("torch", "torchvision", "timm", "open_clip_torch", "accelerate", "numpy", "pillow")
_LOCK = ".lock"


class RunFolder:
    """The folder of one run, which one process at a time may write."""

    def __init__(self, config: PretrainConfig | FinetuneConfig) -> None:
        self.config = config
        self.path = config.out
        self._lock, self._is_taken = ExitStack(), False
        self._has_changed = False

    def check(self) -> None:
        """Check that a new run would have the folder to itself, or that a resumed one continues as it started.

        A new run writes nothing here, so that one that fails before its first step leaves no folder in the way of the
        next. A folder that is not empty or in use, or a setting that differs from the saved one, raises `ConfigError`.
        """
        saved = self.path / RUN_CONFIG
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"out is {self.path}, which is a file: choose a folder")
        if self._is_unused():
            return
        if not saved.is_file():
            raise ConfigError(f"the folder {self.path} is not empty, and holds no run to resume: choose another `out`")
        if not self.config.resume:
            raise ConfigError(f"the folder {self.path} is not empty: choose another `out`, or continue with `resume`")
        self._take()
        now, before = (
            {name: tuple(value) if isinstance(value, list) else value for name, value in list_values(config)}
            for config in (self.config, load_config(type(self.config), saved))
        )
        different = [name for name in now if name not in _FREE and now[name] != before[name]]
        if refused := [name for name in different if name not in _GROWING | _LAYOUT]:
            what = "; ".join(f"`{name}` is {now[name]} and was {before[name]}" for name in refused)
            what = f"`resume` continues with the settings that the run started with, but {what}"
            raise ConfigError(f"{what}: omit what differs, or start a new run")
        self._has_changed = bool(different)

    def open(self) -> None:
        """Check the folder, then make it with the run's settings and surroundings, or write down what has changed."""
        self.check()
        is_new = self._is_unused()
        with explained(self.path, CheckpointError, elsewhere="choose another `out`"):
            self.path.mkdir(parents=True, exist_ok=True)
            self._take()
            if is_new:
                text = json.dumps(describe_environment(), indent=2)
                (self.path / "environment.json").write_text(text, encoding="utf-8")
            if is_new or self._has_changed:  # last and at once, since a folder with settings is a run
                save_config(dataclasses.replace(self.config, resume=False), self.path / RUN_CONFIG)

    def close(self) -> None:
        """Let others write the folder."""
        self._lock.close()

    def _is_unused(self) -> bool:
        """Whether the folder holds nothing but what a run leaves that was killed before it wrote its settings."""
        names = {path.name for path in self.path.iterdir()} if self.path.is_dir() else set()
        left = {name for name in names if name.startswith(f".{RUN_CONFIG}.")} | {_LOCK, "environment.json"}
        return names <= left

    def _take(self) -> None:
        """Lock the folder until `close`, or until this process ends in whatever way."""
        if self._is_taken:
            return
        try:
            self._lock.enter_context(locked(self.path / _LOCK))
        except BlockingIOError as error:
            what = f"another process is running in {self.path} (process {error.strerror})"
            raise ConfigError(f"{what}: wait until it has stopped") from error
        self._is_taken = True


def describe_environment() -> dict[str, Any]:
    """List versions and hardware; no variable of the environment, since those hold secrets."""
    return {
        "uniemox": __version__,
        "python": sys.version.split()[0],
        **{name: version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }
