from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from pydantic import ConfigDict, Field

from uniemox.errors import ConfigError
from uniemox.validation import validate


@dataclass(frozen=True, kw_only=True)
class Inner:
    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    sides: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Outer:
    __pydantic_config__ = ConfigDict(extra="forbid")

    kind: Literal["a", "b"]
    inner: Inner
    many: tuple[Inner, ...] = ()
    name: str = ""
    flag: bool = False


GOOD = {"kind": "a", "inner": {}}


def test_plain_values_become_a_dataclass_and_lists_tuples():
    tree = {"kind": "b", "inner": {"share": 1, "sides": [3, 4]}, "many": [{}, {"share": 0.25}]}
    made = validate(Outer, tree, source="x")
    assert made == Outer(kind="b", inner=Inner(share=1.0, sides=(3, 4)), many=(Inner(), Inner(share=0.25)))
    assert type(made.inner.share) is float


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"kind": "c"}, "kind is c, but must be one of a or b"),
        ({"kind": None}, "kind is null, but must be one of a or b"),
        ({"nmae": "c"}, "unknown setting nmae; did you mean name?"),
        ({1: "c"}, "unknown setting 1"),
        ({"inner": {"shar": 1}}, "unknown setting shar; did you mean share?"),
        ({"inner": 3}, "inner is 3, but must be a mapping"),
        ({"inner": {"share": 1.5}}, "inner.share is 1.5, but must be less than or equal to 1"),
        ({"inner": {"share": "1"}}, "inner.share is 1, but must be a number"),
        ({"inner": {"share": True}}, "inner.share is True, but must be a number"),
        ({"inner": {"share": float("inf")}}, "inner.share is inf, but must be a finite number"),
        ({"inner": {"share": float("nan")}}, "inner.share is nan, but must be"),
        ({"inner": {"sides": [1, 2, 3]}}, "inner.sides is [1, 2, 3], but must be a shorter list"),
        ({"inner": {"sides": [1, 2.5]}}, "inner.sides.1 is 2.5, but must be a whole number"),
        ({"inner": {"sides": "ab"}}, "inner.sides is ab, but must be a list"),
        ({"many": [{}, {"share": -1}]}, "many.1.share is -1, but must be greater than or equal"),
        ({"name": 3}, "name is 3, but must be text"),
        ({"flag": 1}, "flag is 1, but must be true or false"),
        ({"flag": "x" * 9999}, "flag is "),
    ],
    ids=str,
)
def test_the_first_wrong_value_is_named_in_one_short_line(change, complaint):
    with pytest.raises(ConfigError) as caught:
        validate(Outer, GOOD | change, source="file.yaml")
    message = str(caught.value)
    assert message.startswith(f"file.yaml: {complaint}")
    assert "\n" not in message
    assert len(message) < 200


@pytest.mark.parametrize("tree", [[], 3, None, "text"])
def test_what_is_no_mapping_is_refused(tree):
    with pytest.raises(ConfigError, match=r"^x: the whole is .*, but must be a mapping"):
        validate(Outer, tree, source="x")


def test_what_is_missing_is_named():
    with pytest.raises(ConfigError, match=r"^x: kind must be given$"):
        validate(Outer, {"inner": {}}, source="x")
