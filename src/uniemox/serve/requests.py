"""From the body of a request to the images and options in it: raw bytes, a form of files, or JSON."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Final

from annotated_types import Len
from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from uniemox.config.explain import Method
from uniemox.files.images import Unreadable
from uniemox.wording import one_line, printable

if TYPE_CHECKING:
    from uniemox.manifests.table import Box

FORMS: Final = ("multipart/form-data", "application/json", "application/octet-stream", "image/*")
_FIELD: Final = "files"  # Of a form that holds images
_MAX_FIELDS: Final = 16  # Of a form beside its images
_LONGEST_NAME: Final = 200

_MOST: Final = 256  # Images in a request, whatever the settings, and people in an image
_People = Annotated[list[tuple[float, float, float, float]], Len(0, _MOST)]


def _tag(boxes: Any) -> str:
    """Tell boxes of one image from lists of them, so that an error is about what was meant."""
    first = boxes[0] if isinstance(boxes, list) and boxes else None
    is_of_one = isinstance(first, list) and first and not isinstance(first[0], list)
    return "of one image" if is_of_one else "of each image"


_Boxes = Annotated[
    Annotated[list[_People], Len(0, _MOST), Tag("of each image")] | Annotated[_People, Tag("of one image")],
    Discriminator(_tag),
]


def _take_either(schema: dict[str, Any]) -> None:
    """Describe boxes by `anyOf`: an empty list is of both kinds, and pydantic writes `oneOf`."""
    boxes = schema["properties"]["boxes"]["anyOf"][0]
    boxes["anyOf"] = boxes.pop("oneOf")


class Options(BaseModel):
    """What a request may ask beside its images; in a form or after the address, lists are written in JSON."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, json_schema_extra=_take_either)

    boxes: Annotated[_Boxes | None, Field(examples=[[[[12, 30, 80, 160]]]])] = Field(
        None, description="People in each image as (x0, y0, x1, y1) in pixels of the upright image"
    )
    detect: bool = Field(False, description="Find the people by the service's detector, if it has one")
    emotion: Annotated[str | None, Len(0, 200)] = Field(None, description="Emotion to explain, if not the predicted")
    method: Method = Field("auto", description="How the map of an explanation is made")


class JsonImage(BaseModel):
    """An image in JSON: its bytes in base64, or where to fetch it."""

    model_config = ConfigDict(extra="forbid")

    base64: str | None = None
    url: str | None = None
    name: str | None = None


class JsonBody(Options):
    """A request in JSON."""

    images: Annotated[list[str | JsonImage], Len(1, _MOST)] = Field(description="Each in base64, or an object")


@dataclass(frozen=True)
class Given:
    """An image of a request."""

    name: str | None
    content: bytes | Unreadable | None  # Of its file; None where it must be fetched
    url: str | None = None


@dataclass(frozen=True)
class Asked:
    """What a request asks for."""

    images: Sequence[Given]
    options: Options

    def boxes(self) -> list[list[Box]] | None:
        """Return the people of each image, or raise 422 for boxes that are none; None where none are given."""
        given = self.options.boxes
        if given is None:
            return None
        is_of_one = not given or isinstance(given[0], tuple)
        people: Any = [given] if is_of_one else given
        if len(people) != len(self.images):
            raise HTTPException(422, f"boxes has {len(people)} lists for {len(self.images)} images: give one for each")
        from uniemox.people.boxes import to_box  # brings Arrow

        found = [[to_box(corners) for corners in boxes] for boxes in people]
        if any(box is None for boxes in found for box in boxes):
            raise HTTPException(422, "boxes holds an invalid one: give x0 < x1 and y0 < y1 in pixels of the image")
        return [[box for box in boxes if box is not None] for boxes in found]


def parse(kind: str, body: bytes, query: Mapping[str, str], *, max_images: int) -> Asked:
    """Read the body of a request.

    Args:
        kind: Its media type, from the header Content-Type.
        body: Its bytes.
        query: What follows the address; options of a body that is an image alone.
        max_images: In one request.

    Raises:
        HTTPException: 415 for another media type, 413 for too many images, 422 for what cannot be read.
    """
    media, parameters = parse_options_header(kind)
    match media.decode("latin-1").lower():
        case "multipart/form-data":
            asked = _parse_form(body, parameters.get(b"boundary", b""), max_images)
        case "application/json":
            asked = _parse_json(body)
        case media_type if media_type == "application/octet-stream" or media_type.startswith("image/"):
            asked = Asked([Given(None, body)], _read_options(dict(query)))
        case _:
            raise HTTPException(415, f"send {', '.join(FORMS)}")
    if len(asked.images) > max_images:
        raise HTTPException(413, f"{len(asked.images)} images, over the limit of {max_images}")
    if not asked.images or (len(asked.images) == 1 and asked.images[0].content == b""):
        raise HTTPException(422, f"no image: send its bytes, a form with files in `{_FIELD}`, or JSON with `images`")
    return asked


def _parse_json(body: bytes) -> Asked:
    try:
        read = _adapter(JsonBody).validate_json(body)
    except ValidationError as error:
        raise _refuse(error) from None
    images = [JsonImage(base64=image) if isinstance(image, str) else image for image in read.images]
    return Asked([_from_json(image) for image in images], read)


def _from_json(image: JsonImage) -> Given:
    name = _clean(image.name)
    if (image.base64 is None) == (image.url is None):
        return Given(name, Unreadable("give either base64 or url"))
    if image.base64 is None:
        return Given(name, None, image.url)
    start, comma, rest = image.base64.partition(",")
    text = rest if comma and start.startswith("data:") else image.base64
    try:
        return Given(name, base64.b64decode(text.encode("ascii", "replace"), validate=True))
    except (binascii.Error, ValueError):
        return Given(name, Unreadable("not base64"))


@dataclass
class _Part:
    """A part of a form while it arrives."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    key: bytearray = field(default_factory=bytearray)
    value: bytearray = field(default_factory=bytearray)
    content: bytearray = field(default_factory=bytearray)

    def end_header(self) -> None:
        self.headers[bytes(self.key).lower()] = bytes(self.value)
        self.key.clear()
        self.value.clear()


def _parse_form(body: bytes, boundary: bytes, max_images: int) -> Asked:
    parts: list[_Part] = []
    ended: list[bool] = []

    def begin() -> None:
        if len(parts) >= max_images + _MAX_FIELDS:
            raise HTTPException(413, f"the form has more than {max_images} images and {_MAX_FIELDS} fields")
        parts.append(_Part())

    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": begin,
                "on_header_field": lambda data, start, end: parts[-1].key.extend(data[start:end]),
                "on_header_value": lambda data, start, end: parts[-1].value.extend(data[start:end]),
                "on_header_end": lambda: parts[-1].end_header(),
                "on_part_data": lambda data, start, end: parts[-1].content.extend(data[start:end]),
                "on_end": lambda: ended.append(True),
            },
        )
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise HTTPException(422, f"the form is malformed: {one_line(str(error))[:120]}") from None
    if not ended:
        raise HTTPException(422, "the form is malformed: its last boundary is missing")
    return _read_parts(parts)


def _read_parts(parts: Sequence[_Part]) -> Asked:
    images, fields = [], {}
    for part in parts:
        _, about = parse_options_header(part.headers.get(b"content-disposition", b""))
        key = about.get(b"name", b"").decode("utf-8", "replace")
        if b"filename" in about or key == _FIELD:
            name = about.get(b"filename", b"").decode("utf-8", "replace")
            images.append(Given(_clean(name), bytes(part.content)))
        else:
            fields[key] = part.content.decode("utf-8", "replace")
    return Asked(images, _read_options(fields))


def _read_options(fields: Mapping[str, Any]) -> Options:
    values = dict(fields)
    try:
        if "boxes" in values:
            values["boxes"] = _adapter(list[Any]).validate_json(values["boxes"])
        return Options.model_validate(values)
    except ValidationError as error:
        raise _refuse(error) from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _refuse(error: ValidationError) -> HTTPException:
    """Make 422 of the first error, 413 of too many, in one line that quotes nothing of the request."""
    first = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(map(str, first["loc"]))[:80]
    status = 413 if first["type"] == "too_long" else 422
    return HTTPException(status, printable(one_line(f"{place}: {first['msg']}".removeprefix(": ")))[:300])


def _clean(name: str | None) -> str | None:
    return printable(name)[:_LONGEST_NAME] if name else None
