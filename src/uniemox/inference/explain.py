"""Why a model answers so: where in the image, and whether by the people or by the scene. Brings no torch by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from uniemox.config.explain import Method
from uniemox.errors import ConfigError, DataError
from uniemox.files.images import Unreadable, adopt_image
from uniemox.inference.effects import NOT_ASKED, Effect, agree, describe, list_hidden, make_variants
from uniemox.inference.maps import make_map
from uniemox.inference.overlay import overlay as overlay
from uniemox.inference.predictor import MOST_PEOPLE, Predictor
from uniemox.people.hiding import WAYS
from uniemox.wording import nearest, one_line

if TYPE_CHECKING:
    from uniemox.manifests.table import Box


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

    @property
    def agrees(self) -> dict[str, bool]:
        """Whether the three ways of hiding each part move the explained emotion in the same direction."""
        return {name: agree(changes.values()) for name, changes in self.changes(self.emotion).items()}

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


def explain_image(
    predictor: Predictor,
    image: Image.Image,
    *,
    boxes: Sequence[Box] | None = (),
    method: Method = "auto",
    emotion: str | None = None,
    with_map: bool = True,
) -> Explanation:
    """Explain the answer to one image, as `evaluate` answers it: a model of persons reads the one that it would choose.

    Args:
        predictor: Of any model; maps of `gradcam` and `layercam` need one in torch.
        image: Of Pillow, in any orientation and mode.
        boxes: The people in it, in pixels of the upright image; None if nobody was looked for.
        method: Of the map.
        emotion: That is explained; None for the answered one.
        with_map: Whether to make a map, for which occlusion asks the model up to 50 times.

    Raises:
        ConfigError: The model knows no such emotion, or the method does not fit it or needs a package.
        DataError: The image cannot be read, or shows more than 256 people.
    """
    upright = adopt_image(image)
    if isinstance(upright, Unreadable):
        raise DataError(f"the image cannot be read: {upright.reason}")
    place = place_of(predictor, emotion)
    if boxes is not None and len(boxes) > MOST_PEOPLE:
        raise DataError(f"{len(boxes)} people are more than {MOST_PEOPLE}")
    return _explain(predictor, upright, boxes, place, method if with_map else None)


def place_of(predictor: Predictor, emotion: str | None) -> int | None:
    """Find an emotion among a model's, or raise `ConfigError`; None stays."""
    known = predictor.target.classes
    if emotion is None:
        return None
    if emotion not in known:
        raise ConfigError(
            f"emotion is {one_line(emotion)[:80]}, but the model knows {', '.join(known)}{nearest(emotion, known)}"
        )
    return known.index(emotion)


def _explain(
    predictor: Predictor, image: Image.Image, boxes: Sequence[Box] | None, place: int | None, method: Method | None
) -> Explanation:
    views = predictor.facts.views
    box = _choose(predictor, image, boxes or ())
    pixels = views.of(image, box)
    assert pixels is not None
    logits = predictor.logits([pixels])
    before = predictor.target.numbers(logits)[0]
    place = predictor.target.foremost(before) if place is None else place
    names = predictor.target.classes
    explanation = Explanation(
        answer=predictor.target.answers(logits)[0],
        emotion=names[place],
        numbers=dict(zip(names, before.tolist(), strict=True)),
        people=tuple(boxes or ()),
        box=box,
    )
    if method is not None:
        heat, used = make_map(predictor, image, box, place, method)
        explanation = replace(explanation, map=heat, method=used)
    hidden = NOT_ASKED if boxes is None else list_hidden(image, boxes)
    if isinstance(hidden, str):
        return replace(explanation, reason=hidden)
    variants = [(name, way) for name in hidden for way in WAYS]
    logits = predictor.logits(make_variants(views, image, box, hidden))
    changes = (predictor.target.numbers(logits) - before).tolist()
    effects = [
        Effect(*variant, dict(zip(names, change, strict=True)))
        for variant, change in zip(variants, changes, strict=True)
    ]
    return replace(explanation, effects=effects)


def _choose(predictor: Predictor, image: Image.Image, boxes: Sequence[Box]) -> Box | None:
    """Choose the person that the model reads, clipped to the image; None for a model of scenes, or without people."""
    if predictor.facts.view == "scene" or not boxes:
        return None
    from uniemox.people.regions import choose_box  # brings Arrow

    return choose_box(boxes, predictor.facts.person.choice, width=image.width, height=image.height)
