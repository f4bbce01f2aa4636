import inspect

import pytest

from uniemox import errors

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and value is not errors.Interrupted]


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_every_error_descends_from_one_base(error):
    assert issubclass(error, errors.UniEmoXError)
    assert issubclass(error, Exception)


def test_the_errors_do_not_descend_from_each_other():
    leaves = [error for error in CLASSES if error is not errors.UniEmoXError]
    assert all(error.__bases__ == (errors.UniEmoXError,) for error in leaves)


def test_the_tree_drawn_in_the_docstring_has_every_error():
    ours, _ = errors.__doc__.split("KeyboardInterrupt")
    drawn = [line for line in ours.splitlines() if line.startswith(("├", "└"))]
    assert [line.split()[1] for line in drawn] == [
        error.__name__ for error in CLASSES if error is not errors.UniEmoXError
    ]


def test_an_interruption_is_one_of_the_keyboard_with_the_number_of_its_signal():
    """So that code which leaves Ctrl-C alone leaves other signals alone, too."""
    assert issubclass(errors.Interrupted, KeyboardInterrupt)
    assert not issubclass(errors.Interrupted, Exception)
    assert errors.Interrupted(15).signum == 15


def test_an_error_is_its_message():
    assert str(errors.DataError("no image in x")) == "no image in x"
