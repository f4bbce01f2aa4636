import pickle
from pathlib import Path

import pytest

from uniemox.data.failures import locating, naming
from uniemox.errors import ConfigError, DataError


def builtin_exceptions():
    """Every exception of Python that a library may raise of its own accord."""
    beyond = (MemoryError, Warning, StopIteration, StopAsyncIteration, EOFError)
    beyond += (ReferenceError, SyntaxError, ExceptionGroup)  # of weak references, parsing, tasks
    for kind in Exception.__subclasses__():
        if kind.__module__ == "builtins" and not issubclass(kind, beyond):
            yield kind


@pytest.mark.parametrize("kind", sorted(builtin_exceptions(), key=str), ids=str)
def test_a_fault_of_a_library_is_one_line_that_names_the_transform_and_keeps_its_cause(kind):
    fault = kind("bits must be 1 to 8\nand more")
    with pytest.raises(DataError) as caught, naming("the blur", advice="see --debug"):
        raise fault
    assert str(caught.value) == (f"the blur failed: bits must be 1 to 8 ({kind.__name__}); see --debug")
    assert caught.value.__cause__ is fault


@pytest.mark.parametrize(
    "error", [MemoryError("x"), KeyboardInterrupt(), SystemExit(3), ConfigError("x"), DataError("x")], ids=repr
)
def test_what_is_no_fault_of_a_transform_passes_as_it_is(error):
    with pytest.raises(type(error)) as caught, naming("the blur"):
        raise error
    assert caught.value is error


def test_a_message_without_end_is_cut():
    with pytest.raises(DataError) as caught, naming("the blur"):
        raise ValueError("x" * 10_000)
    assert len(str(caught.value)) < 500


def test_the_image_comes_first_and_the_cause_stays():
    fault = ValueError("bad")
    with pytest.raises(DataError) as caught, locating(Path("joy/03.png")), naming("the blur"):
        raise fault
    assert str(caught.value).startswith("joy/03.png: the blur failed: bad (ValueError)")
    assert caught.value.__cause__ is fault
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("error", [ConfigError("x"), MemoryError("x"), ValueError("x")], ids=repr)
def test_only_errors_of_data_get_a_place(error):
    with pytest.raises(type(error)) as caught, locating(Path("joy/03.png")):
        raise error
    assert caught.value is error
