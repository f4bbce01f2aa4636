"""The demonstration's run: import, pretrain, fine-tune twice, evaluate, predict, report.

Nothing here is a mock: every stage is the function that its command calls.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl

from uniemox.config import FinetuneConfig, PretrainConfig
from uniemox.data.manifest import read_manifest
from uniemox.demo.drawn import unpack
from uniemox.demo.page import Findings, Outcome, build_page
from uniemox.devices import build_accelerator, does_bfloat16_well
from uniemox.errors import ConfigError
from uniemox.evaluate import evaluate
from uniemox.metrics import Report
from uniemox.predict import Predictor
from uniemox.report.page import write_page
from uniemox.settings import build, load_preset
from uniemox.train.events import Message, ignore
from uniemox.train.journal import read_journal
from uniemox.train.run import finetune, pretrain

if TYPE_CHECKING:
    from uniemox.config import Precision
    from uniemox.demo.drawn import DrawnData
    from uniemox.train.events import Observer

PRETRAIN_STEPS = 200
"""Steps of 128 pictures that the demo adds to UniEmoX-mini's pretraining."""
PHOTOGRAPH = Path(mpl.get_data_path()) / "sample_data" / "grace_hopper.jpg"
"""A photograph in the public domain that comes with matplotlib (James S. Davis, United States Navy)."""


@dataclass(frozen=True)
class Start:
    """What a fine-tuning of the demo begins from."""

    name: str
    title: str
    init: str | None


def run_demo(
    out: Path, *, device: str = "auto", seed: int = 0, observer: Observer = ignore
) -> Path:
    """Run the whole pipeline on embedded data, without a network.

    Args:
        out: Folder of the runs and the report; it must be empty or absent.
        device: auto, cpu, cuda or mps.
        seed: Seed of weights, order, masks and augmentation.
        observer: Hears of progress.

    Returns:
        The report, one HTML file.

    Raises:
        ConfigError: The folder is not empty.
        UniEmoXError: A stage failed.
    """
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"the folder {out} is not empty: choose another --out, or delete it")
    began = time.monotonic()
    observer(Message("1/5 unpacking and importing the drawn pictures (EmoSet's format)"))
    data = unpack(out / "data")
    observer(Message(f"2/5 pretraining goes on from UniEmoX-mini for {PRETRAIN_STEPS} steps"))
    pretraining = pretrain_config(data, out / "pretrain", device, seed)
    pretrained = pretrain(pretraining, observer)
    starts = (
        Start("uniemox", "UniEmoX-mini", str(pretrained)),
        Start("random", "random weights", None),
    )
    outcomes = []
    for start in starts:
        observer(Message(f"3/5 fine-tuning from {start.title}"))
        outcomes.append(_finetune_and_score(start, data, out, device, seed, observer))
    observer(Message("4/5 predicting"))
    predictor = Predictor.load(out / "finetune-uniemox" / "model", device=device)
    test = read_manifest(data.seen).select(["test"])
    observer(Message("5/5 writing the report"))
    findings = Findings(
        data=data,
        pretrained=pretrained,
        journal=read_journal(out / "pretrain" / "metrics.jsonl"),
        outcomes=tuple(outcomes),
        predictor=predictor,
        test=test,
        photograph=PHOTOGRAPH,
        person=pretraining.person,
        mask_ratio=pretraining.views.mask_ratio,
        seconds=time.monotonic() - began,
        seed=seed,
    )
    report = out / "report.html"
    write_page(build_page(findings), report)
    return report


def _precision(device: str) -> Precision:
    """Take bf16 where it is the faster one, so that the demo is short on every machine."""
    return "bf16" if does_bfloat16_well(build_accelerator(device).device) else "fp32"


def pretrain_config(data: DrawnData, out: Path, device: str, seed: int) -> PretrainConfig:
    """Give the settings of the demo's pretraining: a continuation of UniEmoX-mini at a small rate."""
    changes = {
        "data": data.seen,
        "out": out,
        "device": device,
        "seed": seed,
        "precision": _precision(device),
        "init": "demo-pretrained",
        "max_steps": PRETRAIN_STEPS,
        "optim.base_lr": 2e-4,
    }
    return build(PretrainConfig, load_preset(PretrainConfig, "demo") | changes)


def finetune_config(
    data: DrawnData, out: Path, init: str | None, device: str, seed: int
) -> FinetuneConfig:
    """Give the settings of the demo's fine-tuning; only the start differs from one to the other."""
    changes = {
        "data": data.seen,
        "out": out,
        "device": device,
        "seed": seed,
        "precision": _precision(device),
        "init": init,
    }
    return build(FinetuneConfig, load_preset(FinetuneConfig, "demo") | changes)


def _finetune_and_score(
    start: Start, data: DrawnData, out: Path, device: str, seed: int, observer: Observer
) -> Outcome:
    folder = out / f"finetune-{start.name}"
    model = finetune(finetune_config(data, folder, start.init, device, seed), observer)
    return Outcome(
        title=start.title,
        journal=read_journal(folder / "metrics.jsonl"),
        seen=_score(model, data.seen, folder / "test", device),
        unseen=_score(model, data.unseen, folder / "unseen-characters", device),
    )


def _score(model: Path, data: Path, out: Path, device: str) -> Report:
    report = evaluate(str(model), data=data, split="test", out=out, device=device)
    assert isinstance(report, Report)
    return report
