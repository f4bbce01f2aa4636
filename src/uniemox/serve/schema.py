"""What the OpenAPI file of a service says of requests and answers, with examples."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from uniemox.serve.requests import JsonBody, Options

_PIXEL: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mO4o6EBAAMQAS0Qc/Z2AAAAAElFTkSuQmCC"
"""A PNG of one pixel."""


class _Open(BaseModel):
    """An answer whose further fields depend on the kind of the model's target."""

    model_config = ConfigDict(extra="allow")


class Row(_Open):
    """The answer to an image or to one of its people."""

    index: int = Field(description="Place of the image in the request, from 0")
    name: str
    predicted: Any = Field(None, description="The emotion; several, or numbers, where that is what the model answers")
    confidence: float | None = Field(None, description="Probability of the likeliest emotion")
    probabilities: dict[str, float] | None = None
    box: dict[str, Any] | None = Field(None, description="The person that is meant; null means the image as a whole")
    reason: str | None = Field(None, description="Why there is no answer")


class Predictions(BaseModel):
    """The answer of /v1/predict."""

    model: str
    notice: str | None = Field(description="What the law says about the use of this model")
    predictions: list[Row]


class Explained(_Open):
    """The answer of /v1/explain."""

    model: str
    notice: str | None
    emotion: str | None = Field(description="That is explained")
    numbers: dict[str, float] = Field(description="Behind the answer, of each emotion")
    map: list[list[float]] | None = Field(description="How much each place speaks for the emotion, from -1 to 1")
    effects: list[dict[str, Any]] = Field(description="Change of each emotion by what is hidden, and how")
    sentence: str | None
    reason: str | None
    overlay: str | None = Field(description="The map over the image: a PNG in base64")


class Labels(_Open):
    """The answer of /v1/labels."""

    model: str
    digest: str
    version: str
    target: str
    classes: list[str]
    emotion: str | None = Field(description="Whether answers name the emotion evoked in viewers, or felt by a person")
    precision: str
    notice: str | None
    caution: str | None = Field(description="What the training data did not teach it, after the words This model")
    limits: dict[str, int]
    detects: bool
    fetches: bool


class Problem(BaseModel):
    """An error in a sentence."""

    detail: str


_PROBLEMS: Final = {
    401: "The key is missing or another",
    408: "The body did not arrive in time",
    413: "Too many bytes or images",
    415: "Another media type than those that are read",
    422: "A request or an image that cannot be read",
    429: "Too many images wait: try again after Retry-After seconds",
    500: "The service failed",
    503: "The model is short of memory: try again after Retry-After seconds",
    504: "Not answered in time",
}


def _responses(answer: type[BaseModel], *problems: int) -> dict[int | str, dict[str, Any]]:
    return {200: {"model": answer}, **{n: {"model": Problem, "description": _PROBLEMS[n]} for n in problems}}


def _body(*, several: bool) -> dict[str, Any]:
    """Describe the body: an image alone, a form of files, or JSON."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    options = Options.model_json_schema()["properties"]
    form = {
        "type": "object",
        "required": ["files"],
        "properties": {
            "files": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1},
            **options,
            "boxes": {"type": "string", "description": f"{options['boxes']['description']}, written in JSON"},
        },
    }
    json_schema = JsonBody.model_json_schema(ref_template="#/components/schemas/{model}")
    image = json_schema.pop("$defs")["JsonImage"]
    json_schema["properties"]["images"]["items"] = {"anyOf": [{"type": "string"}, image]}
    examples = {
        "one": {"summary": "An image in base64", "value": {"images": [_PIXEL]}},
        "named": {"summary": "An image with its name", "value": {"images": [{"base64": _PIXEL, "name": "dot.png"}]}},
    }
    if several:
        examples["several"] = {"summary": "Several images", "value": {"images": [_PIXEL, _PIXEL]}}
    content = {
        "image/*": binary,
        "application/octet-stream": binary,
        "multipart/form-data": {"schema": form},
        "application/json": {"schema": json_schema, "examples": examples},
    }
    return {"requestBody": {"required": True, "content": content}}


_ANSWERING: Final = (401, 408, 413, 415, 422, 429, 500, 503, 504)
PREDICT: Final[dict[str, Any]] = {
    "responses": _responses(Predictions, *_ANSWERING),
    "openapi_extra": _body(several=True),
}
EXPLAIN: Final[dict[str, Any]] = {
    "responses": _responses(Explained, *_ANSWERING),
    "openapi_extra": _body(several=False),
}
LABELS: Final[dict[str, Any]] = {"responses": _responses(Labels, 401)}
