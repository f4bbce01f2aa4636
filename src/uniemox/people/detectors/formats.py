"""Inputs and outputs of a detector in ONNX, described in YAML (docs/people.md), with ready ones for known families."""

from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import ConfigDict, Field

from uniemox.errors import ConfigError
from uniemox.files.yaml_file import read_mapping
from uniemox.validation import validate
from uniemox.wording import shorten

Fit = Literal["stretch", "letterbox", "corner"]
_Corner = Literal["x0", "y0", "x1", "y1"]
_Centre = Literal["cx", "cy", "w", "h"]
Column = Literal[_Corner, _Centre, "score", "scores", "objectness", "class", "batch", "_"]
"""Words for the numbers of a candidate."""
CORNERS: Final = get_args(_Corner)
CENTRE: Final = get_args(_Centre)
_READY: Final = resources.files("uniemox.people.detectors").joinpath("formats")
_Number = Annotated[float, Field(gt=-1e9, lt=1e9)]
_Deviation = Annotated[float, Field(gt=0, lt=1e9)]
_Side = Annotated[int, Field(ge=1, le=4096)]
_Stride = Annotated[int, Field(ge=1, le=1024)]
_STRICT: Final = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True)
class Input:
    """How an image becomes the input."""

    __pydantic_config__ = _STRICT

    layout: Literal["nchw", "nhwc"] = "nchw"
    colours: Literal["rgb", "bgr"] = "rgb"
    range: tuple[_Number, _Number] = (0.0, 1.0)  # What black and white become
    mean: tuple[_Number, _Number, _Number] = (0.0, 0.0, 0.0)  # Subtracted then
    deviation: tuple[_Deviation, _Deviation, _Deviation] = (1.0, 1.0, 1.0)  # Divided by then
    size: tuple[_Side, _Side] | None = None  # Width and height; needed if the model leaves them open
    fit: Fit = "stretch"  # letterbox and corner keep the aspect, in the middle or at the left and top
    fill: Annotated[int, Field(ge=0, le=255)] = 114  # Grey of the rest
    name: str | None = None  # Name of the input; null takes the only one, besides `picture_size`
    picture_size: str | None = None  # A second input, which takes width and height of the image


@dataclass(frozen=True, kw_only=True)
class Output:
    """One output tensor."""

    __pydantic_config__ = _STRICT

    columns: Annotated[tuple[Column, ...], Field(min_length=1)]  # Numbers of a candidate; `scores` is one a class
    name: str | None = None  # Name of the output; null takes the only one
    transposed: bool = False  # Whether the columns come before the candidates
    activation: Literal["none", "sigmoid", "softmax"] = "none"  # What turns scores into probabilities


@dataclass(frozen=True, kw_only=True)
class Format:
    """Input and outputs of a detector."""

    __pydantic_config__ = _STRICT

    input: Input
    outputs: Annotated[tuple[Output, ...], Field(min_length=1)]
    name: str = ""  # What messages and manifests call it
    unit: Literal["input", "share", "picture"] = "input"
    """Whether boxes are in pixels of the input, shares of it from 0 to 1, or pixels of the image."""
    strides: Annotated[tuple[_Stride, ...], Field(min_length=1)] | None = None
    """Pixels of a cell in each of the grids whose cells candidates are, if centres are still offsets in their cell and
    sides logarithms, both in cells; None if the graph has made boxes of them."""
    person: Annotated[int, Field(ge=0, le=100_000)] = 0  # Number of the class
    duplicates: bool = True  # Whether the boxes of a person may still be several

    @property
    def columns(self) -> tuple[str, ...]:
        """The words of all outputs."""
        return tuple(column for output in self.outputs for column in output.columns)

    @property
    def is_by_centre(self) -> bool:
        """Whether boxes are centre, width and height."""
        return "cx" in self.columns


def format_names() -> tuple[str, ...]:
    """Names of the ready formats."""
    return tuple(sorted(file.name.removesuffix(".yaml") for file in _READY.iterdir() if file.name.endswith(".yaml")))


def load_format(name: str) -> Format:
    """Read a ready format, or a file.

    Args:
        name: One of `format_names()`, or the path of a YAML file.

    Raises:
        ConfigError: There is none of that name, or a value in it is invalid.
    """
    if name in format_names():
        return parse_format(read_mapping(_READY.joinpath(f"{name}.yaml"), source=f"format {name}"), name)
    if Path(name).suffix not in (".yaml", ".yml"):
        raise ConfigError(
            f"unknown format {shorten(name)}; known are {', '.join(format_names())}, or give a .yaml file"
        )
    return parse_format(read_mapping(Path(name), source=name), name)


def parse_format(tree: dict[Any, Any], name: str) -> Format:
    """Check the values of a file; a `ConfigError` names what is invalid and what it must be."""
    if "name" in tree:
        raise ConfigError(f"{name}: unknown setting name; a format is called like its file")
    tree = tree if tree.get("input", {}) is not None else {**tree, "input": {}}
    made = validate(Format, tree, source=name)
    wanted = _explain_columns(made)
    if wanted:
        raise ConfigError(f"{name}: columns are {shorten(', '.join(made.columns))}, but must {wanted}")
    if made.strides is not None and not (made.is_by_centre and made.unit == "input"):
        raise ConfigError(f"{name}: strides go with the columns cx, cy, w, h and unit: input")
    return replace(made, name=Path(name).stem)


def _explain_columns(made: Format) -> str:
    """Return what the columns must be if they cannot be understood, else nothing."""
    columns = made.columns
    named = [column for column in columns if column != "_"]
    if len(named) > len(set(named)):
        return "name each number once"
    corners, centre = (set(words) & set(columns) for words in (CORNERS, CENTRE))
    if (len(corners), len(centre)) not in ((4, 0), (0, 4)):
        return "have x0, y0, x1, y1 or cx, cy, w, h"
    if ("score" in columns) == ("scores" in columns):
        return "have either score, or scores of every class"
    if any("scores" in output.columns[:-1] for output in made.outputs):
        return "have scores last"
    return ""
