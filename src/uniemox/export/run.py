"""An export from end to end: write, compare with torch, quantise, compare again, tell."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np

from uniemox.calibration import to_probabilities
from uniemox.checkpoints.bundle import replacing
from uniemox.checkpoints.card import write_card
from uniemox.checkpoints.facts import locate
from uniemox.data.images import Unreadable, read_image
from uniemox.data.manifest import Box, read_manifest
from uniemox.errors import CheckpointError, ConfigError, DataError
from uniemox.export.graph import write_onnx
from uniemox.export.quantize import quantize_file, smooth
from uniemox.predict import find_pictures
from uniemox.runtime.backend import ONNX_NAME, find_onnx
from uniemox.runtime.onnx_backend import load_onnx
from uniemox.runtime.onnx_file import input_names
from uniemox.runtime.torch_backend import load_torch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from uniemox.checkpoints.facts import ModelFacts
    from uniemox.config import Target
    from uniemox.runtime.backend import Backend
    from uniemox.runtime.torch_backend import TorchBackend

    Pixels = npt.NDArray[np.float32]
    Probabilities = npt.NDArray[np.float64]
    Picture = tuple[Path, Sequence[Box]]

log = logging.getLogger(__name__)

Quantization = Literal["int8"]
OPSETS: Final = range(18, 23)
"""Versions of ONNX's operators: from the oldest that torch writes to the last in which attention is none of them."""
DEFAULT_OPSET: Final = 20  # the first with GELU
_TOLERANCE = 1e-4
_MOST_PICTURES = 256
"""Pictures that are read of those given."""
_RANGES_EVERY = 4
"""Of how many pictures one is for the ranges, whose measuring is slow; the others are for the comparison."""
_NUM_CHECKED = 16
"""Pictures that the fp32 graph is checked on besides noise."""
_NUM_NOISE = 4
_NUM_TIMED = 8
_POOR = 0.97


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What came out of an export."""

    out: Path
    quantized: Quantization | None
    pictures: int
    """Pictures that agreement and change were measured on, which the ranges were not; 0 if they are noise."""
    fp32_difference: float
    """Largest difference of a logit of the fp32 graph to torch's."""
    agreement: float
    """Share of the pictures whose likeliest class is torch's; for several labels, of the answers that are torch's."""
    largest_change: float
    """Largest change of a probability against torch's."""
    torch_bytes: int
    onnx_bytes: int
    torch_speed: float
    """Pictures a second in torch, fp32, on this CPU."""
    onnx_speed: float
    """Pictures a second in onnxruntime, on this CPU."""
    target: Target = "single_label"

    def to_dict(self) -> dict[str, Any]:
        """Give plain values for JSON."""
        return {**dataclasses.asdict(self), "out": str(self.out)}

    def _kept(self, measured: str) -> str:
        if self.target == "multi_label":
            return f"of the labels given and not given to {measured} stay"
        return f"of {measured} keep their likeliest class"

    def describe(self) -> list[str]:
        """Say it in lines."""
        measured = (
            f"{self.pictures} pictures" if self.pictures else f"{_NUM_NOISE} pictures of noise"
        )
        return [
            f"fp32 graph: no logit differs from torch's by more than {self.fp32_difference:.1e}",
            f"{self.quantized or 'fp32'}: {100 * self.agreement:.1f} % {self._kept(measured)}, "
            f"and no probability changes by more than {self.largest_change:.2g}",
            f"size: {self.torch_bytes / 1e6:.1f} MB in torch, {self.onnx_bytes / 1e6:.1f} MB in ONNX",
            f"speed on this CPU: {self.torch_speed:.0f} pictures a second in torch, {self.onnx_speed:.0f} in ONNX",
        ]


def export_onnx(
    model: str,
    out: Path,
    *,
    quantize: Quantization | None = None,
    calibration: Sequence[Path] = (),
    opset: int = DEFAULT_OPSET,
    dataset: str | None = None,
) -> ExportReport:
    """Write a classifier as a folder that runs without torch: `model.onnx`, `config.json`, `export.json`, card.

    Args:
        model: A classifier: its folder, a file that others wrote, `demo`, or a name on the hub.
        out: Folder to write; it is there only when it is whole.
        quantize: int8 for integers of 8 bits; None keeps fp32.
        calibration: Pictures, folders of them, or manifests, whose split train is taken where there is one: what the
            model will see. Ranges are measured on a quarter of them, the result is compared with torch's on the rest.
        opset: Version of ONNX's operators.
        dataset: Data set or manifest that names the classes, for weights that do not.

    Raises:
        CheckpointError: The model cannot be read or written, or the graph does not give what torch gives.
        ConfigError: A value is out of range, or onnx or onnxruntime is missing.
        DataError: No picture can be read.
    """
    _check(model, out, quantize, calibration, opset)
    torch = load_torch(locate(model), device="cpu", dataset=dataset)
    pixels = _prepare(_find(calibration), torch) if calibration else None
    with replacing(out) as beside:
        file = beside / ONNX_NAME
        difference = _write_fp32(torch, file, pixels, opset=opset)
        if quantize is not None:
            assert pixels is not None
            _quantize(torch, file, pixels[::_RANGES_EVERY], opset=opset)
        report = _compare(torch, file, pixels, out=out, quantized=quantize, difference=difference)
        _write_config(beside, torch.facts, quantized=quantize, opset=opset)
        write_card(beside, torch.facts, exported=quantize or "fp32")
        (beside / "export.json").write_text(
            json.dumps(report.to_dict(), indent=2), encoding="utf-8"
        )
    if report.agreement < _POOR:
        log.warning(
            "%.1f %% of the answers changed: evaluate the exported model before you use it, calibrate on more pictures "
            "that are like those it will see, or export without --quantize",
            100 * (1 - report.agreement),
        )
    return report


def _check(
    model: str,
    out: Path,
    quantize: Quantization | None,
    calibration: Sequence[Path],
    opset: int,
) -> None:
    if opset not in OPSETS:
        raise ConfigError(f"opset is {opset}, but must be from {OPSETS[0]} to {OPSETS[-1]}")
    if quantize not in (None, *get_args(Quantization)):
        raise ConfigError(
            f"quantize is {quantize}, but must be {' or '.join(get_args(Quantization))}"
        )
    if quantize is not None and not calibration:
        raise ConfigError(
            "int8 needs pictures like those that the model will see: give them, a folder or a manifest by --calibration"
        )
    if find_onnx(model) is not None:
        raise ConfigError(f"{model} is exported already: give the folder that it was made from")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is not empty: choose another --out")


def _find(paths: Sequence[Path]) -> list[Picture]:
    """List pictures with their people, evenly chosen where there are many."""
    found: list[Picture] = []
    for path in paths:
        if path.suffix.lower() == ".parquet":
            manifest = read_manifest(path)
            if "train" in manifest.split_counts():
                manifest = manifest.select(["train"])
            rows = (manifest.row(index) for index in range(len(manifest)))
            found += [(row.path, row.boxes) for row in rows]
        else:
            found += [(picture, ()) for picture in find_pictures([path])]
    chosen = np.linspace(0, len(found) - 1, min(len(found), _MOST_PICTURES)).round().astype(int)
    return [found[index] for index in chosen]


def _prepare(pictures: Sequence[Picture], backend: Backend) -> Pixels:
    """Read and prepare pictures: (N, V, 3, S, S)."""
    prepared, reasons = [], []
    for path, boxes in pictures:
        image = read_image(path)
        if isinstance(image, Unreadable):
            reasons.append(f"{path}: {image.reason}")
        else:
            prepared.append(backend.prepare(image, boxes))
    if not prepared:
        raise DataError(
            f"none of the {len(pictures)} pictures can be read; the first is {reasons[0]}"
        )
    if reasons:
        log.warning(
            "left out %d pictures, which cannot be read; the first is %s", len(reasons), reasons[0]
        )
    return np.stack(prepared)


def _noise(facts: ModelFacts) -> Pixels:
    views = 2 if facts.view == "both" else 1
    shape = (_NUM_NOISE, views, 3, facts.image_size, facts.image_size)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _write_fp32(torch: TorchBackend, file: Path, pixels: Pixels | None, *, opset: int) -> float:
    """Write the graph and give its largest difference to torch.

    Raises:
        CheckpointError: It is larger than rounding explains.
    """
    write_onnx(torch.model, torch.facts, file, opset=opset)
    seen = _noise(torch.facts)
    if pixels is not None:
        seen = np.concatenate([seen, pixels[:: -(-len(pixels) // _NUM_CHECKED)]])
    expected, found = torch.logits(seen), load_onnx(file, device="cpu").logits(seen)
    difference = float(np.abs(expected - found).max())
    if difference > _TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise CheckpointError(
            f"the exported graph differs from torch by {difference:.1e} in a logit, which is more than rounding, so "
            "nothing was written: try another --opset"
        )
    return difference


def _quantize(torch: TorchBackend, file: Path, pixels: Pixels, *, opset: int) -> None:
    """Put the graph in 8 bits in the place of the one in fp32."""
    model = copy.deepcopy(torch.model)
    smooth(model, pixels)
    smoothed = file.with_name("smoothed.onnx")
    try:
        write_onnx(model, torch.facts, smoothed, opset=opset)
        quantize_file(smoothed, file, input_names(torch.facts.view), pixels)
    finally:
        smoothed.unlink(missing_ok=True)


def _compare(
    torch: TorchBackend,
    file: Path,
    pixels: Pixels | None,
    *,
    out: Path,
    quantized: Quantization | None,
    difference: float,
) -> ExportReport:
    seen = _noise(torch.facts) if pixels is None else pixels
    if quantized is not None and len(seen) > 1:
        seen = np.delete(seen, np.s_[::_RANGES_EVERY], axis=0)
    onnx = load_onnx(file, device="cpu")
    expected, found = (
        to_probabilities(backend.logits(seen), torch.facts.target) for backend in (torch, onnx)
    )
    return ExportReport(
        out=out,
        quantized=quantized,
        pictures=0 if pixels is None else len(seen),
        fp32_difference=difference,
        agreement=_agreement(expected, found, torch.facts),
        largest_change=float(np.abs(expected - found).max()),
        torch_bytes=4 * sum(weight.numel() for weight in torch.model.parameters()),
        onnx_bytes=file.stat().st_size,
        torch_speed=_speed(torch),
        onnx_speed=_speed(onnx),
        target=torch.facts.target,
    )


def _agreement(expected: Probabilities, found: Probabilities, facts: ModelFacts) -> float:
    match facts.target:
        case "single_label":
            same = expected.argmax(1) == found.argmax(1)
        case "multi_label":
            thresholds = np.array(facts.thresholds)
            same = (expected >= thresholds) == (found >= thresholds)
    return float(same.mean())


def _speed(backend: Backend) -> float:
    """Measure pictures a second, the best of three."""
    pixels = np.resize(_noise(backend.facts), (_NUM_TIMED, *_noise(backend.facts).shape[1:]))
    backend.logits(pixels)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        backend.logits(pixels)
        seconds.append(time.perf_counter() - began)
    return _NUM_TIMED / min(seconds)


def _write_config(
    folder: Path, facts: ModelFacts, *, quantized: Quantization | None, opset: int
) -> None:
    config = {
        "format": "onnx",
        "opset": opset,
        "quantized": quantized,
        "label_names": list(facts.classes),
        "uniemox": facts.to_dict(),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
