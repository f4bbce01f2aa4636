"""Person or scene? What hiding the people of an image, each of them, or all but them does to a model's answer.

The image is changed before anything is cut from it, so a model of two views sees the change in both: in the scene, and
in the person's crop. The model is a black box. Brings no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from uniemox.people.hiding import WAYS, Mask, Way, hide, mark
from uniemox.targets.columns import Column

if TYPE_CHECKING:
    from uniemox.data.pixels import EvaluationViews
    from uniemox.manifests.table import Box

PEOPLE: Final = "people"
SCENE: Final = "scene"
NOT_ASKED: Final = "people and scene were not compared: no boxes and no detector given"
UNLISTED: Final = "people and scene were not compared: the boxes that are given name no such image"
_NOBODY: Final = "no people in the image"
_NO_SCENE: Final = "the people cover the whole image"
COLUMNS: Final = (Column("hiding_people", "number"), Column("hiding_scene", "number"), Column("hiding_agrees", "flag"))
"""Of a table of predictions that are explained."""
_LEAST: Final = 0.0005  # Change below which a number stays as it is: the third digit


@dataclass(frozen=True)
class Effect:
    """How the numbers behind an answer change where a part of the image is hidden in one way."""

    hidden: str  # `people`, `person 0` and so on, by their place among the boxes, or `scene`
    way: Way
    changes: Mapping[str, float]  # Of each emotion's number, in its units: negative where hiding lowers it


class Hidden(NamedTuple):
    """An image as a model reads it, (V, 3, S, S), and with people and scene hidden in each way; none where none are."""

    before: npt.NDArray[np.float32]
    variants: tuple[npt.NDArray[np.float32], ...]


class Masks(Mapping[str, Mask]):
    """What is hidden by name, (H, W) each, marked when it is asked for: those of a crowd would take gigabytes."""

    def __init__(self, people: Sequence[Box], everyone: Mask, *, each: bool) -> None:
        self._everyone = everyone
        self._people = {f"person {place}": box for place, box in enumerate(people) if each}
        self._names = (PEOPLE, *(name for name in self._people if self[name].any()), SCENE)

    def __getitem__(self, name: str) -> Mask:
        if name in (PEOPLE, SCENE):
            return self._everyone if name == PEOPLE else ~self._everyone
        height, width = self._everyone.shape
        return mark([self._people[name]], width=width, height=height)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def list_hidden(image: Image.Image, people: Sequence[Box], *, each: bool = True) -> Masks | str:
    """Mark what is hidden one after another; or say why nothing can be.

    That is all people, each of several unless that is not asked for, and all but them.
    """
    everyone = mark(people, width=image.width, height=image.height)
    if not everyone.any():
        return _NOBODY
    if everyone.all():
        return _NO_SCENE
    return Masks(people, everyone, each=each and len(people) > 1)


def mask_all(image: Image.Image, people: Sequence[Box]) -> Image.Image | str:
    """Fill all people of an image from what surrounds them; or say why that is impossible."""
    everyone = mark(people, width=image.width, height=image.height)
    if everyone.all():
        return _NO_SCENE
    return hide(image, everyone, "neighbours") if everyone.any() else image


def make_variants(
    views: EvaluationViews, image: Image.Image, box: Box | None, masks: Mapping[str, Mask]
) -> Iterator[npt.NDArray[np.float32]]:
    """Hide each part in every way, and prepare the image, or its person, for the model: (V, 3, S, S) each."""
    for mask in masks.values():
        for way in WAYS:
            pixels = views.of(hide(image, mask, way), box)
            assert pixels is not None  # a box that could be cut before
            yield pixels


def summarize(numbers: npt.NDArray[np.float64] | None, place: int) -> dict[str, Any]:
    """Return the values of `COLUMNS`, from the numbers (7, C) of a `Hidden` image and the place of one of them."""
    if numbers is None:
        return dict.fromkeys(column.name for column in COLUMNS)
    before, *after = numbers[:, place].tolist()
    people, scene = ([number - before for number in part] for part in (after[: len(WAYS)], after[len(WAYS) :]))
    means = (sum(people) / len(people), sum(scene) / len(scene))
    values = (*means, agree(people) and agree(scene))
    return {column.name: value for column, value in zip(COLUMNS, values, strict=True)}


def agree(changes: Iterable[float]) -> bool:
    """Whether changes have the same sign, to the third digit; what stays the same has its own."""
    return len({sign_of(change) for change in changes}) == 1


def sign_of(change: float) -> int:
    """Return −1, 0 or 1; what stays the same to the third digit has 0."""
    return 0 if abs(change) < _LEAST else int(np.sign(change))


def describe(emotion: str, number: float, effects: Iterable[Effect]) -> str:
    """Say in one sentence what hiding the people and the scene does to an emotion's number, and no more than that."""
    parts = []
    for name in (PEOPLE, SCENE):
        changes = {effect.way: effect.changes[emotion] for effect in effects if effect.hidden == name}
        shown = ", ".join(f"{way} {number + change:.3f}" for way, change in changes.items())
        if not agree(changes.values()):
            parts.append(f"the three ways of hiding the {name} disagree ({emotion} {number:.3f}; {shown})")
            continue
        mean = sum(changes.values()) / len(changes)
        verb = {-1: "lowers", 0: "does not change", 1: "raises"}[sign_of(mean)]
        change = f"at {number:.3f}" if sign_of(mean) == 0 else f"from {number:.3f} to {number + mean:.3f}"
        parts.append(f"hiding the {name} {verb} {emotion} {change} ({shown})")
    text = "; ".join(parts)
    return text[:1].upper() + text[1:]


@dataclass(frozen=True)
class Explanation:
    """What an answer to one image depends on, or the reason why there is none."""

    answer: Mapping[str, Any] | None = None  # What the target answers; None for an image that cannot be read
    emotion: str = ""  # That is explained
    numbers: Mapping[str, float] = field(default_factory=dict)  # Behind the answer, of each emotion
    people: Sequence[Box] = ()  # Whose hiding was asked for
    box: Box | None = None  # The person that the model reads; None where it reads the image as a whole
    map: npt.NDArray[np.float64] | None = None
    """(h, w) over the whole image: how much each place speaks for the emotion, or below 0 against it."""
    method: str | None = None  # That made the map
    effects: Sequence[Effect] = ()
    reason: str | None = None  # Why there are no effects, or no answer
    path: Path | None = None
    time: float | None = None  # Of a frame of a video, in seconds from its start
    row: int | None = None  # Of the table that names the image, from 0
    image: Image.Image | None = field(default=None, repr=False, compare=False)  # Upright, for an overlay

    @property
    def agrees(self) -> dict[str, bool]:
        """Whether the three ways of hiding each part move the explained emotion in the same direction."""
        return {name: agree(changes.values()) for name, changes in self.changes(self.emotion).items()}

    def without_image(self) -> Explanation:
        """Return it without the image, which a list of many has no room for."""
        return replace(self, image=None)

    def changes(self, emotion: str) -> dict[str, dict[str, float]]:
        """Return the change of an emotion's number by what is hidden and by the way of hiding it."""
        found: dict[str, dict[str, float]] = {}
        for effect in self.effects:
            found.setdefault(effect.hidden, {})[effect.way] = effect.changes[emotion]
        return found

    @property
    def sentence(self) -> str | None:
        """What hiding people and scene was measured to do; None without effects."""
        return describe(self.emotion, self.numbers[self.emotion], self.effects) if self.effects else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; `map` is divided by its largest absolute value, `map_scale`."""
        scale = None if self.map is None else float(np.abs(self.map).max())
        shown = None if self.map is None else (self.map / (scale or 1.0)).round(4).tolist()
        places = {"time": self.time, "row": self.row}
        return {
            "path": None if self.path is None else str(self.path),
            **{name: place for name, place in places.items() if place is not None},
            **({"predicted": None} if self.answer is None else self.answer),
            "emotion": self.emotion or None,
            "numbers": dict(self.numbers),
            "method": self.method,
            "map": shown,
            "map_scale": scale,
            "people": [asdict(box) for box in self.people],
            "box": None if self.box is None else asdict(self.box),
            "effects": [asdict(effect) for effect in self.effects],
            "agrees": self.agrees,
            "sentence": self.sentence,
            "reason": self.reason,
        }
