"""Everything that needs a GPU, in one command of some minutes: steps of training, prediction, and the tests marked gpu.

    python benchmarks/gpu.py [--out DIR]

Writes `results/steps_cuda.{json,md}` and `results/prediction_cuda.{json,md}`, copies them to DIR, and exits with the
code of the tests.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import prediction
import steps
import torch
from ladder import RESULTS

BATCH, ROUNDS = 64, 10


def main() -> int:
    """Measure, then test."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="folder to copy the results to")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("torch finds no GPU here", file=sys.stderr)
        return 1
    began = time.monotonic()
    device = torch.device("cuda")
    print(steps.measure(device, BATCH, ROUNDS))
    print(prediction.measure(device))
    print(f"measured in {time.monotonic() - began:.0f} s")
    tests = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rs", str(Path(__file__).parents[1] / "tests")]
    code = subprocess.run(tests, env=os.environ | {"HF_HUB_OFFLINE": "1"}, check=False).returncode
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        for file in RESULTS.glob("*_cuda.*"):
            shutil.copy(file, given.out)
    print(f"{time.monotonic() - began:.0f} s in all")
    return code


if __name__ == "__main__":
    sys.exit(main())
