"""The rules of the house that no tool checks: what may import what, where things are, and what nobody may do."""

import ast
import functools
import graphlib
import importlib
import io
import tokenize
from pathlib import Path
from typing import get_args

import pytest

import uniemox
from uniemox.config.probe import ProbeConfig
from uniemox.config.training import FinetuneConfig, PretrainConfig, Target
from uniemox.settings import list_settings

PACKAGE = Path(uniemox.__file__).parent
TESTS = Path(__file__).parent
ROOT = TESTS.parent
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {".".join(file.relative_to(PACKAGE).with_suffix("").parts): file for file in FILES}

# From the bottom up. Rooms of one line do not know each other.
LAYERS = (
    ("errors", "version", "wording"),
    ("emotions", "emotion_words"),
    ("config", "validation"),
    ("files", "losses"),
    ("settings", "compute"),
    ("manifests",),
    ("targets",),
    ("people",),
    ("importers", "audit"),
    ("data", "models"),
    ("checkpoints",),
    ("inference",),
    ("train", "export"),
    ("report",),
    ("demo", "serve"),
    ("console",),
    ("__main__",),
)
KIND_MODULES = {f"targets.{name}" for name in get_args(Target)}
GRAB_BAGS = {"utils", "util", "misc", "common", "helpers", "helper", "tools", "core", "base", "lib"}


def place_of(module):
    """Give the room of a module, and the layer it stands in."""
    room = module.split(".")[0]
    return room, next(layer for layer, rooms in enumerate(LAYERS) if room in rooms)


@functools.cache
def tree_of(module):
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@functools.cache
def nodes_of(module):
    """Give the nodes of a module, which are walked once: most of the rules look at all of them."""
    return tuple(ast.walk(tree_of(module)))


@functools.cache
def calls_in(module):
    """Name what a module calls."""
    return tuple(ast.unparse(node.func) for node in nodes_of(module) if isinstance(node, ast.Call))


@functools.cache
def imports_of(module):
    """Name the modules of the package that one imports, in functions and for types too."""
    found = set()
    for node in nodes_of(module):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports by a relative name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if known(name) else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.removeprefix("uniemox.") for name in found if name.startswith("uniemox.")}


def known(name):
    short = name.removeprefix("uniemox.")
    return short in MODULES or f"{short}.__init__" in MODULES


def packages_imported_by(module):
    for node in nodes_of(module):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


ROOMS = [name for name in MODULES if name != "__init__"]


def test_imports_point_down():
    wrong = []
    for module in ROOMS:
        room, layer = place_of(module)
        for other in imports_of(module):
            other_room, other_layer = place_of(other)
            if other_layer >= layer and other_room != room:
                wrong.append(f"{module} imports {other}")
    assert not wrong, wrong


def test_every_room_of_the_plan_exists():
    rooms = {module.split(".")[0] for module in MODULES} - {"__init__"}
    assert rooms == {room for rooms in LAYERS for room in rooms}


def test_no_imports_go_round_in_a_circle():
    graph = {
        module: {f"{name}.__init__" if f"{name}.__init__" in MODULES else name for name in names}
        for module in MODULES
        if module != "__init__"
        for names in [imports_of(module)]
    }
    graphlib.TopologicalSorter(graph).prepare()


def test_losses_are_used_by_the_tasks_alone():
    users = {module for module in MODULES if "losses" in imports_of(module)}
    assert users <= {"train.tasks"}


def test_nobody_outside_targets_asks_for_a_kind_of_target():
    """A new kind then costs one file of targets; the demonstration alone knows what its own model answers with."""
    kinds = set(get_args(Target)) - {"distribution"}  # which a column of manifests is called too
    asking = []
    for module in ROOMS:
        if place_of(module)[0] not in ("targets", "config"):
            texts = [str(node.value) for node in nodes_of(module) if isinstance(node, ast.Constant)]
            named = {kind for kind in kinds if any(kind in text for text in texts)}
            classes = {name for name in imports_of(module) if name in KIND_MODULES and place_of(module)[0] != "demo"}
            asking += [f"{module}: {name}" for name in named | classes]
    assert not asking, asking


def test_open_clip_is_known_to_the_teacher_alone():
    users = {module for module in MODULES if "open_clip" in packages_imported_by(module)}
    assert users <= {"models.teacher"}


def test_pictures_are_opened_in_one_module():
    users = {
        module
        for module in MODULES
        for node in nodes_of(module)
        if isinstance(node, ast.Attribute) and node.attr == "open" and ast.unparse(node).endswith("Image.open")
    }
    assert users <= {"files.images"}


OPENERS = {
    "onnxruntime.InferenceSession": {"files.onnx"},
    "InferenceSession": {"files.onnx"},
    "torch.load": {"files.weights"},
    "torch.jit.load": set(),
    "load_file": {"files.weights"},
    "safe_open": {
        "checkpoints.card",  # of the folder that it is written into
        "checkpoints.domain",  # without torch, of a file whose size was checked
        "inference.index",  # in blocks, of a file whose header was compared with its table
    },
    "pickle.load": set(),
    "pickle.loads": set(),
    "load_state_dict_from_file": set(),
}
"""What opens a pickle, a safetensors or an ONNX file, and where it may be called: behind the guard."""


@pytest.mark.parametrize("opener", OPENERS)
def test_weights_and_graphs_are_opened_behind_their_guard_alone(opener):
    users = {module for module in MODULES if any(f".{name}".endswith(f".{opener}") for name in calls_in(module))}
    assert users <= OPENERS[opener]


def test_nothing_is_unpickled_with_the_protection_off():
    for module in MODULES:
        for node in nodes_of(module):
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "attr", "") == "load"
                and "torch.load(" in ast.unparse(node)
            ):
                assert "weights_only=True" in ast.unparse(node), module


def test_no_module_is_a_grab_bag():
    grab_bags = [module for module in MODULES if GRAB_BAGS & set(module.split("."))]
    assert not grab_bags, grab_bags


def test_every_module_has_its_twin_among_the_tests():
    alone = []
    for module in ROOMS:
        *folders, name = module.split(".")
        if name not in ("__init__", "__main__", "version") and not TESTS.joinpath(*folders, f"test_{name}.py").exists():
            alone.append(module)
    assert not alone, alone


def test_only_the_command_line_prints():
    assert {module for module in ROOMS if "print" in calls_in(module)} <= {"console.cli"}


def test_no_error_is_swallowed_whole():
    wrong = []
    for module in ROOMS:
        for node in nodes_of(module):
            if isinstance(node, ast.ExceptHandler):
                parts = [] if node.type is None else getattr(node.type, "elts", [node.type])
                if not parts or {ast.unparse(part) for part in parts} & {"Exception", "BaseException"}:
                    wrong.append(f"{module}:{node.lineno}")
    assert not wrong, wrong


def test_every_module_says_what_it_is():
    silent = [module for module in ROOMS if not ast.get_docstring(tree_of(module))]
    assert not silent, silent


def test_a_todo_names_an_issue():
    wrong = []
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        tokens = tokenize.generate_tokens(io.StringIO(text).readline) if "TODO" in text else ()
        wrong += [
            f"{file.relative_to(PACKAGE)}:{token.start[0]}"
            for token in tokens
            if token.type == tokenize.COMMENT and "TODO" in token.string and "#" not in token.string[1:]
        ]
    assert not wrong, wrong


def names_read_by(module):
    for node in nodes_of(module):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value  # getattr(config, name)


@functools.cache
def names_read():
    outside = (module for module in MODULES if not module.startswith(("config.", "settings")))
    return {name for module in outside for name in names_read_by(module)}


def test_every_setting_is_read_somewhere():
    names = {s.name for config in (PretrainConfig, FinetuneConfig, ProbeConfig) for s in list_settings(config)}
    unread = [name for name in sorted(names) if name.rpartition(".")[2] not in names_read()]
    assert not unread, unread


@pytest.mark.parametrize(
    "file", sorted([*ROOT.glob("benchmarks/*.py"), *ROOT.glob("tools/*.py")]), ids=lambda f: f.name
)
def test_what_scripts_import_exists(file):
    """Nothing else runs them between two releases, so a moved name would be missed."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("uniemox"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                found = hasattr(module, alias.name) or known(f"{node.module}.{alias.name}")
                assert found, f"{node.module} has no {alias.name}"
