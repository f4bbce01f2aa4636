import math
from typing import get_args

import pytest
import torch

from uniemox.config import Fusion
from uniemox.models.fusion import ScaledSumFusion, SumFusion, build_fusion

FUSIONS = [name for name in get_args(Fusion) if name != "none"]


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
    return [
        sum(w * x for w, x in zip(row, numbers, strict=True)) + b
        for row, b in zip(weight, bias, strict=True)
    ]


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


@torch.no_grad()
def test_sum_takes_both_views_alike():
    fusion, (scene, person) = build("sum"), views()
    torch.testing.assert_close(fusion(scene, person), fusion(person, scene))


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
    linear = build_fusion(name, 64).linear
    bound = math.sqrt(6 / 128)  # Glorot & Bengio 2010, eq. 16
    assert 0.95 * bound < linear.weight.abs().max() <= bound
    assert not linear.bias.any()


def test_names_build_what_they_say():
    assert isinstance(build_fusion("sum", 4), SumFusion)
    assert isinstance(build_fusion("scaled_sum", 4), ScaledSumFusion)
