"""`uniemox finetune` as a user types it: in a process of its own, with the recipe, the workers and the device it has.

Other tests switch augmentation and workers off, since they look at something else. Flags here change sizes alone.
"""

import json
import os
import subprocess
import sys

import PIL.ImageOps
import pytest

pytestmark = pytest.mark.slow

SMALL = ("--size", "mini", "--patch-size", "8", "--image-size", "32")
FAULT = """
import PIL.ImageOps

def posterize(image, bits):
    raise ValueError("bits must be odd")

PIL.ImageOps.posterize = posterize
"""


def uniemox(folder, *words, **environment):
    """Run a command in a folder; give its exit code, and what it printed on stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "uniemox", *map(str, words)],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("recipe", "epochs"),
    [
        pytest.param(("--preset", "mae", "--optim.batch-size", "4"), 100, marks=pytest.mark.soak),
        pytest.param(("--optim.batch-size", "8"), 100, marks=pytest.mark.soak),
        # The 600 images of these meet every operation of the augmentation.
        (("--optim.batch-size", "8", "--optim.epochs", "25"), 25),
    ],
    ids=["mae", "no preset", "no preset, shorter"],
)
def test_a_recipe_trains_to_its_last_epoch(painted, tmp_path, recipe, epochs):
    code, out, err = uniemox(tmp_path, "finetune", "--data", painted.path, "--out", "runs/f", *recipe, *SMALL)
    assert code == 0, err
    assert out.strip() == "runs/f/model"
    assert "Traceback" not in err
    lines = (tmp_path / "runs/f/metrics.jsonl").read_text().splitlines()
    scored = [line["epoch"] for line in map(json.loads, lines) if line["kind"] == "val"]
    assert scored == list(range(1, epochs + 1))
    assert json.loads((tmp_path / "runs/f/test/report.json").read_text())["num_samples"] == 7


LAST = "the augmentation (rand-m9-mstd0.5-inc1, PosterizeIncreasing) failed: bits must be odd"


def check_line(err, painted):
    last = err.splitlines()[-1]
    assert last.startswith(f"uniemox: error: {painted.root}/train/")
    assert LAST in last
    assert last.endswith("--augment.rand-augment null trains without RandAugment")
    assert "Traceback" not in err


def test_a_library_that_no_longer_does_what_it_did_is_one_line(painted, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(FAULT)
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    typed = ("finetune", "--data", painted.path, "--out", "runs/f", "--optim.batch-size", "8")
    code, out, err = uniemox(tmp_path, *typed, *SMALL, PYTHONPATH=path)
    assert (code, out) == (1, "")
    check_line(err, painted)


@pytest.mark.parametrize("workers", [(), ("--workers", "0")], ids=["default workers", "none"])
def test_where_a_library_failed_is_told_to_those_who_ask(run, painted, tmp_path, monkeypatch, workers):
    def posterize(image, bits):
        raise ValueError("bits must be odd")

    monkeypatch.setattr(PIL.ImageOps, "posterize", posterize)
    typed = ("finetune", "--data", painted.path, "--optim.batch-size", "8", *SMALL, *workers)
    code, out, err = run(*typed, "--out", tmp_path / "f")
    assert (code, out) == (1, "")
    check_line(err, painted)
    code, out, again = run(*typed, "--out", tmp_path / "g", "--debug")
    assert (code, out) == (1, "")
    assert "ValueError: bits must be odd" in again
    assert __file__ in again
