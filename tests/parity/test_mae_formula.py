"""One forward pass of pretraining against the paper's formulas, written out in numpy in double precision.

He et al. 2022, sections 3 and A.1: project patches, add positions, drop the hidden ones, encode; append mask tokens,
put the list back in order, add positions, decode, compare hidden patches. Here that order is made by sorting the list,
as the paper describes; the package scatters tokens into place.
"""

import numpy as np
import pytest
import torch
from scipy.special import erf

from uniemox.config.training import ModelConfig
from uniemox.losses import reconstruction_loss
from uniemox.models.encoder import patchify
from uniemox.models.pretrain import UniEmoX

# Worst difference measured, fp32 against double, is 3.3e-6 on numbers of up to 7.
TOLERANCE = {"rtol": 0, "atol": 1e-5}
BATCH, SIZE, SIDE, RATIO = 2, 32, 8, 0.75
NUM_PATCHES = (SIZE // SIDE) ** 2


def build(fusion="sum"):
    torch.manual_seed(0)
    config = ModelConfig(
        size="mini", patch_size=SIDE, image_size=SIZE, decoder_width=24, decoder_depth=2, decoder_heads=3, fusion=fusion
    )
    model = UniEmoX(config, embedding_width=10).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases would else start without effect
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model, {name: part.double().numpy() for name, part in model.state_dict().items()}


def linear(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(x, weights, name):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attention(x, weights, name, num_heads):
    """Vaswani et al. 2017, eq. 1, one head after the other, on one sequence (L, D)."""
    query, key, value = np.split(linear(x, weights, f"{name}.qkv"), 3, axis=-1)
    size = x.shape[-1] // num_heads
    heads = []
    for h in range(num_heads):
        part = slice(h * size, (h + 1) * size)
        scores = np.exp(query[:, part] @ key[:, part].T / np.sqrt(size))
        heads.append(scores / scores.sum(-1, keepdims=True) @ value[:, part])
    return linear(np.concatenate(heads, axis=-1), weights, f"{name}.proj")


def block(x, weights, name, num_heads):
    x = x + attention(norm(x, weights, f"{name}.norm1"), weights, f"{name}.attn", num_heads)
    inner = linear(norm(x, weights, f"{name}.norm2"), weights, f"{name}.mlp.fc1")
    gelu = inner * 0.5 * (1 + erf(inner / np.sqrt(2)))
    return x + linear(gelu, weights, f"{name}.mlp.fc2")


def encode(image, order, weights):
    """Encode the first quarter of `order`; give (1 + K, W) in the decoder's width."""
    kernel, positions = weights["encoder.patch_embed.proj.weight"], weights["encoder.pos_embed"][0]
    tokens = []
    for n in order[: NUM_PATCHES // 4]:
        y, x = n // (SIZE // SIDE) * SIDE, n % (SIZE // SIDE) * SIDE
        pixels = image[:, y : y + SIDE, x : x + SIDE]
        token = (kernel * pixels).sum((1, 2, 3)) + weights["encoder.patch_embed.proj.bias"]
        tokens.append(token + positions[1 + n])
    x = np.stack([weights["encoder.cls_token"][0, 0] + positions[0], *tokens])
    for i in range(6):
        x = block(x, weights, f"encoder.blocks.{i}", 4)
    return linear(norm(x, weights, "encoder.norm"), weights, "decoder_embed")


def decode(tokens, order, weights):
    """Append mask tokens behind the visible ones, sort by place, and predict (N, P)."""
    masks = [weights["decoder.mask_token"][0, 0]] * (NUM_PATCHES - (len(tokens) - 1))
    listed = [*tokens[1:], *masks]
    restored = [listed[place] for place in np.argsort(order)]
    x = np.stack([tokens[0], *restored]) + weights["decoder.pos_embed"][0]
    for i in range(2):
        x = block(x, weights, f"decoder.blocks.{i}", 3)
    return linear(norm(x, weights, "decoder.norm")[1:], weights, "decoder.pred")


def inputs():
    rng = np.random.default_rng(3)
    views = rng.normal(size=(2, BATCH, 3, SIZE, SIZE))
    noise = rng.random((2, BATCH, NUM_PATCHES))
    return views, noise


@torch.no_grad()
def run(model, views, noise):
    return model(*torch.tensor(views).float(), *torch.tensor(noise).float(), RATIO)


def test_prediction_and_loss_equal_the_formula_of_the_masked_autoencoder():
    model, weights = build()
    views, noise = inputs()
    output = run(model, views, noise)
    errors = []
    for b, image in enumerate(views[0]):
        order = np.argsort(noise[0, b])
        prediction = decode(encode(image, order, weights), order, weights)
        torch.testing.assert_close(output.prediction[b].double(), torch.tensor(prediction), **TOLERANCE)
        for n in order[NUM_PATCHES // 4 :]:
            y, x = n // (SIZE // SIDE) * SIDE, n % (SIZE // SIDE) * SIDE
            pixels = image[:, y : y + SIDE, x : x + SIDE].transpose(1, 2, 0).ravel()
            errors.append(((prediction[n] - pixels) ** 2).mean())
    target = patchify(torch.tensor(views[0]), SIDE)
    loss = reconstruction_loss(output.prediction, target, output.hiding.hidden)
    assert loss.item() == pytest.approx(np.mean(errors), rel=1e-5)


@pytest.mark.parametrize("fusion", ["none", "sum", "scaled_sum"])
def test_the_embedding_equals_the_formula_of_class_tokens_and_fusion(fusion):
    model, weights = build(fusion)
    views, noise = inputs()
    output = run(model, views, noise)
    for b in range(BATCH):
        alpha, beta = (encode(views[v, b], np.argsort(noise[v, b]), weights)[0] for v in range(2))
        match fusion:
            case "none":
                gamma = alpha
            case "sum":
                both = norm(alpha, weights, "fusion.norm") + norm(beta, weights, "fusion.norm")
                gamma = linear(both, weights, "fusion.linear")
                gamma = np.where(gamma > 0, gamma, np.expm1(gamma))
            case _:
                gamma = linear(weights["fusion.scale"] * alpha + beta, weights, "fusion.linear")
        expected = torch.tensor(linear(gamma, weights, "projection"))
        torch.testing.assert_close(output.embedding[b].double(), expected, **TOLERANCE)
