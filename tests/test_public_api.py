import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import uniemox

SOURCE = Path(uniemox.__file__)


def imported_for_type_checkers():
    (block,) = (
        statement
        for statement in ast.parse(SOURCE.read_text()).body
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING"
    )
    return {alias.name: statement.module for statement in block.body for alias in statement.names}


def test_the_public_names_are_sorted_and_distinct():
    assert uniemox.__all__ == sorted(set(uniemox.__all__))


def test_type_checkers_see_the_public_names_from_where_they_are_loaded():
    assert imported_for_type_checkers() == uniemox._HOMES
    assert {*uniemox._HOMES, "__version__"} == set(uniemox.__all__)


def test_dir_shows_the_public_names():
    assert dir(uniemox) == uniemox.__all__


@pytest.mark.parametrize("name", uniemox.__all__)
def test_a_public_name_is_what_its_module_has(name):
    home = importlib.import_module(uniemox._HOMES.get(name, "uniemox.version"))
    assert getattr(uniemox, name) is getattr(home, name)
    assert getattr(uniemox, name) is getattr(uniemox, name)


def test_no_public_name_is_that_of_a_module():
    # Importing such a module would put it in the place of the name.
    modules = {path.stem for path in SOURCE.parent.iterdir()}
    assert not modules & set(uniemox.__all__)


@pytest.mark.parametrize("name", uniemox.__all__)
def test_a_public_name_is_explained(name):
    if name != "__version__":
        assert getattr(uniemox, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'uniemox' has no attribute 'nothing'"):
        uniemox.nothing  # noqa: B018
    with pytest.raises(ImportError):
        from uniemox import nothing  # noqa: F401


def test_the_version_is_one_of_python_packages():
    major, minor, patch = uniemox.__version__.split(".")
    assert major.isdecimal()
    assert minor.isdecimal()
    assert patch[0].isdecimal()


@pytest.mark.parametrize(
    "statement",
    [
        "import uniemox",
        "import uniemox; uniemox.__version__; dir(uniemox)",
        "from uniemox import PretrainConfig, FinetuneConfig, ConfigError, load_config",
    ],
)
def test_importing_the_package_brings_no_torch(statement):
    code = f"import sys; {statement}; print(sorted({{n.split('.')[0] for n in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(SOURCE.parents[1])},
        check=True,
        capture_output=True,
        text=True,
    )
    heavy = {"torch", "torchvision", "timm", "open_clip", "accelerate", "pyarrow", "numpy", "PIL"}
    assert not heavy & set(ast.literal_eval(done.stdout))


def test_the_package_says_that_it_is_typed():
    assert (SOURCE.parent / "py.typed").exists()
