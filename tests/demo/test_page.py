import re
from pathlib import Path

import numpy as np
import pytest
import torch

from uniemox.checkpoints.folder import Pretrained, pretraining_facts
from uniemox.config.training import ModelConfig
from uniemox.demo.drawn import unpack
from uniemox.demo.page import read_ladder, reconstruct
from uniemox.manifests.table import read_manifest
from uniemox.models.pretrain import UniEmoX


@pytest.fixture(scope="module")
def test_split(tmp_path_factory):
    return read_manifest(unpack(tmp_path_factory.mktemp("drawn")).seen).select(["test"])


@pytest.fixture
def pretrained():
    config = ModelConfig(size="mini", patch_size=8, image_size=64, decoder_width=32, decoder_depth=1, decoder_heads=2)
    torch.manual_seed(0)
    model = UniEmoX(config, embedding_width=None)
    return Pretrained(model, pretraining_facts(model, dataset="drawn6", emotion="felt"))


def test_a_reconstruction_keeps_the_seen_patches_and_replaces_the_hidden(test_split, pretrained):
    for seen, prediction, original in reconstruct(pretrained, test_split, mask_ratio=0.75, seed=0):
        assert seen.shape == prediction.shape == original.shape == (64, 64, 3)
        same = (prediction == original).all(-1).reshape(8, 8, 8, 8).all((1, 3))
        shown = (seen == original).all(-1).reshape(8, 8, 8, 8).all((1, 3))
        assert same.sum() == 16  # a quarter of 64 patches
        assert np.array_equal(same, shown)


def test_the_masks_of_a_reconstruction_follow_the_seed(test_split, pretrained):
    first, again, other = (reconstruct(pretrained, test_split, mask_ratio=0.75, seed=seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for x, y in zip(first, again, strict=True) for a, b in zip(x, y, strict=True))
    assert not all(np.array_equal(x[0], y[0]) for x, y in zip(first, other, strict=True))


def test_the_rows_that_are_shown_are_those_of_the_committed_benchmark():
    page = Path(__file__).parents[2].joinpath("benchmarks/results/ladder.md").read_text(encoding="utf-8")
    made = re.findall(r"^\| (.+) \| (\d+\.\d).* \| (\d+\.\d).* \|$", page, re.MULTILINE)
    rungs = [(rung.told, *(f"{100 * score:.1f}" for score in rung.scores.values())) for rung in read_ladder().values()]
    assert len(rungs) > 5
    assert rungs == made
