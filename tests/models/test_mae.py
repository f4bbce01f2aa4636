import pytest
import torch
from torch import nn

from uniemox.models.encoder import sincos_positions
from uniemox.models.mae import Decoder, hide, num_visible

RATIOS = (0.0, 0.3, 0.5, 0.75, 0.9)


def noise(batch=4, num_patches=16, seed=0):
    return torch.rand(batch, num_patches, generator=torch.Generator().manual_seed(seed))


def build(*, depth=1, width=16, grid=3, side=2):
    torch.manual_seed(0)
    decoder = Decoder(width=width, depth=depth, num_heads=4, grid=grid, patch_size=side).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return decoder


def tokens(batch=2, count=4, width=16, seed=1):
    return torch.randn(batch, 1 + count, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("num_patches", "ratio", "count"),
    [(196, 0.9, 19), (196, 0.75, 49), (256, 0.9, 25), (100, 0.9, 9), (64, 0.5, 32), (16, 0, 16)],
)
def test_as_many_patches_stay_visible_as_in_mae(num_patches, ratio, count):
    assert num_visible(num_patches, ratio) == count


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("num_patches", [9, 16, 49, 196])
def test_hiding_keeps_the_exact_number_and_hidden_is_the_rest(num_patches, ratio):
    hiding = hide(noise(num_patches=num_patches), ratio)
    keep = int(num_patches * (1 - ratio))
    assert hiding.visible.shape == (4, keep)
    assert hiding.hidden.shape == (4, num_patches)
    assert hiding.hidden.dtype == torch.bool
    for visible, hidden in zip(hiding.visible.tolist(), hiding.hidden.tolist(), strict=True):
        gone = {n for n, is_hidden in enumerate(hidden) if is_hidden}
        assert len(set(visible)) == keep  # none twice
        assert set(visible) | gone == set(range(num_patches))
        assert not set(visible) & gone


def test_the_patches_with_the_largest_noise_are_hidden():
    hiding = hide(torch.tensor([[0.7, 0.1, 0.9, 0.3], [0.2, 0.8, 0.4, 0.6]]), 0.5)
    assert hiding.hidden.tolist() == [[True, False, True, False], [False, True, False, True]]


def test_other_noise_hides_other_patches_and_the_same_noise_the_same():
    first, again, other = hide(noise(), 0.75), hide(noise(), 0.75), hide(noise(seed=1), 0.75)
    assert torch.equal(first.hidden, again.hidden)
    assert torch.equal(first.visible, again.visible)
    assert not torch.equal(first.hidden, other.hidden)
    assert len({tuple(row) for row in first.hidden.tolist()}) > 1  # rows of a batch differ


def test_every_patch_is_hidden_about_equally_often():
    share = hide(noise(batch=4000), 0.75).hidden.float().mean(dim=0)
    assert (share - 0.75).abs().max() < 0.04  # six standard errors


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.99])
@pytest.mark.parametrize(("num_patches", "ratio"), [(9, 0.5), (16, 0.75), (196, 0.9)])
def test_a_share_of_the_hidden_patches_is_predicted_none_twice_and_none_that_is_seen(num_patches, ratio, share):
    some, all_of_them = hide(noise(num_patches=num_patches), ratio, share), hide(noise(num_patches=num_patches), ratio)
    assert torch.equal(some.visible, all_of_them.visible)
    assert torch.equal(some.hidden, all_of_them.hidden)
    assert all_of_them.decoded is None
    count = num_patches - num_visible(num_patches, ratio)
    assert some.decoded.shape == (4, max(1, round(share * count)))
    for decoded, hidden in zip(some.decoded.tolist(), some.hidden.tolist(), strict=True):
        assert len(set(decoded)) == len(decoded)
        assert all(hidden[patch] for patch in decoded)


def test_every_patch_is_predicted_about_equally_often():
    decoded = hide(noise(batch=4000), 0.75, 0.25).decoded  # 3 of 16 each time
    share = torch.zeros(4000, 16).scatter(1, decoded, 1.0).mean(dim=0)
    assert (share - 3 / 16).abs().max() < 0.037  # six standard errors


@torch.no_grad()
def test_all_hidden_patches_in_any_order_are_predicted_as_without_a_choice():
    decoder, x = build(depth=2), tokens()
    visible = torch.tensor([[8, 0, 3, 5], [1, 2, 7, 4]])
    decoded = torch.tensor([[7, 1, 6, 2, 4], [0, 8, 5, 3, 6]])
    expected = decoder(x, visible).take_along_dim(decoded.unsqueeze(-1), dim=1)
    torch.testing.assert_close(decoder(x, visible, decoded), expected)


@torch.no_grad()
def test_a_patch_that_is_not_predicted_has_no_token():
    decoder, x = build(depth=2), tokens()
    visible = torch.tensor([[8, 0, 3, 5], [1, 2, 7, 4]])
    few, more = torch.tensor([[7, 1], [0, 8]]), torch.tensor([[7, 1, 6], [0, 8, 5]])
    seen = []
    decoder.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    alone, beside = decoder(x, visible, few), decoder(x, visible, more)
    assert seen == [1 + 4 + 2, 1 + 4 + 3]
    assert alone.shape == (2, 2, 12)
    assert (alone - beside[:, :2]).abs().max() > 1e-4  # the third patch's token is attended to


@torch.no_grad()
def test_a_decoder_without_blocks_reads_each_patch_from_its_own_token():
    decoder = build(depth=0)
    x = tokens(batch=1, count=2)
    visible = torch.tensor([[7, 2]])
    positions = sincos_positions(16, 3)[0, 1:]
    expected = [
        decoder.pred(decoder.norm({7: x[0, 1], 2: x[0, 2]}.get(n, decoder.mask_token[0, 0]) + positions[n]))
        for n in range(9)
    ]
    torch.testing.assert_close(decoder(x, visible)[0], torch.stack(expected))


@torch.no_grad()
def test_the_order_of_visible_patches_does_not_matter():
    decoder, x = build(), tokens()
    visible = torch.tensor([[8, 0, 3, 5], [1, 2, 7, 4]])
    order = [2, 0, 3, 1]
    turned = torch.cat([x[:, :1], x[:, 1:][:, order]], dim=1)
    torch.testing.assert_close(decoder(turned, visible[:, order]), decoder(x, visible))


@torch.no_grad()
def test_the_places_of_visible_patches_matter():
    decoder, x = build(), tokens()
    visible = torch.tensor([[8, 0, 3, 5], [1, 2, 7, 4]])
    swapped = visible[:, [1, 0, 2, 3]]
    assert (decoder(x, visible) - decoder(x, swapped)).abs().max() > 1e-2


@torch.no_grad()
def test_rows_of_a_batch_are_decoded_each_by_its_own_places():
    decoder, x = build(), tokens()
    visible = torch.tensor([[8, 0, 3, 5], [1, 2, 7, 4]])
    alone = torch.cat([decoder(x[b : b + 1], visible[b : b + 1]) for b in range(2)])
    torch.testing.assert_close(decoder(x, visible), alone)


@torch.no_grad()
def test_a_hidden_patch_is_predicted_from_all_tokens():
    decoder, x = build(), tokens(batch=1)
    visible = torch.tensor([[8, 0, 3, 5]])
    before = decoder(x, visible)[0, 6]
    for place in range(5):  # the class token too
        changed = x.clone()
        changed[:, place] += 1
        changed[:, place, 0] += 1  # a norm would take away the same shift of all numbers
        assert (decoder(changed, visible)[0, 6] - before).abs().max() > 1e-4


@pytest.mark.parametrize(("grid", "side", "numbers"), [(4, 8, 192), (3, 16, 768), (16, 14, 588)])
def test_a_prediction_has_the_numbers_of_every_patch(grid, side, numbers):
    with torch.device("meta"):
        decoder = Decoder(width=32, depth=2, num_heads=4, grid=grid, patch_size=side)
        visible = torch.empty(2, 5, dtype=torch.long)
        assert decoder(torch.empty(2, 6, 32), visible).shape == (2, grid * grid, numbers)


def test_positions_are_fixed_and_everything_else_is_learned():
    decoder = build()
    fixed = {name for name, part in decoder.named_parameters() if not part.requires_grad}
    assert fixed == {"pos_embed"}
    assert torch.equal(decoder.pos_embed, sincos_positions(16, 3))


def test_the_mask_token_starts_small_and_norms_have_maes_epsilon():
    torch.manual_seed(0)
    decoder = Decoder(width=512, depth=1, num_heads=16, grid=2, patch_size=2)
    assert decoder.mask_token.std().item() == pytest.approx(0.02, rel=0.15)
    assert not decoder.pred.bias.any()
    assert {part.eps for part in decoder.modules() if isinstance(part, nn.LayerNorm)} == {1e-6}


def test_tokens_of_half_precision_are_placed_under_autocast():
    decoder = build()
    visible = torch.tensor([[8, 0, 3, 5], [1, 2, 7, 4]])
    expected = decoder(tokens(), visible)
    with torch.autocast("cpu", torch.bfloat16):
        prediction = decoder(tokens().bfloat16(), visible)
    assert prediction.dtype == torch.bfloat16
    torch.testing.assert_close(prediction.float(), expected, rtol=0, atol=0.1)
