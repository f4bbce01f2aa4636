"""The folder of a run: `config.yaml`, `environment.json`, `metrics.jsonl`, `tensorboard/`, `state/`, `model/`."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from uniemox.errors import CheckpointError, ConfigError
from uniemox.settings import load_config, save_config
from uniemox.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from uniemox.config import FinetuneConfig, PretrainConfig

# What a resumed run may change: none of it changes what is learned.
_FREE = {"resume", "device", "num_workers", "log_every", "save_every", "data", "out"}
_PACKAGES = ("torch", "torchvision", "timm", "open_clip_torch", "accelerate", "numpy", "pillow")


def check_run_folder(config: PretrainConfig | FinetuneConfig) -> None:
    """Check that a new run would have the folder to itself, or that a resumed one goes on as it began.

    Nothing is written, so that a run that fails before its first step leaves no folder in the way of the next.

    Raises:
        ConfigError: The folder is not empty, there is nothing to resume, or a setting differs from the saved one.
    """
    folder = config.out
    saved = folder / "config.yaml"
    if config.resume:
        if not saved.is_file():
            raise ConfigError(f"there is no run to resume in {folder}: start it without --resume")
        _check_same(config, saved)
        return
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"out is {folder}, which is a file: choose a folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(
            f"the folder {folder} is not empty: choose another --out, or go on with --resume"
        )


def open_run_folder(config: PretrainConfig | FinetuneConfig) -> None:
    """Make the folder of a new run, with its settings and its surroundings; that of a resumed run stays as it is.

    Raises:
        ConfigError: As `check_run_folder`.
        CheckpointError: The folder cannot be written.
    """
    check_run_folder(config)
    if config.resume:
        return
    folder = config.out
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_config(config, folder / "config.yaml")
        text = json.dumps(describe_environment(), indent=2)
        (folder / "environment.json").write_text(text, encoding="utf-8")
    except OSError as error:
        raise CheckpointError(
            f"the folder {folder} cannot be written ({error}): choose another --out"
        ) from error


def describe_environment() -> dict[str, Any]:
    """Tell versions and hardware; no variable of the environment, since those hold secrets."""
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "uniemox": __version__,
        "python": sys.version.split()[0],
        **{name: version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": devices,
    }


def _check_same(config: PretrainConfig | FinetuneConfig, saved: Path) -> None:
    now = _flatten(dataclasses.asdict(config))
    before = _flatten(dataclasses.asdict(load_config(type(config), saved)))
    different = [name for name in now if name not in _FREE and now[name] != before[name]]
    if different:
        name = different[0]
        raise ConfigError(
            f"--resume goes on with the settings the run began with, but {name} is {now[name]} and was {before[name]} "
            f"({len(different)} differ): give `--config {saved}`, or start a new run"
        )


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = tuple(value) if isinstance(value, list) else value
    return flat
