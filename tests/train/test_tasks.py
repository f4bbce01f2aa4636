import itertools
from dataclasses import replace

import pytest
import torch
from timm.data import Mixup
from torch.nn import functional as F

from uniemox.config.training import LossConfig, ModelConfig
from uniemox.data.batch import LabelledBatch, PretrainBatch
from uniemox.data.transforms import normalize
from uniemox.losses import contrast_loss, reconstruction_loss, similarity_loss
from uniemox.models.encoder import patchify
from uniemox.models.mae import hide
from uniemox.models.pretrain import UniEmoX
from uniemox.targets.multi_label import MultiLabel
from uniemox.targets.single_label import SingleLabel
from uniemox.train.tasks import FinetuneTask, PretrainTask

RATIO, WIDTH = 0.5, 16
WEIGHTS = [weights for weights in itertools.product((2.0, 0.0, 0.5), repeat=3) if any(weights)]


class FakeTeacher:
    """Says something of pixels that is easy to foretell, and remembers them."""

    def __init__(self):
        self.seen = []

    def encode_images(self, pixels):
        self.seen.append(pixels)
        return pixels.mean((2, 3)).repeat(1, 6)[:, :WIDTH] + torch.arange(WIDTH) / WIDTH


def batch_of(size=4):
    generator = torch.Generator().manual_seed(0)
    scene, person = torch.randint(0, 256, (2, size, 3, 32, 32), generator=generator, dtype=torch.uint8)
    noise = torch.rand(2, size, 16, generator=generator)
    return PretrainBatch(scene, person, noise[0], noise[1], torch.arange(size) % 3, skipped=())


def task_of(weights, *, gather=lambda tensor: tensor):
    loss = LossConfig(contrast=weights[0], similarity=weights[1], reconstruction=weights[2])
    generator = torch.Generator().manual_seed(1)
    return PretrainTask(
        weights=loss,
        mask_ratio=RATIO,
        patch_size=8,
        teacher=FakeTeacher() if loss.needs_teacher else None,
        texts=torch.randn(3, WIDTH, generator=generator) if loss.contrast else None,
        gather=gather,
    )


def model_of(weights):
    torch.manual_seed(0)
    shape = {"decoder_width": 24, "decoder_depth": 1, "decoder_heads": 4}
    return UniEmoX(
        ModelConfig(size="mini", patch_size=8, image_size=32, **shape),
        embedding_width=WIDTH if weights[0] or weights[1] else None,
        reconstructs=weights[2] > 0,
    )


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_loss_is_the_weighted_sum_of_the_terms_that_count(weights):
    task, batch = task_of(weights), batch_of()
    terms = task.step(model_of(weights), batch)
    loss = terms.pop("loss")
    names = ("contrast", "similarity", "reconstruction")
    on = {name: weight for name, weight in zip(names, weights, strict=True) if weight}
    assert terms.keys() == on.keys()
    expected = sum(weight * terms[name] for name, weight in on.items())
    torch.testing.assert_close(loss.detach(), expected)
    assert not any(value.requires_grad for value in terms.values())


def test_with_the_mean_token_each_term_is_the_mean_of_both():
    weights = (1.0, 1.0, 0.0)
    task, model, batch = task_of(weights), model_of(weights), batch_of()
    model.embeds_mean = True
    views = (normalize(batch.scene), normalize(batch.person), batch.scene_noise, batch.person_noise)
    output = model(*views, RATIO)
    image, texts = FakeTeacher().encode_images(batch.scene / 255), task.texts[batch.text]
    both = (output.embedding, output.mean_embedding)
    scalars = task.step(model, batch)
    contrast = sum(contrast_loss(each, image, texts) for each in both) / 2
    torch.testing.assert_close(scalars["contrast"], contrast)
    torch.testing.assert_close(scalars["similarity"], sum(similarity_loss(each, image) for each in both) / 2)


def test_each_term_is_what_the_losses_say_of_the_same_tensors():
    weights = (1.0, 1.0, 1.0)
    task, model, batch = task_of(weights), model_of(weights), batch_of()
    scene = normalize(batch.scene)
    output = model(scene, normalize(batch.person), batch.scene_noise, batch.person_noise, RATIO)
    image = FakeTeacher().encode_images(batch.scene / 255)
    scalars = task.step(model, batch)
    torch.testing.assert_close(scalars["contrast"], contrast_loss(output.embedding, image, task.texts[batch.text]))
    torch.testing.assert_close(scalars["similarity"], similarity_loss(output.embedding, image))
    hidden = hide(batch.scene_noise, RATIO).hidden
    torch.testing.assert_close(
        scalars["reconstruction"], reconstruction_loss(output.prediction, patchify(scene, 8), hidden)
    )


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_a_share_of_the_hidden_patches_is_compared_with_the_pixels_at_their_places(share):
    weights = (0.0, 0.0, 1.0)
    task, model, batch = task_of(weights), model_of(weights), batch_of()
    model.config = replace(model.config, decode_share=share)
    scene = normalize(batch.scene)
    output = model(scene, None, batch.scene_noise, None, RATIO)
    patches, errors = patchify(scene, 8), []
    for row, decoded in enumerate(output.hiding.decoded.tolist()):
        for place, patch in enumerate(decoded):
            errors.append((output.prediction[row, place] - patches[row, patch]).square().mean())
    torch.testing.assert_close(task.step(model, batch)["reconstruction"], torch.stack(errors).mean().detach())


def test_the_target_can_be_normalised():
    batch, plain = batch_of(), task_of((0.0, 0.0, 1.0))
    normalized = PretrainTask(
        weights=LossConfig(contrast=0, similarity=0, normalized_target=True),
        mask_ratio=RATIO,
        patch_size=8,
        teacher=None,
        texts=None,
        gather=plain.gather,
    )
    model = model_of((0.0, 0.0, 1.0))
    assert normalized.step(model, batch)["loss"] != plain.step(model, batch)["loss"]


def test_the_teacher_sees_the_scene_as_colours_from_0_to_1():
    task, batch = task_of((1.0, 1.0, 1.0)), batch_of()
    task.step(model_of((1.0, 1.0, 1.0)), batch)
    (seen,) = task.teacher.seen  # once, for both terms
    assert torch.equal(seen, batch.scene / 255)


def test_texts_of_other_processes_join_the_contrast():
    more = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(9))
    alone = task_of((1.0, 0.0, 0.0))
    joined = task_of((1.0, 0.0, 0.0), gather=lambda texts: torch.cat([texts, more]))
    model, batch = model_of((1.0, 0.0, 0.0)), batch_of()
    assert alone.step(model, batch)["loss"] != joined.step(model, batch)["loss"]


def test_gradients_reach_every_trainable_part_and_no_part_of_the_teacher():
    weights = (1.0, 1.0, 1.0)
    task, model = task_of(weights), model_of(weights)
    task.step(model, batch_of())["loss"].backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0 or name.endswith("bias"), name
    assert task.texts.grad is None


def labelled_batch(size=4):
    pixels = torch.randn(size, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(size) % 3
    rows, readable = torch.arange(size), torch.ones(size, dtype=torch.bool)
    return LabelledBatch(pixels, labels, rows, readable, skipped=())


class Flat(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(192, 3)
        self.seen = []

    def forward(self, pixels):
        self.seen.append(pixels)
        return self.linear(pixels.flatten(1)).bfloat16()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_fine_tuning_smooths_labels_and_computes_in_full_precision(smoothing):
    module, batch = Flat(), labelled_batch()
    step = FinetuneTask(target=SingleLabel(tuple("abc")), smoothing=smoothing, mixup=None).step(module, batch)
    targets = F.one_hot(batch.labels, 3) * (1 - smoothing) + smoothing / 3
    logits = module(batch.pixels).float()
    torch.testing.assert_close(step["loss"], -(targets * logits.log_softmax(1)).sum(1).mean())
    assert step["loss"].dtype == torch.float32
    assert step.keys() == {"loss"}


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_mixed_pictures_have_the_targets_that_timm_gives_them(smoothing):
    module, batch = Flat(), labelled_batch()
    pixels, targets = fixed_mixup(3, smoothing)(batch.pixels.clone(), batch.labels)
    mixup = fixed_mixup(len(batch.labels), 0.0)
    loss = FinetuneTask(target=SingleLabel(tuple("abc")), smoothing=smoothing, mixup=mixup).step(
        module, batch._replace(pixels=batch.pixels.clone())
    )
    torch.testing.assert_close(module.seen[0], pixels)
    logits = module(pixels).float()
    torch.testing.assert_close(loss["loss"], -(targets * logits.log_softmax(1)).sum(1).mean())


def fixed_mixup(num_classes, smoothing):
    mixup = Mixup(mixup_alpha=1.0, cutmix_alpha=0.0, label_smoothing=smoothing, num_classes=num_classes)
    mixup._params_per_batch = lambda: (0.75, False)
    return mixup


# Several labels


def several_labels(size=4):
    labels = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]], dtype=torch.bool)
    return labelled_batch(size)._replace(labels=labels[:size])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_each_of_several_labels_is_a_question_of_its_own(smoothing):
    module, batch = Flat(), several_labels()
    step = FinetuneTask(target=MultiLabel(tuple("abc")), smoothing=smoothing, mixup=None).step(module, batch)
    probabilities = module(batch.pixels).double().sigmoid()
    yes = batch.labels * (1 - smoothing) + smoothing / 2
    expected = -(yes * probabilities.log() + (1 - yes) * (1 - probabilities).log()).mean()
    assert step["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert step["loss"].dtype == torch.float32


def test_several_labels_are_mixed_as_their_pictures_are():
    module, batch = Flat(), several_labels()
    original = batch.pixels.clone()
    mixup = fixed_mixup(4, 0.0)
    loss = FinetuneTask(target=MultiLabel(tuple("abc")), smoothing=0.0, mixup=mixup).step(module, batch)["loss"]
    mixed = 0.75 * original + 0.25 * original.flip(0)
    torch.testing.assert_close(module.seen[0], mixed)
    targets = 0.75 * batch.labels.float() + 0.25 * batch.labels.float().flip(0)
    expected = F.binary_cross_entropy(module(mixed).float().sigmoid(), targets)
    torch.testing.assert_close(loss, expected)


# Two views


class FlatPair(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(192, 3)
        self.seen = []

    def forward(self, scene, person):
        self.seen.append((scene, person))
        return self.linear(scene.flatten(1)) - 2 * self.linear(person.flatten(1))


def pair_batch(size=4):
    batch = labelled_batch(size)
    return batch._replace(person=batch.pixels.flip(3) * 0.5 + 1)


def test_both_views_reach_the_module_in_their_order():
    module, batch = FlatPair(), pair_batch()
    step = FinetuneTask(target=SingleLabel(tuple("abc")), smoothing=0.1, mixup=None).step(module, batch)
    ((scene, person),) = module.seen
    assert torch.equal(scene, batch.pixels)
    assert torch.equal(person, batch.person)
    logits = module(batch.pixels, batch.person)
    expected = F.cross_entropy(logits, batch.labels, label_smoothing=0.1)
    torch.testing.assert_close(step["loss"], expected)


@pytest.mark.parametrize("cut", [False, True])
def test_both_views_are_mixed_with_the_same_partner_share_and_box(cut):
    module, batch = FlatPair(), pair_batch()
    scene, person = batch.pixels.clone(), batch.person.clone()
    alphas = {"mixup_alpha": 0.0, "cutmix_alpha": 1.0} if cut else {"mixup_alpha": 1.0}
    mixup = Mixup(**alphas, label_smoothing=0.0, num_classes=len(batch.labels))
    mixup._params_per_batch = lambda: (0.6, cut)
    torch.manual_seed(3)
    FinetuneTask(target=SingleLabel(tuple("abc")), smoothing=0.0, mixup=mixup).step(module, batch)
    ((mixed_scene, mixed_person),) = module.seen
    if not cut:
        torch.testing.assert_close(mixed_scene, 0.6 * scene + 0.4 * scene.flip(0))
        torch.testing.assert_close(mixed_person, 0.6 * person + 0.4 * person.flip(0))
        return
    taken = [
        (mixed == view.flip(0)).all(dim=1)  # (B, 8, 8), where the partner's pixels are
        for mixed, view in ((mixed_scene, scene), (mixed_person, person))
    ]
    assert torch.equal(*taken)
    assert 0 < taken[0].float().mean() < 1
    kept = ~taken[0].unsqueeze(1)
    assert torch.equal(mixed_scene * kept, scene * kept)
    assert torch.equal(mixed_person * kept, person * kept)
