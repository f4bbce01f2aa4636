"""What a model's name means, resolved once for everything after. Does not import torch."""

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from uniemox.checkpoints.facts import SECTION, member, read_config
from uniemox.checkpoints.hub import HUB_PREFIX, fetch
from uniemox.config.clip_name import FORMS, is_clip_name, teacher_of
from uniemox.errors import CheckpointError
from uniemox.files.json_file import read_json
from uniemox.files.whole import OLD_SUFFIX
from uniemox.wording import one_line

ONNX_NAME: Final = "model.onnx"  # The model of an exported folder
_STORY: Final = "probe.json"  # What a probe tells of itself, in its folder
_LONGEST_WHY: Final = 200  # Characters of it that an error repeats
_ASSETS: Final = Path(__file__).parents[1] / "demo" / "assets"
EMBEDDED: Final = {"demo": _ASSETS / "classifier", "demo-pretrained": _ASSETS / "uniemox_mini"}
"""Folders of the models that come with the package, by name."""


@dataclass(frozen=True)
class Opened:
    """What a name means."""

    name: str  # As the user gave it
    role: Literal["folder", "export", "foreign", "clip"]  # foreign: a file or folder of other software
    path: Path  # The folder; of an export, its ONNX file; of others, the file or the folder; none of a CLIP


def open_model(model: str | Path | Opened) -> Opened:
    """Find out what a user means by a model.

    Args:
        model: A model folder; the folder of a run, for the model in it; an export, or its ONNX file; a file of weights
            or a folder that others wrote; the name of an embedded model (`demo` is a classifier, `demo-pretrained`
            UniEmoX-mini); a name on the hub, `hf-hub:org/name` with an optional `@revision`, which is downloaded
            where it is not in the cache; or the name of a CLIP, such as `clip:ARCH/TAG` (`teacher_of` has its forms),
            which is not loaded yet. What is open already is returned as it is.

    Raises:
        CheckpointError: Nothing has that name, or a run has not finished.
    """
    if isinstance(model, Opened):
        return model
    name = str(model)
    if is_clip_name(name):
        teacher_of(name)  # refuses what is no such name
        return Opened(name, "clip", Path())
    place = fetch(name) if name.startswith(HUB_PREFIX) else EMBEDDED.get(name) or Path(name)
    if not place.exists():
        _refuse_half_replaced(place)
        raise CheckpointError(
            f"no model folder at {place}: give the folder of a run or of a model, a file of weights, a name on "
            f"the hub ({HUB_PREFIX}org/name), a CLIP's ({FORMS}), or an embedded model's ({', '.join(EMBEDDED)})"
        )
    place = model_folder(place)
    if not place.is_dir():
        return Opened(name, "export" if place.suffix.lower() == ".onnx" else "foreign", place)
    onnx = member(place, ONNX_NAME)
    if onnx.is_file():
        return Opened(name, "export", onnx)
    return Opened(name, "folder" if SECTION in read_config(place) else "foreign", place)


def open_weights(model: str | Path | Opened) -> Opened:
    """Open a model as `open_model` does, but refuse an export or a CLIP, which can only predict and be evaluated."""
    opened = open_model(model)
    if opened.role == "clip":
        step = "it predicts and is evaluated as it is, and a model is distilled from it by `uniemox pretrain`"
        raise CheckpointError(f"{opened.name} is a CLIP, which is no model of ours: {step}")
    if opened.role == "export":
        raise CheckpointError(f"{opened.name} is an export without weights for torch: give the folder it was made from")
    return opened


def model_folder(place: Path) -> Path:
    """Return the model in the folder of a run, or raise `CheckpointError` before it has one; else the path itself."""
    if not (place / "config.yaml").is_file() or (place / "config.json").exists():
        return place
    model = place / "model"
    if not model.is_dir():
        _refuse_half_replaced(model)
        _refuse_probe(place)
        raise CheckpointError(f"{place} is a run that has not finished, so it has no model yet: resume it")
    return model


def _refuse_probe(place: Path) -> None:
    """Refuse the folder of a probe that left no model, and say why it left none."""
    story = place / _STORY
    if story.is_file():
        why = one_line(str(read_json(story).get("no_model") or "its folder `model` was taken away"))[:_LONGEST_WHY]
        step = f"{_STORY} and `test` hold what it found; features of the backbone are no model by themselves"
        raise CheckpointError(f"{place} is a probe that left no model, since {why}: {step}")


def _refuse_half_replaced(place: Path) -> None:
    """Refuse a folder that a run was replacing when it was killed between two renames, and name what it left.

    The former has a hidden name then; the new one, which is whole by that time, has the same without its suffix.
    """
    former = sorted(place.parent.glob(f".{glob.escape(place.name)}.*{OLD_SUFFIX}"))
    if not former:
        return
    old, new = former[-1], former[-1].with_suffix("")
    left, which = f"the former as {old}", "it"
    if new.is_dir():
        left, which = f"the new one as {new} and {left}", "the one you want"
    step = f"rename {which} to {place.name}"
    raise CheckpointError(f"no model folder at {place}, but a run that was killed left {left}: {step}")
