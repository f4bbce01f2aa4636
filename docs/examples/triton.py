"""Write what NVIDIA Triton and KServe need to serve an export: a model repository, and an InferenceService.

    python docs/examples/triton.py exported repository --name emotions --storage s3://models/repository

Not run against either. A test parses Triton's file by the fields of its published schema; KServe's file was not checked
against its schema. The server then takes prepared pixels and gives
logits; preparing images, and turning logits into answers, stays with the caller (`facts.views`, `target.answers`).
"""

import argparse
import json
import shutil
from pathlib import Path

import yaml

from uniemox.inference.onnx_file import input_names, read_onnx_file


def write_repository(export: Path, repository: Path, name: str) -> None:
    """Copy the graph of an export into a model repository, with the configuration and the names of the classes."""
    _, facts = read_onnx_file(export / "model.onnx")
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    shutil.copyfile(export / "model.onnx", folder / "1" / "model.onnx")
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in facts.classes), encoding="utf-8")
    side = facts.image_size
    inputs = ",\n".join(
        f'  {{ name: "{each}", data_type: TYPE_FP32, dims: [3, {side}, {side}] }}' for each in input_names(facts.view)
    )
    output = f'name: "logits", data_type: TYPE_FP32, dims: [{len(facts.classes)}], label_filename: "labels.txt"'
    (folder / "config.pbtxt").write_text(
        f"name: {json.dumps(name)}\n"
        'backend: "onnxruntime"\n'
        "max_batch_size: 32\n"
        f"input [\n{inputs}\n]\n"
        f"output [\n  {{ {output} }}\n]\n"
        "dynamic_batching { max_queue_delay_microseconds: 3000 }\n",
        encoding="utf-8",
    )


def inference_service(name: str, storage: str) -> str:
    """Describe a KServe InferenceService that runs Triton on a model repository."""
    model = {"modelFormat": {"name": "triton"}, "protocolVersion": "v2", "storageUri": storage}
    values = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {"predictor": {"model": model}},
    }
    return str(yaml.safe_dump(values, sort_keys=False))


def main() -> None:
    """Write both."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("export", type=Path)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--name", default="emotions")
    parser.add_argument("--storage", required=True, help="where KServe finds the repository")
    given = parser.parse_args()
    write_repository(given.export, given.repository, given.name)
    (given.repository / "inference_service.yaml").write_text(inference_service(given.name, given.storage))


if __name__ == "__main__":
    main()
