"""Copy a model folder into the package, in half precision, without what is private to a run.

    python tools/embed_model.py runs/mini/model src/uniemox/demo/assets/uniemox_mini

Reading casts back to fp32; half precision halves the size of the package.
"""

import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

LICENCE = (
    "MIT; follows from images under CC0 and in the public domain and, through the teacher, from "
    "EfficientNet-Lite0 (Apache-2.0)"
)


def embed(source: Path, target: Path) -> None:
    """Copy the folder; floating-point tensors become fp16."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in sorted(source.glob("*.safetensors")):
        weights = {
            name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in load_file(path).items()
        }
        save_file(weights, target / path.name, metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config["uniemox"]["licence"] = LICENCE
    config["pretrained_cfg"]["license"] = "mit"
    config["torch_dtype"] = "float32"  # else transformers would compute in fp16, and fail under bf16
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for path in target.iterdir():
        path.chmod(0o644)


if __name__ == "__main__":
    embed(Path(sys.argv[1]), Path(sys.argv[2]))
