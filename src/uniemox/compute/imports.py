"""Imports of others that bring more than prediction uses."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

_COMPILER: Final = "torch._dynamo"
_USED: Final = f"{_COMPILER}.utils"


def import_timm() -> None:
    """Import timm, but not torch's compiler, which timm and torchvision name in passing: a fourth of a start.

    What they ask of it while they are imported is two functions, for which others stand meanwhile; whoever uses the
    compiler afterwards imports it as usual. With versions that ask for more, timm is imported with it.
    """
    if _COMPILER not in sys.modules:
        try:
            with _without_compiler():
                importlib.import_module("timm")
        except (AttributeError, ImportError):
            pass
    importlib.import_module("timm")


@contextmanager
def _without_compiler() -> Iterator[None]:
    compiler, used = ModuleType(_COMPILER), ModuleType(_USED)
    others: dict[str, Any] = {_COMPILER: compiler, _USED: used}
    compiler.__dict__.update(__path__=[], disable=_disable, utils=used)
    used.__dict__.update(is_compile_supported=_is_compile_supported)
    sys.modules.update(others)
    try:
        yield
    finally:
        for name, module in others.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _disable(function: Callable[..., Any] | None = None, recursive: bool = True, **more: Any) -> Any:
    """Mark a function as one that is not compiled, as `torch.compiler.disable` does."""
    if function is None:
        return lambda given: _disable(given, recursive, **more)
    function.__dict__["_torchdynamo_disable"] = True
    return function


def _is_compile_supported(device: str) -> bool:
    return bool(importlib.import_module(_USED).is_compile_supported(device))
