"""Names of CLIP models, `clip:ARCH/TAG` and the like, as the settings that load them. Does not import torch."""

from pathlib import Path
from typing import Final

from uniemox.config.checks import check
from uniemox.config.training import TeacherConfig
from uniemox.wording import shorten

CLIP_PREFIX: Final = "clip:"
FORMS: Final = "clip:ARCH/TAG, clip:ARCH=FILE, clip:FOLDER or clip:demo"
"""What a name may be: weights that open_clip knows, a file of them, a folder of open_clip's, or the embedded model."""
_EXAMPLE: Final = "clip:ViT-B-16-quickgelu/openai"
_WORDS: Final = {
    "`--teacher.pretrained FILE`": "`clip:ARCH=FILE`",
    "set teacher.model to ": "take the architecture ",
    "set teacher.pretrained to a tag or a weight file": "name a tag or a file",
    "teacher.pretrained is": "its tag is",
    "teacher.model": "its architecture",
    "teacher.pretrained": "its weights",
}


def is_clip_name(name: str) -> bool:
    """Whether a name is meant to be that of a CLIP."""
    return name.startswith(CLIP_PREFIX)


def teacher_of(name: str) -> TeacherConfig:
    """Make the settings that load a CLIP.

    Args:
        name: `clip:ARCH/TAG`, an architecture and a tag that open_clip knows, such as
            `clip:ViT-B-16-quickgelu/openai`; `clip:ARCH=FILE`, the same with a file of weights; `clip:FOLDER`, a
            folder in open_clip's own layout; or `clip:demo`, the embedded model. A folder that exists is taken for
            one; a path that starts with `/`, `~` or a dot is never anything else.

    Raises:
        ConfigError: The name is of none of these forms, or its file or folder does not exist. Whether open_clip knows
            the architecture and the tag, loading them shows.
    """
    check(is_clip_name(name), f"{shorten(name)} is no name of a CLIP: give {FORMS}")
    rest = name.removeprefix(CLIP_PREFIX)
    if rest == "demo":
        return TeacherConfig(model="demo", pretrained=None)
    folder = _path_of(rest)
    if rest and folder.is_dir():
        return TeacherConfig(model=str(folder), pretrained=None)
    is_path = rest.startswith(("/", "~", ".")) and "=" not in rest
    check(not is_path, f"{shorten(name)}: no folder at {shorten(folder)}; a file is clip:ARCH=FILE")
    # An architecture may have a slash, ViT-B/16, and a file many; a tag has none.
    architecture, _, weights = rest.partition("=") if "=" in rest else rest.rpartition("/")
    is_whole = bool(architecture and weights) and not any(letter.isspace() for letter in architecture)
    check(is_whole, f"{shorten(name)} does not name both architecture and weights: give {FORMS}, such as {_EXAMPLE}")
    if "=" not in rest:
        return TeacherConfig(model=architecture, pretrained=weights)
    file = _path_of(weights)
    check(file.is_file(), f"{shorten(name)}: no file at {shorten(file)}")
    return TeacherConfig(model=architecture, pretrained=str(file))


def _path_of(text: str) -> Path:
    """Return the path that a text means, of whatever length; the text itself where no system has such a path."""
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, RuntimeError):  # a name that is too long, the home of nobody
        return Path(shorten(text))
    return path


def title_of(config: TeacherConfig) -> str:
    """What errors and reports call a CLIP: ARCH:TAG, ARCH:FILE or the name of its folder."""
    if config.pretrained is None:
        return Path(config.model).name
    return f"{config.model.replace('/', '-')}:{Path(config.pretrained).name}"


def reword(text: str, config: TeacherConfig | None = None) -> str:
    """Reword an error about the settings of a teacher for somebody who gave a name instead.

    Where those settings are given, the error does not begin with their title: the name will stand before it.
    """
    if config is not None:
        text = text.removeprefix(f"{title_of(config)}: ")
    for theirs, ours in _WORDS.items():
        text = text.replace(theirs, ours)
    return text


def name_of(config: TeacherConfig) -> str:
    """Name a CLIP by the settings that load it, the inverse of `teacher_of` but for the folders of this machine."""
    if config.model == "demo":
        return f"{CLIP_PREFIX}demo"
    if config.pretrained is None:
        return f"{CLIP_PREFIX}{Path(config.model).name}"
    file = Path(config.pretrained)
    is_file = file.suffix != "" or len(file.parts) > 1
    return f"{CLIP_PREFIX}{config.model}{'=' if is_file else '/'}{file.name}"
