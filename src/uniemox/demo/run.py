"""The demonstration's run: import, pretrain, fine-tune, evaluate, predict, report.

Nothing here is a mock: every stage is the function that its command calls.
"""

import time
from pathlib import Path
from typing import Any

import matplotlib as mpl

from uniemox.compute.devices import build_accelerator, does_bfloat16_well
from uniemox.config.training import FinetuneConfig, PretrainConfig
from uniemox.demo.drawn import DrawnData, unpack
from uniemox.demo.page import Findings, build_page
from uniemox.errors import ConfigError
from uniemox.files.journal import read_journal
from uniemox.files.whole import check_vacant
from uniemox.inference.backend import load_backend
from uniemox.inference.evaluate import evaluate
from uniemox.inference.predictor import Predictor
from uniemox.report.page import write_page
from uniemox.settings import build, load_preset
from uniemox.targets.single_label import SingleLabelScores
from uniemox.train.events import Message, Observer, ignore
from uniemox.train.finetune import finetune
from uniemox.train.pretrain import pretrain

PRETRAIN_STEPS = 50  # Steps of 128 images that the demo adds to UniEmoX-mini's pretraining
WITHOUT_START = {"pool": "mean", "head": "random", "trained_share": 1.0, "optim.base_lr": 4e-3}
"""What fine-tuning from random weights has instead: they keep no token and no texts, and learn at a higher rate."""
PHOTOGRAPH = Path(mpl.get_data_path()) / "sample_data" / "grace_hopper.jpg"
"""A photograph in the public domain that is installed with matplotlib (James S. Davis, United States Navy)."""


def run_demo(out: Path, *, device: str = "auto", seed: int = 0, observer: Observer = ignore) -> Path:
    """Run the whole pipeline on embedded data, without a network, and return its report, one HTML file.

    Args:
        out: Folder of the runs and the report; it must be empty or absent.
        device: auto, cpu, cuda or mps.
        seed: Seed of weights, order, masks and augmentation.
        observer: Receives progress.

    Raises:
        ConfigError: The folder is not empty.
        UniEmoXError: A stage failed.
    """
    check_vacant(out, ConfigError)
    began = time.monotonic()
    observer(Message("1/5 unpacking and importing the drawn images (EmoSet's format)"))
    data = unpack(out / "data")
    observer(Message(f"2/5 pretraining continues from UniEmoX-mini for {PRETRAIN_STEPS} steps"))
    pretraining = pretrain_config(data, out / "pretrain", device, seed)
    pretrained = pretrain(pretraining, observer)

    def score(model: Path, manifest: Path, to: Path) -> SingleLabelScores:
        report = evaluate(str(model), data=manifest, split="test", out=to, device=device)
        assert isinstance(report, SingleLabelScores)
        return report

    observer(Message("3/5 fine-tuning on scene and person"))
    folder = out / "finetune"
    model = finetune(finetune_config(data, folder, str(pretrained), device, seed), observer)
    tests = {
        "unseen pairs": score(model, data.seen, folder / "test"),
        "unseen characters": score(model, data.unseen, folder / "unseen-characters"),
    }
    observer(Message("4/5 predicting"))
    # Not by Predictor.load, which warns of a model that knows only drawings: the report says so.
    predictor = Predictor(load_backend(folder, device=device))
    observer(Message("5/5 writing the report"))
    findings = Findings(
        data=data,
        pretraining=pretraining,
        pretrained=pretrained,
        journal=read_journal(folder / "metrics.jsonl"),
        tests=tests,
        predictor=predictor,
        photograph=PHOTOGRAPH,
        seconds=time.monotonic() - began,
    )
    return write_page(build_page(findings), out / "report.html")


def pretrain_config(data: DrawnData, out: Path, device: str, seed: int) -> PretrainConfig:
    """Make the settings of the demo's pretraining: a continuation of UniEmoX-mini at a small rate."""
    more = {"init": "demo-pretrained", "max_steps": PRETRAIN_STEPS, "optim.base_lr": 2e-4}
    return build(PretrainConfig, load_preset(PretrainConfig, "demo") | _settings(data, out, device, seed) | more)


def finetune_config(data: DrawnData, out: Path, init: str | None, device: str, seed: int) -> FinetuneConfig:
    """Make the settings of the demo's fine-tuning; without a start, what needs one is switched off."""
    settings = load_preset(FinetuneConfig, "demo") | _settings(data, out, device, seed)
    # Baselines are shown once, beside the evaluation; of distances the report shows nothing.
    settings |= {"init": init, "baselines": False, "confidence.domain_share": None}
    return build(FinetuneConfig, settings if init else settings | WITHOUT_START)


def _settings(data: DrawnData, out: Path, device: str, seed: int) -> dict[str, Any]:
    # bf16 where it is the faster one, so that the demo is short on every machine.
    precision = "bf16" if does_bfloat16_well(build_accelerator(device).device) else "fp32"
    return {"data": data.seen, "out": out, "device": device, "seed": seed, "precision": precision}
