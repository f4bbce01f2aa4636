"""The features that a folder keeps, and files in their place that strangers made."""

import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from uniemox.checkpoints.domain import FEATURES_NAME, read_features, write_features
from uniemox.checkpoints.facts import ModelFacts
from uniemox.errors import CheckpointError
from uniemox.targets.domain import Domain

WIDTH = 8
FEATURES = np.random.default_rng(0).standard_normal((12, WIDTH)).astype(np.float32)
DOMAIN = Domain.of(FEATURES).fit(np.array([0.5], np.float32), 0.95)


def facts(numbers=None):
    shape = {"size": "mini", "patch_size": 8, "image_size": 32, "dataset": "x", "emotion": "felt"}
    return ModelFacts(kind="classifier", classes=("a", "b"), numbers=numbers or DOMAIN.to_numbers(), **shape)


def test_features_are_read_as_they_were_written(tmp_path):
    write_features(tmp_path, DOMAIN)
    found = read_features(tmp_path, facts(), width=WIDTH)
    np.testing.assert_array_equal(found.features, DOMAIN.features)
    assert (found.cutoff, found.share, found.k) == (0.5, 0.95, 10)


def test_a_folder_without_the_file_or_without_the_numbers_has_no_distances(tmp_path):
    assert read_features(tmp_path, facts(), width=WIDTH) is None
    (tmp_path / FEATURES_NAME).write_bytes(b"of somebody else")
    assert read_features(tmp_path, facts({"scale": (1.0, 9.0)}), width=WIDTH) is None


def refusal(folder, said, *, width=WIDTH):
    with pytest.raises(CheckpointError, match=said):
        read_features(folder, facts(), width=width)


def test_features_of_another_width_are_refused(tmp_path):
    write_features(tmp_path, DOMAIN)
    refusal(tmp_path, r"shape \(12, 8\), but must be 10 to 4096 features of 9 numbers\)", width=9)


@pytest.mark.parametrize(
    "held",
    [
        {"features": DOMAIN.features.astype(np.float32)},
        {"other": DOMAIN.features},
        {"features": DOMAIN.features, "more": DOMAIN.features},
        {},
    ],
)
def test_a_file_of_other_tensors_is_refused(tmp_path, held):
    save_file(held, tmp_path / FEATURES_NAME)
    refusal(tmp_path, r"features.safetensors cannot be used")


def test_features_that_are_not_numbers_are_refused(tmp_path):
    write_features(tmp_path, DOMAIN)
    features = load_file(tmp_path / FEATURES_NAME)["features"].copy()
    features[3, 3] = np.nan
    save_file({"features": features}, tmp_path / FEATURES_NAME)
    refusal(tmp_path, "features must be finite and of length 1")


def test_a_file_that_is_larger_than_any_of_its_kind_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / FEATURES_NAME).open("wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    refusal(tmp_path, "has more than 69632 bytes: it is refused")


@pytest.mark.parametrize("cut", [0, 7, 40, -1])
def test_a_file_that_was_cut_off_is_refused(tmp_path, cut):
    write_features(tmp_path, DOMAIN)
    path = tmp_path / FEATURES_NAME
    path.write_bytes(path.read_bytes()[:cut])
    refusal(tmp_path, "cannot be used .*copy the folder whole")


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / FEATURES_NAME)
    refusal(tmp_path, "no regular file")


def test_a_link_that_leaves_the_folder_is_refused(tmp_path):
    (tmp_path / "own").mkdir()
    write_features(tmp_path, DOMAIN)
    (tmp_path / "own" / FEATURES_NAME).symlink_to(tmp_path / FEATURES_NAME)
    refusal(tmp_path / "own", "a link that leaves its folder")
