"""The folder of a CLIP in open_clip's layout, which a stranger may have made: what open_clip may see of it.

Its configuration is checked before anything is built. A tower or a tokenizer that would be looked up elsewhere, on the
hub or in another folder, is refused: nothing that is local reaches for the network.
"""

import json
import math
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from uniemox.config.checks import MAX_DEPTH, MAX_GRID, MAX_HEADS, MAX_PATCH, MAX_SIDE
from uniemox.errors import CheckpointError
from uniemox.files.json_file import read_json
from uniemox.wording import shorten

CONFIG_FILE: Final = "open_clip_config.json"
WEIGHT_FILES: Final = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_MOST: Final = {
    "layers": MAX_DEPTH,
    "image_size": MAX_SIDE,
    "patch_size": MAX_PATCH,
    "heads": MAX_HEADS,
    "attn_pooler_heads": MAX_HEADS,
    "context_length": 4096,
}
"""Largest values of what is built before the file of weights shows that it is too much, by the last part of a name."""
_LARGEST: Final = 2**21  # Of all other numbers; the largest vocabulary of open_clip has 901,629 words
_LONGEST: Final = 64  # Of lists and tables
_DEEPEST: Final = 4
_TOKENIZER: Final = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model")  # One of these is the vocabulary
_BESIDE_TOKENIZER: Final = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
_LARGEST_TOKENIZER: Final = 64 * 2**20  # bytes; Gemma's has 34 MB
_TOKENIZER_ARGUMENTS: Final = {"clean", "strip_sep_token"}  # The others download, read files or are no plain values


def read_clip_config(folder: Path, *, is_built: bool = True) -> dict[str, Any]:
    """Read `model_cfg` and `preprocess_cfg`, or raise `CheckpointError` for what is no configuration of open_clip.

    `is_built` says that the model is built of it, so that what it names must be in the folder.
    """
    path = folder / CONFIG_FILE
    facts = read_json(path)
    model = facts.get("model_cfg")
    if not isinstance(model, dict):
        raise CheckpointError(f"{path} has no `model_cfg`: it is no configuration of open_clip")
    for part in ("vision_cfg", "text_cfg"):
        if not isinstance(model.get(part, {}), dict):
            raise CheckpointError(f"{path}: model_cfg.{part} must be a table")
    _check_value(model, "model_cfg", path)
    vision = model.get("vision_cfg", {})
    side, patch = vision.get("image_size", 224), vision.get("patch_size", 16)
    if isinstance(side, int) and isinstance(patch, int) and side > MAX_GRID * patch:
        raise CheckpointError(f"{path}: vision_cfg.image_size {side} is more than {MAX_GRID} times patch_size {patch}")
    if is_built:
        _check_names(model, folder, path)
    preprocess = facts.get("preprocess_cfg", {})
    for name, above in (("mean", -math.inf), ("std", 0)):
        values = preprocess.get(name, [1.0] * 3) if isinstance(preprocess, dict) else None
        numbers = values if isinstance(values, list) and len(values) == 3 else [None]
        if not all(isinstance(number, int | float) and above < number < math.inf for number in numbers):
            wanted = "three numbers" + (" greater than 0" if name == "std" else "")
            raise CheckpointError(f"{path}: preprocess_cfg.{name} must be {wanted}")
    return {"model_cfg": model, "preprocess_cfg": preprocess}


@contextmanager
def shown_to_open_clip(folder: Path, facts: Mapping[str, Any]) -> Iterator[str]:
    """Give open_clip's name of a folder that holds what was checked and no more: open_clip opens all that it finds."""
    with tempfile.TemporaryDirectory(prefix="uniemox-") as place:
        Path(place, CONFIG_FILE).write_text(json.dumps(facts), encoding="utf-8")
        if facts["model_cfg"].get("text_cfg", {}).get("hf_tokenizer_name"):
            for name in (*_TOKENIZER, *_BESIDE_TOKENIZER):
                if (folder / name).is_file():
                    shutil.copyfile(folder / name, Path(place, name))
        yield f"local-dir:{place}"


def _check_value(value: object, name: str, path: Path, depth: int = 0) -> None:
    """Refuse numbers, lists and tables that no model has, at any depth."""
    if isinstance(value, dict | list):
        if len(value) > _LONGEST or depth > _DEEPEST:
            raise CheckpointError(f"{path}: {name} is longer or deeper than any model's: it is refused")
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            _check_value(part, f"{name}.{shorten(key)}" if isinstance(value, dict) else name, path, depth + 1)
        return
    if not isinstance(value, int | float) or isinstance(value, bool):
        return
    most = _MOST.get(name.rpartition(".")[2])
    fits = isinstance(value, int) and 1 <= value <= most if most else abs(value) <= _LARGEST  # false for NaN
    if not fits:
        wanted = f"a whole number from 1 to {most}" if most else f"a number up to {_LARGEST}"
        raise CheckpointError(f"{path}: {name} is {shorten(value)}, but must be {wanted}")


def _check_names(model: Mapping[str, Any], folder: Path, path: Path) -> None:
    """Refuse what would be looked up outside of the folder."""
    vision, text = model.get("vision_cfg", {}), model.get("text_cfg", {})
    if name := text.get("hf_model_name"):
        step = "give its architecture as `teacher.model` and a tag as `teacher.pretrained`, which may use the hub"
        raise CheckpointError(f"{path}: text_cfg.hf_model_name {shorten(name)} is looked up on the hub: {step}")
    name = vision.get("timm_model_name") or "none"
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
        step = "give the name of an architecture of timm alone"
        raise CheckpointError(f"{path}: vision_cfg.timm_model_name {shorten(name)} is looked up elsewhere: {step}")
    arguments = text.get("tokenizer_kwargs") or {}
    if not isinstance(arguments, dict) or not arguments.keys() <= _TOKENIZER_ARGUMENTS:
        known = " and ".join(sorted(_TOKENIZER_ARGUMENTS))
        raise CheckpointError(f"{path}: text_cfg.tokenizer_kwargs may hold {known} alone: remove the others")
    if name := text.get("hf_tokenizer_name"):
        _check_tokenizer(folder, f"{path}: text_cfg.hf_tokenizer_name {shorten(name)}")


def _check_tokenizer(folder: Path, named: str) -> None:
    if not any((folder / name).is_file() for name in _TOKENIZER):
        step = f"put its files into the folder, {' or '.join(_TOKENIZER)}"
        raise CheckpointError(f"{named} is not in the folder, and the hub is not asked: {step}")
    for path in (folder / name for name in (*_TOKENIZER, *_BESIDE_TOKENIZER)):
        if path.exists() and (not path.is_file() or path.stat().st_size > _LARGEST_TOKENIZER):
            raise CheckpointError(f"{path} is no regular file of up to {_LARGEST_TOKENIZER} bytes: it is refused")
    config = folder / "tokenizer_config.json"
    if config.exists() and "auto_map" in read_json(config):
        raise CheckpointError(f"{config} asks for code of its own (auto_map), which is not run: remove that")
