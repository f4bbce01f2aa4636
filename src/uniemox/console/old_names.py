"""What flags and their values were called before: they work in this release, and a line shows what to type now."""

from typing import Final

from uniemox.settings import RENAMED

_EVERYWHERE: Final = {f"--{old.replace('_', '-')}": f"--{new.replace('_', '-')}" for old, new in RENAMED.items()}
_DETECTOR: Final = {"--weights": "--detector-weights", "--format": "--detector-format"}
_FLAGS: Final[dict[str, dict[str, str]]] = {
    "data prepare": {"--people": "--boxes", "--split": "--ratios"},
    "data split": {"--list": "--split-list"},
    "data merge": {"--classes": "--taxonomy"},
    "data people": _DETECTOR,
    "predict": _DETECTOR,
}
GONE: Final = {("predict", "--people"): "it changes nothing: --detector or --boxes ask for people"}
"""Why to omit a flag of a command."""
VALUES: Final = {("data split", "--group-by", "picture"): "image"}  # Today's value of a flag of a command


def renamed_flags(command: str) -> dict[str, str]:
    """List a command's old flags, each with today's."""
    return _EVERYWHERE | _FLAGS.get(command, {})
