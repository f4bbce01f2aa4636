"""What a pretrained model keeps of its teacher's language: a text feature for every known word for an emotion.

So it can classify without training, and start a classifier, when its teacher's text tower is not at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from uniemox.checkpoints.facts import LanguageFacts, ModelFacts, member
from uniemox.data.class_prompts import all_words, pretraining_prompts
from uniemox.emotions import resolve
from uniemox.errors import CheckpointError
from uniemox.files.weights import as_floats, read_weights

if TYPE_CHECKING:
    from uniemox.models.teacher import Teacher

FILE: Final = "texts.safetensors"
_KEY: Final = "features"


@dataclass(frozen=True, kw_only=True)
class Language:
    """Text features of a teacher."""

    facts: LanguageFacts
    features: Tensor  # (W, E) float32, of length 1, in the order of `facts.words`

    def select(self, classes: Sequence[str]) -> Tensor | None:
        """Return the features of classes (C, E), in any spelling; None if one is not among the words."""
        besides_joy = [word for word in self.facts.words if word != "joy"]  # "happy" would be joy as well as happiness
        words = [resolve(name, self.facts.words) or resolve(name, besides_joy) for name in classes]
        if None in words or len(set(words)) < len(words):
            return None
        return self.features[[self.facts.words.index(word) for word in words if word is not None]]


def learn_language(teacher: Teacher, name: str) -> Language:
    """Compute what is kept of a teacher: the sentence that pretraining says an emotion with, for every known word.

    Args:
        teacher: With its text tower.
        name: By which it is loaded again, such as clip:demo.
    """
    words = all_words()
    facts = LanguageFacts(teacher=name, digest=teacher.digest, scale=teacher.scale, words=words)
    return Language(facts=facts, features=F.normalize(teacher.encode_texts(pretraining_prompts(words))))


def write_language(folder: Path, language: Language) -> None:
    """Write the features into a model folder whose facts have `language.facts`."""
    save_file({_KEY: language.features.contiguous()}, folder / FILE, metadata={"format": "pt"})


def read_language(folder: Path, facts: ModelFacts) -> Language | None:
    """Read what a model folder keeps; None where it keeps nothing.

    Raises `CheckpointError` for a file that is missing, damaged, or not of the facts' words and embedding, and for a
    word whose features have no direction.
    """
    if facts.language is None:
        return None
    path = member(folder, FILE)
    found = as_floats(read_weights(path), path)
    expected = (len(facts.language.words), facts.pretraining.get("embedding_width"))
    features = found.get(_KEY)
    if features is None or tuple(features.shape) != expected:
        shape = None if features is None else tuple(features.shape)
        raise CheckpointError(f"{path} has {_KEY} of {shape}, but must have {expected}: copy the folder whole")
    if not features.norm(dim=1).min() > 0:
        raise CheckpointError(f"{path} has {_KEY} that are nothing but zeros: copy the folder whole, or make it again")
    return Language(facts=facts.language, features=F.normalize(features))
