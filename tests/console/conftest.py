import io

import pytest
from rich.console import Console


@pytest.fixture
def console():
    """A console that is no terminal; `text_of` reads it."""
    return Console(file=io.StringIO(), width=200, highlight=False, markup=False, emoji=False)


@pytest.fixture
def text_of():
    return lambda console: console.file.getvalue()
