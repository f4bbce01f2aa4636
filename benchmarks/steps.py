"""Measure the steps of training against plain ones: UniEmoX's pretraining, and fine-tuning, of a ViT-B/16.

    python benchmarks/steps.py [--device cuda] [--batch 16] [--rounds 5]

All arms run in one process, one step of each in turn, so that what else the machine does hits all alike. Weights
are random, and a batch is the same noise for all. The plain pretraining, written here, is that of the released code:
fp32, attention as two explicit products, a pass of the encoder for each view, the decoder on both views, CLIP's image
tower in fp32 and its text tower in every step. Writes `results/steps.{json,md}`, or `steps_DEVICE` for another device.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import open_clip
import torch
from ladder import RESULTS, commit_of
from timm.models.vision_transformer import Attention
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from uniemox.config.training import LossConfig, ModelConfig, OptimConfig
from uniemox.data.batch import LabelledBatch, PretrainBatch
from uniemox.data.transforms import normalize
from uniemox.losses import reconstruction_loss
from uniemox.models.classify import build_classifier
from uniemox.models.encoder import encode_visible, explicit_attention, patchify
from uniemox.models.mae import hide
from uniemox.models.pretrain import UniEmoX
from uniemox.models.teacher import Teacher
from uniemox.targets.single_label import SingleLabel
from uniemox.train.optim import build_optimizer
from uniemox.train.run_folder import describe_environment
from uniemox.train.tasks import FinetuneTask, PretrainTask

SIZE, SIDE, WIDTH, CLASSES = 224, 16, 512, 8
MASK_RATIO, DECODE_SHARE = 0.9, 0.25
CLIP = "ViT-B-16-quickgelu"
GOALS = {"pretraining": {"exact, bf16": 2.5, "fast, bf16": 6.0}, "fine-tuning": {"bf16": 2.2}}
Step = Callable[[], Tensor]


class InPrecision(nn.Module):
    """A module as the engine runs it: under autocast, and in bf16 on a CPU with explicit attention."""

    def __init__(self, module: nn.Module, device: torch.device, *, bf16: bool) -> None:
        super().__init__()
        self.module, self.device, self.bf16 = module, device, bf16

    def forward(self, *inputs: Any) -> Any:
        """Run the module."""
        is_explicit = self.bf16 and self.device.type == "cpu"
        attention = explicit_attention(self.module) if is_explicit else nullcontext()
        with attention, torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self.module(*inputs)


def explicit(module: nn.Module) -> nn.Module:
    """Let every attention of timm's be two products and a softmax."""
    for part in module.modules():
        if isinstance(part, Attention):
            part.fused_attn = False
    return module


def teacher_of(device: torch.device, *, precision: str) -> Teacher:
    """Build CLIP ViT-B/16 with random weights."""
    torch.manual_seed(0)
    model = open_clip.create_model(CLIP, pretrained=None, device=device).eval().requires_grad_(False)
    return Teacher(model, open_clip.get_tokenizer(CLIP), name=CLIP, width=WIDTH, precision=precision)


def pretrain_batch(count: int, device: torch.device) -> PretrainBatch:
    """Make a batch of noise."""
    generator = torch.Generator().manual_seed(0)
    views = torch.randint(0, 256, (2, count, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    noise = torch.rand(2, count, (SIZE // SIDE) ** 2, generator=generator)
    features = F.normalize(torch.randn(count, WIDTH, generator=generator), dim=-1).half()
    batch = PretrainBatch(views[0], views[1], noise[0], noise[1], torch.arange(count), (), features)
    return batch.to(device)


def trained(module: nn.Module, loss: Callable[[], Tensor]) -> Step:
    """Make a step of the optimiser."""
    optimizer = build_optimizer(module, OptimConfig(base_lr=1e-4))

    def step() -> Tensor:
        found = loss()
        found.backward()
        optimizer.step()
        optimizer.zero_grad()
        return found.detach()

    return step


def plain_step(batch: PretrainBatch, device: torch.device) -> Step:
    """Make the step of the released code: nothing shared, nothing spared."""
    teacher = teacher_of(device, precision="fp32")
    torch.manual_seed(0)
    model = explicit(UniEmoX(ModelConfig(), embedding_width=WIDTH).to(device))
    assert isinstance(model, UniEmoX)
    assert model.decoder is not None
    decoder, encoder = model.decoder, model.encoder
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05)
    words = [f"An image of thing {index}. The overall emotion conveyed is joy." for index in range(len(batch.scene))]

    def step() -> Tensor:
        predictions, views, tokens = [], [], []
        for pixels, noise in ((batch.scene, batch.scene_noise), (batch.person, batch.person_noise)):
            view, hiding = normalize(pixels), hide(noise, MASK_RATIO)
            seen = model.decoder_embed(encode_visible(encoder, view, hiding.visible))
            predictions.append(decoder(seen, hiding.visible))
            views.append((view, hiding.hidden))
            tokens.append(seen[:, 0])
        assert model.fusion is not None
        embedding = F.normalize(model.fusion(*tokens), dim=-1)
        image = F.normalize(teacher.encode_images(batch.scene.float() / 255), dim=-1)
        text = F.normalize(teacher.encode_texts(words).to(device), dim=-1)
        contrast = 1 - F.cosine_similarity(embedding @ text.T, image @ text.T, dim=-1).mean()
        similarity = 1 - F.cosine_similarity(embedding, image, dim=-1).mean()
        view, hidden = views[0]
        # That of the person is decoded and not learned from, as in the released code.
        loss = contrast + similarity + reconstruction_loss(predictions[0], patchify(view, SIDE), hidden)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def our_step(batch: PretrainBatch, device: torch.device, *, bf16: bool, is_fast: bool) -> Step:
    """Make the step of `uniemox pretrain`."""
    torch.manual_seed(0)
    share = DECODE_SHARE if is_fast else 1.0
    model = UniEmoX(ModelConfig(decode_share=share), embedding_width=WIDTH).to(device)
    task = PretrainTask(
        weights=LossConfig(),
        mask_ratio=MASK_RATIO,
        patch_size=SIDE,
        teacher=None if is_fast else teacher_of(device, precision="auto" if bf16 else "fp32"),
        texts=torch.randn(len(batch.text), WIDTH).to(device),
        gather=lambda texts: texts,
    )
    given = batch if is_fast else batch._replace(features=None)
    module = InPrecision(model, device, bf16=bf16)
    return trained(model, lambda: task.step(module, given)["loss"])


def pretraining_arms(count: int, device: torch.device) -> dict[str, Step]:
    """Name the steps of pretraining, the plain one first."""
    batch = pretrain_batch(count, device)
    arms = {"plain, fp32": plain_step(batch, device)}
    for name, is_fast in (("exact", False), ("fast", True)):
        for precision in ("fp32", "bf16"):
            arms[f"{name}, {precision}"] = our_step(batch, device, bf16=precision == "bf16", is_fast=is_fast)
    return arms


def finetuning_arms(count: int, device: torch.device) -> dict[str, Step]:
    """Name the steps of fine-tuning on the scene, the plain one first."""
    pixels = normalize(pretrain_batch(count, device).scene)
    labels = (torch.arange(count) % CLASSES).to(device)
    target = SingleLabel().bind(tuple(f"class{index}" for index in range(CLASSES)), {})
    batch = LabelledBatch(pixels, labels, labels, torch.ones(count, dtype=torch.bool), ())
    arms = {}
    for name, is_plain, bf16 in (("plain, fp32", True, False), ("fp32", False, False), ("bf16", False, True)):
        torch.manual_seed(0)
        model = build_classifier("base", patch_size=SIDE, image_size=SIZE, num_classes=CLASSES).to(device)
        if is_plain:
            explicit(model)
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

            def step(model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
                loss = F.cross_entropy(model(pixels), labels)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                return loss.detach()

            arms[name] = step
        else:
            task = FinetuneTask(target=target, smoothing=0.0, mixup=None)
            module = InPrecision(model, device, bf16=bf16)
            arms[name] = trained(model, lambda task=task, module=module: task.step(module, batch)["loss"])
    return arms


def seconds_of(step: Step, device: torch.device) -> float:
    """Time a step."""
    began = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def matrix_rates(device: torch.device, *, side: int = 3072, rounds: int = 5) -> dict[str, float]:
    """Measure the best rate of a matrix product in FLOP/s, in both precisions."""
    rates = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        left = torch.randn(side, side, device=device, dtype=dtype)
        right = torch.randn(side, side, device=device, dtype=dtype)
        best = min(seconds_of(lambda left=left, right=right: left @ right, device) for _ in range(rounds))
        rates[name] = 2 * side**3 / best
    return rates


def compare(arms: dict[str, Step], device: torch.device, rounds: int) -> dict[str, Any]:
    """Time all arms in turn; the first is what others are compared with."""
    flops = {}
    for name, step in arms.items():
        with FlopCounterMode(display=False) as counter:
            seconds_of(step, device)  # warms up
        flops[name] = counter.get_total_flops()
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    rates = {"fp32": 0.0, "bf16": 0.0}
    for _ in range(rounds):
        for name, step in arms.items():
            seconds[name].append(seconds_of(step, device))
        rates = {name: max(rate, rates[name]) for name, rate in matrix_rates(device).items()}
    return {"seconds": seconds, "flops": flops, "rates": rates}


def to_lines(title: str, found: dict[str, Any]) -> list[str]:
    """Write a comparison as a table."""
    first = next(iter(found["seconds"]))
    rates = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in found["rates"].items())
    lines = [f"## {title[:1].upper()}{title[1:]}", "", f"Best matrix product of the same run: {rates}.", ""]
    lines += ["| step | best s | median s | worst s | × plain (best, median) | GFLOP | of the product | goal |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for name, each in found["seconds"].items():
        base = found["seconds"][first]
        ratios = f"{min(base) / min(each):.2f}, {statistics.median(base) / statistics.median(each):.2f}"
        used = found["flops"][name] / min(each) / found["rates"][name[-4:]]
        goal = GOALS.get(title, {}).get(name)
        times = f"{min(each):.3f} | {statistics.median(each):.3f} | {max(each):.3f}"
        flops = f"{found['flops'][name] / 1e9:.0f} | {used:.2f}"
        lines.append(f"| {name} | {times} | {ratios} | {flops} | {'' if goal is None else f'{goal} ×'} |")
    return [*lines, ""]


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(measure(torch.device(given.device), given.batch, given.rounds))


def measure(device: torch.device, batch: int, rounds: int) -> str:
    """Measure both kinds of step, write the page and return it."""
    torch.backends.cuda.matmul.allow_tf32 = False
    found = {}
    for title, make in (("pretraining", pretraining_arms), ("fine-tuning", finetuning_arms)):
        found[title] = compare(make(batch, device), device, rounds)
    name = "steps" if device.type == "cpu" else f"steps_{device.type}"
    facts: dict[str, object] = {"commit": commit_of(), "batch": batch, "rounds": rounds, "TF32": "off"}
    facts |= describe_environment()
    flag = "" if device.type == "cpu" else f" --device {device.type}"
    lines = [
        "# Steps of training, against plain ones",
        "",
        f"Made by `python benchmarks/steps.py{flag}`. ViT-B/16 of {SIZE} pixels, CLIP ViT-B/16, batch {batch}; FLOPs "
        "are counted by torch, and the last columns compare what a step does of them in a second with the best matrix "
        "product of the same run.",
        "",
    ]
    for title, one in found.items():
        lines += to_lines(title, one)
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    page = "\n".join([*lines, ""])
    (RESULTS / f"{name}.json").write_text(json.dumps({"facts": facts, **found}, indent=1, default=str) + "\n")
    (RESULTS / f"{name}.md").write_text(page)
    return page


if __name__ == "__main__":
    main()
