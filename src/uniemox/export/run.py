"""An export from end to end: write, compare with torch, quantise, compare again, report."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import timeit
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from uniemox.checkpoints.card import write_card
from uniemox.checkpoints.domain import write_features
from uniemox.checkpoints.facts import SECTION, ModelFacts
from uniemox.checkpoints.folder import Classifier, replacing
from uniemox.checkpoints.open import ONNX_NAME, open_model
from uniemox.config.checks import Precision
from uniemox.config.zero_shot import ZeroShotConfig
from uniemox.data.pixels import EvaluationViews
from uniemox.errors import CheckpointError, ConfigError, DataError
from uniemox.export.graph import write_onnx
from uniemox.export.quantize import quantize_file, smooth
from uniemox.files.images import Unreadable, read_image
from uniemox.files.whole import check_vacant
from uniemox.inference.backend import Backend
from uniemox.inference.onnx_backend import load_onnx
from uniemox.inference.onnx_file import input_names
from uniemox.inference.predictor import find_images
from uniemox.inference.torch_backend import TorchBackend, load_torch
from uniemox.manifests.table import Box, evenly, read_manifest
from uniemox.targets.domain import NUMBER
from uniemox.targets.kinds import DEFAULT, resolve_target

if TYPE_CHECKING:
    Pixels = npt.NDArray[np.float32]
    Located = tuple[Path, Sequence[Box]]

log = logging.getLogger(__name__)

Quantization = Literal["int8"]
OPSETS: Final = range(18, 23)  # Of ONNX: from the oldest that torch writes to the last without attention
DEFAULT_OPSET: Final = 20  # the first with GELU
_TOLERANCE = 1e-4
_MAX_IMAGES = 256
_RANGES_EVERY = 4  # One image in so many is for the ranges, which are slow to measure; the rest are compared
_NUM_CHECKED = 16  # Images that the fp32 graph is checked on besides noise
_NUM_NOISE = 4
_NUM_TIMED = 8
_POOR = 0.97  # share of the answers that are kept, below which a user is warned


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What came out of an export."""

    out: Path
    quantized: Quantization | None
    pictures: int  # Images that agreement and change were measured on, without those of the ranges; 0 for noise
    fp32_difference: float  # Largest difference of a logit of the fp32 graph to torch's
    agreement: float  # Share of the answers that are torch's, as `Target.decisions` counts them
    largest_change: float  # Largest change of a probability against torch's
    torch_bytes: int
    onnx_bytes: int
    torch_speed: float  # Images a second in torch, fp32, on this CPU
    onnx_speed: float  # Images a second in onnxruntime, on this CPU
    target: str = DEFAULT  # The kind of the answers
    compared_with: Precision = "fp32"  # Precision of torch's answers, as the model folder records it

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**dataclasses.asdict(self), "out": str(self.out)}

    def describe(self) -> list[str]:
        """Write it in lines."""
        measured = f"{self.pictures} images" if self.pictures else f"{_NUM_NOISE} images of noise"
        target = resolve_target(self.target, ())
        kept = target.kept_words.format(images=measured)
        return [
            f"fp32 graph: no logit differs from torch's by more than {self.fp32_difference:.1e}",
            f"{self.quantized or 'fp32'}: {100 * self.agreement:.1f} % {kept}, "
            f"and no {target.number_word} changes by more than {self.largest_change:.2g}"
            + ("" if self.compared_with == "fp32" else f", against torch in {self.compared_with}"),
            f"size: {self.torch_bytes / 1e6:.1f} MB in torch, {self.onnx_bytes / 1e6:.1f} MB in ONNX",
            f"speed on this CPU: {self.torch_speed:.0f} images a second in torch, {self.onnx_speed:.0f} in ONNX",
        ]


def export_onnx(
    model: str,
    out: Path,
    *,
    quantize: Quantization | None = None,
    calibration: Sequence[Path] = (),
    opset: int = DEFAULT_OPSET,
    dataset: str | None = None,
    zero_shot: ZeroShotConfig | None = None,
) -> ExportReport:
    """Write a classifier as a folder that runs without torch: `model.onnx`, `config.json`, `export.json`, card.

    A model that keeps the images that it knows has `features` as a second output, and its features go with it. In 8
    bits it has neither, since features are others then and the cutoff would not be theirs.

    Args:
        model: A classifier: its folder, a file that others wrote, `demo`, or a name on the hub.
        out: Folder to write; it appears only when it is whole.
        quantize: int8 for integers of 8 bits; None keeps fp32.
        calibration: Images, folders of them, or manifests (their split train, if they have one), like those that the
            model will see. Ranges are measured on a quarter of them, the result is compared with torch's on the rest.
        opset: Version of ONNX's operators.
        dataset: Data set or manifest that names the classes, for weights that do not.
        zero_shot: Classes and words of a model that needs no training; they become the head of the graph.

    Raises:
        CheckpointError: The model cannot be read or written, or the graph does not compute what torch computes.
        ConfigError: A value is out of range, or onnx or onnxruntime is missing.
        DataError: No image can be read.
    """
    if opset not in OPSETS:
        raise ConfigError(f"opset is {opset}, but must be from {OPSETS[0]} to {OPSETS[-1]}")
    if quantize not in (None, *get_args(Quantization)):
        raise ConfigError(f"quantize is {quantize}, but must be {' or '.join(get_args(Quantization))}")
    if quantize is not None and not calibration:
        raise ConfigError("int8 needs images like those that the model will see: pass `calibration`")
    check_vacant(out, ConfigError)
    opened = open_model(model)
    if opened.role == "export":
        raise ConfigError(f"{model} is exported already: give the folder that it was made from")
    recorded = load_torch(opened, device="cpu", dataset=dataset, zero_shot=zero_shot)
    if quantize is not None and recorded.facts.size is None:
        raise ConfigError(f"int8 is for our own encoders, and {model} is another: omit `quantize`")
    recorded = recorded if quantize is None else _without_domain(recorded)
    torch = recorded.in_fp32()
    pixels = _prepare(_find(calibration), torch.facts.views) if calibration else None
    with replacing(out) as beside:
        file = beside / ONNX_NAME
        write_onnx(torch.model, torch.facts, file, opset=opset, reads_features=torch.domain is not None)
        if torch.domain is not None:
            write_features(beside, torch.domain)
        difference = _check_graph(torch, file, pixels)
        if quantize is not None:
            assert pixels is not None
            _quantize(torch, file, pixels[::_RANGES_EVERY], opset=opset)
        measured = _compare(recorded, file, pixels, quantized=quantize)
        report = ExportReport(out=out, quantized=quantize, fp32_difference=difference, **measured)
        named = {"label_names": torch.facts.classes, SECTION: torch.facts.to_dict()}
        config = {"format": "onnx", "opset": opset, "quantized": quantize, **named}
        for name, values in (("config.json", config), ("export.json", report.to_dict())):
            (beside / name).write_text(json.dumps(values, indent=2), encoding="utf-8")
        write_card(beside, recorded.facts, exported=quantize or "fp32")
    if report.agreement < _POOR:
        step = "evaluate the exported model before you use it, calibrate on more images that are like those it will see"
        log.warning("%.1f %% of the answers changed: %s, or do not quantize", 100 * (1 - report.agreement), step)
    return report


def _without_domain(backend: TorchBackend) -> TorchBackend:
    """Return the same model without the images that it knows."""
    numbers = {name: values for name, values in backend.facts.numbers.items() if name != NUMBER}
    classifier = Classifier(backend.model, dataclasses.replace(backend.facts, numbers=numbers))
    return TorchBackend(classifier, backend.device, precision=backend.precision)


def _find(paths: Sequence[Path]) -> list[Located]:
    """List images with their people, evenly chosen if there are many."""
    found: list[Located] = []
    for path in paths:
        if path.suffix.lower() == ".parquet":
            manifest = read_manifest(path)
            if "train" in manifest.split_counts():
                manifest = manifest.select(["train"])
            found += [(row.path, row.boxes) for row in map(manifest.row, range(len(manifest)))]
        else:
            found += [(image, ()) for image in find_images([path])]
    return [found[place] for place in evenly(len(found), _MAX_IMAGES)]


def _prepare(images: Sequence[Located], views: EvaluationViews) -> Pixels:
    """Read and prepare images: (N, V, 3, S, S)."""
    prepared, reasons = [], []
    for path, boxes in images:
        image = read_image(path)
        if isinstance(image, Unreadable):
            reasons.append(f"{path}: {image.reason}")
        else:
            prepared.append(views(image, boxes))
    if not prepared:
        raise DataError(f"none of the {len(images)} images can be read; the first is {reasons[0]}")
    if reasons:
        log.warning("skipped %d images that cannot be read; the first is %s", len(reasons), reasons[0])
    return np.stack(prepared)


def _noise(facts: ModelFacts) -> Pixels:
    return np.random.default_rng(0).standard_normal((_NUM_NOISE, *facts.views.shape)).astype(np.float32)


def _check_graph(torch: TorchBackend, file: Path, pixels: Pixels | None) -> float:
    """Return the graph's largest difference to torch, or raise `CheckpointError` if rounding does not explain it."""
    seen = _noise(torch.facts)
    if pixels is not None:
        seen = np.concatenate([seen, pixels[:: -(-len(pixels) // _NUM_CHECKED)]])
    differences = []
    for name, expected, found in zip(
        ("logit", "feature"), torch.outputs(seen), load_onnx(file, device="cpu").outputs(seen), strict=True
    ):
        if expected is None or found is None:
            continue
        differences.append(float(np.abs(expected - found).max()))
        if differences[-1] > _TOLERANCE * max(1.0, float(np.abs(expected).max())):
            what = f"differs from torch by {differences[-1]:.1e} in a {name}, which is more than rounding"
            raise CheckpointError(f"the exported graph {what}, so nothing was written: try another `opset`")
    return differences[0]


def _quantize(torch: TorchBackend, file: Path, pixels: Pixels, *, opset: int) -> None:
    """Replace the graph in fp32 by one in 8 bits."""
    model = copy.deepcopy(torch.model)
    smooth(model, pixels)
    smoothed = file.with_name("smoothed.onnx")
    try:
        write_onnx(model, torch.facts, smoothed, opset=opset)
        quantize_file(smoothed, file, input_names(torch.facts.view), pixels)
    finally:
        smoothed.unlink(missing_ok=True)


def _compare(
    recorded: TorchBackend, file: Path, pixels: Pixels | None, *, quantized: Quantization | None
) -> dict[str, Any]:
    """Measure the other fields of the report."""
    torch, onnx, facts = recorded.in_fp32(), load_onnx(file, device="cpu"), recorded.facts
    seen = _noise(facts) if pixels is None else pixels
    if quantized is not None and len(seen) > 1:
        seen = np.delete(seen, np.s_[::_RANGES_EVERY], axis=0)
    target = resolve_target(facts.target, facts.classes, facts.kept)
    expected, found = recorded.logits(seen), onnx.logits(seen)
    return {
        "pictures": 0 if pixels is None else len(seen),
        "agreement": target.kept(expected, found),
        "largest_change": target.largest_change(expected, found),
        "torch_bytes": 4 * sum(weight.numel() for weight in torch.model.parameters()),
        "onnx_bytes": file.stat().st_size,
        "torch_speed": _speed(torch),
        "onnx_speed": _speed(onnx),
        "target": target.name,
        "compared_with": recorded.precision,
    }


def _speed(backend: Backend) -> float:
    """Measure images a second, the best of three, after one run to warm up."""
    noise = _noise(backend.facts)
    pixels = np.resize(noise, (_NUM_TIMED, *noise.shape[1:]))
    seconds = timeit.repeat(lambda: backend.logits(pixels), number=1, repeat=4)
    return _NUM_TIMED / min(seconds[1:])
