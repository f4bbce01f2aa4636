"""How the ONNX file of an exported classifier describes itself. Needs no onnx."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from uniemox.checkpoints.facts import ModelFacts, facts_from_dict
from uniemox.config.training import View
from uniemox.data.pixels import CROP_SHARE, MEAN, STD
from uniemox.errors import CheckpointError
from uniemox.files.onnx_walk import MAX_METADATA, Rules, Walked, walk

METADATA_KEY: Final = "uniemox"
"""Key of the ONNX metadata that holds our facts as JSON: `classifier`, the section `uniemox` of a model folder, and
`preparation`, what is done to an image, for readers without uniemox."""
PREPARATION: Final[dict[str, Any]] = {
    "colours": "RGB",
    "crop_share": CROP_SHARE,
    "interpolation": "bicubic",
    "mean": list(MEAN),
    "std": list(STD),
}
"""The same for all of our encoders: resize the short side to size / crop_share, cut the centre, divide by 255, take
the mean off, divide by the deviation. A person's crop is resized whole. A CLIP has numbers of its own, and may have
both sides resized to that length (`squash`)."""
OUTPUT_NAME: Final = "logits"
FEATURES_OUTPUT: Final = "features"
"""Second output (N, D) of a classifier that keeps the images that it knows: what its head reads."""
# fmt: off
OPERATIONS: Final = frozenset({
    "Add", "Cast", "Concat", "Constant", "Conv", "DequantizeLinear", "Div", "Elu", "Erf", "Expand", "Gather",
    "Gelu", "Gemm", "Identity", "LayerNormalization", "MatMul", "Mul", "Pad", "Pow", "QuantizeLinear",
    "ReduceMean", "ReduceSum", "Reshape", "Shape", "Sigmoid", "Slice", "Softmax", "Split", "Sqrt", "Squeeze",
    "Sub", "Transpose", "Unsqueeze",
    "AveragePool", "BatchNormalization", "Clip", "GlobalAveragePool", "MaxPool", "Neg", "ReduceL2", "Relu",
})  # What a vision transformer, a fusion, and (the last line) towers of CLIP are made of, in whichever operator set
# fmt: on
_RULES: Final = Rules(what="exported classifier", then="make it with `uniemox export`", operations=OPERATIONS)


def input_names(view: View) -> tuple[str, ...]:
    """Names of a graph's inputs, (N, 3, S, S) each, by what its classifier reads."""
    return ("scene", "person") if view == "both" else ("pixels",)


def preparation_of(facts: ModelFacts) -> dict[str, Any]:
    """Describe how images are prepared for a classifier, in plain values."""
    if facts.preparation is None:
        return PREPARATION
    own = asdict(facts.preparation)
    return {"colours": "RGB", **own, "mean": list(own["mean"]), "std": list(own["std"])}


def read_onnx_file(path: Path) -> tuple[Walked, ModelFacts]:
    """Check a file, which then may be opened, and read how it describes itself, without its weights.

    Raises `CheckpointError` for a file that is damaged, not ours, or holds what a classifier does not need.
    """
    walked = walk(path, _RULES)
    found = [text for key, text in walked.metadata if key == METADATA_KEY]
    if len(found) != 1:
        raise CheckpointError(f"{path} does not say exactly once what it is (metadata `{METADATA_KEY}`): {_RULES.then}")
    if len(found[0]) > MAX_METADATA:
        raise CheckpointError(f"the metadata of {path} have more than {MAX_METADATA} bytes")
    try:
        values = json.loads(found[0])
        section, preparation = values["classifier"], values["preparation"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        what = f"the metadata `{METADATA_KEY}` of {path} cannot be read ({type(error).__name__})"
        raise CheckpointError(f"{what}: export the model again") from error
    if not isinstance(section, dict) or section.get("kind") != "classifier":
        raise CheckpointError(f"{path} is not a classifier: export a fine-tuned model")
    facts = facts_from_dict(section, path)
    if preparation != preparation_of(facts):
        raise CheckpointError(f"{path} prepares images in a way that this version does not know: export it again")
    return walked, facts
