import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from torch import nn

from uniemox.config.training import FusedBy
from uniemox.models.fusion import (
    NUM_HEADS,
    AttentionFusion,
    BilinearFusion,
    GatedMlpFusion,
    MultiheadSumFusion,
    ScaledSumFusion,
    SumFusion,
    ViewAttention,
    build_fusion,
    start_as_mean,
)

FUSIONS = get_args(FusedBy)
NORMED = [name for name in FUSIONS if name != "scaled_sum"]
ALIKE = [name for name in FUSIONS if name not in ("scaled_sum", "multihead_sum", "bilinear")]
"""Fusions that do not know which view is which."""


def views(width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scene, person = torch.randn(2, 3, width, generator=generator).unbind(0)
    return scene, person * 4 + 1


def build(name, width=6):
    """A fusion with every weight away from its start."""
    torch.manual_seed(0)
    fusion = build_fusion(name, width)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return fusion


def layer_norm(numbers, gain, shift):
    mean = sum(numbers) / len(numbers)
    variance = sum((x - mean) ** 2 for x in numbers) / len(numbers)
    scaled = [(x - mean) / math.sqrt(variance + 1e-6) for x in numbers]
    return [g * x + s for x, g, s in zip(scaled, gain, shift, strict=True)]


def linear(numbers, weight, bias):
    return [sum(w * x for w, x in zip(row, numbers, strict=True)) + b for row, b in zip(weight, bias, strict=True)]


@torch.no_grad()
def test_sum_follows_its_formula_with_one_norm_for_both_views():
    fusion, (scene, person) = build("sum"), views()
    assert set(fusion.state_dict()) == {"norm.weight", "norm.bias", "linear.weight", "linear.bias"}
    state = {name: tensor.tolist() for name, tensor in fusion.state_dict().items()}
    expected = []
    for alpha, beta in zip(scene.tolist(), person.tolist(), strict=True):
        normed = [layer_norm(v, state["norm.weight"], state["norm.bias"]) for v in (alpha, beta)]
        summed = [a + b for a, b in zip(*normed, strict=True)]
        numbers = linear(summed, state["linear.weight"], state["linear.bias"])
        expected.append([x if x > 0 else math.exp(x) - 1 for x in numbers])
    fused = fusion(scene, person)
    assert (fused > 0).any()  # both branches of ELU
    assert (fused < 0).any()
    torch.testing.assert_close(fused, torch.tensor(expected), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_sum_of_hand_worked_numbers():
    fusion = SumFusion(2)
    fusion.linear.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    fusion.linear.bias.copy_(torch.tensor([0.5, -0.5]))
    # Both norms are (−1, 1), their sum (−2, 2); W gives (2, 2), b (2.5, 1.5). Swapped persons cancel: b alone, ELU'd.
    fused = fusion(torch.tensor([[0.0, 10.0], [0.0, 10.0]]), torch.tensor([[3.0, 5.0], [5.0, 3.0]]))
    expected = torch.tensor([[2.5, 1.5], [0.5, math.exp(-0.5) - 1]])
    torch.testing.assert_close(fused, expected, rtol=0, atol=1e-5)


def test_the_weight_of_the_scene_starts_at_1():
    fusion = ScaledSumFusion(6)
    assert fusion.scale.item() == 1
    assert fusion.scale.requires_grad
    scene, person = views()
    torch.testing.assert_close(fusion(scene, person), fusion(person, scene))


@torch.no_grad()
def test_scaled_sum_of_hand_worked_numbers():
    fusion = ScaledSumFusion(2)
    fusion.linear.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, -4.0]]))
    fusion.linear.bias.copy_(torch.tensor([0.5, -0.5]))
    scene, person = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.0, 2.0]])
    assert fusion(scene, person).tolist() == [[1 + 2 + 0.5, 3 - 4 - 0.5]]  # λ = 1: (1, 1)
    fusion.scale.fill_(3)
    assert fusion(scene, person).tolist() == [[3 - 2 + 0.5, 9 + 4 - 0.5]]  # λ = 3: (3, −1)


@torch.no_grad()
def test_scaled_sum_follows_its_formula():
    fusion, (scene, person) = build("scaled_sum"), views()
    state = {name: tensor.tolist() for name, tensor in fusion.state_dict().items()}
    assert set(state) == {"scale", "linear.weight", "linear.bias"}
    expected = [
        linear(
            [state["scale"] * a + b for a, b in zip(alpha, beta, strict=True)],
            state["linear.weight"],
            state["linear.bias"],
        )
        for alpha, beta in zip(scene.tolist(), person.tolist(), strict=True)
    ]
    torch.testing.assert_close(fusion(scene, person), torch.tensor(expected), rtol=1e-5, atol=1e-5)


# The others, by formulas in NumPy


def numpy_weights(fusion):
    return {name: tensor.double().numpy() for name, tensor in fusion.state_dict().items()}


def numpy_norm(rows, weights, name="norm"):
    centred = rows - rows.mean(axis=1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-6)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def numpy_linear(rows, weights, name="linear"):
    return rows @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def numpy_attention(alpha, beta, weights):
    """Shares of the views (B, H, 2) and heads (B, H, E), a head at a time."""
    alpha, beta = (numpy_norm(view, weights, "attention.norm") for view in (alpha, beta))
    width = alpha.shape[1]
    shares, heads = [], []
    for head in range(3):
        part = slice(head * width, (head + 1) * width)
        query = (alpha + beta) / 2 @ weights["attention.query.weight"][part].T
        keys = [view @ weights["attention.key.weight"][part].T for view in (alpha, beta)]
        scores = np.stack([(query * key).sum(axis=1) for key in keys], axis=1) / math.sqrt(width)
        share = softmax(scores, axis=1)
        shares.append(share)
        heads.append(share[:, :1] * alpha + share[:, 1:] * beta)
    return np.stack(shares, axis=1), np.stack(heads, axis=1)


def numpy_fused(name, alpha, beta, weights):
    match name:
        case "multihead_sum":
            alpha, beta = numpy_norm(alpha, weights), numpy_norm(beta, weights)
            heads = [
                u * alpha + v * beta for u, v in zip(weights["scene_weight"], weights["person_weight"], strict=True)
            ]
            fused = numpy_linear(np.concatenate(heads, axis=1), weights)
            return np.where(fused > 0, fused, np.expm1(fused))
        case "attention":
            heads = numpy_attention(alpha, beta, weights)[1]
            return numpy_linear(heads.reshape(len(heads), -1), weights)
        case "gated_mlp":
            heads = numpy_attention(alpha, beta, weights)[1]
            both = numpy_linear(heads.reshape(len(heads), -1), weights, "value_and_gate")
            value, gate = both[:, : alpha.shape[1]], both[:, alpha.shape[1] :]
            return numpy_linear(value * expit(gate), weights)
        case "bilinear":
            left = numpy_linear(numpy_norm(alpha, weights), weights, "scene_factor")
            right = numpy_linear(numpy_norm(beta, weights), weights, "person_factor")
            return numpy_linear(left * right, weights)


@pytest.mark.parametrize("name", ["multihead_sum", "attention", "gated_mlp", "bilinear"])
@pytest.mark.parametrize("width", [6, 7, 32])
@torch.no_grad()
def test_a_fusion_follows_its_formula(name, width):
    fusion, (scene, person) = build(name, width), views(width)
    expected = numpy_fused(name, scene.double().numpy(), person.double().numpy(), numpy_weights(fusion))
    fused = fusion(scene, person)
    assert fused.shape == (3, width)
    torch.testing.assert_close(fused.double(), torch.tensor(expected), rtol=1e-4, atol=1e-4)


def attention(width=6):
    return build("attention", width).attention


@torch.no_grad()
def test_attention_shares_sum_to_1_over_the_two_views_and_follow_the_formula():
    fusion, (scene, person) = build("attention"), views()
    shares = fusion.attention.weights(scene, person)
    assert shares.shape == (3, NUM_HEADS, 2)
    torch.testing.assert_close(shares.sum(dim=2), torch.ones(3, NUM_HEADS))
    expected, _ = numpy_attention(scene.double().numpy(), person.double().numpy(), numpy_weights(fusion))
    torch.testing.assert_close(shares.double(), torch.tensor(expected), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_attention_shares_depend_on_the_views_and_differ_between_heads():
    weigher, (scene, person) = attention(), views()
    shares = weigher.weights(scene, person)
    assert shares.std(dim=0).min() > 1e-3  # between images
    assert shares.std(dim=1).max() > 1e-2  # between heads
    assert (weigher.weights(scene, person.flip(0)) - shares).abs().max() > 1e-2
    assert (weigher.weights(scene.flip(0), person) - shares).abs().max() > 1e-2


@torch.no_grad()
def test_attention_to_swapped_views_is_swapped():
    weigher, (scene, person) = attention(), views()
    swapped = weigher.weights(person, scene).flip(2)
    torch.testing.assert_close(weigher.weights(scene, person), swapped)


@torch.no_grad()
def test_attention_is_even_where_the_scene_stands_in_for_the_person():
    weigher, (scene, _) = attention(), views()
    torch.testing.assert_close(weigher.weights(scene, scene), torch.full((3, NUM_HEADS, 2), 0.5))
    heads = weigher(scene, scene).view(3, NUM_HEADS, -1)
    torch.testing.assert_close(heads, weigher.norm(scene).unsqueeze(1).expand(-1, 3, -1))


@torch.no_grad()
def test_attention_can_turn_to_one_view_alone():
    weigher, (scene, person) = attention(), views()
    weigher.query.weight.mul_(100)
    shares = weigher.weights(scene, person)
    assert shares.amax(dim=2).max() > 0.999


@torch.no_grad()
def test_heads_weigh_the_whole_width():
    width = 6
    for name in ("multihead_sum", "attention", "gated_mlp"):
        fusion, (scene, person) = build(name, width), views(width)
        reads = fusion.linear if name != "gated_mlp" else fusion.value_and_gate
        assert reads.in_features == NUM_HEADS * width
        reads.weight[:, width:] = 0  # the first head alone
        for number in range(width):
            changed = scene.clone()
            changed[:, number] += 3
            assert (fusion(changed, person) - fusion(scene, person)).abs().amax() > 1e-3, name


@torch.no_grad()
def test_multihead_sum_is_sums_side_by_side_at_first():
    torch.manual_seed(0)
    fusion, (scene, person) = MultiheadSumFusion(6), views()
    plain = SumFusion(6)
    plain.linear.weight.copy_(fusion.linear.weight.view(6, 3, 6).sum(dim=1))
    torch.testing.assert_close(fusion(scene, person), plain(scene, person))


@torch.no_grad()
def test_bilinear_multiplies_the_views():
    fusion, (scene, person) = build("bilinear"), views()
    for factor in (fusion.scene_factor, fusion.person_factor):
        factor.bias.zero_()
    fusion.norm = nn.Identity()
    fusion.linear.bias.zero_()
    once = fusion(scene, person)
    torch.testing.assert_close(fusion(2 * scene, -3 * person), -6 * once)
    rank = torch.linalg.matrix_rank(fusion.linear.weight)
    assert rank == 3


# All of them


@pytest.mark.parametrize("name", NORMED)
@torch.no_grad()
def test_scale_and_shift_of_an_embedding_do_not_matter_where_it_is_normed(name):
    fusion, (scene, person) = build(name), views()
    fused = fusion(scene, person)
    torch.testing.assert_close(fusion(100 * scene - 7, person), fused, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(fusion(scene, 100 * person + 7), fused, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", FUSIONS)
@torch.no_grad()
def test_swapped_views_are_the_same_to_some_fusions_alone(name):
    fusion, (scene, person) = build(name), views()
    difference = (fusion(scene, person) - fusion(person, scene)).abs().max()
    assert difference < 1e-5 if name in ALIKE else difference > 1e-2


@pytest.mark.parametrize("name", FUSIONS)
def test_both_views_and_every_weight_get_a_gradient(name):
    fusion = build(name)
    scene, person = (view.requires_grad_() for view in views())
    fusion(scene, person).square().sum().backward()
    for part in (scene, person, *fusion.parameters()):
        assert part.grad.abs().max() > 0


@pytest.mark.parametrize("name", FUSIONS)
@torch.no_grad()
def test_each_person_changes_its_own_row_alone(name):
    fusion, (scene, person) = build(name), views()
    changed = person.clone()
    changed[1, 0] += 5
    differs = (fusion(scene, changed) - fusion(scene, person)).abs().amax(dim=1) > 1e-3
    assert differs.tolist() == [False, True, False]


@pytest.mark.parametrize("name", FUSIONS)
def test_first_weights_are_xavier_with_biases_0(name):
    torch.manual_seed(0)
    fusion = build_fusion(name, 64)
    for own, part in fusion.named_modules():
        if isinstance(part, nn.Linear):
            bound = math.sqrt(6 / sum(part.weight.shape))  # Glorot & Bengio 2010, eq. 16
            assert 0.95 * bound < part.weight.abs().max() <= bound
            started_at = 1 if own.endswith("_factor") else 0
            assert part.bias is None or (part.bias == started_at).all()


@pytest.mark.parametrize("name", FUSIONS)
@torch.no_grad()
def test_nothing_overflows_at_first_in_half_precision(name):
    torch.manual_seed(0)
    fusion = build_fusion(name, 64).bfloat16()
    scene, person = (view.bfloat16() * 50 for view in views(64))
    assert fusion(scene, person).isfinite().all()


def test_names_build_what_they_say():
    kinds = {
        "sum": SumFusion,
        "scaled_sum": ScaledSumFusion,
        "multihead_sum": MultiheadSumFusion,
        "attention": AttentionFusion,
        "gated_mlp": GatedMlpFusion,
        "bilinear": BilinearFusion,
    }
    assert set(kinds) == set(FUSIONS)
    for name, kind in kinds.items():
        assert isinstance(build_fusion(name, 4), kind)
    assert isinstance(build_fusion("attention", 4).attention, ViewAttention)


@pytest.mark.parametrize("name", [name for name in FUSIONS if name != "bilinear"])
def test_a_fusion_that_starts_as_the_mean_gives_one_view_where_both_are_the_same(name):
    torch.manual_seed(0)
    fusion = build_fusion(name, 6)
    start_as_mean(fusion)
    scene, _ = views()
    own = scene if name == "scaled_sum" else nn.functional.layer_norm(scene, (6,), eps=1e-6)
    expected = nn.functional.elu(own) if name in ("sum", "multihead_sum") else own
    torch.testing.assert_close(fusion(scene, scene), expected)


@pytest.mark.parametrize("name", ["sum", "scaled_sum", "multihead_sum"])
def test_a_fusion_that_starts_as_the_mean_lies_between_two_views(name):
    torch.manual_seed(0)
    fusion = build_fusion(name, 6)
    start_as_mean(fusion)
    scene, person = views()
    normed = [
        view if name == "scaled_sum" else nn.functional.layer_norm(view, (6,), eps=1e-6) for view in (scene, person)
    ]
    mean = sum(normed) / 2
    expected = mean if name == "scaled_sum" else nn.functional.elu(mean)
    torch.testing.assert_close(fusion(scene, person), expected)


@pytest.mark.parametrize("name", FUSIONS)
def test_every_weight_of_a_fusion_that_starts_as_the_mean_can_learn(name):
    torch.manual_seed(0)
    fusion = build_fusion(name, 6)
    start_as_mean(fusion)
    (fusion(*views()) ** 2).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in fusion.parameters())


def test_bilinear_has_no_mean_to_start_as():
    torch.manual_seed(0)
    fusion = build_fusion("bilinear", 6)
    before = {name: tensor.clone() for name, tensor in fusion.state_dict().items()}
    start_as_mean(fusion)
    assert all(torch.equal(tensor, before[name]) for name, tensor in fusion.state_dict().items())


def test_the_page_about_views_tells_every_fusion():
    page = (Path(__file__).parents[2] / "docs" / "views.md").read_text(encoding="utf-8")
    table = page.partition("## Fusions")[2].partition("\n## ")[0]
    assert [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")] == [*FUSIONS]
