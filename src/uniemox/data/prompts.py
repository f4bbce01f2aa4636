"""From the attributes of a picture to the sentence that the teacher reads.

The seven parts are those of the released code (official datasets code, 2024), joined by a blank; a part whose attribute
is absent is left out. Two things differ from it: names of objects are never split at blanks ("Alarm clock" is one
subject), and where only one of brightness and colourfulness is known the sentence stays a sentence:

- both: "The image has a brightness of 0.3 and color saturation of 0.7."
- brightness alone: "The image has a brightness of 0.3."
- colourfulness alone: "The image has a color saturation of 0.7."
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from uniemox.data.manifest import Attributes


def describe(attributes: Attributes, emotion: str | None, *, max_objects: int | None = None) -> str:
    """Describe a picture in words.

    Args:
        attributes: What is known about the picture.
        emotion: Name of its emotion, or None for a description that is free of labels.
        max_objects: Most objects that are named, from the first; 0 leaves out their sentence. None names all.

    Returns:
        The sentences whose attributes are known, the emotion last; empty where nothing at all is known.
    """
    objects = attributes.objects[:max_objects]
    sentences = [
        f"The scene type of this photo is {attributes.scene}." if attributes.scene else "",
        f"The main subjects are {_enumerate(objects)}." if objects else "",
        _light(attributes.brightness, attributes.colorfulness),
        f"Human facial expression is {attributes.facial_expression}."
        if attributes.facial_expression
        else "",
        f"The action being performed is {attributes.human_action}."
        if attributes.human_action
        else "",
        f"The overall emotion conveyed is {emotion}." if emotion else "",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def fit_description(
    attributes: Attributes, emotion: str | None, fits: Callable[[str], bool]
) -> str:
    """Describe a picture in no more words than the teacher can read.

    Objects go first, from the last one; then whole sentences, those that say least about emotion before the others:
    brightness and colourfulness, scene, action, expression. The emotion's sentence always stays.

    Args:
        attributes: What is known about the picture.
        emotion: Name of its emotion, or None.
        fits: Whether a text is within the teacher's context. A text that fits must fit with one object fewer, too.

    Returns:
        The longest description that fits; the emotion's sentence alone (or nothing) if not even that does.
    """
    whole = describe(attributes, emotion)
    if fits(whole):
        return whole
    # The smallest number of objects that is too many; a search by halves, since tokenising is what costs.
    too_many = bisect_left(
        range(len(attributes.objects)),
        True,
        key=lambda count: not fits(describe(attributes, emotion, max_objects=count)),
    )
    if too_many > 0:
        return describe(attributes, emotion, max_objects=too_many - 1)
    for rest in _shortened(replace(attributes, objects=())):
        text = describe(rest, emotion)
        if fits(text):
            break
    return text


def _shortened(attributes: Attributes) -> Iterator[Attributes]:
    """Yield the attributes with one sentence fewer each time, down to none."""
    attributes = replace(attributes, brightness=None, colorfulness=None)
    yield attributes
    attributes = replace(attributes, scene=None)
    yield attributes
    attributes = replace(attributes, human_action=None)
    yield attributes
    yield replace(attributes, facial_expression=None)


def _enumerate(names: Sequence[str]) -> str:
    """Join names as English does: "a", "a and b", "a, b and c"."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _light(brightness: float | None, colorfulness: float | None) -> str:
    # One decimal, EmoSet's own step: finer values would only multiply the distinct texts to encode.
    match brightness, colorfulness:
        case None, None:
            return ""
        case None, saturation:
            return f"The image has a color saturation of {saturation:.1f}."
        case light, None:
            return f"The image has a brightness of {light:.1f}."
        case light, saturation:
            return f"The image has a brightness of {light:.1f} and color saturation of {saturation:.1f}."
