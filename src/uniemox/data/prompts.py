"""From the attributes of an image to the sentence that the teacher reads.

The seven parts are those of the released code (official datasets code, 2024), joined by a blank; a part without its
attribute is omitted. Two things differ from it: names of objects are never split at blanks ("Alarm clock" is one
subject), and where only one of brightness and colourfulness is known the sentence stays a sentence:

- both: "The image has a brightness of 0.3 and color saturation of 0.7."
- brightness alone: "The image has a brightness of 0.3."
- colourfulness alone: "The image has a color saturation of 0.7."
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uniemox.manifests.table import Attributes


def describe(attributes: Attributes, emotion: str | None, *, max_objects: int | None = None) -> str:
    """Describe an image in words.

    Args:
        attributes: What is known about the image.
        emotion: Name of its emotion, or None for a description that is free of labels.
        max_objects: Maximum of objects that are named, from the first; 0 omits their sentence. None names all.

    Returns:
        The sentences of the attributes that are known, the emotion last; empty where nothing at all is known.
    """
    objects = attributes.objects[:max_objects]
    light = {"brightness": attributes.brightness, "color saturation": attributes.colorfulness}
    # One decimal, EmoSet's own step: finer values would only multiply the distinct texts to encode.
    known = " and ".join(f"{name} of {value:.1f}" for name, value in light.items() if value is not None)
    *others, last = objects or ("",)
    subjects = f"{', '.join(others)} and {last}" if others else last
    sentences = [
        f"The scene type of this photo is {attributes.scene}." if attributes.scene else "",
        f"The main subjects are {subjects}." if objects else "",
        f"The image has a {known}." if known else "",
        f"Human facial expression is {attributes.facial_expression}." if attributes.facial_expression else "",
        f"The action being performed is {attributes.human_action}." if attributes.human_action else "",
        f"The overall emotion conveyed is {emotion}." if emotion else "",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def fit_description(attributes: Attributes, emotion: str | None, fits: Callable[[str], bool]) -> str:
    """Describe an image in no more words than the teacher can read.

    Objects are dropped first, from the last one; then whole sentences, in the order of how little they reveal about
    emotion: brightness and colourfulness, scene, action, expression. The emotion's sentence always stays.

    Args:
        attributes: What is known about the image.
        emotion: Name of its emotion, or None.
        fits: Whether a text is within the teacher's context. A text that fits must fit with one object fewer, too.

    Returns:
        The longest description that fits; the emotion's sentence alone (or nothing) if not even that does.
    """
    whole = describe(attributes, emotion)
    if fits(whole):
        return whole
    # The smallest number of objects that is too many; a binary search, since tokenising is what costs.
    too_many = bisect_left(
        range(len(attributes.objects)),
        True,
        key=lambda count: not fits(describe(attributes, emotion, max_objects=count)),
    )
    if too_many > 0:
        return describe(attributes, emotion, max_objects=too_many - 1)
    rest = replace(attributes, objects=())
    for names in (("brightness", "colorfulness"), ("scene",), ("human_action",), ("facial_expression",)):
        absent: dict[str, Any] = dict.fromkeys(names)
        rest = replace(rest, **absent)
        text = describe(rest, emotion)
        if fits(text):
            break
    return text
