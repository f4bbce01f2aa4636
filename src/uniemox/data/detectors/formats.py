"""What goes into an ONNX detector and what comes out, said in YAML; ready ones for the families that are about.

See docs/people.md for the words.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, get_args

from uniemox.errors import ConfigError
from uniemox.flags import nearest, shorten
from uniemox.yaml_file import read_mapping

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.resources.abc import Traversable

Layout = Literal["nchw", "nhwc"]
Colours = Literal["rgb", "bgr"]
Fit = Literal["stretch", "letterbox", "corner"]
Unit = Literal["input", "share", "picture"]
Activation = Literal["none", "sigmoid", "softmax"]

_CORNERS: Final = ("x0", "y0", "x1", "y1")
_CENTRE: Final = ("cx", "cy", "w", "h")
COLUMNS: Final = (*_CORNERS, *_CENTRE, "score", "scores", "objectness", "class", "batch", "_")
"""Words for the numbers of a candidate."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """How a picture becomes the input."""

    layout: Layout = "nchw"
    colours: Colours = "rgb"
    range: tuple[float, float] = (0.0, 1.0)
    """What black and white become."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Subtracted after that."""
    deviation: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Divided by after that."""
    size: tuple[int, int] | None = None
    """Width and height; needed where the model leaves them open."""
    fit: Fit = "stretch"
    """stretch to the size; or keep the aspect, in the middle (letterbox) or at the left and top (corner)."""
    fill: int = 114
    """Grey of what is then left."""
    name: str | None = None
    """Name of the input; null takes the only one, besides `picture_size`."""
    picture_size: str | None = None
    """A second input, which takes width and height of the picture."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """One tensor that comes out."""

    columns: tuple[str, ...]
    """What the numbers of a candidate are; `scores` stands for one of each class."""
    name: str | None = None
    """Name of the output; null takes the only one."""
    transposed: bool = False
    """Whether the columns come before the candidates."""
    activation: Activation = "none"
    """What turns scores into probabilities."""

    @property
    def has_all_scores(self) -> bool:
        """Whether it gives a score of every class."""
        return "scores" in self.columns

    @property
    def scores(self) -> slice | None:
        """Which numbers of a candidate are scores; None where none is."""
        if self.has_all_scores:
            return slice(self.columns.index("scores"), None)
        if "score" not in self.columns:
            return None
        place = self.columns.index("score")
        return slice(place, place + 1)


@dataclass(frozen=True, kw_only=True)
class Format:
    """Input and outputs of a detector."""

    name: str
    """What messages and manifests call it."""
    input: Input
    outputs: tuple[Output, ...]
    unit: Unit = "input"
    """Whether boxes are in pixels of the input, shares of it from 0 to 1, or pixels of the picture."""
    strides: tuple[int, ...] | None = None
    """Pixels of a cell in each of the grids whose cells candidates are, if centres are still offsets in their cell and
    sides logarithms, both in cells; None if the graph has made boxes of them."""
    person: int = 0
    """Number of the class."""
    duplicates: bool = True
    """Whether boxes of the same person are still among what comes out."""

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
    return tuple(sorted(name.removesuffix(".yaml") for name in _ready()))


def load_format(name: str) -> Format:
    """Read a ready format, or a file.

    Args:
        name: One of `format_names()`, or the path of a YAML file.

    Raises:
        ConfigError: There is none of that name, or something in it is wrong.
    """
    ready = _ready().get(f"{name}.yaml")
    if ready is not None:
        return parse_format(read_mapping(ready, source=f"format {name}"), name)
    if Path(name).suffix not in (".yaml", ".yml"):
        raise ConfigError(
            f"there is no format {shorten(name)}; known are {', '.join(format_names())}, or give a .yaml file"
        )
    return parse_format(read_mapping(Path(name), source=name), name)


def _ready() -> dict[str, Traversable]:
    folder = resources.files("uniemox.data.detectors").joinpath("formats")
    return {file.name: file for file in folder.iterdir() if file.name.endswith(".yaml")}


def parse_format(tree: dict[Any, Any], name: str) -> Format:
    """Check the values of a file.

    Raises:
        ConfigError: Names what is wrong and what it must be.
    """
    read = _Reader(name)
    values = read.known(tree, Format, needed=("input", "outputs"))
    outputs = values.pop("outputs")
    if not isinstance(outputs, list) or not outputs:
        raise read.error("outputs", outputs, "a list of tensors, each with its columns")
    made = Format(
        name=Path(name).stem,
        input=read.values(values.pop("input"), Input, "input."),
        outputs=tuple(read.values(o, Output, "outputs: ", needed=("columns",)) for o in outputs),
        **{key: read.value(Format, key, value, "") for key, value in values.items()},
    )
    _check_columns(read, made)
    if made.strides is not None and not (made.is_by_centre and made.unit == "input"):
        raise read.error("strides", list(made.strides), "with cx, cy, w, h and unit: input")
    return made


def _check_columns(read: _Reader, made: Format) -> None:
    columns = made.columns
    for column in columns:
        if column not in COLUMNS:
            raise read.error("columns", column, f"of {', '.join(COLUMNS)}")
        if column != "_" and columns.count(column) > 1:
            raise read.error("columns", ", ".join(columns), f"words of which {column} comes once")
    boxes = [set(words) <= set(columns) for words in (_CORNERS, _CENTRE)]
    strangers = (set(_CENTRE) if boxes[0] else set(_CORNERS)) & set(columns)
    if not any(boxes) or strangers:
        raise read.error("columns", ", ".join(columns), "with x0, y0, x1, y1 or with cx, cy, w, h")
    if ("score" in columns) == ("scores" in columns):
        raise read.error(
            "columns", ", ".join(columns), "with score, or with scores of every class, and not both"
        )
    for output in made.outputs:
        if "scores" in output.columns[:-1]:
            raise read.error("columns", ", ".join(output.columns), "such that scores come last")


Made = TypeVar("Made", Input, Output)


class _Reader:
    """Checks values against the fields of a dataclass."""

    def __init__(self, source: str) -> None:
        self.source = source

    def error(self, name: str, value: object, wanted: str) -> ConfigError:
        return ConfigError(f"{self.source}: {name} is {shorten(value)}, but must be {wanted}")

    def known(self, tree: object, kind: type[Any], *, needed: Sequence[str]) -> dict[str, Any]:
        names = [
            field.name for field in fields(kind) if not (kind is Format and field.name == "name")
        ]
        if not isinstance(tree, dict):
            raise ConfigError(
                f"{self.source}: {shorten(tree)} must be a mapping of {', '.join(names)}"
            )
        for name in tree:
            if name not in names:
                raise ConfigError(
                    f"{self.source}: there is no setting {shorten(name)}{nearest(str(name), names)}"
                )
        for name in needed:
            if name not in tree:
                raise ConfigError(f"{self.source}: {name} must be given; see docs/people.md")
        return dict(tree)

    def values(
        self, tree: object, kind: type[Made], where: str, *, needed: Sequence[str] = ()
    ) -> Made:
        given = self.known({} if tree is None else tree, kind, needed=needed)
        return kind(**{name: self.value(kind, name, value, where) for name, value in given.items()})

    def value(self, kind: type[Any], name: str, value: Any, where: str) -> Any:
        wanted, convert = _VALUES[name]
        try:
            return convert(value)
        except (TypeError, ValueError):
            raise self.error(f"{where}{name}", value, wanted) from None


def _numbers(count: int) -> Any:
    def convert(value: Any) -> tuple[float, ...]:
        numbers = tuple(map(_number, value))
        if len(numbers) != count:
            raise ValueError
        return numbers

    return f"{count} numbers in brackets", convert


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
        raise TypeError
    return float(value)


def _deviation(value: Any) -> tuple[float, ...]:
    numbers: tuple[float, ...] = _numbers(3)[1](value)
    if min(numbers) <= 0:
        raise ValueError
    return numbers


def _whole(low: int, high: int) -> Any:
    def convert(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise TypeError
        return value

    return f"a whole number from {low} to {high}", convert


def _sides(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    width, height = map(_whole(1, 4096)[1], value)
    return width, height


def _strides(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value:
        raise TypeError
    return tuple(map(_whole(1, 1024)[1], value))


def _word(kind: Any) -> Any:
    words = get_args(kind)

    def convert(value: Any) -> Any:
        if value not in words:
            raise ValueError
        return value

    return f"one of {', '.join(words)}", convert


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise TypeError
    return tuple(value)


# What each value must be, in words, and what makes it so.
_VALUES: Final[dict[str, Any]] = {
    "layout": _word(Layout),
    "colours": _word(Colours),
    "range": _numbers(2),
    "mean": _numbers(3),
    "deviation": ("3 positive numbers in brackets", _deviation),
    "size": ("width and height in brackets, from 1 to 4096, or null", _sides),
    "fit": _word(Fit),
    "fill": _whole(0, 255),
    "name": ("the name of a tensor, or null", _text),
    "picture_size": ("the name of an input, or null", _text),
    "columns": ("a list of words", _texts),
    "transposed": ("true or false", _switch),
    "activation": _word(Activation),
    "unit": _word(Unit),
    "strides": ("a list of whole numbers from 1 to 1024, or null", _strides),
    "person": _whole(0, 100_000),
    "duplicates": ("true or false", _switch),
}
