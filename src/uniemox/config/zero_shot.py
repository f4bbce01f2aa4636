"""Settings of models that need no training: which classes they tell apart, and in which words."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from uniemox.config.checks import Settings, check
from uniemox.errors import ConfigError

Wording = Literal["auto", "evoked", "felt"]


@dataclass(frozen=True, kw_only=True)
class ZeroShotConfig(Settings):
    """The classes of a model without a head of its own: a CLIP, or a pretrained UniEmoX."""

    classes: Sequence[str] = ()
    """Names of the classes of a zero-shot model, in any words."""
    taxonomy: str | None = None
    """Known list of classes of a zero-shot model, such as mikels, ekman, emotion6 or polarity."""
    wording: Wording = "auto"
    """Whose emotion the prompts of a zero-shot model are about: the viewers' (evoked) or a depicted person's (felt);
    auto takes that of the taxonomy or the data, else evoked."""
    prompts: Path | None = None
    """YAML or JSON file with the prompts of each class, in place of the known ones."""
    teacher: str | None = None
    """CLIP whose text tower reads the classes of a pretrained model, such as clip:demo; null takes what its folder
    keeps, or else the CLIP that it was distilled from."""
    calibrate: Path | None = None
    """Manifest on whose split val the temperature of a zero-shot model is fitted, so that its scores are honest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        both = f"`classes` {', '.join(self.classes)} and `taxonomy` {self.taxonomy}"
        check(not self.classes or self.taxonomy is None, f"{both} both name the classes: choose one")

    @property
    def zero_shot(self) -> "ZeroShotConfig":
        """These settings alone, of a command that has others too."""
        return ZeroShotConfig(**{each.name: getattr(self, each.name) for each in fields(ZeroShotConfig)})

    @property
    def asked(self) -> tuple[str, ...]:
        """Names of the settings of zero-shot models that are not as by default."""
        return tuple(
            each.name for each in fields(ZeroShotConfig) if (getattr(self, each.name) or None) not in (None, "auto")
        )


def refuse_zero_shot(model: str, config: ZeroShotConfig | None) -> None:
    """Raise `ConfigError` where a model with classes of its own is asked for others."""
    if config is not None and config.asked:
        raise ConfigError(f"{model} has classes and a head of its own: omit `{config.asked[0]}`")
