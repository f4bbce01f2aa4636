"""Weight files as others write them, made with plain torch from the published names, and models independent of ours."""

import argparse
import json
from dataclasses import dataclass

import pytest
import timm
import torch
from torch.nn import functional as F

from uniemox.errors import CheckpointError

# Width, depth and heads as published; depth is cut where only structure matters.
SIZES = {"base": (768, 12, 12), "large": (1024, 24, 16), "huge": (1280, 32, 16)}
CUT = 2
DECODER = (512, 16)  # width and heads


def draw(shape, generator):
    scale = 1.0 if len(shape) == 1 else (shape[1:].numel() ** -0.5)
    return torch.randn(shape, generator=generator) * scale * 0.5


def linear(name, out, into, generator):
    return {
        f"{name}.weight": draw(torch.Size((out, into)), generator),
        f"{name}.bias": draw(torch.Size((out,)), generator) * 0.1,
    }


def norm(name, width, generator):
    return {
        f"{name}.weight": 1 + 0.1 * draw(torch.Size((width,)), generator),
        f"{name}.bias": 0.1 * draw(torch.Size((width,)), generator),
    }


def blocks(part, width, depth, generator):
    state = {}
    for index in range(depth):
        name = f"{part}.{index}"
        state |= norm(f"{name}.norm1", width, generator)
        state |= linear(f"{name}.attn.qkv", 3 * width, width, generator)
        state |= linear(f"{name}.attn.proj", width, width, generator)
        state |= norm(f"{name}.norm2", width, generator)
        state |= linear(f"{name}.mlp.fc1", 4 * width, width, generator)
        state |= linear(f"{name}.mlp.fc2", width, 4 * width, generator)
    return state


@dataclass(frozen=True)
class Plain:
    """Weights of one model by the names of MAE."""

    width: int
    depth: int
    num_heads: int
    patch: int
    side: int

    @property
    def grid(self):
        return self.side // self.patch

    def encoder(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        state = {
            "cls_token": draw(torch.Size((1, 1, self.width)), generator),
            "pos_embed": draw(torch.Size((1, 1 + self.grid**2, self.width)), generator),
        }
        state["patch_embed.proj.weight"] = draw(torch.Size((self.width, 3, self.patch, self.patch)), generator)
        state["patch_embed.proj.bias"] = draw(torch.Size((self.width,)), generator)
        return state | blocks("blocks", self.width, self.depth, generator)

    def mae_encoder(self, seed=0):
        """As MAE's published files for fine-tuning have it."""
        return self.encoder(seed) | norm("norm", self.width, torch.Generator().manual_seed(seed))

    def classifier(self, num_classes, seed=0):
        """As the released classifiers have it, with the norm that they do not use."""
        generator = torch.Generator().manual_seed(seed + 1)
        head = linear("head", num_classes, self.width, generator)
        return self.encoder(seed) | norm("norm", self.width, generator) | norm("fc_norm", self.width, generator) | head

    def pretraining(self, decoder_depth=1, seed=0):
        """As MAE's files with decoder have it."""
        generator = torch.Generator().manual_seed(seed + 2)
        width, _ = DECODER
        state = self.encoder(seed) | norm("norm", self.width, generator)
        state["mask_token"] = draw(torch.Size((1, 1, width)), generator)
        state["decoder_pos_embed"] = draw(torch.Size((1, 1 + self.grid**2, width)), generator)
        state |= linear("decoder_embed", width, self.width, generator)
        state |= blocks("decoder_blocks", width, decoder_depth, generator)
        state |= norm("decoder_norm", width, generator)
        return state | linear("decoder_pred", self.patch**2 * 3, width, generator)

    def fusion(self, seed=0):
        """The released fusion, whose LayerNorm is called bn."""
        generator = torch.Generator().manual_seed(seed + 3)
        width, _ = DECODER
        return linear("linear", width, width, generator) | norm("bn", width, generator)

    def timm(self, num_classes, state):
        """timm's own model of these weights."""
        model = timm.create_model(
            "vit_base_patch16_224",
            img_size=self.side,
            patch_size=self.patch,
            embed_dim=self.width,
            depth=self.depth,
            num_heads=self.num_heads,
            num_classes=num_classes,
            global_pool="avg",
        )
        used = {k: v for k, v in state.items() if not k.startswith("norm.")}
        model.load_state_dict(used)
        return model.eval()

    def pictures(self, count=2, seed=7):
        return torch.randn(count, 3, self.side, self.side, generator=torch.Generator().manual_seed(seed))


def run_blocks(state, part, x, num_heads):
    index = 0
    while f"{part}.{index}.norm1.weight" in state:
        p = {k.removeprefix(f"{part}.{index}."): v for k, v in state.items() if k.startswith(f"{part}.{index}.")}
        y = F.layer_norm(x, x.shape[-1:], p["norm1.weight"], p["norm1.bias"], 1e-6)
        b, n, d = y.shape
        q, k, v = (
            F.linear(y, p["attn.qkv.weight"], p["attn.qkv.bias"])
            .view(b, n, 3, num_heads, d // num_heads)
            .permute(2, 0, 3, 1, 4)
        )
        weights = (q @ k.transpose(-1, -2) * (d // num_heads) ** -0.5).softmax(-1)
        y = (weights @ v).transpose(1, 2).reshape(b, n, d)
        x = x + F.linear(y, p["attn.proj.weight"], p["attn.proj.bias"])
        y = F.layer_norm(x, x.shape[-1:], p["norm2.weight"], p["norm2.bias"], 1e-6)
        y = F.gelu(F.linear(y, p["mlp.fc1.weight"], p["mlp.fc1.bias"]))
        x = x + F.linear(y, p["mlp.fc2.weight"], p["mlp.fc2.bias"])
        index += 1
    return x


def run_mae(state, plain, pictures, noise, ratio):
    """The masked autoencoder as published (He et al. 2022): class token after decoder_embed, and all patches."""
    x = F.conv2d(pictures, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=plain.patch)
    x = x.flatten(2).transpose(1, 2) + state["pos_embed"][:, 1:]
    order = noise.argsort(dim=1)
    keep = int(x.shape[1] * (1 - ratio))
    x = torch.stack([row[kept[:keep]] for row, kept in zip(x, order, strict=True)])
    first = (state["cls_token"] + state["pos_embed"][:, :1]).expand(len(x), -1, -1)
    x = run_blocks(state, "blocks", torch.cat([first, x], 1), plain.num_heads)
    x = F.layer_norm(x, x.shape[-1:], state["norm.weight"], state["norm.bias"], 1e-6)
    x = F.linear(x, state["decoder_embed.weight"], state["decoder_embed.bias"])
    classes = x[:, 0]
    patches = state["mask_token"].repeat(len(x), plain.grid**2, 1)
    for row, kept in enumerate(order):
        patches[row, kept[:keep]] = x[row, 1:]
    y = torch.cat([x[:, :1], patches], 1) + state["decoder_pos_embed"]
    y = run_blocks(state, "decoder_blocks", y, DECODER[1])
    y = F.layer_norm(y, y.shape[-1:], state["decoder_norm.weight"], state["decoder_norm.bias"], 1e-6)
    return classes, F.linear(y, state["decoder_pred.weight"], state["decoder_pred.bias"])[:, 1:]


def run_fusion(fusion, scene, person):
    def normed(x):
        return F.layer_norm(x, x.shape[-1:], fusion["bn.weight"], fusion["bn.bias"], 1e-6)

    return F.elu(F.linear(normed(scene) + normed(person), fusion["linear.weight"], fusion["linear.bias"]))


@pytest.fixture
def plain(monkeypatch):
    """Make the weights of a size with two blocks, which is then that size here too."""
    from uniemox.config.training import ENCODER_SHAPES, EncoderShape

    def make(size="base", side=None):
        if size in SIZES:
            width, _, num_heads = SIZES[size]
            patch = 14 if size == "huge" else 16
            monkeypatch.setitem(ENCODER_SHAPES, size, EncoderShape(width, CUT, num_heads))
            return Plain(width, CUT, num_heads, patch, side or 3 * patch)
        return Plain(*ENCODER_SHAPES[size], 8, side or 32)

    return make


@pytest.fixture
def run_args():
    """Arguments as MAE's and the released runs keep them, paths of a stranger among them."""
    return argparse.Namespace(
        batch_size=64, epochs=200, mask_ratio=0.9, blr=1e-3, data_path="/data/x", dist_url="env://"
    )


@pytest.fixture
def mae():
    return run_mae


@pytest.fixture
def fuse():
    return run_fusion


@pytest.fixture
def edit():
    """Change the configuration of a model folder."""

    def change_config(folder, change):
        path = folder / "config.json"
        config = json.loads(path.read_text())
        change(config)
        path.write_text(json.dumps(config))

    return change_config


@pytest.fixture
def refusal():
    """Call something that refuses, and return the one line that a user gets."""

    def refuse(call, *args, **more):
        with pytest.raises(CheckpointError) as raised:
            call(*args, **more)
        text = str(raised.value)
        assert "\n" not in text
        assert len(text) < 700
        return text

    return refuse
