"""Why a model answers so: where in the image, and whether by the people or by the scene. Brings no torch by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from uniemox.config.explain import Method
from uniemox.errors import ConfigError, DataError
from uniemox.files.images import Unreadable, adopt_image
from uniemox.inference.effects import NOT_ASKED, UNLISTED, Effect, agree, list_hidden, make_variants
from uniemox.inference.effects import Explanation as Explanation
from uniemox.inference.maps import make_map
from uniemox.inference.opening import Named, list_inputs, open_image
from uniemox.inference.predictor import MOST_PEOPLE, Predictor, list_below
from uniemox.people.hiding import WAYS
from uniemox.targets.columns import Column
from uniemox.wording import nearest, shorten

if TYPE_CHECKING:
    from uniemox.inference.opening import Input
    from uniemox.inference.predictor import People
    from uniemox.manifests.table import Box

COLUMNS: Final = (
    *(Column("path", "text"), Column("row", "whole"), Column("time", "number"), Column("hidden", "text")),
    *(Column(name, "number") for name in ("x0", "y0", "x1", "y1")),
    *(Column("emotion", "text"), Column("is_explained", "flag"), Column("number", "number")),
    *(Column(way, "number") for way in WAYS),
    *(Column("agrees", "flag"), Column("sentence", "text"), Column("reason", "text")),
)
"""Of a table of explanations; `blur` and the other ways are changes of the number."""


@dataclass(frozen=True)
class EffectRow:
    """A row of a table of explanations: what hiding one part of an image does to one emotion."""

    values: Mapping[str, Any]

    def cells(self) -> dict[str, Any]:
        """Return the values by column."""
        return dict(self.values)

    to_dict = cells


def list_rows(explanation: Explanation) -> Iterator[EffectRow]:
    """List the rows of a table with `COLUMNS`: one for each part and emotion, or one that has the reason for none."""
    one = explanation
    path = None if one.path is None else str(one.path)
    start = {"path": path, "row": one.row, "time": one.time, "sentence": one.sentence, "reason": one.reason}
    blank = dict.fromkeys(column.name for column in COLUMNS) | start
    if not one.effects:
        yield EffectRow(blank | {"emotion": one.emotion or None, "number": one.numbers.get(one.emotion)})
    boxes = {f"person {place}": box for place, box in enumerate(one.people)}
    for name, number in one.numbers.items():
        for hidden, changes in one.changes(name).items():
            box = boxes.get(hidden)
            place = {} if box is None else {"x0": box.x0, "y0": box.y0, "x1": box.x1, "y1": box.y1}
            found = {"emotion": name, "is_explained": name == one.emotion, "number": number, "hidden": hidden}
            yield EffectRow(blank | place | found | changes | {"agrees": agree(changes.values())})


def explain(
    predictor: Predictor,
    inputs: Input | Iterable[Input],
    *,
    people: People | None = None,
    method: Method = "auto",
    emotion: str | None = None,
    with_map: bool = True,
) -> Iterator[Explanation]:
    """Explain the answers to images, in their order, as `explain_image` does; one that cannot be read has a reason.

    Args:
        predictor: As `explain_image` takes it.
        inputs: Images as `Predictor.predict` takes them.
        people: Boxes of the people in each file by its path, or a detector that finds them; None asks about nobody.
        method: As `explain_image` takes it.
        emotion: As `explain_image` takes it.
        with_map: As `explain_image` takes it.

    Raises:
        ConfigError: As `explain_image`; where an image has no reason instead.
    """
    place = place_of(predictor, emotion)
    reader = predictor.reader(people)
    for source in chain.from_iterable(map(list_below, list_inputs(inputs))):
        path, image = open_image(source, 0)
        blank = Explanation(path=path)
        if isinstance(source, Named):
            blank = replace(blank, time=source.time, row=source.row)
        if isinstance(image, Unreadable):
            yield replace(blank, reason=image.reason)
            continue
        is_listed = not isinstance(reader.people, dict) or path in reader.people
        blank = blank if is_listed else replace(blank, reason=UNLISTED)
        boxes = reader.find_people(path, image) if people is not None and is_listed else None
        if boxes is not None and len(boxes) > MOST_PEOPLE:
            yield replace(blank, reason=f"{len(boxes)} people are more than {MOST_PEOPLE}")
        else:
            yield _explain(predictor, image, boxes, place, method if with_map else None, blank)


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
    return _explain(predictor, upright, boxes, place, method if with_map else None, Explanation())


def place_of(predictor: Predictor, emotion: str | None) -> int | None:
    """Find an emotion among a model's, or raise `ConfigError`; None stays."""
    known = predictor.target.classes
    if emotion is None:
        return None
    if emotion not in known:
        raise ConfigError(
            f"emotion is {shorten(emotion)}, but the model knows {', '.join(known)}{nearest(emotion, known)}"
        )
    return known.index(emotion)


def _explain(
    predictor: Predictor,
    image: Image.Image,
    boxes: Sequence[Box] | None,
    place: int | None,
    method: Method | None,
    blank: Explanation,
) -> Explanation:
    views = predictor.facts.views
    box = _choose(predictor, image, boxes or ())
    pixels = views.of(image, box)
    assert pixels is not None
    logits = predictor.logits([pixels])
    before = predictor.target.numbers(logits)[0]
    place = predictor.target.foremost(before) if place is None else place
    names = predictor.target.classes
    explanation = replace(
        blank,
        answer=predictor.target.answers(logits)[0],
        emotion=names[place],
        numbers=dict(zip(names, before.tolist(), strict=True)),
        people=tuple(boxes or ()),
        box=box,
        image=image,
    )
    if method is not None:
        heat, used = make_map(predictor, image, box, place, method)
        explanation = replace(explanation, map=heat, method=used)
    hidden = blank.reason or NOT_ASKED if boxes is None else list_hidden(image, boxes)
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
