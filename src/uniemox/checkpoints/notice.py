"""The notice that answers about people's feelings carry, wherever they are shown or stored. Does not import torch."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from uniemox.checkpoints.facts import ModelFacts

log = logging.getLogger(__name__)
_LAW: Final = (
    "Inferring the emotions of people at work or in education is prohibited in the European Union except for medical "
    "or safety reasons: Article 5(1)(f) of the AI Act, Regulation (EU) 2024/1689."
)


def use_notice(facts: ModelFacts) -> str | None:
    """Return what the user of a model must know of the law, in one line of two sentences.

    None for a model of what viewers feel, and for one of which nothing is recorded, unless it reads a person's crop.
    """
    if facts.emotion == "felt":
        return f"This model says what a depicted person seems to feel. {_LAW}"
    if facts.emotion is None and facts.view != "scene":
        return f"This model reads a person, and whose emotion it names is not recorded. {_LAW}"
    return None


def announce(facts: ModelFacts) -> None:
    """Log the notice of a model that is about to answer; a command shows it once, whatever it loads."""
    if notice := use_notice(facts):
        log.info("%s", notice)
