import torch
from torch import nn
from torch.nn import functional as F

from uniemox.models.fused import start_from_texts
from uniemox.models.zero_shot import ClipClassifier, ensemble


class Told:
    """A text tower of two numbers: the length of a text, and its vowels."""

    def __init__(self):
        self.texts = []

    def encode_texts(self, texts):
        self.texts += texts
        return torch.tensor([[len(text), sum(letter in "aeiou" for letter in text)] for text in texts]).float()


def test_prompts_are_averaged_on_the_unit_sphere():
    found = ensemble(Told(), {"one": ["abc", "aeiou"], "two": ["xyz"]})
    abc, aeiou = (torch.tensor(pair) / torch.tensor(pair).norm() for pair in ([3.0, 1.0], [5.0, 5.0]))
    mean = (abc + aeiou) / 2
    torch.testing.assert_close(found[0], mean / mean.norm())
    torch.testing.assert_close(found[1], torch.tensor([1.0, 0.0]))


def test_a_prompt_of_two_classes_is_encoded_once():
    teacher = Told()
    ensemble(teacher, {"one": ["abc", "d"], "two": ["abc"]})
    assert teacher.texts == ["abc", "d"]


def test_a_tower_that_returns_tokens_too_and_computes_in_half_precision_is_read():
    class Tower(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(12, 4).bfloat16()

        def forward(self, pixels):
            return self.linear(pixels.flatten(1)), pixels

    torch.manual_seed(0)
    model, texts, pixels = ClipClassifier(Tower(), width=4, num_classes=3), torch.randn(3, 4), torch.randn(2, 3, 2, 2)
    start_from_texts(model.head, texts, 10.0)
    logits = model(pixels)
    features = model.tower(pixels.bfloat16())[0].float()
    expected = 10 * F.cosine_similarity(features.unsqueeze(1), texts.unsqueeze(0), dim=2)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
