"""timm is imported without torch's compiler, which works afterwards as if nothing had been done."""

import subprocess
import sys

import pytest


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


LIGHT = "import sys; from uniemox.compute.imports import import_timm; import_timm()\n"


@pytest.mark.slow
def test_the_compiler_is_not_imported_and_works_afterwards():
    code = f"""{LIGHT}
import timm
print("torch._dynamo" in sys.modules, "timm.models.vision_transformer" in sys.modules)
import torch
from torchvision.ops import roi_align
print(roi_align(torch.ones(1, 1, 8, 8), torch.tensor([[0, 0, 0, 4, 4.0]]), 2).sum().item())
print(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item())
print(torch._dynamo.__file__ is not None, torch._dynamo.is_compiling())
"""
    assert run(code) == ["False", "True", "4.0", "2.0", "True", "False"]


@pytest.mark.slow
def test_what_timm_keeps_out_of_the_compiler_stays_out():
    code = f"""{LIGHT}
import torch
from timm.models import naflexvit
seen = []
@naflexvit.disable_compiler
def helper(x):
    seen.append(torch.compiler.is_compiling())
    return x + 1
names = [getattr(naflexvit.NaFlexRopeIterator.__next__, "_torchdynamo_disable", False)]
print(*names)
print(torch.compile(lambda x: helper(x) * 2, backend="eager")(torch.ones(1)).item(), *seen)
"""
    assert run(code) == ["True", "4.0", "False"]


@pytest.mark.slow
def test_where_timm_asks_the_compiler_for_more_it_is_imported_as_usual():
    code = """import sys
from uniemox.compute import imports
before = imports._without_compiler
import contextlib
@contextlib.contextmanager
def less():
    with before():
        del sys.modules["torch._dynamo"].disable
        yield
imports._without_compiler = less
imports.import_timm()
import timm, torch
print("torch._dynamo" in sys.modules, timm.create_model("vit_tiny_patch16_224", num_classes=2).num_classes)
"""
    assert run(code) == ["True", "2"]


def test_a_compiler_that_is_there_stays():
    import torch._dynamo

    from uniemox.compute.imports import import_timm

    before = sys.modules["torch._dynamo"]
    import_timm()
    assert sys.modules["torch._dynamo"] is before is torch._dynamo
