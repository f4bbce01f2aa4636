import math

import numpy as np
import pytest
import torch

from uniemox.config.training import LossConfig
from uniemox.losses import PretrainLosses, contrast_loss, reconstruction_loss, similarity_loss


def features(batch=5, texts=5, width=7, seed=0):
    """γ, Ω and Λ, none of them of unit length."""
    rng = np.random.default_rng(seed)
    shapes = ((batch, width), (batch, width), (texts, width))
    scales = (3.0, 0.2, 10.0)
    return tuple(
        torch.tensor(rng.normal(size=shape) * scale, dtype=torch.float32)
        for shape, scale in zip(shapes, scales, strict=True)
    )


def cosine(a, b):
    return float(np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)))


def contrast_by_loops(embedding, image, texts, scale):
    gamma, omega, lam = (tensor.double().numpy() for tensor in (embedding, image, texts))
    rows = []
    for g, o in zip(gamma, omega, strict=True):
        student = [scale * cosine(g, t) for t in lam]
        teacher = [scale * cosine(o, t) for t in lam]
        rows.append(cosine(student, teacher))
    return 1 - sum(rows) / len(rows)


def test_contrast_of_hand_worked_numbers():
    texts = torch.tensor([[2.0, 0.0], [0.0, 5.0]])  # unit vectors after normalisation
    # Row 1: A = (.6, .8), C = (.8, .6), cosine .96. Row 2: A = (0, 1), C = (1, 0), cosine 0.
    embedding = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    image = torch.tensor([[4.0, 3.0], [7.0, 0.0]])
    assert contrast_loss(embedding, image, texts).item() == pytest.approx(1 - 0.96 / 2, abs=1e-6)


def test_contrast_of_hand_worked_numbers_with_texts_that_are_alike():
    texts = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    # A = (.6, .36 + .64) = (.6, 1), C = (.8, .48 + .48) = (.8, .96): A·C = 1.44, |A|² = 1.36, |C|² = 1.5616.
    loss = contrast_loss(torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]]), texts)
    assert loss.item() == pytest.approx(1 - 1.44 / math.sqrt(1.36 * 1.5616), abs=1e-6)


@pytest.mark.parametrize("num_texts", [5, 2, 15])  # 15: gathered from three processes
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_contrast_equals_loops_over_scaled_similarities_whatever_the_scale(num_texts, scale):
    given = features(texts=num_texts)
    expected = contrast_by_loops(*given, scale)
    assert contrast_loss(*given).item() == pytest.approx(expected, abs=1e-6)


def test_similarity_of_hand_worked_numbers():
    embedding = torch.tensor([[3.0, 4.0], [0.0, -2.0]])
    image = torch.tensor([[4.0, 3.0], [0.0, 9.0]])
    # Cosines .96 and −1.
    assert similarity_loss(embedding, image).item() == pytest.approx(1 + 0.04 / 2, abs=1e-6)


def test_similarity_equals_loops():
    embedding, image, _ = features()
    rows = [cosine(g, o) for g, o in zip(embedding.numpy(), image.numpy(), strict=True)]
    assert similarity_loss(embedding, image).item() == pytest.approx(1 - np.mean(rows), abs=1e-6)


@pytest.mark.parametrize("factor", [1.0, 1e-3, 1e3])
def test_a_student_in_the_teachers_direction_loses_nothing(factor):
    _, image, texts = features()
    assert contrast_loss(image * factor, image, texts).item() == pytest.approx(0, abs=1e-6)
    assert similarity_loss(image * factor, image).item() == pytest.approx(0, abs=1e-6)


def test_a_student_against_the_teachers_direction_loses_2():
    _, image, texts = features()
    assert contrast_loss(-image, image, texts).item() == pytest.approx(2, abs=1e-6)
    assert similarity_loss(-image, image).item() == pytest.approx(2, abs=1e-6)


def test_permuting_pictures_with_their_texts_leaves_contrast_as_it_was():
    given = features()
    order = [3, 0, 4, 1, 2]
    turned = contrast_loss(*(tensor[order] for tensor in given))
    assert turned.item() == pytest.approx(contrast_loss(*given).item(), abs=1e-6)


def test_contrast_does_not_ask_which_text_is_whose():
    embedding, image, texts = features()
    turned = contrast_loss(embedding, image, texts[[3, 0, 4, 1, 2]])
    assert turned.item() == pytest.approx(contrast_loss(embedding, image, texts).item(), abs=1e-6)


def test_replacing_one_text_changes_contrast():
    embedding, image, texts = features()
    other = texts.clone()
    other[2] = features(seed=9)[2][2]
    changed = contrast_loss(embedding, image, other)
    assert abs(changed - contrast_loss(embedding, image, texts)) > 1e-3


def test_pairing_students_with_other_teachers_changes_both_terms():
    embedding, image, texts = features()
    turned = image.roll(1, dims=0)
    assert abs(contrast_loss(embedding, turned, texts) - contrast_loss(embedding, image, texts)) > 0.01
    assert abs(similarity_loss(embedding, turned) - similarity_loss(embedding, image)) > 0.01


def test_reconstruction_of_hand_worked_numbers():
    prediction = torch.tensor([[[1.0, 2.0], [9.0, 9.0], [0.0, 0.0]], [[5.0, 5.0], [1.0, 1.0], [0.0, 4.0]]])
    target = torch.tensor([[[0.0, 0.0], [0.0, 0.0], [3.0, 1.0]], [[0.0, 0.0], [1.0, 3.0], [0.0, 0.0]]])
    hidden = torch.tensor([[True, False, True], [False, True, True]])
    # Patch means: (1 + 4)/2 = 2.5, (9 + 1)/2 = 5, (0 + 4)/2 = 2, (0 + 16)/2 = 8.
    assert reconstruction_loss(prediction, target, hidden).item() == pytest.approx(17.5 / 4)


def patches(seed=0):
    generator = torch.Generator().manual_seed(seed)
    prediction, target = torch.randn(2, 3, 8, 12, generator=generator).unbind(0)
    hidden = torch.rand(3, 8, generator=generator).argsort(dim=1) > 1
    return prediction, target * 2 + 1, hidden


@pytest.mark.parametrize("normalized", [False, True])
def test_reconstruction_ignores_visible_patches(normalized):
    prediction, target, hidden = patches()
    loss = reconstruction_loss(prediction, target, hidden, normalized=normalized)
    prediction, target = prediction.clone(), target.clone()
    prediction[~hidden] += 100
    target[~hidden] *= -7
    assert torch.equal(reconstruction_loss(prediction, target, hidden, normalized=normalized), loss)


def test_visible_patches_of_the_prediction_get_no_gradient_and_hidden_ones_do():
    prediction, target, hidden = patches()
    prediction.requires_grad_()
    reconstruction_loss(prediction, target, hidden).backward()
    assert torch.equal(prediction.grad.abs().amax(dim=-1) > 0, hidden)


@pytest.mark.parametrize("normalized", [False, True])
def test_reconstruction_equals_loops_over_hidden_patches(normalized):
    prediction, target, hidden = patches()
    errors = []
    for b, n in hidden.nonzero().tolist():
        wanted, got = target[b, n].double().numpy(), prediction[b, n].double().numpy()
        if normalized:
            wanted = (wanted - wanted.mean()) / np.sqrt(wanted.var(ddof=1) + 1e-6)
        errors.append(((got - wanted) ** 2).mean())
    loss = reconstruction_loss(prediction, target, hidden, normalized=normalized)
    assert loss.item() == pytest.approx(np.mean(errors), rel=1e-5)


def test_a_normalized_target_forgets_brightness_and_contrast():
    prediction, target, hidden = patches()
    loss = reconstruction_loss(prediction, target, hidden, normalized=True)
    other = reconstruction_loss(prediction, target * 5 - 3, hidden, normalized=True)
    assert other.item() == pytest.approx(loss.item(), rel=1e-5)


def test_a_normalized_target_of_hand_worked_numbers():
    # Mean 2, unbiased variance 2: the target is (−1/√2, 1/√2), both off by 1/√2 from 0.
    target, hidden = torch.tensor([[[1.0, 3.0]]]), torch.tensor([[True]])
    loss = reconstruction_loss(torch.zeros(1, 1, 2), target, hidden, normalized=True)
    assert loss.item() == pytest.approx(0.5, abs=1e-5)


def test_a_flat_patch_has_a_finite_normalized_target():
    target, hidden = torch.full((1, 1, 4), 7.0), torch.tensor([[True]])
    assert reconstruction_loss(torch.ones(1, 1, 4), target, hidden, normalized=True).item() == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_fp32(dtype):
    embedding, image, texts = (tensor.to(dtype) for tensor in features())
    prediction, target, hidden = patches()
    prediction, target = prediction.to(dtype), target.to(dtype)
    pairs = [
        (contrast_loss(embedding, image, texts), contrast_loss(embedding.float(), image.float(), texts.float())),
        (similarity_loss(embedding, image), similarity_loss(embedding.float(), image.float())),
        *(
            (
                reconstruction_loss(prediction, target, hidden, normalized=normalized),
                reconstruction_loss(prediction.float(), target.float(), hidden, normalized=normalized),
            )
            for normalized in (False, True)
        ),
    ]
    for half, full in pairs:
        assert half.dtype == torch.float32
        assert torch.equal(half, full)


def test_an_autocast_around_the_terms_changes_nothing():
    def terms():
        prediction, target, hidden = patches()
        return [
            contrast_loss(*features()),
            similarity_loss(*features()[:2]),
            reconstruction_loss(prediction, target, hidden, normalized=True),
        ]

    with torch.autocast("cpu", torch.bfloat16):
        inside = terms()
    for value, expected in zip(inside, terms(), strict=True):
        assert value.dtype == torch.float32
        assert torch.equal(value, expected)


def test_large_half_precision_errors_do_not_overflow():
    prediction = torch.full((1, 1, 4), 300.0, dtype=torch.float16)  # 300² is beyond fp16
    loss = reconstruction_loss(prediction, torch.zeros(1, 1, 4), torch.tensor([[True]]))
    assert loss.item() == 90000


def test_the_total_is_the_weighted_sum_of_the_terms():
    losses = PretrainLosses(torch.tensor(0.5), torch.tensor(0.25), torch.tensor(2.0))
    assert losses.total(LossConfig()).item() == 2.75
    weights = LossConfig(contrast=2, similarity=4, reconstruction=0.5)
    assert losses.total(weights).item() == 1 + 1 + 1
    assert losses.computed() == losses._asdict()


@pytest.mark.parametrize("name", PretrainLosses._fields)
def test_a_term_that_was_not_computed_is_left_out(name):
    terms = {"contrast": 0.5, "similarity": 0.25, "reconstruction": 2.0}
    losses = PretrainLosses(**{k: torch.tensor(v) for k, v in terms.items()})
    without = losses._replace(**{name: None})
    assert set(without.computed()) == terms.keys() - {name}
    assert without.total(LossConfig()).item() == 2.75 - terms[name]
    alone = PretrainLosses(None, None, None)._replace(**{name: torch.tensor(terms[name])})
    assert alone.total(LossConfig(**{name: 3.0})).item() == 3 * terms[name]


def test_the_total_passes_each_terms_gradient_on_by_its_weight():
    terms = torch.ones(3, requires_grad=True)
    weights = LossConfig(contrast=2, similarity=3, reconstruction=5)
    PretrainLosses(*terms).total(weights).backward()
    assert terms.grad.tolist() == [2, 3, 5]
